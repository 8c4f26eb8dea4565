//! Sources that are always ready, and leave the thread to others all the same.

use std::time::{Duration, Instant};

use proscenium::{Environment, JobHandle, JobState, Limits, Next, Outcome, Source, TaskContext, TaskError};
use serde::{Deserialize, Serialize};

use crate::support::{Place, block_on, completed, deadline, ended, job, reached, read, registered, start};

registered![Busy, Beside, Drained];

/// What a source answers at once, each time it is asked.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum Answer {
    NoItems,
    NoPause,
    Item,
    /// One item, after so long on the thread.
    SlowItem(Duration),
    /// Fast for a while, so that it is asked for many items at a time, and then slow.
    SlowItemsBehind(u64, Duration),
}

struct Always {
    answer: Answer,
    asked: u64,
}

fn occupy(time: Duration) {
    let begun = Instant::now();
    while begun.elapsed() < time {
        std::hint::spin_loop();
    }
}

impl Source for Always {
    type Item = u64;

    async fn next(&mut self, _: &TaskContext) -> Result<Next<u64>, TaskError> {
        self.asked += 1;
        match self.answer {
            Answer::NoItems => return Ok(Next::Items(Vec::new())),
            Answer::NoPause => return Ok(Next::Later(Duration::ZERO)),
            Answer::SlowItem(time) => occupy(time),
            Answer::SlowItemsBehind(fast, time) if self.asked > fast => occupy(time),
            Answer::Item | Answer::SlowItemsBehind(..) => {}
        }
        Ok(Next::Item(self.asked))
    }
}

job!(Busy { answer: Answer }, |job, flow| {
    flow.from_source(Always { answer: job.answer, asked: 0 }).for_each(|_| {});
});

job!(Beside {}, |this, flow| {
    flow.from_batch(0..1000u64).rebalance(2).count().collect("out");
});

const ANSWERS: [Answer; 5] = [
    Answer::NoItems,
    Answer::NoPause,
    Answer::Item,
    Answer::SlowItem(Duration::from_micros(200)),
    Answer::SlowItemsBehind(500_000, Duration::from_micros(200)),
];

/// Runs `body` in each environment, with one thread for all tasks, and a busy source on it.
fn beside_each_source(body: impl AsyncFn(&dyn Environment, JobHandle)) {
    for place in [Place::Local, Place::Encoded, Place::Remote] {
        let opened = place.open_with(Limits::default(), 1);
        for answer in ANSWERS {
            block_on(async {
                let busy = start(&*opened.env, Busy { answer }).await;
                reached(&busy, JobState::Running).await;
                body(&*opened.env, busy).await;
                let health = deadline("health", opened.env.health()).await.unwrap();
                assert_eq!(health.threads_abandoned, 0, "{place:?}, {answer:?}");
            });
        }
        block_on(opened.close());
    }
}

/// A source that answered `Items(vec![])` never came back from its first step: the other job hung, commands had no effect, and
/// `cancel` abandoned the thread.
#[test]
fn a_source_that_is_always_ready_leaves_its_thread_to_other_jobs() {
    beside_each_source(async |env, busy| {
        let beside = completed(env, Beside {}).await;
        assert_eq!(read::<u64>(&beside, "out").await, [1000]);
        deadline("cancel", busy.cancel()).await.unwrap();
        let outcome = ended(&busy).await;
        assert!(matches!(outcome, Outcome::Cancelled { .. }), "{outcome}");
        assert!(busy.status().await.unwrap().warnings.is_empty());
    });
}

#[test]
fn a_source_that_is_always_ready_is_paused_resumed_and_stopped() {
    beside_each_source(async |_, busy| {
        deadline("pause", busy.pause()).await.unwrap();
        reached(&busy, JobState::Paused).await;
        deadline("resume", busy.resume()).await.unwrap();
        reached(&busy, JobState::Running).await;
        deadline("stop", busy.stop()).await.unwrap();
        assert_eq!(ended(&busy).await, Outcome::Stopped);
        assert!(busy.status().await.unwrap().warnings.is_empty());
    });
}

/// Has nothing at every other answer, and so many items in all.
struct Draining {
    asked: u64,
    items: u64,
}

impl Source for Draining {
    type Item = u64;

    async fn next(&mut self, _: &TaskContext) -> Result<Next<u64>, TaskError> {
        self.asked += 1;
        Ok(match self.asked {
            asked if asked > 2 * self.items => Next::End,
            asked if asked % 2 == 0 => Next::Items(vec![asked / 2]),
            _ => Next::Items(Vec::new()),
        })
    }
}

job!(Drained { items: u64 }, |job, flow| {
    flow.from_source(Draining { asked: 0, items: job.items }).collect("out");
});

#[test]
fn a_source_that_has_nothing_now_and_then_loses_no_item() {
    crate::support::each_environment(async |env| {
        let job = completed(env, Drained { items: 5000 }).await;
        assert_eq!(read::<u64>(&job, "out").await, (1..=5000).collect::<Vec<_>>());
    });
}
