//! Jobs one after the other.

use std::{
    error::Error,
    time::{Duration, Instant},
};

use proscenium::{BuildError, Environment, Flow, Job};
use serde::{Deserialize, Serialize};

use crate::{
    Place,
    measure::{median, report},
};

/// Ten items into an output.
#[derive(Serialize, Deserialize)]
pub(crate) struct TenItems;

impl Job for TenItems {
    const NAME: &'static str = "ten-items";

    fn build(&self, flow: &mut Flow) -> Result<(), BuildError> {
        flow.from_batch(0..10u64).map(|x| x + 1).collect("items");
        Ok(())
    }
}

pub(crate) fn run_jobs(what: &str, jobs: u64, place: &Place) -> Result<(), Box<dyn Error>> {
    let env = place.open()?;
    let mut latencies = Vec::new();
    let start = Instant::now();
    for _ in 0..jobs {
        latencies.push(run_one(&*env)?);
    }
    report(what, jobs, start.elapsed(), latencies);
    Ok(())
}

const SIZES: [u64; 3] = [10, 100, 1_000];

const ROUNDS: usize = 5;

/// Runs 10, 100 and 1,000 jobs one after the other in an environment of their own, in turn and each as often as it takes to
/// run `total` jobs, and prints what a job costs in each, beside the first.
pub(crate) fn scale(total: u64, place: &Place) -> Result<(), Box<dyn Error>> {
    let mut medians = SIZES.map(|_| Vec::new());
    let mut means = SIZES.map(|_| Vec::new());
    for _ in 0..ROUNDS {
        for (index, size) in SIZES.into_iter().enumerate() {
            let mut latencies = Vec::new();
            for _ in 0..(total / size).max(1) {
                let env = place.open()?;
                // Threads are made for the first one.
                run_one(&*env)?;
                for _ in 0..size {
                    latencies.push(run_one(&*env)?.as_secs_f64() * 1e6);
                }
            }
            means[index].push(latencies.iter().sum::<f64>() / latencies.len() as f64);
            medians[index].push(median(latencies));
        }
    }
    let figures = medians.into_iter().zip(means).map(|(medians, means)| (median(medians), median(means)));
    let mut first = None;
    for (size, (half, mean)) in SIZES.into_iter().zip(figures) {
        let base = *first.get_or_insert((half, mean));
        let (to_half, to_mean) = (half / base.0, mean / base.1);
        println!(
            "job-scale {size} median {half:.1}us mean {mean:.1}us (ratios to the first {to_half:.2} {to_mean:.2})"
        );
    }
    Ok(())
}

fn run_one(env: &dyn Environment) -> Result<Duration, Box<dyn Error>> {
    let start = Instant::now();
    let job = env.submit(TenItems).autostop(true).blocking()?;
    assert!(job.blocking().wait()?.is_completed());
    Ok(start.elapsed())
}
