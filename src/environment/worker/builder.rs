//! Opening a worker.

use std::{
    fmt, io,
    net::{SocketAddr, UdpSocket},
    ops::RangeInclusive,
    path::PathBuf,
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

use super::{Core, Threads, Worker};
#[cfg(feature = "tls")]
use crate::bridge::TlsTrust;
use crate::{
    bridge::{ClientEncryption, Key, KeyError, TcpDial, WhichKey, WorkerClientConfig, complete, serve},
    environment::{
        control::{Alone, ControlThread, DataAddress, Uncontrolled},
        local::next_thread_prefix,
    },
    flow::JobRegistry,
    host::{self, thread},
    launch::executable_digest,
    link::{KeyRole, WorkerFacts, WorkerId},
    worker::task_threads_default,
};

/// Where a node is looked for if nothing else is said.
const MANAGER: &str = "127.0.0.1";

/// A [`Worker`] about to be opened.
#[must_use = "nothing is opened before `open`"]
pub struct WorkerBuilder {
    jobs: JobRegistry,
    manager: String,
    key: WhichKey,
    name: Option<String>,
    slots: usize,
    service_threads: usize,
    address: Option<String>,
    ports: Option<RangeInclusive<u16>>,
    advertised: Option<String>,
    encrypted: bool,
    #[cfg(feature = "tls")]
    tls: Option<TlsTrust>,
    connect_limit: Duration,
    joins_once: bool,
    is_launched: bool,
    joined: Option<Joined>,
}

/// Told each time the worker has joined.
type Joined = Arc<dyn Fn(WorkerId) + Send + Sync>;

impl WorkerBuilder {
    pub(super) fn new() -> Self {
        Self {
            jobs: JobRegistry::new(),
            manager: MANAGER.to_owned(),
            key: WhichKey::default(),
            name: None,
            slots: task_threads_default(),
            service_threads: 1,
            address: None,
            ports: None,
            advertised: None,
            encrypted: false,
            #[cfg(feature = "tls")]
            tls: None,
            connect_limit: Duration::from_secs(10),
            joins_once: false,
            is_launched: false,
            joined: None,
        }
    }

    /// The job types that the worker can run; most easily made by [`jobs!`](crate::jobs). Default: none.
    pub fn jobs(mut self, jobs: JobRegistry) -> Self {
        self.jobs = jobs;
        self
    }

    /// Where the node is, as `host:port` or `host`; a port that is left out is 19001. Default `127.0.0.1`.
    pub fn manager(mut self, address: impl Into<String>) -> Self {
        self.manager = address.into();
        self
    }

    /// The key to join with, of the role [`Worker`](crate::KeyRole::Worker). Default: the one that [`Key::find`] finds.
    pub fn key(mut self, key: Key) -> Self {
        self.key = WhichKey::This(key);
        self
    }

    /// The file with the key to join with.
    pub fn key_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.key = WhichKey::File(path.into());
        self
    }

    /// What the worker is called, in messages. Several may have one name. Default: `worker-` and the number of the process.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Threads that run tasks. Default: the cores. 0 counts as 1.
    pub fn slots(mut self, threads: usize) -> Self {
        self.slots = threads.max(1);
        self
    }

    /// Where to listen for other workers, as `host:port`; port 0 is any that is free. Default: any port of the address from
    /// which this machine reaches the node.
    pub fn address(mut self, address: impl Into<String>) -> Self {
        self.address = Some(address.into());
        self
    }

    /// The ports at which to listen for other workers, of the [address](Self::address), whose own port then means nothing: the first
    /// one that is free, for a firewall that lets them pass. Workers of one machine need one each. Default: any.
    ///
    /// With none free, or none at all in the range, the worker is [not opened](WorkerError::DataAddress).
    pub fn port_range(mut self, ports: RangeInclusive<u16>) -> Self {
        self.ports = Some(ports);
        self
    }

    /// Where other workers reach this one, if that is not the [address](Self::address) as this process sees it: `host:port`,
    /// or a host, with the port that is listened at. It is needed if the address is every address, as `0.0.0.0` is.
    pub fn advertise(mut self, address: impl Into<String>) -> Self {
        self.advertised = Some(address.into());
        self
    }

    /// Whether connections within this machine are encrypted, too, as those beyond it always are. Default: no. It takes the
    /// feature `tls`.
    pub fn encrypted(mut self, encrypted: bool) -> Self {
        self.encrypted = encrypted;
        self
    }

    /// Encrypts the connection to the node, which has a certificate that `trust` accepts. With the feature `tls`. Default: the
    /// node is known by the key alone.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, trust: TlsTrust) -> Self {
        self.tls = Some(trust);
        self
    }

    /// How long joining may take, each time. Default 10 s.
    pub fn connect_limit(mut self, limit: Duration) -> Self {
        self.connect_limit = limit;
        self
    }

    /// Whether the worker ends when it cannot join the node, or is not its worker any more, instead of trying again for ever.
    /// Default: no.
    pub fn join_once(mut self, once: bool) -> Self {
        self.joins_once = once;
        self
    }

    /// For a process that was started as a worker: joins once, and has `joined` called then.
    pub(super) fn launched(mut self, joined: impl Fn(WorkerId) + Send + Sync + 'static) -> Self {
        (self.joins_once, self.is_launched) = (true, true);
        self.joined = Some(Arc::new(joined));
        self
    }

    /// Opens the worker, which joins the node from then on; that it does is not waited for.
    ///
    /// # Errors
    ///
    /// [`WorkerError`]; then nothing is left of it.
    pub fn open(self) -> Result<Worker, WorkerError> {
        if let Some(name) = self.jobs.duplicate() {
            return Err(WorkerError::DuplicateJob { name });
        }
        let key = self.key.read()?;
        // A key that this process was started with has no role but that.
        if !self.is_launched && key.role() != KeyRole::Worker {
            return Err(WorkerError::Role { role: key.role() });
        }
        let manager = complete(&self.manager).map_err(|message| WorkerError::Address { message })?;
        // Workers that one process started run one program, and it has no others: theirs need not be read for that.
        let executable =
            if self.is_launched { [0; 32] } else { executable_digest().map_err(WorkerError::Executable)? };
        let address = self.address.map_or_else(|| address_towards(&manager), Ok)?;
        let (ports, advertised, encrypted) = (self.ports, self.advertised, self.encrypted);
        let data = DataAddress { address, ports, advertised, encrypted };
        let prefix = next_thread_prefix();
        let control = ControlThread {
            thread_prefix: prefix.clone(),
            task_threads: self.slots,
            service_threads: self.service_threads,
            data: Some(data),
        };
        let Alone { host, runtime, worker, over, thread: control } = control.start_alone()?;
        let name = self.name.unwrap_or_else(|| format!("worker-{}", std::process::id()));
        let facts = WorkerFacts {
            name: name.clone(),
            // Another one each time.
            incarnation: 0,
            slots: u32::try_from(self.slots).unwrap_or(u32::MAX),
            data_address: worker.address(),
            executable,
        };
        let data_address = facts.data_address.clone();
        let (draining, is_draining) = watch::channel(false);
        let config = WorkerClientConfig {
            encryption: ClientEncryption {
                always: self.encrypted,
                #[cfg(feature = "tls")]
                trust: self.tls,
                #[cfg(feature = "tls")]
                host: crate::environment::remote::host_of(&manager).to_owned(),
            },
            dial: Arc::new(TcpDial { address: manager }),
            key,
            connect_limit: self.connect_limit,
            facts,
            jobs: self.jobs,
            worker,
            host,
            keeps_dialling: !self.joins_once,
            overrun: Arc::new(overrun),
            draining: is_draining,
            joined: self.joined,
        };
        let (stop, is_stopped) = oneshot::channel();
        let (ended, is_ended) = watch::channel(None);
        let body = async move || {
            let end = serve(config, is_stopped).await;
            tracing::debug!(%end, "a worker ends");
            // The control thread ends by it.
            drop(over);
            ended.send_replace(Some(end));
        };
        let bridge = match start_connection(format!("{prefix}manager"), body) {
            Ok(bridge) => bridge,
            Err(error) => {
                // With the closure went what keeps it.
                let _ = control.join();
                return Err(WorkerError::Thread(error));
            }
        };
        let core = Core { name, data_address, draining, stop: Mutex::new(Some(stop)), ended: is_ended };
        Ok(Worker { core: Arc::new(core), threads: Mutex::new(Some(Threads { control, bridge })), runtime })
    }
}

/// The thread that keeps the connection to the node.
fn start_connection<F: Future<Output = ()>>(
    name: String,
    body: impl FnOnce() -> F + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let runtime = thread::runtime()?;
    host::thread::start(name, move || {
        thread::run_local(&runtime, body());
        runtime.shutdown_background();
    })
}

/// Code of the user's runs although the worker's lease is over, and others may have its jobs by now.
fn overrun() {
    tracing::error!("code of a job still runs although the lease of the worker is over: the process ends");
    std::process::abort()
}

/// Any port of the address from which this machine reaches `manager`. Nothing is sent for that.
fn address_towards(manager: &str) -> Result<String, WorkerError> {
    let route = || {
        let any: [SocketAddr; 2] = [([0; 16], 0).into(), ([0; 4], 0).into()];
        let reach = |any: &SocketAddr| {
            let socket = UdpSocket::bind(any)?;
            socket.connect(manager)?;
            socket.local_addr()
        };
        // One of the families may have no way there.
        any.iter().map(reach).reduce(Result::or).unwrap_or_else(|| Err(io::ErrorKind::NotFound.into()))
    };
    let from = route().map_err(|error| WorkerError::Address {
        message: format!(
            "the way to {manager} is not known: {error}; name the address at which other workers reach this one"
        ),
    })?;
    let ip = from.ip().to_canonical();
    Ok(SocketAddr::new(ip, 0).to_string())
}

impl fmt::Debug for WorkerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerBuilder")
            .field("manager", &self.manager)
            .field("name", &self.name)
            .field("jobs", &self.jobs)
            .field("slots", &self.slots)
            .finish_non_exhaustive()
    }
}

/// Why there is no worker, or none any more.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkerError {
    /// Two of its job types have the same name.
    #[error("two job types are named `{name}`")]
    DuplicateJob {
        /// The name.
        name: &'static str,
    },
    /// There is no key to join with, or what there is cannot be used.
    #[error("there is no key to join with")]
    Key(#[from] KeyError),
    /// The key is for something else than to join as a worker.
    #[error(
        "to join as a worker takes a key of the role `worker`, which the node hands out to whoever may do everything; this one is of the role `{role}`"
    )]
    Role {
        /// What the key is for.
        role: KeyRole,
    },
    /// The address of the node is none, or there is no way there.
    #[error("{message}")]
    Address {
        /// What is wrong with it.
        message: String,
    },
    /// It cannot listen for other workers, or they could not reach it.
    #[error("other workers cannot reach this one: {message}")]
    DataAddress {
        /// Why not.
        message: String,
    },
    /// Which program it runs cannot be said.
    #[error("this program cannot be read")]
    Executable(#[source] io::Error),
    /// It is not a worker of the node any more, or never was, and was not to try again.
    #[error("the worker has no node: {message}")]
    Lost {
        /// Why.
        message: String,
    },
    /// The operating system refused a thread or a file descriptor.
    #[error("the operating system refused a thread or a file descriptor")]
    Thread(#[source] io::Error),
}

impl From<Uncontrolled> for WorkerError {
    fn from(error: Uncontrolled) -> Self {
        match error {
            Uncontrolled::Refused(error) => Self::Thread(error),
            Uncontrolled::Address(error) => Self::DataAddress { message: error.to_string() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_workers_reach_it_where_it_reaches_the_node() {
        assert_eq!(address_towards("127.0.0.1:19001").unwrap(), "127.0.0.1:0");
        let refused = address_towards("no-such-host.invalid:19001");
        assert!(matches!(refused, Err(WorkerError::Address { .. })), "{refused:?}");
    }
}
