//! Messages that are told and came over a connection together.
//!
//! They share what each of them needs and none of them has for itself, and one allocation: room that one thread takes and
//! another gives back, and counts that two threads change, would cost more than a short message.

use std::{
    any::{TypeId, type_name},
    sync::Arc,
};

use actix::Handler;

use crate::{
    codec::{DecodeError, DecodePrefix, decode_whole},
    service::{
        CallError, Receipt, Service, ServiceMessage, ServiceResolver, bound_to,
        entrance::message_at,
        envelope::{Handled, ToldBatch, told},
    },
};

/// Such messages in the queue of a service, which decodes each when its turn comes.
pub(super) struct EncodedTells<M> {
    /// As [`Tells`](super::Tells) has them.
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

    fn encoded(&self, at: u32) -> (TypeId, Vec<u8>, Arc<dyn Receipt>) {
        let bytes = message_at(&self.bytes, at as usize).unwrap_or_default();
        (TypeId::of::<M>(), bytes.to_vec(), Arc::clone(&self.receipt))
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

pub(super) fn not_carried(service: &str, message: &str, error: &DecodeError) -> CallError {
    CallError::NotCarried { service: service.to_owned(), message: message.to_owned(), why: error.to_string() }
}
