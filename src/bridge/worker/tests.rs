//! A worker and its node, each against the other, and each against a peer that says what a test has it say.

mod client;
mod fakes;
mod node;
mod raw;

use std::{pin::pin, sync::Arc, time::Duration};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{DuplexStream, duplex},
    sync::Notify,
};

use self::fakes::FakeManager;
use crate::{
    bridge::{
        Dialled, Heartbeat, IoThreads, Key, KeyRing, NodeEncryption, Reach, Server, ServerConfig, message::FromClient,
    },
    flow::{Flow, Job},
    host::{Fence, Host},
    job::{Attempt, BuildError, ErrorPolicy, Generation, JobId, Term},
    link::{KeyRole, Place, Prepare, WorkerEvents, WorkerFacts},
    protocol::{TaskEvent, WorkerEvent, WorkerEventKind},
};

const PATIENCE: Duration = Duration::from_secs(20);

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(PATIENCE, future).await.expect("it ends") })
}

#[derive(Serialize, Deserialize)]
struct Count {
    to: u32,
}

impl Job for Count {
    const NAME: &'static str = "count";

    fn build(&self, _: &mut Flow) -> Result<(), BuildError> {
        Ok(())
    }
}

fn term(attempt: u32) -> Term {
    Term { generation: Generation(1), attempt: Attempt(attempt) }
}

fn facts(incarnation: u128) -> WorkerFacts {
    WorkerFacts {
        name: "w".to_owned(),
        incarnation,
        slots: 2,
        data_address: "127.0.0.1:7".to_owned(),
        executable: [3; 32],
    }
}

fn prepare(job: JobId, events: WorkerEvents) -> Prepare {
    use crate::flow::IntoJob;
    Prepare {
        job,
        term: term(1),
        payload: Count { to: 7 }.into_payload(),
        parallelism: 4,
        error_policy: ErrorPolicy::Fail,
        limits: Arc::default(),
        place: Place::Away,
        splits: None,
        events,
        fence: Fence::default(),
    }
}

fn started(job: JobId, attempt: u32, task: u32) -> WorkerEvent {
    let kind = WorkerEventKind::Task { task: crate::job::TaskId(task), event: TaskEvent::Started };
    WorkerEvent { job, term: term(attempt), kind }
}

/// Events of a worker, in the order in which they were heard.
#[derive(Clone, Default)]
struct Heard(Arc<(Mutex<Vec<WorkerEvent>>, Notify)>);

impl Heard {
    fn events(&self) -> WorkerEvents {
        let heard = Arc::clone(&self.0);
        Arc::new(move |event| {
            heard.0.lock().push(event);
            heard.1.notify_waiters();
        })
    }

    /// Ready once so many have come.
    async fn come(&self, count: usize) -> Vec<WorkerEvent> {
        until(&self.0.1, || self.0.0.lock().len() >= count).await;
        self.0.0.lock().clone()
    }
}

/// Ready once `is_so`, which is looked at whenever `changed` is told.
async fn until(changed: &Notify, is_so: impl Fn() -> bool) {
    loop {
        let mut told = pin!(changed.notified());
        told.as_mut().enable();
        if is_so() {
            return;
        }
        told.await;
    }
}

/// A node with a key for workers, behind which is a [`FakeManager`].
struct Site {
    manager: Arc<FakeManager>,
    server: Arc<Server>,
    threads: Option<IoThreads>,
}

impl Site {
    fn new() -> Self {
        let manager = FakeManager::new();
        let threads = IoThreads::start(1, "io").expect("a thread");
        let keys = KeyRing::open(own_key(), None, |seed| Some(*seed)).expect("there is no file");
        let config = ServerConfig {
            workers: crate::bridge::AdmittedWorkers::Launched,
            keys,
            encryption: NodeEncryption::of_tests(),
            incarnation: 2,
            registry: crate::JobRegistry::new(),
            heartbeat: Heartbeat { interval: Duration::from_secs(5), timeout: Duration::from_secs(15) },
            hello_limit: PATIENCE,
            connections_max: 16,
            submitter_jobs_max: 1,
            environment: "test".to_owned(),
            call_deadline: Duration::from_secs(10),
        };
        let (stops, _) = tokio::sync::mpsc::unbounded_channel();
        let server = Server::new(config, manager.clone(), stops, &threads);
        let place = Self { manager, server, threads: Some(threads) };
        place.changes_keys(FromClient::AddKey {
            name: "w".to_owned(),
            role: KeyRole::Worker,
            secret: worker_key().secret().to_vec(),
        });
        place
    }

    fn changes_keys(&self, said: FromClient) {
        self.server.change_keys(said).expect("it is in order");
    }

    /// A stream to the node.
    fn dial(&self) -> DuplexStream {
        let (here, there) = duplex(64 << 10);
        self.server.welcome(None, Box::pin(async move { Ok(over(there)) }));
        here
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.threads.take().into_iter().for_each(IoThreads::end);
    }
}

fn over(stream: DuplexStream) -> Dialled {
    Dialled { stream: Box::new(stream), reach: Reach::Machine, from: None }
}

fn own_key() -> Key {
    Key::from_bytes(&[7; 32]).expect("32 bytes are enough")
}

fn worker_key() -> Key {
    Key::from_bytes(&[8; 32]).expect("32 bytes are enough")
}

fn host() -> Host {
    Host::shared_by_tests().clone()
}
