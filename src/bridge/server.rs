//! The node's end of the bridge: who is connected, and what is done for them.
//!
//! Each connection lives on one of the node's I/O threads (`threads`), from its first byte to its last; who is connected
//! is known to all of them. What a client asks is passed on to the JobManager over the same link that a local environment
//! uses; messages to services, and items, go straight to the gates and ports of the job.

mod access;
mod input;
mod keys;
mod output;
mod pending;
mod service;
mod session;
mod strangers;
mod tally;
mod threads;

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::future::{BoxFuture, Either, select};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, Semaphore, mpsc, oneshot, watch},
    time::timeout,
};

pub(crate) use self::threads::IoThreads;
use self::{
    access::Access,
    keys::Owners,
    session::Session,
    strangers::{Strangers, strangers_max},
    tally::Tally,
    threads::Desks,
};
use super::{
    connection::{Heartbeat, say_goodbye, turn_away},
    encryption::NodeEncryption,
    handshake::{Established, NodeSide, Peer},
    hello::HelloError,
    key::KeyId,
    keyring::{Identity, KeyRing},
    message::Goodbye,
    outbound::Outbound,
    stream::{Dialled, Stream},
};
use crate::{
    flow::JobRegistry,
    job::JobId,
    link::{Host, NodeStop, Refusal, Reply, Request},
    port::ClientId,
};

/// Submits whose parameters are remembered, to recognise one that is repeated.
const SUBMITS_REMEMBERED: usize = 65_536;

/// How long connections may take to be closed when the node ends.
const FAREWELL_LIMIT: Duration = Duration::from_secs(2);

/// Clients that are turned away and told so at the same time; further ones are cut off.
const FAREWELLS_MAX: usize = 64;

/// What a [`Server`] is made of.
pub(crate) struct ServerConfig {
    pub keys: KeyRing,
    pub encryption: NodeEncryption,
    pub incarnation: u128,
    pub registry: JobRegistry,
    pub heartbeat: Heartbeat,
    /// How long a peer may take to prove itself.
    pub hello_limit: Duration,
    pub connections_max: usize,
    /// Jobs of one submitter's key that have not ended.
    pub submitter_jobs_max: usize,
    pub environment: String,
    pub call_deadline: Duration,
}

/// Serves a JobManager to clients.
pub(crate) struct Server {
    config: ServerConfig,
    host: Arc<dyn Host>,
    /// Where orders to stop the node go.
    stops: mpsc::UnboundedSender<NodeStop>,
    desks: Desks,
    /// Held for a few lines only, and never while anything is waited for.
    state: Mutex<State>,
    questions: Arc<Questions>,
    /// Clients that may read just now why they were turned away.
    farewells: Semaphore,
}

/// How many questions of clients wait for an answer.
#[derive(Default)]
struct Questions {
    open: AtomicUsize,
    answered: Notify,
}

/// One of them, until its answer is with the connection, or nobody waits for it any more.
struct Question(Arc<Questions>);

impl Question {
    fn new(questions: &Arc<Questions>) -> Self {
        questions.open.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(questions))
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        if self.0.open.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.answered.notify_waiters();
        }
    }
}

struct State {
    /// By the client's key and number, so that nobody ends the session of another key. A client has one connection; a
    /// newer one takes over.
    sessions: HashMap<(KeyId, u128), Arc<SessionEntry>>,
    owners: Owners,
    strangers: Strangers,
    submits: HashMap<JobId, u128>,
    submits_in_order: VecDeque<JobId>,
    /// No job is accepted any more.
    draining: bool,
    closed: bool,
}

struct SessionEntry {
    tally: Arc<Tally>,
    outbound: Arc<Outbound>,
    /// The session is to end at once.
    dismissed: Notify,
    /// Its sender is dropped when the session is over.
    over: watch::Receiver<()>,
}

impl Server {
    pub(crate) fn new(
        config: ServerConfig,
        host: Arc<dyn Host>,
        stops: mpsc::UnboundedSender<NodeStop>,
        threads: &IoThreads,
    ) -> Arc<Self> {
        let desks = threads.desks();
        let state = State {
            sessions: HashMap::new(),
            owners: Owners::default(),
            strangers: Strangers::new(strangers_max()),
            submits: HashMap::new(),
            submits_in_order: VecDeque::new(),
            draining: false,
            closed: false,
        };
        Arc::new(Self {
            config,
            host,
            stops,
            desks,
            state: Mutex::new(state),
            questions: Arc::default(),
            farewells: Semaphore::new(FAREWELLS_MAX),
        })
    }

    /// Takes up a stream, once it has arrived; the peer has proven nothing yet. `arrival` is awaited on an I/O thread.
    /// `from` is where the peer is, if that is not this process.
    pub(crate) fn welcome(self: &Arc<Self>, from: Option<IpAddr>, arrival: BoxFuture<'static, io::Result<Dialled>>) {
        let (stays, dismissed) = oneshot::channel();
        let number = {
            let mut state = self.state.lock();
            if state.closed {
                return;
            }
            match from {
                Some(address) => Ok(state.strangers.add(address, stays, random)),
                // The process itself is no stranger.
                None => Err(stays),
            }
        };
        let server = Arc::clone(self);
        self.desks.seat().run(move || server.serve(number, arrival, dismissed));
    }

    /// Serves one connection from its first byte to its last.
    async fn serve(
        self: Arc<Self>,
        number: Result<u64, oneshot::Sender<()>>,
        arrival: BoxFuture<'static, io::Result<Dialled>>,
        dismissed: oneshot::Receiver<()>,
    ) {
        let met = match select(pin!(self.meet(arrival)), dismissed).await {
            Either::Left((met, _)) => met,
            Either::Right(_) => return,
        };
        if let Ok(number) = number {
            self.state.lock().strangers.remove(number);
        }
        if let Some((established, from)) = met {
            self.talk(established, from).await;
        }
    }

    /// Makes sure of a peer. None if it has not proven that it has the key.
    async fn meet(
        &self,
        arrival: BoxFuture<'static, io::Result<Dialled>>,
    ) -> Option<(Established<(Peer, Identity)>, Option<SocketAddr>)> {
        let hello = async {
            let dialled = arrival.await.map_err(|error| (HelloError::from(error), None))?;
            let ServerConfig { keys, incarnation, encryption, .. } = &self.config;
            let from = dialled.from;
            let met = NodeSide { keys, incarnation: *incarnation, encryption }.accept(dialled).await;
            met.map(|established| (established, from))
        };
        match timeout(self.config.hello_limit, hello).await {
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
        }
    }

    async fn talk(self: Arc<Self>, established: Established<(Peer, Identity)>, from: Option<SocketAddr>) {
        let Established { peer: (peer, identity), stream, integrity } = established;
        let (client, access) = ((identity.id, peer.who), Access(identity));
        let before = self.state.lock().sessions.get(&client).cloned();
        if let Some(before) = before {
            // Its connection may look alive for a while yet. Nothing of it may work on beside the new one.
            before.dismissed.notify_one();
            let mut over = before.over.clone();
            while over.changed().await.is_ok() {}
        }
        let (reader, writer) = stream.halves();
        let outbound = Outbound::new(writer, integrity);
        let (running, over) = watch::channel(());
        let entry = match self.enter(client, &access, &outbound, over) {
            Ok(entry) => entry,
            Err(None) => return,
            Err(Some(why)) => {
                tracing::warn!(key = %access.0.name, why, "a client was turned away");
                if let Ok(_permit) = self.farewells.try_acquire() {
                    turn_away(reader, &outbound, &Goodbye::TurnedAway(why)).await;
                }
                return;
            }
        };
        let key = Arc::clone(&access.0.name);
        let who = ClientId { key: access.key().to_bytes(), number: client.1 };
        let session = Session::new(Arc::clone(&self), (who, from), outbound, access, Arc::clone(&entry.tally));
        let end = session.run(reader, &entry.dismissed).await;
        tracing::debug!(client = format_args!("{:032x}", client.1), %key, end, "a connection ended");
        self.state.lock().sessions.remove(&client);
        drop(running);
    }

    /// Notes a connection as its client's session. If there is no place for it, the error says why; none, if there is nobody
    /// to be told.
    fn enter(
        &self,
        client: (KeyId, u128),
        access: &Access,
        outbound: &Arc<Outbound>,
        over: watch::Receiver<()>,
    ) -> Result<Arc<SessionEntry>, Option<String>> {
        let mut state = self.state.lock();
        // Or the key was revoked meanwhile, or another connection of this client was faster while this one waited.
        if state.closed || !self.config.keys.knows(access.key()) || state.sessions.contains_key(&client) {
            return Err(None);
        }
        let tally = self.tally_for(&state, access)?;
        tally.join(outbound);
        let entry = SessionEntry { tally, outbound: Arc::clone(outbound), dismissed: Notify::new(), over };
        let entry = Arc::new(entry);
        state.sessions.insert(client, Arc::clone(&entry));
        Ok(entry)
    }

    /// There is no descriptor left: some strangers give theirs back.
    pub(crate) fn make_room(&self) {
        let mut state = self.state.lock();
        for _ in 0..state.strangers.len().div_ceil(8) {
            state.strangers.evict(random());
        }
    }

    /// Accepts no job from now on.
    pub(crate) fn refuse_jobs(&self) {
        self.state.lock().draining = true;
    }

    fn ask(&self, request: Request) -> impl Future<Output = Result<Reply, Refusal>> {
        let answer = self.host.ask(request);
        async move {
            let mut answer = answer.await;
            if let Ok(Reply::Health(health)) = &mut answer {
                // The JobManager itself would still take jobs.
                health.accepting &= self.accepts_jobs();
            }
            answer
        }
    }

    fn accepts_jobs(&self) -> bool {
        !self.state.lock().draining
    }

    /// Whether the job may have been submitted with these parameters: not, if it was with others.
    fn remembers(&self, id: JobId, digest: u128) -> bool {
        let mut state = self.state.lock();
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
                if self.questions.open.load(Ordering::SeqCst) == 0 {
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
        let sessions: Vec<Arc<SessionEntry>> = {
            let mut state = self.state.lock();
            state.closed = true;
            state.strangers.clear();
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

fn random() -> u64 {
    // Without randomness the choice can be foreseen, which is no reason to take nobody in.
    getrandom::u64().unwrap_or(0)
}

/// Lets a refused peer read why before the connection is reset: it is, if bytes are left unread when it is closed.
async fn drain(mut stream: Box<dyn Stream>) {
    use tokio::io::AsyncReadExt;
    let mut bytes = [0; 1024];
    let drained = async { while stream.read(&mut bytes).await.is_ok_and(|count| count > 0) {} };
    // A peer that keeps sending is not listened to for longer.
    let _ = timeout(Duration::from_millis(500), drained).await;
}
