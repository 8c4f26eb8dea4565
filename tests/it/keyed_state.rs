//! State for each key: processes with ends and side outputs, and running folds.

use std::{collections::BTreeMap, time::Duration};

use proscenium::{BuildRefusal, ErrorPolicy};
use serde::{Deserialize, Serialize};

use crate::support::{completed, each_environment, ended, job, output_of, read, refusal, registered, sorted, start};

registered![Actions, Lists, Visitors, Ends, Expiring, Sides, Skipping, Failing, BrittleKeys, Sums,];

/// Longer than any test takes.
const LONG: Duration = Duration::from_secs(24 * 3600);

type Action = (String, String, u64);

job!(Actions { actions: Vec<Action> }, |job, flow| {
    let keyed = flow.from_batch(job.actions.clone()).key_by(|(user, ..): &Action| user.clone());
    let process = keyed.process(|ctx, user, (_, _, worth), (count, total): &mut (u64, u64)| {
        (*count, *total) = (*count + 1, *total + worth);
        ctx.emit((user.clone(), *count, *total));
        Ok(())
    });
    process.stream().collect("out");
});

#[test]
fn a_process_has_a_state_for_each_key_that_sees_its_items_in_order() {
    each_environment(async |env| {
        let actions = [
            ("alice", "login", 10),
            ("bob", "click", 5),
            ("alice", "click", 15),
            ("charlie", "login", 20),
            ("bob", "purchase", 100),
            ("alice", "logout", 0),
        ];
        let actions = actions.map(|(user, what, worth)| (user.to_owned(), what.to_owned(), worth));
        let out: Vec<(String, u64, u64)> = output_of(env, Actions { actions: actions.into() }).await;
        let mut by_user: BTreeMap<String, Vec<(u64, u64)>> = BTreeMap::new();
        for (user, count, total) in out {
            by_user.entry(user).or_default().push((count, total));
        }
        let expected =
            [("alice", vec![(1, 10), (2, 25), (3, 25)]), ("bob", vec![(1, 5), (2, 105)]), ("charlie", vec![(1, 20)])];
        assert_eq!(by_user, expected.map(|(user, states)| (user.to_owned(), states)).into());
    });
}

job!(Lists { parallelism: usize }, |job, flow| {
    let lists = flow.from_batch(0..100u64).key_by(|n| n % 7).parallelism(job.parallelism);
    let lists = lists.process(|ctx, key, n, list: &mut Vec<u64>| {
        list.push(n);
        if list.len() == 5 {
            ctx.emit((*key, list.clone()));
            ctx.clear_state();
        }
        Ok(())
    });
    lists
        .on_end(|ctx, key, rest| {
            ctx.emit((*key, rest.clone()));
            Ok(())
        })
        .stream()
        .collect("out");
});

job!(Visitors {}, |job, flow| {
    let visits = [(1u8, "ann"), (2, "bob"), (1, "bob"), (1, "ann"), (2, "bob"), (1, "cid")];
    let visits = flow.from_batch(visits.map(|(page, who)| (page, who.to_owned()))).key_by(|(page, _)| *page);
    let first = visits.process(|ctx, page, (_, who), seen: &mut BTreeMap<String, u32>| {
        let times = seen.entry(who.clone()).or_default();
        *times += 1;
        if *times == 1 {
            ctx.emit((*page, who));
        }
        Ok(())
    });
    first.stream().collect("out");
});

#[test]
fn lists_and_maps_are_states() {
    each_environment(async |env| {
        for parallelism in [1, 3] {
            let out: Vec<(u64, Vec<u64>)> = output_of(env, Lists { parallelism }).await;
            for key in 0..7 {
                let items: Vec<u64> = (0..100).filter(|n| n % 7 == key).collect();
                let lists: Vec<_> = out.iter().filter(|(of, _)| *of == key).map(|(_, list)| list.clone()).collect();
                // What was cleared starts anew; a key without a state has no end.
                assert_eq!(lists, items.chunks(5).map(<[u64]>::to_vec).collect::<Vec<_>>());
            }
        }
        let out: Vec<(u8, String)> = output_of(env, Visitors {}).await;
        let out = sorted(out.iter().map(|(page, who)| (*page, &**who)));
        assert_eq!(out, [(1, "ann"), (1, "bob"), (1, "cid"), (2, "bob")]);
    });
}

job!(Ends { keys: u64, take: usize }, |job, flow| {
    let ends = flow.from_batch(0..job.keys).key_by(|n| *n).parallelism(2).process(|_, _, _, _: &mut u8| Ok(()));
    let ends = ends
        .on_end(|ctx, key, _| {
            ctx.emit(*key);
            Ok(())
        })
        .stream();
    if job.take > 0 { ends.take(job.take).collect("out") } else { ends.collect("out") }
});

#[test]
fn each_key_ends_once() {
    each_environment(async |env| {
        let out: Vec<u64> = output_of(env, Ends { keys: 50_000, take: 0 }).await;
        assert_eq!(sorted(out), (0..50_000).collect::<Vec<_>>());
        let out: Vec<u64> = output_of(env, Ends { keys: 50_000, take: 3 }).await;
        assert_eq!(out.len(), 3);
        let out: Vec<u64> = output_of(env, Ends { keys: 0, take: 0 }).await;
        assert!(out.is_empty());
    });
}

job!(Expiring { time_to_live: Duration }, |job, flow| {
    let process = flow.from_batch([1u32, 2, 1, 1, 2]).key_by(|n| *n).parallelism(1);
    let process = process.process(|ctx, key, _, count: &mut u32| {
        *count += 1;
        ctx.emit((*key, *count));
        Ok(())
    });
    let process = process.on_end(|ctx, key, count| {
        ctx.emit((*key, 100 + *count));
        Ok(())
    });
    process.time_to_live(job.time_to_live).stream().collect("out");
});

#[test]
fn what_has_expired_starts_anew_and_has_no_end() {
    each_environment(async |env| {
        let out: Vec<(u32, u32)> = output_of(env, Expiring { time_to_live: Duration::ZERO }).await;
        assert_eq!(out, [(1, 1), (2, 1), (1, 1), (1, 1), (2, 1)]);
        for time_to_live in [LONG, Duration::MAX] {
            let out: Vec<(u32, u32)> = output_of(env, Expiring { time_to_live }).await;
            assert_eq!(out[..5], [(1, 1), (2, 1), (1, 2), (1, 3), (2, 2)]);
            assert_eq!(sorted(out[5..].to_vec()), [(1, 103), (2, 102)]);
        }
    });
}

job!(Sides { kind: u8, skip: bool }, |job, flow| {
    let kind = job.kind;
    let mut process = flow.from_batch(0..3000u32).key_by(|n| n % 3).process(move |ctx, _, n, _: &mut ()| {
        match (kind, n % 3) {
            (1, 2) if n == 2 => ctx.emit_to("late", n)?,
            (2, 2) if n == 2 => ctx.emit_to("text", n)?,
            (_, 0) => ctx.emit(n),
            (_, 1) => ctx.emit_to("text", n.to_string())?,
            _ => ctx.emit_to("numbers", u64::from(n))?,
        }
        Ok(())
    });
    let text = process.side_output::<String>("text");
    // What follows a side output is not what the next one is behind.
    text.map(|text| text + "!").collect("text");
    let numbers = process.side_output::<u64>(if kind == 3 { "text" } else { "numbers" });
    match kind {
        4 => drop(numbers),
        5 => numbers.take(2).collect("numbers"),
        _ => numbers.collect("numbers"),
    }
    if kind == 6 {
        return Ok(());
    }
    let policy = if job.skip { ErrorPolicy::Skip } else { ErrorPolicy::Fail };
    process.stream().uid("parted").on_error(policy).collect("out");
});

#[test]
fn side_outputs_have_types_of_their_own() {
    each_environment(async |env| {
        for kind in [0, 5] {
            let job = completed(env, Sides { kind, skip: false }).await;
            assert_eq!(sorted(read::<u32>(&job, "out").await), (0..3000).step_by(3).collect::<Vec<_>>());
            let text = (1..3000u32).step_by(3).map(|n| format!("{n}!"));
            assert_eq!(sorted(read::<String>(&job, "text").await), sorted(text));
            let numbers = sorted(read::<u64>(&job, "numbers").await);
            if kind == 0 {
                assert_eq!(numbers, (2..3000).step_by(3).collect::<Vec<_>>());
            } else {
                assert_eq!(numbers.len(), 2, "one side's end does not end the others");
            }
        }
    });
}

#[test]
fn a_side_output_that_is_not_there_or_of_another_type_fails_the_item_by_name() {
    each_environment(async |env| {
        let unknown = "there is no side output `late`; there are `text`, `numbers`";
        let wrong = "side output `text` holds `alloc::string::String` and was given `u32`";
        for (kind, message) in [(1, unknown), (2, wrong)] {
            let job = start(env, Sides { kind, skip: false }).await;
            let outcome = ended(&job).await.to_string();
            assert!(outcome.contains("operator `parted`") && outcome.contains(message), "{outcome}");
            let job = completed(env, Sides { kind, skip: true }).await;
            let dead = job.dead_letters().await.unwrap();
            assert_eq!(dead.total, 1);
            assert!(dead.newest[0].cause.contains(message), "{dead:?}");
        }
        let twice =
            BuildRefusal::DuplicateSideOutput { operator: "process".to_owned(), side_output: "text".to_owned() };
        assert_eq!(refusal(env, Sides { kind: 3, skip: false }).await, twice);
        let unconsumed = BuildRefusal::Unconsumed { operator: "parted".to_owned() };
        assert_eq!(refusal(env, Sides { kind: 4, skip: false }).await, unconsumed);
        let unfinished = BuildRefusal::Unconsumed { operator: "process".to_owned() };
        assert_eq!(refusal(env, Sides { kind: 6, skip: false }).await, unfinished);
    });
}

job!(Skipping {}, |job, flow| {
    let mut process = flow.from_batch(1..=6u32).key_by(|_| 0u8).process(|ctx, _, n, sum: &mut u32| {
        *sum += n;
        ctx.emit(*sum);
        ctx.emit_to("side", n)?;
        match n {
            2 => {
                ctx.fire_after(Duration::ZERO);
                ctx.cancel_timers();
                ctx.clear_state();
                return Err(proscenium::TaskError::new("not two"));
            }
            4 => panic!("not four"),
            _ => ctx.fire_at(ctx.now() + LONG),
        }
        Ok(())
    });
    process.side_output::<u32>("side").collect("side");
    let process = process.on_timer(|ctx, _, _, sum| {
        *sum += 1000;
        ctx.emit(*sum);
        if *sum == 2015 { panic!("not the second timer") } else { Ok(()) }
    });
    let process = process.on_end(|ctx, _, sum| {
        ctx.emit(*sum);
        Err(proscenium::TaskError::new("no end"))
    });
    process.stream().on_error(ErrorPolicy::Skip).collect("out");
});

#[test]
fn what_is_skipped_leaves_no_trace() {
    each_environment(async |env| {
        let job = completed(env, Skipping {}).await;
        let out: Vec<u32> = read(&job, "out").await;
        // 1, 3, 5 and 6, each with a timer; of the timers the second one fails, twice more they go on from its state before.
        assert_eq!(out[..4], [1, 4, 9, 15]);
        assert_eq!(out[4..], [1015]);
        assert_eq!(read::<u32>(&job, "side").await, [1, 3, 5, 6]);
        let dead = job.dead_letters().await.unwrap();
        let places: Vec<(u64, &str)> = dead.newest.iter().map(|letter| (letter.position, &*letter.cause)).collect();
        let timer = (0, "not the second timer");
        assert_eq!(places, [(2, "not two"), (4, "not four"), timer, timer, timer, (0, "no end")]);
    });
}

job!(Failing { kind: u8 }, |job, flow| {
    let kind = job.kind;
    let process = flow.from_batch(1..=6u32).key_by(|_| 0u8).process(move |ctx, _, n, _: &mut u32| {
        ctx.emit(n);
        match (kind, n) {
            (0, 4) => Err(proscenium::TaskError::new("not four")),
            (1, 4) => panic!("no fourth"),
            _ => {
                ctx.fire_at(ctx.now() + LONG);
                Ok(())
            }
        }
    });
    let process = process.on_timer(move |_, _, _, _| match kind {
        2 => Err(proscenium::TaskError::new("no timer")),
        3 => panic!("no time"),
        _ => Ok(()),
    });
    let process = process.on_end(|_, _, _| Err(proscenium::TaskError::new("no end")));
    process.stream().collect("out");
});

job!(BrittleKeys {}, |job, flow| {
    let process = flow.from_batch(0..10u32).key_by(|n| Fragile(*n)).process(|ctx, _, n, _: &mut u32| {
        ctx.emit(n);
        Ok(())
    });
    process.stream().collect("out");
});

/// A key that bears no hashing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Fragile(u32);

impl std::hash::Hash for Fragile {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        assert!(self.0 != 7, "not this one");
        self.0.hash(state);
    }
}

#[test]
fn a_step_that_fails_fails_the_job_by_name_and_position() {
    each_environment(async |env| {
        let expected = [
            "operator `process` (instance 0) failed at item 4: not four",
            "operator `process` (instance 0) panicked at item 4: no fourth",
            "operator `process` (instance 0) failed at item 0: no timer",
            "operator `process` (instance 0) panicked at item 0: no time",
            "operator `process` (instance 0) failed at item 0: no end",
        ];
        for (kind, message) in expected.into_iter().enumerate() {
            let job = start(env, Failing { kind: kind as u8 }).await;
            let outcome = ended(&job).await.to_string();
            // Which of the instances the one key is on depends on the parallelism.
            assert!(outcome.replace("(instance 1)", "(instance 0)").contains(message), "{outcome}");
        }
        let job = start(env, BrittleKeys {}).await;
        let outcome = ended(&job).await;
        assert!(outcome.is_failed() && outcome.to_string().contains("not this one"), "{outcome}");
    });
}

job!(Sums { parallelism: usize }, |job, flow| {
    flow.from_batch(1..=100u64).scan(0, |sum, n| *sum += n).collect("whole");
    let keyed = flow.from_batch(0..100u64).key_by(|n| n % 10).parallelism(job.parallelism);
    keyed.scan(Vec::new(), |all, n| all.push(n)).collect("keyed");
    let skipping = |sum: &mut u64, n: u64| {
        *sum += n;
        assert!(n != 3, "not three");
    };
    flow.from_batch(1..=5u64).scan(0, skipping).on_error(ErrorPolicy::Skip).collect("skipped");
    let keyed = flow.from_batch(1..=5u64).key_by(|_| ());
    keyed.scan(0, skipping).on_error(ErrorPolicy::Skip).collect("skipped-by-key");
});

#[test]
fn a_running_fold_gives_what_came_so_far_after_each_item() {
    each_environment(async |env| {
        for parallelism in [1, 3] {
            let job = completed(env, Sums { parallelism }).await;
            assert_eq!(read::<u64>(&job, "whole").await, (1..=100).map(|n| n * (n + 1) / 2).collect::<Vec<_>>());
            let keyed: Vec<(u64, Vec<u64>)> = read(&job, "keyed").await;
            for key in 0..10 {
                let states = keyed.iter().filter(|(of, _)| *of == key).map(|(_, all)| all.clone());
                let items: Vec<u64> = (0..100).filter(|n| n % 10 == key).collect();
                assert_eq!(states.collect::<Vec<_>>(), (1..=10).map(|n| items[..n].to_vec()).collect::<Vec<_>>());
            }
            assert_eq!(read::<u64>(&job, "skipped").await, [1, 3, 7, 12]);
            let skipped: Vec<((), u64)> = read(&job, "skipped-by-key").await;
            assert_eq!(skipped.iter().map(|(_, sum)| *sum).collect::<Vec<_>>(), [1, 3, 7, 12]);
        }
    });
}
