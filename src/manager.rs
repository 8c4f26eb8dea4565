//! The JobManager: owns every job of an environment.
//!
//! All actors in here live on the environment's one control thread, which runs no user code but a placement policy.
//! A question about a live job is passed on to its [`JobSupervisor`] together with the way back to the client; one
//! about an ended job is answered from the [`History`].

mod archive;
mod completion;
mod dispatcher;
mod explain;
mod history;
mod messages;
mod placement;
mod record;
mod recording;
mod reply;
mod supervisor;
mod team;
mod waiting;

use std::{cell::RefCell, collections::BTreeMap, rc::Rc, sync::Arc, time::Instant};

use actix::{Actor, ActorContext, ActorFutureExt, Addr, AsyncContext, Context, Handler, WrapFuture};
use futures::future::join_all;
use tokio::sync::oneshot;

pub(crate) use self::messages::{Ask, Close, DrainWorker, FindPorts, JoinWorker, LoseWorker, Ports, Submit};
pub use self::placement::{
    LeastLoaded, Placement, RoundRobin, ServiceDescription, SlotLoad, TaskDescription, WorkerLoad,
};
pub(crate) use self::recording::Recording;
#[cfg(feature = "store")]
pub(crate) use self::{
    archive::{Archive, ArchiveError, Kept, PlainJob, Recorded},
    recording::lost,
};
use self::{
    dispatcher::{Dispatch, Dispatcher, JobPrepared, ToManager},
    history::{History, Lookup},
    messages::{AskJob, CancelJob, JobEnded, JobRefused, JobReply, TakeSnapshot, WorkerEnded, WorkerGone},
    placement::{Departed, Slots},
    record::Archived,
    reply::{Answer, ReplySlot},
    supervisor::JobSupervisor,
    waiting::Preparing,
};
use crate::{
    flow::JobPayload,
    host::Host,
    job::{CancelReason, EnvironmentInfo, Health, JobId, JobOptions, JobStatus, Limits},
    link::{
        Departure, Holds, JobPorts, JobRequest, Keep, Opened, Refusal, Reply, Request, SubmitJob, WorkerId, WorkerLink,
    },
};

/// What a [`JobManager`] is made of.
pub(crate) struct ManagerConfig {
    pub(crate) environment: Arc<str>,
    pub(crate) limits: Arc<Limits>,
    pub(crate) task_threads: usize,
    pub(crate) service_threads: usize,
    pub(crate) placement: Box<dyn Placement>,
    pub(crate) worker: Arc<dyn WorkerLink>,
    /// There are to be workers in other processes: without one, only closures run.
    pub(crate) has_workers: bool,
    /// Where jobs are kept beyond the process, and those that are there.
    pub(crate) recording: Recording,
    pub(crate) host: Host,
    /// Dropped once the manager has closed and all of its jobs have ended.
    pub(crate) closed: oneshot::Sender<()>,
}

/// Owns all jobs of an environment: those being prepared, the live ones, and the history of ended ones.
pub(crate) struct JobManager {
    environment: Arc<str>,
    limits: Arc<Limits>,
    info: EnvironmentInfo,
    host: Host,
    opened: Instant,
    worker: Arc<dyn WorkerLink>,
    has_workers: bool,
    slots: Rc<RefCell<Slots>>,
    /// Those who wait for the flow of their job to be built.
    preparing: BTreeMap<JobId, Preparing>,
    live: BTreeMap<JobId, LiveJob>,
    history: History<Archived>,
    recording: Recording,
    threads_abandoned: usize,
    closing: Closing,
    /// Held for its drop.
    _closed: oneshot::Sender<()>,
}

struct LiveJob {
    name: String,
    supervisor: Addr<JobSupervisor>,
    ports: Arc<JobPorts>,
    holds: Holds,
    /// Those who deleted the job by force. If there are any, it is forgotten at its end.
    deleters: Vec<JobReply>,
    /// It has ended, and is being written into the archive.
    is_over: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Closing {
    Open,
    /// No job is accepted; the live ones are cancelled.
    Draining,
    /// All jobs ended; the workers are being closed.
    Workers,
}

impl JobManager {
    pub(crate) fn new(config: ManagerConfig) -> Self {
        let ManagerConfig {
            environment,
            limits,
            task_threads,
            service_threads,
            placement,
            worker,
            has_workers,
            recording,
            host,
            closed,
        } = config;
        let info = EnvironmentInfo {
            name: environment.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            task_threads,
            service_threads,
            opened_at: host.wall(),
        };
        let mut manager = Self {
            environment,
            info,
            opened: host.now(),
            host,
            worker,
            has_workers,
            slots: Rc::new(RefCell::new(Slots::new(placement, task_threads))),
            preparing: BTreeMap::new(),
            live: BTreeMap::new(),
            history: History::new(limits.ended_jobs_max, limits.ended_jobs_age),
            limits,
            recording,
            threads_abandoned: 0,
            closing: Closing::Open,
            _closed: closed,
        };
        manager.restore();
        manager
    }

    fn submit(&mut self, submit: SubmitJob, ctx: &mut Context<Self>) -> Answer<Result<Opened, Refusal>> {
        let SubmitJob { id, options, payload } = submit;
        // A submit repeated after a lost reply names the same job, and is answered as the first one was.
        if let Some(live) = self.live.get(&id) {
            return Answer::Now(Ok(Opened::new(live.name.clone(), live.holds.take(options.by))));
        }
        let now = self.now();
        match self.history.find(id, now) {
            Lookup::Known(ended) => {
                let name = ended.job.plain.status.name.clone();
                return Answer::Now(Ok(Opened::new(name, ended.holds.take(options.by))));
            }
            // It has run; to run it again is not what was asked for.
            Lookup::Expired => {
                return Answer::Now(Ok(Opened::new(name_of(&options, &payload), Keep::default())));
            }
            Lookup::Unknown => {}
        }
        if self.closing != Closing::Open {
            return Answer::Now(Err(Refusal::EnvironmentClosed));
        }
        let slot = ReplySlot::new();
        let opener = (slot.clone(), options.by.clone());
        if let Some(preparing) = self.preparing.get_mut(&id) {
            preparing.openers.push(opener);
        } else {
            let manager = ctx.address();
            let dispatcher = Dispatcher::new(Dispatch {
                job: id,
                environment: Arc::clone(&self.environment),
                name: name_of(&options, &payload),
                options,
                limits: Arc::clone(&self.limits),
                payload,
                worker: Arc::clone(&self.worker),
                has_workers: self.has_workers,
                manager: ToManager {
                    waits: manager.clone().recipient(),
                    prepared: manager.clone().recipient(),
                    refused: manager.clone().recipient(),
                    ended: manager.recipient(),
                },
                slots: Rc::clone(&self.slots),
                archived: self.recording.is_on(),
                host: self.host.clone(),
            });
            let dispatcher = dispatcher.start().recipient();
            self.preparing.insert(id, Preparing { openers: vec![opener], dispatcher, waiting: None });
        }
        Answer::Later(slot)
    }

    fn ask_job(&mut self, job: JobId, request: JobRequest, ctx: &mut Context<Self>) -> Answer<Result<Reply, Refusal>> {
        if let Some(live) = self.live.get_mut(&job) {
            if let JobRequest::Open { by } = request {
                return Answer::Now(Ok(Reply::Opened(Opened::new(live.name.clone(), live.holds.take(by)))));
            }
            let slot = ReplySlot::new();
            if request == (JobRequest::DeleteJob { force: true }) {
                live.deleters.push(slot.clone());
                live.supervisor.do_send(CancelJob(CancelReason::Deleted));
            } else {
                // Past this mailbox's bound, but each message stands for one that has just left it, and the
                // supervisor runs on this same thread.
                live.supervisor.do_send(AskJob { request, reply: slot.clone() });
            }
            return Answer::Later(slot);
        }
        if let Some(answer) = self.ask_waiting(job, &request) {
            return answer;
        }
        if let JobRequest::DeleteJob { .. } = request
            && self.history.remove(job).is_some()
        {
            tracing::info!(environment = %self.environment, %job, "job deleted");
            return self.forget(vec![job], Reply::Done(()), ctx);
        }
        let answer = match self.look_up(job) {
            Ok(ended) => ended.job.answer(&request, &ended.holds),
            Err(refusal) => Err(refusal),
        };
        Answer::Now(answer)
    }

    fn look_up(&mut self, id: JobId) -> Result<&Archived, Refusal> {
        let now = self.now();
        match self.history.find(id, now) {
            Lookup::Known(ended) => Ok(ended),
            Lookup::Expired => Err(Refusal::Expired { id }),
            Lookup::Unknown => Err(Refusal::NoSuchJob { id }),
        }
    }

    /// All jobs, oldest first. Live ones are asked for a snapshot each.
    fn list(&mut self, ctx: &mut Context<Self>) -> Answer<Result<Reply, Refusal>> {
        let slot = ReplySlot::new();
        let reply = slot.clone();
        let snapshots = join_all(self.live.values().map(|live| live.supervisor.clone().send(TakeSnapshot)));
        ctx.spawn(snapshots.into_actor(self).map(move |snapshots, this, _| {
            // A job that ended meanwhile is in both places, or in the history only; the history knows more.
            let mut jobs: BTreeMap<JobId, JobStatus> =
                snapshots.into_iter().flatten().map(|status| (status.id, status)).collect();
            let now = this.now();
            jobs.extend(this.waiting_jobs().map(|status| (status.id, status)));
            jobs.extend(this.history.records(now).map(|(id, ended)| (id, ended.job.plain.status.clone())));
            let mut jobs: Vec<JobStatus> = jobs.into_values().collect();
            jobs.sort_by_key(|status| (status.submitted_at, status.id));
            reply.answer(Ok(Reply::Jobs(jobs)));
        }));
        Answer::Later(slot)
    }

    fn health(&self) -> Health {
        Health {
            accepting: self.closing == Closing::Open,
            jobs_live: self.live.len(),
            jobs_ended: self.history.len(),
            threads_abandoned: self.threads_abandoned,
            history_error: self.recording.trouble(),
        }
    }

    fn close_when_drained(&mut self, ctx: &mut Context<Self>) {
        if self.closing != Closing::Draining || !self.live.is_empty() {
            return;
        }
        self.closing = Closing::Workers;
        let (others, own) = (join_all(self.slots.borrow().links().map(|link| link.close())), Arc::clone(&self.worker));
        let closed = async move {
            others.await;
            own.close().await;
        };
        ctx.spawn(closed.into_actor(self).map(|(), _, ctx| ctx.stop()));
    }
}

fn name_of(options: &JobOptions, payload: &JobPayload) -> String {
    options.name.clone().unwrap_or_else(|| payload.0.name().to_owned())
}

impl Actor for JobManager {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.keep_recording(ctx);
    }
}

impl Handler<Submit> for JobManager {
    type Result = Answer<Result<Opened, Refusal>>;

    fn handle(&mut self, Submit { submit, room }: Submit, ctx: &mut Self::Context) -> Self::Result {
        drop(room);
        self.submit(submit, ctx)
    }
}

impl Handler<Ask> for JobManager {
    type Result = Answer<Result<Reply, Refusal>>;

    fn handle(&mut self, Ask { request, room }: Ask, ctx: &mut Self::Context) -> Self::Result {
        drop(room);
        match request {
            Request::Job { job, request } => self.ask_job(job, request, ctx),
            Request::ListJobs => self.list(ctx),
            Request::Health => Answer::Now(Ok(Reply::Health(self.health()))),
            Request::Info => Answer::Now(Ok(Reply::Info(self.info.clone()))),
            Request::ListWorkers => Answer::Now(Ok(Reply::Workers(self.slots.borrow().workers()))),
            Request::DrainWorker { name } => {
                let count = self.slots.borrow_mut().drain(|_, facts| facts.name == name);
                tracing::info!(environment = %self.environment, worker = name, count, "workers drain");
                Answer::Now(Ok(Reply::Counted(count)))
            }
            Request::Cleanup => {
                let now = self.now();
                let removed = self.history.clear(now);
                self.forget(removed.clone(), Reply::Counted(removed.len()), ctx)
            }
        }
    }
}

impl Handler<FindPorts> for JobManager {
    type Result = Result<Ports, Refusal>;

    fn handle(&mut self, FindPorts { job, room }: FindPorts, _: &mut Self::Context) -> Self::Result {
        drop(room);
        if let Some(live) = self.live.get(&job) {
            return Ok(Ports::Live(Arc::clone(&live.ports)));
        }
        self.look_up(job).map(|ended| Ports::Ended(Arc::clone(&ended.job)))
    }
}

impl Handler<JoinWorker> for JobManager {
    type Result = Result<WorkerId, Refusal>;

    fn handle(&mut self, JoinWorker { facts, link, room }: JoinWorker, _: &mut Self::Context) -> Self::Result {
        drop(room);
        if self.closing != Closing::Open {
            return Err(Refusal::EnvironmentClosed);
        }
        tracing::info!(environment = %self.environment, worker = facts.name, slots = facts.slots, "worker joined");
        Ok(self.slots.borrow_mut().join(facts, link))
    }
}

impl Handler<LoseWorker> for JobManager {
    type Result = ();

    fn handle(&mut self, LoseWorker { worker, why, departure }: LoseWorker, _: &mut Self::Context) {
        let Some(Departed { facts, is_expected }) = self.slots.borrow_mut().leave(worker) else {
            if departure == Departure::Ended {
                self.live.values().for_each(|live| live.supervisor.do_send(WorkerEnded { worker }));
            }
            return;
        };
        if is_expected || self.closing == Closing::Workers {
            tracing::info!(environment = %self.environment, worker = facts.name, why, "worker left");
        } else {
            tracing::warn!(environment = %self.environment, worker = facts.name, why, "worker lost");
        }
        let gone = WorkerGone { worker, name: facts.name, why, departure };
        for live in self.live.values() {
            live.supervisor.do_send(gone.clone());
        }
    }
}

impl Handler<DrainWorker> for JobManager {
    type Result = ();

    fn handle(&mut self, DrainWorker { worker }: DrainWorker, _: &mut Self::Context) {
        let count = self.slots.borrow_mut().drain(|id, _| id == worker);
        tracing::info!(environment = %self.environment, worker = worker.0, count, "a worker wants to leave, and drains");
    }
}

impl Handler<Close> for JobManager {
    type Result = ();

    fn handle(&mut self, _: Close, ctx: &mut Self::Context) {
        if self.closing == Closing::Open {
            if !self.live.is_empty() {
                tracing::info!(environment = %self.environment, jobs = self.live.len(), "closing");
            }
            self.closing = Closing::Draining;
            // A flow that is still being built is not waited for: `build` is user code that may never return. Its
            // dispatcher is told to forget the job when it comes back.
            // One that is on its way into the history is forgotten there, behind what it wrote.
            self.recording.forget(self.preparing.keys().copied().collect());
            for (job, preparing) in std::mem::take(&mut self.preparing) {
                preparing.refuse(job, &Refusal::EnvironmentClosed);
            }
            for live in self.live.values() {
                live.supervisor.do_send(CancelJob(CancelReason::EnvironmentClosed));
            }
        }
        self.close_when_drained(ctx);
    }
}

impl Handler<JobPrepared> for JobManager {
    type Result = ();

    fn handle(&mut self, prepared: JobPrepared, ctx: &mut Self::Context) {
        self.record(prepared, ctx);
    }
}

impl Handler<JobRefused> for JobManager {
    type Result = ();

    fn handle(&mut self, JobRefused { job, refusal }: JobRefused, _: &mut Self::Context) {
        tracing::warn!(environment = %self.environment, %job, ?refusal, "job refused");
        if let Some(preparing) = self.preparing.remove(&job) {
            preparing.refuse(job, &refusal);
        }
    }
}

impl Handler<JobEnded> for JobManager {
    type Result = ();

    fn handle(&mut self, JobEnded { job }: JobEnded, ctx: &mut Self::Context) {
        self.record_end(job, ctx);
    }
}
