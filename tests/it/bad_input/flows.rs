//! Flows that cannot be built, and files that cannot be read.

use std::{io::Write, path::PathBuf, time::Duration};

use proscenium::{
    BuildError, BuildRefusal, FailureCause, LocalEnvironment, OpenError, ParallelRange, Parallelism, RunError,
    SubmitError, TaskContext, TextFile,
};
use serde::{Deserialize, Serialize};

use super::text;
use crate::support::{Counter, Journal, Pen, deadline, each_environment, ended, job, refusal, registered, start};

job!(LinesOf { path: PathBuf }, |this, flow| {
    flow.from_batch(TextFile::lines(&this.path)).collect("out");
});

/// One flow for each mistake.
#[derive(Debug, Clone, Serialize, Deserialize)]
enum Mistake {
    Error,
    ErrorWithSource,
    Panic,
    TwoOutputs,
    OutputAndStream,
    TwoInputs,
    TwoServices(Pen),
    TwoUids,
    Rebalance,
    RebalanceTooMany,
    Broadcast,
    KeyByThenCount,
    KeyByThenState,
    KeyByTooMany,
    MapAsync,
    MapAsyncUnordered,
    FilterAsync,
    ForEachAsync,
    Source,
    Operator,
    NamedOperator,
    TeeBranch,
    Kept,
    Zip,
    TwoMistakes,
}

#[derive(Serialize, Deserialize)]
struct Mistaken(Mistake);

impl proscenium::Job for Mistaken {
    const NAME: &'static str = "mistaken";

    fn build(&self, flow: &mut proscenium::Flow) -> Result<(), BuildError> {
        let numbers = |flow: &mut proscenium::Flow| flow.from_batch(0..10u64);
        match &self.0 {
            Mistake::Error => return Err(BuildError::new("there is no such city")),
            Mistake::ErrorWithSource => Err(RunError::Submit(SubmitError::EnvironmentClosed))?,
            Mistake::Panic => panic!("planned: nobody expected this"),
            Mistake::TwoOutputs => {
                numbers(flow).collect("twice");
                numbers(flow).collect("twice");
            }
            Mistake::OutputAndStream => {
                numbers(flow).collect("twice");
                numbers(flow).stream_out("twice");
            }
            Mistake::TwoInputs => {
                flow.from_channel::<u64>("twice").collect("one");
                flow.from_channel::<String>("twice").collect("other");
            }
            Mistake::TwoServices(pen) => {
                for _ in 0..2 {
                    let pen = pen.clone();
                    flow.register_service("twice", move || Counter::new("twice", &pen));
                }
            }
            Mistake::TwoUids => numbers(flow).uid("twice").map(|item| item).uid("twice").collect("out"),
            Mistake::Rebalance => numbers(flow).rebalance(0).collect("out"),
            Mistake::RebalanceTooMany => numbers(flow).rebalance(1_000_000_000).collect("out"),
            Mistake::Broadcast => numbers(flow).broadcast(0).collect("out"),
            Mistake::KeyByThenCount => numbers(flow).key_by(|item| item % 2).parallelism(0).count().collect("out"),
            Mistake::KeyByThenState => numbers(flow)
                .key_by(|item| item % 2)
                .parallelism(0)
                .map_with_state(0u64, |_, count, _| *count)
                .collect("out"),
            Mistake::KeyByTooMany => numbers(flow).key_by(|item| item % 2).parallelism(129).count().collect("out"),
            Mistake::MapAsync => {
                numbers(flow).map_async(0, async |_: &TaskContext, item| Ok(item)).collect("out");
            }
            Mistake::MapAsyncUnordered => {
                numbers(flow).map_async_unordered(0, async |_: &TaskContext, item| Ok(item)).collect("out");
            }
            Mistake::FilterAsync => {
                numbers(flow).filter_async(0, async |_: &TaskContext, _: &u64| Ok(true)).collect("out");
            }
            Mistake::ForEachAsync => numbers(flow).for_each_async(0, async |_: &TaskContext, _| Ok(())),
            Mistake::Source => drop(numbers(flow)),
            Mistake::Operator => drop(numbers(flow).map(|item| item + 1)),
            Mistake::NamedOperator => drop(numbers(flow).map(|item| item + 1).uid("plus one")),
            Mistake::TeeBranch => {
                let (one, other) = numbers(flow).tee();
                one.collect("out");
                drop(other);
            }
            // Not even dropped: whatever becomes of it, it is not part of the flow.
            Mistake::Kept => std::mem::forget(numbers(flow)),
            Mistake::Zip => numbers(flow).zip(flow.from_batch(ParallelRange::new(0..10))).collect("out"),
            // What is wrong with a flow is told before what its `build` makes of it.
            Mistake::TwoMistakes => {
                numbers(flow).rebalance(0).collect("out");
                return Err(BuildError::new("a consequence"));
            }
        }
        Ok(())
    }
}

fn owned(text: &str) -> String {
    text.to_owned()
}

/// Every one of `cases` is refused in these words, and leaves no job behind.
fn all_refused(cases: &[(Mistake, BuildRefusal, &str)]) {
    each_environment(async |env| {
        for (mistake, expected, words) in cases {
            let refused = deadline("submit", env.submit(Mistaken(mistake.clone()))).await;
            let error = refused.expect_err(&format!("{mistake:?} was accepted"));
            assert_eq!(error, SubmitError::Build(expected.clone()), "{mistake:?}");
            assert_eq!(text(&error), format!("the flow could not be built: {words}"));
        }
        assert_eq!(env.jobs().await.unwrap().len(), 0, "no job exists of a flow that was refused");
    });
}

#[test]
fn a_build_that_fails_or_panics_refuses_the_flow_in_its_own_words() {
    let closed = "the job was not accepted: the environment is closed";
    let panic = "planned: nobody expected this";
    all_refused(&[
        (Mistake::Error, BuildRefusal::User(owned("there is no such city")), "there is no such city"),
        (Mistake::ErrorWithSource, BuildRefusal::User(owned(closed)), closed),
        (Mistake::Panic, BuildRefusal::Panicked(owned(panic)), &format!("`build` panicked: {panic}")),
        // What is wrong with a flow is told before what its `build` makes of it.
        (
            Mistake::TwoMistakes,
            BuildRefusal::ZeroParallelism { operator: owned("rebalance") },
            "`rebalance` asks for a parallelism of 0; the least is 1",
        ),
    ]);
}

#[test]
fn a_name_that_is_used_twice_refuses_the_flow() {
    let journal = Journal::new();
    let output = BuildRefusal::DuplicateOutput { output: owned("twice") };
    all_refused(&[
        (Mistake::TwoOutputs, output.clone(), "output `twice` is named twice"),
        (Mistake::OutputAndStream, output, "output `twice` is named twice"),
        (Mistake::TwoInputs, BuildRefusal::DuplicateInput { input: owned("twice") }, "input `twice` is named twice"),
        (
            Mistake::TwoServices(journal.pen()),
            BuildRefusal::DuplicateService { service: owned("twice") },
            "service `twice` is registered twice",
        ),
        (Mistake::TwoUids, BuildRefusal::DuplicateUid { uid: owned("twice") }, "two operators have the uid `twice`"),
    ]);
}

#[test]
fn a_parallelism_that_cannot_be_refuses_the_flow() {
    let zero = |operator: &str| BuildRefusal::ZeroParallelism { operator: operator.to_owned() };
    let most = |operator: &str, asked, limit| BuildRefusal::TooParallel { operator: operator.to_owned(), asked, limit };
    all_refused(&[
        (Mistake::Rebalance, zero("rebalance"), "`rebalance` asks for a parallelism of 0; the least is 1"),
        (
            Mistake::RebalanceTooMany,
            most("rebalance", 1_000_000_000, 1_024),
            "`rebalance` asks for a parallelism of 1000000000; the most is 1024",
        ),
        (Mistake::Broadcast, zero("broadcast"), "`broadcast` asks for a parallelism of 0; the least is 1"),
        (Mistake::KeyByThenCount, zero("key_by"), "`key_by` asks for a parallelism of 0; the least is 1"),
        (Mistake::KeyByThenState, zero("key_by"), "`key_by` asks for a parallelism of 0; the least is 1"),
        (Mistake::KeyByTooMany, most("key_by", 129, 128), "`key_by` asks for a parallelism of 129; the most is 128"),
        (
            Mistake::Zip,
            BuildRefusal::UnequalParallelism {
                operator: owned("zip"),
                left: Parallelism::Fixed(1),
                right: Parallelism::Job,
            },
            "`zip` brings together equal instances of its streams, which must have the same number of them whatever the job's \
             parallelism; one has 1 here and the other the job's: `gather` both, or give both the same number",
        ),
    ]);
}

#[test]
fn a_limit_of_no_calls_in_flight_refuses_the_flow() {
    let none = |operator: &str| BuildRefusal::ZeroConcurrency { operator: operator.to_owned() };
    all_refused(&[
        (Mistake::MapAsync, none("map_async"), "`map_async` allows 0 calls in flight; the least is 1"),
        (
            Mistake::MapAsyncUnordered,
            none("map_async_unordered"),
            "`map_async_unordered` allows 0 calls in flight; the least is 1",
        ),
        (Mistake::FilterAsync, none("filter_async"), "`filter_async` allows 0 calls in flight; the least is 1"),
        (Mistake::ForEachAsync, none("for_each_async"), "`for_each_async` allows 0 calls in flight; the least is 1"),
    ]);
}

#[test]
fn a_stream_that_nothing_consumes_refuses_the_flow_and_is_named() {
    let mistakes = [
        (Mistake::Source, "from_batch"),
        (Mistake::Operator, "map"),
        (Mistake::NamedOperator, "plus one"),
        (Mistake::TeeBranch, "tee"),
        (Mistake::Kept, "from_batch"),
    ];
    for (mistake, operator) in mistakes {
        let words =
            format!("nothing consumes the stream behind `{operator}`; end it with a sink, an output or `for_each`");
        all_refused(&[(mistake, BuildRefusal::Unconsumed { operator: owned(operator) }, &words)]);
    }
}

#[test]
fn a_job_of_parallelism_zero_or_far_too_many_is_refused_at_submit() {
    each_environment(async |env| {
        let job = || LinesOf { path: PathBuf::from("/dev/null") };
        let error = deadline("submit", env.submit(job()).parallelism(usize::MAX)).await.unwrap_err();
        let expected = BuildRefusal::TooParallel { operator: owned("submit"), asked: usize::MAX, limit: 1024 };
        assert_eq!(error, SubmitError::Build(expected));
        let error = deadline("submit", env.submit(job()).parallelism(0)).await.unwrap_err();
        let expected = BuildRefusal::ZeroParallelism { operator: owned("submit") };
        assert_eq!(error, SubmitError::Build(expected));
        let words = "the flow could not be built: `submit` asks for a parallelism of 0; the least is 1";
        assert_eq!(text(&error), words);
    });
}

#[test]
fn a_run_of_a_flow_with_a_mistake_says_the_same() {
    each_environment(async |env| {
        let error = deadline("run", env.run(Mistaken(Mistake::Rebalance))).await.unwrap_err();
        let words = "the job was not accepted: the flow could not be built: `rebalance` asks for a parallelism of 0; \
                     the least is 1";
        assert_eq!(text(&error), words);
    });
}

#[test]
fn a_missing_file_refuses_the_flow_and_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("missing.txt");
    each_environment(async |env| {
        let refused = refusal(env, LinesOf { path: path.clone() }).await;
        let message = format!("cannot read `{}`: No such file or directory (os error 2)", path.display());
        assert_eq!(refused, BuildRefusal::Source { source_name: owned("from_batch"), message: message.clone() });
        assert_eq!(refused.to_string(), format!("source `from_batch`: {message}"));
    });
}

#[test]
fn a_directory_in_place_of_a_file_refuses_the_flow_and_is_named() {
    let directory = tempfile::tempdir().unwrap();
    each_environment(async |env| {
        let refused = refusal(env, LinesOf { path: directory.path().to_owned() }).await;
        let message = format!("`{}` is not a regular file", directory.path().display());
        assert_eq!(refused, BuildRefusal::Source { source_name: owned("from_batch"), message });
    });
}

#[test]
fn invalid_utf8_fails_the_job_and_its_offset_is_named() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"good line\nanother\nbad \xff line\nlast\n").unwrap();
    each_environment(async |env| {
        for parallelism in [1, 3] {
            let job = LinesOf { path: file.path().to_owned() };
            let job = deadline("submit", env.submit(job).parallelism(parallelism).autostop(true)).await.unwrap();
            let outcome = ended(&job).await;
            let Some(FailureCause::Operator { operator, message, .. }) = outcome.failure() else { panic!("{outcome}") };
            assert_eq!(operator, "from_batch");
            assert_eq!(*message, format!("`{}` has invalid UTF-8 at offset 22", file.path().display()));
        }
    });
}

#[test]
fn a_file_that_vanishes_between_build_and_read_fails_the_job_and_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("vanishing.txt");
    each_environment(async |env| {
        std::fs::write(&path, "a line\n").unwrap();
        let outcome = ended(&start(env, Vanishing { path: path.clone() }).await).await;
        let Some(FailureCause::Operator { message, .. }) = outcome.failure() else { panic!("{outcome}") };
        assert_eq!(*message, format!("cannot read `{}`: No such file or directory (os error 2)", path.display()));
    });
}

#[test]
fn a_service_that_accepts_a_message_twice_refuses_the_flow() {
    each_environment(async |env| {
        let BuildRefusal::Panicked(message) = refusal(env, Doubting {}).await else { panic!("another refusal") };
        assert!(message.contains("twice, as `total` and as `sum`"), "{message}");
    });
}

#[test]
fn many_flows_with_mistakes_leave_an_environment_that_works() {
    let good = tempfile::NamedTempFile::new().unwrap();
    each_environment(async |env| {
        for _ in 0..50 {
            refusal(env, Mistaken(Mistake::TeeBranch)).await;
            refusal(env, Mistaken(Mistake::Panic)).await;
        }
        crate::support::completed(env, LinesOf { path: good.path().to_owned() }).await;
    });
}

#[test]
fn an_environment_without_threads_is_refused() {
    let tasks = LocalEnvironment::builder("none").task_threads(0).open().unwrap_err();
    assert!(matches!(tasks, OpenError::NoThreads { purpose: "tasks" }));
    assert_eq!(tasks.to_string(), "an environment needs at least one thread for tasks");
    let services = LocalEnvironment::builder("none").service_threads(0).open().unwrap_err();
    assert_eq!(services.to_string(), "an environment needs at least one thread for services");
}

#[test]
fn a_run_limit_too_long_for_the_clock_is_no_limit() {
    each_environment(async |env| {
        let job = deadline("submit", env.submit(FewItems {}).autostop(true).run_limit(Duration::MAX)).await.unwrap();
        assert!(ended(&job).await.is_completed());
    });
}

#[test]
fn a_splittable_source_of_nothing_is_no_mistake() {
    each_environment(async |env| {
        assert!(crate::support::output_of::<u64>(env, EmptyRange {}).await.is_empty());
    });
}

job!(Vanishing { path: PathBuf }, |this, flow| {
    flow.from_batch(TextFile::lines(&this.path)).collect("out");
    std::fs::remove_file(&this.path)?;
});

struct Doubtful;

impl actix::Actor for Doubtful {
    type Context = actix::Context<Self>;
}

impl actix::Handler<crate::support::Total> for Doubtful {
    type Result = u64;
    fn handle(&mut self, _: crate::support::Total, _: &mut Self::Context) -> u64 {
        0
    }
}

impl proscenium::Service for Doubtful {
    fn messages(table: &mut proscenium::MessageTable<Self>) {
        table.accept::<crate::support::Total>("total").accept::<crate::support::Total>("sum");
    }
}

job!(Doubting {}, |this, flow| {
    flow.register_service("doubtful", || Doubtful);
});

job!(FewItems {}, |this, flow| {
    flow.from_batch(0..10u64).collect("out");
});

job!(EmptyRange {}, |this, flow| {
    #[expect(clippy::reversed_empty_ranges, reason = "that is the bad input")]
    flow.from_batch(ParallelRange::new(10..5)).collect("out");
});

registered![LinesOf, Vanishing, Doubting, FewItems, EmptyRange, Mistaken];
