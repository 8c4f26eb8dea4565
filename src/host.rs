//! What this crate takes from the machine: clocks, deadlines, threads, a pool for code that blocks, and randomness.
//!
//! It is taken from a [`Host`], which is passed to what needs it. Apart from the command line and the store on disk,
//! nothing else in the crate reads a clock, starts a thread or draws random bytes, so that a job can run where all of these
//! are under control. A second form of the host is a variant here with its file; the threads of [`thread`] are started
//! without a host, by environments, nodes and clients, which such a form would replace.

mod blocking;
mod fence;
mod local;
mod seat;
pub(crate) mod thread;
mod threads;
mod timer;

use std::{
    future::{pending, poll_fn},
    io,
    pin::{Pin, pin},
    task::Poll,
    time::{Duration, Instant, SystemTime},
};

use actix::{Actor, ActorFutureExt, AsyncContext, Context, SpawnHandle, fut::wrap_future};

pub(crate) use self::{
    blocking::Blocking,
    fence::Fence,
    local::{LocalTask, LocalTasks},
    seat::{Seat, SeatHandle},
    threads::ThreadHost,
    timer::{Sleep, TimerThread},
};

/// Seeds the tables of keyed state. At random, so that they resist keys that were chosen to collide.
pub(crate) type TableState = foldhash::fast::SeedableRandomState;

/// The machine as an environment sees it. Clones are the same one, and are cheap.
#[derive(Debug, Clone)]
pub(crate) enum Host {
    /// The operating system's threads, clocks and random bytes.
    Threads(ThreadHost),
}

impl Host {
    /// The clock that never goes back. Meant to be read once a step, not once an item.
    pub fn now(&self) -> Instant {
        match self {
            Self::Threads(threads) => threads.now(),
        }
    }

    /// What the calendar and the clock on the wall say. It may go back.
    pub fn wall(&self) -> SystemTime {
        match self {
            Self::Threads(threads) => threads.wall(),
        }
    }

    /// For how long the machine has been running, with the time in which it was suspended (on Linux), which
    /// [`now`](Self::now) lacks. It says something beside other such times of the same process only.
    pub fn running_for(&self) -> Duration {
        match self {
            Self::Threads(threads) => threads.running_for(),
        }
    }

    /// How long ago `at` was.
    pub fn since(&self, at: Instant) -> Duration {
        self.now().saturating_duration_since(at)
    }

    /// A future that ends at `at`, or at once when the environment has closed. It works on any executor.
    ///
    /// It is registered when it is first polled; dropping it removes it.
    pub fn sleep_until(&self, at: Instant) -> Sleep {
        match self {
            Self::Threads(threads) => threads.sleep_until(at),
        }
    }

    /// As [`sleep_until`](Self::sleep_until), counted from now. It never ends if the clock cannot express the end.
    pub async fn sleep(&self, time: Duration) {
        match self.now().checked_add(time) {
            Some(at) => self.sleep_until(at).await,
            None => pending().await,
        }
    }

    /// The output of `future`, unless it takes longer than `limit`.
    ///
    /// # Cancel safety
    ///
    /// As cancel safe as `future`, which is dropped when the limit has passed.
    pub async fn timeout<F: Future>(&self, limit: Duration, future: F) -> Result<F::Output, Elapsed> {
        let mut future = pin!(future);
        // A limit beyond what the clock can express is none.
        let mut sleep = self.now().checked_add(limit).map(|at| self.sleep_until(at));
        poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            match &mut sleep {
                Some(sleep) => Pin::new(sleep).poll(cx).map(|()| Err(Elapsed)),
                None => Poll::Pending,
            }
        })
        .await
    }

    /// Has `act` called with the actor after this time, unless the actor ends before, or what is returned is cancelled.
    pub fn later<A: Actor<Context = Context<A>>>(
        &self,
        ctx: &mut Context<A>,
        after: Duration,
        act: impl FnOnce(&mut A, &mut Context<A>) + 'static,
    ) -> SpawnHandle {
        let host = self.clone();
        let sleep = wrap_future(async move { host.sleep(after).await });
        ctx.spawn(sleep.map(|(), actor: &mut A, ctx| act(actor, ctx)))
    }

    /// Whether the environment has closed, so that sleeps end early.
    pub fn is_closed(&self) -> bool {
        match self {
            Self::Threads(threads) => threads.is_closed(),
        }
    }

    /// Runs code that may block where nobody waits for its thread. Dropping what is returned does not end the code.
    pub fn blocking<T: Send + 'static>(&self, code: impl FnOnce() -> T + Send + 'static) -> Blocking<T> {
        match self {
            Self::Threads(threads) => threads.blocking(code),
        }
    }

    /// A further place for actors. Those on one seat run one at a time.
    ///
    /// # Panics
    ///
    /// Outside of an actix system, and if the operating system refuses a thread.
    pub fn seat(&self) -> Seat {
        match self {
            Self::Threads(_) => Seat::new(),
        }
    }

    /// Runs `future` beside the caller, on the caller's thread, which is a seat or a thread of the bridge.
    ///
    /// # Panics
    ///
    /// On any other thread.
    pub fn spawn_local(&self, future: impl Future<Output = ()> + 'static) -> LocalTask {
        match self {
            Self::Threads(_) => LocalTask::spawn(future),
        }
    }

    /// Fills `bytes` at random: for ids, nonces and jitter. Keys are drawn by [`fill_secret`], whatever the host is.
    ///
    /// # Errors
    ///
    /// The operating system has no source of random bytes.
    pub fn fill(&self, bytes: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Threads(_) => fill_secret(bytes),
        }
    }

    /// How a new table of keyed state hashes. The order in which a table gives out what it holds depends on nothing else.
    pub fn table_state(&self) -> TableState {
        match self {
            Self::Threads(_) => TableState::random(),
        }
    }
}

/// The limit of [`Host::timeout`] passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Elapsed;

/// Fills `bytes` with what nobody can foresee. Also for what is drawn without an environment.
///
/// # Errors
///
/// The operating system has no source of random bytes.
pub(crate) fn fill_secret(bytes: &mut [u8]) -> io::Result<()> {
    getrandom::fill(bytes).map_err(|error| io::Error::other(error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::hash::BuildHasher;

    use super::*;
    use crate::blocking::block_on;

    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn a_timeout_tells_output_from_delay() {
        let (host, timer) = Host::of_tests();
        assert_eq!(block_on(host.timeout(LONG, async { 7 })), Ok(7));
        assert_eq!(block_on(host.timeout(Duration::from_millis(1), pending::<()>())), Err(Elapsed));
        assert_eq!(block_on(host.timeout(Duration::MAX, async { 8 })), Ok(8));
        timer.stop_and_join();
    }

    #[test]
    fn no_sleep_takes_time_once_the_host_is_closed() {
        let (host, timer) = Host::of_tests();
        assert!(!host.is_closed());
        timer.stop_and_join();
        assert!(host.is_closed());
        block_on(host.sleep(LONG));
    }

    #[test]
    fn code_that_blocks_returns_its_value_or_says_that_it_panicked() {
        let (host, timer) = Host::of_tests();
        assert_eq!(block_on(host.blocking(|| 7)).ok(), Some(7));
        let failed = block_on(host.blocking(|| panic!("no luck")));
        assert!(failed.is_err_and(|error| error.to_string().contains("no luck")));
        timer.stop_and_join();
    }

    #[test]
    fn random_bytes_and_seeds_of_tables_differ_from_one_to_the_next() {
        let (host, timer) = Host::of_tests();
        let mut drawn = [[0; 16]; 2];
        drawn.iter_mut().for_each(|bytes| host.fill(bytes).expect("random bytes"));
        assert_ne!(drawn[0], drawn[1]);
        assert_ne!(host.table_state().hash_one(1), host.table_state().hash_one(1));
        timer.stop_and_join();
    }
}
