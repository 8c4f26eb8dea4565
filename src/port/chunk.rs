//! The pieces in which items of an output are kept and handed on.

use std::sync::Arc;

/// About how many bytes are handed to a reader, or written to disk, as one piece.
pub(super) const CHUNK_BYTES: usize = 256 << 10;

/// A run of encoded items.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chunk {
    /// Items of the output before this chunk.
    pub first: u64,
    pub items: u64,
    pub bytes: Arc<Vec<u8>>,
}
