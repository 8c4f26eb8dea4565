//! Where items enter a flow.

use crate::{
    dataplane::{
        error::TaskError,
        source::{More, Part},
    },
    flow::{Flow, graph::Origin, replay::ReplayableSource, stream::Stream},
    job::Parallelism,
};

/// A bounded source that is read in parallel parts, once. One that can be read again is a [`ReplayableSource`]; no type is
/// both.
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

/// What [`Flow::from_batch`](crate::Flow::from_batch) accepts: a [`ReplayableSource`], a [`BatchSource`], or anything
/// iterable.
///
/// `Kind` only keeps them apart; it is inferred, unless a type is of several kinds. So a type implements one of the traits.
pub trait IntoBatchSource<Kind> {
    /// What is read.
    type Item;

    #[doc(hidden)]
    fn begin(self, flow: &mut Flow) -> Stream<Self::Item>
    where
        Self::Item: Send + 'static;
}

/// Marks the iterable kind of [`IntoBatchSource`].
#[derive(Debug)]
pub enum Iterable {}

/// Marks the splittable kind of [`IntoBatchSource`].
#[derive(Debug)]
pub enum Splittable {}

/// Marks the replayable kind of [`IntoBatchSource`].
#[derive(Debug)]
pub enum Replayable {}

/// What the user called to have a source, and the kind of its operator.
const FROM_BATCH: &str = "from_batch";

impl<S: ReplayableSource> IntoBatchSource<Replayable> for S {
    type Item = S::Item;

    fn begin(self, flow: &mut Flow) -> Stream<S::Item>
    where
        S::Item: Send + 'static,
    {
        flow.replayed(FROM_BATCH, FROM_BATCH, self)
    }
}

impl<S: BatchSource> IntoBatchSource<Splittable> for S {
    type Item = S::Item;

    fn begin(self, flow: &mut Flow) -> Stream<S::Item>
    where
        S::Item: Send + 'static,
    {
        let instances = flow.parallelism();
        let parts = match self.split(instances) {
            Ok(parts) if parts.len() <= instances => parts,
            unsplit => {
                let message = unsplit.map_or_else(|error| error.message(), |parts| too_many(parts.len(), instances));
                flow.refuse_source(FROM_BATCH, message);
                Vec::new()
            }
        };
        flow.parts(FROM_BATCH, Parallelism::Job, Origin::Once, parts)
    }
}

impl<I> IntoBatchSource<Iterable> for I
where
    I: IntoIterator<IntoIter: Send + 'static>,
{
    type Item = I::Item;

    fn begin(self, flow: &mut Flow) -> Stream<I::Item>
    where
        I::Item: Send + 'static,
    {
        flow.parts(FROM_BATCH, Parallelism::Fixed(1), Origin::Once, vec![IteratorPart(self.into_iter())])
    }
}

/// What a source is refused with that yields more parts than there are instances to read them.
pub(super) fn too_many(parts: usize, instances: usize) -> String {
    format!("split into {parts} parts where {instances} were asked for")
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
