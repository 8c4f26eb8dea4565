//! Jobs that fail and begin anew.

use std::{
    fs::OpenOptions,
    path::{Path, PathBuf},
    time::Duration,
};

use proscenium::{
    BuildRefusal, CallError, ErrorPolicy, FailureCause, JobState, Limits, Outcome, OutputError, ParallelRange, Restart,
    ServiceRef, SubmitError, TaskError,
};

use crate::support::{
    Counter, Echo, Increment, Journal, Pen, Total, each_environment, each_environment_with, ended, job, reached, read,
    registered, sorted, until,
};

/// A folder with a file for each time that something was done, by whichever process.
struct Marks(tempfile::TempDir);

impl Marks {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn path(&self) -> PathBuf {
        self.0.path().to_owned()
    }

    fn count(&self) -> usize {
        self.0.path().read_dir().expect("the folder is there").count()
    }
}

/// Fails the first `times` times that it is called.
fn fail_at_first(marks: &Path, times: usize) -> Result<(), TaskError> {
    for number in 0..times {
        if OpenOptions::new().write(true).create_new(true).open(marks.join(number.to_string())).is_ok() {
            return Err(TaskError::new(format!("failure {number}")));
        }
    }
    Ok(())
}

const AT_ONCE: Duration = Duration::ZERO;

job!(AnewDoubling { marks: PathBuf, failures: usize }, |job, flow| {
    let (marks, failures) = (job.marks.clone(), job.failures);
    flow.from_batch(ParallelRange::new(0..10_000))
        .try_map(move |n| {
            if n == 7_777 {
                fail_at_first(&marks, failures)?;
            }
            Ok(2 * n)
        })
        .uid("double")
        .rebalance(2)
        .collect("out");
});

fn doubled() -> Vec<u64> {
    (0..10_000).map(|n| 2 * n).collect()
}

#[test]
fn a_job_that_fails_begins_anew_and_its_result_is_that_of_one_attempt() {
    each_environment(async |env| {
        let marks = Marks::new();
        let job = AnewDoubling { marks: marks.path(), failures: 2 };
        let job = env.submit(job).restart(Restart::fixed(2, AT_ONCE)).parallelism(2).await.unwrap();
        assert_eq!(ended(&job).await, Outcome::Completed);
        assert_eq!(sorted(read::<u64>(&job, "out").await), doubled());
        let status = job.status().await.unwrap();
        assert_eq!(status.attempt, 3);
        let cause = status.last_failure.expect("it failed").to_string();
        assert!(cause.starts_with("operator `double`") && cause.ends_with("failure 1"), "{cause}");
        let read: u64 =
            status.tasks.iter().filter(|task| task.name.contains("double")).map(|task| task.counters.items_out).sum();
        assert_eq!(read, 10_000, "counters are those of the last attempt");
    });
}

#[test]
fn a_job_begins_anew_as_often_as_it_may_and_no_more() {
    each_environment(async |env| {
        let marks = Marks::new();
        let job = AnewDoubling { marks: marks.path(), failures: 5 };
        let job = env.submit(job).restart(Restart::fixed(2, AT_ONCE)).parallelism(2).await.unwrap();
        let Outcome::Failed(FailureCause::Operator { message, .. }) = ended(&job).await else { panic!("it failed") };
        assert_eq!((message.as_str(), marks.count()), ("failure 2", 3));
        assert!(matches!(job.output::<u64>("out").await, Err(OutputError::Incomplete { .. })));
        let never = Marks::new();
        let job = env.submit(AnewDoubling { marks: never.path(), failures: 1 }).parallelism(2).await.unwrap();
        assert!(ended(&job).await.is_failed());
        assert_eq!((never.count(), job.status().await.unwrap().attempt), (1, 1));
    });
}

job!(AnewReadOnce {}, |_job, flow| {
    flow.from_batch((0..3u64).filter(|n| *n > 0)).uid("numbers").collect("out");
});

#[test]
fn a_job_with_a_source_that_is_read_once_is_refused_if_it_is_to_begin_anew() {
    each_environment(async |env| {
        let refused = env.submit(AnewReadOnce {}).restart(Restart::exponential()).await.unwrap_err();
        let operator = "numbers".to_owned();
        assert_eq!(refused, SubmitError::Build(BuildRefusal::ReadOnce { operator }));
        let job = env.submit(AnewReadOnce {}).restart(Restart::never()).await.unwrap();
        assert_eq!(ended(&job).await, Outcome::Completed);
    });
}

job!(AnewStreaming { marks: PathBuf }, |job, flow| {
    let marks = job.marks.clone();
    flow.from_batch(ParallelRange::new(0..1_000))
        .try_map(move |n| {
            if n == 500 {
                fail_at_first(&marks, 1)?;
            }
            Ok(n)
        })
        .stream_out("out");
});

#[test]
fn who_reads_a_streamed_output_is_told_once_that_it_begins_anew() {
    // Few items wait, so that it has been read before the job fails.
    let limits = Limits { port_items: 16, batch_items: 8, ..Limits::default() };
    each_environment_with(&limits, async |env| {
        let marks = Marks::new();
        let job = env.submit(AnewStreaming { marks: marks.path() }).restart(Restart::fixed(1, AT_ONCE)).parallelism(1);
        let job = job.await.unwrap();
        let mut out = job.output::<u64>("out");
        let mut seen = Vec::new();
        let told = loop {
            match out.next().await {
                Ok(Some(n)) => seen.push(n),
                other => break other,
            }
        };
        assert_eq!(told, Err(OutputError::BegunAnew { output: "out".to_owned(), attempt: 2 }));
        assert!(!seen.is_empty() && seen.iter().copied().eq(0..seen.len() as u64), "{seen:?}");
        let mut again = Vec::new();
        while let Some(n) = out.next().await.unwrap() {
            again.push(n);
        }
        assert_eq!(again, (0..1_000).collect::<Vec<_>>());
        assert_eq!(ended(&job).await, Outcome::Completed);
    });
}

#[test]
fn a_streamed_output_that_is_read_as_a_whole_is_that_of_the_last_attempt() {
    each_environment(async |env| {
        let marks = Marks::new();
        let job = env.submit(AnewStreaming { marks: marks.path() }).restart(Restart::fixed(1, AT_ONCE)).parallelism(1);
        let job = job.await.unwrap();
        assert_eq!(read::<u64>(&job, "out").await, (0..1_000).collect::<Vec<_>>());
        assert_eq!((ended(&job).await, job.status().await.unwrap().attempt), (Outcome::Completed, 2));
    });
}

job!(AnewCounted { marks: PathBuf, pen: Pen }, |job, flow| {
    let (marks, pen) = (job.marks.clone(), job.pen.clone());
    flow.register_service("counter", move || Counter::new("counter", &pen));
    flow.from_batch(ParallelRange::new(0..1_000))
        .map_async(8, async move |ctx, n| {
            ctx.service::<Counter>("counter")?.call(Increment).await?;
            if n == 900 {
                fail_at_first(&marks, 1)?;
            }
            Ok(n)
        })
        .fold(0u64, |sum, n| *sum += n)
        .collect("sum");
});

#[test]
fn services_are_made_anew_with_each_attempt_and_their_hooks_run() {
    each_environment(async |env| {
        let (marks, journal) = (Marks::new(), Journal::new());
        let job = AnewCounted { marks: marks.path(), pen: journal.pen() };
        let job = env.submit(job).restart(Restart::fixed(1, AT_ONCE)).parallelism(1).await.unwrap();
        reached(&job, JobState::Idle).await;
        let counter: ServiceRef<Counter> = job.service("counter");
        assert_eq!(counter.call(Total).await.unwrap(), 1_000, "the second instance has counted one attempt");
        job.stop().await.unwrap();
        assert_eq!(ended(&job).await, Outcome::Completed);
        assert_eq!(read::<u64>(&job, "sum").await, [499_500]);
        let lines = journal.lines();
        assert_eq!(lines.len(), 4, "{lines:?}");
        assert_eq!((lines[0].as_str(), lines[2].as_str()), ("counter started", "counter started"));
        assert!(lines[1].starts_with("counter stopped after"), "{lines:?}");
        assert_eq!(lines[3], "counter stopped after 1000");
        let status = job.status().await.unwrap();
        assert_eq!((status.attempt, status.restarts), (2, 0));
    });
}

job!(AnewWaiting { marks: PathBuf }, |job, flow| {
    let marks = job.marks.clone();
    flow.register_service("echo", || Echo);
    flow.from_batch(ParallelRange::new(0..10))
        .try_map(move |n| fail_at_first(&marks, usize::MAX).map(|()| n))
        .collect("out");
});

#[test]
fn a_job_that_waits_for_its_next_attempt_says_so_and_can_be_cancelled_or_stopped() {
    each_environment(async |env| {
        for stops in [false, true] {
            let marks = Marks::new();
            let long = Restart::fixed(1, Duration::from_secs(3600));
            let job = env.submit(AnewWaiting { marks: marks.path() }).autostop(true).parallelism(1).restart(long);
            let job = job.await.unwrap();
            reached(&job, JobState::Restarting).await;
            let delays = |waits: &[String]| waits.iter().any(|wait| wait == "attempt 2 begins after a delay of 3600s");
            let explanation = loop {
                let explanation = job.explain().await.unwrap();
                if delays(&explanation.waits) {
                    break explanation;
                }
                tokio::task::yield_now().await;
            };
            assert!(explanation.waits[0].starts_with("attempt 1 failed: operator `try_map`"), "{explanation}");
            assert!(job.pause().await.is_err());
            // A call waits for the next instance, which does not come.
            let call = tokio::spawn(job.service::<Echo>("echo").call(crate::support::Answer(1)));
            if stops {
                job.stop().await.unwrap();
                assert!(matches!(ended(&job).await, Outcome::Failed(FailureCause::Operator { .. })));
            } else {
                job.cancel().await.unwrap();
                assert!(matches!(ended(&job).await, Outcome::Cancelled { .. }));
            }
            let told = call.await.unwrap();
            assert!(matches!(told, Err(CallError::JobEnded { .. } | CallError::Stopping { .. })), "{told:?}");
            assert_eq!(marks.count(), 1);
        }
    });
}

job!(AnewSkipping { marks: PathBuf }, |job, flow| {
    let marks = job.marks.clone();
    flow.from_batch(ParallelRange::new(0..100))
        .try_map(|n| if n % 10 == 0 { Err(TaskError::new("round")) } else { Ok(n) })
        .on_error(ErrorPolicy::Skip)
        .rebalance(1)
        .fold(0u64, |count, _| *count += 1)
        .try_map(move |n| fail_at_first(&marks, 1).map(|()| n))
        .collect("count");
});

#[test]
fn dead_letters_are_those_of_the_last_attempt() {
    each_environment(async |env| {
        let marks = Marks::new();
        let job = env.submit(AnewSkipping { marks: marks.path() }).restart(Restart::rate(
            1,
            Duration::from_secs(60),
            AT_ONCE,
        ));
        let job = job.parallelism(1).await.unwrap();
        assert_eq!(ended(&job).await, Outcome::Completed);
        assert_eq!(read::<u64>(&job, "count").await, [90]);
        let status = until(&job, "the end", |status| !status.is_running()).await;
        assert_eq!((status.dead_letters, status.attempt), (10, 2));
    });
}

registered![AnewDoubling, AnewReadOnce, AnewStreaming, AnewCounted, AnewWaiting, AnewSkipping];
