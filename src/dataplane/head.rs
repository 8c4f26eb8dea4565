//! The heads of chains that begin with a source.

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use crate::{
    dataplane::{
        chain::{Ending, Failure, Meter, catch},
        context::TaskContext,
        error::TaskError,
        source::{More, Next, Part, Source},
        task::{BUDGET, Course, Head, Input},
    },
    host::Host,
    port::{InputPort, PortEvent},
    protocol::{TaskCommand, Wait},
};

/// How a source broke off. Kept back until the items in front of it have gone on.
enum Broken {
    Failed(TaskError),
    Panicked(String),
}

impl Broken {
    fn report(self, meter: &Meter) -> Failure {
        let position = meter.account.received + 1;
        match self {
            Self::Failed(error) => meter.failed(position, &error),
            Self::Panicked(message) => meter.panicked(position, message),
        }
    }
}

/// The head of a chain that reads a [`Part`].
pub(crate) struct PartHead<P> {
    meter: Meter,
    course: Course,
    part: Option<P>,
    broken: Option<Broken>,
}

impl<P> PartHead<P> {
    pub fn new(meter: Meter, part: Option<P>) -> Self {
        Self { meter, course: Course::default(), part, broken: None }
    }
}

impl<P: Part> Head<P::Item> for PartHead<P> {
    fn poll_batch(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut Vec<P::Item>,
        max: usize,
    ) -> Poll<Result<Input, Failure>> {
        // First, so that a stop that comes now does not hide it.
        if let Some(broken) = self.broken.take() {
            return Poll::Ready(Err(broken.report(&self.meter)));
        }
        // A source that has nothing left has not been cut short by a stop that comes now.
        if self.part.is_none() {
            self.course.close();
        }
        if let Some(input) = self.course.next(&self.meter.task) {
            return input.map(Ok);
        }
        let Some(part) = &mut self.part else { return Poll::Ready(Ok(self.course.end())) };
        let context = Rc::clone(&self.meter.task.context);
        let read = match catch(|| part.poll_read(cx, &context, into, max)) {
            Ok(Poll::Ready(read)) => read.map_err(Broken::Failed),
            Ok(Poll::Pending) => {
                self.meter.task.wait.set(Wait::Source);
                return Poll::Pending;
            }
            Err(panic) => Err(Broken::Panicked(panic)),
        };
        let count = into.len() as u64;
        self.meter.account.received += count;
        self.meter.account.processed += count;
        match read {
            Ok(More::Yes) => {}
            Ok(More::No) => self.part = None,
            Err(broken) => {
                self.part = None;
                self.broken = Some(broken);
            }
        }
        Poll::Ready(Ok(Input::Items))
    }

    fn command(&mut self, command: TaskCommand) {
        self.course.command(command);
    }

    fn close(&mut self) {
        self.course.close();
    }

    fn settle(&mut self, ending: Ending) {
        self.meter.settle(ending);
    }
}

/// What the source's own future and its head share.
struct Shelf<T> {
    items: RefCell<Vec<T>>,
    demand: Cell<usize>,
    /// When the head last asked for items: the source has until the end of a step's budget.
    asked_at: Cell<Instant>,
}

type Driving = Pin<Box<dyn Future<Output = Result<(), TaskError>>>>;

/// The head of a chain that a [`Source`] feeds. One future drives the source for its whole life; it fills the shelf
/// up to the demand, or for as long as a step's budget lasts, and then rests.
pub(crate) struct SourceHead<T> {
    meter: Meter,
    course: Course,
    driving: Option<Driving>,
    shelf: Rc<Shelf<T>>,
    broken: Option<Broken>,
}

impl<T: 'static> SourceHead<T> {
    pub fn new<S: Source<Item = T>>(meter: Meter, source: S) -> Self {
        let (items, demand, asked_at) = (RefCell::default(), Cell::new(0), Cell::new(meter.task.context.host.now()));
        let shelf = Rc::new(Shelf { items, demand, asked_at });
        let driving = Box::pin(drive(source, Rc::clone(&meter.task.context), Rc::clone(&shelf)));
        Self { meter, course: Course::default(), driving: Some(driving), shelf, broken: None }
    }
}

/// Asks `source` whenever there is demand, until it ends or fails.
async fn drive<S: Source>(mut source: S, context: Rc<TaskContext>, shelf: Rc<Shelf<S::Item>>) -> Result<(), TaskError> {
    let mut pace = Pace::new(context.host.now());
    let mut empty_answers = 0;
    loop {
        poll_fn(|_| if shelf.demand.get() > 0 { Poll::Ready(()) } else { Poll::Pending }).await;
        let pause = match source.next(&context).await? {
            Next::Item(item) => {
                shelf.items.borrow_mut().push(item);
                shelf.demand.set(shelf.demand.get().saturating_sub(1));
                None
            }
            Next::Items(items) if !items.is_empty() => {
                shelf.demand.set(shelf.demand.get().saturating_sub(items.len()));
                shelf.items.borrow_mut().extend(items);
                None
            }
            Next::Later(pause) if !pause.is_zero() => Some(pause),
            Next::Items(_) | Next::Later(_) => {
                empty_answers += 1;
                Some(pause_after(empty_answers))
            }
            Next::End => return Ok(()),
        };
        let Some(pause) = pause else {
            empty_answers = 0;
            if pace.is_over(shelf.asked_at.get(), &context.host) {
                shelf.demand.set(0);
            }
            continue;
        };
        // First the turn of others: a short pause may be over before it has begun.
        give_way().await;
        match context.host.now().checked_add(pause) {
            Some(_) if pause.is_zero() => {}
            Some(instant) => context.host.sleep_until(instant).await,
            // Later than any clock reaches.
            None => std::future::pending().await,
        }
    }
}

/// Answers without an item, one after the other, behind which only others of the thread have their turn.
const EMPTY_ANSWERS_IN_TURN: u32 = 16;
const EMPTY_PAUSE_MIN: Duration = Duration::from_micros(16);
const EMPTY_PAUSE_MAX: Duration = Duration::from_millis(1);

/// How long a source rests that has answered so many times without an item. At first not at all, because a source that reads
/// and drops what does not concern it may well have something next time; then longer each time, because a core would
/// otherwise do nothing but ask.
fn pause_after(empty_answers: u32) -> Duration {
    match empty_answers.checked_sub(EMPTY_ANSWERS_IN_TURN + 1) {
        None => Duration::ZERO,
        Some(more) => EMPTY_PAUSE_MIN.saturating_mul(1 << more.min(10)).min(EMPTY_PAUSE_MAX),
    }
}

/// Pending once, and woken at once.
async fn give_way() {
    let mut given = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut given, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Answers between two looks at the clock at most. One look costs about as much as a fast answer.
const STRIDE_MAX: u32 = 16;

/// Says when a source has used up the budget of a step. It looks at the clock after each answer of a slow source, and after
/// every [`STRIDE_MAX`] of a fast one.
struct Pace {
    stride: u32,
    /// Answers until the next look.
    left: u32,
    looked: Instant,
}

impl Pace {
    fn new(now: Instant) -> Self {
        Self { stride: 1, left: 1, looked: now }
    }

    /// Counts an answer. Whether the budget of the step that began at `began` was over at the last look.
    fn is_over(&mut self, began: Instant, host: &Host) -> bool {
        self.left -= 1;
        if self.left > 0 {
            return false;
        }
        let now = host.now();
        let is_fast = now - self.looked < BUDGET / 64;
        self.stride = if is_fast { (self.stride * 2).min(STRIDE_MAX) } else { 1 };
        self.left = self.stride;
        self.looked = now;
        now - began >= BUDGET
    }
}

impl<T> Head<T> for SourceHead<T> {
    fn poll_batch(&mut self, cx: &mut Context<'_>, into: &mut Vec<T>, max: usize) -> Poll<Result<Input, Failure>> {
        // First, so that a stop that comes now does not hide it.
        if let Some(broken) = self.broken.take() {
            return Poll::Ready(Err(broken.report(&self.meter)));
        }
        if self.driving.is_none() {
            self.course.close();
        }
        if let Some(input) = self.course.next(&self.meter.task) {
            if input.is_ready() && self.course.is_stopped() {
                self.driving = None;
            }
            return input.map(Ok);
        }
        self.shelf.demand.set(max);
        self.shelf.asked_at.set(self.meter.task.context.host.now());
        if let Some(driving) = &mut self.driving {
            self.broken = match catch(|| driving.as_mut().poll(cx)) {
                Ok(Poll::Pending) => None,
                Ok(Poll::Ready(Ok(()))) => {
                    self.driving = None;
                    None
                }
                Ok(Poll::Ready(Err(error))) => Some(Broken::Failed(error)),
                Err(panic) => Some(Broken::Panicked(panic)),
            };
            if self.broken.is_some() {
                self.driving = None;
            }
        }
        std::mem::swap(into, &mut *self.shelf.items.borrow_mut());
        if into.is_empty() && self.driving.is_some() {
            self.meter.task.wait.set(Wait::Source);
            return Poll::Pending;
        }
        self.meter.account.received += into.len() as u64;
        self.meter.account.processed += into.len() as u64;
        Poll::Ready(Ok(Input::Items))
    }

    fn command(&mut self, command: TaskCommand) {
        self.course.command(command);
    }

    fn close(&mut self) {
        self.driving = None;
        self.course.close();
    }

    fn settle(&mut self, ending: Ending) {
        self.meter.settle(ending);
    }
}

/// The head of a chain whose items are pushed from outside.
pub(crate) struct PortHead<T> {
    meter: Meter,
    course: Course,
    port: Arc<InputPort<T>>,
    /// `stop` came: senders are refused, what they got in before is still delivered.
    draining: bool,
    finished: bool,
}

impl<T: Send + 'static> PortHead<T> {
    pub fn new(meter: Meter, port: Arc<InputPort<T>>) -> Self {
        Self { meter, course: Course::default(), port, draining: false, finished: false }
    }
}

impl<T: Send + 'static> Head<T> for PortHead<T> {
    fn poll_batch(&mut self, cx: &mut Context<'_>, into: &mut Vec<T>, max: usize) -> Poll<Result<Input, Failure>> {
        if self.finished {
            self.course.close();
        }
        if let Some(input) = self.course.next(&self.meter.task) {
            return input.map(Ok);
        }
        match self.port.poll_batch(cx, into, max) {
            Poll::Pending => {
                self.meter.task.wait.set(Wait::Port { senders: 0 });
                Poll::Pending
            }
            Poll::Ready(PortEvent::Items) => {
                self.meter.account.received += into.len() as u64;
                self.meter.account.processed += into.len() as u64;
                Poll::Ready(Ok(Input::Items))
            }
            Poll::Ready(PortEvent::Finished) => {
                self.finished = true;
                if self.draining && !self.port.is_finished() {
                    self.meter.task.cut_short();
                }
                Poll::Ready(Ok(self.course.end()))
            }
            Poll::Ready(PortEvent::NotCarried(message)) => {
                let position = self.meter.account.received + 1;
                Poll::Ready(Err(self.meter.failed_with(position, message)))
            }
        }
    }

    fn command(&mut self, command: TaskCommand) {
        match command {
            TaskCommand::Stop => {
                // Not handed to the course at once: what senders were told is accepted must still come out.
                self.draining = !self.port.is_finished();
                self.port.close_to_senders();
                self.course.command(TaskCommand::Resume);
            }
            other => self.course.command(other),
        }
    }

    fn close(&mut self) {
        self.port.close();
        self.course.close();
    }

    fn settle(&mut self, ending: Ending) {
        // Items still queued never entered the flow; their senders' job has ended and says how.
        self.port.close();
        self.meter.settle(ending);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_without_items_is_asked_at_once_at_first_and_then_each_millisecond() {
        let pauses: Vec<u128> = (1..=25).map(|answers| pause_after(answers).as_micros()).collect();
        assert_eq!(pauses[..16], [0; 16]);
        assert_eq!(pauses[16..], [16, 32, 64, 128, 256, 512, 1000, 1000, 1000]);
        assert_eq!(pause_after(u32::MAX), EMPTY_PAUSE_MAX);
    }

    #[test]
    fn a_pace_looks_at_the_clock_after_each_slow_answer() {
        let host = Host::shared_by_tests();
        let mut pace = Pace::new(host.now());
        for _ in 0..3 {
            pace.looked = host.now().checked_sub(BUDGET).expect("the clock has run for a while");
            pace.left = 1;
            let long_ago = pace.looked;
            assert!(pace.is_over(long_ago, host));
            assert_eq!((pace.stride, pace.left), (1, 1));
        }
    }
}
