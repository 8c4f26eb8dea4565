//! The worker: hosts the task and service actors of its process.

mod attempts;
mod audience;
mod halt;
mod link;
mod relay;
mod task;
mod team;
#[cfg(test)]
mod tests;
mod thread;

use std::{collections::BTreeMap, sync::Arc};

use actix::{Actor, ActorFutureExt, Addr, Context, Handler, Message, ResponseActFuture, WrapFuture};

use parking_lot::Mutex;

pub(crate) use self::link::Embedded;
pub(crate) use self::thread::Threads;
use self::{
    audience::Audiences,
    halt::HaltWorker,
    task::{Berth, Command, TaskActor, TaskSetup, Unstarted},
    team::{Attendance, HomeEnds, Laid, Unlaid},
    thread::{Occupied, Slot, Tenant, ThreadKey},
};
use crate::{
    dataplane::{context::TaskContext, counters::SharedCounters, wiring::Wiring},
    flow::{
        colocation::Colocation,
        graph::{BuildOptions, PARALLELISM_MAX, TaskPlan},
        job::{Unplanned, plan},
        splits::Splits,
    },
    host::{Fence, Host},
    job::{BuildRefusal, Graph, Incarnation, JobId, Limits, ServiceId, TaskId, Term},
    link::{Place, Prepare, Prepared, Unprepared, WorkerEvents},
    peer::Meeting,
    protocol::{Order, Progress, ServiceEvent, TaskCommand, Wait, WorkerEvent, WorkerEventKind, WorkerOrder},
    service::{ErasedService, EventSink, Launch, Origin, ServiceContext},
};

impl Message for Order {
    type Result = ();
}

/// What a worker is made of.
pub(crate) struct WorkerConfig {
    pub task_threads: usize,
    pub service_threads: usize,
    /// On its pool runs code that may block: `build`, file access.
    pub host: Host,
    /// Receives the threads to join once the worker has closed.
    pub threads: Threads,
    /// How it meets other workers, if it does.
    pub peers: Option<Arc<dyn Meeting>>,
}

/// Hosts actors of all jobs. Lives on the control thread, where it never waits for user code.
pub(crate) struct Worker {
    config: WorkerConfig,
    task_slots: Vec<Slot>,
    service_slots: Vec<Slot>,
    next_service_slot: usize,
    jobs: BTreeMap<JobId, Hosted>,
    /// How often all jobs were dropped at once: what was begun to be built before that is not hosted any more.
    halts: u64,
}

/// Everything the worker hosts of one job.
struct Hosted {
    term: Term,
    limits: Arc<Limits>,
    events: WorkerEvents,
    /// The same for what tasks and instances report: their ends are told once all that they sent has arrived.
    settled_events: WorkerEvents,
    /// Passed by each step of the job's tasks.
    fence: Fence,
    /// Its attempt has ended, and another one is to follow.
    is_between: bool,
    /// A part of the job is to be here, but its channels are not laid yet.
    unlaid: Option<Unlaid>,
    /// It is one of several workers.
    attendance: Option<Attendance>,
    /// What the tasks are to be made of, until it is known which of them are to be started here, or that none is.
    unstarted: Option<(Vec<TaskPlan>, Arc<Wiring>)>,
    /// Commands that overtook the order to start the tasks, which comes by way of the Dispatcher.
    early: Vec<TaskCommand>,
    /// All of the job's, those that are elsewhere too.
    tasks: Vec<HostedTask>,
    audiences: Audiences,
    /// Those that have something here: the instances, or the gate.
    services: BTreeMap<ServiceId, HostedService>,
    /// Not known yet where the channels are to be laid and the ports are elsewhere.
    home: Option<HomeEnds>,
    graph: Arc<Graph>,
}

struct HostedTask {
    /// Absent until the task is started and after it was abandoned.
    address: Option<Addr<TaskActor>>,
    counters: Arc<SharedCounters>,
    slot: usize,
    /// Present once it was started here.
    thread: Option<ThreadKey>,
    /// Where the task waits for its first turn.
    berth: Option<Arc<Berth>>,
}

impl HostedTask {
    /// Has the task run on the thread of its slot.
    fn start(&mut self, setup: TaskSetup, early: Vec<TaskCommand>, slots: &mut [Slot]) {
        let occupied = slots[self.slot].occupy((setup.job, setup.task.0), &setup.context.host);
        let seat = occupied.handle().clone();
        self.thread = Some(occupied.same_thread());
        let berth = Berth::new(Unstarted { setup, early, occupied });
        self.berth = Some(Arc::clone(&berth));
        self.address = Some(seat.start(move |_| TaskActor::new(berth)));
    }

    /// The task, if it waits for its first turn.
    fn take_unstarted(&mut self) -> Option<Unstarted> {
        self.berth.take()?.take()
    }

    fn is_unstarted(&self) -> bool {
        self.berth.as_ref().is_some_and(|berth| berth.is_full())
    }

    /// Whose code keeps the task from its thread: from its first turn, or from all others if the thread was retired.
    fn held_by(&self, at_work: &[&ThreadKey]) -> Option<Tenant> {
        let thread = self.thread.as_ref()?;
        if self.is_unstarted() {
            return at_work.iter().find(|other| other.is_that_of(thread)).map(|other| other.tenant());
        }
        thread.held_by()
    }

    fn take_unstarted_if(&mut self, wanted: bool) -> Option<Unstarted> {
        if wanted { self.take_unstarted() } else { None }
    }

    fn command(&self, command: TaskCommand) {
        if self.berth.as_ref().is_some_and(|berth| berth.tell(command)) {
            return;
        }
        if let Some(address) = &self.address {
            // A task gets a handful of commands in its life, so its mailbox needs no bound.
            address.do_send(Command(command));
        }
    }
}

struct HostedService {
    recipe: Box<dyn ErasedService>,
    slot: usize,
    thread: Option<ThreadKey>,
    /// The instance that was started last, as long as it waits for its first turn.
    waiting: Arc<Mutex<Option<Launch>>>,
    /// Its claim on the thread, which the instance holds too.
    claim: Option<Arc<Mutex<Occupied>>>,
}

impl HostedService {
    /// Has `launch` run on the thread that was claimed.
    fn launch(&mut self, launch: Launch) {
        let Some(seat) = self.claim.as_ref().map(|claim| claim.lock().handle().clone()) else { return };
        self.waiting = Arc::new(Mutex::new(Some(launch)));
        let waiting = Arc::clone(&self.waiting);
        let is_spawned = seat.run(move || {
            let launch = waiting.lock().take();
            launch.into_iter().for_each(|launch| launch());
        });
        if !is_spawned {
            // The seat is gone. Dropped, it reports that.
            drop(self.take_waiting());
        }
    }

    fn take_waiting(&self) -> Option<Launch> {
        self.waiting.lock().take()
    }
}

/// A flow that was built, and what it comes to so far.
struct Built {
    limits: Arc<Limits>,
    graph: Arc<Graph>,
    colocation: Colocation,
    splits: Arc<Splits>,
    read_once: Option<String>,
    home: Option<HomeEnds>,
    laid: Option<Laid>,
    unlaid: Option<Unlaid>,
}

/// See [`WorkerLink::prepare`](crate::link::WorkerLink::prepare).
#[derive(Message)]
#[rtype(result = "Result<Prepared, Unprepared>")]
struct PrepareJob(Prepare);

/// What do the counters of this job read?
#[derive(Message)]
#[rtype(result = "Progress")]
struct ReportProgress {
    job: JobId,
}

impl actix::dev::MessageResponse<Worker, ReportProgress> for Progress {
    fn handle(self, _ctx: &mut Context<Worker>, tx: Option<actix::dev::OneshotSender<Self>>) {
        if let Some(tx) = tx {
            // The asker may have gone, and then nobody misses the answer.
            let _ = tx.send(self);
        }
    }
}

/// Stop all threads. All jobs have been released.
#[derive(Message)]
#[rtype(result = "()")]
struct CloseWorker;

/// One task thread for each core this process may use.
pub(crate) fn task_threads_default() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

impl Worker {
    pub fn new(config: WorkerConfig) -> Self {
        let slots = |count: usize| (0..count.max(1)).map(|_| Slot::new()).collect::<Vec<_>>();
        Self {
            task_slots: slots(config.task_threads),
            service_slots: slots(config.service_threads),
            next_service_slot: 0,
            jobs: BTreeMap::new(),
            halts: 0,
            config,
        }
    }

    fn host(&mut self, (job, term): (JobId, Term), built: Built, events: WorkerEvents, fence: Fence) -> Prepared {
        let Built { limits, graph, colocation, splits, read_once, home, laid, unlaid } = built;
        let ports = home.as_ref().map(|home| Arc::clone(&home.ports));
        let hosted = graph.tasks.iter().map(|_| HostedTask {
            address: None,
            counters: Arc::new(SharedCounters::new()),
            slot: 0,
            thread: None,
            berth: None,
        });
        let (unstarted, services) = match laid {
            Some(Laid { tasks, wiring, services, .. }) => (Some((tasks, wiring)), services),
            None => (None, Vec::new()),
        };
        let hosted = Hosted {
            term,
            limits,
            settled_events: Arc::clone(&events),
            events,
            fence,
            is_between: false,
            unlaid,
            attendance: None,
            tasks: hosted.collect(),
            audiences: Audiences::of(&graph),
            unstarted,
            early: Vec::new(),
            services: BTreeMap::new(),
            home,
            graph: Arc::clone(&graph),
        };
        self.jobs.insert(job, hosted);
        self.host_services(job, services);
        Prepared { graph, colocation, splits, ports, read_once }
    }

    /// Drops what holds values of the user's: their `Drop` may take its time or panic, and this is the control thread.
    fn drop_elsewhere<T: Send + 'static>(&self, what: T) {
        self.config.host.blocking(move || drop(what));
    }

    fn start_tasks(&mut self, job: JobId, placed: &[(TaskId, u32)]) {
        let Some(hosted) = self.jobs.get_mut(&job) else { return };
        let Some(ports) = hosted.home.as_ref().map(|home| Arc::clone(&home.ports)) else { return };
        let Some((plans, wiring)) = hosted.unstarted.take() else { return };
        let mut plans: Vec<Option<TaskPlan>> = plans.into_iter().map(Some).collect();
        for &(id, slot) in placed {
            let Some(plan) = plans.get_mut(id.index()).and_then(Option::take) else { continue };
            let task = &mut hosted.tasks[id.index()];
            task.slot = slot as usize % self.task_slots.len();
            let setup = TaskSetup {
                job,
                term: hosted.term,
                task: id,
                context: TaskContext {
                    job,
                    instance: plan.instance,
                    parallelism: plan.parallelism,
                    origin: if plan.service.is_some() { Origin::Service } else { Origin::Task },
                    directory: Arc::clone(&ports.directory),
                    host: self.config.host.clone(),
                },
                plan,
                wiring: Arc::clone(&wiring),
                limits: Arc::clone(&hosted.limits),
                counters: Arc::clone(&task.counters),
                events: Arc::clone(&hosted.settled_events),
                fence: hosted.fence.clone(),
            };
            task.start(setup, Vec::new(), &mut self.task_slots);
        }
        let early = std::mem::take(&mut hosted.early);
        if plans.iter().any(Option::is_some) {
            self.drop_elsewhere(plans);
        }
        for command in early {
            self.command_tasks(job, command);
        }
    }

    fn command_tasks(&mut self, job: JobId, command: TaskCommand) {
        let Some(hosted) = self.jobs.get_mut(&job) else { return };
        if hosted.unstarted.is_some() {
            hosted.early.push(command);
            return;
        }
        if command == TaskCommand::Cancel {
            hosted.attendance.iter().for_each(Attendance::give_up_outputs);
        }
        let cancels = matches!(command, TaskCommand::Cancel | TaskCommand::CancelRequests { .. });
        let mut cancelled = Vec::new();
        let mut tell = |task: &mut HostedTask| match task.take_unstarted_if(cancels) {
            Some(unstarted) => cancelled.push(unstarted),
            None => task.command(command),
        };
        let Hosted { tasks, audiences, .. } = hosted;
        match audiences.hears(command) {
            None => tasks.iter_mut().for_each(tell),
            Some(members) => {
                for member in members {
                    tasks.get_mut(member.index()).into_iter().for_each(&mut tell);
                }
            }
        }
        if !cancelled.is_empty() {
            // Their threads may be held by others, so they are not waited for. Not here, because values of the user's are dropped.
            self.config.host.blocking(move || cancelled.into_iter().for_each(Unstarted::cancel));
        }
    }

    fn start_service(&mut self, job: JobId, service: ServiceId, incarnation: Incarnation) {
        let Some(hosted) = self.jobs.get_mut(&job) else { return };
        let Some(host) = hosted.services.get_mut(&service) else { return };
        let occupied = self.service_slots[host.slot].occupy((job, service.0), &self.config.host);
        host.thread = Some(occupied.same_thread());
        let claim = Arc::new(Mutex::new(occupied));
        host.claim = Some(Arc::clone(&claim));
        let (events, term) = (hosted.settled_events.clone(), hosted.term);
        // The sink lives as long as the instance, and with it the claim on the thread.
        let sink: EventSink = Arc::new(move |incarnation: Incarnation, event: ServiceEvent| {
            let _ = &claim;
            let kind = WorkerEventKind::Service { service, incarnation, event };
            events(WorkerEvent { job, term, kind });
        });
        let Some(home) = &hosted.home else { return };
        let context =
            ServiceContext::new(Arc::clone(&home.ports.directory), host.recipe.name()).behind(hosted.fence.clone());
        if let Some(launch) = host.recipe.start(incarnation, context, sink) {
            host.launch(launch);
        }
    }

    fn abandon_tasks(&mut self, job: JobId, tasks: &[TaskId]) {
        let mut retired = Vec::new();
        let Some(hosted) = self.jobs.get_mut(&job) else { return };
        for task in tasks {
            let Some(task) = hosted.tasks.get_mut(task.index()) else { continue };
            task.address = None;
            let Some(thread) = task.thread.clone() else { continue };
            if self.task_slots[task.slot].retire(&thread) {
                retired.push(thread);
            }
        }
        retired.iter().for_each(|thread| self.clear(thread));
    }

    /// Moves tasks that wait for a first turn on this thread to the one that takes its place.
    fn clear(&mut self, retired: &ThreadKey) {
        for task in self.jobs.values_mut().flat_map(|hosted| &mut hosted.tasks) {
            let Some(thread) = task.thread.as_ref().filter(|thread| thread.is_that_of(retired)) else { continue };
            thread.suspect();
            if let Some(Unstarted { setup, early, occupied }) = task.take_unstarted() {
                task.start(setup, early, &mut self.task_slots);
                // Last, because it may be the last claim on the thread.
                drop(occupied);
            }
        }
    }

    fn abandon_service(&mut self, job: JobId, service: ServiceId, is_final: bool) {
        let Some(hosted) = self.jobs.get_mut(&job) else { return };
        let Some(host) = hosted.services.get_mut(&service) else { return };
        if is_final {
            host.recipe.abandon();
        } else {
            host.recipe.forget_instance();
        }
        let unlaunched = host.take_waiting();
        let (slot, thread) = (host.slot, host.thread.clone());
        if let Some(thread) = thread {
            // One that waited for its turn holds nobody up; somebody did not give the thread back for all that time.
            if unlaunched.is_none() {
                thread.accuse();
            }
            if self.service_slots[slot].retire(&thread) {
                self.clear_of_services(&thread);
            }
        }
        self.drop_elsewhere(unlaunched);
    }

    /// Moves services that wait for a first turn on this thread to the one that takes its place.
    fn clear_of_services(&mut self, retired: &ThreadKey) {
        for (job, hosted) in &mut self.jobs {
            for (service, host) in &mut hosted.services {
                if !host.thread.as_ref().is_some_and(|thread| thread.is_that_of(retired)) {
                    continue;
                }
                let Some(launch) = host.take_waiting() else { continue };
                let occupied = self.service_slots[host.slot].occupy((*job, service.0), &self.config.host);
                host.thread = Some(occupied.same_thread());
                let before = host.claim.as_ref().map(|claim| std::mem::replace(&mut *claim.lock(), occupied));
                host.launch(launch);
                // Last, because it may be the last claim on the thread.
                drop(before);
            }
        }
    }

    /// The threads on which code of a task runs, if one of `tasks` waits for its first turn.
    fn threads_at_work(&self, tasks: &[HostedTask]) -> Vec<&ThreadKey> {
        if !tasks.iter().any(HostedTask::is_unstarted) {
            return Vec::new();
        }
        let threads = self.jobs.values().flat_map(|hosted| &hosted.tasks).filter_map(|task| task.thread.as_ref());
        threads.filter(|thread| thread.is_at_work()).collect()
    }

    fn progress(&self, job: JobId) -> Progress {
        let Some(hosted) = self.jobs.get(&job) else { return Progress::default() };
        let (at_work, now) = (self.threads_at_work(&hosted.tasks), self.config.host.now());
        let here = hosted.tasks.iter().zip(&hosted.graph.tasks).filter(|(task, _)| task.thread.is_some());
        let tasks = here.map(|(task, node)| {
            let (counters, mut wait) = task.counters.read(now);
            if let Some((job, task)) = task.held_by(&at_work) {
                wait = Wait::Thread { job, task: TaskId(task) };
            }
            (node.id, counters, wait)
        });
        // Between two attempts there are gates alone.
        let gates =
            hosted.home.iter().filter(|_| hosted.is_between).flat_map(|home| (0..).map(ServiceId).zip(&home.gates));
        let gates = gates.map(|(service, gate)| gate.counts(service));
        let services = hosted.services.iter().map(|(service, host)| host.recipe.gate().counts(*service)).chain(gates);
        let held = hosted.services.iter().filter_map(|(service, host)| {
            let (job, holder) = host.thread.as_ref()?.held_by()?;
            Some((*service, job, ServiceId(holder)))
        });
        Progress { tasks: tasks.collect(), services: services.collect(), services_held: held.collect() }
    }
}

impl Actor for Worker {
    type Context = Context<Self>;
}

impl Handler<PrepareJob> for Worker {
    type Result = ResponseActFuture<Self, Result<Prepared, Unprepared>>;

    fn handle(&mut self, PrepareJob(prepare): PrepareJob, _ctx: &mut Context<Self>) -> Self::Result {
        let Prepare { job, term, payload, parallelism, error_policy, limits, place, splits, events, fence } = prepare;
        let options = BuildOptions { parallelism, error_policy, limits: Arc::clone(&limits), splits };
        if options.parallelism == 0 {
            let refusal = BuildRefusal::ZeroParallelism { operator: "submit".to_owned() };
            let refusal = Unprepared::Unplanned(refusal.into());
            return Box::pin(std::future::ready(Err(refusal)).into_actor(self));
        }
        if options.parallelism > PARALLELISM_MAX {
            let (operator, asked) = ("submit".to_owned(), options.parallelism);
            let refusal = BuildRefusal::TooParallel { operator, asked, limit: PARALLELISM_MAX };
            let refusal = Unprepared::Unplanned(refusal.into());
            return Box::pin(std::future::ready(Err(refusal)).into_actor(self));
        }
        // `build` is user code that may block: it must not run on the control thread.
        let host = self.config.host.clone();
        let halts = self.halts;
        let kept = match self.kept_ports(job, place, options.splits.is_some()) {
            Ok(kept) => kept,
            Err(gone) => return Box::pin(std::future::ready(Err(gone)).into_actor(self)),
        };
        let is_kept = kept.is_some();
        let planned = self.config.host.blocking(move || {
            let mut plan = plan(&payload, options)?;
            plan.graph.check_names()?;
            let (splits, read_once) = (Arc::clone(&plan.splits), plan.first_not_replayable.take());
            let (graph, colocation) = (Arc::new(std::mem::take(&mut plan.graph)), plan.colocation.clone());
            let unlaid = Self::unlaid((plan, &graph), (job, place), kept, &limits, &host);
            let home = unlaid.home.clone();
            let (laid, unlaid) = if place == Place::Alone { (unlaid.lay_alone(), None) } else { (None, Some(unlaid)) };
            Ok::<_, Unplanned>(Built { limits, splits, read_once, graph, colocation, home, laid, unlaid })
        });
        Box::pin(planned.into_actor(self).map(move |planned, worker, _ctx| {
            let planned = planned.map_err(|error| Unplanned::from(BuildRefusal::Panicked(error.to_string())));
            let built = planned.flatten().map_err(Unprepared::Unplanned)?;
            // Whose job has ended meanwhile nobody waits for.
            let has_ended = is_kept && !worker.jobs.contains_key(&job);
            if worker.halts != halts || has_ended {
                worker.drop_elsewhere(built);
                return Err(Unprepared::Gone);
            }
            Ok(worker.host((job, term), built, events, fence))
        }))
    }
}

impl Handler<Order> for Worker {
    type Result = ();

    fn handle(&mut self, Order { job, term, order }: Order, _ctx: &mut Context<Self>) {
        tracing::trace!(%job, ?term, ?order, "worker order");
        // One of a term that is over changes nothing: what it was about is gone.
        // To end an attempt that was to follow ends what is left of the one before.
        let ends = matches!(order, WorkerOrder::EndAttempt | WorkerOrder::Release);
        let is_meant = |hosted: &&mut Hosted| {
            let was = hosted.term;
            was == term || ends && hosted.is_between && was.generation == term.generation && was < term
        };
        let Some(hosted) = self.jobs.get_mut(&job).filter(is_meant) else { return };
        match order {
            WorkerOrder::StartService { service, incarnation } => self.start_service(job, service, incarnation),
            WorkerOrder::StartTasks { tasks } => self.start_tasks(job, &tasks),
            WorkerOrder::DropTasks => {
                let unstarted = hosted.unstarted.take();
                self.drop_elsewhere(unstarted);
            }
            WorkerOrder::CommandTasks { command } => self.command_tasks(job, command),
            WorkerOrder::CloseGates => {
                hosted.home.iter().flat_map(|home| &home.gates).for_each(|gate| gate.close_to_outside());
            }
            WorkerOrder::StopService { service, incarnation } => {
                let may_stop = hosted.attendance.as_ref().is_none_or(|here| here.may_stop(service, incarnation));
                if let Some(host) = hosted.services.get(&service).filter(|_| may_stop) {
                    host.recipe.stop(incarnation);
                }
            }
            WorkerOrder::RefuseCalls { service } => {
                if let Some(host) = hosted.services.get(&service) {
                    host.recipe.abandon();
                }
            }
            WorkerOrder::AbandonTasks { tasks } => self.abandon_tasks(job, &tasks),
            WorkerOrder::AbandonService { service, is_final } => self.abandon_service(job, service, is_final),
            WorkerOrder::DismissService { service, incarnation } => {
                if let Some(host) = hosted.services.get(&service) {
                    host.recipe.dismiss(incarnation);
                }
            }
            WorkerOrder::EndAttempt => self.end_attempt(job, term.attempt),
            WorkerOrder::Release => {
                if let Some(hosted) = self.jobs.remove(&job) {
                    // Callers still queued in front of a service that will not come back are told so.
                    hosted.home.iter().flat_map(|home| &home.gates).for_each(|gate| gate.release());
                    self.drop_elsewhere(hosted);
                }
            }
        }
    }
}

impl Handler<ReportProgress> for Worker {
    type Result = Progress;

    fn handle(&mut self, ReportProgress { job }: ReportProgress, _ctx: &mut Context<Self>) -> Progress {
        self.progress(job)
    }
}

impl Handler<CloseWorker> for Worker {
    type Result = ();

    fn handle(&mut self, _: CloseWorker, _ctx: &mut Context<Self>) {
        let jobs = std::mem::take(&mut self.jobs);
        self.drop_elsewhere(jobs);
        let slots = self.task_slots.iter_mut().chain(&mut self.service_slots);
        slots.for_each(|slot| slot.close(&self.config.threads));
    }
}
