//! What the machine does to threads that want nothing but to know the time: one for each core, which never sleep.

use std::{error::Error, thread, time::Duration};

use super::{Arrivals, Observed, now};

/// Arrivals in a second, on each thread.
const RATE: f64 = 1e6;

pub(crate) fn latency_nothing(milliseconds: u64) -> Result<(), Box<dyn Error>> {
    let duration = Duration::from_millis(milliseconds);
    let threads = thread::available_parallelism()?.get();
    // One instant for all: that a thread starts late falls into the part that is not recorded.
    let begun = now();
    let running: Vec<_> = (0..threads).map(|_| thread::spawn(move || look_at_the_clock(begun, duration))).collect();
    let mut all = Observed::default();
    for thread in running {
        all.add(&thread.join().map_err(|_| "a thread panicked")?);
    }
    all.print("latency-nothing", RATE * threads as f64, duration);
    Ok(())
}

fn look_at_the_clock(begun: u64, duration: Duration) -> Observed {
    let mut arrivals = Arrivals::new(RATE, duration);
    let mut observed = Observed::default();
    while arrivals.peek().is_some() {
        let now = now();
        while let Some(at) = arrivals.pop(now - begun) {
            observed.record(begun + at, now, now, arrivals.is_recorded(at));
        }
    }
    observed
}
