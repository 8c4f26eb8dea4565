//! Where a reader's chunks come from, and how items are taken out of them.

use std::{
    sync::Arc,
    task::{Context, Poll, ready},
};

use serde::de::DeserializeOwned;

use super::{OutputError, chunk::Chunk};
use crate::codec::{DecodeError, DecodePrefix, catching, decode_prefix, untrusted};

/// Items for which room is made at once: their number comes from outside this type, and `()` takes no bytes.
const RESERVE_MAX: usize = 1 << 16;

/// The chunks of one output, in order, for one reader: from this process, or over a connection.
pub(crate) trait ChunkSource: Send {
    /// The next chunk, `None` at the end. After an error, the same is tried again.
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Chunk>, OutputError>>;

    /// All items before this position were handed out, and will not be asked for again.
    fn consumed(&mut self, position: u64);

    /// The reader goes. `rest` is what it has not handed out of the last chunk; a streamed output gets it back.
    fn close(self: Box<Self>, rest: Option<Chunk>);

    /// The position of the first item to hand out. The first chunk may begin before it.
    fn start(&self) -> u64;

    /// Whether the bytes were made in this process.
    fn is_trusted(&self) -> bool;
}

/// Takes items out of the chunks of a source.
pub(super) struct Items {
    output: String,
    /// Taken out when the reader goes.
    source: Option<Box<dyn ChunkSource>>,
    /// The chunk whose items are being handed out.
    current: Option<Current>,
    /// That of the next item to hand out.
    position: u64,
}

/// How items of a type that this program has are decoded.
pub(super) type Decode<T> = DecodePrefix<T>;

/// How items are decoded: the item at the beginning of the bytes, and how many it takes.
pub(super) trait DecodeItem<T>: Fn(&[u8]) -> Result<(T, usize), DecodeError> {}

impl<T, F: Fn(&[u8]) -> Result<(T, usize), DecodeError>> DecodeItem<T> for F {}

impl Items {
    /// The way to decode items of `T` from this source, to be looked up once.
    pub(super) fn decoder<T: DeserializeOwned + 'static>(&self) -> Decode<T> {
        if self.source.as_ref().is_some_and(|source| source.is_trusted()) {
            decode_prefix::<T>
        } else {
            untrusted::<T>()
        }
    }
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

    fn next<T>(&mut self, decode: &impl DecodeItem<T>) -> Result<T, DecodeError> {
        let (item, used) = decode(&self.chunk.bytes[self.bytes..])?;
        let (items, bytes) = (self.items + 1, self.bytes + used);
        if items == self.chunk.items && bytes < self.chunk.bytes.len() {
            return Err(DecodeError::TrailingBytes { count: self.chunk.bytes.len() - bytes });
        }
        (self.items, self.bytes) = (items, bytes);
        Ok(item)
    }
}

impl Items {
    pub(super) fn new(output: &str, source: Box<dyn ChunkSource>) -> Self {
        let position = source.start();
        Self { output: output.to_owned(), source: Some(source), current: None, position }
    }

    /// The next item, `None` at the end. After an error, the same item is tried again.
    pub(super) fn poll_item<T>(
        &mut self,
        cx: &mut Context<'_>,
        decode: &impl DecodeItem<T>,
    ) -> Poll<Result<Option<T>, OutputError>> {
        match ready!(self.poll_current(cx, decode))? {
            true => Poll::Ready(self.taking(|items| items.take_item(decode)).map(Some)),
            false => Poll::Ready(Ok(None)),
        }
    }

    /// The items of the next chunk, or of what is left of the present one; `false` at the end.
    pub(super) fn poll_items<T>(
        &mut self,
        cx: &mut Context<'_>,
        decode: &impl DecodeItem<T>,
        into: &mut Vec<T>,
    ) -> Poll<Result<bool, OutputError>> {
        if !ready!(self.poll_current(cx, decode))? {
            return Poll::Ready(Ok(false));
        }
        if let Some(current) = &self.current {
            into.reserve(usize::try_from(current.chunk.items - current.items).unwrap_or(usize::MAX).min(RESERVE_MAX));
        }
        let taken = self.taking(|items| {
            while items.current.is_some() {
                into.push(items.take_item(decode)?);
            }
            Ok(true)
        });
        Poll::Ready(taken)
    }

    /// Whether there is a chunk with items left.
    fn poll_current<T>(
        &mut self,
        cx: &mut Context<'_>,
        decode: &impl DecodeItem<T>,
    ) -> Poll<Result<bool, OutputError>> {
        loop {
            match &self.current {
                None => {
                    let source = self.source.as_mut().expect("the source is there until the reader goes");
                    let Some(chunk) = ready!(source.poll_chunk(cx))? else { return Poll::Ready(Ok(false)) };
                    if chunk.items > 0 {
                        self.current = Some(Current { chunk, items: 0, bytes: 0 });
                    }
                }
                // It was handed out before: the source repeats itself after a lost connection.
                Some(current) if current.chunk.first + current.items < self.position => {
                    self.taking(|items| items.take_item(decode).map(drop))?;
                }
                Some(_) => return Poll::Ready(Ok(true)),
            }
        }
    }

    /// Runs `take`, which takes items; an error or a panic of user code names the item that could not be taken.
    fn taking<R>(&mut self, take: impl FnOnce(&mut Self) -> Result<R, DecodeError>) -> Result<R, OutputError> {
        catching(|| take(self)).map_err(|error| OutputError::Decode {
            output: self.output.clone(),
            position: self.current.as_ref().map_or(self.position, |current| current.chunk.first + current.items) + 1,
            message: error.to_string(),
        })
    }

    /// Takes one item of the present chunk, and the chunk away with its last one.
    fn take_item<T>(&mut self, decode: &impl DecodeItem<T>) -> Result<T, DecodeError> {
        let current = self.current.as_mut().expect("only called when a chunk with items is present");
        let source = self.source.as_mut().expect("the source is there until the reader goes");
        let item = current.next(decode)?;
        let next = current.chunk.first + current.items;
        self.position = self.position.max(next);
        if current.items == current.chunk.items {
            self.current = None;
            source.consumed(next);
        }
        Ok(item)
    }
}

impl Drop for Items {
    fn drop(&mut self) {
        if let Some(source) = self.source.take() {
            source.close(self.current.take().and_then(Current::rest));
        }
    }
}
