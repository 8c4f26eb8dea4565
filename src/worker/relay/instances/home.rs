//! Home's end: gates whose instances run in other workers.

use std::{
    collections::{BTreeMap, VecDeque},
    mem,
    sync::{Arc, OnceLock, Weak},
    task::{Context, Waker},
};

use parking_lot::Mutex;

use super::{CREDIT_BYTES, Counted, FromInstance, ToInstance};
use crate::{
    job::ServiceId,
    peer::{Broken, Link, Peers, Receiver, Sink, StreamId, StreamMark},
    protocol::Layout,
    service::{AnyGate, CallError, Caller, Elsewhere, Parcel, Receipt, Sender, Stage, Standing, Tells, Withdrawal},
    worker::relay::{
        outbox::{Outbox, Told, joined, split},
        pieces::Assembly,
        turning::{Turn, Turning},
    },
};

/// The services of a job whose instances run in other workers. Dropped, nobody waits for their answers any more.
pub(crate) struct InstancesAtHome(Vec<Arc<Turning<Away>>>);

impl InstancesAtHome {
    /// With where they are.
    pub fn new(
        peers: &Peers,
        layout: &Layout,
        gates: &[Arc<dyn AnyGate>],
    ) -> (Self, BTreeMap<ServiceId, Arc<dyn Elsewhere>>) {
        let (mut all, mut elsewhere) = (Vec::new(), BTreeMap::<_, Arc<dyn Elsewhere>>::new());
        for (worker, link) in peers.iter() {
            let here = (0..).map(ServiceId).zip(gates).filter(|(service, _)| layout.place_of(*service) == worker);
            let here: Vec<_> = here.collect();
            if here.is_empty() {
                continue;
            }
            let away = Away::reach(link);
            for (service, gate) in here {
                let there = Arc::new(There {
                    away: Arc::clone(&away),
                    service: service.0,
                    name: gate.name().to_owned(),
                    kinds: gate.kinds(),
                    state: Mutex::default(),
                });
                away.work.services.lock().insert(service.0, Arc::clone(&there));
                elsewhere.insert(service, there);
            }
            all.push(away);
        }
        (Self(all), elsewhere)
    }
}

impl Drop for InstancesAtHome {
    fn drop(&mut self) {
        for away in &self.0 {
            if let Some(receiver) = away.work.receiver.get() {
                receiver.close();
            }
            // They keep each other.
            let services = mem::take(&mut *away.work.services.lock());
            services.values().for_each(|there| there.give_up());
        }
    }
}

/// A worker that runs instances.
struct Away {
    outbox: Outbox,
    /// Set at once.
    receiver: OnceLock<Receiver>,
    services: Mutex<BTreeMap<u32, Arc<There>>>,
}

impl Away {
    fn reach(link: &Arc<Link>) -> Arc<Turning<Self>> {
        let away = Turning::new(Self {
            outbox: Outbox::new(link.sender(StreamId::Instances, CREDIT_BYTES)),
            receiver: OnceLock::new(),
            services: Mutex::default(),
        });
        let sink = Arc::new(Answers { away: Arc::downgrade(&away), assembly: Mutex::default() });
        let _ = away.work.receiver.set(link.receiver(StreamId::Instances, CREDIT_BYTES, sink));
        away
    }

    /// # Errors
    ///
    /// What it says is nothing that a worker says.
    fn hear(&self, bytes: &[u8]) -> Result<(), String> {
        let (said, rest) = split(bytes)?;
        let (FromInstance::Took { service, .. }
        | FromInstance::Reply { service, .. }
        | FromInstance::Failed { service, .. }
        | FromInstance::Refused { service, .. }) = said;
        let there = self.services.lock().get(&service).cloned();
        let there = there.ok_or_else(|| format!("there is no service {service}"))?;
        match said {
            FromInstance::Took { counted, .. } => there.took(counted),
            FromInstance::Reply { id, counted, .. } => there.answer(id, counted, Ok(rest.to_vec())),
            FromInstance::Failed { id, counted, error, .. } => there.answer(id, counted, Err(error)),
            FromInstance::Refused { id, error, .. } => there.refused(id, error),
        }
        Ok(())
    }

    fn lose(&self) {
        let services: Vec<_> = self.services.lock().values().cloned().collect();
        services.iter().for_each(|there| there.lose());
    }
}

impl Turn for Away {
    fn turn(&self, cx: &mut Context<'_>) {
        if self.outbox.turn(cx) == Told::Closed {
            self.outbox.unsaid();
            self.lose();
        }
    }
}

/// A service there.
struct There {
    away: Arc<Turning<Away>>,
    service: u32,
    name: String,
    kinds: Vec<&'static str>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    counted: Counted,
    is_up: bool,
    is_lost: bool,
    /// The bytes of each message that was handed over and not taken up, as far as is known.
    sizes: VecDeque<usize>,
    bytes: usize,
    /// By the number of the call, with the kind of the message.
    callers: BTreeMap<u64, (u32, Box<dyn Caller>)>,
    /// Who is told if a message is none: by the first and behind the last number of those told together.
    receipts: VecDeque<(u64, u64, Arc<dyn Receipt>)>,
    /// To be sent together.
    telling: Option<Telling>,
    waker: Option<Waker>,
}

/// Messages of one kind that were told one after the other.
struct Telling {
    kind: u32,
    first: u64,
    behind: u64,
    tells: Tells,
    receipt: Option<Arc<dyn Receipt>>,
}

impl Telling {
    fn takes(&self, kind: u32, bytes: &[u8], receipt: Option<&Arc<dyn Receipt>>) -> bool {
        let is_same = match (&self.receipt, receipt) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        };
        is_same && self.kind == kind && !self.tells.is_full_for(bytes.len())
    }
}

impl State {
    /// So many messages were taken up. Returns who is to be woken.
    fn count(&mut self, counted: Counted) -> Option<Waker> {
        // Counts that overtook each other on their way into the outbox.
        let done = self.counted.done.max(counted.done);
        for _ in self.counted.done..done {
            self.bytes -= self.sizes.pop_front().unwrap_or(0);
        }
        self.counted = Counted { done, skipped: self.counted.skipped.max(counted.skipped) };
        self.waker.take()
    }
}

impl There {
    fn say(&self, said: ToInstance, rest: &[u8]) {
        self.away.work.outbox.push(None, joined(&said, rest));
    }

    fn took(&self, counted: Counted) {
        let mut state = self.state.lock();
        state.is_up = true;
        while state.receipts.front().is_some_and(|(_, behind, _)| *behind <= counted.done) {
            state.receipts.pop_front();
        }
        let waker = state.count(counted);
        drop(state);
        wake(waker);
    }

    fn answer(&self, id: u64, counted: Counted, reply: Result<Vec<u8>, CallError>) {
        let mut state = self.state.lock();
        let waker = state.count(counted);
        // One that is not there was withdrawn.
        let caller = state.callers.remove(&id);
        drop(state);
        if let Some((_, caller)) = caller {
            caller.answer(reply);
        }
        wake(waker);
    }

    fn refused(&self, id: u64, error: CallError) {
        let state = self.state.lock();
        let receipt = state.receipts.iter().find(|(first, ..)| *first == id).map(|(.., receipt)| Arc::clone(receipt));
        drop(state);
        match receipt {
            Some(receipt) => receipt.refuses(error),
            None => tracing::warn!(service = self.name, %error, "a told message was lost"),
        }
    }

    /// The process is gone, or cannot be reached.
    fn lose(&self) {
        for (kind, caller) in self.end() {
            let message = self.kinds.get(kind as usize).copied().unwrap_or_default().to_owned();
            caller.answer(Err(CallError::FateUnknown { service: self.name.clone(), message }));
        }
    }

    /// The attempt is over, and nothing was lost: a caller that still waits has called a service that was given up.
    fn give_up(&self) {
        drop(self.end());
    }

    /// Nothing more is heard from there. Returns who waits for it.
    fn end(&self) -> Vec<(u32, Box<dyn Caller>)> {
        let mut state = self.state.lock();
        state.is_lost = true;
        let (callers, waker) = (mem::take(&mut state.callers), state.waker.take());
        state.receipts.clear();
        drop(state);
        wake(waker);
        callers.into_values().collect()
    }

    fn send_told(&self, state: &mut State) {
        if let Some(Telling { kind, first, behind, tells, receipt }) = state.telling.take() {
            state.receipts.extend(receipt.map(|receipt| (first, behind, receipt)));
            self.say(ToInstance::Tell { service: self.service, kind, id: first }, tells.bytes());
        }
    }
}

impl Elsewhere for There {
    fn standing(&self, waker: &Waker) -> Standing {
        let mut state = self.state.lock();
        if !state.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            state.waker = Some(waker.clone());
        }
        let stage = match (state.is_lost, state.is_up) {
            (true, _) => Stage::Lost,
            (false, true) => Stage::Up,
            (false, false) => Stage::Starting,
        };
        Standing { stage, done: state.counted.done, skipped: state.counted.skipped, bytes: state.bytes }
    }

    fn hand_over(&self, number: u64, kind: u32, Parcel { bytes, sender }: Parcel) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        state.sizes.push_back(bytes.len());
        state.bytes += bytes.len();
        match sender {
            Sender::Teller(receipt) => {
                if !state.telling.as_ref().is_some_and(|telling| telling.takes(kind, &bytes, receipt.as_ref())) {
                    self.send_told(state);
                    state.telling =
                        Some(Telling { kind, first: number, behind: number, tells: Tells::default(), receipt });
                }
                if let Some(telling) = &mut state.telling {
                    telling.tells.push(&bytes);
                    telling.behind = number + 1;
                }
            }
            Sender::Caller(caller) => {
                self.send_told(state);
                if state.is_lost {
                    drop(guard);
                    let (service, message) = (self.name.clone(), self.kinds[kind as usize].to_owned());
                    caller.answer(Err(CallError::FateUnknown { service, message }));
                    return;
                }
                state.callers.insert(number, (kind, caller));
                self.say(ToInstance::Call { service: self.service, kind, id: number }, &bytes);
            }
        }
    }

    fn flush(&self) {
        self.send_told(&mut self.state.lock());
        self.away.wake();
    }

    fn drained(&self) {
        self.send_told(&mut self.state.lock());
        self.say(ToInstance::Drained { service: self.service }, &[]);
    }
}

impl Withdrawal for There {
    fn withdraw(&self, call: u64) {
        let caller = self.state.lock().callers.remove(&call);
        if caller.is_some() {
            self.say(ToInstance::Withdraw { service: self.service, id: call }, &[]);
            self.away.wake();
        }
    }
}

/// What comes from the worker.
struct Answers {
    away: Weak<Turning<Away>>,
    assembly: Mutex<Assembly>,
}

impl Sink for Answers {
    fn batch(&self, items: u64, bytes: Vec<u8>) {
        let Some(away) = self.away.upgrade() else { return };
        let length = bytes.len() as u64;
        let said = self.assembly.lock().take(items, bytes);
        let heard = said.map_or(Ok(()), |said| away.work.hear(&said));
        let Some(receiver) = away.work.receiver.get() else { return };
        match heard {
            Ok(()) => receiver.grant(length),
            Err(message) => receiver.link().break_off(message),
        }
    }

    fn mark(&self, _: StreamMark) {
        if let Some(away) = self.away.upgrade() {
            away.work.lose();
        }
    }

    fn broken(&self, _: &Broken) {
        if let Some(away) = self.away.upgrade() {
            away.work.lose();
        }
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}
