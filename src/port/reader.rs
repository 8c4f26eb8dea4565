//! One reader of an output: chunks from the store, and items from chunks.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use serde::de::DeserializeOwned;
use tokio::task::JoinHandle;

use super::{
    OutputError,
    store::{Chunk, Next, OutputKind, OutputStore},
};
use crate::codec::{DecodeError, decode_prefix};

/// Items for which room is made at once: their number comes from outside this type, and `()` takes no bytes.
const RESERVE_MAX: usize = 1 << 16;

/// Reads an output in order. Dropping it gives what it did not consume of a streamed output back.
pub(crate) struct OutputReader {
    store: Arc<OutputStore>,
    id: u64,
    /// Entries of a collected output that were read.
    entry: usize,
    /// A chunk that is being read from disk.
    reading: Option<Reading>,
    /// The chunk whose items are being handed out.
    current: Option<Current>,
}

struct Reading {
    first: u64,
    items: u64,
    bytes: JoinHandle<io::Result<Vec<u8>>>,
}

struct Current {
    chunk: Chunk,
    /// Of the chunk's items and bytes, handed out.
    items: u64,
    bytes: usize,
}

impl Current {
    fn rest(self) -> Option<Chunk> {
        let Chunk { first, items, bytes } = self.chunk;
        let rest = if self.bytes == 0 { bytes } else { Arc::new(bytes[self.bytes..].to_vec()) };
        (self.items < items).then(|| Chunk { first: first + self.items, items: items - self.items, bytes: rest })
    }

    fn next<T: DeserializeOwned>(&mut self) -> Result<T, DecodeError> {
        let (item, used) = decode_prefix(&self.chunk.bytes[self.bytes..])?;
        let (items, bytes) = (self.items + 1, self.bytes + used);
        if items == self.chunk.items && bytes < self.chunk.bytes.len() {
            return Err(DecodeError::TrailingBytes { count: self.chunk.bytes.len() - bytes });
        }
        (self.items, self.bytes) = (items, bytes);
        Ok(item)
    }
}

impl OutputReader {
    pub(super) fn new(store: Arc<OutputStore>, id: u64) -> Self {
        Self { store, id, entry: 0, reading: None, current: None }
    }

    /// The next chunk, `None` at the end. A streamed chunk now belongs to the caller.
    ///
    /// # Errors
    ///
    /// [`OutputError::Incomplete`], [`OutputError::Disk`], [`OutputError::EnvironmentClosed`].
    pub(crate) fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Chunk>, OutputError>> {
        if self.reading.is_none() {
            match self.store.next(self.id, self.entry, cx)? {
                Next::Wait => return Poll::Pending,
                Next::End => return Poll::Ready(Ok(None)),
                Next::Chunk(chunk) => {
                    self.entry += 1;
                    return Poll::Ready(Ok(Some(chunk)));
                }
                Next::File { first, items, file, offset, len } => {
                    let bytes = self.store.blocking().spawn_blocking(move || file.read(offset, len));
                    self.reading = Some(Reading { first, items, bytes });
                }
            }
        }
        let Some(reading) = &mut self.reading else { return Poll::Pending };
        let bytes = ready!(Pin::new(&mut reading.bytes).poll(cx));
        let Reading { first, items, .. } = *reading;
        self.reading = None;
        match bytes {
            Ok(Ok(bytes)) => {
                self.entry += 1;
                Poll::Ready(Ok(Some(Chunk { first, items, bytes: Arc::new(bytes) })))
            }
            Ok(Err(error)) => {
                let output = self.store.name().to_owned();
                Poll::Ready(Err(OutputError::Disk { output, message: error.to_string() }))
            }
            // The blocking pool drops what it has not begun when it is shut down.
            Err(_) => Poll::Ready(Err(OutputError::EnvironmentClosed)),
        }
    }

    /// The next item, `None` at the end. After an error, the same item is tried again.
    pub(crate) fn poll_item<T: DeserializeOwned>(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<T>, OutputError>> {
        match ready!(self.poll_current(cx))? {
            true => Poll::Ready(self.take_item().map(Some)),
            false => Poll::Ready(Ok(None)),
        }
    }

    /// The items of the next chunk, or of what is left of the present one; `false` at the end.
    pub(crate) fn poll_items<T: DeserializeOwned>(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut Vec<T>,
    ) -> Poll<Result<bool, OutputError>> {
        if !ready!(self.poll_current(cx))? {
            return Poll::Ready(Ok(false));
        }
        if let Some(current) = &self.current {
            into.reserve(usize::try_from(current.chunk.items - current.items).unwrap_or(usize::MAX).min(RESERVE_MAX));
        }
        while self.current.is_some() {
            into.push(self.take_item()?);
        }
        Poll::Ready(Ok(true))
    }

    /// Whether there is a chunk with items left.
    fn poll_current(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, OutputError>> {
        if self.current.is_none() {
            let Some(chunk) = ready!(self.poll_chunk(cx))? else { return Poll::Ready(Ok(false)) };
            self.current = Some(Current { chunk, items: 0, bytes: 0 });
        }
        Poll::Ready(Ok(true))
    }

    /// Takes one item of the present chunk, and the chunk away with its last one.
    fn take_item<T: DeserializeOwned>(&mut self) -> Result<T, OutputError> {
        let current = self.current.as_mut().expect("only called when a chunk with items is present");
        let item = current.next().map_err(|error| OutputError::Decode {
            output: self.store.name().to_owned(),
            position: current.chunk.first + current.items + 1,
            message: error.to_string(),
        })?;
        if current.items == current.chunk.items {
            self.current = None;
        }
        Ok(item)
    }
}

impl std::fmt::Debug for OutputReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OutputReader").field("output", &self.store.name()).finish_non_exhaustive()
    }
}

impl Drop for OutputReader {
    fn drop(&mut self) {
        let rest = self.current.take().filter(|_| self.store.kind() == OutputKind::Streamed);
        self.store.leave(self.id, rest.and_then(Current::rest));
    }
}
