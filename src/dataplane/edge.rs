//! All channels of one exchange: as data in a plan, and as they are for the tasks of one attempt.

use std::{any::Any, cell::LazyCell, ops::Range, sync::Arc};

use parking_lot::Mutex;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    dataplane::{
        carry::{Carry, carry},
        channel::{Gate, LaneLimits},
        lane::OutLane,
        wiring::{EdgeId, Wiring},
    },
    job::TaskId,
    peer::{Link, Peers, StreamId},
    protocol::Layout,
};

/// Which producers have a channel to which consumers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pairing {
    AllToAll,
    OneToOne,
}

/// A chain that an exchange is fed by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Feed {
    pub producers: usize,
    /// That of the first producer; the others follow.
    pub first_task: u32,
    pub pairing: Pairing,
    /// The channels are numbered from here on: by producer, and of one producer by consumer.
    pub first_channel: usize,
}

impl Feed {
    /// The producers' tasks, by position.
    pub fn tasks(&self) -> Range<usize> {
        tasks(self.first_task, self.producers)
    }

    /// The consumers to which a producer has channels, with the channel of each.
    pub fn channels_of(self, producer: usize, consumers: usize) -> impl Iterator<Item = (usize, usize)> {
        let (to, first) = match self.pairing {
            Pairing::AllToAll => (0..consumers, self.first_channel + producer * consumers),
            // A producer that nobody is paired with has no channel.
            Pairing::OneToOne => {
                (producer.min(consumers)..(producer + 1).min(consumers), self.first_channel + producer)
            }
        };
        to.enumerate().map(move |(index, consumer)| (consumer, first + index))
    }
}

/// Bytes that all channels of a gate may have on their way between two workers.
const PEER_GATE_BYTES: usize = 2 << 20;

/// What each of them has of that at least, however many they are.
const PEER_SHARE_BYTES_MIN: usize = 32 << 10;

/// What it takes to make the channels of an exchange.
struct Wire<'a> {
    plan: &'a EdgePlan,
    limits: LaneLimits,
    layout: &'a Layout,
    peers: Option<&'a Peers>,
}

impl Wire<'_> {
    /// To the worker of this task.
    fn link(&self, task: usize) -> &Arc<Link> {
        let peers = self.peers.expect("an attempt with tasks elsewhere has links");
        peers.link(self.layout.tasks[task])
    }
}

fn task_id(task: usize) -> TaskId {
    TaskId(u32::try_from(task).expect("tasks are numbered so"))
}

fn stream(channel: usize) -> StreamId {
    StreamId::Channel(u32::try_from(channel).expect("a graph has fewer channels"))
}

fn tasks(first: u32, count: usize) -> Range<usize> {
    let first = first as usize;
    first..first + count
}

/// An exchange in a plan.
#[derive(Debug, Clone)]
pub(crate) struct EdgePlan {
    pub consumers: usize,
    /// That of the first consumer; the others follow.
    first_task: u32,
    pub feeds: Vec<Feed>,
    travels: bool,
    /// The items' type is known to it alone.
    wire: fn(&Wire<'_>) -> Box<dyn Any + Send + Sync>,
}

impl EdgePlan {
    /// For items that nobody knows how to encode.
    pub fn within_a_worker<T: Send + 'static>(first_task: u32, consumers: usize) -> Self {
        let wire = |wire: &Wire<'_>| Box::new(Edge::<T>::new(wire, None)) as Box<dyn Any + Send + Sync>;
        Self { consumers, first_task, feeds: Vec::new(), travels: false, wire }
    }

    /// For items that can be encoded where the two ends of a channel are on different workers.
    pub fn between_workers<T>(first_task: u32, consumers: usize) -> Self
    where
        T: Serialize + DeserializeOwned + Send + 'static,
    {
        let wire = |wire: &Wire<'_>| Box::new(Edge::<T>::new(wire, Some(carry::<T>))) as Box<dyn Any + Send + Sync>;
        Self { consumers, first_task, feeds: Vec::new(), travels: true, wire }
    }

    /// The consumers' tasks, by position.
    pub fn tasks(&self) -> Range<usize> {
        tasks(self.first_task, self.consumers)
    }

    /// Whether the two ends of a channel may be on different workers.
    pub fn travels(&self) -> bool {
        self.travels
    }

    /// The channels that have an end on this worker, for the tasks of one attempt. The streams of those that have the other
    /// end elsewhere are known to the links from then on.
    ///
    /// # Panics
    ///
    /// Panics if the layout has not all of the tasks, or parts some that exchange what cannot be encoded, or if there is no
    /// link to a worker to which a channel leads.
    pub fn wire(&self, limits: LaneLimits, layout: &Layout, peers: Option<&Peers>) -> Box<dyn Any + Send + Sync> {
        (self.wire)(&Wire { plan: self, limits, layout, peers })
    }

    /// Bytes that one channel to this consumer may have on its way between two workers.
    fn credit(&self, limits: LaneLimits, consumer: usize) -> u64 {
        let feeds = self.feeds.iter().map(|feed| match feed.pairing {
            Pairing::AllToAll => feed.producers,
            Pairing::OneToOne => usize::from(consumer < feed.producers),
        });
        let share = (PEER_GATE_BYTES / feeds.sum::<usize>().max(1)).max(PEER_SHARE_BYTES_MIN);
        limits.peer_bytes.min(share).max(1) as u64
    }
}

/// The ends of channels until their tasks take them.
pub(crate) struct Edge<T> {
    /// For each feed, for each producer.
    lanes: Mutex<Vec<Vec<Vec<OutLane<T>>>>>,
    gates: Mutex<Vec<Option<Receiving<T>>>>,
}

type MakeCarry<T> = fn() -> Arc<dyn Carry<T>>;

/// What a consumer receives by: its gate, and the channel of each lane.
type Receiving<T> = (Arc<Gate<T>>, Vec<usize>);

impl<T: Send + 'static> Edge<T> {
    fn new(wire: &Wire<'_>, carry: Option<MakeCarry<T>>) -> Self {
        let Wire { plan, limits, layout, .. } = *wire;
        // Made only where a channel leads to another worker: it looks through the type.
        let carry = LazyCell::new(|| carry.expect("tasks that exchange what cannot be encoded are together")());
        let mut gates: Vec<Option<Receiving<T>>> =
            plan.tasks().map(|task| layout.is_here(task_id(task)).then(|| (Gate::new(limits), Vec::new()))).collect();
        let mut lanes = Vec::new();
        for feed in &plan.feeds {
            let mut of_feed = Vec::new();
            for (producer, task) in feed.tasks().enumerate() {
                let (mut own, is_here) = (Vec::new(), layout.is_here(task_id(task)));
                for (consumer, channel) in feed.channels_of(producer, plan.consumers) {
                    match &mut gates[consumer] {
                        Some((gate, channels)) => {
                            channels.push(channel);
                            if is_here {
                                own.push(OutLane::new(channel, gate.add_lane()));
                            } else {
                                let credit = plan.credit(limits, consumer);
                                gate.add_incoming(wire.link(task), stream(channel), credit, Arc::clone(&carry));
                            }
                        }
                        None if is_here => {
                            let link = wire.link(plan.first_task as usize + consumer);
                            let sender = link.sender(stream(channel), plan.credit(limits, consumer));
                            own.push(OutLane::to_peer(channel, sender, Arc::clone(&carry)));
                        }
                        None => {}
                    }
                }
                of_feed.push(own);
            }
            lanes.push(of_feed);
        }
        Self { lanes: Mutex::new(lanes), gates: Mutex::new(gates) }
    }

    fn of(wiring: &Wiring, id: EdgeId) -> &Self {
        let edge = wiring.edge(id).and_then(|edge| edge.downcast_ref());
        edge.unwrap_or_else(|| panic!("edge {} is missing, or of another type", id.0))
    }

    /// The lanes of a producer, to be taken once.
    ///
    /// # Panics
    ///
    /// Panics if the plan has no such edge of this type.
    pub fn take_lanes(wiring: &Wiring, id: EdgeId, feed: usize, producer: usize) -> Vec<OutLane<T>> {
        let mut lanes = Self::of(wiring, id).lanes.lock();
        lanes.get_mut(feed).and_then(|lanes| lanes.get_mut(producer)).map(std::mem::take).unwrap_or_default()
    }

    /// The gate of a consumer, to be taken once.
    ///
    /// # Panics
    ///
    /// Panics if the plan has no such consumer, or it was taken.
    pub fn take_gate(wiring: &Wiring, id: EdgeId, consumer: usize) -> (Arc<Gate<T>>, Vec<usize>) {
        let gate = Self::of(wiring, id).gates.lock().get_mut(consumer).and_then(Option::take);
        gate.unwrap_or_else(|| panic!("gate {consumer} of edge {} is not there", id.0))
    }
}

#[cfg(test)]
mod tests;
