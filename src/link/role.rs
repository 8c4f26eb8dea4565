//! What the keys of a node are about; plain data.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What the holders of a key may do on its node.
///
/// | | admin | reader | submitter | worker |
/// |---|---|---|---|---|
/// | `health`, `info`, the list of workers with their addresses | yes | yes | yes | no |
/// | `jobs`, `status`, `wait`, `watch`, `explain`, graph, dead letters | yes | yes | of their own jobs | no |
/// | collected outputs | yes | yes | of their own jobs | no |
/// | streamed outputs, whose reading takes the items away | yes | no | of their own jobs | no |
/// | a handle keeps the job from expiring, and from ending by its lease | yes | no | of their own jobs | no |
/// | `submit` | yes | no | yes | no |
/// | `stop`, `cancel`, `pause`, `resume`, `delete` | yes | no | of their own jobs | no |
/// | calls to services, sending to inputs | yes | no | of their own jobs | no |
/// | `cleanup`, stopping the node, its keys | yes | no | no | no |
/// | joining as a worker, which runs tasks of any job and sees their parameters and items | no | no | no | yes |
///
/// A job is the own one of whoever has the key that it was submitted with. Other jobs do not exist for a submitter. A node
/// that was started anew does not know any more whose the jobs of its history were: only admins and readers see them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum KeyRole {
    /// Everything.
    Admin,
    /// Looking at jobs.
    Reader,
    /// Having jobs of their own.
    Submitter,
    /// Running tasks of the node's jobs in another process, and nothing else.
    Worker,
}

impl KeyRole {
    pub(crate) fn of_word(word: &str) -> Option<Self> {
        [Self::Admin, Self::Reader, Self::Submitter, Self::Worker].into_iter().find(|role| role.to_string() == word)
    }
}

impl fmt::Display for KeyRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Admin => "admin",
            Self::Reader => "reader",
            Self::Submitter => "submitter",
            Self::Worker => "worker",
        })
    }
}

/// A named key of a node, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct KeyInfo {
    /// What it is called.
    pub name: String,
    /// What those who have it may do.
    pub role: KeyRole,
}

/// Why the keys of a node were not changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub(crate) enum KeyRingRefusal {
    #[error("there is a key `{name}` already")]
    Exists { name: String },
    #[error("there is no key `{name}`")]
    NoSuchKey { name: String },
    #[error("`{name}` is no name for a key: it takes 1 to 256 letters, digits, `.`, `_` and `-`")]
    Name { name: String },
    #[error("a node has one key that may do everything, which is its own: say `reader`, `submitter` or `worker`")]
    Role,
    #[error("there are {limit} keys already")]
    TooMany { limit: usize },
    #[error("the keys could not be written: {message}")]
    NotWritten { message: String },
    #[error("named keys take encryption, and the node was built without the feature `tls`")]
    NoEncryption,
}
