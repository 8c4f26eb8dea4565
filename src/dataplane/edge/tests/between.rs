//! Channels between two workers, whose link is carried by hand.

use std::{
    cell::Cell,
    pin::Pin,
    rc::Rc,
    sync::atomic::{AtomicUsize, Ordering},
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use proptest::prelude::*;
use serde::{Deserialize, Deserializer, Serializer};

use super::*;
use crate::{
    dataplane::{
        chain::{BoxStage, Ending, Failure, Lull, Meter, OperatorInfo, Reach, TaskState},
        context::TaskContext,
        counters::SharedCounters,
        exchange::{ExchangeStage, GateHead, InTurn, Single},
        mark::Mark,
        task::{Head, Input},
        wiring::Streams,
    },
    host::Host,
    job::{ErrorPolicy, FailureCause, JobId, Limits},
    protocol::TaskReport,
    service::{Origin, ServiceDirectory},
};

/// Moves what one end of a link has written to the other end.
#[derive(Default)]
struct Wire {
    bytes: Vec<u8>,
}

impl Wire {
    /// Brings at most so many bytes over. Returns whether there were any.
    fn carry(&mut self, from: &Arc<Link>, to: &Arc<Link>, bytes_max: usize) -> bool {
        let mut written = Vec::new();
        if from.poll_written(&Context::from_waker(Waker::noop()), &mut written).is_ready() {
            self.bytes.append(&mut written);
        }
        let some = self.bytes.len().min(bytes_max);
        let used = to.read(&self.bytes[..some]).expect("what a link writes, a link reads");
        self.bytes.drain(..used);
        used > 0
    }
}

/// Two workers with the tasks of one exchange: producers first, then consumers.
struct Pair {
    links: [Arc<Link>; 2],
    wires: [Wire; 2],
    wirings: [Arc<Wiring>; 2],
    plan: EdgePlan,
    tasks: Vec<u32>,
}

impl Pair {
    fn new<T>(producers: usize, tasks: &[u32], peer_bytes: usize) -> Self
    where
        T: Serialize + DeserializeOwned + Send + 'static,
    {
        let mut plan = EdgePlan::between_workers::<T>(producers as u32, tasks.len() - producers);
        plan.feeds.push(Feed { producers, first_task: 0, pairing: Pairing::AllToAll, first_channel: 0 });
        let links = [Link::new(1, true), Link::new(0, true)];
        let peers =
            [Peers::new(vec![None, Some(Arc::clone(&links[0]))]), Peers::new(vec![Some(Arc::clone(&links[1])), None])];
        let limits = LaneLimits { batches: 2, bytes: 1 << 20, peer_bytes };
        let wirings = [0, 1].map(|here| {
            let layout = Layout { here, tasks: tasks.to_vec(), services: Vec::new() };
            let streams = Arc::new(Streams { outputs: Vec::new(), inputs: Vec::new() });
            let edges = vec![plan.wire(limits, &layout, Some(&peers[here as usize]))];
            Arc::new(Wiring::new(edges, Vec::new(), Vec::new(), streams))
        });
        Self { links, wires: Default::default(), wirings, plan, tasks: tasks.to_vec() }
    }

    /// Carries what is written at one end, `bytes_max` of it at most.
    fn carry(&mut self, from: usize, bytes_max: usize) -> bool {
        self.wires[from].carry(&self.links[from], &self.links[1 - from], bytes_max)
    }

    fn carry_all(&mut self) -> bool {
        let mut some = false;
        while self.carry(0, usize::MAX) | self.carry(1, usize::MAX) {
            some = true;
        }
        some
    }

    fn state(&self, task: usize, limits: &Limits) -> Rc<TaskState> {
        let (job, host) = (JobId::random(), Host::shared_by_tests().clone());
        let directory = ServiceDirectory::new(job, Vec::new(), host.clone(), Duration::from_secs(1));
        let context = TaskContext { job, instance: task as u32, parallelism: 9, origin: Origin::Task, directory, host };
        let operators = [OperatorInfo { name: format!("operator-{task}"), policy: ErrorPolicy::Fail }];
        let wiring = Arc::clone(&self.wirings[self.tasks[task] as usize]);
        let counters = Arc::new(SharedCounters::new());
        Rc::new(TaskState::new(context, operators.into(), Arc::new(limits.clone()), counters, None, wiring))
    }

    fn producer<T: Send + 'static>(&self, task: usize, batch_items: usize) -> Producer<T> {
        let state = self.state(task, &Limits { batch_items, ..Limits::default() });
        let lanes = Edge::take_lanes(&state.wiring, EdgeId(0), 0, task);
        let stage = if self.plan.consumers == 1 {
            ExchangeStage::boxed(Meter::new(&state, 0), Single, lanes, None)
        } else {
            ExchangeStage::boxed(Meter::new(&state, 0), InTurn(0), lanes, None)
        };
        Producer { state, stage, passed: 0, ended: false }
    }

    fn consumer<T: Send + 'static>(&self, consumer: usize) -> Consumer<T> {
        let state = self.state(self.plan.tasks().start + consumer, &Limits::default());
        let (gate, channels) = Edge::take_gate(&state.wiring, EdgeId(0), consumer);
        let head = GateHead::new(&state, gate, channels.clone());
        Consumer { state, head, channels, buffer: Vec::new(), taken: Vec::new(), holds: Vec::new(), ended: false }
    }

    /// The items of each channel that came after it was closed.
    fn late(&mut self) -> Vec<u64> {
        let streams: Vec<StreamId> = (0..self.plan.feeds[0].producers * self.plan.consumers).map(stream).collect();
        let mut late = vec![0; streams.len()];
        for from in [0, 1] {
            let mut settle = self.links[from].settle(&streams);
            self.carry_all();
            let settled = Pin::new(&mut settle).poll(&mut Context::from_waker(Waker::noop()));
            let Poll::Ready(Ok(items)) = settled else { panic!("the link answers") };
            late.iter_mut().zip(items).for_each(|(all, items)| *all += items);
        }
        late
    }
}

struct Producer<T> {
    state: Rc<TaskState>,
    stage: BoxStage<T>,
    /// Items given to it so far.
    passed: u64,
    ended: bool,
}

impl<T> Producer<T> {
    fn poll(&mut self) -> Poll<Result<(), Failure>> {
        self.stage.poll(&mut Context::from_waker(Waker::noop()))
    }

    fn is_ready(&mut self) -> bool {
        matches!(self.poll(), Poll::Ready(Ok(())))
    }

    fn settle(&mut self, ending: Ending) -> TaskReport {
        self.stage.settle(ending);
        self.state.take_report()
    }
}

struct Consumer<T> {
    state: Rc<TaskState>,
    head: GateHead<T>,
    channels: Vec<usize>,
    buffer: Vec<T>,
    taken: Vec<T>,
    /// Each with the number of items taken before.
    holds: Vec<(u32, usize)>,
    ended: bool,
}

impl<T> Consumer<T> {
    fn poll(&mut self, max: usize) -> Poll<Result<Input, Failure>> {
        self.head.poll_batch(&mut Context::from_waker(Waker::noop()), &mut self.buffer, max)
    }

    /// Takes what comes next. Returns whether there was anything.
    fn take(&mut self, max: usize) -> bool {
        match self.poll(max) {
            Poll::Pending => return false,
            Poll::Ready(Err(failure)) => panic!("{failure:?}"),
            Poll::Ready(Ok(Input::Items)) => self.taken.append(&mut self.buffer),
            Poll::Ready(Ok(Input::Mark(Mark::Hold(epoch)))) => self.holds.push((epoch, self.taken.len())),
            Poll::Ready(Ok(Input::Mark(Mark::End))) => self.ended = true,
        }
        true
    }

    fn settle(&mut self, ending: Ending) -> TaskReport {
        self.head.settle(ending);
        self.state.take_report()
    }
}

type Item = (u32, u64);

#[derive(Debug, Clone)]
enum Step {
    Give { producer: usize, items: u64 },
    Flush { producer: usize },
    Hold,
    Carry { from: usize, bytes_max: usize },
    Take { consumer: usize, max: usize },
    Close { consumer: usize },
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..3usize, 1..200u64).prop_map(|(producer, items)| Step::Give { producer, items }),
        2 => (0..3usize).prop_map(|producer| Step::Flush { producer }),
        1 => Just(Step::Hold),
        6 => (0..2usize, prop_oneof![1..3000usize, Just(usize::MAX)])
            .prop_map(|(from, bytes_max)| Step::Carry { from, bytes_max }),
        6 => (0..3usize, 1..300usize).prop_map(|(consumer, max)| Step::Take { consumer, max }),
        1 => (0..3usize).prop_map(|consumer| Step::Close { consumer }),
    ]
}

/// Three producers and three consumers.
struct Run {
    pair: Pair,
    producers: Vec<Producer<Item>>,
    consumers: Vec<Consumer<Item>>,
    closed: [bool; 3],
    /// By epoch: what each producer had been given before.
    holds: Vec<[u64; 3]>,
}

impl Run {
    fn new(tasks: &[u32], peer_bytes: usize) -> Self {
        let pair = Pair::new::<Item>(3, tasks, peer_bytes);
        let producers = (0..3).map(|task| pair.producer(task, 64)).collect();
        let consumers = (0..3).map(|consumer| pair.consumer(consumer)).collect();
        Self { pair, producers, consumers, closed: [false; 3], holds: Vec::new() }
    }

    fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        let Self { pair, producers, consumers, closed, holds } = self;
        match step {
            Step::Give { producer, items } => {
                let it = &mut producers[producer];
                if it.is_ready() {
                    let mut batch: Vec<Item> = (it.passed..it.passed + items).map(|n| (producer as u32, n)).collect();
                    it.passed += items;
                    prop_assert!(it.stage.batch(&mut batch).is_ok());
                }
            }
            Step::Flush { producer } => prop_assert!(producers[producer].stage.flush(Lull::Idle).is_ok()),
            Step::Hold => {
                if producers.iter_mut().all(Producer::is_ready) {
                    let epoch = holds.len() as u32;
                    holds.push(std::array::from_fn(|producer| producers[producer].passed));
                    for it in producers {
                        prop_assert!(it.stage.mark(Mark::Hold(epoch)).is_ok());
                    }
                }
            }
            Step::Carry { from, bytes_max } => drop(pair.carry(from, bytes_max)),
            Step::Take { consumer, max } => drop(consumers[consumer].take(max)),
            Step::Close { consumer } => {
                closed[consumer] = true;
                consumers[consumer].head.close();
            }
        }
        Ok(())
    }

    /// Ends all producers, and goes on until nothing moves any more.
    fn end(&mut self) -> Result<(), TestCaseError> {
        let mut moves = true;
        while moves {
            moves = self.pair.carry_all();
            for it in &mut self.producers {
                if it.is_ready() && !it.ended {
                    it.ended = true;
                    moves = true;
                    prop_assert!(it.stage.mark(Mark::End).is_ok());
                }
            }
            for it in &mut self.consumers {
                while it.take(100) {
                    moves = true;
                }
            }
        }
        prop_assert!(self.producers.iter_mut().all(Producer::is_ready), "everything was taken");
        prop_assert!(self.consumers.iter().all(|it| it.ended), "each consumer saw the end");
        Ok(())
    }

    fn check(&mut self) -> Result<(), TestCaseError> {
        let sent: Vec<_> = self.producers.iter_mut().map(|it| it.settle(Ending::Drained).sent).collect();
        let received: Vec<_> = self.consumers.iter_mut().map(|it| it.settle(Ending::Drained).received).collect();
        let late = self.pair.late();
        for (consumer, it) in self.consumers.iter().enumerate() {
            prop_assert_eq!(&it.channels, &[consumer, consumer + 3, consumer + 6]);
            for producer in 0..3 {
                let (sent, received) = (sent[producer][consumer], received[consumer][producer]);
                let arrived = received.received + received.refused + received.discarded;
                prop_assert_eq!(sent.sent - late[it.channels[producer]], arrived);
                let of_channel = |item: &&Item| item.0 == producer as u32;
                let taken: Vec<u64> = it.taken.iter().filter(of_channel).map(|item| item.1).collect();
                prop_assert!(taken.is_sorted_by(|a, b| a < b), "in order, and each once");
                prop_assert_eq!(taken.len() as u64, received.received);
                if self.closed[consumer] {
                    continue;
                }
                let dealt = |given: u64| (0..given).filter(|n| *n as usize % 3 == consumer);
                prop_assert_eq!(taken, dealt(self.producers[producer].passed).collect::<Vec<_>>());
                for &(epoch, before) in &it.holds {
                    let taken = it.taken[..before].iter().filter(of_channel).count();
                    let dealt = dealt(self.holds[epoch as usize][producer]).count();
                    prop_assert!(taken >= dealt, "{} of {} items came before the hold", taken, dealt);
                }
            }
        }
        Ok(())
    }
}

/// The workers of the tasks are drawn at random.
fn run(tasks: &[u32], peer_bytes: usize, steps: Vec<Step>, closes: bool) -> Result<(), TestCaseError> {
    let mut run = Run::new(tasks, peer_bytes);
    let steps = steps.into_iter().filter(|step| closes || !matches!(step, Step::Close { .. }));
    steps.into_iter().try_for_each(|step| run.step(step))?;
    run.end()?;
    run.check()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn everything_arrives_once_and_in_order_wherever_the_tasks_are(
        tasks in prop::collection::vec(0..2u32, 6),
        peer_bytes in 1..5_000usize,
        steps in prop::collection::vec(steps(), 0..150),
    ) {
        run(&tasks, peer_bytes, steps, false)?;
    }

    #[test]
    fn accounts_balance_whenever_consumers_close(
        tasks in prop::collection::vec(0..2u32, 6),
        peer_bytes in 1..5_000usize,
        steps in prop::collection::vec(steps(), 0..150),
    ) {
        run(&tasks, peer_bytes, steps, true)?;
    }
}

#[test]
fn a_consumer_that_takes_nothing_holds_up_nobody_else() {
    let mut pair = Pair::new::<u64>(2, &[0, 0, 1, 1], 1_000);
    // Each producer's items go to both consumers in turn.
    let mut producers = [pair.producer::<u64>(0, 1), pair.producer::<u64>(1, 1)];
    let mut idle = pair.consumer::<u64>(0);
    let mut busy = pair.consumer::<u64>(1);
    let mut given = 0;
    while producers[0].is_ready() {
        // Of two items the second goes to the busy one.
        assert!(producers[0].stage.batch(&mut vec![given, given]).is_ok());
        given += 1;
        pair.carry_all();
        while busy.take(10) {}
        pair.carry_all();
        assert!(given < 10_000, "the idle consumer has limited credit");
    }
    // The channel from the first producer to the idle one is full. The others are not.
    busy.taken.clear();
    for n in 0..500 {
        assert!(producers[1].stage.batch(&mut vec![n, n]).is_ok());
        pair.carry_all();
        while busy.take(10) {}
        pair.carry_all();
    }
    assert_eq!(busy.taken, (0..500).collect::<Vec<u64>>());
    assert!(idle.take(10), "what has come is there");
    let mut more = 0;
    while !producers[0].is_ready() {
        while idle.take(10) {}
        pair.carry_all();
        more += 1;
        assert!(more < 10, "credit comes back");
    }
}

#[test]
fn a_hold_comes_out_once_it_has_come_from_both_workers() {
    let mut pair = Pair::new::<u64>(2, &[0, 1, 1], 1_000);
    let (mut far, mut near) = (pair.producer::<u64>(0, 8), pair.producer::<u64>(1, 8));
    let mut consumer = pair.consumer::<u64>(0);
    assert!(near.stage.mark(Mark::Hold(1)).is_ok());
    assert!(far.stage.batch(&mut vec![1, 2]).is_ok());
    assert!(far.stage.mark(Mark::Hold(1)).is_ok());
    assert!(!consumer.take(10));
    pair.carry_all();
    while consumer.take(10) {}
    assert_eq!((consumer.taken, consumer.holds), (vec![1, 2], vec![(1, 2)]));
}

struct Counter(AtomicUsize);

impl Wake for Counter {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn tasks_are_woken_by_what_comes_over_the_link() {
    let mut pair = Pair::new::<u64>(1, &[0, 1], 100);
    let (mut producer, mut consumer) = (pair.producer::<u64>(0, 8), pair.consumer::<u64>(0));
    let counters = [(); 2].map(|()| Arc::new(Counter(AtomicUsize::new(0))));
    let [wakes_producer, wakes_consumer] = counters.clone().map(Waker::from);
    let woken = |which: usize| counters[which].0.swap(0, Ordering::Relaxed) > 0;
    let mut into = Vec::new();
    let mut poll_consumer = |consumer: &mut Consumer<u64>| {
        consumer.head.poll_batch(&mut Context::from_waker(&wakes_consumer), &mut into, 1000).is_ready()
    };
    assert!(!poll_consumer(&mut consumer));
    while producer.stage.poll(&mut Context::from_waker(&wakes_producer)).is_ready() {
        assert!(producer.stage.batch(&mut (0..8).collect()).is_ok());
    }
    assert!(!woken(1));
    pair.carry_all();
    assert!(woken(1), "a batch came");
    assert!(!woken(0));
    while poll_consumer(&mut consumer) {}
    pair.carry_all();
    assert!(woken(0), "credit came back");
    assert!(producer.stage.poll(&mut Context::from_waker(&wakes_producer)).is_ready());
    consumer.head.close();
    pair.carry_all();
    assert!(woken(0), "the consumer closed");
    assert!(producer.stage.flush(Lull::Idle).is_ok());
    assert!(producer.stage.poll(&mut Context::from_waker(&wakes_producer)).is_ready());
    assert!(!producer.stage.wants_more(Reach::Anywhere));
}

#[test]
fn a_link_that_breaks_looks_like_an_end_to_nobody() {
    let mut pair = Pair::new::<u64>(1, &[0, 1], 100);
    let (mut producer, mut consumer) = (pair.producer::<u64>(0, 8), pair.consumer::<u64>(0));
    assert!(producer.stage.batch(&mut (0..8).collect()).is_ok());
    pair.carry_all();
    pair.links.iter().for_each(|link| link.break_off("cut"));
    assert!(consumer.take(100), "what had come is there");
    assert!(!consumer.take(100));
    assert!(producer.is_ready());
    assert!(producer.stage.batch(&mut (0..8).collect()).is_ok());
    assert!(producer.poll().is_pending());
    assert!(producer.stage.wants_more(Reach::Anywhere));
    assert!(!consumer.ended);
    assert_eq!(producer.settle(Ending::Discarded).sent[0], crate::protocol::Sent { sent: 8, dropped: 8 });
    assert_eq!(consumer.settle(Ending::Discarded).received[0].received, 8);
}

thread_local! {
    static ENCODED: Cell<usize> = const { Cell::new(0) };
}

/// Writes itself unless it is told not to, and reads itself unless it is 13.
#[derive(Debug, PartialEq)]
struct Fussy(u32);

const REFUSES: u32 = 11;
const PANICS: u32 = 12;
const UNREADABLE: u32 = 13;

impl Serialize for Fussy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        ENCODED.set(ENCODED.get() + 1);
        match self.0 {
            REFUSES => Err(serde::ser::Error::custom("not me")),
            PANICS => panic!("me neither"),
            n => serializer.serialize_u32(n),
        }
    }
}

impl<'de> Deserialize<'de> for Fussy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u32::deserialize(deserializer)? {
            UNREADABLE => Err(serde::de::Error::custom("no such number")),
            n => Ok(Self(n)),
        }
    }
}

#[test]
fn an_item_that_cannot_be_encoded_fails_its_task_by_name() {
    for (number, said) in [(REFUSES, "not me"), (PANICS, "me neither")] {
        let pair = Pair::new::<Fussy>(1, &[0, 1], 100);
        let mut producer = pair.producer::<Fussy>(0, 4);
        let failed = producer.stage.batch(&mut vec![Fussy(1), Fussy(2), Fussy(number), Fussy(3)]);
        let Err(Failure(cause)) = failed else { panic!("it cannot be encoded") };
        let FailureCause::Operator { operator, message, .. } = &*cause else { panic!("{cause}") };
        assert_eq!(operator, "operator-0");
        assert!(message.contains("worker 1 (channel 0)") && message.contains(said), "{message}");
        assert_eq!(producer.settle(Ending::Discarded).sent[0].dropped, 4);
    }
}

#[test]
fn an_item_that_cannot_be_decoded_fails_its_task_by_name() {
    let mut pair = Pair::new::<Fussy>(1, &[0, 1], 100);
    let (mut producer, mut consumer) = (pair.producer::<Fussy>(0, 3), pair.consumer::<Fussy>(0));
    assert!(producer.stage.batch(&mut vec![Fussy(1), Fussy(UNREADABLE), Fussy(2)]).is_ok());
    pair.carry_all();
    let Poll::Ready(Err(Failure(cause))) = consumer.poll(100) else { panic!("it cannot be decoded") };
    let FailureCause::Operator { operator, message, .. } = &*cause else { panic!("{cause}") };
    assert_eq!(operator, "operator-1");
    assert!(message.contains("worker 0 (channel 0)") && message.contains("no such number"), "{message}");
    let account = consumer.settle(Ending::Discarded).received[0];
    assert_eq!((account.received, account.discarded), (0, 3));
}

#[test]
fn a_batch_that_waits_for_credit_is_encoded_once() {
    let mut pair = Pair::new::<Fussy>(1, &[0, 1], 10);
    let (mut producer, mut consumer) = (pair.producer::<Fussy>(0, 20), pair.consumer::<Fussy>(0));
    ENCODED.set(0);
    let mut given = 0;
    while producer.is_ready() {
        assert!(producer.stage.batch(&mut (100..120).map(Fussy).collect()).is_ok());
        given += 20;
    }
    for _ in 0..10 {
        assert!(producer.poll().is_pending());
        assert!(producer.stage.flush(Lull::Turn).is_ok());
    }
    pair.carry_all();
    while consumer.take(100) {}
    pair.carry_all();
    assert!(producer.is_ready());
    assert_eq!((ENCODED.get(), given), (40, 40));
}
