//! Where jobs run.

mod blocking;
mod control;
mod interrupts;
mod local;
mod remote;
mod run;
mod submit;
mod worker;

use std::sync::Arc;

use futures::future::BoxFuture;

pub use self::{
    blocking::BlockingEnvironment,
    local::{LocalEnvironment, LocalEnvironmentBuilder, OpenError},
    remote::{Connect, ConnectError, KeyRingError, RemoteEnvironment},
    run::{Run, RunError},
    submit::{Submit, SubmitError},
    worker::{Worker, WorkerBuilder, WorkerError, worker_main},
};
pub(crate) use self::{control::DataAddress, remote::in_process};
use crate::{
    flow::IntoJob,
    handle::{JobHandle, QueryError},
    job::{EnvironmentInfo, Health, HeldBy, JobId, JobStatus, WorkerInfo},
    link::{JobRequest, Link, Opened, Refusal, Reply, Request, ask},
    service::{Service, ServiceRef},
};

/// A place where jobs run: this process ([`LocalEnvironment`]), or a node on the network ([`RemoteEnvironment`]).
///
/// The trait is object-safe, so that the place can be chosen at run time: `submit` and `run` are methods of
/// `dyn Environment` and of each environment itself; generic code finds them in [`EnvironmentExt`]. All futures are
/// `'static` and lazy, and work on any async runtime; [`blocking`](LocalEnvironment::blocking) offers the same to code
/// that is not async.
///
/// ```
/// use proscenium::{Drained, Environment, LocalEnvironment, job_fn};
///
/// let env: Box<dyn Environment> = Box::new(LocalEnvironment::new("doc"));
/// assert_eq!(env.run(job_fn("nothing", |_| Ok(()))).blocking()?, Drained::Completed);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Environment: sealed::Linked + Send + Sync {
    /// The environment's name.
    fn name(&self) -> &str;

    /// All jobs that are known, live or ended, oldest first.
    ///
    /// # Errors
    ///
    /// The future fails with [`QueryError::EnvironmentClosed`] once the environment is closed, and with
    /// [`QueryError::Unreachable`] if its node cannot be reached.
    fn jobs(&self) -> BoxFuture<'static, Result<Vec<JobStatus>, QueryError>> {
        query(self.link(), Request::ListJobs)
    }

    /// A handle to the job of this id. That it exists is checked.
    ///
    /// # Errors
    ///
    /// The future fails with [`QueryError`] if the job is not known, not known any more, the environment is closed, or its
    /// node cannot be reached.
    fn job(&self, id: JobId) -> BoxFuture<'static, Result<JobHandle, QueryError>> {
        let link = self.link();
        Box::pin(async move {
            let by = HeldBy { client: link.environment().to_owned(), address: None };
            let request = Request::Job { job: id, request: JobRequest::Open { by } };
            let opened = ask::<Opened>(Arc::clone(&link), request).await?;
            Ok(JobHandle::new(link, id, opened))
        })
    }

    /// Whether the environment accepts jobs, and how many it has.
    ///
    /// # Errors
    ///
    /// The future fails with [`QueryError::EnvironmentClosed`] once the environment is closed, and with
    /// [`QueryError::Unreachable`] if its node cannot be reached.
    fn health(&self) -> BoxFuture<'static, Result<Health, QueryError>> {
        query(self.link(), Request::Health)
    }

    /// What the environment is made of.
    ///
    /// # Errors
    ///
    /// The future fails with [`QueryError::EnvironmentClosed`] once the environment is closed, and with
    /// [`QueryError::Unreachable`] if its node cannot be reached.
    fn info(&self) -> BoxFuture<'static, Result<EnvironmentInfo, QueryError>> {
        query(self.link(), Request::Info)
    }

    /// The workers of other processes that have joined, in the order in which they came; the environment's own process is none
    /// of them.
    ///
    /// # Errors
    ///
    /// The future fails with [`QueryError::EnvironmentClosed`] once the environment is closed, and with
    /// [`QueryError::Unreachable`] if its node cannot be reached.
    fn workers(&self) -> BoxFuture<'static, Result<Vec<WorkerInfo>, QueryError>> {
        query(self.link(), Request::ListWorkers)
    }

    /// Has the workers of this name leave: no job is placed on them any more, and each ends, well, once those have ended that
    /// it has. Says how many there are, of which [`workers`](Self::workers) tells; 0 is none of that name. A worker
    /// [within](crate::Workers::inside) the environment's process stays, without jobs.
    ///
    /// # Errors
    ///
    /// The future fails with [`QueryError::EnvironmentClosed`] once the environment is closed, with
    /// [`QueryError::Unreachable`] if its node cannot be reached, and with [`QueryError::Forbidden`] if the key may not.
    fn drain_worker(&self, name: &str) -> BoxFuture<'static, Result<usize, QueryError>> {
        query(self.link(), Request::DrainWorker { name: name.to_owned() })
    }

    /// Deletes all jobs that have ended, also those that handles refer to, and says how many. If that had to be asked
    /// again over a new connection, it says how many were left then.
    ///
    /// # Errors
    ///
    /// The future fails with [`QueryError::EnvironmentClosed`] once the environment is closed, and with
    /// [`QueryError::Unreachable`] if its node cannot be reached.
    fn cleanup(&self) -> BoxFuture<'static, Result<usize, QueryError>> {
        query(self.link(), Request::Cleanup)
    }

    /// Closes the environment. A remote one only disconnects. A local one cancels its jobs, and is closed once all of them have ended and its threads
    /// are gone; from the first poll on it accepts no job. Closing again only waits for that.
    fn close(&self) -> BoxFuture<'static, ()>;
}

/// What every environment offers and an object-safe trait cannot: the generic methods. For generic code only; on
/// [`LocalEnvironment`] and `dyn Environment` they need no import.
pub trait EnvironmentExt: Environment {
    /// Submits `job`; see [`LocalEnvironment::submit`].
    fn submit<J: IntoJob>(&self, job: J) -> Submit {
        Submit::new(self.link(), job.into_payload())
    }

    /// Runs `job` to its end; see [`LocalEnvironment::run`].
    fn run<J: IntoJob>(&self, job: J) -> Run {
        Run::new(EnvironmentExt::submit(self, job))
    }
}

impl<E: Environment + ?Sized> EnvironmentExt for E {}

impl dyn Environment + '_ {
    /// Submits `job`; see [`LocalEnvironment::submit`].
    pub fn submit<J: IntoJob>(&self, job: J) -> Submit {
        EnvironmentExt::submit(self, job)
    }

    /// Runs `job` to its end; see [`LocalEnvironment::run`].
    pub fn run<J: IntoJob>(&self, job: J) -> Run {
        EnvironmentExt::run(self, job)
    }

    /// The same for code that is not async.
    #[must_use]
    pub fn blocking(&self) -> BlockingEnvironment<'_> {
        BlockingEnvironment::new(self)
    }
}

/// Asks a question that is not about a job.
fn query<T>(link: Arc<dyn Link>, request: Request) -> BoxFuture<'static, Result<T, QueryError>>
where
    T: TryFrom<Reply, Error = Refusal> + Send + 'static,
{
    Box::pin(async move { Ok(ask::<T>(link, request).await?) })
}

impl<S: Service> ServiceRef<S> {
    /// This reference over the link of `environment`: a decoded reference is unbound until then, and its calls fail.
    ///
    /// It does not promise that the job or the service exists there; the first call tells.
    #[must_use]
    pub fn bind(&self, environment: &dyn Environment) -> Self {
        self.bind_to(environment.link())
    }
}

mod sealed {
    use std::sync::Arc;

    use crate::link::Link;

    /// Environments are written in this crate only, and their link is no part of the API.
    pub trait Linked {
        #[doc(hidden)]
        #[expect(private_interfaces, reason = "the trait is sealed: nobody else can name or call this")]
        fn link(&self) -> Arc<dyn Link>;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handle::{BlockingJob, Changes, ControlError};

    fn is_shared<T: Send + Sync + 'static>() {}
    fn is_cloned<T: Clone>() {}
    fn is_sent<T: Send + 'static>(_: &T) {}

    #[test]
    fn handles_and_errors_can_be_shared_between_threads() {
        is_shared::<LocalEnvironment>();
        is_shared::<Box<dyn Environment>>();
        is_shared::<JobHandle>();
        is_shared::<BlockingJob>();
        is_cloned::<LocalEnvironment>();
        is_cloned::<JobHandle>();
        is_shared::<SubmitError>();
        is_shared::<RunError>();
        is_shared::<QueryError>();
        is_shared::<ControlError>();
        is_shared::<OpenError>();
    }

    #[test]
    fn no_future_borrows_the_handle_it_comes_from() {
        fn futures_of(job: &JobHandle) {
            is_sent(&job.status());
            is_sent(&job.wait());
            is_sent(&job.wait_timeout(std::time::Duration::ZERO));
            is_sent(&job.stop());
            is_sent(&job.delete_forced());
            is_sent(&job.explain());
            is_sent::<Changes>(&job.watch());
        }
        let _: fn(&JobHandle) = futures_of;
    }
}
