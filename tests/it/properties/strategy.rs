//! How random graphs, environments and interruptions are drawn.

use proptest::prelude::*;

use super::{
    drive::{Case, Plan, Room},
    eval::{evaluate, items_of, origins},
    shape::{
        Body, Fault, Join, JoinKind, Keyed, Node, Order, Origin, OriginKind, Policy, RandomJob, Record, Round, Step,
        Whole,
    },
};
use crate::support::Place;

/// Graphs with more items in one stream than this are not run.
const PEAK_MAX: usize = 20_000;

fn origin() -> impl Strategy<Value = Node> {
    let kind = prop_oneof![
        4 => Just(OriginKind::Iterator),
        2 => Just(OriginKind::Splittable),
        1 => Just(OriginKind::Endless),
    ];
    let count = prop_oneof![1 => Just(0u64), 2 => 1..8u64, 5 => 8..600u64];
    (kind, 0..1_000u64, count).prop_map(|(kind, first, count)| Node::From(Origin { kind, first, count }))
}

fn parallelism() -> std::ops::RangeInclusive<usize> {
    1..=4
}

fn keyed() -> impl Strategy<Value = Step> {
    let how = prop_oneof![
        Just(Keyed::Count),
        Just(Keyed::Fold),
        Just(Keyed::Reduce),
        Just(Keyed::Number),
        Just(Keyed::Values),
        Just(Keyed::Timers),
    ];
    (how, 1..40u64, parallelism()).prop_map(|(how, keys, parallelism)| Step::Keyed { how, keys, parallelism })
}

fn call() -> impl Strategy<Value = Step> {
    let order = prop_oneof![Just(Order::Kept), Just(Order::AsDone), Just(Order::Filter)];
    (0..4usize, 1..20usize, order).prop_map(|(service, limit, order)| Step::Call { service, limit, order })
}

fn fail() -> impl Strategy<Value = Step> {
    let how = prop_oneof![Just(Fault::Error), Just(Fault::Panic)];
    let policy = prop_oneof![1 => Just(Policy::Fail), 2 => Just(Policy::Skip)];
    (0..97u64, how, policy).prop_map(|(rest, how, policy)| Step::Fail { rest, how, policy })
}

fn round() -> impl Strategy<Value = Step> {
    let body = prop_oneof![
        Just(Body::Nothing),
        Just(Body::Rebalance),
        Just(Body::ByKey),
        Just(Body::Call),
        Just(Body::Timers),
        Just(Body::Split),
        Just(Body::Nested),
    ];
    (1..12u64, body, parallelism())
        .prop_map(|(trips, body, parallelism)| Step::Loop(Round { trips, body, parallelism }))
}

fn simple_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (1..8u64, 0..100u64).prop_map(|(times, plus)| Step::Map { times, plus }),
        2 => (1..9u64).prop_map(|of| Step::DropMultiples { of }),
        2 => (0..4u64).prop_map(|copies| Step::FlatMap { copies }),
        1 => prop_oneof![Just(0usize), 1..300usize].prop_map(|count| Step::Take { count }),
        4 => parallelism().prop_map(|parallelism| Step::Rebalance { parallelism }),
        1 => parallelism().prop_map(|parallelism| Step::Broadcast { parallelism }),
        1 => Just(Step::Gather),
        4 => keyed(),
        1 => prop_oneof![Just(Whole::Count), Just(Whole::Fold), Just(Whole::FoldAssoc), Just(Whole::Reduce)]
            .prop_map(Step::Whole),
        3 => call(),
        1 => fail(),
        2 => round(),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    simple_step().prop_recursive(2, 8, 3, |inner| {
        let steps = prop::collection::vec(inner, 0..3);
        prop_oneof![
            (steps.clone(), steps.clone()).prop_map(|(first, second)| Step::Diamond(first, second)),
            (1..6u64, steps.clone(), steps.clone()).prop_map(|(of, first, second)| Step::Split(of, first, second)),
            steps.prop_map(Step::Branch),
        ]
    })
}

fn join() -> impl Strategy<Value = Join> {
    let how = prop_oneof![Just(JoinKind::Inner), Just(JoinKind::LeftOuter), Just(JoinKind::FullOuter)];
    (how, 1..200u64, parallelism()).prop_map(|(how, keys, parallelism)| Join { how, keys, parallelism })
}

fn node() -> impl Strategy<Value = Node> {
    origin().prop_recursive(6, 24, 2, |inner| {
        prop_oneof![
            3 => (inner.clone(), step()).prop_map(|(before, step)| Node::Then(Box::new(before), step)),
            1 => (inner.clone(), inner.clone()).prop_map(|(left, right)| Node::Union(Box::new(left), Box::new(right))),
            1 => (inner.clone(), inner.clone())
                .prop_map(|(left, right)| Node::Connect(Box::new(left), Box::new(right))),
            1 => (inner.clone(), inner, join())
                .prop_map(|(left, right, join)| Node::Join(Box::new(left), Box::new(right), join)),
        ]
    })
}

fn room() -> impl Strategy<Value = Room> {
    (1..40usize, 1..4usize, 1..40usize, 1..4usize).prop_map(
        |(batch_items, channel_batches, port_items, task_threads)| Room {
            batch_items,
            channel_batches,
            port_items,
            task_threads,
        },
    )
}

/// Nothing interferes with the job.
pub fn undisturbed() -> impl Strategy<Value = Case> {
    case(prop_oneof![3 => Just(Plan::Watch), 1 => Just(Plan::Idle)])
}

/// The job is interrupted once some of the first source's items have passed.
pub fn interrupted() -> impl Strategy<Value = Case> {
    let after = || prop_oneof![1 => Just(0usize), 4 => 0..400usize];
    case(prop_oneof![
        after().prop_map(|after| Plan::Stop { after }),
        after().prop_map(|after| Plan::Cancel { after }),
        after().prop_map(|after| Plan::Pause { after }),
    ])
}

/// Mostly where it is quickest; a node in another process is started for each case that has one.
fn place() -> impl Strategy<Value = Place> {
    prop_oneof![8 => Just(Place::Local), 3 => Just(Place::Encoded), 1 => Just(Place::Remote)]
}

fn case(plan: impl Strategy<Value = Plan>) -> impl Strategy<Value = Case> {
    // Drawn last, so that seeds of before mean what they meant.
    let drawn = (node(), 0..=4usize, plan, room(), place());
    drawn.prop_filter_map("too many items", |(root, services, plan, room, place)| {
        let emitted = origins(&root).into_iter().map(items_of).collect();
        (evaluate(&root, emitted).peak <= PEAK_MAX).then(|| {
            let record = match plan {
                Plan::Watch | Plan::Idle => Record::Nothing,
                Plan::Cancel { .. } | Plan::Pause { .. } => Record::Ticks,
                Plan::Stop { .. } => Record::Everything,
            };
            Case { job: RandomJob { root, services, record }, plan, room, place }
        })
    })
}
