//! One input that is sent to over the connection, for one sender.
//!
//! Items are numbered. What the node has not confirmed when a connection is lost is sent again over the next one, and
//! the node, which remembers how far each sender has come, drops what it has.

use std::{
    collections::VecDeque,
    sync::{Arc, Weak},
};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{
    send::send,
    state::{Attachment, Exchange, Heard, RESTARTED, Shared, Trouble, Why},
};
use crate::{
    bridge::{
        connection::Violation,
        frame::Kind,
        message::{FromClient, FromNode, INPUT_WINDOW, InputFault, batch_cost, head_of},
        outbound::DataMessage,
    },
    codec,
    job::JobId,
    port::{InputError, NotTaken, RemoteInput},
    schema::TypeDescription,
};

/// The sending end. Dropping it says that the sender will not come back.
pub(super) struct InputStream {
    shared: Weak<Shared>,
    exchange: Arc<InputExchange>,
}

struct InputExchange {
    id: u64,
    job: JobId,
    input: String,
    wanted: Arc<TypeDescription>,
    writer: u128,
    state: Mutex<State>,
}

struct State {
    attachment: Option<Arc<Attachment>>,
    /// The node has said how far it has come, on this connection.
    open: bool,
    opened_on: Option<u128>,
    opening: Option<oneshot::Sender<Result<(), InputError>>>,
    /// In order; those that were sent before those that were not.
    batches: VecDeque<Batch>,
    /// The number of the next item to be sent for the first time.
    next: u64,
    /// The cost of what was sent on this connection and not confirmed.
    unconfirmed: usize,
    finishing: Vec<oneshot::Sender<Result<(), InputError>>>,
    /// The order to finish was sent on this connection.
    finish_sent: bool,
    /// Why nothing can be sent any more.
    closed: Option<InputError>,
    /// Why nothing can be sent until there is a connection.
    trouble: Option<InputError>,
}

struct Batch {
    items: u64,
    bytes: Arc<Vec<u8>>,
    /// The number of its first item, once it was sent.
    first: Option<u64>,
    /// It was sent on this connection.
    sent: bool,
    done: oneshot::Sender<Result<(), NotTaken>>,
}

impl InputStream {
    pub(super) async fn open(
        shared: &Arc<Shared>,
        job: JobId,
        input: String,
        wanted: Arc<TypeDescription>,
    ) -> Result<Self, InputError> {
        let (opening, opened) = oneshot::channel();
        let stream = Self::begin(shared, job, input, wanted, Some(opening));
        opened.await.unwrap_or(Err(InputError::EnvironmentClosed))?;
        Ok(stream)
    }

    fn begin(
        shared: &Arc<Shared>,
        job: JobId,
        input: String,
        wanted: Arc<TypeDescription>,
        opening: Option<oneshot::Sender<Result<(), InputError>>>,
    ) -> Self {
        let state = State {
            attachment: None,
            open: false,
            opened_on: None,
            opening,
            batches: VecDeque::new(),
            next: 0,
            unconfirmed: 0,
            finishing: Vec::new(),
            finish_sent: false,
            closed: None,
            trouble: None,
        };
        // The client's own number makes it one that no other client has.
        let id = shared.next_id();
        let writer = shared.client.wrapping_add(u128::from(id));
        let exchange = Arc::new(InputExchange { id, job, input, wanted, writer, state: Mutex::new(state) });
        shared.begin(id, &(Arc::clone(&exchange) as Arc<dyn Exchange>));
        Self { shared: Arc::downgrade(shared), exchange }
    }
}

impl RemoteInput for InputStream {
    fn send(&self, items: u64, bytes: Vec<u8>) -> BoxFuture<'static, Result<(), NotTaken>> {
        let (done, is_done) = oneshot::channel();
        let mut state = self.exchange.state.lock();
        let refused = state.closed.clone().or_else(|| state.trouble.clone());
        let refused = refused.or_else(|| {
            (!state.finishing.is_empty()).then(|| InputError::Finished { input: self.exchange.input.clone() })
        });
        if let Some(error) = refused {
            return Box::pin(std::future::ready(Err(NotTaken { taken: 0, error })));
        }
        state.batches.push_back(Batch { items, bytes: Arc::new(bytes), first: None, sent: false, done });
        self.exchange.send_on(&mut state);
        drop(state);
        Box::pin(
            async move { is_done.await.unwrap_or(Err(NotTaken { taken: 0, error: InputError::EnvironmentClosed })) },
        )
    }

    fn finish(&self) -> BoxFuture<'static, Result<(), InputError>> {
        let (done, is_done) = oneshot::channel();
        let mut state = self.exchange.state.lock();
        if let Some(error) = state.closed.clone().or_else(|| state.trouble.clone()) {
            let finished = match error {
                InputError::Finished { .. } => Ok(()),
                error => Err(error),
            };
            return Box::pin(std::future::ready(finished));
        }
        state.finishing.push(done);
        // As in the job's own process: what waits for room is refused.
        let (sent, unsent) = std::mem::take(&mut state.batches).into_iter().partition(|batch| batch.first.is_some());
        state.batches = sent;
        self.exchange.send_on(&mut state);
        drop(state);
        let error = InputError::Finished { input: self.exchange.input.clone() };
        for batch in <VecDeque<Batch>>::into_iter(unsent) {
            // Whoever sent it may have gone.
            let _ = batch.done.send(Err(NotTaken { taken: 0, error: error.clone() }));
        }
        Box::pin(async move { is_done.await.unwrap_or(Err(InputError::EnvironmentClosed)) })
    }

    fn another(&self) -> Arc<dyn RemoteInput> {
        let (job, input) = (self.exchange.job, self.exchange.input.clone());
        match self.shared.upgrade() {
            Some(shared) => Arc::new(Self::begin(&shared, job, input, Arc::clone(&self.exchange.wanted), None)),
            None => Arc::new(Self { shared: Weak::new(), exchange: Arc::clone(&self.exchange) }),
        }
    }
}

impl Drop for InputStream {
    fn drop(&mut self) {
        let Some(shared) = self.shared.upgrade() else { return };
        shared.end(self.exchange.id);
        let attachment = self.exchange.state.lock().attachment.take();
        if let Some(attachment) = attachment {
            // Behind the items that are under way.
            push_behind(&attachment, self.exchange.id, &FromClient::CloseInput);
        }
    }
}

/// Sends a message in the lane of the items.
fn push_behind(attachment: &Attachment, id: u64, message: &FromClient) {
    let mut payload = Vec::new();
    codec::encode_into(message, &mut payload).expect("it is short and plain");
    let bytes = Arc::new(payload);
    attachment.outbound.push_data(DataMessage { kind: Kind::Message, id, head: None, bytes, room: None });
    attachment.outbound.flush();
}

impl InputExchange {
    fn ask_to_open(&self, attachment: &Attachment) {
        let (job, input, item_type) = (self.job, self.input.clone(), self.wanted.fingerprint());
        send(&attachment.outbound, self.id, &FromClient::OpenInput { job, input, item_type, writer: self.writer });
    }

    /// Sends what the window allows.
    fn send_on(&self, state: &mut State) {
        let Some(attachment) = state.attachment.clone().filter(|_| state.open) else { return };
        // A sender that has gone before its items were sent takes them along.
        state.batches.retain(|batch| batch.first.is_some() || !batch.done.is_closed());
        for batch in state.batches.iter_mut().filter(|batch| !batch.sent) {
            let cost = batch_cost(batch.bytes.len());
            if state.unconfirmed > 0 && state.unconfirmed + cost > INPUT_WINDOW {
                break;
            }
            let first = *batch.first.get_or_insert_with(|| {
                let first = state.next;
                state.next += batch.items;
                first
            });
            batch.sent = true;
            state.unconfirmed += cost;
            let (head, bytes) = (Some(head_of(first, batch.items)), Arc::clone(&batch.bytes));
            attachment.outbound.push_data(DataMessage { kind: Kind::Items, id: self.id, head, bytes, room: None });
        }
        attachment.outbound.flush();
        let all_sent = state.batches.iter().all(|batch| batch.sent);
        if !state.finishing.is_empty() && !state.finish_sent && all_sent {
            state.finish_sent = true;
            push_behind(&attachment, self.id, &FromClient::FinishInput);
        }
    }

    /// The job has everything before `next`.
    fn confirm(&self, state: &mut State, next: u64) -> Result<Vec<Batch>, Violation> {
        if next > state.next {
            return Err(Violation::new(format_args!("input `{}` was confirmed beyond what was sent", self.input)));
        }
        let mut done = Vec::new();
        while let Some(batch) = state.batches.front()
            && batch.first.is_some_and(|first| first + batch.items <= next)
        {
            let batch = state.batches.pop_front().expect("there is one in front");
            if batch.sent {
                state.unconfirmed -= batch_cost(batch.bytes.len());
            }
            done.push(batch);
        }
        Ok(done)
    }

    fn opened(&self, opened: Result<u64, InputFault>) -> Result<(), Violation> {
        let mut state = self.state.lock();
        let node = state.attachment.as_ref().map(|attachment| attachment.incarnation);
        let error = match opened {
            Ok(next) => {
                state.opened_on = state.opened_on.or(node);
                let in_doubt = state.batches.iter().any(|batch| batch.first.is_some());
                if !in_doubt {
                    // What was given up meanwhile may have come or not; the node knows.
                    state.next = next;
                }
                let done = self.confirm(&mut state, next)?;
                state.open = true;
                self.send_on(&mut state);
                let opening = state.opening.take();
                drop(state);
                if let Some(opening) = opening {
                    // Whoever opens it may have gone.
                    let _ = opening.send(Ok(()));
                }
                tell_done(done);
                return Ok(());
            }
            Err(InputFault::TypeDiffers(there)) => InputError::wrong_type(&self.input, &there, &self.wanted),
            Err(InputFault::Refused(InputError::NoSuchJob { id }))
                if state.opened_on.is_some_and(|on| Some(on) != node) =>
            {
                InputError::JobLost { id, reason: RESTARTED.to_owned() }
            }
            Err(InputFault::Refused(error)) => error,
        };
        state.closed = Some(error.clone());
        if matches!(error, InputError::Finished { .. }) {
            // By this sender too, if it has asked for it.
            let finishing = std::mem::take(&mut state.finishing);
            finishing.into_iter().for_each(|finished| drop(finished.send(Ok(()))));
        }
        // What was sent and not confirmed on a lost connection may have been taken before the input was closed.
        let doubtful = InputError::Unreachable { input: self.input.clone(), message: error.to_string() };
        let (sent, unsent) = std::mem::take(&mut state.batches).into_iter().partition(|batch| batch.first.is_some());
        state.batches = unsent;
        self.give_up(state, 0, &error);
        for batch in <VecDeque<Batch>>::into_iter(sent) {
            let _ = batch.done.send(Err(NotTaken { taken: 0, error: doubtful.clone() }));
        }
        Ok(())
    }

    /// Whoever waits is told that the job has the items before `next`, and no others for this reason.
    fn give_up(&self, mut state: parking_lot::MutexGuard<'_, State>, next: u64, error: &InputError) {
        state.unconfirmed = 0;
        let (opening, finishing) = (state.opening.take(), std::mem::take(&mut state.finishing));
        let batches = std::mem::take(&mut state.batches);
        drop(state);
        if let Some(opening) = opening {
            // Whoever opens it may have gone.
            let _ = opening.send(Err(error.clone()));
        }
        for batch in batches {
            let taken = batch.first.map_or(0, |first| next.saturating_sub(first).min(batch.items));
            let taken = if taken == batch.items { Ok(()) } else { Err(NotTaken { taken, error: error.clone() }) };
            let _ = batch.done.send(taken);
        }
        for finished in finishing {
            let _ = finished.send(Err(error.clone()));
        }
    }
}

fn tell_done(done: Vec<Batch>) {
    for batch in done {
        // Whoever sent it may have gone.
        let _ = batch.done.send(Ok(()));
    }
}

impl Exchange for InputExchange {
    fn attach(&self, _: u64, attachment: &Arc<Attachment>) {
        let mut state = self.state.lock();
        let is_newer = state.attachment.as_ref().is_none_or(|known| known.generation < attachment.generation);
        if !is_newer || state.closed.is_some() {
            return;
        }
        state.attachment = Some(Arc::clone(attachment));
        state.trouble = None;
        drop(state);
        self.ask_to_open(attachment);
    }

    fn detach(&self, generation: u64) {
        let mut state = self.state.lock();
        if state.attachment.as_ref().is_none_or(|attachment| attachment.generation > generation) {
            return;
        }
        state.attachment = None;
        (state.open, state.finish_sent, state.unconfirmed) = (false, false, 0);
        state.batches.iter_mut().for_each(|batch| batch.sent = false);
    }

    fn fail(&self, why: &Why) {
        let mut state = self.state.lock();
        let error = match why {
            Why::Closed => InputError::EnvironmentClosed,
            Why::Revoked(message) => InputError::Forbidden { message: message.clone() },
            Why::Trouble(Trouble { message, gone: true }) => {
                InputError::JobLost { id: self.job, reason: message.clone() }
            }
            Why::Trouble(trouble) => {
                InputError::Unreachable { input: self.input.clone(), message: trouble.message.clone() }
            }
        };
        match why {
            Why::Closed | Why::Revoked(_) => state.closed = Some(error.clone()),
            Why::Trouble(_) => state.trouble = Some(error.clone()),
        }
        self.give_up(state, 0, &error);
    }

    fn hear(&self, message: FromNode) -> Result<Heard, Violation> {
        if let FromNode::InputOpened(opened) = message {
            self.opened(opened)?;
            return Ok(Heard::GoesOn);
        }
        let mut state = self.state.lock();
        match message {
            FromNode::InputTaken { next } => {
                let done = self.confirm(&mut state, next)?;
                self.send_on(&mut state);
                drop(state);
                tell_done(done);
            }
            FromNode::InputRefused { next, error } => {
                let closes = matches!(error, InputError::Closed { .. } | InputError::Finished { .. });
                if closes {
                    state.closed = Some(error.clone());
                }
                let attachment = state.attachment.clone().filter(|_| !closes);
                (state.open, state.finish_sent) = (false, false);
                self.give_up(state, next, &error);
                if let Some(attachment) = attachment {
                    // What was sent behind the refused items is passed over until the node is asked how far it is.
                    self.ask_to_open(&attachment);
                }
            }
            FromNode::InputFinished(finished) => {
                let finishing = std::mem::take(&mut state.finishing);
                if finished.is_ok() {
                    state.closed = Some(InputError::Finished { input: self.input.clone() });
                }
                drop(state);
                for done in finishing {
                    let _ = done.send(finished.clone());
                }
            }
            other => return Err(Violation::new(format_args!("{other:?} is nothing an input says"))),
        }
        Ok(Heard::GoesOn)
    }
}
