//! When a job is ended because nobody holds it.
//!
//! There is a timer only while nobody does. What it finds when it fires decides, so that a hold that came and went
//! meanwhile counts whether or not it was told of yet.

use std::time::Duration;

use actix::{AsyncContext, Context};

use super::JobSupervisor;
use crate::{
    job::{CancelReason, JobState, Warning},
    manager::completion::Event,
};

impl JobSupervisor {
    /// Ends the job if nobody has held it for as long as its lease; else looks again when that will be so.
    pub(super) fn check_lease(&mut self, ctx: &mut Context<Self>) {
        if let Some(timer) = self.lease_timer.take() {
            ctx.cancel_future(timer);
        }
        let (Some(lease), Some(unheld)) = (self.record.lease, self.record.holds.unheld_for()) else { return };
        match lease.checked_sub(unheld).filter(|left| !left.is_zero()) {
            Some(left) => self.look_again(left, ctx),
            None => self.expire_lease(lease, ctx),
        }
    }

    fn look_again(&mut self, after: Duration, ctx: &mut Context<Self>) {
        self.lease_timer = Some(self.host.later(ctx, after, |this, ctx| {
            this.lease_timer = None;
            this.check_lease(ctx);
        }));
    }

    /// A job that can still drain does so, and is looked at again; one that drains has had the time.
    fn expire_lease(&mut self, lease: Duration, ctx: &mut Context<Self>) {
        let state = self.completion.state();
        tracing::warn!(environment = %self.environment, job = %self.record.id, %state, ?lease, "nobody holds the job");
        match state {
            JobState::Draining => self.hear(Event::Cancel(CancelReason::LeaseExpired), ctx),
            // It ends by itself, each service within its deadline.
            JobState::StoppingServices | JobState::Ended => {}
            JobState::Starting
            | JobState::Running
            | JobState::Restarting
            | JobState::Pausing
            | JobState::Paused
            | JobState::Idle => {
                let holder = self.record.holds.holder();
                self.hear(Event::LeaseExpired(Warning::LeaseExpired { lease, holder }), ctx);
                self.look_again(lease, ctx);
            }
        }
    }
}
