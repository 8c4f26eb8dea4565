//! What the process says by its exit code, and errors on their way to it.

use std::{error::Error, fmt, io};

use crate::{
    bridge::{KeyError, TlsError},
    environment::{ConnectError, KeyRingError, RunError, SubmitError, WorkerError},
    handle::{ControlError, QueryError},
    job::{JobError, Outcome},
    port::OutputError,
};

/// What an exit code means. They are a promise to scripts: none changes its meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Code {
    /// Done; a job that was waited for completed.
    Done = 0,
    /// It was not done, for the reason printed.
    Refused = 1,
    /// The command line or its configuration makes no sense. The code that `clap` uses too.
    Usage = 2,
    /// There is no node, or it cannot be reached.
    NoNode = 3,
    /// There is no such job, or more than one.
    NoJob = 4,
    /// It was not waited for any longer; the job goes on.
    WaitedTooLong = 5,
    Failed = 10,
    Stopped = 11,
    Cancelled = 12,
    Lost = 13,
    /// By Ctrl+C, while a job was waited for. What a shell says of a program that the signal ends.
    Interrupted = 130,
    /// Whoever read the output has gone. What a shell says of other programs, which a signal ends in that case.
    NobodyReads = 141,
}

impl Code {
    pub(super) fn of(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Completed => Self::Done,
            Outcome::Stopped => Self::Stopped,
            Outcome::Cancelled { .. } => Self::Cancelled,
            Outcome::Failed(_) => Self::Failed,
            Outcome::Lost { .. } => Self::Lost,
        }
    }
}

/// Why a command was not carried out.
#[derive(Debug)]
pub(super) struct Failure {
    pub code: Code,
    pub message: String,
}

impl Failure {
    pub(super) fn new(code: Code, message: impl fmt::Display) -> Self {
        Self { code, message: message.to_string() }
    }

    pub(super) fn usage(message: impl fmt::Display) -> Self {
        Self::new(Code::Usage, message)
    }

    fn of(code: Code, error: &dyn Error) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            message = format!("{message}: {error}");
            source = error.source();
        }
        Self::new(code, message)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let code = if error.kind() == io::ErrorKind::BrokenPipe { Code::NobodyReads } else { Code::Refused };
        Self::of(code, &error)
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        let code = match &error {
            ConnectError::Key(error) => code_of_key(error),
            ConnectError::Address { .. } | ConnectError::Exposed { .. } => Code::Usage,
            // Whether it is down, or another one: there is no node here that serves this client.
            ConnectError::Unreachable { .. } | ConnectError::Refused { .. } => Code::NoNode,
            ConnectError::Thread(_) => Code::Refused,
        };
        Self::of(code, &error)
    }
}

fn code_of_key(error: &KeyError) -> Code {
    match error {
        // No node of this user was ever started here, nor was its key brought from elsewhere.
        KeyError::NotFound { .. } => Code::NoNode,
        KeyError::Unwritable { .. } | KeyError::Ring { .. } => Code::Refused,
        KeyError::Length { .. }
        | KeyError::NotHexadecimal
        | KeyError::Form
        | KeyError::Malformed { .. }
        | KeyError::EmptyVariable { .. }
        | KeyError::HandedOut
        | KeyError::Exposed { .. }
        | KeyError::Unreadable { .. }
        | KeyError::NoHome => Code::Usage,
    }
}

impl From<KeyError> for Failure {
    fn from(error: KeyError) -> Self {
        Self::of(code_of_key(&error), &error)
    }
}

impl From<WorkerError> for Failure {
    fn from(error: WorkerError) -> Self {
        let code = match &error {
            WorkerError::Key(error) => code_of_key(error),
            WorkerError::Role { .. } | WorkerError::Address { .. } => Code::Usage,
            WorkerError::Lost { .. } => Code::NoNode,
            WorkerError::DuplicateJob { .. }
            | WorkerError::DataAddress { .. }
            | WorkerError::Executable(_)
            | WorkerError::Thread(_) => Code::Refused,
        };
        Self::of(code, &error)
    }
}

impl From<TlsError> for Failure {
    fn from(error: TlsError) -> Self {
        Self::of(Code::Usage, &error)
    }
}

fn code_of_query(error: &QueryError) -> Code {
    match error {
        QueryError::NoSuchJob { .. } | QueryError::Expired { .. } => Code::NoJob,
        QueryError::Unreachable { .. } => Code::NoNode,
        QueryError::Lost { .. } => Code::Lost,
        QueryError::Forbidden { .. } | QueryError::EnvironmentClosed | QueryError::Internal(_) => Code::Refused,
    }
}

impl From<QueryError> for Failure {
    fn from(error: QueryError) -> Self {
        Self::of(code_of_query(&error), &error)
    }
}

impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Self {
        let code = match error {
            ControlError::NoSuchJob { .. } | ControlError::Expired { .. } => Code::NoJob,
            ControlError::Unreachable { .. } | ControlError::FateUnknown { .. } => Code::NoNode,
            ControlError::Lost { .. } => Code::Lost,
            ControlError::Conflict { .. }
            | ControlError::Forbidden { .. }
            | ControlError::EnvironmentClosed
            | ControlError::Internal(_) => Code::Refused,
        };
        Self::of(code, &error)
    }
}

fn code_of_submit(error: &SubmitError) -> Code {
    match error {
        SubmitError::Unreachable { .. } | SubmitError::FateUnknown { .. } => Code::NoNode,
        SubmitError::Build(_)
        | SubmitError::Closure { .. }
        | SubmitError::UnknownJob { .. }
        | SubmitError::TypeDiffers { .. }
        | SubmitError::VersionDiffers { .. }
        | SubmitError::Parameters { .. }
        | SubmitError::NotRecorded { .. }
        | SubmitError::Forbidden { .. }
        | SubmitError::TooManyJobs { .. }
        | SubmitError::EnvironmentClosed
        | SubmitError::Internal(_) => Code::Refused,
    }
}

impl From<SubmitError> for Failure {
    fn from(error: SubmitError) -> Self {
        Self::of(code_of_submit(&error), &error)
    }
}

impl From<KeyRingError> for Failure {
    fn from(error: KeyRingError) -> Self {
        let code = match error {
            KeyRingError::Unreachable { .. } | KeyRingError::FateUnknown { .. } => Code::NoNode,
            _ => Code::Refused,
        };
        Self::of(code, &error)
    }
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Self {
        let code = match &error {
            RunError::Submit(error) => code_of_submit(error),
            RunError::Wait(error) => code_of_query(error),
            RunError::Job(JobError::Failed(_)) => Code::Failed,
            RunError::Job(JobError::Cancelled { .. }) => Code::Cancelled,
            RunError::Job(JobError::Lost { .. }) => Code::Lost,
        };
        Self::of(code, &error)
    }
}

impl From<OutputError> for Failure {
    fn from(error: OutputError) -> Self {
        let code = match error {
            OutputError::NoSuchJob { .. } | OutputError::Expired { .. } => Code::NoJob,
            OutputError::Unreachable { .. } => Code::NoNode,
            OutputError::JobLost { .. } => Code::Lost,
            OutputError::Gone { .. }
            | OutputError::NoSuchOutput { .. }
            | OutputError::WrongType { .. }
            | OutputError::Incomplete { .. }
            | OutputError::BegunAnew { .. }
            | OutputError::ReaderTaken { .. }
            | OutputError::Disk { .. }
            | OutputError::Decode { .. }
            | OutputError::Forbidden { .. }
            | OutputError::EnvironmentClosed => Code::Refused,
        };
        Self::of(code, &error)
    }
}

/// Errors that say it all in their own words.
macro_rules! refused {
    ($($error:ty),*) => {
        $(impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::of(Code::Refused, &error)
            }
        })*
    };
}

refused!(crate::node::NodeError, crate::environment::OpenError);
