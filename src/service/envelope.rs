//! What waits in a service's queue: messages whose type is no longer known, and the cells that callers wait on.

use std::{
    any::{TypeId, type_name},
    future::Future,
    mem::{needs_drop, replace},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use actix::{Handler, Message, dev::MessageResponse};
use parking_lot::Mutex;
use tokio::sync::oneshot::{self, error::TryRecvError};

use crate::{
    codec::{self, DecodeError, DecodePrefix, EncodeError, decode_whole},
    service::{CallError, CallWay, Origin, Receipt, Service, ServiceMessage, ServiceResolver, Withdrawal, bound_to},
};

/// One message in a queue. A tell owns its message; a call shares it with the caller, who may withdraw it.
pub(super) enum Queued<S> {
    Tell(Box<dyn TellEnvelope<S>>, Origin),
    Call(Arc<dyn CallEnvelope<S>>, Origin),
    /// The message at `at` of those that came over a connection together.
    Told {
        batch: Arc<dyn ToldBatch<S>>,
        at: u32,
        origin: Origin,
    },
}

pub(super) trait TellEnvelope<S>: Send {
    fn message(&self) -> &'static str;
    fn handle(self: Box<Self>, service: &mut S, ctx: &mut actix::Context<S>) -> Handled
    where
        S: Service;
    /// The message encoded, for an instance in another process, with its type.
    fn encode(self: Box<Self>) -> (TypeId, Result<Vec<u8>, EncodeError>);
}

pub(super) trait CallEnvelope<S>: Send + Sync {
    fn message(&self) -> &'static str;
    fn handle(self: Arc<Self>, service: &mut S, ctx: &mut actix::Context<S>) -> Handled
    where
        S: Service;
    /// As [`TellEnvelope::encode`], with the caller, who withdraws the call by `withdrawal`, under the number `call`. None if
    /// nobody waits any more.
    fn encode(self: Arc<Self>, call: u64, withdrawal: Arc<dyn Withdrawal>) -> Option<EncodedCall>;
    /// Tells the caller that nothing more is to come: `Stopping` if the message was never taken up, else `Failed`.
    fn give_up(&self);
    fn is_settled(&self) -> bool;
}

/// A call for an instance in another process.
pub(super) struct EncodedCall {
    pub message: TypeId,
    pub bytes: Result<Vec<u8>, EncodeError>,
    pub caller: Box<dyn super::Caller>,
}

pub(super) trait ToldBatch<S>: Send + Sync {
    fn message(&self) -> &'static str;
    fn handle(&self, at: u32, service: &mut S, ctx: &mut actix::Context<S>) -> Handled
    where
        S: Service;
    /// The message as it came, with its type, and who is told if it is none.
    fn encoded(&self, at: u32) -> (TypeId, Vec<u8>, Arc<dyn Receipt>);
}

impl<S> Queued<S> {
    /// The type of the message.
    pub(super) fn message(&self) -> &'static str {
        match self {
            Self::Tell(tell, _) => tell.message(),
            Self::Call(call, _) => call.message(),
            Self::Told { batch, .. } => batch.message(),
        }
    }

    pub(super) fn handle(self, service: &mut S, ctx: &mut actix::Context<S>) -> Handled
    where
        S: Service,
    {
        match self {
            Self::Tell(tell, _) => tell.handle(service, ctx),
            Self::Call(call, _) => call.handle(service, ctx),
            Self::Told { batch, at, .. } => batch.handle(at, service, ctx),
        }
    }

    pub(super) fn give_up(self) {
        match self {
            Self::Tell(..) | Self::Told { .. } => {}
            Self::Call(call, _) => call.give_up(),
        }
    }
}

fn encoded<M: ServiceMessage>(message: M) -> Result<Vec<u8>, EncodeError> {
    let mut bytes = Vec::new();
    let encoded = codec::encode_caught(&message, &mut bytes);
    // Its `Drop` is the user's as well.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(message)));
    encoded.map(|()| bytes)
}

/// A message as it waits: one that came over a connection is decoded by the service that takes it up, so that a slow
/// `Deserialize` holds up nobody else.
pub(super) enum Carried<M> {
    Value(M),
    Encoded(Encoded<M>),
}

pub(super) struct Encoded<M> {
    bytes: Bytes,
    decode: DecodePrefix<M>,
}

/// Bytes of a message that are kept in place, because most messages are short, and room that one thread takes and another
/// gives back costs a tenth of such a message's whole way.
const SHORT_BYTES_MAX: usize = 79;

enum Bytes {
    Short { length: u8, bytes: [u8; SHORT_BYTES_MAX] },
    Long(Vec<u8>),
}

impl Bytes {
    fn of(from: &[u8]) -> Self {
        match u8::try_from(from.len()) {
            Ok(length) if from.len() <= SHORT_BYTES_MAX => {
                let mut bytes = [0; SHORT_BYTES_MAX];
                bytes[..from.len()].copy_from_slice(from);
                Self::Short { length, bytes }
            }
            _ => Self::Long(from.to_vec()),
        }
    }

    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Short { length, bytes } => &bytes[..usize::from(*length)],
            Self::Long(bytes) => bytes,
        }
    }
}

impl<M> Carried<M> {
    /// References in it are bound to `resolver`.
    fn open(self, resolver: Option<Arc<dyn ServiceResolver>>) -> Result<M, DecodeError> {
        let Encoded { bytes, decode } = match self {
            Self::Value(message) => return Ok(message),
            Self::Encoded(encoded) => encoded,
        };
        match resolver {
            Some(resolver) => bound_to(resolver, || decode_whole(decode, bytes.as_slice())),
            None => decode_whole(decode, bytes.as_slice()),
        }
    }
}

impl<M> Encoded<M> {
    pub(super) fn new(bytes: &[u8], decode: DecodePrefix<M>) -> Self {
        Self { bytes: Bytes::of(bytes), decode }
    }
}

/// What came of handling one message.
pub(super) enum Handled {
    Done,
    /// Its caller no longer waited, or it is no message of its type, so it was not handled.
    Skipped,
    /// The reply, or the end of the work, is still to come.
    InFlight(InFlight),
    ReplyLost,
}

/// Ends when an asynchronous reply was delivered or lost.
pub(super) type InFlight = Pin<Box<dyn Future<Output = Delivery>>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delivery {
    Delivered,
    Lost,
}

/// A message to be handled without a reply.
pub(super) struct TellMessage<M>(pub(super) M);

impl<S, M> TellEnvelope<S> for TellMessage<M>
where
    S: Service + Handler<M>,
    M: ServiceMessage,
{
    fn message(&self) -> &'static str {
        type_name::<M>()
    }

    fn handle(self: Box<Self>, service: &mut S, ctx: &mut actix::Context<S>) -> Handled {
        told(self.0, service, ctx)
    }

    fn encode(self: Box<Self>) -> (TypeId, Result<Vec<u8>, EncodeError>) {
        (TypeId::of::<M>(), encoded(self.0))
    }
}

/// Has a message handled to which there is no reply.
pub(super) fn told<S, M>(message: M, service: &mut S, ctx: &mut actix::Context<S>) -> Handled
where
    S: Service + Handler<M>,
    M: ServiceMessage,
{
    // A response that has nothing to drop owns no future, so its work is done when the handler returns. All others
    // may go on, and a service that is stopped finishes what it accepted: their end must be seen.
    if !needs_drop::<<S as Handler<M>>::Result>() {
        respond(service, ctx, message, None);
        return Handled::Done;
    }
    let (tx, mut rx) = oneshot::channel();
    respond(service, ctx, message, Some(tx));
    match rx.try_recv() {
        Ok(_) => Handled::Done,
        Err(TryRecvError::Closed) => Handled::ReplyLost,
        Err(TryRecvError::Empty) => Handled::InFlight(Box::pin(async move {
            match rx.await {
                Ok(_) => Delivery::Delivered,
                Err(_) => Delivery::Lost,
            }
        })),
    }
}

fn respond<S, M>(
    service: &mut S,
    ctx: &mut actix::Context<S>,
    message: M,
    reply: Option<oneshot::Sender<<M as Message>::Result>>,
) where
    S: Service + Handler<M>,
    M: ServiceMessage,
{
    let response = <S as Handler<M>>::handle(service, message, ctx);
    <<S as Handler<M>>::Result as MessageResponse<S, M>>::handle(response, ctx, reply);
}

/// What a caller and the service share of one call: first the message, then the reply.
pub(super) struct CallCell<M: Message> {
    state: Mutex<CallState<M>>,
}

/// Who is told the verdict.
enum Caller<R> {
    /// A task, which comes back for it.
    Task(Waker),
    /// Somebody at the other end of a connection.
    Far(Far<R>),
}

/// A caller to whom the verdict goes by way of a connection, on the thread where it is made.
pub(super) struct Far<R> {
    pub way: Arc<CallWay>,
    pub call: u64,
    /// Given an error, it says why the message was not even accepted.
    pub conclude: fn(Result<Verdict<R>, CallError>, &CallWay, u64),
}

impl<R> Far<R> {
    fn tell(self, verdict: Result<Verdict<R>, CallError>) {
        (self.conclude)(verdict, &self.way, self.call);
    }
}

enum CallState<M: Message> {
    /// The message waits in the queue, or for room in it.
    Waiting {
        message: Carried<M>,
        caller: Caller<M::Result>,
    },
    /// The service has taken the message up.
    InHand {
        caller: Caller<M::Result>,
    },
    /// It is on the way to an instance in another process, or was taken up there.
    Elsewhere {
        caller: Caller<M::Result>,
        call: u64,
        withdrawal: Arc<dyn Withdrawal>,
    },
    Settled(Verdict<M::Result>),
    /// The caller has its verdict or waits no longer.
    Closed,
}

/// How a call ended, without the words that only the caller needs.
pub(super) enum Verdict<R> {
    Reply(R),
    /// Taken up and not answered.
    Failed,
    /// Never taken up.
    Stopping,
    /// What came over the connection is no such message.
    NotCarried(DecodeError),
    /// The reply of an instance in another process, not decoded yet.
    Encoded(Vec<u8>),
    /// What such an instance said instead, or what its loss means.
    Error(CallError),
}

/// What a caller leaves behind when it no longer waits.
pub(super) enum Withdrawn<R> {
    /// The message had not been taken up, and never will be.
    Unhandled,
    /// It had been taken up.
    InHand,
    /// The verdict was there already.
    Settled(Verdict<R>),
}

impl<M: Message> CallCell<M> {
    pub(super) fn new(message: M, caller: Waker) -> Self {
        let message = Carried::Value(message);
        Self { state: Mutex::new(CallState::Waiting { message, caller: Caller::Task(caller) }) }
    }

    pub(super) fn from_far(message: Encoded<M>, caller: Far<M::Result>) -> Self {
        let message = Carried::Encoded(message);
        Self { state: Mutex::new(CallState::Waiting { message, caller: Caller::Far(caller) }) }
    }

    /// The message was not accepted.
    pub(super) fn refuse(&self, error: CallError) {
        let old = replace(&mut *self.state.lock(), CallState::Closed);
        if let CallState::Waiting { caller: Caller::Far(caller), .. } = old {
            caller.tell(Err(error));
        }
    }

    pub(super) fn poll_verdict(&self, cx: &mut Context<'_>) -> Poll<Verdict<M::Result>> {
        let mut state = self.state.lock();
        match &mut *state {
            CallState::Waiting { caller: Caller::Task(caller), .. }
            | CallState::InHand { caller: Caller::Task(caller) }
            | CallState::Elsewhere { caller: Caller::Task(caller), .. } => {
                if !caller.will_wake(cx.waker()) {
                    let old = replace(caller, cx.waker().clone());
                    drop(state);
                    drop(old);
                }
                Poll::Pending
            }
            CallState::Waiting { .. } | CallState::InHand { .. } | CallState::Elsewhere { .. } => Poll::Pending,
            CallState::Settled(_) => match replace(&mut *state, CallState::Closed) {
                CallState::Settled(verdict) => Poll::Ready(verdict),
                _ => unreachable!("the state was just seen"),
            },
            CallState::Closed => Poll::Pending,
        }
    }

    /// The caller waits no longer: a message that was not taken up is dropped here and skipped when its turn comes.
    pub(super) fn withdraw(&self) -> Withdrawn<M::Result> {
        // User values drop after the lock is released, at the end of the statement.
        let old = replace(&mut *self.state.lock(), CallState::Closed);
        match old {
            CallState::Waiting { .. } => Withdrawn::Unhandled,
            CallState::InHand { .. } | CallState::Closed => Withdrawn::InHand,
            CallState::Elsewhere { call, withdrawal, .. } => {
                withdrawal.withdraw(call);
                Withdrawn::InHand
            }
            CallState::Settled(verdict) => Withdrawn::Settled(verdict),
        }
    }

    fn take_up(self: Arc<Self>) -> Option<TakenUp<M>> {
        let mut state = self.state.lock();
        match replace(&mut *state, CallState::Closed) {
            CallState::Waiting { message, caller } => {
                let resolver = if let Caller::Far(far) = &caller { Some(Arc::clone(&far.way.resolver)) } else { None };
                *state = CallState::InHand { caller };
                drop(state);
                Some(TakenUp { message, resolver, in_hand: InHand(Some(self)) })
            }
            other => {
                *state = other;
                None
            }
        }
    }

    /// Only the first verdict counts, and none once the caller has gone.
    fn settle(&self, verdict: Verdict<M::Result>) {
        let mut state = self.state.lock();
        match replace(&mut *state, CallState::Closed) {
            CallState::Waiting { caller, .. } | CallState::InHand { caller } | CallState::Elsewhere { caller, .. } => {
                match caller {
                    Caller::Task(waker) => {
                        *state = CallState::Settled(verdict);
                        drop(state);
                        waker.wake();
                    }
                    Caller::Far(far) => {
                        drop(state);
                        far.tell(Ok(verdict));
                    }
                }
            }
            settled => {
                *state = settled;
                // The reply may own anything: it must not be dropped under the lock.
                drop(state);
                drop(verdict);
            }
        }
    }
}

/// A call that its service has taken up.
struct TakenUp<M: Message> {
    message: Carried<M>,
    /// To what references in the message are to be bound.
    resolver: Option<Arc<dyn ServiceResolver>>,
    in_hand: InHand<M>,
}

/// The service's side of a call that it has taken up. Dropped without an answer, as when the handler panics, it tells
/// the caller that the service failed.
struct InHand<M: Message>(Option<Arc<CallCell<M>>>);

impl<M: Message> InHand<M> {
    fn answer(self, reply: M::Result) {
        self.settle(Verdict::Reply(reply));
    }

    fn settle(mut self, verdict: Verdict<M::Result>) {
        if let Some(cell) = self.0.take() {
            cell.settle(verdict);
        }
    }
}

impl<M> super::Caller for InHand<M>
where
    M: ServiceMessage,
{
    fn answer(self: Box<Self>, reply: Result<Vec<u8>, CallError>) {
        self.settle(reply.map_or_else(Verdict::Error, Verdict::Encoded));
    }
}

impl<M: Message> Drop for InHand<M> {
    fn drop(&mut self) {
        if let Some(cell) = self.0.take() {
            cell.settle(Verdict::Failed);
        }
    }
}

impl<S, M> CallEnvelope<S> for CallCell<M>
where
    S: Service + Handler<M>,
    M: ServiceMessage,
{
    fn message(&self) -> &'static str {
        type_name::<M>()
    }

    fn handle(self: Arc<Self>, service: &mut S, ctx: &mut actix::Context<S>) -> Handled {
        let Some(TakenUp { message, resolver, in_hand }) = self.take_up() else { return Handled::Skipped };
        let message = match message.open(resolver) {
            Ok(message) => message,
            Err(error) => {
                in_hand.settle(Verdict::NotCarried(error));
                return Handled::Skipped;
            }
        };
        let (tx, mut rx) = oneshot::channel();
        respond(service, ctx, message, Some(tx));
        match rx.try_recv() {
            Ok(reply) => {
                in_hand.answer(reply);
                Handled::Done
            }
            Err(TryRecvError::Closed) => Handled::ReplyLost,
            Err(TryRecvError::Empty) => Handled::InFlight(Box::pin(async move {
                match rx.await {
                    Ok(reply) => {
                        in_hand.answer(reply);
                        Delivery::Delivered
                    }
                    Err(_) => Delivery::Lost,
                }
            })),
        }
    }

    fn encode(self: Arc<Self>, call: u64, withdrawal: Arc<dyn Withdrawal>) -> Option<EncodedCall> {
        let mut state = self.state.lock();
        let (message, caller) = match replace(&mut *state, CallState::Closed) {
            CallState::Waiting { message, caller } => (message, caller),
            other => {
                *state = other;
                return None;
            }
        };
        *state = CallState::Elsewhere { caller, call, withdrawal };
        drop(state);
        let caller = Box::new(InHand(Some(self)));
        let bytes = match message {
            Carried::Value(message) => encoded(message),
            Carried::Encoded(Encoded { bytes, .. }) => Ok(bytes.as_slice().to_vec()),
        };
        Some(EncodedCall { message: TypeId::of::<M>(), bytes, caller })
    }

    fn give_up(&self) {
        let verdict = match &*self.state.lock() {
            CallState::Waiting { .. } => Verdict::Stopping,
            CallState::InHand { .. } | CallState::Elsewhere { .. } => Verdict::Failed,
            CallState::Settled(_) | CallState::Closed => return,
        };
        // Only whoever feeds the service gives up, so the message was not taken up in between.
        self.settle(verdict);
    }

    fn is_settled(&self) -> bool {
        matches!(&*self.state.lock(), CallState::Settled(_) | CallState::Closed)
    }
}

/// What a tell that waits for room shares with the gate.
pub(super) struct Admission {
    state: Mutex<AdmissionState>,
}

/// What becomes of a message that was told and waits for room, for somebody who is no task.
pub(super) trait OnAdmission: Send {
    fn queued(self: Box<Self>);
    fn refused(self: Box<Self>);
}

enum Teller {
    Task(Waker),
    Watcher(Box<dyn OnAdmission>),
}

enum AdmissionState {
    Waiting(Teller),
    Queued,
    Refused,
}

impl Admission {
    pub(super) fn new(sender: Waker) -> Self {
        Self { state: Mutex::new(AdmissionState::Waiting(Teller::Task(sender))) }
    }

    pub(super) fn watched_by(watcher: Box<dyn OnAdmission>) -> Self {
        Self { state: Mutex::new(AdmissionState::Waiting(Teller::Watcher(watcher))) }
    }

    pub(super) fn queued(&self) {
        self.end(AdmissionState::Queued, OnAdmission::queued);
    }

    pub(super) fn refused(&self) {
        self.end(AdmissionState::Refused, OnAdmission::refused);
    }

    fn end(&self, state: AdmissionState, tell: impl FnOnce(Box<dyn OnAdmission>)) {
        let old = replace(&mut *self.state.lock(), state);
        match old {
            AdmissionState::Waiting(Teller::Task(sender)) => sender.wake(),
            AdmissionState::Waiting(Teller::Watcher(watcher)) => tell(watcher),
            AdmissionState::Queued | AdmissionState::Refused => {}
        }
    }

    /// Whether the message got into the queue.
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<bool> {
        let mut state = self.state.lock();
        match &mut *state {
            AdmissionState::Waiting(Teller::Watcher(_)) => Poll::Pending,
            AdmissionState::Waiting(Teller::Task(sender)) => {
                if !sender.will_wake(cx.waker()) {
                    let old = replace(sender, cx.waker().clone());
                    drop(state);
                    drop(old);
                }
                Poll::Pending
            }
            AdmissionState::Queued => Poll::Ready(true),
            AdmissionState::Refused => Poll::Ready(false),
        }
    }
}
