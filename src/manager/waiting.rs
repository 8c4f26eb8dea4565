//! Jobs that wait for a worker, because the environment has workers in other processes and none is there.
//!
//! Nothing of such a job is built yet, and who has submitted it is answered once it is. Until then it reads `Starting`, and
//! what is asked of it is answered here, or waits with it.

use actix::{Context, Handler, Recipient};

use super::JobManager;
use crate::{
    job::{BuildRefusal, Explanation, HeldBy, JobId, JobState, JobStatus},
    link::{Control, JobRequest, Keep, Opened, Refusal, Reply},
    manager::{
        messages::{AskJob, DiscardJob, JobReply, JobWaits},
        reply::{Answer, ReplySlot},
    },
};

/// Who waits for a job to be open, and who will hold it then.
type Opener = (ReplySlot<Result<Opened, Refusal>>, HeldBy);

/// A job whose flow is being built, or that waits until it can be.
pub(super) struct Preparing {
    pub(super) openers: Vec<Opener>,
    /// The Dispatcher.
    pub(super) dispatcher: Recipient<DiscardJob>,
    /// It waits for a worker.
    pub(super) waiting: Option<Waiting>,
}

/// A job that waits for a worker.
pub(super) struct Waiting {
    waits: JobWaits,
    /// Asked of what is not there yet.
    deferred: Vec<(JobRequest, JobReply)>,
}

impl Waiting {
    /// The job has begun: its supervisor answers.
    pub(super) fn hand_over(self, supervisor: &Recipient<AskJob>) {
        for (request, reply) in self.deferred {
            supervisor.do_send(AskJob { request, reply });
        }
    }
}

impl Preparing {
    /// There will be no such job.
    pub(super) fn refuse(self, job: JobId, refusal: &Refusal) {
        for (opener, _) in self.openers {
            opener.answer(Err(refusal.clone()));
        }
        for (_, reply) in self.waiting.into_iter().flat_map(|waiting| waiting.deferred) {
            reply.answer(Err(Refusal::NoSuchJob { id: job }));
        }
    }
}

impl JobManager {
    /// Answers what is asked of a job that waits for a worker. None if it does not.
    pub(super) fn ask_waiting(&mut self, job: JobId, request: &JobRequest) -> Option<Answer<Result<Reply, Refusal>>> {
        let waiting = self.preparing.get_mut(&job)?.waiting.as_mut()?;
        let JobWaits { status, sentence } = &waiting.waits;
        let conflict =
            |operation: &str| Refusal::Conflict { operation: operation.to_owned(), state: JobState::Starting };
        Some(Answer::Now(match request {
            JobRequest::Open { .. } => Ok(Reply::Opened(Opened::new(status.name.clone(), Keep::default()))),
            JobRequest::JobStatus | JobRequest::WatchJob { after: None } => Ok(Reply::Status(status.clone())),
            JobRequest::ExplainJob => {
                Ok(Reply::Explanation(Explanation { state: JobState::Starting, waits: vec![sentence.clone()] }))
            }
            JobRequest::Control(Control::Stop | Control::Cancel) | JobRequest::DeleteJob { force: true } => {
                self.call_off(job);
                Ok(Reply::Done(()))
            }
            JobRequest::Control(Control::Pause) => Err(conflict("pause")),
            JobRequest::Control(Control::Resume) => Err(conflict("resume")),
            JobRequest::DeleteJob { force: false } => Err(conflict("delete")),
            JobRequest::WatchJob { after: Some(_) }
            | JobRequest::WaitJob
            | JobRequest::DeadLetters
            | JobRequest::JobGraph
            | JobRequest::OutputTypes => {
                let slot = ReplySlot::new();
                waiting.deferred.push((request.clone(), slot.clone()));
                return Some(Answer::Later(slot));
            }
        }))
    }

    fn call_off(&mut self, job: JobId) {
        let Some(preparing) = self.preparing.remove(&job) else { return };
        tracing::info!(environment = %self.environment, %job, "job called off while it waited for a worker");
        preparing.dispatcher.do_send(DiscardJob);
        preparing.refuse(job, &Refusal::Build(BuildRefusal::CalledOff));
    }

    /// How the jobs read that wait for a worker.
    pub(super) fn waiting_jobs(&self) -> impl Iterator<Item = JobStatus> {
        let waiting = self.preparing.values().filter_map(|preparing| preparing.waiting.as_ref());
        waiting.map(|waiting| JobStatus::clone(&waiting.waits.status))
    }
}

impl Handler<JobWaits> for JobManager {
    type Result = ();

    fn handle(&mut self, waits: JobWaits, _: &mut Context<Self>) {
        let job = waits.status.id;
        tracing::warn!(environment = %self.environment, %job, "job waits: no worker has joined");
        if let Some(preparing) = self.preparing.get_mut(&job) {
            // It may have waited before.
            let deferred = preparing.waiting.take().map(|waiting| waiting.deferred).unwrap_or_default();
            preparing.waiting = Some(Waiting { waits, deferred });
        }
    }
}
