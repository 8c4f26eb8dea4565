//! Jobs on a node across the network.

mod connect;
mod keys;
mod link;

use std::{fmt, sync::Arc, thread};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::watch;

#[cfg(feature = "tls")]
pub(super) use self::connect::host_of;
pub(crate) use self::connect::in_process;
pub use self::connect::{Connect, ConnectError};
pub use self::keys::KeyRingError;
use self::link::RemoteLink;
use crate::{
    bridge::{Client, ClientThreads, Key},
    environment::{BlockingEnvironment, Environment, EnvironmentExt, Run, Submit, sealed::Linked},
    flow::IntoJob,
    handle::ControlError,
    link::{KeyInfo, KeyRole, Link, NodeStop, Reply},
};
#[cfg(feature = "cli")]
use crate::{
    handle::{JobHandle, QueryError},
    job::{JobId, JobStatus},
    link::{JobRequest, Keep, Opened, Request, ask},
    service::ServiceResolver,
};

/// Runs jobs on a [`Node`](crate::Node) across the network, with the API of a
/// [`LocalEnvironment`](crate::LocalEnvironment).
///
/// It keeps one connection, on a thread of its own, and one more thread for deadlines. Clones are handles to the same
/// environment. When the last clone is dropped, or at [`close`](Environment::close), it disconnects and its threads end;
/// jobs go on. Handles to jobs do not keep it open.
///
/// # When the connection is lost
///
/// It is made anew, in the background, for as long as the environment is open. What waits meanwhile:
///
/// | what | happens |
/// |---|---|
/// | a question, `wait`, `watch`, `stop` and the like | is asked again over the new connection |
/// | `submit` | is repeated with the same [`JobId`], so there is one job at most |
/// | a call that was sent | fails with [`FateUnknown`](crate::CallError::FateUnknown), and is not repeated |
/// | a call or a told message that was not sent | waits for the connection, a call until its deadline |
/// | a told message on its way | is lost |
/// | reading an output | goes on where it was |
/// | sending to an input | goes on where it was; no item comes twice |
///
/// While there has been no connection for longer than [`Connect::reconnect_limit`], all of this fails at once, with an
/// error that says what was seen of the node; if the node's host says that nobody listens there, the jobs count as lost
/// with it. All of this also fails at once, and for good, when the node says that the key was revoked and does not take
/// it any more: with the variant `Forbidden`, which names the key, or with `FateUnknown`, if it may have been done. A node that was started anew knows nothing of the jobs of its predecessor: a [`wait`](crate::JobHandle::wait) for
/// one ends with [`Outcome::Lost`](crate::Outcome::Lost).
///
/// ```no_run
/// # use proscenium::{BuildError, Flow, Job};
/// # #[derive(serde::Serialize, serde::Deserialize)]
/// # struct WordCount { file: std::path::PathBuf }
/// # impl Job for WordCount {
/// #     const NAME: &'static str = "word-count";
/// #     fn build(&self, _: &mut Flow) -> Result<(), BuildError> { Ok(()) }
/// # }
/// use proscenium::RemoteEnvironment;
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let env = RemoteEnvironment::connect("reader", "localhost:19001").await?;
/// let job = env.submit(WordCount { file: "a.txt".into() }).autostop(true).await?;
/// let outcome = job.wait().await?;
/// let counts: Vec<(String, u64)> = job.output("counts").await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct RemoteEnvironment {
    core: Arc<Core>,
}

/// What the clones of a [`RemoteEnvironment`] share; disconnects when the last one is dropped.
struct Core {
    link: Arc<RemoteLink>,
    client: Client,
    threads: Arc<Mutex<Option<ClientThreads>>>,
    /// Its sender is dropped once the connection's thread is about to end.
    closed: watch::Receiver<()>,
    thread_prefix: String,
}

impl RemoteEnvironment {
    /// A connection to the node at `address` (`host:port`; the port is 19001 if it is left out), about to be made: set what differs from the defaults, then
    /// await it, or have it made by [`blocking`](Connect::blocking). `name` is what this process calls the environment.
    pub fn connect(name: impl Into<String>, address: impl Into<String>) -> Connect {
        Connect::new(name.into(), address.into())
    }

    /// Submits `job`: a builder that submits when it is awaited.
    pub fn submit<J: IntoJob>(&self, job: J) -> Submit {
        EnvironmentExt::submit(self, job)
    }

    /// Runs `job` to its end: a builder that, when it is awaited, submits with autostop, waits, and listens for Ctrl+C
    /// meanwhile.
    pub fn run<J: IntoJob>(&self, job: J) -> Run {
        EnvironmentExt::run(self, job)
    }

    /// The same for code that is not async.
    #[must_use]
    pub fn blocking(&self) -> BlockingEnvironment<'_> {
        BlockingEnvironment::new(self)
    }

    /// The named keys of the node, in the order in which they were added; its own key is none of them.
    ///
    /// # Errors
    ///
    /// [`KeyRingError`].
    ///
    /// # Cancel safety
    ///
    /// Asking changes nothing; the future can be dropped.
    pub fn keys(&self) -> BoxFuture<'static, Result<Vec<KeyInfo>, KeyRingError>> {
        let keys = self.core.client.keys();
        Box::pin(async move { Ok(Vec::try_from(keys.await?)?) })
    }

    /// Makes a key by which others may do less than everything, and has the node know it from now on, after a restart
    /// too if the node's own key is in a file. Give them the [text](Key::reveal) of it; the node never shows it again.
    ///
    /// A named key takes encryption, the feature `tls`, on both sides: clients that have it talk to this node alone, which
    /// they know by its public key. On a connection within one machine that is not encrypted the new key goes in the clear.
    ///
    /// # Errors
    ///
    /// [`KeyRingError`].
    ///
    /// # Cancel safety
    ///
    /// A future dropped half-way may or may not have added the key; it can be revoked.
    pub fn add_key(&self, name: impl Into<String>, role: KeyRole) -> BoxFuture<'static, Result<Key, KeyRingError>> {
        let (name, key) = (name.into(), Key::generate());
        let added = self.core.client.add_key(name.clone(), role, &key);
        Box::pin(async move {
            let pin = <[u8; 32]>::try_from(added.await?)?;
            Ok(key.handed_out(role, &name, pin))
        })
    }

    /// Takes a key away: its sessions end at once, and nobody connects with it any more. Jobs that were submitted with it go
    /// on.
    ///
    /// # Errors
    ///
    /// [`KeyRingError`]. If the connection was lost meanwhile, it is asked again, and may then read that there is no such
    /// key.
    ///
    /// # Cancel safety
    ///
    /// A future dropped half-way may or may not have revoked the key.
    pub fn revoke_key(&self, name: impl Into<String>) -> BoxFuture<'static, Result<(), KeyRingError>> {
        let revoked = self.core.client.revoke_key(name.into());
        Box::pin(async move { Ok(<()>::try_from(revoked.await?)?) })
    }

    /// Has the node end: it accepts no job any more, ends those it has as `how` says, and then itself. Returns once that
    /// is under way.
    ///
    /// # Errors
    ///
    /// [`ControlError`] if the node cannot be reached, or the environment is closed.
    ///
    /// # Cancel safety
    ///
    /// A future dropped half-way may or may not have stopped the node.
    pub fn stop_node(&self, how: NodeStop) -> BoxFuture<'static, Result<(), ControlError>> {
        let stopped = self.core.client.stop_node(how);
        Box::pin(async move {
            match stopped.await? {
                Reply::Done(()) => Ok(()),
                other => Err(ControlError::Internal(format!("{other:?} does not answer what was asked"))),
            }
        })
    }
}

impl RemoteEnvironment {
    /// Ready once the connection is lost that there is now, or none is to be had.
    ///
    /// It is made anew by itself; this is for those who have to do something else meanwhile, or who wait for the end of
    /// a node that they have [told to end](Self::stop_node).
    ///
    /// # Cancel safety
    ///
    /// Asking changes nothing; the future can be dropped.
    pub fn disconnected(&self) -> BoxFuture<'static, ()> {
        self.core.client.disconnected()
    }

    /// A handle to the job of this id that does not hold it: who looks at a job is none who needs it, so its lease goes on
    /// running. It does not notice that the node was started anew, and is for short looks.
    #[cfg(feature = "cli")]
    pub(crate) fn look_at(&self, id: JobId) -> BoxFuture<'static, Result<JobHandle, QueryError>> {
        let link = self.link();
        Box::pin(async move {
            let request = Request::Job { job: id, request: JobRequest::JobStatus };
            let status = ask::<Box<JobStatus>>(Arc::clone(&link), request).await?;
            Ok(JobHandle::new(link, id, Opened::new(status.name, Keep::default())))
        })
    }

    /// Each Ctrl+C of this process, from when the future is ready until the receiver is dropped.
    #[cfg(feature = "cli")]
    pub(crate) fn interrupts(&self) -> BoxFuture<'static, tokio::sync::mpsc::Receiver<()>> {
        self.core.link.interrupts()
    }

    #[cfg(feature = "cli")]
    pub(crate) fn host(&self) -> &crate::host::Host {
        ServiceResolver::host(&*self.core.link)
    }
}

impl fmt::Debug for RemoteEnvironment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteEnvironment").field("name", &self.core.link.environment()).finish_non_exhaustive()
    }
}

impl Core {
    /// Whether the calling thread is one that closing waits for.
    fn is_on_own_thread(&self) -> bool {
        thread::current().name().is_some_and(|name| name.starts_with(&self.thread_prefix))
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.client.close();
        // A thread of the environment that waited for its threads to end would wait for itself.
        if !self.is_on_own_thread() {
            join(&self.threads);
        }
    }
}

/// Joins the threads, unless somebody else has.
fn join(threads: &Mutex<Option<ClientThreads>>) {
    let threads = threads.lock().take();
    if let Some(threads) = threads {
        threads.join();
    }
}

impl Environment for RemoteEnvironment {
    fn name(&self) -> &str {
        self.core.link.environment()
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        let core = &self.core;
        let (client, threads, mut closed) = (core.client.clone(), Arc::clone(&core.threads), core.closed.clone());
        Box::pin(async move {
            client.close();
            // Nothing is ever sent: this ends by the error that the sender is gone.
            while closed.changed().await.is_ok() {}
            // The threads have nothing left to do but to end, so this does not hold up the executor.
            join(&threads);
        })
    }
}

impl Linked for RemoteEnvironment {
    #[expect(private_interfaces, reason = "the trait is sealed: nobody else can name or call this")]
    fn link(&self) -> Arc<dyn Link> {
        Arc::clone(&self.core.link) as Arc<dyn Link>
    }
}
