//! A node whose workers are processes of their own: this very test binary, told to be one.
//!
//! A process serves one node after the other, so that a test of hundreds of nodes starts a handful of processes.

use std::{
    collections::BTreeSet,
    env,
    io::{BufRead, BufReader, Lines, Write},
    process::{ChildStdin, ChildStdout, Command, Stdio},
    time::Instant,
};

use parking_lot::Mutex;
use proscenium::{Connect, Environment, Key, KeyRole, Limits, Node, RemoteEnvironment, Worker, Workers};
use serde::{Deserialize, Serialize};

use super::{deadline, node::Guarded, on_a_thread};
use crate::leaks::child::{Holdings, gives_back, holdings_of};

/// Tells a process that it is to be a worker.
const VARIABLE: &str = "PROSCENIUM_TEST_COMPANY";

const READY: &str = "ready for a node";

/// What a worker process is told: one line for each node.
#[derive(Debug, Serialize, Deserialize)]
struct Engagement {
    node: String,
    key: String,
    name: String,
    slots: usize,
}

/// A process that is a worker, of one node after the other. Killed when it is dropped.
#[derive(Debug)]
struct Hired {
    child: Guarded,
    orders: ChildStdin,
    /// Taken while somebody reads them.
    answers: Option<Lines<BufReader<ChildStdout>>>,
    /// What it held when it had served its first node. It never holds more between two of them.
    held: Option<Holdings>,
}

/// Processes that wait for a node. They end with this one, by the end of their input.
static IDLE: Mutex<Vec<Hired>> = Mutex::new(Vec::new());

impl Hired {
    fn start() -> Self {
        let test = "support::company::a_test_binary_can_be_a_worker_of_one_node_after_the_other";
        let child = Command::new(env::current_exe().expect("this is a program"))
            .args([test, "--exact", "--nocapture"])
            .env(VARIABLE, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("a process can be made");
        let mut child = Guarded(child);
        let orders = child.stdin.take().expect("it is piped");
        let answers = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        Self { child, orders, answers: Some(answers), held: None }.ready()
    }

    /// Waits until it has no node.
    fn ready(mut self) -> Self {
        let mut answers = self.answers.take().expect("nobody else reads them");
        let (answers, found) = on_a_thread("a worker process without a node", move || {
            let found = answers.by_ref().any(|line| line.is_ok_and(|line| line.ends_with(READY)));
            (answers, found)
        });
        assert!(found, "a worker process broke off");
        self.answers = Some(answers);
        self
    }

    /// Waits until it has left the node that is gone, and given back what it took.
    fn returned(self) -> Self {
        let mut this = self.ready();
        let id = this.child.id().to_string();
        gives_back(&id, *this.held.get_or_insert_with(|| holdings_of(&id)));
        this
    }

    fn engage(&mut self, engagement: &Engagement) {
        let line = serde_json::to_string(engagement).expect("it is plain data");
        writeln!(self.orders, "{line}").expect("the process listens");
    }
}

/// A node in this process, and a client of it; its workers are processes.
#[derive(Debug)]
pub struct Company {
    pub env: RemoteEnvironment,
    node: Node,
    key: Key,
    workers: Vec<(String, Hired)>,
    engaged: usize,
}

impl Company {
    /// A node with a worker for each of `slots`, with so many threads for tasks. All have joined.
    pub async fn open(limits: Limits, slots: &[usize]) -> Self {
        let node = Node::builder().jobs(crate::jobs()).name("test").address("127.0.0.1:0").key(Key::generate());
        let node = node.task_threads(1).limits(limits).workers(Workers::joining()).open().expect("a node");
        let env = deadline("a client of the node", node.connect("test")).await.expect("the node is there");
        let key = deadline("a key", env.add_key("workers", KeyRole::Worker)).await.expect("the client may do that");
        let mut company = Self { env, node, key, workers: Vec::new(), engaged: 0 };
        slots.iter().for_each(|slots| company.engage(*slots));
        company.joined().await;
        company
    }

    /// One more client.
    pub fn connect(&self) -> Connect {
        self.node.connect("test")
    }

    /// The processes that it is, as they are called in `/proc`: this one, and its workers.
    pub fn processes(&self) -> Vec<String> {
        let workers = self.workers.iter().map(|(_, worker)| worker.child.id());
        std::iter::once(std::process::id()).chain(workers).map(|id| id.to_string()).collect()
    }

    /// Has one more process join.
    pub fn engage(&mut self, slots: usize) {
        let idle = IDLE.lock().pop();
        let mut process = idle.unwrap_or_else(Hired::start);
        self.engaged += 1;
        let name = format!("worker-{}", self.engaged);
        process.engage(&Engagement {
            node: self.node.address().expect("it listens").to_string(),
            key: self.key.reveal(),
            name: name.clone(),
            slots,
        });
        self.workers.push((name, process));
    }

    /// Waits until the node has the workers that were engaged and not killed, and no other.
    pub async fn joined(&self) {
        let wanted: BTreeSet<&str> = self.workers.iter().map(|(name, _)| &**name).collect();
        let asking = async {
            loop {
                let there = self.env.workers().await.expect("an open node");
                if wanted == there.iter().map(|worker| &*worker.name).collect() {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        deadline("the workers of a node", asking).await;
    }

    /// Kills the process of one of the workers, in the order in which they were engaged. Returns its name, and when it was.
    pub fn kill(&mut self, index: usize) -> (String, Instant) {
        let (name, mut killed) = self.workers.remove(index);
        killed.child.kill().expect("it can be killed");
        let at = Instant::now();
        killed.child.wait().expect("it was killed");
        (name, at)
    }

    /// Ends the node. Its workers' processes are there for others.
    pub async fn close(self) {
        let Self { env, node, workers, .. } = self;
        deadline("the end of the client", env.close()).await;
        on_a_thread("the end of the node", move || drop(node));
        for (_name, worker) in workers {
            IDLE.lock().push(worker.returned());
        }
    }
}

/// Ends the processes that wait for a node, for a test that counts what is left.
pub fn dismiss_workers() {
    IDLE.lock().clear();
}

/// Not a test, but what a [`Company`] starts.
#[test]
fn a_test_binary_can_be_a_worker_of_one_node_after_the_other() {
    if env::var_os(VARIABLE).is_none() {
        return;
    }
    let ready = || writeln!(std::io::stdout(), "{READY}").expect("the parent listens");
    ready();
    for line in std::io::stdin().lines() {
        let line = line.expect("orders are text");
        let Engagement { node, key, name, slots } = serde_json::from_str(&line).expect("it was made by `engage`");
        let key = Key::parse(&key).expect("it is a key");
        let worker = Worker::builder().jobs(crate::jobs()).manager(node).key(key).name(name).slots(slots);
        let worker = worker.join_once(true).open().expect("a worker");
        // An error says that the node is gone, as it is in the end.
        let _ = worker.serve();
        ready();
    }
}
