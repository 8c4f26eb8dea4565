//! A running service: the actor, made from its factory, and the future around it that survives its panics.

use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
};

use actix::{ActorContext, ActorState, AsyncContext, dev::ContextFut};
use futures::StreamExt;
use parking_lot::Mutex;
use tracing::Instrument as _;

use crate::{
    host::Fence,
    job::Incarnation,
    protocol::ServiceEvent,
    service::{
        AnyGate, EventSink, Service, ServiceContext,
        envelope::Delivery,
        gate::{Gate, Stop},
        pump::{Pump, Shared, panic_message},
    },
};

/// Has an instance made and run by the arbiter whose thread calls it.
pub(crate) type Launch = Box<dyn FnOnce() + Send>;

/// A service of one attempt, of a type that is not known: its gate and the way to make instances.
///
/// For each `start` exactly one of `Failed` and `Stopped` is reported, at the instance's end; before it `Started`, if it
/// came so far. A `stop` that finds no instance reports `Stopped` too.
pub(crate) trait ErasedService: Send {
    fn name(&self) -> &str;
    fn gate(&self) -> Arc<dyn AnyGate>;
    /// What makes an instance from the factory, on the arbiter that runs it. Dropped unrun, it reports the failure. None if the
    /// service was given up, which is reported.
    fn start(&self, incarnation: Incarnation, context: ServiceContext, events: EventSink) -> Option<Launch>;
    /// Has the instance answer what was accepted, queued and in flight, and then stop. If there is none, or it fails
    /// meanwhile, those who wait are refused.
    fn stop(&self, incarnation: Incarnation);
    /// Stops waiting for the service: whoever waits for it is told. An instance that is still able to ends.
    fn abandon(&self);
    /// Has the instance end at once, for another attempt is to follow: calls that it has taken up fail with it, and what is queued
    /// waits. If there is none, that is reported.
    fn dismiss(&self, incarnation: Incarnation);
    /// As [`abandon`](Self::abandon), for the instance alone: what is queued waits for another attempt.
    fn forget_instance(&self);
    /// From now on nothing happens to the gate when this is dropped: another attempt is to follow.
    fn leave_gate(&self);
}

/// A service whose instances are made by `factory`, one for each (re)start. It runs on the service's thread and never twice at
/// a time.
///
/// # Panics
///
/// Panics if the gate is of another type of service.
pub(super) fn host<S: Service>(
    gate: &Arc<dyn AnyGate>,
    factory: impl Fn(&ServiceContext) -> S + Send + 'static,
) -> Box<dyn ErasedService> {
    Box::new(Recipe {
        gate: Gate::known(gate),
        factory: Arc::new(Mutex::new(factory)),
        events: Mutex::new(None),
        leaves_gate: AtomicBool::new(false),
    })
}

struct Recipe<S, F> {
    gate: Arc<Gate<S>>,
    /// Locked while it runs, so that it need not be `Sync`.
    factory: Arc<Mutex<F>>,
    /// Where the last instance reports to.
    events: Mutex<Option<EventSink>>,
    leaves_gate: AtomicBool,
}

impl<S, F> ErasedService for Recipe<S, F>
where
    S: Service,
    F: Fn(&ServiceContext) -> S + Send + 'static,
{
    fn name(&self) -> &str {
        self.gate.name()
    }

    fn gate(&self) -> Arc<dyn AnyGate> {
        Arc::clone(&self.gate) as _
    }

    fn start(&self, incarnation: Incarnation, context: ServiceContext, events: EventSink) -> Option<Launch> {
        *self.events.lock() = Some(Arc::clone(&events));
        if !self.gate.instance_starts(incarnation) {
            events(incarnation, ServiceEvent::Failed { message: "the service was given up".to_owned() });
            return None;
        }
        let fence = context.fence().clone();
        let start = Start { gate: Arc::clone(&self.gate), incarnation, fence, events: Some(events) };
        let factory = Arc::clone(&self.factory);
        Some(Box::new(move || start.run(|| (factory.lock())(&context))))
    }

    fn stop(&self, incarnation: Incarnation) {
        let stop = self.gate.stop(incarnation);
        tracing::debug!(service = self.name(), incarnation = incarnation.0, ?stop, "service told to stop");
        if stop == Stop::NothingLive {
            self.report_stopped(incarnation);
        }
    }

    fn abandon(&self) {
        tracing::debug!(service = self.name(), "service abandoned");
        self.gate.abandon();
    }

    fn dismiss(&self, incarnation: Incarnation) {
        tracing::debug!(service = self.name(), incarnation = incarnation.0, "service dismissed");
        if !self.gate.dismiss(incarnation) {
            self.report_stopped(incarnation);
        }
    }

    fn forget_instance(&self) {
        tracing::debug!(service = self.name(), "service instance given up");
        self.gate.forget_instance();
    }

    fn leave_gate(&self) {
        self.leaves_gate.store(true, Ordering::Relaxed);
    }
}

impl<S, F> Recipe<S, F> {
    fn report_stopped(&self, incarnation: Incarnation) {
        // Cloned, so that the sink is called with the lock released.
        let events = self.events.lock().clone();
        if let Some(events) = events {
            events(incarnation, ServiceEvent::Stopped { hook_panicked: false });
        }
    }
}

impl<S, F> Drop for Recipe<S, F> {
    // Without the recipe there is no next instance: nobody may wait for one.
    fn drop(&mut self) {
        if !*self.leaves_gate.get_mut() {
            self.gate.abandon();
        }
    }
}

/// An instance that was ordered and does not run yet.
struct Start<S> {
    gate: Arc<Gate<S>>,
    incarnation: Incarnation,
    fence: Fence,
    /// Taken when the instance runs, which then reports.
    events: Option<EventSink>,
}

impl<S: Service> Start<S> {
    fn run(mut self, factory: impl FnOnce() -> S) {
        // Entered whenever code of the service runs, so that its own events say where they come from.
        let span = tracing::info_span!(
            "service",
            job = %self.gate.home().job,
            service = %self.gate.name(),
            incarnation = self.incarnation.0
        );
        let fence = self.fence.clone();
        let Some(pass) = fence.pass() else { return self.fail("the lease of its worker is over".to_owned()) };
        let service = match span.in_scope(|| catch_unwind(AssertUnwindSafe(factory))) {
            Ok(service) => service,
            Err(panic) => {
                self.fail(format!("the factory panicked: {}", panic_message(&*panic)));
                return;
            }
        };
        drop(pass);
        let Some(events) = self.events.take() else { return };
        let shared = Rc::new(Shared::new(self.incarnation, events));
        let mut ctx = actix::Context::new();
        ctx.spawn(Pump::new(Arc::clone(&self.gate), Rc::clone(&shared)));
        let running = Some(ctx.into_future(service));
        let instance = Instance { running, gate: Arc::clone(&self.gate), shared, fence, attached: false };
        let host = self.gate.home().host.clone();
        host.spawn_local(instance.instrument(span));
    }
}

impl<S> Start<S> {
    fn fail(&mut self, message: String) {
        let Some(events) = self.events.take() else { return };
        self.gate.instance_ended(self.incarnation);
        tracing::warn!(service = %self.gate.name(), incarnation = self.incarnation.0, message, "service failed");
        events(self.incarnation, ServiceEvent::Failed { message });
    }
}

impl<S> Drop for Start<S> {
    fn drop(&mut self) {
        self.fail("its thread ended before it started".to_owned());
    }
}

/// The actor's own future, with a guard around each poll and around its end.
///
/// actix runs an actor's hooks when its future is dropped. Dropped by an unwinding panic, a second panic in a hook
/// would abort the process, so no panic ever unwinds through that future's owner.
struct Instance<S: Service> {
    /// `None` once the instance has ended.
    running: Option<ContextFut<S, actix::Context<S>>>,
    gate: Arc<Gate<S>>,
    shared: Rc<Shared>,
    fence: Fence,
    attached: bool,
}

impl<S: Service> Future for Instance<S> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        if !this.attached {
            this.attached = true;
            this.gate.instance_runs(this.shared.incarnation, cx.waker());
        }
        loop {
            if this.gate.is_dismissed(this.shared.incarnation) {
                this.end(None, cx);
                return Poll::Ready(());
            }
            // The order to drop all jobs is on its way otherwise, and wakes it.
            let fence = this.fence.clone();
            let Some(_pass) = fence.pass() else { return Poll::Pending };
            match this.poll_actor(cx) {
                Ok(Poll::Pending) => {}
                Ok(Poll::Ready(())) => {
                    this.end(None, cx);
                    return Poll::Ready(());
                }
                Err(panic) => {
                    this.end(Some(panic), cx);
                    return Poll::Ready(());
                }
            }
            // When the last reply is delivered, the pump looks again whether it is to stop.
            if !this.deliver_replies(cx) {
                return Poll::Pending;
            }
        }
    }
}

impl<S: Service> Instance<S> {
    /// Polls the actor's future. `Err` has what a panic said.
    fn poll_actor(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, String> {
        let Some(running) = &mut self.running else { return Ok(Poll::Ready(())) };
        catch_unwind(AssertUnwindSafe(|| Pin::new(running).poll(cx)))
            .map_err(|panic| format!("panicked: {}", panic_message(&*panic)))
    }

    /// Passes on the replies that have come. True if that was the last of them.
    fn deliver_replies(&mut self, cx: &mut Context<'_>) -> bool {
        let mut in_flight = self.shared.in_flight.borrow_mut();
        if in_flight.is_empty() {
            return false;
        }
        let mut lost = 0;
        let mut last = false;
        while let Poll::Ready(Some(delivery)) = in_flight.poll_next_unpin(cx) {
            lost += u32::from(delivery == Delivery::Lost);
            last = in_flight.is_empty();
        }
        drop(in_flight);
        for _ in 0..lost {
            tracing::warn!(
                service = %self.gate.name(),
                incarnation = self.shared.incarnation.0,
                "an asynchronous reply was lost"
            );
            self.shared.report(ServiceEvent::ReplyLost);
        }
        last
    }

    /// Ends the instance, whatever state it is in, and reports how it ended. The `stopped` hook has then run once.
    fn end(&mut self, panic: Option<String>, cx: &mut Context<'_>) {
        let was_stopping = self.is_stopping_or_stopped();
        let hook_panicked = self.retire(cx);
        // Dropping user values may panic too. What is dropped twice has been dropped: nothing is left to do then.
        let running = self.running.take();
        if catch_unwind(AssertUnwindSafe(|| drop(running))).is_err() {
            tracing::warn!(service = %self.gate.name(), "a panic while the service was dropped");
        }
        // Callers of replies that were still in flight learn here that the service failed.
        self.shared.in_flight.take().clear();
        self.gate.instance_ended(self.shared.incarnation);

        let failure = self.shared.failure.take();
        let ordered = self.shared.told_to_stop.get() || self.gate.is_dismissed(self.shared.incarnation);
        let event = match (failure, panic) {
            (Some(message), _) => ServiceEvent::Failed { message },
            (None, Some(_)) if ordered && was_stopping => ServiceEvent::Stopped { hook_panicked: true },
            (None, Some(message)) => ServiceEvent::Failed { message },
            (None, None) if ordered => ServiceEvent::Stopped { hook_panicked },
            (None, None) => ServiceEvent::Failed { message: "stopped without being told to".to_owned() },
        };
        tracing::debug!(
            service = %self.gate.name(),
            incarnation = self.shared.incarnation.0,
            ?event,
            "service instance ended"
        );
        self.shared.report(event);
    }

    /// Sees to it that the `stopped` hook has run. True if a hook panicked.
    ///
    /// `terminate` from out here would not do: actix then runs the `started` hook again. So the actor is stopped, and
    /// should its `stopping` hook say `Continue`, the pump terminates it from within.
    fn retire(&mut self, cx: &mut Context<'_>) -> bool {
        self.shared.ending.set(true);
        let mut panicked = false;
        // Twice, for a `stopping` hook that panics the first time.
        for _ in 0..2 {
            match self.running.as_mut().map(ContextFut::ctx) {
                Some(ctx) if ctx.state() != ActorState::Stopped => ctx.stop(),
                _ => return panicked,
            }
            panicked |= self.poll_actor(cx).is_err();
        }
        // Given up on. Now the drop of actix's future runs no hook.
        if let Some(running) = &mut self.running {
            running.ctx().terminate();
        }
        panicked
    }

    fn is_stopping_or_stopped(&mut self) -> bool {
        let state = self.running.as_mut().map(|running| running.ctx().state());
        matches!(state, Some(ActorState::Stopping | ActorState::Stopped))
    }
}

impl<S: Service> Drop for Instance<S> {
    // The arbiter ends with the instance on it.
    fn drop(&mut self) {
        if self.running.is_some() {
            self.end(None, &mut Context::from_waker(Waker::noop()));
        }
    }
}
