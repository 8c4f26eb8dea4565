//! The contents of an output that is kept elsewhere: a bounded queue of chunks on their way there.

use std::task::{Context, Poll, Waker};

use super::{chunk::Chunk, store::AppendError, streamed::Streamed};

/// Bytes that wait to be taken, but for a batch of each writer.
const BYTES_MAX: usize = 1 << 20;

/// Of a bound on items, none.
pub(super) const UNBOUNDED: u64 = u64::MAX;

pub(super) struct Relayed {
    chunks: Streamed,
    /// Items that wait or are on their way at most, but for a batch of each writer.
    items_max: u64,
    /// Items that were taken and are not known to have found room where they go. Not counted without a bound.
    underway: u64,
    /// The taker of the chunks, while there are none.
    taker: Option<Waker>,
    /// They are not taken where they go.
    refused: Option<AppendError>,
}

impl Relayed {
    pub(super) fn new(items_max: u64) -> Self {
        let chunks = Streamed::new(items_max, BYTES_MAX);
        Self { chunks, items_max, underway: 0, taker: None, refused: None }
    }

    /// A writer that is refused finds room, so that it comes and is told.
    pub(super) fn has_room(&self) -> bool {
        let waiting = self.chunks.items().saturating_add(self.underway);
        self.refused.is_some() || (waiting < self.items_max && self.chunks.has_room())
    }

    /// So many of the items that were taken have found room.
    pub(super) fn arrived(&mut self, items: u64) {
        self.underway = self.underway.saturating_sub(items);
    }

    pub(super) fn push(&mut self, chunk: Chunk) -> Result<(), AppendError> {
        if let Some(error) = &self.refused {
            return Err(error.clone());
        }
        self.chunks.push(chunk);
        Ok(())
    }

    pub(super) fn poll_taken(&mut self, cx: &mut Context<'_>) -> Poll<Chunk> {
        if let Some(chunk) = self.chunks.pop() {
            if self.items_max != UNBOUNDED {
                self.underway += chunk.items;
            }
            return Poll::Ready(chunk);
        }
        if !self.taker.as_ref().is_some_and(|taker| taker.will_wake(cx.waker())) {
            self.taker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    pub(super) fn taker(&mut self) -> Option<Waker> {
        self.taker.take()
    }

    /// Gives what is queued up, to be dropped without a lock.
    pub(super) fn refuse(&mut self, error: AppendError) -> Streamed {
        self.refused.get_or_insert(error);
        std::mem::replace(&mut self.chunks, Streamed::new(self.items_max, BYTES_MAX))
    }

    pub(super) fn refusal(&self) -> Option<&AppendError> {
        self.refused.as_ref()
    }
}
