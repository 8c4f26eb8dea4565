//! What tasks report, and what they are told.

use super::{Command, Completion, Course, Deadline, TaskSetup, strategy::Between, task_id};
use crate::{
    job::{ActorState, FailureCause, JobState, ServiceId, TaskId, Warning},
    protocol::{TaskCommand, TaskEvent, TaskReport, WorkerOrder},
};

/// What is known of one task.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Task {
    pub(super) state: ActorState,
    /// Ordered to start and neither ended nor abandoned: it may call services.
    pub(super) live: bool,
    /// The mark of the current hold has passed through it.
    held: bool,
    /// Its accounts, from its end to the verdict.
    pub(super) report: Option<TaskReport>,
}

/// How many tasks are live. Counted as they start and end, because a job may have very many and most events concern one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Census {
    live: usize,
    /// The live ones that answer for no service.
    significant: usize,
    /// Of those, the ones through which the mark of the current hold has not passed.
    unheld: usize,
    /// The live ones of each service.
    of_service: Vec<usize>,
}

impl Census {
    pub(super) fn new(services: usize) -> Self {
        Self { of_service: vec![0; services], ..Self::default() }
    }

    /// A task without the mark of a hold was ordered to start.
    fn start(&mut self, setup: &TaskSetup) {
        self.live += 1;
        match setup.service {
            Some(service) => self.of_service[service.index()] += 1,
            None => {
                self.significant += 1;
                self.unheld += 1;
            }
        }
    }

    /// A live task has ended or was given up.
    fn end(&mut self, setup: &TaskSetup, held: bool) {
        self.live -= 1;
        match setup.service {
            Some(service) => self.of_service[service.index()] -= 1,
            None => {
                self.significant -= 1;
                self.unheld -= usize::from(!held);
            }
        }
    }

    /// The mark of the current hold has passed through a live task for the first time.
    fn hold(&mut self, setup: &TaskSetup) {
        self.unheld -= usize::from(setup.is_significant());
    }

    /// A new hold begins, whose mark no task has seen.
    fn begin_hold(&mut self) {
        self.unheld = self.significant;
    }
}

impl Completion {
    /// The live tasks that the job waits for: the significant ones, and all once it drops what is in flight.
    fn awaited_tasks(&self) -> usize {
        if self.course == Course::Onward { self.census.significant } else { self.census.live }
    }

    /// Tasks that were ordered to start and have neither ended nor been abandoned.
    pub(crate) fn live_tasks(&self) -> usize {
        self.census.live
    }

    pub(super) fn has_tasks(&self, service: ServiceId) -> bool {
        self.census.of_service[service.index()] > 0
    }

    /// All services are up: starts the tasks, or concludes if there are none.
    pub(super) fn start_tasks(&mut self, out: &mut Vec<Command>) {
        if self.tasks.is_empty() {
            self.conclude(out);
            return;
        }
        for (task, setup) in self.tasks.iter_mut().zip(&self.setup.tasks) {
            task.live = true;
            self.census.start(setup);
        }
        self.enter(JobState::Running);
        out.push(Command::StartTasks { attempt: self.attempt });
        if self.awaited_tasks() == 0 {
            self.conclude(out);
        } else if std::mem::take(&mut self.attempts.hold_again) {
            self.hold_tasks(out);
        }
    }

    /// What pipelines were asked before their tasks were to start, nobody will answer: they drop it, so that those who wait are
    /// told. Their services would otherwise wait for the answers before they stop.
    pub(super) fn drop_unstarted(&self, out: &mut Vec<Command>) {
        if self.state == JobState::Starting && self.setup.tasks.iter().any(|task| !task.is_significant()) {
            self.order(WorkerOrder::DropTasks, out);
        }
    }

    pub(super) fn hear_task(&mut self, id: TaskId, event: TaskEvent, out: &mut Vec<Command>) {
        // An ended task is no longer live, so that its repeated report counts once.
        let Some(task) = self.tasks.get_mut(id.index()).filter(|task| task.live) else { return };
        match event {
            TaskEvent::Started => {
                if task.state == ActorState::Waiting {
                    task.state = ActorState::Running;
                    self.touch();
                }
            }
            TaskEvent::Held { epoch } => {
                if epoch == self.hold_epoch && self.state == JobState::Pausing && !task.held {
                    task.held = true;
                    self.census.hold(&self.setup.tasks[id.index()]);
                    self.settle_hold();
                }
            }
            TaskEvent::LoopQuiet { id: quiet } => self.hear_quiet(quiet, out),
            TaskEvent::LoopUnwanted { id: unwanted } => self.close_loop(unwanted, out),
            TaskEvent::Scanned { id: scanned, wave, scan } => self.hear_scan(id, scanned, wave, scan, out),
            TaskEvent::DeadLettered { .. } => self.touch(),
            TaskEvent::Finished(report) => self.end_task(id, ActorState::Finished, report, None, out),
            TaskEvent::Failed { cause, report } => self.end_task(id, ActorState::Failed, report, Some(cause), out),
            TaskEvent::Cancelled(report) => {
                // Nobody asked for it, so items were dropped that no outcome but a failure admits to.
                let unasked = self.course == Course::Onward && self.state != JobState::StoppingServices;
                let cause = unasked.then(|| {
                    let name = &self.setup.tasks[id.index()].name;
                    FailureCause::Internal(format!("task `{name}` ({id}) was cancelled although the job was not"))
                });
                self.end_task(id, ActorState::Cancelled, report, cause, out);
            }
        }
    }

    fn end_task(
        &mut self,
        id: TaskId,
        state: ActorState,
        report: TaskReport,
        failure: Option<FailureCause>,
        out: &mut Vec<Command>,
    ) {
        let ended = Task { state, live: false, held: false, report: Some(report) };
        let before = std::mem::replace(&mut self.tasks[id.index()], ended);
        self.census.end(&self.setup.tasks[id.index()], before.held);
        self.touch();
        if self.state == JobState::StoppingServices {
            return self.lose_service_task(id, failure, out);
        }
        let failed_now = failure.is_some_and(|cause| self.turn_to_failure(cause));
        if self.awaited_tasks() == 0 {
            self.conclude(out);
        } else if failed_now {
            self.cancel_tasks(out);
        } else {
            self.settle_hold();
            self.settle_waves(id, out);
        }
    }

    /// The worker of these tasks and services is gone, or cut off from another one.
    pub(super) fn lose_worker(
        &mut self,
        (tasks, services): (&[TaskId], &[ServiceId]),
        gone: bool,
        cause: FailureCause,
        out: &mut Vec<Command>,
    ) {
        // A pipeline's tasks are all on one worker: nothing between two others is theirs.
        let concerned = |id: usize| gone || self.setup.tasks[id].is_significant();
        let is_live = |id: &&TaskId| self.tasks.get(id.index()).is_some_and(|task| task.live && concerned(id.index()));
        let tasks: Vec<TaskId> = tasks.iter().filter(is_live).copied().collect();
        let (services, state) = (self.live_among(services), self.state);
        if gone {
            for id in &tasks {
                let lost = Task { state: ActorState::Failed, ..Task::default() };
                let before = std::mem::replace(&mut self.tasks[id.index()], lost);
                self.census.end(&self.setup.tasks[id.index()], before.held);
                self.touch();
            }
        }
        // No task was started yet; and with a part of the workers gone, none can be.
        let concerns_all = state == JobState::Starting;
        let is_concerned = concerns_all || !tasks.is_empty() || !services.is_empty();
        let failed_now = is_concerned && self.turn_to_failure(cause.clone());
        if gone {
            self.lose_services(&services, &cause, out);
        }
        if state == JobState::StoppingServices {
            // Of those that are cut off, the services stop when they are told to, and are then not fed any more. What is said of
            // a service that is lost with its tasks is said once.
            let is_said = |id: &TaskId| {
                let service = self.setup.tasks[id.index()].service;
                gone && service.is_some_and(|service| services.contains(&service))
            };
            let tasks: Vec<TaskId> = tasks.into_iter().filter(|id| !is_said(id)).collect();
            return tasks.into_iter().for_each(|id| self.lose_service_task(id, Some(cause.clone()), out));
        }
        if failed_now {
            self.follow(out);
        } else if !tasks.is_empty() && self.awaited_tasks() == 0 {
            self.conclude(out);
        }
    }

    pub(super) fn hold_tasks(&mut self, out: &mut Vec<Command>) {
        self.hold_epoch += 1;
        for task in &mut self.tasks {
            task.held = false;
        }
        self.census.begin_hold();
        self.command_tasks(TaskCommand::Hold { epoch: self.hold_epoch }, out);
        self.enter(JobState::Pausing);
    }

    /// The hold is complete once the mark has passed through every significant task that is still live. A pipeline service
    /// goes on while the job is paused.
    fn settle_hold(&mut self) {
        if self.state == JobState::Pausing && self.census.unheld == 0 {
            self.enter(JobState::Paused);
        }
    }

    pub(super) fn cancel_tasks(&mut self, out: &mut Vec<Command>) {
        self.release_loops(out);
        self.command_tasks(TaskCommand::Cancel, out);
        self.tasks_deadline_armed = true;
        out.push(Command::Arm(Deadline::Tasks));
        if self.course == Course::Anew {
            self.attempts.between = Between::Tasks;
            self.enter(JobState::Restarting);
        } else {
            self.enter(JobState::Draining);
        }
    }

    pub(super) fn abandon_tasks(&mut self, out: &mut Vec<Command>) {
        self.abandon_where(|_| true, out);
        self.conclude(out);
    }

    /// Gives up the live tasks among those that `concerns` says yes to.
    pub(super) fn abandon_where(&mut self, concerns: impl Fn(&TaskSetup) -> bool, out: &mut Vec<Command>) {
        let live = self.tasks.iter().zip(&self.setup.tasks).enumerate();
        let late: Vec<TaskId> =
            live.filter(|(_, (task, setup))| task.live && concerns(setup)).map(|(at, _)| task_id(at)).collect();
        for &id in &late {
            let task = &mut self.tasks[id.index()];
            task.live = false;
            task.state = ActorState::Abandoned;
            self.census.end(&self.setup.tasks[id.index()], task.held);
            self.warn(Warning::TaskAbandoned { task: self.setup.tasks[id.index()].name.clone(), id });
        }
        if !late.is_empty() {
            self.order(WorkerOrder::AbandonTasks { tasks: late }, out);
        }
    }

    /// Whether the counters say what a search of all tasks would.
    #[cfg(test)]
    pub(super) fn tasks_are_counted(&self) -> bool {
        let live = || self.tasks.iter().zip(&self.setup.tasks).filter(|(task, _)| task.live);
        let mut searched = Census::new(self.services.len());
        live().for_each(|(_, setup)| searched.start(setup));
        live().filter(|(task, _)| task.held).for_each(|(_, setup)| searched.hold(setup));
        searched == self.census
    }

    pub(super) fn command_tasks(&self, command: TaskCommand, out: &mut Vec<Command>) {
        self.order(WorkerOrder::CommandTasks { command }, out);
    }
}
