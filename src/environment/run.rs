//! Running a job to its end, with Ctrl+C.

use std::{
    fmt,
    future::IntoFuture,
    io::{self, Write},
    pin::pin,
    time::Duration,
};

use futures::future::{BoxFuture, Either, select};
use tokio::sync::mpsc;

use crate::{
    blocking::block_on,
    environment::submit::{Submit, SubmitError},
    handle::{JobHandle, QueryError},
    job::{Drained, ErrorPolicy, JobError, Outcome, Restart},
};

/// The exit code of a process that was told to end by Ctrl+C.
const EXIT_INTERRUPTED: i32 = 130;

/// A job about to be run to its end: set what differs from the defaults, then await it.
///
/// Made by [`LocalEnvironment::run`](crate::LocalEnvironment::run). Awaiting it submits the job with autostop, waits for
/// its end and yields [`Drained`] if it completed or was stopped; any other outcome is an error.
///
/// While it is awaited, Ctrl+C (SIGINT) belongs to the job: the first stops it (its sources end, what was emitted is
/// processed), the second cancels it, the third prints the job's id and exits the process with code 130. Nothing else
/// in this crate touches signals. Once SIGINT has been listened for, the operating system's default reaction to it does
/// not come back in this process, not even after the job has ended.
///
/// # Errors
///
/// Awaiting it fails with [`RunError`]; with [`RunError::Job`] if the job failed, was cancelled or is lost.
///
/// # Cancel safety
///
/// If the future is dropped half-way, the job goes on.
#[must_use = "nothing is run until it is awaited"]
pub struct Run {
    submit: Submit,
    accepted: Option<Box<dyn FnOnce(JobHandle) + Send>>,
}

impl Run {
    pub(super) fn new(submit: Submit) -> Self {
        Self { submit: submit.autostop(true), accepted: None }
    }

    /// Hands out the job once it is accepted, to read from it while it runs.
    #[cfg(feature = "cli")]
    pub(crate) fn accepted(self, accepted: impl FnOnce(JobHandle) + Send + 'static) -> Self {
        Self { accepted: Some(Box::new(accepted)), ..self }
    }

    /// As [`Submit::parallelism`].
    pub fn parallelism(self, instances: usize) -> Self {
        Self { submit: self.submit.parallelism(instances), ..self }
    }

    /// As [`Submit::name`].
    pub fn name(self, name: impl Into<String>) -> Self {
        Self { submit: self.submit.name(name), ..self }
    }

    /// As [`Submit::run_limit`].
    pub fn run_limit(self, limit: Duration) -> Self {
        Self { submit: self.submit.run_limit(limit), ..self }
    }

    /// As [`Submit::restart`].
    pub fn restart(self, restart: Restart) -> Self {
        Self { submit: self.submit.restart(restart), ..self }
    }

    /// As [`Submit::error_policy`].
    pub fn error_policy(self, policy: ErrorPolicy) -> Self {
        Self { submit: self.submit.error_policy(policy), ..self }
    }

    /// Runs the job, and blocks the calling thread until it has ended.
    ///
    /// # Errors
    ///
    /// [`RunError`] if there is no job, if its outcome cannot be known, or if it failed, was cancelled or is lost.
    pub fn blocking(self) -> Result<Drained, RunError> {
        block_on(self.into_future())
    }

    /// Runs the job to its end, however it ends.
    pub(crate) fn until_its_end(self) -> BoxFuture<'static, Result<Outcome, RunError>> {
        Box::pin(async move {
            let link = self.submit.link();
            let mut interrupts = Interrupts { signals: link.interrupts().await, seen: 0, obeyed: 0 };
            drop(link);
            let job = interrupts.during(self.submit.into_future(), None).await?;
            if let Some(accepted) = self.accepted {
                accepted(job.clone());
            }
            let mut wait = Box::pin(job.wait());
            loop {
                interrupts.obey(&job).await;
                let next = interrupts.next(Some(&job));
                if let Either::Left((outcome, _)) = select(&mut wait, pin!(next)).await {
                    return Ok(outcome?);
                }
            }
        })
    }
}

impl IntoFuture for Run {
    type Output = Result<Drained, RunError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let end = self.until_its_end();
        Box::pin(async move { Ok(end.await?.into_result()?) })
    }
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Run").field(&self.submit).finish()
    }
}

struct Interrupts {
    signals: mpsc::Receiver<()>,
    seen: u32,
    /// Up to which Ctrl+C the job has been told.
    obeyed: u32,
}

impl Interrupts {
    /// Counts the next Ctrl+C. Never ready if the process cannot listen for it.
    async fn next(&mut self, job: Option<&JobHandle>) {
        if self.signals.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
        self.seen += 1;
        if self.seen >= 3 {
            exit(job);
        }
    }

    /// Awaits `future`; what arrives meanwhile is counted.
    async fn during<F: Future + Unpin>(&mut self, mut future: F, job: Option<&JobHandle>) -> F::Output {
        loop {
            match select(future, pin!(self.next(job))).await {
                Either::Left((output, _)) => return output,
                Either::Right(((), unfinished)) => future = unfinished,
            }
        }
    }

    /// Does with the job what has been asked for so far.
    async fn obey(&mut self, job: &JobHandle) {
        while self.obeyed < self.seen {
            self.obeyed = self.seen;
            tracing::warn!(job = %job.id(), interrupts = self.seen, "interrupted: the job is told to end");
            let order = if self.seen == 1 { Either::Left(job.stop()) } else { Either::Right(job.cancel()) };
            // A refusal says that the job or its environment has ended, which the wait that follows tells better.
            let _ = self.during(Box::pin(order), Some(job)).await;
        }
    }
}

#[expect(clippy::exit, reason = "this is what the third Ctrl+C asks for")]
fn exit(job: Option<&JobHandle>) -> ! {
    let mut out = io::stderr().lock();
    // If it cannot be printed, there is nobody to tell.
    let _ = match job {
        Some(job) => writeln!(out, "interrupted three times: exiting; the job was {}", job.id()),
        None => writeln!(out, "interrupted three times: exiting while the job was being submitted"),
    };
    std::process::exit(EXIT_INTERRUPTED)
}

/// Why a job did not run to its end, or its end is not known.
///
/// Its `Display` says which of these it is; the cause is its [`source`](std::error::Error::source), as of [`JobError`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// It was not accepted; no job exists.
    #[error("the job was not accepted")]
    Submit(#[from] SubmitError),
    /// It was accepted, but its outcome could not be learnt.
    #[error("the job's outcome could not be learnt")]
    Wait(#[from] QueryError),
    /// It ended, but as none that processed everything its sources emitted.
    #[error(transparent)]
    Job(#[from] JobError),
}
