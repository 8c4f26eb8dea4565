//! How the JobManager speaks to a worker, wherever that is.

use std::{fmt, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use crate::{
    dataplane::wiring::Streams,
    flow::{JobPayload, colocation::Colocation, job::Unplanned, splits::Splits},
    host::Fence,
    job::{ErrorPolicy, Graph, JobId, Limits, NotSendable, Term},
    protocol::{Layout, Order, Progress, WorkerEvent},
    service::ServiceDirectory,
};

/// The way to one worker. What goes over it arrives in order, or never, and then the worker is lost.
pub(crate) trait WorkerLink: Send + Sync {
    /// Has the worker build a job's flow and get ready to host it.
    fn prepare(&self, prepare: Prepare) -> BoxFuture<'static, Result<Prepared, Unprepared>>;
    /// Has the worker lay the channels of an attempt that it has prepared and that has tasks elsewhere too.
    fn connect(&self, connect: Connect) -> BoxFuture<'static, Result<(), Unconnected>>;
    fn order(&self, order: Order);
    /// What the counters of this job read; nothing, if the worker is gone.
    fn progress(&self, job: JobId) -> BoxFuture<'static, Progress>;
    /// Where other workers reach it, `host:port`; empty if it meets none.
    fn address(&self) -> String;
    /// It has no job any more and gets none: it may go, for good.
    fn dismiss(&self);
    /// Has it end, as its JobManager does: all jobs have been released. Ready once it has, or takes too long.
    fn close(&self) -> BoxFuture<'static, ()>;
}

/// The way to the worker of this very process.
pub(crate) trait OwnWorker: WorkerLink {
    /// Drops all jobs at once, whatever becomes of what is in flight: nobody waits for their events any more. Jobs that are
    /// prepared afterwards are not touched.
    fn halt(&self);
}

/// Takes in what a worker reports of one job, on whatever thread it comes up.
pub(crate) type WorkerEvents = Arc<dyn Fn(WorkerEvent) + Send + Sync>;

/// Build the job's flow and get ready to host it.
pub(crate) struct Prepare {
    pub job: JobId,
    pub term: Term,
    pub payload: JobPayload,
    /// Of an operator that says nothing of it.
    pub parallelism: usize,
    pub error_policy: ErrorPolicy,
    /// Those of the JobManager's environment, wherever the worker is.
    pub limits: Arc<Limits>,
    pub place: Place,
    /// What the sources read, once that is known; else the worker finds it out.
    pub splits: Option<Arc<Splits>>,
    pub events: WorkerEvents,
    /// What runs of the job passes it. Not sent to a worker in another process, which has one of its own.
    pub fence: Fence,
}

/// What a worker is in the team that hosts an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Place {
    /// There are no others. Nothing is to be connected.
    Alone,
    /// It has the outputs, inputs and services.
    Home,
    /// It has tasks only.
    Away,
}

/// The flow is built.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Prepared {
    #[serde(with = "shared")]
    pub graph: Arc<Graph>,
    pub colocation: Colocation,
    /// What the sources read.
    #[serde(skip)]
    pub splits: Arc<Splits>,
    /// Of a worker in this process that has them.
    #[serde(skip)]
    pub ports: Option<Arc<JobPorts>>,
    /// The operator of the first source that cannot be read again, if there is one.
    #[serde(skip)]
    pub read_once: Option<String>,
}

/// What is shared within a process goes to another one by itself.
mod shared {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<T: Serialize, S: Serializer>(value: &Arc<T>, serializer: S) -> Result<S::Ok, S::Error> {
        (**value).serialize(serializer)
    }

    pub(super) fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Arc<T>, D::Error> {
        T::deserialize(deserializer).map(Arc::new)
    }
}

/// Where the outside reaches into a job: its services, outputs and inputs.
pub(crate) struct JobPorts {
    pub directory: Arc<ServiceDirectory>,
    pub streams: Arc<Streams>,
}

impl fmt::Debug for JobPorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobPorts").finish_non_exhaustive()
    }
}

/// Lay the channels of this attempt: its tasks are placed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Connect {
    pub job: JobId,
    pub term: Term,
    pub layout: Layout,
    /// Where each worker of the attempt listens for the others, `host:port`.
    pub peers: Vec<String>,
    /// What they prove to each other that they know; of this attempt alone.
    pub key: AttemptKey,
}

/// The secret that the workers of one attempt share.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AttemptKey(pub [u8; 32]);

impl fmt::Debug for AttemptKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AttemptKey(..)")
    }
}

/// Why a worker has not laid the channels of an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Unconnected {
    /// A peer could not be reached, or did not prove itself: which one of the attempt's workers, and why.
    Peer { peer: u32, message: String },
    /// A panic while the channels were laid. This is a bug.
    Internal(String),
    /// The worker does not host that term of the job, or is gone.
    Gone,
}

/// What a worker says of itself when it joins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WorkerFacts {
    pub name: String,
    /// Drawn at random: a process that comes back is another worker.
    pub incarnation: u128,
    /// Threads that run tasks.
    pub slots: u32,
    /// Where other workers reach it, `host:port`.
    pub data_address: String,
    /// The SHA-256 of its program, or nothing but zeros for one that the JobManager's process started, as all its workers then
    /// are: one attempt uses workers of one program.
    pub executable: [u8; 32],
}

/// A worker that has joined a JobManager, by its number there. None is given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct WorkerId(pub u32);

/// What is known of a worker that is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Departure {
    /// It has ended, or taken its leave: nothing of it runs any more.
    Ended,
    /// It cannot be reached, and may go on until its lease is over.
    Unreachable,
}

/// A worker that was silent for so long is lost, and does nothing any more: its lease is over.
pub(crate) const WORKER_SILENCE: Duration = Duration::from_secs(5);

/// Why a worker does not host a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Unprepared {
    Unplanned(Unplanned),
    /// The worker is in another process, and the job cannot be sent there.
    NotSendable(NotSendable),
    /// The worker is gone, or has dropped all jobs meanwhile.
    Gone,
}
