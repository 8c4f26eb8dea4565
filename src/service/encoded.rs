//! The way into a service for messages that came over a connection, encoded.

use std::sync::{Arc, Weak};

use actix::{Handler, Message};

use crate::{
    codec,
    schema::TypeDescription,
    service::{
        CallError, Service, ServiceMessage,
        directory::Origin,
        envelope::{Admission, CallCell, OnAdmission, Queued, TellMessage, Verdict},
        gate::{Gate, Place},
    },
};

/// One kind of message that one service accepts, as a connection delivers it. Messages keep the order in which they are
/// handed in.
pub(crate) trait Entrance: Send + Sync {
    fn message_type(&self) -> Arc<TypeDescription>;
    fn reply_type(&self) -> Arc<TypeDescription>;
    /// Has `watcher` told each time the service begins to refuse messages for a further reason.
    fn watch(&self, watcher: Weak<dyn Watcher>);
    /// Decodes a message and puts it into the queue, or into the line for room in it.
    fn tell(&self, bytes: &[u8], receipt: Box<dyn Receipt>);
    /// As [`tell`](Self::tell), for a message that is to be answered. What is returned withdraws it, if it is not
    /// settled yet.
    fn call(&self, bytes: &[u8], answer: Box<dyn Answer>) -> Option<Box<dyn Withdraw>>;
}

/// Told that a service refuses messages from outside from now on.
pub(crate) trait Watcher: Send + Sync {
    fn refuses(&self, error: CallError);
}

/// Told exactly once what became of a told message: at once, or when there was room or never will be.
pub(crate) trait Receipt: Send {
    fn queued(self: Box<Self>);
    fn refused(self: Box<Self>, error: CallError);
}

/// Told at most once how a call ended, on the thread where it did; not at all if it was withdrawn.
pub(crate) trait Answer: Send {
    /// How long an encoded reply may be.
    fn bytes_max(&self) -> usize;
    /// Of no more than [`bytes_max`](Self::bytes_max).
    fn reply(self: Box<Self>, bytes: Vec<u8>);
    fn fail(self: Box<Self>, error: CallError);
}

/// Takes back a message that was not taken up yet.
pub(crate) trait Withdraw: Send {
    fn withdraw(self: Box<Self>);
}

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
    fn decode(&self, bytes: &[u8]) -> Result<M, CallError> {
        codec::decode_whole(self.decode, bytes).map_err(|error| CallError::NotCarried {
            service: self.gate.name().to_string(),
            message: self.message.to_owned(),
            why: error.to_string(),
        })
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

    fn tell(&self, bytes: &[u8], receipt: Box<dyn Receipt>) {
        let message = match self.decode(bytes) {
            Ok(message) => message,
            Err(error) => return receipt.refused(error),
        };
        let mut receipt = Some(receipt);
        let place = self.gate.push(Queued::Tell(Box::new(TellMessage(message))), Origin::Outside, || {
            let (gate, receipt) = (Arc::clone(&self.gate), receipt.take()?);
            Some(Arc::new(Admission::watched_by(Box::new(Waiting { gate, receipt }))))
        });
        match (place, receipt) {
            (Ok(_), Some(receipt)) => receipt.queued(),
            (Err(error), Some(receipt)) => receipt.refused(error),
            // It waits in line, and the receipt with it.
            (_, None) => {}
        }
    }

    fn call(&self, bytes: &[u8], answer: Box<dyn Answer>) -> Option<Box<dyn Withdraw>> {
        let message: M = match self.decode(bytes) {
            Ok(message) => message,
            Err(error) => {
                answer.fail(error);
                return None;
            }
        };
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
        Ok(()) if bytes.len() <= answer.bytes_max() => return answer.reply(bytes),
        Ok(()) => format!("it takes {} bytes, and may take {}", bytes.len(), answer.bytes_max()),
        Err(error) => error.to_string(),
    };
    answer.fail(CallError::ReplyNotCarried { service: service.to_owned(), message: message.to_owned(), why });
}

/// A told message that waits in the gate's line.
struct Waiting<S> {
    gate: Arc<Gate<S>>,
    receipt: Box<dyn Receipt>,
}

impl<S: 'static> OnAdmission for Waiting<S> {
    fn queued(self: Box<Self>) {
        self.receipt.queued();
    }

    fn refused(self: Box<Self>) {
        let error = self.gate.refused();
        self.receipt.refused(error);
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
