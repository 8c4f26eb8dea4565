//! How references find their services, and to what one is bound that is decoded.

use std::{cell::RefCell, sync::Arc, time::Duration};

use futures::future::BoxFuture;

use crate::{
    host::Host,
    job::JobId,
    service::{AnyGate, CallError, Origin, RemoteService},
};

/// A service that was looked up.
pub(crate) enum FoundService {
    /// It is in this process.
    Gate(Arc<dyn AnyGate>),
    /// It is, if it is at all, on the other side of a connection.
    Remote(Arc<dyn RemoteService>),
}

/// Finds a service of any job of an environment.
pub(crate) trait ServiceResolver: Send + Sync {
    fn service(&self, job: JobId, name: &str) -> BoxFuture<'static, Result<FoundService, CallError>>;
    fn host(&self) -> &Host;
    fn call_deadline(&self) -> Duration;
    /// What references that it finds the gates of count as.
    fn origin(&self) -> Origin {
        Origin::Outside
    }
}

thread_local! {
    /// That of the connection whose bytes are being decoded on this thread, if any are.
    static RESOLVER: RefCell<Option<Arc<dyn ServiceResolver>>> = const { RefCell::new(None) };
}

/// Runs `decode`; references that it decodes are bound to `resolver`.
pub(crate) fn bound_to<R>(resolver: Arc<dyn ServiceResolver>, decode: impl FnOnce() -> R) -> R {
    struct Restore(Option<Arc<dyn ServiceResolver>>);
    impl Drop for Restore {
        fn drop(&mut self) {
            let mine = RESOLVER.replace(self.0.take());
            drop(mine);
        }
    }
    let _restore = Restore(RESOLVER.replace(Some(resolver)));
    decode()
}

/// That of the innermost [`bound_to`] on this thread.
pub(super) fn resolver() -> Option<Arc<dyn ServiceResolver>> {
    RESOLVER.with_borrow(Clone::clone)
}
