#![doc = include_str!("../README.md")]
#![deny(clippy::print_stdout)]
#![cfg_attr(not(test), deny(clippy::unwrap_used))]

mod blocking;
mod bridge;
#[cfg(feature = "cli")]
mod cli;
mod codec;
mod environment;
mod flow;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
#[allow(missing_docs, clippy::missing_panics_doc, reason = "no part of the API")]
pub mod fuzz;
mod job;
mod link;
mod manager;
mod node;
mod port;
mod protocol;
mod schema;
mod service;
#[cfg(feature = "store")]
mod store;
mod timer;
mod worker;

pub use bridge::{Key, KeyError};
#[cfg(feature = "tls")]
pub use bridge::{TlsError, TlsIdentity, TlsTrust};
#[cfg(feature = "cli")]
pub use cli::{CommandLine, command_line};
pub use environment::{
    BlockingEnvironment, Connect, ConnectError, Environment, EnvironmentExt, KeyRingError, LocalEnvironment,
    LocalEnvironmentBuilder, OpenError, RemoteEnvironment, Run, RunError, Submit, SubmitError,
};
pub use flow::{
    BatchSource, BuildRefusal, Connected2, Connected3, Connected4, Either, Files, Flow, FutureStream, Graph,
    IntoBatchSource, Iterable, IteratorPart, KeyedStream, LineSink, More, Next, OnePart, ParallelRange, Parallelism,
    Part, Partitioned, Process, ProcessContext, RangePart, RequestStream, SideOutputError, Sink, Source, Splittable,
    Stream, TaskContext, TaskError, TextFile, TextFiles, TextPart, partitioned,
};
#[cfg(feature = "files")]
pub use flow::{Csv, CsvSink, JsonLinesSink};
pub use job::{
    ActorState, BlockingChanges, BlockingJob, BoxError, BuildError, CancelReason, Changes, ControlError, DeadLetter,
    DeadLetters, Drained, EnvironmentInfo, ErrorPolicy, Explanation, FailureCause, Health, Holder, IntoJob, Job,
    JobError, JobFn, JobHandle, JobId, JobRegistry, JobState, JobStatus, Limits, Outcome, ParseJobIdError, QueryError,
    ServiceStatus, TaskCounters, TaskId, TaskStatus, Warning, job_fn,
};
pub use link::{KeyInfo, KeyRole, NodeStop};
pub use manager::{LeastLoaded, Placement, RoundRobin, SlotLoad, TaskDescription};
pub use node::{Node, NodeBuilder, NodeError, Serve};
pub use port::{Input, InputError, Output, OutputError, SendError};
pub use service::{
    Call, CallError, Fate, MessageTable, NoReply, PipelineService, Service, ServiceContext, ServiceMessage, ServiceRef,
    Tell,
};
#[cfg(feature = "store")]
pub use store::HistoryError;
