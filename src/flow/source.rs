//! Where items enter a flow.

use std::{
    cell::RefCell,
    future::Future,
    ops::Range,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use crate::{
    flow::{
        chain::{Ending, Failure, Meter, catch},
        context::TaskContext,
        error::TaskError,
        task::{Course, Head, Input},
    },
    port::{AnyInput, InputPort, PortEvent},
    protocol::{TaskCommand, Wait},
};

/// A bounded source that can be read in parallel parts.
pub trait BatchSource {
    /// What is read.
    type Item;
    /// One part, read by one task.
    type Part: Part<Item = Self::Item>;

    /// Splits the source into at most `parts` parts, which together yield each item once. Fewer parts are fine: the
    /// instances without one end at once.
    ///
    /// # Errors
    ///
    /// Whatever keeps the source from being read at all, such as a missing file. It refuses the flow.
    fn split(self, parts: usize) -> Result<Vec<Self::Part>, TaskError>;
}

/// One part of a [`BatchSource`].
pub trait Part: Send + 'static {
    /// What is read.
    type Item;

    /// Appends up to `max` items to `into`. Runs on a thread that other tasks share, so it must not block for long.
    ///
    /// # Errors
    ///
    /// An error fails the job after the items appended before it were passed on.
    fn read(&mut self, into: &mut Vec<Self::Item>, max: usize) -> Result<More, TaskError>;

    /// Like [`read`](Self::read), for a part that can wait without blocking: when pending it has arranged for the
    /// waker of `cx` to be woken. By default it calls `read`, and is never pending.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        ctx: &TaskContext,
        into: &mut Vec<Self::Item>,
        max: usize,
    ) -> Poll<Result<More, TaskError>> {
        let _ = (cx, ctx);
        Poll::Ready(self.read(into, max))
    }
}

/// Whether a [`Part`] has more to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum More {
    /// It may have.
    Yes,
    /// It has been read to its end.
    No,
}

/// What [`Flow::from_batch`](crate::Flow::from_batch) accepts: a [`BatchSource`], or anything iterable.
///
/// `Kind` only keeps the two apart; it is inferred.
pub trait IntoBatchSource<Kind> {
    /// What is read.
    type Item;
    /// The source.
    type Source: BatchSource<Item = Self::Item>;

    /// Whether parallel parts are possible.
    #[doc(hidden)]
    const SPLITTABLE: bool;

    /// The source.
    fn into_batch_source(self) -> Self::Source;
}

/// Marks the iterable kind of [`IntoBatchSource`].
#[derive(Debug)]
pub enum Iterable {}

/// Marks the splittable kind of [`IntoBatchSource`].
#[derive(Debug)]
pub enum Splittable {}

impl<S: BatchSource> IntoBatchSource<Splittable> for S {
    type Item = S::Item;
    type Source = S;
    const SPLITTABLE: bool = true;

    fn into_batch_source(self) -> S {
        self
    }
}

impl<I> IntoBatchSource<Iterable> for I
where
    I: IntoIterator<IntoIter: Send + 'static>,
{
    type Item = I::Item;
    type Source = OnePart<I::IntoIter>;
    const SPLITTABLE: bool = false;

    fn into_batch_source(self) -> OnePart<I::IntoIter> {
        OnePart(self.into_iter())
    }
}

/// An iterator as a source of one part.
#[derive(Debug)]
pub struct OnePart<I>(I);

impl<I: Iterator + Send + 'static> BatchSource for OnePart<I> {
    type Item = I::Item;
    type Part = IteratorPart<I>;

    fn split(self, _parts: usize) -> Result<Vec<Self::Part>, TaskError> {
        Ok(vec![IteratorPart(self.0)])
    }
}

/// A part that an iterator yields.
#[derive(Debug)]
pub struct IteratorPart<I>(I);

impl<I: Iterator + Send + 'static> Part for IteratorPart<I> {
    type Item = I::Item;

    fn read(&mut self, into: &mut Vec<I::Item>, max: usize) -> Result<More, TaskError> {
        let before = into.len();
        into.extend(self.0.by_ref().take(max));
        Ok(if into.len() - before < max { More::No } else { More::Yes })
    }
}

/// A range of integers that is read in parallel, in contiguous parts.
///
/// ```
/// use proscenium::{LocalEnvironment, ParallelRange, job_fn};
///
/// let env = LocalEnvironment::new("doc");
/// let job = job_fn("sum", |flow| {
///     flow.from_batch(ParallelRange::new(0..1_000)).sum().collect("sum");
///     Ok(())
/// });
/// let job = env.submit(job).autostop(true).blocking()?;
/// let sum: Vec<u64> = job.output("sum").blocking()?;
/// assert_eq!(sum, [499_500]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParallelRange(Range<u64>);

impl ParallelRange {
    /// The integers of `range`.
    #[must_use]
    pub fn new(range: Range<u64>) -> Self {
        Self(range)
    }
}

impl BatchSource for ParallelRange {
    type Item = u64;
    type Part = RangePart;

    fn split(self, parts: usize) -> Result<Vec<RangePart>, TaskError> {
        let Range { start, end } = self.0;
        let length = u128::from(end.saturating_sub(start));
        let cut = |part: usize| start + (length * part as u128 / parts as u128) as u64;
        Ok((0..parts).map(|part| RangePart(cut(part)..cut(part + 1))).collect())
    }
}

/// A part of a [`ParallelRange`].
#[derive(Debug)]
pub struct RangePart(Range<u64>);

impl Part for RangePart {
    type Item = u64;

    fn read(&mut self, into: &mut Vec<u64>, max: usize) -> Result<More, TaskError> {
        let end = self.0.end.min(self.0.start.saturating_add(max as u64));
        into.extend(self.0.start..end);
        self.0.start = end;
        Ok(if self.0.is_empty() { More::No } else { More::Yes })
    }
}

/// A source made of one iterator for each parallel instance; see [`partitioned`].
#[derive(Debug)]
pub struct Partitioned<F>(F);

/// A splittable source from a closure that makes the iterator of each part: `partition(part, parts)`.
///
/// Together the iterators must yield each item once.
///
/// ```
/// use proscenium::{LocalEnvironment, job_fn, partitioned};
///
/// let env = LocalEnvironment::new("doc");
/// let job = job_fn("odd-and-even", |flow| {
///     flow.from_batch(partitioned(|part, parts| (part..100).step_by(parts))).count().collect("count");
///     Ok(())
/// });
/// let job = env.submit(job).autostop(true).blocking()?;
/// let count: Vec<u64> = job.output("count").blocking()?;
/// assert_eq!(count, [100]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn partitioned<F, I>(partition: F) -> Partitioned<F>
where
    F: FnMut(usize, usize) -> I,
    I: IntoIterator<IntoIter: Send + 'static>,
{
    Partitioned(partition)
}

impl<F, I> BatchSource for Partitioned<F>
where
    F: FnMut(usize, usize) -> I,
    I: IntoIterator<IntoIter: Send + 'static>,
{
    type Item = I::Item;
    type Part = IteratorPart<I::IntoIter>;

    fn split(mut self, parts: usize) -> Result<Vec<Self::Part>, TaskError> {
        Ok((0..parts).map(|part| IteratorPart((self.0)(part, parts).into_iter())).collect())
    }
}

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

/// An unbounded source: asked again and again until it says [`Next::End`] or the job is stopped.
pub trait Source: Send + 'static {
    /// What is emitted.
    type Item;

    /// What comes next. May await as long as it likes; it must not block its thread.
    ///
    /// # Errors
    ///
    /// An error fails the job after the items emitted before it were passed on.
    ///
    /// # Cancel safety
    ///
    /// `stop` and `cancel` drop the future while it waits, and it is not asked again: an item it had taken from
    /// elsewhere but not returned is lost. Use cancel-safe operations, or take the item in the last step.
    fn next(&mut self, ctx: &TaskContext) -> impl Future<Output = Result<Next<Self::Item>, TaskError>>;
}

/// What a [`Source`] has.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Next<T> {
    /// One item.
    Item(T),
    /// Several items, in order.
    Items(Vec<T>),
    /// Nothing yet; ask again after this time. No thread waits meanwhile.
    Later(Duration),
    /// Nothing more, ever.
    End,
}

/// What the source's own future and its head share.
struct Shelf<T> {
    items: RefCell<Vec<T>>,
    demand: std::cell::Cell<usize>,
}

type Driving = Pin<Box<dyn Future<Output = Result<(), TaskError>>>>;

/// The head of a chain that a [`Source`] feeds. One future drives the source for its whole life; it fills the shelf
/// up to the demand and then rests.
pub(crate) struct SourceHead<T> {
    meter: Meter,
    course: Course,
    driving: Option<Driving>,
    shelf: Rc<Shelf<T>>,
    broken: Option<Broken>,
}

impl<T: 'static> SourceHead<T> {
    pub fn new<S: Source<Item = T>>(meter: Meter, mut source: S) -> Self {
        let shelf = Rc::new(Shelf { items: RefCell::default(), demand: std::cell::Cell::new(0) });
        let (context, shared) = (Rc::clone(&meter.task.context), Rc::clone(&shelf));
        let driving = Box::pin(async move {
            loop {
                std::future::poll_fn(|_| if shared.demand.get() > 0 { Poll::Ready(()) } else { Poll::Pending }).await;
                match source.next(&context).await? {
                    Next::Item(item) => {
                        shared.items.borrow_mut().push(item);
                        shared.demand.set(shared.demand.get().saturating_sub(1));
                    }
                    Next::Items(items) => {
                        shared.demand.set(shared.demand.get().saturating_sub(items.len()));
                        shared.items.borrow_mut().extend(items);
                    }
                    Next::Later(pause) => context.timer.sleep_until(Instant::now() + pause).await,
                    Next::End => return Ok(()),
                }
            }
        });
        Self { meter, course: Course::default(), driving: Some(driving), shelf, broken: None }
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
                if self.draining {
                    self.meter.task.cut_short();
                }
                Poll::Ready(Ok(self.course.end()))
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
