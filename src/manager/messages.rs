//! What the JobManager is told and asked.

use std::sync::Arc;

use actix::{Addr, Message};
use tokio::sync::OwnedSemaphorePermit;

use super::{
    archive::{ArchiveError, PlainJob},
    dispatcher::Dispatcher,
    record::EndedJob,
    reply::ReplySlot,
    supervisor::JobSupervisor,
};
use crate::{
    job::JobId,
    link::{Holds, Opened, Refusal, Reply, Request, SubmitJob},
    worker::JobPorts,
};

/// A client's question.
#[derive(Message)]
#[rtype(result = "Result<Reply, Refusal>")]
pub(crate) struct Ask {
    pub(crate) request: Request,
    /// Room in the mailbox, given back when the message is handled or dropped.
    pub(crate) room: OwnedSemaphorePermit,
}

/// A client's job.
#[derive(Message)]
#[rtype(result = "Result<Opened, Refusal>")]
pub(crate) struct Submit {
    pub(crate) submit: SubmitJob,
    /// Room in the mailbox, given back when the message is handled or dropped.
    pub(crate) room: OwnedSemaphorePermit,
}

/// Where the typed ends of a job are, for a client in the same process.
#[derive(Message)]
#[rtype(result = "Result<Ports, Refusal>")]
pub(crate) struct FindPorts {
    pub(crate) job: JobId,
    pub(crate) room: OwnedSemaphorePermit,
}

/// The typed ends of a job.
pub(crate) enum Ports {
    Live(Arc<JobPorts>),
    Ended(Arc<EndedJob>),
}

/// Accept nothing more, cancel everything, and end once all has ended.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Close;

/// From a Dispatcher: the flow is built, the supervisor is ready.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct JobPrepared {
    pub(super) job: JobId,
    /// What is to be kept of it, if there is an archive.
    pub(super) record: Option<Box<PlainJob>>,
    pub(super) name: String,
    pub(super) ports: Arc<JobPorts>,
    pub(super) holds: Holds,
    pub(super) supervisor: Addr<JobSupervisor>,
    pub(super) dispatcher: Addr<Dispatcher>,
}

/// From a Dispatcher: there will be no such job.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct JobRefused {
    pub(super) job: JobId,
    pub(super) refusal: Refusal,
}

/// From a JobSupervisor: the job has ended.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct JobEnded {
    pub(super) job: Arc<EndedJob>,
}

/// From the archive: a job that is about to begin is in it, or cannot be.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct JobRecorded {
    pub(super) prepared: JobPrepared,
    pub(super) recorded: Result<(), ArchiveError>,
}

/// From the archive: a job that has ended is in it, or cannot be as yet.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct EndRecorded {
    pub(super) job: Arc<EndedJob>,
    pub(super) recorded: Result<(), ArchiveError>,
}

/// From the archive: jobs are not in it any more, or still are.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Forgotten {
    pub(super) answer: Reply,
    pub(super) reply: ReplySlot<Result<Reply, Refusal>>,
    pub(super) recorded: Result<(), ArchiveError>,
}
