//! What user code of a process is given beside the item and the state.

use std::{cell::Cell, fmt, time::Duration};

use super::{
    clock::Clock,
    keys::Orders,
    side::{Side, SideOutputError, put},
};
use crate::{dataplane::context::TaskContext, timestamp::Timestamp};

/// What a step of a [`process`](crate::KeyedStream::process) can do for its key: one call of one of its closures.
///
/// All of it takes effect when the closure has returned `Ok`. Of a step that fails nothing remains: no result, no timer.
pub struct ProcessContext<'a, U> {
    task: &'a TaskContext,
    clock: &'a Clock,
    now: Cell<Option<Timestamp>>,
    out: &'a mut Vec<U>,
    sides: &'a mut [Box<dyn Side>],
    orders: &'a mut Orders,
}

impl<'a, U> ProcessContext<'a, U> {
    pub(super) fn new(
        task: &'a TaskContext,
        clock: &'a Clock,
        now: Option<Timestamp>,
        out: &'a mut Vec<U>,
        sides: &'a mut [Box<dyn Side>],
        orders: &'a mut Orders,
    ) -> Self {
        Self { task, clock, now: Cell::new(now), out, sides, orders }
    }

    /// The clock, if it was read.
    pub(super) fn reading(&self) -> Option<Timestamp> {
        self.now.get()
    }

    /// The task this runs in: its job, which instance it is, and how many there are.
    #[must_use]
    pub fn task(&self) -> &TaskContext {
        self.task
    }

    /// The time: the same for the whole step, and in the next one never earlier.
    ///
    /// It is that of the machine's clock, but does not jump when that one is set, as after a machine was suspended. If the
    /// clock is set forward, it goes at double speed until it has caught up; if the clock is set back, at half speed until
    /// the clock has caught up. So timers that are set fire neither all at once nor never: each after half of its delay at
    /// the least, and twice of it at the most, or up to a minute later where the task had nothing else to do, for it looks
    /// at the machine's clock once a minute then. Until then `now` differs from the machine's clock, and may differ between
    /// the instances of an operator. A task that begins starts with the time of the machine's clock.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        let now = self.now.get().unwrap_or_else(|| self.clock.look().time);
        self.now.set(Some(now));
        now
    }

    /// Passes a result on. Those of one step are held in memory until it is done.
    pub fn emit(&mut self, result: U) {
        self.out.push(result);
    }

    /// Passes a result on in the side output `name`. It has to be of exactly the type with which the side output was made.
    ///
    /// # Errors
    ///
    /// [`SideOutputError::Unknown`] if there is no side output of this name, and [`SideOutputError::WrongType`] if it is of
    /// another type. Given back from the closure by `?`, it fails the item.
    pub fn emit_to<V: 'static>(&mut self, name: &str, result: V) -> Result<(), SideOutputError> {
        put(self.sides, name, result)
    }

    /// Has `on_timer` called for this key at `at`, as [`now`](Self::now) has the time, or when this step is done if that is
    /// past. Two timers of one key for the same time are one.
    pub fn fire_at(&mut self, at: Timestamp) {
        self.orders.fire.push(at);
    }

    /// As [`fire_at`](Self::fire_at), counted from [`now`](Self::now). A time beyond [`Timestamp::MAX`] sets no timer.
    pub fn fire_after(&mut self, delay: Duration) {
        self.orders.fire.extend(self.now().checked_add(delay));
    }

    /// Cancels all timers of this key that were set before, also in this step.
    pub fn cancel_timers(&mut self) {
        self.orders.cancel = true;
        self.orders.fire.clear();
    }

    /// Drops the key's state when this step is done. An item or a timer that comes later finds the default; timers stay set.
    pub fn clear_state(&mut self) {
        self.orders.clear = true;
    }
}

impl<U> fmt::Debug for ProcessContext<'_, U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessContext").field("task", &self.task).field("now", &self.now).finish_non_exhaustive()
    }
}
