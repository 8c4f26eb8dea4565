//! The messages between environment, JobManager, Dispatcher, JobSupervisor and workers.
//!
//! All of them are plain data that could cross a process boundary, apart from two payloads that are moved within a
//! process and would be encoded beyond it: the job's value in `link::Prepare` and the ports in `link::Prepared`. Every
//! order and every event names its job and the [`Term`] that it is of: what is late changes nothing.

use serde::{Deserialize, Serialize};

use crate::job::{DeadLetter, FailureCause, Incarnation, JobId, ServiceId, TaskCounters, TaskId, Term};

/// An order of the Dispatcher or the JobSupervisor. One of a term that the worker does not host changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Order {
    pub job: JobId,
    pub term: Term,
    pub order: WorkerOrder,
}

/// What the Dispatcher and the JobSupervisor order a worker to do.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum WorkerOrder {
    /// Make an instance of the service from its factory and start it.
    StartService { service: ServiceId, incarnation: Incarnation },
    /// Start these tasks, each on its slot (index into the worker's task threads), and no others: the rest is elsewhere.
    /// Given once.
    StartTasks { tasks: Vec<(TaskId, u32)> },
    /// No task will be started: drop what they were to be made of.
    DropTasks,
    /// Change the course of those tasks that the command is for: see [`TaskCommand::audience`].
    CommandTasks { command: TaskCommand },
    /// Refuse calls from outside the job from now on.
    CloseGates,
    /// Answer what the service has accepted, then stop it.
    StopService { service: ServiceId, incarnation: Incarnation },
    /// No instance of the service will come any more, and none is there: refuse every call that waits in its queue or
    /// comes later, also from inside the job.
    RefuseCalls { service: ServiceId },
    /// Give up these tasks and retire their threads.
    AbandonTasks { tasks: Vec<TaskId> },
    /// Give up this instance of the service and retire its thread; if that `is_final`, also refuse what waits for another one.
    AbandonService { service: ServiceId, is_final: bool },
    /// End the instance at once, if it is there: calls that it has taken up fail with it. What came from outside and is queued waits for
    /// the next attempt; tasks and services of this one are refused.
    DismissService { service: ServiceId, incarnation: Incarnation },
    /// Nothing of the attempt is live, and another one is to follow: forget everything of it. Outputs begin anew, and what tasks and
    /// services have sent to services is dropped.
    EndAttempt,
    /// The job has ended: forget everything of it but its outputs.
    Release,
}

/// Which of an attempt's workers has which task and which service.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Layout {
    /// The worker that is told.
    pub here: u32,
    /// By task. Worker 0 is in the JobManager's process: it has the outputs and inputs, and the gates of the services.
    pub tasks: Vec<u32>,
    /// By service, where its instances run; shorter if the rest runs at home.
    pub services: Vec<u32>,
}

impl Layout {
    /// The worker that has the job's outputs and inputs, and the gates of its services.
    pub(crate) const HOME: u32 = 0;

    /// All tasks are in this one process.
    pub(crate) fn alone(tasks: usize) -> Self {
        Self { here: Self::HOME, tasks: vec![Self::HOME; tasks], services: Vec::new() }
    }

    pub(crate) fn is_here(&self, task: TaskId) -> bool {
        self.tasks.get(task.index()) == Some(&self.here)
    }

    /// Where the instances of the service run.
    pub(crate) fn place_of(&self, service: ServiceId) -> u32 {
        self.services.get(service.index()).copied().unwrap_or(Self::HOME)
    }
}

/// What a task is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum TaskCommand {
    /// Sources: end now. Other tasks: no effect, the end of the stream reaches them.
    Stop,
    /// Drop what is in flight and report.
    Cancel,
    /// Sources: hold, and send the mark `Hold(epoch)` downstream. Every task reports `Held` when the mark has passed.
    Hold { epoch: u32 },
    /// Sources: go on.
    Resume,
    /// Tasks of this loop: say whether you are at rest, and what you have sent and received within it.
    Scan { id: LoopId, wave: u32 },
    /// This loop is quiet: its heads end.
    EndLoop { id: LoopId },
    /// Nobody wants what comes out of this loop: its heads take nothing more, and end.
    CloseLoop { id: LoopId },
    /// This loop takes nothing round any more, and ends.
    CutLoop { id: LoopId },
    /// No more requests will come for this pipeline service: its source ends.
    EndRequests { service: ServiceId },
    /// The tasks of this pipeline service: drop what is in flight and report.
    CancelRequests { service: ServiceId },
}

/// Which tasks of a job a command is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Audience {
    All,
    /// The tasks of this feedback loop.
    Loop(LoopId),
    /// The tasks of this pipeline service.
    Service(ServiceId),
}

impl TaskCommand {
    /// The tasks that the command has an effect on. Others need not hear it: a job may have very many.
    pub(crate) fn audience(self) -> Audience {
        match self {
            Self::Stop | Self::Cancel | Self::Hold { .. } | Self::Resume => Audience::All,
            Self::Scan { id, .. } | Self::EndLoop { id } | Self::CloseLoop { id } | Self::CutLoop { id } => {
                Audience::Loop(id)
            }
            Self::EndRequests { service } | Self::CancelRequests { service } => Audience::Service(service),
        }
    }
}

/// A feedback loop of a job: its position among those of the graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct LoopId(pub u32);

impl LoopId {
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// What a task says of its part in a loop, at one moment between two steps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct LoopScan {
    /// It waits for input and owes nothing, and nothing more can enter the loop by it.
    pub at_rest: bool,
    /// Batches that it has put on channels within the loop, and that it has taken off them or thrown away.
    pub sent: u64,
    pub received: u64,
}

/// What a worker reports to the JobSupervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WorkerEvent {
    pub job: JobId,
    pub term: Term,
    pub kind: WorkerEventKind,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum WorkerEventKind {
    Task {
        task: TaskId,
        event: TaskEvent,
    },
    Service {
        service: ServiceId,
        incarnation: Incarnation,
        event: ServiceEvent,
    },
    /// The connection between two workers of the team broke, by their numbers in it.
    Severed {
        here: u32,
        peer: u32,
        message: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum TaskEvent {
    Started,
    /// A `Hold` mark of this epoch has passed through the task, and nothing of what came before it is in flight here.
    Held {
        epoch: u32,
    },
    /// The loop this task is part of may have gone quiet.
    LoopQuiet {
        id: LoopId,
    },
    /// What comes out of this loop is not wanted any more.
    LoopUnwanted {
        id: LoopId,
    },
    /// The answer to `Scan`.
    Scanned {
        id: LoopId,
        wave: u32,
        scan: LoopScan,
    },
    /// Items were set aside. Sent at most once for each step of the task; `newest` is bounded by the sender.
    DeadLettered {
        count: u64,
        newest: Vec<DeadLetter>,
    },
    /// All input ended, everything was flushed, the end was forwarded.
    Finished(TaskReport),
    /// User code failed.
    Failed {
        cause: FailureCause,
        report: TaskReport,
    },
    /// The task obeyed `Cancel`.
    Cancelled(TaskReport),
}

/// The accounts a task hands in when it ends, whichever way.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct TaskReport {
    /// A source of this task was ended by `Stop` before its own end.
    pub cut_short: bool,
    /// For each input channel, in the order of the graph's channels into this task.
    pub received: Vec<Received>,
    /// For each output channel, in the order of the graph's channels out of this task.
    pub sent: Vec<Sent>,
    /// For each operator of the chain, in order.
    pub operators: Vec<OperatorAccount>,
    /// Of a task that is part of a loop.
    pub looped: LoopScan,
    /// What it did, if it was on a worker of another process.
    pub counters: Option<Box<TaskCounters>>,
}

/// What the consuming end of a channel counted, in items.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Received {
    /// Taken off the channel by the consumer.
    pub received: u64,
    /// Thrown away in the channel, by cancel or failure.
    pub discarded: u64,
    /// Arrived after, or waited when, the consumer closed its end because it wanted no more.
    pub refused: u64,
}

/// What the producing end of a channel counted, in items.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Sent {
    /// Put on the channel, whether or not the consumer then refused it.
    pub sent: u64,
    /// Of the producer's own buffer, thrown away by cancel or failure before being put on the channel.
    pub dropped: u64,
}

/// What one operator counted, in items: `received = processed + dead_lettered + discarded`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct OperatorAccount {
    pub received: u64,
    pub processed: u64,
    pub dead_lettered: u64,
    pub discarded: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum ServiceEvent {
    /// The instance has run its `started` hook and takes messages.
    Started,
    /// The factory, a hook or a handler panicked, or the instance stopped without being told to. Its `stopped` hook
    /// has run and the instance is gone; its queue is kept.
    Failed { message: String },
    /// An asynchronous reply was lost (its future panicked); the instance lives on.
    ReplyLost,
    /// The instance stopped as told; its `stopped` hook has run (or panicked).
    Stopped { hook_panicked: bool },
}

/// The counters of everything a worker hosts of one job.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Progress {
    pub tasks: Vec<(TaskId, TaskCounters, Wait)>,
    /// What is known of services, by the process that has the gate and by the one that has the instance.
    pub services: Vec<ServiceCounts>,
    /// Services whose thread is held by code of a service of a job, although that one was abandoned.
    pub services_held: Vec<(ServiceId, JobId, ServiceId)>,
}

/// What was counted of one service, over all its instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ServiceCounts {
    pub service: ServiceId,
    /// Handled before the other counts began.
    pub earlier: u64,
    /// In the queue.
    pub waiting: u64,
    /// Handed to the instances.
    pub taken: u64,
    /// Of these, the ones that were taken up.
    pub done: u64,
    /// Of these, the ones that were not handled, because nobody waited any more or they were no messages.
    pub skipped: u64,
}

impl ServiceCounts {
    /// What two processes say of the same service. All but the queue only grows, and who knows less knows it from earlier.
    pub(crate) fn join(&mut self, other: &Self) {
        self.earlier = self.earlier.max(other.earlier);
        self.waiting = self.waiting.max(other.waiting);
        self.taken = self.taken.max(other.taken);
        self.done = self.done.max(other.done);
        self.skipped = self.skipped.max(other.skipped);
    }

    pub(crate) fn handled(&self) -> u64 {
        self.earlier + self.done.saturating_sub(self.skipped)
    }

    /// Accepted, and not taken up yet.
    pub(crate) fn queued(&self) -> u64 {
        self.waiting + self.taken.saturating_sub(self.done)
    }
}

/// What a task is waiting for right now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Wait {
    /// Working, or about to.
    #[default]
    Nothing,
    /// Items from an upstream task.
    Input,
    /// Its source has nothing yet.
    Source,
    /// Items pushed from outside; `senders` handles are alive.
    Port { senders: u32 },
    /// Calls of the pipeline service that it answers for.
    Requests,
    /// Room in a channel to a downstream task.
    Room,
    /// A reader of a named output.
    Reader,
    /// Asynchronous calls of its own.
    Calls,
    /// Calls or timers of its own, or items from an upstream task.
    Own,
    /// `resume`.
    Resume,
    /// Its thread, which code of this task holds, although it was abandoned.
    Thread { job: JobId, task: TaskId },
}
