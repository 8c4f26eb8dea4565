//! A tell: one message, no reply.

use std::{
    cell::RefCell,
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use actix::Handler;
use futures::future::BoxFuture;

use crate::{
    blocking::block_on,
    service::{
        Attempt, CallError, Service, ServiceMessage, ServiceRef,
        envelope::{Admission, Queued, TellMessage},
        gate::Place,
    },
};

/// A message for a service that is not replied to; awaiting it sends the message. Made by [`ServiceRef::tell`].
///
/// `Ok` means that the message is in the service's queue, not that it was handled: it is handled at most once, and not
/// at all if the job is cancelled or the service is given up before its turn. While the queue is full it waits, without
/// a deadline of its own, in order of arrival.
///
/// In a remote environment `Ok` means that the message was accepted for sending: it is in the service's queue or on the
/// way there, together with at most 1 MiB of others (each counted with 64 bytes for itself), beyond which a tell waits.
/// What is on the way is lost with the connection, or when the service stops before it is there.
///
/// One that the node cannot decode, because the type's `Deserialize` refuses the value or panics, is lost too. The next
/// tell of a message of that type, by the same reference or a clone of it, fails with
/// [`EarlierNotCarried`](CallError::EarlierNotCarried) because of it: that next message was not sent, and may be told
/// again. A [`call`](ServiceRef::call), a message of another type, and other references hear nothing of it. Who has to
/// know what became of a message calls.
///
/// Where a job has [workers](crate::Workers), the same happens between the queue and the instance to a message that a client of
/// the environment's own process told: one that cannot be encoded, or decoded there, is lost, and a warning in the log says so.
///
/// # Errors
///
/// Any [`CallError`] but [`Timeout`](CallError::Timeout) and [`ServiceFailed`](CallError::ServiceFailed). The message was
/// then not sent.
///
/// # Cancel safety
///
/// Dropped while it waits for room, it usually has not sent the message; but one that had just been let into the queue
/// stays there.
#[must_use = "a tell does nothing unless it is awaited"]
pub struct Tell<S, M> {
    service: ServiceRef<S>,
    state: State<M>,
}

enum State<M> {
    Unsent(M),
    Resolving {
        message: M,
        resolving: BoxFuture<'static, Result<(), CallError>>,
    },
    InLine {
        admission: Arc<Admission>,
        ticket: u64,
    },
    /// It waits to be sent over a connection.
    Sending(BoxFuture<'static, Result<(), CallError>>),
    Ended,
}

// No field is ever pinned through this type: the message is moved on, and the boxed future is pinned by its box.
impl<S, M> Unpin for Tell<S, M> {}

impl<S: Service, M: ServiceMessage> Tell<S, M>
where
    S: Handler<M>,
{
    pub(super) fn new(service: ServiceRef<S>, message: M) -> Self {
        Self { service, state: State::Unsent(message) }
    }

    /// Sends the message, blocking the thread while the queue is full.
    ///
    /// Not for async code: it would block the thread that the service may need.
    ///
    /// # Errors
    ///
    /// As for awaiting it.
    pub fn blocking(self) -> Result<(), CallError> {
        block_on(self)
    }

    fn send(&mut self, message: M, cx: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        let (gate, origin) = self.service.gate().expect("a tell is sent once its service is resolved");
        gate.admits::<M>()?;
        let mut waiting = None;
        let place = gate.push(Queued::Tell(Box::new(TellMessage(message)), origin), origin, || {
            waiting = Some(Arc::new(Admission::new(cx.waker().clone())));
            waiting.clone()
        })?;
        match (place, waiting) {
            (Place::Line(ticket), Some(admission)) => {
                self.state = State::InLine { admission, ticket };
                Poll::Pending
            }
            _ => Poll::Ready(Ok(())),
        }
    }
}

impl<S: Service, M: ServiceMessage> Tell<S, M>
where
    S: Handler<M>,
{
    /// Sends to the other side of a connection; at once if there is room, and else the state says what to wait for.
    fn send_over(&mut self, message: &M) -> Result<Attempt<()>, CallError> {
        let end = self.service.remote().expect("a tell goes over a connection once its service is found there");
        // Taken out for the time being: a `Serialize` is user code, and may itself tell.
        let mut bytes = SCRATCH.take();
        end.encode(message, &mut bytes)?;
        let sent = end.known_route::<M>().and_then(|route| route.try_tell(&bytes));
        if sent.is_none() {
            self.state = State::Sending(end.tell::<M>(bytes));
            return Ok(None);
        }
        bytes.clear();
        bytes.shrink_to(SCRATCH_KEPT_BYTES);
        SCRATCH.set(bytes);
        Ok(sent)
    }
}

/// Room for encoding that a thread keeps.
const SCRATCH_KEPT_BYTES: usize = 64 << 10;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl<S: Service, M: ServiceMessage> Future for Tell<S, M>
where
    S: Handler<M>,
{
    type Output = Result<(), CallError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        loop {
            match std::mem::replace(&mut this.state, State::Ended) {
                State::Unsent(message) if this.service.gate().is_some() => return this.send(message, cx),
                State::Unsent(message) if this.service.remote().is_some() => {
                    if let Some(sent) = this.send_over(&message)? {
                        return Poll::Ready(sent);
                    }
                }
                State::Unsent(message) => {
                    this.state = State::Resolving { message, resolving: this.service.resolve() };
                }
                State::Resolving { message, mut resolving } => match resolving.as_mut().poll(cx) {
                    Poll::Ready(resolved) => {
                        resolved?;
                        this.state = State::Unsent(message);
                    }
                    Poll::Pending => {
                        this.state = State::Resolving { message, resolving };
                        return Poll::Pending;
                    }
                },
                State::InLine { admission, ticket } => {
                    let Poll::Ready(queued) = admission.poll(cx) else {
                        this.state = State::InLine { admission, ticket };
                        return Poll::Pending;
                    };
                    return match this.service.gate() {
                        Some((gate, _)) if !queued => Poll::Ready(Err(gate.refused())),
                        _ => Poll::Ready(Ok(())),
                    };
                }
                State::Sending(mut sending) => {
                    let sent = sending.as_mut().poll(cx);
                    if sent.is_pending() {
                        this.state = State::Sending(sending);
                    }
                    return sent;
                }
                State::Ended => panic!("a tell was polled after it had ended"),
            }
        }
    }
}

impl<S, M> Drop for Tell<S, M> {
    fn drop(&mut self) {
        if let State::InLine { ticket, .. } = self.state
            && let Some((gate, _)) = self.service.gate()
        {
            gate.leave(ticket);
        }
    }
}

impl<S, M> fmt::Debug for Tell<S, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tell").field("service", &self.service).finish_non_exhaustive()
    }
}
