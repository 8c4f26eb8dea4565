//! Keys: each on one instance, in order, with its own state.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::support::{completed, each_environment, job, only, output_of, read, registered, sorted};

job!(ByUser { users: Vec<u32> }, |job, flow| {
    let keyed = flow.from_batch(job.users.clone()).key_by(|user| *user).parallelism(2);
    keyed.values().map_async(1, async |ctx, user| Ok((ctx.instance(), user))).collect("out");
});

#[test]
fn all_records_of_a_user_meet_on_one_instance() {
    each_environment(async |env| {
        let out: Vec<(u32, u32)> = output_of(env, ByUser { users: vec![1, 2, 3, 1, 2, 3] }).await;
        assert_eq!(out.len(), 6);
        for user in 1..=3 {
            let instances: Vec<u32> = out.iter().filter(|(_, other)| *other == user).map(|(at, _)| *at).collect();
            assert_eq!(instances.len(), 2, "user {user}");
            assert_eq!(instances[0], instances[1], "user {user} is on two instances");
        }
    });
}

job!(OddKeys {}, |job, flow| {
    let records = || (0..30u64).collect::<Vec<_>>();
    let zero = flow.from_batch(records()).key_by(|_| "0".to_owned()).parallelism(3).values();
    zero.map_async(1, async |ctx, n| Ok((ctx.instance(), n))).collect("zero");
    let empty = flow.from_batch(records()).key_by(|_| String::new()).parallelism(3).values();
    empty.map_async(1, async |ctx, n| Ok((ctx.instance(), n))).collect("empty");
    let no = flow.from_batch(records()).key_by(|_| false).parallelism(3).values();
    no.map_async(1, async |ctx, n| Ok((ctx.instance(), n))).collect("false");
    let unit = flow.from_batch(records()).key_by(|_| ()).parallelism(3).values();
    unit.map_async(1, async |ctx, n| Ok((ctx.instance(), n))).collect("unit");
});

#[test]
fn keys_that_look_empty_are_keys_like_any_other() {
    each_environment(async |env| {
        let job = completed(env, OddKeys {}).await;
        for output in ["zero", "empty", "false", "unit"] {
            let out: Vec<(u32, u64)> = read(&job, output).await;
            let instances: BTreeSet<u32> = out.iter().map(|(instance, _)| *instance).collect();
            assert_eq!(instances.len(), 1, "{output}");
            assert_eq!(out.into_iter().map(|(_, n)| n).collect::<Vec<_>>(), (0..30).collect::<Vec<_>>(), "{output}");
        }
    });
}

job!(Routed { keys: Vec<String> }, |job, flow| {
    let keyed = flow.from_batch(job.keys.clone()).key_by(|key: &String| key.clone()).parallelism(4);
    keyed.values().map_async(1, async |ctx, key| Ok((key, ctx.instance()))).collect("out");
});

/// The instance of four that each key goes to. Fixed for ever: state that was saved by one process is looked for at
/// the same instance by another one.
const ROUTES: [(&str, u32); 8] = [
    ("alice", 0),
    ("bob", 1),
    ("charlie", 0),
    ("dora", 0),
    ("", 0),
    ("0", 3),
    ("Äpfel", 2),
    ("a key of more than 16 bytes", 3),
];

#[test]
fn a_key_goes_to_the_same_instance_in_every_process() {
    each_environment(async |env| {
        let keys = ROUTES.map(|(key, _)| key.to_owned()).into();
        let out: Vec<(String, u32)> = output_of(env, Routed { keys }).await;
        let expected = ROUTES.map(|(key, instance)| (key.to_owned(), instance));
        assert_eq!(sorted(out), sorted(expected));
    });
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Action {
    user: String,
    what: String,
    worth: u64,
}

job!(RunningTotals { actions: Vec<Action> }, |job, flow| {
    let keyed = flow.from_batch(job.actions.clone()).key_by(|action: &Action| action.user.clone());
    let totals = keyed.map_with_state((0u64, 0u64), |user, (count, total), action: Action| {
        *count += 1;
        *total += action.worth;
        (user.clone(), *count, *total)
    });
    totals.collect("out");
});

#[test]
fn each_key_has_a_state_of_its_own_that_sees_its_items_in_order() {
    each_environment(async |env| {
        let actions = [
            ("alice", "login", 10),
            ("bob", "click", 5),
            ("alice", "click", 15),
            ("charlie", "login", 20),
            ("bob", "purchase", 100),
            ("alice", "logout", 0),
        ];
        let actions = actions.map(|(user, what, worth)| Action { user: user.to_owned(), what: what.to_owned(), worth });
        let out: Vec<(String, u64, u64)> = output_of(env, RunningTotals { actions: actions.into() }).await;
        let mut by_user: BTreeMap<String, Vec<(u64, u64)>> = BTreeMap::new();
        for (user, count, total) in out {
            by_user.entry(user).or_default().push((count, total));
        }
        let expected =
            [("alice", vec![(1, 10), (2, 25), (3, 25)]), ("bob", vec![(1, 5), (2, 105)]), ("charlie", vec![(1, 20)])];
        assert_eq!(by_user, expected.map(|(user, states)| (user.to_owned(), states)).into());
    });
}

job!(KeyedAggregates { items: u64, parallelism: usize }, |job, flow| {
    let parallelism = job.parallelism;
    let keyed = |flow: &mut proscenium::Flow| {
        let numbers = flow.from_batch(0..job.items).rebalance(2);
        numbers.key_by(|n| n % 10).parallelism(parallelism)
    };
    keyed(flow).count().collect("count");
    keyed(flow).sum().collect("sum");
    keyed(flow).reduce(|most, n| *most = n.max(*most)).collect("reduce");
    keyed(flow).fold(Vec::new(), |all: &mut Vec<u64>, n| all.push(n)).collect("fold");
    let add = |sum: &mut u64, n: u64| *sum += n;
    keyed(flow).fold_assoc(0, add, add).collect("fold_assoc");
    keyed(flow).entries().collect("entries");
});

#[test]
fn keyed_aggregates_are_exact_for_each_key() {
    each_environment(async |env| {
        for parallelism in [1, 3] {
            let job = completed(env, KeyedAggregates { items: 1000, parallelism }).await;
            let counts: Vec<(u64, u64)> = read(&job, "count").await;
            assert_eq!(counts.iter().map(|(_, count)| count).sum::<u64>(), 1000);
            let sums: Vec<(u64, u64)> = read(&job, "sum").await;
            let most: Vec<(u64, u64)> = read(&job, "reduce").await;
            let folds: Vec<(u64, Vec<u64>)> = read(&job, "fold").await;
            let fold_assoc: Vec<(u64, u64)> = read(&job, "fold_assoc").await;
            let entries: Vec<(u64, u64)> = read(&job, "entries").await;
            assert_eq!([counts.len(), sums.len(), most.len(), folds.len(), fold_assoc.len()], [10; 5]);
            for key in 0..10 {
                let items: Vec<u64> = (0..1000).filter(|n| n % 10 == key).collect();
                assert_eq!(only(&counts, &key), 100);
                assert_eq!(only(&sums, &key), items.iter().sum::<u64>());
                assert_eq!(only(&fold_assoc, &key), items.iter().sum::<u64>());
                assert_eq!(only(&most, &key), 990 + key);
                assert_eq!(sorted(only(&folds, &key)), items);
                let own = entries.iter().filter(|(other, _)| *other == key).map(|(_, n)| *n);
                assert_eq!(sorted(own), items);
            }
        }
    });
}

#[test]
fn keyed_aggregates_of_no_items_are_no_results() {
    each_environment(async |env| {
        let job = completed(env, KeyedAggregates { items: 0, parallelism: 3 }).await;
        for output in ["count", "sum", "reduce", "fold_assoc", "entries"] {
            assert_eq!(read::<(u64, u64)>(&job, output).await, [], "{output}");
        }
    });
}

job!(ManyKeys { keys: u64 }, |job, flow| {
    let keys = job.keys;
    flow.from_batch(0..2 * keys).key_by(move |n| n % keys).parallelism(3).count().collect("out");
});

#[test]
fn pre_combining_stays_exact_when_keys_hardly_repeat() {
    each_environment(async |env| {
        let keys = 100_000;
        let out: Vec<(u64, u64)> = output_of(env, ManyKeys { keys }).await;
        assert_eq!(sorted(out), (0..keys).map(|key| (key, 2)).collect::<Vec<_>>());
    });
}

registered![ByUser, OddKeys, Routed, RunningTotals, KeyedAggregates, ManyKeys];
