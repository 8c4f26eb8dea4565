//! Where items enter a flow.

use std::ops::Range;

use crate::dataplane::{
    error::TaskError,
    source::{More, Part},
    wide::widely,
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
