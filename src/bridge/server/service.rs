//! Calls and told messages of one connection, on their way to services and back.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use parking_lot::Mutex;

use super::{say::say, tally::Tally};
use crate::{
    bridge::{
        ById,
        connection::Violation,
        frame::{CALL_BYTES_MAX, Kind, Lane, Message},
        message::{CALLS_MAX, FromNode, ROUTE_WINDOW, cost_of},
        outbound::Outbound,
    },
    codec,
    service::{Answers, CallError, CallWay, Entrance, Origin, Receipt, Tells, Watcher, Withdraw},
};

/// The calls of one connection that are not answered yet.
pub(super) struct Calls {
    tally: Arc<Tally>,
    outbound: Arc<Outbound>,
    /// Without a value between the arrival of a call and its being queued.
    underway: Mutex<ById<Option<Box<dyn Withdraw>>>>,
}

impl Calls {
    pub(super) fn new(tally: &Arc<Tally>, outbound: &Arc<Outbound>) -> Arc<Self> {
        Arc::new(Self { tally: Arc::clone(tally), outbound: Arc::clone(outbound), underway: Mutex::default() })
    }

    /// The inner error is the client's to know: those who have the same key have too many together.
    ///
    /// # Errors
    ///
    /// There are too many of this connection, or one of this id.
    pub(super) fn begin(&self, id: u64) -> Result<Result<(), CallError>, Violation> {
        let mut underway = self.underway.lock();
        if underway.len() >= CALLS_MAX {
            return Err(Violation::new(format_args!("more than {CALLS_MAX} calls wait for an answer")));
        }
        if underway.contains_key(&id) {
            return Err(Violation::new("two calls of one id"));
        }
        if let Err(error) = self.tally.begin_call() {
            return Ok(Err(error));
        }
        underway.insert(id, None);
        Ok(Ok(()))
    }

    pub(super) fn is_underway(&self, id: u64, withdraw: Box<dyn Withdraw>) {
        // It may have been answered by now.
        if let Some(call) = self.underway.lock().get_mut(&id) {
            *call = Some(withdraw);
        }
    }

    /// The call is answered. Whether it was the only one.
    fn end(&self, id: u64) -> bool {
        let mut underway = self.underway.lock();
        let ended = underway.remove(&id);
        let alone = underway.is_empty();
        drop(underway);
        self.tally.end_calls(usize::from(ended.is_some()));
        drop(ended);
        alone
    }

    fn send(&self, kind: Kind, id: u64, payload: &[u8]) {
        let alone = self.end(id);
        self.outbound.enqueue(kind, Lane::Calls, id, &[payload]);
        // If nobody else waits, the one who does is best served from here. Else each write takes several answers along.
        if alone {
            self.outbound.flush();
        } else {
            self.outbound.wake();
        }
    }

    pub(super) fn withdraw(&self, id: u64) {
        let call = self.underway.lock().remove(&id);
        self.tally.end_calls(usize::from(call.is_some()));
        if let Some(Some(call)) = call {
            call.withdraw();
        }
    }

    /// Nobody waits for any answer.
    pub(super) fn withdraw_all(&self) {
        let calls = std::mem::take(&mut *self.underway.lock());
        self.tally.end_calls(calls.len());
        // In the order in which they came, whatever the table's is.
        let mut calls: Vec<_> = calls.into_iter().collect();
        calls.sort_unstable_by_key(|(id, _)| *id);
        calls.into_iter().filter_map(|(_, call)| call).for_each(|call| call.withdraw());
    }
}

/// Takes the answers to their client.
impl Answers for Calls {
    fn refuses(&self, bytes: usize) -> Option<String> {
        if bytes > CALL_BYTES_MAX {
            return Some(format!("it takes {bytes} bytes, and may take {CALL_BYTES_MAX}"));
        }
        self.tally.keeps_no_reply(self.outbound.backlog(), bytes)
    }

    fn reply(&self, call: u64, bytes: Vec<u8>) {
        self.send(Kind::Answer, call, &bytes);
    }

    fn fail(&self, call: u64, error: CallError) {
        let mut payload = Vec::new();
        codec::encode_into(&error, &mut payload).expect("an error is short and plain");
        self.send(Kind::Failure, call, &payload);
    }
}

/// What a route's client has spent of its window, and is owed.
pub(super) struct RouteCredit {
    id: u64,
    outbound: Arc<Outbound>,
    /// The cost of what has arrived and was not credited.
    spent: AtomicUsize,
    /// Of that, what is in the service's queue.
    owed: AtomicUsize,
    /// More messages of this route may follow at once; what is owed is paid after the last.
    reading: AtomicBool,
}

impl RouteCredit {
    pub(super) fn new(id: u64, outbound: &Arc<Outbound>) -> Arc<Self> {
        Arc::new(Self {
            id,
            outbound: Arc::clone(outbound),
            spent: AtomicUsize::new(0),
            owed: AtomicUsize::new(0),
            reading: AtomicBool::new(false),
        })
    }

    /// # Errors
    ///
    /// The client sent beyond its window.
    pub(super) fn spend(&self, cost: usize) -> Result<(), Violation> {
        if self.spent.fetch_add(cost, Ordering::Relaxed) + cost > ROUTE_WINDOW {
            return Err(Violation::new("messages were told beyond the window"));
        }
        Ok(())
    }

    pub(super) fn reading(&self, reading: bool) {
        self.reading.store(reading, Ordering::SeqCst);
        if !reading {
            self.pay(1);
        }
    }

    fn owe(&self, cost: usize) {
        let owed = self.owed.fetch_add(cost, Ordering::SeqCst) + cost;
        if !self.reading.load(Ordering::SeqCst) {
            // A message that had to wait: paid in larger sums, unless nothing else is on its way.
            self.pay(if owed == self.spent.load(Ordering::SeqCst) { 1 } else { ROUTE_WINDOW / 4 });
        }
    }

    /// Pays what is owed, if it is at least `least`.
    fn pay(&self, least: usize) {
        let owed = self.owed.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |owed| (owed >= least).then_some(0));
        if let Ok(cost) = owed
            && cost > 0
        {
            self.spent.fetch_sub(cost, Ordering::SeqCst);
            say(&self.outbound, self.id, &FromNode::RouteCredit { cost: cost as u64 });
        }
    }
}

impl Watcher for RouteCredit {
    fn refuses(&self, error: CallError) {
        say(&self.outbound, self.id, &FromNode::RouteRefused(error));
    }
}

/// Of a told message a client hears nothing but that there is room again, as a rule.
impl Receipt for RouteCredit {
    fn queued(&self, bytes: usize) {
        self.owe(cost_of(bytes));
    }

    fn refused(&self, bytes: usize, error: CallError) {
        self.refuses(error);
        self.owe(cost_of(bytes));
    }
}

/// The way from a client to a service for messages of one kind.
#[derive(Clone)]
pub(super) struct Route {
    pub entrance: Arc<dyn Entrance>,
    pub way: Arc<CallWay>,
    pub credit: Arc<RouteCredit>,
}

/// Told messages of one route that were read one after the other.
#[derive(Default)]
pub(super) struct Telling {
    id: u64,
    route: Option<Route>,
    messages: Tells,
}

impl Telling {
    pub(super) fn is_begun(&self) -> bool {
        self.route.is_some()
    }

    /// Whether the message may follow those that are here.
    pub(super) fn takes(&self, message: &Message<'_>) -> bool {
        self.is_begun() && self.id == message.id && !self.messages.is_full_for(message.payload.len())
    }

    pub(super) fn begin(&mut self, id: u64, route: Route) {
        (self.id, self.route) = (id, Some(route));
    }

    /// # Errors
    ///
    /// The client sent beyond its window.
    pub(super) fn add(&mut self, message: &Message<'_>) -> Result<(), Violation> {
        let Some(route) = &self.route else { return Ok(()) };
        route.credit.spend(cost_of(message.payload.len()))?;
        self.messages.push(message.payload);
        Ok(())
    }

    pub(super) fn hand_in(&mut self) {
        if let Some(Route { entrance, credit, .. }) = self.route.take() {
            let receipt: Arc<dyn Receipt> = credit;
            entrance.tell(&self.messages, Origin::Outside, &receipt);
            self.messages.clear();
        }
    }
}
