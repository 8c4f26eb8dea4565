//! Sending, waiting for room, deadlines, turns.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
    time::Duration,
};

use super::support::{Double, Hang, Hosted, Later, Note, Stage, in_background, next, poll_once};
use crate::{
    blocking::block_on,
    job::{Limits, ServiceId},
    protocol::ServiceEvent,
    service::{CallError, Fate, Origin},
};

fn note(text: impl Into<String>) -> Note {
    Note(text.into())
}

#[test]
fn a_call_is_answered_and_tells_are_handled_in_order() {
    let stage = Stage::new();
    let hosted = Hosted::running(&stage);
    let service = hosted.service(Origin::Outside);
    for i in 0..1000 {
        service.tell(note(i.to_string())).blocking().expect("there is room");
    }
    assert_eq!(service.call(Double(21)).blocking(), Ok(42));
    let log = hosted.world.log.lock();
    assert!(log[1..].iter().map(String::as_str).eq((0..1000).map(|i| i.to_string())));
    assert_eq!((hosted.handled(), hosted.queued()), (1001, 0));
}

#[test]
fn calls_are_answered_within_an_async_runtime_too() {
    let stage = Stage::new();
    let service = Hosted::running(&stage).service(Origin::Outside);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime without timers");
    // The hosted service is dropped here, and its recipe with it: nobody waits for a service that has none.
    assert!(matches!(runtime.block_on(async { service.call(Double(1)).await }), Err(CallError::Stopping { .. })));

    let hosted = Hosted::running(&stage);
    let service = hosted.service(Origin::Task);
    assert_eq!(runtime.block_on(async { service.call(Double(4)).await }), Ok(8));
}

#[test]
fn never_more_than_the_bound_waits_and_room_is_granted_in_order() {
    let stage = Stage::new();
    let hosted = Hosted::new(&stage, &Limits { service_queue: 4, ..Limits::default() });
    let service = hosted.service(Origin::Outside);
    for i in 0..4 {
        service.tell(note(i.to_string())).blocking().expect("there is room");
    }
    let mut waiting: Vec<_> = (4..8).map(|i| service.tell(note(i.to_string()))).collect();
    for tell in &mut waiting {
        assert_eq!(poll_once(tell), Poll::Pending);
    }
    assert_eq!(hosted.queued(), 4);
    // A sender that gives up has not sent.
    drop(waiting.remove(1));

    hosted.start(0);
    for tell in waiting {
        block_on(tell).expect("room is made");
    }
    assert_eq!(service.call(Double(1)).blocking(), Ok(2));
    assert_eq!(*hosted.world.log.lock(), ["started", "0", "1", "2", "3", "4", "6", "7"]);
}

#[test]
fn a_queue_for_one_message_works() {
    let stage = Stage::new();
    let hosted = Hosted::new(&stage, &Limits { service_queue: 1, ..Limits::default() });
    hosted.start(0);
    let senders: Vec<_> = (0..4)
        .map(|_| {
            let service = hosted.service(Origin::Outside);
            in_background(async move {
                for i in 0..500 {
                    service.tell(note("x")).await?;
                    assert_eq!(service.call(Double(i)).await?, 2 * i);
                }
                Ok::<_, CallError>(())
            })
        })
        .collect();
    for sender in senders {
        next(&sender, "a sender").expect("every message is handled");
    }
    assert_eq!(hosted.world.noted("x"), 2000);
}

#[test]
fn the_batch_in_hand_counts_against_the_bound() {
    let stage = Stage::new();
    let hosted = Hosted::new(&stage, &Limits { service_queue: 8, ..Limits::default() });
    let service = hosted.service(Origin::Outside);
    service.tell(Hang).blocking().expect("there is room");
    hosted.start(0);
    hosted.world.wait_until_begun();
    // One is in hand, so seven more have room.
    for i in 0..7 {
        service.tell(note(i.to_string())).blocking().expect("there is room");
    }
    let mut eighth = service.tell(note("late"));
    assert_eq!(poll_once(&mut eighth), Poll::Pending);
    hosted.world.unhang.send(()).expect("the handler waits");
    block_on(eighth).expect("room is made");
}

#[test]
fn a_call_that_timed_out_in_the_queue_is_skipped() {
    let stage = Stage::new();
    let hosted = Hosted::new(&stage, &Limits::default());
    let service = hosted.service(Origin::Outside);
    let deadline = Duration::from_millis(5);
    let error = service.call(note("late")).deadline(deadline).blocking().expect_err("nothing is started");
    assert_eq!(error, CallError::Timeout { service: "probe".into(), deadline });
    assert_eq!(error.fate(), Fate::Unknown);
    // So is one that was dropped.
    let mut dropped = service.call(note("dropped"));
    assert!(poll_once(&mut dropped).is_pending());
    drop(dropped);

    hosted.start(0);
    assert_eq!(service.call(Double(1)).blocking(), Ok(2));
    assert_eq!(*hosted.world.log.lock(), ["started"]);
    assert_eq!((hosted.handled(), hosted.queued()), (1, 0));
}

#[test]
fn the_default_deadline_is_that_of_the_environment() {
    let stage = Stage::new();
    let call_deadline = Duration::from_millis(5);
    let hosted = Hosted::new(&stage, &Limits { call_deadline, ..Limits::default() });
    let error = hosted.service(Origin::Outside).call(Double(1)).blocking();
    assert_eq!(error, Err(CallError::Timeout { service: "probe".into(), deadline: call_deadline }));
}

#[test]
fn the_deadline_covers_waiting_for_room_and_leaves_nothing_behind() {
    let stage = Stage::new();
    let hosted = Hosted::new(&stage, &Limits { service_queue: 1, ..Limits::default() });
    let service = hosted.service(Origin::Outside);
    service.tell(note("first")).blocking().expect("there is room");
    let call = service.call(note("late")).deadline(Duration::from_millis(5));
    assert!(matches!(call.blocking(), Err(CallError::Timeout { .. })));
    assert!(format!("{:?}", hosted.recipe.gate().into_any().downcast_ref::<Gate>()).contains("waiting: 0"));
}

type Gate = crate::service::gate::Gate<super::support::Probe>;

#[test]
fn a_reply_that_comes_too_late_is_dropped_and_the_service_goes_on() {
    let stage = Stage::new();
    let hosted = Hosted::running(&stage);
    let service = hosted.service(Origin::Outside);
    let late = service.call(Later(1)).deadline(Duration::from_millis(5)).blocking();
    assert!(matches!(late, Err(CallError::Timeout { .. })));
    hosted.world.go_on.add_permits(1);
    assert_eq!(service.call(Double(3)).blocking(), Ok(6));
}

#[test]
fn other_actors_of_the_thread_get_turns() {
    let stage = Stage::new();
    let hosted = Hosted::new(&stage, &Limits::default());
    let service = hosted.service(Origin::Outside);
    for _ in 0..4000 {
        service.tell(note("x")).blocking().expect("there is room");
    }
    let most = Arc::new(AtomicU64::new(0));
    let gate = hosted.recipe.gate();
    let neighbour = {
        let most = Arc::clone(&most);
        async move {
            let mut seen = 0;
            while seen < 4000 {
                let handled = gate.counts(ServiceId(0)).handled();
                most.fetch_max(handled - seen, Ordering::Relaxed);
                seen = handled;
                actix_rt::task::yield_now().await;
            }
        }
    };
    stage.arbiter.spawn(neighbour);
    hosted.start(0);
    hosted.expect(0, ServiceEvent::Started);
    assert_eq!(service.call(Double(1)).blocking(), Ok(2));
    let most = most.load(Ordering::Relaxed);
    assert!((1..=1024).contains(&most), "{most} messages were handled between two turns of a neighbour");
}
