//! One output that a client reads.

use std::{
    cell::RefCell,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use futures::future::poll_fn;

use super::{
    access::Access,
    session::{say, say_behind},
};
use crate::{
    bridge::{
        frame::Kind,
        message::{FromNode, OutputFault, head_of},
        outbound::{DataMessage, Outbound},
    },
    job::JobId,
    link::Host,
    port::{Chunk, OutputError, OutputKind, OutputReader},
    schema::Fingerprint,
};

/// Sends the chunks of an output as far as the client's credit goes.
pub(super) struct OutputPump {
    id: u64,
    from: u64,
    state: RefCell<State>,
}

struct State {
    /// Bytes that may be sent; below zero if a chunk was larger than what was left.
    credit: i128,
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
    pub(super) fn new(id: u64, from: u64, bytes: u64) -> Rc<Self> {
        let state = State { credit: bytes.into(), consumed: from, closed: false, reader: None, waker: None };
        Rc::new(Self { id, from, state: RefCell::new(state) })
    }

    pub(super) fn credit(&self, consumed: u64, bytes: u64) {
        self.change(|state| {
            state.credit += i128::from(bytes);
            state.consumed = state.consumed.max(consumed);
        });
    }

    pub(super) fn close(&self, consumed: u64, rest_bytes: Option<u64>) {
        let mut reader = None;
        self.change(|state| {
            state.closed = true;
            reader = state.reader.take();
        });
        if let Some(mut reader) = reader {
            reader.consumed_within(consumed, rest_bytes);
        }
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
        host: Arc<dyn Host>,
        outbound: Arc<Outbound>,
        access: Access,
        job: JobId,
        output: String,
        item_type: Fingerprint,
    ) {
        let store = host.store(job, &output).await;
        drop(host);
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
            Ok(reader) => self.state.borrow_mut().reader = Some(reader),
            Err(fault) => return say(&outbound, self.id, &FromNode::OutputOpened(Err(fault))),
        }
        say(&outbound, self.id, &FromNode::OutputOpened(Ok(())));
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
        let State { credit, consumed, reader, waker, .. } = &mut *state;
        let Some(reader) = reader else { return Poll::Ready(Step::Closed) };
        reader.consumed(*consumed);
        *waker = Some(cx.waker().clone());
        if ended || *credit <= 0 {
            return Poll::Pending;
        }
        match reader.poll_chunk(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(Some(chunk))) => {
                *credit -= chunk.bytes.len() as i128;
                Poll::Ready(Step::Send(chunk))
            }
            Poll::Ready(Ok(None)) => Poll::Ready(Step::End(Ok(()))),
            Poll::Ready(Err(error)) => Poll::Ready(Step::End(Err(error))),
        }
    }
}
