//! A call: one message, one reply, one deadline.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use actix::{Handler, Message};
use futures::future::BoxFuture;
use tokio::sync::oneshot;

use crate::{
    blocking::block_on,
    codec,
    host::Sleep,
    service::{
        CallError, RemoteCall, Service, ServiceMessage, ServiceRef, bound_to,
        envelope::{CallCell, Queued, Verdict, Withdrawn},
        gate::Place,
    },
};

/// A call of a service; awaiting it sends the message and gives the reply. Made by [`ServiceRef::call`].
///
/// The deadline runs from the first poll and covers everything: looking the service up, waiting for room in its queue,
/// waiting there, being handled. The environment's default is [`Limits::call_deadline`](crate::Limits::call_deadline).
///
/// # Errors
///
/// Any [`CallError`].
///
/// # Cancel safety
///
/// Dropping it withdraws a message that the service has not taken up yet. One that was taken up is handled to its end,
/// and its reply is dropped.
#[must_use = "a call does nothing unless it is awaited"]
pub struct Call<S, M: Message> {
    service: ServiceRef<S>,
    deadline: Option<Duration>,
    /// Made at the first `Pending`, so that a call which is answered at once needs no timer.
    sleep: Option<Sleep>,
    state: State<M>,
}

enum State<M: Message> {
    Unsent(M),
    Resolving {
        message: M,
        resolving: BoxFuture<'static, Result<(), CallError>>,
    },
    Sent {
        cell: Arc<CallCell<M>>,
        /// The place in the line for room, if there was none.
        ticket: Option<u64>,
    },
    /// It waits to be sent over a connection.
    Sending(BoxFuture<'static, Result<RemoteCall, CallError>>),
    SentOver(RemoteCall),
    Ended,
}

// No field is ever pinned through this type: the message is moved on, and the boxed future is pinned by its box.
impl<S, M: Message> Unpin for Call<S, M> {}

impl<S: Service, M: ServiceMessage> Call<S, M>
where
    S: Handler<M>,
{
    pub(super) fn new(service: ServiceRef<S>, message: M) -> Self {
        Self { service, deadline: None, sleep: None, state: State::Unsent(message) }
    }

    /// Gives up after `deadline`, with [`CallError::Timeout`].
    ///
    /// One too long for the clock to express is no deadline.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Sends the message and blocks the thread until the reply is there.
    ///
    /// Not for async code: it would block the thread that the service may need.
    ///
    /// # Errors
    ///
    /// Any [`CallError`].
    pub fn blocking(self) -> Result<M::Result, CallError> {
        block_on(self)
    }

    fn send(&mut self, message: M, cx: &mut Context<'_>) -> Result<(), CallError> {
        let (gate, origin) = self.service.gate().expect("a call is sent once its service is resolved");
        gate.admits::<M>()?;
        let cell = Arc::new(CallCell::new(message, cx.waker().clone()));
        let place = gate.push(Queued::Call(Arc::clone(&cell) as _, origin), origin, || None)?;
        let ticket = match place {
            Place::Queue => None,
            Place::Line(ticket) => Some(ticket),
        };
        self.state = State::Sent { cell, ticket };
        Ok(())
    }

    /// As [`send`](Self::send), to the other side of a connection.
    fn send_over(&mut self, message: &M) -> Result<(), CallError> {
        let end = self.service.remote().expect("a call goes over a connection once its service is found there");
        let mut bytes = Vec::new();
        end.encode(message, &mut bytes)?;
        self.state = match end.known_route::<M>().and_then(|route| route.try_call(&bytes)) {
            Some(sent) => State::SentOver(sent?),
            None => State::Sending(end.call::<M>(bytes)),
        };
        Ok(())
    }

    fn conclude_over(
        &self,
        reply: Result<Result<Vec<u8>, CallError>, oneshot::error::RecvError>,
    ) -> Result<M::Result, CallError> {
        let end = self.service.remote().expect("a reply came from there");
        match self.service.resolver() {
            Some(resolver) => bound_to(resolver, || end.conclude::<M>(reply)),
            None => end.conclude::<M>(reply),
        }
    }

    fn conclude(&self, verdict: Verdict<M::Result>) -> Result<M::Result, CallError> {
        let service = || self.service.name().to_owned();
        match verdict {
            Verdict::Reply(reply) => Ok(reply),
            Verdict::Failed => Err(CallError::ServiceFailed { service: service() }),
            Verdict::Stopping => Err(CallError::Stopping { service: service() }),
            Verdict::Encoded(bytes) => self.decode_reply(&bytes),
            Verdict::Error(error) => Err(error),
            // A call of this process carries the message itself.
            Verdict::NotCarried(error) => Err(CallError::NotCarried {
                service: service(),
                message: std::any::type_name::<M>().to_owned(),
                why: error.to_string(),
            }),
        }
    }

    /// The reply of an instance that is in another process, though the gate is in this one.
    fn decode_reply(&self, bytes: &[u8]) -> Result<M::Result, CallError> {
        let decode = || codec::decode_untrusted(bytes);
        let reply = match self.service.resolver() {
            Some(resolver) => bound_to(resolver, decode),
            None => decode(),
        };
        reply.map_err(|error| CallError::ReplyNotCarried {
            service: self.service.name().to_owned(),
            message: std::any::type_name::<M>().to_owned(),
            why: error.to_string(),
        })
    }

    /// Ready when the deadline has passed.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.sleep.is_none() {
            let Some((host, default)) = self.service.timing() else { return Poll::Pending };
            let deadline = *self.deadline.get_or_insert(default);
            let Some(at) = host.now().checked_add(deadline) else { return Poll::Pending };
            self.sleep = Some(host.sleep_until(at));
        }
        match &mut self.sleep {
            Some(sleep) => Pin::new(sleep).poll(cx),
            None => Poll::Pending,
        }
    }

    fn poll_reply(&mut self, cx: &mut Context<'_>) -> Poll<Result<M::Result, CallError>> {
        loop {
            match std::mem::replace(&mut self.state, State::Ended) {
                State::Unsent(message) if self.service.gate().is_some() => {
                    self.send(message, cx)?;
                    // The waker is in the cell already.
                    return Poll::Pending;
                }
                State::Unsent(message) if self.service.remote().is_some() => self.send_over(&message)?,
                State::Unsent(message) => {
                    self.state = State::Resolving { message, resolving: self.service.resolve() };
                }
                State::Resolving { message, mut resolving } => match resolving.as_mut().poll(cx) {
                    Poll::Ready(resolved) => {
                        resolved?;
                        self.state = State::Unsent(message);
                    }
                    Poll::Pending => {
                        self.state = State::Resolving { message, resolving };
                        return Poll::Pending;
                    }
                },
                State::Sent { cell, ticket } => {
                    let verdict = cell.poll_verdict(cx);
                    if verdict.is_pending() {
                        self.state = State::Sent { cell, ticket };
                    }
                    return verdict.map(|verdict| self.conclude(verdict));
                }
                State::Sending(mut sending) => match sending.as_mut().poll(cx) {
                    Poll::Ready(sent) => self.state = State::SentOver(sent?),
                    Poll::Pending => {
                        self.state = State::Sending(sending);
                        return Poll::Pending;
                    }
                },
                State::SentOver(mut call) => {
                    let reply = Pin::new(&mut call.reply).poll(cx);
                    if reply.is_pending() {
                        self.state = State::SentOver(call);
                    }
                    return reply.map(|reply| self.conclude_over(reply));
                }
                State::Ended => panic!("a call was polled after it had ended"),
            }
        }
    }

    /// The deadline has passed, or the environment has closed its timer; but a reply that came meanwhile counts.
    fn give_up(&mut self) -> Result<M::Result, CallError> {
        if let State::SentOver(call) = &mut self.state
            && let Ok(reply) = call.reply.try_recv()
        {
            return self.conclude_over(Ok(reply));
        }
        let withdrawn = self.withdraw();
        if let Some(Withdrawn::Settled(verdict)) = withdrawn {
            return self.conclude(verdict);
        }
        let service = self.service.name().to_owned();
        if self.service.timing().is_none_or(|(host, _)| host.is_closed()) {
            return Err(match withdrawn {
                Some(Withdrawn::InHand) => CallError::ServiceFailed { service },
                _ => CallError::EnvironmentClosed,
            });
        }
        Err(CallError::Timeout { service, deadline: self.deadline.unwrap_or_default() })
    }
}

impl<S, M: Message> Call<S, M> {
    fn withdraw(&mut self) -> Option<Withdrawn<M::Result>> {
        // One that went over a connection withdraws itself when it is dropped.
        let State::Sent { cell, ticket } = std::mem::replace(&mut self.state, State::Ended) else { return None };
        let withdrawn = cell.withdraw();
        if let (Some(ticket), Some((gate, _))) = (ticket, self.service.gate()) {
            gate.leave(ticket);
        }
        Some(withdrawn)
    }
}

impl<S: Service, M: ServiceMessage> Future for Call<S, M>
where
    S: Handler<M>,
{
    type Output = Result<M::Result, CallError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let result = match this.poll_reply(cx) {
            Poll::Ready(result) => result,
            Poll::Pending => match this.poll_deadline(cx) {
                Poll::Ready(()) => this.give_up(),
                Poll::Pending => return Poll::Pending,
            },
        };
        this.sleep = None;
        Poll::Ready(result)
    }
}

impl<S, M: Message> Drop for Call<S, M> {
    fn drop(&mut self) {
        self.withdraw();
    }
}

impl<S, M: Message> fmt::Debug for Call<S, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("service", &self.service)
            .field("deadline", &self.deadline)
            .field("sent", &matches!(self.state, State::Sent { .. }))
            .finish_non_exhaustive()
    }
}
