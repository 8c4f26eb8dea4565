#![doc = include_str!("../README.md")]
#![deny(clippy::print_stdout)]
#![cfg_attr(not(test), deny(clippy::unwrap_used))]

mod blocking;
mod bridge;
#[cfg(feature = "cli")]
mod cli;
mod codec;
mod dataplane;
mod environment;
mod flow;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
#[allow(missing_docs, clippy::missing_panics_doc, reason = "no part of the API")]
pub mod fuzz;
mod handle;
mod host;
mod job;
mod launch;
mod link;
mod manager;
mod node;
mod peer;
mod port;
mod protocol;
mod schema;
mod service;
#[cfg(feature = "store")]
mod store;
mod timestamp;
mod worker;

pub use bridge::{Key, KeyError};
#[cfg(feature = "tls")]
pub use bridge::{TlsError, TlsIdentity, TlsTrust};
#[cfg(feature = "cli")]
pub use cli::{CommandLine, command_line};
pub use dataplane::{
    context::TaskContext,
    error::TaskError,
    source::{More, Next, Part, Positioned, Source},
};
pub use environment::{
    BlockingEnvironment, Connect, ConnectError, Environment, EnvironmentExt, KeyRingError, LocalEnvironment,
    LocalEnvironmentBuilder, OpenError, RemoteEnvironment, Run, RunError, Submit, SubmitError, Worker, WorkerBuilder,
    WorkerError, worker_main,
};
pub use flow::{
    BatchSource, Connected2, Connected3, Connected4, Either, FilePosition, FileSplit, Files, Flow, FutureStream,
    IntoBatchSource, IntoJob, ItemsPart, Iterable, IteratorPart, Job, JobFn, JobRegistry, KeyedStream, LineSink,
    ParallelItems, ParallelRange, Partitioned, Process, ProcessContext, RangePart, Replayable, ReplayableSource,
    RequestStream, SideOutputError, Sink, Splittable, Stream, TextFile, TextFiles, TextPart, job_fn, partitioned,
};
#[cfg(feature = "files")]
pub use flow::{Csv, CsvSink, JsonLinesSink};
pub use handle::{BlockingChanges, BlockingJob, Changes, ControlError, JobHandle, QueryError};
pub use job::{
    ActorState, BoxError, BuildError, BuildRefusal, CancelReason, DeadLetter, DeadLetters, Drained, EnvironmentInfo,
    ErrorPolicy, Explanation, FailureCause, Graph, Health, Holder, JobError, JobId, JobState, JobStatus, Limits,
    Outcome, Parallelism, ParseJobIdError, Restart, ServiceStatus, TaskCounters, TaskId, TaskStatus, Warning,
    WorkerInfo, WorkerState,
};
pub use launch::Workers;
pub use link::{KeyInfo, KeyRole, NodeStop};
pub use manager::{LeastLoaded, Placement, RoundRobin, ServiceDescription, SlotLoad, TaskDescription, WorkerLoad};
pub use node::{Node, NodeBuilder, NodeError, Serve};
pub use port::{Input, InputError, Output, OutputError, SendError};
pub use service::{
    Call, CallError, Fate, MessageTable, NoReply, PipelineService, Service, ServiceContext, ServiceMessage, ServiceRef,
    Tell,
};
#[cfg(feature = "store")]
pub use store::HistoryError;
pub use timestamp::Timestamp;
