//! The actor that runs one task.

use std::{
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context as TaskCx, Poll},
};

use actix::{Actor, ActorContext, ActorFuture, AsyncContext, Context, Handler, Message};
use parking_lot::Mutex;

use crate::{
    dataplane::{
        chain::{Ending, Recipe, TaskState, catch},
        context::TaskContext,
        counters::SharedCounters,
        task::Task,
        wiring::Wiring,
    },
    flow::graph::TaskPlan,
    host::Fence,
    job::{FailureCause, JobId, Limits, ServiceId, TaskId, Term},
    link::WorkerEvents,
    protocol::{LoopId, TaskCommand, TaskEvent, WorkerEvent, WorkerEventKind},
    worker::thread::Occupied,
};

/// What a task actor is made of; crosses to the actor's thread.
pub(crate) struct TaskSetup {
    pub job: JobId,
    pub term: Term,
    pub task: TaskId,
    pub plan: TaskPlan,
    pub wiring: Arc<Wiring>,
    pub context: TaskContext,
    pub limits: Arc<Limits>,
    pub counters: Arc<SharedCounters>,
    pub events: WorkerEvents,
    /// Passed by each step.
    pub fence: Fence,
}

/// A task that waits for its first turn on the thread that it was placed on. Its actor takes it from here; until then the worker
/// can, which so moves it to another thread, or gives it up without the thread's help.
pub(crate) struct Berth(Mutex<Option<Unstarted>>);

/// What is in a [`Berth`].
pub(crate) struct Unstarted {
    pub setup: TaskSetup,
    /// Commands that it has been told meanwhile.
    pub early: Vec<TaskCommand>,
    /// Keeps the thread counted as busy.
    pub occupied: Occupied,
}

impl Berth {
    pub fn new(unstarted: Unstarted) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Some(unstarted))))
    }

    /// The first caller has the task.
    pub fn take(&self) -> Option<Unstarted> {
        self.0.lock().take()
    }

    pub fn is_full(&self) -> bool {
        self.0.lock().is_some()
    }

    /// Has the task obey `command` first of all. False if it has been taken, and hears commands through its mailbox.
    pub fn tell(&self, command: TaskCommand) -> bool {
        let mut berth = self.0.lock();
        let waits = berth.as_mut().map(|unstarted| unstarted.early.push(command));
        waits.is_some()
    }
}

impl Unstarted {
    /// Ends the task as `Cancelled` would have ended it, on a thread where its values may take their time to drop.
    pub fn cancel(self) {
        drop(Running::new(self.setup, self.occupied).cancelled());
    }
}

/// Runs a task in steps of about a millisecond, between which it looks at its commands.
pub(crate) struct TaskActor {
    berth: Arc<Berth>,
    /// Absent until the actor has started, and if the task was taken elsewhere before.
    running: Option<Running>,
}

/// A task that has been taken from its berth.
struct Running {
    job: JobId,
    term: Term,
    task: TaskId,
    service: Option<ServiceId>,
    state: Rc<TaskState>,
    events: WorkerEvents,
    fence: Fence,
    stage: Stage,
    reported: bool,
    /// Commands that came before the task was made.
    early: Vec<TaskCommand>,
    /// Entered while user code runs, so that its own events say where they come from.
    span: tracing::Span,
    /// Keeps the thread counted as busy for as long as the actor lives.
    occupied: Occupied,
}

enum Stage {
    /// The recipe runs user code, so it runs where a panic is caught: in the first step.
    Unmade(Recipe<Box<dyn Task>>),
    Made(Box<dyn Task>),
    Ended,
}

/// A command for one task.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Command(pub TaskCommand);

impl TaskActor {
    pub fn new(berth: Arc<Berth>) -> Self {
        Self { berth, running: None }
    }
}

impl Running {
    fn new(setup: TaskSetup, occupied: Occupied) -> Self {
        let TaskSetup { job, term, task, plan, wiring, context, limits, counters, events, fence } = setup;
        let names = || plan.operators.iter().map(|operator| operator.name.as_str()).collect::<Vec<_>>().join(" -> ");
        // The names are joined only if anybody listens.
        let span = tracing::info_span!("task", %job, %task, instance = plan.instance, operators = names());
        let service = plan.service;
        let state = Rc::new(TaskState::new(context, plan.operators, limits, counters, plan.looped, wiring));
        let stage = Stage::Unmade(plan.recipe);
        Self {
            job,
            term,
            task,
            service,
            state,
            events,
            fence,
            stage,
            reported: false,
            early: Vec::new(),
            span,
            occupied,
        }
    }

    fn cancelled(mut self) -> Self {
        self.end(TaskEvent::Cancelled, Ending::Discarded);
        self
    }

    fn obey(&mut self, command: TaskCommand) {
        match (&mut self.stage, command) {
            (Stage::Ended, _) => {}
            (_, TaskCommand::Cancel) => self.end(TaskEvent::Cancelled, Ending::Discarded),
            (_, TaskCommand::CancelRequests { service }) => {
                if self.service == Some(service) {
                    self.end(TaskEvent::Cancelled, Ending::Discarded);
                }
            }
            (_, TaskCommand::Scan { id, wave }) => self.report_scan(id, wave),
            (Stage::Unmade(_), command) => self.early.push(command),
            (Stage::Made(task), command) => {
                if let Err(panic) = catch(|| task.command(command)) {
                    let cause = self.state.panicked(panic);
                    self.end(|report| TaskEvent::Failed { cause, report }, Ending::Discarded);
                }
            }
        }
    }

    fn report(&self, event: TaskEvent) {
        let kind = WorkerEventKind::Task { task: self.task, event };
        (self.events)(WorkerEvent { job: self.job, term: self.term, kind });
    }

    fn make(&mut self) -> Result<(), FailureCause> {
        let Stage::Unmade(recipe) = std::mem::replace(&mut self.stage, Stage::Ended) else { return Ok(()) };
        let mut task = catch(|| recipe(&self.state)).map_err(|message| self.state.panicked(message))?;
        for command in self.early.drain(..) {
            task.command(command);
        }
        self.stage = Stage::Made(task);
        Ok(())
    }

    fn step(&mut self, cx: &mut TaskCx<'_>) -> Poll<()> {
        let span = self.span.clone();
        let _entered = span.enter();
        if matches!(self.stage, Stage::Unmade(_))
            && let Err(cause) = self.make()
        {
            self.end(|report| TaskEvent::Failed { cause, report }, Ending::Discarded);
            return Poll::Ready(());
        }
        let Stage::Made(task) = &mut self.stage else { return Poll::Ready(()) };
        let polled = catch(|| task.poll(cx));
        let held = task.take_held();
        self.report_dead();
        self.report_loop();
        if let Some(epoch) = held {
            self.report(TaskEvent::Held { epoch });
        }
        match polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(Ok(()))) => self.end(TaskEvent::Finished, Ending::Drained),
            Ok(Poll::Ready(Err(failure))) => {
                let cause = *failure.0;
                self.end(|report| TaskEvent::Failed { cause, report }, Ending::Discarded);
            }
            Err(panic) => {
                let cause = self.state.panicked(panic);
                tracing::warn!(job = %self.job, task = %self.task, %cause, "user code panicked");
                self.end(|report| TaskEvent::Failed { cause, report }, Ending::Discarded);
            }
        }
        Poll::Ready(())
    }

    fn report_dead(&self) {
        if let Some((count, newest)) = self.state.take_dead() {
            self.state.counters.buried(count);
            self.report(TaskEvent::DeadLettered { count, newest });
        }
    }

    /// What the supervisor is to be told of the loop that this task is part of.
    fn report_loop(&self) {
        let Some(looped) = &self.state.looped else { return };
        let id = looped.plan.id;
        if looped.take_hint() {
            self.report(TaskEvent::LoopQuiet { id });
        }
        if looped.take_unwanted() {
            self.report(TaskEvent::LoopUnwanted { id });
        }
    }

    /// Answers a question about a loop, if this task is part of it.
    fn report_scan(&self, id: LoopId, wave: u32) {
        if let Some(looped) = self.state.looped.as_ref().filter(|looped| looped.plan.id == id) {
            self.report(TaskEvent::Scanned { id, wave, scan: looped.scan() });
        }
    }

    /// Settles the accounts, drops everything the user gave the task, and reports: in this order, so that nothing of
    /// the task lives once its end is known.
    fn end(&mut self, event: impl FnOnce(crate::protocol::TaskReport) -> TaskEvent, ending: Ending) {
        let mut stage = std::mem::replace(&mut self.stage, Stage::Ended);
        if let Stage::Made(task) = &mut stage
            && let Err(panic) = catch(|| task.settle(ending))
        {
            tracing::error!(job = %self.job, task = %self.task, panic, "could not settle a task's accounts");
        }
        if let Err(panic) = catch(move || drop(stage)) {
            tracing::warn!(job = %self.job, task = %self.task, panic, "user code panicked while being dropped");
        }
        if let Some(service) = self.service
            && let Err(panic) = catch(|| self.state.wiring.close_requests(service))
        {
            tracing::warn!(job = %self.job, task = %self.task, panic, "user code panicked while being dropped");
        }
        self.reported = true;
        self.report_dead();
        self.report_loop();
        self.report(event(self.state.take_report()));
    }
}

impl Drop for Running {
    /// An actor that goes without a report, because its thread ended under it, must not leave its job waiting.
    fn drop(&mut self) {
        if !self.reported {
            let cause = FailureCause::Internal(format!("{} went away without a report", self.task));
            self.end(|report| TaskEvent::Failed { cause, report }, Ending::Discarded);
        }
    }
}

impl Drop for TaskActor {
    /// The same for a task that nobody has taken.
    fn drop(&mut self) {
        if let Some(Unstarted { setup, occupied, .. }) = self.berth.take() {
            drop(Running::new(setup, occupied));
        }
    }
}

impl Actor for TaskActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let Some(Unstarted { setup, early, occupied }) = self.berth.take() else { return ctx.stop() };
        let mut running = Running::new(setup, occupied);
        running.report(TaskEvent::Started);
        early.into_iter().for_each(|command| running.obey(command));
        self.running = Some(running);
        ctx.spawn(Drive);
    }
}

impl Handler<Command> for TaskActor {
    type Result = ();

    fn handle(&mut self, Command(command): Command, _ctx: &mut Self::Context) {
        if let Some(running) = &mut self.running {
            running.occupied.set_at_work(true);
            running.obey(command);
            running.occupied.set_at_work(false);
        }
    }
}

/// Polls the task whenever its actor is polled: on wake-ups of the task, and after each command.
struct Drive;

impl ActorFuture<TaskActor> for Drive {
    type Output = ();

    fn poll(self: Pin<&mut Self>, task: &mut TaskActor, ctx: &mut Context<TaskActor>, cx: &mut TaskCx<'_>) -> Poll<()> {
        let Some(running) = &mut task.running else { return Poll::Ready(()) };
        let fence = running.fence.clone();
        let polled = match fence.pass() {
            Some(_pass) => {
                running.occupied.set_at_work(true);
                let polled = running.step(cx);
                running.occupied.set_at_work(false);
                polled
            }
            None if matches!(running.stage, Stage::Ended) => Poll::Ready(()),
            // The lease is over. The order to drop all jobs is on its way, and wakes it.
            None => Poll::Pending,
        };
        if polled.is_ready() {
            ctx.stop();
        }
        polled
    }
}
