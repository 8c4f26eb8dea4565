//! How jobs come into the archive, if there is one: before they run, while they run, and before anybody is told of their
//! end.

#[cfg(feature = "store")]
use std::time::SystemTime;
use std::{sync::Arc, time::Duration};

use actix::{ActorFutureExt, AsyncContext, Context, Handler, Message, WrapFuture};

use super::{
    JobManager, LiveJob,
    archive::{Archive, ArchiveError, Kept, PlainJob},
    dispatcher::JobPrepared,
    messages::{DiscardJob, Dismiss, EndRecorded, Forgotten, StartJob, TakeRecord},
    record::{Archived, EndedJob},
    reply::{Answer, ReplySlot},
    waiting::Preparing,
};
use crate::{
    job::{JobId, Warning},
    link::{Holds, Opened, Refusal, Reply},
};

/// How often what is kept of live jobs is brought up to date. A job that is lost reads with counts that are this old at
/// most.
const REFRESH_EVERY: Duration = Duration::from_secs(10);

/// The clock of the history begins here, so that jobs that ended before it can have their place on it.
const CLOCK_ORIGIN: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// Where jobs are kept beyond the process, and those that are there.
#[derive(Default)]
pub(crate) struct Recording {
    archive: Option<Box<dyn Archive>>,
    /// Those of earlier processes, oldest end first. Taken by the manager when it begins.
    restored: Vec<PlainJob>,
}

impl Recording {
    #[cfg(feature = "store")]
    pub(crate) fn new(archive: impl Archive + 'static, restored: Vec<PlainJob>) -> Self {
        Self { archive: Some(Box::new(archive)), restored }
    }

    pub(super) fn is_on(&self) -> bool {
        self.archive.is_some()
    }

    pub(super) fn trouble(&self) -> Option<String> {
        self.archive.as_ref().and_then(|archive| archive.trouble())
    }

    /// Without waiting for it: what is not forgotten now is so later.
    pub(super) fn forget(&mut self, jobs: Vec<JobId>) {
        if let Some(archive) = &mut self.archive
            && !jobs.is_empty()
        {
            archive.forget(jobs, Box::new(|_| ()));
        }
    }
}

/// From the archive: a job that is about to begin is in it, or cannot be.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct JobRecorded {
    pub(super) prepared: JobPrepared,
    pub(super) recorded: Result<(), ArchiveError>,
}

impl JobManager {
    /// The clock of the history.
    pub(super) fn now(&self) -> Duration {
        CLOCK_ORIGIN + self.host.since(self.opened)
    }

    /// Takes over what an earlier process left.
    pub(super) fn restore(&mut self) {
        let (now, today) = (self.now(), self.host.wall());
        for plain in std::mem::take(&mut self.recording.restored) {
            let id = plain.status.id;
            // A job that ended in what is the future by today's clock has just ended.
            let age = plain.status.ended_at.and_then(|at| today.duration_since(at).ok()).unwrap_or_default();
            let job = Arc::new(EndedJob { plain, outputs: None });
            self.history.insert(id, Archived { job, holds: Holds::new(&self.host) }, now.saturating_sub(age));
        }
        self.forget_expired();
    }

    /// Brings what is kept of live jobs up to date, from time to time.
    pub(super) fn keep_recording(&mut self, ctx: &mut Context<Self>) {
        if !self.recording.is_on() {
            return;
        }
        self.host.clone().later(ctx, REFRESH_EVERY, |this, ctx| {
            for live in this.live.values().filter(|live| !live.is_over) {
                let record = live.supervisor.clone().send(TakeRecord);
                ctx.spawn(record.into_actor(this).map(|record, this, _| {
                    let Ok(record) = record else { return };
                    let is_live = this.live.get(&record.status.id).is_some_and(|live| !live.is_over);
                    if let (Some(archive), true) = (&mut this.recording.archive, is_live) {
                        archive.keep(Kept::Live(Box::new(record)), Box::new(|_| ()));
                    }
                }));
            }
            this.keep_recording(ctx);
        });
    }

    /// Begins a job once it is in the archive.
    pub(super) fn record(&mut self, mut prepared: JobPrepared, ctx: &mut Context<Self>) {
        if !self.preparing.contains_key(&prepared.job) {
            // Nobody waits for it any more: the environment is closing.
            return prepared.dispatcher.do_send(DiscardJob);
        }
        if let (Some(archive), Some(record)) = (&mut self.recording.archive, prepared.record.take()) {
            let manager = ctx.address();
            let recorded = move |recorded| manager.do_send(JobRecorded { prepared, recorded });
            return archive.keep(Kept::Live(record), Box::new(recorded));
        }
        self.begin(prepared);
    }

    fn begin(&mut self, prepared: JobPrepared) {
        let JobPrepared { job, name, ports, holds, supervisor, dispatcher, .. } = prepared;
        let Some(Preparing { openers, waiting, .. }) = self.preparing.remove(&job) else {
            self.recording.forget(vec![job]);
            return dispatcher.do_send(DiscardJob);
        };
        tracing::info!(environment = %self.environment, %job, name, "job accepted");
        dispatcher.do_send(StartJob);
        for (waiter, by) in openers {
            waiter.answer(Ok(Opened::new(name.clone(), holds.take(by))));
        }
        waiting.into_iter().for_each(|waiting| waiting.hand_over(&supervisor.clone().recipient()));
        let live = LiveJob { name, supervisor, ports, holds, deleters: Vec::new(), is_over: false };
        self.live.insert(job, live);
    }

    /// Lets a job end once its end is in the archive, or cannot be.
    pub(super) fn record_end(&mut self, job: Arc<EndedJob>, ctx: &mut Context<Self>) {
        let Some(live) = self.live.get_mut(&job.plain.status.id) else { return };
        live.is_over = true;
        if let (Some(archive), true) = (&mut self.recording.archive, live.deleters.is_empty()) {
            let manager = ctx.address();
            let ended = Arc::clone(&job);
            let recorded = move |recorded| manager.do_send(EndRecorded { job, recorded });
            return archive.keep(Kept::Ended(ended), Box::new(recorded));
        }
        self.end(&job, ctx);
    }

    fn end(&mut self, job: &Arc<EndedJob>, ctx: &mut Context<Self>) {
        let status = &job.plain.status;
        let Some(live) = self.live.remove(&status.id) else { return };
        live.supervisor.do_send(Dismiss(Arc::clone(job)));
        let abandoned =
            |warning: &&Warning| matches!(warning, Warning::ServiceAbandoned { .. } | Warning::TaskAbandoned { .. });
        self.threads_abandoned += status.warnings.iter().filter(abandoned).count();
        if live.deleters.is_empty() {
            let now = self.now();
            self.history.insert(status.id, Archived { job: Arc::clone(job), holds: live.holds }, now);
            self.forget_expired();
        } else {
            self.recording.forget(vec![status.id]);
        }
        for deleter in live.deleters {
            deleter.answer(Ok(Reply::Done(())));
        }
        self.close_when_drained(ctx);
    }

    fn forget_expired(&mut self) {
        let expired = self.history.take_expired();
        self.recording.forget(expired);
    }

    /// Answers once the archive has forgotten the jobs too.
    pub(super) fn forget(
        &mut self,
        jobs: Vec<JobId>,
        answer: Reply,
        ctx: &mut Context<Self>,
    ) -> Answer<Result<Reply, Refusal>> {
        let Some(archive) = &mut self.recording.archive else { return Answer::Now(Ok(answer)) };
        let slot = ReplySlot::new();
        let (manager, reply) = (ctx.address(), slot.clone());
        archive.forget(jobs, Box::new(move |recorded| manager.do_send(Forgotten { answer, reply, recorded })));
        Answer::Later(slot)
    }
}

impl Handler<JobRecorded> for JobManager {
    type Result = ();

    fn handle(&mut self, JobRecorded { prepared, recorded }: JobRecorded, _: &mut Self::Context) {
        let Err(error) = recorded else { return self.begin(prepared) };
        let job = prepared.job;
        tracing::error!(environment = %self.environment, %job, %error, "job refused: the history cannot be written");
        self.recording.forget(vec![job]);
        prepared.dispatcher.do_send(DiscardJob);
        if let Some(preparing) = self.preparing.remove(&job) {
            preparing.refuse(job, &Refusal::NotRecorded { message: error.to_string() });
        }
    }
}

impl Handler<EndRecorded> for JobManager {
    type Result = ();

    fn handle(&mut self, EndRecorded { job, recorded }: EndRecorded, ctx: &mut Self::Context) {
        if let Err(error) = recorded {
            let (environment, id) = (&self.environment, job.plain.status.id);
            tracing::error!(%environment, job = %id, %error, "the job's end is not in the history on disk");
        }
        self.end(&job, ctx);
    }
}

impl Handler<Forgotten> for JobManager {
    type Result = ();

    fn handle(&mut self, Forgotten { answer, reply, recorded }: Forgotten, _: &mut Self::Context) {
        if let Err(error) = recorded {
            // It is tried again with whatever is written next, and this process knows nothing of the jobs any more.
            tracing::error!(environment = %self.environment, %error, "deleted jobs are still in the history on disk");
        }
        reply.answer(Ok(answer));
    }
}

/// What a job reads that had not ended when the process that ran it did.
#[cfg(feature = "store")]
pub(crate) fn lost(plain: &mut PlainJob, now: SystemTime) {
    use crate::job::Outcome;
    let reason = "the node's process ended while the job ran".to_owned();
    plain.break_off(Outcome::Lost { reason }, now);
}
