//! What becomes of others on a thread that user code does not give back.

use std::time::Duration;

use actix::{Actor, Context, Handler};
use proscenium::{
    CancelReason, Environment, Input, JobHandle, JobState, Limits, MessageTable, Outcome, Service, ServiceRef, Warning,
};

use crate::support::{
    Answer, Door, Doorway, Echo, Place, Visitor, block_on, deadline, ended, idle, job, reached, read, registered, start,
};

registered![Stuck, Behind, Resident, Asked, EchoBehind];

job!(Stuck { door: Doorway }, |job, flow| {
    let door = job.door.clone();
    flow.from_batch(0..1u64).for_each(move |_| door.pass_blocking("the operator"));
});

job!(Behind {}, |this, flow| {
    flow.from_batch(0..100u64).rebalance(2).map(|n| n + 1).count().collect("out");
});

job!(Resident {}, |this, flow| {
    flow.from_channel::<u64>("in").uid("resident").stream_out("out");
});

/// Runs `body` in each environment, with one thread for all tasks.
fn on_one_thread(cancel_deadline: Duration, body: impl AsyncFn(&dyn Environment, Door)) {
    for place in [Place::Local, Place::Encoded, Place::Remote] {
        let limits = Limits { cancel_deadline, ..Limits::default() };
        let opened = place.open_with(limits, 1);
        block_on(async { body(&*opened.env, Door::new().await).await });
        block_on(opened.close());
    }
}

const SHORT: Duration = Duration::from_millis(50);

/// A job whose operator holds the thread.
async fn stuck(env: &dyn Environment, door: &Door) -> (JobHandle, Visitor) {
    let job = start(env, Stuck { door: door.way() }).await;
    let visitor = door.arrival_of("the operator").await;
    (job, visitor)
}

async fn abandon(job: &JobHandle) {
    deadline("cancel", job.cancel()).await.unwrap();
    let outcome = ended(job).await;
    assert!(matches!(outcome, Outcome::Cancelled { .. }), "{outcome}");
    let warnings = job.status().await.unwrap().warnings;
    assert!(matches!(warnings.as_slice(), [Warning::TaskAbandoned { .. }]), "{warnings:?}");
}

/// The tasks stayed on the thread that they had been placed on, and the job hung for as long as that was held.
#[test]
fn a_job_that_waits_for_its_first_turn_on_the_thread_of_an_abandoned_task_runs_on_another() {
    on_one_thread(SHORT, async |env, door| {
        let (job, visitor) = stuck(env, &door).await;
        let behind = start(env, Behind {}).await;
        abandon(&job).await;
        assert_eq!(ended(&behind).await, Outcome::Completed);
        assert_eq!(read::<u64>(&behind, "out").await, [100]);
        visitor.admit();
    });
}

#[test]
fn a_job_that_was_told_to_stop_before_it_was_moved_stops() {
    on_one_thread(SHORT, async |env, door| {
        let (job, visitor) = stuck(env, &door).await;
        let resident = start(env, Resident {}).await;
        reached(&resident, JobState::Running).await;
        deadline("stop", resident.stop()).await.unwrap();
        abandon(&job).await;
        assert_eq!(ended(&resident).await, Outcome::Stopped);
        visitor.admit();
    });
}

/// It was abandoned at the deadline, although no code of it had ever run.
#[test]
fn a_job_that_waits_for_its_first_turn_on_a_thread_that_is_held_is_cancelled_at_once() {
    on_one_thread(Duration::from_secs(20), async |env, door| {
        let (job, visitor) = stuck(env, &door).await;
        let behind = start(env, Behind {}).await;
        reached(&behind, JobState::Running).await;
        let waits = behind.explain().await.unwrap().waits;
        let once = format!("is about to start, once code of {}, task-0 has given the thread back", job.id());
        assert!(!waits.is_empty() && waits.iter().all(|wait| wait.ends_with(&once)), "{waits:?}");
        deadline("cancel", behind.cancel()).await.unwrap();
        let outcome = ended(&behind).await;
        assert!(matches!(outcome, Outcome::Cancelled { reason: CancelReason::Requested, .. }), "{outcome}");
        assert_eq!(behind.status().await.unwrap().warnings, []);
        visitor.admit();
        assert_eq!(ended(&job).await, Outcome::Completed);
    });
}

#[test]
fn a_job_that_ran_on_a_thread_that_is_held_says_by_whom_and_goes_on_after() {
    on_one_thread(SHORT, async |env, door| {
        let resident = start(env, Resident {}).await;
        let input: Input<u64> = resident.input("in");
        let mut output = resident.output::<u64>("out");
        input.send(1).await.unwrap();
        assert_eq!(deadline("an item", output.next()).await.unwrap(), Some(1));
        let (job, visitor) = stuck(env, &door).await;
        abandon(&job).await;
        let waits = resident.explain().await.unwrap().waits;
        let held = format!("which is held by code of {}, task-0; it goes on when that code returns", job.id());
        assert!(waits.len() == 1 && waits[0].starts_with("task `resident -> stream_out`"), "{waits:?}");
        assert!(waits[0].contains(&held), "{waits:?}");
        // New jobs have a thread.
        let behind = start(env, Behind {}).await;
        assert_eq!(ended(&behind).await, Outcome::Completed);
        visitor.admit();
        input.send(2).await.unwrap();
        assert_eq!(deadline("an item", output.next()).await.unwrap(), Some(2));
        // The code of the abandoned task has returned, but the task itself has a last turn to take.
        deadline("a thread that is not held", async {
            while resident.explain().await.unwrap().waits[0].contains("held") {
                tokio::task::yield_now().await;
            }
        })
        .await;
        input.finish().await.unwrap();
        assert_eq!(deadline("the end", output.next()).await.unwrap(), None);
        assert_eq!(ended(&resident).await, Outcome::Completed);
    });
}

/// The one that was abandoned was named, though it was held like the one that asked.
#[test]
fn a_job_on_a_thread_that_is_held_says_who_holds_it_and_not_who_was_abandoned_there() {
    on_one_thread(SHORT, async |env, door| {
        let (asking, given_up) = (start(env, Resident {}).await, start(env, Resident {}).await);
        for job in [&asking, &given_up] {
            let input: Input<u64> = job.input("in");
            input.send(1).await.unwrap();
            assert_eq!(deadline("an item", job.output::<u64>("out").next()).await.unwrap(), Some(1));
        }
        let (job, visitor) = stuck(env, &door).await;
        abandon(&given_up).await;
        let waits = asking.explain().await.unwrap().waits;
        assert!(waits[0].contains(&format!("which is held by code of {}, task-0;", job.id())), "{waits:?}");
        visitor.admit();
        assert_eq!(ended(&job).await, Outcome::Completed);
        deadline("stop", asking.stop()).await.unwrap();
        assert_eq!(ended(&asking).await, Outcome::Stopped);
    });
}

/// Answers once the test lets it.
struct Blocking(Doorway);

impl Actor for Blocking {
    type Context = Context<Self>;
}

impl Service for Blocking {
    fn messages(table: &mut MessageTable<Self>) {
        table.accept::<Answer>("answer");
    }
}

impl Handler<Answer> for Blocking {
    type Result = u64;

    fn handle(&mut self, Answer(number): Answer, _: &mut Context<Self>) -> u64 {
        self.0.pass_blocking("the service");
        number
    }
}

job!(Asked { door: Doorway }, |job, flow| {
    let door = job.door.clone();
    flow.register_service("asked", move || Blocking(door.clone()));
});

job!(EchoBehind {}, |this, flow| {
    flow.register_service("echo", || Echo);
    flow.from_batch([1u64]).collect("out");
});

/// Its service stayed on the thread that it had been placed on, and the job never began.
#[test]
fn a_job_whose_service_waits_for_its_first_turn_on_the_thread_of_an_abandoned_one_begins_on_another() {
    for place in [Place::Local, Place::Encoded, Place::Remote] {
        let limits = Limits { service_stop_deadline: SHORT, ..Limits::default() };
        let opened = place.open_with(limits, 1);
        block_on(async {
            let (env, door) = (&*opened.env, Door::new().await);
            // One that runs on the thread already, when there is only one for services.
            let resident = idle(env, EchoBehind {}).await;
            let job = idle(env, Asked { door: door.way() }).await;
            let call = tokio::spawn(job.service::<Blocking>("asked").call(Answer(1)));
            let visitor = door.arrival_of("the service").await;
            let behind = start(env, EchoBehind {}).await;
            deadline("stop", job.stop()).await.unwrap();
            assert_eq!(ended(&job).await, Outcome::Completed);
            let warnings = job.status().await.unwrap().warnings;
            assert_eq!(warnings, [Warning::ServiceAbandoned { service: "asked".to_owned() }]);
            assert_eq!(ended(&behind).await, Outcome::Completed);
            let waits = resident.explain().await.unwrap().waits;
            let held = format!("held by code of {}, service 0;", job.id());
            assert!(waits.iter().any(|wait| wait.contains(&held)), "{waits:?}");
            visitor.admit();
            assert!(deadline("the call", call).await.unwrap().is_err(), "it was refused at the deadline");
            let echo: ServiceRef<Echo> = resident.service("echo");
            assert_eq!(deadline("an answer", echo.call(Answer(2))).await.unwrap(), 2);
            deadline("stop", resident.stop()).await.unwrap();
            assert_eq!(ended(&resident).await, Outcome::Completed);
        });
        block_on(opened.close());
    }
}
