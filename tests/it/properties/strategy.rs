//! How random graphs, environments and interruptions are drawn.

use std::time::Duration;

use proptest::prelude::*;

use super::{
    drive::{Case, Plan, Room},
    eval::{evaluate, items_of, origins},
    killed::{Killed, Moment},
    shape::{
        Body, Fault, Join, JoinKind, Keyed, Node, Order, Origin, OriginKind, Policy, RandomJob, Record, Round, Step,
        Whole,
    },
};
use crate::support::Place;

/// Graphs with more items in one stream than this are not run.
const PEAK_MAX: usize = 20_000;

fn is_small(root: &Node) -> bool {
    evaluate(root, origins(root).into_iter().map(items_of).collect()).peak <= PEAK_MAX
}

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

/// What graphs have that are spread over workers, besides.
fn spread_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => parallelism().prop_map(|parallelism| Step::ZipChanged { parallelism }),
        1 => (1..20usize).prop_map(|limit| Step::Ask { limit }),
    ]
}

fn step(simple: BoxedStrategy<Step>) -> impl Strategy<Value = Step> {
    simple.prop_recursive(2, 8, 3, |inner| {
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
            3 => (inner.clone(), step(simple_step().boxed())).prop_map(|(before, step)| Node::Then(Box::new(before), step)),
            1 => (inner.clone(), inner.clone()).prop_map(|(left, right)| Node::Union(Box::new(left), Box::new(right))),
            1 => (inner.clone(), inner.clone())
                .prop_map(|(left, right)| Node::Connect(Box::new(left), Box::new(right))),
            1 => (inner.clone(), inner, join())
                .prop_map(|(left, right, join)| Node::Join(Box::new(left), Box::new(right), join)),
        ]
    })
}

fn spread_node() -> impl Strategy<Value = Node> {
    origin().prop_recursive(6, 24, 2, |inner| {
        let simple = prop_oneof![9 => simple_step(), 1 => spread_step()];
        let pair = || (inner.clone(), inner.clone()).prop_map(|(left, right)| (Box::new(left), Box::new(right)));
        prop_oneof![
            6 => (inner.clone(), step(simple.boxed())).prop_map(|(before, step)| Node::Then(Box::new(before), step)),
            2 => pair().prop_map(|(left, right)| Node::Union(left, right)),
            2 => pair().prop_map(|(left, right)| Node::Connect(left, right)),
            2 => (pair(), join()).prop_map(|((left, right), join)| Node::Join(left, right, join)),
            1 => pair().prop_map(|(left, right)| Node::Zip(left, right)),
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

fn left_alone() -> impl Strategy<Value = Plan> {
    prop_oneof![3 => Just(Plan::Watch), 1 => Just(Plan::Idle)]
}

/// Nothing interferes with the job.
pub fn undisturbed() -> impl Strategy<Value = Case> {
    case(node(), left_alone(), place())
}

/// The job is interrupted once some of the first source's items have passed.
pub fn interrupted() -> impl Strategy<Value = Case> {
    case(node(), disturbance(), place())
}

fn disturbance() -> impl Strategy<Value = Plan> {
    let after = || prop_oneof![1 => Just(0usize), 4 => 0..400usize];
    prop_oneof![
        after().prop_map(|after| Plan::Stop { after }),
        after().prop_map(|after| Plan::Cancel { after }),
        after().prop_map(|after| Plan::Pause { after }),
    ]
}

/// The job is spread over worker processes, and left alone or interrupted.
pub fn spread() -> impl Strategy<Value = Case> {
    case(spread_node(), prop_oneof![left_alone(), disturbance()], workers())
}

/// One of the workers is killed at some moment: before the job is there, while it runs, or when it is over.
pub fn killed() -> impl Strategy<Value = Killed> {
    let moment = prop_oneof![
        1 => (0..20_000u64).prop_map(|micros| Moment::After(Duration::from_micros(micros))),
        2 => (0..400usize).prop_map(Moment::Seen),
    ];
    let drawn = (spread_node(), 0..=2usize, room(), 2..=3usize, moment, 0..3usize);
    drawn.prop_filter_map("too many items", |(root, services, room, workers, moment, which)| {
        // While there is something to come, as far as the first source says.
        let first = usize::try_from(origins(&root)[0].count).map_or(1, |count| count.max(1));
        let moment = if let Moment::Seen(seen) = moment { Moment::Seen(seen % first) } else { moment };
        is_small(&root).then_some(Killed { root, services, room, workers, moment, which: which % workers })
    })
}

/// As [`killed`], of a job that can begin anew: all of its sources can be read again.
pub fn begun_anew() -> impl Strategy<Value = Killed> {
    (killed(), (10..90u32).prop_map(Moment::Part)).prop_map(|(killed, moment)| {
        let mut root = killed.root;
        readable_again(&mut root);
        Killed { root, moment, ..killed }
    })
}

fn readable_again(node: &mut Node) {
    match node {
        Node::From(origin) => origin.kind = OriginKind::Splittable,
        Node::Then(before, _) => readable_again(before),
        Node::Union(left, right) | Node::Connect(left, right) | Node::Join(left, right, _) | Node::Zip(left, right) => {
            readable_again(left);
            readable_again(right);
        }
    }
}

fn workers() -> impl Strategy<Value = Place> {
    let bytes = prop_oneof![Just(1usize << 10), Just(4 << 10), Just(256 << 10)];
    (2..=4usize, bytes).prop_map(|(count, peer_channel_bytes)| Place::Workers { count, peer_channel_bytes })
}

/// Mostly where it is quickest; a node in another process is started for each case that has one.
fn place() -> impl Strategy<Value = Place> {
    prop_oneof![8 => Just(Place::Local), 3 => Just(Place::Encoded), 1 => Just(Place::Remote)]
}

fn case(
    node: impl Strategy<Value = Node>,
    plan: impl Strategy<Value = Plan>,
    place: impl Strategy<Value = Place>,
) -> impl Strategy<Value = Case> {
    // The place is drawn last, so that seeds of before mean what they meant.
    let drawn = (node, 0..=4usize, plan, room(), place);
    drawn.prop_filter_map("too many items", |(root, services, plan, room, place)| {
        is_small(&root).then(|| {
            let record = match plan {
                Plan::Watch | Plan::Idle => Record::Nothing,
                Plan::Cancel { .. } | Plan::Pause { .. } => Record::Ticks,
                Plan::Stop { .. } => Record::Everything,
            };
            Case { job: RandomJob { root, services, record }, plan, room, place }
        })
    })
}
