//! What stands behind a gate in place of an instance that runs in another process.
//!
//! It takes messages from the gate as an instance would, encodes those that are values, on the thread of a service because that
//! is code of the user's, and hands them over. So that a queue outlives the instances that serve it wherever they are, no more
//! than a batch is on the way or waits there; it counts against the bound of the queue until it is taken up.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use parking_lot::Mutex;

use crate::{
    job::Incarnation,
    service::{
        AnyGate, ErasedService, EventSink, Launch, Service, ServiceContext, Withdrawal,
        elsewhere::{Elsewhere, Stage},
        envelope::Queued,
        gate::{Gate, Take},
    },
};

/// Bytes on the way to the instances of one service at most, but for one message more.
const WINDOW_BYTES: usize = 4 << 20;

/// What stands behind the gate of a service whose instances are there.
///
/// # Panics
///
/// Panics if the gate is of another type of service.
pub(super) fn stand_in<S: Service>(gate: &Arc<dyn AnyGate>, there: Arc<dyn Elsewhere>) -> Box<dyn ErasedService> {
    Box::new(StandIn {
        gate: Gate::<S>::known(gate),
        there,
        stands: Mutex::new(false),
        leaves_gate: AtomicBool::new(false),
    })
}

struct StandIn<S> {
    gate: Arc<Gate<S>>,
    there: Arc<dyn Elsewhere>,
    /// It was started: it outlives the instances.
    stands: Mutex<bool>,
    leaves_gate: AtomicBool,
}

impl<S: Service> ErasedService for StandIn<S> {
    fn name(&self) -> &str {
        self.gate.name()
    }

    fn gate(&self) -> Arc<dyn AnyGate> {
        Arc::clone(&self.gate) as _
    }

    /// What there is to report, the process reports that has the instance.
    fn start(&self, incarnation: Incarnation, _: ServiceContext, _: EventSink) -> Option<Launch> {
        if std::mem::replace(&mut *self.stands.lock(), true) || !self.gate.stand_in_starts(incarnation) {
            return None;
        }
        let handing = Handing {
            gate: Arc::clone(&self.gate),
            there: Arc::clone(&self.there),
            incarnation,
            batch: VecDeque::new(),
            handed: 0,
            attached: false,
            drained: false,
        };
        let host = self.gate.home().host.clone();
        Some(Box::new(move || drop(host.spawn_local(handing))))
    }

    fn stop(&self, incarnation: Incarnation) {
        // If nothing is handed over any more, nothing is left to be told.
        self.gate.stop(incarnation);
    }

    /// What was handed over is answered by the other process, or by its loss.
    fn abandon(&self) {
        self.gate.abandon();
    }

    /// Nothing more is handed over; which instance there is to end, and whether it has, the other process says.
    fn dismiss(&self, _: Incarnation) {
        self.gate.dismiss_live();
    }

    fn forget_instance(&self) {
        self.gate.forget_instance();
    }

    fn leave_gate(&self) {
        self.leaves_gate.store(true, Ordering::Relaxed);
    }
}

impl<S> Drop for StandIn<S> {
    fn drop(&mut self) {
        if !*self.leaves_gate.get_mut() {
            self.gate.abandon();
        }
    }
}

/// Hands messages over for as long as the process with the instances is there.
struct Handing<S> {
    gate: Arc<Gate<S>>,
    there: Arc<dyn Elsewhere>,
    incarnation: Incarnation,
    /// Taken from the gate and not handed over yet.
    batch: VecDeque<Queued<S>>,
    /// The number of the next message.
    handed: u64,
    attached: bool,
    drained: bool,
}

impl<S: Service> Handing<S> {
    fn hand_over(&mut self, queued: Queued<S>) {
        let withdrawal: Arc<dyn Withdrawal> = Arc::clone(&self.there) as _;
        match queued.parcel(&self.gate, self.handed, withdrawal) {
            Some((kind, parcel)) => {
                self.there.hand_over(self.handed, kind, parcel);
                self.handed += 1;
            }
            None => self.gate.forget_one(self.incarnation),
        }
    }
}

impl<S: Service> Future for Handing<S> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let polled = this.poll_all(cx);
        this.there.flush();
        polled
    }
}

impl<S: Service> Handing<S> {
    fn poll_all(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let this = self;
        if !this.attached {
            this.attached = true;
            this.gate.instance_runs(this.incarnation, cx.waker());
        }
        loop {
            if this.gate.is_dismissed(this.incarnation) {
                return Poll::Ready(());
            }
            let standing = this.there.standing(cx.waker());
            this.gate.count_elsewhere(this.incarnation, standing.done, standing.skipped);
            if standing.stage == Stage::Lost {
                return Poll::Ready(());
            }
            if standing.stage == Stage::Starting || standing.bytes >= WINDOW_BYTES {
                return Poll::Pending;
            }
            if let Some(queued) = this.batch.pop_front() {
                this.hand_over(queued);
                continue;
            }
            let outstanding = usize::try_from(this.handed.saturating_sub(standing.done)).unwrap_or(usize::MAX);
            match this.gate.take_ahead(this.incarnation, outstanding, &mut this.batch, cx.waker()) {
                Take::Batch => {}
                Take::Nothing => return Poll::Pending,
                Take::Drained => {
                    if !std::mem::replace(&mut this.drained, true) {
                        this.there.drained();
                    }
                    return Poll::Pending;
                }
                Take::Dismissed => return Poll::Ready(()),
            }
        }
    }
}

impl<S> Drop for Handing<S> {
    fn drop(&mut self) {
        self.gate.put_back(self.incarnation, std::mem::take(&mut self.batch));
        self.gate.instance_ended(self.incarnation);
    }
}
