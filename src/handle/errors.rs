//! Why a question about a job, or a change of its course, failed.

use crate::{
    job::{JobId, JobState},
    link::Refusal,
};

/// Why a question about a job or an environment was not answered. Nothing was changed by it; whether asking again
/// helps depends on the variant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QueryError {
    /// There is no job of this id, or it was deleted.
    #[error("no such job: {id}")]
    NoSuchJob {
        /// The id asked for.
        id: JobId,
    },
    /// The job ended so long ago, or so many jobs have ended since, that its record is gone.
    #[error("{id} has expired: it ended, and is no longer among the ended jobs that are kept")]
    Expired {
        /// The id asked for.
        id: JobId,
    },
    /// The node that ran the job is gone, and the job with it: nothing can be said of its results.
    #[error("{id} is lost: {reason}")]
    Lost {
        /// The id asked for.
        id: JobId,
        /// What was seen of the loss.
        reason: String,
    },
    /// There was no connection to the node for longer than
    /// [`Connect::reconnect_limit`](crate::Connect::reconnect_limit). The jobs may well go on there; ask again
    /// once the node can be reached.
    #[error("the node cannot be reached: {message}")]
    Unreachable {
        /// What was seen of it.
        message: String,
    },
    /// The key that the environment was connected with does not have that right, see [`KeyRole`](crate::KeyRole), or was
    /// revoked meanwhile. Nothing was done.
    #[error("{message}")]
    Forbidden {
        /// Which key it is, and what it lacks, or that it was revoked.
        message: String,
    },
    /// The environment is closed; nothing can be asked of it any more.
    #[error("the environment is closed")]
    EnvironmentClosed,
    /// The runtime itself broke a rule it promises to keep. This is a bug in proscenium.
    #[error("internal error: {0}")]
    Internal(String),
}

/// Why a request to change a job's course was refused. Nothing was changed by it, but for
/// [`FateUnknown`](Self::FateUnknown).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// There is no job of this id, or it was deleted.
    #[error("no such job: {id}")]
    NoSuchJob {
        /// The id asked for.
        id: JobId,
    },
    /// The job ended so long ago, or so many jobs have ended since, that its record is gone.
    #[error("{id} has expired: it ended, and is no longer among the ended jobs that are kept")]
    Expired {
        /// The id asked for.
        id: JobId,
    },
    /// What was asked for is not possible in the job's present state.
    #[error("cannot {operation} a job that is {state}")]
    Conflict {
        /// What was asked for: `pause`, `resume` or `delete`.
        operation: String,
        /// The state the job was in.
        state: JobState,
    },
    /// The node that ran the job is gone, and the job with it: nothing can be said of its results.
    #[error("{id} is lost: {reason}")]
    Lost {
        /// The id asked for.
        id: JobId,
        /// What was seen of the loss.
        reason: String,
    },
    /// There was no connection to the node, so the request was not sent.
    #[error("the node cannot be reached: {message}")]
    Unreachable {
        /// What was seen of it.
        message: String,
    },
    /// The request was sent, and the connection was lost for good before it was answered: it may have been fulfilled.
    #[error("whether the request was fulfilled is not known: {message}")]
    FateUnknown {
        /// What was seen of the loss.
        message: String,
    },
    /// The key that the environment was connected with does not have that right, see [`KeyRole`](crate::KeyRole), or was
    /// revoked meanwhile. Nothing was done.
    #[error("{message}")]
    Forbidden {
        /// Which key it is, and what it lacks, or that it was revoked.
        message: String,
    },
    /// The environment is closed, and with it every job of a local environment has ended.
    #[error("the environment is closed")]
    EnvironmentClosed,
    /// The runtime itself broke a rule it promises to keep. This is a bug in proscenium.
    #[error("internal error: {0}")]
    Internal(String),
}

impl From<Refusal> for QueryError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NoSuchJob { id } => Self::NoSuchJob { id },
            Refusal::Expired { id } => Self::Expired { id },
            Refusal::EnvironmentClosed => Self::EnvironmentClosed,
            Refusal::Forbidden { message } => Self::Forbidden { message },
            Refusal::Internal(what) => Self::Internal(what),
            Refusal::Lost { id, reason } => Self::Lost { id, reason },
            // A question changes nothing, so it does not matter whether it was asked.
            Refusal::Unreachable { message } | Refusal::FateUnknown { message } => Self::Unreachable { message },
            // Of a submit, or of an order.
            refusal @ (Refusal::Conflict { .. }
            | Refusal::Build(_)
            | Refusal::Job(_)
            | Refusal::JobTypeDiffers { .. }
            | Refusal::NotSendable(_)
            | Refusal::NotRecorded { .. }
            | Refusal::KeyRing(_)
            | Refusal::TooManyJobs { .. }) => Self::Internal(format!("{refusal:?}")),
        }
    }
}

impl From<Refusal> for ControlError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NoSuchJob { id } => Self::NoSuchJob { id },
            Refusal::Expired { id } => Self::Expired { id },
            Refusal::Conflict { operation, state } => Self::Conflict { operation, state },
            Refusal::EnvironmentClosed => Self::EnvironmentClosed,
            Refusal::Forbidden { message } => Self::Forbidden { message },
            Refusal::Internal(what) => Self::Internal(what),
            Refusal::Lost { id, reason } => Self::Lost { id, reason },
            Refusal::Unreachable { message } => Self::Unreachable { message },
            Refusal::FateUnknown { message } => Self::FateUnknown { message },
            // Of a submit.
            refusal @ (Refusal::Build(_)
            | Refusal::Job(_)
            | Refusal::JobTypeDiffers { .. }
            | Refusal::NotSendable(_)
            | Refusal::NotRecorded { .. }
            | Refusal::KeyRing(_)
            | Refusal::TooManyJobs { .. }) => Self::Internal(format!("{refusal:?}")),
        }
    }
}
