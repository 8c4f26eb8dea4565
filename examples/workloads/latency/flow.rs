//! Items from a source, over an exchange between threads, to a state for each key and a sink.

use std::{error::Error, time::Duration};

use proscenium::{BuildError, Flow, Job, Next, Source, TaskContext, TaskError};
use serde::{Deserialize, Serialize};

use super::{Arrivals, Between, Observed, at_each_load, now};
use crate::{Place, measure::scrambled};

const KEYS: u64 = 10_000;

/// Items handed out at once by a source that is behind: few, so that the size of batches is up to the runtime.
const CHUNK: usize = 64;

#[derive(Serialize, Deserialize)]
pub(crate) struct PacedFlow {
    rate: f64,
    duration: Duration,
    between: Between,
}

impl Job for PacedFlow {
    const NAME: &'static str = "paced-flow";

    fn build(&self, flow: &mut Flow) -> Result<(), BuildError> {
        flow.from_source(Paced::new(self))
            .map(|item| Item { key: scrambled(item.key) % KEYS, ..item })
            .key_by(|item| item.key)
            .map_with_state(0u64, |_, seen, item| {
                *seen += 1;
                item
            })
            .fold_assoc(
                Observed::default(),
                |observed, item| observed.record(item.intended, item.started, now(), item.counts),
                |observed, more| observed.add(&more),
            )
            .collect("observed");
        Ok(())
    }
}

#[derive(Serialize, Deserialize)]
struct Item {
    key: u64,
    intended: u64,
    started: u64,
    counts: bool,
}

/// Emits items at the instants of a Poisson process, several at once when they are due. It gives up when it is behind by as much
/// time as the process lasts.
struct Paced {
    arrivals: Arrivals,
    limit: u64,
    begun: Option<u64>,
    between: Between,
}

impl Paced {
    fn new(PacedFlow { rate, duration, between }: &PacedFlow) -> Self {
        let limit = 2 * u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 2);
        Self { arrivals: Arrivals::new(*rate, *duration), limit, begun: None, between: *between }
    }
}

impl Source for Paced {
    type Item = Item;

    async fn next(&mut self, _: &TaskContext) -> Result<Next<Item>, TaskError> {
        let begun = *self.begun.get_or_insert_with(now);
        loop {
            let started = now();
            let elapsed = started - begun;
            let mut due = Vec::new();
            while due.len() < CHUNK
                && let Some(at) = self.arrivals.pop(elapsed)
            {
                let counts = self.arrivals.is_recorded(at);
                due.push(Item { key: self.arrivals.drawn, intended: begun + at, started, counts });
            }
            if !due.is_empty() && elapsed < self.limit {
                return Ok(Next::Items(due));
            }
            match self.arrivals.peek().map(|at| at.saturating_sub(elapsed)) {
                Some(gap) if elapsed < self.limit => {
                    if let Some(pause) = self.between.sleep(gap) {
                        return Ok(Next::Later(pause));
                    }
                    // The task has nothing to do then: it passes on what it has, and the others of its thread have their turn.
                    tokio::task::yield_now().await;
                }
                _ => return Ok(Next::End),
            }
        }
    }
}

pub(crate) fn latency_flow(milliseconds: u64, place: &Place) -> Result<(), Box<dyn Error>> {
    let duration = Duration::from_millis(milliseconds);
    let between = place.between.unwrap_or(Between::Yield);
    let run = |rate, duration| -> Result<Observed, Box<dyn Error>> {
        let env = place.open()?;
        let job = env.submit(PacedFlow { rate, duration, between }).autostop(true).blocking()?;
        let outcome = job.blocking().wait()?;
        if !outcome.is_completed() {
            return Err(outcome.to_string().into());
        }
        Ok(job.output("observed").blocking()?.swap_remove(0))
    };
    // A rate that nothing keeps up with, so that the source gives up after twice the time.
    let top = run(1e12, duration / 3)?.rate();
    at_each_load("latency-flow", top, duration, |rate| run(rate, duration))
}
