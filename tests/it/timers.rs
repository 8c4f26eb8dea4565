//! Timers of keyed state, and state that expires.

use std::{
    collections::BTreeSet,
    sync::{
        LazyLock, Mutex,
        mpsc::{Receiver, Sender, channel},
    },
    time::{Duration, SystemTime},
};

use proscenium::{Input, JobHandle, JobState, LocalEnvironment, Timestamp, job_fn};
use serde::{Deserialize, Serialize};

use crate::support::{
    DEADLINE, block_on, cancel, deadline, each_environment, ended, job, output_of, reached, registered, sorted, start,
};

registered![Delayed, Stamped, Patient, Past, ChainOfTimers, AtTheEnd, PausedTimers, Restless];

/// Longer than any test takes.
const LONG: Duration = Duration::from_secs(24 * 3600);

job!(Delayed { parallelism: usize }, |job, flow| {
    let delayed = flow.from_channel::<u64>("in").key_by(|n| *n).parallelism(job.parallelism);
    let delayed = delayed.process(|ctx, _, n, state: &mut u64| {
        *state = n;
        ctx.fire_after(Duration::from_millis(2));
        Ok(())
    });
    delayed
        .on_timer(|ctx, key, at, state| {
            assert!(at <= ctx.now(), "not before its instant");
            ctx.emit((*key, *state));
            Ok(())
        })
        .stream()
        .stream_out("out");
});

#[test]
fn a_timer_fires_without_another_item() {
    each_environment(async |env| {
        for parallelism in [1, 2] {
            let job = start(env, Delayed { parallelism }).await;
            let input: Input<u64> = job.input("in");
            let mut out = job.output::<(u64, u64)>("out");
            for n in 0..10 {
                input.send(n).await.unwrap();
                // The input stays open.
                assert_eq!(deadline("the timer's result", out.next()).await.unwrap(), Some((n, n)));
            }
            input.finish().await.unwrap();
            assert_eq!(deadline("the end", out.next()).await.unwrap(), None);
            let _ = ended(&job).await;
        }
    });
}

job!(Stamped {}, |job, flow| {
    // The times of all items of the key are its state, with that of a timer behind each.
    let process = flow.from_batch(0..100u32).key_by(|_| 0u8).process(|ctx, _, _, stamps: &mut Vec<Timestamp>| {
        stamps.push(ctx.now());
        ctx.fire_at(ctx.now() - LONG);
        Ok(())
    });
    let process = process.on_timer(|ctx, _, at, stamps| {
        assert!(at + LONG <= ctx.now(), "it was set for a time that was past");
        stamps.push(ctx.now());
        Ok(())
    });
    let process = process.on_end(|ctx, _, stamps| {
        ctx.emit(std::mem::take(stamps));
        Ok(())
    });
    process.stream().collect("out");
});

#[test]
fn times_of_a_process_are_those_of_the_machine_and_never_go_back() {
    each_environment(async |env| {
        let before = Timestamp::from(SystemTime::now());
        let out: Vec<Vec<Timestamp>> = output_of(env, Stamped {}).await;
        let after = Timestamp::from(SystemTime::now());
        let [stamps] = &out[..] else { panic!("one key, but {out:?}") };
        assert!(stamps.len() > 100, "timers fired too");
        assert!(stamps.is_sorted(), "{stamps:?}");
        assert!(before <= stamps[0] && stamps[stamps.len() - 1] <= after, "{before} {stamps:?} {after}");
    });
}

job!(Patient {}, |job, flow| {
    let waiting = flow.from_channel::<u64>("in").key_by(|n| *n).process(|ctx, _, n, _: &mut ()| {
        ctx.fire_after(LONG);
        ctx.emit(n);
        Ok(())
    });
    waiting.stream().stream_out("out");
});

#[test]
fn a_task_that_waits_for_a_timer_says_so() {
    each_environment(async |env| {
        let job = start(env, Patient {}).await;
        job.input("in").send(1u64).await.unwrap();
        assert_eq!(deadline("the item", job.output::<u64>("out").next()).await.unwrap(), Some(1));
        let said = "waits for calls or timers of its own, or for further items";
        // The item comes out a moment before its task is at rest.
        let explained = async {
            while !job.explain().await.unwrap().waits.iter().any(|wait| wait.contains(said)) {
                tokio::task::yield_now().await;
            }
        };
        deadline("the explanation", explained).await;
        cancel(&job).await.unwrap();
    });
}

job!(Past {}, |job, flow| {
    let process = flow.from_batch(0..1000u32).key_by(|_| 0u8).process(|ctx, _, n, last: &mut u32| {
        *last = n;
        ctx.emit((n, false));
        let now = ctx.now();
        ctx.fire_at(now);
        ctx.fire_at(now);
        Ok(())
    });
    process
        .on_timer(|ctx, _, _, last| {
            ctx.emit((*last, true));
            Ok(())
        })
        .stream()
        .collect("out");
});

#[test]
fn a_timer_in_the_past_fires_when_the_item_in_hand_is_done() {
    each_environment(async |env| {
        let out: Vec<(u32, bool)> = output_of(env, Past {}).await;
        assert_eq!(out, (0..1000).flat_map(|n| [(n, false), (n, true)]).collect::<Vec<_>>());
    });
}

job!(ChainOfTimers { times: u32 }, |job, flow| {
    let times = job.times;
    let process = flow.from_channel::<u32>("in").key_by(|n| *n).process(|ctx, _, _, _: &mut u32| {
        let now = ctx.now();
        ctx.fire_at(now);
        Ok(())
    });
    let process = process.on_timer(move |ctx, key, _, count| {
        *count += 1;
        if *count < times {
            let now = ctx.now();
            ctx.fire_at(now);
        } else {
            ctx.emit((*key, *count));
        }
        Ok(())
    });
    process.stream().stream_out("out");
});

#[test]
fn timers_that_set_timers_let_items_pass() {
    each_environment(async |env| {
        let job = start(env, ChainOfTimers { times: 20_000 }).await;
        let input: Input<u32> = job.input("in");
        input.send_all(0..3).await.unwrap();
        let mut out = job.output::<(u32, u32)>("out");
        let mut keys = BTreeSet::new();
        for _ in 0..3 {
            let (key, count) = deadline("a result", out.next()).await.unwrap().unwrap();
            assert_eq!(count, 20_000);
            keys.insert(key);
        }
        assert_eq!(keys, (0..3).collect());
        input.finish().await.unwrap();
        let _ = ended(&job).await;
    });
}

job!(AtTheEnd {}, |job, flow| {
    let process = flow.from_batch([3u64, 1, 2, 9]).key_by(|n| *n).parallelism(1);
    let process = process.process(|ctx, _, n, _: &mut u64| {
        let start = ctx.now() + LONG;
        match n {
            // Cancelled by itself, and set again for later.
            3 => {
                ctx.fire_at(start);
                ctx.cancel_timers();
                ctx.fire_at(start + 5 * LONG);
            }
            9 => {
                ctx.fire_at(start);
                ctx.cancel_timers();
            }
            n => {
                ctx.fire_at(start + LONG * n as u32);
                ctx.fire_at(start + 10 * LONG * n as u32);
            }
        }
        Ok(())
    });
    let process = process.on_timer(|ctx, key, at, count| {
        assert!(at > ctx.now());
        *count += 1;
        ctx.fire_after(Duration::ZERO);
        ctx.emit((*key, *count, false));
        Ok(())
    });
    let process = process.on_end(|ctx, key, count| {
        ctx.fire_after(Duration::ZERO);
        ctx.emit((*key, *count, true));
        Ok(())
    });
    process.stream().collect("out");
});

#[test]
fn at_the_end_timers_fire_in_order_and_then_keys_end() {
    each_environment(async |env| {
        let out: Vec<(u64, u64, bool)> = output_of(env, AtTheEnd {}).await;
        assert_eq!(out[..5], [(1, 1, false), (2, 1, false), (3, 1, false), (1, 2, false), (2, 2, false)]);
        assert_eq!(sorted(out[5..].to_vec()), [(1, 2, true), (2, 2, true), (3, 1, true), (9, 0, true)]);
    });
}

job!(PausedTimers {}, |job, flow| {
    let process = flow.from_channel::<u64>("in").key_by(|n| *n).process(|ctx, key, _, _: &mut u64| {
        ctx.fire_after(Duration::from_millis(1));
        ctx.emit((*key, false));
        Ok(())
    });
    process
        .on_timer(|ctx, key, _, _| {
            ctx.emit((*key, true));
            Ok(())
        })
        .stream()
        .stream_out("out");
});

#[test]
fn timers_wait_while_the_job_is_paused() {
    each_environment(async |env| {
        let job = start(env, PausedTimers {}).await;
        let input: Input<u64> = job.input("in");
        let mut out = job.output::<(u64, bool)>("out");
        for n in 0..20 {
            input.send(n).await.unwrap();
            assert_eq!(deadline("the item", out.next()).await.unwrap(), Some((n, false)));
            job.pause().await.unwrap();
            reached(&job, JobState::Paused).await;
            // Whether the timer fired before the pause or after it, it fires once.
            job.resume().await.unwrap();
            assert_eq!(deadline("the timer", out.next()).await.unwrap(), Some((n, true)));
        }
        input.finish().await.unwrap();
        assert_eq!(deadline("the end", out.next()).await.unwrap(), None);
        let _ = ended(&job).await;
    });
}

job!(Restless {}, |job, flow| {
    let process = flow.from_channel::<u64>("in").key_by(|_| ()).process(|ctx, (), _, _: &mut u64| {
        ctx.fire_after(Duration::ZERO);
        Ok(())
    });
    let process = process.on_timer(|ctx, (), _, _| {
        ctx.emit(0u64);
        ctx.fire_after(Duration::ZERO);
        Ok(())
    });
    process.stream().rebalance(1).filter(|_| false).collect("out");
});

/// How many results the timers have made.
async fn made(job: &JobHandle) -> u64 {
    let tasks = job.status().await.unwrap().tasks;
    tasks.iter().filter(|task| task.name.contains("process")).map(|task| task.counters.items_out).sum()
}

/// Asks until the timers have made more than `results`.
async fn more_made(job: &JobHandle, results: u64) {
    deadline("timers that fire", async { while made(job).await <= results {} }).await;
}

#[test]
fn no_timer_fires_between_pause_and_resume() {
    each_environment(async |env| {
        let job = start(env, Restless {}).await;
        let input: Input<u64> = job.input("in");
        input.send(0).await.unwrap();
        more_made(&job, 100).await;
        job.pause().await.unwrap();
        reached(&job, JobState::Paused).await;
        let paused = made(&job).await;
        for _ in 0..50 {
            assert_eq!(made(&job).await, paused);
        }
        job.resume().await.unwrap();
        more_made(&job, paused).await;
        input.finish().await.unwrap();
        assert!(ended(&job).await.is_completed(), "timers that set timers do not keep the end from coming");
    });
}

/// Tells when it is dropped.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Traced;

static DROPPED: LazyLock<(Sender<()>, Mutex<Receiver<()>>)> = LazyLock::new(|| {
    let (sender, receiver) = channel();
    (sender, Mutex::new(receiver))
});

impl Drop for Traced {
    fn drop(&mut self) {
        DROPPED.0.send(()).expect("the receiver lives for ever");
    }
}

#[test]
fn memory_of_an_expired_key_is_released_although_nothing_comes_in() {
    let env = LocalEnvironment::new("expiring");
    let job = env.submit(job_fn("expiring", |flow| {
        let keyed = flow.from_channel::<u64>("in").key_by(|n| *n);
        let process = keyed.process(|ctx, _, n, _: &mut Traced| {
            ctx.emit(n);
            Ok(())
        });
        process.time_to_live(Duration::from_millis(1)).stream().collect("out");
        Ok(())
    }));
    let job = job.autostop(true).blocking().unwrap();
    let input: Input<u64> = job.input("in");
    let dropped = DROPPED.1.lock().unwrap();
    for n in 0..10 {
        block_on(async { input.send(n).await }).unwrap();
        // The input stays open, and the next item is of another key.
        dropped.recv_timeout(DEADLINE).expect("the state is dropped");
    }
    block_on(cancel(&job)).unwrap();
}
