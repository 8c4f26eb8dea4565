//! How a job ended, and why.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use crate::job::{Holder, TaskId};

/// How a job ended. Every job ends exactly once, with exactly one of these.
///
/// It is a value and no error, because the end of a job is what was asked for. Where a job that failed is to go the way of
/// any other error, [`into_result`](Self::into_result) makes one of it, which `?` passes on.
///
/// ```
/// use proscenium::{Drained, JobError, LocalEnvironment, job_fn};
///
/// let env = LocalEnvironment::new("doc");
/// let divide = |by: u64| job_fn("divide", move |flow| {
///     flow.from_batch([1_u64, 2]).try_map(move |n| n.checked_div(by).ok_or("by zero".into())).collect("out");
///     Ok(())
/// });
/// let job = env.submit(divide(2)).blocking()?;
/// assert_eq!(job.blocking().wait()?.into_result()?, Drained::Completed);
///
/// let job = env.submit(divide(0)).blocking()?;
/// assert!(matches!(job.blocking().wait()?.into_result(), Err(JobError::Failed(_))));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a job that failed is an outcome too: look at it, or make a `Result` of it by `into_result`"]
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Outcome {
    /// Every task reached the end of its input, every account balanced, and the services stopped.
    Completed,
    /// `stop` cut at least one source short; everything emitted before that was processed.
    Stopped,
    /// The job was ended at once; `dropped` items that were in flight were discarded.
    Cancelled {
        /// Who or what cancelled it.
        reason: CancelReason,
        /// Items that sat in channels or buffers and were thrown away.
        dropped: u64,
    },
    /// User code or the runtime failed; the results are incomplete.
    Failed(FailureCause),
    /// The process that ran the job is gone, so nothing can be said of its results.
    Lost {
        /// What was seen of the loss.
        reason: String,
    },
}

impl Outcome {
    /// Whether the job processed the whole of its input.
    #[must_use]
    pub fn is_completed(&self) -> bool {
        matches!(self, Self::Completed)
    }

    /// Whether everything the sources emitted was processed: `Completed` or `Stopped`.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        matches!(self, Self::Completed | Self::Stopped)
    }

    /// Whether the job failed.
    #[must_use]
    pub fn is_failed(&self) -> bool {
        matches!(self, Self::Failed(_))
    }

    /// Why the job failed, if it did.
    #[must_use]
    pub fn failure(&self) -> Option<&FailureCause> {
        match self {
            Self::Failed(cause) => Some(cause),
            _ => None,
        }
    }

    /// `Ok` if everything the sources emitted was processed, else an error that `?` passes on.
    ///
    /// # Errors
    ///
    /// [`JobError`] if the job failed, was cancelled or is lost.
    pub fn into_result(self) -> Result<Drained, JobError> {
        match self {
            Self::Completed => Ok(Drained::Completed),
            Self::Stopped => Ok(Drained::Stopped),
            Self::Cancelled { reason, dropped } => Err(JobError::Cancelled { reason, dropped }),
            Self::Failed(cause) => Err(JobError::Failed(cause)),
            Self::Lost { reason } => Err(JobError::Lost { reason }),
        }
    }
}

/// How a job ended that processed everything its sources emitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Drained {
    /// As [`Outcome::Completed`]: that was the whole of its input.
    Completed,
    /// As [`Outcome::Stopped`]: `stop` cut at least one source short.
    Stopped,
}

impl fmt::Display for Drained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Completed => "completed",
            Self::Stopped => "stopped",
        })
    }
}

/// Why a job did not process everything its sources emitted, or why that is not known: an [`Outcome`] as an error.
///
/// As of every error of this crate, its `Display` says one thing, *the job failed*, and what is behind it is its
/// [`source`](std::error::Error::source): print the chain of both, as error reporters such as `anyhow` do. An
/// [`Outcome`] prints with its cause.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum JobError {
    /// User code or the runtime failed; the results are incomplete.
    #[error("the job failed")]
    Failed(#[source] FailureCause),
    /// The job was ended at once; `dropped` items that were in flight were discarded.
    #[error("the job was cancelled ({reason}), {dropped} items dropped")]
    Cancelled {
        /// Who or what cancelled it.
        reason: CancelReason,
        /// Items that sat in channels or buffers and were thrown away.
        dropped: u64,
    },
    /// The process that ran the job is gone, so nothing can be said of its results.
    #[error("the job is lost: {reason}")]
    Lost {
        /// What was seen of the loss.
        reason: String,
    },
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Completed => f.write_str("completed"),
            Self::Stopped => f.write_str("stopped"),
            Self::Cancelled { reason, dropped } => write!(f, "cancelled ({reason}), {dropped} items dropped"),
            Self::Failed(cause) => write!(f, "failed: {cause}"),
            Self::Lost { reason } => write!(f, "lost: {reason}"),
        }
    }
}

/// Who or what cancelled a job.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum CancelReason {
    /// [`JobHandle::cancel`](crate::JobHandle::cancel), or the second Ctrl+C under `run`.
    Requested,
    /// The job ran longer than its `run_limit`.
    Deadline,
    /// The environment that ran it was closed or dropped.
    EnvironmentClosed,
    /// The job was deleted by force.
    Deleted,
    /// No client had held a handle to the job for as long as its lease, and it had not ended for as long again.
    LeaseExpired,
}

impl fmt::Display for CancelReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Requested => "requested",
            Self::Deadline => "run limit reached",
            Self::EnvironmentClosed => "environment closed",
            Self::Deleted => "deleted by force",
            Self::LeaseExpired => "lease expired",
        })
    }
}

/// Why a job failed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum FailureCause {
    /// User code of an operator returned an error.
    #[error("operator `{operator}` (instance {instance}) failed at item {position}: {message}")]
    Operator {
        /// The operator's name.
        operator: String,
        /// Which parallel instance, from 0.
        instance: u32,
        /// The item's position among those this instance received, from 1; 0 where no item was being processed.
        position: u64,
        /// The error and its sources, joined by `: `.
        message: String,
    },
    /// User code of an operator panicked.
    #[error("operator `{operator}` (instance {instance}) panicked at item {position}: {message}")]
    OperatorPanicked {
        /// The operator's name.
        operator: String,
        /// Which parallel instance, from 0.
        instance: u32,
        /// The item's position among those this instance received, from 1; 0 where no item was being processed.
        position: u64,
        /// The panic's message.
        message: String,
    },
    /// A service failed more often than its restart intensity allows.
    #[error(
        "service `{service}` failed {failures} times within {} s, more than its restart limit: {message}",
        .window.as_secs_f64()
    )]
    ServiceFailed {
        /// The service's name.
        service: String,
        /// Failures within the window.
        failures: u32,
        /// The window of the restart intensity.
        window: Duration,
        /// The last failure.
        message: String,
    },
    /// What a channel's two ends, or an operator, counted does not add up: items were lost or invented.
    #[error("the accounts of {place} do not balance: {detail}")]
    Accounts {
        /// The channel or operator.
        place: String,
        /// The figures.
        detail: String,
    },
    /// More items than a limit allows wait to go round in a feedback loop.
    #[error("more than {limit_items} items wait to go round in the loop `{future}`")]
    LoopTooLarge {
        /// The name of the loop's future.
        future: String,
        /// `Limits::loop_items_max`.
        limit_items: u64,
    },
    /// An operator within a feedback loop gave something out at the end of its input, which cannot go round again.
    #[error(
        "the loop `{future}` had gone quiet when {items} more items came to go round; what an operator gives out at the end of its input can only leave a loop"
    )]
    LoopEnded {
        /// The name of the loop's future.
        future: String,
        /// How many came at once.
        items: u64,
    },
    /// A named output outgrew its limit.
    #[error("output `{output}` outgrew its limit of {limit_bytes} bytes")]
    OutputTooLarge {
        /// The output's name.
        output: String,
        /// The limit in encoded bytes.
        limit_bytes: u64,
    },
    /// What a named output holds beyond its memory could not be written to disk.
    #[error("output `{output}` could not be written to disk: {message}")]
    OutputUnwritable {
        /// The output's name.
        output: String,
        /// What the operating system said.
        message: String,
    },
    /// User code did not return by the deadline and was abandoned with its thread.
    #[error("abandoned at the deadline, because user code did not return: {}", .what.join(", "))]
    Abandoned {
        /// The tasks and services that were given up.
        what: Vec<String>,
    },
    /// The runtime itself broke a rule it promises to keep. This is a bug in proscenium.
    #[error("internal error: {0}")]
    Internal(String),
    /// A worker process that had a part of the job was lost, or its connection to another one that had.
    #[error("worker `{worker}` was lost: {cause}")]
    WorkerLost {
        /// The worker's name.
        worker: String,
        /// How that was noticed.
        cause: String,
    },
    /// The job was to begin [anew](crate::Restart), and its flow could not be built or its workers not meet.
    #[error("the job could not begin anew: {message}")]
    NotBegunAnew {
        /// What was in the way.
        message: String,
    },
    /// One input of an operator that pairs items was further ahead of the other than the limit allows.
    #[error(
        "operator `{operator}` (instance {instance}) outgrew its limit of {limit_bytes} bytes: \
         one of its inputs is too far ahead of the other"
    )]
    BacklogTooLarge {
        /// The operator's name.
        operator: String,
        /// Which parallel instance, from 0.
        instance: u32,
        /// The limit in encoded bytes.
        limit_bytes: u64,
    },
    /// What an operator keeps beyond its memory could not be written to disk, or read again.
    #[error("operator `{operator}` could not keep on disk what waits: {message}")]
    BacklogUnwritable {
        /// The operator's name.
        operator: String,
        /// What the operating system said.
        message: String,
    },
}

/// Something that went wrong without changing the outcome the job had earned.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Warning {
    /// A service did not stop by its deadline and was abandoned.
    ServiceAbandoned {
        /// The service's name.
        service: String,
    },
    /// A service's stop hook panicked.
    StopHookPanicked {
        /// The service's name.
        service: String,
    },
    /// A task did not return by the deadline and was abandoned with its thread.
    TaskAbandoned {
        /// The task's name.
        task: String,
        /// The task's number.
        id: TaskId,
    },
    /// A service failed while services were being stopped, so it was not restarted; calls it had accepted are not
    /// answered.
    ServiceFailedLate {
        /// The service's name.
        service: String,
        /// The failure.
        message: String,
    },
    /// The job was stopped, because no client had held a handle to it for as long as its lease.
    LeaseExpired {
        /// The lease.
        lease: Duration,
        /// Who held the job last.
        holder: Option<Holder>,
    },
    /// What the two ends of a channel of a cancelled job counted does not add up. The number of dropped items is then
    /// not exact.
    Accounts {
        /// The channel.
        place: String,
        /// The figures.
        detail: String,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ServiceAbandoned { service } => {
                write!(f, "service `{service}` missed its stop deadline and was abandoned")
            }
            Self::StopHookPanicked { service } => write!(f, "the stop hook of service `{service}` panicked"),
            Self::ServiceFailedLate { service, message } => {
                write!(f, "service `{service}` failed while services were being stopped: {message}")
            }
            Self::Accounts { place, detail } => write!(f, "the accounts of {place} do not balance: {detail}"),
            Self::LeaseExpired { lease, holder } => {
                write!(f, "stopped, because no client held a handle for {lease:?}")?;
                holder.as_ref().map_or(Ok(()), |holder| write!(f, "; the last was {holder}"))
            }
            Self::TaskAbandoned { task, id } => write!(f, "task `{task}` ({id}) did not return and was abandoned"),
        }
    }
}
