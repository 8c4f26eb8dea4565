//! Turns a submitted job into placed, started actors.

mod attempts;
mod waiting;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    sync::Arc,
};

use self::attempts::{Kept, cause_of};
use actix::{
    Actor, ActorContext, ActorFutureExt, Addr, AsyncContext, Context, Handler, Message, Recipient, WeakAddr, WrapFuture,
};
use futures::future::join_all;

use crate::{
    flow::{JobPayload, job::Unplanned, splits::Splits},
    host::{Fence, Host},
    job::{Attempt, BuildRefusal, Generation, Graph, JobId, JobOptions, Limits, NotSendable, TaskId, TaskNode, Term},
    link::{
        AttemptKey, Connect, Departure, Holds, JobPorts, Place, Prepare, Prepared, Refusal, Unconnected, Unprepared,
        WorkerEvents, WorkerId, WorkerLink,
    },
    manager::{
        archive::PlainJob,
        messages::{
            AttemptUndeployed, CheckLease, DeployTasks, DiscardJob, FreeSlots, JobEnded, JobRefused, JobWaits,
            StartJob, WorkerGone,
        },
        placement::{Seat, Slots, TaskDescription},
        record::{DeadLetterBox, JobRecord},
        supervisor::{JobSupervisor, SupervisorSetup},
        team::{Deployment, Member, Places, Team},
    },
    protocol::{Layout, Order, WorkerOrder},
};

/// A job lives and dies with one JobManager.
const GENERATION: Generation = Generation(1);

/// One for each job: has the flow built, brings the JobSupervisor into being, and deploys each attempt.
pub(crate) struct Dispatcher {
    job: JobId,
    environment: Arc<str>,
    options: JobOptions,
    limits: Arc<Limits>,
    /// Taken by the first `Prepare`.
    payload: Option<JobPayload>,
    attempt: Attempt,
    /// What later attempts are made of, if there may be any.
    kept: Option<Kept>,
    worker: Arc<dyn WorkerLink>,
    has_workers: bool,
    /// The JobManager, for what it is told of the job.
    manager: ToManager,
    /// Shared by the dispatchers of one JobManager, all on the control thread.
    slots: Rc<RefCell<Slots>>,
    archived: bool,
    host: Host,
    stage: Stage,
    name: String,
    /// Once the job runs.
    team: Option<Rc<Team>>,
    deployment: Rc<Deployment>,
    supervisor: Option<WeakAddr<JobSupervisor>>,
    /// Where the tasks of the attempt were placed.
    seats: Vec<Seat>,
    /// The same of the services; none for those of this process.
    service_seats: Vec<Option<WorkerId>>,
}

enum Stage {
    Preparing,
    /// The supervisor is complete, but runs only once the JobManager still wants the job.
    Prepared(Box<Unstarted>),
    Deployed,
}

struct Unstarted {
    context: Context<JobSupervisor>,
    supervisor: JobSupervisor,
    team: Rc<Team>,
}

/// What is needed between the steps of preparing a job.
struct Making {
    /// Of the JobSupervisor, which comes with the first attempt.
    context: Option<Context<JobSupervisor>>,
    events: WorkerEvents,
    parallelism: usize,
    /// What the sources read, once this process has built the flow.
    splits: Option<Arc<Splits>>,
    /// This process has everything.
    is_alone: bool,
    /// Workers of other processes.
    others: Vec<Member>,
    /// The job once more for each of them.
    copies: Vec<JobPayload>,
}

/// The JobManager, as its Dispatchers and JobSupervisors know it.
pub(super) struct ToManager {
    pub(super) waits: Recipient<JobWaits>,
    pub(super) prepared: Recipient<JobPrepared>,
    pub(super) refused: Recipient<JobRefused>,
    pub(super) ended: Recipient<JobEnded>,
}

/// What a [`Dispatcher`] is made of.
pub(crate) struct Dispatch {
    pub(crate) job: JobId,
    pub(crate) environment: Arc<str>,
    pub(crate) name: String,
    pub(crate) options: JobOptions,
    pub(crate) limits: Arc<Limits>,
    pub(crate) payload: JobPayload,
    pub(crate) worker: Arc<dyn WorkerLink>,
    /// There are to be workers in other processes.
    pub(crate) has_workers: bool,
    pub(super) manager: ToManager,
    pub(crate) slots: Rc<RefCell<Slots>>,
    /// The job is to be kept in an archive.
    pub(crate) archived: bool,
    pub(crate) host: Host,
}

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

impl Dispatcher {
    pub(crate) fn new(dispatch: Dispatch) -> Self {
        let Dispatch {
            job,
            environment,
            name,
            options,
            limits,
            payload,
            worker,
            has_workers,
            manager,
            slots,
            archived,
            host,
        } = dispatch;
        Self {
            job,
            environment,
            options,
            limits,
            payload: Some(payload),
            attempt: Attempt::FIRST,
            kept: None,
            worker,
            has_workers,
            manager,
            slots,
            archived,
            host,
            stage: Stage::Preparing,
            name,
            team: None,
            deployment: Rc::default(),
            supervisor: None,
            seats: Vec::new(),
            service_seats: Vec::new(),
        }
    }

    fn term(&self) -> Term {
        Term { generation: GENERATION, attempt: self.attempt }
    }

    fn prepare_on(&self, place: Place, payload: JobPayload, making: &Making) -> Prepare {
        Prepare {
            job: self.job,
            term: self.term(),
            payload,
            parallelism: making.parallelism,
            error_policy: self.options.error_policy,
            limits: Arc::clone(&self.limits),
            place,
            splits: making.splits.clone(),
            events: Arc::clone(&making.events),
            fence: Fence::default(),
        }
    }

    /// Has the attempt prepared by this process and by the workers that get a part of it, `avoid` not among them if there are
    /// others enough.
    fn send(&mut self, payload: JobPayload, avoid: &[WorkerId], ctx: &mut Context<Self>) {
        let tasks = self.kept.as_ref().and_then(|kept| kept.built.as_ref()).map_or(0, |(graph, _)| graph.tasks.len());
        let others = self.slots.borrow().team_without(avoid, tasks);
        let waits = others.is_empty() && self.has_workers;
        if others.is_empty() && !waits {
            return self.build(payload, others, Vec::new(), ctx);
        }
        // To encode a job is code of the user's, which must not run on the control thread. Whether it can be sent decides whether it
        // waits for a worker.
        let count = others.len().max(1);
        let copied = self.host.blocking(move || {
            let copies: Result<Vec<_>, _> = (0..count).map(|_| payload.0.again()).collect();
            (payload, copies)
        });
        ctx.spawn(copied.into_actor(self).map(move |copied, this, ctx| match copied {
            Ok((payload, Ok(_))) if waits => this.wait(payload, ctx),
            Ok((payload, Ok(copies))) => this.build(payload, others, copies, ctx),
            // It cannot be sent to another process.
            Ok((payload, Err(NotSendable::Closure { .. }))) => this.build(payload, Vec::new(), Vec::new(), ctx),
            Ok((_, Err(refusal))) => this.fail(Refusal::NotSendable(refusal), None, ctx),
            Err(error) => this.fail(Refusal::Internal(error.to_string()), None, ctx),
        }));
    }

    /// Has the flow built in this process. `copies` are the job once more for each of `others`.
    fn build(&mut self, payload: JobPayload, others: Vec<Member>, copies: Vec<JobPayload>, ctx: &mut Context<Self>) {
        let is_alone = others.is_empty();
        let (payload, making) = match &self.kept {
            Some(Kept { events, parallelism, built: Some((_, splits)), .. }) => {
                let (events, parallelism, splits) = (Arc::clone(events), *parallelism, Some(Arc::clone(splits)));
                (payload, Making { context: None, events, parallelism, splits, is_alone, others, copies })
            }
            _ => {
                // The supervisor's address has to exist before anything can be reported to it, and the supervisor itself
                // cannot exist before the flow is built: so its context is made first.
                let context = Context::<JobSupervisor>::new();
                let supervisor = context.address();
                let events: WorkerEvents = Arc::new(move |event| supervisor.do_send(event));
                let parallelism = self.options.parallelism.unwrap_or_else(|| self.slots.borrow().parallelism(&others));
                let payload = self.keep_job(payload, &events, parallelism);
                let context = Some(context);
                (payload, Making { context, events, parallelism, splits: None, is_alone, others, copies })
            }
        };
        let place = if making.is_alone { Place::Alone } else { Place::Home };
        let answer = self.worker.prepare(self.prepare_on(place, payload, &making));
        ctx.spawn(answer.into_actor(self).map(move |answer, this, ctx| this.prepared(answer, making, ctx)));
    }

    /// The flow is built in this process.
    fn prepared(&mut self, answer: Result<Prepared, Unprepared>, mut making: Making, ctx: &mut Context<Self>) {
        let prepared = match answer {
            Ok(prepared) => prepared,
            Err(unprepared) => return self.fail(refusal_of(unprepared), None, ctx),
        };
        making.splits = Some(Arc::clone(&prepared.splits));
        if let Err(refusal) = self.keep(&prepared) {
            let team = Team::new(vec![self.home()], Places::default());
            return self.fail(refusal, Some(&team), ctx);
        }
        let describe = |task: &TaskNode| TaskDescription::new(task.name.clone(), task.instance, task.is_source);
        let tasks: Vec<TaskDescription> = prepared.graph.tasks.iter().map(describe).collect();
        self.seats = self.slots.borrow_mut().take(&tasks, &making.others, &prepared.colocation);
        self.service_seats = self.place_services(&prepared.graph, &making.others);
        let used = self.seats.iter().filter_map(|seat| seat.worker).chain(self.service_seats.iter().copied().flatten());
        let used: BTreeSet<WorkerId> = used.collect();
        let mut copies = std::mem::take(&mut making.copies);
        making.others.retain(|member| member.id.is_some_and(|id| used.contains(&id)));
        copies.truncate(making.others.len());
        let members: Vec<Member> = std::iter::once(self.home()).chain(making.others.iter().cloned()).collect();
        let numbers: BTreeMap<Option<WorkerId>, u32> = members.iter().map(|member| member.id).zip(0..).collect();
        let number = |worker: &Option<WorkerId>| numbers.get(worker).copied().unwrap_or(Layout::HOME);
        let places = Places {
            tasks: self.seats.iter().map(|seat| number(&seat.worker)).collect(),
            services: self.service_seats.iter().map(number).collect(),
        };
        let team = Team::new(members, places);
        if making.is_alone {
            return self.complete(prepared, making, team, ctx);
        }
        let answers = making
            .others
            .iter()
            .zip(copies)
            .map(|(member, copy)| member.link.prepare(self.prepare_on(Place::Away, copy, &making)));
        let answers = join_all(answers);
        ctx.spawn(answers.into_actor(self).map(move |answers, this, ctx| {
            this.compare(answers, prepared, making, team, ctx);
        }));
    }

    /// The instances of a pipeline service are with its tasks.
    fn place_services(&self, graph: &Graph, others: &[Member]) -> Vec<Option<WorkerId>> {
        let mut of_tasks = BTreeMap::new();
        for (task, seat) in graph.tasks.iter().zip(&self.seats) {
            if let Some(service) = task.service {
                of_tasks.insert(service.index(), seat.worker);
            }
        }
        self.slots.borrow_mut().take_services(&graph.services, others, |service| of_tasks.get(&service).copied())
    }

    /// The worker of this process.
    fn home(&self) -> Member {
        Member {
            id: None,
            name: String::new(),
            address: self.worker.address(),
            link: Arc::clone(&self.worker),
            stay: None,
        }
    }

    /// The flow is built everywhere, or not.
    fn compare(
        &mut self,
        answers: Vec<Result<Prepared, Unprepared>>,
        prepared: Prepared,
        making: Making,
        team: Rc<Team>,
        ctx: &mut Context<Self>,
    ) {
        for (answer, member) in answers.into_iter().zip(&making.others) {
            let refusal = match answer {
                Ok(theirs) => match prepared.graph.difference(&theirs.graph) {
                    None => continue,
                    Some(difference) => {
                        let worker = member.name.clone();
                        Refusal::Build(BuildRefusal::WorkerDiffers { worker, difference })
                    }
                },
                Err(Unprepared::Gone) => worker_lost(member),
                Err(unprepared) => refusal_of(unprepared),
            };
            return self.fail(refusal, Some(&team), ctx);
        }
        let mut key = AttemptKey([0; 32]);
        if let Err(error) = self.host.fill(&mut key.0) {
            let refusal = Refusal::Internal(format!("there are no random bytes: {error}"));
            return self.fail(refusal, Some(&team), ctx);
        }
        let peers: Vec<String> = team.members().iter().map(|member| member.address.clone()).collect();
        let connected = (0..).zip(team.members()).map(|(here, member)| {
            member.link.connect(Connect {
                job: self.job,
                term: self.term(),
                layout: team.layout(here),
                peers: peers.clone(),
                key: key.clone(),
            })
        });
        let connected = join_all(connected);
        ctx.spawn(connected.into_actor(self).map(move |connected, this, ctx| {
            let failed = (0..).zip(connected).find_map(|(number, answer): (usize, _)| Some((number, answer.err()?)));
            let Some((number, unconnected)) = failed else {
                return this.complete(prepared, making, team, ctx);
            };
            let name = |number: usize| team.members().get(number).map_or("", |member| &member.name).to_owned();
            let refusal = match unconnected {
                Unconnected::Gone => team.members().get(number).map_or(Refusal::EnvironmentClosed, worker_lost),
                Unconnected::Internal(message) => Refusal::Internal(message),
                Unconnected::Peer { peer, message } => {
                    Refusal::Build(BuildRefusal::WorkersApart { a: name(number), b: name(peer as usize), message })
                }
            };
            this.fail(refusal, Some(&team), ctx);
        }));
    }

    /// The attempt, or the whole job if it is the first one, will not be; `team` has prepared it.
    fn fail(&mut self, refusal: Refusal, team: Option<&Team>, ctx: &mut Context<Self>) {
        self.free_slots();
        let is_first = self.attempt == Attempt::FIRST;
        let order = if is_first { WorkerOrder::Release } else { WorkerOrder::EndAttempt };
        if let Some(team) = team {
            team.order(Order { job: self.job, term: self.term(), order });
        }
        if is_first {
            return self.refuse(refusal, ctx);
        }
        if let Some(supervisor) = self.supervisor.as_ref().and_then(WeakAddr::upgrade) {
            supervisor.do_send(AttemptUndeployed { attempt: self.attempt, cause: cause_of(refusal) });
        }
    }

    /// Everything is ready to host the job.
    fn complete(&mut self, prepared: Prepared, making: Making, team: Rc<Team>, ctx: &mut Context<Self>) {
        let Some(context) = making.context else { return self.deployed(team, ctx) };
        let Some(ports) = prepared.ports else { return self.refuse(Refusal::EnvironmentClosed, ctx) };
        let address = context.address();
        let holds = match self.options.lease {
            Some(_) => {
                let supervisor = address.downgrade();
                Holds::telling(&self.host, move || {
                    if let Some(supervisor) = supervisor.upgrade() {
                        supervisor.do_send(CheckLease);
                    }
                })
            }
            None => Holds::new(&self.host),
        };
        let supervisor = JobSupervisor::new(SupervisorSetup {
            environment: Arc::clone(&self.environment),
            generation: GENERATION,
            limits: Arc::clone(&self.limits),
            run_limit: self.options.run_limit,
            restart: self.options.restart,
            record: JobRecord {
                id: self.job,
                name: self.name.clone(),
                autostop: self.options.autostop,
                workers: team.workers(),
                service_workers: team.service_workers(),
                counted: BTreeMap::new(),
                graph: prepared.graph,
                submitted_at: self.host.wall(),
                started_at: None,
                ended_at: None,
                dead: DeadLetterBox::new(self.limits.dead_letters_max),
                lease: self.options.lease,
                holds: holds.clone(),
            },
            ports: Arc::clone(&ports),
            team: Rc::clone(&team),
            host: self.host.clone(),
            ended: self.manager.ended.clone(),
            deployment: Rc::clone(&self.deployment),
            deploy: ctx.address().recipient(),
            deploy_attempt: ctx.address().recipient(),
            free_attempt: ctx.address().recipient(),
            free: ctx.address().recipient(),
        });
        let record = self.archived.then(|| Box::new(supervisor.first_record()));
        self.stage = Stage::Prepared(Box::new(Unstarted { context, supervisor, team }));
        self.manager.prepared.do_send(JobPrepared {
            job: self.job,
            record,
            name: self.name.clone(),
            ports,
            holds,
            supervisor: address,
            dispatcher: ctx.address(),
        });
    }

    fn refuse(&mut self, refusal: Refusal, ctx: &mut Context<Self>) {
        self.stage = Stage::Deployed;
        self.manager.refused.do_send(JobRefused { job: self.job, refusal });
        ctx.stop();
    }

    /// No task is live any more.
    fn free_tasks(&mut self) {
        self.slots.borrow_mut().free(&self.seats);
        self.seats.clear();
    }

    fn free_slots(&mut self) {
        self.free_tasks();
        self.slots.borrow_mut().free_services(&self.service_seats);
        self.service_seats.clear();
    }
}

fn refusal_of(unprepared: Unprepared) -> Refusal {
    match unprepared {
        Unprepared::Unplanned(Unplanned::Job(refusal)) => Refusal::Job(refusal),
        Unprepared::Unplanned(Unplanned::Flow(refusal)) => Refusal::Build(refusal),
        Unprepared::NotSendable(refusal) => Refusal::NotSendable(refusal),
        Unprepared::Gone => Refusal::EnvironmentClosed,
    }
}

fn worker_lost(member: &Member) -> Refusal {
    if member.id.is_none() {
        return Refusal::EnvironmentClosed;
    }
    Refusal::Build(BuildRefusal::WorkerLost { worker: member.name.clone() })
}

impl Actor for Dispatcher {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        if let Some(payload) = self.payload.take() {
            self.send(payload, &[], ctx);
        }
    }
}

impl Drop for Dispatcher {
    fn drop(&mut self) {
        self.free_slots();
        // The job is a value of the user's.
        if let Some(kept) = self.kept.take() {
            self.host.blocking(move || drop(kept));
        }
        if matches!(self.stage, Stage::Preparing) {
            // Only a panic in here leads past an answer, and whoever submitted must not wait for ever.
            let refusal = Refusal::Internal("the dispatcher broke off".to_owned());
            self.manager.refused.do_send(JobRefused { job: self.job, refusal });
        }
    }
}

impl Handler<StartJob> for Dispatcher {
    type Result = ();

    fn handle(&mut self, _: StartJob, _: &mut Self::Context) {
        if let Stage::Prepared(unstarted) = std::mem::replace(&mut self.stage, Stage::Deployed) {
            let Unstarted { context, supervisor, team } = *unstarted;
            self.team = Some(Rc::clone(&team));
            // From here on the supervisor holds this actor's address; with it, this actor ends.
            let supervisor = context.run(supervisor);
            self.supervisor = Some(supervisor.downgrade());
            // The JobManager tells those of a loss who run when it happens.
            let slots = self.slots.borrow();
            for member in team.members() {
                if let Some(worker) = member.id.filter(|id| !slots.has(*id)) {
                    let why = "it went while the job was being prepared".to_owned();
                    let departure = Departure::Unreachable;
                    supervisor.do_send(WorkerGone { worker, name: member.name.clone(), why, departure });
                }
            }
        }
    }
}

impl Handler<DiscardJob> for Dispatcher {
    type Result = ();

    fn handle(&mut self, _: DiscardJob, ctx: &mut Self::Context) {
        if let Stage::Prepared(unstarted) = std::mem::replace(&mut self.stage, Stage::Deployed) {
            unstarted.supervisor.discard();
            unstarted.team.order(Order { job: self.job, term: self.term(), order: WorkerOrder::Release });
        }
        ctx.stop();
    }
}

impl Handler<DeployTasks> for Dispatcher {
    type Result = ();

    fn handle(&mut self, DeployTasks { attempt }: DeployTasks, _: &mut Self::Context) {
        let Some(team) = &self.team else { return };
        let (environment, job, seats) = (&self.environment, self.job, &self.seats);
        tracing::debug!(%environment, %job, tasks = seats.len(), ?seats, "tasks placed");
        for number in (0..).take(team.members().len()) {
            let here = (0..).map(TaskId).zip(seats).filter(|(task, _)| team.place_of(*task) == number);
            let tasks = here.map(|(task, seat)| (task, seat.slot)).collect();
            let term = Term { generation: GENERATION, attempt };
            team.tell(number, Order { job, term, order: WorkerOrder::StartTasks { tasks } });
        }
    }
}

impl Handler<FreeSlots> for Dispatcher {
    type Result = ();

    fn handle(&mut self, _: FreeSlots, _: &mut Self::Context) {
        self.free_tasks();
    }
}
