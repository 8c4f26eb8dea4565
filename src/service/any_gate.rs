//! A gate as those see it who do not know the type of its service.

use std::{any::Any, sync::Arc, time::Duration};

use crate::{
    host::Host,
    job::{JobId, ServiceId},
    protocol::ServiceCounts,
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
    /// Another attempt of the job is to follow: takes out what tasks and services of the last one have sent and nobody has taken up,
    /// to be dropped where code of the user's may run. What came from outside waits for the next instance.
    fn begin_attempt(&self) -> Box<dyn FnOnce() + Send>;
    /// The job has ended: later calls fail with `JobEnded`. Implies that nobody waits any more.
    fn release(&self);
    /// What was counted so far, as that of the service of this number.
    fn counts(&self, service: ServiceId) -> ServiceCounts;
    /// Of [`counts`](Self::counts), those done and skipped.
    fn done(&self) -> (u64, u64);
    /// The names of its messages, in the order of the service's table.
    fn kinds(&self) -> Vec<&'static str>;
    /// Has `feeder` told when an instance comes for messages. Only the first time counts.
    fn feed_by(&self, feeder: Arc<dyn Feeder>);
    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
}

/// Told each time an instance comes for messages: what it took before is taken up.
pub(crate) trait Feeder: Send + Sync {
    fn came(&self);
}

/// What the gates of one job have in common.
#[derive(Debug, Clone)]
pub(crate) struct Home {
    pub job: JobId,
    pub host: Host,
    pub call_deadline: Duration,
}
