//! How far rows have been read.

use serde::{Deserialize, Serialize};

/// How far a [`FileSplit`](crate::FileSplit) has been read: in which of its files, and where the next row begins. By default
/// at its beginning.
///
/// A reader that goes on from there reads a plain file from that byte on. A compressed file is decompressed from its beginning,
/// which takes as long as it took to get there; and of a file with a header the beginning is read again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilePosition {
    /// How many ranges have been read to their end.
    pub(super) ranges: usize,
    /// Where to go on in the next one; none is its beginning.
    pub(super) row: Option<RowStart>,
}

/// Where a row begins that is not the first one of its range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RowStart {
    /// In the file, or in what comes out of a compressed one.
    pub offset: u64,
    /// Line ends in front of it within the range.
    pub lines: u64,
}
