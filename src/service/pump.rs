//! The pump: a future inside a service's actor that hands it the messages of its queue.

use std::{
    any::Any,
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use actix::{ActorContext, AsyncContext, fut::ActorFuture};
use futures::stream::FuturesUnordered;

use crate::{
    host::Host,
    job::Incarnation,
    protocol::ServiceEvent,
    service::{
        EventSink, Service,
        envelope::{Handled, InFlight, Queued},
        gate::{Gate, Take},
    },
};

/// Messages handled before other actors of the thread get a turn.
const TURN_MESSAGES: u32 = 512;
/// The same in time. Looked at after 1, 2, 4, .. messages: reading the clock for each would cost a third of a tell.
const TURN_TIME: Duration = Duration::from_millis(1);

/// What the pump and the future around its actor share. Both live on the service's thread.
pub(super) struct Shared {
    pub(super) incarnation: Incarnation,
    events: EventSink,
    started: Cell<bool>,
    /// The job ordered the stop and everything accepted was answered, so the actor was told.
    pub(super) told_to_stop: Cell<bool>,
    /// The instance is being ended without regard to what the actor wants.
    pub(super) ending: Cell<bool>,
    /// What a handler's panic said.
    pub(super) failure: RefCell<Option<String>>,
    /// Asynchronous replies to come. Beside the actor and not in it, because a reply must pass also while the actor
    /// waits for another future (`AtomicResponse`).
    pub(super) in_flight: RefCell<FuturesUnordered<InFlight>>,
}

impl Shared {
    pub(super) fn new(incarnation: Incarnation, events: EventSink) -> Self {
        Self {
            incarnation,
            events,
            started: Cell::new(false),
            told_to_stop: Cell::new(false),
            ending: Cell::new(false),
            failure: RefCell::new(None),
            in_flight: RefCell::new(FuturesUnordered::new()),
        }
    }

    pub(super) fn report(&self, event: ServiceEvent) {
        (self.events)(self.incarnation, event);
    }
}

pub(super) struct Pump<S> {
    gate: Arc<Gate<S>>,
    shared: Rc<Shared>,
    batch: VecDeque<Queued<S>>,
}

/// Why the pump stopped handling messages.
enum Pause {
    BatchDone,
    /// The actor waits for a future, or stops.
    ActorWaits,
    TurnOver,
}

impl<S: Service> Pump<S> {
    pub(super) fn new(gate: Arc<Gate<S>>, shared: Rc<Shared>) -> Self {
        Self { gate, shared, batch: VecDeque::new() }
    }

    fn handle_batch(&mut self, turn: &mut Turn, service: &mut S, ctx: &mut actix::Context<S>) -> Pause {
        let mut message = "";
        let handled = catch_unwind(AssertUnwindSafe(|| {
            while !self.batch.is_empty() {
                if turn.is_over(&self.gate.home().host) {
                    return Pause::TurnOver;
                }
                if self.gate.is_dismissed(self.shared.incarnation) {
                    // What is left goes back to the gate, which knows what becomes of it.
                    ctx.terminate();
                    return Pause::ActorWaits;
                }
                let Some(queued) = self.batch.pop_front() else { break };
                message = queued.message();
                self.gate.count_done();
                match queued.handle(service, ctx) {
                    Handled::Done => {}
                    Handled::Skipped => self.gate.count_skipped(),
                    Handled::InFlight(reply) => self.shared.in_flight.borrow_mut().push(reply),
                    Handled::ReplyLost => self.shared.report(ServiceEvent::ReplyLost),
                }
                if ctx.waiting() {
                    return Pause::ActorWaits;
                }
            }
            Pause::BatchDone
        }));
        handled.unwrap_or_else(|panic| {
            // Caught here and not around the actor's future, so that the actor ends by a plain `terminate`, its
            // `stopped` hook runs outside of any unwinding, and a second panic there cannot abort the process.
            let failure = format!("panicked while handling {message}: {}", panic_message(&*panic));
            *self.shared.failure.borrow_mut() = Some(failure);
            ctx.terminate();
            Pause::ActorWaits
        })
    }
}

impl<S: Service> ActorFuture<S> for Pump<S> {
    type Output = ();

    fn poll(
        self: Pin<&mut Self>,
        service: &mut S,
        ctx: &mut actix::Context<S>,
        cx: &mut Context<'_>,
    ) -> Poll<Self::Output> {
        let this = self.get_mut();
        if this.shared.ending.get() {
            ctx.terminate();
            return Poll::Pending;
        }
        // actix polls the futures of an actor after its `started` hook, and after what that waits for.
        if !this.shared.started.replace(true) {
            this.shared.report(ServiceEvent::Started);
        }
        let mut turn = Turn::new();
        while !ctx.waiting() {
            if this.batch.is_empty() {
                match this.gate.take(this.shared.incarnation, &mut this.batch, cx.waker()) {
                    Take::Batch => {}
                    Take::Nothing => break,
                    Take::Dismissed => {
                        ctx.terminate();
                        break;
                    }
                    Take::Drained => {
                        // Told once: an actor whose `stopping` hook says `Continue` ends when it sees fit.
                        if this.shared.in_flight.borrow().is_empty() && !this.shared.told_to_stop.replace(true) {
                            ctx.stop();
                        }
                        break;
                    }
                }
            }
            match this.handle_batch(&mut turn, service, ctx) {
                Pause::BatchDone => {}
                Pause::ActorWaits => break,
                Pause::TurnOver => {
                    // Unlike a plain wake, this lets the thread look at its timers and sockets as well.
                    let _ = pin!(tokio::task::yield_now()).poll(cx);
                    break;
                }
            }
        }
        // Never ready: an actor without futures and without addresses would stop by itself.
        Poll::Pending
    }
}

impl<S> Drop for Pump<S> {
    fn drop(&mut self) {
        self.gate.put_back(self.shared.incarnation, std::mem::take(&mut self.batch));
    }
}

/// A turn on the thread, which other actors share.
struct Turn {
    /// `None` until a second message shows: a service that handles one call at a time never reads the clock.
    begun: Option<Instant>,
    messages: u32,
    look_at: u32,
}

impl Turn {
    fn new() -> Self {
        Self { begun: None, messages: 0, look_at: 2 }
    }

    /// Whether others should get a turn before the next message.
    fn is_over(&mut self, host: &Host) -> bool {
        self.messages += 1;
        let Some(begun) = self.begun else {
            if self.messages == 2 {
                self.begun = Some(host.now());
            }
            return false;
        };
        if self.messages < self.look_at {
            return false;
        }
        self.look_at *= 2;
        self.messages >= TURN_MESSAGES || host.since(begun) >= TURN_TIME
    }
}

/// What a panic said.
pub(super) fn panic_message(panic: &(dyn Any + Send)) -> &str {
    if let Some(message) = panic.downcast_ref::<&str>() {
        message
    } else if let Some(message) = panic.downcast_ref::<String>() {
        message
    } else {
        "a panic without a message"
    }
}
