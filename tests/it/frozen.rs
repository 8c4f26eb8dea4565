//! Workers whose processes are stopped, and go on after others may have taken over what they did.

use std::{
    os::unix::process::ExitStatusExt,
    time::{Duration, SystemTime},
};

use proscenium::{
    Environment, FailureCause, JobHandle, Key, KeyRole, Next, Node, Outcome, RemoteEnvironment, Source, TaskContext,
    TaskError, Workers,
};

use crate::support::{DEADLINE, Journal, Pen, WorkerProcess, block_on, deadline, ended, job, registered, start};

registered![Stamps, StuckAlive];

/// Between two items.
const PAUSE: Duration = Duration::from_millis(20);

struct Clock {
    is_due: bool,
}

impl Source for Clock {
    type Item = ();

    async fn next(&mut self, _: &TaskContext) -> Result<Next<()>, TaskError> {
        self.is_due = !self.is_due;
        Ok(if self.is_due { Next::Later(PAUSE) } else { Next::Item(()) })
    }
}

/// Nanoseconds of the wall clock.
fn now() -> u128 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("it is later than that").as_nanos()
}

job!(
    /// Writes down the time, again and again.
    Stamps { pen: Pen },
    |job, flow| {
        let pen = job.pen.clone();
        flow.from_source(Clock { is_due: false }).for_each(move |()| pen.write(now()));
    }
);

job!(
    /// The same, within one call.
    StuckAlive { pen: Pen },
    |job, flow| {
        let pen = job.pen.clone();
        flow.from_batch([()]).for_each(move |()| {
            loop {
                pen.write(now());
                std::thread::park_timeout(PAUSE);
            }
        });
    }
);

/// When lines were written.
fn stamps(journal: &Journal) -> Vec<u128> {
    journal.lines().iter().map(|line| line.parse().expect("a time")).collect()
}

/// Ready once `is_so`, of which nothing tells.
async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    deadline(what, async {
        while !is_so().await {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// A node with one worker, in a process of its own.
struct Site {
    node: Node,
    env: RemoteEnvironment,
    key: Key,
}

impl Site {
    async fn open() -> (Self, WorkerProcess) {
        let node = Node::builder().jobs(crate::jobs()).address("127.0.0.1:0").key(Key::generate());
        let node = node.task_threads(1).workers(Workers::joining()).open().expect("a node");
        let env = deadline("a client", node.connect("test")).await.expect("a client");
        let key = deadline("a key", env.add_key("workers", KeyRole::Worker)).await.expect("an admin's wish");
        let site = Self { node, env, key };
        let worker = site.worker().await;
        (site, worker)
    }

    async fn worker(&self) -> WorkerProcess {
        let worker = WorkerProcess::start(&self.node.address().expect("it listens").to_string(), &self.key, 1);
        self.until_workers(1).await;
        worker
    }

    async fn until_workers(&self, count: usize) {
        let workers = async || self.env.workers().await.expect("an open node").len() == count;
        until("the coming and going of workers", workers).await;
    }

    /// A job of which the worker has written something down, just now.
    async fn running(&self, job: impl proscenium::IntoJob, journal: &Journal) -> JobHandle {
        let job = start(&self.env, job).await;
        Self::until_written(journal).await;
        job
    }

    async fn until_written(journal: &Journal) {
        let before = stamps(journal).len();
        until("another line", async || stamps(journal).len() > before).await;
    }
}

fn assert_worker_lost(outcome: &Outcome) {
    let Outcome::Failed(failure) = outcome else { panic!("{outcome:?}") };
    assert!(matches!(failure, FailureCause::WorkerLost { .. }), "{failure:?}");
}

#[test]
fn a_worker_that_is_frozen_for_a_moment_goes_on_where_it_was() {
    block_on(async {
        let (site, worker) = Site::open().await;
        let journal = Journal::new();
        let job = site.running(Stamps { pen: journal.pen() }, &journal).await;
        for _ in 0..5 {
            worker.freeze();
            worker.signal("CONT");
            Site::until_written(&journal).await;
        }
        assert_eq!(site.env.workers().await.unwrap().len(), 1);
        job.stop().await.unwrap();
        assert_eq!(ended(&job).await, Outcome::Stopped);
    });
}

#[test]
fn a_worker_that_wakes_after_its_lease_takes_no_further_step_and_joins_again() {
    block_on(async {
        let (site, worker) = Site::open().await;
        let journal = Journal::new();
        let job = site.running(Stamps { pen: journal.pen() }, &journal).await;
        // Just now the task has written, so no code of the job's runs.
        worker.freeze();
        site.until_workers(0).await;
        assert_worker_lost(&ended(&job).await);
        let before = stamps(&journal);
        worker.signal("CONT");
        site.until_workers(1).await;
        assert_eq!(stamps(&journal), before, "it wrote on although its job had failed");
        // As another worker, it is as good as any.
        let journal = Journal::new();
        let job = site.running(Stamps { pen: journal.pen() }, &journal).await;
        job.stop().await.unwrap();
        assert_eq!(ended(&job).await, Outcome::Stopped);
    });
}

#[test]
fn a_worker_that_wakes_amid_code_of_a_job_ends() {
    block_on(async {
        let (site, worker) = Site::open().await;
        let journal = Journal::new();
        let job = site.running(StuckAlive { pen: journal.pen() }, &journal).await;
        worker.freeze();
        site.until_workers(0).await;
        assert_worker_lost(&ended(&job).await);
        let woken = now();
        worker.signal("CONT");
        let status = worker.wait();
        assert!(status.signal().is_some_and(|signal| signal == 6), "it is no abort: {status:?}");
        let late = stamps(&journal).into_iter().filter(|at| *at > woken).collect::<Vec<_>>();
        let last = late.last().copied().unwrap_or(woken);
        assert!(last - woken < DEADLINE.as_nanos() / 10, "it wrote on for {} ms", (last - woken) / 1_000_000);
        // There is room for another one.
        site.worker().await;
    });
}
