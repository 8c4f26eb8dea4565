//! Operators that change how many streams or instances there are.

use std::{cell::RefCell, marker::PhantomData, rc::Rc};

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    dataplane::{
        chain::{BoxStage, Meter, StageFactory},
        edge::{Edge, EdgePlan, Feed, Pairing},
        exchange::{ExchangeStage, GateHead, InTurn, Route, Single, ToAll},
        wiring::EdgeId,
    },
    flow::{
        graph::{Blueprint, Origin, PARALLELISM_MAX},
        keyed::KeyedStream,
        new_chain,
        operator::{Either, Map, Split, Take, Tee},
        stream::Stream,
    },
    job::{BuildRefusal, Parallelism},
};

impl<T: Send + 'static> Stream<T> {
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
            return first(self.single(|single| single));
        }
        first(first(self).gather())
    }

    /// Both streams' items in one stream, which ends when both have ended. How the two interleave is not defined.
    /// Streams of different flows refuse the flow.
    ///
    /// The result has as many instances as the wider of the two streams.
    ///
    /// * A stream with as many keeps its order: the items of its i-th instance come in their order to the i-th of the
    ///   result, and those that were brought together by key stay together. With one instance on both sides, that is
    ///   the order of the whole stream.
    /// * A stream with fewer has its items dealt out in turn, as by [`rebalance`](Self::rebalance), but without
    ///   encoding them. Of what one of its instances sent, two items that come to the same instance of the result keep
    ///   their order; those that come to different ones may overtake each other, and equal keys no longer meet in one
    ///   instance. So a `Vec` in a union with a split file keeps its order at a parallelism of 1 only;
    ///   [`gather`](Self::gather) the wider stream where the order matters.
    ///
    /// It costs a channel for each pair of instances between which items may go.
    pub fn union(self, other: Stream<T>) -> Stream<T> {
        let shared = Rc::clone(&self.blueprint);
        if !Rc::ptr_eq(&shared, &other.blueprint) {
            shared.borrow_mut().refuse(BuildRefusal::ForeignStream { operator: "union".to_owned() });
        }
        let keyed = self.said == other.said && self.is_keyed() && other.is_keyed();
        let mut merge = Exchange::<T>::begin(&shared, self.said.widest(other.said));
        merge.add_balanced(self, "union");
        merge.add_balanced(other, "union");
        if keyed {
            merge.is_dealt_by_key();
        }
        merge.finish()
    }

    /// Two streams that both have every item.
    pub fn tee(self) -> (Stream<T>, Stream<T>)
    where
        T: Clone,
    {
        self.fork("tee", |_| Box::new(|meter, left, right| Box::new(Tee::new(meter, left, right))))
    }

    /// Two streams: the items that `f` says yes to, and the others. Each keeps the order of this one; nothing is kept
    /// of the items. A branch that is never read holds the other up once it is full; each ends with this stream.
    pub fn split<F>(self, f: F) -> (Stream<T>, Stream<T>)
    where
        F: FnMut(&T) -> bool + Clone + Send + 'static,
    {
        self.split_fork("split", move || {
            let mut f = f.clone();
            move |item| if f(&item) { Either::Left(item) } else { Either::Right(item) }
        })
    }

    /// Two streams, of any types: what `f` makes of each item says into which it goes. An enum of several arms is taken
    /// apart by one `split_map` after the other. Otherwise as [`split`](Self::split).
    ///
    /// ```
    /// use proscenium::{Either, LocalEnvironment, job_fn};
    ///
    /// let env = LocalEnvironment::new("doc");
    /// let job = env.submit(job_fn("parse", |flow| {
    ///     let (numbers, words) = flow.from_batch(["1", "two", "3"]).split_map(|text| match text.parse::<u32>() {
    ///         Ok(number) => Either::Left(number),
    ///         Err(_) => Either::Right(text.to_owned()),
    ///     });
    ///     numbers.collect("numbers");
    ///     words.collect("words");
    ///     Ok(())
    /// }));
    /// let job = job.autostop(true).blocking()?;
    /// assert_eq!(job.output::<u32>("numbers").blocking()?, [1, 3]);
    /// assert_eq!(job.output::<String>("words").blocking()?, ["two"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn split_map<A, B, F>(self, f: F) -> (Stream<A>, Stream<B>)
    where
        A: Send + 'static,
        B: Send + 'static,
        F: FnMut(T) -> Either<A, B> + Clone + Send + 'static,
    {
        self.split_fork("split_map", move || f.clone())
    }

    fn split_fork<A, B, F>(self, kind: &'static str, f: impl Fn() -> F + 'static) -> (Stream<A>, Stream<B>)
    where
        A: Send + 'static,
        B: Send + 'static,
        F: FnMut(T) -> Either<A, B> + Send + 'static,
    {
        self.fork(kind, move |_| {
            let f = f();
            Box::new(move |meter, left, right| Box::new(Split::new(meter, f, left, right)))
        })
    }

    /// Appends an operator with two chains behind it.
    fn fork<A, B>(
        self,
        kind: &'static str,
        make: impl Fn(usize) -> MakeFork<T, A, B> + 'static,
    ) -> (Stream<A>, Stream<B>)
    where
        A: Send + 'static,
        B: Send + 'static,
    {
        let operator = self.add_operator(kind);
        let (chain, said) = (self.chain, self.said);
        let fork = Fork { left: None, right: None, attach: Some(self.attach), make: Some(Box::new(make)), operator };
        let fork = Rc::new(RefCell::new(fork));
        let other = Rc::clone(&fork);
        let left = Box::new(move |next| Fork::complete(&fork, |fork| fork.left = Some(next)));
        let left = Stream::begin(&self.blueprint, chain, left).saying(said);
        let right = Box::new(move |next| Fork::complete(&other, |fork| fork.right = Some(next)));
        (left, Stream::begin(&self.blueprint, chain, right).saying(said))
    }

    /// Deals the items out to `parallelism` instances in turn, item by item. A parallelism of 0 refuses the flow.
    pub fn rebalance(self, parallelism: usize) -> Stream<T>
    where
        T: Serialize + DeserializeOwned,
    {
        let mut exchange = Exchange::between_workers(&self.blueprint, Parallelism::Fixed(parallelism));
        exchange.add(self, "rebalance", Pairing::AllToAll, move |instance, lanes| InTurn(instance % lanes));
        exchange.finish()
    }

    /// Gives every one of `parallelism` instances all items. A parallelism of 0 refuses the flow.
    ///
    /// To give all of them to each instance of an operator that reads other streams too, [`connect`](Self::connect)
    /// what comes of this: the operator then has as many instances.
    pub fn broadcast(self, parallelism: usize) -> Stream<T>
    where
        T: Clone + Serialize + DeserializeOwned,
    {
        let mut exchange = Exchange::between_workers(&self.blueprint, Parallelism::Fixed(parallelism));
        exchange.add(self, "broadcast", Pairing::AllToAll, |_, _| ToAll);
        exchange.blueprint.borrow_mut().chains[exchange.chain].copied = true;
        exchange.finish()
    }

    /// Brings all items to one instance.
    pub fn gather(self) -> Stream<T>
    where
        T: Serialize + DeserializeOwned,
    {
        let mut exchange = Exchange::between_workers(&self.blueprint, Parallelism::Fixed(1));
        exchange.add(self, "gather", Pairing::AllToAll, |_, _| Single);
        exchange.finish()
    }

    /// Gives each item a key. What follows brings equal keys to one instance.
    pub fn key_by<K, F>(self, key: F) -> KeyedStream<K, T>
    where
        K: Send + 'static,
        F: FnMut(&T) -> K + Clone + Send + 'static,
    {
        let keyed = self.then("key_by", move |_| {
            let mut key = key.clone();
            let f = move |item: T| (key(&item), item);
            Box::new(move |meter, next| Box::new(Map::new(meter, f, next)) as BoxStage<T>)
        });
        KeyedStream::new(keyed)
    }
}

impl<K: Send + 'static, T: Send + 'static> Stream<(K, T)> {
    /// Takes the first of each pair for the key of the second. Unlike [`key_by`](Self::key_by) it needs no copy of what
    /// an item has already, as behind a join or a fold by key.
    ///
    /// ```
    /// use proscenium::{LocalEnvironment, job_fn};
    ///
    /// let env = LocalEnvironment::new("doc");
    /// let job = env.submit(job_fn("words", |flow| {
    ///     let words = flow.from_batch(["a", "b", "a"]).map(|word| (word.to_owned(), ()));
    ///     words.keyed().count().collect("counts");
    ///     Ok(())
    /// }));
    /// let job = job.autostop(true).blocking()?;
    /// let mut counts: Vec<(String, u64)> = job.output("counts").blocking()?;
    /// counts.sort();
    /// assert_eq!(counts, [("a".to_owned(), 2), ("b".to_owned(), 1)]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn keyed(self) -> KeyedStream<K, T> {
        KeyedStream::new(self)
    }
}

/// How the stage of an operator with two chains behind it is made.
type MakeFork<T, A, B> = Box<dyn FnOnce(Meter, BoxStage<A>, BoxStage<B>) -> BoxStage<T> + Send>;

/// The same for the instance of this number.
type ForkFactory<T, A, B> = Box<dyn Fn(usize) -> MakeFork<T, A, B>>;

/// An operator with two chains behind it, which are completed one after the other.
struct Fork<T, A, B> {
    left: Option<StageFactory<A>>,
    right: Option<StageFactory<B>>,
    attach: Option<Box<dyn FnOnce(StageFactory<T>)>>,
    /// Taken when it is attached.
    make: Option<ForkFactory<T, A, B>>,
    operator: usize,
}

impl<T: 'static, A: 'static, B: 'static> Fork<T, A, B> {
    /// One of its chains is complete. With the second one, the operator is attached to what is in front of it.
    fn complete(fork: &RefCell<Self>, chain: impl FnOnce(&mut Self)) {
        let mut this = fork.borrow_mut();
        chain(&mut this);
        if this.left.is_none() || this.right.is_none() {
            return;
        }
        let (left, right) = (this.left.take(), this.right.take());
        let (Some(left), Some(right), Some(attach), Some(make)) = (left, right, this.attach.take(), this.make.take())
        else {
            return;
        };
        let operator = this.operator;
        drop(this);
        attach(Box::new(move |instance| {
            let (make, left, right) = (make(instance), left(instance), right(instance));
            Box::new(move |task| make(Meter::new(task, operator), left(task), right(task)))
        }));
    }
}

/// An operator with any number of chains behind it, which is attached to what is in front when all of them are complete.
pub(crate) struct Junction<T> {
    blueprint: Rc<RefCell<Blueprint>>,
    chain: usize,
    said: Parallelism,
    pub operator: usize,
    attach: Option<Box<dyn FnOnce(StageFactory<T>)>>,
}

impl<T: Send + 'static> Stream<T> {
    pub(crate) fn junction(self, kind: &'static str) -> Junction<T> {
        let operator = self.add_operator(kind);
        let Self { blueprint, chain, said, attach, .. } = self;
        Junction { blueprint, chain, said, operator, attach: Some(attach) }
    }
}

impl<T> Junction<T> {
    pub fn blueprint(&self) -> &Rc<RefCell<Blueprint>> {
        &self.blueprint
    }

    /// A stream behind the operator, which gives `complete` the chain that it becomes.
    pub fn branch<U: Send + 'static>(&self, complete: impl FnOnce(StageFactory<U>) + 'static) -> Stream<U> {
        let operator = (self.chain, self.operator);
        Stream::begin_behind(&self.blueprint, self.chain, operator, Box::new(complete)).saying(self.said)
    }

    /// What the operator's stages are given to, once.
    pub fn take_attach(&mut self) -> Option<Box<dyn FnOnce(StageFactory<T>)>> {
        self.attach.take()
    }
}

/// An exchange in the making: a new chain, and the chains that feed it.
pub(crate) struct Exchange<T> {
    blueprint: Rc<RefCell<Blueprint>>,
    asked: usize,
    chain: usize,
    consumers: usize,
    edge: EdgeId,
    items: PhantomData<fn(T)>,
}

impl<T: Send + 'static> Exchange<T> {
    /// One whose channels stay within a worker.
    pub fn begin(blueprint: &Rc<RefCell<Blueprint>>, said: Parallelism) -> Self {
        Self::on(blueprint, said, EdgePlan::within_a_worker::<T>)
    }

    /// One whose channels may lead to another worker.
    pub fn between_workers(blueprint: &Rc<RefCell<Blueprint>>, said: Parallelism) -> Self
    where
        T: Serialize + DeserializeOwned,
    {
        Self::on(blueprint, said, EdgePlan::between_workers::<T>)
    }

    fn on(blueprint: &Rc<RefCell<Blueprint>>, said: Parallelism, plan: impl FnOnce(u32, usize) -> EdgePlan) -> Self {
        let mut shared = blueprint.borrow_mut();
        let asked = said.in_job(shared.options.parallelism);
        let chain = shared.add_chain(said, Origin::Chains);
        let consumers = shared.chains[chain].parallelism;
        let edge = EdgeId(shared.edges.len());
        let first_task = shared.chains[chain].first_task;
        shared.edges.push(plan(first_task, consumers));
        drop(shared);
        Self { blueprint: Rc::clone(blueprint), asked, chain, consumers, edge, items: PhantomData }
    }

    /// Ends `stream` in this exchange, each instance in that of the same number if there are as many, and else in all
    /// of them in turn.
    pub fn add_balanced(&mut self, stream: Stream<T>, kind: &'static str) {
        if stream.parallelism() == self.consumers {
            self.add(stream, kind, Pairing::OneToOne, |_, _| Single);
        } else {
            self.add(stream, kind, Pairing::AllToAll, |instance, lanes| InTurn(instance % lanes));
        }
    }

    /// What comes out of this exchange was dealt out by key.
    pub fn is_dealt_by_key(&self) {
        self.blueprint.borrow_mut().chains[self.chain].keyed = true;
    }

    /// Ends `stream` in this exchange.
    pub fn add<R: Route<T> + Send + 'static>(
        &mut self,
        mut stream: Stream<T>,
        kind: &'static str,
        pairing: Pairing,
        route: impl Fn(usize, usize) -> R + 'static,
    ) {
        let (producers, consumers, edge) = (stream.parallelism(), self.consumers, self.edge);
        let weigh = stream.weigh.take();
        let mut blueprint = self.blueprint.borrow_mut();
        if self.asked != consumers {
            let (operator, asked) = (kind.to_owned(), self.asked);
            blueprint.refuse(BuildRefusal::TooParallel { operator, asked, limit: PARALLELISM_MAX });
        }
        if consumers == 0 {
            blueprint.refuse(BuildRefusal::ZeroParallelism { operator: kind.to_owned() });
        }
        let first_task = blueprint.chains[stream.chain].first_task;
        let feed = Feed { producers, first_task, pairing, first_channel: blueprint.channels.len() };
        for producer in 0..producers {
            let to = feed.channels_of(producer, consumers);
            blueprint.channels.extend(to.map(|(to, _)| ((stream.chain, producer), (self.chain, to))));
        }
        let feeds = &mut blueprint.edges[edge.0].feeds;
        let number = feeds.len();
        feeds.push(feed);
        let operator = (stream.chain, blueprint.chains[stream.chain].operators.len());
        blueprint.chains[self.chain].fed_by.get_or_insert(operator);
        drop(blueprint);
        stream.end(kind, move |instance| {
            let lanes = feed.channels_of(instance, consumers).count();
            let (route, weigh) = (route(instance, lanes.max(1)), weigh.clone());
            Box::new(move |meter| {
                let lanes = Edge::take_lanes(&meter.task.wiring, edge, number, instance);
                ExchangeStage::boxed(meter, route, lanes, weigh)
            })
        });
    }

    /// The chain on the other side.
    pub fn chain(&self) -> usize {
        self.chain
    }

    /// The stream on the other side, to be taken once. What feeds it may still be added.
    pub fn finish(&self) -> Stream<T> {
        let edge = self.edge;
        new_chain(&self.blueprint, self.chain, move |instance| {
            Box::new(move |task| {
                let (gate, channels) = Edge::take_gate(&task.wiring, edge, instance);
                Box::new(GateHead::new(task, gate, channels))
            })
        })
    }
}
