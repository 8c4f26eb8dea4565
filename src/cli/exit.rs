//! What the process says by its exit code, and errors on their way to it.

use std::{error::Error, fmt, io};

use crate::{
    bridge::KeyError,
    environment::{ConnectError, RunError, SubmitError},
    job::{ControlError, Outcome, QueryError},
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
    /// Whoever reads the output has gone; there is nobody to tell.
    pub is_silent: bool,
}

impl Failure {
    pub(super) fn new(code: Code, message: impl fmt::Display) -> Self {
        Self { code, message: message.to_string(), is_silent: false }
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
        let is_silent = error.kind() == io::ErrorKind::BrokenPipe;
        Self { is_silent, ..Self::of(Code::Refused, &error) }
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        let code = match error {
            // No node of this user was ever started here, nor was its key brought from elsewhere.
            ConnectError::Unreachable { .. } | ConnectError::Key(KeyError::NotFound { .. }) => Code::NoNode,
            _ => Code::Refused,
        };
        Self::of(code, &error)
    }
}

impl From<QueryError> for Failure {
    fn from(error: QueryError) -> Self {
        let code = match error {
            QueryError::NoSuchJob { .. } | QueryError::Expired { .. } => Code::NoJob,
            QueryError::Unreachable { .. } => Code::NoNode,
            QueryError::Lost { .. } => Code::Lost,
            _ => Code::Refused,
        };
        Self::of(code, &error)
    }
}

impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Self {
        let code = match error {
            ControlError::NoSuchJob { .. } | ControlError::Expired { .. } => Code::NoJob,
            ControlError::Unreachable { .. } | ControlError::FateUnknown { .. } => Code::NoNode,
            ControlError::Lost { .. } => Code::Lost,
            _ => Code::Refused,
        };
        Self::of(code, &error)
    }
}

impl From<SubmitError> for Failure {
    fn from(error: SubmitError) -> Self {
        let code = match error {
            SubmitError::Unreachable { .. } | SubmitError::FateUnknown { .. } => Code::NoNode,
            _ => Code::Refused,
        };
        Self::of(code, &error)
    }
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Self {
        Self::of(Code::Refused, &error)
    }
}

impl From<OutputError> for Failure {
    fn from(error: OutputError) -> Self {
        let code = match error {
            OutputError::NoSuchJob { .. } | OutputError::Expired { .. } => Code::NoJob,
            OutputError::Unreachable { .. } => Code::NoNode,
            OutputError::JobLost { .. } => Code::Lost,
            _ => Code::Refused,
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

refused!(crate::node::NodeError, KeyError, crate::bridge::TlsError, crate::environment::OpenError);
