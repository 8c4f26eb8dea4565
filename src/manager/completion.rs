//! When a job is complete: its rules as a pure state machine, events in, commands out.
//!
//! It has no clock, does no I/O and knows no actor. The JobSupervisor feeds it what workers report, what clients ask
//! for and which deadlines passed, and carries out the commands it answers with, in order. Reports may come late,
//! twice or out of order: one of another attempt, of another incarnation or of something that has already ended changes nothing.
//!
//! Which event does what in which state is a table in ARCHITECTURE.md, *Completion*, which a test makes from this code.
//!
//! A job that may begin anew ([`attempts`]) fails, in one of its attempts, without that it is settled that it has failed.
//!
//! Three things are fixed at three points, and never change afterwards: the *course* (cancelled, or failed, whichever
//! came first), the *verdict* (once no awaited task is live; while the job is idle, the failure of a service still replaces it)
//! and the *outcome* (the verdict, once no service is live either). *Awaited* are the significant tasks, and all of them
//! once the job drops what is in flight.

mod accounts;
mod attempts;
mod loops;
#[cfg(test)]
mod model;
mod services;
mod setup;
mod strategy;
mod tasks;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use self::{
    loops::{Loop, Members},
    services::Service,
    strategy::Attempts,
    tasks::{Census, Task},
};
pub(crate) use self::{
    setup::{ChannelSetup, Setup, TaskSetup},
    strategy::Between,
};
use crate::{
    job::{
        ActorState, Attempt, CancelReason, FailureCause, Incarnation, JobState, Outcome, ServiceId, TaskId, Warning,
    },
    protocol::{ServiceEvent, TaskCommand, TaskEvent, WorkerOrder},
};

/// What happens to a job.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Event {
    /// The job is to run. Until then no service and no task is started.
    Begin,
    Service {
        attempt: Attempt,
        service: ServiceId,
        incarnation: Incarnation,
        event: ServiceEvent,
    },
    Task {
        attempt: Attempt,
        task: TaskId,
        event: TaskEvent,
    },
    /// A worker is gone or cannot be reached by another one. It concerns these tasks and services; if they are `gone`, none
    /// of them will ever report. Those that have ended did so with all that they had to say, so if none is live, nothing is
    /// lost.
    Lost {
        attempt: Attempt,
        tasks: Vec<TaskId>,
        services: Vec<ServiceId>,
        gone: bool,
        cause: FailureCause,
    },
    /// The workers are ready for this attempt, which was to be deployed.
    Deployed {
        attempt: Attempt,
    },
    /// This attempt could not be deployed, and nothing of it is left anywhere.
    Undeployed {
        attempt: Attempt,
        cause: FailureCause,
    },
    /// A client wants the sources ended and the rest worked off.
    Stop,
    /// Nobody has held the job for as long as its lease, which the warning says: as `Stop`.
    LeaseExpired(Warning),
    /// A client or the environment wants the job ended now.
    Cancel(CancelReason),
    Pause,
    Resume,
    /// A deadline passed. One that is no longer armed changes nothing.
    Elapsed(Deadline),
}

/// What the JobSupervisor measures time for. Each is armed at most once in the life of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Deadline {
    /// Tasks have to return after `cancel` or a failure.
    Tasks,
    /// This service has to stop.
    Service(ServiceId),
    /// Feedback loops have to go quiet after `stop`.
    Loops,
    /// The job has to end.
    RunLimit,
    /// The job begins anew. The one deadline that is armed once for each attempt; see [`Completion::restart_delay`].
    Restart,
}

/// What the JobSupervisor has to do, in the order given.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Command {
    /// Pass this on to the workers of the attempt. Never `StartTasks` and never `Release`.
    Order {
        attempt: Attempt,
        order: WorkerOrder,
    },
    /// Place the tasks and order the worker to start them all; the rules know nothing of slots.
    StartTasks {
        attempt: Attempt,
    },
    /// Have everything of this attempt made anew, and say whether it is.
    Deploy {
        attempt: Attempt,
    },
    Arm(Deadline),
    Disarm(Deadline),
    /// Nothing is written to the outputs any more: they are whole, or end somewhere before their end. Given once.
    SealOutputs {
        complete: bool,
    },
    /// The job has ended. Given once, as the last command.
    Ended(Outcome),
}

/// The job is in a state in which it cannot be paused. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a job that is {state} cannot be paused")]
pub(crate) struct Conflict {
    pub state: JobState,
}

/// Where the job is headed; the first to leave `Onward` wins, and of what comes while the job is to begin anew, the first of all.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Course {
    Onward,
    /// This attempt has failed, and another one is to follow.
    Anew,
    Cancelled(CancelReason),
    Failed(FailureCause),
}

/// The completion state machine of one job.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Completion {
    setup: Arc<Setup>,
    attempt: Attempt,
    state: JobState,
    begun: bool,
    tasks: Vec<Task>,
    census: Census,
    services: Vec<Service>,
    /// So many services were ordered to start, one after the other. A job may have very many, so they are not searched.
    services_ordered: usize,
    /// Services that were ordered to start and have not said so.
    services_starting: usize,
    /// While services are being stopped: none behind the first so many is live.
    services_left: usize,
    loops: Vec<Loop>,
    members: Arc<Members>,
    stop_requested: bool,
    course: Course,
    /// Set once no awaited task is live, and replaced only by the failure of a service of an idle job.
    verdict: Option<Outcome>,
    /// The number of the last hold; marks of earlier ones are stale.
    hold_epoch: u32,
    tasks_deadline_armed: bool,
    loops_deadline_armed: bool,
    run_limit_armed: bool,
    warnings: Vec<Warning>,
    restarts: u32,
    attempts: Attempts,
    /// When the current event happened, as `apply` was told. The clock need not start at zero.
    now: Duration,
    version: u64,
}

impl Completion {
    pub(crate) fn new(setup: Setup) -> Self {
        Self {
            attempt: Attempt(1),
            state: JobState::Starting,
            begun: false,
            tasks: vec![Task::default(); setup.tasks.len()],
            census: Census::new(setup.services.len()),
            services: vec![Service::default(); setup.services.len()],
            services_ordered: 0,
            services_starting: 0,
            services_left: 0,
            loops: vec![Loop::default(); setup.loops.len()],
            members: Arc::new(loops::members(&setup.loops)),
            stop_requested: false,
            course: Course::Onward,
            verdict: None,
            hold_epoch: 0,
            tasks_deadline_armed: false,
            loops_deadline_armed: false,
            run_limit_armed: false,
            warnings: Vec::new(),
            restarts: 0,
            attempts: Attempts::new(setup.restart),
            now: Duration::ZERO,
            version: 0,
            setup: Arc::new(setup),
        }
    }

    /// Takes in one event, which happened `at` this time, and says what has to be done about it.
    ///
    /// # Errors
    ///
    /// [`Conflict`], for [`Event::Pause`] only, if the job is neither running nor pausing nor paused.
    pub(crate) fn apply(&mut self, event: Event, at: Duration) -> Result<Vec<Command>, Conflict> {
        self.now = at;
        let mut out = Vec::new();
        match event {
            Event::Pause => self.pause(&mut out)?,
            _ if self.state == JobState::Ended => {}
            Event::Begin => self.begin(&mut out),
            Event::Service { attempt, .. }
            | Event::Task { attempt, .. }
            | Event::Lost { attempt, .. }
            | Event::Deployed { attempt }
            | Event::Undeployed { attempt, .. }
                if attempt != self.attempt => {}
            Event::Service { service, incarnation, event, .. } => {
                self.hear_service(service, incarnation, event, &mut out);
            }
            Event::Task { task, event, .. } => self.hear_task(task, event, &mut out),
            Event::Lost { tasks, services, gone, cause, .. } => {
                self.lose_worker((&tasks, &services), gone, cause, &mut out);
            }
            Event::Deployed { .. } => self.deployed(&mut out),
            Event::Undeployed { cause, .. } => self.undeployed(cause, &mut out),
            Event::Stop => self.stop(&mut out),
            Event::LeaseExpired(warning) => {
                self.warn(warning);
                self.stop(&mut out);
            }
            Event::Cancel(reason) => self.divert(Course::Cancelled(reason), &mut out),
            Event::Resume => self.resume(&mut out),
            Event::Elapsed(deadline) => self.elapse(deadline, &mut out),
        }
        Ok(out)
    }

    pub(crate) fn state(&self) -> JobState {
        self.state
    }

    fn order(&self, order: WorkerOrder, out: &mut Vec<Command>) {
        out.push(Command::Order { attempt: self.attempt, order });
    }

    /// The attempt whose reports count.
    pub(crate) fn attempt(&self) -> Attempt {
        self.attempt
    }

    /// How the job ended, once its state is `Ended`.
    pub(crate) fn outcome(&self) -> Option<&Outcome> {
        self.verdict.as_ref().filter(|_| self.state == JobState::Ended)
    }

    /// What the tasks have earned, once no awaited task is live: the outcome to be, unless a service of the idle job fails.
    pub(crate) fn verdict(&self) -> Option<&Outcome> {
        self.verdict.as_ref()
    }

    /// What went wrong without changing the outcome, so far.
    pub(crate) fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// Restarts of all services so far.
    pub(crate) fn restarts(&self) -> u32 {
        self.restarts
    }

    /// Services that were ordered to start and are neither gone nor abandoned; one between two instances is live.
    pub(crate) fn live_services(&self) -> usize {
        self.services.iter().filter(|service| service.is_live()).count()
    }

    /// Where this task is in its life. One that the job ended without starting stays `Waiting`.
    pub(crate) fn task_state(&self, task: TaskId) -> ActorState {
        self.tasks.get(task.index()).map_or(ActorState::Waiting, |task| task.state)
    }

    /// Where this service is in its life, and how often it was restarted.
    pub(crate) fn service_state(&self, service: ServiceId) -> (ActorState, u32) {
        self.services.get(service.index()).map_or((ActorState::Waiting, 0), Service::visible)
    }

    /// The service whose stop is awaited right now.
    pub(crate) fn stopping_service(&self) -> Option<ServiceId> {
        let position = self.services.iter().position(Service::is_stopping)?;
        Some(service_id(position))
    }

    /// Rises whenever anything that can be asked of this machine has changed, and with dead letters.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    fn begin(&mut self, out: &mut Vec<Command>) {
        if self.begun {
            return;
        }
        self.begun = true;
        if self.setup.run_limit {
            self.run_limit_armed = true;
            out.push(Command::Arm(Deadline::RunLimit));
        }
        self.start_next_service(out);
    }

    fn stop(&mut self, out: &mut Vec<Command>) {
        self.stop_requested = true;
        match self.state {
            JobState::Running | JobState::Pausing | JobState::Paused => {
                // Also ends the hold of a paused job: a separate `Resume` could let a source emit once more.
                self.command_tasks(TaskCommand::Stop, out);
                self.limit_loops(out);
                self.enter(JobState::Draining);
            }
            JobState::Starting if self.attempt > Attempt(1) => self.give_up_restarting(out),
            JobState::Restarting => self.give_up_restarting(out),
            JobState::Starting | JobState::Idle => self.conclude(out),
            JobState::Draining | JobState::StoppingServices | JobState::Ended => {}
        }
    }

    fn pause(&mut self, out: &mut Vec<Command>) -> Result<(), Conflict> {
        match self.state {
            JobState::Pausing | JobState::Paused => Ok(()),
            JobState::Running => {
                self.hold_tasks(out);
                Ok(())
            }
            state => Err(Conflict { state }),
        }
    }

    fn resume(&mut self, out: &mut Vec<Command>) {
        self.attempts.hold_again = false;
        if matches!(self.state, JobState::Pausing | JobState::Paused) {
            self.command_tasks(TaskCommand::Resume, out);
            self.enter(JobState::Running);
        }
    }

    fn elapse(&mut self, deadline: Deadline, out: &mut Vec<Command>) {
        match deadline {
            Deadline::Tasks if self.tasks_deadline_armed => {
                self.tasks_deadline_armed = false;
                self.abandon_tasks(out);
            }
            Deadline::Loops if self.loops_deadline_armed => self.cut_loops(out),
            Deadline::Service(service) => self.abandon_service(service, out),
            Deadline::RunLimit if self.run_limit_armed => {
                self.run_limit_armed = false;
                self.divert(Course::Cancelled(CancelReason::Deadline), out);
            }
            Deadline::Restart if self.attempts.delay_armed => {
                self.attempts.delay_armed = false;
                self.begin_anew(out);
            }
            Deadline::Tasks | Deadline::Loops | Deadline::RunLimit | Deadline::Restart => {}
        }
    }

    /// Takes a new course, unless one was taken before or the outcome is already earned; then whatever has to follow.
    fn divert(&mut self, course: Course, out: &mut Vec<Command>) {
        if self.turn(course) {
            self.follow(out);
        }
    }

    /// Has happen what a new course asks for.
    fn follow(&mut self, out: &mut Vec<Command>) {
        match self.live_tasks() {
            0 => self.conclude(out),
            // They are being cancelled already, for the job was to begin anew.
            _ if self.tasks_deadline_armed => self.enter(JobState::Draining),
            _ => self.cancel_tasks(out),
        }
    }

    /// Whether the new course was taken: the first one that is final wins, and none after the services began to stop.
    fn turn(&mut self, course: Course) -> bool {
        let open = matches!(self.course, Course::Onward | Course::Anew) && self.state != JobState::StoppingServices;
        if open {
            self.course = course;
        }
        open
    }

    /// No awaited task is live and none will be started: settles what the job has earned, then idles or stops the services.
    fn conclude(&mut self, out: &mut Vec<Command>) {
        if self.course == Course::Anew {
            return self.end_attempt(out);
        }
        let sealed = self.verdict.is_some();
        let verdict = self.judge();
        self.release_loops(out);
        self.disarm_tasks(out);
        self.disarm_delay(out);
        if !sealed {
            out.push(Command::SealOutputs { complete: verdict.is_drained() });
        }
        // Without a service there is nothing left that could be called.
        let is_callable = !self.setup.services.is_empty() && !self.setup.autostop;
        let idles = verdict.is_drained() && is_callable && !self.stop_requested && self.course == Course::Onward;
        self.verdict = Some(verdict);
        if idles {
            self.enter(JobState::Idle);
        } else {
            self.drop_unstarted(out);
            self.stop_services(out);
        }
    }

    fn disarm_tasks(&mut self, out: &mut Vec<Command>) {
        if std::mem::take(&mut self.tasks_deadline_armed) {
            out.push(Command::Disarm(Deadline::Tasks));
        }
    }

    /// What the job has earned, now that no awaited task is live.
    fn judge(&mut self) -> Outcome {
        let reports: Vec<_> = self.tasks.iter_mut().map(|task| task.report.take()).collect();
        match (&self.course, &self.verdict) {
            (Course::Failed(cause), _) => Outcome::Failed(cause.clone()),
            (Course::Cancelled(reason), earned) => {
                let dropped = accounts::dropped(&self.setup, &reports);
                // The job was idle: what its tasks have earned stays, and only its pipelines had something to drop.
                let outcome = earned.clone().unwrap_or(Outcome::Cancelled { reason: reason.clone(), dropped });
                for warning in accounts::differences(&self.setup, &reports) {
                    self.warn(warning);
                }
                outcome
            }
            // The job was idle, and its tasks' reports have been judged.
            (Course::Onward | Course::Anew, Some(earned)) => earned.clone(),
            // `stop` came before the tasks were started: what they would have read was cut off whole.
            (Course::Onward | Course::Anew, None)
                if self.state == JobState::Starting && self.setup.tasks.iter().any(TaskSetup::is_significant) =>
            {
                Outcome::Stopped
            }
            (Course::Onward | Course::Anew, None) => {
                match accounts::check(&self.setup, &reports, TaskSetup::is_significant) {
                    Err(cause) => Outcome::Failed(cause),
                    Ok(()) if reports.iter().flatten().any(|report| report.cut_short) => Outcome::Stopped,
                    Ok(()) => Outcome::Completed,
                }
            }
        }
    }

    /// No service is live either.
    fn end(&mut self, out: &mut Vec<Command>) {
        if self.state == JobState::Restarting {
            return self.await_next_attempt(out);
        }
        self.enter(JobState::Ended);
        let verdict = self.verdict.clone().expect("services are stopped only after the verdict");
        out.push(Command::Ended(verdict));
    }

    fn enter(&mut self, state: JobState) {
        self.state = state;
        self.touch();
    }

    fn warn(&mut self, warning: Warning) {
        self.warnings.push(warning);
        self.touch();
    }

    fn touch(&mut self) {
        self.version += 1;
    }
}

fn task_id(position: usize) -> TaskId {
    TaskId(u32::try_from(position).expect("a graph numbers its tasks in 32 bits"))
}

fn service_id(position: usize) -> ServiceId {
    ServiceId(u32::try_from(position).expect("a graph numbers its services in 32 bits"))
}
