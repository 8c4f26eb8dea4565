//! A service on the other side of a connection, as this process has it from a connection.

use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::sync::oneshot;

use crate::{schema::TypeDescription, service::CallError};

/// A message as both ends have to know it.
#[derive(Debug, Clone)]
pub(crate) struct MessageKind {
    /// The service's type.
    pub actor: &'static str,
    pub name: &'static str,
    pub message: Arc<TypeDescription>,
    pub reply: Arc<TypeDescription>,
}

/// A service of a job on the other side of a connection.
pub(crate) trait RemoteService: Send + Sync {
    fn name(&self) -> &str;
    /// The way for messages of one kind, once the other side agrees on what they look like.
    fn route(&self, kind: MessageKind) -> BoxFuture<'static, Result<Arc<dyn RemoteRoute>, CallError>>;
}

/// What came of an attempt to send without waiting. `None`: it has to wait, and nothing was sent.
pub(crate) type Attempt<T> = Option<Result<T, CallError>>;

/// The way for messages of one kind to one service. What goes over it, and over other routes of the same connection,
/// arrives in the order in which it was accepted.
pub(crate) trait RemoteRoute: Send + Sync {
    fn try_tell(&self, bytes: &[u8]) -> Attempt<()>;
    fn try_call(self: Arc<Self>, bytes: &[u8]) -> Attempt<RemoteCall>;
    /// Waits for room, or for the connection, behind those who wait already.
    fn tell(self: Arc<Self>, bytes: Vec<u8>) -> BoxFuture<'static, Result<(), CallError>>;
    /// As [`tell`](Self::tell).
    fn call(self: Arc<Self>, bytes: Vec<u8>) -> BoxFuture<'static, Result<RemoteCall, CallError>>;
}

/// A call that was sent. Dropped before its reply came, it is withdrawn.
pub(crate) struct RemoteCall {
    pub reply: oneshot::Receiver<Result<Vec<u8>, CallError>>,
    pub id: u64,
    pub route: Arc<dyn Withdrawal>,
}

pub(crate) trait Withdrawal: Send + Sync {
    /// Nobody waits for the answer to this call. Without effect if it was answered.
    fn withdraw(&self, call: u64);
}

impl Drop for RemoteCall {
    fn drop(&mut self) {
        self.route.withdraw(self.id);
    }
}
