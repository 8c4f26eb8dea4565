//! Random graphs, left alone and interrupted: each ends, as it should, with exactly the results it should have.
//!
//! Failing seeds are kept in `tests/regressions/` and run first; they belong into the repository.

mod drive;
mod eval;
mod helper;
mod killed;
mod round;
mod shape;
mod strategy;

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    fmt::Debug,
    panic,
    sync::Once,
    time::Duration,
};

use futures::{StreamExt, stream};
use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::{Config, FileFailurePersistence, TestCaseError, TestError, TestRunner},
};

use self::{
    drive::Case,
    killed::{End, Killed},
};
use crate::{
    leaks::child::{holdings, in_child, is_long, settled},
    processes::children_of,
    support::dismiss_workers,
};

/// Cases of each property; `PROPTEST_CASES` overrides it.
const CASES: u32 = 1_500;

/// Those over several processes, and in long campaigns.
const SPREAD_CASES: u32 = 500;
const SPREAD_CASES_LONG: u32 = 20_000;

/// Those in which a worker is killed; each starts another process.
const KILLED_CASES: u32 = 50;
const KILLED_CASES_LONG: u32 = 1_000;
const BEGUN_ANEW_CASES: u32 = 24;
const KILLED_LIMIT: Duration = Duration::from_secs(3_600);

async fn ends_as_it_should(case: Case) -> Result<(), TestCaseError> {
    drive::run(case).await.map(drop)
}

fn cases_asked_for() -> Option<u32> {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok())
}

/// Panics that a job was drawn to have are no news.
fn silence_planned_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let report = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let planned = info.payload().downcast_ref::<&str>().is_some_and(|text| text.starts_with("planned"));
            if !planned {
                report(info);
            }
        }));
    });
}

/// Whether `holds` for so many of the cases.
fn holds_for<C: Debug>(
    seeds: &'static str,
    count: u32,
    cases: impl Strategy<Value = C>,
    holds: impl AsyncFn(C) -> Result<(), TestCaseError>,
) {
    silence_planned_panics();
    let config = Config {
        cases: count,
        // A case that hangs costs its whole deadline each time it is tried in a smaller form.
        max_shrink_time: 120_000,
        max_shrink_iters: 500,
        source_file: Some(file!()),
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(seeds))),
        ..Config::default()
    };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let result = TestRunner::new(config).run(&cases, |case| runtime.block_on(holds(case)));
    match result {
        Ok(()) => {}
        // On one line, from which the case can be copied.
        Err(TestError::Fail(why, case)) => panic!("{why}\nby {case:?}"),
        Err(TestError::Abort(why)) => panic!("given up: {why}"),
    }
}

pub fn jobs() -> proscenium::JobRegistry {
    proscenium::jobs![shape::RandomJob]
}

#[test]
fn a_random_graph_left_alone_completes_with_exactly_its_results_or_fails_truthfully() {
    holds_for(
        "tests/regressions/undisturbed.txt",
        cases_asked_for().unwrap_or(CASES),
        strategy::undisturbed(),
        ends_as_it_should,
    );
}

#[test]
fn a_random_graph_that_is_stopped_cancelled_or_paused_loses_and_invents_nothing_it_should_not() {
    holds_for(
        "tests/regressions/interrupted.txt",
        cases_asked_for().unwrap_or(CASES),
        strategy::interrupted(),
        ends_as_it_should,
    );
}

/// Each has its worker processes, two to four, which serve other cases before and after.
#[test]
fn a_random_graph_over_worker_processes_comes_to_what_it_comes_to_in_one() {
    let count = if is_long() { SPREAD_CASES_LONG } else { cases_asked_for().unwrap_or(SPREAD_CASES) };
    let spread = Cell::new(0);
    holds_for("tests/regressions/spread.txt", count, strategy::spread(), async |case| {
        let workers = drive::run(case).await?;
        spread.set(spread.get() + u32::from(workers > 1));
        Ok(())
    });
    println!("{} of {count} graphs were on several workers", spread.get());
    assert!(spread.get() > count / 2, "{} of {count} graphs were on several workers", spread.get());
}

#[test]
fn a_job_that_loses_a_worker_fails_by_name_or_is_whole_and_nothing_is_left() {
    let name = "properties::a_job_that_loses_a_worker_fails_by_name_or_is_whole_and_nothing_is_left";
    in_child(name, KILLED_LIMIT, || {
        let count = if is_long() { KILLED_CASES_LONG } else { cases_asked_for().unwrap_or(KILLED_CASES) };
        let campaign = |count| {
            let ends = RefCell::new(Vec::new());
            holds_for("tests/regressions/killed.txt", count, strategy::killed(), async |case: Killed| {
                let end = case.run().await?;
                ends.borrow_mut().push(end);
                Ok(())
            });
            dismiss_workers();
            ends.into_inner()
        };
        // The first environment of a process leaves what tokio needs for signals, once.
        campaign(1);
        let before = holdings();
        let mut failed: Vec<Duration> = Vec::new();
        let mut others = [0, 0];
        for end in campaign(count) {
            match end {
                End::Failed { after } => failed.push(after),
                End::Refused => others[0] += 1,
                End::AsIfAlone => others[1] += 1,
            }
        }
        assert_eq!(children_of(std::process::id()), BTreeSet::new(), "neither a process nor what is left of one");
        assert_eq!(settled(before), before);
        failed.sort_unstable();
        let median = failed.get(failed.len() / 2).copied().unwrap_or_default();
        println!(
            "of {count} jobs {} failed, {median:?} (median) after the kill; {others:?} were refused, or over",
            failed.len()
        );
        assert!(failed.len() > count as usize / 4, "hardly any job was hit");
    });
}

/// A worker whose connection was reset may still run, so the next attempt waits until its lease is over: several cases do so
/// at a time.
#[test]
fn a_job_that_may_begin_anew_comes_to_the_same_though_it_loses_a_worker() {
    silence_planned_panics();
    let count = if is_long() { KILLED_CASES_LONG } else { BEGUN_ANEW_CASES };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let mut runner = TestRunner::new(Config::default());
    let cases = strategy::begun_anew();
    let cases = (0..count).map(|_| cases.new_tree(&mut runner).expect("small graphs are drawn").current());
    let attempts: Vec<u32> = runtime.block_on(
        stream::iter(cases)
            .map(async |case| {
                let shown = format!("{case:?}");
                case.begins_anew().await.unwrap_or_else(|why| panic!("{why}\nby {shown}"))
            })
            .buffer_unordered(8)
            .collect(),
    );
    let again = attempts.iter().filter(|attempt| **attempt > 1).count();
    println!("{again} of {count} jobs began anew, in up to {:?} attempts", attempts.iter().max());
    assert!(again > 0, "no job was hit");
}
