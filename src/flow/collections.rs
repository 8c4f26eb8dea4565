//! Collections that are read in parallel.

use std::ops::Range;

use parking_lot::Mutex;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    dataplane::{
        error::TaskError,
        source::{More, Part, Positioned},
        wide::{append, widely},
    },
    flow::replay::ReplayableSource,
};

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

impl ReplayableSource for ParallelRange {
    type Item = u64;
    type Split = Range<u64>;
    /// How many integers of the split have been read.
    type Position = u64;
    type Part = RangePart;

    fn splits(&mut self, parts: usize) -> Result<Vec<Range<u64>>, TaskError> {
        let Range { start, end } = self.0;
        let length = u128::from(end.saturating_sub(start));
        let cut = |part: usize| start + (length * part as u128 / parts as u128) as u64;
        Ok((0..parts).map(|part| cut(part)..cut(part + 1)).collect())
    }

    fn open(&self, split: Range<u64>, at: u64) -> Result<RangePart, TaskError> {
        let Range { start, end } = split;
        if at > end.saturating_sub(start) {
            return Err(beyond(at));
        }
        Ok(RangePart { start, left: start + at..end })
    }
}

/// What a position is refused with that is no position of its split.
fn beyond(at: u64) -> TaskError {
    TaskError::new(format!("the position is behind {at} items, which the split does not have"))
}

/// A part of a [`ParallelRange`].
#[derive(Debug)]
pub struct RangePart {
    start: u64,
    left: Range<u64>,
}

impl Part for RangePart {
    type Item = u64;

    fn read(&mut self, into: &mut Vec<u64>, max: usize) -> Result<More, TaskError> {
        let end = self.left.end.min(self.left.start.saturating_add(max as u64));
        let (start, count) = (self.left.start, end.saturating_sub(self.left.start) as usize);
        widely(|| append(into, count, start..end));
        self.left.start = end;
        Ok(if self.left.is_empty() { More::No } else { More::Yes })
    }
}

impl Positioned for RangePart {
    type Position = u64;

    fn position(&self) -> u64 {
        self.left.start - self.start
    }
}

/// Items that are read in parallel, in contiguous parts.
///
/// An iterator that is given to [`Flow::from_batch`](crate::Flow::from_batch) as it is is read by one instance, and not
/// again. These are read by as many as the job's parallelism, and can be read again: the items *are* the splits. They are
/// encoded when the flow is built, which takes as much memory once more, and a part of more than 128 MiB refuses the flow.
/// Large data are better read from files.
///
/// ```
/// use proscenium::{LocalEnvironment, ParallelItems, job_fn};
///
/// let env = LocalEnvironment::new("doc");
/// let job = job_fn("longest", |flow| {
///     let words = vec!["one".to_owned(), "eleven".to_owned(), "two".to_owned()];
///     flow.from_batch(ParallelItems::new(words)).map(|word| word.len()).reduce(|a, b| *a = b.max(*a)).collect("longest");
///     Ok(())
/// });
/// let job = env.submit(job).autostop(true).blocking()?;
/// assert_eq!(job.output::<usize>("longest").blocking()?, [6]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct ParallelItems<T>(
    /// Never locked: it is there so that items need not be `Sync`.
    Mutex<Vec<T>>,
);

impl<T> ParallelItems<T> {
    /// The items of `items`, in their order within each part.
    pub fn new(items: impl Into<Vec<T>>) -> Self {
        Self(Mutex::new(items.into()))
    }
}

impl<T> ReplayableSource for ParallelItems<T>
where
    T: Serialize + DeserializeOwned + Clone + Send + 'static,
{
    type Item = T;
    type Split = Vec<T>;
    /// How many items of the split have been read.
    type Position = u64;
    type Part = ItemsPart<T>;

    /// Gives the items away.
    fn splits(&mut self, parts: usize) -> Result<Vec<Vec<T>>, TaskError> {
        let mut items = std::mem::take(self.0.get_mut());
        let length = items.len() as u128;
        let mut splits: Vec<Vec<T>> = (0..parts)
            .rev()
            .map(|part| items.split_off((length * part as u128 / parts as u128) as usize))
            .filter(|split| !split.is_empty())
            .collect();
        splits.reverse();
        Ok(splits)
    }

    fn open(&self, mut split: Vec<T>, at: u64) -> Result<ItemsPart<T>, TaskError> {
        let length = split.len();
        let read = usize::try_from(at).ok().filter(|read| *read <= length).ok_or_else(|| beyond(at))?;
        drop(split.drain(..read));
        Ok(ItemsPart { length, left: split.into_iter() })
    }
}

/// A part of [`ParallelItems`].
#[derive(Debug)]
pub struct ItemsPart<T> {
    length: usize,
    left: std::vec::IntoIter<T>,
}

impl<T: Send + 'static> Part for ItemsPart<T> {
    type Item = T;

    fn read(&mut self, into: &mut Vec<T>, max: usize) -> Result<More, TaskError> {
        into.extend(self.left.by_ref().take(max));
        Ok(if self.left.len() == 0 { More::No } else { More::Yes })
    }
}

impl<T> Positioned for ItemsPart<T> {
    type Position = u64;

    fn position(&self) -> u64 {
        (self.length - self.left.len()) as u64
    }
}
