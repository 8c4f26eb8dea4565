//! Where a JobManager keeps what is to outlive its process.

#![cfg_attr(not(feature = "store"), allow(dead_code, reason = "only a store is such an archive"))]

use std::{sync::Arc, time::SystemTime};

use serde::{Deserialize, Serialize};

use super::record::EndedJob;
use crate::job::{DeadLetters, Graph, JobId, JobState, JobStatus, Outcome};

/// Told once something is safe, or why it is not. Called on any thread; it must be quick.
pub(crate) type Recorded = Box<dyn FnOnce(Result<(), ArchiveError>) + Send>;

/// Keeps jobs beyond the process. What it could not keep it keeps trying to, along with the next order.
pub(crate) trait Archive: Send {
    /// Keeps `job` in place of what was kept of it before.
    fn keep(&mut self, job: Kept, recorded: Recorded);
    /// Forgets these jobs.
    fn forget(&mut self, jobs: Vec<JobId>, recorded: Recorded);
    /// Why something could not be kept as yet.
    fn trouble(&self) -> Option<String>;
}

/// Why something could not be kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct ArchiveError(pub(crate) String);

/// What is kept of a job.
#[derive(Debug)]
pub(crate) enum Kept {
    /// It has not ended.
    Live(Box<PlainJob>),
    Ended(Arc<EndedJob>),
}

impl Kept {
    pub(crate) fn id(&self) -> JobId {
        match self {
            Self::Live(job) => job.status.id,
            Self::Ended(job) => job.plain.status.id,
        }
    }

    pub(crate) fn plain(&self) -> &PlainJob {
        match self {
            Self::Live(job) => job,
            Self::Ended(job) => &job.plain,
        }
    }
}

/// All that is known of a job and can be written down.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct PlainJob {
    pub(crate) status: JobStatus,
    pub(crate) dead_letters: DeadLetters,
    /// Shared with those who run the job, for it may be large and never changes.
    #[serde(with = "shared")]
    pub(crate) graph: Arc<Graph>,
    /// The inputs that were finished, rather than closed by the job's end.
    pub(crate) inputs_finished: Vec<String>,
}

impl PlainJob {
    /// The job ended without having come to its end.
    pub(crate) fn break_off(&mut self, outcome: Outcome, at: SystemTime) {
        let status = &mut self.status;
        status.state = JobState::Ended;
        status.version += 1;
        (status.task_count, status.service_count) = (0, 0);
        let began = status.started_at.unwrap_or(status.submitted_at);
        status.ended_at.get_or_insert(at.max(began));
        status.outcome = Some(outcome);
    }
}

/// Writes what is shared as what it is.
mod shared {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<T: Serialize, S: Serializer>(shared: &Arc<T>, serializer: S) -> Result<S::Ok, S::Error> {
        shared.as_ref().serialize(serializer)
    }

    pub(super) fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Arc<T>, D::Error> {
        T::deserialize(deserializer).map(Arc::new)
    }
}
