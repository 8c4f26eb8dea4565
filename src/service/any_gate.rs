//! A gate as those see it who do not know the type of its service.

use std::{any::Any, sync::Arc, time::Duration};

use crate::{
    host::Host,
    job::JobId,
    service::{CallError, Entrance},
};

/// A gate whose service type is not known.
pub(crate) trait AnyGate: Any + Send + Sync {
    fn name(&self) -> &str;
    /// The service's actor type.
    fn actor(&self) -> &'static str;
    /// Makes the gate part of its job. Only the first time counts.
    fn attach(&self, home: Home);
    /// The way in for encoded messages of the name `message`.
    ///
    /// # Errors
    ///
    /// `NotAccepted`.
    fn entrance(self: Arc<Self>, message: &str) -> Result<Arc<dyn Entrance>, CallError>;
    /// From now on answers services only: what came from tasks or from outside and waits for room is refused.
    fn close_to_outside(&self);
    /// The job has ended: later calls fail with `JobEnded`. Implies that nobody waits any more.
    fn release(&self);
    /// Messages taken up so far, over all instances.
    fn handled(&self) -> u64;
    /// Messages that were accepted and not taken up yet.
    fn queued(&self) -> u64;
    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
}

/// What the gates of one job have in common.
#[derive(Debug, Clone)]
pub(crate) struct Home {
    pub job: JobId,
    pub host: Host,
    pub call_deadline: Duration,
}
