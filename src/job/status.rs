//! What can be asked of a job while it runs and afterwards.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use crate::job::{FailureCause, JobId, Outcome, TaskId, Warning};

/// Where a job is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum JobState {
    /// Services are being started, or there is no worker yet that the job could be placed on; no task runs.
    Starting,
    /// Tasks run.
    Running,
    /// Sources are held; what is in flight drains.
    Pausing,
    /// Sources are held and nothing is in flight; services stay callable.
    Paused,
    /// An attempt of the job has failed, and it is going to [begin anew](crate::Restart): tasks and services of that attempt are
    /// being ended, the delay runs, or workers build the flow.
    Restarting,
    /// Sources have been ended by `stop`, or tasks are being cancelled; what remains is worked off.
    Draining,
    /// All tasks finished, and the job is without autostop and has services: they stay callable until `stop`. A job without
    /// a service is never idle.
    ///
    /// The tasks have earned the job's outcome. `stop` and `cancel` alike stop the services, and keep that outcome; only if a
    /// service fails more often than it may be restarted, or a task of a pipeline fails, does the job fail.
    Idle,
    /// All tasks ended; the services are being stopped, and only calls between them are taken.
    StoppingServices,
    /// The job has its outcome; nothing of it runs any more.
    Ended,
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Pausing => "pausing",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Draining => "draining",
            Self::Idle => "idle",
            Self::StoppingServices => "stopping services",
            Self::Ended => "ended",
        })
    }
}

/// A consistent snapshot of one job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct JobStatus {
    /// The job's identifier.
    pub id: JobId,
    /// The job's name: that of its type, or the one given at submit.
    pub name: String,
    /// Where it is in its life.
    pub state: JobState,
    /// Its outcome, once `state` is [`JobState::Ended`].
    pub outcome: Option<Outcome>,
    /// Whether it ends its services by itself once its tasks have finished.
    pub autostop: bool,
    /// Rises by at least one with every change of state, task, service or restart count.
    pub version: u64,
    /// Live tasks; 0 before `state` reads `Ended`.
    pub task_count: usize,
    /// Live services; 0 before `state` reads `Ended`.
    pub service_count: usize,
    /// Restarts of services so far.
    pub restarts: u32,
    /// How often the job was begun, from 1: more if it failed and [began anew](crate::Restart).
    #[serde(default = "first_attempt")]
    pub attempt: u32,
    /// Why the attempt before this one failed; of a job that is about to begin anew, why the last one did.
    #[serde(default)]
    pub last_failure: Option<FailureCause>,
    /// Dead letters so far.
    pub dead_letters: u64,
    /// What went wrong without changing the outcome.
    pub warnings: Vec<Warning>,
    /// When the job was accepted, by the clock of the machine that runs it. If that is set back while the job runs, later
    /// times are not before this one all the same.
    pub submitted_at: SystemTime,
    /// When its first task started, if one has.
    pub started_at: Option<SystemTime>,
    /// When it ended, if it has.
    pub ended_at: Option<SystemTime>,
    /// After how long without a handle to it the job is stopped, if it was submitted with a lease.
    pub lease: Option<Duration>,
    /// Who has a handle to it: of several clients, the one that got its own last. If none has, who had one last; of an
    /// ended job, as it was at its end.
    pub held_by: Option<Holder>,
    /// Each task, live or ended, in the order of the graph.
    pub tasks: Vec<TaskStatus>,
    /// Each service, in order of registration.
    pub services: Vec<ServiceStatus>,
}

/// Of jobs that were recorded before there were more.
fn first_attempt() -> u32 {
    1
}

impl JobStatus {
    /// Whether the job has not ended yet.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.state != JobState::Ended
    }

    /// The cause of failure as a sentence, if the job failed.
    #[must_use]
    pub fn error(&self) -> Option<String> {
        self.outcome.as_ref().and_then(Outcome::failure).map(ToString::to_string)
    }
}

/// A client that has a handle to a job, or had the last one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Holder {
    /// The name of its environment.
    pub client: String,
    /// Where its connection came from, as the node saw it; none for a client in the process that runs the job.
    pub address: Option<String>,
    /// When it let the job go, by the clock of the machine that runs it; none while it holds it.
    pub until: Option<SystemTime>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.client)?;
        match &self.address {
            Some(address) => write!(f, " at {address}"),
            None => f.write_str(" in the process of the job"),
        }
    }
}

/// Where a task or service is in its life.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ActorState {
    /// Not started yet.
    #[default]
    Waiting,
    /// Started and not ended.
    Running,
    /// A service between a failure and its next instance.
    Restarting,
    /// Ended as it should.
    Finished,
    /// Ended by `cancel`, or with the job's failure elsewhere.
    Cancelled,
    /// Ended by its own failure.
    Failed,
    /// Given up at a deadline because its code did not return.
    Abandoned,
}

impl fmt::Display for ActorState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Restarting => "restarting",
            Self::Finished => "finished",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
            Self::Abandoned => "abandoned",
        })
    }
}

/// A snapshot of one task.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TaskStatus {
    /// The task's number in the graph.
    pub id: Option<TaskId>,
    /// Its operators, joined by ` -> `.
    pub name: String,
    /// Which parallel instance of the chain, from 0.
    pub instance: u32,
    /// Where it is in its life.
    pub state: ActorState,
    /// The worker that runs it, if that is not the process that accepted the job.
    #[serde(default)]
    pub worker: Option<String>,
    /// What it did so far.
    pub counters: TaskCounters,
}

/// What a task did so far. Counters are updated once per batch, so they may trail by one batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TaskCounters {
    /// Items taken from the task's source or input channels.
    pub items_in: u64,
    /// Items handed to output channels, outputs and sinks.
    pub items_out: u64,
    /// Batches taken from the task's source or input channels.
    pub batches: u64,
    /// Time spent working.
    pub busy: Duration,
    /// Time spent waiting for room downstream or for asynchronous calls.
    pub blocked: Duration,
    /// Time spent waiting for input.
    pub idle: Duration,
    /// Batches waiting in the task's input channels.
    pub queue_depth: u64,
    /// Items set aside under the policy *skip*.
    pub dead_letters: u64,
}

/// A snapshot of one service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ServiceStatus {
    /// The name it was registered under.
    pub name: String,
    /// Where it is in its life.
    pub state: ActorState,
    /// Messages handled so far, over all its instances.
    pub handled: u64,
    /// Messages waiting in its queue.
    pub queued: u64,
    /// Restarts so far.
    pub restarts: u32,
    /// The worker that runs it, if that is not the process that accepted the job.
    #[serde(default)]
    pub worker: Option<String>,
}

/// What a job still waits for, as [`JobHandle::explain`](crate::JobHandle::explain) tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Explanation {
    /// Where the job is in its life.
    pub state: JobState,
    /// One sentence for each thing waited for; empty once the job has ended.
    pub waits: Vec<String>,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.state)?;
        for wait in &self.waits {
            write!(f, "\n  {wait}")?;
        }
        Ok(())
    }
}

/// An item that an operator under the policy *skip* could not process.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DeadLetter {
    /// The operator's name.
    pub operator: String,
    /// Which parallel instance, from 0.
    pub instance: u32,
    /// The item's position among those this instance received, from 1.
    pub position: u64,
    /// The error or the panic's message.
    pub cause: String,
}

/// The dead letters of a job: all are counted, the newest are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DeadLetters {
    /// How many items were set aside in all.
    pub total: u64,
    /// The newest ones, oldest first; at most `Limits::dead_letters_max`.
    pub newest: Vec<DeadLetter>,
}

/// What an environment says of its health.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Health {
    /// Whether it accepts jobs.
    pub accepting: bool,
    /// Jobs that have not ended.
    pub jobs_live: usize,
    /// Ended jobs that are still readable.
    pub jobs_ended: usize,
    /// Tasks and services that were given up because their code did not return. At most as many threads were lost:
    /// two on one thread count twice.
    pub threads_abandoned: usize,
    /// Why the history on disk is not up to date, if it is not: a disk that is full, say. Until it is, no job is accepted.
    pub history_error: Option<String>,
}

/// A worker that has joined an environment: a process that runs tasks of its jobs, beside the environment's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct WorkerInfo {
    /// What it is called. Several may have one name.
    pub name: String,
    /// Where other workers reach it, `host:port`.
    pub address: String,
    /// Whether jobs are placed on it.
    pub state: WorkerState,
    /// Threads that run tasks.
    pub slots: usize,
    /// Those of them that tasks of running jobs were placed on.
    pub slots_used: usize,
    /// Tasks of running jobs that were placed on it.
    pub tasks: usize,
    /// Services of running jobs that were placed on it.
    pub services: usize,
    /// Jobs that have a part on it, or are about to.
    pub jobs: usize,
}

/// Whether jobs are placed on a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum WorkerState {
    /// They are.
    Joined,
    /// No further ones: it is about to leave, once those have ended that it has.
    Draining,
}

impl fmt::Display for WorkerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Joined => "joined",
            Self::Draining => "draining",
        })
    }
}

/// What an environment says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct EnvironmentInfo {
    /// The environment's name.
    pub name: String,
    /// The version of proscenium that runs the jobs.
    pub version: String,
    /// Threads that run tasks.
    pub task_threads: usize,
    /// Threads that run services.
    pub service_threads: usize,
    /// When it was opened.
    pub opened_at: SystemTime,
}
