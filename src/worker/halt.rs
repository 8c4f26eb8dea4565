//! Dropping all jobs of a worker at once: the JobManager that it has them from is lost, or has given it up.

use actix::{Context, Handler, Message};

use super::{Worker, task::Unstarted, team::Attendance};
use crate::protocol::TaskCommand;

/// See [`WorkerLink::halt`](crate::link::OwnWorker::halt).
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct HaltWorker;

impl Handler<HaltWorker> for Worker {
    type Result = ();

    fn handle(&mut self, _: HaltWorker, _: &mut Context<Self>) {
        // What is being built just now is not hosted when it is done.
        self.halts += 1;
        let mut jobs = std::mem::take(&mut self.jobs);
        let (mut unstarted, mut unlaunched) = (Vec::new(), Vec::new());
        for hosted in jobs.values_mut() {
            hosted.attendance.iter().for_each(Attendance::break_off);
            for task in &mut hosted.tasks {
                match task.take_unstarted() {
                    Some(waiting) => unstarted.push(waiting),
                    None => task.command(TaskCommand::Cancel),
                }
                // The thread ends with the last task on it. One whose code does not return so holds up no later job.
                if let Some(thread) = &task.thread {
                    self.task_slots[task.slot].retire(thread);
                }
            }
            hosted.home.iter().flat_map(|home| &home.gates).for_each(|gate| gate.release());
            for service in hosted.services.values() {
                service.recipe.abandon();
                unlaunched.extend(service.take_waiting());
                if let Some(thread) = &service.thread {
                    self.service_slots[service.slot].retire(thread);
                }
            }
        }
        // Not here, because values of the user's are dropped.
        self.config.host.blocking(move || {
            unstarted.into_iter().for_each(Unstarted::cancel);
            drop((unlaunched, jobs));
        });
    }
}
