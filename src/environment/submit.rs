//! Submitting a job.

use std::{fmt, future::IntoFuture, sync::Arc, time::Duration};

use futures::future::BoxFuture;

use crate::{
    blocking::block_on,
    flow::JobPayload,
    handle::JobHandle,
    job::{BuildRefusal, ErrorPolicy, HeldBy, JobId, JobOptions, JobRefusal, NotSendable, Restart},
    link::{Link, Refusal, SubmitJob},
};

/// A job about to be submitted: set what differs from the defaults, then await it.
///
/// Made by [`LocalEnvironment::submit`](crate::LocalEnvironment::submit). Awaiting it submits the job and yields its
/// [`JobHandle`] once its flow has been built.
///
/// # Errors
///
/// Awaiting it fails with [`SubmitError`], which says whether a job exists.
///
/// # Cancel safety
///
/// If the future is dropped half-way, the job may or may not run; [`Environment::jobs`](crate::Environment::jobs)
/// lists it if it does.
#[must_use = "nothing is submitted until it is awaited"]
pub struct Submit {
    link: Arc<dyn Link>,
    payload: JobPayload,
    options: JobOptions,
}

impl Submit {
    pub(super) fn new(link: Arc<dyn Link>, payload: JobPayload) -> Self {
        let by = HeldBy { client: link.environment().to_owned(), address: None };
        Self { link, payload, options: JobOptions { by, ..JobOptions::default() } }
    }

    /// Whether the job's services end by themselves once its tasks have finished. Default: no, the job is then
    /// [`Idle`](crate::JobState::Idle), and its services, pipelines among them, stay callable until `stop`.
    ///
    /// A job that registers no service ends with its tasks, whatever is said here, since nothing of it could be called.
    pub fn autostop(mut self, autostop: bool) -> Self {
        self.options.autostop = autostop;
        self
    }

    /// The parallel instances of an operator that does not say otherwise. Default: the environment's task threads.
    /// Zero is refused at submit.
    pub fn parallelism(mut self, instances: usize) -> Self {
        self.options.parallelism = Some(instances);
        self
    }

    /// The job's name. Default: that of its type. Names need not be unique.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.options.name = Some(name.into());
        self
    }

    /// How long the job may run; then it is cancelled with the reason *deadline*. If it is idle by then, it keeps the
    /// outcome that its tasks have earned, and its services stop. Default: without limit.
    pub fn run_limit(mut self, limit: Duration) -> Self {
        self.options.run_limit = Some(limit);
        self
    }

    /// For how long the job goes on while no client holds a handle to it; then it is stopped as by
    /// [`stop`](JobHandle::stop), with [`Warning::LeaseExpired`](crate::Warning::LeaseExpired) among its warnings. Default:
    /// without limit.
    ///
    /// A handle counts for as long as it, a clone, or a service, input, output, watch or wait that came from it lives; that
    /// of a remote environment, for as long as its client is connected too. A client whose connection is lost and made anew
    /// within the lease goes on holding. Any handle will do, one of [`Environment::job`](crate::Environment::job) for
    /// example, but for those of clients with the key of a [reader](crate::KeyRole); and the lease runs anew when the last one is gone. It also runs while the job is paused or idle. A
    /// job that has not drained for as long again, because nobody reads its output, say, is cancelled with the reason
    /// [`LeaseExpired`](crate::CancelReason::LeaseExpired). [`JobStatus::held_by`](crate::JobStatus::held_by) says who held it last.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.options.lease = Some(lease);
        self
    }

    /// Whether the job begins anew if it fails, how often and after what delay: see [`Restart`]. Default: it does not.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use proscenium::{LocalEnvironment, ParallelRange, Restart, job_fn};
    ///
    /// let env = LocalEnvironment::new("doc");
    /// let job = job_fn("squares", |flow| {
    ///     flow.from_batch(ParallelRange::new(1..4)).map(|x| x * x).collect("squares");
    ///     Ok(())
    /// });
    /// let job = env.submit(job).restart(Restart::fixed(3, Duration::from_secs(1))).parallelism(1).blocking()?;
    /// let squares: Vec<u64> = job.output("squares").blocking()?;
    /// assert_eq!(squares, [1, 4, 9]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`BuildRefusal::ReadOnce`] at submit, if the job may begin anew and one of its sources cannot be read again: an iterator, a
    /// stream, or an input.
    pub fn restart(mut self, restart: Restart) -> Self {
        self.options.restart = restart;
        self
    }

    /// What happens to an item that user code could not process. Default: the job fails.
    pub fn error_policy(mut self, policy: ErrorPolicy) -> Self {
        self.options.error_policy = policy;
        self
    }

    /// Submits, and blocks the calling thread until the flow has been built.
    ///
    /// # Errors
    ///
    /// [`SubmitError`], which says whether a job exists.
    pub fn blocking(self) -> Result<JobHandle, SubmitError> {
        block_on(self.into_future())
    }

    pub(super) fn link(&self) -> Arc<dyn Link> {
        Arc::clone(&self.link)
    }
}

impl IntoFuture for Submit {
    type Output = Result<JobHandle, SubmitError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        // Drawn here, on the client's side: a submit repeated after a lost reply will name the same job.
        let id = JobId::drawn(self.link.host());
        Box::pin(async move {
            let Self { link, payload, options } = self;
            if options.parallelism == Some(0) {
                return Err(SubmitError::Build(BuildRefusal::ZeroParallelism { operator: "submit".to_owned() }));
            }
            let opened = link.submit(SubmitJob { id, options, payload }).await;
            let opened = opened.map_err(|refusal| SubmitError::of(id, refusal))?;
            Ok(JobHandle::new(link, id, opened))
        })
    }
}

impl fmt::Debug for Submit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Submit").field("job", &self.payload).field("options", &self.options).finish_non_exhaustive()
    }
}

/// Why a job was not accepted. No job exists then, but perhaps in the case of [`FateUnknown`](Self::FateUnknown).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// Its flow could not be built. To submit the same job again fails in the same way.
    #[error("the flow could not be built")]
    Build(#[source] BuildRefusal),
    /// The job is a closure, which cannot be sent to another process.
    #[error(
        "job `{job}` is a closure, which cannot be sent to a node: declare a type that implements `Job`, and link it into the node with `jobs![..]`"
    )]
    Closure {
        /// The job's name.
        job: String,
    },
    /// The node has no job type of that name.
    #[error("the node knows no job `{job}`, but {}: link the job's type into the node with `jobs![..]`", listed(.known))]
    UnknownJob {
        /// The name of the job's type.
        job: String,
        /// The names that the node knows.
        known: Vec<String>,
    },
    /// The node was built with another definition of the job's type.
    #[error("the parameters of job `{job}` differ from the node's: {difference}; build both from the same source")]
    TypeDiffers {
        /// The name of the job's type.
        job: String,
        /// Where they differ; *here* is this process, *there* the node.
        difference: String,
    },
    /// The node was built with another [`Job::VERSION`](crate::Job::VERSION).
    #[error("job `{job}` is of version {here} here and {there} on the node; build both from the same source")]
    VersionDiffers {
        /// The name of the job's type.
        job: String,
        /// The version in this process.
        here: u32,
        /// The version on the node.
        there: u32,
    },
    /// The parameters could not be encoded here, or not be decoded on the node.
    #[error("the parameters of job `{job}` did not reach the node: {message}")]
    Parameters {
        /// The name of the job's type.
        job: String,
        /// What was wrong.
        message: String,
    },
    /// There was no connection to the node. The job was not sent.
    #[error("the node cannot be reached: {message}")]
    Unreachable {
        /// What was seen of it.
        message: String,
    },
    /// The job was sent, and the connection was lost for good before the node answered: the job may exist.
    /// [`Environment::job`](crate::Environment::job) tells, once the node can be reached.
    #[error("whether {id} was accepted is not known: {message}")]
    FateUnknown {
        /// The identifier under which it exists, if it does.
        id: JobId,
        /// What was seen of the loss.
        message: String,
    },
    /// The node could not write the job into its history, and runs no job that it could not account for afterwards.
    #[error("the job could not be written into the node's history: {message}")]
    NotRecorded {
        /// What was in the way: a full disk, say.
        message: String,
    },
    /// The key that the environment was connected with does not have that right, see [`KeyRole`](crate::KeyRole), or was
    /// revoked meanwhile. Nothing was done.
    #[error("{message}")]
    Forbidden {
        /// Which key it is, and what it lacks, or that it was revoked.
        message: String,
    },
    /// The key that the environment was connected with has as many jobs that have not ended as it may have, through
    /// whichever connections they came; see [`NodeBuilder::submitter_jobs_max`](crate::NodeBuilder::submitter_jobs_max).
    /// The job was not accepted, and may be once another one has ended.
    #[error("the key `{key}` has {limit} jobs that have not ended, and may have no more")]
    TooManyJobs {
        /// The name of the key.
        key: String,
        /// How many it may have.
        limit: usize,
    },
    /// The environment is closed or closing.
    #[error("the environment is closed")]
    EnvironmentClosed,
    /// The runtime itself broke a rule it promises to keep. This is a bug in proscenium.
    #[error("internal error: {0}")]
    Internal(String),
}

impl SubmitError {
    fn of(id: JobId, refusal: Refusal) -> Self {
        match refusal {
            Refusal::Build(refusal) => Self::Build(refusal),
            Refusal::Job(refusal) => Self::of_job(refusal),
            Refusal::JobTypeDiffers { job, difference } => Self::TypeDiffers { job, difference },
            Refusal::NotSendable(NotSendable::Closure { job }) => Self::Closure { job },
            Refusal::NotSendable(NotSendable::Encode { job, message }) => Self::Parameters { job, message },
            Refusal::Unreachable { message } => Self::Unreachable { message },
            Refusal::FateUnknown { message } => Self::FateUnknown { id, message },
            Refusal::NotRecorded { message } => Self::NotRecorded { message },
            Refusal::EnvironmentClosed => Self::EnvironmentClosed,
            Refusal::Forbidden { message } => Self::Forbidden { message },
            Refusal::TooManyJobs { key, limit } => Self::TooManyJobs { key, limit },
            Refusal::Internal(what) => Self::Internal(what),
            refusal @ (Refusal::NoSuchJob { .. }
            | Refusal::Expired { .. }
            | Refusal::Conflict { .. }
            | Refusal::Lost { .. }
            | Refusal::KeyRing(_)) => Self::Internal(format!("{refusal:?}")),
        }
    }

    fn of_job(refusal: JobRefusal) -> Self {
        match refusal {
            JobRefusal::Unknown { name, known } => Self::UnknownJob { job: name, known },
            JobRefusal::VersionDiffers { name, here, there } => Self::VersionDiffers { job: name, here, there },
            JobRefusal::Parameters { name, message } => Self::Parameters { job: name, message },
            JobRefusal::TypeDiffers { name, there } => {
                Self::TypeDiffers { job: name, difference: format!("there it is `{}`", there.text()) }
            }
        }
    }
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { "none at all".to_owned() } else { format!("`{}`", names.join("`, `")) }
}
