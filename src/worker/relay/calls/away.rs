//! The worker's end: services that are at home, as its tasks use them.

use std::{
    collections::BTreeMap,
    mem,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicU64, Ordering},
    },
    task::Context,
    time::Duration,
};

use futures::future::{BoxFuture, ready};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::{CREDIT_BYTES, FromHome, FromWorker, WINDOW_BYTES, cost_of};
use crate::{
    host::Host,
    job::JobId,
    peer::{Broken, Link, Receiver, Sink, StreamId, StreamMark},
    service::{
        Attempt, CallError, FoundService, MessageKind, Origin, RemoteCall, RemoteRoute, RemoteService,
        ServiceDirectory, ServiceHome, ServiceResolver, Withdrawal,
    },
    worker::relay::{
        outbox::{MESSAGE_BYTES_MAX, Outbox, Told, joined, split},
        pieces::Assembly,
        turning::{Turn, Turning},
    },
};

/// The calls of a worker that is not the home of its job. Dropped, those that wait are over.
pub(crate) struct CallsAtWorker(Arc<Turning<Away>>);

impl CallsAtWorker {
    /// Has the references that `directory` gives out lead to the services at home. Before any task starts.
    pub fn new(home: &Arc<Link>, directory: &ServiceDirectory) -> Self {
        let away = Away {
            job: directory.job(),
            host: directory.host().clone(),
            call_deadline: directory.call_deadline(),
            outbox: Outbox::new(home.sender(StreamId::Calls, CREDIT_BYTES)),
            receiver: OnceLock::new(),
            numbers: AtomicU64::new(0),
            state: Mutex::default(),
        };
        let away = Turning::new(away);
        let sink = Arc::new(Answers { away: Arc::downgrade(&away), assembly: Mutex::default() });
        let _ = away.work.receiver.set(home.receiver(StreamId::Calls, CREDIT_BYTES, sink));
        directory.move_to(Arc::new(Services(Arc::clone(&away))));
        Self(away)
    }
}

impl Drop for CallsAtWorker {
    fn drop(&mut self) {
        self.0.work.end("the attempt is over");
        if let Some(receiver) = self.0.work.receiver.get() {
            receiver.close();
        }
    }
}

struct Away {
    job: JobId,
    host: Host,
    call_deadline: Duration,
    outbox: Outbox,
    /// Set at once.
    receiver: OnceLock<Receiver>,
    /// Numbers of routes, calls and told messages.
    numbers: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    pending: BTreeMap<u64, Pending>,
    routes: BTreeMap<u64, Weak<Route>>,
    /// By service.
    windows: BTreeMap<Arc<str>, Arc<Semaphore>>,
    /// Why nothing is sent any more.
    over: Option<String>,
}

/// What waits for an answer, and keeps its part of the service's window.
struct Pending {
    asker: Asker,
    service: Arc<str>,
    message: &'static str,
    _room: OwnedSemaphorePermit,
}

enum Asker {
    Call(oneshot::Sender<Result<Vec<u8>, CallError>>),
    Tell(oneshot::Sender<Result<(), CallError>>),
}

impl Pending {
    fn fail(self, error: CallError) {
        // Nobody may wait any more.
        match self.asker {
            Asker::Call(reply) => drop(reply.send(Err(error))),
            Asker::Tell(queued) => drop(queued.send(Err(error))),
        }
    }
}

impl Away {
    fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    fn take_pending(&self, id: u64) -> Option<Pending> {
        self.state.lock().pending.remove(&id)
    }

    /// Nothing more is sent or answered. The first reason counts.
    fn end(&self, why: &str) {
        let mut state = self.state.lock();
        if state.over.is_some() {
            return;
        }
        state.over = Some(why.to_owned());
        let (mut pending, windows) = (mem::take(&mut state.pending), mem::take(&mut state.windows));
        drop(state);
        windows.values().for_each(|window| window.close());
        let unsaid = self.outbox.unsaid().into_iter().filter_map(|id| pending.remove(&id)).collect::<Vec<_>>();
        for pending in unsaid {
            pending.fail(CallError::Unreachable { message: why.to_owned() });
        }
        for pending in pending.into_values() {
            let (service, message) = (pending.service.to_string(), pending.message.to_owned());
            pending.fail(CallError::FateUnknown { service, message });
        }
    }

    fn unreachable(&self) -> CallError {
        let why = self.state.lock().over.clone();
        CallError::Unreachable { message: why.unwrap_or_else(|| "the attempt is over".to_owned()) }
    }

    /// # Errors
    ///
    /// What it says is nothing that a home says.
    fn hear(&self, bytes: &[u8]) -> Result<(), String> {
        let (said, rest) = split(bytes)?;
        // What is not pending any more was withdrawn.
        match said {
            FromHome::Reply { id } => {
                if let Some(Pending { asker: Asker::Call(reply), .. }) = self.take_pending(id) {
                    // Nobody may wait any more.
                    let _ = reply.send(Ok(rest.to_vec()));
                }
            }
            FromHome::Queued { id } => {
                if let Some(Pending { asker: Asker::Tell(queued), .. }) = self.take_pending(id) {
                    let _ = queued.send(Ok(()));
                }
            }
            FromHome::Failed { id, error } => {
                if let Some(pending) = self.take_pending(id) {
                    pending.fail(error);
                }
            }
            FromHome::Lost { route, error } => {
                let route = self.state.lock().routes.get(&route).and_then(Weak::upgrade);
                if let Some(route) = route {
                    route.lost(error);
                }
            }
        }
        Ok(())
    }
}

impl Turn for Away {
    fn turn(&self, cx: &mut Context<'_>) {
        if self.outbox.turn(cx) == Told::Closed {
            let broken = self.outbox.sender().link().broken();
            self.end(&broken.map_or_else(|| "the attempt is over".to_owned(), |broken| broken.to_string()));
        }
    }
}

/// What comes from the home.
struct Answers {
    away: Weak<Turning<Away>>,
    assembly: Mutex<Assembly>,
}

impl Sink for Answers {
    fn batch(&self, items: u64, bytes: Vec<u8>) {
        let Some(away) = self.away.upgrade() else { return };
        let length = bytes.len() as u64;
        let answer = self.assembly.lock().take(items, bytes);
        let heard = answer.map_or(Ok(()), |answer| away.work.hear(&answer));
        let Some(receiver) = away.work.receiver.get() else { return };
        match heard {
            Ok(()) => receiver.grant(length),
            Err(message) => receiver.link().break_off(message),
        }
    }

    fn mark(&self, _: StreamMark) {
        if let Some(away) = self.away.upgrade() {
            away.work.end("the attempt is over");
        }
    }

    fn broken(&self, why: &Broken) {
        if let Some(away) = self.away.upgrade() {
            away.work.end(&why.to_string());
        }
    }
}

/// The services at home.
struct Services(Arc<Turning<Away>>);

impl ServiceHome for Services {
    fn service(&self, name: &str, origin: Origin) -> Arc<dyn RemoteService> {
        service(&self.0, name, origin)
    }

    fn resolver(&self) -> Arc<dyn ServiceResolver> {
        Arc::new(Self(Arc::clone(&self.0)))
    }
}

impl ServiceResolver for Services {
    fn service(&self, job: JobId, name: &str) -> BoxFuture<'static, Result<FoundService, CallError>> {
        let found = if job == self.0.work.job {
            Ok(FoundService::Remote(service(&self.0, name, Origin::Task)))
        } else {
            Err(CallError::Unbound { job, service: name.to_owned() })
        };
        Box::pin(ready(found))
    }

    fn host(&self) -> &Host {
        &self.0.work.host
    }

    fn call_deadline(&self) -> Duration {
        self.0.work.call_deadline
    }

    fn origin(&self) -> Origin {
        Origin::Task
    }
}

fn service(away: &Arc<Turning<Away>>, name: &str, origin: Origin) -> Arc<dyn RemoteService> {
    Arc::new(Service { away: Arc::clone(away), name: name.into(), origin })
}

struct Service {
    away: Arc<Turning<Away>>,
    name: Arc<str>,
    origin: Origin,
}

impl RemoteService for Service {
    fn name(&self) -> &str {
        &self.name
    }

    /// Open at once: both ends are the same program, and what is wrong with the route is answered to its messages.
    fn route(&self, kind: MessageKind) -> BoxFuture<'static, Result<Arc<dyn RemoteRoute>, CallError>> {
        let work = &self.away.work;
        let id = work.number();
        let mut state = work.state.lock();
        if state.over.is_some() {
            drop(state);
            return Box::pin(ready(Err(work.unreachable())));
        }
        let new_window = || Arc::new(Semaphore::new(WINDOW_BYTES));
        let window = Arc::clone(state.windows.entry(Arc::clone(&self.name)).or_insert_with(new_window));
        let (away, service, message) = (Arc::clone(&self.away), Arc::clone(&self.name), kind.name);
        let route = Arc::new(Route { away, id, service, message, window, lost: Mutex::default() });
        state.routes.insert(id, Arc::downgrade(&route));
        drop(state);
        let open = FromWorker::Open {
            route: id,
            job: work.job,
            service: self.name.to_string(),
            actor: kind.actor.to_owned(),
            message: kind.name.to_owned(),
            origin: self.origin,
        };
        work.outbox.push(None, joined(&open, &[]));
        self.away.wake();
        Box::pin(ready(Ok(route as Arc<dyn RemoteRoute>)))
    }
}

/// The way for messages of one kind to one service.
struct Route {
    away: Arc<Turning<Away>>,
    id: u64,
    service: Arc<str>,
    message: &'static str,
    window: Arc<Semaphore>,
    /// Told messages that could not be decoded at home, and what was wrong with the first, until the next tell says so.
    lost: Mutex<Option<(u64, String)>>,
}

impl Route {
    fn fits(&self, bytes: &[u8]) -> Result<(), CallError> {
        if bytes.len() <= MESSAGE_BYTES_MAX {
            return Ok(());
        }
        let why = format!("it takes {} bytes, and may take {MESSAGE_BYTES_MAX}", bytes.len());
        Err(CallError::NotCarried { service: self.service.to_string(), message: self.message.to_owned(), why })
    }

    fn lost(&self, error: CallError) {
        let why = if let CallError::NotCarried { why, .. } = error { why } else { error.to_string() };
        let mut lost = self.lost.lock();
        if lost.is_none() {
            // Logged too, for there may be no next message that could say so.
            let (job, service, message) = (self.away.work.job, &*self.service, self.message);
            tracing::warn!(%job, service, message, why, "a told message was lost");
        }
        lost.get_or_insert((0, why)).0 += 1;
    }

    /// What a tell has to say instead of being sent.
    fn take_lost(&self) -> Result<(), CallError> {
        let Some((lost, why)) = self.lost.lock().take() else { return Ok(()) };
        let (service, message) = (self.service.to_string(), self.message.to_owned());
        Err(CallError::EarlierNotCarried { service, message, lost, why })
    }

    /// Sends what has room.
    fn send(&self, bytes: &[u8], asker: Asker, room: OwnedSemaphorePermit) -> Result<u64, CallError> {
        let work = &self.away.work;
        let id = work.number();
        let head = match &asker {
            Asker::Call(_) => FromWorker::Call { route: self.id, id },
            Asker::Tell(_) => FromWorker::Tell { route: self.id, id },
        };
        let said = joined(&head, bytes);
        let pending = Pending { asker, service: Arc::clone(&self.service), message: self.message, _room: room };
        let mut state = work.state.lock();
        if state.over.is_some() {
            drop(state);
            return Err(work.unreachable());
        }
        state.pending.insert(id, pending);
        // Under the lock: the end of all calls finds it in both places or in neither.
        work.outbox.push(Some(id), said);
        drop(state);
        self.away.wake();
        Ok(id)
    }

    fn send_call(self: Arc<Self>, bytes: &[u8], room: OwnedSemaphorePermit) -> Result<RemoteCall, CallError> {
        let (asker, reply) = oneshot::channel();
        let id = self.send(bytes, Asker::Call(asker), room)?;
        Ok(RemoteCall { reply, id, route: self })
    }

    async fn room(&self, bytes: &[u8]) -> Result<OwnedSemaphorePermit, CallError> {
        let room = Arc::clone(&self.window).acquire_many_owned(cost_of(bytes.len())).await;
        room.map_err(|_| self.away.work.unreachable())
    }
}

impl RemoteRoute for Route {
    /// Waits for the acknowledgement, always.
    fn try_tell(&self, bytes: &[u8]) -> Attempt<()> {
        self.fits(bytes).err().map(Err)
    }

    fn try_call(self: Arc<Self>, bytes: &[u8]) -> Attempt<RemoteCall> {
        if let Err(error) = self.fits(bytes) {
            return Some(Err(error));
        }
        let room = Arc::clone(&self.window).try_acquire_many_owned(cost_of(bytes.len())).ok()?;
        Some(self.send_call(bytes, room))
    }

    fn tell(self: Arc<Self>, bytes: Vec<u8>) -> BoxFuture<'static, Result<(), CallError>> {
        Box::pin(async move {
            self.fits(&bytes)?;
            self.take_lost()?;
            let room = self.room(&bytes).await?;
            let (asker, queued) = oneshot::channel();
            self.send(&bytes, Asker::Tell(asker), room)?;
            drop(bytes);
            queued.await.unwrap_or_else(|_| Err(self.away.work.unreachable()))
        })
    }

    fn call(self: Arc<Self>, bytes: Vec<u8>) -> BoxFuture<'static, Result<RemoteCall, CallError>> {
        Box::pin(async move {
            self.fits(&bytes)?;
            let room = self.room(&bytes).await?;
            self.send_call(&bytes, room)
        })
    }
}

impl Withdrawal for Route {
    fn withdraw(&self, call: u64) {
        let work = &self.away.work;
        // Dropped without the lock: its sender may own the waker of anything.
        let pending = work.take_pending(call);
        if pending.is_some() {
            work.outbox.push(None, joined(&FromWorker::Withdraw { id: call }, &[]));
            self.away.wake();
        }
    }
}

impl Drop for Route {
    fn drop(&mut self) {
        let mut state = self.away.work.state.lock();
        state.routes.remove(&self.id);
        if state.over.is_none() {
            self.away.work.outbox.push(None, joined(&FromWorker::Close { route: self.id }, &[]));
            drop(state);
            self.away.wake();
        }
    }
}
