//! One input that a client sends to.

use std::{
    cell::RefCell,
    collections::VecDeque,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use futures::future::poll_fn;

use super::{ends::Ends, pending::Held, say::say};
use crate::{
    bridge::{
        connection::Violation,
        message::{FromNode, INPUT_WINDOW, InputFault, batch_cost},
        outbound::Outbound,
    },
    host::Host,
    job::JobId,
    port::{EncodedWriter, InputError, WriterId},
    schema::Fingerprint,
};

/// Items of the standard library's types are decoded on the I/O thread, if they take no more than this: that is quicker
/// than the way to another thread. All others run code of the user's, or take their time.
const DECODED_HERE_MAX: usize = 64 << 10;

/// Puts the items of one sender into an input as there is room.
pub(super) struct InputPump {
    id: u64,
    writer: WriterId,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    batches: VecDeque<Batch>,
    /// The cost of the batches that have come and were not confirmed.
    unconfirmed: usize,
    finish: bool,
    closed: Option<Closed>,
    waker: Option<Waker>,
}

#[derive(Clone, Copy)]
struct Closed {
    /// The sender will not come back.
    for_good: bool,
}

struct Batch {
    first: u64,
    items: u64,
    bytes: Vec<u8>,
}

enum Step {
    Take(Batch),
    Finish,
    Close { for_good: bool },
}

impl InputPump {
    pub(super) fn new(id: u64, writer: WriterId) -> Rc<Self> {
        Rc::new(Self { id, writer, state: RefCell::default() })
    }

    /// # Errors
    ///
    /// The client sent beyond its window, or a batch of nothing.
    pub(super) fn receive(&self, first: u64, items: u64, bytes: &[u8]) -> Result<(), Violation> {
        let (unconfirmed, closed) = {
            let state = self.state.borrow();
            (state.unconfirmed, state.closed.is_some())
        };
        if closed {
            return Ok(());
        }
        if items == 0 {
            return Err(Violation::new("a batch of no items"));
        }
        let cost = batch_cost(bytes.len());
        if unconfirmed > 0 && unconfirmed + cost > INPUT_WINDOW {
            return Err(Violation::new("items were sent beyond the window"));
        }
        self.change(|state| {
            state.unconfirmed += cost;
            state.batches.push_back(Batch { first, items, bytes: bytes.to_vec() });
        });
        Ok(())
    }

    pub(super) fn finish(&self) {
        self.change(|state| state.finish = true);
    }

    pub(super) fn close(&self, for_good: bool) {
        self.change(|state| state.closed = Some(Closed { for_good }));
    }

    /// Whether nothing is taken any more.
    pub(super) fn is_closed(&self) -> bool {
        self.state.borrow().closed.is_some()
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

    pub(super) async fn run(
        self: Rc<Self>,
        Ends { link, outbound, .. }: Ends,
        pending: Held,
        job: JobId,
        input: String,
        item_type: Fingerprint,
    ) {
        let (port, host) = (link.port(job, &input).await, link.host().clone());
        drop((link, pending));
        let writer = port.map_err(InputFault::Refused).and_then(|port| {
            if port.description().fingerprint() != item_type {
                return Err(InputFault::TypeDiffers(Box::new((**port.description()).clone())));
            }
            port.writer(self.writer).map_err(InputFault::Refused)
        });
        let mut writer = match writer {
            Ok(writer) => writer,
            Err(fault) => return say(&outbound, self.id, &FromNode::InputOpened(Err(fault))),
        };
        say(&outbound, self.id, &FromNode::InputOpened(Ok(writer.next())));
        loop {
            match poll_fn(|cx| self.poll_step(cx)).await {
                Step::Take(batch) => {
                    if let Err(error) = self.take(batch, &mut *writer, &outbound, &host).await {
                        self.refuse(&outbound, writer.next(), error);
                    }
                }
                Step::Finish => {
                    let finished = writer.finish();
                    say(&outbound, self.id, &FromNode::InputFinished(finished));
                }
                Step::Close { for_good: true } => return writer.forget(),
                Step::Close { for_good: false } => return,
            }
        }
    }

    fn poll_step(&self, cx: &mut Context<'_>) -> Poll<Step> {
        let mut state = self.state.borrow_mut();
        if let Some(batch) = state.batches.pop_front() {
            return Poll::Ready(Step::Take(batch));
        }
        if std::mem::take(&mut state.finish) {
            return Poll::Ready(Step::Finish);
        }
        if let Some(Closed { for_good }) = state.closed {
            return Poll::Ready(Step::Close { for_good });
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    async fn take(
        &self,
        batch: Batch,
        writer: &mut dyn EncodedWriter,
        outbound: &Outbound,
        host: &Host,
    ) -> Result<(), InputError> {
        let Batch { first, items, bytes } = batch;
        let cost = batch_cost(bytes.len());
        let inline = writer.is_plain() && bytes.len() <= DECODED_HERE_MAX;
        let decoding = writer.decoding(first, items, bytes);
        let decoded = if inline {
            decoding()
        } else {
            let mut decoding = host.blocking(decoding);
            let decoded = poll_fn(|cx| {
                self.poll_finish(cx, writer, outbound);
                Pin::new(&mut decoding).poll(cx)
            });
            // The pool drops what it has not begun when it is shut down; panics were caught.
            decoded.await.unwrap_or(Err(InputError::EnvironmentClosed))
        };
        writer.offer(decoded?);
        poll_fn(|cx| {
            self.poll_finish(cx, writer, outbound);
            writer.poll_push(cx)
        })
        .await?;
        self.state.borrow_mut().unconfirmed -= cost;
        say(outbound, self.id, &FromNode::InputTaken { next: writer.next() });
        Ok(())
    }

    /// To finish waits neither for items to be decoded nor for room: it refuses those that do.
    fn poll_finish(&self, cx: &mut Context<'_>, writer: &dyn EncodedWriter, outbound: &Outbound) {
        let mut state = self.state.borrow_mut();
        state.waker = Some(cx.waker().clone());
        if std::mem::take(&mut state.finish) {
            drop(state);
            say(outbound, self.id, &FromNode::InputFinished(writer.finish()));
        }
    }

    /// What has come behind the refused items is not taken either: the client asks again how far this side is.
    fn refuse(&self, outbound: &Outbound, next: u64, error: InputError) {
        self.change(|state| {
            state.batches.clear();
            state.closed = Some(Closed { for_good: false });
        });
        say(outbound, self.id, &FromNode::InputRefused { next, error });
    }
}
