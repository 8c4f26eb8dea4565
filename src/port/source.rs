//! Where a reader's chunks come from, and how items are taken out of them.

use std::{
    collections::VecDeque,
    task::{Context, Poll, ready},
};

use super::{OutputError, chunk::Chunk};
use crate::codec::{DecodeError, DecodeItems, catching};

/// Items for which room is made at once: their number comes from outside this type, and `()` takes no bytes.
const RESERVE_MAX: usize = 1 << 16;

/// The chunks of one output, in order, for one reader: from this process, or over a connection.
pub(crate) trait ChunkSource: Send {
    /// The next chunk, `None` at the end. After an error, the same is tried again.
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Chunk>, OutputError>>;

    /// All items before this position were handed out, and will not be asked for again.
    fn consumed(&mut self, position: u64);

    /// The reader goes, and has handed out the items before this position; a streamed output gets the others back.
    fn close(self: Box<Self>, position: u64);

    /// The position of the first item to hand out. The first chunk may begin before it.
    fn start(&self) -> u64;

    /// Whether the bytes were made in this process.
    fn is_trusted(&self) -> bool;
}

/// Takes items out of the chunks of a source.
pub(super) struct Items<T> {
    output: String,
    /// Taken out when the reader goes.
    source: Option<Box<dyn ChunkSource>>,
    /// The chunk whose items are being handed out.
    current: Option<Current>,
    /// Decoded, and not handed out: the items from `position` on.
    decoded: VecDeque<T>,
    /// That of the next item to hand out.
    position: u64,
}

struct Current {
    chunk: Chunk,
    /// Of the chunk's items and bytes, decoded.
    items: u64,
    bytes: usize,
    /// Why its next item cannot be decoded.
    fault: Option<DecodeError>,
}

impl Current {
    fn end(&self) -> u64 {
        self.chunk.first + self.chunk.items
    }

    /// Decodes the next items; those before `from` were handed out before.
    fn decode_some<T>(
        &mut self,
        decode: &impl DecodeItems<T>,
        from: u64,
        mut into: impl FnMut(T),
    ) -> Result<(), DecodeError> {
        let Self { chunk, items, bytes, fault } = self;
        if let Some(fault) = fault {
            return Err(fault.clone());
        }
        let decoded = catching(|| {
            *bytes += decode.decode_some(&chunk.bytes[*bytes..], chunk.items - *items, |item| {
                if chunk.first + *items >= from {
                    into(item);
                }
                *items += 1;
            })?;
            match chunk.bytes.len() - *bytes {
                count if count > 0 && *items == chunk.items => Err(DecodeError::TrailingBytes { count }),
                _ => Ok(()),
            }
        });
        decoded.inspect_err(|error| *fault = Some(error.clone()))
    }
}

impl<T> Items<T> {
    pub(super) fn new(output: &str, source: Box<dyn ChunkSource>) -> Self {
        let position = source.start();
        Self { output: output.to_owned(), source: Some(source), current: None, decoded: VecDeque::new(), position }
    }

    /// Whether the bytes are made in this process.
    pub(super) fn is_trusted(&self) -> bool {
        self.source.as_ref().is_some_and(|source| source.is_trusted())
    }

    /// The next item, `None` at the end. After an error, the next one is the same.
    pub(super) fn poll_item(
        &mut self,
        cx: &mut Context<'_>,
        decode: &impl DecodeItems<T>,
    ) -> Poll<Result<Option<T>, OutputError>> {
        loop {
            if let Some(item) = self.decoded.pop_front() {
                self.position += 1;
                self.leave_read_chunk();
                return Poll::Ready(Ok(Some(item)));
            }
            if !ready!(self.poll_current(cx))? {
                return Poll::Ready(Ok(None));
            }
            self.decode_some(decode, None)?;
        }
    }

    /// The items of the next chunk, or of what is left of the present one; `false` at the end.
    pub(super) fn poll_items(
        &mut self,
        cx: &mut Context<'_>,
        decode: &impl DecodeItems<T>,
        into: &mut Vec<T>,
    ) -> Poll<Result<bool, OutputError>> {
        self.position += self.decoded.len() as u64;
        into.extend(self.decoded.drain(..));
        self.leave_read_chunk();
        if !ready!(self.poll_current(cx))? {
            return Poll::Ready(Ok(false));
        }
        if let Some(current) = &self.current {
            into.reserve(usize::try_from(current.chunk.items - current.items).unwrap_or(usize::MAX).min(RESERVE_MAX));
        }
        while self.current.is_some() {
            self.decode_some(decode, Some(into))?;
        }
        Poll::Ready(Ok(true))
    }

    /// Whether there is a chunk with items that were not decoded.
    fn poll_current(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, OutputError>> {
        let source = self.source.as_mut().expect("the source is there until the reader goes");
        while self.current.is_none() {
            let Some(chunk) = ready!(source.poll_chunk(cx))? else { return Poll::Ready(Ok(false)) };
            if chunk.items > 0 {
                self.current = Some(Current { chunk, items: 0, bytes: 0, fault: None });
            }
        }
        Poll::Ready(Ok(true))
    }

    /// Decodes the next items of the present chunk, to be handed out later, or `into` the reader's hands at once. An error
    /// or a panic of user code names the item that could not be decoded.
    fn decode_some(&mut self, decode: &impl DecodeItems<T>, into: Option<&mut Vec<T>>) -> Result<(), OutputError> {
        let Self { output, current, decoded, position, .. } = self;
        let current = current.as_mut().expect("only called when a chunk with items is present");
        let from = *position;
        let result = match into {
            None => current.decode_some(decode, from, |item| decoded.push_back(item)),
            Some(into) => current.decode_some(decode, from, |item| {
                into.push(item);
                *position += 1;
            }),
        };
        // What was decoded before the item that cannot be is handed out first.
        if let Err(error) = result
            && decoded.is_empty()
        {
            let position = (current.chunk.first + current.items).min(current.end() - 1) + 1;
            return Err(OutputError::Decode { output: output.clone(), position, message: error.to_string() });
        }
        self.leave_read_chunk();
        Ok(())
    }

    /// Takes the chunk away once its last item was handed out.
    fn leave_read_chunk(&mut self) {
        let is_read = |current: &Current| current.items == current.chunk.items && current.fault.is_none();
        if self.decoded.is_empty()
            && let Some(current) = self.current.take_if(|current| is_read(current))
        {
            let source = self.source.as_mut().expect("the source is there until the reader goes");
            source.consumed(current.end());
        }
    }
}

impl<T> Drop for Items<T> {
    fn drop(&mut self) {
        if let Some(source) = self.source.take() {
            source.close(self.position);
        }
    }
}
