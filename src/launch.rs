//! Worker processes of this machine: how a program starts itself again as workers, and how it knows that it is one.
//!
//! A process that is to be a worker is told so by its arguments, where everybody may see it, and with them who started it.
//! What nobody else may see, the key above all, comes over its standard input, which is one end of a socket: see [`Orders`].
//! The other end stays with the [`Launcher`], so each of the two knows when the other one is gone.

#[cfg(not(unix))]
mod elsewhere;
mod orders;
#[cfg(unix)]
mod process;
#[cfg(unix)]
mod program;

use std::{
    env,
    fs::File,
    io::{self, Read},
    num::NonZero,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread::available_parallelism,
};

use sha2::{Digest, Sha256};

#[cfg(not(unix))]
pub(crate) use self::elsewhere::{Launcher, Leash, Program, take_orders};
pub(crate) use self::orders::{Orders, is_worker};
#[cfg(unix)]
pub(crate) use self::{
    orders::{Leash, take_orders},
    process::Launcher,
    program::Program,
};
use crate::host::Host;

/// The workers that an environment or a node has beside its own process.
///
/// A *worker* is a process that runs tasks and services of jobs. [`processes`](Self::processes) starts some on this machine;
/// [`joining`](Self::joining) lets others come over the network, as [`Worker`](crate::Worker) does. Outputs, inputs, the queues
/// in front of services and jobs that are closures stay with the process that has the environment.
///
/// ```no_run
/// use proscenium::{LocalEnvironment, Workers, jobs, worker_main};
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     // First of all: in a process that was started as a worker, this does not return.
///     worker_main(jobs![]);
///     let env = LocalEnvironment::builder("reader").workers(Workers::processes(3)).open()?;
///     # drop(env);
///     Ok(())
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "nothing is started before an environment or a node is opened with it"]
pub struct Workers {
    pub(crate) source: Source,
}

/// Where workers come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    Processes { count: usize, executable: Option<PathBuf>, slots: Option<usize>, memory_max: Option<u64> },
    Joining { data_address: Option<String>, advertised: Option<String> },
    Inside { count: usize, slots: Option<usize> },
}

impl Workers {
    /// This executable, started so many times again as a worker: 0 is none. Takes a Unix.
    ///
    /// The program has to call [`worker_main`](crate::worker_main) first in its `main`; a
    /// [`command_line`](crate::command_line) does it by itself. The processes end with the environment: when it is
    /// closed, and when its process ends in any way. One that ends before is started again, after 200 ms at first and
    /// 10 s at most; the jobs that had tasks there have failed. What they print goes to the log of this process, line by
    /// line.
    ///
    /// The executable is opened when the environment is, and each process is started from what was opened then: another
    /// version that is put in its place changes nothing (on Linux).
    ///
    /// [`Job::build`](crate::Job::build) runs in this process and in each worker that has tasks of the job. To open the
    /// environment takes until all have joined: it fails with [`OpenError::WorkersMissing`](crate::OpenError::WorkersMissing)
    /// after 30 s, or once one has ended three times without joining, and with
    /// [`OpenError::NoWorkerMain`](crate::OpenError::NoWorkerMain) if the program has not called `worker_main`.
    pub fn processes(count: usize) -> Self {
        Self { source: Source::Processes { count, executable: None, slots: None, memory_max: None } }
    }

    /// So many workers within this process, each with threads of its own, which speak to each other over loopback as
    /// processes do. A job so shows whether it is fit for several workers, without a program that can be started again; its
    /// tasks still end with this process, and all at once. 0 is none.
    pub fn inside(count: usize) -> Self {
        Self { source: Source::Inside { count, slots: None } }
    }

    /// Workers that come over the network, and go. Of a node only, which listens for them.
    ///
    /// Each has a key of the role [`Worker`](crate::KeyRole::Worker), which the node
    /// [hands out](crate::RemoteEnvironment::add_key), and runs the very program of the node: another one is turned away. The
    /// node reaches for each worker, and of two workers the one that joined first for the other; if it does not get through, the
    /// other one tries. The node listens for them at its address, and for the tasks that they
    /// run at a port of its own: see [`data_address`](Self::data_address).
    pub fn joining() -> Self {
        Self { source: Source::Joining { data_address: None, advertised: None } }
    }

    /// Where this process listens for the workers that join, as `host:port`, for what their tasks and its own have to say to
    /// each other. Default: any port of the address that the node listens at. Changes nothing for
    /// [processes](Self::processes), which are reached within the machine.
    pub fn data_address(mut self, address: impl Into<String>) -> Self {
        if let Source::Joining { data_address, .. } = &mut self.source {
            *data_address = Some(address.into());
        }
        self
    }

    /// Where the workers that join reach this process, if it is not at the [data address](Self::data_address) as it sees
    /// that: `host:port`, or a host. It is needed where that is every address, as `0.0.0.0` is.
    pub fn advertise(mut self, address: impl Into<String>) -> Self {
        if let Source::Joining { advertised, .. } = &mut self.source {
            *advertised = Some(address.into());
        }
        self
    }

    /// Another executable, which calls [`worker_main`](crate::worker_main) in its `main` and has the same jobs: for
    /// programs that cannot call it themselves, such as test binaries. Changes nothing for workers that
    /// [join](Self::joining).
    pub fn executable(mut self, path: impl Into<PathBuf>) -> Self {
        if let Source::Processes { executable, .. } = &mut self.source {
            *executable = Some(path.into());
        }
        self
    }

    /// The bytes that each process may have of its own at most: its heap, and 2 MiB for each thread. What does not get any more
    /// ends the process, which says so and is started again; the jobs that had tasks there fail, and no other process is harmed.
    /// A few hundred MiB are the least that is of use. Default: no limit but those of the machine.
    ///
    /// It is a limit of the process (`RLIMIT_DATA`): files that are mapped or cached are not counted, and some systems other than
    /// Linux do not keep to it. Changes nothing for workers that [join](Self::joining), which whatever starts them limits.
    pub fn memory_max(mut self, bytes: u64) -> Self {
        if let Source::Processes { memory_max, .. } = &mut self.source {
            *memory_max = Some(bytes);
        }
        self
    }

    /// The threads that run tasks in each process. Default: the cores, dealt out to the processes, and at least 1; 0
    /// counts as 1. Changes nothing for workers that [join](Self::joining), which say that themselves.
    pub fn slots(mut self, threads: usize) -> Self {
        if let Source::Processes { slots, .. } | Source::Inside { slots, .. } = &mut self.source {
            *slots = Some(threads.max(1));
        }
        self
    }
}

/// Told when a process has ended that had joined, and was not asked to end: by which number, and how it ended.
pub(crate) type Ended = Arc<dyn Fn(u32, &str) + Send + Sync>;

/// Which processes to start.
pub(crate) struct Launch {
    pub program: Program,
    pub count: usize,
    /// Task threads of each.
    pub slots: usize,
    /// Bytes of each.
    pub memory_max: Option<u64>,
    /// Where they join, and with which key.
    pub manager: String,
    pub key: String,
    pub thread_name: String,
    pub host: Host,
    pub ended: Ended,
}

/// Not all of the processes have joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unjoined {
    pub joined: usize,
    /// Of those that ended: how, and what they said before.
    pub last_words: Vec<String>,
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
pub(crate) fn may_launch(executable: Option<&Path>) -> bool {
    KNOWS_WORKERS.load(Ordering::Relaxed) || executable.is_some() && !is_worker()
}

/// The SHA-256 of the program that this process runs.
///
/// # Errors
///
/// It cannot be read.
pub(crate) fn executable_digest() -> io::Result<[u8; 32]> {
    static DIGEST: OnceLock<[u8; 32]> = OnceLock::new();
    if let Some(digest) = DIGEST.get() {
        return Ok(*digest);
    }
    let mut file =
        if cfg!(target_os = "linux") { File::open("/proc/self/exe")? } else { File::open(env::current_exe()?)? };
    let (mut hasher, mut bytes) = (Sha256::new(), vec![0; 1 << 16]);
    loop {
        match file.read(&mut bytes)? {
            0 => break,
            read => hasher.update(&bytes[..read]),
        }
    }
    Ok(*DIGEST.get_or_init(|| hasher.finalize().into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_that_of_the_file() {
        let bytes = std::fs::read(env::current_exe().unwrap()).unwrap();
        assert_eq!(executable_digest().unwrap(), <[u8; 32]>::from(Sha256::digest(&bytes)));
    }
}
