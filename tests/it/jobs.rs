//! The life of a job: how it is submitted, followed, stopped, paused, cancelled.

use std::time::{Duration, Instant};

use proscenium::{
    ActorState, CallError, CancelReason, ControlError, Drained, Environment, FailureCause, JobError, JobId, JobState,
    Limits, Next, Outcome, QueryError, RunError, Source, TaskContext, TaskError, TaskStatus,
};

use crate::support::{
    Answer, Door, Doorway, Echo, Journal, JournalSink, LateAnswer, Pen, completed, deadline, each_environment,
    each_environment_with, ended, idle, job, output_of, reached, read, registered, start, until,
};

job!(Nothing {}, |job, _flow| {});

job!(OnlyEcho {}, |job, flow| {
    flow.register_service("echo", || Echo);
});

#[test]
fn a_job_of_nothing_completes_at_once_and_one_of_a_service_idles_without_autostop() {
    each_environment(async |env| {
        completed(env, Nothing {}).await;
        completed(env, OnlyEcho {}).await;
        let job = idle(env, OnlyEcho {}).await;
        let explanation = job.explain().await.unwrap();
        let expected = "idle\n  idle: all tasks finished; service `echo` stays callable until `stop`";
        assert_eq!(explanation.to_string(), expected);
        job.stop().await.unwrap();
        assert_eq!(ended(&job).await, Outcome::Completed);
    });
}

job!(NoServices {}, |job, flow| {
    flow.from_batch(0..10u64).rebalance(2).map(|n| n + 1).rebalance(1).collect("out");
});

#[test]
fn a_job_without_services_ends_with_its_tasks_and_its_output_stays_as_long_as_its_record() {
    // It was idle until `stop`, although there was nothing that could have been called.
    let limits = Limits { ended_jobs_max: 2, ..Limits::default() };
    each_environment_with(&limits, async |env| {
        let job = deadline("submit", env.submit(NoServices {})).await.unwrap();
        assert_eq!(ended(&job).await, Outcome::Completed);
        assert!(!job.status().await.unwrap().autostop);
        for _ in 0..2 {
            assert!(read::<u64>(&job, "out").await.into_iter().sum::<u64>() == 55, "read any number of times");
        }
        let id = job.id();
        drop(job);
        let job = env.job(id).await.unwrap();
        assert_eq!(read::<u64>(&job, "out").await.len(), 10, "whoever asks by its id reads it, too");
        for _ in 0..5 {
            completed(env, Nothing {}).await;
        }
        assert_eq!(read::<u64>(&job, "out").await.len(), 10, "as long as a handle lives");
        drop(job);
        let gone = until_expired(env, id).await;
        assert!(matches!(gone, QueryError::Expired { .. }), "{gone:?}");
    });
}

/// Lets jobs end until `id` is not kept any more: a node takes note of a handle's end after it.
async fn until_expired(env: &dyn Environment, id: JobId) -> QueryError {
    deadline("the job expires", async {
        loop {
            completed(env, Nothing {}).await;
            if let Err(error) = env.job(id).await {
                return error;
            }
        }
    })
    .await
}

#[test]
fn cancelling_or_stopping_an_idle_job_keeps_what_it_has_earned_and_answers_what_was_accepted() {
    // It read `Cancelled`, although all of its input had been processed.
    each_environment(async |env| {
        for cancels in [true, false] {
            let door = Door::new().await;
            let job = idle(env, HoldsCalls { door: door.way() }).await;
            let echo = job.service::<Echo>("echo");
            let accepted = tokio::spawn(echo.call(LateAnswer(7, door.way())));
            let visitor = door.arrival_of("7").await;
            let done = if cancels { job.cancel().await } else { job.stop().await };
            done.unwrap();
            reached(&job, JobState::StoppingServices).await;
            let refused = deadline("the refusal", echo.call(Answer(1))).await.unwrap_err();
            assert!(matches!(refused, CallError::Stopping { .. }), "{refused:?}");
            job.cancel().await.unwrap();
            visitor.admit();
            assert_eq!(deadline("the answer", accepted).await.unwrap().unwrap(), 7);
            assert_eq!(ended(&job).await, Outcome::Completed);
            assert_eq!(read::<u64>(&job, "out").await, [1, 2, 3]);
        }
    });
}

job!(HoldsCalls { door: Doorway }, |job, flow| {
    let _ = &job.door;
    flow.register_service("echo", || Echo);
    flow.from_batch(1..4u64).collect("out");
});

#[test]
fn a_job_that_failed_or_was_cancelled_does_not_pass_through_the_question_mark() {
    // `run` and `wait` gave `Ok` for it, so that a failure was easily taken for success.
    async fn run(env: &dyn Environment, fails: bool) -> Result<Drained, Box<dyn std::error::Error>> {
        Ok(deadline("the run", env.run(Divides { by: u64::from(!fails) })).await?)
    }
    each_environment(async |env| {
        assert_eq!(run(env, false).await.unwrap(), Drained::Completed);
        let error = run(env, true).await.unwrap_err();
        let error = error.downcast_ref::<RunError>().expect("what `run` fails with");
        assert!(matches!(error, RunError::Job(JobError::Failed(FailureCause::Operator { .. }))), "{error:?}");
        assert_eq!(error.to_string(), "the job failed");
        let cause = std::error::Error::source(error).expect("the cause of the failure").to_string();
        assert!(cause.contains("operator") && cause.ends_with("by zero"), "{cause}");

        let job = idle(env, OnlyEcho {}).await;
        job.stop().await.unwrap();
        assert_eq!(deadline("the end", job.wait()).await.unwrap().into_result(), Ok(Drained::Completed));
        let (journal, door) = (Journal::new(), Door::new().await);
        let job = start(env, Unbounded { at: 10, door: door.way(), pen: journal.pen() }).await;
        let visitor = door.arrival().await;
        job.cancel().await.unwrap();
        let error = deadline("the end", job.wait()).await.unwrap().into_result().unwrap_err();
        assert!(matches!(error, JobError::Cancelled { reason: CancelReason::Requested, .. }), "{error:?}");
        assert!(error.to_string().starts_with("the job was cancelled (requested), "), "{error}");
        drop(visitor);
    });
}

job!(Divides { by: u64 }, |job, flow| {
    let by = job.by;
    flow.from_batch([1u64]).try_map(move |n| n.checked_div(by).ok_or("by zero".into())).for_each(drop);
});

/// 0, 1, 2, .. without end, one at each call. Writes down how many it emitted when it is dropped.
struct Endless {
    next: u64,
    pen: Pen,
}

impl Source for Endless {
    type Item = u64;

    async fn next(&mut self, _: &TaskContext) -> Result<Next<u64>, TaskError> {
        self.next += 1;
        Ok(Next::Item(self.next - 1))
    }
}

impl Drop for Endless {
    fn drop(&mut self) {
        self.pen.write(self.next);
    }
}

impl Endless {
    /// How many were emitted.
    fn emitted(journal: &Journal) -> u64 {
        let lines = journal.lines();
        let counts: Vec<u64> = lines.iter().filter_map(|line| line.parse().ok()).collect();
        assert_eq!(counts.len(), 1, "the source is dropped once: {lines:?}");
        counts[0]
    }
}

job!(Unbounded { at: u64, door: Doorway, pen: Pen }, |job, flow| {
    let (at, door) = (job.at, job.door.clone());
    let numbers = flow.from_source(Endless { next: 0, pen: job.pen.clone() }).rebalance(2);
    let seen = numbers.map_async(1, async move |_, n| {
        if n == at {
            door.pass(n).await;
        }
        Ok(n)
    });
    seen.rebalance(1).collect("out");
});

#[test]
fn stop_ends_an_unbounded_source_and_all_it_emitted_arrives() {
    each_environment(async |env| {
        let (journal, door) = (Journal::new(), Door::new().await);
        let job = start(env, Unbounded { at: 1000, door: door.way(), pen: journal.pen() }).await;
        let visitor = door.arrival().await;
        job.stop().await.unwrap();
        // The stop is not stuck behind data: one instance is blocked.
        assert_eq!(reached(&job, JobState::Draining).await.outcome, None);
        visitor.admit();
        assert_eq!(ended(&job).await, Outcome::Stopped);
        let out: Vec<u64> = read(&job, "out").await;
        assert_eq!(crate::support::sorted(out), (0..Endless::emitted(&journal)).collect::<Vec<_>>());
    });
}

#[test]
fn cancel_ends_a_job_at_once_and_says_how_much_was_dropped() {
    each_environment(async |env| {
        let (journal, door) = (Journal::new(), Door::new().await);
        let job = start(env, Unbounded { at: 1000, door: door.way(), pen: journal.pen() }).await;
        let visitor = door.arrival().await;
        let before = Instant::now();
        job.cancel().await.unwrap();
        let outcome = ended(&job).await;
        assert!(before.elapsed() < Limits::default().cancel_deadline, "it took {:?}", before.elapsed());
        let Outcome::Cancelled { reason, dropped } = &outcome else { panic!("not cancelled but {outcome:?}") };
        assert_eq!(*reason, CancelReason::Requested);
        assert!(*dropped > 0, "item 1000 at least was in flight");
        assert_eq!(outcome.to_string(), format!("cancelled (requested), {dropped} items dropped"));
        let status = job.status().await.unwrap();
        assert_eq!(status.warnings, [], "no task was abandoned, and the accounts balance");
        // One whose consumers were cancelled first has nobody left to work for, and finishes.
        let is_over = |task: &TaskStatus| matches!(task.state, ActorState::Cancelled | ActorState::Finished);
        assert!(status.tasks.iter().all(is_over), "{:?}", status.tasks);
        drop(visitor);
    });
}

job!(BlockedSink { door: Doorway, pen: Pen }, |job, flow| {
    let door = job.door.clone();
    let numbers = flow.from_source(Endless { next: 0, pen: job.pen.clone() });
    let numbers = numbers.rebalance(1).map(|n| n).rebalance(1).map(|n| n).rebalance(1);
    let blocked = numbers.map_async(1, async move |_, n| {
        if n == 0 {
            door.pass(n).await;
        }
        Ok(n)
    });
    blocked.collect("out");
});

#[test]
fn stop_reaches_a_source_while_the_sink_is_blocked_and_every_queue_is_full() {
    let limits = Limits { batch_items: 4, channel_batches: 2, ..Limits::default() };
    each_environment_with(&limits, async |env| {
        let (journal, door) = (Journal::new(), Door::new().await);
        let job = start(env, BlockedSink { door: door.way(), pen: journal.pen() }).await;
        let visitor = door.arrival().await;
        // The source stands still once nothing can get rid of anything. The tasks say so, which needs no more than
        // asking until they do.
        deadline("every queue being full", async {
            loop {
                let waits = job.explain().await.unwrap().waits;
                let for_room = waits.iter().filter(|wait| wait.contains("waits for room towards")).count();
                let for_calls = waits.iter().filter(|wait| wait.contains("waits for asynchronous calls")).count();
                if (for_room, for_calls) == (3, 1) {
                    break;
                }
                tokio::task::yield_now().await;
            }
        })
        .await;
        job.stop().await.unwrap();
        assert_eq!(reached(&job, JobState::Draining).await.task_count, 4, "nothing can drain yet");
        visitor.admit();
        assert_eq!(ended(&job).await, Outcome::Stopped);
        let emitted = Endless::emitted(&journal);
        assert!(emitted < 200, "{emitted} items were emitted into queues that are full much earlier");
        assert_eq!(read::<u64>(&job, "out").await, (0..emitted).collect::<Vec<_>>());
    });
}

job!(Pausable { items: u64, at: u64, door: Doorway }, |job, flow| {
    flow.register_service("echo", || Echo);
    let (at, door) = (job.at, job.door.clone());
    let numbers = flow.from_batch(0..job.items).map_async(1, async move |_, n| {
        if n == at {
            door.pass(n).await;
        }
        Ok(n)
    });
    numbers.rebalance(2).map(|n| n).collect("out");
});

#[test]
fn pause_and_resume_lose_nothing_and_repeat_nothing() {
    each_environment(async |env| {
        let items = 50_000;
        let door = Door::new().await;
        let job = start(env, Pausable { items, at: 3000, door: door.way() }).await;
        let visitor = door.arrival().await;
        job.pause().await.unwrap();
        job.pause().await.unwrap();
        assert_eq!(job.status().await.unwrap().state, JobState::Pausing, "an item is in flight");
        visitor.admit();
        let paused = reached(&job, JobState::Paused).await;
        assert!(paused.is_running());
        assert_eq!(paused.task_count, 3);
        let explanation = job.explain().await.unwrap();
        assert_eq!(explanation.waits[0], "paused: waits for `resume`, `stop` or `cancel`");
        assert_eq!(job.service::<Echo>("echo").call(Answer(1)).await.unwrap(), 1, "services stay callable");
        assert_eq!(job.wait_timeout(Duration::ZERO).await.unwrap(), None);

        job.resume().await.unwrap();
        job.resume().await.unwrap();
        assert_eq!(ended(&job).await, Outcome::Completed);
        assert_eq!(crate::support::sorted(read::<u64>(&job, "out").await), (0..items).collect::<Vec<_>>());
    });
}

#[test]
fn a_paused_job_can_be_stopped_and_cancelled() {
    each_environment(async |env| {
        for stops in [true, false] {
            let (journal, door) = (Journal::new(), Door::new().await);
            let job = start(env, Unbounded { at: 100, door: door.way(), pen: journal.pen() }).await;
            door.arrival().await.admit();
            job.pause().await.unwrap();
            reached(&job, JobState::Paused).await;
            if stops {
                job.stop().await.unwrap();
                assert_eq!(ended(&job).await, Outcome::Stopped);
                let out: Vec<u64> = read(&job, "out").await;
                assert_eq!(crate::support::sorted(out), (0..Endless::emitted(&journal)).collect::<Vec<_>>());
            } else {
                job.cancel().await.unwrap();
                let expected = Outcome::Cancelled { reason: CancelReason::Requested, dropped: 0 };
                assert_eq!(ended(&job).await, expected, "nothing of a paused job is in flight");
            }
        }
    });
}

job!(Writes { at: u64, door: Doorway, pen: Pen, sink: Pen }, |job, flow| {
    let (at, door, pen) = (job.at, job.door.clone(), job.sink.clone());
    let numbers = flow.from_source(Endless { next: 0, pen: job.pen.clone() }).map_async(1, async move |_, n| {
        if n == at {
            door.pass(n).await;
        }
        Ok(n)
    });
    numbers.sink(move || JournalSink::new(&pen));
});

#[test]
fn a_sink_has_flushed_what_it_was_given_when_the_job_is_paused() {
    each_environment(async |env| {
        let (source, sink, door) = (Journal::new(), Journal::new(), Door::new().await);
        let job = start(env, Writes { at: 10, door: door.way(), pen: source.pen(), sink: sink.pen() }).await;
        let visitor = door.arrival().await;
        job.pause().await.unwrap();
        visitor.admit();
        reached(&job, JobState::Paused).await;
        let lines = sink.lines();
        assert_eq!(lines.last().unwrap(), "0 flush");
        assert!(lines.contains(&"0 10".to_owned()), "{lines:?}");
        assert_eq!(job.status().await.unwrap().tasks[0].counters.items_in, lines.len() as u64 - flushes(&lines) - 1);
        job.stop().await.unwrap();
        assert_eq!(ended(&job).await, Outcome::Stopped);
        assert_eq!((sink.count("0 close"), sink.count("0 drop")), (1, 1));
    });
}

/// How often the sink was flushed.
fn flushes(lines: &[String]) -> u64 {
    lines.iter().filter(|line| *line == "0 flush").count() as u64
}

#[test]
fn what_a_job_cannot_do_in_its_state_is_refused_and_repeating_is_not() {
    each_environment(async |env| {
        let conflict = |operation: &str, state| ControlError::Conflict { operation: operation.to_owned(), state };
        let job = idle(env, OnlyEcho {}).await;
        assert_eq!(job.pause().await.unwrap_err(), conflict("pause", JobState::Idle));
        assert_eq!(job.delete().await.unwrap_err(), conflict("delete", JobState::Idle));
        job.resume().await.unwrap();
        job.stop().await.unwrap();
        assert_eq!(ended(&job).await, Outcome::Completed);
        job.stop().await.unwrap();
        job.cancel().await.unwrap();
        assert_eq!(ended(&job).await, Outcome::Completed, "an outcome never changes");
        let error = job.pause().await.unwrap_err();
        assert_eq!(error, conflict("pause", JobState::Ended));
        assert_eq!(error.to_string(), "cannot pause a job that is ended");
        assert_eq!(job.resume().await.unwrap_err(), conflict("resume", JobState::Ended));

        let (journal, door) = (Journal::new(), Door::new().await);
        let job = start(env, Unbounded { at: 10, door: door.way(), pen: journal.pen() }).await;
        let visitor = door.arrival().await;
        job.stop().await.unwrap();
        job.stop().await.unwrap();
        assert_eq!(job.pause().await.unwrap_err(), conflict("pause", JobState::Draining));
        job.cancel().await.unwrap();
        assert!(matches!(ended(&job).await, Outcome::Cancelled { .. }), "cancel wins over stop");
        drop(visitor);
    });
}

#[test]
fn a_job_that_runs_longer_than_its_limit_is_cancelled() {
    each_environment(async |env| {
        let (journal, door) = (Journal::new(), Door::new().await);
        let limit = Duration::from_millis(50);
        let job = Unbounded { at: 10, door: door.way(), pen: journal.pen() };
        let before = Instant::now();
        let job = env.submit(job).autostop(true).run_limit(limit).await.unwrap();
        let outcome = ended(&job).await;
        assert!(matches!(outcome, Outcome::Cancelled { reason: CancelReason::Deadline, .. }), "{outcome:?}");
        assert!(before.elapsed() >= limit);
        assert!(outcome.to_string().starts_with("cancelled (run limit reached), "), "{outcome}");

        // The services of an idle job stop by then, too; what it has earned stays. One that ends in time is left alone.
        let job = env.submit(OnlyEcho {}).run_limit(limit).await.unwrap();
        assert_eq!(ended(&job).await, Outcome::Completed);
        let job = env.submit(Nothing {}).autostop(true).run_limit(Duration::from_secs(3600)).await.unwrap();
        assert_eq!(ended(&job).await, Outcome::Completed);
    });
}

#[test]
fn watching_shows_a_snapshot_at_once_then_each_change_then_the_end() {
    each_environment(async |env| {
        let door = Door::new().await;
        let job = start(env, Pausable { items: 10, at: 5, door: door.way() }).await;
        let visitor = door.arrival().await;
        let mut changes = job.watch();
        let first = deadline("a snapshot", changes.next()).await.unwrap().unwrap();
        assert_eq!((first.id, first.state, first.outcome.clone()), (job.id(), JobState::Running, None));
        visitor.admit();
        let mut versions = vec![first.version];
        let last = loop {
            let status = deadline("a change", changes.next()).await.unwrap().unwrap();
            versions.push(status.version);
            if status.state == JobState::Ended {
                break status;
            }
            assert_eq!(status.outcome, None);
        };
        assert_eq!(last.outcome, Some(Outcome::Completed));
        assert!(versions.is_sorted_by(|a, b| a < b), "{versions:?}");
        assert!(changes.next().await.is_none(), "nothing comes after the end");
        // Whoever comes late sees the end at once.
        let mut late = job.watch();
        assert_eq!(late.next().await.unwrap().unwrap(), last);
        assert!(late.next().await.is_none());
    });
}

#[test]
fn a_status_tells_what_runs_and_when_it_began_and_ended() {
    each_environment(async |env| {
        let door = Door::new().await;
        let job = Pausable { items: 10, at: 5, door: door.way() };
        let job = env.submit(job).autostop(true).name("a name").await.unwrap();
        assert_eq!(job.name(), "a name");
        let visitor = door.arrival().await;
        let status = until(&job, "all tasks running", |status| {
            status.tasks.iter().all(|task| task.state == ActorState::Running)
        });
        let status = status.await;
        assert_eq!((status.name.as_str(), status.autostop, status.is_running()), ("a name", true, true));
        assert_eq!((status.task_count, status.service_count), (3, 1));
        assert!(status.started_at >= Some(status.submitted_at));
        assert_eq!(status.ended_at, None);
        let names: Vec<&str> = status.tasks.iter().map(|task| task.name.as_str()).collect();
        let (head, tail) = ("from_batch -> map_async -> rebalance", "map -> collect");
        assert_eq!(names, [head, tail, tail]);
        visitor.admit();
        assert_eq!(ended(&job).await, Outcome::Completed);
        let status = job.status().await.unwrap();
        assert!(status.tasks.iter().all(|task| task.state == ActorState::Finished), "{:?}", status.tasks);
        assert_eq!(status.tasks[0].counters.items_in, 10);
        assert_eq!(status.tasks[1].counters.items_in + status.tasks[2].counters.items_in, 10);
        assert!(status.ended_at >= status.started_at);
    });
}

job!(TenItems { first: u64 }, |job, flow| {
    flow.from_batch(job.first..job.first + 10).collect("out");
});

#[test]
fn a_thousand_jobs_50_at_a_time_all_complete() {
    each_environment(async |env| {
        use futures::StreamExt;
        let jobs = futures::stream::iter(0..1000u64).map(|n| async move {
            let out: Vec<u64> = output_of(env, TenItems { first: n }).await;
            assert_eq!(out, (n..n + 10).collect::<Vec<_>>());
        });
        assert_eq!(jobs.buffer_unordered(50).count().await, 1000);
        let health = env.health().await.unwrap();
        assert_eq!((health.jobs_live, health.jobs_ended, health.threads_abandoned), (0, 1000, 0));
        assert!(health.accepting);
    });
}

registered![Nothing, OnlyEcho, NoServices, HoldsCalls, Divides, Unbounded, BlockedSink, Pausable, Writes, TenItems,];
