//! Jobs in this process.

mod control;
mod crew;
mod inside;
mod link;

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
};

use actix::System;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::watch;

use self::{
    control::{Control, ControlSetup},
    crew::{Crew, Processes},
    inside::Inside,
    link::LocalLink,
};
use crate::{
    environment::{
        BlockingEnvironment, Environment, EnvironmentExt, Run, Submit,
        control::{ControlThread, DataAddress, Uncontrolled},
        sealed::Linked,
    },
    flow::IntoJob,
    host,
    job::Limits,
    launch::{self, Program, Source, Unjoined, Workers, slots_default},
    link::{Link, NearLink},
    manager::{Placement, Recording, RoundRobin},
    worker::task_threads_default,
};

/// Runs jobs in this process, on threads of its own.
///
/// One thread for control, one for deadlines, by default one per core for tasks and one for services. Clones are
/// handles to the same environment. When the last clone is dropped, or at [`close`](Environment::close), the
/// environment accepts nothing more, cancels its jobs, waits until they have ended, and joins its threads; so dropping
/// it can block for as long as `Limits::cancel_deadline` and `Limits::service_stop_deadline` allow. Dropped on one of
/// its own threads, from within an operator or a service, it does all that without being waited for. Handles to jobs do
/// not keep it open.
///
/// The one exception to "no thread is left": user code that never returns. Its thread is abandoned at the deadline.
///
/// ```
/// use proscenium::{LocalEnvironment, job_fn};
///
/// let env = LocalEnvironment::new("doc");
/// let job = env.submit(job_fn("count", |flow| {
///     flow.from_batch(0..10u64).count().collect("count");
///     Ok(())
/// }));
/// let job = job.autostop(true).blocking()?;
/// assert!(job.blocking().wait()?.is_completed());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct LocalEnvironment {
    core: Arc<Core>,
}

impl LocalEnvironment {
    /// Opens an environment with the defaults of [`builder`](Self::builder).
    ///
    /// # Panics
    ///
    /// Panics if the operating system refuses a thread or a file descriptor; [`builder`](Self::builder) offers an
    /// error instead.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        match Self::builder(name).open() {
            Ok(environment) => environment,
            Err(error) => panic!("a local environment could not be opened: {error}"),
        }
    }

    /// An environment about to be opened: set what differs from the defaults, then
    /// [`open`](LocalEnvironmentBuilder::open) it.
    pub fn builder(name: impl Into<String>) -> LocalEnvironmentBuilder {
        LocalEnvironmentBuilder {
            name: name.into(),
            task_threads: task_threads_default(),
            service_threads: 1,
            limits: Limits::default(),
            placement: Box::new(RoundRobin::new()),
            recording: Recording::default(),
            workers: None,
            data: None,
        }
    }

    /// Submits `job`: a builder that submits when it is awaited.
    pub fn submit<J: IntoJob>(&self, job: J) -> Submit {
        EnvironmentExt::submit(self, job)
    }

    /// Runs `job` to its end: a builder that, when it is awaited, submits with autostop, waits, and listens for Ctrl+C
    /// meanwhile.
    pub fn run<J: IntoJob>(&self, job: J) -> Run {
        EnvironmentExt::run(self, job)
    }

    /// The same for code that is not async.
    #[must_use]
    pub fn blocking(&self) -> BlockingEnvironment<'_> {
        BlockingEnvironment::new(self)
    }
}

impl fmt::Debug for LocalEnvironment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalEnvironment").field("name", &self.core.link.environment()).finish_non_exhaustive()
    }
}

/// A [`LocalEnvironment`] about to be opened.
#[must_use = "nothing is opened before `open`"]
pub struct LocalEnvironmentBuilder {
    name: String,
    task_threads: usize,
    service_threads: usize,
    limits: Limits,
    placement: Box<dyn Placement>,
    recording: Recording,
    workers: Option<Workers>,
    data: Option<DataAddress>,
}

impl LocalEnvironmentBuilder {
    /// With another name.
    pub(crate) fn name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// Keeps jobs beyond the process.
    #[cfg(feature = "store")]
    pub(crate) fn recording(mut self, recording: Recording) -> Self {
        self.recording = recording;
        self
    }

    /// Where workers reach it that come to the node to which it belongs.
    pub(crate) fn data(mut self, data: DataAddress) -> Self {
        self.data = Some(data);
        self
    }

    /// Threads that run tasks. Default: the cores.
    pub fn task_threads(mut self, threads: usize) -> Self {
        self.task_threads = threads;
        self
    }

    /// Threads that run services, which no task shares. Default: 1.
    pub fn service_threads(mut self, threads: usize) -> Self {
        self.service_threads = threads;
        self
    }

    /// The limits of all jobs. Default: [`Limits::default`].
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The policy that spreads tasks over the task threads. Default: [`RoundRobin`].
    pub fn placement(mut self, placement: impl Placement) -> Self {
        self.placement = Box::new(placement);
        self
    }

    /// Runs tasks and services in workers; see [`Workers::processes`] and [`Workers::inside`]. This process then has the
    /// outputs and inputs of jobs and the queues of their services, and jobs that are closures. Default: none.
    pub fn workers(mut self, workers: Workers) -> Self {
        self.workers = Some(workers);
        self
    }

    /// Opens the environment. With [workers](Self::workers), it waits until all of them have joined.
    ///
    /// # Errors
    ///
    /// [`OpenError::NoThreads`] if it is to have no thread for tasks or for services; [`OpenError::Refused`] if the
    /// operating system refuses a thread or a file descriptor; the others if there are no such workers.
    pub fn open(self) -> Result<LocalEnvironment, OpenError> {
        let Self { name, task_threads, service_threads, limits, placement, recording, workers, data } = self;
        let crew_wanted = workers.map(wanted).transpose()?.flatten();
        let has_workers = crew_wanted.is_some() || data.is_some();
        let data = data.or_else(|| crew_wanted.as_ref().map(|_| DataAddress::loopback()));
        for (count, purpose) in [(task_threads, "tasks"), (service_threads, "services")] {
            if count == 0 {
                return Err(OpenError::NoThreads { purpose });
            }
        }
        let environment: Arc<str> = name.into();
        let limits = Arc::new(limits.normalised());
        let call_deadline = limits.call_deadline;
        let thread_prefix = next_thread_prefix();
        let crew = Arc::default();
        let setup = ControlSetup {
            environment: Arc::clone(&environment),
            thread: ControlThread { thread_prefix: thread_prefix.clone(), task_threads, service_threads, data },
            limits,
            placement,
            has_workers,
            recording,
            crew: Arc::clone(&crew),
        };
        let (opened, control) = mpsc::sync_channel(1);
        let (closed, closed_rx) = watch::channel(());
        let thread =
            host::thread::start(format!("{thread_prefix}control"), move || control::run(setup, &opened, closed))
                .map_err(OpenError::Refused)?;
        let Ok(control) = control.recv() else {
            let broken_off = io::Error::other("the control thread broke off while it was starting");
            return Err(OpenError::Refused(broken_off));
        };
        let Control { manager, host, runtime, system } = control?;
        let link = Arc::new(LocalLink::new(environment, manager, host, call_deadline, runtime));
        let thread = Arc::new(Mutex::new(Some(thread)));
        let near = Arc::clone(&link) as Arc<dyn NearLink>;
        // From here on its drop closes all.
        let core = Core { link, thread, closed: closed_rx, system, thread_prefix };
        match crew_wanted {
            None => {}
            Some(Wanted::Processes(processes)) => {
                let opened = Crew::open(processes, &near, &core.thread_prefix)?;
                *crew.lock() = Some(Company::Processes(opened));
            }
            Some(Wanted::Inside { count, slots }) => {
                let opened = Inside::open(count, slots, &near, &core.thread_prefix)?;
                *crew.lock() = Some(Company::Inside(opened));
            }
        }
        Ok(LocalEnvironment { core: Arc::new(core) })
    }
}

impl fmt::Debug for LocalEnvironmentBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalEnvironmentBuilder")
            .field("name", &self.name)
            .field("task_threads", &self.task_threads)
            .field("service_threads", &self.service_threads)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// The workers of the environment, whatever they are; they end when it is dropped.
#[expect(dead_code, reason = "held for their drop")]
enum Company {
    Processes(Crew),
    Inside(Inside),
}

/// Which workers to start.
enum Wanted {
    Processes(Processes),
    Inside { count: usize, slots: usize },
}

/// Nothing, if there are to be none.
fn wanted(workers: Workers) -> Result<Option<Wanted>, OpenError> {
    match workers.source {
        Source::Joining { .. } => Err(OpenError::NoListener),
        Source::Processes { count: 0, .. } | Source::Inside { count: 0, .. } => Ok(None),
        Source::Processes { count, executable, slots, memory_max } => {
            let slots = slots.unwrap_or_else(|| slots_default(count));
            let program = program(executable.as_deref())?;
            Ok(Some(Wanted::Processes(Processes { program, count, slots, memory_max })))
        }
        Source::Inside { count, slots } => {
            Ok(Some(Wanted::Inside { count, slots: slots.unwrap_or_else(|| slots_default(count)) }))
        }
    }
}

/// The program of worker processes.
fn program(executable: Option<&Path>) -> Result<Program, OpenError> {
    if !launch::may_launch(executable) {
        return Err(OpenError::NoWorkerMain);
    }
    executable.map_or_else(Program::this, Program::at).map_err(|source| {
        let path = executable.map(Path::to_owned).or_else(|| std::env::current_exe().ok()).unwrap_or_default();
        OpenError::Executable { path, source }
    })
}

/// Unique within the process, so that a thread can be recognised by its name.
pub(super) fn next_thread_prefix() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    format!("proscenium-{}-", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Why a local environment could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// It was to have no thread for a purpose that needs one.
    #[error("an environment needs at least one thread for {purpose}")]
    NoThreads {
        /// `tasks` or `services`.
        purpose: &'static str,
    },
    /// The operating system refused a thread or a file descriptor.
    #[error("the operating system refused a thread or a file descriptor")]
    Refused(#[source] io::Error),
    /// This program is to be started again as a worker, and has not said that it can be.
    #[error(
        "this program cannot be started as a worker: call `proscenium::worker_main(jobs![..])` first in its `main`, or name a program that does by `Workers::executable`"
    )]
    NoWorkerMain,
    /// The program of the workers cannot be opened.
    #[error("the program {} cannot be started as a worker", .path.display())]
    Executable {
        /// Where it is.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Workers were to join, and nobody can reach a local environment.
    #[error("workers join a node, which listens for them; a local environment starts its own by `Workers::processes`")]
    NoListener,
    /// The address at which other workers are to reach this process cannot be had.
    #[error("other workers cannot reach this process: {message}")]
    DataAddress {
        /// Why not.
        message: String,
    },
    /// Not all worker processes have joined.
    #[error("of {wanted} workers {joined} have joined{}", said(.last_words))]
    WorkersMissing {
        /// How many were started.
        wanted: usize,
        /// How many came.
        joined: usize,
        /// Of those that ended: how, and what they printed last.
        last_words: Vec<String>,
    },
}

fn said(last_words: &[String]) -> String {
    if last_words.is_empty() { String::new() } else { format!(": {}", last_words.join("; ")) }
}

impl OpenError {
    fn unjoined(wanted: usize, unjoined: Unjoined) -> Self {
        let Unjoined { joined, last_words } = unjoined;
        Self::WorkersMissing { wanted, joined, last_words }
    }
}

impl From<Uncontrolled> for OpenError {
    fn from(error: Uncontrolled) -> Self {
        match error {
            Uncontrolled::Refused(error) => Self::Refused(error),
            Uncontrolled::Address(error) => Self::DataAddress { message: error.to_string() },
        }
    }
}

/// What the clones of a [`LocalEnvironment`] share; closes it when the last one is dropped.
struct Core {
    link: Arc<LocalLink>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
    /// Its sender is dropped once the environment is closed.
    closed: watch::Receiver<()>,
    system: usize,
    thread_prefix: String,
}

impl Core {
    /// Whether the calling thread is one that closing waits for.
    fn is_on_own_thread(&self) -> bool {
        let arbiter = System::try_current().is_some_and(|system| system.id() == self.system);
        arbiter || thread::current().name().is_some_and(|name| name.starts_with(&self.thread_prefix))
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.link.close();
        // Closing joins every thread of the environment. One of them that waited for that would wait for itself.
        if !self.is_on_own_thread() {
            join(&self.thread);
        }
    }
}

/// Joins the control thread, unless somebody else has.
fn join(thread: &Mutex<Option<JoinHandle<()>>>) {
    let thread = thread.lock().take();
    if let Some(thread) = thread
        && thread.join().is_err()
    {
        tracing::error!("the control thread of a local environment panicked");
    }
}

impl Environment for LocalEnvironment {
    fn name(&self) -> &str {
        self.core.link.environment()
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        let (link, thread, mut closed) =
            (Arc::clone(&self.core.link), Arc::clone(&self.core.thread), self.core.closed.clone());
        Box::pin(async move {
            link.close();
            drop(link);
            // Nothing is ever sent: this ends by the error that the sender is gone.
            while closed.changed().await.is_ok() {}
            // The thread has nothing left to do but to end, so this does not hold up the executor.
            join(&thread);
        })
    }
}

impl LocalEnvironment {
    /// The link, and what else serving clients takes.
    pub(crate) fn near_link(&self) -> Arc<dyn NearLink> {
        Arc::clone(&self.core.link) as Arc<dyn NearLink>
    }
}

impl Linked for LocalEnvironment {
    #[expect(private_interfaces, reason = "the trait is sealed: nobody else can name or call this")]
    fn link(&self) -> Arc<dyn Link> {
        Arc::clone(&self.core.link) as Arc<dyn Link>
    }
}
