//! The host that is a process of the operating system.

use std::time::{Duration, Instant, SystemTime};

use tokio::runtime::Handle;

use super::{
    Blocking, Host,
    timer::{Sleep, Timer, TimerThread},
};

/// Threads, clocks and random bytes as the operating system has them.
#[derive(Debug, Clone)]
pub(crate) struct ThreadHost {
    timer: Timer,
    /// The runtime with the pool for code that blocks. It does not keep it open.
    pool: Handle,
}

impl Host {
    /// Starts the thread for deadlines, by this name. Code that blocks runs on the pool of `pool`.
    ///
    /// # Panics
    ///
    /// Panics if the operating system refuses to make a thread.
    pub fn on_threads(timer_name: &str, pool: &Handle) -> (Self, TimerThread) {
        let (timer, thread) = Timer::start(timer_name);
        (Self::Threads(ThreadHost { timer, pool: pool.clone() }), thread)
    }

    /// The same host, whose code that blocks runs on another pool.
    pub fn with_pool(&self, pool: &Handle) -> Self {
        match self {
            Self::Threads(ThreadHost { timer, .. }) => {
                Self::Threads(ThreadHost { timer: timer.clone(), pool: pool.clone() })
            }
        }
    }

    /// A host for a test that closes it itself. Its pool is that of all tests of the process.
    #[cfg(any(test, fuzzing))]
    pub fn of_tests() -> (Self, TimerThread) {
        use std::sync::OnceLock;
        static POOL: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
        let pool = POOL.get_or_init(|| super::thread::pool(8, "pool".to_owned()).expect("a pool"));
        Self::on_threads("timer", pool.handle())
    }

    /// The host of all tests that close none.
    #[cfg(any(test, fuzzing))]
    pub fn shared_by_tests() -> &'static Self {
        use std::sync::OnceLock;
        static HOST: OnceLock<(Host, TimerThread)> = OnceLock::new();
        &HOST.get_or_init(Self::of_tests).0
    }
}

impl ThreadHost {
    pub(super) fn now(&self) -> Instant {
        Instant::now()
    }

    #[cfg(target_os = "linux")]
    pub(super) fn running_for(&self) -> Duration {
        use rustix::time::{ClockId, clock_gettime};
        // It is never negative.
        Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default()
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn running_for(&self) -> Duration {
        static FIRST: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        FIRST.get_or_init(Instant::now).elapsed()
    }

    pub(super) fn wall(&self) -> SystemTime {
        SystemTime::now()
    }

    pub(super) fn sleep_until(&self, at: Instant) -> Sleep {
        self.timer.sleep_until(at)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.timer.is_stopped()
    }

    pub(super) fn blocking<T: Send + 'static>(&self, code: impl FnOnce() -> T + Send + 'static) -> Blocking<T> {
        Blocking::new(self.pool.spawn_blocking(code))
    }
}
