//! From where a service is used.

use serde::{Deserialize, Serialize};

/// From where a reference is used. Decides who is refused first when a job ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum Origin {
    /// A client, or a service of another job.
    Outside,
    /// A task of the job.
    Task,
    /// A service of the job.
    Service,
}
