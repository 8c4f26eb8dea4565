//! Exchanges: how items are dealt out to instances, and what is placed where.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::mpsc,
};

use proscenium::{
    BuildRefusal, LeastLoaded, LocalEnvironment, Outcome, ParallelRange, Placement, SlotLoad, TaskContext,
    TaskDescription,
};
use serde::{Deserialize, Serialize};

use crate::support::{
    DEADLINE, Door, Doorway, Journal, JournalSink, Pen, completed, each_environment, ended, job, on_a_thread,
    output_of, read, refusal, registered, sorted, start,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Dealing {
    Rebalance,
    Broadcast,
    Gather,
}

job!(Deal { items: u64, from: usize, how: Dealing, to: usize }, |job, flow| {
    let numbers = flow.from_batch(0..job.items).rebalance(job.from);
    let dealt = match job.how {
        Dealing::Rebalance => numbers.rebalance(job.to),
        Dealing::Broadcast => numbers.broadcast(job.to),
        Dealing::Gather => numbers.gather(),
    };
    dealt.map_async(1, async |ctx, n| Ok((ctx.instance(), n))).collect("out");
});

/// The items of each instance.
fn by_instance(out: Vec<(u32, u64)>) -> BTreeMap<u32, Vec<u64>> {
    let mut instances: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
    for (instance, n) in out {
        instances.entry(instance).or_default().push(n);
    }
    instances
}

#[test]
fn rebalance_deals_items_out_evenly() {
    each_environment(async |env| {
        let out = by_instance(output_of(env, Deal { items: 6, from: 1, how: Dealing::Rebalance, to: 3 }).await);
        assert_eq!(out, BTreeMap::from([(0, vec![0, 3]), (1, vec![1, 4]), (2, vec![2, 5])]));
    });
}

#[test]
fn broadcast_gives_every_instance_every_item() {
    each_environment(async |env| {
        let out = by_instance(output_of(env, Deal { items: 6, from: 1, how: Dealing::Broadcast, to: 3 }).await);
        assert_eq!(out.values().map(Vec::len).sum::<usize>(), 18);
        assert_eq!(out, (0..3).map(|instance| (instance, (0..6).collect())).collect());

        let out = by_instance(output_of(env, Deal { items: 6, from: 2, how: Dealing::Broadcast, to: 3 }).await);
        for (instance, items) in out {
            assert_eq!(sorted(items), (0..6).collect::<Vec<_>>(), "instance {instance}");
        }
    });
}

#[test]
fn gather_brings_all_items_to_one_instance_and_keeps_each_producers_order() {
    each_environment(async |env| {
        let out = by_instance(output_of(env, Deal { items: 5000, from: 3, how: Dealing::Gather, to: 1 }).await);
        assert_eq!(out.len(), 1);
        for producer in 0..3 {
            let own: Vec<u64> = out[&0].iter().copied().filter(|n| n % 3 == producer).collect();
            assert_eq!(own, (0..5000).filter(|n| n % 3 == producer).collect::<Vec<_>>());
        }
    });
}

job!(SquaresOfEvens {}, |job, flow| {
    let squares = flow.from_batch(1..=10u64).rebalance(3).map(|n| n * n);
    squares.rebalance(2).filter(|n| n % 2 == 0).collect("out");
});

#[test]
fn items_pass_two_exchanges_once_each() {
    each_environment(async |env| {
        let out: Vec<u64> = output_of(env, SquaresOfEvens {}).await;
        assert_eq!(sorted(out), [4, 16, 36, 64, 100]);
    });
}

job!(Stages {}, |job, flow| {
    flow.from_batch(0..1000u64).rebalance(2).rebalance(3).map(|n| n + 1).rebalance(1).count().collect("out");
});

#[test]
fn an_exchange_has_a_channel_from_each_producer_to_each_consumer() {
    each_environment(async |env| {
        let job = completed(env, Stages {}).await;
        let graph = job.graph().await.unwrap();
        assert_eq!((graph.task_count(), graph.channel_count()), (1 + 2 + 3 + 1, 2 + 6 + 3));
        let status = job.status().await.unwrap();
        assert_eq!(status.tasks.len(), 7);
        assert_eq!(read::<u64>(&job, "out").await, [1000]);
        // All items passed each stage.
        for stage in [&status.tasks[..1], &status.tasks[1..3], &status.tasks[3..6], &status.tasks[6..]] {
            assert_eq!(stage.iter().map(|task| task.counters.items_in).sum::<u64>(), 1000, "{stage:?}");
        }
    });
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Where {
    Rebalance,
    Broadcast,
    KeyBy,
    TooManyKeys,
}

job!(Unfit { place: Where }, |job, flow| {
    let numbers = flow.from_batch(0..10u64);
    match job.place {
        Where::Rebalance => numbers.rebalance(0).for_each(drop),
        Where::Broadcast => numbers.broadcast(0).for_each(drop),
        Where::KeyBy => numbers.key_by(|n| *n).parallelism(0).count().for_each(drop),
        Where::TooManyKeys => numbers.key_by(|n| *n).parallelism(129).count().for_each(drop),
    }
});

#[test]
fn a_parallelism_of_0_is_refused_when_the_flow_is_built() {
    each_environment(async |env| {
        for place in [Where::Rebalance, Where::Broadcast, Where::KeyBy] {
            let refusal = refusal(env, Unfit { place }).await;
            assert!(matches!(refusal, BuildRefusal::ZeroParallelism { .. }), "{place:?}: {refusal:?}");
        }
        let refused = env.submit(Stages {}).parallelism(0).await;
        assert_eq!(
            refused.unwrap_err(),
            proscenium::SubmitError::Build(BuildRefusal::ZeroParallelism { operator: "submit".to_owned() })
        );
        let refusal = refusal(env, Unfit { place: Where::TooManyKeys }).await;
        let expected = BuildRefusal::TooParallel { operator: "key_by".to_owned(), asked: 129, limit: 128 };
        assert_eq!(refusal, expected);
        assert_eq!(env.jobs().await.unwrap(), [], "a refused job does not exist");
    });
}

job!(Windows { documents: Vec<String>, size: usize, overlap: usize }, |job, flow| {
    let (size, step) = (job.size, job.size - job.overlap);
    let windows = flow.from_batch(job.documents.clone()).rebalance(2).flat_map(move |document: String| {
        let characters: Vec<char> = document.chars().collect();
        let starts = (0..characters.len()).step_by(step);
        let window = |start: usize| characters[start..(start + size).min(characters.len())].iter().collect();
        starts.map(window).collect::<Vec<String>>()
    });
    windows.collect("out");
});

#[test]
fn documents_are_cut_into_overlapping_windows() {
    each_environment(async |env| {
        let documents: Vec<String> = [39, 44, 46].iter().map(|length| "ä".repeat(*length)).collect();
        let out: Vec<String> = output_of(env, Windows { documents, size: 20, overlap: 5 }).await;
        let lengths = sorted(out.iter().map(|window| window.chars().count()));
        assert_eq!(lengths, sorted([20, 20, 9, 20, 20, 14, 20, 20, 16, 1]));
    });
}

job!(SlowInstance { door: Doorway }, |job, flow| {
    let door = job.door.clone();
    let done = flow.from_batch(0..40u64).rebalance(4).map_async(1, async move |ctx, n| {
        if ctx.instance() == 0 {
            door.pass(n).await;
        }
        Ok(n)
    });
    done.collect("out");
});

#[test]
fn wait_returns_only_when_the_slowest_instance_is_through() {
    each_environment(async |env| {
        let door = Door::new().await;
        let job = start(env, SlowInstance { door: door.way() }).await;
        for _ in 0..9 {
            door.arrival().await.admit();
        }
        let last = door.arrival().await;
        assert_eq!(job.wait_timeout(std::time::Duration::ZERO).await.unwrap(), None);
        assert!(job.status().await.unwrap().is_running());
        last.admit();
        assert_eq!(ended(&job).await, Outcome::Completed);
        assert_eq!(sorted(read::<u64>(&job, "out").await), (0..40).collect::<Vec<_>>());
    });
}

job!(EverySink { pen: Pen }, |job, flow| {
    let pen = job.pen.clone();
    let mapped = flow.from_batch(ParallelRange::new(0..100)).rebalance(3).map(|n| n + 1);
    mapped.rebalance(2).sink(move || JournalSink::new(&pen));
});

#[test]
fn a_job_completes_only_after_every_sink_was_closed() {
    each_environment(async |env| {
        let journal = Journal::new();
        let job = start(env, EverySink { pen: journal.pen() }).await;
        let outcome = job.wait().await.unwrap();
        let lines = journal.lines();
        assert_eq!(outcome, Outcome::Completed);
        for line in ["0 open", "1 open", "0 close", "1 close"] {
            assert_eq!(lines.iter().filter(|other| *other == line).count(), 1, "{line}");
        }
        let items = lines.iter().filter_map(|line| line.split_once(' ')?.1.parse::<u64>().ok());
        assert_eq!(sorted(items), (1..=100).collect::<Vec<_>>());

        let sinks = job.status().await.unwrap().tasks.into_iter().filter(|task| task.name.ends_with("sink"));
        let counts: Vec<(u64, u64)> = sinks.map(|task| (task.counters.items_in, task.counters.items_out)).collect();
        assert_eq!(counts.len(), 2);
        assert!(counts.iter().all(|(items_in, items_out)| items_in == items_out), "{counts:?}");
        assert_eq!(counts.iter().map(|(items_in, _)| items_in).sum::<u64>(), 100);
    });
}

job!(UnequalUnion {}, |job, flow| {
    let two = flow.from_batch(0..5u64).rebalance(2);
    let three = flow.from_batch(0..5u64).rebalance(3);
    two.union(three).map_async(1, async |ctx: &TaskContext, n| Ok((ctx.instance(), n))).collect("out");
});

#[test]
fn a_union_has_as_many_instances_as_the_wider_stream() {
    each_environment(async |env| {
        let out: Vec<(u32, u64)> = output_of(env, UnequalUnion {}).await;
        assert_eq!(sorted(out.iter().map(|(_, n)| *n)), sorted((0..5).chain(0..5)));
        let used: BTreeSet<u32> = out.iter().map(|(instance, _)| *instance).collect();
        assert_eq!(used, BTreeSet::from([0, 1, 2]));
    });
}

/// Puts every task on the last slot, and says what it was asked to place.
struct OnTheLast(mpsc::Sender<(Vec<TaskDescription>, usize)>);

impl Placement for OnTheLast {
    fn place(&mut self, tasks: &[TaskDescription], slots: &[SlotLoad]) -> Vec<usize> {
        let _ = self.0.send((tasks.to_vec(), slots.len()));
        vec![slots.len() - 1; tasks.len()]
    }
}

#[test]
fn a_placement_of_ones_own_is_asked_about_every_task() {
    let (asked, questions) = mpsc::channel();
    let env = LocalEnvironment::builder("placed").task_threads(3).placement(OnTheLast(asked)).open().unwrap();
    on_a_thread("the job", move || {
        let job = env.submit(Stages {}).autostop(true).blocking().unwrap();
        assert_eq!(job.blocking().wait().unwrap(), Outcome::Completed);
    });
    let (tasks, slots) = questions.recv_timeout(DEADLINE).unwrap();
    assert_eq!((tasks.len(), slots), (7, 3));
    assert_eq!(tasks.iter().map(|task| task.instance).collect::<Vec<_>>(), [0, 0, 1, 0, 1, 2, 0]);
    assert_eq!(tasks.iter().filter(|task| task.is_source).count(), 1);
}

/// Panics, and names slots that do not exist.
struct Confused(bool);

impl Placement for Confused {
    fn place(&mut self, tasks: &[TaskDescription], _: &[SlotLoad]) -> Vec<usize> {
        self.0 = !self.0;
        assert!(self.0, "a placement that panics");
        vec![99; tasks.len()]
    }
}

#[test]
fn a_placement_that_fails_does_not_fail_the_job() {
    let confused = LocalEnvironment::builder("confused").placement(Confused(false)).open().unwrap();
    let balanced = LocalEnvironment::builder("balanced").placement(LeastLoaded::new()).open().unwrap();
    on_a_thread("the jobs", move || {
        for env in [&confused, &confused, &balanced] {
            let job = env.submit(Stages {}).autostop(true).blocking().unwrap();
            assert_eq!(job.blocking().wait().unwrap(), Outcome::Completed);
        }
    });
}

registered![Deal, SquaresOfEvens, Stages, Unfit, Windows, SlowInstance, EverySink, UnequalUnion];
