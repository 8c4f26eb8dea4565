//! How a job that failed begins anew: what has to be waited for, and the team that takes the place of the last one.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use actix::{AsyncContext, Context, Handler};

use super::JobSupervisor;
use crate::{
    job::{Attempt, FailureCause},
    link::{Departure, WORKER_SILENCE, WorkerId},
    manager::{
        completion::{Between, Deadline, Event},
        messages::{AttemptDeployed, AttemptUndeployed, DeployAttempt, FreeAttempt, WorkerEnded, WorkerGone},
    },
};

/// A worker that was lost and may go on all the same.
pub(super) struct Fenced {
    name: String,
    until: Instant,
}

impl JobSupervisor {
    /// The delay before the next attempt begins.
    pub(super) fn restart_delay(&mut self) -> Duration {
        let mut delay = self.completion.restart_delay();
        if self.restart.varies() {
            let mut byte = [0];
            // Without random bytes it is as long as it is.
            if self.host.fill(&mut byte).is_ok() {
                delay = delay.mul_f64(0.9 + 0.2 * f64::from(byte[0]) / 255.0);
            }
        }
        self.delayed_until = self.host.now() + delay;
        self.left_of_delay()
    }

    /// What is left of it: as the strategy has it, and until no lost worker can go on any more.
    fn left_of_delay(&self) -> Duration {
        let now = self.host.now();
        let fenced = self.fences.values().map(|fenced| fenced.until.saturating_duration_since(now));
        fenced.fold(self.delayed_until.saturating_duration_since(now), Duration::max)
    }

    /// What the next attempt waits for beyond its delay, in sentences.
    pub(super) fn fence_waits(&self) -> impl Iterator<Item = String> {
        let is_waited_for = self.completion.between() == Some(Between::Delay);
        let fenced = self.fences.values().filter(move |_| is_waited_for);
        fenced.map(|Fenced { name, .. }| {
            let seconds = WORKER_SILENCE.as_secs();
            format!("worker `{name}` may go on until its lease is over, which is {seconds} s after it was lost at the latest")
        })
    }

    pub(super) fn begin_anew(&mut self, attempt: Attempt) {
        // A link to a worker that is lost says nothing of the other one.
        let mut broken = std::mem::take(&mut self.avoid);
        broken.retain(|pair| !pair.iter().flatten().any(|worker| self.lost.contains(worker)));
        let avoid: BTreeSet<WorkerId> = broken.into_iter().flatten().flatten().collect();
        let avoid: Vec<WorkerId> = avoid.into_iter().collect();
        tracing::info!(
            environment = %self.environment, job = %self.record.id, attempt = attempt.0, ?avoid, "job begins anew"
        );
        self.fences.clear();
        self.early.clear();
        self.record.dead.clear();
        self.record.workers.clear();
        self.record.service_workers.clear();
        self.record.counted.clear();
        self.deploy_attempt.do_send(DeployAttempt { attempt, avoid });
    }

    /// Nothing of the attempt is left on other workers.
    pub(super) fn leave_team(&mut self) {
        self.team = self.team.at_home();
        self.free_attempt.do_send(FreeAttempt);
    }

    pub(super) fn lose(&mut self, gone: WorkerGone, ctx: &mut Context<Self>) {
        let WorkerGone { worker, name, why, departure } = gone;
        let Some(number) = self.team.lose(worker) else { return };
        if departure == Departure::Unreachable {
            let until = self.host.now() + WORKER_SILENCE;
            self.fences.insert(worker, Fenced { name: name.clone(), until });
        }
        let cause = FailureCause::WorkerLost { worker: name, cause: why };
        let (tasks, services) = (self.team.tasks_of(number), self.team.services_of(number));
        self.hear(Event::Lost { attempt: self.completion.attempt(), tasks, services, gone: true, cause }, ctx);
    }
}

impl Handler<WorkerEnded> for JobSupervisor {
    type Result = ();

    fn handle(&mut self, WorkerEnded { worker }: WorkerEnded, ctx: &mut Self::Context) {
        let was_fenced = self.fences.remove(&worker).is_some();
        if was_fenced && let Some(timer) = self.deadlines.remove(&Deadline::Restart) {
            // It was waited for.
            ctx.cancel_future(timer);
            self.arm_after(Deadline::Restart, self.left_of_delay(), ctx);
        }
    }
}

impl Handler<AttemptDeployed> for JobSupervisor {
    type Result = bool;

    fn handle(&mut self, AttemptDeployed { attempt }: AttemptDeployed, ctx: &mut Self::Context) -> bool {
        let is_wanted = attempt == self.completion.attempt() && self.completion.between() == Some(Between::Deployment);
        let Some(team) = self.deployment.take_next().filter(|_| is_wanted) else { return false };
        self.record.workers = team.workers();
        self.record.service_workers = team.service_workers();
        self.team = team;
        self.hear(Event::Deployed { attempt }, ctx);
        for event in std::mem::take(&mut self.early) {
            Handler::handle(self, event, ctx);
        }
        // Those that went meanwhile.
        let members = self.team.members().iter().filter_map(|member| Some((member.id?, member.name.clone())));
        let gone: Vec<_> = members.filter(|(id, _)| self.lost.contains(id)).collect();
        for (worker, name) in gone {
            let why = "it went while the next attempt was being prepared".to_owned();
            self.lose(WorkerGone { worker, name, why, departure: Departure::Unreachable }, ctx);
        }
        true
    }
}

impl Handler<AttemptUndeployed> for JobSupervisor {
    type Result = ();

    fn handle(&mut self, AttemptUndeployed { attempt, cause }: AttemptUndeployed, ctx: &mut Self::Context) {
        tracing::warn!(environment = %self.environment, job = %self.record.id, %cause, "the job did not begin anew");
        self.hear(Event::Undeployed { attempt, cause }, ctx);
    }
}
