//! How long to wait before another attempt to connect.

use std::time::Duration;

use crate::host::Host;

/// The wait after the first failed attempt, and the longest; each is twice the one before, and shortened at random by up
/// to half, so that the clients of a node that comes back do not all come at once.
const FIRST: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_secs(1);

/// The waits between attempts that fail one after the other.
pub(super) struct Backoff {
    next: Duration,
    longest: Duration,
}

impl Backoff {
    pub(super) fn new() -> Self {
        Self::up_to(LONGEST)
    }

    /// With another longest wait.
    pub(super) fn up_to(longest: Duration) -> Self {
        Self { next: FIRST, longest }
    }

    /// The next wait.
    pub(super) fn next(&mut self, host: &Host) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(self.longest);
        let mut random = [0; 4];
        // Without randomness the clients come at once, which is no reason not to come.
        let _ = host.fill(&mut random);
        wait.mul_f64(1.0 - 0.5 * f64::from(u32::from_le_bytes(random)) / f64::from(u32::MAX))
    }
}
