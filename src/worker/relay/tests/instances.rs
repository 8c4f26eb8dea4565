//! Services whose instances run elsewhere.

use std::sync::mpsc;

use super::*;
use crate::{
    blocking::block_on,
    job::{Incarnation, ServiceId},
    protocol::{Layout, ServiceCounts, ServiceEvent},
    service::{
        AnyGate, CallError, ErasedService, Fate, Origin, ServiceContext, ServiceDirectory, ServiceRef, service_plan,
        tests::support::{
            Alone, Double, Hosted, Later, LaterTell, Note, Panic, Probe, Sour, Stage, in_background, next, poll_once,
        },
    },
    worker::relay::{CallsAtHome, CallsAtWorker, InstancesAtHome, InstancesAtWorker},
};

const PROBE: ServiceId = ServiceId(0);

/// A home with the gate of a service that worker 1 runs.
struct Split {
    wire: Wire,
    hosted: Hosted,
    gate: Arc<dyn AnyGate>,
    directory: Arc<ServiceDirectory>,
    stand_in: Box<dyn ErasedService>,
    home: Option<InstancesAtHome>,
    away: Option<InstancesAtWorker>,
    /// Stops that were held back, as they were ordered again.
    stops: mpsc::Receiver<Incarnation>,
    _carriers: [Arc<Turning<Carrier>>; 2],
}

impl Split {
    fn new(stage: &Stage, limits: &Limits) -> Self {
        let wire = Wire::to(1);
        let _carriers = wire.by_itself();
        let hosted = Hosted::new(stage, limits);
        let plan = service_plan("probe", |_| -> Probe { panic!("it is made elsewhere") }, limits);
        let gate = plan.open_gate();
        let (job, gates) = (hosted.directory.job(), vec![Arc::clone(&gate)]);
        let directory = ServiceDirectory::new(job, gates.clone(), stage.host.clone(), limits.call_deadline);
        let layout = Layout { here: 0, tasks: Vec::new(), services: vec![1] };
        let peers = Peers::new(vec![None, Some(Arc::clone(&wire.home))]);
        let (home, elsewhere) = InstancesAtHome::new(&peers, &layout, &gates);
        let stand_in = plan.stand_in(&gate, Arc::clone(&elsewhere[&PROBE]));
        let (stopped, stops) = mpsc::channel();
        let stop = move |service, incarnation| {
            assert_eq!(service, PROBE);
            stopped.send(incarnation).expect("the test has the other end");
        };
        let here = vec![(PROBE, hosted.recipe.gate())];
        let away = Some(InstancesAtWorker::new(&wire.away, &hosted.directory, here, stop));
        let split = Self { wire, hosted, gate, directory, stand_in, home: Some(home), away, stops, _carriers };
        let context = ServiceContext::new(Arc::clone(&split.directory), "probe");
        let events = Arc::new(|incarnation, event| panic!("a stand-in reports nothing: {incarnation:?} {event:?}"));
        let launch = split.stand_in.start(Incarnation(0), context, events).expect("it starts");
        stage.arbiter.spawn_fn(launch);
        split
    }

    fn running(stage: &Stage) -> Self {
        let split = Self::new(stage, &Limits::default());
        split.hosted.start(0);
        split.hosted.expect(0, ServiceEvent::Started);
        split
    }

    fn service(&self) -> ServiceRef<Probe> {
        self.directory.get("probe", Origin::Outside).expect("the probe is registered")
    }

    fn counts(&self) -> ServiceCounts {
        let mut counts = self.gate.counts(PROBE);
        counts.join(&self.hosted.recipe.gate().counts(PROBE));
        counts
    }

    /// As a worker carries out the order, and home did before.
    fn stop(&self, incarnation: u32) {
        let incarnation = Incarnation(incarnation);
        self.stand_in.stop(incarnation);
        let at_once = self.away.as_ref().is_none_or(|away| away.may_stop(PROBE, incarnation));
        if !at_once {
            assert_eq!(next(&self.stops, "the stop"), incarnation);
        }
        self.hosted.stop(incarnation.0);
    }

    fn cut(&self) {
        self.wire.away.break_off("cut");
        self.wire.home.break_off("cut");
    }
}

fn stopping() -> CallError {
    CallError::Stopping { service: "probe".into() }
}

fn failed() -> CallError {
    CallError::ServiceFailed { service: "probe".into() }
}

#[test]
fn a_service_elsewhere_answers_as_it_would_here_and_an_answer_is_counted_before_it_is_seen() {
    let stage = Stage::new();
    let split = Split::running(&stage);
    let probe = split.service();
    assert_eq!(probe.call(Double(21)).blocking(), Ok(42));
    assert_eq!(split.counts().handled(), 1);
    assert_eq!(probe.tell(Note("told".into())).blocking(), Ok(()));
    assert_eq!(probe.call(Note("called".into())).blocking(), Ok(()));
    assert_eq!((split.counts().handled(), split.counts().queued()), (3, 0));
    // Home knows it too, in its own time.
    while split.gate.counts(PROBE).handled() < 3 {
        std::thread::yield_now();
    }
    assert_eq!(*split.hosted.world.log.lock(), ["started", "told", "called"]);
    assert_eq!(probe.call(Panic).blocking(), Err(failed()));
}

#[test]
fn nothing_leaves_the_queue_before_an_instance_comes_for_it_and_the_bound_is_that_of_the_queue() {
    let stage = Stage::new();
    let split = Split::new(&stage, &Limits { service_queue: 4, ..Limits::default() });
    let probe = split.service();
    let mut tells: Vec<_> = (0..8).map(|n| probe.tell(Note(n.to_string()))).collect();
    let accepted = |tells: &mut Vec<_>| tells.iter_mut().map(poll_once).filter(Poll::is_ready).count();
    assert_eq!(accepted(&mut tells), 4);
    assert_eq!((split.counts().waiting, split.counts().taken), (4, 0));
    let mut waiting = tells.split_off(4);
    split.hosted.start(0);
    for tell in &mut waiting {
        assert_eq!(block_on(tell), Ok(()));
    }
    assert_eq!(probe.call(Double(1)).blocking(), Ok(2));
    let log = split.hosted.world.log.lock();
    assert_eq!(*log, ["started", "0", "1", "2", "3", "4", "5", "6", "7"]);
}

#[test]
fn what_is_on_the_way_counts_against_the_bound_until_it_is_taken_up() {
    let stage = Stage::new();
    let split = Split::new(&stage, &Limits { service_queue: 2, ..Limits::default() });
    split.hosted.start(0);
    let probe = split.service();
    let held = in_background(probe.call(Alone(1)));
    split.hosted.world.wait_until_begun();
    // Until the instance comes for more, the one that it has counts as well, as within a process.
    let mut tells: Vec<_> = (0..4).map(|n| probe.tell(Note(n.to_string()))).collect();
    let ready = tells.iter_mut().map(poll_once).filter(Poll::is_ready).count();
    assert!(ready <= 2, "{ready} were let in");
    split.hosted.world.go_on.add_permits(1);
    assert_eq!(next(&held, "the answer"), Ok(1));
    for tell in tells.iter_mut().skip(ready) {
        assert_eq!(block_on(tell), Ok(()));
    }
    assert_eq!(probe.call(Double(1)).blocking(), Ok(2));
    assert_eq!(*split.hosted.world.log.lock(), ["started", "0", "1", "2", "3"]);
}

#[test]
fn a_queue_outlives_the_instances_that_serve_it() {
    let stage = Stage::new();
    let split = Split::running(&stage);
    let probe = split.service();
    let asleep = in_background(probe.call(Alone(1)));
    split.hosted.world.wait_until_begun();
    let panics = in_background(probe.call(Panic));
    while split.counts().queued() < 1 {
        std::thread::yield_now();
    }
    let queued = in_background(probe.call(Double(4)));
    while split.counts().queued() < 2 {
        std::thread::yield_now();
    }
    split.hosted.world.go_on.add_permits(1);
    // Its reply passes before the next message is handled, or is lost with the instance.
    let asleep = next(&asleep, "an answer");
    assert!(asleep == Ok(1) || asleep == Err(failed()), "{asleep:?}");
    assert_eq!(next(&panics, "a failure"), Err(failed()));
    split.hosted.expect_failure(0, "as told");
    assert_eq!(split.counts().queued(), 1);
    split.hosted.start(1);
    split.hosted.expect(1, ServiceEvent::Started);
    assert_eq!(next(&queued, "the next instance"), Ok(8));
    assert_eq!(split.counts().handled(), 3);
}

#[test]
fn what_was_accepted_is_answered_before_the_service_stops_and_what_comes_later_is_refused() {
    let stage = Stage::new();
    let split = Split::running(&stage);
    let probe = split.service();
    let later = in_background(probe.call(Later(5)));
    split.hosted.world.wait_until_begun();
    for n in 0..1000 {
        probe.tell(Note(n.to_string())).blocking().expect("it is taken");
    }
    assert_eq!(probe.tell(LaterTell).blocking(), Ok(()));
    split.stop(0);
    split.hosted.world.wait_until_begun();
    assert_eq!(probe.call(Double(1)).blocking(), Err(stopping()));
    split.hosted.world.go_on.add_permits(2);
    assert_eq!(next(&later, "an answer"), Ok(5));
    split.hosted.expect(0, ServiceEvent::Stopped { hook_panicked: false });
    assert_eq!(split.hosted.world.log.lock().len(), 1 + 1000 + 3);
    let away = split.away.as_ref().expect("it is there");
    block_on(away.said());
    assert_eq!(split.counts().queued(), 0);
}

#[test]
fn a_call_that_is_given_up_is_not_handled_unless_it_was_taken_up() {
    let stage = Stage::new();
    let split = Split::running(&stage);
    let probe = split.service();
    let held = in_background(probe.call(Alone(1)));
    split.hosted.world.wait_until_begun();
    let mut calls: Vec<_> = (0..3).map(|n| probe.call(Note(n.to_string()))).collect();
    assert!(calls.iter_mut().all(|call| poll_once(call).is_pending()));
    // On the way or there, where the withdrawal follows it.
    while split.hosted.recipe.gate().counts(PROBE).done < 1 || split.gate.counts(PROBE).taken < 4 {
        std::thread::yield_now();
    }
    drop(calls.remove(1));
    assert_eq!(probe.tell(Note("behind".into())).blocking(), Ok(()));
    split.hosted.world.go_on.add_permits(1);
    assert_eq!(next(&held, "an answer"), Ok(1));
    for call in calls {
        assert_eq!(block_on(call), Ok(()));
    }
    assert_eq!(probe.call(Double(1)).blocking(), Ok(2));
    assert_eq!(*split.hosted.world.log.lock(), ["started", "0", "2", "behind"]);
    assert_eq!(split.counts().handled(), 5, "what was withdrawn is not counted");
}

#[test]
fn messages_that_are_none_are_made_known_and_disturb_no_others() {
    let stage = Stage::new();
    let split = Split::running(&stage);
    let probe = split.service();
    let refused = probe.call(Sour(7)).blocking();
    assert!(matches!(&refused, Err(CallError::NotCarried { why, .. }) if why.contains("it is odd")), "{refused:?}");
    let too_large = probe.call(Note("x".repeat(16 << 20))).blocking();
    assert!(matches!(too_large, Err(CallError::NotCarried { .. })), "{too_large:?}");
    // Nobody can be told, but for the log.
    assert_eq!(probe.tell(Sour(3)).blocking(), Ok(()));
    assert_eq!(probe.call(Note("x".repeat(15 << 20))).blocking(), Ok(()));
    assert_eq!(probe.tell(Sour(4)).blocking(), Ok(()));
    assert_eq!(probe.call(Double(1)).blocking(), Ok(2));
    let log = split.hosted.world.log.lock();
    assert_eq!((log[1].len(), &*log[2], log.len()), (15 << 20, "4", 3));
    drop(log);
    assert_eq!(split.counts().queued(), 0);
}

/// A worker whose tasks call a service of another worker, by way of home.
#[test]
fn a_task_of_one_worker_calls_a_service_of_another_and_is_told_what_is_none() {
    let stage = Stage::new();
    // It does not run yet, so that nothing is tried before all three are told.
    let split = Split::new(&stage, &Limits::default());
    let wire = Wire::to(2);
    let _carriers = wire.by_itself();
    let limits = Limits::default();
    let plan = service_plan("probe", |_| -> Probe { panic!("it is made elsewhere") }, &limits);
    let (job, gates) = (split.directory.job(), vec![plan.open_gate()]);
    let directory = ServiceDirectory::new(job, gates, stage.host.clone(), limits.call_deadline);
    let _home = CallsAtHome::new(&Peers::new(vec![None, None, Some(Arc::clone(&wire.home))]), &split.directory);
    let _calls = CallsAtWorker::new(&wire.away, &directory);
    let probe: ServiceRef<Probe> = directory.get("probe", Origin::Task).expect("it is registered");
    for number in [2, 3, 5] {
        assert_eq!(probe.tell(Sour(number)).blocking(), Ok(()));
    }
    split.hosted.start(0);
    assert_eq!(probe.call(Double(21)).blocking(), Ok(42));
    // Behind them, and what is said of them comes back in front of its answer.
    let refused = probe.call(Sour(7)).blocking();
    assert!(matches!(&refused, Err(CallError::NotCarried { why, .. }) if why.contains("it is odd")), "{refused:?}");
    match probe.tell(Sour(6)).blocking() {
        Err(CallError::EarlierNotCarried { lost: 2, why, .. }) => assert!(why.contains("it is odd"), "{why}"),
        refused => panic!("{refused:?}"),
    }
    assert_eq!(*split.hosted.world.log.lock(), ["started", "2"]);
}

#[test]
fn a_broken_link_leaves_the_fate_of_what_was_handed_over_unknown_and_keeps_the_queue() {
    let stage = Stage::new();
    let split = Split::running(&stage);
    let probe = split.service();
    let mut taken_up = probe.call(Later(1));
    assert!(poll_once(&mut taken_up).is_pending());
    split.hosted.world.wait_until_begun();
    split.cut();
    let error = block_on(taken_up).expect_err("nobody can answer");
    assert_eq!((error.fate(), matches!(error, CallError::FateUnknown { .. })), (Fate::Unknown, true));
    // What comes now waits for the next instance, or for the job's end.
    let mut waiting = probe.call(Double(1));
    assert!(poll_once(&mut waiting).is_pending());
    split.stand_in.abandon();
    assert_eq!(block_on(waiting), Err(stopping()));
    // The instance stops all the same once it is told.
    let away = split.away.as_ref().expect("it is there");
    assert!(away.may_stop(PROBE, Incarnation(0)), "nothing more can come");
}

#[test]
fn a_service_that_is_given_up_answers_who_waits_in_the_words_of_one_that_is_here() {
    let stage = Stage::new();
    let split = Split::running(&stage);
    let probe = split.service();
    let held = in_background(probe.call(Alone(1)));
    split.hosted.world.wait_until_begun();
    let queued = in_background(probe.call(Double(1)));
    while split.counts().queued() < 1 {
        std::thread::yield_now();
    }
    // As home and the worker carry out the order.
    split.stand_in.abandon();
    split.hosted.recipe.abandon();
    assert_eq!(next(&held, "a failure"), Err(failed()));
    assert_eq!(next(&queued, "a refusal"), Err(stopping()));
    assert_eq!(probe.call(Double(1)).blocking(), Err(stopping()));
    split.gate.release();
    assert_eq!(probe.call(Double(1)).blocking(), Err(CallError::JobEnded { job: split.directory.job() }));
}

#[test]
fn callers_are_told_when_the_attempt_is_over_at_either_end() {
    for at_home in [true, false] {
        let stage = Stage::new();
        let mut split = Split::running(&stage);
        let probe = split.service();
        let mut call = probe.call(Later(1));
        assert!(poll_once(&mut call).is_pending());
        split.hosted.world.wait_until_begun();
        if at_home {
            split.home = None;
        } else {
            split.away = None;
            split.cut();
        }
        let error = block_on(call).expect_err("nobody can answer");
        assert_eq!(error == failed(), at_home, "{error}");
        assert!(at_home || matches!(error, CallError::FateUnknown { .. }), "{error}");
    }
}

#[test]
fn many_callers_are_each_answered_and_each_in_order() {
    let stage = Stage::new();
    let split = Split::new(&stage, &Limits { service_queue: 8, ..Limits::default() });
    split.hosted.start(0);
    let callers: Vec<mpsc::Receiver<()>> = (0..4u64)
        .map(|caller| {
            let probe = split.service();
            in_background(async move {
                for n in 0..200 {
                    assert_eq!(probe.call(Double(caller * 1000 + n)).await, Ok(2 * (caller * 1000 + n)));
                    assert_eq!(probe.tell(Note(format!("{caller} {n:03}"))).await, Ok(()));
                }
            })
        })
        .collect();
    callers.iter().for_each(|caller| next(caller, "the end of a caller"));
    assert_eq!(split.service().call(Double(1)).blocking(), Ok(2));
    let log = split.hosted.world.log.lock();
    for caller in 0..4 {
        let own: Vec<_> = log.iter().filter(|note| note.starts_with(&format!("{caller} "))).collect();
        assert_eq!(own.len(), 200);
        assert!(own.is_sorted());
    }
    drop(log);
    assert_eq!((split.counts().handled(), split.counts().queued()), (1601, 0));
}
