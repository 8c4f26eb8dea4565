//! When a job that has failed begins anew, and what has to be over before it does.
//!
//! An *attempt* is one deployment of all its tasks and services. One that fails is ended whole first: its tasks are cancelled, then
//! its services dismissed, the last one first. After a delay everything is deployed anew, and begins from the beginning.

use std::time::Duration;

use super::{
    Command, Completion, Course, Deadline,
    loops::Loop,
    services::Service,
    strategy::Between,
    tasks::{Census, Task},
};
use crate::{
    job::{Attempt, FailureCause, JobState},
    protocol::WorkerOrder,
};

impl Completion {
    /// How long the job waits before it begins anew.
    pub(crate) fn restart_delay(&self) -> Duration {
        self.attempts.delay
    }

    /// Why the attempt before this one failed; of a job that is about to begin anew, why the last one did.
    pub(crate) fn last_failure(&self) -> Option<&FailureCause> {
        self.attempts.last_failure.as_ref()
    }

    /// What a job that is `Restarting` waits for.
    pub(crate) fn between(&self) -> Option<Between> {
        (self.state == JobState::Restarting).then_some(self.attempts.between)
    }

    /// Takes the course that this failure leads to, unless another was taken before. Whether it was.
    pub(super) fn turn_to_failure(&mut self, cause: FailureCause) -> bool {
        if self.course != Course::Onward || self.state == JobState::StoppingServices {
            return false;
        }
        // A fault of ours is to be seen, not tried again; what `stop` has cut short is not begun anew; and outputs that are
        // whole are not emptied.
        let is_ours = matches!(cause, FailureCause::Accounts { .. } | FailureCause::Internal(_));
        let is_final = is_ours || self.stop_requested || self.verdict.is_some();
        match if is_final { None } else { self.attempts.grant(self.now) } {
            Some(delay) => {
                self.attempts.hold_again |= matches!(self.state, JobState::Pausing | JobState::Paused);
                self.attempts.delay = delay;
                self.attempts.last_failure = Some(cause);
                self.attempts.unrefused = true;
                self.course = Course::Anew;
            }
            None => self.course = Course::Failed(cause),
        }
        true
    }

    /// There is to be no further attempt: the last failure stands.
    pub(super) fn give_up_restarting(&mut self, out: &mut Vec<Command>) {
        let cause = self.attempts.last_failure.clone();
        self.course = Course::Failed(
            cause.unwrap_or_else(|| FailureCause::Internal("a job began anew without a cause".to_owned())),
        );
        self.follow(out);
    }

    /// No task of the attempt is live: dismisses its services.
    pub(super) fn end_attempt(&mut self, out: &mut Vec<Command>) {
        self.release_loops(out);
        self.disarm_tasks(out);
        self.attempts.between = Between::Services;
        self.enter(JobState::Restarting);
        self.services_left = self.services_ordered;
        self.stop_last_service(out);
    }

    /// Nothing of the attempt is live.
    pub(super) fn await_next_attempt(&mut self, out: &mut Vec<Command>) {
        self.order(WorkerOrder::EndAttempt, out);
        self.await_delay(out);
    }

    fn await_delay(&mut self, out: &mut Vec<Command>) {
        self.attempts.between = Between::Delay;
        self.attempts.delay_armed = true;
        out.push(Command::Arm(Deadline::Restart));
        self.touch();
    }

    /// The delay has passed.
    pub(super) fn begin_anew(&mut self, out: &mut Vec<Command>) {
        self.attempt = Attempt(self.attempt.0 + 1);
        self.course = Course::Onward;
        self.attempts.unrefused = false;
        self.tasks = vec![Task::default(); self.setup.tasks.len()];
        self.census = Census::new(self.setup.services.len());
        self.services.iter_mut().for_each(Service::begin_anew);
        (self.services_ordered, self.services_starting, self.services_left) = (0, 0, 0);
        self.loops = vec![Loop::default(); self.setup.loops.len()];
        self.attempts.between = Between::Deployment;
        self.touch();
        out.push(Command::Deploy { attempt: self.attempt });
    }

    /// The workers are ready for the attempt.
    pub(super) fn deployed(&mut self, out: &mut Vec<Command>) {
        if self.between() == Some(Between::Deployment) {
            self.enter(JobState::Starting);
            self.start_next_service(out);
        }
    }

    /// The attempt could not be deployed, and nothing of it is left.
    pub(super) fn undeployed(&mut self, cause: FailureCause, out: &mut Vec<Command>) {
        if self.between() != Some(Between::Deployment) || !self.turn_to_failure(cause) {
            return;
        }
        if self.course == Course::Anew { self.await_delay(out) } else { self.conclude(out) }
    }

    pub(super) fn disarm_delay(&mut self, out: &mut Vec<Command>) {
        if std::mem::take(&mut self.attempts.delay_armed) {
            out.push(Command::Disarm(Deadline::Restart));
        }
    }
}
