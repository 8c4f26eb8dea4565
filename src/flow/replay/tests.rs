#[cfg(feature = "files")]
mod positions;

use std::{
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Waker},
};

use parking_lot::Mutex;

use super::*;
use crate::{
    dataplane::{
        chain::TaskState,
        counters::SharedCounters,
        source::{Next, Source},
    },
    flow::{
        IntoJob, ParallelItems, ParallelRange, TextFile,
        graph::{BuildOptions, Plan},
        job::{Unplanned, job_fn, plan},
        partitioned,
        splits::Splits,
    },
    host::Host,
    job::{ErrorPolicy, JobId, Limits},
    protocol::Layout,
    service::{Origin as Caller, ServiceDirectory},
};

const PARALLELISM: usize = 3;

/// Numbers from the given one on, which `splits` counts up: so the splits of a second call are others.
struct Numbers {
    calls: Arc<AtomicUsize>,
}

impl ReplayableSource for Numbers {
    type Item = u64;
    type Split = (u64, Fragile);
    type Position = u64;
    type Part = crate::flow::ItemsPart<u64>;

    fn splits(&mut self, _: usize) -> Result<Vec<(u64, Fragile)>, TaskError> {
        let from = 100 * self.calls.fetch_add(1, Ordering::Relaxed) as u64;
        Ok(vec![(from, Fragile(0)), (from + 10, Fragile(0))])
    }

    fn open(&self, (from, _): (u64, Fragile), at: u64) -> Result<Self::Part, TaskError> {
        ParallelItems::new(Vec::new()).open((from..from + 10).collect(), at)
    }
}

/// Panics when it is decoded, unless it is 0; cannot be encoded, if it is 255.
#[derive(Debug, Clone)]
struct Fragile(u8);

impl Serialize for Fragile {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> serde::Deserialize<'de> for Fragile {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = u8::deserialize(deserializer)?;
        assert_eq!(value, 0, "it broke");
        Ok(Self(value))
    }
}

/// The plan of a flow, with the splits given or made.
fn planned(build: impl Fn(&mut Flow) + Send + 'static, splits: Option<Arc<Splits>>) -> Result<Plan, BuildRefusal> {
    let limits = Arc::default();
    let options = BuildOptions { parallelism: PARALLELISM, error_policy: ErrorPolicy::Fail, limits, splits };
    let job = job_fn("replay", move |flow| {
        build(flow);
        Ok(())
    });
    plan(&job.into_payload(), options).map_err(|unplanned| match unplanned {
        Unplanned::Flow(refusal) => refusal,
        Unplanned::Job(refusal) => panic!("a closure is not decoded: {refusal:?}"),
    })
}

/// Runs the tasks that `is_here` names, one after another, of a flow without exchanges.
fn run(plan: Plan, is_here: impl Fn(u32) -> bool) {
    let (limits, host, job) = (Arc::<Limits>::default(), Host::shared_by_tests(), JobId::random());
    let (streams, gates) = plan.open(&limits, host);
    let wiring = plan.wire(&streams, &Layout::alone(plan.tasks.len()), None);
    let directory = ServiceDirectory::new(job, gates, host.clone(), limits.call_deadline);
    for task in plan.tasks.into_iter().filter(|task| is_here(task.instance)) {
        let context = TaskContext {
            job,
            instance: task.instance,
            parallelism: task.parallelism,
            origin: Caller::Task,
            directory: Arc::clone(&directory),
            host: host.clone(),
        };
        let counters = Arc::new(SharedCounters::new());
        let state = TaskState::new(context, task.operators, Arc::clone(&limits), counters, None, Arc::clone(&wiring));
        let state = Rc::new(state);
        let mut running = (task.recipe)(&state);
        let ends = |_: &usize| match running.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(ended) => ended.is_ok(),
            Poll::Pending => false,
        };
        assert!((0..10_000).find(ends).is_some(), "the task does not end");
    }
}

/// Lays out the three sources, into one list.
fn sources(calls: &Arc<AtomicUsize>, seen: &Arc<Mutex<Vec<String>>>) -> impl Fn(&mut Flow) + Send + 'static {
    let (calls, seen) = (Arc::clone(calls), Arc::clone(seen));
    move |flow| {
        let tell = |name: &'static str| {
            let seen = Arc::clone(&seen);
            move |n: u64| seen.lock().push(format!("{name} {n}"))
        };
        flow.from_batch(Numbers { calls: Arc::clone(&calls) }).uid("numbers").for_each(tell("numbers"));
        flow.from_batch(ParallelRange::new(0..7)).for_each(tell("range"));
        flow.from_batch(ParallelItems::new(vec![1, 1, 2, 3, 5])).for_each(tell("items"));
    }
}

fn sorted(seen: &Mutex<Vec<String>>) -> Vec<String> {
    let mut seen = std::mem::take(&mut *seen.lock());
    seen.sort_unstable();
    seen
}

#[test]
fn a_plan_of_given_splits_equals_the_one_that_made_them_and_no_source_is_asked_again() {
    let (calls, seen) = (Arc::default(), Arc::default());
    let build = sources(&calls, &seen);
    let made = planned(build, None).expect("the flow is in order");
    let names: Vec<_> = made.splits.0.iter().map(|of| (of.source.as_str(), of.splits.len())).collect();
    assert_eq!(names, [("numbers", 2), ("from_batch", 3), ("from_batch-2", 3)]);

    // As they travel.
    let mut bytes = Vec::new();
    crate::codec::encode_into(&*made.splits, &mut bytes).expect("splits can be encoded");
    let travelled: Splits = crate::codec::decode(&bytes).expect("splits can be decoded");
    let given = planned(sources(&calls, &seen), Some(Arc::new(travelled))).expect("the splits are the flow's");
    assert_eq!((&given.graph, &given.splits), (&made.graph, &made.splits));
    assert_eq!(calls.load(Ordering::Relaxed), 1);

    run(made, |_| true);
    let of_made = sorted(&seen);
    assert_eq!(of_made.len(), 20 + 7 + 5);
    run(given, |_| true);
    assert_eq!(sorted(&seen), of_made);
}

#[test]
fn processes_that_each_run_some_instances_read_each_item_once_together() {
    let (calls, seen) = (Arc::default(), Arc::default());
    let splits = planned(sources(&calls, &seen), None).expect("the flow is in order").splits;
    for here in 0..PARALLELISM as u32 {
        let plan = planned(sources(&calls, &seen), Some(Arc::clone(&splits))).expect("the splits are the flow's");
        run(plan, |instance| instance == here);
    }
    let together = sorted(&seen);
    run(planned(sources(&calls, &seen), Some(splits)).expect("the splits are the flow's"), |_| true);
    assert_eq!(together, sorted(&seen));
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}

#[test]
fn splits_that_are_not_those_of_the_flow_are_refused_by_the_name_of_their_source() {
    let (calls, seen) = (Arc::default(), Arc::default());
    let good = planned(sources(&calls, &seen), None).expect("the flow is in order").splits;
    let refused = |change: &dyn Fn(&mut Splits)| {
        let mut splits = Splits::clone(&good);
        change(&mut splits);
        let plan = planned(sources(&calls, &seen), Some(Arc::new(splits)));
        plan.err().expect("the flow is refused")
    };
    let missing = |name: &str| BuildRefusal::SplitsMissing { source_name: name.to_owned() };
    assert_eq!(refused(&|splits| drop(splits.0.pop())), missing("from_batch-2"));
    assert_eq!(refused(&|splits| splits.0.clear()), missing("numbers"));
    assert_eq!(refused(&|splits| splits.0[1].source = "other".to_owned()), missing("from_batch"));
    let surplus = |splits: &mut Splits| splits.0.push(SourceSplits { source: "more".to_owned(), splits: Vec::new() });
    assert_eq!(refused(&surplus), BuildRefusal::SplitsUnclaimed { source_name: "more".to_owned() });

    let unreadable = |change: &dyn Fn(&mut Splits)| match refused(change) {
        BuildRefusal::SplitsUnreadable { source_name, message } => (source_name, message),
        other => panic!("{other}"),
    };
    let foreign = EncodedSplit::of(&(3_u64, 1_u64)).expect("a pair can be encoded");
    let (name, message) = unreadable(&|splits| splits.0[2].splits[1] = foreign.clone());
    assert_eq!(name, "from_batch-2");
    assert!(message.contains("bytes"), "{message}");
    let broken = EncodedSplit::of(&(1_u64, Fragile(1))).expect("it can be encoded");
    let (name, message) = unreadable(&|splits| splits.0[0].splits[0] = broken.clone());
    assert_eq!(name, "numbers");
    assert!(message.contains("it broke"), "{message}");
    let (name, message) = unreadable(&|splits| {
        let of_range = splits.0[1].splits.clone();
        splits.0[1].splits.extend(of_range);
    });
    assert_eq!((name.as_str(), message.as_str()), ("from_batch", "split into 6 parts where 3 were asked for"));
}

#[test]
fn a_missing_file_and_a_split_that_cannot_be_encoded_refuse_the_flow_that_makes_splits() {
    let missing = planned(|flow| flow.from_batch(TextFile::lines("/no/such/file")).for_each(drop), None);
    let refusal = missing.err().expect("the flow is refused");
    assert!(matches!(&refusal, BuildRefusal::Source { source_name, .. } if source_name == "from_batch"), "{refusal}");

    #[derive(Clone, serde::Deserialize)]
    struct Sealed;
    impl Serialize for Sealed {
        fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(serde::ser::Error::custom("sealed"))
        }
    }
    let sealed = planned(|flow| flow.from_batch(ParallelItems::new(vec![Sealed])).for_each(drop), None);
    let message = "a split cannot be encoded: sealed".to_owned();
    let refusal = BuildRefusal::Source { source_name: "from_batch".to_owned(), message };
    assert_eq!(sealed.err(), Some(refusal));
}

struct Endless;

impl Source for Endless {
    type Item = u64;

    async fn next(&mut self, _: &TaskContext) -> Result<Next<u64>, TaskError> {
        Ok(Next::End)
    }
}

#[test]
fn a_plan_names_the_first_source_that_cannot_be_read_again() {
    let first = |build: fn(&mut Flow)| {
        let plan = planned(
            move |flow| {
                flow.from_batch(ParallelRange::new(0..3)).rebalance(2).for_each(drop);
                build(flow);
            },
            None,
        );
        plan.expect("the flow is in order").first_not_replayable
    };
    assert_eq!(first(|_| ()), None);
    assert_eq!(first(|flow| flow.from_batch(ParallelItems::new(vec![1])).for_each(drop)), None);
    assert_eq!(first(|flow| flow.from_batch(0..3).uid("numbers").for_each(drop)).as_deref(), Some("numbers"));
    let partitions = |flow: &mut Flow| flow.from_batch(partitioned(|part, _| part..part + 1)).for_each(drop);
    assert_eq!(first(partitions).as_deref(), Some("from_batch-2"));
    assert_eq!(first(|flow| flow.from_source(Endless).for_each(drop)).as_deref(), Some("from_source"));
    assert_eq!(first(|flow| flow.from_channel::<u64>("in").for_each(drop)).as_deref(), Some("from_channel"));
}
