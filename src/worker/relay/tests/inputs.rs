//! Inputs whose source is elsewhere.

use std::{
    future::poll_fn,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use futures::future::BoxFuture;
use proptest::prelude::*;
use serde::{Serialize, Serializer, de::DeserializeOwned};

use super::*;
use crate::{
    blocking::block_on,
    job::{Graph, JobId, TaskId, TaskNode},
    port::{AnyInput, FoundInput, Input, InputError, InputPort, InputResolver, PortEvent},
    protocol::{Layout, Wait},
    service::{
        Origin, ServiceDirectory, ServiceRef,
        tests::support::{Double, Hosted, Probe, Stage, in_background, next},
    },
    worker::relay::{InputsAtHome, InputsAtWorker},
};

/// An input at home, and the port of its source on a worker.
struct Ends<T> {
    wire: Wire,
    home: Streams,
    graph: Graph,
    source: Arc<InputPort<T>>,
    _carriers: [Arc<Turning<Carrier>>; 2],
    _at_home: InputsAtHome,
    at_worker: Option<InputsAtWorker>,
}

struct Fixed(Arc<dyn AnyInput>);

impl InputResolver for Fixed {
    fn input(&self, _: JobId, _: &str, _: Arc<TypeDescription>) -> BoxFuture<'static, Result<FoundInput, InputError>> {
        Box::pin(std::future::ready(Ok(FoundInput::Port(Arc::clone(&self.0)))))
    }
}

impl<T: Serialize + DeserializeOwned + Send + 'static> Ends<T> {
    fn new(items_max: usize, directory: &Arc<ServiceDirectory>) -> Self {
        let limits = Limits { port_items: items_max, ..Limits::default() };
        let port = || InputPort::<T>::new("in", TypeDescription::of::<T>(), &limits);
        let of = |port| Streams { outputs: Vec::new(), inputs: vec![("in".to_owned(), port as Arc<dyn AnyInput>)] };
        let (source, home) = (port(), of(port()));
        let task = TaskNode {
            id: TaskId(0),
            name: "from_channel".to_owned(),
            instance: 0,
            operators: Vec::new(),
            is_source: true,
            input: Some("in".to_owned()),
            outputs: Vec::new(),
            service: None,
        };
        let graph = Graph { tasks: vec![task], inputs: vec!["in".to_owned()], ..Graph::default() };
        let layout = |here| Layout { here, tasks: vec![1], services: Vec::new() };
        let wire = Wire::to(1);
        let _carriers = wire.by_itself();
        let peers = Peers::new(vec![None, Some(Arc::clone(&wire.home))]);
        let _at_home = InputsAtHome::new(&peers, &home, &graph, &layout(0), Host::shared_by_tests());
        let away = of(Arc::clone(&source));
        let at_worker = Some(InputsAtWorker::new(&wire.away, &away, &graph, &layout(1), directory));
        Self { wire, home, graph, source, _carriers, _at_home, at_worker }
    }

    fn input(&self) -> Input<T> {
        Input::new(Arc::new(Fixed(Arc::clone(&self.home.inputs[0].1))), JobId::random(), "in")
    }

    /// What the source takes next; nothing once the input has ended.
    fn take(&self, max: usize) -> Result<Vec<T>, String> {
        let mut items = Vec::new();
        match block_on(poll_fn(|cx| self.source.poll_batch(cx, &mut items, max))) {
            PortEvent::Items => Ok(items),
            PortEvent::Finished => Ok(Vec::new()),
            PortEvent::NotCarried(message) => Err(message),
        }
    }
}

fn no_services() -> Arc<ServiceDirectory> {
    let host = Host::shared_by_tests().clone();
    ServiceDirectory::new(JobId::random(), Vec::new(), host, Limits::default().call_deadline)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Finish,
    Stop,
    Close,
}

/// Two senders, and a source that ends the input once it has taken so many items, or lets it be finished.
fn run(items: u64, bytes: usize, items_max: usize, ending: Ending, at: usize) {
    let ends = Ends::<(u64, u64, String)>::new(items_max, &no_services());
    let sent: Arc<[AtomicU64; 2]> = Arc::default();
    let senders: Vec<_> = (0..2u64)
        .map(|sender| {
            let (input, sent) = (ends.input(), Arc::clone(&sent));
            in_background(async move {
                for n in 0..items {
                    match input.send((sender, n, "x".repeat(bytes))).await {
                        Ok(()) => drop(sent[sender as usize].fetch_add(1, Ordering::SeqCst)),
                        Err(error) => return Some(error.into_error()),
                    }
                }
                None
            })
        })
        .collect();
    let accepted = || sent.iter().map(|sent| sent.load(Ordering::SeqCst)).sum::<u64>();
    let (mut taken, mut over, mut refusals) = (Vec::new(), false, Vec::new());
    loop {
        if ending != Ending::Finish && !over && taken.len() >= at {
            over = true;
            if ending == Ending::Close {
                ends.source.close();
                break;
            }
            ends.source.close_to_senders();
        }
        if ending == Ending::Finish && !over && taken.len() as u64 == 2 * items {
            over = true;
            refusals.extend(senders.iter().map(|sender| next(sender, "a sender")));
            block_on(ends.input().finish()).expect("it is open");
        }
        let some = ends.take(100).expect("the items are carried");
        if some.is_empty() {
            break;
        }
        taken.extend(some);
        // Wherever they are.
        let (accepted, taken) = (accepted(), taken.len());
        assert!(accepted <= (taken + items_max) as u64, "{accepted} were accepted, {taken} taken");
    }
    if ending != Ending::Finish {
        refusals.extend(senders.iter().map(|sender| next(sender, "a sender")));
    }
    let closed = InputError::Closed { input: "in".to_owned() };
    assert!(refusals.iter().flatten().all(|refusal| *refusal == closed), "{refusals:?}");
    for sender in 0..2 {
        let sent = sent[sender as usize].load(Ordering::SeqCst);
        let of_sender: Vec<u64> = taken.iter().filter(|item| item.0 == sender).map(|item| item.1).collect();
        assert!(of_sender.iter().copied().eq(0..of_sender.len() as u64), "in order");
        if ending == Ending::Close {
            assert!(of_sender.len() as u64 <= sent);
        } else {
            assert_eq!(of_sender.len() as u64, sent, "what was sent was taken");
        }
    }
    assert_eq!(ends.source.is_finished(), ending == Ending::Finish);
    let input = ends.input();
    // Until the port at home hears that the source is gone, it has room.
    let later = in_background(async move {
        loop {
            if let Err(error) = input.send((2, 0, String::new())).await {
                return error.into_error();
            }
        }
    });
    let later = next(&later, "a refusal");
    match ending {
        Ending::Finish => assert!(matches!(later, InputError::Finished { .. })),
        Ending::Stop | Ending::Close => assert!(matches!(later, InputError::Closed { .. })),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn however_an_input_ends_what_was_sent_before_comes_in_order_and_the_rest_is_refused(
        items in 1..150u64,
        bytes in prop_oneof![Just(0), 1..300usize, Just(9_000)],
        items_max in 1..60usize,
        ending in prop::sample::select(vec![Ending::Finish, Ending::Stop, Ending::Close]),
        at in prop::sample::select(vec![0, 1, 50]),
    ) {
        run(items, bytes, items_max, ending, at.min(items as usize));
    }
}

#[test]
fn a_source_that_does_not_take_makes_senders_wait() {
    // Ten times what may be on the way.
    run(1_000, 9_000, 20, Ending::Finish, 0);
}

#[test]
fn a_long_item_comes_in_pieces() {
    let ends = Ends::<String>::new(4, &no_services());
    let input = ends.input();
    let sender = in_background(async move {
        input.send("a".repeat(20 << 20)).await.expect("it is open");
        input.send("b".to_owned()).await.expect("it is open");
        input.finish().await.expect("it is open");
    });
    assert_eq!(ends.take(9), Ok(vec!["a".repeat(20 << 20)]));
    assert_eq!(ends.take(9), Ok(vec!["b".to_owned()]));
    assert_eq!(ends.take(9), Ok(Vec::new()));
    next(&sender, "the sender");
}

#[test]
fn an_item_that_cannot_be_encoded_is_told_to_the_source() {
    #[derive(serde::Deserialize)]
    struct Odd(u64);
    impl Serialize for Odd {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            assert!(self.0 % 2 == 1, "an even number");
            serializer.serialize_newtype_struct("Odd", &self.0)
        }
    }
    let ends = Ends::<Odd>::new(9, &no_services());
    now(ends.input().send(Odd(1))).expect("it is open");
    assert_eq!(ends.take(9).expect("it is odd").len(), 1);
    now(ends.input().send(Odd(2))).expect("it is open");
    let refused = ends.take(9).map(|items| items.len());
    assert!(matches!(&refused, Err(message) if message.contains("an even number")), "{refused:?}");
    ends.source.close();
    // The port at home hears of it, and refuses those who wait for room.
    let input = ends.input();
    let refused = in_background(async move { while input.send(Odd(1)).await.is_ok() {} });
    next(&refused, "a refusal");
}

#[test]
fn references_in_items_are_bound_to_where_the_services_are() {
    let stage = Stage::new();
    let hosted = Hosted::running(&stage);
    let ends = Ends::<ServiceRef<Probe>>::new(9, &hosted.directory);
    now(ends.input().send(hosted.service(Origin::Outside))).expect("it is open");
    let probe = ends.take(9).expect("it is carried").pop().expect("it was sent");
    assert_eq!(probe.call(Double(3)).blocking(), Ok(6));
}

#[test]
fn senders_are_counted_where_they_are() {
    let ends = Ends::<u64>::new(9, &no_services());
    let input = ends.input();
    now(input.send(1)).expect("it is open");
    let mut wait = Wait::Port { senders: 0 };
    ends.home.count_senders(&ends.graph.tasks[0], &mut wait);
    assert_eq!(wait, Wait::Port { senders: 1 });
}

#[test]
fn a_source_that_never_was_ends_its_input_with_the_attempt_and_one_behind_a_broken_link_waits() {
    let mut ends = Ends::<u64>::new(1, &no_services());
    now(ends.input().send(1)).expect("there is room");
    let input = ends.input();
    let waiting = in_background(async move { input.send(2).await.map_err(crate::port::SendError::into_error) });
    ends.at_worker = None;
    let closed = InputError::Closed { input: "in".to_owned() };
    assert_eq!(next(&waiting, "a refusal"), Err(closed));

    let ends = Ends::<u64>::new(1, &no_services());
    ends.wire.away.break_off("cut");
    ends.wire.home.break_off("cut");
    let mut items = Vec::new();
    assert!(ends.source.poll_batch(&mut Context::from_waker(Waker::noop()), &mut items, 9).is_pending());
    now(ends.input().send(1)).expect("there is room");
    thread::spawn(move || drop(ends)).join().expect("nothing panics");
}
