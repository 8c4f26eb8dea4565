//! How handlers on the control thread answer: at once, or later from wherever the answer turns up.

use std::sync::Arc;

use actix::{
    Actor, Message,
    dev::{MessageResponse, OneshotSender},
};
use parking_lot::Mutex;

/// The answer of a handler.
pub(crate) enum Answer<T> {
    Now(T),
    /// Whoever holds the slot answers. One hop less than a future in the handler's context, which actix would poll
    /// again whenever anything else in that context wakes.
    Later(ReplySlot<T>),
}

/// Where the answer to one request goes. Filled with the way back to the client when the handler returns.
pub(crate) struct ReplySlot<T>(Arc<Mutex<Option<OneshotSender<T>>>>);

impl<T> Clone for ReplySlot<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> ReplySlot<T> {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(None)))
    }

    /// Sends the answer. Without effect if the client no longer waits.
    pub(crate) fn answer(&self, answer: T) {
        let client = self.0.lock().take();
        if let Some(client) = client {
            // A client that has gone away misses nothing it still wanted.
            let _ = client.send(answer);
        }
    }

    /// Whether the client still waits.
    pub(crate) fn is_wanted(&self) -> bool {
        self.0.lock().as_ref().is_some_and(|client| !client.is_closed())
    }
}

impl<A, M, T> MessageResponse<A, M> for Answer<T>
where
    A: Actor,
    M: Message<Result = T>,
{
    fn handle(self, _: &mut A::Context, client: Option<OneshotSender<T>>) {
        match self {
            Self::Now(answer) => {
                if let Some(client) = client {
                    let _ = client.send(answer);
                }
            }
            Self::Later(slot) => *slot.0.lock() = client,
        }
    }
}
