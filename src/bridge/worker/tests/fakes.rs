//! A JobManager, and a worker, that note what is asked of them.

use std::{future::ready, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot};

use super::until;

use crate::{
    flow::colocation::Colocation,
    host::{Fence, Host},
    job::{Graph, JobId, ServiceId},
    link::{
        Connect, Departure, Link, NearLink, Opened, OwnWorker, Prepare, Prepared, Refusal, Reply, Request, SubmitJob,
        Unconnected, Unprepared, WorkerEvents, WorkerFacts, WorkerId, WorkerLink,
    },
    port::{AnyInput, ChunkSource, FoundInput, InputError, InputResolver, OutputError, OutputResolver, OutputStore},
    protocol::{Order, Progress, ServiceCounts},
    schema::TypeDescription,
    service::{AnyGate, CallError, FoundService, ServiceResolver},
};

/// What is counted of a service.
pub(super) fn counts() -> ServiceCounts {
    ServiceCounts { service: ServiceId(3), earlier: 2, waiting: 4, taken: 7, done: 6, skipped: 1 }
}

type Joining = oneshot::Sender<Result<WorkerId, Refusal>>;

/// Takes each worker as soon as it comes, unless told to wait.
#[derive(Default)]
pub(super) struct FakeManager {
    pub state: Mutex<Managed>,
    /// Told of each worker that comes or goes.
    changed: Notify,
}

#[derive(Default)]
pub(super) struct Managed {
    pub joined: Vec<(WorkerFacts, Arc<dyn WorkerLink>)>,
    pub left: Vec<(WorkerId, String)>,
    /// Those that want to leave.
    pub drained: Vec<WorkerId>,
    /// Whether those who come are kept waiting, in here.
    pub waits: bool,
    pub joining: Vec<Joining>,
}

impl FakeManager {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Ready once so many have come.
    pub async fn has_joined(&self, count: usize) {
        until(&self.changed, || self.state.lock().joined.len() >= count).await;
    }

    /// Ready once so many have left.
    pub async fn has_left(&self, count: usize) -> Vec<(WorkerId, String)> {
        until(&self.changed, || self.state.lock().left.len() >= count).await;
        self.left()
    }

    pub fn left(&self) -> Vec<(WorkerId, String)> {
        self.state.lock().left.clone()
    }

    /// Ready once this worker wants to leave.
    pub async fn has_drained(&self, worker: WorkerId) {
        until(&self.changed, || self.state.lock().drained.contains(&worker)).await;
    }

    /// The worker that came last.
    pub fn worker(&self) -> Arc<dyn WorkerLink> {
        Arc::clone(&self.state.lock().joined.last().expect("one has come").1)
    }
}

impl ServiceResolver for FakeManager {
    fn service(&self, job: JobId, _: &str) -> BoxFuture<'static, Result<FoundService, CallError>> {
        Box::pin(ready(Err(CallError::NoSuchJob { job })))
    }

    fn host(&self) -> &Host {
        Host::shared_by_tests()
    }

    fn call_deadline(&self) -> Duration {
        Duration::from_secs(10)
    }
}

impl OutputResolver for FakeManager {
    fn output(
        &self,
        id: JobId,
        _: &str,
        _: Arc<TypeDescription>,
    ) -> BoxFuture<'static, Result<Box<dyn ChunkSource>, OutputError>> {
        Box::pin(ready(Err(OutputError::NoSuchJob { id })))
    }
}

impl InputResolver for FakeManager {
    fn input(&self, id: JobId, _: &str, _: Arc<TypeDescription>) -> BoxFuture<'static, Result<FoundInput, InputError>> {
        Box::pin(ready(Err(InputError::NoSuchJob { id })))
    }
}

impl Link for FakeManager {
    fn environment(&self) -> &'static str {
        "test"
    }

    fn submit(&self, _: SubmitJob) -> BoxFuture<'static, Result<Opened, Refusal>> {
        Box::pin(ready(Err(Refusal::EnvironmentClosed)))
    }

    fn ask(&self, _: Request) -> BoxFuture<'static, Result<Reply, Refusal>> {
        Box::pin(ready(Err(Refusal::EnvironmentClosed)))
    }

    fn interrupts(&self) -> BoxFuture<'static, mpsc::Receiver<()>> {
        Box::pin(ready(mpsc::channel(1).1))
    }
}

impl NearLink for FakeManager {
    fn gate(&self, job: JobId, _: &str) -> BoxFuture<'static, Result<Arc<dyn AnyGate>, CallError>> {
        Box::pin(ready(Err(CallError::NoSuchJob { job })))
    }

    fn store(&self, id: JobId, _: &str) -> BoxFuture<'static, Result<Arc<OutputStore>, OutputError>> {
        Box::pin(ready(Err(OutputError::NoSuchJob { id })))
    }

    fn port(&self, id: JobId, _: &str) -> BoxFuture<'static, Result<Arc<dyn AnyInput>, InputError>> {
        Box::pin(ready(Err(InputError::NoSuchJob { id })))
    }

    fn join(&self, facts: WorkerFacts, worker: Arc<dyn WorkerLink>) -> BoxFuture<'static, Result<WorkerId, Refusal>> {
        let (tx, rx) = oneshot::channel();
        let mut state = self.state.lock();
        state.joined.push((facts, worker));
        self.changed.notify_waiters();
        let id = WorkerId(state.joined.len() as u32);
        if state.waits {
            state.joining.push(tx);
        } else {
            tx.send(Ok(id)).expect("it is waited for");
        }
        Box::pin(async move { rx.await.unwrap_or(Err(Refusal::EnvironmentClosed)) })
    }

    fn drain(&self, worker: WorkerId) {
        self.state.lock().drained.push(worker);
        self.changed.notify_waiters();
    }

    fn leave(&self, worker: WorkerId, why: String, _: Departure) {
        self.state.lock().left.push((worker, why));
        self.changed.notify_waiters();
    }
}

/// What was asked of a [`FakeWorker`].
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Done {
    Prepare { job: JobId, name: String, parallelism: usize },
    Connect(JobId),
    Order(Order),
    Progress(JobId),
    Halt,
    Dismiss,
}

/// A worker of this process that answers at once.
pub(super) struct FakeWorker {
    done: mpsc::UnboundedSender<Done>,
    /// Of the job that was prepared last.
    pub events: Mutex<Option<WorkerEvents>>,
    pub fence: Mutex<Fence>,
}

impl FakeWorker {
    pub fn new() -> (Arc<Self>, mpsc::UnboundedReceiver<Done>) {
        let (done, notes) = mpsc::unbounded_channel();
        (Arc::new(Self { done, events: Mutex::default(), fence: Mutex::default() }), notes)
    }

    fn note(&self, done: Done) {
        // The test may be over.
        let _ = self.done.send(done);
    }
}

pub(super) fn prepared() -> Prepared {
    let graph = Arc::new(Graph { services: vec!["desk".to_owned()], ..Graph::default() });
    let colocation = Colocation { group_of: Vec::new() };
    Prepared { graph, colocation, splits: Arc::default(), ports: None, read_once: None }
}

impl WorkerLink for FakeWorker {
    fn prepare(&self, prepare: Prepare) -> BoxFuture<'static, Result<Prepared, Unprepared>> {
        let Prepare { job, payload, parallelism, events, fence, .. } = prepare;
        *self.events.lock() = Some(events);
        *self.fence.lock() = fence;
        self.note(Done::Prepare { job, name: payload.0.name().to_owned(), parallelism });
        Box::pin(ready(Ok(prepared())))
    }

    fn connect(&self, connect: Connect) -> BoxFuture<'static, Result<(), Unconnected>> {
        self.note(Done::Connect(connect.job));
        Box::pin(ready(Err(Unconnected::Peer { peer: 1, message: "away".to_owned() })))
    }

    fn order(&self, order: Order) {
        self.note(Done::Order(order));
    }

    fn progress(&self, job: JobId) -> BoxFuture<'static, Progress> {
        self.note(Done::Progress(job));
        Box::pin(ready(Progress { services: vec![counts()], ..Progress::default() }))
    }

    fn address(&self) -> String {
        String::new()
    }

    fn dismiss(&self) {
        self.note(Done::Dismiss);
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        Box::pin(ready(()))
    }
}

impl OwnWorker for FakeWorker {
    fn halt(&self) {
        self.note(Done::Halt);
    }
}
