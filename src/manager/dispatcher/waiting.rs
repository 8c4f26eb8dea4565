//! A job that waits for a worker.

use std::{pin::pin, rc::Rc};

use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};

use super::Dispatcher;
use crate::{
    flow::JobPayload,
    job::{Attempt, BuildRefusal, JobState, JobStatus},
    link::Refusal,
    manager::messages::JobWaits,
};

impl Dispatcher {
    /// Prepares the job once a worker is there, or refuses it.
    pub(super) fn wait(&mut self, payload: JobPayload, ctx: &mut Context<Self>) {
        let (limit, slots) = (self.limits.slots_deadline, Rc::clone(&self.slots));
        if self.attempt == Attempt::FIRST {
            let seconds = limit.as_secs_f64();
            self.manager.waits.do_send(JobWaits {
                status: Box::new(self.status()),
                sentence: format!("no worker has joined; if none has after {seconds} s, the job is refused"),
            });
        }
        let host = self.host.clone();
        let waited = async move {
            let arrivals = slots.borrow().arrivals();
            host.timeout(limit, async {
                loop {
                    let mut arrival = pin!(arrivals.notified());
                    arrival.as_mut().enable();
                    if slots.borrow().is_staffed() {
                        return;
                    }
                    arrival.await;
                }
            })
            .await
        };
        ctx.spawn(waited.into_actor(self).map(move |waited, this, ctx| match waited {
            // The job has ended meanwhile.
            _ if this.is_forsaken() => drop(this.host.blocking(move || drop(payload))),
            Ok(()) => {
                this.send(payload, &[], ctx);
            }
            Err(_) => this.fail(Refusal::Build(BuildRefusal::NoWorker { waited: limit }), None, ctx),
        }));
    }

    /// How the job reads before it is built.
    pub(super) fn status(&self) -> JobStatus {
        JobStatus {
            id: self.job,
            name: self.name.clone(),
            state: JobState::Starting,
            outcome: None,
            autostop: self.options.autostop,
            version: 0,
            task_count: 0,
            service_count: 0,
            restarts: 0,
            attempt: self.attempt.0,
            last_failure: None,
            dead_letters: 0,
            warnings: Vec::new(),
            submitted_at: self.host.wall(),
            started_at: None,
            ended_at: None,
            lease: self.options.lease,
            held_by: None,
            tasks: Vec::new(),
            services: Vec::new(),
        }
    }
}
