//! Connecting to a node.

use std::{
    fmt,
    future::IntoFuture,
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{Core, RemoteEnvironment, link::RemoteLink};
#[cfg(feature = "tls")]
use crate::bridge::TlsTrust;
use crate::{
    blocking::block_on,
    bridge::{
        Client, ClientConfig, ClientEncryption, ConnectFault, Dial, DialError, DialErrorKind, Heartbeat, HelloError,
        Key, KeyError, TcpDial, WhichKey, complete,
    },
};

/// A connection to a node, about to be made: set what differs from the defaults, then await it.
///
/// Made by [`RemoteEnvironment::connect`]. Awaiting it works on any async runtime, and yields the environment once the
/// node has been reached and both sides have proven that they have the same key.
///
/// # Errors
///
/// Awaiting it fails with [`ConnectError`]. To connect is tried once.
///
/// # Cancel safety
///
/// A future dropped half-way leaves no connection.
#[must_use = "nothing is connected until it is awaited"]
pub struct Connect {
    name: String,
    way: Way,
    encrypted: bool,
    #[cfg(feature = "tls")]
    tls: Option<TlsTrust>,
    key: WhichKey,
    heartbeat: Heartbeat,
    connect_limit: Duration,
    reconnect_limit: Duration,
}

enum Way {
    Address(String),
    /// To a node of this process.
    InProcess(Arc<dyn Dial>),
}

/// A connection to a node of this process.
pub(crate) fn in_process(name: String, dial: Arc<dyn Dial>, key: Key) -> Connect {
    Connect { way: Way::InProcess(dial), key: WhichKey::This(key), ..Connect::new(name, String::new()) }
}

impl Connect {
    pub(super) fn new(name: String, address: String) -> Self {
        Self {
            name,
            way: Way::Address(address),
            encrypted: false,
            #[cfg(feature = "tls")]
            tls: None,
            key: WhichKey::default(),
            heartbeat: Heartbeat { interval: Duration::from_secs(5), timeout: Duration::from_secs(15) },
            connect_limit: Duration::from_secs(10),
            reconnect_limit: Duration::from_secs(30),
        }
    }

    /// The key that the node has. Default: the one that [`Key::find`] finds.
    pub fn key(mut self, key: Key) -> Self {
        self.key = WhichKey::This(key);
        self
    }

    /// The file with the key that the node has.
    pub fn key_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.key = WhichKey::File(path.into());
        self
    }

    /// How long connecting may take, each time. Default 10 s.
    pub fn connect_limit(mut self, limit: Duration) -> Self {
        self.connect_limit = limit;
        self
    }

    /// How long those who wait for the node are kept waiting while the connection is lost; then they get an error, and
    /// later ones get it at once, until there is a connection again. Default 30 s.
    pub fn reconnect_limit(mut self, limit: Duration) -> Self {
        self.reconnect_limit = limit;
        self
    }

    /// A sign of life is sent every `interval`, and a node that gave none for `timeout` counts as lost. Default 5 s and
    /// 15 s. An interval of zero counts as a millisecond.
    pub fn heartbeat(mut self, interval: Duration, timeout: Duration) -> Self {
        self.heartbeat = Heartbeat { interval: interval.max(Duration::from_millis(1)), timeout };
        self
    }

    /// Whether a connection to this machine is encrypted, too, as those to others always are: for a port that is
    /// forwarded to another machine. Default: no. It takes the feature `tls`.
    pub fn encrypted(mut self, encrypted: bool) -> Self {
        self.encrypted = encrypted;
        self
    }

    /// Encrypts the connection, with a node that has a certificate which `trust` accepts. With the feature `tls`.
    /// Default: no certificate is asked for, and the shared key alone proves who the node is.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, trust: TlsTrust) -> Self {
        self.tls = Some(trust);
        self
    }

    /// Connects, and blocks the calling thread meanwhile.
    ///
    /// # Errors
    ///
    /// [`ConnectError`].
    pub fn blocking(self) -> Result<RemoteEnvironment, ConnectError> {
        block_on(self.into_future())
    }

    async fn connect(self) -> Result<RemoteEnvironment, ConnectError> {
        let key = self.key.read()?;
        let dial: Arc<dyn Dial> = match self.way {
            Way::InProcess(dial) => dial,
            Way::Address(address) => {
                let address = complete(&address).map_err(|message| ConnectError::Address { message })?;
                Arc::new(TcpDial { address })
            }
        };
        let encryption = ClientEncryption {
            always: self.encrypted,
            #[cfg(feature = "tls")]
            trust: self.tls,
            #[cfg(feature = "tls")]
            host: host_of(dial.place()).to_owned(),
        };
        let (address, thread_prefix) = (dial.place().to_owned(), next_thread_prefix());
        let (closed, closed_rx) = watch::channel(());
        let (client, threads, opened) = Client::start(ClientConfig {
            dial,
            key,
            encryption,
            heartbeat: self.heartbeat,
            connect_limit: self.connect_limit,
            reconnect_limit: self.reconnect_limit,
            thread_prefix: thread_prefix.clone(),
            closed,
        })
        .map_err(ConnectError::Thread)?;
        // From here on a drop of this future closes the client.
        let threads = Arc::new(Mutex::new(Some(threads)));
        let link = Arc::new(RemoteLink::new(self.name, client.clone()));
        let core = Core { link, client, threads, closed: closed_rx, thread_prefix };
        let environment = RemoteEnvironment { core: Arc::new(core) };
        match opened.await {
            Ok(Ok(())) => Ok(environment),
            Ok(Err(fault)) => Err(ConnectError::of(address, fault)),
            Err(_) => Err(ConnectError::Thread(io::Error::other("the connection's thread broke off"))),
        }
    }
}

/// The host of `host:port`.
#[cfg(feature = "tls")]
pub(in crate::environment) fn host_of(address: &str) -> &str {
    address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']'])
}

/// Unique within the process, so that a thread can be recognised by its name.
fn next_thread_prefix() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    format!("proscenium-r{}-", NEXT.fetch_add(1, Ordering::Relaxed))
}

impl IntoFuture for Connect {
    type Output = Result<RemoteEnvironment, ConnectError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.connect())
    }
}

impl fmt::Debug for Connect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connect").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Why a node could not be connected to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// There is no key to prove oneself with, or what there is cannot be used.
    #[error("{}", lacking(.0))]
    Key(#[from] KeyError),
    /// The address is not of the form `host:port` or `host`.
    #[error("{message}")]
    Address {
        /// What is wrong with it.
        message: String,
    },
    /// The node is on another machine, and the connection cannot be encrypted. Without the feature `tls`.
    #[error("{message}: build it with the feature `tls`")]
    Exposed {
        /// Which address it is.
        message: String,
    },
    /// Nothing answered as a node, or not in time, or the host is not known. Trying again may help.
    #[error("no node could be reached at {address}: {message}")]
    Unreachable {
        /// The address.
        address: String,
        /// What was seen of it.
        message: String,
    },
    /// What answered is not what was looked for: no node, one of another version, or one with another key. Trying again
    /// does not help.
    #[error("{address} was reached, but no connection came about: {message}")]
    Refused {
        /// The address.
        address: String,
        /// What does not fit, and what to do.
        message: String,
    },
    /// The operating system refused a thread or a file descriptor.
    #[error("the operating system refused a thread or a file descriptor")]
    Thread(#[source] io::Error),
}

fn lacking(error: &KeyError) -> &'static str {
    match error {
        KeyError::NotFound { .. } | KeyError::NoHome => "there is no key to connect with",
        _ => "the key to connect with cannot be used",
    }
}

impl ConnectError {
    fn of(address: String, fault: ConnectFault) -> Self {
        match fault {
            ConnectFault::Dial(DialError { message, kind }) => match kind {
                #[cfg(not(feature = "tls"))]
                DialErrorKind::Exposed => Self::Exposed { message },
                DialErrorKind::NobodyListens | DialErrorKind::Other => Self::Unreachable { address, message },
            },
            ConnectFault::Hello(error @ (HelloError::Io(_) | HelloError::Closed)) => {
                Self::Unreachable { address, message: error.to_string() }
            }
            ConnectFault::Hello(error) => Self::Refused { address, message: error.to_string() },
            fault @ (ConnectFault::TimedOut(_) | ConnectFault::NotWelcomed(_)) => {
                Self::Unreachable { address, message: fault.to_string() }
            }
        }
    }
}
