//! The contents of a collected output: chunks in memory, and beyond a limit the older ones in a file.
//!
//! Bookkeeping only, done under the store's lock; the file is written by the [`store`](super::store) and read by readers.

use std::sync::Arc;

use super::{chunk::CHUNK_BYTES, spill::SpillFile};

pub(super) struct Entry {
    /// Items in the entries before this one.
    pub first: u64,
    pub items: u64,
    pub place: Place,
}

#[derive(Clone)]
pub(super) enum Place {
    Memory(Arc<Vec<u8>>),
    File { file: Arc<SpillFile>, offset: u64, len: usize },
}

/// Everything appended so far, in order. Entries before `in_memory_from` are in the file.
pub(super) struct Collected {
    entries: Vec<Entry>,
    in_memory_from: usize,
    memory: usize,
    memory_max: usize,
    spilling: bool,
    file: Option<Arc<SpillFile>>,
    file_len: u64,
    /// The disk refused; what is in memory stays there and nothing more is taken.
    failure: Option<String>,
    cleared: u32,
}

/// Chunks to be written to the file, one behind the other.
pub(super) struct Spill {
    pub chunks: Vec<Arc<Vec<u8>>>,
    pub offset: u64,
    /// `None`: the file has yet to be made.
    pub file: Option<Arc<SpillFile>>,
    /// How often everything had been given up before.
    cleared: u32,
}

impl Collected {
    pub(super) fn new(memory_max: usize) -> Self {
        Self {
            entries: Vec::new(),
            in_memory_from: 0,
            memory: 0,
            memory_max,
            spilling: false,
            file: None,
            file_len: 0,
            failure: None,
            cleared: 0,
        }
    }

    pub(super) fn failure(&self) -> Option<&String> {
        self.failure.as_ref()
    }

    pub(super) fn entry(&self, index: usize) -> Option<&Entry> {
        self.entries.get(index)
    }

    /// The index of the entry that the item at `position` is in.
    pub(super) fn entry_at(&self, position: u64) -> usize {
        self.entries.partition_point(|entry| entry.first + entry.items <= position)
    }

    /// Writers wait while more is in memory than allowed and the disk is being written. Without the second condition
    /// a disk that failed would hold them for ever.
    pub(super) fn has_room(&self) -> bool {
        !self.spilling || self.memory <= self.memory_max
    }

    pub(super) fn push(&mut self, first: u64, items: u64, bytes: Vec<u8>) {
        self.memory += bytes.len();
        // The last entry grows until it is a good size to read and to spill. It is shared while it is being spilled.
        if let Some(Entry { items: count, place: Place::Memory(chunk), .. }) = self.entries.last_mut()
            && let Some(chunk) = Arc::get_mut(chunk)
        {
            if chunk.len() + bytes.len() <= CHUNK_BYTES {
                chunk.extend_from_slice(&bytes);
                *count += items;
                return;
            }
            chunk.shrink_to_fit();
        }
        self.entries.push(Entry { first, items, place: Place::Memory(Arc::new(bytes)) });
    }

    /// What to write now: the oldest chunks, until half the allowed memory is free again.
    pub(super) fn begin_spill(&mut self) -> Option<Spill> {
        if self.spilling || self.failure.is_some() || self.memory <= self.memory_max {
            return None;
        }
        let mut chunks = Vec::new();
        let mut remaining = self.memory;
        for entry in &self.entries[self.in_memory_from..] {
            let Place::Memory(chunk) = &entry.place else { break };
            if remaining <= self.memory_max / 2 {
                break;
            }
            remaining -= chunk.len();
            chunks.push(Arc::clone(chunk));
        }
        self.spilling = true;
        Some(Spill { chunks, offset: self.file_len, file: self.file.clone(), cleared: self.cleared })
    }

    /// The chunks of `spill` are in `file`, or why not. `None` for the file: the output was given up meanwhile.
    pub(super) fn end_spill(&mut self, spill: &Spill, written: Result<Arc<SpillFile>, String>) {
        if spill.cleared != self.cleared || !std::mem::take(&mut self.spilling) {
            return;
        }
        let file = match written {
            Ok(file) => file,
            Err(message) => {
                self.failure.get_or_insert(message);
                return;
            }
        };
        for (entry, chunk) in self.entries[self.in_memory_from..].iter_mut().zip(&spill.chunks) {
            let (offset, len) = (self.file_len, chunk.len());
            entry.place = Place::File { file: Arc::clone(&file), offset, len };
            self.file_len += len as u64;
            self.memory -= len;
        }
        self.in_memory_from += spill.chunks.len();
        self.file = Some(file);
    }

    /// Gives everything up, and hands it out to be dropped without the lock.
    pub(super) fn clear(&mut self) -> Vec<Entry> {
        self.spilling = false;
        self.memory = 0;
        self.in_memory_from = 0;
        self.file = None;
        self.file_len = 0;
        self.failure = None;
        self.cleared += 1;
        std::mem::take(&mut self.entries)
    }

    #[cfg(test)]
    pub(super) fn entries_in_file(&self) -> usize {
        self.in_memory_from
    }

    #[cfg(test)]
    pub(super) fn memory(&self) -> usize {
        self.memory
    }
}
