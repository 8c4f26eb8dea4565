//! Calls of a service from a thread outside.

use std::{
    error::Error,
    future::ready,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::{Duration, Instant},
};

use futures::{StreamExt, TryStreamExt, stream, stream::FuturesUnordered};
use proscenium::{CallError, ServiceRef};

use super::{Arrivals, Between, Observed, at_each_load, now};
use crate::services::{Counter, Sum};

const IN_FLIGHT: usize = 64;

/// Calls in a second with so many in flight.
fn top_rate(counter: &ServiceRef<Counter>, duration: Duration) -> Result<f64, Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(async {
        let start = Instant::now();
        let calling = stream::repeat(()).take_while(|()| ready(start.elapsed() < duration));
        let calling = calling.map(async |()| counter.call(Sum).await.map(|_| 1));
        let count = calling.buffer_unordered(IN_FLIGHT).try_fold(0u64, async |sum, one| Ok(sum + one)).await?;
        Ok(count as f64 / start.elapsed().as_secs_f64())
    })
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Calls at the instants of a Poisson process, however many are in flight.
///
/// If it sleeps, then until the next instant or answer.
fn open_loop(counter: &ServiceRef<Counter>, mut arrivals: Arrivals, between: Between) -> Result<Observed, CallError> {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut cx = Context::from_waker(&waker);
    let mut calls = FuturesUnordered::new();
    let mut observed = Observed::default();
    let begun = now();
    loop {
        let elapsed = now() - begun;
        while let Some(at) = arrivals.pop(elapsed) {
            let counts = arrivals.is_recorded(at);
            calls.push(async move {
                let started = now();
                (begun + at, started, counts, counter.call(Sum).await)
            });
        }
        while let Poll::Ready(Some((intended, started, counts, answer))) = calls.poll_next_unpin(&mut cx) {
            answer?;
            observed.record(intended, started, now(), counts);
        }
        match arrivals.peek() {
            Some(at) => match between.sleep(at.saturating_sub(now() - begun)) {
                Some(pause) => thread::park_timeout(pause),
                None => thread::yield_now(),
            },
            None if calls.is_empty() => return Ok(observed),
            None => thread::park(),
        }
    }
}

pub(crate) fn latency_call(
    counter: &ServiceRef<Counter>,
    milliseconds: u64,
    between: Option<Between>,
) -> Result<(), Box<dyn Error>> {
    let between = between.unwrap_or(Between::Sleep);
    // By default the kernel wakes a thread up to 50 us late, so as to wake several at once.
    #[cfg(target_os = "linux")]
    rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1))?;
    let duration = Duration::from_millis(milliseconds);
    let top = top_rate(counter, duration / 2)?;
    at_each_load("latency-call", top, duration, |rate| Ok(open_loop(counter, Arrivals::new(rate, duration), between)?))
}
