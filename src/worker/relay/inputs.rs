//! Inputs: what was sent at home goes to the source, if that is elsewhere.
//!
//! The port at home is the one that senders know: it is bounded, and what it has accepted the job has. A relay takes items from it,
//! encodes them on the pool for code that blocks, and offers them to the link; at the source they lie encoded in its own port, within
//! the stream's credit, until the source takes and decodes them; as long they take up room in the port at home. The source says on the same stream in the other direction when it
//! is there, how many items it has taken, that it was told to stop, and that it is gone. So `stop` first closes the port at home; what is in it comes, and then
//! the end.

use std::{
    sync::{Arc, OnceLock, Weak},
    task::{Context, Poll},
};

use parking_lot::Mutex;

use super::{
    pieces::{Assembly, Pieces, number_in},
    turning::{Turn, Turning},
};
use crate::{
    codec,
    dataplane::wiring::Streams,
    host::Host,
    job::Graph,
    peer::{Broken, Link, Offered, Peers, Receiver, Sender, Sink, StreamId, StreamMark},
    port::{AnyInput, Feed, Given, InputEnd, Within},
    protocol::Layout,
    service::{ServiceDirectory, bound_to},
};

/// Bytes that may be on the way to a source or wait for it to take them.
const CREDIT_BYTES: u64 = 256 << 10;

/// On the way back there are only words that need no credit.
const NO_CREDIT: u64 = 0;

/// As a number of items: it is how the input ended.
const END: u64 = u64::MAX;

/// What a source says, as a number of items.
const BEGIN: u64 = 1;
const STOP: u64 = 2;
const CLOSE: u64 = 3;
const TAKEN: u64 = 4;

/// The inputs whose source is on another worker than their home, with that worker.
fn inputs<'a>(
    streams: &'a Streams,
    graph: &'a Graph,
    layout: &'a Layout,
) -> impl Iterator<Item = (u32, StreamId, &'a Arc<dyn AnyInput>)> {
    (0..).zip(&streams.inputs).filter_map(|(number, (name, port))| {
        let source = graph.tasks.iter().find(|task| task.input.as_ref() == Some(name))?;
        let worker = *layout.tasks.get(source.id.index())?;
        (worker != Layout::HOME).then_some((worker, StreamId::Input(number), port))
    })
}

/// The inputs of a job at its home, as far as their sources are elsewhere. Dropped, nothing more goes there.
pub(crate) struct InputsAtHome(Vec<Arc<Turning<Outgoing>>>);

impl InputsAtHome {
    /// Items are encoded on the pool of `host`.
    pub fn new(peers: &Peers, streams: &Streams, graph: &Graph, layout: &Layout, host: &Host) -> Self {
        let outgoing = inputs(streams, graph, layout).map(|(worker, stream, port)| {
            let link = peers.link(worker);
            let outgoing = Turning::new(Outgoing {
                port: Arc::clone(port),
                sender: link.sender(stream, CREDIT_BYTES),
                host: host.clone(),
                receiver: OnceLock::new(),
                said: Mutex::default(),
                going: Mutex::default(),
            });
            let sink = Arc::new(Words(Arc::downgrade(&outgoing)));
            let _ = outgoing.work.receiver.set(link.receiver(stream, NO_CREDIT, sink));
            outgoing
        });
        Self(outgoing.collect())
    }
}

impl Drop for InputsAtHome {
    fn drop(&mut self) {
        for outgoing in &self.0 {
            if let Some(receiver) = outgoing.work.receiver.get() {
                receiver.close();
            }
        }
    }
}

/// What goes from one input to its source.
struct Outgoing {
    port: Arc<dyn AnyInput>,
    sender: Sender,
    host: Host,
    /// Set at once.
    receiver: OnceLock<Receiver>,
    said: Mutex<Said>,
    /// Used in turns only.
    going: Mutex<Going>,
}

/// What the source has said.
#[derive(Debug, Clone, Copy, Default)]
struct Said {
    begin: bool,
    close: bool,
}

#[derive(Default)]
struct Going {
    run: Option<Pieces>,
    /// The end was taken from the port.
    is_over: bool,
}

impl Turn for Outgoing {
    fn turn(&self, cx: &mut Context<'_>) {
        let said = *self.said.lock();
        let mut going = self.going.lock();
        if said.close {
            *going = Going { run: None, is_over: true };
            self.port.close();
            return;
        }
        if !said.begin {
            return;
        }
        loop {
            let Going { run, is_over } = &mut *going;
            let pieces = match &mut *run {
                Some(pieces) => pieces,
                _ if *is_over => return,
                none => match self.port.poll_given(cx) {
                    Poll::Ready(Given::Run { items, bytes }) => none.insert(Pieces::new(items, bytes)),
                    Poll::Ready(Given::End(end)) => {
                        *is_over = true;
                        let mut bytes = Vec::new();
                        codec::encode_into(&end, &mut bytes).expect("it is short and plain");
                        none.insert(Pieces::new(END, bytes))
                    }
                    Poll::Pending => return,
                },
            };
            match pieces.offer(&self.sender, cx) {
                Offered::Taken => *run = None,
                // If it is closed without a word, the link broke: senders wait until the job is over.
                Offered::Full | Offered::Closed => return,
            }
        }
    }

    /// Encoding is code of the user's.
    fn run(&self, turns: impl FnOnce() + Send + 'static) {
        drop(self.host.blocking(turns));
    }
}

/// What a source says.
struct Words(Weak<Turning<Outgoing>>);

impl Sink for Words {
    fn batch(&self, word: u64, bytes: Vec<u8>) {
        let Some(outgoing) = self.0.upgrade() else { return };
        let Outgoing { said, port, .. } = &outgoing.work;
        match word {
            TAKEN => return port.taken_there(number_in(&bytes)),
            CLOSE => said.lock().close = true,
            STOP => {
                port.close_to_senders();
                said.lock().begin = true;
            }
            _ => said.lock().begin = true,
        }
        outgoing.wake();
    }

    fn mark(&self, _: StreamMark) {}

    fn broken(&self, _: &Broken) {}
}

/// The inputs whose sources are on this worker, which is not their home.
pub(crate) struct InputsAtWorker(Vec<Arc<Source>>);

impl InputsAtWorker {
    /// Has the worker's own ports get what is sent at home. Before any task starts, and behind
    /// [`CallsAtWorker`](super::CallsAtWorker), to which references in items are bound.
    pub fn new(
        home: &Arc<Link>,
        streams: &Streams,
        graph: &Graph,
        layout: &Layout,
        directory: &Arc<ServiceDirectory>,
    ) -> Self {
        let here = inputs(streams, graph, layout).filter(|(worker, ..)| *worker == layout.here);
        let sources = here.map(|(_, stream, port)| {
            let source = Arc::new(Source { words: home.sender(stream, NO_CREDIT), receiver: OnceLock::new() });
            let resolver = directory.resolver();
            let within: Within = Box::new(move |decode| bound_to(Arc::clone(&resolver), decode));
            port.feed_from(Arc::clone(&source) as Arc<dyn Feed>, within);
            let (port, weak) = (Arc::clone(port), Arc::downgrade(&source));
            let sink = Arc::new(Arrivals { port, source: weak, run: Mutex::default() });
            let _ = source.receiver.set(home.receiver(stream, CREDIT_BYTES, sink));
            source
        });
        Self(sources.collect())
    }
}

impl Drop for InputsAtWorker {
    /// A source that never came to be has not said that it is gone.
    fn drop(&mut self) {
        self.0.iter().for_each(|source| source.close());
    }
}

/// What a source has to say to the home of its input.
struct Source {
    words: Sender,
    /// Set at once.
    receiver: OnceLock<Receiver>,
}

impl Feed for Source {
    fn begin(&self) {
        self.words.say(BEGIN, &[]);
    }

    fn stop(&self) {
        self.words.say(STOP, &[]);
    }

    fn close(&self) {
        self.words.say(CLOSE, &[]);
        if let Some(receiver) = self.receiver.get() {
            receiver.close();
        }
    }

    fn taken(&self, items: u64) {
        self.words.say(TAKEN, &items.to_le_bytes());
    }

    fn used(&self, bytes: u64) {
        if let Some(receiver) = self.receiver.get() {
            receiver.grant(bytes);
        }
    }
}

/// What comes for a source.
struct Arrivals {
    port: Arc<dyn AnyInput>,
    source: Weak<Source>,
    run: Mutex<Assembly>,
}

impl Sink for Arrivals {
    fn batch(&self, items: u64, bytes: Vec<u8>) {
        let length = bytes.len() as u64;
        if items == END {
            let end = codec::decode(&bytes).unwrap_or_else(|error| InputEnd::NotCarried(error.to_string()));
            return self.port.deliver(Given::End(end), 0);
        }
        let run = self.run.lock().take(items, bytes);
        match run {
            Some(bytes) => self.port.deliver(Given::Run { items, bytes }, length),
            // The rest comes only if there is credit for it.
            None => {
                if let Some(source) = self.source.upgrade() {
                    source.used(length);
                }
            }
        }
    }

    fn mark(&self, _: StreamMark) {}

    /// The attempt fails with the link; until then the source waits.
    fn broken(&self, _: &Broken) {}
}
