//! Services that fail, and the hooks that run on every way out.

use std::time::Duration;

use actix::{Actor, AsyncContext, Context, Handler};
use futures::{FutureExt, future::join_all};
use proscenium::{
    ActorState, CallError, CancelReason, FailureCause, Fate, JobHandle, JobState, Limits, MessageTable, Outcome,
    Service, ServiceRef, TaskError, Warning,
};
use serde::{Deserialize, Serialize};

use crate::support::{
    Answer, Counter, Crash, Door, Doorway, Echo, Increment, Journal, LateAnswer, LoseReply, Pen, SlowAnswer, Total,
    deadline, each_environment, each_environment_with, ended, idle, job, reached, registered, start, until,
};

job!(Counting { pen: Pen }, |job, flow| {
    let pen = job.pen.clone();
    flow.register_service("counter", move || Counter::new("counter", &pen));
});

#[test]
fn a_service_whose_handler_panics_is_made_anew_and_only_that_caller_is_told() {
    each_environment(async |env| {
        let journal = Journal::new();
        let job = idle(env, Counting { pen: journal.pen() }).await;
        let counter: ServiceRef<Counter> = job.service("counter");
        assert_eq!(counter.call(Increment).await.unwrap(), 1);
        let error = counter.call(Crash).await.unwrap_err();
        assert_eq!(error, CallError::ServiceFailed { service: "counter".to_owned() });
        assert_eq!(error.fate(), Fate::Failed);
        assert_eq!(counter.call(Total).await.unwrap(), 0, "the new instance comes from the factory");
        let status = until(&job, "the restart", |status| status.services[0].state == ActorState::Running).await;
        assert_eq!((status.restarts, status.services[0].restarts, status.state), (1, 1, JobState::Idle));
        job.stop().await.unwrap();
        assert_eq!(ended(&job).await, Outcome::Completed);
        let expected = ["counter started", "counter stopped after 1", "counter started", "counter stopped after 0"];
        assert_eq!(journal.lines(), expected);
    });
}

job!(EchoService {}, |job, flow| {
    flow.register_service("echo", || Echo);
});

#[test]
fn calls_in_progress_fail_with_the_instance_and_queued_ones_go_to_the_next() {
    each_environment(async |env| {
        let job = idle(env, EchoService {}).await;
        let echo: ServiceRef<Echo> = job.service("echo");
        let door = Door::new().await;
        let in_progress = tokio::spawn(echo.call(LateAnswer(1, door.way())));
        let waiting = door.arrival_of("1").await;
        let slow = tokio::spawn(echo.call(SlowAnswer(2, door.way())));
        let busy = door.arrival_of("2").await;
        let mut crash = Box::pin(echo.call(Crash));
        assert_eq!(crash.as_mut().now_or_never(), None);
        let mut queued: Vec<_> = (10..20).map(|n| Box::pin(echo.call(Answer(n)))).collect();
        assert!(queued.iter_mut().all(|call| call.as_mut().now_or_never().is_none()));
        busy.admit();
        assert_eq!(deadline("the answer", slow).await.unwrap().unwrap(), 2);
        let failed = CallError::ServiceFailed { service: "echo".to_owned() };
        assert_eq!(deadline("the crash", crash).await.unwrap_err(), failed);
        assert_eq!(deadline("the failure", in_progress).await.unwrap().unwrap_err(), failed);
        let answers = deadline("the answers", join_all(queued)).await;
        assert_eq!(answers.into_iter().map(Result::unwrap).collect::<Vec<_>>(), (10..20).collect::<Vec<_>>());
        drop(waiting);
        job.stop().await.unwrap();
        assert_eq!(ended(&job).await, Outcome::Completed);
    });
}

#[test]
fn a_lost_asynchronous_reply_fails_one_call_and_not_the_service() {
    each_environment(async |env| {
        let job = idle(env, EchoService {}).await;
        let echo: ServiceRef<Echo> = job.service("echo");
        let error = echo.call(LoseReply).await.unwrap_err();
        assert_eq!(error, CallError::ServiceFailed { service: "echo".to_owned() });
        assert_eq!(echo.call(Answer(1)).await.unwrap(), 1);
        assert_eq!(job.status().await.unwrap().restarts, 0);
        job.stop().await.unwrap();
        assert_eq!(ended(&job).await, Outcome::Completed);
    });
}

#[test]
fn a_service_that_fails_more_often_than_its_limit_fails_the_job() {
    let limits = Limits { restarts_max: 2, ..Limits::default() };
    each_environment_with(&limits, async |env| {
        let journal = Journal::new();
        let job = idle(env, Counting { pen: journal.pen() }).await;
        let counter: ServiceRef<Counter> = job.service("counter");
        for _ in 0..3 {
            counter.call(Crash).await.unwrap_err();
        }
        let cause = FailureCause::ServiceFailed {
            service: "counter".to_owned(),
            failures: 3,
            window: limits.restart_window,
            message: format!("panicked while handling {}: crashed as told", std::any::type_name::<Crash>()),
        };
        let outcome = ended(&job).await;
        assert_eq!(outcome, Outcome::Failed(cause));
        let text = "failed: service `counter` failed 3 times within 10 s, more than its restart limit: panicked while";
        assert!(outcome.to_string().starts_with(text), "{outcome}");
        assert_eq!(job.status().await.unwrap().restarts, 2);
        assert_eq!(journal.count("counter started"), 3);
        assert_eq!(journal.count("counter stopped after 0"), 3);
    });
}

#[test]
fn failures_further_apart_than_the_window_do_not_add_up() {
    let limits = Limits { restarts_max: 1, restart_window: Duration::ZERO, ..Limits::default() };
    each_environment_with(&limits, async |env| {
        let journal = Journal::new();
        let job = idle(env, Counting { pen: journal.pen() }).await;
        let counter: ServiceRef<Counter> = job.service("counter");
        for _ in 0..5 {
            counter.call(Crash).await.unwrap_err();
        }
        assert_eq!(counter.call(Increment).await.unwrap(), 1);
        job.stop().await.unwrap();
        assert_eq!(ended(&job).await, Outcome::Completed);
        assert_eq!(job.status().await.unwrap().restarts, 5);
    });
}

/// How a job is brought to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum WayOut {
    Completion,
    Stop,
    Cancel,
    Failure,
}

job!(ThreeServices { way: WayOut, door: Doorway, pen: Pen }, |job, flow| {
    for name in ["a", "b", "c"] {
        let pen = job.pen.clone();
        flow.register_service(name, move || Counter::new(name, &pen));
    }
    let (way, door) = (job.way, job.door.clone());
    flow.from_batch(0..1u64).for_each_async(1, async move |ctx, n| {
        ctx.service::<Counter>("b")?.call(Increment).await?;
        door.pass(n).await;
        if way == WayOut::Failure { Err(TaskError::new("no way")) } else { Ok(()) }
    });
});

async fn take(way: WayOut, job: &JobHandle) {
    match way {
        WayOut::Completion | WayOut::Failure => {}
        WayOut::Stop => job.stop().await.unwrap(),
        WayOut::Cancel => job.cancel().await.unwrap(),
    }
}

#[test]
fn services_start_in_order_and_stop_in_reverse_order_each_hook_once_on_every_way_out() {
    each_environment(async |env| {
        for way in [WayOut::Completion, WayOut::Stop, WayOut::Cancel, WayOut::Failure] {
            for autostop in [true, false] {
                let (journal, door) = (Journal::new(), Door::new().await);
                let job = ThreeServices { way, door: door.way(), pen: journal.pen() };
                let job = env.submit(job).autostop(autostop).await.unwrap();
                let visitor = door.arrival().await;
                take(way, &job).await;
                visitor.admit();
                if way == WayOut::Completion && !autostop {
                    reached(&job, JobState::Idle).await;
                    job.stop().await.unwrap();
                }
                match (way, ended(&job).await) {
                    (WayOut::Completion, Outcome::Completed) => {}
                    // Whether the source had said that it has no more is a matter of timing.
                    (WayOut::Stop, Outcome::Completed | Outcome::Stopped) => {}
                    (WayOut::Cancel, Outcome::Cancelled { reason: CancelReason::Requested, .. }) => {}
                    (WayOut::Failure, Outcome::Failed(FailureCause::Operator { message, .. })) => {
                        assert_eq!(message, "no way");
                    }
                    (way, other) => panic!("{way:?} ended as {other:?}"),
                }
                let expected = [
                    "a started",
                    "b started",
                    "c started",
                    "c stopped after 0",
                    "b stopped after 1",
                    "a stopped after 0",
                ];
                assert_eq!(journal.lines(), expected, "{way:?}, autostop {autostop}");
            }
        }
    });
}

/// Panics in a hook.
struct Unhinged {
    at: Hinge,
    pen: Pen,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Hinge {
    Factory,
    Started,
    Interval,
    Stopped,
}

impl Actor for Unhinged {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.pen.write("started");
        assert!(self.at != Hinge::Started, "started panics");
        if self.at == Hinge::Interval {
            ctx.run_later(Duration::from_millis(1), |_, _| panic!("a timer panics"));
        }
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.pen.write("stopped");
        assert!(self.at != Hinge::Stopped, "stopped panics");
    }
}

impl Service for Unhinged {
    fn messages(table: &mut MessageTable<Self>) {
        table.accept::<Answer>("answer");
    }
}

impl Handler<Answer> for Unhinged {
    type Result = u64;

    fn handle(&mut self, Answer(number): Answer, _: &mut Self::Context) -> u64 {
        number
    }
}

job!(HasUnhinged { at: Hinge, pen: Pen, other: Pen }, |job, flow| {
    let (at, pen, other) = (job.at, job.pen.clone(), job.other.clone());
    flow.register_service("sound", move || Counter::new("sound", &other));
    flow.register_service("unhinged", move || {
        assert!(at != Hinge::Factory, "the factory panics");
        Unhinged { at, pen: pen.clone() }
    });
});

#[test]
fn a_panic_outside_of_handlers_counts_as_a_failure_of_the_service() {
    let limits = Limits { restarts_max: 1, ..Limits::default() };
    each_environment_with(&limits, async |env| {
        for (at, said, starts) in [
            (Hinge::Factory, "the factory panics", 0),
            (Hinge::Started, "started panics", 2),
            (Hinge::Interval, "a timer panics", 2),
        ] {
            let (journal, other) = (Journal::new(), Journal::new());
            let job = HasUnhinged { at, pen: journal.pen(), other: other.pen() };
            let job = env.submit(job).await.unwrap();
            match ended(&job).await {
                Outcome::Failed(FailureCause::ServiceFailed { service, failures: 2, message, .. }) => {
                    assert_eq!(service, "unhinged");
                    assert!(message.contains(said), "{message}");
                }
                outcome => panic!("{at:?}: {outcome:?}"),
            }
            assert_eq!((journal.count("started"), journal.count("stopped")), (starts, starts), "{at:?}");
            assert_eq!(other.lines(), ["sound started", "sound stopped after 0"], "{at:?}");
        }
    });
}

#[test]
fn a_stop_hook_that_panics_is_reported_and_the_outcome_stays() {
    each_environment(async |env| {
        let (journal, other) = (Journal::new(), Journal::new());
        let job = HasUnhinged { at: Hinge::Stopped, pen: journal.pen(), other: other.pen() };
        let job = start(env, job).await;
        assert_eq!(ended(&job).await, Outcome::Completed);
        let warnings = job.status().await.unwrap().warnings;
        assert_eq!(warnings, [Warning::StopHookPanicked { service: "unhinged".to_owned() }]);
        assert_eq!(warnings[0].to_string(), "the stop hook of service `unhinged` panicked");
        assert_eq!(journal.lines(), ["started", "stopped"]);
        assert_eq!(other.lines(), ["sound started", "sound stopped after 0"]);
    });
}

#[test]
fn a_service_that_misses_its_stop_deadline_is_abandoned_and_the_outcome_stays() {
    let limits = Limits { service_stop_deadline: Duration::from_millis(100), ..Limits::default() };
    each_environment_with(&limits, async |env| {
        let job = idle(env, EchoService {}).await;
        let echo: ServiceRef<Echo> = job.service("echo");
        let door = Door::new().await;
        let stuck = tokio::spawn(echo.call(LateAnswer(1, door.way())));
        let visitor = door.arrival().await;
        job.stop().await.unwrap();
        assert_eq!(ended(&job).await, Outcome::Completed);
        let status = job.status().await.unwrap();
        assert_eq!(status.warnings, [Warning::ServiceAbandoned { service: "echo".to_owned() }]);
        assert_eq!(status.services[0].state, ActorState::Abandoned);
        let told = deadline("the caller being told", stuck).await.unwrap();
        assert_eq!(told.unwrap_err(), CallError::ServiceFailed { service: "echo".to_owned() });
        visitor.admit();
    });
}

job!(CrashesMidway { items: u64, pen: Pen }, |job, flow| {
    let pen = job.pen.clone();
    flow.register_service("counter", move || Counter::new("counter", &pen));
    let called = flow.from_batch(0..job.items).map_async(1, async |ctx, n| {
        let counter = ctx.service::<Counter>("counter")?;
        if n % 10 == 5 {
            // The caller's own failure is answered, and the next call goes to the new instance.
            assert!(counter.call(Crash).await.is_err());
        }
        Ok(counter.call(Increment).await?)
    });
    called.collect("out");
});

#[test]
fn tasks_go_on_calling_a_service_that_is_restarted_under_them() {
    each_environment(async |env| {
        let journal = Journal::new();
        let job = start(env, CrashesMidway { items: 25, pen: journal.pen() }).await;
        assert_eq!(ended(&job).await, Outcome::Completed);
        let out: Vec<u64> = crate::support::read(&job, "out").await;
        let expected: Vec<u64> = (1..=5).chain(1..=10).chain(1..=10).collect();
        assert_eq!(out, expected, "each instance counts from the start");
        assert_eq!(job.status().await.unwrap().restarts, 2);
    });
}

registered![Counting, EchoService, ThreeServices, HasUnhinged, CrashesMidway];
