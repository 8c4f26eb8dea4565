//! The bridge: the framed link over which a client and a node exchange actor messages.
//!
//! [`frame`] and [`hello`] are pure. [`handshake`] makes sure of the other side, over streams that [`encryption`] has
//! sealed where that is needed. [`connection`] runs one connection over any byte stream, with what is to be sent in
//! [`outbound`]. [`client`] keeps a client connected and carries on over new connections what was begun on lost ones;
//! [`server`] does for each client what it asks, and has the JobManager speak to each worker that joins; [`worker`] is a
//! worker's end of that. Only [`tcp`] names a socket.

mod address;
#[cfg(feature = "tls")]
mod admission;
mod backoff;
mod client;
mod connection;
mod encryption;
mod frame;
#[cfg(any(test, fuzzing))]
#[allow(clippy::missing_panics_doc, reason = "to panic is how a target fails")]
pub(crate) mod fuzz;
mod handshake;
mod hello;
mod key;
mod keyring;
mod message;
mod outbound;
mod peer;
mod server;
mod strangers;
mod stream;
mod tcp;
#[cfg(feature = "tls")]
mod tls;
mod which_key;
mod worker;

/// What is known by numbers that the other side gives. It is looked up for each call, so the hash is a quick one; its seed
/// is a secret of the process. Where the order of what is in it would show, it is sorted.
type ById<T> = std::collections::HashMap<u64, T, foldhash::fast::RandomState>;

pub use self::key::{Key, KeyError};
#[cfg(not(feature = "tls"))]
pub(crate) use self::tcp::reach_of;
#[cfg(feature = "tls")]
pub(crate) use self::tls::RawIdentity;
#[cfg(feature = "tls")]
pub use self::tls::{TlsError, TlsIdentity, TlsTrust};
pub(crate) use self::worker::{WorkerClientConfig, WorkerEnd, serve};
pub(crate) use self::{
    address::complete,
    client::{Client, ClientConfig, ClientThreads, ConnectFault},
    connection::Heartbeat,
    encryption::{ClientEncryption, NodeEncryption},
    frame::PARAMETERS_BYTES_MAX,
    hello::HelloError,
    keyring::KeyRing,
    peer::{PeerHub, PeerHubConfig, PeerHubError, PeerLimits},
    server::{AdmittedWorkers, IoThreads, Server, ServerConfig},
    stream::{Dial, DialError, DialErrorKind, Dialled, Reach},
    tcp::{TcpDial, accept, listen, resolve},
    which_key::WhichKey,
};
