//! Worker processes: started, killed, started again, ended with the process that started them.

#![cfg(target_os = "linux")]

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use proscenium::{LocalEnvironment, Node, OpenError, WorkerInfo, Workers, jobs};

use crate::{
    leaks::child::{in_child, settled},
    support::{DEADLINE, on_a_thread},
};

/// The stock binary, which calls `worker_main`, as this one does not.
const PROGRAM: &str = env!("CARGO_BIN_EXE_proscenium");

const LIMIT: Duration = Duration::from_secs(120);

fn workers(count: usize) -> Workers {
    Workers::processes(count).slots(2).executable(PROGRAM)
}

fn open(name: &str, count: usize) -> LocalEnvironment {
    LocalEnvironment::builder(name).task_threads(1).workers(workers(count)).open().expect("an environment")
}

/// The worker processes that `parent` has started, those that have ended and were not waited for among them.
pub fn children_of(parent: u32) -> BTreeSet<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter(|id: &u32| {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        // Behind the name in parentheses: the state, and the parent.
        let fields = stat.rsplit_once(')').map(|(_, fields)| fields.split_whitespace().collect::<Vec<_>>());
        fields.is_some_and(|fields| fields.get(1).is_some_and(|of| *of == parent.to_string()))
    })
    .collect()
}

/// Waits until `is_so`, of which nothing tells.
#[track_caller]
fn until(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < DEADLINE, "{what} did not come about");
        std::thread::yield_now();
    }
}

fn kill(process: u32) {
    let killed = Command::new("kill").args(["-KILL", &process.to_string()]).status();
    assert!(killed.expect("there is a `kill`").success());
}

fn listed(env: &LocalEnvironment) -> Vec<WorkerInfo> {
    env.blocking().workers().expect("an open environment")
}

#[test]
fn a_program_that_does_not_know_workers_is_not_started_as_one() {
    let refused = LocalEnvironment::builder("e").workers(Workers::processes(1)).open().unwrap_err();
    assert!(matches!(refused, OpenError::NoWorkerMain), "{refused:?}");
    let sentence = refused.to_string();
    assert!(sentence.contains("call `proscenium::worker_main(jobs![..])` first in its `main`"), "{sentence}");
    let joining = LocalEnvironment::builder("e").workers(Workers::joining()).open().unwrap_err();
    assert!(matches!(joining, OpenError::NoListener), "{joining:?}");
    // None at all takes nothing.
    LocalEnvironment::builder("e").workers(Workers::processes(0)).open().expect("an environment");
}

#[test]
fn a_program_that_is_none_or_no_worker_is_named_with_its_last_words() {
    let open = |program: &str| {
        let workers = Workers::processes(2).executable(program);
        let env = LocalEnvironment::builder("e").task_threads(1).workers(workers);
        on_a_thread(program, move || env.open()).unwrap_err()
    };
    let missing = open("/no/such/program");
    assert!(
        matches!(&missing, OpenError::Executable { path, .. } if path == Path::new("/no/such/program")),
        "{missing:?}"
    );
    // It is told by its arguments what it is to be, and takes them for options.
    let other = open("/bin/ls");
    let OpenError::WorkersMissing { wanted: 2, joined: 0, last_words } = &other else { panic!("{other:?}") };
    assert!(last_words.iter().any(|words| words.contains("proscenium-worker")), "{last_words:?}");
    assert!(other.to_string().starts_with("of 2 workers 0 have joined: worker-"), "{other}");
}

#[test]
fn workers_are_there_when_the_environment_is_and_gone_when_it_is_closed() {
    in_child("processes::workers_are_there_when_the_environment_is_and_gone_when_it_is_closed", LIMIT, || {
        let round = |count: usize| {
            let env = open("e", count);
            let workers = listed(&env);
            let names: BTreeSet<&str> = workers.iter().map(|worker| worker.name.as_str()).collect();
            assert_eq!(names, ["worker-1", "worker-2", "worker-3"][..count].iter().copied().collect());
            assert!(workers.iter().all(|worker| worker.slots == 2 && worker.tasks == 0), "{workers:?}");
            let addresses: BTreeSet<&str> = workers.iter().map(|worker| worker.address.as_str()).collect();
            assert_eq!(addresses.len(), count, "{addresses:?}");
            let children = children_of(std::process::id());
            assert_eq!(children.len(), count);
            // Not by its name, which is a number where it was started by descriptor.
            for child in &children {
                let name = fs::read_to_string(format!("/proc/{child}/comm")).unwrap();
                assert_eq!(name.trim(), "proscenium");
            }
            if count == 3 {
                drop(env)
            } else {
                env.blocking().close()
            }
            assert_eq!(children_of(std::process::id()), BTreeSet::new(), "neither a process nor what is left of one");
        };
        round(1);
        let before = crate::leaks::child::holdings();
        round(3);
        round(2);
        assert_eq!(settled(before), before);
    });
}

#[test]
fn workers_have_no_more_memory_than_they_may() {
    in_child("processes::workers_have_no_more_memory_than_they_may", LIMIT, || {
        let limit = 1 << 30;
        let env = LocalEnvironment::builder("e").task_threads(1).workers(workers(1).memory_max(limit)).open();
        let env = env.expect("an environment");
        for child in children_of(std::process::id()) {
            let limits = fs::read_to_string(format!("/proc/{child}/limits")).unwrap();
            let data = limits.lines().find(|line| line.starts_with("Max data size")).expect("there is such a limit");
            assert_eq!(data.split_whitespace().nth(3), Some(&*limit.to_string()), "{data}");
        }
        env.blocking().close();
        // It is not enough for its threads.
        let Err(missing) =
            LocalEnvironment::builder("e").task_threads(1).workers(workers(1).memory_max(1 << 20)).open()
        else {
            panic!("it runs in nothing")
        };
        assert!(matches!(missing, OpenError::WorkersMissing { joined: 0, .. }), "{missing:?}");
        assert_eq!(children_of(std::process::id()), BTreeSet::new());
    });
}

#[test]
fn a_worker_that_is_killed_is_lost_and_started_again() {
    in_child("processes::a_worker_that_is_killed_is_lost_and_started_again", LIMIT, || {
        let env = open("e", 2);
        let (before, children) = (listed(&env), children_of(std::process::id()));
        let killed = *children.first().expect("a child");
        kill(killed);
        let has_left = || {
            let now = listed(&env);
            before.iter().any(|worker| !now.iter().any(|other| other.address == worker.address))
        };
        until("the loss of a worker", has_left);
        until("another worker", || listed(&env).len() == 2);
        let now = children_of(std::process::id());
        assert!(!now.contains(&killed), "it was waited for");
        assert_eq!(now.intersection(&children).count(), 1, "the other one went on");
        let names: BTreeSet<String> = listed(&env).into_iter().map(|worker| worker.name).collect();
        assert_eq!(names.len(), 2, "it is called as the one before: {names:?}");
        env.blocking().close();
        assert_eq!(children_of(std::process::id()), BTreeSet::new());
    });
}

/// A worker in the middle of its start, or frozen, is no reason to wait for ever.
#[test]
fn a_worker_that_does_not_end_is_killed_when_the_environment_is_closed() {
    in_child("processes::a_worker_that_does_not_end_is_killed_when_the_environment_is_closed", LIMIT, || {
        let env = open("e", 2);
        let frozen = *children_of(std::process::id()).first().expect("a child");
        let stopped = Command::new("kill").args(["-STOP", &frozen.to_string()]).status();
        assert!(stopped.expect("there is a `kill`").success());
        let begun = Instant::now();
        env.blocking().close();
        assert!(begun.elapsed() < DEADLINE);
        assert_eq!(children_of(std::process::id()), BTreeSet::new());
    });
}

#[test]
fn a_node_has_workers_of_its_own_and_they_end_with_it() {
    in_child("processes::a_node_has_workers_of_its_own_and_they_end_with_it", LIMIT, || {
        let node = Node::builder().jobs(jobs![]).without_listener().key(proscenium::Key::generate());
        let node = node.task_threads(1).workers(workers(2)).open().expect("a node");
        let env = node.connect("test").blocking().expect("a client");
        assert_eq!(env.blocking().workers().expect("a question").len(), 2);
        assert_eq!(children_of(std::process::id()).len(), 2);
        env.blocking().close();
        node.stop(proscenium::NodeStop::Drain);
        node.serve().blocking();
        assert_eq!(children_of(std::process::id()), BTreeSet::new());
    });
}
