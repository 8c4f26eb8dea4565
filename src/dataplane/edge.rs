//! All channels of one exchange: as data in a plan, and as they are for the tasks of one attempt.

use std::{any::Any, ops::Range, sync::Arc};

use parking_lot::Mutex;
use serde::{Serialize, de::DeserializeOwned};

use crate::dataplane::{
    channel::{Gate, LaneLimits},
    exchange::OutLane,
    wiring::{EdgeId, Wiring},
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
    wire: fn(&EdgePlan, LaneLimits) -> Box<dyn Any + Send + Sync>,
}

impl EdgePlan {
    /// For items that nobody knows how to encode.
    pub fn within_a_worker<T: Send + 'static>(first_task: u32, consumers: usize) -> Self {
        let wire = |plan: &EdgePlan, limits| Box::new(Edge::<T>::new(plan, limits)) as Box<dyn Any + Send + Sync>;
        Self { consumers, first_task, feeds: Vec::new(), travels: false, wire }
    }

    /// For items that can be encoded where the two ends of a channel are on different workers.
    pub fn between_workers<T>(first_task: u32, consumers: usize) -> Self
    where
        T: Serialize + DeserializeOwned + Send + 'static,
    {
        Self { travels: true, ..Self::within_a_worker::<T>(first_task, consumers) }
    }

    /// The consumers' tasks, by position.
    pub fn tasks(&self) -> Range<usize> {
        tasks(self.first_task, self.consumers)
    }

    /// Whether the two ends of a channel may be on different workers.
    pub fn travels(&self) -> bool {
        self.travels
    }

    /// The channels, for the tasks of one attempt.
    pub fn wire(&self, limits: LaneLimits) -> Box<dyn Any + Send + Sync> {
        (self.wire)(self, limits)
    }
}

/// The ends of channels until their tasks take them.
pub(crate) struct Edge<T> {
    /// For each feed, for each producer.
    lanes: Mutex<Vec<Vec<Vec<OutLane<T>>>>>,
    gates: Mutex<Vec<Option<Receiving<T>>>>,
}

/// What a consumer receives by: its gate, and the channel of each lane.
type Receiving<T> = (Arc<Gate<T>>, Vec<usize>);

impl<T: Send + 'static> Edge<T> {
    fn new(plan: &EdgePlan, limits: LaneLimits) -> Self {
        let mut gates: Vec<Receiving<T>> = (0..plan.consumers).map(|_| (Gate::new(limits), Vec::new())).collect();
        let mut lanes = Vec::new();
        for feed in &plan.feeds {
            let mut of_feed = Vec::new();
            for producer in 0..feed.producers {
                let mut own = Vec::new();
                for (consumer, channel) in feed.channels_of(producer, plan.consumers) {
                    let (gate, channels) = &mut gates[consumer];
                    channels.push(channel);
                    own.push(OutLane::new(channel, gate.add_lane()));
                }
                of_feed.push(own);
            }
            lanes.push(of_feed);
        }
        Self { lanes: Mutex::new(lanes), gates: Mutex::new(gates.into_iter().map(Some).collect()) }
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
