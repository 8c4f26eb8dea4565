//! A user's job type and what is known of a job: ids, status, outcome.

#[cfg(any(test, fuzzing))]
#[allow(clippy::missing_panics_doc, reason = "to panic is how a target fails")]
pub(crate) mod fuzz;
mod handle;
mod id;
mod options;
mod outcome;
mod registry;
mod status;

use std::{fmt, sync::Arc};

use serde::{Serialize, de::DeserializeOwned};

pub use self::handle::{BlockingChanges, BlockingJob, Changes, ControlError, JobHandle, QueryError};
pub(crate) use self::id::{Attempt, Incarnation, ServiceId};
pub use self::id::{JobId, ParseJobIdError, TaskId};
pub use self::options::{ErrorPolicy, Limits};
pub(crate) use self::options::{HeldBy, JobOptions, NAME_BYTES_MAX};
pub use self::outcome::{CancelReason, Drained, FailureCause, JobError, Outcome, Warning};
#[cfg(feature = "cli")]
pub(crate) use self::registry::Described;
pub use self::registry::JobRegistry;
pub(crate) use self::registry::{EncodedJob, JobRefusal, NotSendable};
pub use self::status::{
    ActorState, DeadLetter, DeadLetters, EnvironmentInfo, Explanation, Health, Holder, JobState, JobStatus,
    ServiceStatus, TaskCounters, TaskStatus,
};
use crate::{flow::Flow, schema::TypeDescription};

/// Any error, boxed.
pub type BoxError = Box<dyn std::error::Error + Send + Sync + 'static>;

/// A job: serializable parameters, and a `build` that lays out its flow.
///
/// The *value* travels to where the job runs; `build` runs there, once for each attempt and in each process that
/// hosts actors of the job. It must be deterministic in `self`: every call lays out the same graph. It runs on a
/// thread where blocking is allowed.
pub trait Job: Serialize + DeserializeOwned + Send + 'static {
    /// The name under which a node knows this type.
    const NAME: &'static str;

    /// Raised when the meaning of the parameters changes without their structure changing.
    const VERSION: u32 = 1;

    /// Lays out sources, operators, sinks and services.
    ///
    /// # Errors
    ///
    /// Whatever keeps the flow from being laid out; `submit` then fails with [`SubmitError::Build`] and no job exists.
    ///
    /// [`SubmitError::Build`]: crate::SubmitError::Build
    fn build(&self, flow: &mut Flow) -> Result<(), BuildError>;
}

/// What [`Job::build`] returns when a flow cannot be laid out. Takes any error by `?`.
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

/// What can be submitted: every [`Job`], and the closure jobs of [`job_fn`].
pub trait IntoJob: sealed::Sealed {
    #[doc(hidden)]
    fn into_payload(self) -> JobPayload;
}

/// A job made of a name and a closure; see [`job_fn`].
pub struct JobFn<F> {
    name: String,
    build: F,
}

impl<F> fmt::Debug for JobFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobFn").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A job from a closure, for experiments in a local environment.
///
/// A closure cannot be sent to another process: a remote environment refuses it and says to write a [`Job`] type.
///
/// ```
/// use proscenium::{LocalEnvironment, job_fn};
///
/// let env = LocalEnvironment::new("doc");
/// let job = job_fn("squares", |flow| {
///     flow.from_batch(1..=3u64).map(|x| x * x).collect("squares");
///     Ok(())
/// });
/// let job = env.submit(job).autostop(true).blocking()?;
/// let squares: Vec<u64> = job.output("squares").blocking()?;
/// assert_eq!(squares, [1, 4, 9]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn job_fn<F>(name: impl Into<String>, build: F) -> JobFn<F>
where
    F: Fn(&mut Flow) -> Result<(), BuildError> + Send + 'static,
{
    JobFn { name: name.into(), build }
}

/// What travels of a job: its value, moved within the process, or its name and encoded parameters.
pub struct JobPayload(pub(crate) Box<dyn ErasedJob>);

impl fmt::Debug for JobPayload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("JobPayload").field(&self.0.name()).finish()
    }
}

/// A job whose type is no longer known.
pub(crate) trait ErasedJob: Send {
    fn name(&self) -> &str;
    fn build(&self, flow: &mut Flow) -> Result<(), BuildError>;
    /// The form in which it goes to another process.
    fn encode(&self) -> Result<EncodedJob, NotSendable>;
    /// The type of the parameters; none for a closure.
    fn describe(&self) -> Option<Arc<TypeDescription>>;
}

struct Typed<J>(J);

impl<J: Job> ErasedJob for Typed<J> {
    fn name(&self) -> &str {
        J::NAME
    }

    fn build(&self, flow: &mut Flow) -> Result<(), BuildError> {
        self.0.build(flow)
    }

    fn encode(&self) -> Result<EncodedJob, NotSendable> {
        EncodedJob::of(&self.0)
    }

    fn describe(&self) -> Option<Arc<TypeDescription>> {
        Some(TypeDescription::of::<J>())
    }
}

impl<F> ErasedJob for JobFn<F>
where
    F: Fn(&mut Flow) -> Result<(), BuildError> + Send + 'static,
{
    fn name(&self) -> &str {
        &self.name
    }

    fn build(&self, flow: &mut Flow) -> Result<(), BuildError> {
        (self.build)(flow)
    }

    fn encode(&self) -> Result<EncodedJob, NotSendable> {
        Err(NotSendable::Closure { job: self.name.clone() })
    }

    fn describe(&self) -> Option<Arc<TypeDescription>> {
        None
    }
}

impl<J: Job> IntoJob for J {
    fn into_payload(self) -> JobPayload {
        JobPayload(Box::new(Typed(self)))
    }
}

impl<F> IntoJob for JobFn<F>
where
    F: Fn(&mut Flow) -> Result<(), BuildError> + Send + 'static,
{
    fn into_payload(self) -> JobPayload {
        JobPayload(Box::new(self))
    }
}

/// A job that was read from text.
impl IntoJob for JobPayload {
    fn into_payload(self) -> JobPayload {
        self
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::JobPayload {}
    impl<J: super::Job> Sealed for J {}
    impl<F> Sealed for super::JobFn<F> where F: Fn(&mut super::Flow) -> Result<(), super::BuildError> + Send + 'static {}
}
