//! The way into a service as a connection uses it, and what is told of each message on it.

use std::sync::{Arc, Weak};

use crate::{
    schema::TypeDescription,
    service::{CallError, Origin, ServiceResolver},
};

/// One kind of message that one service accepts, as a connection delivers it. Messages keep the order in which they are
/// handed in.
pub(crate) trait Entrance: Send + Sync {
    fn message_type(&self) -> Arc<TypeDescription>;
    fn reply_type(&self) -> Arc<TypeDescription>;
    /// Has `watcher` told each time the service begins to refuse messages for a further reason.
    fn watch(&self, watcher: Weak<dyn Watcher>);
    /// Puts messages into the queue, or into the line for room in it. They are decoded by the service, when their turn comes.
    fn tell(&self, messages: &Tells, origin: Origin, receipt: &Arc<dyn Receipt>);
    /// As [`tell`](Self::tell), for one message that is to be answered under the number `call`. What is returned withdraws
    /// it, if it is not settled yet.
    fn call(&self, bytes: &[u8], way: &Arc<CallWay>, call: u64) -> Option<Box<dyn Withdraw>>;
    /// What calls that come in here are to share: they come from `origin`, references in them are bound to `resolver`, and
    /// `answers` is told what becomes of them, for as long as it lives.
    fn way(&self, origin: Origin, resolver: Arc<dyn ServiceResolver>, answers: Weak<dyn Answers>) -> Arc<CallWay>;
}

/// Told that a service has refused a message, or refuses messages from outside from now on.
pub(crate) trait Watcher: Send + Sync {
    fn refuses(&self, error: CallError);
}

/// Told exactly once for each told message what became of it: at once, or when there was room or never will be. One that
/// was queued may then turn out to be none, which the [`Watcher`] is told.
pub(crate) trait Receipt: Watcher {
    /// A message of so many bytes is in the queue.
    fn queued(&self, bytes: usize);
    fn refused(&self, bytes: usize, error: CallError);
}

/// Told at most once how each call ended, on the thread where it did; not at all if it was withdrawn.
pub(crate) trait Answers: Send + Sync {
    /// Why an encoded reply of so many bytes is not carried, if it is not.
    fn refuses(&self, bytes: usize) -> Option<String>;
    /// Of a length that is not [refused](Self::refuses).
    fn reply(&self, call: u64, bytes: Vec<u8>);
    fn fail(&self, call: u64, error: CallError);
}

/// What the calls have in common that come in by one entrance over one connection. They have it together, because a count
/// that two threads change for each call costs more than a short message.
pub(crate) struct CallWay {
    pub(super) service: Arc<str>,
    pub(super) message: &'static str,
    pub(super) origin: Origin,
    pub(super) resolver: Arc<dyn ServiceResolver>,
    /// Not kept: calls that wait would else keep their connection.
    pub(super) answers: Weak<dyn Answers>,
}

/// Takes back a message that was not taken up yet.
pub(crate) trait Withdraw: Send {
    fn withdraw(self: Box<Self>);
}

/// Encoded messages of one kind, in order: each behind its length, as a little-endian `u32`.
#[derive(Debug, Default)]
pub(crate) struct Tells {
    bytes: Vec<u8>,
    count: usize,
}

/// Bytes of the messages that are handed in together, unless a single one has more. What waits in front of a service is
/// kept until the last of its batch is handled, so a batch is a small part of what may wait.
const BYTES_MAX: usize = 16 << 10;

/// Messages that are handed in together at most, so that the service does not wait for the last.
const MESSAGES_MAX: usize = 256;

const LENGTH_BYTES: usize = size_of::<u32>();

impl Tells {
    /// # Panics
    ///
    /// Panics if the messages have 4 GiB.
    pub(crate) fn push(&mut self, message: &[u8]) {
        let length = u32::try_from(message.len()).expect("a message is far shorter");
        self.bytes.extend_from_slice(&length.to_le_bytes());
        self.bytes.extend_from_slice(message);
        self.count += 1;
    }

    /// Whether these are to be handed in before a further message of so many bytes.
    pub(crate) fn is_full_for(&self, message: usize) -> bool {
        self.count > 0 && (self.count >= MESSAGES_MAX || self.bytes.len() + message > BYTES_MAX)
    }

    /// Room for long messages is not kept.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(2 * BYTES_MAX);
        self.count = 0;
    }

    /// Such messages as [`bytes`](Self::bytes) gave them. None if these are none.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut tells = Self { bytes: bytes.to_vec(), count: 0 };
        let whole: usize = tells.iter().map(|(_, length)| LENGTH_BYTES + length).sum();
        tells.count = tells.iter().count();
        (whole == bytes.len()).then_some(tells)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Where each message stands, with its bytes.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, usize)> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let length = message_at(&self.bytes, at)?.len();
            let place = at;
            at += LENGTH_BYTES + length;
            Some((u32::try_from(place).ok()?, length))
        })
    }
}

pub(super) fn message_at(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let (length, rest) = bytes.get(at..)?.split_first_chunk()?;
    rest.get(..u32::from_le_bytes(*length) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_message_is_found_where_it_was_put() {
        let mut tells = Tells::default();
        let messages: Vec<Vec<u8>> = (0..300).map(|i| vec![7; i % 5 * 40]).collect();
        for message in &messages {
            tells.push(message);
        }
        let found: Vec<_> = tells.iter().map(|(at, length)| (message_at(tells.bytes(), at as usize), length)).collect();
        assert_eq!(found.len(), messages.len());
        for ((found, length), message) in found.into_iter().zip(&messages) {
            assert_eq!((found, length), (Some(&**message), message.len()));
        }
        tells.clear();
        assert!(tells.iter().next().is_none());
    }

    #[test]
    fn a_batch_ends_by_number_and_by_bytes_but_takes_one_message_of_any_length() {
        let mut tells = Tells::default();
        assert!(!tells.is_full_for(10 * BYTES_MAX));
        tells.push(&[0; 10]);
        assert!(!tells.is_full_for(10) && tells.is_full_for(BYTES_MAX));
        for _ in 1..MESSAGES_MAX {
            tells.push(&[]);
        }
        assert!(tells.is_full_for(0));
    }
}
