//! How instances fail, and what becomes of their callers.

use std::{sync::mpsc, time::Duration};

use super::support::{
    Act, Alone, Double, Hosted, Later, LaterInActor, LoseReply, Note, Panic, PanicInActor, Stage, StopYourself,
    in_background, next, poll_once,
};
use crate::{
    blocking::block_on,
    host::Fence,
    job::Limits,
    protocol::ServiceEvent,
    service::{CallError, Fate, Origin},
};

fn failed() -> CallError {
    CallError::ServiceFailed { service: "probe".into() }
}

fn acting(stage: &Stage, act: Act) -> Hosted {
    Hosted::acting(stage, &Limits::default(), act)
}

#[test]
fn a_panicking_handler_fails_its_caller_and_leaves_the_queue_to_the_next_instance() {
    let stage = Stage::new();
    let hosted = Hosted::new(&stage, &Limits::default());
    let service = hosted.service(Origin::Outside);
    // All stand in the queue before the first instance starts, so they are taken in one batch.
    service.tell(Note("before".into())).blocking().expect("there is room");
    let panicking = in_background({
        let service = service.clone();
        async move { service.call(Panic).await }
    });
    while hosted.queued() < 2 {
        std::thread::yield_now();
    }
    service.tell(Note("after".into())).blocking().expect("there is room");
    let queued = in_background({
        let service = service.clone();
        async move { service.call(Double(2)).await }
    });
    while hosted.queued() < 4 {
        std::thread::yield_now();
    }

    hosted.start(0);
    hosted.expect(0, ServiceEvent::Started);
    assert_eq!(next(&panicking, "the panicking call"), Err(failed()));
    assert_eq!(failed().fate(), Fate::Failed);
    hosted.expect_failure(0, "Panic: as told");
    assert_eq!(*hosted.world.log.lock(), ["started", "before", "stopped"]);
    assert_eq!(hosted.queued(), 2);

    hosted.start(1);
    hosted.expect(1, ServiceEvent::Started);
    assert_eq!(next(&queued, "the queued call"), Ok(4));
    assert_eq!(*hosted.world.log.lock(), ["started", "before", "stopped", "started", "after"]);
    assert_eq!((hosted.handled(), hosted.queued()), (4, 0));
    hosted.no_more_reports();
}

#[test]
fn asynchronous_calls_in_progress_fail_with_the_instance() {
    let stage = Stage::new();
    let hosted = Hosted::running(&stage);
    let service = hosted.service(Origin::Outside);
    let calls = [in_background(service.call(Later(1))), in_background(service.call(LaterInActor(2)))];
    calls.iter().for_each(|_| hosted.world.wait_until_begun());
    assert_eq!(service.call(Panic).blocking(), Err(failed()));
    for call in calls {
        assert_eq!(next(&call, "a call in progress"), Err(failed()));
    }
    hosted.expect_failure(0, "as told");
    hosted.no_more_reports();
}

#[test]
fn a_panic_in_the_factory_or_in_started_fails_the_instance() {
    let stage = Stage::new();
    let hosted = acting(&stage, Act { factory_panics: true, ..Act::default() });
    hosted.start(0);
    hosted.expect_failure(0, "the factory panicked: the factory is on fire");
    hosted.no_more_reports();

    let hosted = acting(&stage, Act { started_panics: true, ..Act::default() });
    hosted.start(0);
    hosted.expect_failure(0, "no start today");
    assert_eq!(*hosted.world.log.lock(), ["started", "stopping", "stopped"]);
    hosted.no_more_reports();
}

#[test]
fn a_panic_in_a_future_of_the_actor_fails_the_instance() {
    let stage = Stage::new();
    let hosted = Hosted::running(&stage);
    assert_eq!(hosted.service(Origin::Outside).call(PanicInActor).blocking(), Err(failed()));
    hosted.expect_failure(0, "inside the actor");
    assert_eq!(hosted.world.noted("stopped"), 1);
}

#[test]
fn a_panicking_stop_hook_after_a_panicking_handler_aborts_nothing() {
    let stage = Stage::new();
    let hosted = acting(&stage, Act { stopped_panics: true, ..Act::default() });
    for (incarnation, words) in [(0, "as told"), (1, "inside the actor")] {
        hosted.start(incarnation);
        hosted.expect(incarnation, ServiceEvent::Started);
        let service = hosted.service(Origin::Outside);
        let call =
            if incarnation == 0 { service.call(Panic).blocking() } else { service.call(PanicInActor).blocking() };
        assert_eq!(call, Err(failed()));
        hosted.expect_failure(incarnation, words);
    }
    assert_eq!(hosted.world.noted("stopped"), 2);
}

#[test]
fn an_instance_that_wants_to_continue_fails_all_the_same() {
    let stage = Stage::new();
    let hosted = acting(&stage, Act { stopping_continues: true, ..Act::default() });
    for incarnation in 0..2 {
        hosted.start(incarnation);
        hosted.expect(incarnation, ServiceEvent::Started);
        let service = hosted.service(Origin::Outside);
        let call =
            if incarnation == 0 { service.call(Panic).blocking() } else { service.call(PanicInActor).blocking() };
        assert_eq!(call, Err(failed()));
        assert!(matches!(hosted.report(), (_, ServiceEvent::Failed { .. })));
    }
    assert_eq!(hosted.world.noted("stopped"), 2);
}

#[test]
fn a_stopping_hook_that_panics_once_does_not_keep_the_stopped_hook_from_running() {
    let stage = Stage::new();
    let hosted = acting(&stage, Act { stopping_panics_once: true, ..Act::default() });
    hosted.start(0);
    hosted.expect(0, ServiceEvent::Started);
    hosted.stop(0);
    hosted.expect(0, ServiceEvent::Stopped { hook_panicked: true });
    assert_eq!(*hosted.world.log.lock(), ["started", "stopping", "stopping", "stopped"]);
}

#[test]
fn an_actor_that_stops_itself_has_failed() {
    let stage = Stage::new();
    let hosted = Hosted::running(&stage);
    assert_eq!(hosted.service(Origin::Outside).call(StopYourself).blocking(), Ok(()));
    hosted.expect_failure(0, "stopped without being told to");
    assert_eq!(hosted.world.noted("stopped"), 1);
}

#[test]
fn a_lost_reply_fails_its_caller_and_the_service_lives_on() {
    let stage = Stage::new();
    let hosted = Hosted::running(&stage);
    let service = hosted.service(Origin::Outside);
    assert_eq!(service.call(LoseReply).blocking(), Err(failed()));
    hosted.expect(0, ServiceEvent::ReplyLost);
    assert_eq!(service.call(Double(2)).blocking(), Ok(4));
    service.tell(LoseReply).blocking().expect("there is room");
    hosted.expect(0, ServiceEvent::ReplyLost);
}

#[test]
fn a_service_takes_messages_when_what_its_start_waits_for_has_ended() {
    let stage = Stage::new();
    let hosted = acting(&stage, Act { started_waits: true, ..Act::default() });
    hosted.start(0);
    hosted.world.wait_until_begun();
    hosted.no_more_reports();
    hosted.world.go_on.add_permits(1);
    hosted.expect(0, ServiceEvent::Started);
}

#[test]
fn a_reply_passes_while_the_actor_waits_for_another_future() {
    let stage = Stage::new();
    let hosted = Hosted::running(&stage);
    let service = hosted.service(Origin::Outside);
    let later = in_background(service.call(Later(1)));
    hosted.world.wait_until_begun();
    let alone = in_background(service.call(Alone(2)));
    hosted.world.wait_until_begun();
    // The first permit goes to the first who waited.
    hosted.world.go_on.add_permits(1);
    assert_eq!(next(&later, "the reply beside the waiting actor"), Ok(1));
    // The actor handles nothing until its own future has ended.
    let double = in_background(service.call(Double(2)));
    while hosted.queued() < 1 {
        std::thread::yield_now();
    }
    assert!(double.try_recv().is_err());
    hosted.world.go_on.add_permits(1);
    assert_eq!(next(&alone, "the atomic reply"), Ok(2));
    assert_eq!(next(&double, "the call after it"), Ok(4));
}

#[test]
fn a_start_on_a_closed_arbiter_fails_and_keeps_the_queue() {
    let mut stage = Stage::new();
    let hosted = Hosted::new(&stage, &Limits::default());
    hosted.service(Origin::Outside).tell(Note("kept".into())).blocking().expect("there is room");
    stage.close();
    hosted.start(0);
    hosted.expect_failure(0, "its thread ended");
    assert_eq!(hosted.queued(), 1);
}

#[test]
fn an_instance_whose_arbiter_ends_runs_its_hook_and_fails_its_callers() {
    let mut stage = Stage::new();
    let hosted = Hosted::running(&stage);
    let call = in_background(hosted.service(Origin::Outside).call(LaterInActor(1)));
    hosted.world.wait_until_begun();
    stage.close();
    assert!(matches!(hosted.report(), (0, ServiceEvent::Failed { .. })));
    assert_eq!(next(&call, "the call in progress"), Err(failed()));
    assert_eq!(hosted.world.noted("stopped"), 1);
}

#[test]
fn behind_a_closed_fence_no_code_of_a_service_runs_and_it_can_still_be_given_up() {
    let stage = Stage::new();
    let fence = Fence::new(&stage.host);
    fence.open_until(stage.host.running_for() + Duration::from_secs(3600));
    let mut hosted = Hosted::new(&stage, &Limits::default());
    hosted.fence = fence.clone();
    hosted.start(0);
    hosted.expect(0, ServiceEvent::Started);
    let service = hosted.service(Origin::Outside);
    assert_eq!(service.call(Double(1)).blocking(), Ok(2));
    fence.close();
    block_on(fence.vacated());
    let mut call = service.call(Double(2));
    assert!(poll_once(&mut call).is_pending());
    // Behind the turn in which it would have been handled.
    let (turned, turn) = mpsc::channel();
    stage.arbiter.spawn_fn(move || turned.send(()).expect("the test waits"));
    next(&turn, "a turn of the thread");
    assert_eq!(hosted.queued(), 1);
    hosted.recipe.abandon();
    assert_eq!(block_on(call), Err(CallError::Stopping { service: "probe".into() }));
    hosted.expect(0, ServiceEvent::Stopped { hook_panicked: false });
    // Nor is one made.
    let mut other = Hosted::new(&stage, &Limits::default());
    other.fence = fence;
    other.start(0);
    other.expect_failure(0, "the lease of its worker is over");
    assert_eq!(*other.world.log.lock(), Vec::<String>::new());
}
