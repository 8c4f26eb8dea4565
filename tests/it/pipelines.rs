//! Pipelines as services: requests that flow through operators, answers that find their callers, and when it all ends.

use std::time::Duration;

use actix::{Actor, AsyncContext, Context, Message, WrapFuture};
use futures::future::join_all;
use proscenium::{
    BuildRefusal, CallError, ErrorPolicy, JobHandle, JobState, Limits, LocalEnvironment, MessageTable, NoReply,
    Outcome, PipelineService, Service, TaskError, job_fn,
};
use serde::{Deserialize, Serialize};

use crate::support::{
    Answer, Counter, Door, Doorway, Echo, Increment, Journal, block_on, cancel, completed, deadline, each_environment,
    each_environment_with, ended, idle, job, reached, read, refusal, registered, sorted, start, until,
};

registered![
    SquareService,
    AskedByTasks,
    Sieve,
    HeldRequests,
    HeldWithSource,
    Breaks,
    OnlyPipeline,
    FourthPowers,
    StartsSlowly
];

/// Answered with the square.
#[derive(Debug, Serialize, Deserialize, Message)]
#[rtype(result = "Result<u64, NoReply>")]
struct Square(u64);

type Squaring = PipelineService<Square>;

job!(SquareService { parallelism: usize }, |job, flow| {
    let parallelism = job.parallelism;
    flow.pipeline_service("squares", move |requests| requests.rebalance(parallelism).map(|Square(n)| n * n));
});

async fn square(job: &JobHandle, n: u64) -> Result<Result<u64, NoReply>, CallError> {
    deadline("an answer", job.service::<Squaring>("squares").call(Square(n))).await
}

#[test]
fn each_answer_goes_to_the_client_that_asked() {
    each_environment(async |env| {
        let job = idle(env, SquareService { parallelism: 2 }).await;
        let other = env.job(job.id()).await.expect("the job is there");
        let ask = async |job: &JobHandle, from: u64| {
            let asked = (from..from + 3).map(|n| square(job, n));
            join_all(asked).await.into_iter().map(|answer| answer.unwrap().unwrap()).collect::<Vec<_>>()
        };
        let (a, b) = futures::join!(ask(&job, 1), ask(&other, 10));
        assert_eq!((a, b), (vec![1, 4, 9], vec![100, 121, 144]));
        job.stop().await.unwrap();
        assert_eq!(ended(&job).await, Outcome::Completed);
    });
}

#[test]
fn a_thousand_requests_are_in_flight_and_answered() {
    let limits = Limits { service_queue: 16, ..Limits::default() };
    each_environment_with(&limits, async |env| {
        let job = idle(env, SquareService { parallelism: 3 }).await;
        let answers = join_all((0..1_000).map(|n| square(&job, n))).await;
        let answers: Vec<u64> = answers.into_iter().map(|answer| answer.unwrap().unwrap()).collect();
        assert_eq!(answers, (0..1_000).map(|n| n * n).collect::<Vec<_>>());
        cancel(&job).await.unwrap();
    });
}

job!(AskedByTasks { items: u64 }, |job, flow| {
    let pen = Journal::new().pen();
    flow.register_service("counter", move || Counter::new("counter", &pen));
    flow.pipeline_service("squares", |requests| {
        // It calls a service of the job, also while the job is being stopped.
        let counted = requests.map_async(8, async |ctx, Square(n): Square| {
            ctx.service::<Counter>("counter")?.call(Increment).await?;
            Ok(n)
        });
        counted.rebalance(2).map(|n| n * n)
    });
    flow.from_batch(0..job.items)
        .rebalance(2)
        .map_async(32, async |ctx, n| Ok(ctx.service::<Squaring>("squares")?.call(Square(n)).await??))
        .collect("out");
});

#[test]
fn a_pipeline_ends_after_its_last_caller() {
    each_environment(async |env| {
        let job = completed(env, AskedByTasks { items: 500 }).await;
        assert_eq!(sorted(read::<u64>(&job, "out").await), (0..500).map(|n| n * n).collect::<Vec<_>>());
        let status = deadline("the status", job.status()).await.unwrap();
        assert!(status.warnings.is_empty(), "{:?}", status.warnings);
        assert_eq!((status.task_count, status.service_count), (0, 0));
        let answered = status.tasks.iter().find(|task| task.name.ends_with("reply")).expect("it is a task of the job");
        assert!(answered.counters.items_in > 0);
    });
}

job!(Sieve { skip: bool }, |job, flow| {
    let policy = if job.skip { ErrorPolicy::Skip } else { ErrorPolicy::Fail };
    flow.pipeline_service("squares", |requests| {
        requests
            .filter(|Square(n)| n % 2 == 1)
            .filter_map(|Square(n)| (n != 3).then_some(n))
            .filter_async(4, async |_, n| Ok(*n != 5))
            .try_map(|n| if n == 7 { Err(TaskError::new("seven")) } else { Ok(n) })
            .on_error(policy)
            .inspect(|_| {})
            .map(|n| n * n)
    });
});

#[test]
fn a_request_that_is_dropped_answers_that_there_is_no_reply() {
    each_environment(async |env| {
        let job = idle(env, Sieve { skip: true }).await;
        for n in [2, 3, 5, 7] {
            assert_eq!(square(&job, n).await, Ok(Err(NoReply)), "{n}");
        }
        assert_eq!(square(&job, 9).await, Ok(Ok(81)));
        // The reply may come before the task has said of its step what it set aside.
        until(&job, "the dead letter", |status| status.dead_letters > 0).await;
        let letters = deadline("dead letters", job.dead_letters()).await.unwrap();
        assert_eq!((letters.total, letters.newest[0].cause.as_str()), (1, "seven"));
        assert_eq!(NoReply.to_string(), "the pipeline gave no reply to the request");
        cancel(&job).await.unwrap();
    });
}

#[test]
fn an_operator_that_fails_fails_the_job() {
    each_environment(async |env| {
        let job = idle(env, Sieve { skip: false }).await;
        assert_eq!(square(&job, 7).await, Ok(Err(NoReply)));
        let text = "failed: operator `try_map` (instance 0) failed at item 1: seven";
        assert_eq!(ended(&job).await.to_string(), text);
    });
}

/// Answered with the number, once let through the door.
#[derive(Debug, Serialize, Deserialize, Message)]
#[rtype(result = "Result<u64, NoReply>")]
struct Asked0(u64, Doorway);

job!(HeldRequests {}, |this, flow| {
    flow.pipeline_service("held", |requests| {
        requests.map_async(8, async |_, Asked0(n, door): Asked0| {
            door.pass(n).await;
            Ok(n)
        })
    });
});

#[test]
fn what_was_accepted_is_answered_while_the_job_stops() {
    each_environment(async |env| {
        let job = idle(env, HeldRequests {}).await;
        let door = Door::new().await;
        let held = job.service::<PipelineService<Asked0>>("held");
        let call = tokio::spawn({
            let (held, way) = (held.clone(), door.way());
            async move { held.call(Asked0(1, way)).await }
        });
        let visitor = door.arrival_of("1").await;
        job.stop().await.unwrap();
        reached(&job, JobState::StoppingServices).await;
        let late = deadline("a refusal", held.call(Asked0(2, door.way()))).await;
        assert_eq!(late, Err(CallError::Stopping { service: "held".into() }));
        visitor.admit();
        assert_eq!(deadline("the answer", call).await.unwrap(), Ok(Ok(1)));
        assert_eq!(ended(&job).await, Outcome::Completed);
    });
}

#[test]
fn a_call_that_takes_too_long_times_out_and_the_next_gets_its_own_answer() {
    each_environment(async |env| {
        let job = idle(env, HeldRequests {}).await;
        let door = Door::new().await;
        let held = job.service::<PipelineService<Asked0>>("held");
        let limit = Duration::from_millis(50);
        let slow = deadline("a timeout", held.call(Asked0(1, door.way())).deadline(limit)).await;
        assert_eq!(slow, Err(CallError::Timeout { service: "held".into(), deadline: limit }));
        let visitor = door.arrival_of("1").await;
        let call = tokio::spawn({
            let (held, way) = (held.clone(), door.way());
            async move { held.call(Asked0(2, way)).await }
        });
        door.arrival_of("2").await.admit();
        visitor.admit();
        assert_eq!(deadline("the answer", call).await.unwrap(), Ok(Ok(2)));
        cancel(&job).await.unwrap();
    });
}

#[test]
fn a_job_that_is_cancelled_answers_that_there_is_no_reply() {
    each_environment(async |env| {
        let job = idle(env, HeldRequests {}).await;
        let door = Door::new().await;
        let held = job.service::<PipelineService<Asked0>>("held");
        let call = tokio::spawn({
            let way = door.way();
            async move { held.call(Asked0(1, way)).await }
        });
        let _visitor = door.arrival_of("1").await;
        job.cancel().await.unwrap();
        assert_eq!(deadline("the answer", call).await.unwrap(), Ok(Err(NoReply)));
        assert_eq!(ended(&job).await, Outcome::Completed, "it was idle, and its tasks had earned that");
    });
}

#[test]
fn a_pipeline_that_never_answers_is_given_up_at_the_deadline() {
    let limits = Limits { service_stop_deadline: Duration::from_millis(50), ..Limits::default() };
    each_environment_with(&limits, async |env| {
        let job = idle(env, HeldRequests {}).await;
        let door = Door::new().await;
        let held = job.service::<PipelineService<Asked0>>("held");
        let call = tokio::spawn({
            let way = door.way();
            async move { held.call(Asked0(1, way)).await }
        });
        let _visitor = door.arrival_of("1").await;
        job.stop().await.unwrap();
        assert_eq!(
            deadline("the end of the call", call).await.unwrap(),
            Err(CallError::ServiceFailed { service: "held".into() })
        );
        assert_eq!(ended(&job).await, Outcome::Completed);
        let status = deadline("the status", job.status()).await.unwrap();
        let warnings: Vec<String> = status.warnings.iter().map(ToString::to_string).collect();
        assert_eq!(warnings.len(), 2, "{warnings:?}");
    });
}

job!(HeldWithSource {}, |this, flow| {
    flow.pipeline_service("squares", |requests| requests.map(|Square(n)| n * n));
    flow.from_channel::<u64>("in").collect("out");
});

#[test]
fn a_pipeline_answers_while_the_job_is_paused() {
    each_environment(async |env| {
        let job = start(env, HeldWithSource {}).await;
        reached(&job, JobState::Running).await;
        job.pause().await.unwrap();
        reached(&job, JobState::Paused).await;
        assert_eq!(square(&job, 5).await, Ok(Ok(25)));
        job.stop().await.unwrap();
        assert_eq!(ended(&job).await, Outcome::Stopped);
    });
}

job!(Breaks {}, |this, flow| {
    flow.register_service("echo", || Echo);
    flow.pipeline_service("squares", |requests| requests.map(|Square(n)| 100 / n).on_error(ErrorPolicy::Skip));
});

#[test]
fn a_panic_under_skip_costs_one_answer() {
    each_environment(async |env| {
        let job = idle(env, Breaks {}).await;
        assert_eq!(square(&job, 0).await, Ok(Err(NoReply)));
        assert_eq!(square(&job, 5).await, Ok(Ok(20)));
        let wrong = deadline("a refusal", job.service::<Squaring>("echo").call(Square(1))).await;
        assert!(matches!(wrong, Err(CallError::WrongService { .. })), "{wrong:?}");
        let wrong = deadline("a refusal", job.service::<Echo>("squares").call(Answer(1))).await;
        assert!(matches!(wrong, Err(CallError::WrongService { .. })), "{wrong:?}");
        cancel(&job).await.unwrap();
    });
}

job!(OnlyPipeline {}, |this, flow| {
    flow.pipeline_service("squares", |requests| requests.map(|Square(n)| n * n));
});

#[test]
fn a_job_of_a_pipeline_only_completes_at_once_under_autostop() {
    each_environment(async |env| {
        assert_eq!(ended(&start(env, OnlyPipeline {}).await).await, Outcome::Completed);
    });
}

/// Answered with the fourth power, by way of another pipeline.
#[derive(Debug, Serialize, Deserialize, Message)]
#[rtype(result = "Result<u64, NoReply>")]
struct Asked(u64);

job!(FourthPowers {}, |this, flow| {
    flow.pipeline_service("squares", |requests| requests.map(|Square(n)| n * n));
    flow.pipeline_service("fourth", |requests| {
        requests.map_async(4, async |ctx, Asked(n): Asked| {
            let squares = ctx.service::<Squaring>("squares")?;
            let square = squares.call(Square(n)).await??;
            Ok(squares.call(Square(square)).await??)
        })
    });
    flow.from_batch(1..=5u64)
        .map_async(2, async |ctx, n| Ok(ctx.service::<PipelineService<Asked>>("fourth")?.call(Asked(n)).await??))
        .collect("out");
});

#[test]
fn a_pipeline_calls_another() {
    each_environment(async |env| {
        let job = completed(env, FourthPowers {}).await;
        assert_eq!(read::<u64>(&job, "out").await, [1, 16, 81, 256, 625]);
    });
}

#[test]
fn a_name_that_is_taken_is_refused() {
    block_on(async {
        let env = LocalEnvironment::new("test");
        let twice = job_fn("twice", |flow| {
            flow.register_service("squares", || Echo);
            flow.pipeline_service("squares", |requests| requests.map(|Square(n)| n));
            Ok(())
        });
        assert_eq!(refusal(&env, twice).await, BuildRefusal::DuplicateService { service: "squares".into() });
    });
}

/// Has started once it was let through the door.
struct Slow(Doorway);

impl Actor for Slow {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let door = self.0.clone();
        ctx.wait(async move { door.pass("slow").await }.into_actor(self));
    }
}

impl Service for Slow {
    fn messages(_: &mut MessageTable<Self>) {}
}

job!(StartsSlowly { door: Doorway }, |job, flow| {
    let door = job.door.clone();
    flow.pipeline_service("squares", |requests| requests.map(|Square(n)| n * n));
    flow.register_service("slow", move || Slow(door.clone()));
});

/// The pipeline's service waited for answers of tasks that were never to start, until it was given up at its deadline.
#[test]
fn a_job_that_ends_before_its_tasks_start_answers_that_there_is_no_reply() {
    each_environment(async |env| {
        for cancels in [false, true] {
            let door = Door::new().await;
            let job = deadline("submit", env.submit(StartsSlowly { door: door.way() })).await.unwrap();
            let visitor = door.arrival_of("slow").await;
            let squares = job.service::<Squaring>("squares");
            let call = tokio::spawn(async move { squares.call(Square(3)).await });
            let accepted = async { while job.status().await.unwrap().services[0].handled == 0 {} };
            deadline("the request is accepted", accepted).await;
            if cancels {
                job.cancel().await.unwrap()
            } else {
                job.stop().await.unwrap()
            }
            assert_eq!(deadline("the answer", call).await.unwrap(), Ok(Err(NoReply)));
            visitor.admit();
            assert_eq!(matches!(ended(&job).await, Outcome::Cancelled { .. }), cancels);
            let status = deadline("the status", job.status()).await.unwrap();
            assert!(status.warnings.is_empty(), "{:?}", status.warnings);
        }
    });
}
