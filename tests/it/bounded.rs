//! A job that cannot go on takes no more memory, and is steered and asked as promptly as any other.

mod workers;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use proscenium::{
    CancelReason, Environment, FailureCause, JobHandle, JobState, LeastLoaded, Limits, LocalEnvironment, Outcome,
    Warning,
};

use crate::{
    leaks::child::{in_child, is_long, mebibytes, resident},
    support::{self, Door, Doorway, Visitor, block_on, block_on_for, deadline, ended, job, reached},
};

pub use workers::jobs;

/// Generous, for the long form: 10^8 items at a millisecond for each 1,024 of them on a busy machine.
const LIMIT: Duration = Duration::from_secs(1_200);

/// Items that share a millisecond of the slow sink's time.
const BATCH: u64 = 1_024;

/// Keeps the thread busy: a slow sink that is not a sleeping one.
fn work_for(time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        std::hint::spin_loop();
    }
}

/// Follows what a job says it waits for until a sentence contains `part`.
async fn explained(job: &JobHandle, part: &str) -> String {
    let asking = async {
        loop {
            let explanation = job.explain().await.unwrap().to_string();
            if explanation.contains(part) {
                return explanation;
            }
            tokio::task::yield_now().await;
        }
    };
    deadline(&format!("the explanation `{part}`"), asking).await
}

/// How many items the job's sources have emitted.
async fn emitted(job: &JobHandle) -> u64 {
    let status = job.status().await.unwrap();
    status.tasks.iter().filter(|task| task.name.starts_with("from_")).map(|task| task.counters.items_in).sum()
}

#[test]
fn a_source_of_any_length_and_a_slow_sink_take_no_more_memory_than_their_channels_hold() {
    in_child(
        "bounded::a_source_of_any_length_and_a_slow_sink_take_no_more_memory_than_their_channels_hold",
        LIMIT,
        || {
            let items: u64 = if is_long() { 100_000_000 } else { 1_000_000 };
            let env = open(2, Limits::default());
            let seen = Arc::new(AtomicU64::new(0));
            let sink = Arc::clone(&seen);
            let job = proscenium::job_fn("slow", move |flow| {
                let sink = Arc::clone(&sink);
                flow.from_batch(0..items).rebalance(1).map(|item| item + 1).for_each(move |_| {
                    if (sink.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(BATCH) {
                        work_for(Duration::from_millis(1));
                    }
                });
                Ok(())
            });
            block_on_for(LIMIT, async {
                let job = env.submit(job).autostop(true).await.unwrap();
                let reached = async |share: u64| {
                    while seen.load(Ordering::Relaxed) < items / 100 * share {
                        assert!(job.status().await.unwrap().is_running());
                        tokio::task::yield_now().await;
                    }
                    resident()
                };
                let early = reached(5).await;
                let mut most = early;
                let mut ahead = 0;
                for share in (10..=95).step_by(5) {
                    most = most.max(reached(share).await);
                    // Answered while the sink works, and not behind its data.
                    let before = seen.load(Ordering::Relaxed);
                    let emitted = emitted(&job).await;
                    let after = seen.load(Ordering::Relaxed);
                    assert!(after < before + items / 4, "the answer came {} batches late", (after - before) / BATCH);
                    ahead = ahead.max(emitted.saturating_sub(after));
                }
                assert_eq!(job.wait().await.unwrap(), Outcome::Completed);
                assert_eq!(seen.load(Ordering::Relaxed), items);
                let grown = most.saturating_sub(early);
                println!("{items} items: the source was {ahead} ahead, memory grew by {:.2} MiB", mebibytes(grown));
                // 8 batches in the channel, and some in hand on either side.
                assert!(ahead < 16 * BATCH, "the source was {ahead} items ahead of its sink");
                assert!(grown < 4 << 20, "{grown} bytes");
            });
            env.blocking().close();
        },
    );
}

// An endless source, and an operator that waits at the door with its first item: everything before it fills up.
job!(Stuck { door: Doorway }, |this, flow| {
    let door = this.door.clone();
    let mut first = true;
    flow.from_batch(0u64..)
        .rebalance(1)
        .map(move |item| {
            if std::mem::take(&mut first) {
                door.pass_blocking("the operator");
            }
            item
        })
        .uid("stuck")
        .collect("out");
});

/// An environment in which each of `threads` tasks has a thread for itself, so that one that is held up holds up no
/// other.
fn open(threads: usize, limits: Limits) -> LocalEnvironment {
    let builder = LocalEnvironment::builder("bounded").task_threads(threads).placement(LeastLoaded::new());
    builder.limits(limits).open().unwrap()
}

/// A job whose operator is held at the door with every queue in front of it full.
async fn stuck(env: &dyn Environment, door: &Door) -> (JobHandle, Visitor) {
    let job = support::start(env, Stuck { door: door.way() }).await;
    let visitor = door.arrival().await;
    explained(&job, "waits for room towards `stuck").await;
    (job, visitor)
}

#[test]
fn a_job_with_full_queues_and_a_busy_operator_answers_and_can_be_stopped() {
    block_on(async {
        let (env, door) = (open(2, Limits::default()), Door::new().await);
        let (job, visitor) = stuck(&env, &door).await;
        // The visitor is still held: whatever is answered here is not answered behind data.
        let before = emitted(&job).await;
        for _ in 0..100 {
            assert_eq!(deadline("status", job.status()).await.unwrap().state, JobState::Running);
        }
        assert_eq!(emitted(&job).await, before, "a source that waits for room emits nothing");
        deadline("stop", job.stop()).await.unwrap();
        assert_eq!(job.status().await.unwrap().state, JobState::Draining);
        assert_eq!(job.wait_timeout(Duration::ZERO).await.unwrap(), None);
        visitor.admit();
        assert_eq!(ended(&job).await, Outcome::Stopped);
        let items: Vec<u64> = support::read(&job, "out").await;
        assert_eq!(items, (0..before).collect::<Vec<_>>(), "all that was emitted before the stop, and nothing else");
        deadline("close", env.close()).await;
    });
}

#[test]
fn a_job_with_full_queues_and_a_busy_operator_can_be_cancelled() {
    block_on(async {
        let (env, door) = (open(2, Limits::default()), Door::new().await);
        let (job, visitor) = stuck(&env, &door).await;
        let before = emitted(&job).await;
        deadline("cancel", job.cancel()).await.unwrap();
        assert_eq!(job.status().await.unwrap().state, JobState::Draining);
        visitor.admit();
        let outcome = ended(&job).await;
        let Outcome::Cancelled { reason: CancelReason::Requested, dropped } = outcome else { panic!("{outcome}") };
        assert!((1..=before).contains(&dropped), "{dropped} of {before} emitted items were dropped");
        assert_eq!(job.status().await.unwrap().warnings, []);
        deadline("close", env.close()).await;
    });
}

#[test]
fn another_job_runs_while_one_has_full_queues() {
    block_on(async {
        let (env, door) = (open(3, Limits::default()), Door::new().await);
        job!(Few {}, |this, flow| {
            flow.from_batch(0..100u64).count().collect("out");
        });
        let (job, visitor) = stuck(&env, &door).await;
        // The job that is stuck holds two of three threads, so this one gets the third.
        support::completed(&env, Few {}).await;
        visitor.admit();
        support::cancel(&job).await.unwrap();
        deadline("close", env.close()).await;
    });
}

// Kibibytes without end, to an output.
job!(Unread {}, |this, flow| {
    flow.from_batch(0u64..).map(|item| vec![item; 128]).rebalance(1).stream_out("letters");
});

#[test]
fn an_output_that_nobody_reads_blocks_the_job_which_says_so_and_takes_no_more_memory() {
    in_child(
        "bounded::an_output_that_nobody_reads_blocks_the_job_which_says_so_and_takes_no_more_memory",
        LIMIT,
        || {
            block_on(async {
                let env = open(2, Limits { port_items: 1_000, ..Limits::default() });
                let job = support::start(&env, Unread {}).await;
                let explanation = explained(&job, "output `letters` has no reader").await;
                explained(&job, "waits for room").await;
                let (before, memory) = (emitted(&job).await, resident());
                assert!(before < 32 * BATCH, "{before} items of 1 KiB were emitted");
                for _ in 0..2_000 {
                    assert_eq!(job.status().await.unwrap().state, JobState::Running);
                }
                assert_eq!(emitted(&job).await, before, "the job goes on though nobody reads");
                let grown = resident().saturating_sub(memory);
                println!("{before} items emitted; then memory grew by {:.2} MiB\n{explanation}", mebibytes(grown));
                assert!(grown < 2 << 20, "{grown} bytes");
                // A reader gets it going again.
                let mut output = job.output::<Vec<u64>>("letters");
                for number in 0..before + 10 {
                    let letter = deadline("a letter", output.next()).await.unwrap().expect("there is no end");
                    assert_eq!((letter.len(), letter[0]), (128, number));
                }
                support::cancel(&job).await.unwrap();
                deadline("close", env.close()).await;
            });
        },
    );
}

#[test]
fn an_operator_that_never_returns_is_abandoned_at_the_deadline() {
    block_on(async {
        let limits = Limits { cancel_deadline: Duration::from_millis(50), ..Limits::default() };
        let (env, door) = (open(2, limits), Door::new().await);
        let (job, visitor) = stuck(&env, &door).await;
        deadline("cancel", job.cancel()).await.unwrap();
        let outcome = ended(&job).await;
        assert!(matches!(outcome, Outcome::Cancelled { reason: CancelReason::Requested, .. }), "{outcome}");
        let warnings = job.status().await.unwrap().warnings;
        let [Warning::TaskAbandoned { task, .. }] = warnings.as_slice() else { panic!("{warnings:?}") };
        assert_eq!(task, "stuck -> collect");
        assert_eq!(env.health().await.unwrap().threads_abandoned, 1);
        // The thread was replaced: as many jobs as there are threads, and more, run to their end.
        job!(Next {}, |this, flow| {
            flow.from_batch(0..100u64).rebalance(2).map(|item| item + 1).collect("out");
        });
        for _ in 0..4 {
            support::completed(&env, Next {}).await;
        }
        // The operator is still held, and the environment closes all the same.
        deadline("close", env.close()).await;
        visitor.admit();
    });
}

#[test]
fn an_environment_with_an_operator_that_never_returns_closes_at_the_deadline() {
    block_on(async {
        let limits = Limits { cancel_deadline: Duration::from_millis(50), ..Limits::default() };
        let (env, door) = (open(2, limits), Door::new().await);
        let (job, visitor) = stuck(&env, &door).await;
        let waiting = tokio::spawn(job.wait());
        deadline("close", env.close()).await;
        // The operator is still held: nothing of this waited for it.
        let waited = deadline("the end of the job", waiting).await.unwrap();
        let Ok(Outcome::Cancelled { reason, .. }) = waited else { panic!("{waited:?}") };
        assert_eq!(reason, CancelReason::EnvironmentClosed);
        visitor.admit();
    });
}

#[test]
fn an_operator_that_never_returns_after_another_failed_does_not_hide_the_failure() {
    block_on(async {
        job!(FailsBesideTheStuck { door: Doorway }, |this, flow| {
            let door = this.door.clone();
            flow.from_batch(0..1u64).rebalance(1).for_each(move |_| door.pass_blocking("the operator"));
            let door = this.door.clone();
            // Fails once the test lets it, when the other one is held.
            flow.from_source(AtTheDoor { door }).rebalance(1).try_for_each(|_: u64| Err("as planned".into()));
        });
        let limits = Limits { cancel_deadline: Duration::from_millis(50), ..Limits::default() };
        let env = open(4, limits);
        let door = Door::new().await;
        let job = support::start(&env, FailsBesideTheStuck { door: door.way() }).await;
        let mut visitors = door.arrivals(2).await;
        let source = visitors.iter().position(|visitor| visitor.name() == "the source").expect("it came");
        visitors.swap_remove(source).admit();
        let outcome = ended(&job).await;
        let Some(FailureCause::Operator { operator, message, .. }) = outcome.failure() else { panic!("{outcome}") };
        assert_eq!((operator.as_str(), message.as_str()), ("try_for_each", "as planned"));
        let warnings = job.status().await.unwrap().warnings;
        assert!(matches!(warnings.as_slice(), [Warning::TaskAbandoned { .. }]), "{warnings:?}");
        deadline("close", env.close()).await;
        drop(visitors);
    });
}

/// One item, once the test lets it pass.
struct AtTheDoor {
    door: Doorway,
}

impl proscenium::Source for AtTheDoor {
    type Item = u64;

    async fn next(&mut self, _ctx: &proscenium::TaskContext) -> Result<proscenium::Next<u64>, proscenium::TaskError> {
        self.door.pass("the source").await;
        Ok(proscenium::Next::Item(1))
    }
}

#[test]
fn a_paused_job_with_full_queues_reads_pausing_until_they_have_drained() {
    block_on(async {
        let (env, door) = (open(2, Limits::default()), Door::new().await);
        let (job, visitor) = stuck(&env, &door).await;
        deadline("pause", job.pause()).await.unwrap();
        assert_eq!(job.status().await.unwrap().state, JobState::Pausing);
        visitor.admit();
        reached(&job, JobState::Paused).await;
        let (one, other) = (emitted(&job).await, emitted(&job).await);
        assert_eq!(one, other);
        deadline("stop", job.stop()).await.unwrap();
        assert_eq!(ended(&job).await, Outcome::Stopped);
        assert_eq!(support::read::<u64>(&job, "out").await, (0..one).collect::<Vec<_>>());
        deadline("close", env.close()).await;
    });
}
