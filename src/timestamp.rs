//! A moment by the clock on the wall, as plain data.

use std::{
    fmt,
    ops::{Add, AddAssign, Sub},
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

/// A moment in time: whole microseconds since 1970-01-01T00:00:00 UTC, without leap seconds.
///
/// Unlike [`Instant`](std::time::Instant) it is plain data: it can be stored, sent to another process and read there, and
/// it means the same after a restart. It reaches about 292,000 years to both sides of 1970. It is written (`Display`) as
/// RFC 3339 has it, in UTC.
///
/// Two timestamps compare by the moments that they stand for. That one was taken after another does not make it greater
/// where the two come from different machines, or from different tasks: their clocks may differ.
///
/// ```
/// use std::time::Duration;
///
/// use proscenium::Timestamp;
///
/// let noon = Timestamp::from_micros(1_000_000_000_000_000);
/// let later = noon + Duration::from_millis(1_500);
/// assert!(later > noon);
/// assert_eq!(later.saturating_duration_since(noon), Duration::from_millis(1_500));
/// assert_eq!(later.to_string(), "2001-09-09T01:46:41.500000Z");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timestamp(i64);

const MICROS_PER_SECOND: i64 = 1_000_000;

impl Timestamp {
    /// 1970-01-01T00:00:00 UTC.
    pub const UNIX_EPOCH: Self = Self(0);
    /// The earliest one.
    pub const MIN: Self = Self(i64::MIN);
    /// The latest one.
    pub const MAX: Self = Self(i64::MAX);

    /// So many microseconds after the epoch, or before it if negative.
    #[must_use]
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// The microseconds since the epoch; negative before it.
    #[must_use]
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// As much later as `duration` has whole microseconds; `None` beyond [`MAX`](Self::MAX).
    #[must_use]
    pub fn checked_add(self, duration: Duration) -> Option<Self> {
        self.0.checked_add_unsigned(micros_of(duration)?).map(Self)
    }

    /// As much earlier as `duration` has whole microseconds; `None` before [`MIN`](Self::MIN).
    #[must_use]
    pub fn checked_sub(self, duration: Duration) -> Option<Self> {
        self.0.checked_sub_unsigned(micros_of(duration)?).map(Self)
    }

    /// As [`checked_add`](Self::checked_add), but [`MAX`](Self::MAX) beyond it.
    #[must_use]
    pub fn saturating_add(self, duration: Duration) -> Self {
        self.checked_add(duration).unwrap_or(Self::MAX)
    }

    /// As [`checked_sub`](Self::checked_sub), but [`MIN`](Self::MIN) before it.
    #[must_use]
    pub fn saturating_sub(self, duration: Duration) -> Self {
        self.checked_sub(duration).unwrap_or(Self::MIN)
    }

    /// The time from `earlier` to this moment; zero if `earlier` is later.
    #[must_use]
    pub fn saturating_duration_since(self, earlier: Self) -> Duration {
        if self > earlier { Duration::from_micros(self.0.abs_diff(earlier.0)) } else { Duration::ZERO }
    }

    /// The same moment for the standard library; `None` if the system's own type does not reach it.
    #[must_use]
    pub fn to_system_time(self) -> Option<SystemTime> {
        let distance = Duration::from_micros(self.0.unsigned_abs());
        if self.0 < 0 {
            SystemTime::UNIX_EPOCH.checked_sub(distance)
        } else {
            SystemTime::UNIX_EPOCH.checked_add(distance)
        }
    }
}

fn micros_of(duration: Duration) -> Option<u64> {
    // Not by `as_micros`, which divides 128 bits: this is done for each item of some operators.
    duration.as_secs().checked_mul(MICROS_PER_SECOND.unsigned_abs())?.checked_add(u64::from(duration.subsec_micros()))
}

/// Rounded down to whole microseconds. A time beyond what a `Timestamp` reaches becomes the nearest that it does.
impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        match time.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(after) => Self::UNIX_EPOCH.saturating_add(after),
            Err(error) => {
                let before = error.duration();
                let whole = Self::UNIX_EPOCH.saturating_sub(before);
                let has_rest = !before.subsec_nanos().is_multiple_of(1_000);
                Self(whole.0.saturating_sub(i64::from(has_rest)))
            }
        }
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;

    /// # Panics
    ///
    /// Panics beyond [`Timestamp::MAX`]; see [`Timestamp::checked_add`].
    fn add(self, duration: Duration) -> Self {
        self.checked_add(duration).expect("the timestamp is beyond the latest one")
    }
}

impl AddAssign<Duration> for Timestamp {
    fn add_assign(&mut self, duration: Duration) {
        *self = *self + duration;
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Self;

    /// # Panics
    ///
    /// Panics before [`Timestamp::MIN`]; see [`Timestamp::checked_sub`].
    fn sub(self, duration: Duration) -> Self {
        self.checked_sub(duration).expect("the timestamp is before the earliest one")
    }
}

/// The date of a day, counted from 1970-01-01: year, month and day of the month, by the Gregorian calendar.
fn date_of(day: i64) -> (i64, i64, i64) {
    /// Days in 400 years, after which the calendar repeats itself.
    const CYCLE: i64 = 146_097;
    // Years begin in March here, so that the day that some of them lack is their last. The first cycle began 719,468 days
    // before 1970.
    let day = day + 719_468;
    let (cycle, day) = (day.div_euclid(CYCLE), day.rem_euclid(CYCLE));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (cycle * 400 + year + i64::from(month <= 2), month, day)
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (second, micros) = (self.0.div_euclid(MICROS_PER_SECOND), self.0.rem_euclid(MICROS_PER_SECOND));
        let (day, second) = (second.div_euclid(86_400), second.rem_euclid(86_400));
        let (year, month, day) = date_of(day);
        let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
        // A year of other than four digits is no RFC 3339; a sign in front of it says so.
        if (0..=9_999).contains(&year) {
            write!(f, "{year:04}")?;
        } else {
            write!(f, "{year:+05}")?;
        }
        write!(f, "-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MICRO: Duration = Duration::from_micros(1);

    #[test]
    fn it_is_written_as_rfc_3339_has_it() {
        let shown = |micros| Timestamp::from_micros(micros).to_string();
        assert_eq!(shown(0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(shown(-1), "1969-12-31T23:59:59.999999Z");
        assert_eq!(shown(951_782_400_000_000), "2000-02-29T00:00:00.000000Z");
        assert_eq!(shown(4_107_542_399_000_001), "2100-02-28T23:59:59.000001Z");
        assert_eq!(shown(4_107_542_400_000_000), "2100-03-01T00:00:00.000000Z");
        assert_eq!(shown(253_402_300_799_999_999), "9999-12-31T23:59:59.999999Z");
        assert_eq!(shown(253_402_300_800_000_000), "+10000-01-01T00:00:00.000000Z");
        assert_eq!(Timestamp::MAX.to_string(), "+294247-01-10T04:00:54.775807Z");
        assert_eq!(Timestamp::MIN.to_string(), "-290308-12-21T19:59:05.224192Z");
    }

    #[test]
    fn arithmetic_ends_at_the_earliest_and_at_the_latest() {
        assert_eq!(Timestamp::MAX.checked_add(MICRO), None);
        assert_eq!(Timestamp::MIN.checked_sub(MICRO), None);
        assert_eq!(Timestamp::UNIX_EPOCH.checked_add(Duration::MAX), None);
        assert_eq!(Timestamp::MAX.saturating_add(MICRO), Timestamp::MAX);
        assert_eq!(Timestamp::MIN.saturating_sub(Duration::MAX), Timestamp::MIN);
        let whole = Timestamp::MAX.saturating_duration_since(Timestamp::MIN);
        assert_eq!(Timestamp::MIN + whole, Timestamp::MAX);
        assert_eq!(Timestamp::MIN.saturating_duration_since(Timestamp::MAX), Duration::ZERO);
    }

    #[test]
    fn times_of_the_system_are_rounded_down_on_both_sides_of_the_epoch() {
        let nanos = Duration::from_nanos(1_001);
        assert_eq!(Timestamp::from(SystemTime::UNIX_EPOCH + nanos), Timestamp::from_micros(1));
        assert_eq!(Timestamp::from(SystemTime::UNIX_EPOCH - nanos), Timestamp::from_micros(-2));
        assert_eq!(Timestamp::from(SystemTime::UNIX_EPOCH - MICRO), Timestamp::from_micros(-1));
    }

    proptest! {
        #[test]
        fn a_time_of_the_system_is_the_same_moment(micros in any::<i32>(), duration in 0..u64::from(u32::MAX)) {
            let time = Timestamp::from_micros(i64::from(micros));
            prop_assert_eq!(time.to_system_time().map(Timestamp::from), Some(time));
            let later = time + Duration::from_micros(duration);
            prop_assert_eq!(later.saturating_duration_since(time), Duration::from_micros(duration));
            prop_assert_eq!(later - Duration::from_micros(duration), time);
        }

        #[test]
        fn a_later_one_is_written_behind_an_earlier_one(one in 0..253_402_300_800_000_000_i64, other in 0..253_402_300_800_000_000_i64) {
            let (one, other) = (Timestamp::from_micros(one), Timestamp::from_micros(other));
            prop_assert_eq!(one.cmp(&other), one.to_string().cmp(&other.to_string()));
        }
    }
}
