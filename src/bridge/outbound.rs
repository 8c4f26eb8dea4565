//! What one side still has to send, in three lanes, and the one place where it is written.
//!
//! Every round of writing takes all of the control lane, some of the calls and one message of data, in whole frames.
//! So neither a long queue nor a large message of one lane holds up another for longer than a round. Whatever came in
//! while a round was being written goes out with the next one: frames to one peer are coalesced by how busy the
//! connection is, and by no timer.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker, ready},
};

use futures::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::{
    io::AsyncWrite,
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
};

use super::{
    frame::{Integrity, Kind, Lane, frame_bytes, overhead, write_message},
    stream::WriteHalf,
};

/// Bytes of calls in one round of writing, or one frame if that is larger.
const ROUND_CALLS_BYTES: usize = 256 << 10;

/// Data messages that wait for their round at most; then those who make them wait.
const DATA_MESSAGES_MAX: usize = 8;

/// Frames are gathered in pieces of about this size.
const SEGMENT_BYTES: usize = 64 << 10;

/// Room that the write buffer keeps when it has been written.
const BUFFER_KEPT_BYTES: usize = 1 << 20;

/// The sending side of one connection. Anyone may queue frames, on any thread; they are written by the connection's
/// task, or at once by whoever [`flush`](Self::flush)es.
pub(super) struct Outbound {
    integrity: Integrity,
    queues: Mutex<Queues>,
    /// Never locked while `queues` is.
    writer: Mutex<Writer>,
    task: Arc<TaskWaker>,
    /// Wakes `task`.
    waker: Waker,
    data_room: Arc<Semaphore>,
    /// Bytes of control and calls that are queued and not written, for a reader that must not read on while its answers pile
    /// up.
    backlog: AtomicUsize,
    /// Told when some of them were written.
    drained: Notify,
    /// Bytes written so far: a peer that takes them is alive.
    written: AtomicU64,
}

#[derive(Default)]
struct Queues {
    control: FrameQueue,
    calls: FrameQueue,
    data: VecDeque<DataMessage>,
    state: State,
}

#[derive(Default)]
enum State {
    #[default]
    Open,
    /// What is queued is still written, then the stream is shut down.
    Closing,
    /// Nothing is written any more.
    Over,
}

/// A message of the data lane. Its frames are made when its round comes, so that it is copied once.
pub(super) struct DataMessage {
    pub kind: Kind,
    pub id: u64,
    /// What goes before `bytes`, if anything.
    pub head: Option<[u8; 16]>,
    pub bytes: Arc<Vec<u8>>,
    /// A place among those that wait; given back when its round comes.
    pub room: Option<OwnedSemaphorePermit>,
}

struct Writer {
    /// Gone once it failed or the connection is over, so that the stream is closed whoever may still hold this.
    half: Option<WriteHalf>,
    buffer: Vec<u8>,
    written: usize,
    /// Bytes of control and calls in `buffer`.
    counted: usize,
}

impl Writer {
    fn half(&mut self) -> io::Result<Pin<&mut WriteHalf>> {
        self.half.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }
}

struct TaskWaker(AtomicWaker);

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.0.wake();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.wake();
    }
}

/// Encoded frames of one lane.
#[derive(Default)]
struct FrameQueue {
    segments: VecDeque<Vec<u8>>,
    bytes: usize,
}

impl FrameQueue {
    fn push(&mut self, integrity: Integrity, kind: Kind, lane: Lane, id: u64, parts: &[&[u8]]) -> usize {
        if self.segments.back().is_none_or(|last| last.len() >= SEGMENT_BYTES) {
            self.segments.push_back(Vec::new());
        }
        let last = self.segments.back_mut().expect("one was just made sure of");
        let before = last.len();
        write_message(last, integrity, kind, lane, id, parts);
        let added = last.len() - before;
        self.bytes += added;
        added
    }

    /// Moves whole frames to the end of `into`, up to about `max` bytes but one frame at least.
    fn take(&mut self, integrity: Integrity, into: &mut Vec<u8>, max: usize) -> usize {
        let mut taken = 0;
        while taken < max
            && let Some(first) = self.segments.front_mut()
        {
            if first.len() <= max - taken {
                taken += first.len();
                if into.is_empty() {
                    std::mem::swap(into, first);
                } else {
                    into.extend_from_slice(first);
                }
                self.segments.pop_front();
                continue;
            }
            let mut end = 0;
            while end < first.len() && (taken + end == 0 || taken + end < max) {
                end += frame_bytes(integrity, &first[end..]);
            }
            into.extend_from_slice(&first[..end]);
            // What is left is cut off rather than moved down each time, so that a large message costs one more copy.
            *first = first.split_off(end);
            if first.is_empty() {
                self.segments.pop_front();
            }
            taken += end;
            break;
        }
        self.bytes -= taken;
        taken
    }
}

impl Outbound {
    pub(super) fn new(half: impl AsyncWrite + Send + Unpin + 'static, integrity: Integrity) -> Arc<Self> {
        let task = Arc::new(TaskWaker(AtomicWaker::new()));
        let waker = Waker::from(Arc::clone(&task));
        let writer = Writer { half: Some(Box::new(half)), buffer: Vec::new(), written: 0, counted: 0 };
        Arc::new(Self {
            integrity,
            queues: Mutex::default(),
            writer: Mutex::new(writer),
            task,
            waker,
            data_room: Arc::new(Semaphore::new(DATA_MESSAGES_MAX)),
            backlog: AtomicUsize::new(0),
            drained: Notify::new(),
            written: AtomicU64::new(0),
        })
    }

    /// How changes on the way are noticed on this connection, in both directions.
    pub(super) fn integrity(&self) -> Integrity {
        self.integrity
    }

    /// Queues a message and has it written soon. What is queued once the connection is closing is dropped.
    pub(super) fn push(&self, kind: Kind, lane: Lane, id: u64, parts: &[&[u8]]) {
        self.enqueue(kind, lane, id, parts);
        self.task.0.wake();
    }

    /// Queues a message and writes what is queued on the calling thread, unless another one is doing that: it saves the
    /// way over the connection's thread where somebody waits for the answer.
    pub(super) fn push_and_flush(&self, kind: Kind, lane: Lane, id: u64, parts: &[&[u8]]) {
        self.enqueue(kind, lane, id, parts);
        self.flush();
    }

    /// Has what is queued written soon.
    pub(super) fn wake(&self) {
        self.task.0.wake();
    }

    /// Queues a message of the control or the call lane, and leaves it to the caller to have it written.
    pub(super) fn enqueue(&self, kind: Kind, lane: Lane, id: u64, parts: &[&[u8]]) {
        let mut queues = self.queues.lock();
        if !matches!(queues.state, State::Open) {
            return;
        }
        let queue = if lane == Lane::Calls { &mut queues.calls } else { &mut queues.control };
        let added = queue.push(self.integrity, kind, lane, id, parts);
        self.backlog.fetch_add(added, Ordering::Relaxed);
    }

    /// Queues a message of the data lane.
    pub(super) fn push_data(&self, message: DataMessage) {
        let mut queues = self.queues.lock();
        if matches!(queues.state, State::Open) {
            queues.data.push_back(message);
            drop(queues);
            self.task.0.wake();
        }
    }

    /// A place in the queue of the data lane, in the order in which they are asked for.
    pub(super) async fn data_room(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.data_room).acquire_owned().await.ok()
    }

    /// Bytes of control and calls that are queued and not written.
    pub(super) fn backlog(&self) -> usize {
        self.backlog.load(Ordering::Relaxed)
    }

    /// Bytes written so far.
    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Ready when at most `max` bytes of control and calls are queued and not written.
    pub(super) async fn drained(&self, max: usize) {
        loop {
            let drained = self.drained.notified();
            if self.backlog() <= max {
                return;
            }
            drained.await;
        }
    }

    /// Queues a last message; nothing is accepted behind it. Then the stream is shut down.
    pub(super) fn finish(&self, kind: Kind, lane: Lane, id: u64, parts: &[&[u8]]) {
        self.enqueue(kind, lane, id, parts);
        let mut queues = self.queues.lock();
        if matches!(queues.state, State::Open) {
            queues.state = State::Closing;
        }
        drop(queues);
        self.task.0.wake();
    }

    /// Writes as much as the stream takes without waiting.
    pub(super) fn flush(&self) {
        let Some(mut writer) = self.writer.try_lock() else {
            // Whoever writes may have looked at the queues already; the task looks again.
            return self.task.0.wake();
        };
        let mut cx = Context::from_waker(&self.waker);
        // One round, so that the caller is not kept busy with what others queue meanwhile; and what the stream has
        // gathered by itself. If the stream is not ready, it wakes the task.
        let over = match self.poll_round(&mut writer, &mut cx) {
            Poll::Ready(Ok(true)) => match writer.half() {
                Ok(half) => half.poll_flush(&mut cx).map_ok(|()| true),
                Err(error) => Poll::Ready(Err(error)),
            },
            other => other,
        };
        drop(writer);
        if matches!(over, Poll::Ready(Err(_))) || self.has_more() {
            self.task.0.wake();
        }
    }

    fn has_more(&self) -> bool {
        let queues = self.queues.lock();
        queues.control.bytes + queues.calls.bytes > 0 || !queues.data.is_empty() || !matches!(queues.state, State::Open)
    }

    /// The connection's task: writes what is queued, for as long as the connection lasts. Ready when it was finished and
    /// all is written, or with why it cannot be.
    pub(super) fn poll_write(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.task.0.register(cx.waker());
        let mut cx = Context::from_waker(&self.waker);
        let mut writer = self.writer.lock();
        loop {
            if ready!(self.poll_round(&mut writer, &mut cx))? {
                continue;
            }
            let mut queues = self.queues.lock();
            match queues.state {
                State::Closing => queues.state = State::Over,
                State::Over => {}
                State::Open => return Poll::Pending,
            }
            drop(queues);
            return writer.half()?.poll_shutdown(&mut cx);
        }
    }

    /// Writes what was taken before, or takes and writes another round. Whether there was anything.
    fn poll_round(&self, writer: &mut Writer, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if writer.written == writer.buffer.len() {
            writer.buffer.clear();
            writer.buffer.shrink_to(BUFFER_KEPT_BYTES);
            writer.written = 0;
            writer.counted = self.take_round(&mut writer.buffer);
        }
        if writer.buffer.is_empty() {
            // Only a stream that gathers by itself, such as TLS, has anything to flush.
            ready!(writer.half()?.poll_flush(cx))?;
            return Poll::Ready(Ok(false));
        }
        while writer.written < writer.buffer.len() {
            let Some(half) = &mut writer.half else { return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())) };
            let wrote = ready!(Pin::new(half).poll_write(cx, &writer.buffer[writer.written..]));
            let wrote = wrote.and_then(|n| if n == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(n) });
            match wrote {
                Ok(n) => {
                    writer.written += n;
                    self.written.fetch_add(n as u64, Ordering::Relaxed);
                }
                Err(error) => {
                    writer.half = None;
                    return Poll::Ready(Err(error));
                }
            }
        }
        let counted = std::mem::take(&mut writer.counted);
        if counted > 0 {
            self.backlog.fetch_sub(counted, Ordering::Relaxed);
            self.drained.notify_waiters();
        }
        Poll::Ready(Ok(true))
    }

    /// Moves a round to the buffer. Returns how many bytes of control and calls it has.
    fn take_round(&self, into: &mut Vec<u8>) -> usize {
        let mut queues = self.queues.lock();
        let mut taken = queues.control.take(self.integrity, into, usize::MAX);
        taken += queues.calls.take(self.integrity, into, ROUND_CALLS_BYTES);
        let data = queues.data.pop_front();
        drop(queues);
        if let Some(DataMessage { kind, id, head, bytes, room }) = data {
            let head = head.as_ref().map_or(&[][..], |head| &head[..]);
            into.reserve(head.len() + bytes.len() + overhead(head.len() + bytes.len()));
            write_message(into, self.integrity, kind, Lane::Data, id, &[head, &bytes]);
            drop(room);
        }
        taken
    }

    /// Nothing is sent any more, whatever is queued, and the stream is let go of.
    pub(super) fn abandon(&self) {
        let mut queues = self.queues.lock();
        let abandoned = std::mem::replace(&mut *queues, Queues { state: State::Over, ..Queues::default() });
        drop(queues);
        drop(abandoned);
        // Whoever writes just now does not wait for the peer.
        let mut writer = self.writer.lock();
        let half = writer.half.take();
        writer.counted = 0;
        self.backlog.store(0, Ordering::Relaxed);
        drop(writer);
        drop(half);
        self.data_room.close();
        self.drained.notify_waiters();
        self.task.0.wake();
    }
}

impl std::fmt::Debug for Outbound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outbound").field("backlog", &self.backlog()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
