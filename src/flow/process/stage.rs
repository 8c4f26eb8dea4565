//! The running process of one instance: items, timers and the end, each a step of one key.

use std::{
    hash::Hash,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
    time::{Duration, Instant},
};

use super::{
    ProcessContext,
    clock::{Clock, Moment},
    keys::{Keys, Orders},
    side::Side,
};
use crate::{
    dataplane::{
        chain::{BoxStage, Ending, Failure, Lull, Meter, Reach, Stage, catch},
        context::TaskContext,
        error::TaskError,
        mark::Mark,
    },
    host::Sleep,
    protocol::Wait,
    timestamp::Timestamp,
};

/// How long timers fire, or keys end, before the task looks at its input and lets other tasks have their turn.
const TURN: Duration = Duration::from_millis(1);
/// Timers fired behind one item at most, so that timers that set each other do not keep the next item from coming.
const TIMERS_PER_ITEM: usize = 16;
/// How long the task sleeps at most before it looks at the clock, which may go faster meanwhile.
const ALARM_MAX: Duration = Duration::from_secs(60);
/// Keys released in one turn at most.
const RELEASED_PER_TURN: usize = 4096;

pub(super) type ItemHook<K, T, S, U> =
    Box<dyn FnMut(&mut ProcessContext<'_, U>, &K, T, &mut S) -> Result<(), TaskError> + Send>;
pub(super) type TimerHook<K, S, U> =
    Box<dyn FnMut(&mut ProcessContext<'_, U>, &K, Timestamp, &mut S) -> Result<(), TaskError> + Send>;
pub(super) type EndHook<K, S, U> =
    Box<dyn FnMut(&mut ProcessContext<'_, U>, &K, &mut S) -> Result<(), TaskError> + Send>;

/// The closures of one instance.
pub(super) struct Hooks<K, T, S, U> {
    pub item: ItemHook<K, T, S, U>,
    pub timer: Option<TimerHook<K, S, U>>,
    pub end: Option<EndHook<K, S, U>>,
}

impl<K, T, S, U> Hooks<K, T, S, U> {
    fn run(&mut self, ctx: &mut ProcessContext<'_, U>, key: &K, step: Step<T>, state: &mut S) -> Result<(), TaskError> {
        match step {
            Step::Item(item, _) => (self.item)(ctx, key, item, state),
            Step::Timer(at) => self.timer.as_mut().map_or(Ok(()), |hook| hook(ctx, key, at, state)),
            Step::End => self.end.as_mut().map_or(Ok(()), |hook| hook(ctx, key, state)),
        }
    }
}

/// What is settled when the flow is built.
pub(super) struct Settings<S> {
    pub time_to_live: Option<Duration>,
    /// Makes the copy of a state that a step under the policy *skip* works on. Without it nothing is skipped.
    pub copy: Option<fn(&S) -> S>,
}

/// Why user code of a key runs.
enum Step<T> {
    /// An item and its position.
    Item(T, u64),
    Timer(Timestamp),
    End,
}

/// What is still to be done for the end of the input.
#[derive(Clone, Copy)]
enum Closing {
    Timers,
    /// The room to look at next.
    Keys(usize),
}

/// Why a turn is over.
enum Over {
    /// Nothing is left to do for now.
    Done,
    /// What was made is to be passed on first.
    Full,
    Time,
}

/// What wakes the task for a timer or an expiry.
struct Alarm {
    instant: Instant,
    /// What the clock shows by then, unless it goes faster or slower meanwhile.
    time: Timestamp,
    waker: Waker,
    /// Registered as long as it is held.
    _sleep: Sleep,
}

pub(super) struct ProcessStage<K, T, S, U> {
    meter: Meter,
    context: Rc<TaskContext>,
    clock: Clock,
    hooks: Hooks<K, T, S, U>,
    /// Only under the policy *skip*.
    copy: Option<fn(&S) -> S>,
    keys: Keys<K, S>,
    orders: Orders,
    alarm: Option<Alarm>,
    closing: Option<Closing>,
    /// Timers and ends that were set aside: dead letters without an item that was received.
    set_aside: u64,
    out: Vec<U>,
    sides: Vec<Box<dyn Side>>,
    next: BoxStage<U>,
}

impl<K, T, S, U> ProcessStage<K, T, S, U>
where
    K: Hash + Eq,
    S: Default,
{
    pub fn new(
        meter: Meter,
        hooks: Hooks<K, T, S, U>,
        settings: Settings<S>,
        sides: Vec<Box<dyn Side>>,
        next: BoxStage<U>,
    ) -> Self {
        let context = Rc::clone(&meter.task.context);
        let hasher = context.host.table_state();
        Self {
            copy: settings.copy.filter(|_| meter.skips),
            meter,
            clock: Clock::new(&context.host),
            context,
            hooks,
            keys: Keys::new(settings.time_to_live, hasher),
            orders: Orders::default(),
            alarm: None,
            closing: None,
            set_aside: 0,
            out: Vec::new(),
            sides,
            next,
        }
    }

    /// Runs user code of the key in `room`.
    fn step(&mut self, room: usize, now: Option<Timestamp>, step: Step<T>) -> Result<(), Failure> {
        let position = match &step {
            Step::Item(_, position) => *position,
            Step::Timer(_) | Step::End => 0,
        };
        let is_item = matches!(step, Step::Item(..));
        let Some(entry) = self.keys.entry(room) else { return Ok(()) };
        let before = self.out.len();
        self.sides.iter_mut().for_each(|side| side.begin());
        let mut ctx =
            ProcessContext::new(&self.context, &self.clock, now, &mut self.out, &mut self.sides, &mut self.orders);
        let (hooks, key) = (&mut self.hooks, &entry.key);
        let result = match self.copy {
            // A step that fails half-way has changed the copy.
            Some(copy) => catch(|| {
                let mut state = entry.state.as_ref().map(copy).unwrap_or_default();
                hooks.run(&mut ctx, key, step, &mut state).map(|()| state)
            })
            .and_then(|done| done.map_err(|error| error.message())),
            None => {
                let mut state = entry.state.take().unwrap_or_default();
                hooks.run(&mut ctx, key, step, &mut state).map(|()| state).map_err(|error| error.message())
            }
        };
        let now = ctx.reading();
        match result {
            Ok(state) => {
                self.keys.conclude(room, state, now, &mut self.orders, self.closing.is_none());
                self.meter.account.processed += u64::from(is_item);
                Ok(())
            }
            Err(message) => {
                self.out.truncate(before);
                self.sides.iter_mut().for_each(|side| side.withdraw());
                self.orders.withdraw();
                if self.copy.is_none() {
                    return Err(self.meter.failed_with(position, message));
                }
                self.keys.vacate(room);
                self.set_aside += u64::from(!is_item);
                self.meter.bury(position, message);
                Ok(())
            }
        }
    }

    fn take_item(&mut self, key: K, item: T, position: u64) -> Result<(), Failure> {
        let room = self.keys.room(key);
        let now = self.keys.expires().then(|| self.clock.look().time);
        if let Some(now) = now {
            self.keys.expire(room, now);
        }
        self.step(room, now, Step::Item(item, position))
    }

    /// Fires the next timer, at `now`, which is before its time only at the end of the input.
    fn fire(&mut self, now: Timestamp) -> Result<bool, Failure> {
        let Some((at, room)) = self.keys.take_timer() else { return Ok(false) };
        self.meter.enter();
        self.keys.expire_before(room, at.min(now));
        self.step(room, Some(now), Step::Timer(at))?;
        Ok(true)
    }

    /// Fires what is due, behind an item.
    fn fire_behind_item(&mut self) -> Result<(), Failure> {
        let now = self.clock.look().time;
        for _ in 0..TIMERS_PER_ITEM {
            if !self.keys.is_due(now) {
                break;
            }
            self.fire(now)?;
        }
        Ok(())
    }

    /// Fires what is due and releases what has expired, until `until`.
    fn pass_time(&mut self, mut now: Moment, until: Instant) -> Result<Over, Failure> {
        while self.keys.is_due(now.time) {
            self.fire(now.time)?;
            if self.is_full() {
                return Ok(Over::Full);
            }
            now = self.clock.look();
            if now.instant >= until {
                return Ok(Over::Time);
            }
        }
        Ok(if self.keys.purge(now.time, RELEASED_PER_TURN) { Over::Time } else { Over::Done })
    }

    /// Fires all timers and ends all keys, until `until`.
    fn close(&mut self, mut now: Moment, until: Instant) -> Result<Over, Failure> {
        while self.wants_more(Reach::Anywhere) && now.instant < until {
            if self.is_full() {
                return Ok(Over::Full);
            }
            match self.closing {
                Some(Closing::Timers) => {
                    if !self.fire(now.time)? {
                        self.closing = Some(Closing::Keys(0));
                    }
                }
                Some(Closing::Keys(room)) if room < self.keys.rooms() && self.hooks.end.is_some() => {
                    self.closing = Some(Closing::Keys(room + 1));
                    self.keys.expire(room, now.time);
                    if self.keys.entry(room).is_some_and(|entry| entry.state.is_some()) {
                        self.meter.enter();
                        self.step(room, Some(now.time), Step::End)?;
                    }
                }
                Some(Closing::Keys(_)) | None => return Ok(Over::Done),
            }
            now = self.clock.look();
        }
        Ok(if self.wants_more(Reach::Anywhere) { Over::Time } else { Over::Done })
    }

    fn is_full(&self) -> bool {
        let batch_items = self.meter.task.limits.batch_items;
        self.out.len() >= batch_items || self.sides.iter().any(|side| side.is_full(batch_items))
    }

    /// Passes on what was made, and says whether there was anything.
    fn pass(&mut self) -> Result<bool, Failure> {
        // A branch that wants no more is spared, so that `take` on one side does not keep the other from ending.
        if !self.next.wants_more(Reach::Anywhere) {
            self.out.clear();
        }
        let mut passed = !self.out.is_empty();
        if passed {
            self.next.batch(&mut self.out)?;
        }
        for side in &mut self.sides {
            passed |= side.pass()?;
        }
        Ok(passed)
    }

    /// What came before a failure goes on, so that the failure is seen behind it.
    fn fail(&mut self, failure: Failure) -> Failure {
        match self.pass() {
            Ok(_) => failure,
            Err(behind) => behind,
        }
    }

    fn pass_mark(&mut self, mark: Mark) -> Result<(), Failure> {
        self.next.mark(mark)?;
        self.sides.iter_mut().try_for_each(|side| side.mark(mark))
    }

    /// All are polled, so that a blocked branch does not keep the others from working off what they have.
    fn poll_behind(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        let mut pending = self.next.poll(cx)?.is_pending();
        for side in &mut self.sides {
            pending |= side.poll(cx)?.is_pending();
        }
        if pending { Poll::Pending } else { Poll::Ready(Ok(())) }
    }

    /// Has the task woken for what happens next. An alarm that is too early is left: it costs one look in vain.
    fn set_alarm(&mut self, cx: &mut Context<'_>) {
        let Some(next) = self.keys.next_event() else {
            self.alarm = None;
            return;
        };
        let now = self.clock.look();
        // By the instant: one that has rung rings no more, although a clock that went slower does not yet show its time.
        let stands =
            |alarm: &Alarm| alarm.instant > now.instant && alarm.time <= next && alarm.waker.will_wake(cx.waker());
        if self.alarm.as_ref().is_some_and(stands) {
            return;
        }
        let delay = next.saturating_duration_since(now.time).min(ALARM_MAX);
        let (instant, time) = (now.instant + delay, now.time.saturating_add(delay));
        let mut sleep = self.context.host.sleep_until(instant);
        // Over at once only if the environment is being closed: then nothing fires any more.
        let _ = std::pin::Pin::new(&mut sleep).poll(cx);
        self.alarm = Some(Alarm { instant, time, waker: cx.waker().clone(), _sleep: sleep });
    }
}

impl<K, T, S, U> Stage<(K, T)> for ProcessStage<K, T, S, U>
where
    K: Hash + Eq,
    S: Default,
{
    fn batch(&mut self, items: &mut Vec<(K, T)>) -> Result<(), Failure> {
        let mut cursor = self.meter.receive(items.len());
        for (key, item) in items.drain(..) {
            cursor.advance();
            let position = cursor.position;
            if let Err(failure) = self.take_item(key, item, position) {
                drop(cursor);
                return Err(self.fail(failure));
            }
            if self.keys.has_timers() && !self.meter.task.holding.get() {
                // The cursor is gone meanwhile, so that a panic of a timer, or downstream, is not attributed to the item.
                drop(cursor);
                if let Err(failure) = self.fire_behind_item() {
                    return Err(self.fail(failure));
                }
                cursor = self.meter.cursor(position);
            }
            if self.is_full() {
                drop(cursor);
                self.pass()?;
                cursor = self.meter.cursor(position);
            }
        }
        drop(cursor);
        self.pass().map(drop)
    }

    fn mark(&mut self, mark: Mark) -> Result<(), Failure> {
        if mark != Mark::End {
            return self.pass_mark(mark);
        }
        self.alarm = None;
        self.closing = Some(Closing::Timers);
        Ok(())
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        let (mut until, mut fired) = (None, false);
        loop {
            ready!(self.poll_behind(cx))?;
            let closing = self.closing.is_some();
            if !closing && (self.meter.task.holding.get() || self.keys.next_event().is_none()) {
                self.alarm = None;
                return Poll::Ready(Ok(()));
            }
            let now = self.clock.look();
            let until = *until.get_or_insert(now.instant + TURN);
            let over = if closing { self.close(now, until) } else { self.pass_time(now, until) };
            let over = match over {
                Ok(over) => over,
                Err(failure) => return Poll::Ready(Err(self.fail(failure))),
            };
            fired |= self.pass()?;
            match (over, closing) {
                (Over::Full, _) => {}
                (Over::Time, true) => {
                    cx.waker().wake_by_ref();
                    self.meter.task.wait.set(Wait::Nothing);
                    return Poll::Pending;
                }
                (Over::Time, false) => {
                    cx.waker().wake_by_ref();
                    return self.poll_behind(cx);
                }
                (Over::Done, true) => {
                    self.keys.clear();
                    self.closing = None;
                    self.pass_mark(Mark::End)?;
                }
                (Over::Done, false) => {
                    self.set_alarm(cx);
                    if fired {
                        // The task may have flushed its stages before: this is what makes it do so again.
                        cx.waker().wake_by_ref();
                    }
                    return self.poll_behind(cx);
                }
            }
        }
    }

    fn flush(&mut self, lull: Lull) -> Result<(), Failure> {
        self.next.flush(lull)?;
        self.sides.iter_mut().try_for_each(|side| side.flush(lull))
    }

    fn wants_more(&self, reach: Reach) -> bool {
        self.next.wants_more(reach) || self.sides.iter().any(|side| side.wants_more(reach))
    }

    fn owes(&self) -> bool {
        self.keys.has_timers() || self.next.owes() || self.sides.iter().any(|side| side.owes())
    }

    fn settle(&mut self, ending: Ending) {
        self.meter.account.received += self.set_aside;
        self.meter.settle(ending);
        self.next.settle(ending);
        self.sides.iter_mut().for_each(|side| side.settle(ending));
    }
}
