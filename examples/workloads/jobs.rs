//! Jobs one after the other.

use std::{error::Error, time::Instant};

use proscenium::{BuildError, Flow, Job};
use serde::{Deserialize, Serialize};

use crate::{Place, measure::report};

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
        let one = Instant::now();
        let job = env.submit(TenItems).autostop(true).blocking()?;
        assert!(job.blocking().wait()?.is_completed());
        latencies.push(one.elapsed());
    }
    report(what, jobs, start.elapsed(), latencies);
    Ok(())
}
