//! The environment for code that is not async.

use std::fmt;

use crate::{
    blocking::block_on,
    environment::Environment,
    handle::{JobHandle, QueryError},
    job::{EnvironmentInfo, Health, JobId, JobStatus, WorkerInfo},
};

/// An environment for code that is not async, made by [`LocalEnvironment::blocking`]. Each method blocks the calling
/// thread until its async twin is ready; not for use on a thread that runs an async executor.
///
/// [`LocalEnvironment::blocking`]: crate::LocalEnvironment::blocking
#[derive(Clone, Copy)]
pub struct BlockingEnvironment<'a> {
    environment: &'a dyn Environment,
}

impl<'a> BlockingEnvironment<'a> {
    pub(super) fn new(environment: &'a dyn Environment) -> Self {
        Self { environment }
    }

    /// As [`Environment::jobs`].
    ///
    /// # Errors
    ///
    /// As [`Environment::jobs`].
    pub fn jobs(&self) -> Result<Vec<JobStatus>, QueryError> {
        block_on(self.environment.jobs())
    }

    /// As [`Environment::job`].
    ///
    /// # Errors
    ///
    /// As [`Environment::job`].
    pub fn job(&self, id: JobId) -> Result<JobHandle, QueryError> {
        block_on(self.environment.job(id))
    }

    /// As [`Environment::health`].
    ///
    /// # Errors
    ///
    /// As [`Environment::health`].
    pub fn health(&self) -> Result<Health, QueryError> {
        block_on(self.environment.health())
    }

    /// As [`Environment::info`].
    ///
    /// # Errors
    ///
    /// As [`Environment::info`].
    pub fn info(&self) -> Result<EnvironmentInfo, QueryError> {
        block_on(self.environment.info())
    }

    /// As [`Environment::workers`].
    ///
    /// # Errors
    ///
    /// As [`Environment::workers`].
    pub fn workers(&self) -> Result<Vec<WorkerInfo>, QueryError> {
        block_on(self.environment.workers())
    }

    /// As [`Environment::drain_worker`].
    ///
    /// # Errors
    ///
    /// As [`Environment::drain_worker`].
    pub fn drain_worker(&self, name: &str) -> Result<usize, QueryError> {
        block_on(self.environment.drain_worker(name))
    }

    /// As [`Environment::cleanup`].
    ///
    /// # Errors
    ///
    /// As [`Environment::cleanup`].
    pub fn cleanup(&self) -> Result<usize, QueryError> {
        block_on(self.environment.cleanup())
    }

    /// As [`Environment::close`].
    pub fn close(&self) {
        block_on(self.environment.close());
    }
}

impl fmt::Debug for BlockingEnvironment<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BlockingEnvironment").field(&self.environment.name()).finish()
    }
}
