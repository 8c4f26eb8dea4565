//! What is known of jobs: listing, deleting, forgetting.

use proscenium::{
    CallError, CancelReason, ControlError, Environment, InputError, JobHandle, JobId, JobState, Limits, Outcome,
    OutputError, QueryError, SubmitError,
};

use crate::support::{
    Answer, Echo, Place, completed, deadline, each_environment, each_environment_with, each_place_with, ended, idle,
    job, read, registered,
};

job!(Ten {}, |job, flow| {
    flow.from_batch(0..10u64).collect("out");
});

job!(Waits {}, |job, flow| {
    flow.register_service("echo", || Echo);
    flow.from_channel::<u64>("numbers").collect("out");
});

/// Asks everything that can be asked of a job, which has to fail as if there were no such job.
async fn is_unknown(job: &JobHandle) {
    let id = job.id();
    let (query, control) = (QueryError::NoSuchJob { id }, ControlError::NoSuchJob { id });
    assert_eq!(job.status().await.unwrap_err(), query);
    assert_eq!(job.wait().await.unwrap_err(), query);
    assert_eq!(job.wait_timeout(std::time::Duration::from_secs(60)).await.unwrap_err(), query);
    assert_eq!(job.explain().await.unwrap_err(), query);
    assert_eq!(job.dead_letters().await.unwrap_err(), query);
    assert_eq!(job.graph().await.unwrap_err(), query);
    let mut changes = job.watch();
    assert_eq!(changes.next().await.unwrap().unwrap_err(), query);
    assert!(changes.next().await.is_none());
    assert_eq!(job.stop().await.unwrap_err(), control);
    assert_eq!(job.cancel().await.unwrap_err(), control);
    assert_eq!(job.pause().await.unwrap_err(), control);
    assert_eq!(job.resume().await.unwrap_err(), control);
    assert_eq!(job.delete().await.unwrap_err(), control);
    assert_eq!(job.delete_forced().await.unwrap_err(), control);
    assert_eq!(job.output::<u64>("out").await.unwrap_err(), OutputError::NoSuchJob { id });
    let error = job.input::<u64>("numbers").send(1).await.unwrap_err().into_error();
    assert_eq!(error, InputError::NoSuchJob { id });
    assert_eq!(job.service::<Echo>("echo").call(Answer(1)).await.unwrap_err(), CallError::NoSuchJob { job: id });
    let text = format!("no such job: {id}");
    let texts = [query.to_string(), control.to_string(), OutputError::NoSuchJob { id }.to_string(), error.to_string()];
    assert_eq!(texts, [text.clone(), text.clone(), text.clone(), text]);
}

#[test]
fn everything_asked_of_an_unknown_job_fails_with_the_same_error() {
    each_environment(async |env| {
        let id = JobId::random();
        assert_eq!(env.job(id).await.unwrap_err(), QueryError::NoSuchJob { id });
        let job = completed(env, Ten {}).await;
        job.delete().await.unwrap();
        is_unknown(&job).await;
        assert_eq!(env.job(job.id()).await.unwrap_err(), QueryError::NoSuchJob { id: job.id() });
    });
}

#[test]
fn an_ended_job_is_listed_with_outcome_times_and_counts() {
    each_environment(async |env| {
        assert_eq!(env.jobs().await.unwrap(), []);
        let job = completed(env, Ten {}).await;
        let jobs = env.jobs().await.unwrap();
        assert_eq!(jobs, [job.status().await.unwrap()]);
        assert_eq!(
            (jobs[0].name.as_str(), jobs[0].state, &jobs[0].outcome),
            ("Ten", JobState::Ended, &Some(Outcome::Completed))
        );
        assert!(jobs[0].submitted_at <= jobs[0].started_at.unwrap());
        assert!(jobs[0].started_at <= jobs[0].ended_at);
        assert_eq!(jobs[0].tasks[0].counters.items_out, 10);
    });
}

#[test]
fn two_jobs_of_one_name_are_two_jobs() {
    each_environment(async |env| {
        let live = env.submit(Waits {}).name("Ten").await.unwrap();
        let done = completed(env, Ten {}).await;
        assert_ne!(live.id(), done.id());
        let jobs = env.jobs().await.unwrap();
        let listed: Vec<(JobId, &str, bool)> =
            jobs.iter().map(|status| (status.id, status.name.as_str(), status.is_running())).collect();
        assert_eq!(listed, [(live.id(), "Ten", true), (done.id(), "Ten", false)], "oldest first");
        crate::support::cancel(&live).await.unwrap();
    });
}

#[test]
fn a_handle_can_be_made_again_from_the_id_and_dropping_handles_changes_nothing() {
    each_environment(async |env| {
        let id = env.submit(Waits {}).autostop(true).await.unwrap().id();
        let text = id.to_string();
        let job = env.job(text.parse().unwrap()).await.unwrap();
        assert_eq!((job.id(), job.name()), (id, "Waits"));
        assert!(job.status().await.unwrap().is_running());
        job.input::<u64>("numbers").send(7).await.unwrap();
        drop(job);
        let job = env.job(id).await.unwrap();
        job.input::<u64>("numbers").finish().await.unwrap();
        assert_eq!(ended(&job).await, Outcome::Completed);
        drop(job);
        let job = env.job(id).await.unwrap();
        assert_eq!(read::<u64>(&job, "out").await, [7]);
    });
}

#[test]
fn a_live_job_is_deleted_by_force_only_and_whoever_waits_is_told() {
    each_environment(async |env| {
        let job = idle_input(env).await;
        let error = job.delete().await.unwrap_err();
        let expected = ControlError::Conflict { operation: "delete".to_owned(), state: JobState::Running };
        assert_eq!(error, expected);
        assert_eq!(error.to_string(), "cannot delete a job that is running");
        let waiter = tokio::spawn(job.wait());
        // The question is on its way once the job has been asked something after it.
        tokio::task::yield_now().await;
        job.status().await.unwrap();
        deadline("the deletion", job.delete_forced()).await.unwrap();
        let outcome = deadline("the waiter being told", waiter).await.unwrap().unwrap();
        assert!(matches!(outcome, Outcome::Cancelled { reason: CancelReason::Deleted, .. }), "{outcome:?}");
        is_unknown(&job).await;
        assert_eq!(env.jobs().await.unwrap(), []);
    });
}

async fn idle_input(env: &dyn Environment) -> JobHandle {
    let job = env.submit(Waits {}).await.unwrap();
    crate::support::reached(&job, JobState::Running).await;
    job
}

#[test]
fn cleanup_deletes_ended_jobs_and_no_others() {
    each_environment(async |env| {
        let live = idle_input(env).await;
        let jobs = [completed(env, Ten {}).await, completed(env, Ten {}).await, completed(env, Ten {}).await];
        assert_eq!(env.cleanup().await.unwrap(), 3);
        assert_eq!(env.cleanup().await.unwrap(), 0);
        for job in &jobs {
            assert!(matches!(job.status().await, Err(QueryError::NoSuchJob { .. })));
        }
        assert_eq!(env.jobs().await.unwrap().len(), 1);
        assert!(live.status().await.unwrap().is_running());
        let health = env.health().await.unwrap();
        assert_eq!((health.jobs_live, health.jobs_ended), (1, 0));
        crate::support::cancel(&live).await.unwrap();
    });
}

#[test]
fn of_ended_jobs_the_newest_stay_readable_and_those_that_a_handle_refers_to() {
    let limits = Limits { ended_jobs_max: 2, ..Limits::default() };
    each_environment_with(&limits, async |env| {
        let held = completed(env, Ten {}).await;
        let mut ids = Vec::new();
        for _ in 0..4 {
            ids.push(completed(env, Ten {}).await.id());
        }
        assert_eq!(read::<u64>(&held, "out").await.len(), 10, "its handle lives");
        let id = ids[0];
        let error = env.job(id).await.unwrap_err();
        assert_eq!(error, QueryError::Expired { id });
        let text = format!("{id} has expired: it ended, and is no longer among the ended jobs that are kept");
        assert_eq!(error.to_string(), text);
        assert!(env.job(ids[2]).await.is_ok() && env.job(ids[3]).await.is_ok(), "the newest two are kept");
        let id = held.id();
        drop(held);
        assert_eq!(env.job(id).await.unwrap_err(), QueryError::Expired { id });
    });
}

#[test]
fn an_output_or_a_service_keeps_its_job_readable_like_a_handle() {
    let limits = Limits { ended_jobs_max: 0, ..Limits::default() };
    each_environment_with(&limits, async |env| {
        let output = completed(env, Ten {}).await.output::<u64>("out");
        completed(env, Ten {}).await;
        assert_eq!(deadline("the output", output).await.unwrap(), (0..10).collect::<Vec<_>>());
    });
}

#[test]
fn everything_asked_of_a_closed_environment_fails_with_the_same_error() {
    each_place_with(&Limits::default(), async |place, env| {
        let (live, done) = (idle(env, HasEcho {}).await, completed(env, Ten {}).await);
        let running = deadline("submit", env.submit(Waits {})).await.unwrap();
        let (waiter, other) = (tokio::spawn(live.wait()), tokio::spawn(running.wait()));
        tokio::task::yield_now().await;
        live.status().await.unwrap();
        deadline("closing", env.close()).await;
        deadline("closing again", env.close()).await;
        let outcome = deadline("the waiter being told", other).await.unwrap();
        if place == Place::Local {
            let kept = deadline("the waiter being told", waiter).await.unwrap();
            assert_eq!(kept, Ok(Outcome::Completed), "an idle job keeps what it has earned");
            let outcome = outcome.unwrap();
            let expected = Outcome::Cancelled { reason: CancelReason::EnvironmentClosed, dropped: 0 };
            assert_eq!(outcome, expected);
            assert_eq!(outcome.to_string(), "cancelled (environment closed), 0 items dropped");
        } else {
            // A remote environment only disconnects: the job goes on, and how it ends is not known here.
            assert_eq!(outcome.unwrap_err(), QueryError::EnvironmentClosed);
        }

        let query = QueryError::EnvironmentClosed;
        assert_eq!(env.jobs().await.unwrap_err(), query);
        assert_eq!(env.job(done.id()).await.unwrap_err(), query);
        assert_eq!(env.health().await.unwrap_err(), query);
        assert_eq!(env.info().await.unwrap_err(), query);
        assert_eq!(env.cleanup().await.unwrap_err(), query);
        assert_eq!(env.submit(Ten {}).await.unwrap_err(), SubmitError::EnvironmentClosed);
        for job in [live, done] {
            assert_eq!(job.status().await.unwrap_err(), query);
            assert_eq!(job.wait().await.unwrap_err(), query);
            assert_eq!(job.stop().await.unwrap_err(), ControlError::EnvironmentClosed);
            assert_eq!(job.output::<u64>("out").await.unwrap_err(), OutputError::EnvironmentClosed);
            let error = job.input::<u64>("numbers").send(1).await.unwrap_err().into_error();
            assert_eq!(error, InputError::EnvironmentClosed);
            let error = job.service::<Echo>("echo").call(Answer(1)).await.unwrap_err();
            assert_eq!(error, CallError::EnvironmentClosed);
        }
    });
}

job!(HasEcho {}, |job, flow| {
    flow.register_service("echo", || Echo);
});

registered![Ten, Waits, HasEcho];
