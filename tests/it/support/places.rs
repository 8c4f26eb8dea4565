//! The environments that every behaviour is tested in.

use std::panic::AssertUnwindSafe;

use futures::FutureExt;
use proscenium::{Environment, Limits, LocalEnvironment, Node, Workers};

use super::{Company, DEADLINE, block_on, node::NodeProcess, on_a_thread};

/// A kind of environment. Every test body runs in each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In this process; nothing is encoded.
    Local,
    /// In this process, behind a connection over a pipe in memory: every message is encoded and decoded.
    Encoded,
    /// On a node in a process of its own, over loopback.
    Remote,
    /// In this process, its tasks spread over workers that speak to each other over loopback.
    Team,
    /// On a node in this process, its tasks spread over so many worker processes. Not among those of every test.
    Workers { count: usize, peer_channel_bytes: usize },
}

/// Tests that do not run in a [`Team`](Place::Team), and why.
const NOT_IN_A_TEAM: [(&str, &str); 6] = [
    ("a_file_that_vanishes_between_build_and_read_fails_the_job_and_is_named", BUILD_ACTS),
    (
        "a_file_that_is_gone_or_shorter_by_the_time_it_is_read_fails_the_job_and_what_was_appended_is_not_read",
        BUILD_ACTS,
    ),
    ("a_paused_job_can_be_stopped_and_cancelled", BUILD_COUNTS),
    ("stop_ends_an_unbounded_source_and_all_it_emitted_arrives", BUILD_COUNTS),
    ("stop_reaches_a_source_while_the_sink_is_blocked_and_every_queue_is_full", BUILD_COUNTS),
    (
        "everything_asked_of_a_closed_environment_fails_with_the_same_error",
        "a team is closed as a local environment is",
    ),
];

const BUILD_ACTS: &str = "`build` changes files, and runs in each worker";
const BUILD_COUNTS: &str = "it counts the sources that `build` makes, and `build` runs in each worker";

impl Place {
    /// Whether the test of this thread runs here.
    fn is_for_this_test(self) -> bool {
        let thread = std::thread::current();
        let test = thread.name().and_then(|name| name.rsplit("::").next());
        self != Self::Team || !NOT_IN_A_TEAM.iter().any(|(name, _reason)| Some(*name) == test)
    }
}

/// An environment, and what has to end after it.
pub struct Opened {
    pub env: Box<dyn Environment>,
    behind: Behind,
}

enum Behind {
    Nothing,
    Node(Node),
    Process(NodeProcess),
    Company(Company),
}

impl Opened {
    /// Closes the environment, and ends the node behind it.
    pub async fn close(self) {
        self.env.close().await;
        match self.behind {
            Behind::Nothing => {}
            Behind::Node(node) => drop(node),
            Behind::Process(process) => process.end(),
            Behind::Company(company) => company.close().await,
        }
    }
}

impl Place {
    const ALL: [Self; 4] = [Self::Local, Self::Encoded, Self::Remote, Self::Team];

    pub fn open(self, limits: Limits) -> Opened {
        self.open_with(limits, 2)
    }

    /// As [`open`](Self::open), with so many threads for tasks.
    pub fn open_with(self, limits: Limits, threads: usize) -> Opened {
        match self {
            Self::Local => {
                let builder = LocalEnvironment::builder("test").task_threads(threads).limits(limits);
                let env = Box::new(builder.open().expect("an environment can be opened"));
                Opened { env, behind: Behind::Nothing }
            }
            Self::Team => {
                let builder = LocalEnvironment::builder("test").task_threads(threads).limits(limits);
                let builder = builder.workers(Workers::inside(threads.max(2)).slots(1));
                let env = Box::new(builder.open().expect("an environment can be opened"));
                Opened { env, behind: Behind::Nothing }
            }
            Self::Encoded => {
                let node = Node::builder().jobs(crate::jobs()).without_listener().key(proscenium::Key::generate());
                let node = node.name("test").task_threads(threads).limits(limits).open().expect("a node can be opened");
                let env = Box::new(node.connect("test").blocking().expect("the node is there"));
                Opened { env, behind: Behind::Node(node) }
            }
            Self::Remote => {
                let process = NodeProcess::start_with(&limits, threads);
                let env = Box::new(process.connect().blocking().expect("the node is there"));
                Opened { env, behind: Behind::Process(process) }
            }
            Self::Workers { count, peer_channel_bytes } => {
                let limits = Limits { peer_channel_bytes, ..limits };
                let opening = move || block_on(Company::open(limits, &vec![threads; count]));
                let company = on_a_thread("a node with workers", opening);
                let env = Box::new(company.connect().blocking().expect("the node is there"));
                Opened { env, behind: Behind::Company(company) }
            }
        }
    }
}

/// Runs `body` in each kind of environment, each opened for it alone.
pub fn each_environment(body: impl AsyncFn(&dyn Environment)) {
    each_environment_with(&Limits::default(), body);
}

/// As [`each_environment`], with limits other than the defaults.
pub fn each_environment_with(limits: &Limits, body: impl AsyncFn(&dyn Environment)) {
    each_place_with(limits, async |_, env| body(env).await);
}

/// As [`each_environment_with`], for what is documented to differ from one kind of environment to another.
pub fn each_place_with(limits: &Limits, body: impl AsyncFn(Place, &dyn Environment)) {
    let mut passed = 0;
    let places: Vec<Place> = Place::ALL.into_iter().filter(|place| place.is_for_this_test()).collect();
    for &place in &places {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be built");
        let opened = place.open(limits.clone());
        // Several waits fit into it, each of which has the deadline for itself.
        let body = AssertUnwindSafe(body(place, &*opened.env)).catch_unwind();
        let result = runtime.block_on(async { tokio::time::timeout(4 * DEADLINE, body).await });
        match result {
            Ok(Ok(())) => {
                block_on(opened.close());
                passed += 1;
            }
            // Closing may hang for the very reason the test failed; then the failure would never be seen.
            Ok(Err(panic)) => {
                std::mem::forget(opened);
                eprintln!("in {place:?}:");
                std::panic::resume_unwind(panic);
            }
            Err(_) => {
                std::mem::forget(opened);
                panic!("{place:?}: the test did not end");
            }
        }
    }
    assert_eq!(passed, places.len(), "each environment gave one result");
}
