//! How workers come by the connections between them: where each listens, and how two of them meet.
//!
//! A worker has one [`PeerHub`] for all attempts that it is part of. It has a thread of its own, on which it accepts and
//! dials, and on which every connection is read and written.
//!
//! Two workers make sure of each other as a client and a node do ([`handshake`](super::handshake)), with a key that is
//! derived from the attempt's for this one connection ([`secret`]): so nothing else has to be said about which connection
//! it is. Both know the key until they have their connection, and no longer. A worker that is
//! dialled before it has heard of the attempt refuses the key as it does those of strangers, and is dialled again.
//!
//! The one of the lower number dials. If no connection has come to the other one after a while, that dials as well: one of them may
//! be behind a firewall or address translation. So there may be several connections, of which the lower number chooses one, and says
//! so on it by its first byte.
//! Beyond one machine the connection is encrypted; what the proofs cover is then known to the two ends of it only, so that
//! no certificate is needed.

mod drive;
mod hub;
mod secret;

use std::{
    fmt, io,
    net::{Ipv6Addr, SocketAddr},
    ops::RangeInclusive,
    sync::{
        Arc,
        mpsc::{SyncSender, sync_channel},
    },
    thread::JoinHandle,
    time::Duration,
};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::{
    runtime::Runtime,
    sync::{mpsc, oneshot},
};

use self::hub::{Hub, Met};
use super::{
    connection::Heartbeat,
    tcp::{Listening, resolve},
};
use crate::{
    host::{Host, thread},
    peer::{Broken, Meet, Meeting, Peers},
};

/// What a [`PeerHub`] is made of.
pub(crate) struct PeerHubConfig {
    /// Where it listens, `host:port`; any port for 0.
    pub address: String,
    /// The first of these that is free, whatever port the address has.
    pub ports: Option<RangeInclusive<u16>>,
    /// Where others reach it, if that is elsewhere: `host:port`, or a host, with the port that it listens at.
    pub advertised: Option<String>,
    /// On this machine, too.
    pub always_encrypted: bool,
    pub thread_name: String,
    pub limits: PeerLimits,
}

/// How long is waited for others.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PeerLimits {
    pub heartbeat: Heartbeat,
    /// Until there is a connection to each of the others.
    pub meeting: Duration,
    /// Until the worker of the higher number dials, too, because the other one may not reach it.
    pub patience: Duration,
    /// For a stranger that came to prove itself, and for one attempt to reach another worker.
    pub hello: Duration,
}

impl Default for PeerLimits {
    fn default() -> Self {
        Self {
            heartbeat: Heartbeat { interval: Duration::from_secs(1), timeout: Duration::from_secs(5) },
            meeting: Duration::from_secs(10),
            patience: Duration::from_millis(500),
            hello: Duration::from_secs(3),
        }
    }
}

/// Why there is no hub.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PeerHubError {
    #[error("{address} cannot be listened at: {error}")]
    Address { address: String, error: io::Error },
    #[error("others cannot reach a worker at {address}: name the address to advertise")]
    Unspecified { address: SocketAddr },
    #[cfg(not(feature = "tls"))]
    #[error(
        "{address} is beyond this machine, where connections are encrypted, and this program was built without the feature `tls`"
    )]
    Exposed { address: SocketAddr },
    #[cfg_attr(not(feature = "tls"), allow(dead_code, reason = "without the feature nothing is encrypted"))]
    #[error("a worker's connections cannot be encrypted: {message}")]
    Encryption { message: String },
    #[error("no thread for a worker's connections: {0}")]
    Thread(#[from] io::Error),
}

enum Order {
    Meet(Meet, oneshot::Sender<Result<Met, Broken>>),
    Close,
}

/// How a worker meets the others; see [`Meeting`].
///
/// Closing it, or dropping it, breaks off every link that is not being left, and joins its thread, which gives those that
/// are left a second to write what they still have.
pub(crate) struct PeerHub {
    address: String,
    orders: mpsc::UnboundedSender<Order>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl PeerHub {
    /// Waits until it listens. Not to be called on a thread that must not block.
    ///
    /// # Errors
    ///
    /// [`PeerHubError`]; nothing is left then.
    pub(crate) fn open(config: PeerHubConfig, host: &Host) -> Result<Self, PeerHubError> {
        let runtime = thread::runtime()?;
        let (orders, ordered) = mpsc::unbounded_channel();
        let (opened, is_open) = sync_channel(1);
        let (name, host) = (config.thread_name.clone(), host.clone());
        let thread = thread::start(name, move || {
            thread::run_local(&runtime, run(&config, host, &opened, ordered));
            end(runtime);
        })?;
        let opened = is_open.recv().unwrap_or_else(|_| Err(io::Error::other("it broke off").into()));
        match opened {
            Ok(address) => Ok(Self { address, orders, thread: Mutex::new(Some(thread)) }),
            Err(error) => {
                join(thread);
                Err(error)
            }
        }
    }

    /// See [`PeerHub`]. Meetings under way end with an error that says that this worker has closed.
    pub(crate) fn close(&self) {
        // A thread that broke off has ended.
        let _ = self.orders.send(Order::Close);
        if let Some(thread) = self.thread.lock().take() {
            join(thread);
        }
    }
}

fn join(thread: JoinHandle<()>) {
    // The last to use a link may let go of the hub, on the hub's own thread.
    if thread.thread().id() != std::thread::current().id() && thread.join().is_err() {
        tracing::error!("the thread of a worker's connections panicked");
    }
}

fn end(runtime: Runtime) {
    // Without waiting: what a lookup of names still does is of no interest to anybody.
    runtime.shutdown_background();
}

async fn run(
    config: &PeerHubConfig,
    host: Host,
    opened: &SyncSender<Result<String, PeerHubError>>,
    mut orders: mpsc::UnboundedReceiver<Order>,
) {
    let made = async {
        let (listening, address) = listen(&config.address, config.ports.clone()).await?;
        let advertised = advertised(config.advertised.as_deref(), address)?;
        Ok((listening, advertised, Hub::new(config.always_encrypted, config.limits, &host)?))
    };
    let (listening, advertised, hub) = match made.await {
        Ok(made) => made,
        Err(error) => {
            let _ = opened.send(Err(error));
            return;
        }
    };
    let accepting = host.spawn_local(hub.clone().accept(listening));
    // Without anybody who has the hub there is nobody to close it either.
    if opened.send(Ok(advertised)).is_ok() {
        while let Some(Order::Meet(meet, met)) = orders.recv().await {
            hub.meet(meet, met);
        }
    }
    accepting.abort();
    drop(orders);
    hub.close().await;
}

async fn listen(address: &str, ports: Option<RangeInclusive<u16>>) -> Result<(Listening, SocketAddr), PeerHubError> {
    let failed = |error| PeerHubError::Address { address: address.to_owned(), error };
    let mut addresses = resolve(address).await.map_err(failed)?;
    if let Some(ports) = ports {
        let at = |port: u16| addresses.iter().map(move |address| SocketAddr::new(address.ip(), port));
        addresses = ports.flat_map(at).collect();
    }
    #[cfg(not(feature = "tls"))]
    if let Some(address) = addresses.iter().find(|address| !super::tcp::is_loopback(address.ip())) {
        return Err(PeerHubError::Exposed { address: *address });
    }
    Listening::open(&addresses).await.map_err(failed)
}

/// What other workers are told.
fn advertised(advertised: Option<&str>, address: SocketAddr) -> Result<String, PeerHubError> {
    let port = address.port();
    match advertised {
        None if address.ip().is_unspecified() => Err(PeerHubError::Unspecified { address }),
        None => Ok(address.to_string()),
        Some(host) if host.parse::<Ipv6Addr>().is_ok() => Ok(format!("[{host}]:{port}")),
        Some(host) if host.ends_with(']') || !host.contains(':') => Ok(format!("{host}:{port}")),
        Some(whole) => Ok(whole.to_owned()),
    }
}

impl Meeting for PeerHub {
    fn address(&self) -> String {
        self.address.clone()
    }

    fn meet(&self, meet: Meet) -> BoxFuture<'static, Result<Arc<Peers>, Broken>> {
        let orders = self.orders.clone();
        Box::pin(async move {
            let closed = Broken { peer: u32::from(meet.here == 0), message: "this worker has closed".to_owned() };
            let (met, is_met) = oneshot::channel();
            // If it is closed, nobody answers.
            let _ = orders.send(Order::Meet(meet, met));
            is_met.await.unwrap_or(Err(closed)).map(Met::take)
        })
    }
}

impl Drop for PeerHub {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for PeerHub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerHub").field("address", &self.address).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
