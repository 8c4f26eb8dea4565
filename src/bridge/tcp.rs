//! Streams over TCP.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use futures::future::BoxFuture;
use tokio::net::{TcpListener, TcpStream, lookup_host};

use super::stream::{Dial, DialError, DialErrorKind, Dialled, ReadHalf, Stream, WriteHalf};

impl Stream for TcpStream {
    fn halves(self: Box<Self>) -> (ReadHalf, WriteHalf) {
        let (read, write) = self.into_split();
        (Box::new(read), Box::new(write))
    }
}

/// Connects to `host:port`, which is looked up each time.
pub(crate) struct TcpDial {
    pub address: String,
    /// Whether to go beyond this machine, where others can read along.
    pub beyond_loopback: bool,
}

impl Dial for TcpDial {
    fn dial(&self) -> BoxFuture<'static, Result<Dialled, DialError>> {
        let (address, beyond_loopback) = (self.address.clone(), self.beyond_loopback);
        Box::pin(async move {
            let stream = connect(&address, beyond_loopback).await?;
            Ok(Dialled { stream: Box::new(stream), binding: Vec::new() })
        })
    }

    fn place(&self) -> &str {
        &self.address
    }
}

/// Connects to the first of the addresses that answers.
pub(super) async fn connect(address: &str, beyond_loopback: bool) -> Result<TcpStream, DialError> {
    let addresses = lookup_host(address).await;
    let addresses = addresses.map_err(|error| DialError {
        message: format!("`{address}` is no address of a node: {error}"),
        kind: DialErrorKind::Address,
    })?;
    let mut failure = DialError { message: format!("`{address}` has no address"), kind: DialErrorKind::Address };
    for address in addresses {
        if !beyond_loopback && !is_loopback(address.ip()) {
            failure = DialError {
                message: format!("{address} is beyond this machine, and the connection is not encrypted"),
                kind: DialErrorKind::Exposed,
            };
            continue;
        }
        match TcpStream::connect(address).await {
            Ok(stream) => {
                // Frames are gathered before they are written; to wait for more would only delay them.
                stream.set_nodelay(true).map_err(|error| failed(&error))?;
                return Ok(stream);
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

pub(crate) fn is_loopback(address: IpAddr) -> bool {
    match address {
        IpAddr::V6(address) => address.is_loopback() || address.to_ipv4_mapped().is_some_and(|v4| v4.is_loopback()),
        IpAddr::V4(address) => address.is_loopback(),
    }
}

/// The addresses that `address` means.
pub(crate) async fn resolve(address: &str) -> io::Result<Vec<SocketAddr>> {
    Ok(lookup_host(address).await?.collect())
}

/// Listens on the first of `addresses` that can be had.
pub(crate) async fn listen(addresses: &[SocketAddr]) -> io::Result<TcpListener> {
    TcpListener::bind(addresses).await
}
