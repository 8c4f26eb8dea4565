//! How the world carries out commands, and which of them it finds wrong.

use super::{Fault, ServiceActor, ServiceStage, TaskActor, TaskStage, World};
use crate::{
    job::{Attempt, Incarnation, JobState, ServiceId},
    manager::completion::{Command, Deadline, TaskSetup},
    protocol::{TaskCommand, WorkerOrder},
};

impl World {
    pub(super) fn obey(&mut self, command: Command) {
        self.fault_if(self.ended, Fault::AfterEnd);
        match command {
            Command::Order { attempt, order } => {
                self.fault_if(attempt != self.machine.attempt(), Fault::Misdirected);
                self.obey_order(order);
            }
            Command::Deploy { attempt } => self.deploy(attempt),
            Command::StartTasks { attempt } => {
                self.fault_if(attempt != self.machine.attempt(), Fault::Misdirected);
                let down = self
                    .services
                    .iter()
                    .any(|service| !matches!(service.stage, ServiceStage::Running | ServiceStage::Gone));
                self.fault_if(down, Fault::Unbegun);
                for task in &mut self.tasks {
                    task.stage = TaskStage::Running;
                }
            }
            Command::Arm(deadline) => {
                let again = self.deadlines.insert(deadline, true).is_some();
                self.fault_if(again, Fault::ArmedTwice);
            }
            Command::Disarm(deadline) => {
                let idle = self.deadlines.insert(deadline, false) != Some(true);
                self.fault_if(idle, Fault::Misdirected);
            }
            Command::SealOutputs { complete } => {
                let again = self.sealed.replace(complete).is_some();
                self.fault_if(again, Fault::SealedTwice);
                let writes = self.significant().any(TaskActor::is_live);
                self.fault_if(writes, Fault::Misdirected);
            }
            Command::Ended(outcome) => {
                self.ended = true;
                self.fault_if(self.machine.outcome() != Some(&outcome), Fault::AfterEnd);
            }
        }
    }

    fn obey_order(&mut self, order: WorkerOrder) {
        match order {
            WorkerOrder::StartService { service, incarnation } => {
                let actor = &mut self.services[service.index()];
                let lives = actor.is_live();
                actor.stage = ServiceStage::Starting;
                actor.incarnation = incarnation.0;
                self.fault_if(lives || self.gates_closed, Fault::Misdirected);
            }
            WorkerOrder::DropTasks => {
                let started = self.tasks.iter().any(|task| task.stage != TaskStage::Waiting);
                self.fault_if(started, Fault::Misdirected);
            }
            WorkerOrder::CommandTasks { command, .. } => self.command_tasks(command),
            WorkerOrder::CloseGates => {
                let again = std::mem::replace(&mut self.gates_closed, true);
                self.fault_if(again, Fault::Misdirected);
            }
            WorkerOrder::StopService { service, incarnation } => {
                self.fault_if(!self.gates_closed, Fault::OpenGate);
                self.tell_to_end(service, incarnation);
            }
            WorkerOrder::DismissService { service, incarnation } => {
                self.fault_if(!self.anew, Fault::AnewUnasked);
                // For those who wait for one that is gone.
                if self.services[service.index()].stage != ServiceStage::Gone {
                    self.tell_to_end(service, incarnation);
                }
            }
            WorkerOrder::EndAttempt => {
                self.fault_if(self.attempt_ended, Fault::Misdirected);
                self.attempt_ended = true;
            }
            WorkerOrder::RefuseCalls { service } => {
                let lives = self.services[service.index()].is_live();
                self.fault_if(lives, Fault::Misdirected);
            }
            WorkerOrder::AbandonTasks { tasks, .. } => {
                for task in tasks {
                    self.tasks[task.index()].stage = TaskStage::Abandoned;
                }
            }
            WorkerOrder::AbandonService { service, is_final } => {
                self.fault_if(is_final == (self.machine.state() == JobState::Restarting), Fault::Misdirected);
                let at = service.index();
                // It said that it runs, and was never told to stop.
                let untold = self.services[at].stage == ServiceStage::Running && !self.awaits_report_of_service(at);
                self.services[at].stage = ServiceStage::Gone;
                self.fault_if(untold, Fault::Misdirected);
            }
            WorkerOrder::StartTasks { .. } | WorkerOrder::Release => self.fault_if(true, Fault::Misdirected),
        }
    }

    fn tell_to_end(&mut self, service: ServiceId, incarnation: Incarnation) {
        let mut tasks = self.tasks.iter().zip(&self.machine.setup.tasks);
        // A pipeline may call the services that were registered before it.
        let callers = tasks.any(|(task, setup)| task.is_live() && setup.service.is_none_or(|of| of > service));
        self.fault_if(callers, Fault::StopUnderTask);
        let later_lives = self.services[service.index() + 1..].iter().any(ServiceActor::is_live);
        self.fault_if(later_lives, Fault::StopOutOfOrder);
        let actor = &mut self.services[service.index()];
        let misdirected =
            actor.incarnation != incarnation.0 || !matches!(actor.stage, ServiceStage::Running | ServiceStage::Gone);
        if actor.stage == ServiceStage::Running {
            actor.stage = ServiceStage::Told;
        }
        self.fault_if(misdirected, Fault::Misdirected);
    }

    /// Everything begins from the beginning. What is late of the attempt before is tried by the stale events.
    fn deploy(&mut self, attempt: Attempt) {
        let lives = self.tasks.iter().any(TaskActor::is_live) || self.services.iter().any(ServiceActor::is_live);
        let ended = std::mem::take(&mut self.attempt_ended);
        self.fault_if(lives || !ended, Fault::AnewUnended);
        let unasked = !std::mem::take(&mut self.anew) || self.first.is_some() || self.stopped;
        self.fault_if(unasked || self.restarts_left == 0 || attempt.0 < 2, Fault::AnewUnasked);
        self.restarts_left = self.restarts_left.saturating_sub(1);
        self.tasks.fill(TaskActor::new());
        for service in &mut self.services {
            service.stage = ServiceStage::Waiting;
            service.incarnation += 1;
            service.failures = 0;
        }
        self.deadlines.retain(|deadline, _| *deadline == Deadline::RunLimit);
        self.mail.clear();
        self.dropped = 0;
        self.close_loop();
        self.deploying = true;
    }

    fn command_tasks(&mut self, command: TaskCommand) {
        self.fault_if(!self.tasks.iter().any(|task| task.stage != TaskStage::Waiting), Fault::Misdirected);
        if let TaskCommand::EndRequests { service } = command {
            self.fault_if(self.services[service.index()].is_live(), Fault::EndUnderCalls);
        }
        let setup = std::sync::Arc::clone(&self.machine.setup);
        let tasks = self.tasks.iter_mut().zip(&setup.tasks).filter(|(task, _)| task.stage == TaskStage::Running);
        for (task, TaskSetup { service, .. }) in tasks {
            task.unasked |= service.is_some_and(|service| command == (TaskCommand::EndRequests { service }));
            task.cancel |= service.is_some_and(|service| command == (TaskCommand::CancelRequests { service }));
            if service.is_some() && command != TaskCommand::Cancel {
                continue;
            }
            task.hold = match command {
                TaskCommand::Hold { epoch } => Some((epoch, false)),
                TaskCommand::Stop | TaskCommand::Cancel | TaskCommand::Resume => None,
                _ => task.hold,
            };
            task.stop |= command == TaskCommand::Stop;
            task.cancel |= command == TaskCommand::Cancel;
        }
        self.command_loop(command);
    }

    pub(super) fn fault_if(&mut self, wrong: bool, fault: Fault) {
        if wrong {
            self.faults.insert(fault);
        }
    }
}
