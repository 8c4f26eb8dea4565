//! The same flow is accepted or refused alike at every parallelism of the job, and comes to the same.

use std::collections::HashMap;

use proscenium::{
    BuildRefusal, Environment, Flow, LocalEnvironment, ParallelRange, Parallelism, Stream, SubmitError, job_fn,
};
use serde::{Deserialize, Serialize};

use crate::support::{block_on, completed, deadline, each_environment, ended, job, read, registered, sorted};

registered![Flows];

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum Shape {
    UnionWithSplit,
    UnionOfSplit,
    UnionWithThree,
    UnionOfKeyed,
    ConnectWithSplit,
    ConnectOfSplit,
    ConnectOfKeyed,
    ConnectOfUnequallyKeyed,
    ConnectOfKeyedAndSplit,
    ConnectOfKeyedAndTaken,
    ZipWithSplit,
    ZipOfSplit,
    ZipWithTaken,
    ZipWithCount,
    ZipWithFold,
    ZipOfUnion,
    JoinOfHalfSaid,
    FillWithSplit,
    IterateOverSplit,
    IterateByKey,
    ConnectOfCopies,
    ConnectOfKeyedAndCopies,
}

use Shape::*;

const ACCEPTED: [Shape; 17] = [
    UnionWithSplit,
    UnionOfSplit,
    UnionWithThree,
    UnionOfKeyed,
    ConnectWithSplit,
    ConnectOfSplit,
    ConnectOfKeyed,
    ConnectOfKeyedAndSplit,
    ConnectOfKeyedAndTaken,
    ZipWithTaken,
    ZipWithCount,
    ZipWithFold,
    JoinOfHalfSaid,
    FillWithSplit,
    IterateOverSplit,
    IterateByKey,
    ConnectOfCopies,
];

fn one(flow: &mut Flow) -> Stream<u64> {
    flow.from_batch(0..100u64)
}

fn split(flow: &mut Flow) -> Stream<u64> {
    flow.from_batch(ParallelRange::new(1000..1100))
}

fn connected(left: Stream<u64>, right: Stream<u64>) -> Stream<u64> {
    left.connect(right).co_map((), |(), n| n, |(), n| n * 3)
}

/// The keys that both sides of a connection have, each found in the state of one instance.
fn meetings(left: Stream<(u64, u64)>, right: Stream<(u64, u64)>) -> Stream<u64> {
    left.connect(right).co_flat_map(
        HashMap::<u64, u64>::new(),
        |seen, (key, _), out| {
            let sides = seen.entry(key).or_default();
            *sides |= 1;
            out.extend((*sides == 3).then_some(key));
        },
        |seen, (key, _), out| {
            let sides = seen.entry(key).or_default();
            *sides |= 2;
            out.extend((*sides == 3).then_some(key));
        },
    )
}

/// Each instance of a connection counts the copies that it is given.
fn counted(copies: Stream<u64>, others: Stream<u64>) -> Stream<u64> {
    let count = |count: &mut u64, _, out: &mut Vec<u64>| {
        *count += 1;
        out.push(*count);
    };
    copies.connect(others).co_flat_map(0, count, |_, _, _| ())
}

/// Counts up to 10 on its way round.
fn rising(numbers: Stream<u64>) -> (Stream<u64>, Stream<u64>) {
    let (going, done) = numbers.split(|n| n % 10 != 0);
    (going.map(|n| n + 1), done)
}

job!(Flows { shape: Shape }, |job, flow| {
    let stream = match job.shape {
        UnionWithSplit => one(flow).union(split(flow)),
        UnionOfSplit => split(flow).union(one(flow)),
        UnionWithThree => one(flow).rebalance(3).union(split(flow)),
        UnionOfKeyed => {
            let three = one(flow).key_by(|n| n % 7).parallelism(3).values();
            three.union(split(flow).key_by(|n| n % 7).values())
        }
        ConnectWithSplit => connected(one(flow), split(flow)),
        ConnectOfSplit => connected(split(flow), one(flow)),
        ConnectOfKeyed => meetings(one(flow).key_by(|n| n % 10).count(), split(flow).key_by(|n| n % 10).count()),
        ConnectOfUnequallyKeyed => {
            meetings(one(flow).key_by(|n| n % 10).parallelism(3).count(), split(flow).key_by(|n| n % 10).count())
        }
        ConnectOfKeyedAndSplit => {
            // Each key is counted up in one instance, wherever the others' items go.
            let keyed = one(flow).key_by(|n| n % 10).parallelism(2).entries();
            keyed.connect(split(flow)).co_map(
                HashMap::<u64, u64>::new(),
                |seen, (key, _)| {
                    let count = seen.entry(key).or_default();
                    *count += 1;
                    key * 100 + *count
                },
                |_, n| n,
            )
        }
        ConnectOfKeyedAndTaken => {
            let taken = split(flow).key_by(|n| n % 7).values().take(5).map(|_| 7);
            connected(taken, one(flow).key_by(|n| n % 7).count().map(|(key, _)| key))
        }
        ZipWithSplit => one(flow).zip(split(flow)).map(|(a, b)| a + b),
        ZipOfSplit => split(flow).zip(one(flow)).map(|(a, b)| a + b),
        ZipWithTaken => one(flow).zip(split(flow).map(|_| 1).take(9)).map(|(a, b)| a + b),
        ZipWithCount => one(flow).zip(split(flow).count()).map(|(a, b)| a + b),
        ZipWithFold => one(flow).zip(split(flow).fold(0, |sum, n| *sum += n)).map(|(a, b)| a + b),
        ZipOfUnion => {
            let wide = one(flow).rebalance(2).union(split(flow));
            wide.zip(split(flow)).map(|(a, b)| a + b)
        }
        JoinOfHalfSaid => {
            let three = one(flow).key_by(|n| n % 50).parallelism(3);
            three.join(split(flow).key_by(|n| n % 50)).map(|(key, (a, b))| key + a * b)
        }
        FillWithSplit => {
            let (stream, future) = flow.from_future::<u64>("later");
            split(flow).fill_future(&future);
            stream.map(|n| n + 1)
        }
        IterateOverSplit => {
            let others = split(flow);
            one(flow).iterate("rising", |numbers| rising(numbers.union(others)))
        }
        IterateByKey => split(flow).iterate("rising", |numbers| {
            let (again, done) = rising(numbers);
            (again.key_by(|n| *n).parallelism(2).values(), done)
        }),
        ConnectOfCopies => counted(one(flow).broadcast(2), split(flow)),
        ConnectOfKeyedAndCopies => {
            let keyed = split(flow).key_by(|n| n % 7).parallelism(3).values();
            counted(one(flow).broadcast(2), keyed)
        }
    };
    stream.collect("out");
});

/// What becomes of a flow at each parallelism, and of the job that does not say one.
async fn at_each_parallelism(env: &dyn Environment, shape: Shape) -> Vec<Result<Vec<u64>, BuildRefusal>> {
    let mut results = Vec::new();
    for parallelism in [None, Some(1), Some(2), Some(3), Some(4)] {
        let submit = env.submit(Flows { shape }).autostop(true);
        let submit = parallelism.into_iter().fold(submit, |submit, parallelism| submit.parallelism(parallelism));
        results.push(match deadline("submit", submit).await {
            Ok(job) => {
                let outcome = ended(&job).await;
                assert!(outcome.is_completed(), "{shape:?}, {parallelism:?}: {outcome}");
                Ok(sorted(read::<u64>(&job, "out").await))
            }
            Err(SubmitError::Build(refusal)) => Err(refusal),
            Err(other) => panic!("{shape:?}, {parallelism:?}: {other}"),
        });
    }
    results
}

/// A union of an iterator and a source that is split completed on one core and was refused on two.
#[test]
fn a_flow_comes_to_the_same_at_every_parallelism() {
    each_environment(async |env| {
        for shape in ACCEPTED {
            let results = at_each_parallelism(env, shape).await;
            let first = results[0].as_ref().unwrap_or_else(|refusal| panic!("{shape:?}: {refusal}"));
            assert!(!first.is_empty(), "{shape:?}");
            for result in &results {
                assert_eq!(result.as_ref(), Ok(first), "{shape:?}");
            }
        }
        let met = at_each_parallelism(env, ConnectOfKeyed).await;
        assert_eq!(met[0], Ok((0..10).collect()));
        // Each of the two instances was given everything once.
        let copied = at_each_parallelism(env, ConnectOfCopies).await;
        assert_eq!(copied[0], Ok((1..=100).flat_map(|n| [n, n]).collect()));
    });
}

#[test]
fn a_flow_is_refused_at_every_parallelism() {
    each_environment(async |env| {
        let (one, two, three) = (Parallelism::Fixed(1), Parallelism::AtLeast(2), Parallelism::Fixed(3));
        for (shape, operator, left, right) in [
            (ZipWithSplit, "zip", one, Parallelism::Job),
            (ZipOfSplit, "zip", Parallelism::Job, one),
            (ZipOfUnion, "zip", two, Parallelism::Job),
            (ConnectOfUnequallyKeyed, "connect", three, Parallelism::Job),
            (ConnectOfKeyedAndCopies, "connect", three, Parallelism::Fixed(2)),
        ] {
            let refused = BuildRefusal::UnequalParallelism { operator: operator.to_owned(), left, right };
            assert_eq!(at_each_parallelism(env, shape).await, vec![Err(refused); 5]);
        }
    });
}

/// Where there were more cores than keys can be dealt out to, `key_by` refused every flow that did not say otherwise.
#[test]
fn a_flow_by_key_is_accepted_on_any_number_of_cores() {
    block_on(async {
        let env = LocalEnvironment::builder("wide").task_threads(200).open().unwrap();
        let keys = job_fn("keys", |flow| {
            flow.from_batch(0..1000u64).key_by(|n| n % 300).count().collect("out");
            Ok(())
        });
        let job = completed(&env, keys).await;
        assert_eq!(read::<(u64, u64)>(&job, "out").await.len(), 300);
    });
}
