//! One reader of an output in this process: chunks from the store.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use super::{
    OutputError,
    chunk::Chunk,
    source::ChunkSource,
    store::{Next, OutputKind, OutputStore},
};
use crate::host::Blocking;

/// Reads an output in order. Dropping it gives back what was not consumed of a streamed output.
pub(crate) struct OutputReader {
    store: Arc<OutputStore>,
    id: u64,
    /// Items before this position are not wanted.
    from: u64,
    /// Where reading begins, which may be inside a chunk.
    start: u64,
    /// Items before this position were handed out.
    handed_out: u64,
    /// Entries of a collected output that were read or passed over; `None` until the first is looked for.
    entry: Option<usize>,
    /// A chunk that is being read from disk.
    reading: Option<Reading>,
    /// Chunks of a streamed output that were handed out and may have to be given back.
    lent: VecDeque<Chunk>,
}

struct Reading {
    first: u64,
    items: u64,
    bytes: Blocking<io::Result<Vec<u8>>>,
}

impl OutputReader {
    pub(super) fn new(store: Arc<OutputStore>, id: u64, from: u64, start: u64) -> Self {
        let entry = if from == 0 { Some(0) } else { None };
        Self { store, id, from, start, handed_out: 0, entry, reading: None, lent: VecDeque::new() }
    }

    /// The position of the first item to be handed out: those of the first chunk before it went to another reader.
    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    /// From where it reads, which no reader could have come beyond.
    pub(crate) fn from(&self) -> u64 {
        self.from
    }

    /// The next chunk, `None` at the end.
    ///
    /// # Errors
    ///
    /// [`OutputError::Incomplete`], [`OutputError::Disk`], [`OutputError::EnvironmentClosed`].
    pub(crate) fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Chunk>, OutputError>> {
        loop {
            let Some(chunk) = ready!(self.poll_any(cx))? else { return Poll::Ready(Ok(None)) };
            if chunk.first + chunk.items <= self.from {
                continue;
            }
            if self.store.kind() == OutputKind::Streamed {
                self.lent.push_back(chunk.clone());
            }
            return Poll::Ready(Ok(Some(chunk)));
        }
    }

    fn poll_any(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Chunk>, OutputError>> {
        if self.reading.is_none() {
            let next = match self.entry {
                Some(entry) => self.store.next(self.id, entry, cx)?,
                // Where an entry begins is known once the output is whole: then there is something to read.
                None => match self.store.next(self.id, 0, cx)? {
                    Next::Wait => Next::Wait,
                    Next::Chunk(chunk) if self.store.kind() == OutputKind::Streamed => {
                        self.entry = Some(0);
                        Next::Chunk(chunk)
                    }
                    _ => {
                        let entry = self.store.entry_at(self.from);
                        self.entry = Some(entry);
                        self.store.next(self.id, entry, cx)?
                    }
                },
            };
            match next {
                Next::Wait => return Poll::Pending,
                Next::End => return Poll::Ready(Ok(None)),
                Next::Chunk(chunk) => {
                    self.pass_entry();
                    return Poll::Ready(Ok(Some(chunk)));
                }
                Next::File { first, items, file, offset, len } => {
                    let bytes = self.store.host().blocking(move || file.read(offset, len));
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
                self.pass_entry();
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

    fn pass_entry(&mut self) {
        self.entry = Some(self.entry.unwrap_or(0) + 1);
    }

    /// All items before this position were handed out: it must not be beyond what this reader was given. What is left of
    /// a chunk in which it lies goes to the next reader.
    pub(crate) fn consumed(&mut self, position: u64) {
        self.handed_out = self.handed_out.max(position);
        while self.lent.front().is_some_and(|chunk| chunk.first + chunk.items <= position) {
            self.lent.pop_front();
        }
    }
}

impl ChunkSource for OutputReader {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Chunk>, OutputError>> {
        Self::poll_chunk(self, cx)
    }

    fn consumed(&mut self, position: u64) {
        Self::consumed(self, position);
    }

    fn close(mut self: Box<Self>, position: u64) {
        Self::consumed(&mut self, position);
    }

    fn start(&self) -> u64 {
        self.start
    }

    fn is_trusted(&self) -> bool {
        true
    }
}

impl std::fmt::Debug for OutputReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OutputReader").field("output", &self.store.name()).finish_non_exhaustive()
    }
}

impl Drop for OutputReader {
    fn drop(&mut self) {
        self.store.leave(self.id, self.handed_out, std::mem::take(&mut self.lent).into_iter());
    }
}
