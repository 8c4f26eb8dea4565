//! A node in a process of its own: this very test binary, told to be one.

use std::{
    env,
    io::{BufRead, BufReader, Read, Write},
    ops::{Deref, DerefMut},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use proscenium::{Connect, Key, Limits, Node, NodeStop, RemoteEnvironment};
use serde::{Deserialize, Serialize};

use super::on_a_thread;

/// Holds the node's setup, in the process that is to be one.
const VARIABLE: &str = "PROSCENIUM_TEST_NODE";

/// Says where the node listens.
const GREETING: &str = "the node listens at ";

/// What a node is like.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeSetup {
    pub address: String,
    /// Its digits.
    pub key: String,
    pub limits: Limits,
    /// For tasks.
    pub threads: usize,
    /// Where it keeps its history, if not in memory. With the feature `store`.
    pub folder: Option<PathBuf>,
    /// How long a client may be silent, if not for as long as usual.
    pub silence: Option<Duration>,
}

impl Default for NodeSetup {
    fn default() -> Self {
        Self {
            address: "127.0.0.1:0".to_owned(),
            key: "5a".repeat(32),
            limits: Limits::default(),
            threads: 2,
            folder: None,
            silence: None,
        }
    }
}

/// A process that is killed when this is dropped, unless it has ended: a test that fails leaves none.
#[derive(Debug)]
pub(super) struct Guarded(pub(super) Child);

impl Deref for Guarded {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl DerefMut for Guarded {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // An error says that it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A node that runs until it is told to end, or dropped, or this process ends.
#[derive(Debug)]
pub struct NodeProcess {
    child: Guarded,
    address: String,
    key: Key,
}

impl NodeProcess {
    pub fn start(limits: &Limits) -> Self {
        Self::start_with(limits, 2)
    }

    /// A node with so many threads for tasks.
    pub fn start_with(limits: &Limits, threads: usize) -> Self {
        Self::start_as("127.0.0.1:0", &"5a".repeat(32), limits, threads)
    }

    /// A node at this address, with the key of these digits.
    pub fn start_at(address: &str, key: &str, limits: &Limits) -> Self {
        Self::start_as(address, key, limits, 2)
    }

    fn start_as(address: &str, key: &str, limits: &Limits, threads: usize) -> Self {
        let (address, key, limits) = (address.to_owned(), key.to_owned(), limits.clone());
        Self::set_up(&NodeSetup { address, key, limits, threads, ..NodeSetup::default() })
    }

    pub fn set_up(setup: &NodeSetup) -> Self {
        Self::set_up_by(setup, Command::new(env::current_exe().expect("this is a program")))
    }

    /// A node whose process is made by `command`, which runs this program with what is added to it.
    pub fn set_up_by(setup: &NodeSetup, mut command: Command) -> Self {
        let test = "support::node::a_test_binary_can_be_a_node";
        let child = command
            .args([test, "--exact", "--nocapture"])
            .env(VARIABLE, serde_json::to_string(setup).expect("a setup is plain data"))
            .env("PROSCENIUM_KEY", &setup.key)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("a process can be made");
        // From here on, since it may say nothing.
        let mut child = Guarded(child);
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let (address, rest) = on_a_thread("the start of a node", move || {
            let mut lines = stdout.lines();
            let address = lines.by_ref().find_map(|line| {
                let line = line.expect("what it says is text");
                line.split_once(GREETING).map(|(_, address)| address.to_owned())
            });
            (address.expect("it says where it listens"), lines)
        });
        // What it says later is read, so that it never waits for that.
        thread::spawn(move || rest.for_each(drop));
        Self { child, address, key: Key::from_hex(&setup.key).expect("it is a key") }
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn key(&self) -> Key {
        self.key.clone()
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// A connection to it.
    pub fn connect(&self) -> Connect {
        RemoteEnvironment::connect("test", &*self.address).key(self.key.clone())
    }

    /// Sends it a signal, such as `STOP`.
    #[cfg(unix)]
    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([&format!("-{signal}"), &self.id().to_string()]).status();
        assert!(sent.expect("`kill` can be run").success());
        #[cfg(target_os = "linux")]
        if signal == "STOP" {
            self.await_stop();
        }
    }

    /// A thread that was running when its process was told to stop may go on for a moment.
    #[cfg(target_os = "linux")]
    fn await_stop(&self) {
        let threads = format!("/proc/{}/task", self.id());
        on_a_thread("the stop of the node", move || {
            let stopped = |stat: String| stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" T"));
            let all_stopped = || {
                let mut tasks = std::fs::read_dir(&threads).expect("it has threads").flatten();
                tasks.all(|task| std::fs::read_to_string(task.path().join("stat")).is_ok_and(stopped))
            };
            while !all_stopped() {
                std::thread::yield_now();
            }
        });
    }

    /// Kills it: nothing of it is ended in an orderly way.
    pub fn kill(mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it was killed");
    }

    /// Has it cancel what it runs and end, which it has to do well.
    pub fn end(mut self) {
        drop(self.child.stdin.take());
        let status = on_a_thread("the end of the node", move || self.child.wait());
        let status = status.expect("it can be waited for");
        assert!(status.success(), "the node ended with {status}");
    }

    /// Waits for an end that was asked for elsewhere.
    pub fn wait(mut self) -> std::process::ExitStatus {
        let stdin = self.child.stdin.take();
        let status = on_a_thread("the end of the node", move || self.child.wait()).expect("it can be waited for");
        drop(stdin);
        status
    }
}

/// Not a test, but what [`NodeProcess`] starts.
#[test]
fn a_test_binary_can_be_a_node() {
    let Ok(setup) = env::var(VARIABLE) else { return };
    let setup: NodeSetup = serde_json::from_str(&setup).expect("it was made by `set_up`");
    let node = Node::builder().jobs(crate::jobs()).name("test").address(setup.address).limits(setup.limits);
    // Also on a machine with one core a client meets its former self on another thread.
    let mut node = node.task_threads(setup.threads).io_threads(2);
    if let Some(silence) = setup.silence {
        node = node.heartbeat(silence / 10, silence);
    }
    #[cfg(feature = "store")]
    if let Some(folder) = setup.folder {
        node = node.data_folder(folder);
    }
    let node = node.open().expect("a node can be opened");
    let address = node.address().expect("it listens");
    node.listen_for_signals();
    let stopper = node.connect("parent").blocking().expect("it is there");
    // Behind all that it takes for itself, so that what it holds is settled.
    writeln!(std::io::stdout(), "{GREETING}{address}").expect("the parent listens");
    thread::spawn(move || {
        // Until the parent closes it, or is gone.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        // It may have been stopped by somebody else.
        let _ = super::block_on(stopper.stop_node(NodeStop::Cancel));
    });
    node.serve().blocking();
}
