//! Messages that are told and came over a connection together.
//!
//! They share what each of them needs and none of them has for itself, and one allocation: room that one thread takes and
//! another gives back, and counts that two threads change, would cost more than a short message.

use std::{any::type_name, sync::Arc};

use actix::Handler;

use crate::{
    codec::{DecodePrefix, decode_whole},
    service::{
        Service, ServiceMessage, ServiceResolver, bound_to,
        encoded::{Receipt, not_carried},
        envelope::{Handled, ToldBatch, told},
    },
};

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

    pub(super) fn bytes(&self) -> &[u8] {
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

fn message_at(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let (length, rest) = bytes.get(at..)?.split_first_chunk()?;
    rest.get(..u32::from_le_bytes(*length) as usize)
}

/// Such messages in the queue of a service, which decodes each when its turn comes.
pub(super) struct EncodedTells<M> {
    /// As [`Tells`] has them.
    pub bytes: Box<[u8]>,
    pub decode: DecodePrefix<M>,
    /// References in them are bound to it.
    pub resolver: Option<Arc<dyn ServiceResolver>>,
    pub service: Arc<str>,
    pub name: &'static str,
    /// Told if one cannot be decoded.
    pub receipt: Arc<dyn Receipt>,
}

impl<S, M> ToldBatch<S> for EncodedTells<M>
where
    S: Service + Handler<M>,
    M: ServiceMessage,
{
    fn message(&self) -> &'static str {
        type_name::<M>()
    }

    fn handle(&self, at: u32, service: &mut S, ctx: &mut actix::Context<S>) -> Handled {
        let bytes = message_at(&self.bytes, at as usize).unwrap_or_default();
        let message = match &self.resolver {
            Some(resolver) => bound_to(Arc::clone(resolver), || decode_whole(self.decode, bytes)),
            None => decode_whole(self.decode, bytes),
        };
        match message {
            Ok(message) => told(message, service, ctx),
            Err(error) => {
                self.receipt.refuses(not_carried(&self.service, self.name, &error));
                Handled::Skipped
            }
        }
    }
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
