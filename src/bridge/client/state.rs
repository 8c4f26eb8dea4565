//! What the threads that use a client and the one that keeps its connection share.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot, watch};

use crate::{
    bridge::{
        ById,
        connection::Violation,
        frame::Message,
        message::{CALLS_MAX, FromNode, REQUESTS_MAX},
        outbound::Outbound,
    },
    job::JobId,
    link::Refusal,
    service::CallError,
};

/// Why a job is lost that the node knows nothing of.
pub(super) const RESTARTED: &str = "the node that ran it was restarted and knows nothing of it";

/// The state of one client.
///
/// Locks are taken in this order: `state`, then `calls`. Those of exchanges are taken with neither held.
pub(super) struct Shared {
    /// Tells this client apart from others, over all of its connections.
    pub client: u128,
    state: Mutex<State>,
    /// Calls that wait for their answer. Apart from the state, because calls are many and short.
    pub calls: Mutex<ById<PendingCall>>,
    next_id: AtomicU64,
    pub requests_room: Arc<Semaphore>,
    pub calls_room: Arc<Semaphore>,
    closing: watch::Sender<bool>,
}

struct State {
    phase: Phase,
    /// The number of the newest connection.
    generation: u64,
    /// That of the node which was last connected to.
    incarnation: u128,
    call_deadline: Duration,
    /// What goes on between this client and its node, by id; in the order in which it was begun.
    exchanges: BTreeMap<u64, Arc<dyn Exchange>>,
}

enum Phase {
    /// A connection is being made.
    Down,
    Up(Arc<Attachment>),
    /// A connection is still being made, but nobody is made to wait for it any more.
    GivenUp(Trouble),
    /// No connection is made any more: the client's key was revoked, in these words.
    Revoked(String),
    Closed,
}

/// One connection, as exchanges see it.
pub(super) struct Attachment {
    pub outbound: Arc<Outbound>,
    /// Rises from one connection to the next.
    pub generation: u64,
    /// The start of the node that it leads to.
    pub incarnation: u128,
}

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trouble {
    pub message: String,
    /// The node's host says that nobody listens there: the node is no more.
    pub gone: bool,
}

/// Why what waits for the node is given up.
#[derive(Debug, Clone)]
pub(super) enum Why {
    Trouble(Trouble),
    /// The client's key was revoked, in these words. For good.
    Revoked(String),
    /// The environment was closed.
    Closed,
}

impl Why {
    /// As the answer to a question, about `job` if it was about one. `sent`: it may have been done what it asked for.
    pub(super) fn refusal(&self, job: Option<JobId>, sent: bool) -> Refusal {
        match (self, job) {
            (Self::Closed, _) => Refusal::EnvironmentClosed,
            (Self::Revoked(message), _) if sent => Refusal::FateUnknown { message: message.clone() },
            (Self::Revoked(message), _) => Refusal::Forbidden { message: message.clone() },
            (Self::Trouble(Trouble { message, gone: true }), Some(id)) => Refusal::Lost { id, reason: message.clone() },
            (Self::Trouble(trouble), _) if sent => Refusal::FateUnknown { message: trouble.message.clone() },
            (Self::Trouble(trouble), _) => Refusal::Unreachable { message: trouble.message.clone() },
        }
    }

    /// As the answer to a call that was not sent.
    pub(super) fn call_error(&self, job: JobId) -> CallError {
        match self {
            Self::Closed => CallError::EnvironmentClosed,
            Self::Revoked(message) => CallError::Forbidden { message: message.clone() },
            Self::Trouble(Trouble { message, gone: true }) => CallError::JobLost { job, reason: message.clone() },
            Self::Trouble(trouble) => CallError::Unreachable { message: trouble.message.clone() },
        }
    }
}

/// Something that goes on between a client and its node, and survives the loss of a connection.
///
/// Notifications of one connection and the next may come from several threads at once; generations tell which is newer.
pub(super) trait Exchange: Send + Sync {
    /// There is a connection: say what has to be said at its beginning.
    fn attach(&self, id: u64, attachment: &Arc<Attachment>);
    /// The connection is lost.
    fn detach(&self, generation: u64);
    /// Whoever waits here must be told that it is in vain.
    fn fail(&self, why: &Why);
    /// # Errors
    ///
    /// The message is none that this exchange expects.
    fn hear(&self, message: FromNode) -> Result<Heard, Violation>;
    /// A message that carries a user's bytes.
    fn receive(&self, message: &Message<'_>) -> Result<(), Violation> {
        Err(Violation::new(format_args!("a message of kind {:?} where none is expected", message.kind)))
    }
}

/// What a message means for its exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    GoesOn,
    /// It was the last one.
    Over,
}

/// A call whose answer is awaited.
pub(super) struct PendingCall {
    pub reply: oneshot::Sender<Result<Vec<u8>, CallError>>,
    pub service: Arc<str>,
    pub message: &'static str,
    pub generation: u64,
    pub _room: tokio::sync::OwnedSemaphorePermit,
}

impl Shared {
    pub(super) fn new(client: u128) -> Arc<Self> {
        let state = State {
            phase: Phase::Down,
            generation: 0,
            incarnation: 0,
            call_deadline: Duration::from_secs(10),
            exchanges: BTreeMap::new(),
        };
        Arc::new(Self {
            client,
            state: Mutex::new(state),
            calls: Mutex::default(),
            next_id: AtomicU64::new(1),
            requests_room: Arc::new(Semaphore::new(REQUESTS_MAX)),
            calls_room: Arc::new(Semaphore::new(CALLS_MAX)),
            closing: watch::Sender::new(false),
        })
    }

    pub(super) fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn incarnation(&self) -> u128 {
        self.state.lock().incarnation
    }

    pub(super) fn call_deadline(&self) -> Duration {
        self.state.lock().call_deadline
    }

    /// Ready once the client is closed.
    pub(super) async fn closing(&self) {
        // An error would say that the sender is gone, which `self` holds.
        let _ = self.closing.subscribe().wait_for(|closed| *closed).await;
    }

    pub(super) fn is_closed(&self) -> bool {
        matches!(self.state.lock().phase, Phase::Closed)
    }

    /// The exchange takes part in this and later connections, until it is over or [`end`](Self::end)ed.
    pub(super) fn begin(&self, id: u64, exchange: &Arc<dyn Exchange>) {
        let mut state = self.state.lock();
        let phase = match &state.phase {
            Phase::Down => Ok(None),
            Phase::Up(attachment) => Ok(Some(Arc::clone(attachment))),
            Phase::GivenUp(trouble) => Err(Why::Trouble(trouble.clone())),
            Phase::Revoked(message) => Err(Why::Revoked(message.clone())),
            Phase::Closed => Err(Why::Closed),
        };
        if !matches!(phase, Err(Why::Closed | Why::Revoked(_))) {
            state.exchanges.insert(id, Arc::clone(exchange));
        }
        drop(state);
        match phase {
            Ok(None) => {}
            Ok(Some(attachment)) => exchange.attach(id, &attachment),
            Err(why) => exchange.fail(&why),
        }
    }

    /// Nobody is interested in the exchange any more. True if it was not over.
    pub(super) fn end(&self, id: u64) -> bool {
        // It may own anything, so it is dropped without the lock.
        let ended = self.state.lock().exchanges.remove(&id);
        ended.is_some()
    }

    pub(super) fn exchange(&self, id: u64) -> Option<Arc<dyn Exchange>> {
        self.state.lock().exchanges.get(&id).cloned()
    }

    /// There is a connection, and the node has welcomed this client.
    pub(super) fn connected(&self, outbound: &Arc<Outbound>, incarnation: u128, call_deadline: Duration) -> u64 {
        let mut state = self.state.lock();
        state.generation += 1;
        let generation = state.generation;
        if matches!(state.phase, Phase::Closed) {
            return generation;
        }
        let attachment = Arc::new(Attachment { outbound: Arc::clone(outbound), generation, incarnation });
        state.phase = Phase::Up(Arc::clone(&attachment));
        state.incarnation = incarnation;
        state.call_deadline = call_deadline;
        let exchanges = state.exchanges();
        drop(state);
        for (id, exchange) in exchanges {
            exchange.attach(id, &attachment);
        }
        generation
    }

    /// The connection is lost.
    pub(super) fn disconnected(&self) {
        let mut state = self.state.lock();
        if let Phase::Up(_) = state.phase {
            state.phase = Phase::Down;
        }
        let (generation, exchanges) = (state.generation, state.exchanges());
        drop(state);
        for (_, exchange) in exchanges {
            exchange.detach(generation);
        }
        self.fail_calls(generation);
    }

    /// What was sent may have been handled, and is never sent again by itself.
    fn fail_calls(&self, generation: u64) {
        let lost: Vec<PendingCall> = {
            let mut calls = self.calls.lock();
            let mut ids: Vec<u64> =
                calls.iter().filter(|(_, call)| call.generation <= generation).map(|(id, _)| *id).collect();
            // In the order in which they were made, whatever the table's is.
            ids.sort_unstable();
            ids.iter().filter_map(|id| calls.remove(id)).collect()
        };
        for PendingCall { reply, service, message, .. } in lost {
            let (service, message) = (service.to_string(), message.to_owned());
            // A caller that has gone needs no answer.
            let _ = reply.send(Err(CallError::FateUnknown { service, message }));
        }
    }

    /// Nobody is to wait for a connection any more, until there is one.
    pub(super) fn give_up(&self, trouble: &Trouble) {
        let mut state = self.state.lock();
        if !matches!(state.phase, Phase::Down | Phase::GivenUp(_)) {
            return;
        }
        state.phase = Phase::GivenUp(trouble.clone());
        let exchanges = state.exchanges();
        drop(state);
        for (_, exchange) in exchanges {
            exchange.fail(&Why::Trouble(trouble.clone()));
        }
    }

    /// The client's key was revoked: everything that waits is told, and so is everything that is begun from now on.
    pub(super) fn revoked(&self, message: &str) {
        let mut state = self.state.lock();
        if matches!(state.phase, Phase::Closed) {
            return;
        }
        state.phase = Phase::Revoked(message.to_owned());
        let exchanges = std::mem::take(&mut state.exchanges);
        drop(state);
        for exchange in exchanges.values() {
            exchange.fail(&Why::Revoked(message.to_owned()));
        }
    }

    /// The environment is closed: everything that waits is told, and nothing is begun any more.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        let phase = std::mem::replace(&mut state.phase, Phase::Closed);
        let generation = state.generation;
        let exchanges = std::mem::take(&mut state.exchanges);
        drop(state);
        for exchange in exchanges.values() {
            exchange.detach(generation);
            exchange.fail(&Why::Closed);
        }
        self.fail_calls(generation);
        self.closing.send_replace(true);
        drop(phase);
    }
}

impl State {
    fn exchanges(&self) -> Vec<(u64, Arc<dyn Exchange>)> {
        self.exchanges.iter().map(|(id, exchange)| (*id, Arc::clone(exchange))).collect()
    }
}
