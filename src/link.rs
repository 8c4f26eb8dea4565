//! What a client asks a JobManager, and the link it asks over.
//!
//! Everything in [`Request`], [`Reply`] and [`Refusal`] is plain data. What is moved within the process only: the job's
//! value in [`SubmitJob`], and the [`Keep`] and [`Residence`] of an opened job.

mod role;
mod worker;

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

pub(crate) use self::role::KeyRingRefusal;
pub use self::role::{KeyInfo, KeyRole};
pub(crate) use self::worker::{
    AttemptKey, Connect, Departure, JobPorts, OwnWorker, Place, Prepare, Prepared, Unconnected, Unprepared,
    WORKER_SILENCE, WorkerEvents, WorkerFacts, WorkerId, WorkerLink,
};
use crate::{
    flow::JobPayload,
    host::Host,
    job::{
        BuildRefusal, DeadLetters, EnvironmentInfo, Explanation, Graph, Health, HeldBy, Holder, JobId, JobOptions,
        JobRefusal, JobState, JobStatus, NotSendable, Outcome, WorkerInfo,
    },
    port::{AnyInput, InputError, InputResolver, OutputError, OutputResolver, OutputStore},
    schema::TypeDescription,
    service::{AnyGate, CallError, ServiceResolver},
};

/// The way from a client to a JobManager. It never owns the environment it leads to: once that is closed, every
/// request is refused with [`Refusal::EnvironmentClosed`].
pub(crate) trait Link: ServiceResolver + OutputResolver + InputResolver {
    /// The name of the environment at the other end.
    fn environment(&self) -> &str;

    /// Answered when the job's flow was built, or refused.
    fn submit(&self, submit: SubmitJob) -> BoxFuture<'static, Result<Opened, Refusal>>;

    fn ask(&self, request: Request) -> BoxFuture<'static, Result<Reply, Refusal>>;

    /// Each Ctrl+C of this process, from when the future is ready until the receiver is dropped.
    fn interrupts(&self) -> BoxFuture<'static, mpsc::Receiver<()>>;
}

/// What the serving end of a connection needs of the JobManager's process besides its [`Link`]: the ends of a job that
/// are typed in that process.
pub(crate) trait NearLink: Link {
    fn gate(&self, job: JobId, service: &str) -> BoxFuture<'static, Result<Arc<dyn AnyGate>, CallError>>;
    fn store(&self, job: JobId, output: &str) -> BoxFuture<'static, Result<Arc<OutputStore>, OutputError>>;
    fn port(&self, job: JobId, input: &str) -> BoxFuture<'static, Result<Arc<dyn AnyInput>, InputError>>;
    /// A worker has come. Until it leaves, jobs are placed on it.
    fn join(&self, facts: WorkerFacts, worker: Arc<dyn WorkerLink>) -> BoxFuture<'static, Result<WorkerId, Refusal>>;
    /// A worker is gone, for this reason: what it had is lost.
    fn leave(&self, worker: WorkerId, why: String, departure: Departure);
    /// A worker wants to leave: it gets no further job, and is dismissed once those have ended that it has.
    fn drain(&self, worker: WorkerId);
}

/// A job to run.
#[derive(Debug)]
pub(crate) struct SubmitJob {
    pub id: JobId,
    pub options: JobOptions,
    pub payload: JobPayload,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Request {
    Job { job: JobId, request: JobRequest },
    ListJobs,
    Health,
    Info,
    Cleanup,
    ListWorkers,
    DrainWorker { name: String },
}

/// What can be asked of one job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum JobRequest {
    /// Does it exist? If so, whoever asks holds it from then on.
    Open {
        by: HeldBy,
    },
    JobStatus,
    /// Answered once the job's version is above `after`, or it has ended. A long poll rather than a subscription, so
    /// that it can be repeated over a new connection.
    WatchJob {
        after: Option<u64>,
    },
    WaitJob,
    Control(Control),
    DeleteJob {
        force: bool,
    },
    ExplainJob,
    DeadLetters,
    JobGraph,
    OutputTypes,
}

/// What can be asked of a live job's course.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Control {
    Stop,
    Cancel,
    Pause,
    Resume,
}

macro_rules! replies {
    ($($variant:ident($content:ty),)*) => {
        /// What a request is answered with.
        #[derive(Debug, Clone, Serialize, Deserialize)]
        pub(crate) enum Reply {
            $($variant($content),)*
        }

        $(impl TryFrom<Reply> for $content {
            type Error = Refusal;

            fn try_from(reply: Reply) -> Result<Self, Refusal> {
                match reply {
                    Reply::$variant(content) => Ok(content),
                    other => Err(Refusal::Internal(format!("{other:?} does not answer what was asked"))),
                }
            }
        })*
    };
}

replies! {
    Done(()),
    Opened(Opened),
    Status(Box<JobStatus>),
    Ended(Outcome),
    Explanation(Explanation),
    DeadLetters(DeadLetters),
    Graph(Box<Graph>),
    Jobs(Vec<JobStatus>),
    Health(Health),
    Info(EnvironmentInfo),
    Counted(usize),
    OutputTypes(OutputTypes),
    Keys(Vec<KeyInfo>),
    KeyAdded([u8; 32]),
    Workers(Vec<WorkerInfo>),
}

/// The names of a job's outputs, and what each holds where that is known: not any more once they are gone.
pub(crate) type OutputTypes = Vec<(String, Option<TypeDescription>)>;

/// A job that exists.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Opened {
    pub name: String,
    #[serde(skip)]
    pub keep: Keep,
    #[serde(skip)]
    pub residence: Residence,
}

impl Opened {
    /// A job of this process.
    pub(crate) fn new(name: String, keep: Keep) -> Self {
        Self { name, keep, residence: Residence::default() }
    }
}

/// Why a request was not fulfilled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Refusal {
    NoSuchJob {
        id: JobId,
    },
    Expired {
        id: JobId,
    },
    Conflict {
        operation: String,
        state: JobState,
    },
    Build(BuildRefusal),
    /// The node does not run such a job.
    Job(JobRefusal),
    /// The job's parameters have another structure on the node. Made by the client, which knows both.
    JobTypeDiffers {
        job: String,
        difference: String,
    },
    /// The job cannot be sent to another process.
    NotSendable(NotSendable),
    /// The node that ran the job is gone.
    Lost {
        id: JobId,
        reason: String,
    },
    /// No connection could be had. Nothing was asked.
    Unreachable {
        message: String,
    },
    /// It was asked, and the connection was lost for good before the answer came.
    FateUnknown {
        message: String,
    },
    /// It could not be written into the history.
    NotRecorded {
        message: String,
    },
    EnvironmentClosed,
    Internal(String),
    /// The client's key does not have that right; a sentence.
    Forbidden {
        message: String,
    },
    /// About the keys of a node.
    KeyRing(KeyRingRefusal),
    /// The client's key has so many jobs that have not ended, and may have no more.
    TooManyJobs {
        key: String,
        limit: usize,
    },
}

/// How a node ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum NodeStop {
    /// Every job is stopped as by [`JobHandle::stop`](crate::JobHandle::stop): its sources end, and what they emitted is
    /// processed. The node ends when all jobs have ended.
    Drain,
    /// Every job is cancelled as by [`JobHandle::cancel`](crate::JobHandle::cancel).
    Cancel,
}

/// A handle's hold on a job: while a clone of it lives, the job does not expire, and its lease does not run. Without
/// content where the job runs in another process, which holds it for the connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct Keep(#[expect(dead_code, reason = "held for its drop")] Option<Arc<Hold>>);

#[derive(Debug)]
struct Hold {
    number: u64,
    holds: Holds,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.holds.let_go(self.number);
    }
}

/// Bytes of a holder's name that are kept, for it comes from a peer.
const HOLDER_BYTES_MAX: usize = 256;

/// Who holds a job. It belongs to the job's record; each [`Keep`] is one of those who hold.
#[derive(Clone)]
pub(crate) struct Holds(Arc<Mutex<HoldsState>>);

struct HoldsState {
    host: Host,
    /// In the order in which they came.
    holders: BTreeMap<u64, HeldBy>,
    holders_ever: u64,
    /// Who was the last to let go, and when, if nobody holds it.
    last: Option<(HeldBy, SystemTime, Instant)>,
    /// Called when nobody holds the job any more; without the lock, for it sends a message.
    released: Option<Arc<dyn Fn() + Send + Sync>>,
}

impl Holds {
    pub(crate) fn new(host: &Host) -> Self {
        let (host, holders) = (host.clone(), BTreeMap::new());
        Self(Arc::new(Mutex::new(HoldsState { host, holders, holders_ever: 0, last: None, released: None })))
    }

    /// `released` is told each time nobody holds the job any more.
    pub(crate) fn telling(host: &Host, released: impl Fn() + Send + Sync + 'static) -> Self {
        let holds = Self::new(host);
        holds.0.lock().released = Some(Arc::new(released));
        holds
    }

    pub(crate) fn take(&self, mut by: HeldBy) -> Keep {
        by.client.truncate(by.client.floor_char_boundary(HOLDER_BYTES_MAX));
        let mut state = self.0.lock();
        let number = state.holders_ever;
        state.holders_ever += 1;
        state.holders.insert(number, by);
        state.last = None;
        drop(state);
        Keep(Some(Arc::new(Hold { number, holds: self.clone() })))
    }

    fn let_go(&self, number: u64) {
        let mut state = self.0.lock();
        let Some(by) = state.holders.remove(&number) else { return };
        if !state.holders.is_empty() {
            return;
        }
        // An ended job stays in the history, and a map keeps room for eleven entries once it has had one.
        state.holders = BTreeMap::new();
        state.last = Some((by, state.host.wall(), state.host.now()));
        let released = state.released.clone();
        drop(state);
        if let Some(released) = released {
            released();
        }
    }

    pub(crate) fn is_held(&self) -> bool {
        !self.0.lock().holders.is_empty()
    }

    /// How long nobody has held the job, if nobody does and somebody did.
    pub(crate) fn unheld_for(&self) -> Option<Duration> {
        let state = self.0.lock();
        state.last.as_ref().map(|(_, _, since)| state.host.since(*since))
    }

    /// Who holds the job: of several, who came last; or else, who let go of it last.
    pub(crate) fn holder(&self) -> Option<Holder> {
        let state = self.0.lock();
        let holds = state.holders.last_key_value().map(|(_, by)| (by, None));
        let (by, until) = holds.or_else(|| state.last.as_ref().map(|(by, until, _)| (by, Some(*until))))?;
        let HeldBy { client, address } = by.clone();
        Some(Holder { client, address, until })
    }
}

impl fmt::Debug for Holds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Holds").field(&self.holder()).finish()
    }
}

/// Where an opened job lives, if that is another process: it can be lost with that process.
#[derive(Clone, Default)]
pub(crate) struct Residence(Option<Arc<dyn Fn() -> Option<String> + Send + Sync>>);

impl Residence {
    /// `lost` says why the process is known to be gone, if it is.
    pub(crate) fn elsewhere(lost: impl Fn() -> Option<String> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(lost)))
    }

    /// Why the job is known to be lost, if it is. Only asked when the job is not found where it should be.
    pub(crate) fn lost(&self) -> Option<String> {
        self.0.as_ref().and_then(|lost| lost())
    }
}

impl fmt::Debug for Residence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Residence").field(&self.0.is_some()).finish()
    }
}

/// Asks over `link` and takes the answer out of its reply.
pub(crate) async fn ask<T>(link: Arc<dyn Link>, request: Request) -> Result<T, Refusal>
where
    T: TryFrom<Reply, Error = Refusal>,
{
    let reply = link.ask(request);
    // Only the reply is waited for, so that a pending request holds nothing of the link.
    drop(link);
    T::try_from(reply.await?)
}
