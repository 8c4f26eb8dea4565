//! Runs of items on a stream: long ones go in several batches, of which the last says how many items it was.

use std::{mem, sync::Arc, task::Context};

use crate::peer::{Offered, Sender};

/// Bytes of a batch at most, so that a long run does not hold up what else is to be written.
pub(super) const PIECE_BYTES: usize = 1 << 20;

/// A run that is being offered.
pub(super) struct Pieces {
    pub items: u64,
    bytes: Arc<Vec<u8>>,
    taken: usize,
}

impl Pieces {
    /// `items` is not 0, which says that a run goes on.
    pub fn new(items: u64, bytes: impl Into<Arc<Vec<u8>>>) -> Self {
        debug_assert_ne!(items, 0, "this says that a run goes on");
        Self { items, bytes: bytes.into(), taken: 0 }
    }

    /// Offers what was not taken yet; if not all of it is, the waker is woken when there may be room.
    pub fn offer(&mut self, sender: &Sender, cx: &Context<'_>) -> Offered {
        loop {
            let rest = &self.bytes[self.taken..];
            let piece = &rest[..rest.len().min(PIECE_BYTES)];
            let is_last = piece.len() == rest.len();
            let items = if is_last { self.items } else { 0 };
            let mut offered = sender.offer(items, piece);
            if offered == Offered::Full {
                // There may have been room before it was registered.
                sender.register(cx);
                offered = sender.offer(items, piece);
            }
            if offered != Offered::Taken || is_last {
                return offered;
            }
            self.taken += piece.len();
        }
    }
}

/// Puts runs together again.
#[derive(Debug, Default)]
pub(super) struct Assembly(Vec<u8>);

impl Assembly {
    /// The whole run, if this is its last piece.
    pub fn take(&mut self, items: u64, bytes: Vec<u8>) -> Option<Vec<u8>> {
        if self.0.is_empty() {
            self.0 = bytes;
        } else {
            self.0.extend_from_slice(&bytes);
        }
        (items > 0).then(|| mem::take(&mut self.0))
    }
}

/// A number that was said; none that was said is 0.
pub(super) fn number_in(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}
