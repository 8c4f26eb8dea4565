//! Jobs that are not there any more, or not yet, and services that never were.

use proscenium::{
    CallError, ControlError, Fate, InputError, JobHandle, JobId, JobState, Limits, LocalEnvironment, Outcome,
    OutputError, QueryError, SubmitError, TaskContext,
};

use super::text;
use crate::support::{
    Answer, Counter, Crash, Echo, Journal, Pen, cancel, completed, deadline, each_environment, each_environment_with,
    ended, job, registered, start,
};

job!(FewNumbers {}, |this, flow| {
    flow.from_batch(0..10u64).collect("out");
});

// With one of each: a service, an input, an output.
job!(Full { pen: Pen }, |this, flow| {
    let pen = this.pen.clone();
    flow.register_service("counter", move || Counter::new("counter", &pen));
    flow.register_service("echo", || Echo);
    flow.from_channel::<u64>("in").collect("out");
});

/// Everything that can be asked of a job, as the words it is refused with.
async fn refusals(job: &JobHandle) -> Vec<(&'static str, String)> {
    let query = |result: Result<(), QueryError>| text(&result.expect_err("asked of a job that is not there"));
    let control = |result: Result<(), ControlError>| text(&result.expect_err("asked of a job that is not there"));
    let mut changes = job.watch();
    vec![
        ("status", query(deadline("status", job.status()).await.map(drop))),
        ("wait", query(deadline("wait", job.wait()).await.map(drop))),
        ("wait_timeout", query(deadline("wait", job.wait_timeout(crate::support::DEADLINE)).await.map(drop))),
        ("watch", query(deadline("watch", changes.next()).await.expect("an error, not the end").map(drop))),
        ("explain", query(deadline("explain", job.explain()).await.map(drop))),
        ("dead_letters", query(deadline("dead letters", job.dead_letters()).await.map(drop))),
        ("graph", query(deadline("graph", job.graph()).await.map(drop))),
        ("stop", control(deadline("stop", job.stop()).await)),
        ("cancel", control(deadline("cancel", job.cancel()).await)),
        ("pause", control(deadline("pause", job.pause()).await)),
        ("resume", control(deadline("resume", job.resume()).await)),
        ("delete", control(deadline("delete", job.delete()).await)),
        ("delete_forced", control(deadline("delete", job.delete_forced()).await)),
        ("output", text(&deadline("output", job.output::<u64>("out")).await.unwrap_err())),
        ("input", text(deadline("send", job.input::<u64>("in").send(1)).await.unwrap_err().error())),
        ("finish", text(&deadline("finish", job.input::<u64>("in").finish()).await.unwrap_err())),
        ("call", text(&deadline("call", job.service::<Echo>("echo").call(Answer(1))).await.unwrap_err())),
        ("tell", text(&deadline("tell", job.service::<Echo>("echo").tell(Answer(1))).await.unwrap_err())),
    ]
}

#[test]
fn whatever_is_asked_of_a_deleted_job_says_that_there_is_none() {
    each_environment(async |env| {
        let job = completed(env, FewNumbers {}).await;
        job.delete().await.unwrap();
        for (what, words) in refusals(&job).await {
            assert_eq!(words, format!("no such job: {}", job.id()), "{what}");
        }
        assert_eq!(env.job(job.id()).await.unwrap_err(), QueryError::NoSuchJob { id: job.id() });
        assert!(env.jobs().await.unwrap().is_empty());
    });
}

#[test]
fn a_job_that_never_was_is_no_such_job() {
    each_environment(async |env| {
        let id = JobId::random();
        let error = deadline("job", env.job(id)).await.unwrap_err();
        assert_eq!(error, QueryError::NoSuchJob { id });
        assert_eq!(error.to_string(), format!("no such job: {id}"));
    });
}

#[test]
fn a_job_that_has_expired_is_told_apart_from_one_that_never_was() {
    each_environment_with(&Limits { ended_jobs_max: 2, ..Limits::default() }, async |env| {
        let expired = completed(env, FewNumbers {}).await.id();
        for _ in 0..3 {
            completed(env, FewNumbers {}).await;
        }
        let error = deadline("job", env.job(expired)).await.unwrap_err();
        assert_eq!(error, QueryError::Expired { id: expired });
        let words = format!("{expired} has expired: it ended, and is no longer among the ended jobs that are kept");
        assert_eq!(error.to_string(), words);
    });
}

#[test]
fn a_live_job_is_not_deleted_and_an_ended_one_not_paused() {
    each_environment(async |env| {
        let journal = Journal::new();
        let live = start(env, Full { pen: journal.pen() }).await;
        crate::support::reached(&live, JobState::Running).await;
        let error = live.delete().await.unwrap_err();
        let conflict = |operation: &str, state| ControlError::Conflict { operation: operation.to_owned(), state };
        assert_eq!(error, conflict("delete", JobState::Running));
        assert_eq!(error.to_string(), "cannot delete a job that is running");
        cancel(&live).await.unwrap();
        assert_eq!(live.pause().await.unwrap_err(), conflict("pause", JobState::Ended));
        assert_eq!(live.resume().await.unwrap_err().to_string(), "cannot resume a job that is ended");
        // What has ended is stopped and cancelled already.
        assert_eq!((live.stop().await, live.cancel().await), (Ok(()), Ok(())));
        live.delete().await.unwrap();
    });
}

#[test]
fn whatever_is_asked_of_a_closed_environment_says_that_it_is_closed() {
    each_environment(async |env| {
        let journal = Journal::new();
        let job = completed(env, FewNumbers {}).await;
        let running = start(env, Full { pen: journal.pen() }).await;
        let id = job.id();
        deadline("close", env.close()).await;
        assert_eq!(deadline("submit", env.submit(FewNumbers {})).await.unwrap_err(), SubmitError::EnvironmentClosed);
        let errors = [
            text(&deadline("submit", env.submit(FewNumbers {})).await.unwrap_err()),
            text(&deadline("jobs", env.jobs()).await.unwrap_err()),
            text(&deadline("job", env.job(id)).await.unwrap_err()),
            text(&deadline("health", env.health()).await.unwrap_err()),
            text(&deadline("info", env.info()).await.unwrap_err()),
            text(&deadline("cleanup", env.cleanup()).await.unwrap_err()),
        ];
        assert_eq!(errors, ["the environment is closed"; 6]);
        for (what, words) in refusals(&job).await.into_iter().chain(refusals(&running).await) {
            assert_eq!(words, "the environment is closed", "{what}");
        }
        let words = "the job was not accepted: the environment is closed";
        assert_eq!(text(&deadline("run", env.run(FewNumbers {})).await.unwrap_err()), words);
        // To close it again is no mistake.
        deadline("close", env.close()).await;
    });
}

#[test]
fn waits_and_reads_under_way_end_when_their_environment_is_dropped() {
    let journal = Journal::new();
    crate::support::block_on(async {
        let env = LocalEnvironment::new("dropped");
        let job = env.submit(Full { pen: journal.pen() }).await.unwrap();
        let (wait, output, call) = (job.wait(), job.output::<u64>("out"), job.service::<Echo>("echo"));
        let input = job.input::<u64>("in");
        input.send(1).await.unwrap();
        call.call(Answer(1)).await.unwrap();
        let under_way = tokio::spawn(async move { (wait.await, output.await) });
        // What is asked before the drop is under way by then.
        tokio::task::yield_now().await;
        deadline("drop", tokio::task::spawn_blocking(move || drop(env))).await.unwrap();
        let (waited, read) = deadline("what was under way", under_way).await.unwrap();
        // Which of the two they hear of first is not said.
        let cancelled = matches!(waited, Ok(Outcome::Cancelled { .. }) | Err(QueryError::EnvironmentClosed));
        assert!(cancelled, "{waited:?}");
        let incomplete = matches!(read, Err(OutputError::Incomplete { .. } | OutputError::EnvironmentClosed));
        assert!(incomplete, "{read:?}");
        assert_eq!(input.send(2).await.unwrap_err().into_item(), 2, "what was not sent comes back");
        assert_eq!(call.call(Answer(1)).await.unwrap_err().fate(), Fate::NotSent);
    });
}

#[test]
fn a_service_that_is_not_there_is_named_with_those_that_are() {
    each_environment(async |env| {
        let journal = Journal::new();
        let job = start(env, Full { pen: journal.pen() }).await;
        let error = deadline("call", job.service::<Echo>("ecco").call(Answer(1))).await.unwrap_err();
        let existing = vec!["counter".to_owned(), "echo".to_owned()];
        assert_eq!(error, CallError::NoSuchService { service: "ecco".to_owned(), existing });
        assert_eq!(error.to_string(), "no service `ecco` in this job, which has `counter`, `echo`");
        assert_eq!(error.fate(), Fate::Refused);
        let told = deadline("tell", job.service::<Echo>("ecco").tell(Answer(1))).await.unwrap_err();
        assert_eq!(told, error);
        let few = start(env, FewNumbers {}).await;
        let error = deadline("call", few.service::<Echo>("echo").call(Answer(1))).await.unwrap_err();
        let none = "no service `echo` in this job, which has none";
        // Or it has ended by now, and says that.
        assert!([none.to_owned(), format!("{} has ended", few.id())].contains(&error.to_string()), "{error}");
        cancel(&job).await.unwrap();
    });
}

#[test]
fn a_task_that_asks_for_a_service_that_is_not_there_fails_its_job_with_those_words() {
    each_environment(async |env| {
        let journal = Journal::new();
        let outcome = ended(&start(env, Asks { pen: journal.pen() }).await).await;
        let words = "failed: operator `map_async` (instance 0) failed at item 1: no service `echo` in this job, which \
                     has `counter`";
        assert_eq!(outcome.to_string(), words);
    });
}

#[test]
fn a_service_called_as_another_type_or_with_a_message_it_does_not_accept_is_refused() {
    each_environment(async |env| {
        let journal = Journal::new();
        let job = start(env, Full { pen: journal.pen() }).await;
        let error = deadline("call", job.service::<Echo>("counter").call(Answer(1))).await.unwrap_err();
        assert!(matches!(&error, CallError::WrongService { service, .. } if service == "counter"), "{error:?}");
        let words = error.to_string();
        assert!(words.starts_with("service `counter` is of type ") && words.contains("Counter, not "), "{words}");
        assert!(words.ends_with("Echo"), "{words}");
        assert_eq!(error.fate(), Fate::Refused);
        // That the type is right is no use if the handler panics; but the words are others.
        let error = deadline("call", job.service::<Echo>("echo").call(Crash)).await.unwrap_err();
        assert_eq!(error.to_string(), "service `echo` failed while it handled the message");
        assert_eq!(error.fate(), Fate::Failed);
        cancel(&job).await.unwrap();
    });
}

#[test]
fn a_call_after_the_end_of_the_job_says_that_it_has_ended() {
    each_environment(async |env| {
        let journal = Journal::new();
        let job = start(env, Full { pen: journal.pen() }).await;
        let echo = job.service::<Echo>("echo");
        assert_eq!(deadline("call", echo.call(Answer(4))).await, Ok(4));
        cancel(&job).await.unwrap();
        for service in [echo, job.service::<Echo>("echo")] {
            let error = deadline("call", service.call(Answer(1))).await.unwrap_err();
            assert_eq!(error, CallError::JobEnded { job: job.id() });
            assert_eq!(error.to_string(), format!("{} has ended", job.id()));
            assert_eq!(error.fate(), Fate::NotSent);
        }
        let sent = deadline("send", job.input::<u64>("in").send(7)).await.unwrap_err();
        assert_eq!(*sent.error(), InputError::Closed { input: "in".to_owned() });
    });
}

#[test]
fn a_text_that_is_no_job_id_is_refused_and_shown() {
    let error = "job-12".parse::<JobId>().unwrap_err();
    assert_eq!(error.to_string(), "`job-12` is not a job id; one reads `job-` and 32 hexadecimal digits");
}

job!(Asks { pen: Pen }, |this, flow| {
    let pen = this.pen.clone();
    flow.register_service("counter", move || Counter::new("counter", &pen));
    flow.from_batch(0..10u64)
        .map_async(2, async |ctx: &TaskContext, item| Ok(ctx.service::<Echo>("echo")?.call(Answer(item)).await?))
        .collect("out");
});

registered![FewNumbers, Full, Asks];
