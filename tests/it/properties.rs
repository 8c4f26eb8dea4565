//! Random graphs, left alone and interrupted: each ends, as it should, with exactly the results it should have.
//!
//! Failing seeds are kept in `tests/regressions/` and run first; they belong into the repository.

mod drive;
mod eval;
mod helper;
mod round;
mod shape;
mod strategy;

use std::{panic, sync::Once};

use proptest::{
    strategy::Strategy,
    test_runner::{Config, FileFailurePersistence, TestError, TestRunner},
};

use self::drive::Case;

/// Cases of each property; `PROPTEST_CASES` overrides it.
const CASES: u32 = 1_500;

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

fn holds_for(seeds: &'static str, cases: impl Strategy<Value = Case>) {
    silence_planned_panics();
    let config = Config {
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(CASES),
        // A case that hangs costs its whole deadline each time it is tried in a smaller form.
        max_shrink_time: 120_000,
        max_shrink_iters: 500,
        source_file: Some(file!()),
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(seeds))),
        ..Config::default()
    };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let result = TestRunner::new(config).run(&cases, |case| runtime.block_on(drive::run(case)));
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
    holds_for("tests/regressions/undisturbed.txt", strategy::undisturbed());
}

#[test]
fn a_random_graph_that_is_stopped_cancelled_or_paused_loses_and_invents_nothing_it_should_not() {
    holds_for("tests/regressions/interrupted.txt", strategy::interrupted());
}
