//! What is known of a job: ids, options, graph, status, outcome, and errors.

mod encoded;
mod error;
mod graph;
mod id;
mod options;
mod outcome;
mod parallelism;
pub(crate) mod restart;
mod status;

pub(crate) use self::encoded::EncodedJob;
pub use self::error::{BoxError, BuildError, BuildRefusal};
pub(crate) use self::error::{JobRefusal, NotSendable, check_name, message_of};
pub use self::graph::Graph;
pub(crate) use self::graph::{ChannelNode, TaskNode};
pub(crate) use self::id::{Attempt, Generation, Incarnation, ServiceId, Term};
pub use self::id::{JobId, ParseJobIdError, TaskId};
pub use self::options::{ErrorPolicy, Limits};
pub(crate) use self::options::{HeldBy, JobOptions, NAME_BYTES_MAX};
pub use self::outcome::{CancelReason, Drained, FailureCause, JobError, Outcome, Warning};
pub use self::parallelism::Parallelism;
pub use self::restart::Restart;
pub use self::status::{
    ActorState, DeadLetter, DeadLetters, EnvironmentInfo, Explanation, Health, Holder, JobState, JobStatus,
    ServiceStatus, TaskCounters, TaskStatus, WorkerInfo, WorkerState,
};
