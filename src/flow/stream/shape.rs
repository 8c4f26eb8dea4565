//! Operators that change how many streams or instances there are.

use std::{cell::RefCell, rc::Rc, sync::Arc};

use serde::{Serialize, de::DeserializeOwned};

use crate::flow::{
    chain::{BoxStage, Meter, StageFactory},
    channel::Gate,
    exchange::{ExchangeStage, GateHead, InTurn, OutLane, Route, Single, ToAll},
    graph::{Blueprint, BuildRefusal, PARALLELISM_MAX},
    keyed::KeyedStream,
    new_chain,
    operator::{Map, Take, Tee},
    stream::Stream,
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
        let operator = (stream.chain, blueprint.chains[stream.chain].operators.len());
        blueprint.chains[self.chain].fed_by.get_or_insert(operator);
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
