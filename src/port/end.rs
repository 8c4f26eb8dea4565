//! The end of an output at which its tasks are.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use serde::Serialize;

use super::{OutputStore, WriteError, store::AppendError};
use crate::job::Attempt;

/// The end of an output by which one attempt writes.
#[derive(Clone)]
pub(crate) struct OutputEnd {
    store: Arc<OutputStore>,
    attempt: Attempt,
}

impl OutputEnd {
    pub(super) fn new(store: &Arc<OutputStore>, attempt: Attempt) -> Self {
        Self { store: Arc::clone(store), attempt }
    }

    pub(crate) fn store(&self) -> &Arc<OutputStore> {
        &self.store
    }

    /// Encodes and appends items. Does not block.
    ///
    /// # Errors
    ///
    /// Names the first item that was not written. What encodes badly does not keep the others from being written.
    pub(crate) fn write<'a, T: Serialize + 'a>(
        &self,
        items: impl IntoIterator<Item = &'a T>,
    ) -> Result<(), WriteError> {
        self.store.write(self.attempt, items)
    }

    /// Appends `items` encoded items. Never waits: the writer asks [`poll_room`](Self::poll_room) before it makes more.
    ///
    /// # Errors
    ///
    /// The items were not taken, and the attempt must fail.
    pub(crate) fn append(&self, items: u64, bytes: Vec<u8>) -> Result<(), AppendError> {
        self.store.append(self.attempt, items, bytes)
    }

    /// Ready when a writer should go on: at once also if nothing waits for readers any more.
    pub(crate) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.store.poll_room(self.attempt, cx)
    }
}
