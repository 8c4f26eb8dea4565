//! Closing gates, stopping, giving up.

use std::task::Poll;

use super::support::{
    Act, Alone, Double, Hang, Hosted, Later, LaterInActor, LaterTell, Note, Panic, Stage, in_background, next,
    poll_once,
};
use crate::{
    blocking::block_on,
    job::Limits,
    protocol::ServiceEvent,
    service::{CallError, Fate, Origin},
};

fn stopping() -> CallError {
    CallError::Stopping { service: "probe".into() }
}

fn failed() -> CallError {
    CallError::ServiceFailed { service: "probe".into() }
}

const STOPPED: ServiceEvent = ServiceEvent::Stopped { hook_panicked: false };

#[test]
fn a_closed_gate_answers_services_only() {
    let stage = Stage::new();
    let hosted = Hosted::running(&stage);
    hosted.recipe.gate().close_to_outside();
    assert_eq!(hosted.service(Origin::Outside).call(Double(1)).blocking(), Err(stopping()));
    assert_eq!(hosted.service(Origin::Task).tell(Double(1)).blocking(), Err(stopping()));
    assert_eq!(hosted.service(Origin::Service).call(Double(1)).blocking(), Ok(2));
    assert_eq!(stopping().fate(), Fate::NotSent);
}

#[test]
fn who_waits_for_room_is_told_when_gates_close() {
    let stage = Stage::new();
    let hosted = Hosted::new(&stage, &Limits { service_queue: 1, ..Limits::default() });
    hosted.service(Origin::Outside).tell(Note("first".into())).blocking().expect("there is room");
    let mut tells: Vec<_> = [Origin::Outside, Origin::Task, Origin::Service]
        .map(|origin| hosted.service(origin).tell(Note(format!("{origin:?}"))))
        .into();
    let mut call = hosted.service(Origin::Outside).call(Double(1));
    for tell in &mut tells {
        assert_eq!(poll_once(tell), Poll::Pending);
    }
    assert_eq!(poll_once(&mut call), Poll::Pending);

    hosted.recipe.gate().close_to_outside();
    assert_eq!(poll_once(&mut tells[0]), Poll::Ready(Err(stopping())));
    assert_eq!(poll_once(&mut tells[1]), Poll::Ready(Err(stopping())));
    assert_eq!(poll_once(&mut tells[2]), Poll::Pending);
    assert_eq!(block_on(call), Err(stopping()));

    hosted.start(0);
    hosted.stop(0);
    // The stop refuses it, unless the service was quicker to let it in.
    let last = tells.pop().expect("three were made");
    assert!(matches!(block_on(last), Ok(()) | Err(CallError::Stopping { .. })));
    hosted.expect(0, ServiceEvent::Started);
    hosted.expect(0, STOPPED);
    assert_eq!(hosted.world.noted("first"), 1);
}

#[test]
fn a_stop_answers_what_was_queued_and_what_is_in_flight() {
    let stage = Stage::new();
    let hosted = Hosted::running(&stage);
    let service = hosted.service(Origin::Outside);
    let later = in_background(service.call(Later(1)));
    hosted.world.wait_until_begun();
    let in_actor = in_background(service.call(LaterInActor(2)));
    hosted.world.wait_until_begun();
    service.tell(LaterTell).blocking().expect("there is room");
    hosted.world.wait_until_begun();
    let alone = in_background(service.call(Alone(3)));
    hosted.world.wait_until_begun();
    let queued = in_background(service.call(Double(4)));
    while hosted.queued() < 1 {
        std::thread::yield_now();
    }

    hosted.stop(0);
    assert_eq!(service.call(Double(1)).blocking(), Err(stopping()));
    assert_eq!(hosted.service(Origin::Service).call(Double(1)).blocking(), Err(stopping()));
    hosted.no_more_reports();
    hosted.world.go_on.add_permits(4);
    assert_eq!(next(&later, "a reply"), Ok(1));
    assert_eq!(next(&in_actor, "a reply of the actor"), Ok(2));
    assert_eq!(next(&alone, "an atomic reply"), Ok(3));
    assert_eq!(next(&queued, "the queued call"), Ok(8));
    hosted.expect(0, STOPPED);
    assert_eq!(*hosted.world.log.lock(), ["started", "done", "stopping", "stopped"]);

    assert_eq!(service.tell(Double(1)).blocking(), Err(stopping()));
    hosted.recipe.gate().release();
    assert_eq!(service.tell(Double(1)).blocking(), Err(CallError::JobEnded { job: service.job() }));
    hosted.no_more_reports();
}

#[test]
fn a_stop_that_comes_before_the_instance_runs_is_obeyed() {
    let stage = Stage::new();
    let hosted = Hosted::new(&stage, &Limits::default());
    let call = in_background(hosted.service(Origin::Outside).call(Double(5)));
    while hosted.queued() < 1 {
        std::thread::yield_now();
    }
    hosted.start(0);
    hosted.stop(0);
    assert_eq!(next(&call, "the queued call"), Ok(10));
    hosted.expect(0, ServiceEvent::Started);
    hosted.expect(0, STOPPED);
}

#[test]
fn a_stop_with_no_instance_refuses_the_queue_and_reports() {
    let stage = Stage::new();
    let hosted = Hosted::running(&stage);
    let service = hosted.service(Origin::Outside);
    assert_eq!(service.call(Panic).blocking(), Err(failed()));
    hosted.expect_failure(0, "as told");
    let mut call = service.call(Double(1));
    assert!(poll_once(&mut call).is_pending());
    hosted.stop(0);
    hosted.expect(0, STOPPED);
    assert_eq!(block_on(call), Err(stopping()));
}

#[test]
fn a_stop_for_an_older_instance_is_ignored() {
    let stage = Stage::new();
    let hosted = Hosted::running(&stage);
    let service = hosted.service(Origin::Outside);
    assert_eq!(service.call(Panic).blocking(), Err(failed()));
    hosted.expect_failure(0, "as told");
    hosted.start(1);
    hosted.expect(1, ServiceEvent::Started);
    hosted.stop(0);
    assert_eq!(service.call(Double(1)).blocking(), Ok(2));
    hosted.no_more_reports();
}

#[test]
fn a_service_that_fails_while_it_stops_refuses_what_is_left() {
    let stage = Stage::new();
    let hosted = Hosted::new(&stage, &Limits::default());
    let service = hosted.service(Origin::Outside);
    let mut hanging = service.call(Hang);
    let mut panicking = service.call(Panic);
    let mut queued = service.call(Double(1));
    assert!(poll_once(&mut hanging).is_pending());
    assert!(poll_once(&mut panicking).is_pending());
    assert!(poll_once(&mut queued).is_pending());
    hosted.start(0);
    hosted.world.wait_until_begun();
    hosted.stop(0);
    hosted.world.unhang.send(()).expect("the handler hangs");
    assert_eq!(block_on(hanging), Ok(()));
    assert_eq!(block_on(panicking), Err(failed()));
    assert_eq!(block_on(queued), Err(stopping()));
    hosted.expect(0, ServiceEvent::Started);
    hosted.expect_failure(0, "as told");
    hosted.no_more_reports();
}

#[test]
fn a_panicking_stop_hook_is_reported_as_such() {
    let stage = Stage::new();
    let hosted = Hosted::acting(&stage, &Limits::default(), Act { stopped_panics: true, ..Act::default() });
    hosted.start(0);
    hosted.expect(0, ServiceEvent::Started);
    hosted.stop(0);
    hosted.expect(0, ServiceEvent::Stopped { hook_panicked: true });
    assert_eq!(*hosted.world.log.lock(), ["started", "stopping", "stopped"]);
}

#[test]
fn giving_up_a_hanging_service_tells_everyone() {
    let stage = Stage::new();
    let hosted = Hosted::new(&stage, &Limits { service_queue: 8, ..Limits::default() });
    let service = hosted.service(Origin::Outside);
    // The first two are taken as one batch.
    let mut hanging = service.call(Hang);
    let mut taken = service.call(Double(1));
    assert!(poll_once(&mut hanging).is_pending());
    assert!(poll_once(&mut taken).is_pending());
    hosted.start(0);
    hosted.expect(0, ServiceEvent::Started);
    hosted.world.wait_until_begun();
    let mut queued = service.call(Double(2));
    assert!(poll_once(&mut queued).is_pending());
    for _ in 0..5 {
        service.tell(Note("never".into())).blocking().expect("there is room");
    }
    let mut in_line = service.tell(Note("never".into()));
    assert!(poll_once(&mut in_line).is_pending());

    hosted.stop(0);
    assert_eq!(block_on(in_line), Err(stopping()));
    hosted.recipe.abandon();
    assert_eq!(block_on(hanging), Err(failed()));
    assert_eq!(block_on(taken), Err(stopping()));
    assert_eq!(block_on(queued), Err(stopping()));
    assert_eq!(hosted.queued(), 0);

    // Should it return after all, it handles nothing more and ends.
    hosted.world.unhang.send(()).expect("the handler hangs");
    hosted.expect(0, STOPPED);
    assert_eq!(*hosted.world.log.lock(), ["started", "stopped"]);
}

#[test]
fn an_instance_that_waits_for_its_own_future_ends_when_it_is_given_up() {
    let stage = Stage::new();
    let hosted = Hosted::running(&stage);
    let alone = in_background(hosted.service(Origin::Outside).call(Alone(1)));
    hosted.world.wait_until_begun();
    hosted.recipe.abandon();
    assert_eq!(next(&alone, "the call in progress"), Err(failed()));
    hosted.expect(0, STOPPED);
    assert_eq!(hosted.world.noted("stopped"), 1);
    // And no further instance is made.
    hosted.start(1);
    hosted.expect_failure(1, "given up");
}

#[test]
fn a_service_that_refuses_to_stop_ends_when_it_is_given_up() {
    let stage = Stage::new();
    let hosted = Hosted::acting(&stage, &Limits::default(), Act { stopping_continues: true, ..Act::default() });
    hosted.start(0);
    hosted.expect(0, ServiceEvent::Started);
    hosted.stop(0);
    while hosted.world.noted("stopping") < 1 {
        std::thread::yield_now();
    }
    hosted.recipe.abandon();
    hosted.expect(0, STOPPED);
    assert_eq!(hosted.world.noted("stopped"), 1);
}

#[test]
fn nobody_waits_for_a_service_whose_recipe_is_gone() {
    let stage = Stage::new();
    let hosted = Hosted::new(&stage, &Limits::default());
    let mut call = hosted.service(Origin::Outside).call(Double(1));
    assert!(poll_once(&mut call).is_pending());
    drop(hosted);
    assert_eq!(block_on(call), Err(stopping()));
}
