//! The node's end of the bridge: who is connected, and what is done for them.
//!
//! Everything in here lives on the node's bridge thread. What a client asks is passed on to the JobManager over the same
//! link that a local environment uses; messages to services, and items, go straight to the gates and ports of the job.

mod input;
mod output;
mod service;
mod session;

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, VecDeque},
    io,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{Notify, mpsc, watch},
    task::{AbortHandle, spawn_local},
    time::timeout,
};

use self::session::Session;
use super::{
    connection::{Heartbeat, say_goodbye},
    handshake,
    hello::HelloError,
    key::Key,
    message::Goodbye,
    outbound::Outbound,
    stream::{Dialled, Stream},
};
use crate::{
    job::{JobId, JobRegistry},
    link::{Host, NodeStop},
};

/// Peers that have not proven themselves yet, at most; of more, the one that has taken longest is dropped. So strangers,
/// however many and however slow, cannot keep those out who know the key.
const STRANGERS_MAX: usize = 256;

/// Submits whose parameters are remembered, to recognise one that is repeated.
const SUBMITS_REMEMBERED: usize = 65_536;

/// How long connections may take to be closed when the node ends.
const FAREWELL_LIMIT: Duration = Duration::from_secs(2);

/// What a [`Server`] is made of.
pub(crate) struct ServerConfig {
    pub key: Key,
    pub incarnation: u128,
    pub registry: JobRegistry,
    pub heartbeat: Heartbeat,
    /// How long a peer may take to prove itself.
    pub hello_limit: Duration,
    pub connections_max: usize,
    pub environment: String,
    pub call_deadline: Duration,
}

/// Serves a JobManager to clients.
pub(crate) struct Server {
    config: ServerConfig,
    host: Arc<dyn Host>,
    /// Where orders to stop the node go.
    stops: mpsc::UnboundedSender<NodeStop>,
    state: RefCell<State>,
    questions: Rc<Questions>,
}

/// How many questions of clients wait for an answer.
#[derive(Default)]
struct Questions {
    open: Cell<usize>,
    answered: Notify,
}

/// One of them, until its answer is with the connection, or nobody waits for it any more.
struct Question(Rc<Questions>);

impl Question {
    fn new(questions: &Rc<Questions>) -> Self {
        questions.open.set(questions.open.get() + 1);
        Self(Rc::clone(questions))
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        if self.0.open.get() == 0 {
            self.0.answered.notify_waiters();
        }
    }
}

#[derive(Default)]
struct State {
    /// By the client's number. A client has one connection; a newer one takes over.
    sessions: HashMap<u128, Rc<SessionEntry>>,
    strangers: VecDeque<(u64, AbortHandle)>,
    strangers_ever: u64,
    submits: HashMap<JobId, u128>,
    submits_in_order: VecDeque<JobId>,
    /// No job is accepted any more.
    draining: bool,
    closed: bool,
}

struct SessionEntry {
    outbound: Arc<Outbound>,
    /// The session is to end at once.
    dismissed: Notify,
    /// Its sender is dropped when the session is over.
    over: watch::Receiver<()>,
}

impl Server {
    pub(crate) fn new(config: ServerConfig, host: Arc<dyn Host>, stops: mpsc::UnboundedSender<NodeStop>) -> Rc<Self> {
        Rc::new(Self { config, host, stops, state: RefCell::default(), questions: Rc::default() })
    }

    /// Takes up a stream, once it has arrived; the peer has proven nothing yet.
    pub(crate) fn welcome(self: &Rc<Self>, arrival: impl Future<Output = io::Result<Dialled>> + 'static) {
        let mut state = self.state.borrow_mut();
        if state.closed {
            return;
        }
        if state.strangers.len() >= STRANGERS_MAX
            && let Some((_, longest)) = state.strangers.pop_front()
        {
            longest.abort();
        }
        let number = state.strangers_ever;
        state.strangers_ever += 1;
        let server = Rc::clone(self);
        let task = spawn_local(async move { server.meet(number, arrival).await });
        state.strangers.push_back((number, task.abort_handle()));
    }

    async fn meet(self: Rc<Self>, number: u64, arrival: impl Future<Output = io::Result<Dialled>>) {
        let hello = async {
            let Dialled { mut stream, binding } = arrival.await.map_err(|error| (HelloError::from(error), None))?;
            match handshake::accept(&mut stream, &self.config.key, self.config.incarnation, &binding).await {
                Ok(peer) => Ok((peer, stream)),
                Err(error) => Err((error, Some(stream))),
            }
        };
        let met = match timeout(self.config.hello_limit, hello).await {
            Ok(Ok(met)) => Some(met),
            Ok(Err((error, stream))) => {
                tracing::debug!(%error, "a peer was refused");
                if let Some(stream) = stream {
                    // It counts as a stranger for as long as it holds a descriptor.
                    drain(stream).await;
                }
                None
            }
            Err(_) => {
                tracing::debug!("a peer took too long to prove itself");
                None
            }
        };
        self.state.borrow_mut().strangers.retain(|(other, _)| *other != number);
        let Some((peer, stream)) = met else { return };
        // As a task of its own, because the stranger's may be aborted.
        spawn_local(async move { self.talk(peer.who, stream).await });
    }

    async fn talk(self: Rc<Self>, client: u128, stream: Box<dyn Stream>) {
        let before = self.state.borrow().sessions.get(&client).cloned();
        if let Some(before) = before {
            // Its connection may look alive for a while yet. Nothing of it may work on beside the new one.
            before.dismissed.notify_one();
            let mut over = before.over.clone();
            while over.changed().await.is_ok() {}
        }
        let (reader, writer) = stream.halves();
        let outbound = Outbound::new(writer);
        let (running, over) = watch::channel(());
        let entry = Rc::new(SessionEntry { outbound: Arc::clone(&outbound), dismissed: Notify::new(), over });
        {
            let mut state = self.state.borrow_mut();
            if state.closed || state.sessions.len() >= self.config.connections_max {
                tracing::warn!(connections = state.sessions.len(), "a client was turned away");
                return;
            }
            if state.sessions.contains_key(&client) {
                // Another connection of this client was faster while this one waited.
                return;
            }
            state.sessions.insert(client, Rc::clone(&entry));
        }
        let session = Session::new(Rc::clone(&self), outbound);
        let end = session.run(reader, &entry.dismissed).await;
        tracing::debug!(client = format_args!("{client:032x}"), end, "a connection ended");
        self.state.borrow_mut().sessions.remove(&client);
        drop(running);
    }

    /// Accepts no job from now on.
    pub(crate) fn refuse_jobs(&self) {
        self.state.borrow_mut().draining = true;
    }

    fn accepts_jobs(&self) -> bool {
        !self.state.borrow().draining
    }

    /// Whether the job may have been submitted with these parameters: not, if it was with others.
    fn remembers(&self, id: JobId, digest: u128) -> bool {
        let mut state = self.state.borrow_mut();
        if let Some(known) = state.submits.get(&id) {
            return *known == digest;
        }
        if state.submits_in_order.len() >= SUBMITS_REMEMBERED
            && let Some(oldest) = state.submits_in_order.pop_front()
        {
            state.submits.remove(&oldest);
        }
        state.submits.insert(id, digest);
        state.submits_in_order.push_back(id);
        true
    }

    /// Waits until every question has been answered, but not for long: behind the farewell nothing is said.
    async fn answer_all(&self) {
        let answered = async {
            loop {
                let notified = self.questions.answered.notified();
                if self.questions.open.get() == 0 {
                    return;
                }
                notified.await;
            }
        };
        let _ = timeout(FAREWELL_LIMIT, answered).await;
    }

    /// Tells every client that the node ends, once its questions have been answered, and waits until they are gone, but not for long.
    pub(crate) async fn close(&self) {
        self.answer_all().await;
        let sessions: Vec<Rc<SessionEntry>> = {
            let mut state = self.state.borrow_mut();
            state.closed = true;
            state.strangers.drain(..).for_each(|(_, stranger)| stranger.abort());
            state.sessions.values().cloned().collect()
        };
        for session in &sessions {
            say_goodbye(&session.outbound, &Goodbye::NodeStopped);
        }
        let gone = async {
            for session in &sessions {
                let mut over = session.over.clone();
                while over.changed().await.is_ok() {}
            }
        };
        if timeout(FAREWELL_LIMIT, gone).await.is_err() {
            sessions.iter().for_each(|session| session.dismissed.notify_one());
        }
    }
}

/// Lets a refused peer read why before the connection is reset: it is, if bytes are left unread when it is closed.
async fn drain(mut stream: Box<dyn Stream>) {
    use tokio::io::AsyncReadExt;
    let mut bytes = [0; 1024];
    let drained = async { while stream.read(&mut bytes).await.is_ok_and(|count| count > 0) {} };
    // A peer that keeps sending is not listened to for longer.
    let _ = timeout(Duration::from_millis(500), drained).await;
}
