//! A user's job type, and how its flow is built.

use std::{cell::RefCell, fmt, marker::PhantomData, rc::Rc, sync::Arc};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    codec,
    dataplane::chain::catch,
    flow::{
        Flow,
        graph::{Blueprint, BuildOptions, Plan},
        registry::encode,
    },
    job::{BuildError, BuildRefusal, EncodedJob, JobRefusal, NotSendable},
    schema::TypeDescription,
};

/// A job: serializable parameters, and a `build` that lays out its flow.
///
/// The *value* travels to where the job runs; `build` runs there, once for each attempt and in each process that
/// hosts actors of the job. It must be deterministic in `self`: every call lays out the same graph. It runs on a
/// thread where blocking is allowed.
///
/// # When are two types the same?
///
/// Encoded values do not describe themselves, so a client and a node compare the *structure* of a type before the first
/// value travels: of a job's parameters, of a message and its reply, of the items of an input or an output. It is made
/// of
///
/// * the names of structs and enums, of their fields and variants, in their order, as serde has them: `struct Desk2`
///   differs from `struct Desk`, unless it says `#[serde(rename = "Desk")]`;
/// * whether something is an option, a list, a map, a tuple or a struct, and for numbers and texts which type: `u32`
///   differs from `u64`, and from `struct Meters(u32)`.
///
/// Modules, crates and the names of aliases are no part of it, nor are type parameters but for the fields that they
/// stand for. Of several differences an error tells the first. `#[serde(transparent)]`, `with` and code of one's own
/// count by what they read. A type whose structure cannot be found out is known by its full Rust name instead: one with
/// `untagged` or `flatten`, one that refuses made-up values, or that panics.
///
/// To learn the structure, **the type's `Deserialize` is run on values that are made up** (0, 1, empty and short texts,
/// every variant in turn), once for each type and process, in a local environment too, on whatever thread needs it
/// first. A panic in there is caught and harms nothing, but the program's panic hook prints it first, and the value
/// that it speaks of was never sent. A `Deserialize` that returns an error for values that it does not like is quiet.
pub trait Job: Serialize + DeserializeOwned + Send + 'static {
    /// The name under which a node knows this type. To rename the type is still a difference, as its name is a part of its
    /// structure too: see [when two types are the same](Self#when-are-two-types-the-same).
    const NAME: &'static str;

    /// Raised when the meaning of the parameters changes without their structure changing.
    const VERSION: u32 = 1;

    /// Lays out sources, operators, sinks and services.
    ///
    /// # Errors
    ///
    /// Whatever keeps the flow from being laid out; `submit` then fails with [`SubmitError::Build`] and no job exists.
    ///
    /// [`SubmitError::Build`]: crate::SubmitError::Build
    fn build(&self, flow: &mut Flow) -> Result<(), BuildError>;
}

/// What can be submitted: every [`Job`], and the closure jobs of [`job_fn`].
pub trait IntoJob: sealed::Sealed {
    #[doc(hidden)]
    fn into_payload(self) -> JobPayload;
}

/// A job made of a name and a closure; see [`job_fn`].
pub struct JobFn<F> {
    name: String,
    build: F,
}

impl<F> fmt::Debug for JobFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobFn").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A job from a closure, for experiments in a local environment.
///
/// A closure cannot be sent to another process: a remote environment refuses it and says to write a [`Job`] type.
///
/// ```
/// use proscenium::{LocalEnvironment, job_fn};
///
/// let env = LocalEnvironment::new("doc");
/// let job = job_fn("squares", |flow| {
///     flow.from_batch(1..=3u64).map(|x| x * x).collect("squares");
///     Ok(())
/// });
/// let job = env.submit(job).autostop(true).blocking()?;
/// let squares: Vec<u64> = job.output("squares").blocking()?;
/// assert_eq!(squares, [1, 4, 9]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn job_fn<F>(name: impl Into<String>, build: F) -> JobFn<F>
where
    F: Fn(&mut Flow) -> Result<(), BuildError> + Send + 'static,
{
    JobFn { name: name.into(), build }
}

/// What travels of a job within a process: its value, or what came of it from another, still encoded.
pub struct JobPayload(pub(crate) Box<dyn ErasedJob>);

impl fmt::Debug for JobPayload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("JobPayload").field(&self.0.name()).finish()
    }
}

/// A job whose type is no longer known.
pub(crate) trait ErasedJob: Send {
    fn name(&self) -> &str;
    fn build(&self, flow: &mut Flow) -> Result<(), Unbuilt>;
    /// The form in which it goes to another process.
    fn encode(&self) -> Result<EncodedJob, NotSendable>;
    /// The same job once more, for another worker.
    fn again(&self) -> Result<JobPayload, NotSendable>;
    /// The type of the parameters; none for a closure.
    fn describe(&self) -> Option<Arc<TypeDescription>>;
}

/// Why a job laid out no flow.
pub(crate) enum Unbuilt {
    /// It came encoded, and could not be decoded.
    Job(JobRefusal),
    Flow(BuildError),
}

/// Why a job has no plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Unplanned {
    Job(JobRefusal),
    Flow(BuildRefusal),
}

impl From<BuildRefusal> for Unplanned {
    fn from(refusal: BuildRefusal) -> Self {
        Self::Flow(refusal)
    }
}

pub(super) struct Typed<J>(pub(super) J);

impl<J: Job> ErasedJob for Typed<J> {
    fn name(&self) -> &str {
        J::NAME
    }

    fn build(&self, flow: &mut Flow) -> Result<(), Unbuilt> {
        self.0.build(flow).map_err(Unbuilt::Flow)
    }

    fn encode(&self) -> Result<EncodedJob, NotSendable> {
        encode(&self.0)
    }

    fn again(&self) -> Result<JobPayload, NotSendable> {
        Ok(JobPayload(Box::new(Copied::<J> { job: encode(&self.0)?, kind: PhantomData })))
    }

    fn describe(&self) -> Option<Arc<TypeDescription>> {
        Some(TypeDescription::of::<J>())
    }
}

/// A job whose flow may be built more than once in this process.
pub(crate) struct KeptJob {
    name: String,
    job: Arc<Mutex<JobPayload>>,
}

impl KeptJob {
    pub(crate) fn new(job: JobPayload) -> Self {
        Self { name: job.0.name().to_owned(), job: Arc::new(Mutex::new(job)) }
    }

    /// The job, to be built once.
    pub(crate) fn payload(&self) -> JobPayload {
        JobPayload(Box::new(Self { name: self.name.clone(), job: Arc::clone(&self.job) }))
    }
}

impl ErasedJob for KeptJob {
    fn name(&self) -> &str {
        &self.name
    }

    fn build(&self, flow: &mut Flow) -> Result<(), Unbuilt> {
        self.job.lock().0.build(flow)
    }

    fn encode(&self) -> Result<EncodedJob, NotSendable> {
        self.job.lock().0.encode()
    }

    fn again(&self) -> Result<JobPayload, NotSendable> {
        self.job.lock().0.again()
    }

    fn describe(&self) -> Option<Arc<TypeDescription>> {
        self.job.lock().0.describe()
    }
}

/// A job of this process, encoded for another worker.
struct Copied<J> {
    job: EncodedJob,
    kind: PhantomData<fn() -> J>,
}

impl<J: Job> ErasedJob for Copied<J> {
    fn name(&self) -> &str {
        J::NAME
    }

    fn build(&self, flow: &mut Flow) -> Result<(), Unbuilt> {
        let job: J = codec::decode_untrusted(&self.job.parameters).map_err(|error| Unbuilt::Flow(error.into()))?;
        job.build(flow).map_err(Unbuilt::Flow)
    }

    fn encode(&self) -> Result<EncodedJob, NotSendable> {
        Ok(self.job.clone())
    }

    fn again(&self) -> Result<JobPayload, NotSendable> {
        Ok(JobPayload(Box::new(Self { job: self.job.clone(), kind: PhantomData })))
    }

    fn describe(&self) -> Option<Arc<TypeDescription>> {
        Some(TypeDescription::of::<J>())
    }
}

impl<F> ErasedJob for JobFn<F>
where
    F: Fn(&mut Flow) -> Result<(), BuildError> + Send + 'static,
{
    fn name(&self) -> &str {
        &self.name
    }

    fn build(&self, flow: &mut Flow) -> Result<(), Unbuilt> {
        (self.build)(flow).map_err(Unbuilt::Flow)
    }

    fn encode(&self) -> Result<EncodedJob, NotSendable> {
        Err(NotSendable::Closure { job: self.name.clone() })
    }

    fn again(&self) -> Result<JobPayload, NotSendable> {
        Err(NotSendable::Closure { job: self.name.clone() })
    }

    fn describe(&self) -> Option<Arc<TypeDescription>> {
        None
    }
}

impl<J: Job> IntoJob for J {
    fn into_payload(self) -> JobPayload {
        JobPayload(Box::new(Typed(self)))
    }
}

impl<F> IntoJob for JobFn<F>
where
    F: Fn(&mut Flow) -> Result<(), BuildError> + Send + 'static,
{
    fn into_payload(self) -> JobPayload {
        JobPayload(Box::new(self))
    }
}

/// A job that was read from text.
impl IntoJob for JobPayload {
    fn into_payload(self) -> JobPayload {
        self
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::JobPayload {}
    impl<J: super::Job> Sealed for J {}
    impl<F> Sealed for super::JobFn<F> where F: Fn(&mut super::Flow) -> Result<(), super::BuildError> + Send + 'static {}
}

/// Runs `build` of a job and makes its plan. A panic in it is caught here.
pub(crate) fn plan(payload: &JobPayload, options: BuildOptions) -> Result<Plan, Unplanned> {
    let job: &dyn ErasedJob = &*payload.0;
    let blueprint = Rc::new(RefCell::new(Blueprint::new(options)));
    let mut flow = Flow::on(&blueprint);
    match catch(|| job.build(&mut flow)) {
        Ok(Ok(())) => {}
        Ok(Err(Unbuilt::Job(refusal))) => return Err(Unplanned::Job(refusal)),
        Ok(Err(Unbuilt::Flow(error))) => {
            // An error recorded by a flow method came first and is usually the cause.
            let refusal = blueprint.borrow_mut().refusal.take();
            return Err(refusal.unwrap_or_else(|| BuildRefusal::User(error.message())).into());
        }
        Err(panic) => return Err(BuildRefusal::Panicked(panic).into()),
    }
    drop(flow);
    match Rc::try_unwrap(blueprint) {
        // Factories are user code too: they clone captured state.
        Ok(blueprint) => {
            let plan = catch(|| blueprint.into_inner().finish());
            Ok(plan.unwrap_or_else(|panic| Err(BuildRefusal::Panicked(panic)))?)
        }
        Err(shared) => {
            let blueprint = shared.borrow();
            let at = blueprint.open.values().min().copied();
            let operator = at.map_or("?", |(chain, operator)| blueprint.chains[chain].operators[operator].kind);
            let refusal = blueprint.refusal.clone();
            Err(refusal.unwrap_or_else(|| BuildRefusal::Unconsumed { operator: operator.to_owned() }).into())
        }
    }
}
