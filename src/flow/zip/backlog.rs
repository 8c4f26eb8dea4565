//! What one input of a zip is ahead: a queue whose far end is encoded, and lies on disk when it is long.

use std::{collections::VecDeque, sync::Arc};

use serde::{Serialize, de::DeserializeOwned};

use crate::codec::{DecodeError, catching, decode_prefix, encode_into};

/// Encoded bytes that are written and read at once at most, but for one item that alone is larger.
const CHUNK_BYTES_MAX: usize = 64 << 10;

/// Whether an item can be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Ready,
    OnDisk,
    Nothing,
}

enum Place {
    Memory(Arc<Vec<u8>>),
    /// At this offset of the file.
    Disk(u64),
}

/// A run of encoded items.
struct Chunk {
    items: usize,
    len: usize,
    /// What it counts: at least one byte for each item, so that items of no bytes have a limit too.
    weight: u64,
    place: Place,
}

pub(super) struct Backlog<T> {
    /// The oldest, as they are.
    front: VecDeque<T>,
    front_max: usize,
    /// What follows, in order.
    chunks: VecDeque<Chunk>,
    /// What follows the chunks: the chunk in the making.
    tail: Vec<u8>,
    tail_items: usize,
    tail_weight: u64,
    chunk_bytes: usize,
    weight: u64,
    /// Bytes of the chunks that are in memory.
    memory: usize,
}

impl<T> Backlog<T> {
    /// Keeps `front_max` items as they are, and makes chunks of which several fit into `memory_bytes`.
    pub fn new(front_max: usize, memory_bytes: usize) -> Self {
        Self {
            front: VecDeque::new(),
            front_max,
            chunks: VecDeque::new(),
            tail: Vec::new(),
            tail_items: 0,
            tail_weight: 0,
            chunk_bytes: (memory_bytes / 4).clamp(1, CHUNK_BYTES_MAX),
            weight: 0,
            memory: 0,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.front.is_empty() && self.chunks.is_empty() && self.tail_items == 0
    }

    pub fn clear(&mut self) {
        self.front = VecDeque::new();
        self.chunks = VecDeque::new();
        self.tail = Vec::new();
        (self.tail_items, self.tail_weight, self.weight, self.memory) = (0, 0, 0, 0);
    }

    /// The encoded bytes of what is not kept as it is.
    pub fn weight(&self) -> u64 {
        self.weight
    }

    /// Those of them that are in memory.
    pub fn memory(&self) -> usize {
        self.memory + self.tail.len()
    }

    pub fn is_on_disk(&self) -> bool {
        self.chunks.iter().any(|chunk| matches!(chunk.place, Place::Disk(_)))
    }

    /// The offset and length of the chunk that is needed next.
    pub fn to_read(&self) -> Option<(u64, usize)> {
        match self.chunks.front()? {
            Chunk { place: Place::Disk(offset), len, .. } => Some((*offset, *len)),
            _ => None,
        }
    }

    /// Takes the chunk that [`to_read`](Self::to_read) spoke of.
    pub fn has_read(&mut self, bytes: Vec<u8>) {
        if let Some(chunk) = self.chunks.front_mut() {
            self.memory += chunk.len;
            chunk.place = Place::Memory(Arc::new(bytes));
        }
    }

    /// The chunks in memory but for the one that is needed next, in order.
    pub fn to_write(&self) -> Vec<Arc<Vec<u8>>> {
        // Behind the first one, those in memory are the last ones: there may be very many on disk before them.
        let in_memory = self.chunks.iter().skip(1).rev().map_while(|chunk| match &chunk.place {
            Place::Memory(bytes) => Some(Arc::clone(bytes)),
            Place::Disk(_) => None,
        });
        let mut chunks: Vec<_> = in_memory.collect();
        chunks.reverse();
        chunks
    }

    /// What [`to_write`](Self::to_write) gave lies on disk now, one after the other from `offset` on.
    pub fn has_written(&mut self, mut offset: u64) {
        let count = self.to_write().len();
        let first = self.chunks.len() - count;
        for chunk in self.chunks.range_mut(first..) {
            self.memory -= chunk.len;
            chunk.place = Place::Disk(offset);
            offset += chunk.len as u64;
        }
    }
}

impl<T: Serialize + DeserializeOwned> Backlog<T> {
    pub fn push(&mut self, item: T) -> Result<(), String> {
        if self.chunks.is_empty() && self.tail_items == 0 && self.front.len() < self.front_max {
            self.front.push_back(item);
            return Ok(());
        }
        let before = self.tail.len();
        encode_into(&item, &mut self.tail).map_err(|error| format!("an item that waits cannot be encoded: {error}"))?;
        let weight = ((self.tail.len() - before) as u64).max(1);
        self.tail_items += 1;
        self.tail_weight += weight;
        self.weight += weight;
        if self.tail_weight >= self.chunk_bytes as u64 {
            let (bytes, items, weight) = self.take_tail();
            let chunk = Chunk { items, len: bytes.len(), weight, place: Place::Memory(Arc::new(bytes)) };
            self.memory += chunk.len;
            self.chunks.push_back(chunk);
        }
        Ok(())
    }

    fn take_tail(&mut self) -> (Vec<u8>, usize, u64) {
        (std::mem::take(&mut self.tail), std::mem::take(&mut self.tail_items), std::mem::take(&mut self.tail_weight))
    }

    /// Says whether [`pop`](Self::pop) will give an item.
    pub fn next(&mut self) -> Result<Next, String> {
        if !self.front.is_empty() {
            return Ok(Next::Ready);
        }
        let (bytes, items, weight) = match self.chunks.pop_front() {
            Some(Chunk { items, weight, place: Place::Memory(bytes), len }) => {
                self.memory -= len;
                (bytes, items, weight)
            }
            Some(chunk) => {
                self.chunks.push_front(chunk);
                return Ok(Next::OnDisk);
            }
            None if self.tail_items == 0 => return Ok(Next::Nothing),
            None => {
                let (bytes, items, weight) = self.take_tail();
                (Arc::new(bytes), items, weight)
            }
        };
        self.weight -= weight;
        let front = &mut self.front;
        let decoded = catching(|| {
            let mut rest = &bytes[..];
            for _ in 0..items {
                let (item, used) = decode_prefix(rest)?;
                front.push_back(item);
                rest = &rest[used..];
            }
            Ok::<_, DecodeError>(())
        });
        decoded.map_err(|error| format!("an item that waited cannot be decoded: {error}"))?;
        Ok(Next::Ready)
    }

    pub fn pop(&mut self) -> Option<T> {
        self.front.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Moves what is to be written to a file in memory.
    fn write(backlog: &mut Backlog<String>, file: &mut Vec<u8>) {
        let offset = file.len() as u64;
        for chunk in backlog.to_write() {
            file.extend_from_slice(&chunk);
        }
        backlog.has_written(offset);
    }

    #[test]
    fn items_come_out_as_they_went_in_wherever_they_lay() {
        let (mut backlog, mut file) = (Backlog::new(3, 400), Vec::new());
        let mut taken = 0;
        for n in 0..1000 {
            backlog.push(format!("item {n}")).expect("text can be encoded");
            if n % 100 == 99 {
                write(&mut backlog, &mut file);
                assert!(backlog.memory() <= 300, "{} bytes are in memory", backlog.memory());
            }
            if n % 3 == 0 {
                if backlog.next() == Ok(Next::OnDisk) {
                    let (offset, len) = backlog.to_read().expect("it is on disk");
                    backlog.has_read(file[offset as usize..][..len].to_vec());
                }
                assert_eq!(backlog.next(), Ok(Next::Ready));
                assert_eq!(backlog.pop(), Some(format!("item {taken}")));
                taken += 1;
            }
        }
        assert!(backlog.is_on_disk() && backlog.weight() > 5000);
        while !backlog.is_empty() {
            if let Some((offset, len)) = backlog.to_read() {
                backlog.has_read(file[offset as usize..][..len].to_vec());
            }
            assert_eq!(backlog.next(), Ok(Next::Ready));
            assert_eq!(backlog.pop(), Some(format!("item {taken}")));
            taken += 1;
        }
        assert_eq!((taken, backlog.weight(), backlog.next()), (1000, 0, Ok(Next::Nothing)));
    }

    #[test]
    fn items_of_no_bytes_weigh_something() {
        let mut backlog = Backlog::new(1, 40);
        for _ in 0..101 {
            backlog.push(()).expect("nothing can be encoded");
        }
        assert_eq!((backlog.weight(), backlog.memory()), (100, 0));
        let mut taken = 0;
        while backlog.next() == Ok(Next::Ready) {
            taken += usize::from(backlog.pop().is_some());
        }
        assert_eq!(taken, 101);
    }
}
