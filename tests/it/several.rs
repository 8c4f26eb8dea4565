//! Several inputs and several outputs: connected streams, each with a closure of its own, joins by key, and splits.

use std::time::Duration;

use proptest::{prelude::*, test_runner::TestRunner};
use proscenium::{BuildRefusal, Either, ErrorPolicy, Input, LocalEnvironment, Parallelism, Stream};
use serde::{Deserialize, Serialize};

use crate::support::{
    completed, deadline, each_environment, ended, job, output_of, read, refusal, registered, sorted, start,
};

registered![
    Connected,
    Lengths,
    WithItself,
    InOrder,
    Greetings,
    FromOneSource,
    TwoJoins,
    NothingLeft,
    Outer,
    Joined,
    Apart,
    Live,
    Unequal,
    Fails,
    Parted,
    OneSideTaken,
    PartedByKind,
    PartedBadly
];

/// Longer than any test takes.
const LONG: Duration = Duration::from_secs(24 * 3600);

job!(Connected { parallelism: usize }, |job, flow| {
    let numbers = flow.from_batch(1..=5u64).rebalance(job.parallelism);
    let tens = flow.from_batch(1..=3u64).rebalance(job.parallelism);
    numbers.connect(tens).co_map((), |(), n| n, |(), n| n * 10).collect("out");
});

#[test]
fn connected_streams_have_a_closure_each() {
    each_environment(async |env| {
        for parallelism in [1, 2] {
            let out: Vec<u64> = output_of(env, Connected { parallelism }).await;
            assert_eq!(sorted(out), [1, 2, 3, 4, 5, 10, 20, 30]);
        }
    });
}

job!(Lengths { left: u64, right: u64 }, |job, flow| {
    let (left, right) = (flow.from_batch(0..job.left), flow.from_batch(0..job.right));
    left.connect(right).co_map((), |(), n| n, |(), n| n).collect("out");
});

#[test]
fn no_inputs_end_cuts_another_short() {
    each_environment(async |env| {
        for (left, right) in [(5, 500), (500, 5), (0, 7), (0, 0)] {
            let out: Vec<u64> = output_of(env, Lengths { left, right }).await;
            assert_eq!(sorted(out), sorted((0..left).chain(0..right)));
        }
    });
}

job!(WithItself {}, |this, flow| {
    let (left, right) = flow.from_batch(1..=100u64).tee();
    left.connect(right).co_map((), |(), n| (0u8, n), |(), n| (1u8, n)).collect("out");
});

#[test]
fn a_stream_connected_with_itself_gives_each_item_once_per_input() {
    each_environment(async |env| {
        let out: Vec<(u8, u64)> = output_of(env, WithItself {}).await;
        let expected = (0..=1).flat_map(|input| (1..=100).map(move |n| (input, n)));
        assert_eq!(sorted(out), sorted(expected));
    });
}

job!(InOrder {}, |this, flow| {
    let stream =
        |flow: &mut proscenium::Flow, text: &str| -> Stream<String> { flow.from_batch(vec![text.to_owned(); 3]) };
    let (a, b) = (stream(flow, "a"), stream(flow, "b"));
    let (c, d) = (stream(flow, "c").map(|text| text.len()), stream(flow, "d").map(|_| 'd'));
    let four = a.connect(b).connect(c).connect(d);
    // The state is shared by all four.
    let number = |seen: &mut u64| {
        *seen += 1;
        *seen
    };
    four.co_flat_map(
        0u64,
        move |seen, text, out| out.push((number(seen), 0u8, text)),
        move |seen, text, out| out.push((number(seen), 1, text)),
        move |seen, length, out| out.push((number(seen), 2, length.to_string())),
        move |seen, letter, out| out.push((number(seen), 3, letter.to_string())),
    )
    .collect("out");
});

#[test]
fn inputs_are_numbered_in_the_order_in_which_they_were_connected() {
    each_environment(async |env| {
        let out: Vec<(u64, u8, String)> = output_of(env, InOrder {}).await;
        let numbers: Vec<u64> = out.iter().map(|(number, ..)| *number).collect();
        assert_eq!(numbers, (1..=12).collect::<Vec<_>>(), "one state, and results in order");
        for (input, text) in [(0, "a"), (1, "b"), (2, "1"), (3, "d")] {
            let texts: Vec<&str> = out.iter().filter(|(_, of, _)| *of == input).map(|(.., text)| &**text).collect();
            assert_eq!(texts, [text; 3]);
        }
    });
}

job!(Greetings {}, |this, flow| {
    let side = |text: &'static str| (1..=5u32).map(move |i| (i, format!("{text}-{i}")));
    let hello = flow.from_batch(side("Hello")).key_by(|(i, _)| *i);
    let world = flow.from_batch(side("World")).key_by(|(i, _)| *i);
    hello.join(world).map(|(_, ((_, hello), (_, world)))| format!("{hello} {world}")).collect("out");
});

job!(FromOneSource {}, |this, flow| {
    let (left, right) = flow.from_batch(0..50u32).tee();
    left.key_by(|n| n % 10).join(right.key_by(|n| n % 10)).map(|(_, pair)| pair).collect("out");
});

job!(TwoJoins {}, |this, flow| {
    let numbers = |flow: &mut proscenium::Flow| flow.from_batch(0..20u32).key_by(|n| *n);
    let (a, b, c) = (numbers(flow), numbers(flow), numbers(flow));
    let both = a.join(b).key_by(|(key, _)| *key).join(c);
    both.map(|(_, ((_, (a, b)), c))| (a, b, c)).collect("out");
});

#[test]
fn equal_keys_of_both_sides_meet_and_each_pair_comes_once() {
    each_environment(async |env| {
        let out: Vec<String> = output_of(env, Greetings {}).await;
        assert_eq!(sorted(out), (1..=5).map(|i| format!("Hello-{i} World-{i}")).collect::<Vec<_>>());
        let out: Vec<(u32, u32)> = output_of(env, FromOneSource {}).await;
        let expected = (0..50).flat_map(|a| (0..50).filter(move |b| a % 10 == b % 10).map(move |b| (a, b)));
        assert_eq!(sorted(out), sorted(expected));
        let out: Vec<(u32, u32, u32)> = output_of(env, TwoJoins {}).await;
        assert_eq!(sorted(out), (0..20).map(|n| (n, n, n)).collect::<Vec<_>>());
    });
}

job!(NothingLeft {}, |this, flow| {
    let left = flow.from_batch(0..100u32).filter(|_| false).key_by(|n| *n);
    left.join(flow.from_batch(0..100u32).key_by(|n| *n)).collect("out");
});

job!(Outer {}, |this, flow| {
    let left = |flow: &mut proscenium::Flow| flow.from_batch([1u32, 2, 2, 3]).key_by(|n| *n);
    let right = |flow: &mut proscenium::Flow| flow.from_batch([(2u32, 'x'), (4, 'y'), (4, 'z')]).key_by(|(n, _)| *n);
    let (l, r) = (left(flow), right(flow));
    l.left_outer_join(r).map(|(_, (n, right))| (n, right.map(|(_, c)| c))).collect("left");
    let (l, r) = (left(flow), right(flow));
    l.full_outer_join(r).map(|(key, (n, right))| (key, n, right.map(|(_, c)| c))).collect("full");
    let (l, r) = (left(flow), flow.from_batch(Vec::<u32>::new()).key_by(|n| *n));
    l.left_outer_join(r).map(|(_, pair)| pair).collect("empty");
});

#[test]
fn what_has_no_partner_comes_out_alone_at_the_end_or_not_at_all() {
    each_environment(async |env| {
        let out: Vec<(u32, (u32, u32))> = output_of(env, NothingLeft {}).await;
        assert!(out.is_empty());
        let job = completed(env, Outer {}).await;
        let left: Vec<(u32, Option<char>)> = read(&job, "left").await;
        assert_eq!(sorted(left), [(1, None), (2, Some('x')), (2, Some('x')), (3, None)]);
        let full: Vec<(u32, Option<u32>, Option<char>)> = read(&job, "full").await;
        let expected = [
            (1, Some(1), None),
            (2, Some(2), Some('x')),
            (2, Some(2), Some('x')),
            (3, Some(3), None),
            (4, None, Some('y')),
            (4, None, Some('z')),
        ];
        assert_eq!(sorted(full), expected);
        let empty: Vec<(u32, Option<u32>)> = read(&job, "empty").await;
        assert_eq!(sorted(empty), [(1, None), (2, None), (2, None), (3, None)]);
    });
}

const TWO: Parallelism = Parallelism::Fixed(2);
const THREE: Parallelism = Parallelism::Fixed(3);

job!(Unequal { kind: u8 }, |job, flow| {
    let numbers = |flow: &mut proscenium::Flow| flow.from_batch(0..10u32);
    let (a, b) = (numbers(flow), numbers(flow));
    match job.kind {
        0 => {
            let (a, b) = (a.key_by(|n| *n).parallelism(2).entries(), b.key_by(|n| *n).parallelism(3).entries());
            a.connect(b).co_map((), |(), n| n, |(), n| n).collect("out");
        }
        1 => a.key_by(|n| *n).parallelism(2).join(b.key_by(|n| *n).parallelism(3)).collect("out"),
        _ => a.key_by(|n| *n).parallelism(0).join(b.key_by(|n| *n).parallelism(0)).collect("out"),
    }
});

#[test]
fn inputs_of_unequal_parallelism_are_refused_when_the_flow_is_built() {
    each_environment(async |env| {
        for (kind, operator) in [(0, "connect"), (1, "join")] {
            let unequal = BuildRefusal::UnequalParallelism { operator: operator.to_owned(), left: TWO, right: THREE };
            assert_eq!(refusal(env, Unequal { kind }).await, unequal);
        }
        let zero = BuildRefusal::ZeroParallelism { operator: "key_by".to_owned() };
        assert_eq!(refusal(env, Unequal { kind: 2 }).await, zero);
    });
}

job!(Parted { parallelism: usize }, |job, flow| {
    let (even, odd) = flow.from_batch(0..1000u64).rebalance(job.parallelism).split(|n| n % 2 == 0);
    even.collect("even");
    odd.map(|n| n + 1000).collect("odd");
});

job!(OneSideTaken {}, |this, flow| {
    let (even, odd) = flow.from_batch(0..100_000u64).split(|n| n % 2 == 0);
    even.take(3).collect("even");
    odd.count().collect("odd");
});

#[derive(Debug, Clone, Serialize, Deserialize)]
enum Event {
    Login(String),
    Purchase { user: String, amount: u32 },
    Logout,
}

job!(PartedByKind { events: Vec<Event> }, |job, flow| {
    let (logins, others) = flow.from_batch(job.events.clone()).split_map(|event| match event {
        Event::Login(user) => Either::Left(user),
        other => Either::Right(other),
    });
    let (purchases, rest) = others.split_map(|event| match event {
        Event::Purchase { user, amount } => Either::Left((user, amount)),
        other => Either::Right(other),
    });
    logins.collect("logins");
    purchases.collect("purchases");
    rest.count().collect("rest");
});

job!(PartedBadly { skip: bool }, |job, flow| {
    let (low, high) = flow.from_batch(1..=8u64).split(|n| if *n == 3 { panic!("not {n}") } else { *n < 5 });
    let policy = if job.skip { ErrorPolicy::Skip } else { ErrorPolicy::Fail };
    // The policy is that of the operator, whichever of its streams it is named on.
    low.on_error(policy).collect("low");
    high.collect("high");
});

#[test]
fn a_stream_that_is_split_has_each_item_on_one_side() {
    each_environment(async |env| {
        for parallelism in [1, 3] {
            let job = completed(env, Parted { parallelism }).await;
            let even: Vec<u64> = read(&job, "even").await;
            assert_eq!(sorted(even), (0..1000).step_by(2).collect::<Vec<_>>());
            let odd: Vec<u64> = read(&job, "odd").await;
            assert_eq!(sorted(odd), (1001..2000).step_by(2).collect::<Vec<_>>());
        }
        let job = completed(env, OneSideTaken {}).await;
        assert_eq!(read::<u64>(&job, "even").await, [0, 2, 4]);
        assert_eq!(read::<u64>(&job, "odd").await, [50_000], "one side's end does not end the other");
    });
}

#[test]
fn an_enum_is_split_into_its_arms() {
    each_environment(async |env| {
        let purchase = |user: &str, amount| Event::Purchase { user: user.to_owned(), amount };
        let events =
            vec![Event::Login("ann".to_owned()), purchase("ann", 5), Event::Logout, purchase("bob", 7), Event::Logout];
        let job = completed(env, PartedByKind { events }).await;
        assert_eq!(read::<String>(&job, "logins").await, ["ann"]);
        let purchases: Vec<(String, u32)> = read(&job, "purchases").await;
        assert_eq!(purchases, [("ann".to_owned(), 5), ("bob".to_owned(), 7)]);
        assert_eq!(read::<u64>(&job, "rest").await, [2]);
    });
}

#[test]
fn an_item_that_cannot_be_split_fails_the_job_or_is_set_aside() {
    each_environment(async |env| {
        let job = start(env, PartedBadly { skip: false }).await;
        let outcome = ended(&job).await.to_string();
        assert!(outcome.contains("`split` (instance 0) panicked at item 3: not 3"), "{outcome}");
        let job = completed(env, PartedBadly { skip: true }).await;
        assert_eq!(read::<u64>(&job, "low").await, [1, 2, 4]);
        assert_eq!(read::<u64>(&job, "high").await, [5, 6, 7, 8]);
        assert_eq!(job.dead_letters().await.unwrap().total, 1);
    });
}

/// A key that bears no hashing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Brittle(u32);

impl std::hash::Hash for Brittle {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        assert!(self.0 != 7, "not this one");
        self.0.hash(state);
    }
}

job!(Fails { kind: u8 }, |job, flow| {
    let (a, b) = (flow.from_batch(0..10u32), flow.from_batch(0..10u32));
    match job.kind {
        0 => a.key_by(|n| Brittle(*n)).join(b.key_by(|n| Brittle(*n))).map(|(_, pair)| pair).collect("out"),
        1 => {
            let fails = |(): &mut (), n: u32| if n == 4 { panic!("no {n}") } else { n };
            a.connect(b).co_map((), |(), n| n, fails).collect("out");
        }
        _ => a.key_by(|n| if *n == 3 { panic!("no key") } else { *n }).join(b.key_by(|n| *n)).collect("out"),
    }
});

#[test]
fn a_key_or_closure_that_panics_fails_the_job_by_name() {
    each_environment(async |env| {
        for (kind, part) in [(0, "not this one"), (1, "`co_map` (instance 0) panicked"), (2, "no key")] {
            let job = start(env, Fails { kind }).await;
            let outcome = ended(&job).await;
            assert!(outcome.is_failed() && outcome.to_string().contains(part), "{outcome}");
        }
    });
}

job!(Apart { kind: u8 }, |job, flow| {
    let numbers = |flow: &mut proscenium::Flow| flow.from_batch(0..100u32);
    let (left, right) = (numbers(flow), numbers(flow));
    match job.kind {
        // The items of one side follow each other, so they would be held.
        0 => left.key_by(|n| *n).join_within(right.key_by(|n| *n), Duration::ZERO).collect("out"),
        _ => {
            let (left, right) = (left.key_by(|n| *n).parallelism(2), right.key_by(|n| *n).parallelism(3));
            left.join_within(right, LONG).collect("out");
        }
    }
});

job!(Live {}, |job, flow| {
    let left = flow.from_channel::<u32>("left").key_by(|n| *n);
    let right = flow.from_channel::<u32>("right").key_by(|n| *n);
    left.join_within(right, LONG).stream_out("out");
});

#[test]
fn a_join_within_a_time_gives_pairs_while_its_inputs_go_on_and_forgets_what_came_before() {
    each_environment(async |env| {
        let out: Vec<(u32, (u32, u32))> = output_of(env, Apart { kind: 0 }).await;
        assert!(out.is_empty(), "nothing comes at one instant");
        let unequal = BuildRefusal::UnequalParallelism { operator: "join_within".to_owned(), left: TWO, right: THREE };
        assert_eq!(refusal(env, Apart { kind: 1 }).await, unequal);
        let job = start(env, Live {}).await;
        let (left, right): (Input<u32>, Input<u32>) = (job.input("left"), job.input("right"));
        let mut out = job.output::<(u32, (u32, u32))>("out");
        for n in 0..10 {
            left.send(n).await.unwrap();
            right.send(n).await.unwrap();
            assert_eq!(deadline("a pair", out.next()).await.unwrap(), Some((n, (n, n))));
        }
        left.finish().await.unwrap();
        right.finish().await.unwrap();
        assert_eq!(deadline("the end", out.next()).await.unwrap(), None);
        let _ = ended(&job).await;
    });
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Case {
    left: Vec<(u8, u16)>,
    right: Vec<(u8, u16)>,
    parallelism: usize,
    dealt: usize,
}

job!(Joined { case: Case }, |job, flow| {
    let Case { left, right, parallelism, dealt } = job.case.clone();
    let side = |flow: &mut proscenium::Flow, items: Vec<(u8, u16)>| {
        flow.from_batch(items).rebalance(dealt).key_by(|(key, _)| *key).parallelism(parallelism)
    };
    let (l, r) = (side(flow, left.clone()), side(flow, right.clone()));
    l.join(r).collect("inner");
    let (l, r) = (side(flow, left.clone()), side(flow, right.clone()));
    l.left_outer_join(r).collect("left");
    let (l, r) = (side(flow, left.clone()), side(flow, right.clone()));
    l.full_outer_join(r).collect("full");
    let (l, r) = (side(flow, left), side(flow, right));
    l.join_within(r, LONG).collect("within");
});

type Item = (u8, u16);
type Sides = (Option<Item>, Option<Item>);

/// The same by two nested loops.
fn naive(case: &Case) -> (Vec<(Item, Item)>, Vec<Item>, Vec<Item>) {
    let mut pairs = Vec::new();
    for left in &case.left {
        pairs.extend(case.right.iter().filter(|right| right.0 == left.0).map(|right| (*left, *right)));
    }
    let alone = |items: &[Item], others: &[Item]| -> Vec<Item> {
        items.iter().filter(|item| others.iter().all(|other| other.0 != item.0)).copied().collect()
    };
    (pairs, alone(&case.left, &case.right), alone(&case.right, &case.left))
}

#[test]
fn a_join_is_what_two_nested_loops_make() {
    let env = LocalEnvironment::builder("joins").task_threads(2).open().expect("an environment");
    let items = || prop::collection::vec((0..12u8, any::<u16>()), 0..60);
    let case = (items(), items(), 1..=4usize, 1..=3usize);
    let case = case.prop_map(|(left, right, parallelism, dealt)| Case { left, right, parallelism, dealt });
    let mut runner = TestRunner::new(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() });
    let checked = runner.run(&case, |case| {
        let (pairs, left, right) = naive(&case);
        crate::support::block_on(async {
            let job = completed(&env, Joined { case }).await;
            let inner: Vec<(u8, (Item, Item))> = read(&job, "inner").await;
            assert_eq!(sorted(inner), sorted(pairs.iter().map(|(a, b)| (a.0, (*a, *b)))));
            let within: Vec<(u8, (Item, Item))> = read(&job, "within").await;
            assert_eq!(sorted(within), sorted(pairs.iter().map(|(a, b)| (a.0, (*a, *b)))));
            let outer: Vec<(u8, (Item, Option<Item>))> = read(&job, "left").await;
            let expected: Vec<_> = pairs.iter().map(|(a, b)| (a.0, (*a, Some(*b)))).collect();
            assert_eq!(sorted(outer), sorted(expected.into_iter().chain(left.iter().map(|a| (a.0, (*a, None))))));
            let full: Vec<(u8, Sides)> = read(&job, "full").await;
            let expected: Vec<_> = pairs.iter().map(|(a, b)| (a.0, (Some(*a), Some(*b)))).collect();
            let alone =
                left.iter().map(|a| (a.0, (Some(*a), None))).chain(right.iter().map(|b| (b.0, (None, Some(*b)))));
            assert_eq!(sorted(full), sorted(expected.into_iter().chain(alone)));
        });
        Ok(())
    });
    checked.expect("every case agrees");
}
