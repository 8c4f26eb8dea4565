//! Why a call or a tell failed, and whether it may be sent again.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::job::JobId;

/// Why a message to a service was not answered, or not taken.
///
/// Every kind of [`ServiceRef`](crate::ServiceRef) fails with this one set. [`fate`](CallError::fate) sorts it by the
/// question that decides what to do next: may I send it again?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The job has no service of that name. Refused: the name is wrong.
    #[error("no service `{service}` in this job, which has {}", list(.existing))]
    NoSuchService {
        /// The name asked for.
        service: String,
        /// The names that exist.
        existing: Vec<String>,
    },
    /// The service is of another actor type; on a node, of one with another name, whatever its module. Refused: the type is
    /// wrong.
    #[error("service `{service}` is of type {registered}, not {asked}")]
    WrongService {
        /// The service's name.
        service: String,
        /// The actor type asked for.
        asked: String,
        /// The actor type it was registered with.
        registered: String,
    },
    /// The service handles messages of that type but does not list it in its message table. Refused.
    #[error("service `{service}` does not accept {message}; it accepts {}", list(.accepted))]
    NotAccepted {
        /// The service's name.
        service: String,
        /// The type of the message.
        message: String,
        /// The names of the messages it accepts.
        accepted: Vec<String>,
    },
    /// The service takes no more messages, or none from there, because it or its job is being stopped. Not sent.
    #[error("service `{service}` is stopping; the message was not handled")]
    Stopping {
        /// The service's name.
        service: String,
    },
    /// The service had taken up the message when it panicked, was given up, or lost its asynchronous reply. What it did
    /// with the message by then is unknown.
    #[error("service `{service}` failed while it handled the message")]
    ServiceFailed {
        /// The service's name.
        service: String,
    },
    /// No reply came by the deadline. A message that still waited in the queue is withdrawn; one that had been taken up
    /// is handled to its end. Which of the two it was is not told: the fate is unknown.
    #[error("service `{service}` did not reply within {} s", .deadline.as_secs_f64())]
    Timeout {
        /// The service's name.
        service: String,
        /// The deadline of the call.
        deadline: Duration,
    },
    /// No such job is known. Not sent.
    #[error("no such job: {job}")]
    NoSuchJob {
        /// The job asked for.
        job: JobId,
    },
    /// The job ended so long ago that it has been forgotten. Not sent.
    #[error("{job} ended and has expired")]
    Expired {
        /// The job asked for.
        job: JobId,
    },
    /// The job has ended, and its services with it. Not sent.
    #[error("{job} has ended")]
    JobEnded {
        /// The job asked for.
        job: JobId,
    },
    /// The reference was decoded and never bound to an environment. Not sent.
    #[error("the reference to service `{service}` of {job} is not bound to an environment")]
    Unbound {
        /// The job of the service.
        job: JobId,
        /// The service's name.
        service: String,
    },
    /// The connection, or the worker that ran the service, was lost after the message had been sent. It may have been handled,
    /// and is not sent again.
    #[error("the connection was lost; what became of message `{message}` to service `{service}` is not known")]
    FateUnknown {
        /// The service's name.
        service: String,
        /// The name of the message.
        message: String,
    },
    /// There was no connection to the node. Not sent.
    #[error("the node cannot be reached: {message}")]
    Unreachable {
        /// What was seen of it.
        message: String,
    },
    /// The node that ran the job is gone, and its services with it. Not sent.
    #[error("{job} is lost: {reason}")]
    JobLost {
        /// The job asked for.
        job: JobId,
        /// What was seen of the loss.
        reason: String,
    },
    /// The message or its reply is of another type on the node. Refused.
    #[error(
        "message `{message}` to service `{service}` differs from the node's: {difference}; build both from the same source"
    )]
    TypeDiffers {
        /// The service's name.
        service: String,
        /// The name of the message.
        message: String,
        /// Where they differ; *here* is this process, *there* the node.
        difference: String,
    },
    /// The message could not be encoded, is larger than 16 MiB, or could not be decoded on the node. Refused. Of a told
    /// message that the node could not decode, the next one is told: [`EarlierNotCarried`](Self::EarlierNotCarried).
    #[error("message `{message}` did not reach service `{service}`: {why}")]
    NotCarried {
        /// The service's name.
        service: String,
        /// The name of the message.
        message: String,
        /// What was wrong.
        why: String,
    },
    /// The message was handled, and the reply could not be encoded, is larger than 16 MiB, or could not be decoded.
    #[error("the reply to message `{message}` did not come back from service `{service}`: {why}")]
    ReplyNotCarried {
        /// The service's name.
        service: String,
        /// The name of the message.
        message: String,
        /// What was wrong.
        why: String,
    },
    /// The environment was closed. Not sent.
    #[error("the environment is closed")]
    EnvironmentClosed,
    /// The key that the environment was connected with does not have that right, see [`KeyRole`](crate::KeyRole), or was
    /// revoked meanwhile. Refused.
    #[error("{message}")]
    Forbidden {
        /// Which key it is, and what it lacks, or that it was revoked.
        message: String,
    },
    /// The clients that are connected with the same named key wait for as many answers as they may together. Not taken up.
    #[error("the clients with the key `{key}` wait for the answers of {limit} calls, and may wait for no more")]
    TooManyCalls {
        /// The name of the key.
        key: String,
        /// For how many they may wait.
        limit: usize,
    },
    /// What befell messages that were told before this one, by the same reference or its clones: the node could not
    /// decode them, and they are lost. Said once, by the next [`Tell`](crate::Tell) of a message of their type, which
    /// was itself not sent: the service would take it if it is told again.
    #[error(
        "this message was not sent; of the messages `{message}` told to service `{service}` before it, {lost} did not \
         reach it: {why}"
    )]
    EarlierNotCarried {
        /// The service's name.
        service: String,
        /// The name of the messages.
        message: String,
        /// How many are lost.
        lost: u64,
        /// What was wrong with the first of them.
        why: String,
    },
}

/// What became of a message whose call failed; see [`CallError::fate`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Fate {
    /// The service never took it up and never will. Sending it again cannot do anything twice. It was not at fault either,
    /// if an [earlier message](CallError::EarlierNotCarried) was.
    NotSent,
    /// The service never took it up, and would refuse the same message again.
    Refused,
    /// It may have been handled, or may still be. Send it again only if doing so twice does no harm.
    Unknown,
    /// The service failed while it handled it. A new instance may answer; what the failed one did remains done.
    Failed,
}

impl CallError {
    /// Whether the message may be sent again.
    #[must_use]
    pub fn fate(&self) -> Fate {
        match self {
            Self::NoSuchService { .. }
            | Self::WrongService { .. }
            | Self::NotAccepted { .. }
            | Self::TypeDiffers { .. }
            | Self::NotCarried { .. }
            | Self::Forbidden { .. } => Fate::Refused,
            Self::Stopping { .. }
            | Self::NoSuchJob { .. }
            | Self::Expired { .. }
            | Self::JobEnded { .. }
            | Self::Unbound { .. }
            | Self::Unreachable { .. }
            | Self::JobLost { .. }
            | Self::TooManyCalls { .. }
            | Self::EarlierNotCarried { .. }
            | Self::EnvironmentClosed => Fate::NotSent,
            Self::Timeout { .. } | Self::FateUnknown { .. } | Self::ReplyNotCarried { .. } => Fate::Unknown,
            Self::ServiceFailed { .. } => Fate::Failed,
        }
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        return "none".to_owned();
    }
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}
