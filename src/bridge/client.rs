//! The client's end of the bridge: one connection to a node, made anew whenever it is lost, and what goes on over it.

mod fault;
mod hold;
mod input;
mod keeper;
mod loss;
mod output;
mod request;
mod route;
mod send;
mod state;

use std::{fmt, io, sync::Arc, thread::JoinHandle, time::Duration};

use futures::future::BoxFuture;
use tokio::{
    runtime::Handle,
    sync::{oneshot, watch},
};

pub(crate) use self::fault::ConnectFault;
use self::{
    input::InputStream, keeper::Keeper, output::OutputStream, request::Question, route::ServiceWay, state::Shared,
};
use super::{connection::Heartbeat, encryption::ClientEncryption, key::Key, message::FromClient, stream::Dial};
use crate::{
    host::{Host, TimerThread, thread},
    job::{EncodedJob, JobId, JobOptions},
    link::{KeyRole, NodeStop, Refusal, Reply, Request},
    port::{ChunkSource, InputError, OutputError, RemoteInput},
    schema::TypeDescription,
    service::RemoteService,
};

/// What a [`Client`] is made of.
pub(crate) struct ClientConfig {
    pub dial: Arc<dyn Dial>,
    pub key: Key,
    pub encryption: ClientEncryption,
    pub heartbeat: Heartbeat,
    /// How long it may take from dialling to the end of the handshake.
    pub connect_limit: Duration,
    /// How long those who wait are kept waiting while there is no connection.
    pub reconnect_limit: Duration,
    /// What the names of its threads begin with.
    pub thread_prefix: String,
    /// Dropped when the thread has nothing left to do but to end.
    pub closed: watch::Sender<()>,
}

/// A connection to a node, and whatever it takes to keep it. Clones are the same client.
#[derive(Clone)]
pub(crate) struct Client {
    shared: Arc<Shared>,
    runtime: Handle,
    host: Host,
}

impl Client {
    /// Starts the thread that keeps the connection. The receiver hears whether the first connection was made; if it was
    /// not, the thread ends.
    pub(crate) fn start(config: ClientConfig) -> io::Result<StartedClient> {
        let ClientConfig { dial, key, encryption, heartbeat, connect_limit, reconnect_limit, thread_prefix, closed } =
            config;
        let runtime = thread::runtime()?;
        let handle = runtime.handle().clone();
        // Should anything fail, its drop stops the timer.
        let (host, timer) = Host::on_threads(&format!("{thread_prefix}timer"), &handle);
        let mut client = [0; 16];
        host.fill(&mut client)?;
        let shared = Shared::new(u128::from_le_bytes(client));
        let (opened, is_open) = oneshot::channel();
        let keeper = Keeper {
            dial,
            key,
            encryption,
            heartbeat,
            connect_limit,
            reconnect_limit,
            shared: Arc::clone(&shared),
            host: host.clone(),
        };
        let connection = thread::start(format!("{thread_prefix}connection"), move || {
            runtime.block_on(keeper.run(opened));
            // Without waiting: what a lookup of names still does is of no interest to anybody.
            runtime.shutdown_background();
            drop(closed);
        })?;
        Ok((Self { shared, runtime: handle, host }, ClientThreads { connection, timer }, is_open))
    }

    /// That of the connection's thread.
    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    pub(crate) fn host(&self) -> &Host {
        &self.host
    }

    /// Disconnects. What waits is told that the environment is closed.
    pub(crate) fn close(&self) {
        self.shared.close();
    }

    /// The deadline of calls that name none, which is the node's.
    pub(crate) fn call_deadline(&self) -> Duration {
        self.shared.call_deadline()
    }

    pub(crate) fn ask(&self, request: Request) -> BoxFuture<'static, Result<Reply, Refusal>> {
        let job = match &request {
            Request::Job { job, .. } => Some(*job),
            _ => None,
        };
        self.question(FromClient::Ask(request), job)
    }

    pub(crate) fn submit(
        &self,
        id: JobId,
        options: JobOptions,
        job: EncodedJob,
    ) -> BoxFuture<'static, Result<Reply, Refusal>> {
        self.question(FromClient::Submit { id, options, job }, Some(id))
    }

    pub(crate) fn keys(&self) -> BoxFuture<'static, Result<Reply, Refusal>> {
        self.question(FromClient::ListKeys, None)
    }

    pub(crate) fn add_key(&self, name: String, role: KeyRole, key: &Key) -> BoxFuture<'static, Result<Reply, Refusal>> {
        self.question(FromClient::AddKey { name, role, secret: key.secret().to_vec() }, None)
    }

    pub(crate) fn revoke_key(&self, name: String) -> BoxFuture<'static, Result<Reply, Refusal>> {
        self.question(FromClient::RevokeKey { name }, None)
    }

    pub(crate) fn stop_node(&self, how: NodeStop) -> BoxFuture<'static, Result<Reply, Refusal>> {
        self.question(FromClient::StopNode(how), None)
    }

    /// Ready once the connection is lost that there is now, or none is to be had.
    pub(crate) fn disconnected(&self) -> BoxFuture<'static, ()> {
        let lost = loss::Loss::of(&self.shared);
        Box::pin(lost)
    }

    fn question(&self, what: FromClient, job: Option<JobId>) -> BoxFuture<'static, Result<Reply, Refusal>> {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            let room = Arc::clone(&shared.requests_room).acquire_owned().await;
            let Ok(room) = room else { return Err(Refusal::EnvironmentClosed) };
            let mut asked = Question::ask(&shared, what, job, room);
            // From here on only the reply is waited for.
            drop(shared);
            (&mut asked.reply).await.unwrap_or(Err(Refusal::EnvironmentClosed))
        })
    }

    pub(crate) fn service(&self, job: JobId, name: &str) -> Arc<dyn RemoteService> {
        Arc::new(ServiceWay::new(&self.shared, job, name))
    }

    pub(crate) fn output(
        &self,
        job: JobId,
        name: &str,
        wanted: Arc<TypeDescription>,
    ) -> BoxFuture<'static, Result<Box<dyn ChunkSource>, OutputError>> {
        let (shared, name) = (Arc::clone(&self.shared), name.to_owned());
        Box::pin(
            async move { Ok(Box::new(OutputStream::open(&shared, job, name, wanted).await?) as Box<dyn ChunkSource>) },
        )
    }

    pub(crate) fn input(
        &self,
        job: JobId,
        name: &str,
        wanted: Arc<TypeDescription>,
    ) -> BoxFuture<'static, Result<Arc<dyn RemoteInput>, InputError>> {
        let (shared, name) = (Arc::clone(&self.shared), name.to_owned());
        Box::pin(
            async move { Ok(Arc::new(InputStream::open(&shared, job, name, wanted).await?) as Arc<dyn RemoteInput>) },
        )
    }
}

/// The threads of a [`Client`].
pub(crate) struct ClientThreads {
    connection: JoinHandle<()>,
    timer: TimerThread,
}

impl ClientThreads {
    /// Waits for both. The client has been closed.
    pub(crate) fn join(self) {
        if self.connection.join().is_err() {
            tracing::error!("the connection's thread of a remote environment panicked");
        }
        self.timer.stop_and_join();
    }
}

/// A client, its thread, and the news of its first connection.
pub(crate) type StartedClient = (Client, ClientThreads, oneshot::Receiver<Result<(), ConnectFault>>);

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}
