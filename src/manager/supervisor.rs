//! Hears every task and service of one job, and carries out what the completion rules decide.

mod answers;
mod attempts;
mod lease;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use actix::{
    Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, Recipient, ResponseActFuture, SpawnHandle,
    WrapFuture,
};

use self::{answers::Read, attempts::Fenced};
use crate::{
    host::Host,
    job::{Attempt, FailureCause, Generation, JobState, JobStatus, Limits, Outcome, Restart, TaskId, Term},
    link::{JobPorts, JobRequest, Refusal, Reply, WorkerId},
    manager::{
        archive::PlainJob,
        completion::{Between, Command, Completion, Conflict, Deadline, Event},
        messages::{
            AskJob, CancelJob, CheckLease, DeployAttempt, DeployTasks, Dismiss, FreeAttempt, FreeSlots, JobEnded,
            JobReply, TakeRecord, TakeSnapshot, WorkerGone,
        },
        record::{EndedJob, JobRecord},
        team::{Deployment, Team},
    },
    protocol::{Layout, Order, Progress, TaskEvent, WorkerEvent, WorkerEventKind, WorkerOrder},
};

/// One for each job. Runs on the control thread, so that it never queues behind user code.
pub(crate) struct JobSupervisor {
    environment: Arc<str>,
    generation: Generation,
    limits: Arc<Limits>,
    run_limit: Option<Duration>,
    record: JobRecord,
    ports: Arc<JobPorts>,
    completion: Completion,
    restart: Restart,
    host: Host,
    /// The clock of restart windows.
    begun: Instant,
    /// When the delay before the next attempt is over, as the strategy has it.
    delayed_until: Instant,
    deadlines: HashMap<Deadline, SpawnHandle>,
    /// Armed while nobody holds a job that has a lease.
    lease_timer: Option<SpawnHandle>,
    /// Answered with the outcome.
    waiters: Vec<JobReply>,
    /// Answered with the first snapshot of a version above the one they name.
    watchers: Vec<(u64, JobReply)>,
    /// The JobManager was told of the end, or need not be.
    is_over: bool,
    /// Set once the JobManager has the record; from then on it answers every question.
    ended: Option<Arc<EndedJob>>,
    /// Questions whose answer waits for the worker. It does not stop before they are answered, for with it they would
    /// be dropped.
    reads: usize,
    team: Rc<Team>,
    /// By which the team of the next attempt comes.
    deployment: Rc<Deployment>,
    /// Workers that were lost at any time, for one may be lost that is going to be in the next team.
    lost: BTreeSet<WorkerId>,
    /// Of those that are lost and may go on all the same, until when.
    fences: BTreeMap<WorkerId, Fenced>,
    /// Links that broke before the attempt that they are of was known to be deployed.
    early: Vec<WorkerEvent>,
    /// Pairs of workers, or of one and home, whose link broke.
    avoid: BTreeSet<[Option<WorkerId>; 2]>,
    /// The JobManager, to be told of the end.
    ended_to: Recipient<JobEnded>,
    /// The Dispatcher, which ends when these are dropped.
    deploy: Recipient<DeployTasks>,
    deploy_attempt: Recipient<DeployAttempt>,
    free_attempt: Recipient<FreeAttempt>,
    free: Recipient<FreeSlots>,
}

/// What a [`JobSupervisor`] is made of.
pub(crate) struct SupervisorSetup {
    pub(crate) environment: Arc<str>,
    pub(crate) generation: Generation,
    pub(crate) limits: Arc<Limits>,
    pub(crate) run_limit: Option<Duration>,
    pub(crate) restart: Restart,
    pub(crate) record: JobRecord,
    pub(crate) ports: Arc<JobPorts>,
    pub(crate) team: Rc<Team>,
    pub(super) deployment: Rc<Deployment>,
    pub(crate) host: Host,
    /// The JobManager, to be told of the end.
    pub(super) ended: Recipient<JobEnded>,
    /// The Dispatcher.
    pub(super) deploy: Recipient<DeployTasks>,
    pub(super) deploy_attempt: Recipient<DeployAttempt>,
    pub(super) free_attempt: Recipient<FreeAttempt>,
    pub(super) free: Recipient<FreeSlots>,
}

impl JobSupervisor {
    pub(crate) fn new(setup: SupervisorSetup) -> Self {
        let SupervisorSetup {
            environment,
            generation,
            limits,
            run_limit,
            restart,
            record,
            ports,
            team,
            deployment,
            host,
            ended,
            deploy,
            deploy_attempt,
            free_attempt,
            free,
        } = setup;
        let rules = record.setup(run_limit.is_some(), &limits, restart);
        Self {
            environment,
            generation,
            limits,
            run_limit,
            record,
            ports,
            completion: Completion::new(rules),
            restart,
            begun: host.now(),
            delayed_until: host.now(),
            host,
            deadlines: HashMap::new(),
            lease_timer: None,
            waiters: Vec::new(),
            watchers: Vec::new(),
            is_over: false,
            ended: None,
            reads: 0,
            team,
            deployment,
            lost: BTreeSet::new(),
            fences: BTreeMap::new(),
            early: Vec::new(),
            avoid: BTreeSet::new(),
            ended_to: ended,
            deploy,
            deploy_attempt,
            free_attempt,
            free,
        }
    }

    /// Drops a job that was never begun, without a word to the JobManager.
    pub(crate) fn discard(mut self) {
        self.is_over = true;
    }

    /// What is to be kept of the job before it has begun.
    pub(crate) fn first_record(&self) -> PlainJob {
        self.plain_job(&Progress::default())
    }

    fn apply(&mut self, event: Event, ctx: &mut Context<Self>) -> Result<(), Conflict> {
        let version = self.completion.version();
        let at = self.host.since(self.begun);
        for command in self.completion.apply(event, at)? {
            self.execute(command, ctx);
        }
        // The end is told by `finish`.
        if self.completion.version() != version && self.completion.state() != JobState::Ended {
            self.notify_watchers(ctx);
        }
        Ok(())
    }

    /// For events that the rules never refuse.
    fn hear(&mut self, event: Event, ctx: &mut Context<Self>) {
        if let Err(conflict) = self.apply(event, ctx) {
            tracing::error!(job = %self.record.id, %conflict, "an event that cannot conflict was refused");
        }
    }

    fn execute(&mut self, command: Command, ctx: &mut Context<Self>) {
        match command {
            Command::Order { attempt, order } => {
                let ends = order == WorkerOrder::EndAttempt;
                self.order(attempt, order);
                if ends {
                    self.leave_team();
                }
            }
            Command::Deploy { attempt } => self.begin_anew(attempt),
            Command::StartTasks { attempt } => self.deploy.do_send(DeployTasks { attempt }),
            Command::Arm(deadline) => self.arm(deadline, ctx),
            Command::Disarm(deadline) => {
                if let Some(timer) = self.deadlines.remove(&deadline) {
                    ctx.cancel_future(timer);
                }
            }
            Command::SealOutputs { complete } => self.seal_outputs(complete),
            Command::Ended(outcome) => self.end(&outcome, ctx),
        }
    }

    fn order(&self, attempt: Attempt, order: WorkerOrder) {
        tracing::debug!(environment = %self.environment, job = %self.record.id, ?order, "order");
        self.team.order(Order { job: self.record.id, term: Term { generation: self.generation, attempt }, order });
    }

    /// The worker forgets the job.
    fn release(&self) {
        self.order(self.completion.attempt(), WorkerOrder::Release);
    }

    fn arm(&mut self, deadline: Deadline, ctx: &mut Context<Self>) {
        let after = match deadline {
            Deadline::Tasks => self.limits.cancel_deadline,
            Deadline::Loops => self.limits.loop_drain_deadline,
            Deadline::Service(_) => self.limits.service_stop_deadline,
            Deadline::RunLimit => self.run_limit.unwrap_or(Duration::MAX),
            Deadline::Restart => self.restart_delay(),
        };
        self.arm_after(deadline, after, ctx);
    }

    fn arm_after(&mut self, deadline: Deadline, after: Duration, ctx: &mut Context<Self>) {
        let timer = self.host.later(ctx, after, move |this, ctx| {
            this.deadlines.remove(&deadline);
            if deadline == Deadline::Restart {
                return this.hear(Event::Elapsed(deadline), ctx);
            }
            tracing::warn!(environment = %this.environment, job = %this.record.id, ?deadline, "deadline passed");
            this.hear(Event::Elapsed(deadline), ctx);
        });
        if let Some(earlier) = self.deadlines.insert(deadline, timer) {
            ctx.cancel_future(earlier);
        }
    }

    fn seal_outputs(&mut self, complete: bool) {
        let why = self.completion.verdict().map(ToString::to_string).unwrap_or_default();
        for (_, output) in &self.ports.streams.outputs {
            output.seal(complete, why.clone());
        }
        // A source closes its own, unless the job ended before the source was made.
        for (_, input) in &self.ports.streams.inputs {
            input.close();
        }
        self.free.do_send(FreeSlots);
    }

    /// The outcome is known. The job ends for its clients once the last counters have been read, for the worker
    /// forgets them when it is told to release the job.
    fn end(&mut self, outcome: &Outcome, ctx: &mut Context<Self>) {
        self.record.ended_at = Some(self.host.wall().max(self.record.began()));
        let (environment, job, name) = (&self.environment, self.record.id, &self.record.name);
        if outcome.is_failed() {
            tracing::warn!(%environment, %job, name, %outcome, "job ended");
        } else {
            tracing::info!(%environment, %job, name, %outcome, "job ended");
        }
        for warning in self.completion.warnings() {
            tracing::warn!(%environment, %job, name, %warning, "job ended with a warning");
        }
        let progress = self.team.progress(job);
        ctx.spawn(progress.into_actor(self).map(|progress, this, _| this.finish(&progress)));
    }

    /// The JobManager hears of the end before any client does, so that whatever a client asks next finds the record; and
    /// clients not before it is where it is to be kept.
    fn finish(&mut self, progress: &Progress) {
        self.release();
        self.is_over = true;
        self.ended_to.do_send(JobEnded { job: Arc::new(self.ended_job(progress)) });
    }

    fn ended_job(&self, progress: &Progress) -> EndedJob {
        EndedJob { plain: self.plain_job(progress), outputs: Some(self.ports.streams.outputs.clone()) }
    }

    fn plain_job(&self, progress: &Progress) -> PlainJob {
        let finished = self.ports.streams.inputs.iter().filter(|(_, input)| input.is_finished());
        PlainJob {
            status: self.record.status(&self.completion, progress),
            dead_letters: self.record.dead.letters(),
            graph: Arc::clone(&self.record.graph),
            inputs_finished: finished.map(|(name, _)| name.clone()).collect(),
        }
    }

    fn answer_all(&mut self, job: &EndedJob) {
        for waiter in self.waiters.drain(..) {
            waiter.answer(job.answer(&JobRequest::WaitJob, &self.record.holds));
        }
        for (_, watcher) in self.watchers.drain(..) {
            watcher.answer(Ok(Reply::Status(Box::new(job.plain.status.clone()))));
        }
    }

    /// Answers those watchers that have not seen the present version, all with one snapshot.
    fn notify_watchers(&mut self, ctx: &mut Context<Self>) {
        let version = self.completion.version();
        let due: Vec<JobReply> =
            self.watchers.extract_if(.., |(seen, _)| *seen < version).map(|(_, reply)| reply).collect();
        if !due.is_empty() {
            self.read(Read::Status, due, ctx);
        }
    }

    fn stop_once_dismissed(&self, ctx: &mut Context<Self>) {
        if self.ended.is_some() && self.reads == 0 {
            ctx.stop();
        }
    }

    /// Takes note of what the completion rules do not keep.
    fn note(&mut self, task: TaskId, event: &mut TaskEvent) {
        match event {
            TaskEvent::Started => {
                let now = self.host.wall().max(self.record.submitted_at);
                self.record.started_at.get_or_insert(now);
            }
            TaskEvent::DeadLettered { count, newest } => self.record.dead.add(*count, std::mem::take(newest)),
            TaskEvent::Finished(report) | TaskEvent::Cancelled(report) | TaskEvent::Failed { report, .. } => {
                if let Some(counters) = report.counters.take() {
                    self.record.counted.insert(task, *counters);
                }
            }
            _ => {}
        }
    }
}

impl Actor for JobSupervisor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.begun = self.host.now();
        self.hear(Event::Begin, ctx);
    }
}

impl Drop for JobSupervisor {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        // Only a panic in here leads past the job's end, and a job whose supervisor is gone must not stay live for
        // ever.
        let mut job = self.ended_job(&Progress::default());
        let cause = FailureCause::Internal("the job's supervisor broke off".to_owned());
        job.plain.break_off(Outcome::Failed(cause), self.host.wall());
        self.release();
        let job = Arc::new(job);
        self.ended_to.do_send(JobEnded { job: Arc::clone(&job) });
        self.answer_all(&job);
    }
}

impl Handler<WorkerEvent> for JobSupervisor {
    type Result = ();

    fn handle(&mut self, event: WorkerEvent, ctx: &mut Self::Context) {
        let Term { generation, attempt } = event.term;
        if generation != self.generation {
            return;
        }
        let is_severed = matches!(event.kind, WorkerEventKind::Severed { .. });
        if is_severed && attempt == self.completion.attempt() && self.completion.between() == Some(Between::Deployment)
        {
            return self.early.push(event);
        }
        let event = match event.kind {
            WorkerEventKind::Task { task, mut event } => {
                if attempt == self.completion.attempt() {
                    self.note(task, &mut event);
                }
                tracing::trace!(environment = %self.environment, job = %self.record.id, %task, ?event, "task");
                Event::Task { attempt, task, event }
            }
            WorkerEventKind::Service { service, incarnation, event } => {
                let name = self.record.graph.services.get(service.index()).map_or("", String::as_str);
                tracing::debug!(
                    environment = %self.environment, job = %self.record.id, service = name, ?incarnation, ?event, "service"
                );
                Event::Service { attempt, service, incarnation, event }
            }
            WorkerEventKind::Severed { here, peer, message } => {
                let name = |number: u32| self.team.members().get(number as usize).map_or("", |member| &member.name);
                // Home is not what was lost, even where the other worker noticed it.
                let (lost, other) = if peer == Layout::HOME { (here, peer) } else { (peer, here) };
                let cause = format!("its connection to {} broke: {message}", quoted_or_home(name(other)));
                let cause = FailureCause::WorkerLost { worker: name(lost).to_owned(), cause };
                if attempt == self.completion.attempt() {
                    let ids = [here, peer].map(|number| self.team.members().get(number as usize)?.id);
                    self.avoid.insert(ids);
                }
                let tasks = [self.team.tasks_of(here), self.team.tasks_of(peer)].concat();
                // Services hear of calls from home alone.
                let services = if here.min(peer) == Layout::HOME { self.team.services_of(lost) } else { Vec::new() };
                Event::Lost { attempt, tasks, services, gone: false, cause }
            }
        };
        self.hear(event, ctx);
    }
}

/// The worker of the job's own process has no name.
fn quoted_or_home(name: &str) -> String {
    if name.is_empty() { "the JobManager's process".to_owned() } else { format!("worker `{name}`") }
}

impl Handler<WorkerGone> for JobSupervisor {
    type Result = ();

    fn handle(&mut self, gone: WorkerGone, ctx: &mut Self::Context) {
        self.lost.insert(gone.worker);
        self.lose(gone, ctx);
    }
}

impl Handler<AskJob> for JobSupervisor {
    type Result = ();

    fn handle(&mut self, AskJob { request, reply }: AskJob, ctx: &mut Self::Context) {
        match &self.ended {
            // Asked just before the JobManager heard of the end: the job was live then.
            Some(_) if matches!(request, JobRequest::DeleteJob { .. }) => {
                let (operation, state) = ("delete".to_owned(), JobState::StoppingServices);
                reply.answer(Err(Refusal::Conflict { operation, state }));
            }
            Some(ended) => reply.answer(ended.answer(&request, &self.record.holds)),
            None => self.ask(request, reply, ctx),
        }
    }
}

impl Handler<CancelJob> for JobSupervisor {
    type Result = ();

    fn handle(&mut self, CancelJob(reason): CancelJob, ctx: &mut Self::Context) {
        self.hear(Event::Cancel(reason), ctx);
    }
}

impl Handler<CheckLease> for JobSupervisor {
    type Result = ();

    fn handle(&mut self, _: CheckLease, ctx: &mut Self::Context) {
        self.check_lease(ctx);
    }
}

impl Handler<TakeSnapshot> for JobSupervisor {
    type Result = ResponseActFuture<Self, JobStatus>;

    fn handle(&mut self, _: TakeSnapshot, _: &mut Self::Context) -> Self::Result {
        Box::pin(self.snapshot().into_actor(self).map(|(status, _), this, _| match &this.ended {
            Some(ended) => ended.plain.status.clone(),
            None => status,
        }))
    }
}

impl Handler<TakeRecord> for JobSupervisor {
    type Result = ResponseActFuture<Self, PlainJob>;

    fn handle(&mut self, _: TakeRecord, _: &mut Self::Context) -> Self::Result {
        let progress = self.team.progress(self.record.id);
        Box::pin(progress.into_actor(self).map(|progress, this, _| this.plain_job(&progress)))
    }
}

impl Handler<Dismiss> for JobSupervisor {
    type Result = ();

    fn handle(&mut self, Dismiss(job): Dismiss, ctx: &mut Self::Context) {
        self.answer_all(&job);
        self.ended = Some(job);
        self.stop_once_dismissed(ctx);
    }
}
