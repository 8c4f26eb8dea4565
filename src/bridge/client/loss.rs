//! Waiting for the loss of a connection.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::state::{Attachment, Exchange, Heard, Shared, Why};
use crate::bridge::{connection::Violation, message::FromNode};

/// Says nothing, and hears when the connection is lost.
pub(super) struct Loss {
    lost: Mutex<Option<oneshot::Sender<()>>>,
}

impl Loss {
    /// Ready once the present connection is lost, or none is to be had. From the call on, not from the first poll.
    pub(super) fn of(shared: &Arc<Shared>) -> impl Future<Output = ()> + Send + use<> {
        let (tx, lost) = oneshot::channel();
        let id = shared.next_id();
        let exchange: Arc<dyn Exchange> = Arc::new(Self { lost: Mutex::new(Some(tx)) });
        shared.begin(id, &exchange);
        let entry = Entry { id, shared: Arc::downgrade(shared) };
        async move {
            // An error says that the client is gone, and its connection with it.
            let _ = lost.await;
            drop(entry);
        }
    }

    fn tell(&self) {
        if let Some(lost) = self.lost.lock().take() {
            // Nobody may wait any more.
            let _ = lost.send(());
        }
    }
}

/// Its place among the exchanges.
struct Entry {
    id: u64,
    shared: Weak<Shared>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.end(self.id);
        }
    }
}

impl Exchange for Loss {
    fn attach(&self, _: u64, _: &Arc<Attachment>) {}

    fn detach(&self, _: u64) {
        self.tell();
    }

    fn fail(&self, _: &Why) {
        self.tell();
    }

    fn hear(&self, message: FromNode) -> Result<Heard, Violation> {
        Err(Violation::new(format_args!("{message:?}, where nothing was asked")))
    }
}
