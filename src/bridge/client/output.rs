//! One output that is read over the connection.

use std::{
    collections::VecDeque,
    sync::{Arc, Weak},
    task::{Context, Poll, Waker},
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{
    send::send,
    state::{Attachment, Exchange, Heard, RESTARTED, Shared, Trouble, Why},
};
use crate::{
    bridge::{
        connection::Violation,
        frame::{Kind, Message},
        message::{FromClient, FromNode, OUTPUT_WINDOW, OutputFault, run_head},
    },
    job::JobId,
    port::{Chunk, ChunkSource, OutputError},
    schema::TypeDescription,
};

/// The reading end. Dropping it gives back what was not consumed.
pub(super) struct OutputStream {
    id: u64,
    shared: Weak<Shared>,
    exchange: Arc<OutputExchange>,
}

struct OutputExchange {
    job: JobId,
    output: String,
    wanted: Arc<TypeDescription>,
    state: Mutex<State>,
}

struct State {
    attachment: Option<Arc<Attachment>>,
    /// The start of the node which the output was first opened on.
    opened_on: Option<u128>,
    /// Told how the first attempt to open it went.
    opening: Option<oneshot::Sender<Result<(), OutputError>>>,
    /// Received and not taken by the reader.
    chunks: VecDeque<Chunk>,
    /// The end of the last chunk that the reader took. A new connection goes on from here.
    taken: u64,
    /// Where the reader begins.
    start: u64,
    /// The end and the bytes of each chunk for which the node waits for credit.
    owed: VecDeque<(u64, u64)>,
    owed_bytes: u64,
    /// Bytes that were consumed and not credited yet.
    credit: u64,
    consumed: u64,
    ended: Option<Result<(), OutputError>>,
    trouble: Option<OutputError>,
    reader: Option<Waker>,
}

impl OutputStream {
    pub(super) async fn open(
        shared: &Arc<Shared>,
        job: JobId,
        output: String,
        wanted: Arc<TypeDescription>,
    ) -> Result<Self, OutputError> {
        let (opening, opened) = oneshot::channel();
        let id = shared.next_id();
        let state = State {
            attachment: None,
            opened_on: None,
            opening: Some(opening),
            chunks: VecDeque::new(),
            taken: 0,
            start: 0,
            owed: VecDeque::new(),
            owed_bytes: 0,
            credit: 0,
            consumed: 0,
            ended: None,
            trouble: None,
            reader: None,
        };
        let exchange = Arc::new(OutputExchange { job, output, wanted, state: Mutex::new(state) });
        shared.begin(id, &(Arc::clone(&exchange) as Arc<dyn Exchange>));
        let stream = Self { id, shared: Arc::downgrade(shared), exchange };
        opened.await.unwrap_or(Err(OutputError::EnvironmentClosed))?;
        Ok(stream)
    }
}

impl ChunkSource for OutputStream {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Chunk>, OutputError>> {
        let mut state = self.exchange.state.lock();
        if let Some(chunk) = state.chunks.pop_front() {
            state.taken = chunk.first + chunk.items;
            return Poll::Ready(Ok(Some(chunk)));
        }
        if let Some(ended) = &state.ended {
            return Poll::Ready(ended.clone().map(|()| None));
        }
        if let Some(trouble) = &state.trouble {
            return Poll::Ready(Err(trouble.clone()));
        }
        let replaced = state.reader.replace(cx.waker().clone());
        drop(state);
        drop(replaced);
        Poll::Pending
    }

    fn consumed(&mut self, items: u64) {
        let mut state = self.exchange.state.lock();
        state.consumed = state.consumed.max(items);
        while let Some((end, bytes)) = state.owed.front().copied()
            && end <= items
        {
            state.owed.pop_front();
            state.owed_bytes -= bytes;
            state.credit += bytes;
        }
        if state.credit < OUTPUT_WINDOW / 4 {
            return;
        }
        let credit = FromClient::OutputCredit { consumed: state.consumed };
        state.credit = 0;
        let attachment = state.attachment.clone();
        drop(state);
        if let Some(attachment) = attachment {
            send(&attachment.outbound, self.id, &credit);
        }
    }

    fn close(self: Box<Self>, position: u64) {
        let mut state = self.exchange.state.lock();
        state.taken = state.taken.min(position);
        drop(state);
        // What is left to do is done by the drop.
    }

    fn start(&self) -> u64 {
        self.exchange.state.lock().start
    }

    fn is_trusted(&self) -> bool {
        false
    }
}

impl Drop for OutputStream {
    fn drop(&mut self) {
        let Some(shared) = self.shared.upgrade() else { return };
        shared.end(self.id);
        let mut state = self.exchange.state.lock();
        let (attachment, consumed) = (state.attachment.take(), state.taken);
        drop(state);
        if let Some(attachment) = attachment {
            send(&attachment.outbound, self.id, &FromClient::CloseOutput { consumed });
        }
    }
}

impl OutputExchange {
    fn error_of(&self, why: &Why) -> OutputError {
        match why {
            Why::Closed => OutputError::EnvironmentClosed,
            Why::Revoked(message) => OutputError::Forbidden { message: message.clone() },
            Why::Trouble(Trouble { message, gone: true }) => {
                OutputError::JobLost { id: self.job, reason: message.clone() }
            }
            Why::Trouble(trouble) => {
                OutputError::Unreachable { output: self.output.clone(), message: trouble.message.clone() }
            }
        }
    }

    /// Opened, or refused: at first, or again after the connection was lost.
    fn opened(&self, opened: Result<u64, OutputFault>) {
        let mut state = self.state.lock();
        let node = state.attachment.as_ref().map(|attachment| attachment.incarnation);
        let result = match opened {
            Ok(start) => {
                state.opened_on = state.opened_on.or(node);
                // A reader that has begun knows better how far it is.
                if state.opening.is_some() {
                    state.start = start;
                }
                Ok(())
            }
            Err(OutputFault::TypeDiffers(there)) => Err(OutputError::wrong_type(&self.output, &self.wanted, &there)),
            Err(OutputFault::Refused(OutputError::NoSuchJob { id }))
                if state.opened_on.is_some_and(|on| Some(on) != node) =>
            {
                Err(OutputError::JobLost { id, reason: RESTARTED.to_owned() })
            }
            Err(OutputFault::Refused(error)) => Err(error),
        };
        let opening = state.opening.take();
        if let Err(error) = &result
            && state.ended.is_none()
        {
            state.ended = Some(Err(error.clone()));
        }
        let reader = if result.is_err() { state.reader.take() } else { None };
        drop(state);
        if let Some(opening) = opening {
            // The reader may have gone.
            let _ = opening.send(result);
        }
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

impl Exchange for OutputExchange {
    fn attach(&self, id: u64, attachment: &Arc<Attachment>) {
        let mut state = self.state.lock();
        let is_newer = state.attachment.as_ref().is_none_or(|known| known.generation < attachment.generation);
        // One that was read to its end is opened again too, for the node to hear what was consumed: it took back what
        // it did not know to be.
        if !is_newer || matches!(state.ended, Some(Err(_))) {
            return;
        }
        state.attachment = Some(Arc::clone(attachment));
        state.trouble = None;
        let from = state.taken;
        drop(state);
        let (job, output, item_type) = (self.job, self.output.clone(), self.wanted.fingerprint());
        let open = FromClient::OpenOutput { job, output, item_type, from };
        send(&attachment.outbound, id, &open);
    }

    fn detach(&self, generation: u64) {
        let mut state = self.state.lock();
        if state.attachment.as_ref().is_none_or(|attachment| attachment.generation > generation) {
            return;
        }
        state.attachment = None;
        // The node has taken back what was not consumed, and another reader may get it. All but the chunk in the
        // reader's hands is asked for again, and with it the end that came behind.
        if !state.chunks.is_empty() {
            state.chunks.clear();
            state.ended = None;
        }
        state.owed.clear();
        (state.owed_bytes, state.credit) = (0, 0);
    }

    fn fail(&self, why: &Why) {
        let error = self.error_of(why);
        let mut state = self.state.lock();
        match why {
            Why::Closed | Why::Revoked(_) => state.ended = Some(Err(error.clone())),
            Why::Trouble(_) => state.trouble = Some(error.clone()),
        }
        let (opening, reader) = (state.opening.take(), state.reader.take());
        drop(state);
        if let Some(opening) = opening {
            // The reader may have gone.
            let _ = opening.send(Err(error));
        }
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    fn hear(&self, message: FromNode) -> Result<Heard, Violation> {
        match message {
            FromNode::OutputOpened(opened) => {
                self.opened(opened);
                Ok(Heard::GoesOn)
            }
            FromNode::OutputEnded(ended) => {
                let mut state = self.state.lock();
                state.ended = Some(ended);
                let reader = state.reader.take();
                drop(state);
                if let Some(reader) = reader {
                    reader.wake();
                }
                Ok(Heard::GoesOn)
            }
            other => Err(Violation::new(format_args!("{other:?} is nothing an output says"))),
        }
    }

    fn receive(&self, message: &Message<'_>) -> Result<(), Violation> {
        if message.kind != Kind::Chunk {
            return Err(Violation::new(format_args!("a message of kind {:?} for an output", message.kind)));
        }
        let (first, items, bytes) = run_head(message.payload)?;
        let length = bytes.len() as u64;
        let end = first.checked_add(items).ok_or_else(|| Violation::new("a chunk of more items than can be"))?;
        let mut state = self.state.lock();
        if state.owed_bytes >= OUTPUT_WINDOW {
            return Err(Violation::new(format_args!("output `{}` was sent beyond its credit", self.output)));
        }
        state.owed.push_back((end, length));
        state.owed_bytes += length;
        state.chunks.push_back(Chunk { first, items, bytes: Arc::new(bytes.to_vec()) });
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
        Ok(())
    }
}
