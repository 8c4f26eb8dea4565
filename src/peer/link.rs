//! One connection between two workers: what is to be written, what comes in, and who has how much credit. Pure: it knows no
//! socket and no clock. The owner of the socket writes what [`Link::poll_written`] gives, and hands in what it reads.

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
    /// Woken when the link's standing changes.
    keeper: Option<Waker>,
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

/// How a link stands with this end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    Up,
    /// This end has said goodbye, or will have once all is written.
    Leaving,
    /// Nothing goes over it any more.
    Over,
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

    /// How the link stands. The keeper of the connection is woken when that changes.
    pub fn poll_standing(&self, cx: &Context<'_>) -> Standing {
        let mut state = self.state.lock();
        if state.broken.is_some() {
            return Standing::Over;
        }
        if !state.keeper.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            state.keeper = Some(cx.waker().clone());
        }
        if state.leaving { Standing::Leaving } else { Standing::Up }
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
                // The asker may not wait any more.
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

    /// These items of a stream came after it was closed, although its sink was called: it had been by then.
    pub fn came_late(&self, stream: StreamId, items: u64) {
        if let Some(receiving) = self.state.lock().receiving.get_mut(&stream) {
            receiving.late = receiving.late.saturating_add(items);
        }
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
        let (writer, watcher, keeper) = (state.wake_writer(), state.watcher.take(), state.keeper.take());
        drop(state);
        [writer, watcher, keeper].into_iter().for_each(wake);
    }

    /// Whether either end has said goodbye: then the connection may end without harm.
    pub fn is_leaving(&self) -> bool {
        let state = self.state.lock();
        state.leaving || state.left
    }

    /// Ready once the link broke; with nothing, once an end has said goodbye.
    pub fn severed(self: &Arc<Self>) -> Severed {
        Severed(Arc::clone(self))
    }

    /// The connection is gone, for this reason: senders are closed, sinks told, questions answered so. The first call counts.
    pub fn break_off(&self, message: impl Into<String>) {
        let broken = Broken { peer: self.peer, message: message.into() };
        self.end(&broken).iter().for_each(|sink| sink.broken(&broken));
    }

    /// The connection is gone, after a goodbye. As if it had [broken](Self::break_off), but no sink is told, because it
    /// would take this for a failure of the attempt.
    pub fn part(&self) {
        drop(self.end(&Broken { peer: self.peer, message: "the attempt is over there or here".to_owned() }));
    }

    /// Returns the sinks of streams that were open.
    fn end(&self, broken: &Broken) -> Vec<Arc<dyn Sink>> {
        let mut state = self.state.lock();
        if state.broken.is_some() {
            return Vec::new();
        }
        state.broken = Some(broken.clone());
        state.out = Vec::new();
        let wakers = [state.wake_writer(), state.watcher.take(), state.keeper.take()];
        let mut wakers: Vec<Waker> = wakers.into_iter().flatten().collect();
        for sending in state.sending.values_mut() {
            sending.closed = true;
            wakers.extend(sending.waker.take());
        }
        wakers.extend(state.settling.values_mut().filter_map(|settling| settling.waker.take()));
        let sinks: Vec<_> = state.receiving.values_mut().filter_map(|receiving| receiving.sink.take()).collect();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        sinks
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
        if state.leaving || state.left {
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
mod tests;
