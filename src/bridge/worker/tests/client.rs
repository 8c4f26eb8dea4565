//! A worker's process, against a node, and against one that says what a test has it say.

use std::{
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::{
    io::{DuplexStream, duplex},
    sync::{mpsc, oneshot, watch},
};

use super::{
    Heard, PATIENCE, Site, block_on, facts,
    fakes::{Done, FakeWorker, counts, prepared},
    host, over, prepare,
    raw::Raw,
    started, term, worker_key,
};
use crate::{
    bridge::{
        ClientEncryption, DialError, DialErrorKind, WorkerClientConfig, WorkerEnd,
        frame::{Kind, Lane},
        message::{FromNode, Goodbye},
        serve,
        stream::{Dial, Dialled},
        worker::message::{EncodedPrepare, FromWorker, ToWorker},
    },
    flow::{IntoJob, job::Unplanned},
    host::thread,
    job::{ErrorPolicy, JobId, JobRefusal, Limits},
    link::{Connect, Place, Refusal, Unconnected, Unprepared, WorkerId},
    protocol::{Layout, Order, Progress, WorkerOrder},
};

/// Hands the other end of each stream to the test.
struct PipeDial(Mutex<mpsc::UnboundedSender<DuplexStream>>);

impl Dial for PipeDial {
    fn dial(&self) -> BoxFuture<'static, Result<Dialled, DialError>> {
        let (here, there) = duplex(64 << 10);
        let sent = self.0.lock().send(there);
        Box::pin(async move {
            let nobody = |_| DialError { message: "nobody".to_owned(), kind: DialErrorKind::NobodyListens };
            sent.map(|()| over(here)).map_err(nobody)
        })
    }

    fn place(&self) -> &'static str {
        "pipe"
    }
}

/// A worker's process.
struct Process {
    dials: mpsc::UnboundedReceiver<DuplexStream>,
    worker: Arc<FakeWorker>,
    done: mpsc::UnboundedReceiver<Done>,
    /// That code of the user's ran for too long.
    overruns: mpsc::UnboundedReceiver<()>,
    draining: watch::Sender<bool>,
    stop: Option<oneshot::Sender<()>>,
    end: Option<JoinHandle<WorkerEnd>>,
}

impl Process {
    fn start(keeps_dialling: bool) -> Self {
        let (tx, dials) = mpsc::unbounded_channel();
        let (worker, done) = FakeWorker::new();
        let (stop, stopped) = oneshot::channel();
        let (overran, overruns) = mpsc::unbounded_channel();
        let (draining, is_draining) = watch::channel(false);
        let config = WorkerClientConfig {
            dial: Arc::new(PipeDial(Mutex::new(tx))),
            key: worker_key(),
            encryption: ClientEncryption::default(),
            connect_limit: PATIENCE,
            facts: facts(0),
            jobs: crate::jobs![super::Count],
            worker: worker.clone(),
            host: host(),
            keeps_dialling,
            overrun: Arc::new({
                let overran = overran.clone();
                move || overran.send(()).unwrap_or_default()
            }),
            draining: is_draining,
            joined: None,
        };
        let end = std::thread::spawn(move || {
            let runtime = thread::runtime().expect("a runtime");
            thread::run_local(&runtime, serve(config, stopped))
        });
        Self { dials, worker, done, overruns, draining, stop: Some(stop), end: Some(end) }
    }

    /// A node that the process has dialled and has not been registered with, and the process's incarnation.
    async fn meet(&mut self) -> (Raw, u128) {
        let stream = self.dials.recv().await.expect("it dials");
        let (mut node, who) = Raw::node(stream, &worker_key()).await;
        match node.of_worker().await {
            Ok((0, FromWorker::Register(said))) => assert_eq!(said, facts(who)),
            other => panic!("{other:?}"),
        }
        (node, who)
    }

    /// A node that it is registered with.
    async fn register(&mut self, lease: Duration) -> (Raw, u128) {
        let (mut node, who) = self.meet().await;
        node.tells(0, ToWorker::Registered { worker: WorkerId(1), lease }).await;
        (node, who)
    }

    fn end(mut self) -> WorkerEnd {
        self.end.take().expect("it is joined once").join().expect("it does not panic")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(end) = self.end.take() {
            // The test may be failing.
            let _ = end.join();
        }
    }
}

const LONG: Duration = Duration::from_secs(4);
const SHORT: Duration = Duration::from_secs(1);

fn encoded_prepare(job: JobId) -> EncodedPrepare {
    EncodedPrepare {
        job,
        term: term(1),
        payload: super::Count { to: 7 }.into_payload().0.encode().expect("it can be encoded"),
        parallelism: 4,
        error_policy: ErrorPolicy::Fail,
        limits: Limits::default(),
        place: Place::Away,
        splits: None,
    }
}

fn order(job: JobId, order: WorkerOrder) -> Order {
    Order { job, term: term(1), order }
}

#[test]
fn a_process_that_joins_a_node_does_what_the_job_manager_says() {
    let site = Site::new();
    let mut process = Process::start(true);
    block_on(async {
        let stream = process.dials.recv().await.expect("it dials");
        site.server.welcome(None, Box::pin(async move { Ok(over(stream)) }));
        site.manager.has_joined(1).await;
        let (job, heard, link) = (JobId::random(), Heard::default(), site.manager.worker());
        let graph = link.prepare(prepare(job, heard.events())).await.expect("it is prepared").graph;
        assert_eq!(graph, prepared().graph);
        let layout = Layout { here: 1, tasks: vec![1], services: Vec::new() };
        let key = crate::link::AttemptKey([1; 32]);
        let connected = link.connect(Connect { job, term: term(1), layout, peers: Vec::new(), key }).await;
        assert_eq!(connected, Err(Unconnected::Peer { peer: 1, message: "away".to_owned() }));
        link.order(order(job, WorkerOrder::CloseGates));
        let progress = link.progress(job).await;
        assert_eq!(progress, Progress { services: vec![counts()], ..Progress::default() });
        let events = process.worker.events.lock().clone().expect("it was prepared");
        // As from the threads of tasks.
        for task in 0..100 {
            events(started(job, 1, task));
        }
        let expected: Vec<_> = (0..100).map(|task| started(job, 1, task)).collect();
        assert_eq!(heard.come(100).await, expected);
        process.stop.take().expect("it runs").send(()).expect("it listens");
        let expected = [
            Done::Prepare { job, name: "count".to_owned(), parallelism: 4 },
            Done::Connect(job),
            Done::Order(order(job, WorkerOrder::CloseGates)),
            Done::Progress(job),
            Done::Halt,
        ];
        for done in expected {
            assert_eq!(process.done.recv().await, Some(done));
        }
        site.manager.has_left(1).await;
        assert!(site.manager.left()[0].1.contains("closed its environment"), "{:?}", site.manager.left());
    });
    assert_eq!(process.end(), WorkerEnd::Stopped);
}

#[test]
fn a_lease_that_ends_halts_the_worker_which_comes_again_as_another_one() {
    let mut process = Process::start(true);
    block_on(async {
        let (mut node, first) = process.register(SHORT).await;
        // While its pings are answered, nothing ends.
        let begun = Instant::now();
        let mut last = begun;
        while begun.elapsed() < SHORT * 2 {
            match node.hear::<FromNode>().await {
                Ok((ping, None)) => {
                    last = Instant::now();
                    node.send(Kind::Pong, Lane::Control, ping, &[]).await;
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(process.done.try_recv(), Err(mpsc::error::TryRecvError::Empty));
        // From here on they are not; that it is told things proves nothing, and they are not done once it is over.
        let job = JobId::random();
        assert_eq!(process.done.recv().await, Some(Done::Halt));
        let ended = last.elapsed();
        // A ping takes its time to come here, so the lease has begun before `last`.
        assert!(ended > SHORT / 2 && ended < PATIENCE / 2, "{ended:?}");
        node.tells(0, ToWorker::Order(order(job, WorkerOrder::CloseGates))).await;
        assert_eq!(node.end().await, None);

        let (mut node, second) = process.register(LONG).await;
        assert_ne!(first, second);
        node.tells(0, ToWorker::Order(order(job, WorkerOrder::DropTasks))).await;
        assert_eq!(process.done.recv().await, Some(Done::Order(order(job, WorkerOrder::DropTasks))));
    });
}

/// The process would end then.
#[test]
fn code_that_runs_on_when_the_lease_is_over_is_told_of_and_nothing_begins_afterwards() {
    let mut process = Process::start(true);
    block_on(async {
        let prepared = async |process: &mut Process, node: &mut Raw| {
            node.tells(3, ToWorker::Prepare(Box::new(encoded_prepare(JobId::random())))).await;
            assert!(matches!(process.done.recv().await, Some(Done::Prepare { .. })));
            process.worker.fence.lock().clone()
        };
        let (mut node, _) = process.register(SHORT).await;
        let fence = prepared(&mut process, &mut node).await;
        let step = fence.pass().expect("the lease lasts");
        assert_eq!(process.done.recv().await, Some(Done::Halt));
        assert!(fence.pass().is_none(), "it is over");
        process.overruns.recv().await;
        drop(step);

        let (mut node, _) = process.register(LONG).await;
        let fence = prepared(&mut process, &mut node).await;
        let step = fence.pass().expect("the lease lasts");
        drop(node);
        assert_eq!(process.done.recv().await, Some(Done::Halt));
        assert!(fence.pass().is_none(), "nothing is done for a connection that is lost");
        drop(step);
        // It would not come before the step has ended, or the lease.
        process.register(LONG).await;
        assert_eq!(process.overruns.try_recv(), Err(mpsc::error::TryRecvError::Empty));
    });
}

#[test]
fn a_process_that_is_to_leave_says_so_and_ends_when_it_is_dismissed() {
    // It has not joined yet, but is about to.
    let mut process = Process::start(true);
    block_on(async {
        let (mut node, _) = process.meet().await;
        process.draining.send_replace(true);
        node.tells(0, ToWorker::Registered { worker: WorkerId(1), lease: LONG }).await;
        assert!(matches!(node.of_worker().await, Ok((0, FromWorker::Drain))));
        node.tells(0, ToWorker::Dismissed).await;
        assert_eq!(node.end().await, Some(Goodbye::Closed));
    });
    assert_eq!(process.end(), WorkerEnd::Dismissed);
    // It tries in vain.
    let mut process = Process::start(true);
    block_on(async {
        drop(process.dials.recv().await);
        process.draining.send_replace(true);
    });
    assert_eq!(process.end(), WorkerEnd::Dismissed);

    let site = Site::new();
    let mut process = Process::start(true);
    block_on(async {
        let stream = process.dials.recv().await.expect("it dials");
        site.server.welcome(None, Box::pin(async move { Ok(over(stream)) }));
        site.manager.has_joined(1).await;
        process.draining.send_replace(true);
        site.manager.has_drained(WorkerId(1)).await;
        assert_eq!(process.done.try_recv(), Err(mpsc::error::TryRecvError::Empty), "it keeps its jobs");
        site.manager.worker().dismiss();
        site.manager.has_left(1).await;
    });
    assert_eq!(process.end(), WorkerEnd::Dismissed);
}

#[test]
fn a_connection_that_is_lost_halts_the_worker_whose_late_events_go_nowhere() {
    let mut process = Process::start(true);
    block_on(async {
        let job = JobId::random();
        let (mut node, first) = process.register(LONG).await;
        node.tells(3, ToWorker::Prepare(Box::new(encoded_prepare(job)))).await;
        let answer = node.of_worker().await;
        assert!(matches!(&answer, Ok((3, FromWorker::Prepared(Ok(_))))), "{answer:?}");
        let events = process.worker.events.lock().clone().expect("it was prepared");
        drop(node);
        assert!(matches!(process.done.recv().await, Some(Done::Prepare { .. })));
        assert_eq!(process.done.recv().await, Some(Done::Halt));
        let (mut node, second) = process.register(LONG).await;
        assert_ne!(first, second);
        events(started(job, 1, 0));
        node.tells(4, ToWorker::Progress(job)).await;
        let next = node.of_worker().await;
        assert!(matches!(&next, Ok((4, FromWorker::Progressed(_)))), "{next:?}");
    });
}

#[test]
fn a_process_that_was_launched_ends_with_its_first_connection_and_says_why() {
    let cases: [(&str, ToWorker, WorkerEnd); 2] = [
        ("closed", ToWorker::Close, WorkerEnd::Closed),
        (
            "refused",
            ToWorker::Refused(Refusal::EnvironmentClosed),
            WorkerEnd::Lost("the environment is closed".to_owned()),
        ),
    ];
    for (what, said, expected) in cases {
        let mut process = Process::start(false);
        block_on(async {
            let (mut node, _) = process.register(LONG).await;
            node.tells(0, said).await;
            let goodbye = node.end().await;
            assert_eq!(goodbye, (expected == WorkerEnd::Closed).then_some(Goodbye::Closed), "{what}");
            assert_eq!(process.done.recv().await, Some(Done::Halt), "{what}");
        });
        assert_eq!(process.end(), expected, "{what}");
    }
    let mut process = Process::start(false);
    block_on(async { drop(process.register(LONG).await) });
    let end = process.end();
    assert!(matches!(&end, WorkerEnd::Lost(why) if why.contains("closed the connection")), "{end:?}");
}

#[test]
fn a_process_whose_key_is_no_workers_is_told_so() {
    let site = Site::new();
    let mut process = Process::start(false);
    // To this node the key is that of an admin.
    block_on(async {
        let (mut node, _) = process.meet().await;
        let message = "the key `admin` may not join as a worker".to_owned();
        let mut payload = Vec::new();
        let refused = FromNode::Reply(Err(Refusal::Forbidden { message }));
        crate::codec::encode_into(&refused, &mut payload).expect("it can be encoded");
        node.send(Kind::Message, Lane::Control, 0, &payload).await;
        node.end().await;
    });
    assert_eq!(process.end(), WorkerEnd::Lost("the key `admin` may not join as a worker".to_owned()));
    drop(site);
}

#[test]
fn a_job_that_the_process_does_not_know_is_refused_and_nothing_is_asked_of_the_worker() {
    let mut process = Process::start(true);
    block_on(async {
        let (mut node, _) = process.register(LONG).await;
        let mut prepare = encoded_prepare(JobId::random());
        prepare.payload.name = "sum".to_owned();
        node.tells(3, ToWorker::Prepare(Box::new(prepare))).await;
        let Ok((3, FromWorker::Prepared(answer))) = node.of_worker().await else { panic!("no answer") };
        let unknown = JobRefusal::Unknown { name: "sum".to_owned(), known: vec!["count".to_owned()] };
        assert_eq!(answer.err(), Some(Unprepared::Unplanned(Unplanned::Job(unknown))));
        assert_eq!(process.done.try_recv(), Err(mpsc::error::TryRecvError::Empty));
    });
}

#[test]
fn a_node_that_breaks_a_rule_is_told_which_and_the_worker_comes_again() {
    let mut process = Process::start(true);
    block_on(async {
        let job = JobId::random();
        let (mut early, _) = process.meet().await;
        early.tells(0, ToWorker::Order(order(job, WorkerOrder::CloseGates))).await;
        let goodbye = early.end().await;
        assert!(matches!(&goodbye, Some(Goodbye::Violation(text)) if text.contains("none yet")), "{goodbye:?}");
        let (mut garbled, _) = process.register(LONG).await;
        garbled.send(Kind::Message, Lane::Calls, 0, &[250; 40]).await;
        assert!(matches!(garbled.end().await, Some(Goodbye::Violation(_))));
        let (mut calling, _) = process.register(LONG).await;
        calling.send(Kind::Answer, Lane::Calls, 0, &[0; 4]).await;
        assert!(matches!(calling.end().await, Some(Goodbye::Violation(_))));
        let (mut twice, _) = process.register(LONG).await;
        twice.tells(0, ToWorker::Registered { worker: WorkerId(1), lease: LONG }).await;
        assert!(matches!(twice.end().await, Some(Goodbye::Violation(_))));
        for _ in 0..4 {
            assert_eq!(process.done.recv().await, Some(Done::Halt));
        }
    });
}
