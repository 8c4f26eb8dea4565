//! Streams of items and the operators on them.

use std::{cell::RefCell, fmt, fmt::Display, marker::PhantomData, ops::AddAssign, rc::Rc, sync::Arc};

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    flow::{
        aggregate::{Fold, FoldAll, Folding, Reduce},
        asynchronous::{Asynchronous, Order},
        chain::{BoxStage, Meter, StageFactory},
        channel::Gate,
        context::TaskContext,
        error::TaskError,
        exchange::{ExchangeStage, GateHead, InTurn, OutLane, Route, Single, ToAll, Weigh},
        graph::{Blueprint, BuildRefusal, PARALLELISM_MAX},
        keyed::KeyedStream,
        new_chain,
        operator::{Expand, Filter, Inspect, Map, Take, Tee},
        sink::{ForEach, OutputStage, Sink, SinkStage},
        text::LineSink,
    },
    job::ErrorPolicy,
    port::{OutputKind, OutputStore},
    schema::TypeDescription,
};

/// A stream of items between two operators of a flow being laid out.
///
/// It is consumed once; [`tee`](Self::tee) makes two of it. One that nothing consumes refuses the flow.
///
/// Unless its documentation says otherwise, an operator runs in as many parallel instances as the one before it, keeps
/// the order of its items within each instance, keeps no state, and passes results on batch by batch as they are made.
/// Closures are cloned for each instance, and what they capture by value is that instance's own. User code runs on a
/// thread that other tasks share: it should not block.
#[must_use = "a stream that nothing consumes refuses the flow"]
pub struct Stream<T> {
    blueprint: Rc<RefCell<Blueprint>>,
    id: u64,
    chain: usize,
    operator: usize,
    weigh: Option<Weigh<T>>,
    attach: Box<dyn FnOnce(StageFactory<T>)>,
    items: PhantomData<fn() -> T>,
}

impl<T> fmt::Debug for Stream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("chain", &self.chain).field("operator", &self.operator).finish_non_exhaustive()
    }
}

/// How the stages of an operator are made: for each instance a maker, which then runs in the instance's task.
type MakeStage<T, U> = Box<dyn FnOnce(Meter, BoxStage<U>) -> BoxStage<T> + Send>;
type MakeEnd<T> = Box<dyn FnOnce(Meter) -> BoxStage<T> + Send>;

impl<T: Send + 'static> Stream<T> {
    pub(crate) fn begin(
        blueprint: &Rc<RefCell<Blueprint>>,
        chain: usize,
        attach: Box<dyn FnOnce(StageFactory<T>)>,
    ) -> Self {
        let mut shared = blueprint.borrow_mut();
        let id = shared.next_stream;
        shared.next_stream += 1;
        let operator = shared.chains[chain].operators.len().saturating_sub(1);
        shared.open.insert(id, (chain, operator));
        drop(shared);
        Self { blueprint: Rc::clone(blueprint), id, chain, operator, weigh: None, attach, items: PhantomData }
    }

    pub(crate) fn blueprint(&self) -> &Rc<RefCell<Blueprint>> {
        &self.blueprint
    }

    /// How many parallel instances the operator behind this stream has.
    #[must_use]
    pub fn parallelism(&self) -> usize {
        self.blueprint.borrow().chains[self.chain].parallelism
    }

    fn add_operator(&self, kind: &'static str) -> usize {
        let mut blueprint = self.blueprint.borrow_mut();
        blueprint.open.remove(&self.id);
        blueprint.add_operator(self.chain, kind)
    }

    /// Appends an operator to the chain.
    pub(crate) fn then<U: Send + 'static>(
        self,
        kind: &'static str,
        make: impl Fn(usize) -> MakeStage<T, U> + 'static,
    ) -> Stream<U> {
        let operator = self.add_operator(kind);
        let attach = self.attach;
        let attach = Box::new(move |next: StageFactory<U>| {
            attach(Box::new(move |instance| {
                let (make, next) = (make(instance), next(instance));
                Box::new(move |task| make(Meter::new(task, operator), next(task)))
            }));
        });
        Stream::begin(&self.blueprint, self.chain, attach)
    }

    /// Ends the chain.
    pub(crate) fn end(self, kind: &'static str, make: impl Fn(usize) -> MakeEnd<T> + 'static) {
        let operator = self.add_operator(kind);
        (self.attach)(Box::new(move |instance| {
            let make = make(instance);
            Box::new(move |task| make(Meter::new(task, operator)))
        }));
    }

    /// Names the operator behind this stream, in statuses and errors and across versions of the job.
    ///
    /// Without it an operator is named by its kind, numbered in order of appearance.
    pub fn uid(self, uid: &str) -> Self {
        self.blueprint.borrow_mut().chains[self.chain].operators[self.operator].uid = Some(uid.to_owned());
        self
    }

    /// What the operator behind this stream does with an item its user code cannot process. By default what the job's
    /// policy says.
    ///
    /// Under *skip* each item is guarded on its own, which costs some speed. It has no effect on `fold` and its kin: an
    /// item that is half-added cannot be taken out again.
    pub fn on_error(self, policy: ErrorPolicy) -> Self {
        self.blueprint.borrow_mut().chains[self.chain].operators[self.operator].policy = Some(policy);
        self
    }

    /// Counts each item as `weight(item)` bytes against the limit of the next exchange's channels, instead of its own
    /// size. For items that own memory elsewhere, such as long strings.
    pub fn weigh(mut self, weight: impl Fn(&T) -> usize + Send + Sync + 'static) -> Self {
        self.weigh = Some(Arc::new(weight));
        self
    }

    /// Each item made into another.
    pub fn map<U, F>(self, f: F) -> Stream<U>
    where
        U: Send + 'static,
        F: FnMut(T) -> U + Clone + Send + 'static,
    {
        self.then("map", move |_| {
            let f = f.clone();
            Box::new(move |meter, next| Box::new(Map::new(meter, f, next)))
        })
    }

    /// Each item made into another, by a closure that may fail.
    pub fn try_map<U, F>(self, f: F) -> Stream<U>
    where
        U: Send + 'static,
        F: FnMut(T) -> Result<U, TaskError> + Clone + Send + 'static,
    {
        self.expand("try_map", move || {
            let mut f = f.clone();
            move |item, out: &mut Vec<U>| {
                out.push(f(item)?);
                Ok(())
            }
        })
    }

    /// The items that `f` says yes to.
    pub fn filter<F>(self, f: F) -> Stream<T>
    where
        F: FnMut(&T) -> bool + Clone + Send + 'static,
    {
        self.then("filter", move |_| {
            let mut f = f.clone();
            Box::new(move |meter, next| Box::new(Filter::new(meter, move |item: &T| Ok(f(item)), next)))
        })
    }

    /// The items that `f` says yes to; it may fail.
    pub fn try_filter<F>(self, f: F) -> Stream<T>
    where
        F: FnMut(&T) -> Result<bool, TaskError> + Clone + Send + 'static,
    {
        self.then("try_filter", move |_| {
            let f = f.clone();
            Box::new(move |meter, next| Box::new(Filter::new(meter, f, next)))
        })
    }

    /// Each item made into another or dropped.
    pub fn filter_map<U, F>(self, f: F) -> Stream<U>
    where
        U: Send + 'static,
        F: FnMut(T) -> Option<U> + Clone + Send + 'static,
    {
        self.expand("filter_map", move || {
            let mut f = f.clone();
            move |item, out: &mut Vec<U>| {
                out.extend(f(item));
                Ok(())
            }
        })
    }

    /// Each item made into any number of others, in order. The results of one item are made at once, in memory; what
    /// `f` returns cannot borrow from the item: see [`flat_map_into`](Self::flat_map_into).
    pub fn flat_map<I, F>(self, f: F) -> Stream<I::Item>
    where
        I: IntoIterator<Item: Send + 'static>,
        F: FnMut(T) -> I + Clone + Send + 'static,
    {
        self.expand("flat_map", move || {
            let mut f = f.clone();
            move |item, out: &mut Vec<I::Item>| {
                out.extend(f(item));
                Ok(())
            }
        })
    }

    /// Each item made into any number of others, which `f` pushes into a buffer. For results that are made by
    /// borrowing from the item.
    pub fn flat_map_into<U, F>(self, f: F) -> Stream<U>
    where
        U: Send + 'static,
        F: FnMut(T, &mut Vec<U>) + Clone + Send + 'static,
    {
        self.expand("flat_map_into", move || {
            let mut f = f.clone();
            move |item, out: &mut Vec<U>| {
                f(item, out);
                Ok(())
            }
        })
    }

    fn expand<U, F>(self, kind: &'static str, make: impl Fn() -> F + 'static) -> Stream<U>
    where
        U: Send + 'static,
        F: FnMut(T, &mut Vec<U>) -> Result<(), TaskError> + Send + 'static,
    {
        self.then(kind, move |_| {
            let f = make();
            Box::new(move |meter, next| Box::new(Expand::new(meter, f, next)))
        })
    }

    /// Shows every item to a closure and passes it on.
    pub fn inspect<F>(self, f: F) -> Stream<T>
    where
        F: FnMut(&T) + Clone + Send + 'static,
    {
        self.then("inspect", move |_| {
            let f = f.clone();
            Box::new(move |meter, next| Box::new(Inspect::new(meter, f, next)))
        })
    }

    /// The first `count` items, upon which it ends its upstream. Ends also an unbounded source, as *completed*.
    ///
    /// Behind parallel instances it takes any `count` items, and has one instance itself.
    pub fn take(self, count: usize) -> Stream<T>
    where
        T: Serialize + DeserializeOwned,
    {
        let first = |stream: Self| {
            stream.then("take", move |_| {
                Box::new(move |meter, next| Box::new(Take::new(meter, count, next)) as BoxStage<T>)
            })
        };
        if self.parallelism() == 1 {
            return first(self);
        }
        first(first(self).gather())
    }

    /// Both streams' items in one stream. Each stream keeps its order; how they interleave is not defined.
    ///
    /// Ends when both have ended. Streams of unequal parallelism, or of different flows, refuse the flow.
    pub fn union(self, other: Stream<T>) -> Stream<T> {
        let (left, right) = (self.parallelism(), other.parallelism());
        let shared = Rc::clone(&self.blueprint);
        if !Rc::ptr_eq(&shared, &other.blueprint) {
            shared.borrow_mut().refuse(BuildRefusal::ForeignStream { operator: "union".to_owned() });
        } else if left != right {
            let operator = "union".to_owned();
            shared.borrow_mut().refuse(BuildRefusal::UnequalParallelism { operator, left, right });
        }
        let mut merge = Exchange::<T>::begin(&shared, left);
        merge.add(self, "union", Pairing::OneToOne, |_, _| Single);
        merge.add(other, "union", Pairing::OneToOne, |_, _| Single);
        merge.finish()
    }

    /// Two streams that both have every item.
    pub fn tee(self) -> (Stream<T>, Stream<T>)
    where
        T: Clone,
    {
        let operator = self.add_operator("tee");
        let (attach, chain) = (self.attach, self.chain);
        let join = Rc::new(RefCell::new(TeeJoin { first: None, attach: Some(attach) }));
        let branch = |join: Rc<RefCell<TeeJoin<T>>>| {
            let attach = Box::new(move |next: StageFactory<T>| {
                let mut waiting = join.borrow_mut();
                let Some(other) = waiting.first.take() else {
                    waiting.first = Some(next);
                    return;
                };
                let Some(attach) = waiting.attach.take() else { return };
                drop(waiting);
                attach(Box::new(move |instance| {
                    let (left, right) = (other(instance), next(instance));
                    Box::new(move |task| Box::new(Tee::new(Meter::new(task, operator), left(task), right(task))))
                }));
            });
            Stream::begin(&self.blueprint, chain, attach)
        };
        (branch(Rc::clone(&join)), branch(join))
    }

    /// Deals the items out to `parallelism` instances in turn, item by item. A parallelism of 0 refuses the flow.
    pub fn rebalance(self, parallelism: usize) -> Stream<T>
    where
        T: Serialize + DeserializeOwned,
    {
        let mut exchange = Exchange::begin(&self.blueprint, parallelism);
        exchange.add(self, "rebalance", Pairing::AllToAll, move |instance, lanes| InTurn(instance % lanes));
        exchange.finish()
    }

    /// Gives every one of `parallelism` instances all items. A parallelism of 0 refuses the flow.
    pub fn broadcast(self, parallelism: usize) -> Stream<T>
    where
        T: Clone + Serialize + DeserializeOwned,
    {
        let mut exchange = Exchange::begin(&self.blueprint, parallelism);
        exchange.add(self, "broadcast", Pairing::AllToAll, |_, _| ToAll);
        exchange.finish()
    }

    /// Brings all items to one instance.
    pub fn gather(self) -> Stream<T>
    where
        T: Serialize + DeserializeOwned,
    {
        let mut exchange = Exchange::begin(&self.blueprint, 1);
        exchange.add(self, "gather", Pairing::AllToAll, |_, _| Single);
        exchange.finish()
    }

    /// Gives each item a key. What follows brings equal keys to one instance.
    pub fn key_by<K, F>(self, key: F) -> KeyedStream<K, T>
    where
        K: Send + 'static,
        F: FnMut(&T) -> K + Clone + Send + 'static,
    {
        let parallelism = self.blueprint.borrow().options.parallelism;
        let keyed = self.then("key_by", move |_| {
            let mut key = key.clone();
            let f = move |item: T| (key(&item), item);
            Box::new(move |meter, next| Box::new(Map::new(meter, f, next)) as BoxStage<T>)
        });
        KeyedStream::new(keyed, parallelism)
    }

    /// Folds all items, in one instance, into one result that comes out at the end of the input; `init` if there was
    /// none. Parallel instances are gathered first, in no particular order. See [`fold_assoc`](Self::fold_assoc).
    pub fn fold<A, F>(self, init: A, f: F) -> Stream<A>
    where
        T: Serialize + DeserializeOwned,
        A: Clone + Send + 'static,
        F: FnMut(&mut A, T) + Clone + Send + 'static,
    {
        let single = if self.parallelism() == 1 { self } else { self.gather() };
        single.fold_each("fold", Fold(init, f))
    }

    /// Folds the items of each instance in parallel, then combines the results, at the end of the input, into one.
    ///
    /// `init` is the start value of each instance and of the combination, so it must be neutral to `combine`.
    pub fn fold_assoc<A, F, C>(self, init: A, f: F, combine: C) -> Stream<A>
    where
        A: Clone + Serialize + DeserializeOwned + Send + 'static,
        F: FnMut(&mut A, T) + Clone + Send + 'static,
        C: FnMut(&mut A, A) + Clone + Send + 'static,
    {
        self.fold_assoc_as("fold_assoc", init, f, combine)
    }

    fn fold_assoc_as<A, F, C>(self, kind: &'static str, init: A, f: F, combine: C) -> Stream<A>
    where
        A: Clone + Serialize + DeserializeOwned + Send + 'static,
        F: FnMut(&mut A, T) + Clone + Send + 'static,
        C: FnMut(&mut A, A) + Clone + Send + 'static,
    {
        let partial = self.fold_each(kind, Fold(init.clone(), f));
        if partial.parallelism() == 1 { partial } else { partial.gather().fold_each("combine", Fold(init, combine)) }
    }

    /// Combines all items into one that comes out at the end of the input; nothing comes out if there was none. Runs
    /// in parallel, so `combine` must be associative and, behind parallel instances, commutative.
    pub fn reduce<F>(self, combine: F) -> Stream<T>
    where
        T: Serialize + DeserializeOwned,
        F: FnMut(&mut T, T) + Clone + Send + 'static,
    {
        let partial = self.fold_each("reduce", Reduce(combine.clone()));
        if partial.parallelism() == 1 { partial } else { partial.gather().fold_each("combine", Reduce(combine)) }
    }

    /// The number of items, at the end of the input. Runs in parallel.
    pub fn count(self) -> Stream<u64> {
        self.fold_assoc_as("count", 0, |count: &mut u64, _| *count += 1, |count, more| *count += more)
    }

    /// The sum of the items, at the end of the input; `T::default()` if there was none. Runs in parallel. Overflow
    /// does what `+=` of `T` does.
    pub fn sum(self) -> Stream<T>
    where
        T: AddAssign + Default + Clone + Serialize + DeserializeOwned,
    {
        self.fold_assoc_as("sum", T::default(), |sum: &mut T, item| *sum += item, |sum, item| *sum += item)
    }

    fn fold_each<D>(self, kind: &'static str, folding: D) -> Stream<D::Acc>
    where
        D: Folding<T> + Clone + Send,
        D::Acc: Send,
    {
        self.then(kind, move |_| {
            let folding = folding.clone();
            Box::new(move |meter, next| Box::new(FoldAll::new(meter, folding, next)))
        })
    }

    /// Each item made into another by an asynchronous closure, at most `limit` at a time in each instance, results in
    /// the order of the items. A `limit` of 0 refuses the flow.
    ///
    /// The closure's futures run on the task's thread and need not be `Send`.
    pub fn map_async<U, F>(self, limit: usize, f: F) -> Stream<U>
    where
        U: Send + 'static,
        F: AsyncFn(&TaskContext, T) -> Result<U, TaskError> + Clone + Send + 'static,
    {
        self.map_async_in(Order::Kept, "map_async", limit, f)
    }

    /// Like [`map_async`](Self::map_async), with results in the order in which they are done.
    pub fn map_async_unordered<U, F>(self, limit: usize, f: F) -> Stream<U>
    where
        U: Send + 'static,
        F: AsyncFn(&TaskContext, T) -> Result<U, TaskError> + Clone + Send + 'static,
    {
        self.map_async_in(Order::AsDone, "map_async_unordered", limit, f)
    }

    fn map_async_in<U, F>(self, order: Order, kind: &'static str, limit: usize, f: F) -> Stream<U>
    where
        U: Send + 'static,
        F: AsyncFn(&TaskContext, T) -> Result<U, TaskError> + Clone + Send + 'static,
    {
        self.check_concurrency(kind, limit);
        self.then(kind, move |_| {
            let f = f.clone();
            Box::new(move |meter, next| {
                let (f, context) = (Rc::new(f), Rc::clone(&meter.task.context));
                let call = move |item: T| {
                    let (f, context) = (Rc::clone(&f), Rc::clone(&context));
                    async move { f(&context, item).await.map(Some) }
                };
                Box::new(Asynchronous::new(meter, limit, order, call, next))
            })
        })
    }

    /// The items that an asynchronous closure says yes to, in order, at most `limit` closures at a time in each
    /// instance. A `limit` of 0 refuses the flow.
    pub fn filter_async<F>(self, limit: usize, f: F) -> Stream<T>
    where
        F: AsyncFn(&TaskContext, &T) -> Result<bool, TaskError> + Clone + Send + 'static,
    {
        self.check_concurrency("filter_async", limit);
        self.then("filter_async", move |_| {
            let f = f.clone();
            Box::new(move |meter, next| {
                let (f, context) = (Rc::new(f), Rc::clone(&meter.task.context));
                let call = move |item: T| {
                    let (f, context) = (Rc::clone(&f), Rc::clone(&context));
                    async move { Ok(f(&context, &item).await?.then_some(item)) }
                };
                Box::new(Asynchronous::new(meter, limit, Order::Kept, call, next))
            })
        })
    }

    /// Gives every item to an asynchronous closure, at most `limit` at a time in each instance, started in order. A
    /// `limit` of 0 refuses the flow.
    pub fn for_each_async<F>(self, limit: usize, f: F)
    where
        F: AsyncFn(&TaskContext, T) -> Result<(), TaskError> + Clone + Send + 'static,
    {
        self.check_concurrency("for_each_async", limit);
        let done = self.then("for_each_async", move |_| {
            let f = f.clone();
            Box::new(move |meter, next: BoxStage<()>| {
                let (f, context) = (Rc::new(f), Rc::clone(&meter.task.context));
                let call = move |item: T| {
                    let (f, context) = (Rc::clone(&f), Rc::clone(&context));
                    async move { f(&context, item).await.map(|()| None) }
                };
                Box::new(Asynchronous::new(meter, limit, Order::Kept, call, next)) as BoxStage<T>
            })
        });
        done.end("end", |_| Box::new(|meter| Box::new(ForEach::new(meter, |()| Ok(())))));
    }

    fn check_concurrency(&self, operator: &str, limit: usize) {
        if limit == 0 {
            self.blueprint.borrow_mut().refuse(BuildRefusal::ZeroConcurrency { operator: operator.to_owned() });
        }
    }

    /// Gives every item to a closure.
    pub fn for_each<F>(self, f: F)
    where
        F: FnMut(T) + Clone + Send + 'static,
    {
        self.end("for_each", move |_| {
            let mut f = f.clone();
            let f = move |item| {
                f(item);
                Ok(())
            };
            Box::new(move |meter| Box::new(ForEach::new(meter, f)))
        });
    }

    /// Gives every item to a closure that may fail.
    pub fn try_for_each<F>(self, f: F)
    where
        F: FnMut(T) -> Result<(), TaskError> + Clone + Send + 'static,
    {
        self.end("try_for_each", move |_| {
            let f = f.clone();
            Box::new(move |meter| Box::new(ForEach::new(meter, f)))
        });
    }

    /// Writes the items to a [`Sink`]; `make` makes one for each instance, in its task.
    pub fn sink<S, F>(self, make: F)
    where
        S: Sink<Item = T>,
        F: FnOnce() -> S + Clone + Send + 'static,
    {
        self.end("sink", move |_| {
            let make = make.clone();
            Box::new(move |meter| {
                meter.enter();
                Box::new(SinkStage::new(meter, make()))
            })
        });
    }

    /// Writes each item as a line to standard output. Lines of parallel instances interleave.
    pub fn print(self)
    where
        T: Display,
    {
        self.end("print", |_| Box::new(|meter| Box::new(SinkStage::new(meter, LineSink::<T>::stdout()))));
    }

    /// Keeps the items as the job's output `name`, which can be read any number of times once all tasks have ended
    /// well, until the job is deleted. Held in memory up to `Limits::output_memory_bytes`, then on disk; beyond
    /// `Limits::output_bytes_max` encoded bytes the job fails.
    ///
    /// Order: that of each instance; instances interleave.
    pub fn collect(self, name: &str)
    where
        T: Serialize + DeserializeOwned,
    {
        self.output("collect", OutputKind::Collected, name);
    }

    /// Hands the items to the one reader of the job's output `name` as they come. At most `Limits::port_items` wait;
    /// then the job waits for the reader.
    pub fn stream_out(self, name: &str)
    where
        T: Serialize + DeserializeOwned,
    {
        self.output("stream_out", OutputKind::Streamed, name);
    }

    fn output(self, kind: &'static str, output: OutputKind, name: &str)
    where
        T: Serialize + DeserializeOwned,
    {
        let store = {
            let mut blueprint = self.blueprint.borrow_mut();
            if blueprint.outputs.iter().any(|(existing, _)| existing == name) {
                blueprint.refuse(BuildRefusal::DuplicateOutput { output: name.to_owned() });
            }
            let options = &blueprint.options;
            let description = TypeDescription::of::<T>();
            let store = OutputStore::new(name, output, description, &options.limits, options.blocking.clone());
            blueprint.outputs.push((name.to_owned(), Arc::clone(&store)));
            blueprint.chains[self.chain].outputs.push(name.to_owned());
            store
        };
        self.end(kind, move |_| {
            let store = Arc::clone(&store);
            Box::new(move |meter| Box::new(OutputStage::new(meter, store)))
        });
    }
}

/// A tee of which one branch is complete.
struct TeeJoin<T> {
    first: Option<StageFactory<T>>,
    attach: Option<Box<dyn FnOnce(StageFactory<T>)>>,
}

/// Which producers have a channel to which consumers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pairing {
    AllToAll,
    OneToOne,
}

/// An exchange in the making: a new chain, and the chains that feed it.
pub(crate) struct Exchange<T> {
    blueprint: Rc<RefCell<Blueprint>>,
    asked: usize,
    chain: usize,
    gates: Vec<Arc<Gate<T>>>,
    /// The channel of each lane, for each gate.
    channels: Vec<Vec<usize>>,
}

impl<T: Send + 'static> Exchange<T> {
    pub fn begin(blueprint: &Rc<RefCell<Blueprint>>, asked: usize) -> Self {
        let parallelism = asked.min(PARALLELISM_MAX);
        let mut shared = blueprint.borrow_mut();
        let chain = shared.add_chain(parallelism, false);
        let limits = shared.lane_limits();
        drop(shared);
        let gates = (0..parallelism).map(|_| Gate::new(limits)).collect();
        Self { blueprint: Rc::clone(blueprint), asked, chain, gates, channels: vec![Vec::new(); parallelism] }
    }

    /// Ends `stream` in this exchange.
    pub fn add<R: Route<T> + Send + 'static>(
        &mut self,
        mut stream: Stream<T>,
        kind: &'static str,
        pairing: Pairing,
        route: impl Fn(usize, usize) -> R + 'static,
    ) {
        let producers = stream.parallelism();
        let consumers = self.gates.len();
        let weigh = stream.weigh.take();
        let mut lanes: Vec<RefCell<Vec<OutLane<T>>>> = Vec::new();
        let mut blueprint = self.blueprint.borrow_mut();
        if self.asked != consumers {
            let (operator, asked) = (kind.to_owned(), self.asked);
            blueprint.refuse(BuildRefusal::TooParallel { operator, asked, limit: PARALLELISM_MAX });
        }
        if consumers == 0 {
            blueprint.refuse(BuildRefusal::ZeroParallelism { operator: kind.to_owned() });
        }
        for producer in 0..producers {
            let mut own = Vec::new();
            for (consumer, gate) in self.gates.iter().enumerate() {
                if pairing == Pairing::OneToOne && producer != consumer {
                    continue;
                }
                let channel = blueprint.channels.len();
                blueprint.channels.push(((stream.chain, producer), (self.chain, consumer)));
                self.channels[consumer].push(channel);
                own.push(OutLane::new(channel, gate.add_lane()));
            }
            lanes.push(RefCell::new(own));
        }
        drop(blueprint);
        stream.end(kind, move |instance| {
            let own = lanes.get(instance).map(|own| own.take()).unwrap_or_default();
            let (route, weigh) = (route(instance, own.len().max(1)), weigh.clone());
            Box::new(move |meter| ExchangeStage::boxed(meter, route, own, weigh))
        });
    }

    /// The stream on the other side.
    pub fn finish(self) -> Stream<T> {
        let (gates, channels) = (self.gates, self.channels);
        new_chain(&self.blueprint, self.chain, move |instance| {
            let (gate, channels) = (Arc::clone(&gates[instance]), channels[instance].clone());
            Box::new(move |task| Box::new(GateHead::new(task, gate, channels)))
        })
    }
}
