//! One API from everywhere: as a value, as `dyn Environment`, in generic code; from threads and from any runtime.

use std::{future::Future, sync::mpsc, time::Duration};

use proscenium::{
    CallError, CancelReason, ControlError, Drained, Environment, EnvironmentExt, ErrorPolicy, JobError, JobState,
    LocalEnvironment, OpenError, Outcome, QueryError, RunError, ServiceRef, SubmitError, job_fn,
};

use crate::support::{
    Answer, Counter, Crash, DEADLINE, Door, Doorway, Echo, Increment, Journal, JournalSink, Pen, block_on, deadline,
    each_environment, ended, job, on_a_thread, reached, read, registered, sorted,
};

job!(Squares { items: u64 }, |job, flow| {
    flow.register_service("echo", || Echo);
    let squares = flow.from_channel::<u64>("more").map(|n| n * n);
    let called = squares.map_async(4, async |ctx, n| Ok(ctx.service::<Echo>("echo")?.call(Answer(n)).await?));
    called.collect("squares");
    flow.from_batch(0..job.items).count().collect("count");
});

/// What an embedder does with a job, from whatever runtime this is polled by.
async fn embed(env: &dyn Environment) {
    let job = env.submit(Squares { items: 7 }).await.unwrap();
    let echo: ServiceRef<Echo> = job.service("echo");
    assert_eq!(echo.call(Answer(5)).deadline(DEADLINE).await.unwrap(), 5);
    let more = job.input::<u64>("more");
    more.send_all([1, 2, 3]).await.unwrap();
    job.pause().await.unwrap();
    job.resume().await.unwrap();
    assert_eq!(job.wait_timeout(Duration::from_millis(1)).await.unwrap(), None);
    more.finish().await.unwrap();
    let mut changes = job.watch();
    while changes.next().await.unwrap().unwrap().state != JobState::Idle {}
    assert_eq!(job.output::<u64>("squares").await.unwrap(), [1, 4, 9]);
    let mut count = job.output::<u64>("count");
    assert_eq!(count.next().await.unwrap(), Some(7));
    job.stop().await.unwrap();
    assert_eq!(job.wait().await.unwrap(), Outcome::Completed);
    assert_eq!(env.jobs().await.unwrap().len(), 1);
    env.close().await;
}

/// Polls `future` on this thread, without any runtime.
fn park_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = std::sync::Arc::new(Unpark(std::thread::current())).into();
    let mut future = std::pin::pin!(future);
    loop {
        if let std::task::Poll::Ready(output) = future.as_mut().poll(&mut std::task::Context::from_waker(&waker)) {
            return output;
        }
        std::thread::park();
    }
}

#[test]
fn the_api_works_without_a_runtime() {
    on_a_thread("the embedder", || park_on(embed(&LocalEnvironment::new("none"))));
}

#[test]
fn the_api_works_from_a_current_thread_runtime() {
    block_on(embed(&LocalEnvironment::new("current-thread")));
}

#[test]
fn the_api_works_from_a_multi_thread_runtime_and_its_futures_can_be_spawned() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let spawned = tokio::spawn(async { embed(&LocalEnvironment::new("multi-thread")).await });
        deadline("the embedder", spawned).await.unwrap();
    });
}

#[test]
fn the_api_works_from_an_actix_system() {
    on_a_thread("the embedder", || {
        let system = actix::System::new();
        system.block_on(embed(&LocalEnvironment::new("actix")));
    });
}

#[test]
fn blocking_code_has_the_same_methods() {
    on_a_thread("the embedder", || {
        let env = LocalEnvironment::new("blocking");
        assert_eq!(env.name(), "blocking");
        let job = env.submit(Squares { items: 7 }).name("squares").blocking().unwrap();
        let echo: ServiceRef<Echo> = job.service("echo");
        assert_eq!(echo.call(Answer(5)).blocking().unwrap(), 5);
        echo.tell(Answer(6)).blocking().unwrap();
        let more = job.input::<u64>("more");
        more.blocking_send(1).unwrap();
        more.blocking_send_all([2, 3]).unwrap();
        let handle = job.blocking();
        assert_eq!(handle.id(), job.id());
        handle.pause().unwrap();
        handle.resume().unwrap();
        assert_eq!(handle.graph().unwrap().services().collect::<Vec<_>>(), ["echo"]);
        assert_eq!(handle.wait_timeout(Duration::from_millis(1)).unwrap(), None);
        assert!(!handle.explain().unwrap().waits.is_empty());
        more.blocking_finish().unwrap();
        let states: Vec<JobState> = handle
            .watch()
            .map(|status| status.unwrap().state)
            .inspect(|state| {
                if *state == JobState::Idle {
                    handle.stop().unwrap();
                }
            })
            .collect();
        assert_eq!(states.last(), Some(&JobState::Ended));
        assert_eq!(handle.wait().unwrap(), Outcome::Completed);
        assert_eq!(handle.status().unwrap().outcome, Some(Outcome::Completed));
        assert_eq!(handle.dead_letters().unwrap().total, 0);
        assert_eq!(job.output::<u64>("squares").blocking().unwrap(), [1, 4, 9]);
        assert_eq!(job.output::<u64>("count").blocking_next().unwrap(), Some(7));

        let blocking = env.blocking();
        assert_eq!(blocking.info().unwrap().name, "blocking");
        assert_eq!(blocking.health().unwrap().jobs_ended, 1);
        assert_eq!(blocking.jobs().unwrap().len(), 1);
        assert_eq!(blocking.job(job.id()).unwrap().id(), job.id());
        handle.cancel().unwrap();
        handle.delete().unwrap();
        assert_eq!(blocking.cleanup().unwrap(), 0);
        let live = env.submit(Squares { items: 1 }).blocking().unwrap();
        live.blocking().delete_forced().unwrap();
        blocking.close();
    });
}

/// Generic over the environment, without `dyn`.
async fn generic<E: Environment>(env: &E) -> Outcome {
    let job = env.submit(Squares { items: 1 }).autostop(true).await.unwrap();
    job.stop().await.unwrap();
    let outcome = ended(&job).await;
    assert_eq!(env.run(NothingAtAll {}).await.unwrap(), Drained::Completed);
    outcome
}

job!(NothingAtAll {}, |job, _flow| {});

#[test]
fn generic_code_and_boxed_environments_need_no_more_than_the_trait() {
    block_on(async {
        let env = LocalEnvironment::new("generic");
        assert_eq!(generic(&env).await, Outcome::Stopped);
        let boxed: Box<dyn Environment> = Box::new(env.clone());
        assert_eq!(boxed.name(), "generic");
        assert_eq!(boxed.run(NothingAtAll {}).await.unwrap(), Drained::Completed);
        let info = boxed.info().await.unwrap();
        assert_eq!((info.name.as_str(), info.version.as_str()), ("generic", env!("CARGO_PKG_VERSION")));
        assert!(info.task_threads >= 1 && info.service_threads >= 1);
    });
}

fn is_shared<T: Clone + Send + Sync + 'static>() {}
fn is_sent<T: Send>(_: &T) {}
fn is_error<T: std::error::Error + Send + Sync + 'static>() {}

#[test]
fn handles_are_shared_futures_are_sent_and_errors_are_errors() {
    is_shared::<LocalEnvironment>();
    is_shared::<proscenium::JobHandle>();
    is_shared::<proscenium::BlockingJob>();
    is_shared::<ServiceRef<Echo>>();
    is_shared::<proscenium::Input<u64>>();
    is_error::<SubmitError>();
    is_error::<RunError>();
    is_error::<OpenError>();
    is_error::<proscenium::QueryError>();
    is_error::<proscenium::ControlError>();
    is_error::<proscenium::CallError>();
    is_error::<proscenium::OutputError>();
    is_error::<proscenium::InputError>();
    is_error::<proscenium::SendError<String>>();
    is_error::<proscenium::BuildRefusal>();
    is_error::<proscenium::FailureCause>();
    block_on(async {
        let env = LocalEnvironment::new("sent");
        let submit = env.submit(Squares { items: 1 });
        is_sent(&submit);
        let job = submit.await.unwrap();
        is_sent(&(job.status(), job.wait(), job.stop(), job.watch(), job.explain(), job.output::<u64>("squares")));
        is_sent(&job.service::<Echo>("echo").call(Answer(1)));
        is_sent(&job.input::<u64>("more").send(1));
        is_sent(&env.run(NothingAtAll {}));
    });
}

#[test]
fn several_environments_in_one_process_do_not_know_each_other() {
    block_on(async {
        let environments: Vec<LocalEnvironment> = (0..4).map(|n| LocalEnvironment::new(format!("env-{n}"))).collect();
        let mut jobs = Vec::new();
        for (n, env) in environments.iter().enumerate() {
            let job = env.submit(Squares { items: n as u64 }).await.unwrap();
            job.input::<u64>("more").send(n as u64).await.unwrap();
            jobs.push(job);
        }
        for (n, (env, job)) in environments.iter().zip(&jobs).enumerate() {
            let other = &environments[(n + 1) % 4];
            assert!(matches!(other.job(job.id()).await, Err(proscenium::QueryError::NoSuchJob { .. })));
            assert_eq!(env.jobs().await.unwrap().len(), 1);
        }
        environments[0].close().await;
        for (n, job) in jobs.iter().enumerate().skip(1) {
            job.input::<u64>("more").finish().await.unwrap();
            reached(job, JobState::Idle).await;
            assert_eq!(read::<u64>(job, "squares").await, [(n * n) as u64]);
        }
    });
}

job!(Endless { door: Doorway, pen: Pen }, |job, flow| {
    let (door, pen, sink) = (job.door.clone(), job.pen.clone(), job.pen.clone());
    flow.register_service("counter", move || Counter::new("counter", &pen));
    let numbers = flow.from_batch(0u64..).map_async(1, async move |_, n| {
        if n == 10 {
            door.pass(n).await;
        }
        Ok(n)
    });
    numbers.rebalance(2).sink(move || JournalSink::new(&sink));
});

#[test]
fn every_method_means_the_same_in_every_environment() {
    each_environment(async |env| {
        assert_eq!(env.name(), "test");
        let info = env.info().await.unwrap();
        assert_eq!((info.name.as_str(), info.task_threads), ("test", 2));
        let submit = env.submit(Squares { items: 7 }).name("walk").parallelism(2).error_policy(ErrorPolicy::Skip);
        let job = deadline("submit", submit.autostop(false).run_limit(10 * DEADLINE)).await.unwrap();
        assert_eq!((job.name(), job.status().await.unwrap().autostop), ("walk", false));
        let again = env.job(job.id()).await.unwrap();
        assert_eq!((again.id(), again.name()), (job.id(), "walk"));

        let echo: ServiceRef<Echo> = job.service("echo");
        assert_eq!((echo.name(), echo.job()), ("echo", job.id()));
        assert_eq!(echo.call(Answer(5)).deadline(DEADLINE).await.unwrap(), 5);
        echo.tell(Answer(6)).await.unwrap();
        let decoded: ServiceRef<Echo> = serde_json::from_str(&serde_json::to_string(&echo).unwrap()).unwrap();
        assert!(matches!(decoded.call(Answer(7)).await, Err(CallError::Unbound { .. })));
        assert_eq!(decoded.bind(env).call(Answer(7)).await.unwrap(), 7);
        assert_eq!(again.service::<Echo>("echo").call(Answer(8)).await.unwrap(), 8);

        let more = job.input::<u64>("more");
        assert_eq!(more.name(), "more");
        more.send(1).await.unwrap();
        more.send_all([2, 3]).await.unwrap();
        let graph = job.graph().await.unwrap();
        assert_eq!(graph.services().collect::<Vec<_>>(), ["echo"]);
        assert_eq!(job.dead_letters().await.unwrap().total, 0);
        assert!(!job.explain().await.unwrap().waits.is_empty());
        assert_eq!(job.wait_timeout(Duration::from_millis(1)).await.unwrap(), None);
        job.pause().await.unwrap();
        reached(&job, JobState::Paused).await;
        job.resume().await.unwrap();
        assert!(matches!(job.delete().await, Err(ControlError::Conflict { .. })));
        more.clone().finish().await.unwrap();
        reached(&job, JobState::Idle).await;
        let mut squares = job.output::<u64>("squares");
        assert_eq!(squares.name(), "squares");
        assert_eq!(deadline("the first", squares.next()).await.unwrap(), Some(1));
        assert_eq!(deadline("the rest", squares).await.unwrap(), [4, 9]);
        assert_eq!(read::<u64>(&again, "count").await, [7]);
        job.stop().await.unwrap();
        assert_eq!(ended(&job).await, Outcome::Completed);
        let last = job.watch().next().await.unwrap().unwrap();
        assert_eq!((last.state, last.services[0].handled), (JobState::Ended, 7));
        assert!(matches!(job.resume().await, Err(ControlError::Conflict { .. })));
        job.cancel().await.unwrap();

        let other = env.submit(Squares { items: 1 }).await.unwrap();
        assert_eq!(env.jobs().await.unwrap().len(), 2);
        let health = env.health().await.unwrap();
        assert_eq!((health.accepting, health.jobs_live, health.jobs_ended), (true, 1, 1));
        other.delete_forced().await.unwrap();
        assert!(matches!(env.job(other.id()).await, Err(QueryError::NoSuchJob { .. })));
        assert_eq!(env.cleanup().await.unwrap(), 1);
        assert!(matches!(job.status().await, Err(QueryError::NoSuchJob { .. })));
        let cancelled = env.submit(Squares { items: 1 }).await.unwrap();
        cancelled.cancel().await.unwrap();
        assert!(matches!(ended(&cancelled).await, Outcome::Cancelled { reason: CancelReason::Requested, .. }));
        cancelled.delete().await.unwrap();
        assert_eq!(env.run(NothingAtAll {}).await.unwrap(), Drained::Completed);
    });
}

#[test]
fn a_local_environment_that_is_dropped_cancels_its_jobs_and_runs_their_hooks() {
    block_on(async {
        let (door, journal) = (Door::new().await, Journal::new());
        let env = LocalEnvironment::new("dropped");
        let clone = env.clone();
        let job = env.submit(Endless { door: door.way(), pen: journal.pen() }).await.unwrap();
        let visitor = door.arrival().await;
        assert_eq!(job.service::<Counter>("counter").call(Increment).await.unwrap(), 1);
        drop(env);
        assert!(job.status().await.unwrap().is_running(), "a clone keeps it open");
        let waiter = tokio::spawn(job.wait());
        tokio::task::yield_now().await;
        job.status().await.unwrap();
        on_a_thread("dropping the environment", move || drop(clone));
        let outcome = deadline("the waiter being told", waiter).await.unwrap().unwrap();
        assert!(matches!(outcome, Outcome::Cancelled { reason: CancelReason::EnvironmentClosed, .. }), "{outcome:?}");
        assert_eq!(job.status().await.unwrap_err(), proscenium::QueryError::EnvironmentClosed);
        assert_eq!(journal.count("counter stopped after 1"), 1, "{:?}", journal.lines());
        // How many of the sinks were opened by then is a matter of timing.
        for (open, dropped) in [("0 open", "0 drop"), ("1 open", "1 drop")] {
            assert_eq!(journal.count(open), journal.count(dropped), "{:?}", journal.lines());
        }
        assert_eq!(journal.count("0 close") + journal.count("1 close"), 0);
        drop(visitor);
    });
}

#[test]
fn the_last_handle_may_be_dropped_on_a_thread_of_the_environment() {
    on_a_thread("the job", || {
        let env = LocalEnvironment::new("suicidal");
        let (dropped, is_dropped) = mpsc::channel();
        let slot = std::sync::Arc::new(std::sync::Mutex::new(Some(env.clone())));
        let job = job_fn("drops its environment", move |flow| {
            let (slot, dropped) = (std::sync::Arc::clone(&slot), dropped.clone());
            flow.from_batch(0..1u64).for_each(move |_| {
                drop(slot.lock().unwrap().take());
                let _ = dropped.send(());
            });
            Ok(())
        });
        let submit = env.submit(job);
        drop(env);
        let job = submit.blocking();
        is_dropped.recv_timeout(DEADLINE).expect("the operator goes on after the drop");
        // How far the submit came before the environment closed is a matter of timing; that it ends is not.
        if let Ok(job) = job {
            let _ = job.blocking().wait();
        }
    });
}

#[test]
fn run_submits_with_autostop_and_waits() {
    each_environment(async |env| {
        let run = env.run(NothingAtAll {}).name("run").parallelism(2).error_policy(ErrorPolicy::Skip);
        assert_eq!(deadline("the run", run).await.unwrap(), Drained::Completed);
        let jobs = env.jobs().await.unwrap();
        assert_eq!((jobs.len(), jobs[0].name.as_str(), jobs[0].autostop), (1, "run", true));

        let limited = env.run(Squares { items: 1 }).run_limit(Duration::from_millis(20));
        let error = deadline("the run", limited).await.unwrap_err();
        let expected = RunError::Job(JobError::Cancelled { reason: CancelReason::Deadline, dropped: 0 });
        assert_eq!(error, expected);

        let refused = deadline("the run", env.run(NothingAtAll {}).parallelism(0)).await.unwrap_err();
        assert!(matches!(refused, RunError::Submit(SubmitError::Build(_))), "{refused:?}");
        assert_eq!(refused.to_string(), "the job was not accepted");
    });
}

#[test]
fn a_closure_can_be_a_job_of_a_local_environment() {
    block_on(async {
        let env = LocalEnvironment::builder("closures").task_threads(1).service_threads(2).open().unwrap();
        let offset = 100;
        let job = job_fn("adhoc", move |flow| {
            flow.register_service("echo", || Echo);
            flow.from_batch(0..5u64).map(move |n| n + offset).rebalance(3).collect("out");
            Ok(())
        });
        let job = env.submit(job).autostop(true).await.unwrap();
        assert_eq!(job.name(), "adhoc");
        assert_eq!(ended(&job).await, Outcome::Completed);
        assert_eq!(sorted(read::<u64>(&job, "out").await), [100, 101, 102, 103, 104]);
    });
}

#[test]
fn an_environment_without_threads_is_refused() {
    for (builder, purpose) in [
        (LocalEnvironment::builder("none").task_threads(0), "tasks"),
        (LocalEnvironment::builder("none").service_threads(0), "services"),
    ] {
        let error = builder.open().unwrap_err();
        assert!(matches!(error, OpenError::NoThreads { purpose: said } if said == purpose), "{error:?}");
        assert_eq!(error.to_string(), format!("an environment needs at least one thread for {purpose}"));
    }
}

#[test]
fn a_panic_in_one_job_takes_nothing_else_down() {
    each_environment(async |env| {
        let bystander = env.submit(Squares { items: 3 }).await.unwrap();
        for _ in 0..5 {
            let job = env.submit(Panicking {}).autostop(true).await.unwrap();
            assert!(ended(&job).await.is_failed());
        }
        let echo: ServiceRef<Echo> = bystander.service("echo");
        assert!(echo.call(Crash).await.is_err());
        assert_eq!(echo.call(Answer(1)).await.unwrap(), 1);
        bystander.input::<u64>("more").send(3).await.unwrap();
        bystander.input::<u64>("more").finish().await.unwrap();
        reached(&bystander, JobState::Idle).await;
        assert_eq!(read::<u64>(&bystander, "squares").await, [9]);
        bystander.stop().await.unwrap();
        assert_eq!(ended(&bystander).await, Outcome::Completed);
    });
}

job!(Panicking {}, |job, flow| {
    flow.from_batch(0..10u64).rebalance(4).for_each(|n| assert!(n != 5, "five"));
});

registered![Squares, NothingAtAll, Endless, Panicking];
