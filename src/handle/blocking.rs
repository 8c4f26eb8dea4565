//! The handle for code that is not async.

use std::time::Duration;

use crate::{
    blocking::block_on,
    handle::{Changes, ControlError, JobHandle, QueryError},
    job::{DeadLetters, Explanation, Graph, JobId, JobStatus, Outcome},
};

/// A [`JobHandle`] for code that is not async, made by [`JobHandle::blocking`]. Each method blocks the calling thread
/// until its async twin is ready.
///
/// Not for use on a thread that runs an async executor, and least of all in an operator or a service of the job itself:
/// the thread does nothing else while it waits.
#[derive(Debug, Clone)]
pub struct BlockingJob {
    job: JobHandle,
}

impl BlockingJob {
    pub(super) fn new(job: JobHandle) -> Self {
        Self { job }
    }

    /// The job's identifier.
    #[must_use]
    pub fn id(&self) -> JobId {
        self.job.id()
    }

    /// As [`JobHandle::status`].
    ///
    /// # Errors
    ///
    /// As [`JobHandle::status`].
    pub fn status(&self) -> Result<JobStatus, QueryError> {
        block_on(self.job.status())
    }

    /// As [`JobHandle::watch`], as an iterator.
    pub fn watch(&self) -> BlockingChanges {
        BlockingChanges { changes: self.job.watch() }
    }

    /// As [`JobHandle::wait`].
    ///
    /// # Errors
    ///
    /// As [`JobHandle::wait`].
    pub fn wait(&self) -> Result<Outcome, QueryError> {
        block_on(self.job.wait())
    }

    /// As [`JobHandle::wait_timeout`].
    ///
    /// # Errors
    ///
    /// As [`JobHandle::wait_timeout`].
    pub fn wait_timeout(&self, limit: Duration) -> Result<Option<Outcome>, QueryError> {
        block_on(self.job.wait_timeout(limit))
    }

    /// As [`JobHandle::stop`].
    ///
    /// # Errors
    ///
    /// As [`JobHandle::stop`].
    pub fn stop(&self) -> Result<(), ControlError> {
        block_on(self.job.stop())
    }

    /// As [`JobHandle::cancel`].
    ///
    /// # Errors
    ///
    /// As [`JobHandle::cancel`].
    pub fn cancel(&self) -> Result<(), ControlError> {
        block_on(self.job.cancel())
    }

    /// As [`JobHandle::pause`].
    ///
    /// # Errors
    ///
    /// As [`JobHandle::pause`].
    pub fn pause(&self) -> Result<(), ControlError> {
        block_on(self.job.pause())
    }

    /// As [`JobHandle::resume`].
    ///
    /// # Errors
    ///
    /// As [`JobHandle::resume`].
    pub fn resume(&self) -> Result<(), ControlError> {
        block_on(self.job.resume())
    }

    /// As [`JobHandle::delete`].
    ///
    /// # Errors
    ///
    /// As [`JobHandle::delete`].
    pub fn delete(&self) -> Result<(), ControlError> {
        block_on(self.job.delete())
    }

    /// As [`JobHandle::delete_forced`].
    ///
    /// # Errors
    ///
    /// As [`JobHandle::delete_forced`].
    pub fn delete_forced(&self) -> Result<(), ControlError> {
        block_on(self.job.delete_forced())
    }

    /// As [`JobHandle::explain`].
    ///
    /// # Errors
    ///
    /// As [`JobHandle::explain`].
    pub fn explain(&self) -> Result<Explanation, QueryError> {
        block_on(self.job.explain())
    }

    /// As [`JobHandle::dead_letters`].
    ///
    /// # Errors
    ///
    /// As [`JobHandle::dead_letters`].
    pub fn dead_letters(&self) -> Result<DeadLetters, QueryError> {
        block_on(self.job.dead_letters())
    }

    /// As [`JobHandle::graph`].
    ///
    /// # Errors
    ///
    /// As [`JobHandle::graph`].
    pub fn graph(&self) -> Result<Graph, QueryError> {
        block_on(self.job.graph())
    }
}

/// [`Changes`] as an iterator that blocks, made by [`BlockingJob::watch`].
#[derive(Debug)]
#[must_use = "nothing is asked until it is iterated"]
pub struct BlockingChanges {
    changes: Changes,
}

impl Iterator for BlockingChanges {
    type Item = Result<JobStatus, QueryError>;

    fn next(&mut self) -> Option<Self::Item> {
        block_on(self.changes.next())
    }
}
