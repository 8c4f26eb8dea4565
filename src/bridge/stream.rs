//! Byte streams to peers, and how a client comes by one.

use std::net::{IpAddr, SocketAddr};

use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};

/// The receiving half of a stream.
pub(crate) type ReadHalf = Box<dyn AsyncRead + Send + Unpin>;

/// The sending half of a stream.
pub(crate) type WriteHalf = Box<dyn AsyncWrite + Send + Unpin>;

/// A byte stream to a peer.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {
    /// The halves, which are used at the same time from different threads.
    fn halves(self: Box<Self>) -> (ReadHalf, WriteHalf);
}

impl Stream for tokio::io::DuplexStream {
    fn halves(self: Box<Self>) -> (ReadHalf, WriteHalf) {
        let (read, write) = tokio::io::split(*self);
        (Box::new(read), Box::new(write))
    }
}

/// A stream that was just opened, of whose other end nothing is known.
pub(crate) struct Dialled {
    pub stream: Box<dyn Stream>,
    pub reach: Reach,
    /// Of a client on the network, for messages.
    pub from: Option<SocketAddr>,
}

/// How far a stream goes, as this end sees it: there may be a forwarded port on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// It stays on this machine.
    Machine,
    /// Others may be on its way; this is the other end.
    Beyond(IpAddr),
}

/// Opens streams to one node, each time anew.
pub(crate) trait Dial: Send + Sync + 'static {
    fn dial(&self) -> BoxFuture<'static, Result<Dialled, DialError>>;

    /// Where to, for messages.
    fn place(&self) -> &str;
}

/// Why no stream was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DialError {
    pub message: String,
    pub kind: DialErrorKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DialErrorKind {
    /// The host answers, and nobody listens there.
    NobodyListens,
    /// It leads to another machine, and this program cannot encrypt.
    #[cfg(not(feature = "tls"))]
    Exposed,
    Other,
}
