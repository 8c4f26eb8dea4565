//! Channels between tasks: bounded lanes into the input gate of a consuming task.
//!
//! A gate has one lane for each producing task. Credit is counted per lane in batches and bytes and is given back when
//! a batch has been *consumed*, not when it has been taken. A waiting producer is woken once half of its credit is
//! back, so that the two sides do not take turns batch by batch. Marks need no credit.
//!
//! In a feedback loop credit would be waited for in a circle. So the lane that closes a loop takes what comes, up to a limit
//! at which it fails; and what is in a loop already goes before what is about to enter it, so that a loop whose items do not
//! multiply stays far from that limit however long its input is.
//!
//! A lane whose producer is on another worker ([`incoming`]) is filled by a peer link, which counts the credit.

mod incoming;

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use parking_lot::{Mutex, MutexGuard};

pub(crate) use self::incoming::EncodedBatch;
use self::incoming::Incoming;
use crate::{
    dataplane::{carry::Encoded, mark::Mark},
    protocol::Received,
};

/// Emptied batch buffers a lane keeps for its producer.
const SPARES: usize = 4;

#[derive(Debug, Clone, Copy)]
pub(crate) struct LaneLimits {
    pub batches: usize,
    pub bytes: usize,
    /// Encoded bytes on their way to another worker.
    pub peer_bytes: usize,
}

/// The shared middle of all channels into one task.
pub(crate) struct Gate<T> {
    limits: LaneLimits,
    state: Mutex<GateState<T>>,
}

struct GateState<T> {
    lanes: Vec<Lane<T>>,
    consumer: Option<Waker>,
    /// Where the consumer looks first, so that no lane starves.
    turn: usize,
    queued: usize,
}

struct Lane<T> {
    queue: VecDeque<Packet<T>>,
    /// Batches and bytes not yet consumed: those queued and the one in the consumer's hands.
    batches: usize,
    bytes: usize,
    /// Items of the batches queued.
    items: usize,
    closed: bool,
    ended: bool,
    producer: Option<Waker>,
    spares: Vec<Vec<T>>,
    accounts: Received,
    /// Where it is filled from, if its producer is on another worker.
    incoming: Option<Arc<Incoming<T>>>,
}

enum Packet<T> {
    Batch(Vec<T>, usize),
    /// Boxed, so that other packets are not larger for it.
    Encoded(Box<Encoded>),
    Mark(Mark),
}

impl<T> GateState<T> {
    /// The next batch of the lanes looked at, with its lane and weight. Notes the marks in front of it.
    fn next_batch(
        &mut self,
        held: &mut [Option<u32>],
        looks_at: impl Fn(usize) -> bool,
    ) -> Option<(Taken<T>, (usize, usize))> {
        let lanes = self.lanes.len();
        let first = self.turn;
        let mut offset = 0;
        while offset < lanes {
            let index = (first + offset) % lanes;
            if !looks_at(index) {
                offset += 1;
                continue;
            }
            let lane = &mut self.lanes[index];
            match lane.queue.pop_front() {
                None => offset += 1,
                Some(Packet::Batch(batch, bytes)) => {
                    lane.accounts.received += batch.len() as u64;
                    lane.items -= batch.len();
                    self.turn = (index + 1) % lanes;
                    self.queued -= 1;
                    return Some((Taken::Batch(batch), (index, bytes)));
                }
                Some(Packet::Encoded(encoded)) => {
                    lane.accounts.received = lane.accounts.received.saturating_add(encoded.items);
                    self.turn = (index + 1) % lanes;
                    self.queued -= 1;
                    let incoming = lane.incoming.clone().expect("it is there before its consumer runs");
                    let (bytes, into) = (encoded.bytes.len(), lane.spares.pop().unwrap_or_default());
                    return Some((Taken::Encoded(EncodedBatch { encoded, into, incoming }), (index, bytes)));
                }
                Some(Packet::Mark(Mark::End)) => lane.ended = true,
                Some(Packet::Mark(Mark::Hold(epoch))) => held[index] = held[index].max(Some(epoch)),
            }
        }
        None
    }
}

impl<T> Gate<T> {
    pub fn new(limits: LaneLimits) -> Arc<Self> {
        let state = GateState { lanes: Vec::new(), consumer: None, turn: 0, queued: 0 };
        Arc::new(Self { limits, state: Mutex::new(state) })
    }

    /// Adds a lane and returns the end its producer holds.
    pub fn add_lane(self: &Arc<Self>) -> LaneSender<T> {
        let mut state = self.state.lock();
        state.lanes.push(Lane {
            queue: VecDeque::new(),
            batches: 0,
            bytes: 0,
            items: 0,
            closed: false,
            ended: false,
            producer: None,
            spares: Vec::new(),
            accounts: Received::default(),
            incoming: None,
        });
        LaneSender { gate: Arc::clone(self), lane: state.lanes.len() - 1 }
    }

    fn mark(&self, lane: usize, mark: Mark) {
        let mut state = self.state.lock();
        let lane = &mut state.lanes[lane];
        if !lane.closed {
            lane.queue.push_back(Packet::Mark(mark));
        }
        let consumer = state.consumer.take();
        drop(state);
        wake(consumer);
    }
}

/// What became of a batch that was offered to a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offer {
    /// Taken; the batch is empty now.
    Taken,
    /// No credit; the batch is as it was.
    Full,
    /// The consumer wants no more; the batch is as it was.
    Closed,
}

/// The producing end of one channel.
pub(crate) struct LaneSender<T> {
    gate: Arc<Gate<T>>,
    lane: usize,
}

impl<T> LaneSender<T> {
    /// Offers a batch that weighs `bytes`. A batch heavier than the lane's limit is admitted when the lane is empty.
    pub fn offer(&self, batch: &mut Vec<T>, bytes: usize) -> Offer {
        let mut state = self.gate.state.lock();
        let lane = &mut state.lanes[self.lane];
        if lane.closed {
            return Offer::Closed;
        }
        let limits = self.gate.limits;
        if lane.batches > 0 && (lane.batches >= limits.batches || lane.bytes + bytes > limits.bytes) {
            return Offer::Full;
        }
        Self::put(state, self.lane, batch, bytes);
        Offer::Taken
    }

    fn put(mut state: MutexGuard<'_, GateState<T>>, lane: usize, batch: &mut Vec<T>, bytes: usize) {
        let lane = &mut state.lanes[lane];
        lane.batches += 1;
        lane.bytes += bytes;
        lane.items += batch.len();
        let empty = lane.spares.pop().unwrap_or_default();
        lane.queue.push_back(Packet::Batch(std::mem::replace(batch, empty), bytes));
        state.queued += 1;
        let consumer = state.consumer.take();
        drop(state);
        wake(consumer);
    }

    /// Offers a batch that no credit holds back, as long as no more than `items_max` items wait.
    pub fn offer_freely(&self, batch: &mut Vec<T>, bytes: usize, items_max: usize) -> Offer {
        let mut state = self.gate.state.lock();
        let lane = &mut state.lanes[self.lane];
        if lane.closed {
            return Offer::Closed;
        }
        if lane.items + batch.len() > items_max {
            return Offer::Full;
        }
        Self::put(state, self.lane, batch, bytes);
        Offer::Taken
    }

    pub fn mark(&self, mark: Mark) {
        self.gate.mark(self.lane, mark);
    }

    /// Has the task woken when credit comes back or the consumer closes the lane. Returns whether it is closed.
    pub fn register(&self, cx: &Context<'_>) -> bool {
        let mut state = self.gate.state.lock();
        let lane = &mut state.lanes[self.lane];
        if !lane.producer.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            lane.producer = Some(cx.waker().clone());
        }
        lane.closed
    }
}

/// What the consuming task takes off its gate.
pub(crate) enum Taken<T> {
    Batch(Vec<T>),
    /// Of a task on another worker. To be decoded without the gate's lock, because that runs the user's code.
    Encoded(EncodedBatch<T>),
    Mark(Mark),
}

/// The consuming end of all channels into one task.
pub(crate) struct GateReceiver<T> {
    gate: Arc<Gate<T>>,
    /// The lane and weight of the batch being consumed: its credit is still out.
    in_hand: Option<(usize, usize)>,
    /// The newest `Hold` that each lane has delivered. A lane that is idle can be some ahead of one that is not.
    held: Vec<Option<u32>>,
    /// The `Hold` given out last.
    hold: Option<u32>,
    /// What each lane is to a loop that this task is part of; empty if it is part of none.
    places: Vec<Place>,
    /// A hold is on its way, for which what would go round again waits unless more than so many items do.
    hold_back: Option<usize>,
    ended: bool,
}

/// What a lane is to the loop that its consumer is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// It leads into the loop.
    Entry,
    /// It lies within the loop: what is in it goes before what has yet to enter.
    Inner,
    /// It closes the loop, and never ends by itself: marks that come round on it say nothing new.
    Closing,
}

impl<T> GateReceiver<T> {
    pub fn new(gate: Arc<Gate<T>>) -> Self {
        let lanes = gate.state.lock().lanes.len();
        let held = vec![None; lanes];
        Self { gate, in_hand: None, held, hold: None, places: Vec::new(), hold_back: None, ended: false }
    }

    /// For a task of a loop: what each lane is to it.
    pub fn in_loop(gate: Arc<Gate<T>>, places: Vec<Place>) -> Self {
        Self { places, ..Self::new(gate) }
    }

    /// Whether nothing more can enter the loop by this task.
    pub fn is_entered(&self) -> bool {
        let state = self.gate.state.lock();
        let mut entries = state.lanes.iter().zip(&self.places).filter(|(_, place)| **place == Place::Entry);
        entries.all(|(lane, _)| lane.closed || (lane.ended && lane.queue.is_empty()))
    }

    /// Gives back the credit of the batch taken last, with its emptied buffer.
    pub fn release(&mut self, buffer: Option<Vec<T>>) {
        let Some((index, bytes)) = self.in_hand.take() else { return };
        let limits = self.gate.limits;
        let mut state = self.gate.state.lock();
        let lane = &mut state.lanes[index];
        lane.batches -= 1;
        lane.bytes -= bytes;
        if let Some(buffer) = buffer.filter(|buffer| buffer.capacity() > 0 && lane.spares.len() < SPARES) {
            lane.spares.push(buffer);
        }
        let half_free = lane.batches <= limits.batches / 2 && lane.bytes <= limits.bytes / 2;
        let producer = if half_free { lane.producer.take() } else { None };
        let incoming = lane.incoming.clone();
        drop(state);
        wake(producer);
        if let Some(incoming) = incoming {
            incoming.receiver.grant(bytes as u64);
        }
    }

    /// The lane of the batch being consumed.
    pub fn lane_in_hand(&self) -> Option<usize> {
        self.in_hand.map(|(lane, _)| lane)
    }

    /// What a lane is to the loop that this task is part of.
    pub fn place(&self, lane: usize) -> Place {
        self.places.get(lane).copied().unwrap_or(Place::Entry)
    }

    /// Has what would go round again wait, as long as no lane has more than `items_max` items of it. A loop that is never
    /// empty would otherwise never let a hold pass, which comes behind all that enters: what goes round goes before that.
    /// Above that number it goes before it still, or holds in quick succession would fill the loop.
    pub fn hold_back(&mut self, items_max: Option<usize>) {
        self.hold_back = items_max;
    }

    /// Takes the next batch or mark. A `Hold` comes out once it has come in on every lane that has not ended, an end
    /// once all lanes have.
    pub fn poll_take(&mut self, cx: &mut Context<'_>) -> Poll<Taken<T>> {
        if self.ended {
            return Poll::Pending;
        }
        let mut state = self.gate.state.lock();
        let places = &self.places;
        let counts = |index: usize| places.get(index) != Some(&Place::Closing);
        let over = |lane: &Lane<T>| lane.closed || (lane.ended && lane.queue.is_empty());
        if state.lanes.iter().enumerate().all(|(index, lane)| over(lane) || !counts(index)) {
            self.ended = true;
            return Poll::Ready(Taken::Mark(Mark::End));
        }
        let mut closing = state.lanes.iter().enumerate().filter(|(index, _)| !counts(*index));
        let held_back = self.hold_back.is_some_and(|items_max| closing.all(|(_, lane)| lane.items <= items_max));
        let open = |index: usize| !held_back || counts(index);
        // Outside of loops, where most tasks are, there is nothing to go first.
        let mut next = None;
        if !places.is_empty() {
            next = state.next_batch(&mut self.held, |index| places[index] != Place::Entry && open(index));
        }
        if let Some((batch, in_hand)) = next.or_else(|| state.next_batch(&mut self.held, open)) {
            self.in_hand = Some(in_hand);
            return Poll::Ready(batch);
        }
        if state.lanes.iter().enumerate().all(|(index, lane)| lane.ended || !counts(index)) {
            self.ended = true;
            return Poll::Ready(Taken::Mark(Mark::End));
        }
        let live = state.lanes.iter().enumerate().filter(|(index, lane)| !lane.ended && counts(*index));
        let everywhere = live.map(|(index, _)| self.held[index]).min().flatten();
        if everywhere > self.hold
            && let Some(epoch) = everywhere
        {
            self.hold = everywhere;
            return Poll::Ready(Taken::Mark(Mark::Hold(epoch)));
        }
        if !state.consumer.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            state.consumer = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Refuses everything from now on: what waits in the lanes is `as_discarded` or else refused. Returns how many batches
    /// were thrown away of those that lay within a loop.
    pub fn close(&mut self, ending: CloseAs) -> usize {
        self.close_where(ending, |_| true)
    }

    /// The same for the lanes that close a loop only.
    pub fn close_loop(&mut self, ending: CloseAs) -> usize {
        self.close_where(ending, |place| place == Some(Place::Closing))
    }

    fn close_where(&mut self, ending: CloseAs, closes: impl Fn(Option<Place>) -> bool) -> usize {
        let (mut producers, mut incoming, mut dropped, mut looping) = (Vec::new(), Vec::new(), Vec::new(), 0);
        let mut state = self.gate.state.lock();
        let mut thrown = 0;
        for (index, lane) in state.lanes.iter_mut().enumerate() {
            let place = self.places.get(index).copied();
            if lane.closed || !closes(place) {
                continue;
            }
            lane.closed = true;
            lane.items = 0;
            let queue = std::mem::take(&mut lane.queue);
            for packet in &queue {
                let (items, bytes) = match packet {
                    Packet::Batch(batch, bytes) => (batch.len() as u64, *bytes),
                    Packet::Encoded(encoded) => (encoded.items, encoded.bytes.len()),
                    Packet::Mark(_) => continue,
                };
                lane.batches -= 1;
                lane.bytes -= bytes;
                thrown += 1;
                looping += usize::from(matches!(place, Some(Place::Inner | Place::Closing)));
                match ending {
                    CloseAs::Refused => lane.accounts.refused += items,
                    CloseAs::Discarded => lane.accounts.discarded += items,
                }
            }
            dropped.push(queue);
            producers.extend(lane.producer.take());
            incoming.extend(lane.incoming.clone());
        }
        state.queued -= thrown;
        drop(state);
        producers.into_iter().for_each(Waker::wake);
        incoming.iter().for_each(|incoming| incoming.receiver.close());
        // Last, because dropping items is user code: no lock is held, and nobody is left unwoken if it panics.
        drop(dropped);
        looping
    }

    /// The accounts of each lane, final once the gate is closed or all lanes have ended.
    pub fn accounts(&self) -> Vec<Received> {
        self.gate.state.lock().lanes.iter().map(|lane| lane.accounts).collect()
    }

    pub fn queued(&self) -> usize {
        self.gate.state.lock().queued
    }
}

/// How items that wait in a closing gate are booked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CloseAs {
    /// The consumer had enough.
    Refused,
    /// The job was cancelled or failed.
    Discarded,
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

#[cfg(test)]
mod tests;
