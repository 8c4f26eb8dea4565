//! Attempts after the first one: what is kept for them, and how they are deployed.

use std::{rc::Rc, sync::Arc};

use actix::{ActorFutureExt, AsyncContext, Context, Handler, WeakAddr, WrapFuture};

use super::Dispatcher;
use crate::{
    flow::{JobPayload, job::KeptJob, splits::Splits},
    job::{Attempt, BuildRefusal, FailureCause, Graph},
    link::{Prepared, Refusal, WorkerEvents, WorkerId},
    manager::{
        messages::{AttemptDeployed, DeployAttempt, FreeAttempt},
        team::Team,
    },
    protocol::{Order, WorkerOrder},
};

/// What each attempt of a job is made of, so that all lay out one graph.
pub(super) struct Kept {
    pub(super) job: KeptJob,
    pub(super) events: WorkerEvents,
    pub(super) parallelism: usize,
    /// Known once the flow was built.
    pub(super) built: Option<(Arc<Graph>, Arc<Splits>)>,
}

impl Dispatcher {
    /// Keeps the job, if it may have to be built again.
    pub(super) fn keep_job(&mut self, payload: JobPayload, events: &WorkerEvents, parallelism: usize) -> JobPayload {
        if self.options.restart.is_never() {
            return payload;
        }
        let job = KeptJob::new(payload);
        let payload = job.payload();
        self.kept = Some(Kept { job, events: Arc::clone(events), parallelism, built: None });
        payload
    }

    /// Keeps of the first attempt what the others are to be like, and compares those with it.
    pub(super) fn keep(&mut self, prepared: &Prepared) -> Result<(), Refusal> {
        let Some(kept) = &mut self.kept else { return Ok(()) };
        match &kept.built {
            Some((graph, _)) => match graph.difference(&prepared.graph) {
                None => Ok(()),
                Some(difference) => {
                    Err(Refusal::Internal(format!("`build` laid out another flow than at first: {difference}")))
                }
            },
            None => {
                if let Some(operator) = &prepared.read_once {
                    return Err(Refusal::Build(BuildRefusal::ReadOnce { operator: operator.clone() }));
                }
                kept.built = Some((Arc::clone(&prepared.graph), Arc::clone(&prepared.splits)));
                Ok(())
            }
        }
    }

    /// Has everything of another attempt made, by the workers that are there now.
    pub(super) fn deploy(&mut self, attempt: Attempt, avoid: &[WorkerId], ctx: &mut Context<Self>) {
        self.attempt = attempt;
        let Some(kept) = &self.kept else {
            let refusal = Refusal::Internal("nothing was kept of the job to begin anew".to_owned());
            return self.fail(refusal, None, ctx);
        };
        let payload = kept.job.payload();
        self.send(payload, avoid, ctx);
    }

    /// Whether nobody waits for a further attempt any more.
    pub(super) fn is_forsaken(&self) -> bool {
        self.supervisor.as_ref().is_some_and(|supervisor| supervisor.upgrade().is_none())
    }

    /// Another attempt is ready.
    pub(super) fn deployed(&mut self, team: Rc<Team>, ctx: &mut Context<Self>) {
        self.team = Some(Rc::clone(&team));
        self.deployment.set_next(Rc::clone(&team));
        let supervisor = self.supervisor.as_ref().and_then(WeakAddr::upgrade);
        let (attempt, term, job) = (self.attempt, self.term(), self.job);
        let told = async move {
            match supervisor {
                Some(supervisor) => supervisor.send(AttemptDeployed { attempt }).await.unwrap_or(false),
                None => false,
            }
        };
        ctx.spawn(told.into_actor(self).map(move |is_wanted, this, _| {
            if !is_wanted {
                // The job has ended meanwhile.
                team.order(Order { job, term, order: WorkerOrder::Release });
                this.free_slots();
            }
        }));
    }
}

/// Why a job that was to begin anew has not.
pub(super) fn cause_of(refusal: Refusal) -> FailureCause {
    let message = match refusal {
        Refusal::Build(BuildRefusal::WorkerLost { worker }) => {
            let cause = "it went while the next attempt was being prepared".to_owned();
            return FailureCause::WorkerLost { worker, cause };
        }
        Refusal::Build(refusal) => refusal.to_string(),
        Refusal::Internal(message) => message,
        other => format!("{other:?}"),
    };
    FailureCause::NotBegunAnew { message }
}

impl Handler<FreeAttempt> for Dispatcher {
    type Result = ();

    fn handle(&mut self, _: FreeAttempt, _: &mut Self::Context) {
        self.free_slots();
        self.team = None;
    }
}

impl Handler<DeployAttempt> for Dispatcher {
    type Result = ();

    fn handle(&mut self, DeployAttempt { attempt, avoid }: DeployAttempt, ctx: &mut Self::Context) {
        self.deploy(attempt, &avoid, ctx);
    }
}
