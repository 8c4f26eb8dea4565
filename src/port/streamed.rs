//! The contents of a streamed output: a bounded queue of chunks that are handed out once.

use std::{collections::VecDeque, sync::Arc};

use super::chunk::{CHUNK_BYTES, Chunk};

pub(super) struct Streamed {
    chunks: VecDeque<Chunk>,
    items: u64,
    bytes: usize,
    items_max: u64,
    bytes_max: usize,
    /// The items before this position were handed out. It may lie inside the first chunk, whose reader went in the middle.
    start: u64,
    /// The end of what a reader was given at any time.
    given: u64,
    /// The first position of the present attempt.
    begin: u64,
    /// A reader has had items of an earlier attempt, and nobody has been told that they come again.
    untold: bool,
}

impl Streamed {
    pub(super) fn new(items_max: u64, bytes_max: usize) -> Self {
        Self {
            chunks: VecDeque::new(),
            items: 0,
            bytes: 0,
            items_max,
            bytes_max,
            start: 0,
            given: 0,
            begin: 0,
            untold: false,
        }
    }

    pub(super) fn items(&self) -> u64 {
        self.items
    }

    pub(super) fn items_max(&self) -> u64 {
        self.items_max
    }

    pub(super) fn start(&self) -> u64 {
        self.start
    }

    pub(super) fn given(&self) -> u64 {
        self.given
    }

    /// Items before this position were handed out.
    pub(super) fn handed_out(&mut self, position: u64) {
        self.start = self.start.max(position.min(self.given)).max(self.begin);
    }

    /// A writer that finds room may append one batch whatever its size, so a batch that alone is larger than the
    /// bound gets through; the bound is exceeded by one batch for each writer at most.
    pub(super) fn has_room(&self) -> bool {
        self.items < self.items_max && self.bytes < self.bytes_max
    }

    pub(super) fn push(&mut self, chunk: Chunk) {
        self.count(&chunk);
        self.chunks.push_back(chunk);
    }

    /// What is left is thrown away, and what comes from now on, with positions from `begin`, is from the beginning. Gives what is to be
    /// dropped without a lock.
    pub(super) fn begin_anew(&mut self, begin: u64) -> VecDeque<Chunk> {
        self.untold |= self.given > self.begin;
        (self.items, self.bytes) = (0, 0);
        (self.start, self.given, self.begin) = (begin, begin, begin);
        std::mem::take(&mut self.chunks)
    }

    /// A reader goes on that has had everything before this position.
    pub(super) fn go_on(&mut self, from: u64) {
        self.untold |= 0 < from && from <= self.begin;
    }

    /// Whether the reader is to be told that items it may have had come again. Once true.
    pub(super) fn take_untold(&mut self) -> bool {
        std::mem::take(&mut self.untold)
    }

    /// Takes back what a reader did not consume.
    pub(super) fn push_front(&mut self, chunk: Chunk) {
        if chunk.first < self.begin {
            return;
        }
        self.count(&chunk);
        self.chunks.push_front(chunk);
    }

    fn count(&mut self, chunk: &Chunk) {
        self.items += chunk.items;
        self.bytes += chunk.bytes.len();
    }

    /// The next chunk. Small ones are joined, because each reading has a price of its own.
    pub(super) fn pop(&mut self) -> Option<Chunk> {
        let mut chunk = self.chunks.pop_front()?;
        if self.chunks.front().is_some_and(|next| chunk.bytes.len() + next.bytes.len() <= CHUNK_BYTES) {
            let mut bytes = Arc::unwrap_or_clone(chunk.bytes);
            while let Some(next) = self.chunks.pop_front_if(|next| bytes.len() + next.bytes.len() <= CHUNK_BYTES) {
                bytes.extend_from_slice(&next.bytes);
                chunk.items += next.items;
            }
            chunk.bytes = Arc::new(bytes);
        }
        self.items -= chunk.items;
        self.bytes -= chunk.bytes.len();
        self.given = self.given.max(chunk.first + chunk.items);
        Some(chunk)
    }
}
