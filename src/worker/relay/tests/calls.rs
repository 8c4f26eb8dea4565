//! Services that are called from elsewhere.

use std::sync::mpsc;

use super::*;
use crate::{
    blocking::block_on,
    codec,
    job::JobId,
    service::{
        CallError, Fate, MessageTable, Origin, Service, ServiceDirectory, ServiceRef, bound_to, service_plan,
        tests::support::{
            Double, Hosted, Later, Note, Panic, Probe, Sour, Stage, Unlisted, in_background, next, poll_once,
        },
    },
    worker::relay::{CallsAtHome, CallsAtWorker},
};

/// A worker that calls the service of a home.
struct Away {
    wire: Wire,
    directory: Arc<ServiceDirectory>,
    calls: Option<CallsAtWorker>,
    home: Option<CallsAtHome>,
    _carriers: [Arc<Turning<Carrier>>; 2],
}

impl Away {
    fn new(stage: &Stage, hosted: &Hosted) -> Self {
        let wire = Wire::to(1);
        let _carriers = wire.by_itself();
        let limits = Limits::default();
        let plan = service_plan("probe", |_| -> Probe { panic!("it is made at home") }, &limits);
        let (job, gates) = (hosted.directory.job(), vec![plan.open_gate()]);
        let directory = ServiceDirectory::new(job, gates, stage.host.clone(), limits.call_deadline);
        let home = Some(CallsAtHome::new(&Peers::new(vec![None, Some(Arc::clone(&wire.home))]), &hosted.directory));
        let calls = Some(CallsAtWorker::new(&wire.away, &directory));
        Self { wire, directory, calls, home, _carriers }
    }

    fn service(&self, origin: Origin) -> ServiceRef<Probe> {
        self.directory.get("probe", origin).expect("the probe is registered")
    }
}

fn stopping() -> CallError {
    CallError::Stopping { service: "probe".into() }
}

#[test]
fn a_service_answers_from_elsewhere_as_it_would_at_home() {
    let stage = Stage::new();
    let hosted = Hosted::running(&stage);
    let away = Away::new(&stage, &hosted);
    let probe = away.service(Origin::Task);
    assert_eq!(probe.call(Double(21)).blocking(), Ok(42));
    assert_eq!(probe.tell(Note("told".into())).blocking(), Ok(()));
    assert_eq!(probe.call(Note("called".into())).blocking(), Ok(()));
    assert_eq!(*hosted.world.log.lock(), ["started", "told", "called"]);
    assert_eq!(probe.call(Panic).blocking(), Err(CallError::ServiceFailed { service: "probe".into() }));
}

#[test]
fn names_and_types_are_refused_in_the_same_words() {
    struct Other;
    impl actix::Actor for Other {
        type Context = actix::Context<Self>;
    }
    impl Service for Other {
        fn messages(_: &mut MessageTable<Self>) {}
    }
    let stage = Stage::new();
    let hosted = Hosted::running(&stage);
    let away = Away::new(&stage, &hosted);
    let refusals = [&hosted.directory, &away.directory].map(|directory| {
        let unlisted = directory.get::<Probe>("probe", Origin::Task).map(|probe| probe.call(Unlisted).blocking());
        let unlisted = unlisted.expect("it is registered").expect_err("it is not in the table");
        let other = directory.get::<Other>("probe", Origin::Task).expect_err("it is a probe");
        [unlisted, other, directory.get::<Probe>("prob", Origin::Task).expect_err("there is none")]
    });
    assert_eq!(refusals[0], refusals[1]);
    assert!(matches!(refusals[1][0], CallError::NotAccepted { .. }), "{:?}", refusals[1][0]);
    assert!(matches!(refusals[1][1], CallError::WrongService { .. }), "{:?}", refusals[1][1]);
}

#[test]
fn a_gate_that_is_closed_to_tasks_answers_services_from_elsewhere() {
    let stage = Stage::new();
    let hosted = Hosted::running(&stage);
    let away = Away::new(&stage, &hosted);
    hosted.recipe.gate().close_to_outside();
    assert_eq!(away.service(Origin::Task).call(Double(1)).blocking(), Err(stopping()));
    assert_eq!(away.service(Origin::Task).tell(Double(1)).blocking(), Err(stopping()));
    assert_eq!(away.service(Origin::Service).call(Double(1)).blocking(), Ok(2));
    assert_eq!(away.service(Origin::Service).tell(Double(1)).blocking(), Ok(()));
    hosted.recipe.gate().release();
    let ended = CallError::JobEnded { job: hosted.directory.job() };
    assert_eq!(away.service(Origin::Service).tell(Double(1)).blocking(), Err(ended));
}

#[test]
fn a_tell_waits_for_room_as_it_does_at_home_and_is_told_when_gates_close() {
    let stage = Stage::new();
    let hosted = Hosted::new(&stage, &Limits { service_queue: 1, ..Limits::default() });
    let away = Away::new(&stage, &hosted);
    away.service(Origin::Task).tell(Note("first".into())).blocking().expect("there is room");
    let mut tells =
        [Origin::Task, Origin::Service].map(|origin| away.service(origin).tell(Note(format!("{origin:?}"))));
    assert!(tells.iter_mut().all(|tell| poll_once(tell).is_pending()));
    hosted.recipe.gate().close_to_outside();
    assert_eq!(poll_once(&mut tells[0]), Poll::Ready(Err(stopping())));
    assert!(poll_once(&mut tells[1]).is_pending());
    hosted.start(0);
    let [_, last] = tells;
    assert_eq!(block_on(last), Ok(()));
    assert_eq!(away.service(Origin::Service).call(Double(1)).blocking(), Ok(2));
    assert_eq!(*hosted.world.log.lock(), ["started", "first", "Service"]);
}

#[test]
fn a_call_that_is_dropped_is_withdrawn_unless_it_was_taken_up() {
    let stage = Stage::new();
    let hosted = Hosted::new(&stage, &Limits::default());
    let away = Away::new(&stage, &hosted);
    let probe = away.service(Origin::Task);
    let mut calls: Vec<_> = (0..3).map(|n| probe.call(Note(n.to_string()))).collect();
    assert!(calls.iter_mut().all(|call| poll_once(call).is_pending()));
    drop(calls.remove(1));
    hosted.start(0);
    for call in calls {
        assert_eq!(block_on(call), Ok(()));
    }
    assert_eq!(*hosted.world.log.lock(), ["started", "0", "2"]);
}

#[test]
fn what_waits_for_an_answer_is_bounded_and_kept_in_order() {
    let stage = Stage::new();
    let hosted = Hosted::new(&stage, &Limits { service_queue: 1, ..Limits::default() });
    let away = Away::new(&stage, &hosted);
    let probe = away.service(Origin::Task);
    // Of the megabytes, one is in the queue and four fill the window.
    let mut tells: Vec<_> = (0..9).map(|n| probe.tell(Note(format!("{n}{}", "x".repeat((1 << 20) - 100))))).collect();
    let sent = tells.iter_mut().filter_map(|tell| match poll_once(tell) {
        Poll::Ready(sent) => Some(sent),
        Poll::Pending => None,
    });
    assert_eq!(sent.collect::<Vec<_>>(), [Ok(())]);
    let mut other = probe.call(Double(1));
    assert!(poll_once(&mut other).is_pending());
    assert_eq!(hosted.queued(), 1);
    hosted.start(0);
    for tell in tells.drain(1..) {
        assert_eq!(block_on(tell), Ok(()));
    }
    assert_eq!(block_on(other), Ok(2));
    let log = hosted.world.log.lock();
    let order: Vec<_> = log[1..].iter().map(|note| &note[..1]).collect();
    assert_eq!(order, ["0", "1", "2", "3", "4", "5", "6", "7", "8"]);
}

#[test]
fn a_message_that_is_too_large_is_refused_and_a_large_one_gets_there() {
    let stage = Stage::new();
    let hosted = Hosted::running(&stage);
    let away = Away::new(&stage, &hosted);
    let probe = away.service(Origin::Task);
    let refused = probe.call(Note("x".repeat(16 << 20))).blocking();
    assert!(matches!(refused, Err(CallError::NotCarried { .. })), "{refused:?}");
    assert_eq!(probe.call(Note("x".repeat(15 << 20))).blocking(), Ok(()));
    assert_eq!(hosted.world.log.lock()[1].len(), 15 << 20);
}

#[test]
fn a_told_message_that_cannot_be_decoded_is_made_known_to_the_next_of_the_same_reference() {
    let stage = Stage::new();
    // It does not run yet, so that nothing is tried before all three are told.
    let hosted = Hosted::new(&stage, &Limits::default());
    let away = Away::new(&stage, &hosted);
    let (probe, other) = (away.service(Origin::Task), away.service(Origin::Task));
    for number in [2, 3, 5] {
        assert_eq!(probe.tell(Sour(number)).blocking(), Ok(()));
    }
    hosted.start(0);
    // Behind the two, which the service has tried to decode by then.
    let refused = probe.call(Sour(7)).blocking();
    assert!(matches!(refused, Err(CallError::NotCarried { .. })), "{refused:?}");
    assert_eq!(other.tell(Sour(4)).blocking(), Ok(()));
    match probe.tell(Sour(6)).blocking() {
        Err(CallError::EarlierNotCarried { lost: 2, why, .. }) => assert!(why.contains("it is odd"), "{why}"),
        refused => panic!("{refused:?}"),
    }
    assert_eq!(probe.tell(Sour(8)).blocking(), Ok(()));
    assert_eq!(probe.call(Double(1)).blocking(), Ok(2));
    assert_eq!(*hosted.world.log.lock(), ["started", "2", "4", "8"]);
}

#[test]
fn a_broken_link_leaves_the_fate_of_what_was_sent_unknown_and_refuses_the_rest() {
    let stage = Stage::new();
    let hosted = Hosted::running(&stage);
    let away = Away::new(&stage, &hosted);
    let probe = away.service(Origin::Task);
    let mut taken_up = probe.call(Later(1));
    assert!(poll_once(&mut taken_up).is_pending());
    hosted.world.wait_until_begun();
    away.wire.away.break_off("cut");
    away.wire.home.break_off("cut");
    let error = block_on(taken_up).expect_err("nobody can answer");
    assert_eq!((error.fate(), matches!(error, CallError::FateUnknown { .. })), (Fate::Unknown, true));
    for error in [
        probe.call(Double(1)).blocking().expect_err("it cannot be sent"),
        probe.tell(Note(String::new())).blocking().expect_err("it cannot be sent"),
        away.service(Origin::Task).call(Double(1)).blocking().expect_err("it cannot be sent"),
    ] {
        assert!(matches!(&error, CallError::Unreachable { message } if message.contains("cut")), "{error}");
    }
}

#[test]
fn calls_are_over_with_the_attempt_at_either_end() {
    for at_home in [true, false] {
        let stage = Stage::new();
        let hosted = Hosted::new(&stage, &Limits::default());
        let mut away = Away::new(&stage, &hosted);
        let probe = away.service(Origin::Task);
        let mut call = probe.call(Double(1));
        assert!(poll_once(&mut call).is_pending());
        if at_home {
            away.home = None;
        } else {
            away.calls = None;
        }
        assert!(block_on(call).is_err());
        assert!(probe.call(Double(1)).blocking().is_err());
    }
}

#[test]
fn references_in_items_lead_to_the_services_of_the_job_and_to_no_others() {
    let stage = Stage::new();
    let hosted = Hosted::running(&stage);
    let away = Away::new(&stage, &hosted);
    let carried = |job: JobId, name: &str, to: &Arc<ServiceDirectory>| {
        let mut bytes = Vec::new();
        codec::encode_into(&(job, name), &mut bytes).expect("it can be encoded");
        bound_to(to.resolver(), || codec::decode::<ServiceRef<Probe>>(&bytes)).expect("it is a reference")
    };
    let (job, other) = (hosted.directory.job(), JobId::random());
    for directory in [&hosted.directory, &away.directory] {
        assert_eq!(carried(job, "probe", directory).call(Double(4)).blocking(), Ok(8));
        let unknown = carried(job, "prob", directory).call(Double(4)).blocking();
        assert!(matches!(unknown, Err(CallError::NoSuchService { .. })), "{unknown:?}");
        let foreign = carried(other, "probe", directory).call(Double(4)).blocking();
        assert!(matches!(foreign, Err(CallError::Unbound { .. })), "{foreign:?}");
    }
}

#[test]
fn many_callers_are_each_answered_and_each_in_order() {
    let stage = Stage::new();
    let hosted = Hosted::running(&stage);
    let away = Away::new(&stage, &hosted);
    let callers: Vec<mpsc::Receiver<()>> = (0..4u64)
        .map(|caller| {
            let probe = away.service(Origin::Task);
            in_background(async move {
                for n in 0..200 {
                    assert_eq!(probe.call(Double(caller * 1000 + n)).await, Ok(2 * (caller * 1000 + n)));
                    assert_eq!(probe.tell(Note(format!("{caller} {n:03}"))).await, Ok(()));
                }
            })
        })
        .collect();
    callers.iter().for_each(|caller| next(caller, "the end of a caller"));
    // Handled behind all that was told.
    assert_eq!(away.service(Origin::Task).call(Double(1)).blocking(), Ok(2));
    let log = hosted.world.log.lock();
    for caller in 0..4 {
        let own: Vec<_> = log.iter().filter(|note| note.starts_with(&format!("{caller} "))).collect();
        assert_eq!(own.len(), 200);
        assert!(own.is_sorted());
    }
}
