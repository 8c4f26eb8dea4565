//! The worker's end: instances of services whose gates are at home.

use std::{
    collections::BTreeMap,
    future::poll_fn,
    sync::{Arc, OnceLock, Weak},
    task::Context,
};

use parking_lot::Mutex;

use super::{CREDIT_BYTES, Counted, FromInstance, ToInstance};
use crate::{
    job::{Incarnation, ServiceId},
    peer::{Broken, Link, Receiver, Sink, StreamId, StreamMark},
    service::{
        Answers, AnyGate, CallError, CallWay, Entrance, Feeder, Origin, Receipt, ServiceDirectory, ServiceResolver,
        Tells, Watcher, Withdraw, bound_to,
    },
    worker::relay::{
        outbox::{MESSAGE_BYTES_MAX, Outbox, Told, joined, split},
        pieces::Assembly,
        turning::{Turn, Turning},
    },
};

/// Has an instance of a service stopped.
type Stop = Box<dyn Fn(ServiceId, Incarnation) + Send + Sync>;

/// The services whose instances run in this worker. Dropped, they hear of nothing more.
pub(crate) struct InstancesAtWorker(Arc<Turning<Serving>>);

impl InstancesAtWorker {
    /// Puts what comes from home into these gates. `stop` is called for a service that [`may_stop`](Self::may_stop) held back.
    pub fn new(
        home: &Arc<Link>,
        directory: &Arc<ServiceDirectory>,
        gates: Vec<(ServiceId, Arc<dyn AnyGate>)>,
        stop: impl Fn(ServiceId, Incarnation) + Send + Sync + 'static,
    ) -> Self {
        let serving = Turning::new(Serving {
            outbox: Outbox::new(home.sender(StreamId::Instances, CREDIT_BYTES)),
            receiver: OnceLock::new(),
            resolver: directory.resolver(),
            services: OnceLock::new(),
            stop: Box::new(stop),
        });
        let services = gates.into_iter().map(|(service, gate)| (service.0, Served::new(&serving, service.0, gate)));
        let _ = serving.work.services.set(services.collect());
        let sink = Arc::new(Requests { serving: Arc::downgrade(&serving), assembly: Mutex::default() });
        let _ = serving.work.receiver.set(home.receiver(StreamId::Instances, CREDIT_BYTES, sink));
        Self(serving)
    }

    /// Whether the service has heard of everything that it is to answer before it stops. If not, the stop is ordered once it
    /// has.
    pub fn may_stop(&self, service: ServiceId, incarnation: Incarnation) -> bool {
        let Some(served) = self.0.work.service(service.0) else { return true };
        let mut ending = served.ending.lock();
        if !ending.is_drained {
            ending.ordered = Some(incarnation);
        }
        ending.is_drained
    }

    /// Ready once everything was said that there was to say by now.
    pub fn said(&self) -> impl Future<Output = ()> + use<> {
        let serving = Arc::clone(&self.0);
        async move { poll_fn(|cx| serving.work.outbox.poll_said(cx)).await }
    }
}

impl Drop for InstancesAtWorker {
    fn drop(&mut self) {
        if let Some(receiver) = self.0.work.receiver.get() {
            receiver.close();
        }
        self.0.work.outbox.unsaid();
        self.0.work.services().for_each(Served::withdraw_all);
    }
}

struct Serving {
    outbox: Outbox,
    /// Set at once, as are the services.
    receiver: OnceLock<Receiver>,
    /// References in messages are bound to it.
    resolver: Arc<dyn ServiceResolver>,
    services: OnceLock<BTreeMap<u32, Served>>,
    stop: Stop,
}

/// A service, with its gate here.
struct Served {
    gate: Arc<dyn AnyGate>,
    /// For each kind of message.
    ways: Vec<(Arc<dyn Entrance>, Arc<CallWay>)>,
    /// Held for the ways, which do not keep it.
    _replies: Arc<Replies>,
    /// Calls that are not answered, without a value between their arrival and their being queued.
    underway: Mutex<BTreeMap<u64, Option<Box<dyn Withdraw>>>>,
    /// What home was told that the instances took up; nothing before the first came.
    took: Mutex<Option<Counted>>,
    ending: Mutex<Ending>,
}

#[derive(Default)]
struct Ending {
    /// Nothing more comes from home.
    is_drained: bool,
    /// The instance is to stop when nothing more comes.
    ordered: Option<Incarnation>,
}

impl Served {
    fn new(serving: &Arc<Turning<Serving>>, service: u32, gate: Arc<dyn AnyGate>) -> Self {
        let replies = Arc::new(Replies { serving: Arc::downgrade(serving), service });
        let answers: Weak<dyn Answers> = Arc::downgrade(&replies) as _;
        let way = |kind| {
            let entrance = Arc::clone(&gate).entrance(kind).expect("the kind is of the gate's own table");
            // Home has let the message in: who may still call is decided there.
            let way = entrance.way(Origin::Service, Arc::clone(&serving.work.resolver), Weak::clone(&answers));
            (entrance, way)
        };
        let ways = gate.kinds().into_iter().map(way).collect();
        gate.feed_by(Arc::new(Coming { serving: Arc::downgrade(serving), service }));
        Self {
            gate,
            ways,
            _replies: replies,
            underway: Mutex::default(),
            took: Mutex::default(),
            ending: Mutex::default(),
        }
    }

    fn counted(&self) -> Counted {
        let (done, skipped) = self.gate.done();
        Counted { done, skipped }
    }

    fn withdraw_all(&self) {
        let underway = std::mem::take(&mut *self.underway.lock());
        underway.into_values().flatten().for_each(|call| call.withdraw());
    }
}

impl Serving {
    fn services(&self) -> impl Iterator<Item = &Served> {
        self.services.get().into_iter().flat_map(BTreeMap::values)
    }

    fn service(&self, service: u32) -> Option<&Served> {
        self.services.get()?.get(&service)
    }

    /// Nothing more comes from home for this service.
    fn drain(&self, service: u32) {
        let Some(served) = self.service(service) else { return };
        let mut ending = served.ending.lock();
        ending.is_drained = true;
        let ordered = ending.ordered.take();
        drop(ending);
        if let Some(incarnation) = ordered {
            (self.stop)(ServiceId(service), incarnation);
        }
    }

    /// Nothing more comes from home at all.
    fn lose(&self) {
        for service in self.services.get().into_iter().flat_map(BTreeMap::keys) {
            self.drain(*service);
        }
    }
}

impl Turning<Serving> {
    fn say(&self, said: &FromInstance, rest: &[u8]) {
        self.work.outbox.push(None, joined(said, rest));
        self.ring();
    }

    /// # Errors
    ///
    /// What it says is nothing that a home says.
    fn hear(self: &Arc<Self>, bytes: &[u8]) -> Result<(), String> {
        let (said, rest) = split(bytes)?;
        let (ToInstance::Call { service, .. }
        | ToInstance::Tell { service, .. }
        | ToInstance::Withdraw { service, .. }
        | ToInstance::Drained { service }) = said;
        let served = self.work.service(service).ok_or_else(|| format!("service {service} is not here"))?;
        let way = |kind: u32| served.ways.get(kind as usize).ok_or_else(|| format!("there is no message {kind}"));
        match said {
            ToInstance::Call { kind, id, .. } => {
                let (entrance, way) = way(kind)?;
                served.underway.lock().insert(id, None);
                if let Some(withdraw) = entrance.call(rest, way, id)
                    // It may have been answered by now.
                    && let Some(call) = served.underway.lock().get_mut(&id)
                {
                    *call = Some(withdraw);
                }
            }
            ToInstance::Tell { kind, id, .. } => {
                let (entrance, _) = way(kind)?;
                let tells = Tells::from_bytes(rest).ok_or("messages that are none")?;
                let receipt: Arc<dyn Receipt> = Arc::new(ToldHere { serving: Arc::downgrade(self), service, id });
                bound_to(Arc::clone(&self.work.resolver), || entrance.tell(&tells, Origin::Service, &receipt));
            }
            ToInstance::Withdraw { id, .. } => {
                let call = served.underway.lock().remove(&id);
                if let Some(Some(call)) = call {
                    call.withdraw();
                }
            }
            ToInstance::Drained { .. } => self.work.drain(service),
        }
        Ok(())
    }
}

impl Turn for Serving {
    fn turn(&self, cx: &mut Context<'_>) {
        if self.outbox.turn(cx) == Told::Closed {
            // Nobody is left to hear the rest.
            self.outbox.unsaid();
            self.lose();
        }
    }
}

/// Takes the answers of one service home.
struct Replies {
    serving: Weak<Turning<Serving>>,
    service: u32,
}

impl Replies {
    fn end(&self, id: u64, say: impl FnOnce(&Turning<Serving>, Counted)) {
        let Some(serving) = self.serving.upgrade() else { return };
        let Some(served) = serving.work.service(self.service) else { return };
        let ended = served.underway.lock().remove(&id);
        say(&serving, served.counted());
        drop(ended);
    }
}

impl Answers for Replies {
    fn refuses(&self, bytes: usize) -> Option<String> {
        (bytes > MESSAGE_BYTES_MAX).then(|| format!("it takes {bytes} bytes, and may take {MESSAGE_BYTES_MAX}"))
    }

    fn reply(&self, id: u64, bytes: Vec<u8>) {
        let service = self.service;
        self.end(id, |serving, counted| serving.say(&FromInstance::Reply { service, id, counted }, &bytes));
    }

    fn fail(&self, id: u64, error: CallError) {
        let service = self.service;
        self.end(id, |serving, counted| serving.say(&FromInstance::Failed { service, id, counted, error }, &[]));
    }
}

/// Tells home that an instance has come for messages.
struct Coming {
    serving: Weak<Turning<Serving>>,
    service: u32,
}

impl Feeder for Coming {
    fn came(&self) {
        let Some(serving) = self.serving.upgrade() else { return };
        let Some(served) = serving.work.service(self.service) else { return };
        let counted = served.counted();
        let mut took = served.took.lock();
        if *took != Some(counted) {
            *took = Some(counted);
            drop(took);
            serving.say(&FromInstance::Took { service: self.service, counted }, &[]);
        }
    }
}

/// Messages that were told together, the first under this number.
struct ToldHere {
    serving: Weak<Turning<Serving>>,
    service: u32,
    id: u64,
}

impl Watcher for ToldHere {
    fn refuses(&self, error: CallError) {
        if let Some(serving) = self.serving.upgrade() {
            serving.say(&FromInstance::Refused { service: self.service, id: self.id, error }, &[]);
        }
    }
}

impl Receipt for ToldHere {
    fn queued(&self, _: usize) {}

    /// The service was given up: what waited for it at home is dropped as well.
    fn refused(&self, _: usize, _: CallError) {}
}

/// What comes from home.
struct Requests {
    serving: Weak<Turning<Serving>>,
    assembly: Mutex<Assembly>,
}

impl Sink for Requests {
    fn batch(&self, items: u64, bytes: Vec<u8>) {
        let Some(serving) = self.serving.upgrade() else { return };
        let length = bytes.len() as u64;
        let said = self.assembly.lock().take(items, bytes);
        let heard = said.map_or(Ok(()), |said| serving.hear(&said));
        let Some(receiver) = serving.work.receiver.get() else { return };
        match heard {
            Ok(()) => receiver.grant(length),
            Err(message) => receiver.link().break_off(message),
        }
    }

    fn mark(&self, _: StreamMark) {
        if let Some(serving) = self.serving.upgrade() {
            serving.work.lose();
        }
    }

    fn broken(&self, _: &Broken) {
        if let Some(serving) = self.serving.upgrade() {
            serving.work.services().for_each(Served::withdraw_all);
            serving.work.lose();
        }
    }
}
