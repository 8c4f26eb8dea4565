//! The gate in front of a service: it owns the bounded queue, which outlives the service's instances.

use std::{
    any::{Any, TypeId, type_name},
    collections::VecDeque,
    fmt,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    task::Waker,
};

use parking_lot::{Mutex, MutexGuard};

use crate::{
    job::{Incarnation, ServiceId},
    protocol::ServiceCounts,
    service::{
        CallError, Entrance, Feeder, MessageTable, Origin, Service, Watcher,
        any_gate::{AnyGate, Home},
        envelope::{Admission, Queued, ToldBatch},
        queue::{Inner, Left, Live, Phase, Waiting},
    },
};

pub(crate) struct Gate<S> {
    name: Arc<str>,
    table: MessageTable<S>,
    capacity: usize,
    home: OnceLock<Home>,
    inner: Line<Mutex<Inner<S>>>,
    counts: Line<Counts>,
    /// Of a gate that another process has messages put into.
    feeder: OnceLock<Arc<dyn Feeder>>,
    /// Those on the other side of connections, who cannot look for themselves.
    watchers: Mutex<Vec<Weak<dyn Watcher>>>,
}

/// A cache line of its own: the service counts each message, and senders must not feel it.
#[repr(align(128))]
struct Line<T>(T);

/// Written by the service's thread only, apart from `first_wanted`; read by anyone, at leisure.
struct Counts {
    /// Messages taken up, those included that were then skipped.
    done: AtomicU64,
    skipped: AtomicU64,
    /// The first instance that was neither given up nor dismissed.
    first_wanted: AtomicU32,
}

impl Counts {
    /// Those done and skipped.
    fn read(&self) -> (u64, u64) {
        // In this order: none is skipped before it is done.
        let skipped = self.skipped.load(Ordering::Acquire);
        (self.done.load(Ordering::Relaxed), skipped)
    }
}

/// Where an accepted message went.
pub(super) enum Place {
    Queue,
    /// It waits for room; the ticket withdraws it.
    Line(u64),
}

/// What a service finds when it looks for messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Take {
    Batch,
    /// The waker was kept and will be woken.
    Nothing,
    /// The service is being stopped and everything in the queue was taken.
    Drained,
    /// The service was given up, or another instance took over.
    Dismissed,
}

impl<S: Service> Gate<S> {
    /// # Panics
    ///
    /// Panics if the gate is of another type of service.
    pub(super) fn known(gate: &Arc<dyn AnyGate>) -> Arc<Self> {
        let gate = Arc::clone(gate).into_any().downcast();
        gate.unwrap_or_else(|_| panic!("the gate is of another type of service"))
    }

    pub(super) fn new(name: &str, capacity: usize) -> Self {
        let counts = Counts { done: AtomicU64::new(0), skipped: AtomicU64::new(0), first_wanted: AtomicU32::new(0) };
        Self {
            name: name.into(),
            table: MessageTable::new(),
            // With no room at all, no message would ever pass.
            capacity: capacity.max(1),
            home: OnceLock::new(),
            inner: Line(Mutex::new(Inner::new())),
            counts: Line(counts),
            feeder: OnceLock::new(),
            watchers: Mutex::default(),
        }
    }
}

impl<S> Gate<S> {
    pub(super) fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub(super) fn home(&self) -> &Home {
        self.home.get().expect("references are made by a directory, which attaches its gates")
    }

    /// Whether the service accepts messages of type `M`.
    pub(super) fn admits<M: 'static>(&self) -> Result<(), CallError> {
        if self.table.name_of::<M>().is_some() { Ok(()) } else { Err(self.not_accepted(type_name::<M>())) }
    }

    fn not_accepted(&self, message: &str) -> CallError {
        CallError::NotAccepted {
            service: self.name.to_string(),
            message: message.to_owned(),
            accepted: self.table.names().into_iter().map(str::to_owned).collect(),
        }
    }

    /// Has `watcher` told when the service refuses messages; at once, if it does already.
    pub(super) fn watch(&self, watcher: Weak<dyn Watcher>) {
        let mut watchers = self.watchers.lock();
        watchers.retain(|watcher| watcher.strong_count() > 0);
        watchers.push(Weak::clone(&watcher));
        drop(watchers);
        let phase = self.inner.0.lock().phase;
        if !phase.answers(Origin::Outside)
            && let Some(watcher) = watcher.upgrade()
        {
            watcher.refuses(self.refusal(phase));
        }
    }

    fn tell_watchers(&self, phase: Phase) {
        let watchers: Vec<_> = self.watchers.lock().iter().filter_map(Weak::upgrade).collect();
        for watcher in watchers {
            watcher.refuses(self.refusal(phase));
        }
    }

    /// Puts a message at the end of the queue, or of the line for room in it.
    ///
    /// A tell passes the waker that is to wake its sender when there is room.
    pub(super) fn push(
        &self,
        message: Queued<S>,
        origin: Origin,
        admission: impl FnOnce() -> Option<Arc<Admission>>,
    ) -> Result<Place, CallError> {
        let mut inner = self.inner.0.lock();
        if inner.refuses(origin) {
            let phase = inner.phase;
            drop(inner);
            drop(message);
            return Err(self.refusal(phase));
        }
        // Whoever comes later stands behind those who wait, so that room is granted in order.
        if inner.queue.len() + inner.outstanding < self.capacity && inner.waiting.is_empty() {
            inner.queue.push_back(message);
            let sleeper = inner.sleeper.take();
            drop(inner);
            if let Some(waker) = sleeper {
                waker.wake();
            }
            return Ok(Place::Queue);
        }
        let ticket = inner.next_ticket;
        inner.next_ticket += 1;
        let admission = admission();
        inner.waiting.insert(ticket, Waiting { message, origin, admission });
        Ok(Place::Line(ticket))
    }

    /// Puts the messages of a batch, of which `messages` has places and bytes, at the end of the queue, and those for which
    /// there is no room at the end of the line for it. How many of them are in the queue.
    pub(super) fn push_told(
        &self,
        batch: &Arc<dyn ToldBatch<S>>,
        origin: Origin,
        mut messages: impl Iterator<Item = (u32, usize)>,
        mut admission: impl FnMut(usize) -> Admission,
    ) -> Result<usize, CallError> {
        let message = |at| Queued::Told { batch: Arc::clone(batch), at, origin };
        let mut inner = self.inner.0.lock();
        let phase = inner.phase;
        if inner.refuses(origin) {
            drop(inner);
            return Err(self.refusal(phase));
        }
        let before = inner.queue.len();
        let free = if inner.waiting.is_empty() { self.capacity.saturating_sub(before + inner.outstanding) } else { 0 };
        inner.queue.extend(messages.by_ref().take(free).map(|(at, _)| message(at)));
        let queued = inner.queue.len() - before;
        for (at, bytes) in messages {
            let ticket = inner.next_ticket;
            inner.next_ticket += 1;
            let admission = Some(Arc::new(admission(bytes)));
            inner.waiting.insert(ticket, Waiting { message: message(at), origin, admission });
        }
        let sleeper = if queued > 0 { inner.sleeper.take() } else { None };
        drop(inner);
        if let Some(waker) = sleeper {
            waker.wake();
        }
        Ok(queued)
    }

    /// Leaves the line for room. False if the message is in the queue by now, or was refused.
    pub(super) fn leave(&self, ticket: u64) -> bool {
        let left = self.inner.0.lock().waiting.remove(&ticket);
        left.is_some()
    }

    pub(super) fn stopping(&self) -> CallError {
        CallError::Stopping { service: self.name.to_string() }
    }

    /// Why nothing is accepted now.
    pub(super) fn refused(&self) -> CallError {
        let phase = self.inner.0.lock().phase;
        self.refusal(phase)
    }

    fn refusal(&self, phase: Phase) -> CallError {
        match (phase, self.home.get()) {
            (Phase::JobEnded, Some(home)) => CallError::JobEnded { job: home.job },
            _ => self.stopping(),
        }
    }

    /// Takes the next messages, for the instance `incarnation`, into the empty `batch`.
    pub(super) fn take(&self, incarnation: Incarnation, batch: &mut VecDeque<Queued<S>>, waker: &Waker) -> Take {
        let mut inner = self.inner.0.lock();
        let is_live = inner.live.as_ref().map(|live| live.incarnation) == Some(incarnation);
        if inner.phase >= Phase::Stopped || !is_live || self.is_dismissed(incarnation) {
            return Take::Dismissed;
        }
        inner.outstanding = 0;
        inner.prune_in_hand();
        let admitted = inner.admit(self.capacity);
        let take = if !inner.queue.is_empty() {
            inner.take_batch(batch, self.capacity);
            Take::Batch
        } else if inner.phase == Phase::Stopping {
            Take::Drained
        } else {
            if !inner.sleeper.as_ref().is_some_and(|sleeper| sleeper.will_wake(waker)) {
                inner.sleeper = Some(waker.clone());
            }
            Take::Nothing
        };
        drop(inner);
        for admission in admitted {
            admission.queued();
        }
        if let Some(feeder) = self.feeder.get() {
            feeder.came();
        }
        take
    }

    /// As [`take`](Self::take), for a stand-in: `outstanding` of what it took before is not taken up yet. It finds nothing as
    /// long as that is more than half a batch.
    pub(super) fn take_ahead(
        &self,
        incarnation: Incarnation,
        outstanding: usize,
        batch: &mut VecDeque<Queued<S>>,
        waker: &Waker,
    ) -> Take {
        let mut inner = self.inner.0.lock();
        if inner.phase >= Phase::Stopped || inner.live.as_ref().map(|live| live.incarnation) != Some(incarnation) {
            return Take::Dismissed;
        }
        inner.outstanding = outstanding;
        let admitted = inner.admit(self.capacity);
        let take = if !inner.queue.is_empty() {
            if inner.take_ahead(batch, self.capacity) { Take::Batch } else { Take::Nothing }
        } else if inner.phase == Phase::Stopping {
            Take::Drained
        } else {
            if !inner.sleeper.as_ref().is_some_and(|sleeper| sleeper.will_wake(waker)) {
                inner.sleeper = Some(waker.clone());
            }
            Take::Nothing
        };
        drop(inner);
        for admission in admitted {
            admission.queued();
        }
        take
    }

    /// A message that was taken is not handed over: it is none any more.
    pub(super) fn forget_one(&self, incarnation: Incarnation) {
        let mut inner = self.inner.0.lock();
        if inner.is_live(incarnation) {
            inner.taken -= 1;
        }
    }

    /// What the process has counted that has the instances.
    pub(super) fn count_elsewhere(&self, incarnation: Incarnation, done: u64, skipped: u64) {
        // Under the lock, so that what came after it is not counted as its own.
        let inner = self.inner.0.lock();
        if inner.is_live(incarnation) {
            self.set_counts(done, skipped);
        }
    }

    fn set_counts(&self, done: u64, skipped: u64) {
        self.counts.0.done.store(done, Ordering::Relaxed);
        self.counts.0.skipped.store(skipped, Ordering::Relaxed);
    }

    /// Announces a stand-in, whose counts begin anew. False if the service was given up.
    pub(super) fn stand_in_starts(&self, incarnation: Incarnation) -> bool {
        let mut inner = self.inner.0.lock();
        if inner.phase >= Phase::Stopped {
            return false;
        }
        let (done, skipped) = self.counts.0.read();
        inner.earlier += done.saturating_sub(skipped);
        inner.taken = 0;
        self.set_counts(0, 0);
        inner.outside_only = false;
        inner.live = Some(Live { incarnation, waker: None });
        true
    }

    /// The place in the service's table of messages of this type.
    pub(super) fn kind_of(&self, message: TypeId) -> Option<u32> {
        self.table.place_of(message)
    }

    /// Gives back what an instance took and did not handle.
    pub(super) fn put_back(&self, incarnation: Incarnation, mut batch: VecDeque<Queued<S>>) {
        if batch.is_empty() {
            return;
        }
        let mut inner = self.inner.0.lock();
        let mine = inner.live.as_ref().is_some_and(|live| live.incarnation == incarnation);
        if mine && inner.phase < Phase::Stopped {
            inner.taken -= batch.len() as u64;
            inner.outstanding = 0;
            batch.append(&mut inner.queue);
            inner.queue = batch;
        } else {
            drop(inner);
            batch.into_iter().for_each(Queued::give_up);
        }
    }

    /// Counts a message as taken up, before it is handled: who has the reply finds it counted.
    pub(super) fn count_done(&self) {
        bump(&self.counts.0.done);
    }

    /// Counts a message that was taken up as skipped.
    pub(super) fn count_skipped(&self) {
        bump(&self.counts.0.skipped);
    }

    /// Whether the instance was given up or dismissed, and is to end.
    pub(super) fn is_dismissed(&self, incarnation: Incarnation) -> bool {
        incarnation.0 < self.counts.0.first_wanted.load(Ordering::Relaxed)
    }

    /// Announces an instance. False if the service was given up.
    pub(super) fn instance_starts(&self, incarnation: Incarnation) -> bool {
        let mut inner = self.inner.0.lock();
        if inner.phase >= Phase::Stopped {
            return false;
        }
        inner.outside_only = false;
        inner.live = Some(Live { incarnation, waker: None });
        true
    }

    /// Keeps the waker by which the instance is told to stop.
    pub(super) fn instance_runs(&self, incarnation: Incarnation, waker: &Waker) {
        if let Some(live) = &mut self.inner.0.lock().live
            && live.incarnation == incarnation
        {
            live.waker = Some(waker.clone());
        }
    }

    /// The instance is gone. The queue is kept for the next one, unless there is to be none.
    pub(super) fn instance_ended(&self, incarnation: Incarnation) {
        let mut inner = self.inner.0.lock();
        if inner.live.as_ref().is_none_or(|live| live.incarnation != incarnation) {
            return;
        }
        let live = inner.live.take();
        let sleeper = inner.sleeper.take();
        inner.outstanding = 0;
        let left = if inner.phase >= Phase::Stopping { inner.give_up() } else { Left::default() };
        drop(inner);
        drop((live, sleeper));
        left.tell();
    }

    /// Accepts nothing more. True if the instance is live and will answer what was accepted; otherwise nobody will, and
    /// whoever waits is told.
    pub(super) fn stop(&self, incarnation: Incarnation) -> Stop {
        let mut inner = self.inner.0.lock();
        if inner.live.as_ref().is_some_and(|live| live.incarnation > incarnation) {
            return Stop::Stale;
        }
        inner.phase = inner.phase.max(Phase::Stopping);
        let live = inner.live.is_some();
        let left = if live { inner.refuse_waiting(|_| true) } else { inner.give_up() };
        let wakers = inner.wakers();
        drop(inner);
        left.tell();
        wakers.into_iter().flatten().for_each(Waker::wake);
        if live { Stop::Begun } else { Stop::NothingLive }
    }

    /// Has the instance end at once, and leave what it has not handled to the next one. False if it does not live. None of those who
    /// end with the attempt is answered any more.
    pub(super) fn dismiss(&self, incarnation: Incarnation) -> bool {
        let inner = self.inner.0.lock();
        let lives = inner.is_live(incarnation);
        self.dismiss_from(inner, lives.then_some(incarnation));
        lives
    }

    /// As [`dismiss`](Self::dismiss), whichever instance lives.
    pub(super) fn dismiss_live(&self) {
        let inner = self.inner.0.lock();
        let live = inner.live.as_ref().map(|live| live.incarnation);
        self.dismiss_from(inner, live);
    }

    fn dismiss_from(&self, mut inner: MutexGuard<'_, Inner<S>>, live: Option<Incarnation>) {
        let left = inner.leave_to_outside();
        let wakers = live.map(|live| {
            self.counts.0.first_wanted.fetch_max(live.0 + 1, Ordering::Relaxed);
            inner.wakers()
        });
        drop(inner);
        left.tell();
        wakers.into_iter().flatten().flatten().for_each(Waker::wake);
    }

    /// Waits no longer for the instance that lives, if one does: who waits for what it has taken up is told.
    pub(super) fn forget_instance(&self) {
        let mut inner = self.inner.0.lock();
        let Some(live) = inner.live.take() else { return };
        self.counts.0.first_wanted.fetch_max(live.incarnation.0 + 1, Ordering::Relaxed);
        inner.outstanding = 0;
        let left = inner.give_up_in_hand();
        drop(inner);
        left.tell();
        live.waker.into_iter().for_each(Waker::wake);
    }

    /// Tells everyone who waits that nothing more is to come, and the instance, should it ever return, to end.
    pub(super) fn abandon(&self) {
        self.end(Phase::Stopped);
    }

    fn end(&self, phase: Phase) {
        let mut inner = self.inner.0.lock();
        inner.phase = inner.phase.max(phase);
        let phase = inner.phase;
        // Set under the lock, so that an instance which `take` tells to go sees it set.
        self.counts.0.first_wanted.store(u32::MAX, Ordering::Relaxed);
        let left = inner.give_up();
        let wakers = inner.wakers();
        drop(inner);
        left.tell();
        wakers.into_iter().flatten().for_each(Waker::wake);
        self.tell_watchers(phase);
    }
}

/// One writer at a time, so no read-modify-write: two of them would be lost only by an instance that was given up.
fn bump(count: &AtomicU64) {
    count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

/// What became of an order to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    Begun,
    NothingLive,
    /// A later instance lives; the order was for an older one.
    Stale,
}

impl<S: Service> AnyGate for Gate<S> {
    fn name(&self) -> &str {
        &self.name
    }

    fn actor(&self) -> &'static str {
        type_name::<S>()
    }

    fn attach(&self, home: Home) {
        if self.home.set(home).is_err() {
            tracing::debug!(service = %self.name, "the gate was attached before");
        }
    }

    fn entrance(self: Arc<Self>, message: &str) -> Result<Arc<dyn Entrance>, CallError> {
        self.table.entrance(&self, message).ok_or_else(|| self.not_accepted(message))
    }

    fn close_to_outside(&self) {
        let left = {
            let mut inner = self.inner.0.lock();
            inner.phase = inner.phase.max(Phase::ServicesOnly);
            inner.refuse_waiting(|origin| origin != Origin::Service)
        };
        left.tell();
        self.tell_watchers(Phase::ServicesOnly);
    }

    fn release(&self) {
        self.end(Phase::JobEnded);
    }

    fn begin_attempt(&self) -> Box<dyn FnOnce() + Send> {
        let mut inner = self.inner.0.lock();
        let left = inner.leave_to_outside();
        // Counted anew: what an instance has taken, here or in another process, and not handled is gone with it.
        let (done, skipped) = self.done();
        inner.earlier += done.saturating_sub(skipped);
        inner.taken = 0;
        self.set_counts(0, 0);
        drop(inner);
        Box::new(move || left.tell())
    }

    fn counts(&self, service: ServiceId) -> ServiceCounts {
        let inner = self.inner.0.lock();
        let (done, skipped) = self.done();
        // What nobody will take up any more waits for nothing; and what waits here is counted where it comes from, if that is
        // another process.
        let counts_done = inner.phase >= Phase::Stopped || self.feeder.get().is_some();
        let (waiting, taken) = if counts_done { (0, 0) } else { (inner.queue.len() as u64, inner.taken) };
        ServiceCounts { service, earlier: inner.earlier, waiting, taken, done, skipped }
    }

    fn done(&self) -> (u64, u64) {
        self.counts.0.read()
    }

    fn kinds(&self) -> Vec<&'static str> {
        self.table.names()
    }

    fn feed_by(&self, feeder: Arc<dyn Feeder>) {
        if self.feeder.set(feeder).is_err() {
            tracing::debug!(service = %self.name, "the gate had a feeder before");
        }
    }

    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

impl<S> fmt::Debug for Gate<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.inner.0.lock();
        f.debug_struct("Gate")
            .field("name", &self.name)
            .field("phase", &inner.phase)
            .field("queued", &inner.queue.len())
            .field("waiting", &inner.waiting.len())
            .finish_non_exhaustive()
    }
}
