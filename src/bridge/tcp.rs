//! Streams over TCP.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpStream as StdTcpStream},
    sync::Arc,
    time::Duration,
};

use futures::future::BoxFuture;
use tokio::net::{TcpListener, TcpStream, lookup_host};

use super::{
    address::complete,
    server::Server,
    stream::{Dial, DialError, DialErrorKind, Dialled, Reach, ReadHalf, Stream, WriteHalf},
};

/// The wait after an attempt to accept failed, as when there are no file descriptors left.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

impl Stream for TcpStream {
    fn halves(self: Box<Self>) -> (ReadHalf, WriteHalf) {
        let (read, write) = self.into_split();
        (Box::new(read), Box::new(write))
    }
}

/// Connects to `host:port`, which is looked up each time.
pub(crate) struct TcpDial {
    pub address: String,
}

impl Dial for TcpDial {
    fn dial(&self) -> BoxFuture<'static, Result<Dialled, DialError>> {
        let address = self.address.clone();
        Box::pin(async move {
            let (stream, peer) = connect(&address).await?;
            Ok(Dialled { stream: Box::new(stream), reach: reach_of(peer), from: None })
        })
    }

    fn place(&self) -> &str {
        &self.address
    }
}

/// Connects to the first of the addresses that answers.
async fn connect(address: &str) -> Result<(TcpStream, IpAddr), DialError> {
    let addresses = lookup_host(address).await;
    // Whoever answers for names may know more at the next attempt.
    let addresses = addresses.map_err(|error| DialError { message: error.to_string(), kind: DialErrorKind::Other })?;
    let mut failure = DialError { message: "no such host".to_owned(), kind: DialErrorKind::Other };
    for address in addresses {
        #[cfg(not(feature = "tls"))]
        if !is_loopback(address.ip()) {
            failure = DialError {
                message: format!("{address} is beyond this machine, and this program was built without encryption"),
                kind: DialErrorKind::Exposed,
            };
            continue;
        }
        match TcpStream::connect(address).await {
            Ok(stream) => {
                // Frames are gathered before they are written; to wait for more would only delay them.
                stream.set_nodelay(true).map_err(|error| failed(&error))?;
                return Ok((stream, address.ip()));
            }
            Err(error) => failure = failed(&error),
        }
    }
    Err(failure)
}

fn failed(error: &io::Error) -> DialError {
    let kind = match error.kind() {
        io::ErrorKind::ConnectionRefused => DialErrorKind::NobodyListens,
        _ => DialErrorKind::Other,
    };
    DialError { message: error.to_string(), kind }
}

/// How far a stream goes whose other end has this address.
pub(crate) fn reach_of(peer: IpAddr) -> Reach {
    if is_loopback(peer) { Reach::Machine } else { Reach::Beyond(peer) }
}

pub(crate) fn is_loopback(address: IpAddr) -> bool {
    match address {
        IpAddr::V6(address) => address.is_loopback() || address.to_ipv4_mapped().is_some_and(|v4| v4.is_loopback()),
        IpAddr::V4(address) => address.is_loopback(),
    }
}

/// The addresses that `address` means.
pub(crate) async fn resolve(address: &str) -> io::Result<Vec<SocketAddr>> {
    let address = complete(address).map_err(io::Error::other)?;
    Ok(lookup_host(address).await?.collect())
}

/// Takes the connections that come to an address.
pub(super) struct Listening(TcpListener);

impl Listening {
    /// # Errors
    ///
    /// There is no such address here, or it is taken.
    pub(super) async fn open(addresses: &[SocketAddr]) -> io::Result<(Self, SocketAddr)> {
        let listener = listen(addresses).await?;
        let address = listener.local_addr()?;
        Ok((Self(listener), address))
    }

    pub(super) async fn accept(&self) -> io::Result<Dialled> {
        let (stream, from) = self.0.accept().await?;
        // Frames are gathered before they are written; to wait for more would only delay them.
        stream.set_nodelay(true)?;
        Ok(Dialled { stream: Box::new(stream), reach: reach_of(from.ip()), from: Some(from) })
    }
}

/// Listens on the first of `addresses` that can be had.
pub(crate) async fn listen(addresses: &[SocketAddr]) -> io::Result<TcpListener> {
    TcpListener::bind(addresses).await
}

/// Takes in those who connect, for as long as it is awaited.
pub(crate) async fn accept(server: Arc<Server>, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // Frames are gathered before they are written; to wait for more would only delay them.
                if stream.set_nodelay(true).is_ok()
                    && let Ok(stream) = stream.into_std()
                {
                    server.welcome(Some(peer.ip()), arrival(stream, peer));
                }
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                server.make_room();
                // Nothing tells when there is a descriptor again.
                server.host().sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

/// Belongs to the runtime on which it is awaited.
fn arrival(stream: StdTcpStream, peer: SocketAddr) -> BoxFuture<'static, io::Result<Dialled>> {
    let reach = reach_of(peer.ip());
    Box::pin(async move { Ok(Dialled { stream: Box::new(TcpStream::from_std(stream)?), reach, from: Some(peer) }) })
}
