//! Streams of items and the operators on them.

mod aggregate;
mod asynchronous;
mod end;
mod shape;

use std::{cell::RefCell, fmt, marker::PhantomData, rc::Rc, sync::Arc};

pub(crate) use self::shape::{Exchange, Junction};
use crate::{
    dataplane::{
        chain::{BoxStage, Meter, StageFactory},
        error::TaskError,
        exchange::Weigh,
    },
    flow::{
        filter::Filter,
        graph::Blueprint,
        operator::{Expand, Inspect, Map},
    },
    job::{ErrorPolicy, Parallelism},
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
    /// Chain and number of the operator behind this stream.
    operator: (usize, usize),
    weigh: Option<Weigh<T>>,
    /// How many instances there are, as far as the flow says it.
    said: Parallelism,
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
        let shared = blueprint.borrow();
        let behind = &shared.chains[chain];
        let operator = match behind.operators.len() {
            // Right behind an exchange, whose operator is the last one of the chain in front.
            0 => behind.fed_by.unwrap_or_default(),
            operators => (chain, operators - 1),
        };
        drop(shared);
        Self::begin_behind(blueprint, chain, operator, attach)
    }

    /// As [`begin`](Self::begin), behind an operator that need not be the last one of the chain.
    fn begin_behind(
        blueprint: &Rc<RefCell<Blueprint>>,
        chain: usize,
        operator: (usize, usize),
        attach: Box<dyn FnOnce(StageFactory<T>)>,
    ) -> Self {
        let mut shared = blueprint.borrow_mut();
        let id = shared.next_stream;
        shared.next_stream += 1;
        shared.open.insert(id, operator);
        let said = shared.chains[chain].said;
        drop(shared);
        let blueprint = Rc::clone(blueprint);
        Self { blueprint, id, chain, operator, weigh: None, said, attach, items: PhantomData }
    }

    pub(crate) fn blueprint(&self) -> &Rc<RefCell<Blueprint>> {
        &self.blueprint
    }

    pub(crate) fn chain(&self) -> usize {
        self.chain
    }

    /// How many parallel instances the operator behind this stream has.
    #[must_use]
    pub fn parallelism(&self) -> usize {
        self.blueprint.borrow().chains[self.chain].parallelism
    }

    /// As [`parallelism`](Self::parallelism), as far as the flow says it.
    pub(crate) fn said(&self) -> Parallelism {
        self.said
    }

    /// As `said`, of a stream of the same chain that is known to have as many instances.
    fn saying(self, said: Parallelism) -> Self {
        Self { said, ..self }
    }

    /// Whether its items were dealt out to its instances by key, at every parallelism of the job.
    pub(crate) fn is_keyed(&self) -> bool {
        let chain = &self.blueprint.borrow().chains[self.chain];
        // Else it is what comes of instances that are gathered, if there is more than one.
        chain.keyed && chain.said == self.said
    }

    /// Whether each of its instances was given all items.
    pub(crate) fn is_copied(&self) -> bool {
        let chain = &self.blueprint.borrow().chains[self.chain];
        chain.copied && chain.said == self.said
    }

    /// What has one instance at every parallelism of the job, because parallel instances are brought together first.
    fn single(self, gather: impl FnOnce(Self) -> Self) -> Self {
        if self.parallelism() == 1 { self.saying(Parallelism::Fixed(1)) } else { gather(self) }
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
        let (said, attach) = (self.said, self.attach);
        let attach = Box::new(move |next: StageFactory<U>| {
            attach(Box::new(move |instance| {
                let (make, next) = (make(instance), next(instance));
                Box::new(move |task| make(Meter::new(task, operator), next(task)))
            }));
        });
        Stream::begin(&self.blueprint, self.chain, attach).saying(said)
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
        let (chain, operator) = self.operator;
        self.blueprint.borrow_mut().chains[chain].operators[operator].uid = Some(uid.to_owned());
        self
    }

    /// What the operator behind this stream does with an item its user code cannot process. By default what the job's
    /// policy says.
    ///
    /// Under *skip* each item is guarded on its own, which costs some speed. It has no effect on `fold` and its kin: an
    /// item that is half-added cannot be taken out again.
    pub fn on_error(self, policy: ErrorPolicy) -> Self {
        let (chain, operator) = self.operator;
        self.blueprint.borrow_mut().chains[chain].operators[operator].policy = Some(policy);
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
}
