//! Outputs: what tasks elsewhere write goes to the stores at home.
//!
//! A worker's store is a short queue, from which a relay offers runs to the link. At home they are appended at once, which what was
//! sent has credit for; credit is given back once the store has room. Of a streamed output a worker has no more items on their way
//! than may wait in the store, so the home also says how many have found room. A store that takes no more (it is too large, or the disk
//! refuses) says so on the same stream in the other direction, in front of everything that is answered later: so once
//! [`Link::settle`](crate::peer::Link::settle) has answered, [`OutputsAtWorker::failure`] knows.

use std::{
    future::poll_fn,
    mem,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
};

use parking_lot::Mutex;

use super::{
    pieces::{Assembly, Pieces, number_in},
    turning::{Turn, Turning},
};
use crate::{
    codec,
    dataplane::wiring::Streams,
    job::FailureCause,
    peer::{Broken, Link, Offered, Peers, Receiver, Sender, Sink, StreamId, StreamMark},
    port::{AppendError, OutputEnd, OutputKind, OutputStore},
};

/// Bytes that a worker may have sent to one output and that are not known to have found room.
const CREDIT_BYTES: u64 = 1 << 20;

/// On the way back there are only words that need no credit.
const NO_CREDIT: u64 = 0;

/// What a home says of an output, as a number of items: it refuses them, or so many have found room.
const REFUSED: u64 = 1;
const ROOM: u64 = 2;

/// By number in the plan.
fn outputs(streams: &Streams) -> impl Iterator<Item = (StreamId, &Arc<OutputStore>)> {
    (0..).zip(&streams.outputs).map(|(number, (_, store))| (StreamId::Output(number), store))
}

/// The outputs of a worker that is not their home. Dropped, what was not sent stays where it is.
pub(crate) struct OutputsAtWorker {
    outputs: Vec<Arc<Turning<Outgoing>>>,
    refusals: Vec<Receiver>,
}

impl OutputsAtWorker {
    /// Has what is written to the worker's own stores go to those at home. Before any task starts.
    pub fn new(home: &Arc<Link>, streams: &Streams) -> Self {
        let (mut going, mut refusals) = (Vec::new(), Vec::new());
        for (stream, store) in outputs(streams) {
            store.relay();
            refusals.push(home.receiver(stream, NO_CREDIT, Arc::new(Words(Arc::clone(store)))));
            let sender = home.sender(stream, CREDIT_BYTES);
            let (store, run, sent) = (Arc::clone(store), Mutex::default(), Mutex::default());
            going.push(Turning::new(Outgoing { store, sender, run, sent }));
        }
        // Each finds nothing, and waits for what comes.
        going.iter().for_each(Turning::wake);
        Self { outputs: going, refusals }
    }

    fn named(&self, names: &[String]) -> impl Iterator<Item = &Outgoing> {
        let outputs = self.outputs.iter().map(|output| &output.work);
        outputs.filter(|output| names.iter().any(|name| name == output.store.name()))
    }

    /// Nobody is to wait for readers any more: the job drops what is in flight.
    pub fn give_up(&self) {
        self.outputs.iter().for_each(|output| output.work.change(|sent| sent.is_over = true));
    }

    /// Ready once everything that was written to these outputs before has been offered to the link, or never will be: because it
    /// broke, of which its settling tells, or because the job [drops it](Self::give_up).
    ///
    /// # Errors
    ///
    /// What the home has refused, see [`failure`](Self::failure).
    pub async fn flushed(&self, outputs: &[String]) -> Result<(), FailureCause> {
        let written: Vec<_> = self.named(outputs).map(|output| (output, output.store.items())).collect();
        for (output, written) in written {
            poll_fn(|cx| output.poll_sent(cx, written)).await;
        }
        self.failure(outputs).map_or(Ok(()), Err)
    }

    /// Why one of these outputs did not take what tasks of this worker have written, if that is so.
    pub fn failure(&self, outputs: &[String]) -> Option<FailureCause> {
        self.named(outputs).find_map(|output| output.store.refusal()).map(FailureCause::from)
    }
}

impl Drop for OutputsAtWorker {
    fn drop(&mut self) {
        self.refusals.iter().for_each(Receiver::close);
    }
}

/// What goes to one output.
struct Outgoing {
    store: Arc<OutputStore>,
    sender: Sender,
    /// Taken from the store and not sent yet. Used in turns only.
    run: Mutex<Option<Pieces>>,
    sent: Mutex<Sent>,
}

#[derive(Default)]
struct Sent {
    items: u64,
    /// Nothing more will be sent.
    is_over: bool,
    waiting: Vec<Waker>,
}

impl Outgoing {
    fn poll_sent(&self, cx: &Context<'_>, items: u64) -> Poll<()> {
        let mut sent = self.sent.lock();
        if sent.is_over || sent.items >= items {
            return Poll::Ready(());
        }
        if !sent.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            sent.waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }

    fn change(&self, change: impl FnOnce(&mut Sent)) {
        let mut sent = self.sent.lock();
        change(&mut sent);
        let waiting = mem::take(&mut sent.waiting);
        drop(sent);
        waiting.into_iter().for_each(Waker::wake);
    }
}

impl Turn for Outgoing {
    fn turn(&self, cx: &mut Context<'_>) {
        let mut run = self.run.lock();
        loop {
            if self.store.refusal().is_some() {
                *run = None;
                return self.change(|sent| sent.is_over = true);
            }
            let going = match &mut *run {
                Some(going) => going,
                none => match self.store.poll_taken(cx) {
                    Poll::Ready(chunk) => none.insert(Pieces::new(chunk.items, chunk.bytes)),
                    Poll::Pending => return,
                },
            };
            let items = going.items;
            match going.offer(&self.sender, cx) {
                Offered::Taken => {
                    *run = None;
                    self.change(|sent| sent.items += items);
                }
                Offered::Full => return,
                // The link broke, and the attempt with it: what is written waits until its task is cancelled.
                Offered::Closed => return self.change(|sent| sent.is_over = true),
            }
        }
    }
}

/// What a home says.
struct Words(Arc<OutputStore>);

impl Sink for Words {
    fn batch(&self, word: u64, bytes: Vec<u8>) {
        if word == ROOM {
            return self.0.arrived(number_in(&bytes));
        }
        let error = codec::decode(&bytes).unwrap_or_else(|error| AppendError::Disk {
            output: self.0.name().to_owned(),
            message: format!("what its home says of it cannot be read: {error}"),
        });
        self.0.refuse(error);
    }

    fn mark(&self, _: StreamMark) {}

    fn broken(&self, _: &Broken) {}
}

/// The outputs of a job at its home, as far as other workers write to them. Dropped, nothing more is taken.
pub(crate) struct OutputsAtHome(Vec<Arc<Turning<Incoming>>>);

impl OutputsAtHome {
    pub fn new(peers: &Peers, streams: &Streams) -> Self {
        let mut incoming = Vec::new();
        for (_, link) in peers.iter() {
            for (stream, store) in outputs(streams) {
                let (store, back) = (store.end(), link.sender(stream, NO_CREDIT));
                let coming = Incoming {
                    store,
                    back,
                    receiver: OnceLock::new(),
                    run: Mutex::default(),
                    owed: AtomicU64::new(0),
                    items: AtomicU64::new(0),
                };
                let coming = Turning::new(coming);
                let sink = Arc::new(Arrivals(Arc::downgrade(&coming)));
                let _ = coming.work.receiver.set(link.receiver(stream, CREDIT_BYTES, sink));
                incoming.push(coming);
            }
        }
        Self(incoming)
    }
}

impl Drop for OutputsAtHome {
    fn drop(&mut self) {
        self.0.iter().for_each(|incoming| incoming.work.close());
    }
}

/// What comes from one worker for one output.
struct Incoming {
    store: OutputEnd,
    back: Sender,
    /// Set at once.
    receiver: OnceLock<Receiver>,
    /// Used by the reader of the connection only.
    run: Mutex<Assembly>,
    /// Bytes that came and are not given back.
    owed: AtomicU64,
    /// Items that came and of which it was not said that there is room.
    items: AtomicU64,
}

impl Incoming {
    fn take(&self, items: u64, bytes: Vec<u8>) {
        self.owed.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        let Some(run) = self.run.lock().take(items, bytes) else { return };
        self.items.fetch_add(items, Ordering::Relaxed);
        if let Err(error) = self.store.append(items, run) {
            let mut words = Vec::new();
            codec::encode_into(&error, &mut words).expect("an error is short and plain");
            self.back.say(REFUSED, &words);
            self.close();
        }
    }

    fn close(&self) {
        if let Some(receiver) = self.receiver.get() {
            receiver.close();
        }
    }
}

impl Turn for Incoming {
    fn turn(&self, cx: &mut Context<'_>) {
        if self.store.poll_room(cx).is_pending() {
            return;
        }
        let owed = self.owed.swap(0, Ordering::Relaxed);
        if let Some(receiver) = self.receiver.get() {
            receiver.grant(owed);
        }
        let items = self.items.swap(0, Ordering::Relaxed);
        if items > 0 && self.store.store().kind() == OutputKind::Streamed {
            self.back.say(ROOM, &items.to_le_bytes());
        }
    }
}

struct Arrivals(Weak<Turning<Incoming>>);

impl Sink for Arrivals {
    fn batch(&self, items: u64, bytes: Vec<u8>) {
        if let Some(incoming) = self.0.upgrade() {
            incoming.work.take(items, bytes);
            incoming.wake();
        }
    }

    fn mark(&self, _: StreamMark) {}

    /// The attempt fails with the link. What the worker has written so far stays, and is never sealed as whole.
    fn broken(&self, _: &Broken) {}
}
