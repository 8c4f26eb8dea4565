//! What keeps an ended job readable on the node for as long as a handle of this client lives.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::{
    send::send,
    state::{Attachment, Exchange, Heard, Shared, Why},
};
use crate::{
    bridge::{
        connection::Violation,
        message::{FromClient, FromNode},
    },
    job::{HeldBy, JobId},
    link::{JobRequest, Request},
};

/// Held by handles. The node holds the job for the connection on which it was opened; over a later one it is opened
/// again.
pub(super) struct Hold {
    /// Its own number among the exchanges.
    id: u64,
    shared: Weak<Shared>,
    exchange: Arc<HoldExchange>,
}

struct HoldExchange {
    /// That of the question by which the job was opened, and by which it is let go.
    question: u64,
    job: JobId,
    by: HeldBy,
    attachment: Mutex<Option<Arc<Attachment>>>,
}

impl Hold {
    pub(super) fn begin(shared: &Arc<Shared>, question: u64, job: JobId, by: HeldBy, opened: &Arc<Attachment>) -> Self {
        let attachment = Mutex::new(Some(Arc::clone(opened)));
        let exchange = Arc::new(HoldExchange { question, job, by, attachment });
        let id = shared.next_id();
        shared.begin(id, &(Arc::clone(&exchange) as Arc<dyn Exchange>));
        Self { id, shared: Arc::downgrade(shared), exchange }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.end(self.id);
        }
        let attachment = self.exchange.attachment.lock().take();
        if let Some(attachment) = attachment {
            send(&attachment.outbound, self.exchange.question, &FromClient::Forget);
        }
    }
}

impl Exchange for HoldExchange {
    fn attach(&self, _: u64, attachment: &Arc<Attachment>) {
        let mut current = self.attachment.lock();
        if current.as_ref().is_some_and(|known| known.generation >= attachment.generation) {
            return;
        }
        *current = Some(Arc::clone(attachment));
        drop(current);
        // Nobody waits for the answer.
        let request = Request::Job { job: self.job, request: JobRequest::Open { by: self.by.clone() } };
        send(&attachment.outbound, self.question, &FromClient::Ask(request));
    }

    fn detach(&self, generation: u64) {
        let mut current = self.attachment.lock();
        if current.as_ref().is_some_and(|attachment| attachment.generation <= generation) {
            *current = None;
        }
    }

    fn fail(&self, _: &Why) {}

    fn hear(&self, message: FromNode) -> Result<Heard, Violation> {
        Err(Violation::new(format_args!("{message:?}, where nothing was asked")))
    }
}
