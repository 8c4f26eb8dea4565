//! The home's end: what other workers' tasks have for its services.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock, Weak},
    task::Context,
};

use parking_lot::Mutex;

use super::{CREDIT_BYTES, FromHome, FromWorker};
use crate::{
    job::JobId,
    peer::{Broken, Link, Peers, Receiver, Sink, StreamId, StreamMark},
    service::{
        Answers, CallError, CallWay, Entrance, Origin, Receipt, ServiceDirectory, ServiceResolver, Tells, Watcher,
        Withdraw, bound_to,
    },
    worker::relay::{
        outbox::{MESSAGE_BYTES_MAX, Outbox, Told, joined, split},
        pieces::Assembly,
        turning::{Turn, Turning},
    },
};

/// The services of a job at its home, as far as other workers call them. Dropped, nobody is answered any more.
pub(crate) struct CallsAtHome(Vec<Arc<Turning<Home>>>);

impl CallsAtHome {
    pub fn new(peers: &Peers, directory: &Arc<ServiceDirectory>) -> Self {
        Self(peers.iter().map(|(_, link)| Home::serve(link, directory)).collect())
    }
}

impl Drop for CallsAtHome {
    fn drop(&mut self) {
        for home in &self.0 {
            home.work.withdraw_all();
            if let Some(receiver) = home.work.receiver.get() {
                receiver.close();
            }
            home.work.outbox.sender().mark(StreamMark::End);
        }
    }
}

/// What serves one worker.
struct Home {
    directory: Arc<ServiceDirectory>,
    /// References in messages are bound to it.
    resolver: Arc<dyn ServiceResolver>,
    outbox: Outbox,
    /// Set at once.
    receiver: OnceLock<Receiver>,
    routes: Mutex<BTreeMap<u64, Result<Route, CallError>>>,
    /// Calls that are not answered, without a value between their arrival and their being queued.
    underway: Mutex<BTreeMap<u64, Option<Box<dyn Withdraw>>>>,
}

#[derive(Clone)]
struct Route {
    entrance: Arc<dyn Entrance>,
    way: Arc<CallWay>,
    origin: Origin,
}

impl Home {
    fn serve(link: &Arc<Link>, directory: &Arc<ServiceDirectory>) -> Arc<Turning<Self>> {
        let home = Turning::new(Self {
            directory: Arc::clone(directory),
            resolver: directory.resolver(),
            outbox: Outbox::new(link.sender(StreamId::Calls, CREDIT_BYTES)),
            receiver: OnceLock::new(),
            routes: Mutex::default(),
            underway: Mutex::default(),
        });
        let sink = Arc::new(Requests { home: Arc::downgrade(&home), assembly: Mutex::default() });
        let _ = home.work.receiver.set(link.receiver(StreamId::Calls, CREDIT_BYTES, sink));
        home
    }

    fn withdraw_all(&self) {
        let underway = std::mem::take(&mut *self.underway.lock());
        underway.into_values().flatten().for_each(|call| call.withdraw());
    }
}

impl Turning<Home> {
    fn say(&self, said: &FromHome, rest: &[u8]) {
        self.work.outbox.push(None, joined(said, rest));
        self.ring();
    }

    /// # Errors
    ///
    /// What it says is nothing that a worker says.
    fn hear(self: &Arc<Self>, bytes: &[u8]) -> Result<(), String> {
        let home = &self.work;
        let (said, rest) = split(bytes)?;
        match said {
            FromWorker::Open { route, job, service, actor, message, origin } => {
                let opened = self.open(job, &service, actor, &message, origin);
                home.routes.lock().insert(route, opened);
            }
            FromWorker::Close { route } => drop(home.routes.lock().remove(&route)),
            FromWorker::Call { route, id } => match self.route(route)? {
                Ok(route) => {
                    home.underway.lock().insert(id, None);
                    if let Some(withdraw) = route.entrance.call(rest, &route.way, id)
                        // It may have been answered by now.
                        && let Some(call) = home.underway.lock().get_mut(&id)
                    {
                        *call = Some(withdraw);
                    }
                }
                Err(error) => self.say(&FromHome::Failed { id, error }, &[]),
            },
            FromWorker::Tell { route: number, id } => match self.route(number)? {
                Ok(route) => {
                    let mut tells = Tells::default();
                    tells.push(rest);
                    let receipt = Acknowledging { home: Arc::downgrade(self), route: number, id };
                    let receipt: Arc<dyn Receipt> = Arc::new(receipt);
                    bound_to(Arc::clone(&home.resolver), || route.entrance.tell(&tells, route.origin, &receipt));
                }
                Err(error) => self.say(&FromHome::Failed { id, error }, &[]),
            },
            FromWorker::Withdraw { id } => {
                let call = home.underway.lock().remove(&id);
                if let Some(Some(call)) = call {
                    call.withdraw();
                }
            }
        }
        Ok(())
    }

    fn open(
        self: &Arc<Self>,
        job: JobId,
        service: &str,
        asked: String,
        message: &str,
        origin: Origin,
    ) -> Result<Route, CallError> {
        let Home { directory, resolver, .. } = &self.work;
        if job != directory.job() {
            return Err(CallError::Unbound { job, service: service.to_owned() });
        }
        let gate = directory.gate(service)?;
        if gate.actor() != asked {
            let (service, registered) = (service.to_owned(), gate.actor().to_owned());
            return Err(CallError::WrongService { service, asked, registered });
        }
        let entrance = gate.entrance(message)?;
        let this: Weak<dyn Answers> = Arc::downgrade(self) as _;
        let way = entrance.way(origin, Arc::clone(resolver), this);
        Ok(Route { entrance, way, origin })
    }

    fn route(&self, number: u64) -> Result<Result<Route, CallError>, String> {
        self.work.routes.lock().get(&number).cloned().ok_or_else(|| format!("there is no route {number}"))
    }
}

/// Takes the answers to their worker.
impl Answers for Turning<Home> {
    fn refuses(&self, bytes: usize) -> Option<String> {
        (bytes > MESSAGE_BYTES_MAX).then(|| format!("it takes {bytes} bytes, and may take {MESSAGE_BYTES_MAX}"))
    }

    fn reply(&self, id: u64, bytes: Vec<u8>) {
        let ended = self.work.underway.lock().remove(&id);
        self.say(&FromHome::Reply { id }, &bytes);
        drop(ended);
    }

    fn fail(&self, id: u64, error: CallError) {
        let ended = self.work.underway.lock().remove(&id);
        self.say(&FromHome::Failed { id, error }, &[]);
        drop(ended);
    }
}

impl Turn for Home {
    fn turn(&self, cx: &mut Context<'_>) {
        if self.outbox.turn(cx) == Told::Closed {
            // Nobody is left to hear the rest.
            self.outbox.unsaid();
        }
    }
}

/// Tells a worker what became of a told message.
struct Acknowledging {
    home: Weak<Turning<Home>>,
    route: u64,
    id: u64,
}

impl Acknowledging {
    fn say(&self, said: &FromHome) {
        if let Some(home) = self.home.upgrade() {
            home.say(said, &[]);
        }
    }
}

impl Watcher for Acknowledging {
    fn refuses(&self, error: CallError) {
        self.say(&FromHome::Lost { route: self.route, error });
    }
}

impl Receipt for Acknowledging {
    fn queued(&self, _: usize) {
        self.say(&FromHome::Queued { id: self.id });
    }

    fn refused(&self, _: usize, error: CallError) {
        self.say(&FromHome::Failed { id: self.id, error });
    }
}

/// What comes from the worker.
struct Requests {
    home: Weak<Turning<Home>>,
    assembly: Mutex<Assembly>,
}

impl Sink for Requests {
    fn batch(&self, items: u64, bytes: Vec<u8>) {
        let Some(home) = self.home.upgrade() else { return };
        let length = bytes.len() as u64;
        let request = self.assembly.lock().take(items, bytes);
        let heard = request.map_or(Ok(()), |request| home.hear(&request));
        let Some(receiver) = home.work.receiver.get() else { return };
        match heard {
            Ok(()) => receiver.grant(length),
            Err(message) => receiver.link().break_off(message),
        }
    }

    fn mark(&self, _: StreamMark) {}

    /// Nobody waits for any answer.
    fn broken(&self, _: &Broken) {
        if let Some(home) = self.home.upgrade() {
            home.work.withdraw_all();
        }
    }
}
