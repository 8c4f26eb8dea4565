//! Inputs over a connection: the sending handle's view of one, and the job's side of it.

use std::{
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
use crate::codec::{DecodeError, DecodePrefix, catching, untrusted};

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

    /// Decodes items, of which the first has the number `first`. Those that the job has already are dropped.
    ///
    /// # Errors
    ///
    /// `NotCarried`, also if `first` is beyond [`next`](Self::next). Nothing of it was offered.
    fn offer(&mut self, first: u64, items: u64, bytes: &[u8]) -> Result<(), InputError>;

    /// Ready when everything that was offered is in the input.
    fn poll_push(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), InputError>>;

    fn finish(&self) -> Result<(), InputError>;

    /// The sender will not come back.
    fn forget(self: Box<Self>);
}

pub(super) struct PortWriter<T> {
    port: Arc<InputPort<T>>,
    writer: u128,
    offered: VecDeque<T>,
    ticket: Option<u64>,
    decode: DecodePrefix<T>,
}

impl<T: DeserializeOwned + Send + 'static> PortWriter<T> {
    pub(super) fn open(port: Arc<InputPort<T>>, writer: u128) -> Result<Self, InputError> {
        port.know_writer(writer)?;
        port.count_senders(|senders| senders.saturating_add(1));
        Ok(Self { port, writer, offered: VecDeque::new(), ticket: None, decode: untrusted::<T>() })
    }
}

impl<T: DeserializeOwned + Send + 'static> EncodedWriter for PortWriter<T> {
    fn next(&self) -> u64 {
        self.port.writer_next(self.writer)
    }

    fn offer(&mut self, first: u64, items: u64, bytes: &[u8]) -> Result<(), InputError> {
        let next = self.next() + self.offered.len() as u64;
        let undecodable = |message: String| InputError::NotCarried { input: self.port.name().to_owned(), message };
        if first > next {
            return Err(undecodable(format!("items from {first} on do not follow those before {next}")));
        }
        // Items that take no bytes are bounded by what is claimed for them only, which must not be much.
        if items > bytes.len() as u64 + WEIGHTLESS_MAX || first.checked_add(items).is_none() {
            return Err(undecodable("more items are claimed than so few bytes can mean".to_owned()));
        }
        let decode = self.decode;
        let mut at = 0;
        let decoded = catching(|| {
            let (mut rest, mut decoded) = (bytes, VecDeque::new());
            for index in 0..items {
                at = index + 1;
                let (item, used) = decode(rest)?;
                rest = &rest[used..];
                if first + index >= next {
                    decoded.push_back(item);
                }
            }
            match rest.len() {
                0 => Ok(decoded),
                count => Err(DecodeError::TrailingBytes { count }),
            }
        });
        let decoded = decoded.map_err(|error| undecodable(in_batch(at, items, &error)))?;
        self.offered.extend(decoded);
        Ok(())
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

    fn forget(self: Box<Self>) {
        self.port.forget_writer(self.writer);
    }
}

/// Says which item of a run it was, if there are several.
pub(super) fn in_batch(at: u64, items: u64, error: &impl std::fmt::Display) -> String {
    if items > 1 { format!("item {at} of {items} that were sent together: {error}") } else { error.to_string() }
}

/// Items without bytes in one run, beyond one for each byte.
const WEIGHTLESS_MAX: u64 = 65_536;

impl<T> Drop for PortWriter<T> {
    fn drop(&mut self) {
        self.port.give_up(&mut self.ticket);
        self.port.count_senders(|senders| senders.saturating_sub(1));
    }
}
