//! What a node's I/O threads share: who is connected, and what is known of them.

use std::{
    collections::{BTreeMap, HashMap, VecDeque, hash_map::Entry},
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, mpsc, watch};

use super::{
    keys::Owners,
    tally::Tally,
    threads::{Desks, IoThreads},
};
use crate::{
    bridge::{
        connection::Heartbeat,
        encryption::NodeEncryption,
        key::KeyId,
        keyring::KeyRing,
        outbound::Outbound,
        strangers::{Strangers, strangers_max},
    },
    flow::JobRegistry,
    job::JobId,
    link::{NearLink, NodeStop, Refusal, Reply, Request},
};
/// Submits whose parameters are remembered, to recognise one that is repeated.
const SUBMITS_REMEMBERED: usize = 65_536;

/// Clients that are turned away and told so at the same time; further ones are cut off.
const FAREWELLS_MAX: usize = 64;

/// Which processes with a key for workers may join as such.
#[derive(Debug, Clone, Copy)]
pub(crate) enum AdmittedWorkers {
    None,
    /// Those that were started with a key of their own.
    Launched,
    /// Those that run the very program of this process, of which this makes the SHA-256: what a job's tasks do is not compared
    /// otherwise.
    SameProgram(fn() -> io::Result<[u8; 32]>),
}

/// What a [`Server`] is made of.
pub(crate) struct ServerConfig {
    pub(crate) workers: AdmittedWorkers,
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
    pub(super) config: ServerConfig,
    pub(super) link: Arc<dyn NearLink>,
    /// Where orders to stop the node go.
    pub(super) stops: mpsc::UnboundedSender<NodeStop>,
    pub(super) desks: Desks,
    /// Held for a few lines only, and never while anything is waited for.
    pub(super) state: Mutex<State>,
    pub(super) questions: Arc<Questions>,
    /// Clients that may read just now why they were turned away.
    pub(super) farewells: Semaphore,
}

/// How many questions of clients wait for an answer.
#[derive(Default)]
pub(super) struct Questions {
    open: AtomicUsize,
    answered: Notify,
}

impl Questions {
    /// Ready once none waits.
    pub(super) async fn all_answered(&self) {
        loop {
            let notified = self.answered.notified();
            if self.open.load(Ordering::SeqCst) == 0 {
                return;
            }
            notified.await;
        }
    }
}

/// One of them, until its answer is with the connection, or nobody waits for it any more.
pub(super) struct Question(Arc<Questions>);

impl Question {
    pub(super) fn new(questions: &Arc<Questions>) -> Self {
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

pub(super) struct State {
    /// By the client's key and number, so that nobody ends the session of another key. A client has one connection; a
    /// newer one takes over.
    pub sessions: BTreeMap<(KeyId, u128), Arc<SessionEntry>>,
    pub owners: Owners,
    pub strangers: Strangers,
    submits: HashMap<JobId, u128>,
    submits_in_order: VecDeque<JobId>,
    /// No job is accepted any more.
    draining: bool,
    pub closed: bool,
}

pub(super) struct SessionEntry {
    pub tally: Arc<Tally>,
    pub outbound: Arc<Outbound>,
    /// The session is to end at once.
    pub dismissed: Notify,
    /// Its sender is dropped when the session is over.
    pub over: watch::Receiver<()>,
}

impl Server {
    pub(crate) fn new(
        config: ServerConfig,
        link: Arc<dyn NearLink>,
        stops: mpsc::UnboundedSender<NodeStop>,
        threads: &IoThreads,
    ) -> Arc<Self> {
        let desks = threads.desks(link.host());
        let state = State {
            sessions: BTreeMap::new(),
            owners: Owners::default(),
            strangers: Strangers::new(strangers_max()),
            submits: HashMap::new(),
            submits_in_order: VecDeque::new(),
            draining: false,
            closed: false,
        };
        Arc::new(Self {
            config,
            link,
            stops,
            desks,
            state: Mutex::new(state),
            questions: Arc::default(),
            farewells: Semaphore::new(FAREWELLS_MAX),
        })
    }

    /// Accepts no job from now on.
    pub(crate) fn refuse_jobs(&self) {
        self.state.lock().draining = true;
    }

    pub(super) fn ask(&self, request: Request) -> impl Future<Output = Result<Reply, Refusal>> {
        let answer = self.link.ask(request);
        async move {
            let mut answer = answer.await;
            if let Ok(Reply::Health(health)) = &mut answer {
                // The JobManager itself would still take jobs.
                health.accepting &= self.accepts_jobs();
            }
            answer
        }
    }

    pub(super) fn accepts_jobs(&self) -> bool {
        !self.state.lock().draining
    }

    /// Whether the job may have been submitted with these parameters: not, if it was with others.
    pub(super) fn remembers(&self, id: JobId, digest: u128) -> bool {
        let state = &mut *self.state.lock();
        match state.submits.entry(id) {
            Entry::Occupied(known) => return *known.get() == digest,
            Entry::Vacant(free) => free.insert(digest),
        };
        state.submits_in_order.push_back(id);
        if state.submits_in_order.len() > SUBMITS_REMEMBERED
            && let Some(oldest) = state.submits_in_order.pop_front()
        {
            state.submits.remove(&oldest);
        }
        true
    }
}
