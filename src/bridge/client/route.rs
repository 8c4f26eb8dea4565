//! The way of one kind of message to one service, over whatever connection there is.

use std::{collections::VecDeque, sync::Arc};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{
    send::{send, send_in},
    state::{Attachment, Exchange, Heard, PendingCall, RESTARTED, Shared, Why},
};
use crate::{
    bridge::{
        connection::Violation,
        frame::{CALL_BYTES_MAX, Kind, Lane},
        message::{FromClient, FromNode, OpenRoute, ROUTE_WINDOW, RouteFault, cost_of},
    },
    job::JobId,
    service::{Attempt, CallError, Fate, MessageKind, RemoteCall, RemoteRoute, RemoteService, Withdrawal},
};

/// A service of a job on the node.
pub(super) struct ServiceWay {
    shared: Arc<Shared>,
    job: JobId,
    name: Arc<str>,
}

impl ServiceWay {
    pub(super) fn new(shared: &Arc<Shared>, job: JobId, name: &str) -> Self {
        Self { shared: Arc::clone(shared), job, name: name.into() }
    }
}

impl RemoteService for ServiceWay {
    fn name(&self) -> &str {
        &self.name
    }

    fn route(&self, kind: MessageKind) -> BoxFuture<'static, Result<Arc<dyn RemoteRoute>, CallError>> {
        let (shared, job, service) = (Arc::clone(&self.shared), self.job, Arc::clone(&self.name));
        Box::pin(async move {
            let (opening, opened) = oneshot::channel();
            let state = State {
                attachment: None,
                open: false,
                opened_on: None,
                opening: Some(opening),
                lost: None,
                closed: None,
                window_left: ROUTE_WINDOW,
                line: VecDeque::new(),
            };
            let id = shared.next_id();
            let exchange = Arc::new(RouteExchange { id, job, service, kind, state: Mutex::new(state) });
            shared.begin(id, &(Arc::clone(&exchange) as Arc<dyn Exchange>));
            let route: Arc<dyn RemoteRoute> = Arc::new(Route { shared, exchange });
            opened.await.unwrap_or(Err(CallError::EnvironmentClosed))?;
            Ok(route)
        })
    }
}

/// The sending end. Dropping it closes the route.
struct Route {
    shared: Arc<Shared>,
    exchange: Arc<RouteExchange>,
}

struct RouteExchange {
    id: u64,
    job: JobId,
    service: Arc<str>,
    kind: MessageKind,
    state: Mutex<State>,
}

struct State {
    attachment: Option<Arc<Attachment>>,
    /// The node has agreed to the route on this connection.
    open: bool,
    /// The start of the node which it was first opened on.
    opened_on: Option<u128>,
    /// Told how the first attempt to open it went.
    opening: Option<oneshot::Sender<Result<(), CallError>>>,
    /// Told messages that the node could not decode, until the next tell says so.
    lost: Option<Lost>,
    /// Why nothing can be sent, until the next connection.
    closed: Option<CallError>,
    /// Of the window for told messages.
    window_left: usize,
    /// What waits for room, or for the route to be open. Entries whose sender has gone are passed over.
    line: VecDeque<Waiting>,
}

/// Told messages that are lost.
struct Lost {
    count: u64,
    /// What was wrong with the first.
    why: String,
}

enum Waiting {
    Tell { bytes: Vec<u8>, sent: oneshot::Sender<Result<(), CallError>> },
    Call { bytes: Vec<u8>, call: NewCall, sent: oneshot::Sender<Result<(), CallError>> },
}

impl Waiting {
    fn is_wanted(&self) -> bool {
        let (Self::Tell { sent, .. } | Self::Call { sent, .. }) = self;
        !sent.is_closed()
    }

    fn refuse(self, error: CallError) {
        let (Self::Tell { sent, .. } | Self::Call { sent, .. }) = self;
        // Nobody may wait any more.
        let _ = sent.send(Err(error));
    }
}

/// A call that is about to be sent.
struct NewCall {
    id: u64,
    reply: oneshot::Sender<Result<Vec<u8>, CallError>>,
    room: OwnedSemaphorePermit,
    shared: Arc<Shared>,
}

impl RouteExchange {
    fn fits(&self, bytes: &[u8]) -> Result<(), CallError> {
        if bytes.len() <= CALL_BYTES_MAX {
            return Ok(());
        }
        let why = format!("it takes {} bytes, and may take {CALL_BYTES_MAX}", bytes.len());
        let (service, message) = (self.service.to_string(), self.kind.name.to_owned());
        Err(CallError::NotCarried { service, message, why })
    }

    /// Sends a told message if there is room for it.
    fn send_tell(&self, state: &mut State, bytes: &[u8]) -> bool {
        let cost = cost_of(bytes.len());
        let Some(attachment) = state.attachment.as_ref().filter(|_| state.open && state.window_left >= cost) else {
            return false;
        };
        attachment.outbound.push(Kind::Tell, Lane::Calls, self.id, &[bytes]);
        state.window_left -= cost;
        true
    }

    /// Sends a call. It is known before anything can answer it, and while the lock of the route keeps the connection
    /// from being lost unnoticed.
    fn send_call(&self, attachment: &Attachment, bytes: &[u8], call: NewCall) -> bool {
        let NewCall { id, reply, room, shared } = call;
        let pending = PendingCall {
            reply,
            service: Arc::clone(&self.service),
            message: self.kind.name,
            generation: attachment.generation,
            _room: room,
        };
        let alone = {
            let mut calls = shared.calls.lock();
            calls.insert(id, pending);
            calls.len() == 1
        };
        let parts: [&[u8]; 2] = [&self.id.to_le_bytes(), bytes];
        attachment.outbound.enqueue(Kind::Call, Lane::Calls, id, &parts);
        alone
    }

    /// Sends from the front of the line what can be sent.
    fn drain(&self, state: &mut State) {
        while let Some(first) = state.line.pop_front() {
            if !first.is_wanted() {
                continue;
            }
            match first {
                Waiting::Tell { bytes, sent } => {
                    if !self.send_tell(state, &bytes) {
                        state.line.push_front(Waiting::Tell { bytes, sent });
                        return;
                    }
                    let _ = sent.send(Ok(()));
                }
                Waiting::Call { bytes, call, sent } => {
                    let Some(attachment) = state.attachment.clone().filter(|_| state.open) else {
                        state.line.push_front(Waiting::Call { bytes, call, sent });
                        return;
                    };
                    self.send_call(&attachment, &bytes, call);
                    attachment.outbound.wake();
                    let _ = sent.send(Ok(()));
                }
            }
        }
    }

    /// Nothing can be sent: whoever waits is told, and later ones are, until there is another connection.
    fn close(&self, error: &CallError) {
        let mut state = self.state.lock();
        state.closed = Some(error.clone());
        state.open = false;
        let (opening, line) = (state.opening.take(), std::mem::take(&mut state.line));
        drop(state);
        if let Some(opening) = opening {
            // Whoever opens it may have gone.
            let _ = opening.send(Err(error.clone()));
        }
        for waiting in line {
            waiting.refuse(error.clone());
        }
    }

    /// The node could not decode a told message.
    fn lost(&self, error: CallError) {
        let why = if let CallError::NotCarried { why, .. } = error { why } else { error.to_string() };
        let mut state = self.state.lock();
        match &mut state.lost {
            Some(lost) => lost.count += 1,
            // Logged too, for there may be no next message that could say so.
            None => {
                tracing::warn!(job = %self.job, service = &*self.service, message = self.kind.name, why, "a told message was lost");
                state.lost = Some(Lost { count: 1, why });
            }
        }
    }

    /// What a tell has to say instead of being sent.
    fn obstacle(&self, state: &mut State) -> Option<CallError> {
        let Some(Lost { count, why }) = state.lost.take() else { return state.closed.clone() };
        let (service, message) = (self.service.to_string(), self.kind.name.to_owned());
        Some(CallError::EarlierNotCarried { service, message, lost: count, why })
    }

    fn opened(&self, opened: Result<(), RouteFault>) {
        let mut state = self.state.lock();
        let node = state.attachment.as_ref().map(|attachment| attachment.incarnation);
        let differs = |what: &str, difference: String| CallError::TypeDiffers {
            service: self.service.to_string(),
            message: self.kind.name.to_owned(),
            difference: format!("{what}{difference}"),
        };
        let error = match opened {
            Ok(()) => {
                state.open = true;
                state.opened_on = state.opened_on.or(node);
                let opening = state.opening.take();
                self.drain(&mut state);
                drop(state);
                if let Some(opening) = opening {
                    // Whoever opens it may have gone.
                    let _ = opening.send(Ok(()));
                }
                return;
            }
            Err(RouteFault::Refused(CallError::NoSuchJob { job }))
                if state.opened_on.is_some_and(|on| Some(on) != node) =>
            {
                CallError::JobLost { job, reason: RESTARTED.to_owned() }
            }
            Err(RouteFault::Refused(error)) => error,
            Err(RouteFault::MessageDiffers(there)) => differs("", self.kind.message.difference(&there)),
            Err(RouteFault::ReplyDiffers(there)) => differs("in its reply, ", self.kind.reply.difference(&there)),
        };
        drop(state);
        self.close(&error);
    }
}

impl Exchange for RouteExchange {
    fn attach(&self, id: u64, attachment: &Arc<Attachment>) {
        let mut state = self.state.lock();
        if state.attachment.as_ref().is_some_and(|known| known.generation >= attachment.generation) {
            return;
        }
        state.attachment = Some(Arc::clone(attachment));
        state.closed = None;
        state.window_left = ROUTE_WINDOW;
        drop(state);
        let open = FromClient::OpenRoute(OpenRoute {
            job: self.job,
            service: self.service.to_string(),
            actor: self.kind.actor.to_owned(),
            message: self.kind.name.to_owned(),
            message_type: self.kind.message.fingerprint(),
            reply_type: self.kind.reply.fingerprint(),
        });
        send(&attachment.outbound, id, &open);
    }

    fn detach(&self, generation: u64) {
        let mut state = self.state.lock();
        if state.attachment.as_ref().is_some_and(|attachment| attachment.generation <= generation) {
            state.attachment = None;
            state.open = false;
        }
    }

    fn fail(&self, why: &Why) {
        self.close(&why.call_error(self.job));
    }

    fn hear(&self, message: FromNode) -> Result<Heard, Violation> {
        match message {
            FromNode::RouteOpened(opened) => self.opened(opened),
            FromNode::RouteCredit { cost } => {
                let mut state = self.state.lock();
                let left = usize::try_from(cost).unwrap_or(usize::MAX).saturating_add(state.window_left);
                state.window_left = left.min(ROUTE_WINDOW);
                self.drain(&mut state);
            }
            // A service that has ended takes nothing more; one that could not read a message may read the next.
            FromNode::RouteRefused(error) if error.fate() == Fate::NotSent => self.close(&error),
            FromNode::RouteRefused(error) => self.lost(error),
            other => return Err(Violation::new(format_args!("{other:?} is nothing a route says"))),
        }
        Ok(Heard::GoesOn)
    }
}

impl Route {
    fn new_call(&self, room: OwnedSemaphorePermit) -> (NewCall, RemoteCallParts) {
        let (reply, received) = oneshot::channel();
        let id = self.shared.next_id();
        (NewCall { id, reply, room, shared: Arc::clone(&self.shared) }, (id, received))
    }
}

/// The number of a call, and where its reply comes.
type RemoteCallParts = (u64, oneshot::Receiver<Result<Vec<u8>, CallError>>);

impl RemoteRoute for Route {
    fn try_tell(&self, bytes: &[u8]) -> Attempt<()> {
        let exchange = &*self.exchange;
        if let Err(error) = exchange.fits(bytes) {
            return Some(Err(error));
        }
        let mut state = exchange.state.lock();
        if let Some(error) = exchange.obstacle(&mut state) {
            return Some(Err(error));
        }
        (state.line.is_empty() && exchange.send_tell(&mut state, bytes)).then_some(Ok(()))
    }

    fn try_call(self: Arc<Self>, bytes: &[u8]) -> Attempt<RemoteCall> {
        let exchange = &*self.exchange;
        if let Err(error) = exchange.fits(bytes) {
            return Some(Err(error));
        }
        let room = Arc::clone(&self.shared.calls_room).try_acquire_owned().ok()?;
        let state = exchange.state.lock();
        if let Some(error) = &state.closed {
            return Some(Err(error.clone()));
        }
        let attachment = state.attachment.clone().filter(|_| state.open && state.line.is_empty())?;
        let (call, (id, reply)) = self.new_call(room);
        let alone = exchange.send_call(&attachment, bytes, call);
        drop(state);
        // One caller alone waits for this very message; of several, each write takes along what the others have queued.
        if alone {
            attachment.outbound.flush();
        } else {
            attachment.outbound.wake();
        }
        Some(Ok(RemoteCall { reply, id, route: self }))
    }

    fn tell(self: Arc<Self>, bytes: Vec<u8>) -> BoxFuture<'static, Result<(), CallError>> {
        Box::pin(async move {
            if let Some(sent) = self.try_tell(&bytes) {
                return sent;
            }
            let (sent, is_sent) = oneshot::channel();
            self.wait(Waiting::Tell { bytes, sent });
            is_sent.await.unwrap_or(Err(CallError::EnvironmentClosed))
        })
    }

    fn call(self: Arc<Self>, bytes: Vec<u8>) -> BoxFuture<'static, Result<RemoteCall, CallError>> {
        Box::pin(async move {
            if let Some(sent) = Arc::clone(&self).try_call(&bytes) {
                return sent;
            }
            let room = Arc::clone(&self.shared.calls_room).acquire_owned().await;
            let Ok(room) = room else { return Err(CallError::EnvironmentClosed) };
            let (call, (id, reply)) = self.new_call(room);
            let (sent, is_sent) = oneshot::channel();
            self.wait(Waiting::Call { bytes, call, sent });
            let call = RemoteCall { reply, id, route: self };
            is_sent.await.unwrap_or(Err(CallError::EnvironmentClosed))?;
            Ok(call)
        })
    }
}

impl Route {
    fn wait(&self, waiting: Waiting) {
        let mut state = self.exchange.state.lock();
        if let Some(error) = state.closed.clone() {
            drop(state);
            return waiting.refuse(error);
        }
        state.line.push_back(waiting);
        self.exchange.drain(&mut state);
    }
}

impl Withdrawal for Route {
    fn withdraw(&self, call: u64) {
        // Dropped without the lock: its sender may own the waker of anything.
        let pending = self.shared.calls.lock().remove(&call);
        let Some(pending) = pending else { return };
        let attachment = self.exchange.state.lock().attachment.clone();
        if let Some(attachment) = attachment.filter(|attachment| attachment.generation == pending.generation) {
            send_in(Lane::Calls, &attachment.outbound, call, &FromClient::Withdraw);
        }
    }
}

impl Drop for Route {
    fn drop(&mut self) {
        self.shared.end(self.exchange.id);
        let attachment = self.exchange.state.lock().attachment.take();
        if let Some(attachment) = attachment {
            // Behind the messages that were told and may still be queued.
            send_in(Lane::Calls, &attachment.outbound, self.exchange.id, &FromClient::CloseRoute);
        }
    }
}
