//! Random job graphs as data, and the flows they stand for.

use proscenium::{
    BuildError, ErrorPolicy, Flow, Job, Next, ParallelRange, PipelineService, Source, Stream, TaskContext, TaskError,
};
use serde::{Deserialize, Serialize};
use std::time::Duration;

use super::helper::{Changed, Double, Helper};

/// The parallelism of splittable sources; small, so that graphs stay readable.
pub const JOB_PARALLELISM: usize = 3;

/// The name of the output that the whole graph ends in.
pub const ROOT: &str = "root";

/// A stream: where its items come from and what is done with them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Node {
    From(Origin),
    Then(Box<Node>, Step),
    Union(Box<Node>, Box<Node>),
    /// The left items as they are, the right ones changed.
    Connect(Box<Node>, Box<Node>),
    Join(Box<Node>, Box<Node>, Join),
    /// How many pairs there are: which depends on which items come first.
    Zip(Box<Node>, Box<Node>),
}

/// A join of two streams by their items' rest.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Join {
    pub how: JoinKind,
    pub keys: u64,
    pub parallelism: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum JoinKind {
    Inner,
    LeftOuter,
    FullOuter,
}

/// What the right side of a connection is changed to.
pub fn changed(item: u64) -> u64 {
    item.wrapping_mul(3).wrapping_add(1)
}

/// A pair of a join as one number: the same for the flow and the evaluator.
pub fn pair(left: Option<u64>, right: Option<u64>) -> u64 {
    left.unwrap_or(7).wrapping_mul(31).wrapping_add(right.unwrap_or(11))
}

/// A source of `count` items, `first` and those that follow it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Origin {
    pub kind: OriginKind,
    pub first: u64,
    pub count: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OriginKind {
    /// An iterator: one instance.
    Iterator,
    /// Split over the job's parallelism.
    Splittable,
    /// A source that never ends, cut off behind `count` items; sometimes it has nothing yet.
    Endless,
}

/// What is done with a stream.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Step {
    Map {
        times: u64,
        plus: u64,
    },
    /// Keeps what is not a multiple of `of`, so nothing at all for 1.
    DropMultiples {
        of: u64,
    },
    /// Each item `copies` times, numbered.
    FlatMap {
        copies: u64,
    },
    /// Any `count` items, and as it is not said which, only their number is kept.
    Take {
        count: usize,
    },
    Rebalance {
        parallelism: usize,
    },
    Broadcast {
        parallelism: usize,
    },
    Gather,
    Keyed {
        how: Keyed,
        keys: u64,
        parallelism: usize,
    },
    Whole(Whole),
    /// Every item asks a service, or yields once if the job has none.
    Call {
        service: usize,
        limit: usize,
        order: Order,
    },
    /// Items of which `is_bad` is true fail.
    Fail {
        rest: u64,
        how: Fault,
        policy: Policy,
    },
    /// Both ways for every item, and the results in one stream again.
    Diamond(Vec<Step>, Vec<Step>),
    /// Multiples of a number one way, the others another, and the results in one stream again.
    Split(u64, Vec<Step>, Vec<Step>),
    /// A copy of the stream ends in an output of its own.
    Branch(Vec<Step>),
    /// Every item goes round a loop as often as it says, by way of the body.
    Loop(Round),
    /// Each item with what it is changed to, which came there another way.
    ZipChanged {
        parallelism: usize,
    },
    /// Every item asks the pipeline.
    Ask {
        limit: usize,
    },
}

/// A loop, and how its items go round.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Round {
    /// One more than the most trips of an item.
    pub trips: u64,
    pub body: Body,
    pub parallelism: usize,
}

/// What is on the way round: each leaves the items as they are, in any order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    Nothing,
    Rebalance,
    ByKey,
    Call,
    Timers,
    /// Two ways, one of which is longer.
    Split,
    /// A loop in the loop, in which an item goes round once on each trip.
    Nested,
}

/// How often an item goes round.
pub fn trips(item: u64, most: u64) -> u64 {
    item % most
}

/// What a trip makes of an item.
pub fn tripped(item: u64) -> u64 {
    item.wrapping_mul(5).wrapping_add(3)
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub enum Keyed {
    Count,
    Fold,
    Reduce,
    Number,
    Values,
    /// Each item comes out when a timer of its key fires.
    Timers,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub enum Whole {
    Count,
    Fold,
    FoldAssoc,
    Reduce,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub enum Order {
    Kept,
    AsDone,
    /// `filter_async`, which here lets everything pass.
    Filter,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub enum Fault {
    Error,
    Panic,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Policy {
    Fail,
    Skip,
}

/// What a copy of the sources' items goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// Nothing: operators can end their sources.
    Nothing,
    /// The first source's items go to the streamed output [`TICKS`], which holds the job back unless it is read.
    Ticks,
    /// As `Ticks`, and those of the other sources are collected.
    Everything,
}

/// The name of the streamed output of the first source's items.
pub const TICKS: &str = "ticks";

/// A random job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RandomJob {
    pub root: Node,
    pub services: usize,
    pub record: Record,
}

pub fn service_name(index: usize) -> String {
    format!("helper-{index}")
}

pub fn record_name(source: usize) -> String {
    if source == 0 { TICKS.to_owned() } else { format!("emitted-{source}") }
}

/// The pipeline that is a service, in graphs that ask it.
pub const PIPELINE: &str = "pipeline";

/// Whether the graph asks the pipeline.
pub fn asks(node: &Node) -> bool {
    match node {
        Node::From(_) => false,
        Node::Then(before, step) => asks(before) || any_asks(std::slice::from_ref(step)),
        Node::Union(left, right) | Node::Connect(left, right) | Node::Join(left, right, _) | Node::Zip(left, right) => {
            asks(left) || asks(right)
        }
    }
}

fn any_asks(steps: &[Step]) -> bool {
    steps.iter().any(|step| match step {
        Step::Ask { .. } => true,
        Step::Diamond(first, second) | Step::Split(_, first, second) => any_asks(first) || any_asks(second),
        Step::Branch(steps) => any_asks(steps),
        _ => false,
    })
}

pub fn branch_name(branch: usize) -> String {
    format!("branch-{branch}")
}

/// Which items a [`Step::Fail`] fails on.
pub fn is_bad(item: u64, rest: u64) -> bool {
    item % 97 == rest
}

impl Job for RandomJob {
    const NAME: &'static str = "random";

    fn build(&self, flow: &mut Flow) -> Result<(), BuildError> {
        for index in 0..self.services {
            flow.register_service(&service_name(index), Helper::default);
        }
        if asks(&self.root) {
            flow.pipeline_service(PIPELINE, |requests| requests.rebalance(2).map(|Changed(item)| changed(item)));
        }
        let mut builder =
            Builder { flow, services: self.services, record: self.record, sources: 0, branches: 0, loops: 0 };
        builder.node(&self.root).collect(ROOT);
        Ok(())
    }
}

/// Sources and branches are numbered in the order in which the evaluator meets them too.
struct Builder<'a> {
    flow: &'a mut Flow,
    services: usize,
    record: Record,
    sources: usize,
    branches: usize,
    loops: usize,
}

impl Builder<'_> {
    fn node(&mut self, node: &Node) -> Stream<u64> {
        match node {
            Node::From(origin) => self.origin(origin),
            Node::Then(before, step) => {
                let stream = self.node(before);
                self.step(stream, step)
            }
            Node::Union(left, right) => {
                let left = self.node(left);
                let right = self.node(right);
                left.union(right)
            }
            Node::Connect(left, right) => {
                let left = self.node(left);
                let right = self.node(right);
                // Two that were dealt out by key, to unequal numbers of instances, are refused.
                let parallelism = right.parallelism();
                left.connect(right.rebalance(parallelism)).co_map((), |(), item| item, |(), item| changed(item))
            }
            Node::Zip(left, right) => {
                let left = self.node(left).gather();
                let right = self.node(right).gather();
                left.zip(right).map(|_| 1)
            }
            Node::Join(left, right, Join { how, keys, parallelism }) => {
                let (how, keys, parallelism) = (*how, *keys, *parallelism);
                let left = self.node(left).key_by(move |item| item % keys).parallelism(parallelism);
                let right = self.node(right).key_by(move |item| item % keys).parallelism(parallelism);
                match how {
                    JoinKind::Inner => left.join(right).map(|(_, (a, b))| pair(Some(a), Some(b))),
                    JoinKind::LeftOuter => left.left_outer_join(right).map(|(_, (a, b))| pair(Some(a), b)),
                    JoinKind::FullOuter => left.full_outer_join(right).map(|(_, (a, b))| pair(a, b)),
                }
            }
        }
    }

    fn origin(&mut self, origin: &Origin) -> Stream<u64> {
        let items = origin.first..origin.first + origin.count;
        let stream = match origin.kind {
            OriginKind::Iterator => self.flow.from_batch(items),
            OriginKind::Splittable => self.flow.from_batch(ParallelRange::new(items)),
            OriginKind::Endless => {
                let count = usize::try_from(origin.count).expect("sources of these tests are small");
                self.flow.from_source(Endless { next: origin.first, calls: 0 }).take(count)
            }
        };
        let source = self.sources;
        self.sources += 1;
        let (records, streams) = match self.record {
            Record::Nothing => (false, false),
            Record::Ticks => (source == 0, true),
            Record::Everything => (true, source == 0),
        };
        if !records {
            return stream;
        }
        let (stream, copy) = stream.tee();
        if streams {
            copy.stream_out(&record_name(source))
        } else {
            copy.collect(&record_name(source))
        }
        stream
    }

    fn steps(&mut self, stream: Stream<u64>, steps: &[Step]) -> Stream<u64> {
        steps.iter().fold(stream, |stream, step| self.step(stream, step))
    }

    fn step(&mut self, stream: Stream<u64>, step: &Step) -> Stream<u64> {
        match *step {
            Step::Map { times, plus } => stream.map(move |item| item.wrapping_mul(times).wrapping_add(plus)),
            Step::DropMultiples { of } => stream.filter(move |item| item % of != 0),
            Step::FlatMap { copies } => stream.flat_map(move |item| (0..copies).map(move |i| item.wrapping_add(i))),
            Step::Take { count } => stream.take(count).map(|_| 1),
            Step::Rebalance { parallelism } => stream.rebalance(parallelism),
            Step::Broadcast { parallelism } => stream.broadcast(parallelism),
            Step::Gather => stream.gather(),
            Step::Keyed { how, keys, parallelism } => keyed(stream, how, keys, parallelism),
            Step::Whole(whole) => match whole {
                Whole::Count => stream.count(),
                Whole::Fold => stream.fold(0, |sum: &mut u64, item| *sum = sum.wrapping_add(item)),
                Whole::FoldAssoc => stream.fold_assoc(
                    0,
                    |sum: &mut u64, item| *sum = sum.wrapping_add(item),
                    |sum, more| *sum = sum.wrapping_add(more),
                ),
                Whole::Reduce => stream.reduce(|max, item| *max = item.max(*max)),
            },
            Step::Call { service, limit, order } => self.call(stream, service, limit, order),
            Step::Fail { rest, how, policy } => {
                let policy = if policy == Policy::Fail { ErrorPolicy::Fail } else { ErrorPolicy::Skip };
                stream.try_map(move |item| fail(item, rest, how)).on_error(policy)
            }
            Step::Diamond(ref first, ref second) => {
                let (left, right) = stream.tee();
                let left = self.steps(left, first);
                let right = self.steps(right, second);
                left.union(right)
            }
            Step::Split(of, ref first, ref second) => {
                let (left, right) = stream.split(move |item| item % of == 0);
                let left = self.steps(left, first);
                let right = self.steps(right, second);
                left.union(right)
            }
            Step::Branch(ref steps) => {
                let (stream, copy) = stream.tee();
                let name = branch_name(self.branches);
                self.branches += 1;
                self.steps(copy, steps).collect(&name);
                stream
            }
            Step::Loop(round) => {
                self.loops += 1;
                round.turn(stream, &format!("loop-{}", self.loops))
            }
            Step::ZipChanged { parallelism } => {
                // From one instance both copies are dealt out alike.
                let (left, right) = stream.gather().tee();
                let right = right.map(changed).rebalance(parallelism);
                left.rebalance(parallelism).zip(right).map(|(left, right)| pair(Some(left), Some(right)))
            }
            Step::Ask { limit } => stream.map_async_unordered(limit, async |ctx: &TaskContext, item| {
                let pipeline = ctx.service::<PipelineService<Changed>>(PIPELINE)?;
                Ok(pipeline.call(Changed(item)).deadline(Duration::from_secs(60)).await??)
            }),
        }
    }

    fn call(&self, stream: Stream<u64>, service: usize, limit: usize, order: Order) -> Stream<u64> {
        let name = (self.services > 0).then(|| service_name(service % self.services));
        let ask = async move |ctx: &TaskContext, item: u64| {
            let Some(name) = &name else {
                futures::future::ready(()).await;
                return Ok(item.wrapping_mul(2));
            };
            Ok(ctx.service::<Helper>(name)?.call(Double(item)).deadline(Duration::from_secs(60)).await?)
        };
        match order {
            Order::Kept => stream.map_async(limit, ask),
            Order::AsDone => stream.map_async_unordered(limit, ask),
            Order::Filter => stream.filter_async(limit, async move |ctx: &TaskContext, item: &u64| {
                Ok(ask(ctx, *item).await? == item.wrapping_mul(2))
            }),
        }
    }
}

fn fail(item: u64, rest: u64, how: Fault) -> Result<u64, TaskError> {
    match how {
        _ if !is_bad(item, rest) => Ok(item),
        Fault::Error => Err(TaskError::new("planned: this item is bad")),
        Fault::Panic => panic!("planned: this item is bad"),
    }
}

/// A keyed result as one number: the same for the flow and the evaluator.
pub fn entry(key: u64, value: u64) -> u64 {
    key.wrapping_mul(1_000_003).wrapping_add(value)
}

fn keyed(stream: Stream<u64>, how: Keyed, keys: u64, parallelism: usize) -> Stream<u64> {
    let keyed = stream.key_by(move |item| item % keys).parallelism(parallelism);
    match how {
        Keyed::Count => keyed.count().map(|(key, count)| entry(key, count)),
        Keyed::Fold => {
            keyed.fold(0, |sum: &mut u64, item| *sum = sum.wrapping_add(item)).map(|(key, sum)| entry(key, sum))
        }
        Keyed::Reduce => keyed.reduce(|max, item| *max = item.max(*max)).map(|(key, max)| entry(key, max)),
        Keyed::Number => keyed.map_with_state(0, |key, number: &mut u64, _| {
            *number += 1;
            entry(*key, *number)
        }),
        Keyed::Values => keyed.values(),
        Keyed::Timers => {
            let process = keyed.process(|ctx, _, item, waiting: &mut Vec<u64>| {
                waiting.push(item);
                ctx.fire_after(Duration::from_micros(item % 50));
                Ok(())
            });
            process
                .on_timer(|ctx, _, _, waiting| {
                    waiting.drain(..).for_each(|item| ctx.emit(item));
                    Ok(())
                })
                .stream()
        }
    }
}

/// Counts up for ever, in all the ways a source can answer.
struct Endless {
    next: u64,
    calls: u64,
}

impl Source for Endless {
    type Item = u64;

    async fn next(&mut self, _ctx: &TaskContext) -> Result<Next<u64>, TaskError> {
        self.calls += 1;
        let first = self.next;
        Ok(match self.calls % 64 {
            0 => Next::Later(Duration::from_micros(10)),
            7 => Next::Items(Vec::new()),
            of if of % 3 == 0 => {
                self.next += 5;
                Next::Items((first..self.next).collect())
            }
            _ => {
                self.next += 1;
                Next::Item(first)
            }
        })
    }
}
