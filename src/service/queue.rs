//! The state of a gate: its queue, the line for room in it, and what became of the service. All under the gate's lock.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    task::Waker,
};

use crate::{
    job::Incarnation,
    service::{
        Origin,
        envelope::{Admission, CallEnvelope, Queued},
    },
};

/// Messages the service takes at a time at most, so that what it has not handled yet stays a small part of the bound.
const BATCH_MAX: usize = 256;

/// Taken calls that are looked through each time the service comes for more.
const IN_HAND_FEW: usize = 16;

pub(super) struct Inner<S> {
    pub(super) phase: Phase,
    /// The attempt ends: its tasks and services are refused until an instance of the next one comes.
    pub(super) outside_only: bool,
    pub(super) queue: VecDeque<Queued<S>>,
    /// The size of the batch that the service took last. It counts against the bound until the service comes back,
    /// so never more than `capacity` messages are accepted and not handled.
    pub(super) outstanding: usize,
    pub(super) taken: u64,
    /// Messages that were handled before counts began anew.
    pub(super) earlier: u64,
    /// Who waits for room, in order of arrival.
    pub(super) waiting: BTreeMap<u64, Waiting<S>>,
    pub(super) next_ticket: u64,
    /// Calls that were taken and may be unsettled, so that `abandon` can tell their callers while the service's thread
    /// hangs.
    in_hand: Vec<Arc<dyn CallEnvelope<S>>>,
    prune_at: usize,
    /// Set while the service sleeps for want of messages.
    pub(super) sleeper: Option<Waker>,
    pub(super) live: Option<Live>,
}

pub(super) struct Live {
    pub(super) incarnation: Incarnation,
    /// Wakes the instance whatever it does; `None` until it has been polled.
    pub(super) waker: Option<Waker>,
}

pub(super) struct Waiting<S> {
    pub(super) message: Queued<S>,
    pub(super) origin: Origin,
    /// A tell's sender waits for this; a call's caller waits for the reply anyway.
    pub(super) admission: Option<Arc<Admission>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Open,
    /// Services are answered, nobody else.
    ServicesOnly,
    /// Nothing new is accepted; what was accepted is answered.
    Stopping,
    /// Nobody is answered any more.
    Stopped,
    JobEnded,
}

impl Phase {
    pub(super) fn answers(self, origin: Origin) -> bool {
        self == Self::Open || (self == Self::ServicesOnly && origin == Origin::Service)
    }
}

impl<S> Queued<S> {
    /// Whether it is of the attempt, and of no use to the next one: what tasks and services have sent.
    pub(super) fn ends_with_attempt(&self) -> bool {
        let (Self::Tell(_, origin) | Self::Call(_, origin) | Self::Told { origin, .. }) = self;
        *origin != Origin::Outside
    }
}

/// What is told, and dropped, once the lock has been released.
pub(super) struct Left<S> {
    pub(super) queue: VecDeque<Queued<S>>,
    pub(super) waiting: Vec<Waiting<S>>,
    in_hand: Vec<Arc<dyn CallEnvelope<S>>>,
}

impl<S> Default for Left<S> {
    fn default() -> Self {
        Self { queue: VecDeque::new(), waiting: Vec::new(), in_hand: Vec::new() }
    }
}

impl<S> Left<S> {
    pub(super) fn tell(self) {
        self.queue.into_iter().for_each(Queued::give_up);
        for waiting in self.waiting {
            waiting.message.give_up();
            if let Some(admission) = waiting.admission {
                admission.refused();
            }
        }
        self.in_hand.into_iter().for_each(|call| call.give_up());
    }
}

impl<S> Inner<S> {
    pub(super) fn new() -> Self {
        Self {
            phase: Phase::Open,
            outside_only: false,
            queue: VecDeque::new(),
            outstanding: 0,
            taken: 0,
            earlier: 0,
            waiting: BTreeMap::new(),
            next_ticket: 0,
            in_hand: Vec::new(),
            prune_at: 0,
            sleeper: None,
            live: None,
        }
    }

    /// Moves those who wait into the queue, once it is half empty: a sender woken for each single message would cost
    /// more than the message.
    pub(super) fn admit(&mut self, capacity: usize) -> Vec<Arc<Admission>> {
        let mut admitted = Vec::new();
        // Less what was taken and still counts against the bound, which only a stand-in leaves.
        let capacity = capacity.saturating_sub(self.outstanding);
        if self.waiting.is_empty() || self.queue.len() > capacity / 2 {
            return admitted;
        }
        while self.queue.len() < capacity
            && let Some((_, waiting)) = self.waiting.pop_first()
        {
            self.queue.push_back(waiting.message);
            admitted.extend(waiting.admission);
        }
        admitted
    }

    /// As [`take_batch`](Self::take_batch), with what is outstanding already. False if that leaves too little room.
    pub(super) fn take_ahead(&mut self, batch: &mut VecDeque<Queued<S>>, capacity: usize) -> bool {
        let batch_max = (capacity / 4).clamp(1, BATCH_MAX);
        if self.outstanding > batch_max / 2 {
            return false;
        }
        let count = self.queue.len().min(batch_max - self.outstanding);
        batch.extend(self.queue.drain(..count));
        self.outstanding += count;
        self.taken += count as u64;
        true
    }

    pub(super) fn take_batch(&mut self, batch: &mut VecDeque<Queued<S>>, capacity: usize) {
        let batch_max = (capacity / 4).clamp(1, BATCH_MAX);
        if self.queue.len() <= batch_max {
            std::mem::swap(batch, &mut self.queue);
        } else {
            batch.extend(self.queue.drain(..batch_max));
        }
        self.outstanding = batch.len();
        self.taken += batch.len() as u64;
        for queued in &*batch {
            if let Queued::Call(call, _) = queued {
                self.in_hand.push(Arc::clone(call));
            }
        }
    }

    /// Forgets settled calls: at once while there are few, so that their memory is used again, and else when they have
    /// doubled, so that a thousand asynchronous replies in flight are not looked at for each message.
    pub(super) fn prune_in_hand(&mut self) {
        if self.in_hand.len() <= IN_HAND_FEW || self.in_hand.len() >= self.prune_at {
            self.in_hand.retain(|call| !call.is_settled());
            self.prune_at = 2 * self.in_hand.len();
        }
    }

    pub(super) fn refuse_waiting(&mut self, refused: impl Fn(Origin) -> bool) -> Left<S> {
        let waiting = self.waiting.extract_if(.., |_, waiting| refused(waiting.origin)).map(|(_, waiting)| waiting);
        Left { waiting: waiting.collect(), ..Left::default() }
    }

    pub(super) fn is_live(&self, incarnation: Incarnation) -> bool {
        self.live.as_ref().is_some_and(|live| live.incarnation == incarnation)
    }

    pub(super) fn refuses(&self, origin: Origin) -> bool {
        !self.phase.answers(origin) || self.outside_only && origin != Origin::Outside
    }

    /// Takes out what tasks and services of the attempt have sent, and refuses what they send from now on.
    pub(super) fn leave_to_outside(&mut self) -> Left<S> {
        self.outside_only = true;
        let (inside, kept) = std::mem::take(&mut self.queue).into_iter().partition(Queued::ends_with_attempt);
        self.queue = kept;
        Left { queue: inside, ..self.refuse_waiting(|origin| origin != Origin::Outside) }
    }

    pub(super) fn give_up_in_hand(&mut self) -> Left<S> {
        Left { in_hand: std::mem::take(&mut self.in_hand), ..Left::default() }
    }

    pub(super) fn give_up(&mut self) -> Left<S> {
        Left {
            queue: std::mem::take(&mut self.queue),
            waiting: std::mem::take(&mut self.waiting).into_values().collect(),
            in_hand: std::mem::take(&mut self.in_hand),
        }
    }

    pub(super) fn wakers(&mut self) -> [Option<Waker>; 2] {
        [self.sleeper.take(), self.live.as_ref().and_then(|live| live.waker.clone())]
    }
}
