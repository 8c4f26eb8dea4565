//! Sources that can be read again: from the beginning, or from where somebody has come to.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    dataplane::{
        context::TaskContext,
        error::TaskError,
        source::{More, Part, Positioned},
    },
    flow::{
        Flow,
        graph::Origin,
        source::too_many,
        splits::{EncodedSplit, SourceSplits},
        stream::Stream,
    },
    job::{BuildRefusal, Parallelism},
};

/// A bounded source that is read in parallel parts, and can be read again: from the beginning, or from any position that a
/// part had come to.
///
/// A *split* is what one instance reads, as data. A job's splits are made once, where the job is accepted, and travel to
/// wherever its tasks run; so all of them go by one answer to what there is to read, such as which files are in a folder.
/// A *position* is how far a split has been read.
///
/// ```
/// use std::ops::Range;
/// use proscenium::{LocalEnvironment, More, Part, Positioned, ReplayableSource, TaskError, job_fn};
///
/// /// The squares of the numbers below `end`.
/// struct Squares {
///     end: u64,
/// }
///
/// struct SquaresPart {
///     split: Range<u64>,
///     read: u64,
/// }
///
/// impl ReplayableSource for Squares {
///     type Item = u64;
///     type Split = Range<u64>;
///     type Position = u64;
///     type Part = SquaresPart;
///
///     fn splits(&mut self, parts: usize) -> Result<Vec<Range<u64>>, TaskError> {
///         let parts = parts as u64;
///         Ok((0..parts).map(|part| self.end * part / parts..self.end * (part + 1) / parts).collect())
///     }
///
///     fn open(&self, split: Range<u64>, at: u64) -> Result<SquaresPart, TaskError> {
///         Ok(SquaresPart { split, read: at })
///     }
/// }
///
/// impl Part for SquaresPart {
///     type Item = u64;
///
///     fn read(&mut self, into: &mut Vec<u64>, max: usize) -> Result<More, TaskError> {
///         let from = self.split.start + self.read;
///         let to = self.split.end.min(from + max as u64);
///         into.extend((from..to).map(|n| n * n));
///         self.read += to - from;
///         Ok(if to == self.split.end { More::No } else { More::Yes })
///     }
/// }
///
/// impl Positioned for SquaresPart {
///     type Position = u64;
///
///     fn position(&self) -> u64 {
///         self.read
///     }
/// }
///
/// let env = LocalEnvironment::new("doc");
/// let job = job_fn("squares", |flow| {
///     flow.from_batch(Squares { end: 5 }).sum().collect("sum");
///     Ok(())
/// });
/// let job = env.submit(job).autostop(true).blocking()?;
/// assert_eq!(job.output::<u64>("sum").blocking()?, [30]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// A source may be read from its beginning as often as a job is started anew, so it must yield the same items each time; one
/// that cannot is a [`BatchSource`](crate::BatchSource). Its value is made by [`Job::build`](crate::Job::build), in each
/// process that hosts tasks of the job. There `splits` may never be called: what `open` needs to know of it is in the split.
pub trait ReplayableSource: Send + Sync + 'static {
    /// What is read.
    type Item;
    /// What one instance reads. Encoded it takes at most 128 MiB.
    type Split: Serialize + DeserializeOwned + Clone + Send + 'static;
    /// How far a split has been read. The default is its beginning, whatever the split.
    type Position: Serialize + DeserializeOwned + Default + Send + 'static;
    /// Reads a split.
    type Part: Part<Item = Self::Item> + Positioned<Position = Self::Position>;

    /// Finds out what there is to read: at most `parts` splits, which together yield each item once. Fewer are fine: the
    /// instances without one end at once. It is called at most once, in `build`, and may block.
    ///
    /// # Errors
    ///
    /// Whatever keeps the source from being read at all, such as a missing file. It refuses the flow.
    fn splits(&mut self, parts: usize) -> Result<Vec<Self::Split>, TaskError>;

    /// The part that reads `split` from position `at` on: what follows are exactly the items that the part whose
    /// [`position`](Positioned::position) it was had not given out.
    ///
    /// It is called in the task that reads the part, before the first read, on a thread that other tasks share, so it must
    /// not block for long; several tasks may call it at the same time.
    ///
    /// # Errors
    ///
    /// An error fails the job, as one of [`Part::read`] at the first item.
    fn open(&self, split: Self::Split, at: Self::Position) -> Result<Self::Part, TaskError>;
}

impl Flow {
    /// A source of so many instances as the job's parallelism. `called` is what the user called to have it.
    pub(super) fn replayed<S>(&mut self, kind: &'static str, called: &str, mut source: S) -> Stream<S::Item>
    where
        S: ReplayableSource,
        S::Item: Send + 'static,
    {
        let instances = self.parallelism();
        let (given, place) = {
            let blueprint = self.blueprint.borrow();
            (blueprint.options.splits.clone(), blueprint.replayable_sources().count())
        };
        let splits = match given.as_ref().map(|given| given.0.get(place)) {
            None => make(&mut source, called, instances),
            Some(Some(of)) => take(of, instances).map(|splits| (splits, Vec::new())),
            // Refused once operators have their names.
            Some(None) => Ok((Vec::new(), Vec::new())),
        };
        let (splits, made) = splits.unwrap_or_else(|refusal| {
            self.blueprint.borrow_mut().refuse(refusal);
            (Vec::new(), Vec::new())
        });
        let source = Arc::new(source);
        let part = |split| Replayed { closed: Some((Arc::clone(&source), split, S::Position::default())), part: None };
        let parts = splits.into_iter().map(part).collect();
        self.parts(kind, Parallelism::Job, Origin::Replayable(made), parts)
    }
}

/// The splits of a source for so many instances, also as they travel.
fn make<S: ReplayableSource>(
    source: &mut S,
    called: &str,
    instances: usize,
) -> Result<(Vec<S::Split>, Vec<EncodedSplit>), BuildRefusal> {
    let refuse = |message| BuildRefusal::Source { source_name: called.to_owned(), message };
    let splits = source.splits(instances).map_err(|error| refuse(error.message()))?;
    if splits.len() > instances {
        return Err(refuse(too_many(splits.len(), instances)));
    }
    let encoded = splits.iter().map(EncodedSplit::of).collect::<Result<_, _>>();
    let encoded = encoded.map_err(|error| refuse(format!("a split cannot be encoded: {error}")))?;
    Ok((splits, encoded))
}

/// The splits that were made elsewhere.
fn take<T: DeserializeOwned>(of: &SourceSplits, instances: usize) -> Result<Vec<T>, BuildRefusal> {
    let refuse = |message| BuildRefusal::SplitsUnreadable { source_name: of.source.clone(), message };
    if of.splits.len() > instances {
        return Err(refuse(too_many(of.splits.len(), instances)));
    }
    of.splits.iter().map(|split| split.decode().map_err(|error| refuse(error.to_string()))).collect()
}

/// A part that is opened in its task, when it is first read: a process opens those of its own tasks only.
struct Replayed<S: ReplayableSource> {
    closed: Option<(Arc<S>, S::Split, S::Position)>,
    part: Option<S::Part>,
}

impl<S: ReplayableSource> Replayed<S> {
    fn opened(&mut self) -> Result<&mut S::Part, TaskError> {
        if let Some((source, split, at)) = self.closed.take() {
            self.part = Some(source.open(split, at)?);
        }
        self.part.as_mut().ok_or_else(|| TaskError::new("the part could not be opened before"))
    }
}

impl<S: ReplayableSource> Part for Replayed<S> {
    type Item = S::Item;

    fn read(&mut self, into: &mut Vec<S::Item>, max: usize) -> Result<More, TaskError> {
        self.opened()?.read(into, max)
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        ctx: &TaskContext,
        into: &mut Vec<S::Item>,
        max: usize,
    ) -> Poll<Result<More, TaskError>> {
        match self.opened() {
            Ok(part) => part.poll_read(cx, ctx, into, max),
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

#[cfg(test)]
mod tests;
