//! Whether, how often and when a job that has failed begins anew.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Whether a job that fails begins anew, how often and after what delay; said at submit, see
/// [`Submit::restart`](crate::Submit::restart).
///
/// ```
/// use std::time::Duration;
///
/// use proscenium::Restart;
///
/// let restart = Restart::fixed(3, Duration::from_secs(1));
/// assert_ne!(restart, Restart::default());
/// assert_eq!(Restart::never(), Restart::default());
/// ```
///
/// Each time, all tasks and services of the job are made anew and begin from the beginning: that is an *attempt*. So every
/// source has to be one that can be [read again](crate::ReplayableSource). What a `collect` has gathered is thrown away first,
/// and sinks, `for_each` and services see items again that they have seen before. There are no snapshots: state of keys begins
/// empty.
///
/// A failed operator, sink or output, a service beyond its own restarts, and a lost worker or connection between two have the
/// job begin anew. What does not: accounts that do not balance and other faults of proscenium itself, a failure after `stop`,
/// and whatever happens once the outputs are whole.
///
/// While the job is [`Restarting`](crate::JobState::Restarting), callers from outside wait for the next instance of a service, each until
/// its deadline. `stop` leaves the last failure as the outcome, `cancel` and the run limit end the job, and `pause` is refused; a job that
/// was paused when it failed is paused again. After a worker was lost, the next attempt begins once that worker cannot go on any more:
/// at once if its process was seen to end, else 5 s later.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Restart(pub(crate) Strategy);

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum Strategy {
    #[default]
    Never,
    Fixed {
        restarts: u32,
        delay: Duration,
    },
    Exponential,
    Rate {
        restarts: u32,
        within: Duration,
        delay: Duration,
    },
}

/// Of [`Restart::exponential`].
pub(crate) const FIRST_DELAY: Duration = Duration::from_secs(1);
pub(crate) const DELAY_MAX: Duration = Duration::from_mins(1);
pub(crate) const RESET_AFTER: Duration = Duration::from_mins(10);
pub(crate) const RESTARTS_MAX: u32 = 20;

impl Restart {
    /// A job that fails has failed. The default.
    #[must_use]
    pub const fn never() -> Self {
        Self(Strategy::Never)
    }

    /// Begins anew `restarts` times at most, each time after `delay`.
    #[must_use]
    pub const fn fixed(restarts: u32, delay: Duration) -> Self {
        Self(Strategy::Fixed { restarts, delay })
    }

    /// Begins anew after 1 s, then after twice as long each time, but after no more than a minute: 20 times at most, counted
    /// from the beginning again where the job has not failed for ten minutes. Each delay is made longer or shorter by up to a tenth, at
    /// random, so that jobs that failed together do not all begin at once.
    #[must_use]
    pub const fn exponential() -> Self {
        Self(Strategy::Exponential)
    }

    /// Begins anew after `delay`, as long as that makes no more than `restarts` times `within` this time.
    #[must_use]
    pub const fn rate(restarts: u32, within: Duration, delay: Duration) -> Self {
        Self(Strategy::Rate { restarts, within, delay })
    }

    /// Whether a job may begin anew at all.
    pub(crate) const fn is_never(self) -> bool {
        matches!(self.0, Strategy::Never)
    }

    /// Whether its delays are to be varied.
    pub(crate) const fn varies(self) -> bool {
        matches!(self.0, Strategy::Exponential)
    }
}
