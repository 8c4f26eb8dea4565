//! A client's handle to one job.

mod blocking;
mod changes;
mod errors;

use std::{fmt, future::Future, sync::Arc, time::Duration};

use futures::future::BoxFuture;

pub use self::{
    blocking::{BlockingChanges, BlockingJob},
    changes::Changes,
    errors::{ControlError, QueryError},
};
use crate::{
    host::Host,
    job::{DeadLetters, Explanation, Graph, JobId, JobStatus, Outcome},
    link::{Control, JobRequest, Keep, Link, Opened, Refusal, Reply, Request, Residence, ask},
    port::{ChunkSource, FoundInput, Input, InputError, InputResolver, Output, OutputError, OutputResolver},
    schema::TypeDescription,
    service::{CallError, FoundService, Service, ServiceRef, ServiceResolver},
};
#[cfg(feature = "cli")]
use crate::{link::OutputTypes, port::ShownOutput};

/// A handle to one job: asks how it is, steers it, and reaches its services, inputs and outputs.
///
/// A handle is `Clone`, `Send` and `Sync`, works from any async runtime, and has a blocking twin
/// ([`blocking`](Self::blocking)). It can be made again from a [`JobId`] by [`Environment::job`]. Dropping handles
/// changes nothing about the job, and a handle does not keep its environment open: once that is closed, every method
/// fails with an error that says so. While a handle lives, its job does not expire (that of a remote environment, while it is connected).
///
/// The futures of all methods are `'static` and lazy: nothing is asked before they are polled.
///
/// [`Environment::job`]: crate::Environment::job
///
/// ```
/// use proscenium::{JobState, LocalEnvironment, job_fn};
///
/// let env = LocalEnvironment::new("doc");
/// let job = env.submit(job_fn("nothing", |_| Ok(()))).autostop(true).blocking()?;
/// assert!(job.blocking().wait()?.is_completed());
/// assert_eq!(job.blocking().status()?.state, JobState::Ended);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct JobHandle {
    id: JobId,
    name: Arc<str>,
    /// Shared with the outputs, inputs and services made from this handle, so that the job does not expire under them.
    way: Arc<Way>,
}

/// A link, together with what keeps the job readable.
struct Way {
    link: Arc<dyn Link>,
    residence: Residence,
    _keep: Keep,
}

impl Way {
    fn new(link: Arc<dyn Link>, opened: Opened) -> Self {
        Self { link, residence: opened.residence, _keep: opened.keep }
    }
}

impl JobHandle {
    pub(crate) fn new(link: Arc<dyn Link>, id: JobId, opened: Opened) -> Self {
        let name = opened.name.as_str().into();
        Self { id, name, way: Arc::new(Way::new(link, opened)) }
    }

    /// The job's identifier.
    #[must_use]
    pub fn id(&self) -> JobId {
        self.id
    }

    /// The job's name: that of its type, or the one given at submit.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A snapshot of the job, answered at once however busy its tasks are.
    ///
    /// # Errors
    ///
    /// [`QueryError`] if the job is not known any more, its environment is closed, or its node cannot be reached.
    ///
    /// # Cancel safety
    ///
    /// Asking changes nothing; the future can be dropped and asked again.
    pub fn status(&self) -> impl Future<Output = Result<JobStatus, QueryError>> + Send + use<> {
        let status = self.ask::<Box<JobStatus>>(JobRequest::JobStatus);
        async move { Ok(*status.await?) }
    }

    /// Snapshots of the job: one now, then one after each change, up to the one that has ended.
    ///
    /// It does not promise a snapshot for every change: a reader slower than the job sees the newest.
    pub fn watch(&self) -> Changes {
        Changes::new(self.clone())
    }

    /// Waits until the job has ended, without a deadline, and says how.
    ///
    /// It survives the loss of the connection to a node. If the node is gone, the outcome is [`Outcome::Lost`]; while it
    /// cannot be reached and may be there, that is an error.
    ///
    /// Nothing is asked before it is first polled. A node answers all that it was asked before it ends; who asks later is told
    /// only when [`Connect::reconnect_limit`](crate::Connect::reconnect_limit) has passed, as for any node that is not there.
    ///
    /// A job with services and without autostop whose tasks have finished waits for `stop` ([`JobState::Idle`]), and so does
    /// this.
    ///
    /// A job that failed is no error here; [`Outcome::into_result`] makes one of it.
    /// The outcome can be waited for any number of times, also after the end.
    ///
    /// # Errors
    ///
    /// [`QueryError`] if the job is not known any more, its environment is closed, or its node cannot be reached.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing about the job.
    ///
    /// [`JobState::Idle`]: crate::JobState::Idle
    pub fn wait(&self) -> impl Future<Output = Result<Outcome, QueryError>> + Send + use<> {
        let (outcome, way) = (self.ask::<Outcome>(JobRequest::WaitJob), Arc::clone(&self.way));
        async move {
            // Whoever waits for the job holds it.
            let _way = way;
            match outcome.await {
                Err(Refusal::Lost { reason, .. }) => Ok(Outcome::Lost { reason }),
                outcome => Ok(outcome?),
            }
        }
    }

    /// Waits for the end of the job, but no longer than `limit`; then `None`, and the job goes on.
    ///
    /// # Errors
    ///
    /// [`QueryError`] if the job is not known any more, its environment is closed, or its node cannot be reached.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing about the job.
    pub fn wait_timeout(
        &self,
        limit: Duration,
    ) -> impl Future<Output = Result<Option<Outcome>, QueryError>> + Send + use<> {
        let (wait, host) = (self.wait(), self.way.link.host().clone());
        async move {
            match host.timeout(limit, wait).await {
                Ok(outcome) => outcome.map(Some),
                Err(_) => Ok(None),
            }
        }
    }

    /// Ends the sources and lets everything emitted so far be processed; then the job ends. Returns once that is
    /// accepted, not once the job has ended.
    ///
    /// Without effect on a job that is already stopping or has ended. A source may emit for about a millisecond more,
    /// until its task looks at its commands. A job stopped while its services are still starting starts no task: what
    /// was sent to its inputs by then is dropped, and aggregates give no result.
    ///
    /// # Errors
    ///
    /// [`ControlError`] if the job is not known any more, its environment is closed, or its node cannot be reached.
    ///
    /// # Cancel safety
    ///
    /// A future dropped half-way may or may not have stopped the job.
    pub fn stop(&self) -> impl Future<Output = Result<(), ControlError>> + Send + use<> {
        self.control(Control::Stop)
    }

    /// Ends the job now and drops what is in flight. Returns once that is accepted, not once the job has ended.
    ///
    /// Tasks that do not return by `Limits::cancel_deadline` are abandoned together with their thread. A job whose tasks
    /// have all ended keeps the outcome that they have earned. If it is idle, its services stop, as by [`stop`](Self::stop): they
    /// are closed to new calls and answer those that they have accepted, but for pipelines, which drop what they hold, so that
    /// its callers get `NoReply`. Else it has no effect.
    ///
    /// # Errors
    ///
    /// [`ControlError`] if the job is not known any more, its environment is closed, or its node cannot be reached.
    ///
    /// # Cancel safety
    ///
    /// A future dropped half-way may or may not have cancelled the job.
    pub fn cancel(&self) -> impl Future<Output = Result<(), ControlError>> + Send + use<> {
        self.control(Control::Cancel)
    }

    /// Holds the sources; what is in flight drains and services stay callable. Returns once that is accepted; the job
    /// reads [`Paused`](crate::JobState::Paused) once it has drained.
    ///
    /// # Errors
    ///
    /// [`ControlError::Conflict`] unless the job is running or pausing or paused already; else as
    /// [`stop`](Self::stop).
    ///
    /// # Cancel safety
    ///
    /// A future dropped half-way may or may not have paused the job.
    pub fn pause(&self) -> impl Future<Output = Result<(), ControlError>> + Send + use<> {
        self.control(Control::Pause)
    }

    /// Lets the sources of a paused job go on. Without effect on a job that is not paused.
    ///
    /// # Errors
    ///
    /// [`ControlError::Conflict`] if the job has ended; else as [`stop`](Self::stop).
    ///
    /// # Cancel safety
    ///
    /// A future dropped half-way may or may not have resumed the job.
    pub fn resume(&self) -> impl Future<Output = Result<(), ControlError>> + Send + use<> {
        self.control(Control::Resume)
    }

    /// Forgets a job that has ended, with its outputs. From then on its id is unknown.
    ///
    /// # Errors
    ///
    /// [`ControlError::Conflict`] if the job has not ended; else as [`stop`](Self::stop).
    ///
    /// # Cancel safety
    ///
    /// A future dropped half-way may or may not have deleted the job.
    pub fn delete(&self) -> impl Future<Output = Result<(), ControlError>> + Send + use<> {
        self.act(JobRequest::DeleteJob { force: false })
    }

    /// Forgets a job; one that has not ended is cancelled first, and whoever waits for it is told so. Returns once it
    /// is forgotten.
    ///
    /// # Errors
    ///
    /// [`ControlError`] if the job is not known any more, its environment is closed, or its node cannot be reached.
    ///
    /// # Cancel safety
    ///
    /// A future dropped half-way may or may not have deleted the job.
    pub fn delete_forced(&self) -> impl Future<Output = Result<(), ControlError>> + Send + use<> {
        self.act(JobRequest::DeleteJob { force: true })
    }

    /// What the job still waits for, in sentences.
    ///
    /// # Errors
    ///
    /// [`QueryError`] if the job is not known any more, its environment is closed, or its node cannot be reached.
    ///
    /// # Cancel safety
    ///
    /// Asking changes nothing; the future can be dropped and asked again.
    pub fn explain(&self) -> impl Future<Output = Result<Explanation, QueryError>> + Send + use<> {
        let explanation = self.ask::<Explanation>(JobRequest::ExplainJob);
        async move { Ok(explanation.await?) }
    }

    /// The items that were set aside under the policy *skip*.
    ///
    /// # Errors
    ///
    /// [`QueryError`] if the job is not known any more, its environment is closed, or its node cannot be reached.
    ///
    /// # Cancel safety
    ///
    /// Asking changes nothing; the future can be dropped and asked again.
    pub fn dead_letters(&self) -> impl Future<Output = Result<DeadLetters, QueryError>> + Send + use<> {
        let letters = self.ask::<DeadLetters>(JobRequest::DeadLetters);
        async move { Ok(letters.await?) }
    }

    /// The job's tasks and the channels between them.
    ///
    /// # Errors
    ///
    /// [`QueryError`] if the job is not known any more, its environment is closed, or its node cannot be reached.
    ///
    /// # Cancel safety
    ///
    /// Asking changes nothing; the future can be dropped and asked again.
    pub fn graph(&self) -> impl Future<Output = Result<Graph, QueryError>> + Send + use<> {
        let graph = self.ask::<Box<Graph>>(JobRequest::JobGraph);
        async move { Ok(*graph.await?) }
    }

    /// The service registered as `name`, resolved at its first call: only then is it known whether it exists.
    #[must_use]
    pub fn service<S: Service>(&self, name: &str) -> ServiceRef<S> {
        ServiceRef::lazy(Arc::clone(&self.way) as Arc<dyn ServiceResolver>, self.id, name)
    }

    /// The input of `from_channel` called `name`, resolved at its first use.
    #[must_use]
    pub fn input<T>(&self, name: &str) -> Input<T>
    where
        T: serde::Serialize + serde::de::DeserializeOwned + Send + 'static,
    {
        Input::new(Arc::clone(&self.way) as Arc<dyn InputResolver>, self.id, name)
    }

    /// The output called `name`, resolved at its first read.
    pub fn output<T>(&self, name: &str) -> Output<T>
    where
        T: serde::de::DeserializeOwned + Send + 'static,
    {
        Output::new(Arc::clone(&self.way) as Arc<dyn OutputResolver>, self.id, name)
    }

    /// The job's outputs, with what is known of their items.
    #[cfg(feature = "cli")]
    pub(crate) fn output_types(&self) -> impl Future<Output = Result<OutputTypes, QueryError>> + Send + use<> {
        let types = self.ask::<OutputTypes>(JobRequest::OutputTypes);
        async move { Ok(types.await?) }
    }

    /// The output called `name`, for a program that does not have the type of its items.
    #[cfg(feature = "cli")]
    pub(crate) fn shown_output(
        &self,
        name: &str,
        description: TypeDescription,
    ) -> impl Future<Output = Result<ShownOutput, OutputError>> + use<> {
        let (resolver, job, name) = (Arc::clone(&self.way) as Arc<dyn OutputResolver>, self.id, name.to_owned());
        async move { ShownOutput::open(resolver, job, &name, description).await }
    }

    /// The same methods for code that is not async.
    #[must_use]
    pub fn blocking(&self) -> BlockingJob {
        BlockingJob::new(self.clone())
    }

    fn control(&self, control: Control) -> impl Future<Output = Result<(), ControlError>> + Send + use<> {
        self.act(JobRequest::Control(control))
    }

    fn act(&self, request: JobRequest) -> impl Future<Output = Result<(), ControlError>> + Send + use<> {
        let done = self.ask::<()>(request);
        async move { Ok(done.await?) }
    }

    /// The future holds the link only until the question is on its way, and never what keeps the job readable: a
    /// question that is under way is answered in any case.
    fn ask<T>(&self, request: JobRequest) -> impl Future<Output = Result<T, Refusal>> + Send + use<T>
    where
        T: TryFrom<Reply, Error = Refusal> + Send,
    {
        let residence = self.way.residence.clone();
        let answer = ask(Arc::clone(&self.way.link), Request::Job { job: self.id, request });
        async move {
            match answer.await {
                // The node that answers is not the one that knew the job.
                Err(Refusal::NoSuchJob { id }) => Err(match residence.lost() {
                    Some(reason) => Refusal::Lost { id, reason },
                    None => Refusal::NoSuchJob { id },
                }),
                answer => answer,
            }
        }
    }
}

impl fmt::Debug for JobHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobHandle").field("id", &self.id).field("name", &self.name).finish_non_exhaustive()
    }
}

impl ServiceResolver for Way {
    fn service(&self, job: JobId, name: &str) -> BoxFuture<'static, Result<FoundService, CallError>> {
        self.link.service(job, name)
    }

    fn host(&self) -> &Host {
        self.link.host()
    }

    fn call_deadline(&self) -> Duration {
        self.link.call_deadline()
    }
}

impl OutputResolver for Way {
    fn output(
        &self,
        job: JobId,
        name: &str,
        wanted: Arc<TypeDescription>,
    ) -> BoxFuture<'static, Result<Box<dyn ChunkSource>, OutputError>> {
        self.link.output(job, name, wanted)
    }
}

impl InputResolver for Way {
    fn input(
        &self,
        job: JobId,
        name: &str,
        wanted: Arc<TypeDescription>,
    ) -> BoxFuture<'static, Result<FoundInput, InputError>> {
        self.link.input(job, name, wanted)
    }
}
