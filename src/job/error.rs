//! Why a job is not built, sent or taken in.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use super::{options::NAME_BYTES_MAX, parallelism::Parallelism};
use crate::schema::TypeDescription;

/// Any error, boxed.
pub type BoxError = Box<dyn std::error::Error + Send + Sync + 'static>;

/// What [`Job::build`](crate::Job::build) returns when a flow cannot be laid out. Takes any error by `?`.
///
/// It is not an [`Error`](std::error::Error) itself, so that the conversion from every error type can exist.
pub struct BuildError(BoxError);

impl BuildError {
    /// An error that says `message`.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into().into())
    }

    /// The error and its sources, joined by `: `.
    pub(crate) fn message(&self) -> String {
        message_of(&*self.0)
    }
}

impl<E: Into<BoxError>> From<E> for BuildError {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl fmt::Debug for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// `error` and its sources, joined by `: `.
pub(crate) fn message_of(error: &(dyn std::error::Error + 'static)) -> String {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        message.push_str(": ");
        message.push_str(&error.to_string());
        source = error.source();
    }
    message
}

/// A worker in a sentence.
fn worker(name: &str) -> String {
    if name.is_empty() { "the JobManager's process".to_owned() } else { format!("worker `{name}`") }
}

/// Why a flow was refused when it was built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum BuildRefusal {
    /// `build` returned an error.
    #[error("{0}")]
    User(String),
    /// `build` panicked.
    #[error("`build` panicked: {0}")]
    Panicked(String),
    /// A worker laid out another flow: its program differs, or `build` is not deterministic.
    #[error("worker `{worker}` laid out another flow: {difference}")]
    WorkerDiffers {
        /// The worker's name.
        worker: String,
        /// The first difference.
        difference: String,
    },
    /// A worker went while the job was being prepared on it. Nothing of the job has run.
    #[error("worker `{worker}` was lost while the job was being prepared")]
    WorkerLost {
        /// The worker's name.
        worker: String,
    },
    /// The environment has workers in other processes, and none was there for as long as `Limits::slots_deadline`. Nothing of
    /// the job has run.
    #[error("no worker has joined within {} s", waited.as_secs_f64())]
    NoWorker {
        /// For how long the job has waited.
        waited: Duration,
    },
    /// The job was stopped, cancelled or deleted while it waited for a worker. Nothing of it has run.
    #[error("the job was called off while it waited for a worker")]
    CalledOff,
    /// Two workers did not reach each other, or did not prove themselves. Nothing of the job has run.
    #[error("{} does not reach {}: {message}", worker(a), worker(b))]
    WorkersApart {
        /// The worker that says so; empty for the JobManager's process.
        a: String,
        /// The other one.
        b: String,
        /// What went wrong.
        message: String,
    },
    /// A job that is to [begin anew](crate::Restart) when it fails has a source that cannot be read again.
    #[error(
        "`{operator}` cannot be read again, so the job cannot begin anew when it fails: use a source that can, or `Restart::never()`"
    )]
    ReadOnce {
        /// The operator of the source.
        operator: String,
    },
    /// Two services have one name.
    #[error("service `{service}` is registered twice")]
    DuplicateService {
        /// The name.
        service: String,
    },
    /// Two outputs have one name.
    #[error("output `{output}` is named twice")]
    DuplicateOutput {
        /// The name.
        output: String,
    },
    /// Two inputs have one name.
    #[error("input `{input}` is named twice")]
    DuplicateInput {
        /// The name.
        input: String,
    },
    /// Two operators have one uid.
    #[error("two operators have the uid `{uid}`")]
    DuplicateUid {
        /// The uid.
        uid: String,
    },
    /// A parallelism of 0 was asked for.
    #[error("`{operator}` asks for a parallelism of 0; the least is 1")]
    ZeroParallelism {
        /// The operator, or `submit` for the job's own parallelism.
        operator: String,
    },
    /// More instances than there may be: 128 behind `key_by`, 1,024 elsewhere.
    #[error("`{operator}` asks for a parallelism of {asked}; the most is {limit}")]
    TooParallel {
        /// The operator.
        operator: String,
        /// What was asked for.
        asked: usize,
        /// The most there may be.
        limit: usize,
    },
    /// A stream that nothing consumes.
    #[error("nothing consumes the stream behind `{operator}`; end it with a sink, an output or `for_each`")]
    Unconsumed {
        /// The operator the stream comes from.
        operator: String,
    },
    /// An operator that brings together equal instances of its inputs was given streams that differ in their number.
    #[error(
        "`{operator}` brings together equal instances of its streams, which must have the same number of them whatever the job's \
         parallelism; one has {left} here and the other {right}: `gather` both, or give both the same number"
    )]
    UnequalParallelism {
        /// The operator.
        operator: String,
        /// Parallelism of the first stream.
        left: Parallelism,
        /// Parallelism of the other.
        right: Parallelism,
    },
    /// Streams of different flows were joined.
    #[error("`{operator}` joins streams of two different flows")]
    ForeignStream {
        /// The operator.
        operator: String,
    },
    /// Nothing fills a future.
    #[error("nothing fills the future `{future}`; end a stream in it with `fill_future`")]
    UnfilledFuture {
        /// The name.
        future: String,
    },
    /// Two streams fill one future.
    #[error("the future `{future}` is filled twice; `union` the two streams first")]
    FutureFilledTwice {
        /// The name.
        future: String,
    },
    /// Two futures, or loops, have one name.
    #[error("two futures or loops are named `{future}`")]
    DuplicateFuture {
        /// The name.
        future: String,
    },
    /// A limit of 0 calls in flight.
    #[error("`{operator}` allows 0 calls in flight; the least is 1")]
    ZeroConcurrency {
        /// The operator.
        operator: String,
    },
    /// A source cannot be read.
    #[error("source `{source_name}`: {message}")]
    Source {
        /// The source's operator name.
        source_name: String,
        /// Why not.
        message: String,
    },
    /// A name is too long.
    #[error("the name of {what} takes {bytes} bytes; the most is {limit}")]
    NameTooLong {
        /// What has the name, such as `an output`.
        what: String,
        /// The bytes of the name.
        bytes: usize,
        /// The most there may be.
        limit: usize,
    },
    /// Two side outputs of one operator have one name.
    #[error("`{operator}` has two side outputs named `{side_output}`")]
    DuplicateSideOutput {
        /// The operator's kind.
        operator: String,
        /// The name.
        side_output: String,
    },
    /// The job's splits were made elsewhere, and none for this source: its flow was laid out in another way there.
    #[error(
        "no splits were made for source `{source_name}` where the job was accepted: `build` laid out another flow there"
    )]
    SplitsMissing {
        /// The source's operator name.
        source_name: String,
    },
    /// Splits that were made elsewhere are not of the source's type, or too many.
    #[error("the splits that were made for source `{source_name}` cannot be used: {message}")]
    SplitsUnreadable {
        /// The source's operator name.
        source_name: String,
        /// Why not.
        message: String,
    },
    /// Splits were made elsewhere for a source that the flow does not have.
    #[error(
        "splits were made for source `{source_name}` where the job was accepted, but `build` laid out no such source here"
    )]
    SplitsUnclaimed {
        /// The source's operator name.
        source_name: String,
    },
}

/// # Errors
///
/// The name of `what` is too long.
pub(crate) fn check_name(what: &str, name: &str) -> Result<(), BuildRefusal> {
    if name.len() <= NAME_BYTES_MAX {
        return Ok(());
    }
    Err(BuildRefusal::NameTooLong { what: what.to_owned(), bytes: name.len(), limit: NAME_BYTES_MAX })
}

/// Why a job cannot be sent to another process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum NotSendable {
    Closure { job: String },
    Encode { job: String, message: String },
}

/// Why a process does not run a job that was sent to it. *Here* is the sender, *there* this process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum JobRefusal {
    Unknown { name: String, known: Vec<String> },
    TypeDiffers { name: String, there: Box<TypeDescription> },
    VersionDiffers { name: String, here: u32, there: u32 },
    Parameters { name: String, message: String },
}
