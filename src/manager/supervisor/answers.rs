//! What a client's question about a live job is answered with.

use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};

use super::{JobReply, JobSupervisor};
use crate::{
    job::{CancelReason, Explanation, Graph, JobState, JobStatus},
    link::{Control, JobRequest, Refusal, Reply},
    manager::{completion::Event, explain, record},
    protocol::Progress,
};

/// What is read from the job once its counters are known.
#[derive(Clone, Copy)]
pub(super) enum Read {
    Status,
    Explanation,
}

impl JobSupervisor {
    /// Answers with what the job looks like once the worker has said how far it is. The worker reads atomics on this
    /// very thread, so this is quick however busy the tasks are.
    pub(super) fn read(&mut self, read: Read, replies: Vec<JobReply>, ctx: &mut Context<Self>) {
        let snapshot = self.snapshot();
        self.reads += 1;
        ctx.spawn(snapshot.into_actor(self).map(move |(status, progress), this, ctx| {
            let reply = match (&this.ended, read) {
                (Some(ended), Read::Status) => Reply::Status(Box::new(ended.plain.status.clone())),
                (_, Read::Status) => Reply::Status(Box::new(status)),
                (_, Read::Explanation) => Reply::Explanation(this.explanation(progress)),
            };
            for slot in replies {
                slot.answer(Ok(reply.clone()));
            }
            this.reads -= 1;
            this.stop_once_dismissed(ctx);
        }));
    }

    /// What the job looks like now, with the counters that the worker reads next. It has by then done what it was ordered up
    /// to now, so that whoever reads a state finds it so; and what a state says of the counters holds of these.
    pub(super) fn snapshot(&self) -> impl Future<Output = (JobStatus, Progress)> + use<> {
        let mut status = self.record.uncounted(&self.completion);
        // Whoever reads `Ended` can rely on it at once, to delete the job say; so it does not show before `finish`.
        if status.state == JobState::Ended {
            status.state = self.visible_state();
            status.version = self.visible_version();
            status.outcome = None;
            status.ended_at = None;
        }
        let progress = self.team.progress(self.record.id);
        async move {
            let progress = progress.await;
            record::count(&mut status, &progress);
            (status, progress)
        }
    }

    /// The state that clients see while the job is live.
    pub(super) fn visible_state(&self) -> JobState {
        match self.completion.state() {
            JobState::Ended => JobState::StoppingServices,
            state => state,
        }
    }

    /// The version that clients see while the job is live: the last one is that of the snapshot that reads `Ended`.
    fn visible_version(&self) -> u64 {
        match self.completion.state() {
            JobState::Ended => self.completion.version() - 1,
            _ => self.completion.version(),
        }
    }

    fn explanation(&self, mut progress: Progress) -> Explanation {
        for (task, _, wait) in &mut progress.tasks {
            if let Some(node) = self.record.graph.tasks.get(task.index()) {
                self.ports.streams.count_senders(node, wait);
            }
        }
        let outputs = self.ports.streams.outputs.iter();
        let unread: Vec<String> =
            outputs.filter(|(_, output)| !output.reader_present()).map(|(name, _)| name.clone()).collect();
        let mut explanation = explain::explain(&self.record, &self.completion, &progress, &unread);
        explanation.waits.extend(self.fence_waits());
        explanation
    }

    pub(super) fn control(&mut self, control: Control, ctx: &mut Context<Self>) -> Result<Reply, Refusal> {
        tracing::info!(environment = %self.environment, job = %self.record.id, ?control, "requested");
        let (operation, event) = match control {
            Control::Stop => ("stop", Event::Stop),
            Control::Cancel => ("cancel", Event::Cancel(CancelReason::Requested)),
            Control::Pause => ("pause", Event::Pause),
            Control::Resume => ("resume", Event::Resume),
        };
        match self.apply(event, ctx) {
            Ok(()) => Ok(Reply::Done(())),
            Err(conflict) => Err(Refusal::Conflict { operation: operation.to_owned(), state: conflict.state }),
        }
    }

    pub(super) fn ask(&mut self, request: JobRequest, reply: JobReply, ctx: &mut Context<Self>) {
        let answer = match request {
            JobRequest::JobStatus => return self.read(Read::Status, vec![reply], ctx),
            JobRequest::ExplainJob => return self.read(Read::Explanation, vec![reply], ctx),
            JobRequest::WatchJob { after } => match after {
                Some(after) if after >= self.visible_version() => {
                    // Looked through only when about to grow: those who gave up cost a constant for each one who asks.
                    if self.watchers.len() == self.watchers.capacity() {
                        self.watchers.retain(|(_, reply)| reply.is_wanted());
                    }
                    return self.watchers.push((after, reply));
                }
                _ => return self.read(Read::Status, vec![reply], ctx),
            },
            JobRequest::WaitJob => {
                if self.waiters.len() == self.waiters.capacity() {
                    self.waiters.retain(JobReply::is_wanted);
                }
                return self.waiters.push(reply);
            }
            JobRequest::Control(control) => self.control(control, ctx),
            JobRequest::DeleteJob { .. } => {
                Err(Refusal::Conflict { operation: "delete".to_owned(), state: self.visible_state() })
            }
            JobRequest::DeadLetters => Ok(Reply::DeadLetters(self.record.dead.letters())),
            JobRequest::JobGraph => Ok(Reply::Graph(Box::new(Graph::clone(&self.record.graph)))),
            JobRequest::OutputTypes => Ok(Reply::OutputTypes(record::output_types(&self.ports.streams.outputs))),
            JobRequest::Open { .. } => Err(Refusal::Internal("opened by the wrong actor".to_owned())),
        };
        reply.answer(answer);
    }
}
