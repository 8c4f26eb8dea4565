//! Opening a node.

use std::{
    fmt, io,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc as std_mpsc,
    },
    thread,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use super::{
    Node,
    serving::{self, Setup},
};
#[cfg(feature = "tls")]
use crate::bridge::{RawIdentity, TlsError, TlsIdentity};
#[cfg(feature = "store")]
use crate::store::{HistoryError, Store};
use crate::{
    bridge::{AdmittedWorkers, Heartbeat, Key, KeyError, KeyRing, NodeEncryption, ServerConfig, WhichKey, complete},
    environment::{DataAddress, LocalEnvironment, LocalEnvironmentBuilder, OpenError},
    flow::JobRegistry,
    host,
    job::Limits,
    launch::{Source, Workers, executable_digest},
    link::KeyRole,
    manager::Placement,
};

/// Where a node listens if nothing else is said.
const ADDRESS: &str = "127.0.0.1:19001";

/// A [`Node`] about to be opened.
#[must_use = "nothing is opened before `open`"]
pub struct NodeBuilder {
    environment: LocalEnvironmentBuilder,
    name: String,
    jobs: JobRegistry,
    address: Option<String>,
    key: WhichKey,
    key_ring: Option<PathBuf>,
    limits: Limits,
    heartbeat: Heartbeat,
    hello_limit: Duration,
    connections_max: usize,
    submitter_jobs_max: usize,
    io_threads: usize,
    encrypted: bool,
    workers: Option<Workers>,
    #[cfg(feature = "tls")]
    identity: Option<TlsIdentity>,
    #[cfg(feature = "store")]
    data_folder: Option<PathBuf>,
}

impl NodeBuilder {
    pub(super) fn new() -> Self {
        Self {
            environment: LocalEnvironment::builder("node"),
            name: "node".to_owned(),
            jobs: JobRegistry::new(),
            address: Some(ADDRESS.to_owned()),
            key: WhichKey::default(),
            key_ring: None,
            limits: Limits::default(),
            heartbeat: Heartbeat { interval: Duration::from_secs(5), timeout: Duration::from_secs(15) },
            hello_limit: Duration::from_secs(5),
            connections_max: 4096,
            submitter_jobs_max: 256,
            io_threads: (cores() / 2).max(1),
            encrypted: false,
            workers: None,
            #[cfg(feature = "tls")]
            identity: None,
            #[cfg(feature = "store")]
            data_folder: None,
        }
    }

    /// The job types that the node can run; most easily made by [`jobs!`](crate::jobs). Default: none.
    pub fn jobs(mut self, jobs: JobRegistry) -> Self {
        self.jobs = jobs;
        self
    }

    /// What the node is called in messages. Default `node`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Where to listen, as `host:port`; port 0 is any that is free, and one that is left out is 19001. Default
    /// `127.0.0.1:19001`.
    pub fn address(mut self, address: impl Into<String>) -> Self {
        self.address = Some(address.into());
        self
    }

    /// Listens nowhere: the node is only reached by [`Node::connect`].
    pub fn without_listener(mut self) -> Self {
        self.address = None;
        self
    }

    /// The key that clients must have. Default: the one that [`Key::find_or_new`] finds, or makes.
    pub fn key(mut self, key: Key) -> Self {
        self.key = WhichKey::This(key);
        self
    }

    /// The file with the key that clients must have; made if there is none.
    pub fn key_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.key = WhichKey::File(path.into());
        self
    }

    /// The file in which the node keeps its named keys, which it makes when there is one to keep; see
    /// [`RemoteEnvironment::add_key`](crate::RemoteEnvironment::add_key). Default: that of its own key, with `.ring`
    /// behind the name; for a key that is in no file: none, and named keys go with the node.
    pub fn key_ring(mut self, path: impl Into<PathBuf>) -> Self {
        self.key_ring = Some(path.into());
        self
    }

    /// The limits of all jobs. Default: [`Limits::default`].
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Threads that run tasks. Default: the cores.
    pub fn task_threads(mut self, threads: usize) -> Self {
        self.environment = self.environment.task_threads(threads);
        self
    }

    /// Threads that run services, which no task shares. Default: 1.
    pub fn service_threads(mut self, threads: usize) -> Self {
        self.environment = self.environment.service_threads(threads);
        self
    }

    /// The policy that spreads tasks over the task threads. Default: [`RoundRobin`](crate::RoundRobin).
    pub fn placement(mut self, placement: impl Placement) -> Self {
        self.environment = self.environment.placement(placement);
        self
    }

    /// A sign of life is sent every `interval`, and a client that gave none for `timeout` counts as lost. Default 5 s and
    /// 15 s. An interval of zero counts as a millisecond.
    pub fn heartbeat(mut self, interval: Duration, timeout: Duration) -> Self {
        self.heartbeat = Heartbeat { interval: interval.max(Duration::from_millis(1)), timeout };
        self
    }

    /// How long a peer may take to prove that it has the key. Default 5 s.
    pub fn hello_limit(mut self, limit: Duration) -> Self {
        self.hello_limit = limit;
        self
    }

    /// Clients that may be connected at the same time. An eighth of that is kept for those who have the node's own key,
    /// if it is 8 or more. Default 4,096.
    pub fn connections_max(mut self, connections: usize) -> Self {
        self.connections_max = connections;
        self
    }

    /// Jobs of one key of the role [`Submitter`](crate::KeyRole::Submitter) that have not ended, whichever of its clients
    /// submitted them. Default 256; further ones are refused, by
    /// [`SubmitError::TooManyJobs`](crate::SubmitError::TooManyJobs).
    pub fn submitter_jobs_max(mut self, jobs: usize) -> Self {
        self.submitter_jobs_max = jobs;
        self
    }

    /// Threads that serve connections: each client is on one of them, the one with the fewest when it comes. Default: half
    /// the cores, and at least 1.
    pub fn io_threads(mut self, threads: usize) -> Self {
        self.io_threads = threads.max(1);
        self
    }

    /// Whether connections from this machine are encrypted, too, as those from others always are: for a port that is
    /// forwarded, so that a client elsewhere looks like one of this machine. Default: no. It takes the feature `tls`.
    pub fn encrypted(mut self, encrypted: bool) -> Self {
        self.encrypted = encrypted;
        self
    }

    /// Shows this certificate to the clients that want one ([`Connect::tls`](crate::Connect::tls)). With the feature
    /// `tls`. Default: none, and such clients are refused; to others the shared key alone proves who the node is.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, identity: TlsIdentity) -> Self {
        self.identity = Some(identity);
        self
    }

    /// Keeps the history in this folder, which is made if there is none, with the feature `store`: jobs, their outcomes,
    /// counts and dead letters can then be read after the node was started anew, for as long as
    /// [`Limits::ended_jobs_max`] and [`Limits::ended_jobs_age`] say; their outputs cannot. A job that was running when the
    /// node's process ended reads [`Outcome::Lost`](crate::Outcome::Lost), with counts that are at most 10 s old.
    ///
    /// A submit is answered once the job is on disk, and nobody is told of a job's end before its outcome is. Both take the
    /// time that the disk takes to write. A job that cannot be written is refused; an end that cannot be is told all the
    /// same, shows in [`Health::history_error`](crate::Health::history_error), and is written as soon as that is possible.
    /// Two nodes never share a folder.
    ///
    /// Default: the history is in memory.
    #[cfg(feature = "store")]
    pub fn data_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.data_folder = Some(folder.into());
        self
    }

    /// Runs tasks and services in other processes: those that the node [starts](Workers::processes), or those that
    /// [join](Workers::joining) it from wherever they are. The node's own process then has the outputs and inputs of
    /// jobs, the queues of their services, and all tasks while no worker is there. Default: none, and nobody may join.
    ///
    /// ```no_run
    /// use proscenium::{Node, Workers, jobs};
    ///
    /// let workers = Workers::joining().advertise("jobs.example.com");
    /// let node = Node::builder().jobs(jobs![]).address("0.0.0.0:19001").workers(workers).open()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn workers(mut self, workers: Workers) -> Self {
        self.workers = Some(workers);
        self
    }

    /// Opens the node, which then serves. With [processes](Workers::processes) as workers, it waits until all of them have
    /// joined.
    ///
    /// # Errors
    ///
    /// [`NodeError`]; then nothing is left of it, but a key that was made.
    pub fn open(self) -> Result<Node, NodeError> {
        if let Some(name) = self.jobs.duplicate() {
            return Err(NodeError::DuplicateJob { name });
        }
        let (key, file) = self.key.read_or_make()?;
        if key.role() != KeyRole::Admin {
            return Err(KeyError::HandedOut.into());
        }
        let ring = self.key_ring.or_else(|| file.map(beside));
        let limits = self.limits.normalised();
        let call_deadline = limits.call_deadline;
        let mut environment = self.environment.name(&self.name).limits(limits);
        let admitted = admitted(self.workers.as_ref());
        if let Some(workers) = self.workers {
            environment = with_workers(environment, workers, self.address.as_deref(), self.encrypted)?;
        }
        #[cfg(feature = "store")]
        let environment = match &self.data_folder {
            Some(folder) => environment.recording(Store::open(folder)?),
            None => environment,
        };
        let environment = environment.open().map_err(NodeError::Environment)?;
        let mut incarnation = [0; 16];
        let link = environment.near_link();
        link.host().fill(&mut incarnation).map_err(NodeError::Thread)?;
        let keys = KeyRing::open(key.clone(), ring, pin_of)?;
        let encryption = encryption(
            &keys,
            self.encrypted,
            #[cfg(feature = "tls")]
            self.identity,
        )?;
        let server = ServerConfig {
            workers: admitted,
            keys,
            encryption,
            incarnation: u128::from_le_bytes(incarnation),
            registry: self.jobs,
            heartbeat: self.heartbeat,
            hello_limit: self.hello_limit,
            connections_max: self.connections_max.max(1),
            submitter_jobs_max: self.submitter_jobs_max.max(1),
            environment: self.name,
            call_deadline,
        };
        let (commands, orders) = mpsc::unbounded_channel();
        let (opened, is_open) = std_mpsc::sync_channel(1);
        let (closed, closed_rx) = watch::channel(());
        let thread_names = next_names();
        let setup = Setup {
            environment,
            server,
            io_threads: self.io_threads,
            thread_names: thread_names.clone(),
            address: self.address,
            orders,
            stops: commands.clone(),
        };
        let thread = host::thread::start(format!("{thread_names}node"), move || serving::run(setup, &opened, closed))
            .map_err(NodeError::Thread)?;
        let address = match is_open.recv() {
            Ok(address) => address?,
            Err(_) => return Err(NodeError::Thread(io::Error::other("the node's thread broke off"))),
        };
        let thread = Arc::new(Mutex::new(Some(thread)));
        Ok(Node { commands, address, key, thread, closed: closed_rx, thread_names, listens: Mutex::new(false) })
    }
}

/// Who may join at the node's address: those that it starts itself join elsewhere.
fn admitted(workers: Option<&Workers>) -> AdmittedWorkers {
    match workers.map(|workers| &workers.source) {
        Some(Source::Joining { .. }) => AdmittedWorkers::SameProgram(executable_digest),
        Some(Source::Processes { .. } | Source::Inside { .. }) | None => AdmittedWorkers::None,
    }
}

fn with_workers(
    environment: LocalEnvironmentBuilder,
    workers: Workers,
    address: Option<&str>,
    encrypted: bool,
) -> Result<LocalEnvironmentBuilder, NodeError> {
    match workers.source {
        Source::Processes { .. } | Source::Inside { .. } => Ok(environment.workers(workers)),
        Source::Joining { data_address, advertised } => {
            let address = data_address_of(data_address, address)?;
            Ok(environment.data(DataAddress { address, ports: None, advertised, encrypted }))
        }
    }
}

/// Where the environment listens for the workers that join: any port of the node's address, unless it is said.
fn data_address_of(said: Option<String>, address: Option<&str>) -> Result<String, NodeError> {
    let address = address.ok_or(NodeError::Environment(OpenError::NoListener))?;
    let wrong = |message: String| NodeError::Address { address: address.to_owned(), message };
    match (said, complete(address).map_err(wrong)?.rsplit_once(':')) {
        (Some(said), _) => Ok(said),
        (None, Some((host, _))) => Ok(format!("{host}:0")),
        (None, None) => Ok(address.to_owned()),
    }
}

/// Where the named keys are kept, by the file of the node's own.
fn beside(key: PathBuf) -> PathBuf {
    let mut name = key.into_os_string();
    name.push(".ring");
    name.into()
}

#[cfg(feature = "tls")]
fn pin_of(seed: &[u8; 32]) -> Option<[u8; 32]> {
    RawIdentity::of_seed(seed).ok().map(|identity| identity.digest())
}

#[cfg(not(feature = "tls"))]
fn pin_of(_: &[u8; 32]) -> Option<[u8; 32]> {
    None
}

#[cfg_attr(not(feature = "tls"), allow(unused_variables, reason = "without encryption there is no key pair"))]
fn encryption(
    keys: &KeyRing,
    always: bool,
    #[cfg(feature = "tls")] identity: Option<TlsIdentity>,
) -> Result<NodeEncryption, NodeError> {
    #[cfg(feature = "tls")]
    {
        let raw = RawIdentity::of_seed(keys.seed()).map_err(NodeError::Encryption)?;
        Ok(NodeEncryption::new(always, raw, identity))
    }
    #[cfg(not(feature = "tls"))]
    {
        if always { Err(NodeError::NoEncryption) } else { Ok(NodeEncryption::none()) }
    }
}

/// How the names of a node's threads begin: unique within the process, so that they can be recognised.
fn next_names() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    format!("proscenium-n{}-", NEXT.fetch_add(1, Ordering::Relaxed))
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

impl fmt::Debug for NodeBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeBuilder")
            .field("name", &self.name)
            .field("jobs", &self.jobs)
            .field("address", &self.address)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// Why a node could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// Two of its job types have the same name.
    #[error("two job types are named `{name}`")]
    DuplicateJob {
        /// The name.
        name: &'static str,
    },
    /// There is no key, and none could be made.
    #[error("there is no key for the node")]
    Key(#[from] KeyError),
    /// The history in its data folder could not be opened.
    #[cfg(feature = "store")]
    #[error("the node's history could not be opened")]
    History(#[from] HistoryError),
    /// The environment that is to run the jobs could not be opened.
    #[error("the node's environment could not be opened")]
    Environment(#[source] OpenError),
    /// It cannot listen at that address.
    #[error("the node cannot listen at {address}: {message}")]
    Address {
        /// The address.
        address: String,
        /// What the operating system said.
        message: String,
    },
    /// Others than this machine could connect, and the connections cannot be encrypted. Without the feature `tls`.
    #[error(
        "{address} can be reached from other machines, and this program was built without encryption, the feature `tls`"
    )]
    Exposed {
        /// The address.
        address: SocketAddr,
    },
    /// It was to encrypt every connection, and cannot. Without the feature `tls`.
    #[error("this program was built without encryption, the feature `tls`")]
    NoEncryption,
    /// The key pair of its connections could not be made.
    #[cfg(feature = "tls")]
    #[error("the key pair of the node's connections could not be made")]
    Encryption(#[source] TlsError),
    /// The operating system refused a thread or a file descriptor.
    #[error("the operating system refused a thread or a file descriptor")]
    Thread(#[source] io::Error),
}
