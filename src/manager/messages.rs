//! What the JobManager, its Dispatchers and its JobSupervisors are told and asked.

use std::sync::Arc;

use actix::Message;
use tokio::sync::OwnedSemaphorePermit;

use super::{
    archive::{ArchiveError, PlainJob},
    record::EndedJob,
    reply::ReplySlot,
};
use crate::{
    job::{Attempt, CancelReason, FailureCause, JobId, JobStatus},
    link::{
        Departure, JobPorts, JobRequest, Opened, Refusal, Reply, Request, SubmitJob, WorkerFacts, WorkerId, WorkerLink,
    },
    protocol::WorkerEvent,
};

impl Message for WorkerEvent {
    type Result = ();
}

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

/// A worker has come.
#[derive(Message)]
#[rtype(result = "Result<WorkerId, Refusal>")]
pub(crate) struct JoinWorker {
    pub(crate) facts: WorkerFacts,
    pub(crate) link: Arc<dyn WorkerLink>,
    /// As that of [`Ask`].
    pub(crate) room: OwnedSemaphorePermit,
}

/// A worker is gone.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct LoseWorker {
    pub(crate) worker: WorkerId,
    pub(crate) why: String,
    pub(crate) departure: Departure,
}

/// A worker wants to leave.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct DrainWorker {
    pub(crate) worker: WorkerId,
}

/// From a Dispatcher: the job waits for a worker.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct JobWaits {
    /// As the job reads meanwhile.
    pub(super) status: Box<JobStatus>,
    /// What it says that it waits for.
    pub(super) sentence: String,
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

/// To a Dispatcher: run the prepared job, which the JobManager wants.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct StartJob;

/// To a Dispatcher: forget the prepared job, which the JobManager no longer wants.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct DiscardJob;

/// To a Dispatcher: place the tasks and have them started.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct DeployTasks {
    pub(super) attempt: Attempt,
}

/// To a Dispatcher: have everything of this attempt made anew.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct DeployAttempt {
    pub(super) attempt: Attempt,
    /// Workers that did not reach each other: they are left out, as long as there are slots enough without them.
    pub(super) avoid: Vec<WorkerId>,
}

/// From a Dispatcher: the attempt is deployed, on the team that is [next](super::team::Deployment). Answered with whether it is wanted.
#[derive(Message)]
#[rtype(result = "bool")]
pub(super) struct AttemptDeployed {
    pub(super) attempt: Attempt,
}

/// From a Dispatcher: the attempt could not be deployed, and nothing of it is left.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct AttemptUndeployed {
    pub(super) attempt: Attempt,
    pub(super) cause: FailureCause,
}

/// To a Dispatcher: nothing of the attempt is left on other workers, and another one is to follow.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct FreeAttempt;

/// To a Dispatcher: the tasks have ended, and are no load any more.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct FreeSlots;

/// The slot of a request about a job.
pub(super) type JobReply = ReplySlot<Result<Reply, Refusal>>;

/// To a JobSupervisor: a client's question, passed on by the JobManager together with the way back to the client.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct AskJob {
    pub(super) request: JobRequest,
    pub(super) reply: JobReply,
}

/// To a JobSupervisor: cancel for a reason that no client can give.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct CancelJob(pub(super) CancelReason);

/// To a JobSupervisor: a worker is gone, which may be one of its job's.
#[derive(Clone, Message)]
#[rtype(result = "()")]
pub(super) struct WorkerGone {
    pub(super) worker: WorkerId,
    pub(super) name: String,
    pub(super) why: String,
    pub(super) departure: Departure,
}

/// To a JobSupervisor: a worker that was lost before has ended for certain.
#[derive(Clone, Message)]
#[rtype(result = "()")]
pub(super) struct WorkerEnded {
    pub(super) worker: WorkerId,
}

/// To a JobSupervisor: a snapshot for the list of jobs.
#[derive(Message)]
#[rtype(result = "JobStatus")]
pub(super) struct TakeSnapshot;

/// To a JobSupervisor: what is to be kept of the job as it is now.
#[derive(Message)]
#[rtype(result = "PlainJob")]
pub(super) struct TakeRecord;

/// To a JobSupervisor: nobody holds the job any more; whether that is so for as long as its lease.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct CheckLease;

/// To a JobSupervisor: the JobManager has taken over the record. Clients that wait for the job's end are told, and
/// nothing is sent here any more.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Dismiss(pub(super) Arc<EndedJob>);
