//! What user code in a task can ask of its surroundings.

use std::{fmt, sync::Arc};

use crate::{
    host::Host,
    job::JobId,
    service::{CallError, Origin, Service, ServiceDirectory, ServiceRef},
};

/// The surroundings of one task: which instance it is, and the job's services.
pub struct TaskContext {
    pub(crate) job: JobId,
    pub(crate) instance: u32,
    pub(crate) parallelism: u32,
    /// What calls of this task count as.
    pub(crate) origin: Origin,
    pub(crate) directory: Arc<ServiceDirectory>,
    pub(crate) host: Host,
}

impl TaskContext {
    /// The job this task belongs to.
    #[must_use]
    pub fn job(&self) -> JobId {
        self.job
    }

    /// Which parallel instance of its chain this task is, from 0.
    #[must_use]
    pub fn instance(&self) -> u32 {
        self.instance
    }

    /// How many parallel instances its chain has.
    #[must_use]
    pub fn parallelism(&self) -> u32 {
        self.parallelism
    }

    /// The service registered as `name`.
    ///
    /// # Errors
    ///
    /// [`CallError::NoSuchService`] names the services that exist; [`CallError::WrongService`] if `name` is an actor
    /// of another type.
    pub fn service<S: Service>(&self, name: &str) -> Result<ServiceRef<S>, CallError> {
        self.directory.get::<S>(name, self.origin)
    }
}

impl fmt::Debug for TaskContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskContext")
            .field("job", &self.job)
            .field("instance", &self.instance)
            .field("parallelism", &self.parallelism)
            .finish_non_exhaustive()
    }
}
