//! Latency under load at fixed rates, without coordinated omission.
//!
//! First the top rate is found, as fast as it goes. Then arrivals are drawn at 10, 50 and 90 % of it: a Poisson process, for
//! independent clients come in bursts, and a regular grid would hide what bursts do. The seed is fixed. Arrivals do not wait for
//! anything: what is late is sent as soon as possible, and its latency runs from the *intended* instant, so that a stall counts
//! for everything that should have happened during it. The first tenth of a run is not recorded.
//!
//! How late the generator itself was is printed as `start`. That part of the latency is the generator's own, which competes for
//! the cores with what is measured: on two of them the source shares a thread with one half of the flow, and the caller's thread
//! and the service's, over a connection four threads, have the cores to themselves only if nobody else wants them. What the
//! machine does to a thread that does nothing else is measured by `latency-nothing`.
//!
//! Between arrivals a generator may sleep, or stay awake and yield. Asleep it must be woken, as any client or source is that waits
//! for something: that makes it late by some 10 us for a caller, which goes by the kernel's clock, and by some 30 us for a source,
//! which the environment's timer wakes (a millisecond would be the error of tokio's). Awake it is late only when the machine or the
//! flow is, but it uses up a core. So callers sleep; and a source, whose thread is one of those that are measured anyway, yields:
//! between its looks at the clock that thread works for the other tasks on it. `--between` has either do the other.

pub(crate) mod call;
pub(crate) mod flow;
pub(crate) mod nothing;

use std::{
    error::Error,
    sync::LazyLock,
    time::{Duration, Instant},
};

use clap::ValueEnum;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::measure::scrambled;

/// What is aimed at, in parts of the top rate.
const LOADS: [f64; 3] = [0.1, 0.5, 0.9];

/// Below this part of its aim a rate counts as not reached: the process took longer than it was to last.
const REACHED: f64 = 0.97;

/// Who yields sleeps all the same while the next arrival is further away than this.
const AWAKE: Duration = Duration::from_millis(1);

/// What a generator does until the next arrival.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
pub(crate) enum Between {
    Sleep,
    Yield,
}

impl Between {
    /// How long to sleep if the next arrival is so many nanoseconds away.
    fn sleep(self, gap: u64) -> Option<Duration> {
        let gap = Duration::from_nanos(gap);
        match self {
            Self::Sleep => Some(gap),
            Self::Yield => gap.checked_sub(AWAKE).filter(|gap| !gap.is_zero()),
        }
    }
}

/// Nanoseconds of a clock that all threads of this process share.
fn now() -> u64 {
    static ZERO: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(ZERO.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// The instants of a Poisson process, in nanoseconds from its start.
struct Arrivals {
    mean_gap: f64,
    next: f64,
    end: f64,
    drawn: u64,
}

impl Arrivals {
    fn new(rate: f64, duration: Duration) -> Self {
        let mut arrivals = Self { mean_gap: 1e9 / rate, next: 0.0, end: duration.as_nanos() as f64, drawn: 0 };
        arrivals.draw();
        arrivals
    }

    fn draw(&mut self) {
        let uniform = (scrambled(self.drawn) >> 11) as f64 / (1u64 << 53) as f64;
        self.drawn += 1;
        self.next -= self.mean_gap * (1.0 - uniform).ln();
    }

    /// The next one, unless all have been.
    fn peek(&self) -> Option<u64> {
        (self.next < self.end).then_some(self.next as u64)
    }

    /// The next one, if it is due.
    fn pop(&mut self, now: u64) -> Option<u64> {
        let due = self.peek().filter(|at| *at <= now)?;
        self.draw();
        Some(due)
    }

    /// Whether the run has warmed up by this instant.
    fn is_recorded(&self, at: u64) -> bool {
        at as f64 >= self.end / 10.0
    }
}

/// Nanoseconds, to three digits.
#[derive(Clone, Serialize, Deserialize)]
#[serde(into = "Vec<(u64, u64)>", from = "Vec<(u64, u64)>")]
struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        Self(Histogram::new(3).expect("three digits are possible"))
    }
}

impl Latencies {
    fn record(&mut self, nanoseconds: u64, times: u64) {
        self.0.record_n(nanoseconds, times).expect("it grows as needed");
    }

    fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("it grows as needed");
    }

    fn at(&self, part: f64) -> f64 {
        self.0.value_at_quantile(part) as f64 / 1e3
    }
}

impl From<Latencies> for Vec<(u64, u64)> {
    fn from(latencies: Latencies) -> Self {
        latencies.0.iter_recorded().map(|step| (step.value_iterated_to(), step.count_at_value())).collect()
    }
}

impl From<Vec<(u64, u64)>> for Latencies {
    fn from(steps: Vec<(u64, u64)>) -> Self {
        let mut latencies = Self::default();
        steps.into_iter().for_each(|(value, times)| latencies.record(value, times));
        latencies
    }
}

/// What came of one run.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Observed {
    /// From the intended instant to the end.
    whole: Latencies,
    /// From the intended instant to the start.
    start: Latencies,
    count: u64,
    /// The instants of the first start intended and of the last end.
    first: Option<u64>,
    last: u64,
}

impl Observed {
    fn record(&mut self, intended: u64, started: u64, ended: u64, counts: bool) {
        if counts {
            self.whole.record(ended.saturating_sub(intended), 1);
            self.start.record(started.saturating_sub(intended), 1);
        }
        self.count += 1;
        self.first = Some(self.first.map_or(intended, |first| first.min(intended)));
        self.last = self.last.max(ended);
    }

    fn add(&mut self, other: &Self) {
        self.whole.add(&other.whole);
        self.start.add(&other.start);
        self.count += other.count;
        self.first = self.first.into_iter().chain(other.first).min();
        self.last = self.last.max(other.last);
    }

    fn took(&self) -> Duration {
        Duration::from_nanos(self.last.saturating_sub(self.first.unwrap_or_default()).max(1))
    }

    /// How many there were in a second.
    fn rate(&self) -> f64 {
        self.count as f64 / self.took().as_secs_f64()
    }

    fn print(&self, what: &str, aim: f64, duration: Duration) {
        let rate = self.rate();
        // Not by the rate aimed at, which a short Poisson process misses by chance.
        let not = if self.took().mul_f64(REACHED) > duration { "NOT REACHED, latencies of an overload: " } else { "" };
        let [p50, p99, p999, max] = [0.5, 0.99, 0.999, 1.0].map(|part| self.whole.at(part));
        let (start_p50, start_p99) = (self.start.at(0.5), self.start.at(0.99));
        println!(
            "{what} aim {aim:.0}/s reached {rate:.0}/s {not}p50 {p50:.1}us p99 {p99:.1}us p99.9 {p999:.1}us \
             max {max:.1}us (start p50 {start_p50:.1}us p99 {start_p99:.1}us)"
        );
    }
}

/// Runs at parts of the top rate, and prints what came of it.
fn at_each_load(
    what: &str,
    top: f64,
    duration: Duration,
    mut run: impl FnMut(f64) -> Result<Observed, Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    println!("{what} top {top:.0}/s");
    for load in LOADS {
        let aim = top * load;
        let observed = run(aim)?;
        observed.print(&format!("{what} {:.0}%", load * 100.0), aim, duration);
    }
    Ok(())
}
