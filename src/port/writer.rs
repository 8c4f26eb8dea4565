//! Inputs over a connection: the sending handle's view of one, and the job's side of it.

use std::{
    any::{Any, type_name},
    collections::VecDeque,
    sync::Arc,
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use serde::de::DeserializeOwned;

use super::{
    InputError,
    queue::{AnyInput, InputPort},
};
use crate::codec::{DecodeError, DecodeItems, TypedItems, catching};

/// An input that was looked up.
pub(crate) enum FoundInput {
    /// It is in this process.
    Port(Arc<dyn AnyInput>),
    /// It is on the other side of a connection.
    Remote(Arc<dyn RemoteInput>),
}

/// An input on the other side of a connection, for one sender.
pub(crate) trait RemoteInput: Send + Sync {
    /// Ends when the job has all the `items` that `bytes` encode, each once, whatever happens to the connection
    /// meanwhile. Items of one sender are kept in the order of the calls.
    fn send(&self, items: u64, bytes: Vec<u8>) -> BoxFuture<'static, Result<(), NotTaken>>;

    fn finish(&self) -> BoxFuture<'static, Result<(), InputError>>;

    /// The same input for another sender.
    fn another(&self) -> Arc<dyn RemoteInput>;
}

/// What of a run of items the job has not got, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NotTaken {
    /// So many of the first items were taken.
    pub taken: u64,
    pub error: InputError,
}

/// A sender on the other side of a connection, on the job's side. Its items are numbered, so that those which come again
/// over a new connection are known.
pub(crate) trait EncodedWriter: Send {
    /// The number of the next item; the job has all before it.
    fn next(&self) -> u64;

    /// How to decode items, of which the first has the number `first`: on whatever thread, because it runs user code.
    /// Those that the job has already are dropped. What comes of it is then to be [offered](Self::offer), before the next
    /// items are decoded. `NotCarried` also if `first` is beyond [`next`](Self::next).
    fn decoding(&self, first: u64, items: u64, bytes: Vec<u8>) -> Decoding;

    /// Whether decoding runs the standard library's code only.
    fn is_plain(&self) -> bool;

    fn offer(&mut self, decoded: Decoded);

    /// Ready when everything that was offered is in the input.
    fn poll_push(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), InputError>>;

    fn finish(&self) -> Result<(), InputError>;

    /// The sender will not come back.
    fn forget(self: Box<Self>);
}

/// Decodes one batch of items.
pub(crate) type Decoding = Box<dyn FnOnce() -> Result<Decoded, InputError> + Send>;

/// Items of the writer's type.
pub(crate) struct Decoded(Box<dyn Any + Send>);

/// Who is connected, as far as inputs tell clients apart. What one client opened is counted and given up as its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ClientId {
    /// Of its key.
    pub key: [u8; 16],
    pub number: u128,
}

/// A sender on the other side of a connection: clients draw the numbers, so that two may have the same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct WriterId {
    pub client: ClientId,
    pub number: u128,
}

pub(super) struct PortWriter<T> {
    port: Arc<InputPort<T>>,
    writer: WriterId,
    offered: VecDeque<T>,
    ticket: Option<u64>,
    decode: TypedItems<T>,
    /// The sender goes for good.
    is_over: bool,
}

impl<T: DeserializeOwned + Send + 'static> PortWriter<T> {
    pub(super) fn open(port: Arc<InputPort<T>>, writer: WriterId) -> Result<Self, InputError> {
        port.know_writer(writer)?;
        port.count_senders(|senders| senders.saturating_add(1));
        Ok(Self {
            port,
            writer,
            offered: VecDeque::new(),
            ticket: None,
            decode: TypedItems::untrusted(),
            is_over: false,
        })
    }
}

impl<T: DeserializeOwned + Send + 'static> EncodedWriter for PortWriter<T> {
    fn next(&self) -> u64 {
        self.port.writer_next(self.writer)
    }

    fn decoding(&self, first: u64, items: u64, bytes: Vec<u8>) -> Decoding {
        let next = self.next() + self.offered.len() as u64;
        let (port, decode) = (Arc::clone(&self.port), self.decode.clone());
        Box::new(move || {
            let decoded = decoded(&decode, next, first, items, &bytes);
            let input = || port.name().to_owned();
            let decoded = decoded.map_err(|message| InputError::NotCarried { input: input(), message })?;
            Ok(Decoded(Box::new(decoded)))
        })
    }

    fn is_plain(&self) -> bool {
        is_plain(type_name::<T>())
    }

    fn offer(&mut self, Decoded(decoded): Decoded) {
        let decoded = decoded.downcast::<VecDeque<T>>().expect("it was decoded for this writer");
        self.offered.extend(*decoded);
    }

    fn poll_push(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), InputError>> {
        if self.offered.is_empty() {
            return Poll::Ready(Ok(()));
        }
        self.port.poll_push_as(cx, &mut self.ticket, &mut self.offered, Some(self.writer))
    }

    fn finish(&self) -> Result<(), InputError> {
        self.port.finish()
    }

    fn forget(mut self: Box<Self>) {
        self.is_over = true;
    }
}

/// Says which item of a run it was, if there are several.
pub(super) fn in_batch(at: u64, items: u64, error: &impl std::fmt::Display) -> String {
    if items > 1 { format!("item {at} of {items} that were sent together: {error}") } else { error.to_string() }
}

pub(super) fn decoded<T>(
    decode: &impl DecodeItems<T>,
    next: u64,
    first: u64,
    items: u64,
    bytes: &[u8],
) -> Result<VecDeque<T>, String> {
    if first > next {
        return Err(format!("items from {first} on do not follow those before {next}"));
    }
    // Items that take no bytes are bounded by what is claimed for them only, which must not be much.
    if items > bytes.len() as u64 + WEIGHTLESS_MAX || first.checked_add(items).is_none() {
        return Err("more items are claimed than so few bytes can mean".to_owned());
    }
    let mut at = 0;
    let decoded = catching(|| {
        let (mut rest, mut decoded) = (bytes, VecDeque::new());
        while at < items {
            let used = decode.decode_some(rest, items - at, |item| {
                if first + at >= next {
                    decoded.push_back(item);
                }
                at += 1;
            })?;
            rest = &rest[used..];
        }
        match rest.len() {
            0 => Ok(decoded),
            count => Err(DecodeError::TrailingBytes { count }),
        }
    });
    decoded.map_err(|error| in_batch((at + 1).min(items), items, &error))
}

/// Whether a type of this name is made of the language's and the standard library's types alone: then decoding it runs
/// no code of the user's. Names of types have no fixed form; where this says no by mistake, decoding costs a little more.
fn is_plain(type_name: &str) -> bool {
    let mut paths = type_name.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'));
    paths.all(|path| !path.contains("::") || ["core::", "alloc::", "std::"].iter().any(|std| path.starts_with(std)))
}

/// Items without bytes in one run, beyond one for each byte.
const WEIGHTLESS_MAX: u64 = 65_536;

impl<T> Drop for PortWriter<T> {
    fn drop(&mut self) {
        self.port.give_up(&mut self.ticket);
        self.port.count_senders(|senders| senders.saturating_sub(1));
        self.port.leave_writer(self.writer, self.is_over);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_with_code_of_the_user_are_told_from_those_without() {
        struct Mine;
        for plain in [type_name::<u64>(), type_name::<(String, Vec<Option<i8>>)>(), type_name::<[f64; 3]>()] {
            assert!(is_plain(plain), "{plain}");
        }
        for own in [type_name::<Mine>(), type_name::<Vec<(u8, Mine)>>()] {
            assert!(!is_plain(own), "{own}");
        }
    }
}
