//! What stands between batches.

/// Something in the stream that is not an item. Marks keep their place among the items.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    /// Nothing follows.
    End,
    /// The sources are held; everything they emitted before is in front of this mark.
    Hold(u32),
}
