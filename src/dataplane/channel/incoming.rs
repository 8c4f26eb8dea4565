//! Lanes whose producers are on other workers: what comes over a peer link goes into the gate encoded, and is decoded by
//! the consumer's task.

use std::sync::{Arc, Weak};

use super::{Gate, Lane, Packet, wake};
use crate::{
    codec::DecodeError,
    dataplane::{
        carry::{Carry, Encoded},
        mark::Mark,
    },
    peer::{Broken, Link, Receiver, Sink, StreamId, StreamMark},
};

/// Runs that wait behind each other are joined up to this size, so that many short ones do not take much more memory
/// than their bytes.
const JOINED_BYTES_MAX: usize = 16 << 10;

/// The receiving end of a stream that is a lane of a gate.
pub(super) struct Incoming<T> {
    pub receiver: Receiver,
    carry: Arc<dyn Carry<T>>,
}

/// A batch as it came from another worker.
pub(crate) struct EncodedBatch<T> {
    pub(super) encoded: Box<Encoded>,
    /// An emptied buffer to decode into.
    pub(super) into: Vec<T>,
    pub(super) incoming: Arc<Incoming<T>>,
}

impl<T> EncodedBatch<T> {
    pub fn items(&self) -> u64 {
        self.encoded.items
    }

    /// The worker that it came from.
    pub fn peer(&self) -> u32 {
        self.incoming.receiver.link().peer()
    }

    /// Runs the user's code.
    pub fn decode(mut self) -> Result<Vec<T>, DecodeError> {
        self.incoming.carry.decode(&self.encoded, &mut self.into)?;
        Ok(self.into)
    }
}

impl<T: Send + 'static> Gate<T> {
    /// Adds a lane for what comes on this stream of `link`, whose sender begins with so much credit.
    pub fn add_incoming(self: &Arc<Self>, link: &Arc<Link>, stream: StreamId, credit: u64, carry: Arc<dyn Carry<T>>) {
        let lane = self.add_lane().lane;
        let sink = Arc::new(LaneSink { gate: Arc::downgrade(self), lane, link: Arc::downgrade(link), stream });
        let receiver = link.receiver(stream, credit, sink);
        self.state.lock().lanes[lane].incoming = Some(Arc::new(Incoming { receiver, carry }));
    }
}

/// Puts what comes into a lane.
struct LaneSink<T> {
    /// The link has the sink, and the gate has the link: one of them has to let go.
    gate: Weak<Gate<T>>,
    lane: usize,
    link: Weak<Link>,
    stream: StreamId,
}

impl<T> LaneSink<T> {
    /// These were on their way past the link when the gate was closed, whose accounts may have been handed in.
    fn came_late(&self, items: u64) {
        if let Some(link) = self.link.upgrade() {
            link.came_late(self.stream, items);
        }
    }
}

impl<T: Send + 'static> Sink for LaneSink<T> {
    fn batch(&self, items: u64, bytes: Vec<u8>) {
        let Some(gate) = self.gate.upgrade() else { return self.came_late(items) };
        let mut state = gate.state.lock();
        let lane = &mut state.lanes[self.lane];
        if lane.closed {
            drop(state);
            return self.came_late(items);
        }
        state.queued += usize::from(lane.put_encoded(items, bytes));
        let consumer = state.consumer.take();
        drop(state);
        wake(consumer);
    }

    fn mark(&self, mark: StreamMark) {
        let Some(gate) = self.gate.upgrade() else { return };
        let mark = match mark {
            StreamMark::End => Mark::End,
            StreamMark::Hold(epoch) => Mark::Hold(epoch),
        };
        gate.mark(self.lane, mark);
    }

    /// The attempt is over, and the task is about to be cancelled. Until then it waits: an end is what this must not look like.
    fn broken(&self, _: &Broken) {}
}

impl<T> Lane<T> {
    /// Returns whether that is a batch of its own.
    fn put_encoded(&mut self, items: u64, bytes: Vec<u8>) -> bool {
        self.bytes += bytes.len();
        if let Some(Packet::Encoded(last)) = self.queue.back_mut()
            && last.bytes.len() + bytes.len() <= JOINED_BYTES_MAX
        {
            last.items = last.items.saturating_add(items);
            last.bytes.extend_from_slice(&bytes);
            return false;
        }
        self.batches += 1;
        self.queue.push_back(Packet::Encoded(Box::new(Encoded { items, bytes })));
        true
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::{
        super::{CloseAs, GateReceiver, LaneLimits},
        *,
    };
    use crate::dataplane::carry::carry;

    const CHANNEL: StreamId = StreamId::Channel(3);

    fn gate() -> (Arc<Link>, Arc<Gate<u8>>, LaneSink<u8>) {
        let gate = Gate::new(LaneLimits { batches: 1, bytes: 1, peer_bytes: 100 });
        let link = Link::new(1, false);
        gate.add_incoming(&link, CHANNEL, 100, carry());
        let sink = LaneSink { gate: Arc::downgrade(&gate), lane: 0, link: Arc::downgrade(&link), stream: CHANNEL };
        (link, gate, sink)
    }

    /// How many items the link says came late.
    fn late(link: &Link) -> u64 {
        let asks = Link::new(0, false);
        let _sender = asks.sender(CHANNEL, 100);
        let mut settle = asks.settle(&[CHANNEL]);
        let mut bytes = Vec::new();
        let cx = &mut Context::from_waker(Waker::noop());
        assert!(asks.poll_written(cx, &mut bytes).is_ready() && link.read(&bytes).is_ok());
        assert!(link.poll_written(cx, &mut bytes).is_ready() && asks.read(&bytes).is_ok());
        match std::pin::Pin::new(&mut settle).poll(cx) {
            Poll::Ready(Ok(late)) => late[0],
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn short_runs_are_joined_and_long_ones_are_not() {
        let (_link, gate, sink) = gate();
        for _ in 0..100 {
            sink.batch(2, vec![1; 2]);
        }
        sink.batch(20_000, vec![1; 20_000]);
        sink.mark(StreamMark::Hold(1));
        sink.batch(1, vec![1]);
        let state = gate.state.lock();
        let lane = &state.lanes[0];
        assert_eq!((lane.queue.len(), lane.batches, lane.bytes, state.queued), (4, 3, 20_201, 3));
    }

    /// The reader of the connection had the sink in hand already when the gate was closed, and its accounts were handed in.
    #[test]
    fn what_reaches_a_closed_gate_counts_as_late() {
        let (link, gate, sink) = gate();
        sink.batch(4, vec![1; 4]);
        let mut receiver = GateReceiver::new(gate);
        receiver.close(CloseAs::Refused);
        assert_eq!(receiver.accounts()[0].refused, 4);
        sink.batch(3, vec![1; 3]);
        assert_eq!(receiver.accounts()[0].refused, 4);
        assert_eq!(late(&link), 3);
        // Even when the task is gone, and with it the gate.
        drop(receiver);
        assert!(sink.gate.upgrade().is_none());
        sink.batch(2, vec![1; 2]);
        assert_eq!(late(&link), 5);
    }
}
