//! What each operator makes of its items.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use proscenium::{ErrorPolicy, FailureCause, LineSink, Next, Outcome, ParallelRange, Source, TaskContext, TaskError};
use serde::{Deserialize, Serialize};

use crate::support::{
    Door, Doorway, Journal, JournalSink, Pen, Visitor, completed, each_environment, ended, job, output_of, read,
    registered, sorted, start,
};

job!(OneByOne {}, |job, flow| {
    let parsed = flow.from_batch(["1", "2", "x", "4"]).filter_map(|text: &str| text.parse::<u64>().ok());
    let (left, right) = parsed.tee();
    left.map(|n| n * 10).flat_map_into(|n, out| out.extend([n, n + 1])).collect("left");
    right.try_map(|n| n.checked_sub(1).ok_or_else(|| TaskError::new("zero"))).collect("right");
});

#[test]
fn one_stream_with_two_consumers_gives_each_every_item() {
    each_environment(async |env| {
        let job = completed(env, OneByOne {}).await;
        assert_eq!(read::<u64>(&job, "left").await, [10, 11, 20, 21, 40, 41]);
        assert_eq!(read::<u64>(&job, "right").await, [0, 1, 3]);
    });
}

job!(SkipsOdd { by_job: bool }, |job, flow| {
    let policy = if job.by_job { ErrorPolicy::Fail } else { ErrorPolicy::Skip };
    let only_even = |n: u64| if n.is_multiple_of(2) { Ok(n) } else { Err(TaskError::new(format!("{n} is odd"))) };
    let evens = flow.from_batch(0..10u64).try_map(only_even).on_error(policy).uid("only-even");
    evens.map(|n| if n == 8 { panic!("eight") } else { n }).uid("no-eight").collect("out");
});

#[test]
fn the_error_policy_of_an_operator_beats_that_of_the_job() {
    each_environment(async |env| {
        // The operator skips, the job fails.
        let job = start(env, SkipsOdd { by_job: false }).await;
        let cause = |operator: &str, position, message: &str| {
            let (operator, message) = (operator.to_owned(), message.to_owned());
            FailureCause::OperatorPanicked { operator, instance: 0, position, message }
        };
        assert_eq!(ended(&job).await, Outcome::Failed(cause("no-eight", 5, "eight")));
        assert_eq!(job.dead_letters().await.unwrap().total, 5);

        // The job skips, the operator fails.
        let job = env.submit(SkipsOdd { by_job: true }).autostop(true).error_policy(ErrorPolicy::Skip).await.unwrap();
        let (operator, message) = ("only-even".to_owned(), "1 is odd".to_owned());
        let expected = FailureCause::Operator { operator, instance: 0, position: 2, message };
        assert_eq!(ended(&job).await, Outcome::Failed(expected));
    });
}

job!(Union {}, |job, flow| {
    let ones = flow.from_batch(0..5u64);
    let hundreds = flow.from_batch(100..600u64);
    let none = flow.from_batch(Vec::<u64>::new());
    ones.union(hundreds).union(none).collect("out");
});

#[test]
fn a_union_has_all_items_of_each_side_in_the_order_of_that_side() {
    each_environment(async |env| {
        let out: Vec<u64> = output_of(env, Union {}).await;
        let (ones, hundreds): (Vec<u64>, Vec<u64>) = out.into_iter().partition(|n| *n < 100);
        assert_eq!(ones, (0..5).collect::<Vec<_>>());
        assert_eq!(hundreds, (100..600).collect::<Vec<_>>());
    });
}

job!(UnionWithItself {}, |job, flow| {
    let (left, right) = flow.from_batch(0..5u64).tee();
    left.union(right).collect("out");
});

#[test]
fn a_stream_united_with_itself_has_each_item_once_per_side() {
    each_environment(async |env| {
        let out: Vec<u64> = output_of(env, UnionWithItself {}).await;
        assert_eq!(sorted(out), [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]);
    });
}

/// 0, 1, 2, .. without end.
struct Naturals(u64);

impl Source for Naturals {
    type Item = u64;

    async fn next(&mut self, _: &TaskContext) -> Result<Next<u64>, TaskError> {
        self.0 += 1;
        Ok(Next::Item(self.0 - 1))
    }
}

job!(FirstOf { count: usize, instances: usize }, |job, flow| {
    let naturals = flow.from_source(Naturals(0));
    let naturals = if job.instances == 1 { naturals } else { naturals.rebalance(job.instances) };
    naturals.take(job.count).collect("out");
});

#[test]
fn take_ends_an_unbounded_source_and_the_job_completes() {
    each_environment(async |env| {
        for count in [0, 1, 1000, 3000] {
            let out: Vec<u64> = output_of(env, FirstOf { count, instances: 1 }).await;
            assert_eq!(out, (0..count as u64).collect::<Vec<_>>());
        }
        // Behind parallel instances any items will do.
        let out: Vec<u64> = output_of(env, FirstOf { count: 1000, instances: 3 }).await;
        assert_eq!(out.len(), 1000);
        assert_eq!(out.into_iter().collect::<BTreeSet<_>>().len(), 1000, "no item is taken twice");
    });
}

job!(TakeOnOneBranch {}, |job, flow| {
    let (some, all) = flow.from_batch(0..10_000u64).tee();
    some.take(3).collect("some");
    all.count().collect("all");
});

#[test]
fn take_on_one_branch_does_not_cut_the_other_short() {
    each_environment(async |env| {
        let job = completed(env, TakeOnOneBranch {}).await;
        assert_eq!(read::<u64>(&job, "some").await, [0, 1, 2]);
        assert_eq!(read::<u64>(&job, "all").await, [10_000]);
    });
}

/// Which asynchronous operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Way {
    Map,
    MapUnordered,
    Filter,
    ForEach,
}

job!(Asynchronous { way: Way, limit: usize, way_in: Doorway, way_out: Doorway, pen: Pen }, |job, flow| {
    let (limit, way_in, way_out, pen) = (job.limit, job.way_in.clone(), job.way_out.clone(), job.pen.clone());
    let numbers = flow.from_batch(0..8u64);
    let in_flight = Arc::new(AtomicUsize::new(0));
    let call = async move |n: u64| {
        let now = in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        pen.write(format_args!("in flight {now}"));
        way_in.pass(n).await;
        in_flight.fetch_sub(1, Ordering::SeqCst);
        way_out.pass(n).await;
        n
    };
    match job.way {
        Way::Map => numbers.map_async(limit, async move |_, n| Ok(call(n).await)).collect("out"),
        Way::MapUnordered => numbers.map_async_unordered(limit, async move |_, n| Ok(call(n).await)).collect("out"),
        Way::Filter => numbers.filter_async(limit, async move |_, n: &u64| Ok(call(*n).await % 2 == 0)).collect("out"),
        Way::ForEach => {
            let (pen, call) = (job.pen.clone(), call);
            numbers.for_each_async(limit, async move |_, n| {
                pen.write(call(n).await);
                Ok(())
            });
        }
    }
});

#[test]
fn asynchronous_operators_have_at_most_the_limit_in_flight_and_start_in_order() {
    each_environment(async |env| {
        for way in [Way::Map, Way::MapUnordered, Way::Filter, Way::ForEach] {
            let (door, passed, journal) = (Door::new().await, Door::new().await, Journal::new());
            let (way_in, way_out) = (door.way(), passed.way());
            let job = start(env, Asynchronous { way, limit: 3, way_in, way_out, pen: journal.pen() }).await;
            for round in [vec!["0", "1", "2"], vec!["3", "4", "5"], vec!["6", "7"]] {
                let mut waiting = door.arrivals(round.len()).await;
                waiting.sort_by_key(|visitor| visitor.name().to_owned());
                assert_eq!(waiting.iter().map(Visitor::name).collect::<Vec<_>>(), round, "{way:?}");
                // The last one leaves first, and is through before the next one leaves.
                while let Some(visitor) = waiting.pop() {
                    let name = visitor.name().to_owned();
                    visitor.admit();
                    passed.arrival_of(&name).await.admit();
                }
            }
            assert_eq!(ended(&job).await, Outcome::Completed, "{way:?}");
            let most =
                journal.lines().into_iter().filter_map(|line| line.strip_prefix("in flight ")?.parse().ok()).max();
            assert_eq!(most, Some(3), "{way:?}");
            match way {
                Way::Map => assert_eq!(read::<u64>(&job, "out").await, [0, 1, 2, 3, 4, 5, 6, 7]),
                Way::Filter => assert_eq!(read::<u64>(&job, "out").await, [0, 2, 4, 6]),
                Way::MapUnordered => {
                    let out = read::<u64>(&job, "out").await;
                    assert!(!out.is_sorted(), "results come as they are done: {out:?}");
                    assert_eq!(sorted(out), [0, 1, 2, 3, 4, 5, 6, 7]);
                }
                Way::ForEach => {
                    let done = journal.lines().into_iter().filter(|line| line.parse::<u64>().is_ok());
                    assert_eq!(sorted(done), ["0", "1", "2", "3", "4", "5", "6", "7"]);
                }
            }
        }
    });
}

job!(Aggregates { items: u64 }, |job, flow| {
    let numbers = || ParallelRange::new(0..job.items);
    flow.from_batch(numbers()).count().collect("count");
    flow.from_batch(numbers()).sum().collect("sum");
    flow.from_batch(numbers()).reduce(|most, n| *most = n.max(*most)).collect("reduce");
    flow.from_batch(numbers()).fold(Vec::new(), |all: &mut Vec<u64>, n| all.push(n)).collect("fold");
    let longest = |longest: &mut usize, n: u64| *longest = n.to_string().len().max(*longest);
    let longer = |longest: &mut usize, other: usize| *longest = other.max(*longest);
    flow.from_batch(numbers()).fold_assoc(0, longest, longer).collect("fold_assoc");
});

#[test]
fn unkeyed_aggregates_give_one_result_whatever_the_parallelism_and_also_for_no_items() {
    each_environment(async |env| {
        for (items, parallelism) in [(0, 1), (0, 4), (3, 4), (5000, 1), (5000, 4)] {
            let job = env.submit(Aggregates { items }).autostop(true).parallelism(parallelism).await.unwrap();
            assert_eq!(ended(&job).await, Outcome::Completed);
            assert_eq!(read::<u64>(&job, "count").await, [items]);
            assert_eq!(read::<u64>(&job, "sum").await, [(0..items).sum::<u64>()]);
            assert_eq!(read::<u64>(&job, "reduce").await, (0..items).max().into_iter().collect::<Vec<_>>());
            let folded: Vec<Vec<u64>> = read(&job, "fold").await;
            assert_eq!(folded.len(), 1);
            assert_eq!(sorted(folded.into_iter().flatten()), (0..items).collect::<Vec<_>>());
            let longest = (0..items).map(|n| n.to_string().len()).max().unwrap_or(0);
            assert_eq!(read::<usize>(&job, "fold_assoc").await, [longest]);
        }
    });
}

job!(WriteLines { path: std::path::PathBuf }, |job, flow| {
    let path = job.path.clone();
    flow.from_batch(["one", "two", "Äther"]).sink(move || LineSink::create(&path));
});

#[test]
fn a_text_file_sink_has_written_every_line_when_the_job_has_completed() {
    each_environment(async |env| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lines");
        completed(env, WriteLines { path: path.clone() }).await;
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\ntwo\nÄther\n");
    });
}

#[test]
fn a_text_file_sink_that_cannot_write_fails_the_job_with_the_path() {
    each_environment(async |env| {
        let path = std::path::PathBuf::from("/nonexistent/directory/lines");
        let job = start(env, WriteLines { path }).await;
        match ended(&job).await {
            Outcome::Failed(FailureCause::Operator { operator, position: 0, message, .. }) => {
                assert_eq!(operator, "sink");
                assert!(message.contains("/nonexistent/directory/lines"), "{message}");
            }
            other => panic!("not failed by the sink but {other:?}"),
        }
    });
}

/// What a sink's hook returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Hook {
    Open,
    Flush,
    Close,
}

struct FailingHook {
    hook: Hook,
    panics: bool,
    journal: JournalSink<u64>,
}

impl FailingHook {
    fn strike(&self, hook: Hook) -> Result<(), TaskError> {
        match (hook == self.hook, self.panics) {
            (false, _) => Ok(()),
            (true, false) => Err(TaskError::new("the hook fails")),
            (true, true) => panic!("the hook fails"),
        }
    }
}

impl proscenium::Sink for FailingHook {
    type Item = u64;

    async fn open(&mut self, ctx: &TaskContext) -> Result<(), TaskError> {
        self.strike(Hook::Open)?;
        self.journal.open(ctx).await
    }

    async fn write(&mut self, item: u64) -> Result<(), TaskError> {
        self.journal.write(item).await
    }

    async fn flush(&mut self) -> Result<(), TaskError> {
        self.strike(Hook::Flush)?;
        self.journal.flush().await
    }

    async fn close(&mut self) -> Result<(), TaskError> {
        self.strike(Hook::Close)?;
        self.journal.close().await
    }
}

job!(SinkHooks { hook: Hook, panics: bool, pen: Pen }, |job, flow| {
    let (hook, panics, pen) = (job.hook, job.panics, job.pen.clone());
    flow.from_batch(0..3u64).sink(move || FailingHook { hook, panics, journal: JournalSink::new(&pen) });
});

#[test]
fn a_sink_whose_hook_fails_fails_the_job_whatever_the_policy() {
    each_environment(async |env| {
        for hook in [Hook::Open, Hook::Flush, Hook::Close] {
            for (panics, policy) in [(false, ErrorPolicy::Fail), (true, ErrorPolicy::Fail), (false, ErrorPolicy::Skip)]
            {
                let journal = Journal::new();
                let job = env.submit(SinkHooks { hook, panics, pen: journal.pen() });
                let job = job.autostop(true).error_policy(policy).await.unwrap();
                match ended(&job).await {
                    Outcome::Failed(
                        FailureCause::Operator { operator, message, .. }
                        | FailureCause::OperatorPanicked { operator, message, .. },
                    ) => assert_eq!((operator.as_str(), message.as_str()), ("sink", "the hook fails")),
                    other => panic!("{hook:?}: not failed by the hook but {other:?}"),
                }
                let dropped = if hook == Hook::Open { "? drop" } else { "0 drop" };
                assert_eq!(journal.count(dropped), 1, "{hook:?}");
                assert_eq!(journal.count("0 close"), 0, "{hook:?}");
            }
        }
    });
}

registered![
    OneByOne,
    SkipsOdd,
    Union,
    UnionWithItself,
    FirstOf,
    TakeOnOneBranch,
    Asynchronous,
    Aggregates,
    WriteLines,
    SinkHooks
];
