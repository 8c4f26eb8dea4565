//! Threads, descriptors, memory and processor time: what was taken is given back.

#![cfg(target_os = "linux")]

pub mod child;

use std::{sync::mpsc, time::Duration};

use futures::{StreamExt, stream};
use proscenium::{
    Drained, JobHandle, JobState, Key, LocalEnvironment, Next, Node, Outcome, RemoteEnvironment, Source, TaskContext,
    TaskError, jobs,
};

use self::child::{holdings, in_child, is_long, mebibytes, processor_ticks, resident, settled};
use crate::support::{Counter, Echo, Increment, Journal, Pen, job};

const LIMIT: Duration = Duration::from_secs(240);

job!(Ten {}, |this, flow| {
    flow.from_batch(0..10u64).rebalance(2).map(|item| item + 1).collect("out");
});

// Small, and with one of each: a service, an exchange, an output.
job!(Small { pen: Pen }, |this, flow| {
    let pen = this.pen.clone();
    flow.register_service("counter", move || Counter::new("counter", &pen));
    flow.from_batch(0..10u64).rebalance(2).map(|item| item + 1).collect("out");
});

#[test]
fn a_thousand_environments_leave_no_thread_no_descriptor_and_no_memory() {
    in_child("leaks::a_thousand_environments_leave_no_thread_no_descriptor_and_no_memory", LIMIT, || {
        let journal = Journal::new();
        let open_and_close = |number: u32| {
            let env = LocalEnvironment::builder("leaks").task_threads(2).open().expect("an environment");
            // Some ran a job, some were never used, some have one running when they are closed or dropped.
            match number % 4 {
                0 => {
                    let job = env.submit(Small { pen: journal.pen() }).autostop(true).blocking().expect("submitted");
                    assert_eq!(job.blocking().wait(), Ok(Outcome::Completed));
                    env.blocking().close();
                }
                1 => env.blocking().close(),
                2 => drop(env.submit(Small { pen: journal.pen() }).blocking().expect("submitted")),
                _ => {
                    let _running = env.submit(Parked { kind: number / 4 % 4 }).blocking().expect("submitted");
                    drop(env);
                }
            }
        };
        (0..100).for_each(open_and_close);
        let (before, memory) = (holdings(), resident());
        (0..1_000).for_each(open_and_close);
        let (after, grown) = (settled(before), resident().saturating_sub(memory));
        println!("1,000 environments: {before:?} -> {after:?}, resident memory grew by {:.2} MiB", mebibytes(grown));
        assert_eq!(after, before);
        assert!(grown < 6 << 20, "{grown} bytes in 1,000 environments");
    });
}

#[test]
fn nodes_and_their_clients_leave_no_thread_no_descriptor_and_no_memory() {
    in_child("leaks::nodes_and_their_clients_leave_no_thread_no_descriptor_and_no_memory", LIMIT, || {
        let journal = Journal::new();
        let key = Key::generate();
        let open_and_close = |number: u32| {
            let node = Node::builder().jobs(jobs![Small, Parked]).address("127.0.0.1:0").key(key.clone());
            let node = node.task_threads(2).open().expect("a node");
            let address = node.address().expect("it listens").to_string();
            let env = RemoteEnvironment::connect("leaks", address).key(key.clone()).blocking().expect("it is there");
            // Some ran a job, some were never used, some have one running when they are dropped, some lose their node.
            match number % 4 {
                0 => {
                    let job = env.submit(Small { pen: journal.pen() }).autostop(true).blocking().expect("submitted");
                    assert_eq!(job.blocking().wait(), Ok(Outcome::Completed));
                    assert_eq!(job.output::<u64>("out").blocking().expect("it is whole").len(), 10);
                }
                1 => env.blocking().close(),
                2 => {
                    let job = env.submit(Small { pen: journal.pen() }).blocking().expect("submitted");
                    assert_eq!(job.service::<Counter>("counter").call(Increment).blocking(), Ok(1));
                    drop(env);
                    drop(node);
                }
                _ => {
                    let _running = env.submit(Parked { kind: number / 4 % 4 }).blocking().expect("submitted");
                    drop(node);
                    drop(env);
                }
            }
        };
        (0..40).for_each(open_and_close);
        let (before, memory) = (holdings(), resident());
        (0..200).for_each(open_and_close);
        let (after, grown) = (settled(before), resident().saturating_sub(memory));
        println!("200 nodes: {before:?} -> {after:?}, resident memory grew by {:.2} MiB", mebibytes(grown));
        assert_eq!(after, before);
        assert!(grown < 6 << 20, "{grown} bytes in 200 nodes and clients");
    });
}

#[test]
fn ten_thousand_jobs_in_one_environment_leave_nothing_beyond_the_history() {
    in_child("leaks::ten_thousand_jobs_in_one_environment_leave_nothing_beyond_the_history", LIMIT, || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        // The first environment of a process leaves what tokio needs for signals, once.
        let env = LocalEnvironment::new("first");
        assert_eq!(env.run(Ten {}).blocking(), Ok(Drained::Completed));
        env.blocking().close();
        drop(env);
        let unopened = holdings();
        let env = LocalEnvironment::builder("leaks").task_threads(2).open().expect("an environment");
        let run = |jobs: usize| {
            runtime.block_on(stream::iter(0..jobs).for_each_concurrent(50, async |_| {
                let job = env.submit(Ten {}).autostop(true).await.expect("submitted");
                assert_eq!(job.wait().await, Ok(Outcome::Completed));
            }));
        };
        // The history is full after 1,000, and what it remembers of expired jobs grows on by their ids.
        run(2_000);
        let (before, memory) = (holdings(), resident());
        run(10_000);
        let (after, grown) = (holdings(), resident().saturating_sub(memory));
        println!("10,000 jobs: {before:?} -> {after:?}, resident memory grew by {:.2} MiB", mebibytes(grown));
        // Threads of the pool come and go with the work: up to one for each of 50 jobs that are being built, and one for each
        // that has ended and is being dropped. (On a busy machine 61 were seen in all.)
        assert!(after.threads <= before.threads.max(unopened.threads + 106), "{} threads", after.threads);
        assert_eq!(after.descriptors, before.descriptors);
        assert!(grown < 8 << 20, "{grown} bytes in 10,000 jobs");
        let health = env.blocking().health().expect("open");
        assert_eq!((health.jobs_live, health.jobs_ended), (0, 1_000));
        env.blocking().close();
        drop(env);
        assert_eq!(settled(unopened), unopened, "what the environment took is given back: {:?}", child::descriptors());
    });
}

#[test]
fn a_hundred_idle_jobs_use_no_processor_time() {
    in_child("leaks::a_hundred_idle_jobs_use_no_processor_time", LIMIT, || {
        let env = LocalEnvironment::builder("leaks").task_threads(2).open().expect("an environment");
        let jobs: Vec<JobHandle> =
            (0..100).map(|number| env.submit(Parked { kind: number % 4 }).blocking().expect("submitted")).collect();
        for (number, job) in jobs.iter().enumerate() {
            let job = job.blocking();
            let parked = match number % 4 {
                0 => JobState::Idle,
                1 => {
                    job.pause().expect("it runs");
                    JobState::Paused
                }
                _ => JobState::Running,
            };
            let mut changes = job.watch();
            assert!(changes.any(|status| status.expect("live").state == parked), "never {parked}");
        }
        let seconds = if is_long() { 10 } else { 2 };
        // Blocks: nothing is ever sent. Once to let what was just done come to rest, once to measure.
        let (_nothing, nothing) = mpsc::channel::<()>();
        assert!(nothing.recv_timeout(Duration::from_millis(200)).is_err());
        let before = processor_ticks();
        assert!(nothing.recv_timeout(Duration::from_secs(seconds)).is_err());
        let used = processor_ticks() - before;
        println!("100 idle jobs used {} ms in {seconds} s", used * 10);
        assert!(used <= 1, "{used} ticks of 10 ms in {seconds} s");
        env.blocking().close();
    });
}

// Does nothing for ever, in one of four ways.
job!(Parked { kind: u32 }, |this, flow| {
    match this.kind {
        // Idle once it has run.
        0 => {
            flow.register_service("echo", || Echo);
            flow.from_batch(0..10u64).collect("out");
        }
        // Waits for items from outside.
        1 => flow.from_channel::<u64>("in").rebalance(2).collect("out"),
        // Its source waits.
        2 => flow.from_source(Silent).rebalance(2).collect("out"),
        // Blocked by an output that nobody reads.
        _ => flow.from_batch(0..).rebalance(2).stream_out("out"),
    }
});

/// A source that has nothing, and never will.
struct Silent;

impl Source for Silent {
    type Item = u64;

    async fn next(&mut self, _ctx: &TaskContext) -> Result<Next<u64>, TaskError> {
        futures::future::pending().await
    }
}
