//! A JobManager served over TCP.

mod builder;
mod serving;

use std::{
    fmt,
    future::IntoFuture,
    net::SocketAddr,
    sync::{Arc, mpsc as std_mpsc},
    thread::{self, JoinHandle},
};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

pub use self::builder::{NodeBuilder, NodeError};
use self::serving::{Command, InProcessDial};
use crate::{
    blocking::block_on,
    bridge::Key,
    environment::{Connect, in_process},
    link::NodeStop,
};

/// A process's JobManager, served to clients over TCP: they connect to it with
/// [`RemoteEnvironment::connect`](crate::RemoteEnvironment::connect).
///
/// It runs the job types that it was given, in a [`LocalEnvironment`](crate::LocalEnvironment) of its own, and serves from
/// when it is [open](NodeBuilder::open) until it is stopped: by [`stop`](Self::stop), by a client's
/// [`stop_node`](crate::RemoteEnvironment::stop_node), by a signal while [`serve`](Self::serve) is awaited, or by being
/// dropped. Each start of it is a new *incarnation*, which knows nothing of the jobs of the one before.
///
/// A node that is stopped accepts no job any more, and ends those it has as it was told; until that is done, clients can
/// connect, ask and wait, and stop it more firmly. Then it disconnects them, and leaves no thread (but those of user code
/// that never returns). What clients have not read of outputs by then is gone.
///
/// ```
/// use proscenium::{BuildError, Flow, Job, Node, RemoteEnvironment, jobs};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Squares {
///     to: u64,
/// }
///
/// impl Job for Squares {
///     const NAME: &'static str = "squares";
///
///     fn build(&self, flow: &mut Flow) -> Result<(), BuildError> {
///         flow.from_batch(1..=self.to).map(|x| x * x).collect("squares");
///         Ok(())
///     }
/// }
///
/// // A node: in a process of its own, as a rule, and with the key that it makes at its first start.
/// let key = proscenium::Key::generate();
/// let node = Node::builder().jobs(jobs![Squares]).address("127.0.0.1:0").key(key.clone()).open()?;
/// let address = node.address().expect("it listens").to_string();
///
/// // A client.
/// let env = RemoteEnvironment::connect("doc", address).key(key).blocking()?;
/// let job = env.submit(Squares { to: 3 }).autostop(true).blocking()?;
/// assert!(job.blocking().wait()?.is_completed());
/// assert_eq!(job.output::<u64>("squares").blocking()?, [1, 4, 9]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Node {
    commands: mpsc::UnboundedSender<Command>,
    address: Option<SocketAddr>,
    key: Key,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
    /// Its sender is dropped once the node has ended.
    closed: watch::Receiver<()>,
    /// The names of all its threads begin so.
    thread_names: String,
    /// Whether it was told to listen for signals.
    listens: Mutex<bool>,
}

impl Node {
    /// A node about to be opened: set what differs from the defaults, then [`open`](NodeBuilder::open) it.
    pub fn builder() -> NodeBuilder {
        NodeBuilder::new()
    }

    /// Where it listens: with the port that it was given by the operating system, if it was to have any. `None` for a
    /// node without a listener.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// From when this returns, the first SIGINT (Ctrl+C) or SIGTERM stops the node with [`NodeStop::Drain`], the second with
    /// [`NodeStop::Cancel`]. [`serve`](Self::serve) has the same done when it is awaited; this is for those who tell somebody
    /// that the node is ready before.
    pub fn listen_for_signals(&self) {
        if let Some(listening) = self.order_to_listen() {
            // An error says that the node has ended, and has no use for signals.
            let _ = listening.recv();
        }
    }

    /// The receiver hears when it is done; none if it was ordered before.
    fn order_to_listen(&self) -> Option<std_mpsc::Receiver<()>> {
        if std::mem::replace(&mut *self.listens.lock(), true) {
            return None;
        }
        let (listening, is_listening) = std_mpsc::sync_channel(1);
        // A node that has ended has no use for signals.
        let _ = self.commands.send(Command::ListenForSignals(listening));
        Some(is_listening)
    }

    /// Serves until the node is stopped, and until all that follows from that is done. While it is awaited, the first
    /// SIGINT (Ctrl+C) or SIGTERM stops the node with [`NodeStop::Drain`], the second with [`NodeStop::Cancel`].
    pub fn serve(self) -> Serve {
        Serve { node: self }
    }

    /// Stops the node, without waiting for its end. To stop it again with [`NodeStop::Cancel`] cancels what is still
    /// draining.
    pub fn stop(&self, how: NodeStop) {
        // A node that has ended is stopped.
        let _ = self.commands.send(Command::Stop(how));
    }

    /// A connection to this node within the process: over a pipe in memory, and in all else as over the network. For
    /// tests, and to embed a node and use it.
    pub fn connect(&self, name: impl Into<String>) -> Connect {
        let dial = Arc::new(InProcessDial { commands: self.commands.clone() });
        in_process(name.into(), dial, self.key.clone())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop(NodeStop::Cancel);
        // One of its own threads that waited for it would wait for itself.
        if !thread::current().name().is_some_and(|name| name.starts_with(&self.thread_names)) {
            join(&self.thread);
        }
    }
}

/// Joins the node's thread, unless somebody else has.
fn join(thread: &Mutex<Option<JoinHandle<()>>>) {
    let thread = thread.lock().take();
    if let Some(thread) = thread
        && thread.join().is_err()
    {
        tracing::error!("the thread of a node panicked");
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("address", &self.address).finish_non_exhaustive()
    }
}

/// A node that serves until it is stopped; made by [`Node::serve`]. Await it, or block on it.
#[must_use = "signals are not listened for until it is awaited"]
#[derive(Debug)]
pub struct Serve {
    node: Node,
}

impl Serve {
    /// Blocks the calling thread until the node has ended.
    pub fn blocking(self) {
        block_on(self.into_future());
    }
}

impl IntoFuture for Serve {
    type Output = ();
    type IntoFuture = BoxFuture<'static, ()>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            // Not waited for: that would hold up the executor.
            let _ = self.node.order_to_listen();
            let mut closed = self.node.closed.clone();
            // Nothing is ever sent: this ends by the error that the sender is gone.
            while closed.changed().await.is_ok() {}
            // The thread has nothing left to do but to end, so this does not hold up the executor.
            join(&self.node.thread);
        })
    }
}
