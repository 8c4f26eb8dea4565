//! Nodes with workers, and workers that join a node.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Stdio},
};

use serde_json::Value;

use super::{User, count, wait_for_end};
use crate::{
    processes::children_of,
    support::{DEADLINE, on_a_thread},
};

/// Those that the node has.
fn workers(user: &User) -> Vec<Value> {
    let said = user.types(&["workers", "--format", "json"]).with(0);
    said.json().as_array().expect("a list").clone()
}

/// Waits until the node has so many.
fn until_there_are(user: &User, count: usize) -> Vec<Value> {
    let begun = std::time::Instant::now();
    loop {
        let now = workers(user);
        if now.len() == count {
            return now;
        }
        assert!(begun.elapsed() < DEADLINE, "there are {now:?}");
    }
}

#[test]
fn a_node_that_is_killed_leaves_no_worker() {
    let mut user = User::new();
    user.start_node(&["--workers", "3", "--worker-slots", "2"]);
    let listed = workers(&user);
    assert_eq!(listed.len(), 3, "they are there when the node says that it serves: {listed:?}");
    assert!(listed.iter().all(|worker| worker["slots"] == 2 && worker["tasks"] == 0), "{listed:?}");
    let children = children_of(user.node_process().expect("a node"));
    assert_eq!(children.len(), 3);
    user.kills_node();
    children.into_iter().for_each(wait_for_end);
}

#[test]
fn a_job_comes_to_the_same_with_workers_and_without() {
    let text = |user: &User| {
        let lines: Vec<String> = (0..2_000).map(|n| format!("word{} word{} the", n % 7, n % 111)).collect();
        count(&user.file("text", &lines.join("\n")))
    };
    let counts = |flags: &[&str]| {
        let mut user = User::new();
        user.start_node(flags);
        user.well(&["job", "submit", "word-count", &text(&user), "--parallelism", "3", "--autostop", "--wait"]);
        let mut counts: Vec<String> =
            user.well(&["job", "output", "word-count", "counts"]).lines().map(str::to_owned).collect();
        counts.sort();
        user.well(&["jobmanager", "stop"]);
        counts
    };
    let (alone, several) = (counts(&[]), counts(&["--workers", "3", "--worker-slots", "1"]));
    assert_eq!(alone.len(), 112);
    assert_eq!(several, alone);
}

#[test]
fn a_job_fails_when_a_worker_of_it_is_killed_and_the_next_one_runs() {
    let mut user = User::new();
    user.start_node(&["--workers", "2", "--worker-slots", "1"]);
    let children = children_of(user.node_process().expect("a node"));
    let job = user.submits(&["ticker", "{\"interval_ms\": 5}", "--parallelism", "2"]);
    let before = workers(&user);
    assert!(
        before.iter().any(|worker| worker["tasks"].as_u64() > Some(0)),
        "its tasks are not in the node's own process"
    );
    for child in &children {
        let killed = std::process::Command::new("kill").args(["-KILL", &child.to_string()]).status();
        assert!(killed.expect("there is a `kill`").success());
    }
    let begun = std::time::Instant::now();
    let ended = user.types(&["job", "watch", &job]).with(10);
    assert!(ended.out.contains("worker-"), "it says who was lost: {ended:?}");
    while before.iter().any(|lost| until_there_are(&user, 2).iter().any(|now| now["address"] == lost["address"])) {
        assert!(begun.elapsed() < DEADLINE, "those that were killed are still there");
    }
    let text = user.file("text", "a b a\n");
    user.well(&["job", "submit", "word-count", &count(&text), "--autostop", "--wait"]);
    user.well(&["jobmanager", "stop"]);
}

#[test]
fn workers_are_started_again_with_their_node_and_end_with_it() {
    let mut user = User::new();
    user.start_node(&["--workers", "2"]);
    let before = children_of(user.node_process().expect("a node"));
    let said = user.types(&["jobmanager", "restart", "--format", "json"]).with(0);
    user.address = said.json()["address"].as_str().unwrap().to_owned();
    before.into_iter().for_each(wait_for_end);
    assert_eq!(workers(&user).len(), 2);
    let table = user.well(&["workers"]);
    assert!(table.starts_with("WORKER") && table.contains("worker-1") && table.contains("worker-2"), "{table}");
    let children = children_of(user.node_process().expect("a node"));
    user.well(&["jobmanager", "stop"]);
    children.into_iter().for_each(wait_for_end);
    let log = std::fs::read_to_string(user.data().join("node.log")).expect("a log");
    assert!(log.contains("worker-1: "), "what workers tell is in the log: {log}");
    let closed = |line: &&str| line.contains("worker-") && line.contains("the JobManager has closed its environment");
    assert!(log.lines().filter(closed).count() >= 2, "they were told to end, and say so: {log}");
    assert!(!log.contains("a worker process ended"), "none ended but by order: {log}");
    assert!(!log.contains("worker lost"), "none was lost: {log}");
}

/// A worker in the foreground, and what it said first.
fn join(user: &User, words: &[&str]) -> (Child, Value) {
    let mut command = user.command(&[&["worker", "--format", "json"], words].concat());
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("the program can be run");
    let out = child.stdout.take().expect("it is piped");
    let said = on_a_thread("what a worker says", move || {
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line).expect("a line");
        line
    });
    (child, serde_json::from_str(&said).expect("it says where it is"))
}

fn ends(mut child: Child, signal: &str) -> Option<i32> {
    let sent = std::process::Command::new("kill").args([signal, &child.id().to_string()]).status();
    assert!(sent.expect("there is a `kill`").success());
    on_a_thread("the end of a worker", move || child.wait().expect("it is a child").code())
}

/// A key of the node for workers, in a file.
#[cfg(unix)]
fn key_file(user: &User) -> String {
    use std::os::unix::fs::PermissionsExt;
    let key = user.well(&["key", "add", "builders", "--role", "worker"]);
    let file = user.file("workers.key", &key);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    file.display().to_string()
}

#[cfg(unix)]
#[test]
fn a_worker_whose_node_is_killed_joins_the_next_one_at_its_address() {
    let mut user = User::new();
    user.start_node(&["--join-workers"]);
    let file = key_file(&user);
    let (worker, _) = join(&user, &["--key-file", &file, "--slots", "1"]);
    until_there_are(&user, 1);
    user.submits(&["ticker", "{\"interval_ms\": 5}"]);
    user.kills_node();
    user.start_node(&["--join-workers"]);
    until_there_are(&user, 1);
    let text = user.file("text", "a b a\n");
    user.well(&["job", "submit", "word-count", &count(&text), "--autostop", "--wait"]);
    assert_eq!(ends(worker, "-TERM"), Some(0));
    user.well(&["jobmanager", "stop"]);
}

/// The worker of this name.
fn worker(user: &User, name: &str) -> Value {
    workers(user).into_iter().find(|worker| worker["name"] == name).expect("there is one")
}

fn exit_code(what: &str, mut child: Child) -> Option<i32> {
    on_a_thread(what, move || child.wait().expect("it is a child").code())
}

#[cfg(unix)]
#[test]
fn a_worker_that_is_drained_gets_no_job_and_ends_with_its_last() {
    let mut user = User::new();
    user.start_node(&["--join-workers"]);
    let file = key_file(&user);
    let (first, _) = join(&user, &["--key-file", &file, "--slots", "1", "--name", "first"]);
    until_there_are(&user, 1);
    let ticker = user.submits(&["ticker", "{\"interval_ms\": 5}"]);
    let (second, _) = join(&user, &["--key-file", &file, "--slots", "1", "--name", "second"]);
    until_there_are(&user, 2);
    let nobody = user.types(&["worker", "drain", "nobody"]).with(1);
    assert!(nobody.err.contains("no worker is called `nobody`"), "{nobody:?}");
    user.well(&["worker", "drain", "first"]);
    let listed = worker(&user, "first");
    assert_eq!((&listed["state"], &listed["jobs"], &listed["slots_used"]), (&"draining".into(), &1.into(), &1.into()));
    assert_eq!(worker(&user, "second")["state"], "joined");
    // Of two slots of two workers one would be the first's.
    let text = user.file("text", "a b a\n");
    user.well(&["job", "submit", "word-count", &count(&text), "--parallelism", "2", "--autostop", "--wait"]);
    assert_eq!(worker(&user, "first")["tasks"], listed["tasks"]);
    user.types(&["job", "stop", &ticker, "--wait"]).with(11);
    assert_eq!(exit_code("the end of a drained worker", first), Some(0));
    until_there_are(&user, 1);

    // A signal drains, too, and a second one ends it at once.
    let ticker = user.submits(&["ticker", "{\"interval_ms\": 5}"]);
    let signal = || {
        let sent = std::process::Command::new("kill").args(["-TERM", &second.id().to_string()]).status();
        assert!(sent.expect("there is a `kill`").success());
    };
    signal();
    let begun = std::time::Instant::now();
    while worker(&user, "second")["state"] != "draining" {
        assert!(begun.elapsed() < DEADLINE, "it does not drain");
    }
    assert_eq!(user.types(&["job", "status", &ticker, "--format", "json"]).with(0).json()["state"], "running");
    signal();
    assert_eq!(exit_code("the end of a worker", second), Some(0));
    user.types(&["job", "watch", &ticker]).with(10);
    user.well(&["jobmanager", "stop"]);
}

#[test]
fn a_worker_of_the_node_that_is_drained_is_not_started_again() {
    let mut user = User::new();
    user.start_node(&["--workers", "2", "--worker-slots", "1"]);
    let node = user.node_process().expect("a node");
    user.well(&["worker", "drain", "worker-1"]);
    let left = until_there_are(&user, 1);
    assert_eq!(left[0]["name"], "worker-2");
    let begun = std::time::Instant::now();
    while children_of(node).len() != 1 {
        assert!(begun.elapsed() < DEADLINE, "its process has not ended");
    }
    let text = user.file("text", "a b a\n");
    user.well(&["job", "submit", "word-count", &count(&text), "--autostop", "--wait"]);
    user.well(&["jobmanager", "stop"]);
    let log = std::fs::read_to_string(user.data().join("node.log")).expect("a log");
    assert!(!log.contains("a worker process ended") && !log.contains("worker lost"), "it was expected: {log}");
}

#[cfg(unix)]
#[test]
fn workers_join_with_a_key_of_their_own_and_leave() {
    let mut user = User::new();
    user.start_node(&["--join-workers"]);
    let file = key_file(&user);
    let (first, said) = join(&user, &["--key-file", &file, "--slots", "3", "--name", "first", "--join", &user.address]);
    assert_eq!((&said["worker"], &said["process"]), (&"first".into(), &first.id().into()));
    let listed = until_there_are(&user, 1);
    assert_eq!((&listed[0]["name"], &listed[0]["slots"]), (&"first".into(), &3.into()));
    assert_eq!(listed[0]["address"], said["data_address"]);
    let ports = ["--port-range", "20000-29999"];
    let (second, said) = join(&user, &[&["--key-file", &*file][..], &ports].concat());
    let port = said["data_address"].as_str().and_then(|address| address.rsplit_once(':')?.1.parse::<u16>().ok());
    assert!(port.is_some_and(|port| (20_000..30_000).contains(&port)), "{said}");
    until_there_are(&user, 2);
    assert_eq!(ends(first, "-TERM"), Some(0));
    until_there_are(&user, 1);
    assert_eq!(ends(second, "-KILL"), None);
    until_there_are(&user, 0);
    user.well(&["jobmanager", "stop"]);
    let lonely = user.types(&["worker", "--once", "--key-file", &file]).with(3);
    assert!(lonely.err.contains("the worker has no node"), "{lonely:?}");
}

#[test]
fn a_worker_takes_a_key_of_its_role() {
    let user = User::with_node();
    let said = user.types(&["worker", "--once"]).with(2);
    assert!(said.err.contains("a key of the role `worker`") && said.err.contains("of the role `admin`"), "{said:?}");
    user.types(&["jobmanager", "start", "--workers", "2", "--join-workers"]).with(2);
    user.types(&["jobmanager", "start", "--advertise", "here"]).with(2);
    user.types(&["jobmanager", "start", "--worker-slots", "2"]).with(2);
    user.types(&["jobmanager", "start", "--worker-memory", "2"]).with(2);
    user.types(&["worker", "--port-range", "20010-20000"]).with(2);
}

/// It was taken, and every job that was submitted then was refused, for the node meets no workers.
#[cfg(unix)]
#[test]
fn a_node_that_was_not_started_to_let_workers_join_turns_them_away() {
    let user = User::with_node();
    let said = user.types(&["worker", "--once", "--key-file", &key_file(&user)]);
    assert!(said.err.contains("no worker may join"), "{said:?}");
    assert_ne!(said.code, Some(0));
    assert_eq!(workers(&user).len(), 0);
    let text = user.file("text", "a b a\n");
    user.well(&["job", "submit", "word-count", &count(&text), "--autostop", "--wait"]);
}
