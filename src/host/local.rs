//! Futures that run on the thread that spawned them.

use tokio::task::{AbortHandle, JoinSet, spawn_local};

/// A future that was spawned. Dropping this does not end it.
#[derive(Debug)]
pub(crate) struct LocalTask(AbortHandle);

impl LocalTask {
    pub(super) fn spawn(future: impl Future<Output = ()> + 'static) -> Self {
        Self(spawn_local(future).abort_handle())
    }

    /// Drops the future at the next chance, unless it has ended.
    pub fn abort(&self) {
        self.0.abort();
    }
}

/// Futures that end with their owner: dropping this drops them.
#[derive(Debug, Default)]
pub(crate) struct LocalTasks(JoinSet<()>);

impl LocalTasks {
    /// Runs `future` on the caller's thread; see [`Host::spawn_local`](super::Host::spawn_local).
    pub fn spawn(&mut self, future: impl Future<Output = ()> + 'static) -> LocalTask {
        LocalTask(self.0.spawn_local(future))
    }

    /// How many there are, with those that ended since [`forget_ended`](Self::forget_ended).
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn forget_ended(&mut self) {
        while self.0.try_join_next().is_some() {}
    }

    /// Ready once all have ended.
    pub async fn ended(&mut self) {
        while self.0.join_next().await.is_some() {}
    }

    /// Ends all, and waits until they are dropped.
    pub async fn shutdown(&mut self) {
        self.0.shutdown().await;
    }
}
