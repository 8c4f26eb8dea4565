//! The thread of a node: accepts connections, which its I/O threads serve, until it is told to stop, and then ends what
//! there is.

use std::{
    future::ready,
    io,
    net::SocketAddr,
    sync::{Arc, mpsc::SyncSender},
};

use futures::future::{BoxFuture, Either, join_all, select};
use tokio::{
    io::DuplexStream,
    net::TcpListener,
    sync::{mpsc, watch},
};

use super::NodeError;
use crate::{
    bridge::{
        Dial, DialError, DialErrorKind, Dialled, IoThreads, Reach, Server, ServerConfig, accept, listen, resolve,
    },
    environment::{Environment, LocalEnvironment},
    handle::JobHandle,
    host::{Host, thread},
    link::NodeStop,
};

/// Bytes on the way in a pipe between a node and a client of the same process.
const PIPE_BYTES: usize = 256 << 10;

/// What a node's thread is told.
pub(super) enum Command {
    Stop(NodeStop),
    /// The sender is told when that is so.
    ListenForSignals(SyncSender<()>),
    /// A client of this process.
    Welcome(DuplexStream),
}

pub(super) struct Setup {
    pub environment: LocalEnvironment,
    pub server: ServerConfig,
    pub address: Option<String>,
    pub io_threads: usize,
    /// How the names of its threads begin.
    pub thread_names: String,
    pub orders: mpsc::UnboundedReceiver<Command>,
    /// Where clients' and signals' orders to stop go.
    pub stops: mpsc::UnboundedSender<Command>,
}

/// Connects to a node of this process.
pub(super) struct InProcessDial {
    pub commands: mpsc::UnboundedSender<Command>,
}

impl Dial for InProcessDial {
    fn dial(&self) -> BoxFuture<'static, Result<Dialled, DialError>> {
        let (here, there) = tokio::io::duplex(PIPE_BYTES);
        let welcomed = self.commands.send(Command::Welcome(there));
        Box::pin(ready(match welcomed {
            Ok(()) => Ok(Dialled { stream: Box::new(here), reach: Reach::Machine, from: None }),
            Err(_) => {
                let message = "the node has ended".to_owned();
                Err(DialError { message, kind: DialErrorKind::NobodyListens })
            }
        }))
    }

    fn place(&self) -> &str {
        "this process"
    }
}

/// Runs until the node has ended. `closed` is dropped last.
pub(super) fn run(setup: Setup, opened: &SyncSender<Result<Option<SocketAddr>, NodeError>>, closed: watch::Sender<()>) {
    let runtime = match thread::runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            // Without an opener there is nobody to tell.
            let _ = opened.send(Err(NodeError::Thread(error)));
            return;
        }
    };
    let threads = match IoThreads::start(setup.io_threads, &format!("{}io", setup.thread_names)) {
        Ok(threads) => threads,
        Err(error) => {
            thread::run_local(&runtime, setup.environment.close());
            let _ = opened.send(Err(NodeError::Thread(error)));
            return;
        }
    };
    thread::run_local(&runtime, serve(setup, &threads, opened));
    threads.end();
    // Without waiting: what a lookup of names still does is of no interest to anybody.
    runtime.shutdown_background();
    drop(closed);
}

async fn serve(setup: Setup, threads: &IoThreads, opened: &SyncSender<Result<Option<SocketAddr>, NodeError>>) {
    let Setup { environment, server, address, mut orders, stops, .. } = setup;
    let listener = match open_listener(address).await {
        Ok(listener) => listener,
        Err(error) => {
            environment.close().await;
            let _ = opened.send(Err(error));
            return;
        }
    };
    let address = listener.as_ref().and_then(|listener| listener.local_addr().ok());
    let (client_stops, mut asked) = mpsc::unbounded_channel();
    let server = Server::new(server, environment.near_link(), client_stops, threads);
    let host = server.host();
    let accepting = listener.map(|listener| host.spawn_local(accept(Arc::clone(&server), listener)));
    let forwarded = stops.clone();
    host.spawn_local(async move {
        while let Some(how) = asked.recv().await {
            let _ = forwarded.send(Command::Stop(how));
        }
    });
    tracing::info!(node = environment.name(), ?address, "serving");
    if opened.send(Ok(address)).is_ok() {
        let how = until_stopped(&server, &mut orders, &stops).await;
        end_jobs(&environment, &server, how, &mut orders, &stops).await;
    }
    if let Some(accepting) = accepting {
        accepting.abort();
    }
    server.close().await;
    environment.close().await;
    tracing::info!(node = environment.name(), "ended");
}

async fn open_listener(address: Option<String>) -> Result<Option<TcpListener>, NodeError> {
    let Some(address) = address else { return Ok(None) };
    let failed = |error: io::Error| NodeError::Address { address: address.clone(), message: error.to_string() };
    let addresses = resolve(&address).await.map_err(failed)?;
    #[cfg(not(feature = "tls"))]
    if let Some(address) = addresses.iter().find(|address| crate::bridge::reach_of(address.ip()) != Reach::Machine) {
        return Err(NodeError::Exposed { address: *address });
    }
    listen(&addresses).await.map(Some).map_err(failed)
}

fn in_process(stream: DuplexStream) -> BoxFuture<'static, io::Result<Dialled>> {
    Box::pin(ready(Ok(Dialled { stream: Box::new(stream), reach: Reach::Machine, from: None })))
}

/// Follows orders until one is to stop.
async fn until_stopped(
    server: &Arc<Server>,
    orders: &mut mpsc::UnboundedReceiver<Command>,
    stops: &mpsc::UnboundedSender<Command>,
) -> NodeStop {
    loop {
        match orders.recv().await {
            Some(Command::Stop(how)) => return how,
            Some(Command::ListenForSignals(listening)) => listen_for_signals(server.host(), stops.clone(), &listening),
            Some(Command::Welcome(stream)) => server.welcome(None, in_process(stream)),
            // The node itself holds a sender, so this does not happen.
            None => return NodeStop::Cancel,
        }
    }
}

/// Ends all jobs, and more firmly if another order says so. Clients can connect, ask and wait meanwhile: a node that
/// took no connection would pass for one that is gone, and its jobs for lost.
async fn end_jobs(
    environment: &LocalEnvironment,
    server: &Arc<Server>,
    mut how: NodeStop,
    orders: &mut mpsc::UnboundedReceiver<Command>,
    stops: &mpsc::UnboundedSender<Command>,
) {
    tracing::info!(node = environment.name(), ?how, "stopping");
    server.refuse_jobs();
    loop {
        let mut jobs: Vec<JobHandle> = Vec::new();
        for status in environment.jobs().await.unwrap_or_default() {
            if status.is_running()
                && let Ok(job) = environment.job(status.id).await
            {
                jobs.push(job);
            }
        }
        if jobs.is_empty() {
            return;
        }
        for job in &jobs {
            // A refusal says that the job has ended meanwhile.
            let _ = if how == NodeStop::Cancel { job.cancel().await } else { job.stop().await };
        }
        let mut ended = std::pin::pin!(join_all(jobs.iter().map(JobHandle::wait)));
        loop {
            match select(ended.as_mut(), std::pin::pin!(orders.recv())).await {
                Either::Left(_) => break,
                Either::Right((Some(Command::Stop(NodeStop::Cancel)), _)) if how != NodeStop::Cancel => {
                    how = NodeStop::Cancel;
                    break;
                }
                // A signal while draining is the second one.
                Either::Right((Some(Command::Stop(NodeStop::Drain)), _)) => {}
                Either::Right((Some(Command::ListenForSignals(listening)), _)) => {
                    listen_for_signals(server.host(), stops.clone(), &listening);
                }
                Either::Right((Some(Command::Welcome(stream)), _)) => server.welcome(None, in_process(stream)),
                Either::Right((Some(Command::Stop(_)) | None, _)) => {}
            }
        }
    }
}

/// The first signal drains, later ones cancel.
#[cfg(unix)]
fn listen_for_signals(host: &Host, stops: mpsc::UnboundedSender<Command>, listening: &SyncSender<()>) {
    use tokio::signal::unix::{SignalKind, signal};
    let signals = signal(SignalKind::interrupt()).and_then(|int| Ok((int, signal(SignalKind::terminate())?)));
    let (mut interrupt, mut terminate) = match signals {
        Ok(signals) => signals,
        Err(error) => return tracing::warn!(%error, "signals cannot be listened for"),
    };
    // Whoever ordered it may not wait.
    let _ = listening.try_send(());
    host.spawn_local(async move {
        let mut how = NodeStop::Drain;
        loop {
            let (interrupt, terminate) = (std::pin::pin!(interrupt.recv()), std::pin::pin!(terminate.recv()));
            let _ = select(interrupt, terminate).await;
            if stops.send(Command::Stop(how)).is_err() {
                return;
            }
            how = NodeStop::Cancel;
        }
    });
}

/// The first Ctrl+C drains, later ones cancel.
#[cfg(not(unix))]
fn listen_for_signals(host: &Host, stops: mpsc::UnboundedSender<Command>, listening: &SyncSender<()>) {
    let _ = listening.try_send(());
    host.spawn_local(async move {
        let mut how = NodeStop::Drain;
        while tokio::signal::ctrl_c().await.is_ok() && stops.send(Command::Stop(how)).is_ok() {
            how = NodeStop::Cancel;
        }
    });
}
