//! Why the keys of a node were not seen or changed.

use crate::link::{KeyRingRefusal, Refusal};

/// Why the keys of a node were not seen or changed. Nothing was changed, but perhaps in the case of
/// [`FateUnknown`](Self::FateUnknown).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyRingError {
    /// The node has a key of that name.
    #[error("there is a key `{name}` already")]
    Exists {
        /// The name.
        name: String,
    },
    /// The node has no key of that name.
    #[error("there is no key `{name}`")]
    NoSuchKey {
        /// The name.
        name: String,
    },
    /// What the node does not accept: a name of other characters than letters, digits, `.`, `_` and `-` or of more than
    /// 256, a second admin, more than 1,024 keys, or any named key, if it was built without encryption.
    #[error("{message}")]
    Refused {
        /// Why.
        message: String,
    },
    /// The node could not write its keys to disk.
    #[error("{message}")]
    NotWritten {
        /// What the operating system said.
        message: String,
    },
    /// The key that the environment was connected with is no admin's.
    #[error("{message}")]
    Forbidden {
        /// Which key it is, and what it lacks.
        message: String,
    },
    /// There was no connection to the node, so it was not asked.
    #[error("the node cannot be reached: {message}")]
    Unreachable {
        /// What was seen of it.
        message: String,
    },
    /// It was asked, and the connection was lost for good before it was answered.
    #[error("whether the keys were changed is not known: {message}")]
    FateUnknown {
        /// What was seen of the loss.
        message: String,
    },
    /// The environment is closed.
    #[error("the environment is closed")]
    EnvironmentClosed,
    /// The runtime itself broke a rule it promises to keep. This is a bug in proscenium.
    #[error("internal error: {0}")]
    Internal(String),
}

impl From<Refusal> for KeyRingError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::KeyRing(refusal) => Self::of(refusal),
            Refusal::Forbidden { message } => Self::Forbidden { message },
            Refusal::Unreachable { message } => Self::Unreachable { message },
            Refusal::FateUnknown { message } => Self::FateUnknown { message },
            Refusal::EnvironmentClosed => Self::EnvironmentClosed,
            Refusal::Internal(what) => Self::Internal(what),
            refusal @ (Refusal::NoSuchJob { .. }
            | Refusal::Expired { .. }
            | Refusal::Conflict { .. }
            | Refusal::Build(_)
            | Refusal::Job(_)
            | Refusal::JobTypeDiffers { .. }
            | Refusal::NotSendable(_)
            | Refusal::Lost { .. }
            | Refusal::NotRecorded { .. }
            | Refusal::TooManyJobs { .. }) => Self::Internal(format!("{refusal:?}")),
        }
    }
}

impl KeyRingError {
    fn of(refusal: KeyRingRefusal) -> Self {
        let message = refusal.to_string();
        match refusal {
            KeyRingRefusal::Exists { name } => Self::Exists { name },
            KeyRingRefusal::NoSuchKey { name } => Self::NoSuchKey { name },
            KeyRingRefusal::NotWritten { .. } => Self::NotWritten { message },
            KeyRingRefusal::Name { .. }
            | KeyRingRefusal::Role
            | KeyRingRefusal::TooMany { .. }
            | KeyRingRefusal::NoEncryption => Self::Refused { message },
        }
    }
}
