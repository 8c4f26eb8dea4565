//! A worker in a process of its own: this very test binary, told to join a node.

use std::{
    env,
    io::Read,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
};

use proscenium::{Key, Worker};

use super::on_a_thread;

/// Holds the node's address, in the process that is to be a worker.
const VARIABLE: &str = "PROSCENIUM_TEST_WORKER";

/// A worker of a node with the job types of the tests. Killed when this is dropped, unless it has ended.
#[derive(Debug)]
pub struct WorkerProcess(Child);

impl WorkerProcess {
    /// One with so many slots, which joins the node at `address` with `key`, of the role `worker`.
    pub fn start(address: &str, key: &Key, slots: usize) -> Self {
        let child = Command::new(env::current_exe().expect("this is a program"))
            .args(["support::worker::a_test_binary_can_be_a_worker", "--exact", "--nocapture"])
            .env(VARIABLE, format!("{slots} {address}"))
            .env("PROSCENIUM_KEY", key.reveal())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn();
        Self(child.expect("a process can be made"))
    }

    /// Sends it a signal, such as `CONT`.
    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([&format!("-{signal}"), &self.0.id().to_string()]).status();
        assert!(sent.expect("`kill` can be run").success());
    }

    /// Stops all of its threads.
    pub fn freeze(&self) {
        self.signal("STOP");
        let threads = format!("/proc/{}/task", self.0.id());
        on_a_thread("the stop of the worker", move || {
            let stopped = |stat: String| stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" T"));
            let all_stopped = || {
                let mut tasks = std::fs::read_dir(&threads).expect("it has threads").flatten();
                tasks.all(|task| std::fs::read_to_string(task.path().join("stat")).is_ok_and(stopped))
            };
            while !all_stopped() {
                thread::yield_now();
            }
        });
    }

    /// Waits for an end that comes by something else.
    pub fn wait(mut self) -> ExitStatus {
        let stdin = self.0.stdin.take();
        let status = on_a_thread("the end of the worker", move || self.0.wait());
        drop(stdin);
        status.expect("it can be waited for")
    }
}

impl Drop for WorkerProcess {
    fn drop(&mut self) {
        // An error says that it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Not a test, but what [`WorkerProcess`] starts.
#[test]
fn a_test_binary_can_be_a_worker() {
    let Ok(setup) = env::var(VARIABLE) else { return };
    let (slots, address) = setup.split_once(' ').expect("it was made by `start`");
    let slots = slots.parse().expect("it was made by `start`");
    let worker = Worker::builder().jobs(crate::jobs()).manager(address).slots(slots).open().expect("a worker");
    thread::spawn(move || {
        // Until the parent is gone.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(1);
    });
    worker.serve().expect("it joins again and again");
}
