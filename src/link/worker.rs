//! How the JobManager speaks to a worker, wherever that is.

use std::sync::Arc;

use futures::future::BoxFuture;

use crate::{
    dataplane::wiring::Streams,
    flow::{JobPayload, job::Unplanned},
    job::{ErrorPolicy, Graph, JobId, Term},
    protocol::{Order, Progress, WorkerEvent},
    service::ServiceDirectory,
};

/// The way to one worker. What goes over it arrives in order, or never, and then the worker is lost.
pub(crate) trait WorkerLink: Send + Sync {
    /// Has the worker build a job's flow and get ready to host it.
    fn prepare(&self, prepare: Prepare) -> BoxFuture<'static, Result<Prepared, Unprepared>>;
    fn order(&self, order: Order);
    /// What the counters of this job read; nothing, if the worker is gone.
    fn progress(&self, job: JobId) -> BoxFuture<'static, Progress>;
    /// Has all its threads stopped. All jobs have been released.
    fn close(&self) -> BoxFuture<'static, ()>;
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
    pub events: WorkerEvents,
}

/// The flow is built.
pub(crate) struct Prepared {
    pub graph: Graph,
    pub ports: Arc<JobPorts>,
}

/// Where the outside reaches into a job: its services, outputs and inputs.
pub(crate) struct JobPorts {
    pub directory: Arc<ServiceDirectory>,
    pub streams: Arc<Streams>,
}

/// Why a worker does not host a job.
#[derive(Debug)]
pub(crate) enum Unprepared {
    Unplanned(Unplanned),
    Gone,
}
