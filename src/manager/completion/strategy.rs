//! How often a job may begin anew, and after what delay.

use std::{collections::VecDeque, time::Duration};

use crate::job::{
    FailureCause, Restart,
    restart::{DELAY_MAX, FIRST_DELAY, RESET_AFTER, RESTARTS_MAX, Strategy},
};

/// What a job that is [`Restarting`](crate::job::JobState::Restarting) waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Between {
    /// The end of its cancelled tasks.
    Tasks,
    /// The end of its dismissed services.
    Services,
    Delay,
    /// Workers that build the flow anew.
    Deployment,
}

/// How often the job has begun anew, and may still.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Attempts {
    restart: Restart,
    /// Since they were last counted from the beginning.
    granted: u32,
    /// When, within the window; bounded by what may be granted there.
    times: VecDeque<Duration>,
    last: Duration,
    pub(super) between: Between,
    /// Before the next attempt.
    pub(super) delay: Duration,
    pub(super) delay_armed: bool,
    /// Why the last attempt that ended did.
    pub(super) last_failure: Option<FailureCause>,
    /// Services that are gone refuse no calls, since they were to come again.
    pub(super) unrefused: bool,
    /// The job was paused when it failed, and is to be paused again.
    pub(super) hold_again: bool,
}

impl Attempts {
    pub(super) fn new(restart: Restart) -> Self {
        Self {
            restart,
            granted: 0,
            times: VecDeque::new(),
            last: Duration::ZERO,
            between: Between::Tasks,
            delay: Duration::ZERO,
            delay_armed: false,
            last_failure: None,
            unrefused: false,
            hold_again: false,
        }
    }

    /// After what delay the job may begin anew, if it may once more.
    pub(super) fn grant(&mut self, at: Duration) -> Option<Duration> {
        match self.restart.0 {
            Strategy::Never => None,
            Strategy::Fixed { restarts, delay } => {
                (self.granted < restarts).then(|| self.granted += 1)?;
                Some(delay)
            }
            Strategy::Exponential => {
                if at.saturating_sub(self.last) >= RESET_AFTER {
                    self.granted = 0;
                }
                (self.granted < RESTARTS_MAX).then(|| self.last = at)?;
                self.granted += 1;
                Some(FIRST_DELAY.saturating_mul(1 << (self.granted - 1)).min(DELAY_MAX))
            }
            Strategy::Rate { restarts, within, delay } => {
                self.times.retain(|&earlier| at.saturating_sub(earlier) <= within);
                (self.times.len() < restarts as usize).then(|| self.times.push_back(at))?;
                Some(delay)
            }
        }
    }
}
