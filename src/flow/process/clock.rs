//! The clock that timers and expiries go by. Nothing else of a process reads one.
//!
//! It shows the time on the wall, which may be set, but it never jumps: see [`Base::follow`].

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use crate::{host::Host, timestamp::Timestamp};

/// How often the clock on the wall is looked at, at the most.
const FOLLOWED_EVERY: Duration = Duration::from_millis(10);

/// One look at the clock.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub time: Timestamp,
    /// For what is to take a while, whatever the time on the wall.
    pub instant: Instant,
}

/// The clock of one instance of a process.
#[derive(Debug)]
pub(super) struct Clock {
    base: Cell<Base>,
    host: Host,
}

impl Clock {
    pub fn new(host: &Host) -> Self {
        let (wall, instant) = (host.wall().into(), host.now());
        Self { base: Cell::new(Base { time: wall, instant }), host: host.clone() }
    }

    pub fn look(&self) -> Moment {
        let (mut base, mut instant) = (self.base.get(), self.host.now());
        if instant.saturating_duration_since(base.instant) >= FOLLOWED_EVERY {
            // In this order: what happens between the two looks makes the clock late, not early, and no timer fires early.
            let wall = self.host.wall().into();
            instant = self.host.now();
            base = base.follow(instant, wall);
            self.base.set(base);
        }
        Moment { time: base.at(instant), instant }
    }
}

/// What the clock showed at an instant.
#[derive(Debug, Clone, Copy)]
struct Base {
    time: Timestamp,
    instant: Instant,
}

impl Base {
    fn at(self, instant: Instant) -> Timestamp {
        self.time.saturating_add(instant.saturating_duration_since(self.instant))
    }

    /// What it shows at `instant`, when the clock on the wall shows `wall`.
    ///
    /// If that one was set forward, this one goes at double speed until it has caught up; if it was set back, at half
    /// speed until the other one has caught up. So what is to happen after a while happens after half of that time at the
    /// least and double of it at the most, however the clock is set; and what is said of the time becomes right again.
    fn follow(self, instant: Instant, wall: Timestamp) -> Self {
        let passed = instant.saturating_duration_since(self.instant);
        let time = self.at(instant);
        let (behind, ahead) = (wall.saturating_duration_since(time), time.saturating_duration_since(wall));
        let time = time.saturating_add(behind.min(passed)).saturating_sub(ahead.min(passed / 2));
        Self { time, instant }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const HOUR: Duration = Duration::from_secs(3_600);

    /// A clock on the wall that can be set, and one that follows it.
    struct Clocks {
        wall: Timestamp,
        followed: Base,
    }

    impl Clocks {
        fn new() -> Self {
            let wall = Timestamp::from_micros(1_700_000_000_000_000);
            Self { wall, followed: Base { time: wall, instant: Instant::now() } }
        }

        fn pass(&mut self, time: Duration) -> Duration {
            let before = self.followed.time;
            self.wall += time;
            self.followed = self.followed.follow(self.followed.instant + time, self.wall);
            self.followed.time.saturating_duration_since(before)
        }

        fn pass_seconds(&mut self, seconds: u32) -> Duration {
            (0..seconds).map(|_| self.pass(SECOND)).sum()
        }
    }

    #[test]
    fn a_clock_that_is_set_forward_is_caught_up_with_at_double_speed() {
        let mut clocks = Clocks::new();
        assert_eq!(clocks.pass(HOUR), HOUR);
        clocks.wall += 72 * HOUR;
        assert_eq!(clocks.pass_seconds(10), 20 * SECOND, "a timer of an hour does not fire");
        assert_eq!(clocks.pass(72 * HOUR), 144 * HOUR - 10 * SECOND);
        assert_eq!(clocks.followed.time, clocks.wall);
        assert_eq!(clocks.pass(HOUR), HOUR);
    }

    #[test]
    fn a_clock_that_is_set_back_is_waited_for_at_half_speed() {
        let mut clocks = Clocks::new();
        clocks.wall = clocks.wall - 72 * HOUR;
        assert_eq!(clocks.pass_seconds(10), 5 * SECOND, "a timer of 5 seconds fires");
        assert_eq!(clocks.pass(144 * HOUR), 72 * HOUR + 5 * SECOND);
        assert_eq!(clocks.followed.time, clocks.wall);
        assert_eq!(clocks.pass(HOUR), HOUR);
    }

    #[test]
    fn a_clock_beyond_what_can_be_said_is_followed_too() {
        let mut clocks = Clocks::new();
        clocks.followed.time = Timestamp::MAX;
        let next = clocks.followed.follow(clocks.followed.instant + HOUR, Timestamp::MIN);
        assert_eq!(next.time, Timestamp::MAX - HOUR / 2);
    }

    proptest! {
        #[test]
        fn it_never_goes_back_and_never_more_than_twice_as_fast(
            steps in prop::collection::vec((0..10_000_000u64, -100_000_000..100_000_000i64), 1..50),
        ) {
            let mut clocks = Clocks::new();
            for (passed, set) in steps {
                let passed = Duration::from_micros(passed);
                clocks.wall = Timestamp::from_micros(clocks.wall.as_micros() + set);
                let gap = |clocks: &Clocks| clocks.wall.as_micros() - clocks.followed.time.as_micros();
                let before = gap(&clocks);
                let shown = clocks.pass(passed);
                prop_assert!(passed / 2 <= shown && shown <= 2 * passed, "{passed:?} as {shown:?}");
                let after = gap(&clocks);
                prop_assert!(after.abs() <= before.abs() && after.signum() * before.signum() >= 0, "{before} to {after}");
            }
        }
    }

    #[test]
    fn looks_follow_each_other() {
        let host = Host::shared_by_tests();
        let clock = Clock::new(host);
        let mut last = clock.look();
        while last.time.saturating_duration_since(clock.base.get().time) < FOLLOWED_EVERY / 2 {
            let next = clock.look();
            assert!(next.time >= last.time && next.instant >= last.instant);
            last = next;
        }
        assert!(Timestamp::from(host.wall()).saturating_duration_since(last.time) < HOUR, "it is the time on the wall");
    }
}
