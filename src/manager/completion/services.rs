//! What services report, and when they are started, restarted and stopped.

use std::{collections::VecDeque, time::Duration};

use super::{Command, Completion, Course, Deadline, TaskSetup, accounts, service_id, strategy::Between};
use crate::{
    job::{ActorState, FailureCause, Incarnation, JobState, ServiceId, TaskId, Warning},
    protocol::{ServiceEvent, TaskCommand, WorkerOrder},
};

/// What is known of one service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Service {
    stage: Stage,
    incarnation: Incarnation,
    /// When it failed, within the restart window; bounded by the restart intensity.
    failures: VecDeque<Duration>,
    /// Over all attempts.
    restarts: u32,
}

impl Default for Service {
    fn default() -> Self {
        Self { stage: Stage::Waiting, incarnation: Incarnation(0), failures: VecDeque::new(), restarts: 0 }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stage {
    /// Never ordered to start.
    Waiting,
    /// Its current incarnation was ordered to start and has not said so yet.
    Starting,
    Running,
    /// Its turn to stop came while it was starting: it is told once it has started, for a worker is never told to stop
    /// what it has not reported. The deadline runs already.
    StartingToStop,
    /// Told to stop.
    Stopping,
    /// Told to end at once, for another attempt is to follow.
    Dismissed,
    /// Of a pipeline: no instance is left, so nothing comes in any more, and its tasks were told to end.
    EndingTasks(ActorState),
    /// No instance is left, and none will come.
    Gone(ActorState),
}

impl Service {
    pub(super) fn is_live(&self) -> bool {
        !matches!(self.stage, Stage::Waiting | Stage::Gone(_))
    }

    /// Whether an instance may have something to report.
    fn has_instance(&self) -> bool {
        self.is_live() && !matches!(self.stage, Stage::EndingTasks(_))
    }

    /// Whether the deadline of its stop is running.
    pub(super) fn is_stopping(&self) -> bool {
        matches!(self.stage, Stage::StartingToStop | Stage::Stopping | Stage::Dismissed | Stage::EndingTasks(_))
    }

    pub(super) fn visible(&self) -> (ActorState, u32) {
        let restarts = self.restarts;
        let state = match self.stage {
            Stage::Waiting => ActorState::Waiting,
            Stage::Starting | Stage::StartingToStop if self.failures.is_empty() => ActorState::Waiting,
            Stage::Starting | Stage::StartingToStop => ActorState::Restarting,
            Stage::Running | Stage::Stopping | Stage::Dismissed | Stage::EndingTasks(_) => ActorState::Running,
            Stage::Gone(state) => state,
        };
        (state, restarts)
    }

    /// It has never been ordered to start in the attempt that begins. No incarnation comes twice.
    pub(super) fn begin_anew(&mut self) {
        self.stage = Stage::Waiting;
        self.incarnation.0 += 1;
        self.failures.clear();
    }

    /// Counts a failure; returns how many there were within the window.
    fn count_failure(&mut self, at: Duration, window: Duration) -> usize {
        self.failures.push_back(at);
        self.failures.retain(|&earlier| at.saturating_sub(earlier) <= window);
        self.failures.len()
    }
}

impl Completion {
    /// Starts the next service if all before it are up, and the tasks after the last.
    ///
    /// One service that is restarted meanwhile holds the others back: whoever is started finds all earlier services up.
    pub(super) fn start_next_service(&mut self, out: &mut Vec<Command>) {
        if self.state != JobState::Starting || self.services_starting > 0 {
            return;
        }
        match self.services.get(self.services_ordered) {
            Some(_) => {
                self.services_ordered += 1;
                self.start_service(service_id(self.services_ordered - 1), out);
            }
            None => self.start_tasks(out),
        }
    }

    /// Moves the service to another stage.
    fn put(&mut self, id: ServiceId, stage: Stage) {
        let before = std::mem::replace(&mut self.services[id.index()].stage, stage);
        self.services_starting += usize::from(stage == Stage::Starting);
        self.services_starting -= usize::from(before == Stage::Starting);
        self.touch();
    }

    fn start_service(&mut self, id: ServiceId, out: &mut Vec<Command>) {
        self.put(id, Stage::Starting);
        let incarnation = self.services[id.index()].incarnation;
        self.order(WorkerOrder::StartService { service: id, incarnation }, out);
    }

    pub(super) fn hear_service(
        &mut self,
        id: ServiceId,
        incarnation: Incarnation,
        event: ServiceEvent,
        out: &mut Vec<Command>,
    ) {
        let current = |service: &&Service| service.has_instance() && service.incarnation == incarnation;
        let Some(service) = self.services.get(id.index()).filter(current) else { return };
        match (event, service.stage) {
            (ServiceEvent::Started, Stage::Starting) => {
                self.put(id, Stage::Running);
                self.start_next_service(out);
            }
            (ServiceEvent::Started, Stage::StartingToStop) => self.order_stop(id, out),
            // A repeated `Started`. A lost reply concerns its caller only.
            (ServiceEvent::Started | ServiceEvent::ReplyLost, _) => {}
            (ServiceEvent::Failed { message }, _) => self.fail_service(id, message, out),
            (ServiceEvent::Stopped { hook_panicked }, stage) => {
                if hook_panicked {
                    self.warn(Warning::StopHookPanicked { service: self.service_name(id) });
                }
                if matches!(stage, Stage::Stopping | Stage::Dismissed) {
                    if stage == Stage::Dismissed && self.state == JobState::StoppingServices {
                        // No further attempt follows after all, which is what those in its queue waited for.
                        self.order(WorkerOrder::RefuseCalls { service: id }, out);
                    }
                    self.lose_service(id, ActorState::Finished, out);
                } else {
                    self.fail_service(id, "stopped without being told to".to_owned(), out);
                }
            }
        }
    }

    /// Restarts the service within its restart intensity; beyond it, or once services are being stopped, it is gone.
    fn fail_service(&mut self, id: ServiceId, message: String, out: &mut Vec<Command>) {
        if self.between() == Some(Between::Services) {
            return self.lose_service(id, ActorState::Failed, out);
        }
        if self.state == JobState::StoppingServices {
            // Its hook has run, which is all that stopping could still do; but what it had accepted is not answered.
            self.order(WorkerOrder::RefuseCalls { service: id }, out);
            self.warn(Warning::ServiceFailedLate { service: self.service_name(id), message });
            self.lose_service(id, ActorState::Failed, out);
            return;
        }
        let (window, at) = (self.setup.restart_window, self.now);
        let service = &mut self.services[id.index()];
        let failures = u32::try_from(service.count_failure(at, window)).unwrap_or(u32::MAX);
        if failures <= self.setup.restarts_max {
            service.incarnation.0 += 1;
            service.restarts += 1;
            self.restarts += 1;
            self.start_service(id, out);
            return;
        }
        self.put(id, Stage::Gone(ActorState::Failed));
        let cause = FailureCause::ServiceFailed { service: self.service_name(id), failures, window, message };
        let failed_now = self.turn_to_failure(cause);
        self.refuse_calls(id, out);
        if failed_now {
            self.follow(out);
        }
    }

    /// The service is gone. Of a job that begins anew, those outside wait for its next instance; tasks and services of the attempt
    /// have nothing to wait for.
    fn refuse_calls(&self, id: ServiceId, out: &mut Vec<Command>) {
        let order = if self.course == Course::Anew {
            WorkerOrder::DismissService { service: id, incarnation: self.services[id.index()].incarnation }
        } else {
            WorkerOrder::RefuseCalls { service: id }
        };
        self.order(order, out);
    }

    /// The verdict is in: closes the gates and stops the services, the last one first.
    pub(super) fn stop_services(&mut self, out: &mut Vec<Command>) {
        // Services that were dismissed for a restart kept their queues open. No instance comes now, so callers are told.
        let dismissed = if self.attempts.unrefused { self.services_ordered } else { 0 };
        self.enter(JobState::StoppingServices);
        if self.run_limit_armed {
            self.run_limit_armed = false;
            out.push(Command::Disarm(Deadline::RunLimit));
        }
        if !self.services.is_empty() {
            self.order(WorkerOrder::CloseGates, out);
        }
        let dismissed = (0..dismissed).filter(|&at| !self.services[at].is_live());
        for at in dismissed.chain(self.services_ordered..self.services.len()) {
            self.order(WorkerOrder::RefuseCalls { service: service_id(at) }, out);
        }
        self.services_left = self.services_ordered;
        self.stop_last_service(out);
    }

    /// Turns to the last service that is live, unless it is being stopped already; ends the job if there is none.
    pub(super) fn stop_last_service(&mut self, out: &mut Vec<Command>) {
        // One that is gone by now does not come back.
        while self.services[..self.services_left].last().is_some_and(|last| !last.is_live()) {
            self.services_left -= 1;
        }
        let Some(last) = self.services_left.checked_sub(1) else {
            self.end(out);
            return;
        };
        let (id, service) = (service_id(last), &self.services[last]);
        match service.stage {
            Stage::Starting => self.put(id, Stage::StartingToStop),
            Stage::Running => self.order_stop(id, out),
            Stage::Waiting | Stage::StartingToStop | Stage::Stopping | Stage::Dismissed => return,
            Stage::EndingTasks(_) | Stage::Gone(_) => return,
        }
        out.push(Command::Arm(Deadline::Service(id)));
    }

    /// Has the instance end: it answers what was accepted first, or leaves it to the next attempt.
    fn order_stop(&mut self, id: ServiceId, out: &mut Vec<Command>) {
        let incarnation = self.services[id.index()].incarnation;
        if self.state == JobState::Restarting {
            self.put(id, Stage::Dismissed);
            self.order(WorkerOrder::DismissService { service: id, incarnation }, out);
        } else {
            self.put(id, Stage::Stopping);
            self.order(WorkerOrder::StopService { service: id, incarnation }, out);
        }
    }

    /// An instance is gone while services are being stopped: ends the tasks that answered for it, or goes on with the next one.
    fn lose_service(&mut self, id: ServiceId, state: ActorState, out: &mut Vec<Command>) {
        if self.has_tasks(id) {
            if !self.services[id.index()].is_stopping() {
                // It failed before its turn came, and its tasks have no more time than those of others.
                out.push(Command::Arm(Deadline::Service(id)));
            }
            self.put(id, Stage::EndingTasks(state));
            self.command_tasks(TaskCommand::EndRequests { service: id }, out);
            return;
        }
        self.end_service(id, state, out);
    }

    /// Those of these services that are live.
    pub(super) fn live_among(&self, ids: &[ServiceId]) -> Vec<ServiceId> {
        let is_live = |id: &&ServiceId| self.services.get(id.index()).is_some_and(Service::is_live);
        ids.iter().filter(is_live).copied().collect()
    }

    /// The worker of these live services is gone, and they do not come back.
    pub(super) fn lose_services(&mut self, ids: &[ServiceId], cause: &FailureCause, out: &mut Vec<Command>) {
        for &id in ids.iter().rev() {
            if self.between() == Some(Between::Services) {
                self.lose_service(id, ActorState::Failed, out);
                continue;
            }
            self.refuse_calls(id, out);
            if self.state == JobState::StoppingServices {
                let (service, message) = (self.service_name(id), cause.to_string());
                self.warn(Warning::ServiceFailedLate { service, message });
                self.lose_service(id, ActorState::Failed, out);
            } else {
                self.put(id, Stage::Gone(ActorState::Failed));
            }
        }
    }

    /// A task has ended while services are being stopped: it answered for one of them.
    pub(super) fn lose_service_task(&mut self, task: TaskId, failure: Option<FailureCause>, out: &mut Vec<Command>) {
        let Some(id) = self.setup.tasks[task.index()].service else { return };
        if let Some(cause) = failure {
            let (service, message) = (self.service_name(id), cause.to_string());
            self.warn(Warning::ServiceFailedLate { service, message });
            if self.has_tasks(id) {
                // The others would wait for an end that does not come.
                self.command_tasks(TaskCommand::CancelRequests { service: id }, out);
            }
        }
        if self.has_tasks(id) {
            return;
        }
        if let Stage::EndingTasks(state) = self.services[id.index()].stage {
            self.check_service_tasks(id);
            self.end_service(id, state, out);
        }
    }

    /// What a pipeline's accounts do not balance by. The job has earned its outcome before.
    fn check_service_tasks(&mut self, id: ServiceId) {
        let of_service = |task: &TaskSetup| task.service == Some(id);
        let reports: Vec<_> = self.tasks.iter().map(|task| task.report.clone()).collect();
        let drained = self.tasks.iter().zip(&self.setup.tasks).filter(|(_, setup)| of_service(setup));
        if drained.into_iter().all(|(task, _)| task.state == ActorState::Finished)
            && let Err(FailureCause::Accounts { place, detail }) = accounts::check(&self.setup, &reports, of_service)
        {
            self.warn(Warning::Accounts { place, detail });
        }
    }

    fn end_service(&mut self, id: ServiceId, state: ActorState, out: &mut Vec<Command>) {
        if self.services[id.index()].is_stopping() {
            out.push(Command::Disarm(Deadline::Service(id)));
        }
        self.put(id, Stage::Gone(state));
        self.stop_last_service(out);
    }

    pub(super) fn abandon_service(&mut self, id: ServiceId, out: &mut Vec<Command>) {
        let Some(service) = self.services.get(id.index()).filter(|service| service.is_stopping()) else { return };
        let has_instance = service.has_instance();
        self.put(id, Stage::Gone(ActorState::Abandoned));
        if has_instance {
            let is_final = self.state != JobState::Restarting;
            self.order(WorkerOrder::AbandonService { service: id, is_final }, out);
        }
        if self.has_tasks(id) {
            self.command_tasks(TaskCommand::CancelRequests { service: id }, out);
            self.abandon_where(|task| task.service == Some(id), out);
        }
        self.warn(Warning::ServiceAbandoned { service: self.service_name(id) });
        self.stop_last_service(out);
    }

    #[cfg(test)]
    pub(super) fn incarnation(&self, id: ServiceId) -> Incarnation {
        self.services[id.index()].incarnation
    }

    fn service_name(&self, id: ServiceId) -> String {
        self.setup.services[id.index()].clone()
    }

    /// Whether the counters say what a search of all services would.
    #[cfg(test)]
    pub(super) fn services_are_counted(&self) -> bool {
        let starting = self.services.iter().filter(|service| service.stage == Stage::Starting).count();
        let waiting = self.services.iter().position(|service| service.stage == Stage::Waiting);
        let last_live = self.services.iter().rposition(Service::is_live);
        self.services_starting == starting
            && self.services_ordered == waiting.unwrap_or(self.services.len())
            && (self.state != JobState::StoppingServices || last_live.is_none_or(|last| last < self.services_left))
    }
}
