//! Where items enter a flow.

use std::{
    future::Future,
    ops::Range,
    task::{Context, Poll},
    time::Duration,
};

use crate::flow::{context::TaskContext, error::TaskError, wide::widely};

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

    /// Appends up to `max` items to `into`. Runs on a thread that other tasks share, so it must not block for long. One that
    /// appends nothing and has more is asked again at once, as behind a stretch of a file without an item; others of the thread
    /// have their turn every millisecond.
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
        widely(|| into.extend(self.0.start..end));
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

/// An unbounded source: asked again and again until it says [`Next::End`] or the job is stopped.
pub trait Source: Send + 'static {
    /// What is emitted.
    type Item;

    /// What comes next. May await as long as it likes; it must not block its thread. One that always has something is
    /// asked again for about a millisecond, then others of the thread have their turn.
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
    /// Several items, in order: what a poll that does not wait has drained, say. An empty one means nothing yet: others of
    /// the thread have their turn, and the source is asked again. A source that has nothing 16 times in a row is asked
    /// less often, at the least once a millisecond (as far as timers are so exact), until it has items again; so it costs little,
    /// but an item may be found a millisecond late. A source that can wait should do so in `next`.
    Items(Vec<T>),
    /// Nothing yet; ask again after this time. No thread waits meanwhile. No time at all means as much as no items.
    Later(Duration),
    /// Nothing more, ever.
    End,
}
