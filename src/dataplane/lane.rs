//! A channel of an exchange, as its producer sees it.

use std::{collections::VecDeque, rc::Rc, sync::Arc, task::Context};

use crate::{
    codec::EncodeError,
    dataplane::{
        carry::{Carry, Encoded},
        chain::{Failure, TaskState},
        channel::{LaneSender, Offer, Place},
        loops::LoopPart,
        mark::Mark,
    },
    job::FailureCause,
    peer::{Offered, Sender, StreamMark},
    protocol::Sent,
};

/// How much a batch weighs against the byte limit of its channel.
pub(crate) type Weigh<T> = Arc<dyn Fn(&T) -> usize + Send + Sync>;

/// One channel of an exchange, as its producer sees it.
pub(crate) struct OutLane<T> {
    pub(super) channel: usize,
    way: Way<T>,
    /// Not yet a full batch.
    pub(super) buffer: Vec<T>,
    /// Batches that found no credit, and marks behind them.
    backlog: VecDeque<Held<T>>,
    pub(super) closed: bool,
    /// Items thrown away because the consumer had closed its end.
    thrown: u64,
    sent: Sent,
    /// What the channel is to the loop that its producer is part of. One that leaves the loop is an `Entry` to what follows.
    pub(super) place: Place,
}

/// Where a channel leads.
enum Way<T> {
    /// To a task of this worker.
    Here(LaneSender<T>),
    /// To one of another worker. Boxed, because most lanes are of the other kind.
    There(Box<PeerLane<T>>),
}

struct PeerLane<T> {
    sender: Sender,
    carry: Arc<dyn Carry<T>>,
}

enum Held<T> {
    Batch(Vec<T>),
    /// Part of a batch for another worker. It is encoded once, however long it waits.
    Encoded(Encoded),
    Mark(Mark),
}

impl<T> Held<T> {
    fn items(&self) -> u64 {
        match self {
            Self::Batch(batch) => batch.len() as u64,
            Self::Encoded(encoded) => encoded.items,
            Self::Mark(_) => 0,
        }
    }
}

impl<T> Way<T> {
    fn mark(&self, mark: Mark) {
        match self {
            Self::Here(sender) => sender.mark(mark),
            Self::There(peer) => peer.sender.mark(match mark {
                Mark::End => StreamMark::End,
                Mark::Hold(epoch) => StreamMark::Hold(epoch),
            }),
        }
    }

    fn offer_encoded(&self, encoded: &Encoded) -> Offer {
        match self {
            Self::Here(_) => unreachable!("only what goes to another worker is encoded"),
            Self::There(peer) => peer.offer(encoded),
        }
    }
}

impl<T> PeerLane<T> {
    /// Whether the consumer wants no more. That is not known where the link broke: then the attempt is over, and the task
    /// waits until it is cancelled.
    fn is_closed(&self, says_closed: bool) -> bool {
        says_closed && self.sender.link().broken().is_none()
    }

    fn offer(&self, encoded: &Encoded) -> Offer {
        match self.sender.offer(encoded.items, &encoded.bytes) {
            Offered::Taken => Offer::Taken,
            Offered::Closed if self.is_closed(true) => Offer::Closed,
            Offered::Closed | Offered::Full => Offer::Full,
        }
    }
}

/// What all lanes of an exchange are sent with.
pub(crate) struct Out<T> {
    pub task: Rc<TaskState>,
    /// The name of the exchange.
    pub operator: String,
    pub weigh: Option<Weigh<T>>,
    pub batch_items: usize,
}

impl<T> Out<T> {
    fn unsent(&self, channel: usize, peer: u32, error: EncodeError) -> Failure {
        let (operator, instance) = (self.operator.clone(), self.task.context.instance());
        let failed = |message| FailureCause::Operator { operator, instance, position: 0, message };
        failed(format!("an item for worker {peer} (channel {channel}) cannot be encoded: {error}")).into()
    }
}

impl<T> OutLane<T> {
    pub fn new(channel: usize, sender: LaneSender<T>) -> Self {
        Self::on(channel, Way::Here(sender))
    }

    /// A lane to a task of another worker.
    pub fn to_peer(channel: usize, sender: Sender, carry: Arc<dyn Carry<T>>) -> Self {
        Self::on(channel, Way::There(Box::new(PeerLane { sender, carry })))
    }

    fn on(channel: usize, way: Way<T>) -> Self {
        Self {
            channel,
            way,
            buffer: Vec::new(),
            backlog: VecDeque::new(),
            closed: false,
            thrown: 0,
            sent: Sent::default(),
            place: Place::Entry,
        }
    }

    /// Has the task woken when credit comes back or the consumer closes the lane. Returns whether it is closed.
    pub fn register(&self, cx: &Context<'_>) -> bool {
        match &self.way {
            Way::Here(sender) => sender.register(cx),
            Way::There(peer) => peer.is_closed(peer.sender.register(cx)),
        }
    }

    /// Sends what the backlog and then the buffer hold, as far as there is credit. Fails where a loop is closed, and where an
    /// item cannot be encoded.
    pub fn push(&mut self, out: &Out<T>, partial: bool) -> Result<(), Failure> {
        if self.closed {
            self.close();
            return Ok(());
        }
        if self.work_off(out)? != Offer::Taken {
            return Ok(());
        }
        let due = if partial { 1 } else { out.batch_items };
        if self.buffer.len() < due {
            return Ok(());
        }
        let Way::Here(sender) = &self.way else {
            self.hold_batch();
            self.work_off(out)?;
            return Ok(());
        };
        let mut batch = std::mem::take(&mut self.buffer);
        let items = batch.len() as u64;
        let offer = self.offer(sender, &mut batch, out);
        self.buffer = batch;
        match offer? {
            Offer::Taken => self.sent.sent += items,
            Offer::Full => {
                // Kept as a batch only when it is full; a partial one may still grow.
                if self.buffer.len() >= out.batch_items {
                    self.hold_batch();
                }
            }
            Offer::Closed => self.close(),
        }
        Ok(())
    }

    /// Sends what the backlog holds. Says what became of the last thing offered.
    fn work_off(&mut self, out: &Out<T>) -> Result<Offer, Failure> {
        while let Some(held) = self.backlog.pop_front() {
            let items = held.items();
            let offer = match (held, &self.way) {
                (Held::Mark(mark), way) => {
                    way.mark(mark);
                    Offer::Taken
                }
                (Held::Batch(mut batch), Way::Here(sender)) => {
                    let offer = self.offer(sender, &mut batch, out);
                    if !matches!(offer, Ok(Offer::Taken)) {
                        self.backlog.push_front(Held::Batch(batch));
                    }
                    offer?
                }
                (Held::Batch(batch), Way::There(peer)) => {
                    match peer.carry.encode(&batch) {
                        Ok(pieces) => self.hold_encoded(batch, pieces),
                        Err(error) => {
                            let failure = out.unsent(self.channel, peer.sender.link().peer(), error);
                            self.backlog.push_front(Held::Batch(batch));
                            return Err(failure);
                        }
                    }
                    continue;
                }
                (Held::Encoded(encoded), way) => {
                    let offer = way.offer_encoded(&encoded);
                    if offer != Offer::Taken {
                        self.backlog.push_front(Held::Encoded(encoded));
                    }
                    offer
                }
            };
            match offer {
                Offer::Taken => self.sent.sent += items,
                Offer::Full => return Ok(Offer::Full),
                Offer::Closed => {
                    self.close();
                    return Ok(Offer::Closed);
                }
            }
        }
        Ok(Offer::Taken)
    }

    /// A batch was encoded: its pieces go next.
    fn hold_encoded(&mut self, mut batch: Vec<T>, pieces: Vec<Encoded>) {
        pieces.into_iter().rev().for_each(|piece| self.backlog.push_front(Held::Encoded(piece)));
        batch.clear();
        if self.buffer.capacity() == 0 {
            self.buffer = batch;
        }
    }

    /// Offers a batch to a channel of this worker.
    fn offer(&self, sender: &LaneSender<T>, batch: &mut Vec<T>, out: &Out<T>) -> Result<Offer, Failure> {
        let bytes = weight(batch, &out.weigh);
        match out.task.looped.as_ref().filter(|_| self.place != Place::Entry) {
            None => Ok(sender.offer(batch, bytes)),
            Some(looped) => self.offer_in_loop(sender, batch, bytes, looped),
        }
    }

    fn offer_in_loop(
        &self,
        sender: &LaneSender<T>,
        batch: &mut Vec<T>,
        bytes: usize,
        looped: &LoopPart,
    ) -> Result<Offer, Failure> {
        let future = looped.plan.channels.get(&self.channel).and_then(Option::as_ref);
        if let Some(future) = future.filter(|_| looped.watch.has_ended()) {
            let (future, items) = (future.to_string(), batch.len() as u64);
            return Err(FailureCause::LoopEnded { future, items }.into());
        }
        looped.watch.take_token();
        let offer = match self.place {
            Place::Closing => sender.offer_freely(batch, bytes, looped.plan.items_max),
            Place::Entry | Place::Inner => sender.offer(batch, bytes),
        };
        if offer == Offer::Taken {
            looped.sent();
            return Ok(offer);
        }
        looped.not_sent();
        match future.filter(|_| offer == Offer::Full) {
            Some(future) => {
                let (future, limit_items) = (future.to_string(), looped.plan.items_max as u64);
                Err(FailureCause::LoopTooLarge { future, limit_items }.into())
            }
            None => Ok(offer),
        }
    }

    pub fn mark(&mut self, mark: Mark) {
        if self.closed {
            return;
        }
        if !self.buffer.is_empty() {
            self.hold_batch();
        }
        self.backlog.push_back(Held::Mark(mark));
    }

    /// What is in the buffer goes as it is, as soon as there is credit.
    pub fn hold_batch(&mut self) {
        self.backlog.push_back(Held::Batch(std::mem::take(&mut self.buffer)));
    }

    /// Something waits for credit.
    pub fn is_blocked(&self) -> bool {
        !self.backlog.is_empty()
    }

    pub fn close(&mut self) {
        self.closed = true;
        self.thrown += self.waiting();
        self.backlog.clear();
        self.buffer.clear();
    }

    /// What came in after the last flush is yet to be sent: in a loop, a batch that no token stands for.
    pub fn owes(&self) -> bool {
        !self.closed && self.waiting() > 0
    }

    fn waiting(&self) -> u64 {
        self.buffer.len() as u64 + self.backlog.iter().map(Held::items).sum::<u64>()
    }

    /// The accounts of a producer that ends. `discarded`: what still waits counts as lost.
    pub fn settle(&mut self, discarded: bool) -> Sent {
        if discarded {
            // The consumer closed because it was cancelled too, so what was thrown away counts as lost with the job.
            self.sent.dropped += self.waiting() + self.thrown;
        }
        self.sent
    }
}

fn weight<T>(batch: &[T], weigh: &Option<Weigh<T>>) -> usize {
    match weigh {
        None => size_of_val(batch),
        Some(weigh) => batch.iter().map(|item| weigh(item)).sum(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::channel::{Gate, LaneLimits};

    /// What a timer or a call gave out behind the last flush did not count, and the task was at rest.
    #[test]
    fn a_batch_in_the_making_is_owed() {
        let mut lane = OutLane::new(0, Gate::new(LaneLimits { batches: 1, bytes: 1, peer_bytes: 1 }).add_lane());
        assert!(!lane.owes());
        lane.buffer.push(1);
        assert!(lane.owes());
        lane.close();
        assert!(!lane.owes(), "nobody waits for it");
    }
}
