//! One output that a client reads.

use std::{
    cell::RefCell,
    collections::VecDeque,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use futures::future::poll_fn;

use super::{
    ends::Ends,
    pending::Held,
    say::{say, say_behind},
};
use crate::{
    bridge::{
        connection::Violation,
        frame::Kind,
        message::{FromNode, OUTPUT_WINDOW, OutputFault, head_of},
        outbound::DataMessage,
    },
    job::JobId,
    port::{Chunk, OutputError, OutputKind, OutputReader},
    schema::Fingerprint,
};

/// Sends the chunks of an output, as far ahead of what the client has consumed as the window allows.
pub(super) struct OutputPump {
    id: u64,
    from: u64,
    state: RefCell<State>,
}

struct State {
    /// The end and the bytes of each chunk that was sent and not consumed.
    ahead: VecDeque<(u64, u64)>,
    ahead_bytes: u64,
    /// The end of what was sent on this connection, or where it goes on.
    sent: u64,
    /// What the client says it has consumed. Once there is a reader, this is never beyond `sent`.
    consumed: u64,
    closed: bool,
    /// Once the output was found. Dropped when the client closes it, and not later: another reader may come at once.
    reader: Option<OutputReader>,
    waker: Option<Waker>,
}

/// What to do next.
enum Step {
    Send(Chunk),
    End(Result<(), OutputError>),
    Closed,
}

impl OutputPump {
    pub(super) fn new(id: u64, from: u64) -> Rc<Self> {
        let state = State {
            ahead: VecDeque::new(),
            ahead_bytes: 0,
            sent: from,
            consumed: 0,
            closed: false,
            reader: None,
            waker: None,
        };
        Rc::new(Self { id, from, state: RefCell::new(state) })
    }

    /// # Errors
    ///
    /// The client has consumed what it was not sent.
    pub(super) fn consumed(&self, consumed: u64) -> Result<(), Violation> {
        if consumed > self.state.borrow().sent {
            return Err(Violation::new("more was consumed than was sent"));
        }
        self.change(|state| state.consume(consumed));
        Ok(())
    }

    /// # Errors
    ///
    /// As for [`consumed`](Self::consumed); it is closed all the same.
    pub(super) fn close(&self, consumed: u64) -> Result<(), Violation> {
        let held = self.consumed(consumed);
        let mut reader = None;
        self.change(|state| {
            state.closed = true;
            reader = state.reader.take();
        });
        drop(reader);
        held
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.borrow_mut();
        change(&mut state);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Runs until the client closes the output. What it has not consumed of a streamed one is then given back.
    pub(super) async fn run(
        self: Rc<Self>,
        Ends { link, outbound, access }: Ends,
        pending: Held,
        job: JobId,
        output: String,
        item_type: Fingerprint,
    ) {
        let store = link.store(job, &output).await;
        drop((link, pending));
        let reader = store.map_err(OutputFault::Refused).and_then(|store| {
            if store.description().fingerprint() != item_type {
                return Err(OutputFault::TypeDiffers(Box::new((**store.description()).clone())));
            }
            if store.kind() == OutputKind::Streamed && !access.may_consume() {
                let message = access.forbids("read streamed outputs, which takes their items away");
                return Err(OutputFault::Refused(OutputError::Forbidden { message }));
            }
            store.reader_from(self.from).map_err(OutputFault::Refused)
        });
        match reader {
            // Closed while it was looked for.
            Ok(_) if self.state.borrow().closed => return,
            Ok(reader) => {
                say(&outbound, self.id, &FromNode::OutputOpened(Ok(reader.start())));
                self.state.borrow_mut().begin(reader);
            }
            Err(fault) => return say(&outbound, self.id, &FromNode::OutputOpened(Err(fault))),
        }
        let mut ended = false;
        loop {
            match poll_fn(|cx| self.poll_step(cx, ended)).await {
                Step::Send(Chunk { first, items, bytes }) => {
                    let Some(room) = outbound.data_room().await else { return };
                    let head = Some(head_of(first, items));
                    let message = DataMessage { kind: Kind::Chunk, id: self.id, head, bytes, room: Some(room) };
                    outbound.push_data(message);
                }
                Step::End(result) => {
                    say_behind(&outbound, self.id, &FromNode::OutputEnded(result));
                    ended = true;
                }
                Step::Closed => return,
            }
        }
    }

    fn poll_step(&self, cx: &mut Context<'_>, ended: bool) -> Poll<Step> {
        let mut state = self.state.borrow_mut();
        let State { ahead, ahead_bytes, sent, reader, waker, .. } = &mut *state;
        let Some(reader) = reader else { return Poll::Ready(Step::Closed) };
        *waker = Some(cx.waker().clone());
        if ended || *ahead_bytes >= OUTPUT_WINDOW {
            return Poll::Pending;
        }
        match reader.poll_chunk(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(Some(chunk))) => {
                let (end, bytes) = (chunk.first + chunk.items, chunk.bytes.len() as u64);
                ahead.push_back((end, bytes));
                *ahead_bytes += bytes;
                *sent = (*sent).max(end);
                Poll::Ready(Step::Send(chunk))
            }
            Poll::Ready(Ok(None)) => Poll::Ready(Step::End(Ok(()))),
            Poll::Ready(Err(error)) => Poll::Ready(Step::End(Err(error))),
        }
    }
}

impl State {
    /// The output was found. What the client said of how far it is holds as far as that can be.
    fn begin(&mut self, reader: OutputReader) {
        self.sent = reader.from();
        self.reader = Some(reader);
        self.consume(self.consumed.min(self.sent));
    }

    fn consume(&mut self, consumed: u64) {
        self.consumed = consumed;
        while let Some((end, bytes)) = self.ahead.front().copied()
            && end <= consumed
        {
            self.ahead.pop_front();
            self.ahead_bytes -= bytes;
        }
        if let Some(reader) = &mut self.reader {
            reader.consumed(consumed);
        }
    }
}
