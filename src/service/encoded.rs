//! The way into a service for messages that came over a connection, encoded.

use std::sync::{Arc, Weak};

use actix::{Handler, Message};

use crate::{
    codec,
    schema::TypeDescription,
    service::{
        Answer, CallError, Entrance, Origin, Receipt, Service, ServiceMessage, Tells, Watcher, Withdraw,
        binding::resolver,
        envelope::{Admission, CallCell, Carried, Encoded, OnAdmission, Queued, ToldBatch, Verdict},
        gate::{Gate, Place},
        told::{EncodedTells, not_carried},
    },
};

pub(super) fn entrance<S, M>(gate: Arc<Gate<S>>, message: &'static str) -> Arc<dyn Entrance>
where
    S: Service + Handler<M>,
    M: ServiceMessage,
{
    Arc::new(TypedEntrance { gate, message, decode: codec::untrusted::<M>() })
}

struct TypedEntrance<S, M> {
    gate: Arc<Gate<S>>,
    message: &'static str,
    decode: codec::DecodePrefix<M>,
}

impl<S: Service, M: ServiceMessage> TypedEntrance<S, M> {
    /// References in it will be bound as those that are decoded now.
    fn encoded(&self, bytes: &[u8]) -> Encoded<M> {
        Encoded::new(bytes, self.decode, resolver())
    }
}

impl<S, M> Entrance for TypedEntrance<S, M>
where
    S: Service + Handler<M>,
    M: ServiceMessage,
{
    fn message_type(&self) -> Arc<TypeDescription> {
        TypeDescription::of::<M>()
    }

    fn reply_type(&self) -> Arc<TypeDescription> {
        TypeDescription::of::<M::Result>()
    }

    fn watch(&self, watcher: Weak<dyn Watcher>) {
        self.gate.watch(watcher);
    }

    fn tell(&self, messages: &Tells, receipt: &Arc<dyn Receipt>) {
        let batch: Arc<dyn ToldBatch<S>> = Arc::new(EncodedTells::<M> {
            bytes: messages.bytes().into(),
            decode: self.decode,
            resolver: resolver(),
            service: Arc::clone(self.gate.name()),
            name: self.message,
            receipt: Arc::clone(receipt),
        });
        let pushed = self.gate.push_told(&batch, messages.iter(), |bytes| {
            let (gate, receipt) = (Arc::clone(&self.gate), Arc::clone(receipt));
            Admission::watched_by(Box::new(Waiting { gate, receipt, bytes }))
        });
        match pushed {
            Ok(queued) => messages.iter().take(queued).for_each(|(_, bytes)| receipt.queued(bytes)),
            Err(error) => messages.iter().for_each(|(_, bytes)| receipt.refused(bytes, error.clone())),
        }
    }

    fn call(&self, bytes: &[u8], answer: Box<dyn Answer>) -> Option<Box<dyn Withdraw>> {
        let message = Carried::Encoded(self.encoded(bytes));
        let (service, name) = (Arc::clone(self.gate.name()), self.message);
        let taker = Box::new(move |verdict| conclude::<M>(verdict, &service, name, answer));
        let cell = Arc::new(CallCell::taken_by(message, taker));
        let queued: Queued<S> = Queued::Call(Arc::clone(&cell) as _);
        match self.gate.push(queued, Origin::Outside, || None) {
            Ok(place) => {
                let ticket = if let Place::Line(ticket) = place { Some(ticket) } else { None };
                Some(Box::new(Underway { cell, gate: Arc::clone(&self.gate), ticket }))
            }
            Err(error) => {
                cell.refuse(error);
                None
            }
        }
    }
}

/// Where a call ends: the reply is encoded here, on the service's thread as a rule.
fn conclude<M: ServiceMessage>(
    verdict: Result<Verdict<M::Result>, CallError>,
    service: &str,
    message: &'static str,
    answer: Box<dyn Answer>,
) {
    let reply = match verdict {
        Ok(Verdict::Reply(reply)) => reply,
        Ok(Verdict::Failed) => return answer.fail(CallError::ServiceFailed { service: service.to_owned() }),
        Ok(Verdict::Stopping) => return answer.fail(CallError::Stopping { service: service.to_owned() }),
        Ok(Verdict::NotCarried(error)) => return answer.fail(not_carried(service, message, &error)),
        Err(error) => return answer.fail(error),
    };
    let mut bytes = Vec::new();
    // A reply's `Serialize` and `Drop` are user code, and a panic in them must not take the service down.
    let encoded = codec::catching(|| {
        let encoded = codec::encode_into(&reply, &mut bytes);
        drop(reply);
        encoded
    });
    let why = match encoded {
        Ok(()) => match answer.refuses(bytes.len()) {
            None => return answer.reply(bytes),
            Some(why) => why,
        },
        Err(error) => error.to_string(),
    };
    answer.fail(CallError::ReplyNotCarried { service: service.to_owned(), message: message.to_owned(), why });
}

/// A told message that waits in the gate's line.
struct Waiting<S> {
    gate: Arc<Gate<S>>,
    receipt: Arc<dyn Receipt>,
    bytes: usize,
}

impl<S: 'static> OnAdmission for Waiting<S> {
    fn queued(self: Box<Self>) {
        self.receipt.queued(self.bytes);
    }

    fn refused(self: Box<Self>) {
        let error = self.gate.refused();
        self.receipt.refused(self.bytes, error);
    }
}

/// A call that is not settled yet.
struct Underway<S, M: Message> {
    cell: Arc<CallCell<M>>,
    gate: Arc<Gate<S>>,
    ticket: Option<u64>,
}

impl<S: Service, M: ServiceMessage> Withdraw for Underway<S, M> {
    fn withdraw(self: Box<Self>) {
        drop(self.cell.withdraw());
        if let Some(ticket) = self.ticket {
            self.gate.leave(ticket);
        }
    }
}
