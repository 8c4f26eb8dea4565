//! Worker processes of this machine: how a program starts itself again as workers, and how it knows that it is one.
//!
//! A process that is to be a worker is told so by its arguments, where everybody may see it, and with them who started it.
//! What nobody else may see, the key above all, comes over its standard input, which is one end of a socket: see [`Orders`].
//! The other end stays with the [`Launcher`], so each of the two knows when the other one is gone.

mod orders;
#[cfg(unix)]
mod process;
#[cfg(unix)]
mod program;

use std::{
    num::NonZero,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    thread::available_parallelism,
};

#[cfg(unix)]
pub(crate) use self::{
    orders::{Leash, take_orders},
    process::{Launch, Launcher, Unjoined},
    program::{Program, executable_digest},
};

/// The workers that an environment or a node has beside its own process.
///
/// A *worker* is a process that runs tasks of jobs. [`processes`](Self::processes) starts some on this machine;
/// [`joining`](Self::joining) lets others come over the network, as `Worker` does. Services, outputs,
/// inputs and jobs that are closures stay with the process that has the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "nothing is started before an environment or a node is opened with it"]
pub struct Workers {
    pub(crate) source: Source,
}

/// Where workers come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    Processes { count: usize, executable: Option<PathBuf>, slots: Option<usize> },
    Joining,
}

impl Workers {
    /// This executable, started so many times again as a worker: 0 is none. Takes a Unix.
    ///
    /// The program has to call `worker_main` first in its `main`; a
    /// [`command_line`](crate::command_line) does it by itself. The processes end with the environment: when it is
    /// closed, and when its process ends in any way. One that ends before is started again, after 200 ms at first and
    /// 10 s at most; the jobs that had tasks there have failed. What they print goes to the log of this process, line by
    /// line.
    ///
    /// The executable is opened when the environment is, and each process is started from what was opened then: another
    /// version that is put in its place changes nothing (on Linux).
    pub fn processes(count: usize) -> Self {
        Self { source: Source::Processes { count, executable: None, slots: None } }
    }

    /// Workers that come over the network, and go. Of a node only, which listens for them.
    ///
    /// Each has a key of the role `Worker`, or the node's own.
    pub fn joining() -> Self {
        Self { source: Source::Joining }
    }

    /// Another executable, which calls `worker_main` in its `main` and has the same jobs: for
    /// programs that cannot call it themselves, such as test binaries. Changes nothing for workers that
    /// [join](Self::joining).
    pub fn executable(mut self, path: impl Into<PathBuf>) -> Self {
        if let Source::Processes { executable, .. } = &mut self.source {
            *executable = Some(path.into());
        }
        self
    }

    /// The threads that run tasks in each process. Default: the cores, dealt out to the processes, and at least 1; 0
    /// counts as 1. Changes nothing for workers that [join](Self::joining), which say that themselves.
    pub fn slots(mut self, threads: usize) -> Self {
        if let Source::Processes { slots, .. } = &mut self.source {
            *slots = Some(threads.max(1));
        }
        self
    }
}

/// The task threads of each of `count` workers of this machine, if nothing else is said.
pub(crate) fn slots_default(count: usize) -> usize {
    (available_parallelism().map_or(1, NonZero::get) / count.max(1)).max(1)
}

/// Set once the program has said what it does when it is started as a worker.
static KNOWS_WORKERS: AtomicBool = AtomicBool::new(false);

/// The program has called `worker_main`.
pub(crate) fn declare() {
    KNOWS_WORKERS.store(true, Ordering::Relaxed);
}

/// Whether this program can be started again as a worker, if `executable` is none, and whether this process may start
/// any: not one that was started as a worker and does not know it. It would start others that do the same, for ever.
pub(crate) fn may_launch(executable: Option<&std::path::Path>) -> bool {
    KNOWS_WORKERS.load(Ordering::Relaxed) || executable.is_some() && !orders::is_worker()
}
