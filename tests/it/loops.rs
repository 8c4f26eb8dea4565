//! Feedback: streams that come round again, loops that end once they are quiet, and those that never are.

use std::{collections::BTreeMap, time::Duration};

use proptest::{prelude::*, test_runner::TestRunner};
use proscenium::{BuildRefusal, FailureCause, Job, JobHandle, JobState, LocalEnvironment, Outcome, TaskError, job_fn};

use crate::support::{
    Counter, DEADLINE, Increment, Journal, Pen, block_on, cancel, completed, deadline, each_environment,
    each_environment_with, ended, job, output_of, reached, read, refusal, registered, sorted, start,
};

registered![
    UpToNine,
    TwoFutures,
    Forward,
    ManyTrips,
    Collatz,
    Nested,
    ByKey,
    Calls,
    Empty,
    Fresh,
    Turning,
    NeverEmpty,
    Rounds,
    Grows,
    Late,
    Takes,
    NoExit,
    FailsInLoop,
    Components
];

job!(UpToNine {}, |this, flow| {
    let (again, future) = flow.from_future::<u32>("again");
    let (seen, back) = flow.from_batch([0u32]).union(again).map(|n| n + 1).filter(|n| *n < 10).tee();
    back.fill_future(&future);
    seen.collect("out");
});

#[test]
fn what_is_fed_back_comes_round_until_it_is_quiet() {
    each_environment(async |env| {
        let out: Vec<u32> = output_of(env, UpToNine {}).await;
        assert_eq!(out, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    });
}

// One sends even numbers down the other's way, and back.
job!(TwoFutures {}, |this, flow| {
    let (halves, to_halves) = flow.from_future::<u32>("halves");
    let (thirds, to_thirds) = flow.from_future::<u32>("thirds");
    let (by_two, other) = flow.from_batch([36u32]).union(halves).split(|n| n % 2 == 0);
    let (by_three, done) = other.union(thirds).split(|n| n % 3 == 0);
    by_three.map(|n| n / 3).fill_future(&to_thirds);
    by_two.map(|n| n / 2).fill_future(&to_halves);
    done.collect("out");
});

#[test]
fn two_futures_filled_in_reverse_order_are_both_right() {
    each_environment(async |env| {
        let out: Vec<u32> = output_of(env, TwoFutures {}).await;
        assert_eq!(out, [1]);
    });
}

// Nothing goes round: the future is filled by a stream that does not come from it.
job!(Forward { parallelism: usize }, |job, flow| {
    let (later, future) = flow.from_future_with::<u64>("later", job.parallelism);
    later.map(|n| n + 1).collect("out");
    flow.from_batch(0..1000u64).rebalance(job.parallelism).fill_future(&future);
});

#[test]
fn a_future_filled_from_elsewhere_ends_like_any_stream() {
    each_environment(async |env| {
        for parallelism in [1, 3] {
            let out: Vec<u64> = output_of(env, Forward { parallelism }).await;
            assert_eq!(sorted(out), (1..=1000).collect::<Vec<_>>());
        }
    });
}

job!(ManyTrips { trips: u64, tasks: bool }, |job, flow| {
    let (trips, tasks) = (job.trips, job.tasks);
    flow.from_batch([0u64])
        .iterate("trips", |items| {
            // With an exchange in the body there are two tasks, and each trip is two hand-overs.
            let items = if tasks { items.gather() } else { items };
            let (done, going) = items.split(move |n| *n == trips);
            (going.map(|n| n + 1), done)
        })
        .collect("out");
});

#[test]
fn a_loop_of_a_million_trips_ends_when_it_is_quiet() {
    each_environment(async |env| {
        for (trips, tasks) in [(1_000_000, false), (20_000, true)] {
            let out: Vec<u64> = output_of(env, ManyTrips { trips, tasks }).await;
            assert_eq!(out, [trips]);
        }
    });
}

job!(Collatz { to: u64, parallelism: usize }, |job, flow| {
    flow.from_batch(1..=job.to)
        .map(|n| (n, n, 0u32))
        .rebalance(job.parallelism)
        .iterate("collatz", |numbers| {
            let (done, going) = numbers.split(|(_, n, _)| *n == 1);
            (going.map(|(from, n, steps)| (from, if n.is_multiple_of(2) { n / 2 } else { 3 * n + 1 }, steps + 1)), done)
        })
        .map(|(from, _, steps)| (from, steps))
        .collect("out");
});

fn collatz(mut n: u64) -> u32 {
    let mut steps = 0;
    while n != 1 {
        n = if n.is_multiple_of(2) { n / 2 } else { 3 * n + 1 };
        steps += 1;
    }
    steps
}

#[test]
fn every_item_goes_round_as_often_as_it_must() {
    each_environment(async |env| {
        for (to, parallelism) in [(3_000, 1), (3_000, 3), (0, 2)] {
            let out: Vec<(u64, u32)> = output_of(env, Collatz { to, parallelism }).await;
            assert_eq!(sorted(out), (1..=to).map(|n| (n, collatz(n))).collect::<Vec<_>>());
        }
    });
}

// Counts down from each number, in an inner loop, as often as an outer loop says.
job!(Nested { to: u32 }, |job, flow| {
    flow.from_batch((1..=job.to).map(|n| (n, n, 0u32)))
        .iterate("outer", |rounds| {
            let counted = rounds.map(|(n, left, sum)| (n, left, n, sum)).iterate("inner", |steps| {
                let (done, going) = steps.split(|(_, _, step, _)| *step == 0);
                (going.map(|(n, left, step, sum)| (n, left, step - 1, sum + 1)), done)
            });
            let (done, going) = counted.map(|(n, left, _, sum)| (n, left - 1, sum)).split(|(_, left, _)| *left == 0);
            (going, done)
        })
        .map(|(n, _, sum)| (n, sum))
        .collect("out");
});

#[test]
fn a_loop_within_a_loop_ends_with_it() {
    each_environment(async |env| {
        let out: Vec<(u32, u32)> = output_of(env, Nested { to: 20 }).await;
        assert_eq!(sorted(out), (1..=20).map(|n| (n, n * n)).collect::<Vec<_>>());
    });
}

// Each item goes to the instance of its key, and takes one from the number of the next key.
job!(ByKey { keys: u32, parallelism: usize }, |job, flow| {
    let (keys, parallelism) = (job.keys, job.parallelism);
    flow.from_batch((0..job.keys).map(|key| (key, key * 3)))
        .rebalance(parallelism)
        .iterate("keys", |items| {
            let counted = items.key_by(|(key, _)| *key).parallelism(parallelism).map_with_state(
                0u32,
                |key, visits, (_, left)| {
                    *visits += 1;
                    (*key, left, *visits)
                },
            );
            let (back, out) = counted.tee();
            let going = back.filter(|(_, left, _)| *left > 0).map(move |(key, left, _)| ((key + 1) % keys, left - 1));
            (going, out)
        })
        .map(|(key, _, visits)| (key, visits))
        .key_by(|(key, _)| *key)
        .fold(0, |most: &mut u32, (_, visits)| *most = (*most).max(visits))
        .collect("out");
});

#[test]
fn a_loop_goes_through_exchanges_and_state() {
    each_environment(async |env| {
        let keys = 12;
        let mut visits = vec![0; keys as usize];
        for start in 0..keys {
            for trip in 0..=start * 3 {
                visits[((start + trip) % keys) as usize] += 1;
            }
        }
        for parallelism in [1, 2, 4] {
            let out: Vec<(u32, u32)> = output_of(env, ByKey { keys, parallelism }).await;
            assert_eq!(sorted(out), (0..keys).zip(visits.clone()).collect::<Vec<_>>());
        }
    });
}

job!(Calls { to: u64 }, |job, flow| {
    let to = job.to;
    let pen = Journal::new().pen();
    flow.register_service("counter", move || Counter::new("counter", &pen));
    flow.from_batch([(); 3])
        .map(|()| 0)
        .iterate("calls", |numbers| {
            let counted = numbers
                .map_async(2, async |ctx, _: u64| Ok(ctx.service::<Counter>("counter")?.call(Increment).await?));
            let (back, out) = counted.tee();
            (back.filter(move |n| *n + 2 < to), out)
        })
        .collect("out");
});

#[test]
fn a_call_in_flight_keeps_a_loop_from_being_quiet() {
    each_environment(async |env| {
        let out: Vec<u64> = output_of(env, Calls { to: 200 }).await;
        assert_eq!(sorted(out), (1..=200).collect::<Vec<_>>());
    });
}

job!(Empty {}, |this, flow| {
    let (again, future) = flow.from_future::<u32>("again");
    let (back, out) = again.tee();
    back.fill_future(&future);
    out.collect("out");
    flow.from_batch(Vec::<u32>::new()).iterate("nothing", |items| items.tee()).collect("nothing");
});

#[test]
fn a_loop_that_nothing_enters_ends() {
    each_environment(async |env| {
        let job = completed(env, Empty {}).await;
        assert!(read::<u32>(&job, "out").await.is_empty());
        assert!(read::<u32>(&job, "nothing").await.is_empty());
    });
}

// A hundred times as many items as may wait to go round, each of which goes round three times.
job!(Fresh { items: u64 }, |job, flow| {
    flow.from_batch((0..job.items).map(|n| (n, 0u8)))
        .iterate("rounds", |items| {
            let (done, going) = items.map(|(n, rounds)| (n, rounds + 1)).split(|(_, rounds)| *rounds == 4);
            (going, done)
        })
        .map(|(n, _)| n)
        .sum()
        .collect("out");
});

#[test]
fn what_is_in_a_loop_goes_before_what_enters_it() {
    let limits = proscenium::Limits { loop_items_max: 20_000, ..proscenium::Limits::default() };
    each_environment_with(&limits, async |env| {
        let out: Vec<u64> = output_of(env, Fresh { items: 2_000_000 }).await;
        assert_eq!(out, [2_000_000 * 1_999_999 / 2]);
    });
}

job!(Turning {}, |this, flow| {
    let rounds = flow.from_batch([0u64]).iterate("endless", |items| items.map(|n| n + 1).tee());
    let (rounds, rest) = rounds.tee();
    rounds.filter(|n| n % 1_000 == 0).take(3).stream_out("out");
    rest.for_each(|_| {});
});

job!(Rounds {}, |this, flow| {
    flow.from_channel::<u64>("in")
        .iterate("rounds", |items| {
            let (done, going) = items.split(|n| *n == 0);
            (going.map(|n| n - 1), done)
        })
        .collect("out");
});

/// Waits until some thousand items have gone round.
async fn turns(job: &JobHandle) {
    let mut out = job.output::<u64>("out");
    for expected in [1_000, 2_000, 3_000] {
        let item = deadline("an item comes out", out.next()).await.expect("the output is there");
        assert_eq!(item, Some(expected));
    }
}

#[test]
fn a_loop_that_is_never_quiet_is_cut_when_the_job_is_stopped() {
    let limits = proscenium::Limits { loop_drain_deadline: Duration::ZERO, ..proscenium::Limits::default() };
    each_environment_with(&limits, async |env| {
        let job = start(env, Turning {}).await;
        turns(&job).await;
        job.stop().await.expect("the job can be stopped");
        assert_eq!(ended(&job).await, Outcome::Stopped);
    });
}

#[test]
fn a_loop_that_is_never_quiet_can_be_cancelled_and_paused() {
    each_environment(async |env| {
        let job = start(env, Turning {}).await;
        turns(&job).await;
        job.pause().await.expect("the job can be paused");
        reached(&job, JobState::Paused).await;
        job.resume().await.expect("the job can be resumed");
        reached(&job, JobState::Running).await;
        cancel(&job).await.expect("the job can be cancelled");
        assert!(matches!(ended(&job).await, Outcome::Cancelled { .. }));
    });
}

#[test]
fn stop_lets_a_loop_go_quiet() {
    each_environment(async |env| {
        let job = start(env, Rounds {}).await;
        let input = job.input::<u64>("in");
        for rounds in [3, 10_000, 0] {
            deadline("an item is accepted", input.send(rounds)).await.expect("the input takes items");
        }
        job.stop().await.expect("the job can be stopped");
        assert_eq!(ended(&job).await, Outcome::Stopped);
        assert_eq!(read::<u64>(&job, "out").await, [0, 0, 0]);
    });
}

// More goes round than two batches hold, so that there is always one that waits.
job!(NeverEmpty {}, |this, flow| {
    let rounds = flow.from_channel::<u64>("in").flat_map(|n| n..n + 10_000).iterate("full", |items| items.tee());
    let (rounds, rest) = rounds.tee();
    rounds.take(1).stream_out("out");
    rest.for_each(|_| {});
});

/// What went round went before the mark of the hold, and a loop that was never empty was never paused.
#[test]
fn a_loop_that_is_never_empty_is_paused() {
    each_environment(async |env| {
        let job = start(env, NeverEmpty {}).await;
        deadline("an item is accepted", job.input("in").send(0u64)).await.expect("the input takes items");
        let first = deadline("an item comes out", job.output::<u64>("out").next()).await;
        assert_eq!(first.expect("the output is there"), Some(0));
        for _ in 0..3 {
            job.pause().await.expect("the job can be paused");
            reached(&job, JobState::Paused).await;
            job.resume().await.expect("the job can be resumed");
        }
        cancel(&job).await.expect("the job can be cancelled");
    });
}

job!(Grows {}, |this, flow| {
    flow.from_batch([0u64]).iterate("doubling", |items| items.flat_map(|n| [n, n + 1]).tee()).for_each(|_| {});
});

#[test]
fn a_loop_that_outgrows_its_limit_fails_by_name() {
    let limits = proscenium::Limits { loop_items_max: 10_000, ..proscenium::Limits::default() };
    each_environment_with(&limits, async |env| {
        let outcome = ended(&start(env, Grows {}).await).await;
        let cause = FailureCause::LoopTooLarge { future: "doubling".into(), limit_items: 10_000 };
        assert_eq!(outcome, Outcome::Failed(cause));
        assert_eq!(outcome.to_string(), "failed: more than 10000 items wait to go round in the loop `doubling`");
    });
}

job!(Late {}, |this, flow| {
    let rounds = flow.from_batch([3u64, 4]).iterate("sum", |items| {
        let (back, out) = items.tee();
        (back.sum(), out)
    });
    rounds.for_each(|_| {});
});

#[test]
fn what_comes_out_at_the_end_cannot_go_round() {
    each_environment(async |env| {
        let outcome = ended(&start(env, Late {}).await).await;
        let cause = FailureCause::LoopEnded { future: "sum".into(), items: 1 };
        assert_eq!(outcome, Outcome::Failed(cause));
    });
}

// It would go on for ever, and nobody wants more of what leaves it than three items.
job!(Takes { parallelism: usize }, |job, flow| {
    let parallelism = job.parallelism;
    flow.from_batch([0u64])
        .rebalance(parallelism)
        .iterate("numbers", |items| {
            // Round by way of other tasks, too.
            let items = if parallelism > 1 { items.rebalance(parallelism) } else { items };
            let (back, out) = items.tee();
            (back.map(|n| n + 1), out)
        })
        .take(3)
        .collect("out");
});

#[test]
fn a_loop_that_nobody_wants_more_of_ends() {
    each_environment(async |env| {
        for parallelism in [1, 3] {
            // Behind parallel instances it is any three.
            let out = sorted(output_of::<u64>(env, Takes { parallelism }).await);
            assert!(out.is_sorted_by(|a, b| a < b) && out.len() == 3, "{out:?}");
            assert!(parallelism > 1 || out == [0, 1, 2]);
        }
    });
}

// Nothing ever leaves it: it goes round for what its closures do.
job!(NoExit { pen: Pen }, |job, flow| {
    let pen = job.pen.clone();
    let (again, future) = flow.from_future::<u32>("retry");
    flow.from_batch(1..=3u32)
        .union(again)
        .inspect(move |tries| pen.write(tries))
        .map(|tries| tries - 1)
        .filter(|tries| *tries > 0)
        .fill_future(&future);
});

#[test]
fn a_loop_that_nothing_leaves_goes_round_until_it_is_quiet() {
    each_environment(async |env| {
        let journal = Journal::new();
        completed(env, NoExit { pen: journal.pen() }).await;
        assert_eq!(sorted(journal.lines()), ["1", "1", "1", "2", "2", "3"]);
    });
}

job!(FailsInLoop {}, |this, flow| {
    flow.from_batch([0u64])
        .iterate("fails", |items| {
            let next = items.try_map(|n| if n == 7 { Err(TaskError::new("seven")) } else { Ok(n + 1) });
            next.tee()
        })
        .collect("out");
});

#[test]
fn an_error_in_a_loop_fails_the_job() {
    each_environment(async |env| {
        let outcome = ended(&start(env, FailsInLoop {}).await).await;
        let text = "failed: operator `try_map` (instance 0) failed at item 8: seven";
        assert_eq!(outcome.to_string(), text);
    });
}

#[test]
fn futures_that_are_not_filled_once_are_refused_by_name() {
    block_on(async {
        let env = LocalEnvironment::new("test");
        let never = job_fn("never", |flow| {
            let (stream, _) = flow.from_future::<u32>("again");
            stream.for_each(|_| {});
            Ok(())
        });
        let refused = refusal(&env, never).await;
        assert_eq!(refused, BuildRefusal::UnfilledFuture { future: "again".into() });
        let text = "nothing fills the future `again`; end a stream in it with `fill_future`";
        assert_eq!(refused.to_string(), text);
        let twice = job_fn("twice", |flow| {
            let (stream, future) = flow.from_future::<u32>("again");
            let (a, b) = stream.tee();
            a.fill_future(&future);
            b.fill_future(&future);
            Ok(())
        });
        let refused = refusal(&env, twice).await;
        assert_eq!(refused, BuildRefusal::FutureFilledTwice { future: "again".into() });
        let unread = job_fn("unread", |flow| {
            let (_stream, future) = flow.from_future::<u32>("again");
            flow.from_batch([1u32]).fill_future(&future);
            Ok(())
        });
        assert_eq!(refusal(&env, unread).await, BuildRefusal::Unconsumed { operator: "from_future".into() });
    });
}

#[test]
fn futures_that_do_not_fit_are_refused() {
    block_on(async {
        let env = LocalEnvironment::new("test");
        let same = job_fn("same", |flow| {
            for _ in 0..2 {
                flow.from_batch([1u32]).iterate("rounds", |items| items.tee()).for_each(|_| {});
            }
            Ok(())
        });
        assert_eq!(refusal(&env, same).await, BuildRefusal::DuplicateFuture { future: "rounds".into() });
        let none = job_fn("none", |flow| {
            let (stream, future) = flow.from_future_with::<u32>("again", 0);
            stream.fill_future(&future);
            Ok(())
        });
        assert_eq!(refusal(&env, none).await, BuildRefusal::ZeroParallelism { operator: "from_future".into() });
    });
}

// Connected components: each node takes the least label that it hears of, and tells its neighbours of a new one.
job!(Components { edges: Vec<(u8, u8)>, parallelism: usize }, |job, flow| {
    let edges = job.edges.clone();
    let parallelism = job.parallelism;
    let nodes: Vec<u8> = edges.iter().flat_map(|(a, b)| [*a, *b]).collect();
    flow.from_batch(nodes.into_iter().map(|node| (node, node)))
        .rebalance(parallelism)
        .iterate("labels", |heard| {
            let news = heard.key_by(|(node, _)| *node).parallelism(parallelism).map_with_state(
                u8::MAX,
                |node, label, (_, heard)| (heard < *label).then(|| {
                    *label = heard;
                    (*node, heard)
                }),
            );
            let (back, out) = news.filter_map(|news| news).tee();
            let tell = back.flat_map_into(move |(node, label), told| {
                for (a, b) in &edges {
                    if *a == node {
                        told.push((*b, label));
                    }
                    if *b == node {
                        told.push((*a, label));
                    }
                }
            });
            (tell, out)
        })
        .key_by(|(node, _)| *node)
        .fold(u8::MAX, |least: &mut u8, (_, label)| *least = (*least).min(label))
        .collect("out");
});

fn components(edges: &[(u8, u8)]) -> BTreeMap<u8, u8> {
    let mut labels: BTreeMap<u8, u8> = edges.iter().flat_map(|(a, b)| [(*a, *a), (*b, *b)]).collect();
    loop {
        let before = labels.clone();
        for (a, b) in edges {
            let least = labels[a].min(labels[b]);
            labels.insert(*a, least);
            labels.insert(*b, least);
        }
        if labels == before {
            return labels;
        }
    }
}

#[test]
fn components_of_random_graphs_are_found() {
    let env = LocalEnvironment::new("test");
    let mut runner =
        TestRunner::new(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() });
    let graphs = (prop::collection::vec((0..40u8, 0..40u8), 0..60), 1..5usize);
    let result = runner.run(&graphs, |(edges, parallelism)| {
        let expected = components(&edges);
        let job = Components { edges, parallelism };
        let out: Vec<(u8, u8)> = block_on(async {
            let job = env.submit(job).autostop(true).await.expect("the flow is right");
            let outcome = tokio::time::timeout(DEADLINE, job.wait()).await.expect("the loop ends");
            assert_eq!(outcome.expect("the environment is there"), Outcome::Completed, "{}", Components::NAME);
            read(&job, "out").await
        });
        prop_assert_eq!(out.into_iter().collect::<BTreeMap<_, _>>(), expected);
        Ok(())
    });
    result.expect("every graph's components are right");
}
