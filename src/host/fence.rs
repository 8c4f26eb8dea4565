//! What keeps code of the user's from running in a worker whose lease is over.
//!
//! A process that was stopped and goes on does not notice by itself: its threads go on where they were, before the one that
//! keeps the lease has had a turn. So each step passes a [`Fence`] first, and reads the clock there.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::Notify;

use super::Host;

/// Passed by each step of a task that a worker has from its JobManager. Clones are the same one. The default is none, and to
/// pass that reads no clock.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fence(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    host: Host,
    /// By [`Host::running_for`], in nanoseconds. 0 once it is closed.
    ends: AtomicU64,
    /// Steps that are under way.
    inside: AtomicUsize,
    /// Told when the last of them ends, once the fence is closed.
    left: Notify,
}

/// A step that is under way, until this is dropped.
#[derive(Debug)]
pub(crate) struct Pass<'a>(Option<&'a Inner>);

impl Inner {
    fn is_open(&self) -> bool {
        nanoseconds(self.host.running_for()) < self.ends.load(Ordering::SeqCst)
    }
}

impl Fence {
    /// Closed until it is told [until when](Self::open_until) it is open.
    pub fn new(host: &Host) -> Self {
        let (ends, inside) = (AtomicU64::new(0), AtomicUsize::new(0));
        Self(Some(Arc::new(Inner { host: host.clone(), ends, inside, left: Notify::new() })))
    }

    /// Opens it until then, by [`Host::running_for`].
    pub fn open_until(&self, ends: Duration) {
        if let Some(inner) = &self.0 {
            inner.ends.store(nanoseconds(ends), Ordering::SeqCst);
        }
    }

    /// Lets nothing pass any more.
    pub fn close(&self) {
        self.open_until(Duration::ZERO);
    }

    /// Begins a step, unless the fence is closed.
    pub fn pass(&self) -> Option<Pass<'_>> {
        let Some(inner) = self.0.as_deref() else { return Some(Pass(None)) };
        // Looked at before too, so that nobody is seen inside who is about to be turned away.
        if !inner.is_open() {
            return None;
        }
        inner.inside.fetch_add(1, Ordering::SeqCst);
        let pass = Pass(Some(inner));
        // `SeqCst`: either this sees the fence closed, or the one that has closed it sees the step.
        inner.is_open().then_some(pass)
    }

    /// Ready once no step is under way. The fence is closed.
    pub async fn vacated(&self) {
        let Some(inner) = &self.0 else { return };
        loop {
            let mut left = pin!(inner.left.notified());
            left.as_mut().enable();
            if inner.inside.load(Ordering::SeqCst) == 0 {
                return;
            }
            left.await;
        }
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        let Some(inner) = self.0 else { return };
        if inner.inside.fetch_sub(1, Ordering::SeqCst) == 1 && inner.ends.load(Ordering::SeqCst) == 0 {
            inner.left.notify_waiters();
        }
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocking::block_on;

    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn a_fence_is_open_for_as_long_as_was_said_and_never_once_it_is_closed() {
        let host = Host::shared_by_tests();
        let fence = Fence::new(host);
        assert!(fence.pass().is_none(), "nothing was said yet");
        fence.open_until(host.running_for() + LONG);
        assert!(fence.pass().is_some());
        fence.open_until(host.running_for());
        assert!(fence.pass().is_none(), "its time is over");
        fence.open_until(host.running_for() + LONG);
        fence.close();
        assert!(fence.pass().is_none());
        assert!(Fence::default().pass().is_some(), "none lets everything pass");
    }

    #[test]
    fn who_closes_it_waits_for_the_steps_that_are_under_way() {
        let host = Host::shared_by_tests();
        let fence = Fence::new(host);
        fence.open_until(host.running_for() + LONG);
        let (first, second) = (fence.pass().unwrap(), fence.pass().unwrap());
        fence.close();
        let waits = |limit: u64| block_on(host.timeout(Duration::from_millis(limit), fence.vacated())).is_err();
        assert!(waits(5));
        drop(first);
        assert!(waits(5), "there is another one");
        let waiting = std::thread::spawn({
            let fence = fence.clone();
            move || block_on(host.timeout(LONG, fence.vacated()))
        });
        drop(second);
        waiting.join().unwrap().expect("all have left");
        block_on(Fence::default().vacated());
    }
}
