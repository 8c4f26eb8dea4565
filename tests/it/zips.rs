//! Zips: the i-th item of one stream with the i-th of another, whatever one is ahead of the other.

use proptest::{prelude::*, test_runner::TestRunner};
use proscenium::{BuildRefusal, FailureCause, Flow, Input, Limits, LocalEnvironment, Parallelism, Stream};
use serde::{Deserialize, Serialize};

use crate::support::{
    deadline, each_environment, each_environment_with, ended, job, output_of, refusal, registered, sorted, start,
};

registered![Zipped, ZippedWithEndless, FarAhead, UnequalZip, Unencodable, Halves];

job!(Zipped { left: u64, right: u64, parallelism: usize }, |job, flow| {
    let side = |flow: &mut Flow, items: u64| -> Stream<u64> {
        let numbers = flow.from_batch(0..items);
        if job.parallelism == 1 { numbers } else { numbers.rebalance(job.parallelism) }
    };
    let (left, right) = (side(flow, job.left), side(flow, job.right));
    left.zip(right.map(|n| n.to_string())).collect("out");
});

/// Limits under which hardly anything is kept in memory.
fn narrow() -> Limits {
    Limits { output_memory_bytes: 64, batch_items: 4, channel_batches: 1, ..Limits::default() }
}

#[test]
fn a_zip_is_that_of_two_iterators() {
    for (limits, most) in [(narrow(), 2000u64), (Limits::default(), 20_000)] {
        let env = LocalEnvironment::builder("zips").task_threads(2).limits(limits).open().expect("an environment");
        let case = (0..most, 0..most, 1..=3usize);
        let mut runner =
            TestRunner::new(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(32) });
        let checked = runner.run(&case, |(left, right, parallelism)| {
            let out: Vec<(u64, String)> =
                crate::support::block_on(async { output_of(&env, Zipped { left, right, parallelism }).await });
            let expected: Vec<_> = (0..left).zip((0..right).map(|n| n.to_string())).collect();
            if parallelism == 1 {
                assert_eq!(out, expected);
            } else {
                assert_eq!(sorted(out), sorted(expected));
            }
            Ok(())
        });
        checked.expect("every case agrees");
    }
}

#[test]
fn streams_are_zipped_in_every_environment() {
    each_environment_with(&narrow(), async |env| {
        for (left, right) in [(3000, 2500), (0, 100), (100, 0), (0, 0)] {
            let out: Vec<(u64, String)> = output_of(env, Zipped { left, right, parallelism: 1 }).await;
            assert_eq!(out, (0..left).zip((0..right).map(|n| n.to_string())).collect::<Vec<_>>());
        }
    });
}

job!(Halves { half: u64 }, |job, flow| {
    let half = job.half;
    let (first, second) = flow.from_batch(0..2 * half).split(move |n| *n < half);
    first.zip(second.map(|n| n.to_string())).collect("out");
});

#[test]
fn a_stream_that_is_far_ahead_waits_on_disk() {
    let limits = Limits { output_memory_bytes: 20_000, ..Limits::default() };
    for limits in [narrow(), limits, Limits::default()] {
        each_environment_with(&limits, async |env| {
            let half = 30_000;
            let out: Vec<(u64, String)> = output_of(env, Halves { half }).await;
            assert_eq!(out, (0..half).map(|n| (n, (n + half).to_string())).collect::<Vec<_>>());
        });
    }
}

job!(ZippedWithEndless { first: bool }, |job, flow| {
    let numbers = flow.from_batch((0..100u64).map(|n| n * n));
    let endless = flow.from_channel::<u64>("endless");
    if job.first { numbers.zip(endless).stream_out("out") } else { endless.zip(numbers).stream_out("out") }
});

#[test]
fn a_zip_ends_with_the_shorter_of_its_inputs() {
    each_environment_with(&narrow(), async |env| {
        for first in [true, false] {
            let job = start(env, ZippedWithEndless { first }).await;
            let endless: Input<u64> = job.input("endless");
            let mut out = job.output::<(u64, u64)>("out");
            for n in 0..100 {
                endless.send(n).await.unwrap();
                let pair = if first { (n * n, n) } else { (n, n * n) };
                assert_eq!(deadline("a pair", out.next()).await.unwrap(), Some(pair));
            }
            // Nobody finished the input.
            assert_eq!(deadline("the end", out.next()).await.unwrap(), None);
            assert!(ended(&job).await.is_completed());
        }
    });
}

job!(FarAhead {}, |job, flow| {
    let waiting = flow.from_channel::<u64>("waiting");
    flow.from_batch(0..1_000_000u64).zip(waiting).uid("pairs").collect("out");
});

#[test]
fn a_zip_that_outgrows_its_limit_fails_the_job_by_name() {
    let limits = Limits { zip_bytes_max: 10_000, batch_items: 10, output_memory_bytes: 1000, ..Limits::default() };
    each_environment_with(&limits, async |env| {
        let job = start(env, FarAhead {}).await;
        let _waiting: Input<u64> = job.input("waiting");
        let outcome = ended(&job).await;
        let expected = FailureCause::BacklogTooLarge { operator: "pairs".to_owned(), instance: 0, limit_bytes: 10_000 };
        assert_eq!(outcome.failure(), Some(&expected));
    });
}

/// An item that bears no encoding.
#[derive(Debug, Clone, Deserialize)]
struct Shy;

impl Serialize for Shy {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("not in public"))
    }
}

job!(Unencodable {}, |job, flow| {
    let waiting = flow.from_channel::<u64>("waiting");
    flow.from_batch(vec![Shy; 100_000]).zip(waiting).map(|(_, n)| n).collect("out");
});

#[test]
fn an_item_that_cannot_wait_encoded_fails_the_job_by_name() {
    each_environment(async |env| {
        let job = start(env, Unencodable {}).await;
        let _waiting: Input<u64> = job.input("waiting");
        let outcome = ended(&job).await.to_string();
        assert!(outcome.contains("operator `zip`") && outcome.contains("not in public"), "{outcome}");
    });
}

job!(UnequalZip {}, |job, flow| {
    let (left, right) = (flow.from_batch(0..10u32), flow.from_batch(0..10u32));
    left.rebalance(2).zip(right.rebalance(3)).collect("out");
});

#[test]
fn streams_of_unequal_parallelism_are_not_zipped() {
    each_environment(async |env| {
        let unequal = BuildRefusal::UnequalParallelism {
            operator: "zip".to_owned(),
            left: Parallelism::Fixed(2),
            right: Parallelism::Fixed(3),
        };
        assert_eq!(refusal(env, UnequalZip {}).await, unequal);
    });
}
