//! Corners that were wrong once. Each test opens with the failure it pins.

use proscenium::{
    BatchSource, BuildRefusal, ErrorPolicy, FailureCause, Limits, More, Next, Part, Source, TaskContext, TaskError,
};

use crate::support::{
    Journal, JournalSink, Pen, completed, deadline, each_environment, each_environment_with, ended, job, read, refusal,
    registered, sorted, start,
};

job!(Expanding { pen: Pen }, |job, flow| {
    let pen = job.pen.clone();
    flow.from_batch(0..50u64).flat_map(|n| (0..100).map(move |i| n * 100 + i)).sink(move || JournalSink::new(&pen));
});

/// An operator that makes several batches of one handed the second to a sink at work on the first, which dropped it.
#[test]
fn a_sink_gets_every_item_of_an_operator_that_makes_many_of_one() {
    each_environment(async |env| {
        let journal = Journal::new();
        completed(env, Expanding { pen: journal.pen() }).await;
        let written = journal.lines();
        // Each line begins with the instance; what is no number is one of the sink's own occasions.
        let numbers = written.iter().filter_map(|line| line.strip_prefix("0 ")?.parse::<u64>().ok());
        assert!(numbers.eq(0..5000), "{} lines", written.len());
    });
}

job!(TakePushed {}, |job, flow| {
    flow.from_channel::<u64>("in").rebalance(2).take(3).collect("out");
});

/// A source with nothing more to give was woken when its consumer had enough, did not see why, and slept again.
#[test]
fn take_behind_an_exchange_ends_a_source_that_is_idle() {
    each_environment(async |env| {
        let job = start(env, TakePushed {}).await;
        let input = job.input::<u64>("in");
        deadline("three sends", input.send_all([1, 2, 3])).await.unwrap();
        assert!(ended(&job).await.is_completed());
        assert_eq!(sorted(read::<u64>(&job, "out").await), [1, 2, 3]);
    });
}

/// Gives `give` and then nothing, for ever.
struct Quiet(Option<u64>);

impl Source for Quiet {
    type Item = u64;

    async fn next(&mut self, _: &TaskContext) -> Result<Next<u64>, TaskError> {
        match self.0.take() {
            Some(n) => Ok(Next::Item(n)),
            None => std::future::pending().await,
        }
    }
}

job!(TakeOfUnion {}, |job, flow| {
    let (left, right) = (flow.from_source(Quiet(Some(1))), flow.from_source(Quiet(Some(2))));
    left.union(right).take(2).collect("out");
});

#[test]
fn take_behind_a_union_ends_sources_that_are_idle() {
    each_environment(async |env| {
        let job = completed(env, TakeOfUnion {}).await;
        assert_eq!(sorted(read::<u64>(&job, "out").await), [1, 2]);
    });
}

job!(NamedExchange {}, |job, flow| {
    let spread = flow.from_batch(0..4u64).rebalance(2).uid("spread").on_error(ErrorPolicy::Fail);
    spread.map(|n| if n == 3 { panic!("three") } else { n }).uid("map-it").collect("out");
});

/// Naming a stream right behind an exchange panicked in `build`.
#[test]
fn an_exchange_can_be_named() {
    each_environment(async |env| {
        let job = start(env, NamedExchange {}).await;
        let outcome = ended(&job).await;
        let Some(FailureCause::OperatorPanicked { operator, .. }) = outcome.failure() else { panic!("{outcome:?}") };
        assert_eq!(operator, "map-it");
        let status = job.status().await.unwrap();
        assert!(status.tasks.iter().any(|task| task.name == "from_batch -> spread"), "{:?}", status.tasks);
    });
}

job!(Dangling {}, |job, flow| {
    let _ = flow.from_batch(0..4u64).rebalance(2);
});

#[test]
fn a_stream_left_behind_an_exchange_is_refused_by_the_name_of_the_exchange() {
    each_environment(async |env| {
        let operator = "rebalance".to_owned();
        assert_eq!(refusal(env, Dangling {}).await, BuildRefusal::Unconsumed { operator });
    });
}

job!(Keyed {}, |job, flow| {
    let doubled = flow.from_batch(0..100u64).map_async(4, async |_, n| Ok(n % 10));
    doubled.key_by(|n| *n).count().collect("counts");
});

/// With batches of 0 items nothing came out of a keyed aggregate, and the job read `Completed`.
#[test]
fn limits_of_zero_let_one_item_pass() {
    let limits = Limits {
        batch_items: 0,
        channel_batches: 0,
        service_queue: 0,
        port_items: 0,
        channel_bytes: 0,
        ..Limits::default()
    };
    each_environment_with(&limits, async |env| {
        let job = completed(env, Keyed {}).await;
        let counts = sorted(read::<(u64, u64)>(&job, "counts").await);
        assert_eq!(counts, (0..10).map(|n| (n, 10)).collect::<Vec<_>>());
    });
}

/// A source that splits into one part more than it was asked for.
struct TooMany;
struct Nothing;

impl BatchSource for TooMany {
    type Item = u64;
    type Part = Nothing;

    fn split(self, parts: usize) -> Result<Vec<Nothing>, TaskError> {
        Ok((0..=parts).map(|_| Nothing).collect())
    }
}

impl Part for Nothing {
    type Item = u64;

    fn read(&mut self, _: &mut Vec<u64>, _: usize) -> Result<More, TaskError> {
        Ok(More::No)
    }
}

job!(OverSplit {}, |job, flow| {
    flow.from_batch(TooMany).for_each(drop);
});

/// The parts too many were never read, and the job read `Completed`.
#[test]
fn a_source_that_splits_into_too_many_parts_is_refused() {
    each_environment(async |env| {
        let refused = refusal(env, OverSplit {}).await.to_string();
        assert!(refused.contains("parts where"), "{refused}");
    });
}

registered![Expanding, TakePushed, TakeOfUnion, NamedExchange, Dangling, Keyed, OverSplit];
