//! Turns a submitted job into placed, started actors.

use std::{cell::RefCell, rc::Rc, sync::Arc};

use actix::{
    Actor, ActorContext, ActorFutureExt, Addr, AsyncContext, Context, Handler, Message, Recipient, WrapFuture,
};

use crate::{
    flow::{JobPayload, job::Unplanned},
    host::Host,
    job::{Attempt, Generation, JobId, JobOptions, Limits, TaskId, TaskNode, Term},
    link::{Holds, JobPorts, Place, Prepare, Prepared, Refusal, Unprepared, WorkerLink},
    manager::{
        archive::PlainJob,
        messages::{CheckLease, DeployTasks, DiscardJob, FreeSlots, JobEnded, JobRefused, StartJob},
        placement::{Slots, TaskDescription},
        record::{DeadLetterBox, JobRecord},
        supervisor::{JobSupervisor, SupervisorSetup},
    },
    protocol::{Order, WorkerOrder},
};

/// A job lives and dies with one JobManager.
const GENERATION: Generation = Generation(1);

/// One for each job: has the flow built, brings the JobSupervisor into being, and places the tasks of each attempt.
pub(crate) struct Dispatcher {
    job: JobId,
    environment: Arc<str>,
    options: JobOptions,
    limits: Arc<Limits>,
    /// Taken by `Prepare`.
    payload: Option<JobPayload>,
    worker: Arc<dyn WorkerLink>,
    /// The JobManager, for what it is told of the job.
    manager: ToManager,
    /// Shared by the dispatchers of one JobManager, all on the control thread.
    slots: Rc<RefCell<Slots>>,
    archived: bool,
    host: Host,
    stage: Stage,
    name: String,
    tasks: Vec<TaskDescription>,
    placed: Vec<u32>,
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
}

/// The JobManager, as its Dispatchers and JobSupervisors know it.
pub(super) struct ToManager {
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
        let Dispatch { job, environment, name, options, limits, payload, worker, manager, slots, archived, host } =
            dispatch;
        Self {
            job,
            environment,
            options,
            limits,
            payload: Some(payload),
            worker,
            manager,
            slots,
            archived,
            host,
            stage: Stage::Preparing,
            name,
            tasks: Vec::new(),
            placed: Vec::new(),
        }
    }

    fn prepare(&mut self, ctx: &mut Context<Self>) {
        let Some(payload) = self.payload.take() else { return };
        // The supervisor's address has to exist before anything can be reported to it, and the supervisor itself
        // cannot exist before the flow is built: so its context is made first.
        let context = Context::<JobSupervisor>::new();
        let supervisor = context.address();
        let prepare = Prepare {
            job: self.job,
            term: Term { generation: GENERATION, attempt: Attempt(1) },
            payload,
            parallelism: self.options.parallelism.unwrap_or_else(|| self.slots.borrow().parallelism()),
            error_policy: self.options.error_policy,
            place: Place::Alone,
            events: Arc::new(move |event| supervisor.do_send(event)),
        };
        let answer = self.worker.prepare(prepare);
        ctx.spawn(answer.into_actor(self).map(move |answer, this, ctx| this.prepared(answer, context, ctx)));
    }

    fn prepared(
        &mut self,
        answer: Result<Prepared, Unprepared>,
        context: Context<JobSupervisor>,
        ctx: &mut Context<Self>,
    ) {
        let prepared = match answer {
            Ok(prepared) => prepared,
            Err(Unprepared::Unplanned(Unplanned::Job(refusal))) => return self.refuse(Refusal::Job(refusal), ctx),
            Err(Unprepared::Unplanned(Unplanned::Flow(refusal))) => return self.refuse(Refusal::Build(refusal), ctx),
            Err(Unprepared::Gone) => return self.refuse(Refusal::EnvironmentClosed, ctx),
        };
        let Some(ports) = prepared.ports else { return self.refuse(Refusal::EnvironmentClosed, ctx) };
        let graph = &prepared.graph;
        let describe = |task: &TaskNode| TaskDescription::new(task.name.clone(), task.instance, task.is_source);
        self.tasks = graph.tasks.iter().map(describe).collect();
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
            record: JobRecord {
                id: self.job,
                name: self.name.clone(),
                autostop: self.options.autostop,
                graph: prepared.graph,
                submitted_at: self.host.wall(),
                started_at: None,
                ended_at: None,
                dead: DeadLetterBox::new(self.limits.dead_letters_max),
                lease: self.options.lease,
                holds: holds.clone(),
            },
            ports: Arc::clone(&ports),
            worker: Arc::clone(&self.worker),
            host: self.host.clone(),
            ended: self.manager.ended.clone(),
            deploy: ctx.address().recipient(),
            free: ctx.address().recipient(),
        });
        let record = self.archived.then(|| Box::new(supervisor.first_record()));
        self.stage = Stage::Prepared(Box::new(Unstarted { context, supervisor }));
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

    fn order(&self, attempt: Attempt, order: WorkerOrder) {
        self.worker.order(Order { job: self.job, term: Term { generation: GENERATION, attempt }, order });
    }

    fn free_slots(&mut self) {
        self.slots.borrow_mut().free(&self.placed);
        self.placed.clear();
    }
}

impl Actor for Dispatcher {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.prepare(ctx);
    }
}

impl Drop for Dispatcher {
    fn drop(&mut self) {
        self.free_slots();
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
            // From here on the supervisor holds this actor's address; with it, this actor ends.
            unstarted.context.run(unstarted.supervisor);
        }
    }
}

impl Handler<DiscardJob> for Dispatcher {
    type Result = ();

    fn handle(&mut self, _: DiscardJob, ctx: &mut Self::Context) {
        if let Stage::Prepared(unstarted) = std::mem::replace(&mut self.stage, Stage::Deployed) {
            unstarted.supervisor.discard();
            self.order(Attempt(1), WorkerOrder::Release);
        }
        ctx.stop();
    }
}

impl Handler<DeployTasks> for Dispatcher {
    type Result = ();

    fn handle(&mut self, DeployTasks { attempt }: DeployTasks, _: &mut Self::Context) {
        self.free_slots();
        let slots = self.slots.borrow_mut().take(&self.tasks);
        tracing::debug!(environment = %self.environment, job = %self.job, tasks = slots.len(), ?slots, "tasks placed");
        self.placed.clone_from(&slots);
        let tasks = (0..).map(TaskId).zip(slots).collect();
        self.order(attempt, WorkerOrder::StartTasks { tasks });
    }
}

impl Handler<FreeSlots> for Dispatcher {
    type Result = ();

    fn handle(&mut self, _: FreeSlots, _: &mut Self::Context) {
        self.free_slots();
    }
}
