//! One connection between two workers: what is to be written, what comes in, and who has how much credit. Pure: it knows no
//! socket and no clock. Whoever has the socket writes what [`Link::poll_written`] gives, and hands in what it reads.

use std::{
    collections::BTreeMap,
    fmt, mem,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use parking_lot::Mutex;

use super::{
    Broken, Offered, Sink, StreamId, StreamMark,
    frame::{self, Frame, Kind},
};
use crate::codec;

/// Bytes that wait to be written at most, but for one batch more: then senders wait.
const QUEUED_BYTES_MAX: usize = 8 << 20;

/// Bytes of a batch at most. What is larger breaks the link, so a sender refuses it before.
pub(crate) const BATCH_BYTES_MAX: usize = 16 << 20;

/// The end of a connection that this worker has.
pub(crate) struct Link {
    peer: u32,
    /// Frames have sums: the connection is in the clear.
    sums: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Frames to be written, one behind the other.
    out: Vec<u8>,
    /// Woken when there is something to write.
    writer: Option<Waker>,
    sending: BTreeMap<StreamId, Sending>,
    receiving: BTreeMap<StreamId, Receiving>,
    /// Questions whether everything has arrived, by number.
    asked: u64,
    settling: BTreeMap<u64, Settling>,
    /// Streams that wait until less is to be written.
    crowd: Vec<StreamId>,
    broken: Option<Broken>,
    /// Woken when the link breaks or is left.
    watcher: Option<Waker>,
    /// This end has said goodbye.
    leaving: bool,
    /// The other end has said goodbye.
    left: bool,
}

struct Sending {
    /// May be below nothing, by one batch.
    credit: i64,
    closed: bool,
    waker: Option<Waker>,
}

struct Receiving {
    /// Taken out when the stream is closed.
    sink: Option<Arc<dyn Sink>>,
    credit: u64,
    /// Used up and not given back yet.
    owed: u64,
    /// Items that came after the stream was closed.
    late: u64,
}

#[derive(Default)]
struct Settling {
    late: Option<Vec<u64>>,
    waker: Option<Waker>,
}

impl State {
    fn wake_writer(&mut self) -> Option<Waker> {
        self.writer.take()
    }
}

impl Link {
    /// The link to this worker. `sums`: its bytes go in the clear.
    pub fn new(peer: u32, sums: bool) -> Arc<Self> {
        Arc::new(Self { peer, sums, state: Mutex::default() })
    }

    pub fn peer(&self) -> u32 {
        self.peer
    }

    /// The sending end of a stream, which begins with so much credit. The receiver has to know it with the same credit
    /// before anything is sent.
    pub fn sender(self: &Arc<Self>, stream: StreamId, credit: u64) -> Sender {
        let mut state = self.state.lock();
        let closed = state.broken.is_some();
        let credit = i64::try_from(credit.max(1)).unwrap_or(i64::MAX);
        state.sending.insert(stream, Sending { credit, closed, waker: None });
        Sender { link: Arc::clone(self), stream }
    }

    /// The receiving end of a stream.
    pub fn receiver(self: &Arc<Self>, stream: StreamId, credit: u64, sink: Arc<dyn Sink>) -> Receiver {
        let mut state = self.state.lock();
        let broken = state.broken.clone();
        let kept = broken.is_none().then(|| Arc::clone(&sink));
        state.receiving.insert(stream, Receiving { sink: kept, credit: credit.max(1), owed: 0, late: 0 });
        drop(state);
        if let Some(broken) = broken {
            sink.broken(&broken);
        }
        Receiver { link: Arc::clone(self), stream }
    }

    /// Ready once everything that was offered before has arrived, with the items of each of `streams` that came after it was
    /// closed. Nothing may be sent on those streams any more.
    pub fn settle(self: &Arc<Self>, streams: &[StreamId]) -> Settle {
        let mut state = self.state.lock();
        let number = state.asked;
        state.asked += 1;
        state.settling.insert(number, Settling::default());
        let mut payload = Vec::new();
        codec::encode_into(streams, &mut payload).expect("numbers are encoded");
        let writer = self.put(&mut state, Kind::Settle, StreamId::Calls, number, &payload);
        drop(state);
        wake(writer);
        Settle { link: Arc::clone(self), number }
    }

    fn put(&self, state: &mut State, kind: Kind, stream: StreamId, count: u64, payload: &[u8]) -> Option<Waker> {
        if state.broken.is_some() || state.leaving {
            return None;
        }
        frame::put(&mut state.out, self.sums, kind, stream, count, payload);
        state.wake_writer()
    }

    /// What is to be written now, swapped for the empty `spare`; `None` once there is nothing more to come.
    pub fn poll_written(&self, cx: &Context<'_>, spare: &mut Vec<u8>) -> Poll<Option<()>> {
        spare.clear();
        let mut state = self.state.lock();
        if state.broken.is_some() {
            return Poll::Ready(None);
        }
        if state.out.is_empty() {
            if state.leaving {
                return Poll::Ready(None);
            }
            state.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        mem::swap(&mut state.out, spare);
        let crowd = mem::take(&mut state.crowd);
        let wakers: Vec<Waker> =
            crowd.iter().filter_map(|stream| state.sending.get_mut(stream)?.waker.take()).collect();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        Poll::Ready(Some(()))
    }

    /// Takes in whole frames from the front of `bytes`, and says how many bytes that was.
    ///
    /// # Errors
    ///
    /// The other end broke a rule, or bytes were changed. The link is to be [broken off](Self::break_off) with these words.
    pub fn read(&self, bytes: &[u8]) -> Result<usize, String> {
        let mut used = 0;
        while let Some((frame, length)) = frame::take(&bytes[used..], self.sums).map_err(|error| error.to_string())? {
            self.take_in(&frame)?;
            used += length;
        }
        Ok(used)
    }

    fn take_in(&self, frame: &Frame<'_>) -> Result<(), String> {
        let Frame { kind, stream, count, payload } = *frame;
        let mut state = self.state.lock();
        if state.left {
            return Err("it went on after its goodbye".to_owned());
        }
        match kind {
            Kind::Batch | Kind::End | Kind::Hold => {
                let known = state.receiving.get_mut(&stream).ok_or_else(|| format!("there is no stream {stream:?}"))?;
                let Some(sink) = known.sink.clone() else {
                    if kind == Kind::Batch {
                        known.late = known.late.saturating_add(count);
                    }
                    return Ok(());
                };
                drop(state);
                match kind {
                    Kind::Batch => sink.batch(count, payload.to_vec()),
                    Kind::End => sink.mark(StreamMark::End),
                    _ => sink.mark(StreamMark::Hold(u32::try_from(count).map_err(|_| "no such epoch".to_owned())?)),
                }
            }
            Kind::Grant | Kind::Close => {
                let known = state.sending.get_mut(&stream).ok_or_else(|| format!("there is no stream {stream:?}"))?;
                if kind == Kind::Close {
                    known.closed = true;
                } else {
                    let granted = i64::try_from(count).map_err(|_| "too much credit".to_owned())?;
                    known.credit = known.credit.checked_add(granted).ok_or("too much credit")?;
                }
                let waker = known.waker.take();
                drop(state);
                wake(waker);
            }
            Kind::Settle => {
                let streams: Vec<StreamId> = codec::decode(payload).map_err(|error| error.to_string())?;
                let late = |stream| state.receiving.get(stream).map_or(0, |known| known.late);
                let late: Vec<u64> = streams.iter().map(late).collect();
                let mut answer = Vec::new();
                codec::encode_into(&late, &mut answer).expect("numbers are encoded");
                let writer = self.put(&mut state, Kind::Settled, StreamId::Calls, count, &answer);
                drop(state);
                wake(writer);
            }
            Kind::Settled => {
                let late: Vec<u64> = codec::decode(payload).map_err(|error| error.to_string())?;
                // Whoever asked may not wait any more.
                let Some(settling) = state.settling.get_mut(&count) else { return Ok(()) };
                settling.late = Some(late);
                let waker = settling.waker.take();
                drop(state);
                wake(waker);
            }
            Kind::Ping => {}
            Kind::Goodbye => state.left = true,
        }
        Ok(())
    }

    /// Says that this end is there, for a connection that is silent otherwise.
    pub fn ping(&self) {
        let mut state = self.state.lock();
        let writer =
            if state.out.is_empty() { self.put(&mut state, Kind::Ping, StreamId::Calls, 0, &[]) } else { None };
        drop(state);
        wake(writer);
    }

    /// The attempt is over here: what is queued is written, then a goodbye, and nothing more.
    pub fn leave(&self) {
        let mut state = self.state.lock();
        self.put(&mut state, Kind::Goodbye, StreamId::Calls, 0, &[]);
        state.leaving = true;
        let (writer, watcher) = (state.wake_writer(), state.watcher.take());
        drop(state);
        wake(writer);
        wake(watcher);
    }

    /// Whether either end has said goodbye: then the connection may end without harm.
    pub fn is_leaving(&self) -> bool {
        let state = self.state.lock();
        state.leaving || state.left
    }

    /// Ready once the link broke; with nothing, once this end has said goodbye.
    pub fn severed(self: &Arc<Self>) -> Severed {
        Severed(Arc::clone(self))
    }

    /// The connection is gone, for this reason: senders are closed, sinks told, questions answered so. The first call counts.
    pub fn break_off(&self, message: impl Into<String>) {
        let broken = Broken { peer: self.peer, message: message.into() };
        let mut state = self.state.lock();
        if state.broken.is_some() {
            return;
        }
        state.broken = Some(broken.clone());
        state.out = Vec::new();
        let mut wakers: Vec<Waker> = state.wake_writer().into_iter().collect();
        wakers.extend(state.watcher.take());
        for sending in state.sending.values_mut() {
            sending.closed = true;
            wakers.extend(sending.waker.take());
        }
        wakers.extend(state.settling.values_mut().filter_map(|settling| settling.waker.take()));
        let sinks: Vec<_> = state.receiving.values_mut().filter_map(|receiving| receiving.sink.take()).collect();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        sinks.iter().for_each(|sink| sink.broken(&broken));
    }

    pub fn broken(&self) -> Option<Broken> {
        self.state.lock().broken.clone()
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("peer", &self.peer).finish_non_exhaustive()
    }
}

/// The sending end of a stream.
pub(crate) struct Sender {
    link: Arc<Link>,
    stream: StreamId,
}

impl Sender {
    /// Offers so many encoded items. If they are taken, so they are copied; `bytes` stays as it is. A batch larger than the
    /// credit is taken if any credit is left.
    pub fn offer(&self, items: u64, bytes: &[u8]) -> Offered {
        let mut guard = self.link.state.lock();
        let state = &mut *guard;
        let Some(sending) = state.sending.get_mut(&self.stream).filter(|sending| !sending.closed) else {
            return Offered::Closed;
        };
        if sending.credit <= 0 {
            return Offered::Full;
        }
        if state.out.len() > QUEUED_BYTES_MAX {
            if !state.crowd.contains(&self.stream) {
                state.crowd.push(self.stream);
            }
            return Offered::Full;
        }
        sending.credit -= i64::try_from(bytes.len()).unwrap_or(i64::MAX);
        let writer = self.link.put(state, Kind::Batch, self.stream, items, bytes);
        drop(guard);
        wake(writer);
        Offered::Taken
    }

    /// As [`offer`](Self::offer), for the few short batches that must not wait: it takes no credit, and the receiver gives
    /// none back.
    pub fn say(&self, items: u64, bytes: &[u8]) {
        let mut state = self.link.state.lock();
        if state.sending.get(&self.stream).is_none_or(|sending| sending.closed) {
            return;
        }
        let writer = self.link.put(&mut state, Kind::Batch, self.stream, items, bytes);
        drop(state);
        wake(writer);
    }

    /// Needs no credit, but keeps its place.
    pub fn mark(&self, mark: StreamMark) {
        let (kind, count) = match mark {
            StreamMark::End => (Kind::End, 0),
            StreamMark::Hold(epoch) => (Kind::Hold, u64::from(epoch)),
        };
        let mut state = self.link.state.lock();
        let writer = self.link.put(&mut state, kind, self.stream, count, &[]);
        drop(state);
        wake(writer);
    }

    /// Has the waker woken when there may be room, or the other end has closed the stream. Returns whether it is closed.
    pub fn register(&self, cx: &Context<'_>) -> bool {
        let mut state = self.link.state.lock();
        let Some(sending) = state.sending.get_mut(&self.stream) else { return true };
        if !sending.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            sending.waker = Some(cx.waker().clone());
        }
        sending.closed
    }

    pub fn stream(&self) -> StreamId {
        self.stream
    }

    pub fn link(&self) -> &Arc<Link> {
        &self.link
    }
}

/// The receiving end of a stream.
pub(crate) struct Receiver {
    link: Arc<Link>,
    stream: StreamId,
}

impl Receiver {
    /// So many bytes of batches that came are used up. Given back to the sender when it has become a good part of the whole.
    pub fn grant(&self, bytes: u64) {
        let mut guard = self.link.state.lock();
        let state = &mut *guard;
        let Some(receiving) = state.receiving.get_mut(&self.stream) else { return };
        receiving.owed += bytes;
        if receiving.owed < receiving.credit / 4 || receiving.owed == 0 || receiving.sink.is_none() {
            return;
        }
        let granted = mem::take(&mut receiving.owed);
        let writer = self.link.put(state, Kind::Grant, self.stream, granted, &[]);
        drop(guard);
        wake(writer);
    }

    /// So many items reached the sink, of which it wanted no more: they count as those that come after the close.
    pub fn came_late(&self, items: u64) {
        if let Some(receiving) = self.link.state.lock().receiving.get_mut(&self.stream) {
            receiving.late = receiving.late.saturating_add(items);
        }
    }

    /// Nothing more is wanted. The sink is not called any more, but for a call that is under way.
    pub fn close(&self) {
        let mut guard = self.link.state.lock();
        let state = &mut *guard;
        let Some(sink) = state.receiving.get_mut(&self.stream).and_then(|receiving| receiving.sink.take()) else {
            return;
        };
        let writer = self.link.put(state, Kind::Close, self.stream, 0, &[]);
        drop(guard);
        wake(writer);
        drop(sink);
    }

    pub fn link(&self) -> &Arc<Link> {
        &self.link
    }
}

/// See [`Link::settle`].
#[must_use = "nothing is known before it is awaited"]
pub(crate) struct Settle {
    link: Arc<Link>,
    number: u64,
}

impl Future for Settle {
    type Output = Result<Vec<u64>, Broken>;

    fn poll(self: std::pin::Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.link.state.lock();
        if let Some(broken) = &state.broken {
            return Poll::Ready(Err(broken.clone()));
        }
        let Some(settling) = state.settling.get_mut(&self.number) else { return Poll::Pending };
        match settling.late.take() {
            Some(late) => Poll::Ready(Ok(late)),
            None => {
                settling.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Settle {
    fn drop(&mut self) {
        self.link.state.lock().settling.remove(&self.number);
    }
}

/// See [`Link::severed`]. One at a time is told.
#[must_use = "nothing is known before it is awaited"]
pub(crate) struct Severed(Arc<Link>);

impl Future for Severed {
    type Output = Option<Broken>;

    fn poll(self: std::pin::Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.0.state.lock();
        if state.leaving {
            return Poll::Ready(None);
        }
        if let Some(broken) = &state.broken {
            return Poll::Ready(Some(broken.clone()));
        }
        state.watcher = Some(cx.waker().clone());
        Poll::Pending
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Notes what comes.
    #[derive(Default)]
    struct Notes(Mutex<Vec<String>>);

    impl Sink for Notes {
        fn batch(&self, items: u64, bytes: Vec<u8>) {
            self.0.lock().push(format!("{items}:{}", bytes.len()));
        }

        fn mark(&self, mark: StreamMark) {
            self.0.lock().push(format!("{mark:?}"));
        }

        fn broken(&self, why: &Broken) {
            self.0.lock().push(why.message.clone());
        }
    }

    const CHANNEL: StreamId = StreamId::Channel(7);

    fn pair() -> (Arc<Link>, Arc<Link>) {
        (Link::new(1, true), Link::new(0, true))
    }

    /// Has `to` read what `from` has to write.
    fn carry(from: &Arc<Link>, to: &Arc<Link>) {
        let mut bytes = Vec::new();
        while from.poll_written(&Context::from_waker(Waker::noop()), &mut bytes).is_ready() && !bytes.is_empty() {
            assert_eq!(to.read(&bytes), Ok(bytes.len()));
        }
    }

    fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
        std::pin::Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn what_is_sent_never_exceeds_the_credit_by_more_than_a_batch() {
        let (a, b) = pair();
        let notes = Arc::new(Notes::default());
        let (sender, receiver) = (a.sender(CHANNEL, 100), b.receiver(CHANNEL, 100, notes.clone()));
        assert_eq!(sender.offer(1, &[0; 60]), Offered::Taken);
        assert_eq!(sender.offer(1, &[0; 60]), Offered::Taken);
        assert_eq!(sender.offer(1, &[0; 1]), Offered::Full);
        sender.mark(StreamMark::Hold(3));
        carry(&a, &b);
        receiver.grant(10);
        carry(&b, &a);
        assert_eq!(sender.offer(1, &[0; 1]), Offered::Full, "small change is kept");
        receiver.grant(50);
        carry(&b, &a);
        assert_eq!(sender.offer(2, &[0; 500]), Offered::Taken);
        sender.mark(StreamMark::End);
        carry(&a, &b);
        assert_eq!(*notes.0.lock(), ["1:60", "1:60", "Hold(3)", "2:500", "End"]);
    }

    #[test]
    fn what_comes_after_the_close_is_told_when_it_is_settled() {
        let (a, b) = pair();
        let notes = Arc::new(Notes::default());
        let (sender, receiver) = (a.sender(CHANNEL, 100), b.receiver(CHANNEL, 100, notes.clone()));
        assert_eq!(sender.offer(3, &[0; 9]), Offered::Taken);
        carry(&a, &b);
        assert_eq!(sender.offer(4, &[0; 9]), Offered::Taken);
        receiver.close();
        carry(&a, &b);
        let mut settle = a.settle(&[CHANNEL, StreamId::Channel(8)]);
        assert!(poll(&mut settle).is_pending());
        carry(&b, &a);
        assert_eq!(sender.offer(5, &[0; 9]), Offered::Closed);
        carry(&a, &b);
        carry(&b, &a);
        assert_eq!(poll(&mut settle), Poll::Ready(Ok(vec![4, 0])));
        assert_eq!(*notes.0.lock(), ["3:9"]);
    }

    #[test]
    fn a_link_that_breaks_closes_its_senders_and_tells_its_sinks() {
        let (a, b) = pair();
        let notes = Arc::new(Notes::default());
        let (sender, _receiver) = (a.sender(CHANNEL, 100), a.receiver(CHANNEL, 100, notes.clone()));
        let mut settle = a.settle(&[]);
        a.break_off("cut");
        a.break_off("again");
        assert_eq!(sender.offer(1, &[0]), Offered::Closed);
        assert!(matches!(poll(&mut settle), Poll::Ready(Err(broken)) if broken.message == "cut"));
        assert_eq!(*notes.0.lock(), ["cut"]);
        assert!(!b.is_leaving());
    }

    #[test]
    fn a_goodbye_is_the_last_that_is_said() {
        let (a, b) = pair();
        a.leave();
        a.ping();
        carry(&a, &b);
        assert!(b.is_leaving());
        let mut rest = Vec::new();
        assert_eq!(a.poll_written(&Context::from_waker(Waker::noop()), &mut rest), Poll::Ready(None));
        assert!(
            b.read(&{
                let mut more = Vec::new();
                frame::put(&mut more, true, Kind::Ping, StreamId::Calls, 0, &[]);
                more
            })
            .is_err()
        );
    }

    #[test]
    fn what_breaks_a_rule_is_refused() {
        let (_, b) = pair();
        for (kind, count) in [(Kind::Batch, 1), (Kind::Grant, 1), (Kind::Close, 0)] {
            let mut bytes = Vec::new();
            frame::put(&mut bytes, true, kind, CHANNEL, count, &[]);
            assert!(b.read(&bytes).is_err(), "{kind:?} of a stream that nobody knows");
        }
    }
}
