//! The way into a service for messages that came over a connection, encoded.

use std::sync::{Arc, Weak};

use actix::{Handler, Message};

use crate::{
    codec,
    schema::TypeDescription,
    service::{
        Answers, CallError, CallWay, Entrance, Origin, Receipt, Service, ServiceMessage, ServiceResolver, Tells,
        Watcher, Withdraw,
        binding::resolver,
        envelope::{Admission, CallCell, Encoded, Far, OnAdmission, Queued, ToldBatch, Verdict},
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

    fn tell(&self, messages: &Tells, origin: Origin, receipt: &Arc<dyn Receipt>) {
        let batch: Arc<dyn ToldBatch<S>> = Arc::new(EncodedTells::<M> {
            bytes: messages.bytes().into(),
            decode: self.decode,
            resolver: resolver(),
            service: Arc::clone(self.gate.name()),
            name: self.message,
            receipt: Arc::clone(receipt),
        });
        let pushed = self.gate.push_told(&batch, origin, messages.iter(), |bytes| {
            let (gate, receipt) = (Arc::clone(&self.gate), Arc::clone(receipt));
            Admission::watched_by(Box::new(Waiting { gate, receipt, bytes }))
        });
        match pushed {
            Ok(queued) => messages.iter().take(queued).for_each(|(_, bytes)| receipt.queued(bytes)),
            Err(error) => messages.iter().for_each(|(_, bytes)| receipt.refused(bytes, error.clone())),
        }
    }

    fn way(&self, origin: Origin, resolver: Arc<dyn ServiceResolver>, answers: Weak<dyn Answers>) -> Arc<CallWay> {
        Arc::new(CallWay { service: Arc::clone(self.gate.name()), message: self.message, origin, resolver, answers })
    }

    fn call(&self, bytes: &[u8], way: &Arc<CallWay>, call: u64) -> Option<Box<dyn Withdraw>> {
        let caller = Far { way: Arc::clone(way), call, conclude: conclude::<M> };
        let cell = Arc::new(CallCell::from_far(Encoded::new(bytes, self.decode), caller));
        let queued: Queued<S> = Queued::Call(Arc::clone(&cell) as _, way.origin);
        match self.gate.push(queued, way.origin, || None) {
            Ok(place) => {
                let in_line = match place {
                    Place::Line(ticket) => Some((Arc::clone(&self.gate), ticket)),
                    Place::Queue => None,
                };
                Some(Box::new(Underway { cell, in_line }))
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
    CallWay { service, message, answers, .. }: &CallWay,
    call: u64,
) {
    // Without the connection there is nobody who waits. The reply, whose `Drop` is user code, is dropped below.
    let answers = answers.upgrade();
    let fail = |error| {
        if let Some(answers) = &answers {
            answers.fail(call, error);
        }
    };
    let service = || service.to_string();
    let reply = match verdict {
        Ok(Verdict::Reply(reply)) => reply,
        Ok(Verdict::Failed) => return fail(CallError::ServiceFailed { service: service() }),
        Ok(Verdict::Stopping) => return fail(CallError::Stopping { service: service() }),
        Ok(Verdict::NotCarried(error)) => return fail(not_carried(&service(), message, &error)),
        Ok(Verdict::Encoded(bytes)) => {
            let Some(answers) = &answers else { return };
            let Some(why) = answers.refuses(bytes.len()) else { return answers.reply(call, bytes) };
            return fail(CallError::ReplyNotCarried { service: service(), message: (*message).to_owned(), why });
        }
        Ok(Verdict::Error(error)) => return fail(error),
        Err(error) => return fail(error),
    };
    let mut bytes = Vec::new();
    // A reply's `Serialize` and `Drop` are user code, and a panic in them must not take the service down.
    let encoded = codec::catching(|| {
        let encoded = codec::encode_into(&reply, &mut bytes);
        drop(reply);
        encoded
    });
    let why = match encoded {
        Ok(()) => {
            let Some(answers) = &answers else { return };
            match answers.refuses(bytes.len()) {
                None => return answers.reply(call, bytes),
                Some(why) => why,
            }
        }
        Err(error) => error.to_string(),
    };
    fail(CallError::ReplyNotCarried { service: service(), message: (*message).to_owned(), why });
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
    /// Where it waits for room, if it does.
    in_line: Option<(Arc<Gate<S>>, u64)>,
}

impl<S: Service, M: ServiceMessage> Withdraw for Underway<S, M> {
    fn withdraw(self: Box<Self>) {
        drop(self.cell.withdraw());
        if let Some((gate, ticket)) = self.in_line {
            gate.leave(ticket);
        }
    }
}
