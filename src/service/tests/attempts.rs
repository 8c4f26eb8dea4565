//! Instances that end because the job begins anew, and what is kept for those of the next attempt.

use super::support::{Alone, Double, Hang, Hosted, Note, Stage, in_background, next, poll_once};
use crate::{
    blocking::block_on,
    job::{Incarnation, Limits},
    protocol::ServiceEvent,
    service::{CallError, Origin},
};

const STOPPED: ServiceEvent = ServiceEvent::Stopped { hook_panicked: false };

fn failed() -> CallError {
    CallError::ServiceFailed { service: "probe".into() }
}

#[test]
fn a_dismissed_instance_leaves_what_came_from_outside_to_that_of_the_next_attempt() {
    let stage = Stage::new();
    let hosted = Hosted::running(&stage);
    let (outside, task) = (hosted.service(Origin::Outside), hosted.service(Origin::Task));
    let busy = in_background(outside.call(Alone(1)));
    hosted.world.wait_until_begun();
    let mut waiting = outside.call(Double(2));
    assert!(poll_once(&mut waiting).is_pending());
    outside.tell(Note("from outside".into())).blocking().expect("there is room");
    task.tell(Note("from a task".into())).blocking().expect("there is room");

    hosted.recipe.dismiss(Incarnation(0));
    assert_eq!(next(&busy, "the call in progress"), Err(failed()));
    hosted.expect(0, STOPPED);
    assert_eq!(hosted.world.noted("stopped"), 1);
    // Nobody of the attempt waits for an instance of the next one.
    let stopping = CallError::Stopping { service: "probe".into() };
    assert_eq!(block_on(task.call(Double(2))), Err(stopping));
    hosted.recipe.gate().begin_attempt()();
    assert_eq!(hosted.queued(), 2);

    hosted.start(1);
    hosted.expect(1, ServiceEvent::Started);
    assert_eq!(block_on(waiting), Ok(4));
    assert_eq!(block_on(outside.call(Double(3))), Ok(6));
    let log = hosted.world.log.lock();
    assert!(log.contains(&"from outside".to_owned()) && !log.contains(&"from a task".to_owned()), "{log:?}");
}

#[test]
fn an_instance_that_is_forgotten_takes_nothing_from_the_next_one() {
    let stage = Stage::new();
    let hosted = Hosted::running(&stage);
    let service = hosted.service(Origin::Outside);
    let hanging = in_background(service.call(Hang));
    hosted.world.wait_until_begun();
    let mut waiting = service.call(Double(2));
    assert!(poll_once(&mut waiting).is_pending());
    hosted.recipe.dismiss(Incarnation(0));
    hosted.recipe.forget_instance();
    assert_eq!(next(&hanging, "the call in progress"), Err(failed()));
    hosted.recipe.gate().begin_attempt()();
    // It returns only now, finds that it was given up, and leaves the queue as it is.
    hosted.world.unhang.send(()).expect("the handler hangs");
    hosted.expect(0, STOPPED);
    assert!(poll_once(&mut waiting).is_pending());
    hosted.start(1);
    hosted.expect(1, ServiceEvent::Started);
    assert_eq!(block_on(waiting), Ok(4));
}

#[test]
fn to_dismiss_an_instance_that_is_gone_reports_that_it_is() {
    let stage = Stage::new();
    let hosted = Hosted::running(&stage);
    hosted.recipe.dismiss(Incarnation(0));
    hosted.expect(0, STOPPED);
    hosted.recipe.dismiss(Incarnation(0));
    hosted.expect(0, STOPPED);
    assert_eq!(hosted.world.noted("stopped"), 1);
}

#[test]
fn a_task_that_waits_for_a_service_that_is_gone_is_refused_and_who_is_outside_is_not() {
    let stage = Stage::new();
    let hosted = Hosted::new(&stage, &Limits::default());
    let mut outside = hosted.service(Origin::Outside).call(Double(1));
    let task = in_background(hosted.service(Origin::Task).call(Double(2)));
    assert!(poll_once(&mut outside).is_pending());
    while hosted.queued() < 2 {
        std::thread::yield_now();
    }
    hosted.recipe.dismiss(Incarnation(0));
    assert_eq!(next(&task, "the refusal"), Err(CallError::Stopping { service: "probe".into() }));
    hosted.start(1);
    hosted.expect(1, ServiceEvent::Started);
    assert_eq!(block_on(outside), Ok(2));
}
