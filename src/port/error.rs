//! What can go wrong at outputs and inputs.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{job::JobId, schema::TypeDescription};

/// Why an output could not be read. Reading changes nothing, so every read may be repeated; the variants say whether
/// that can help.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum OutputError {
    /// The environment knows no such job.
    #[error("no such job: {id}")]
    NoSuchJob {
        /// The job asked for.
        id: JobId,
    },
    /// The job ended long ago and was forgotten with its outputs.
    #[error("{id} has expired, its outputs are gone")]
    Expired {
        /// The job asked for.
        id: JobId,
    },
    /// The job was run by an earlier process of its node, and its outputs went with that process.
    #[error("the outputs of {id} are gone: they were not kept when its node was started anew")]
    Gone {
        /// The job asked for.
        id: JobId,
    },
    /// The job has no output of this name.
    #[error("no output is named `{output}`; {}", listed("the job's outputs", .existing))]
    NoSuchOutput {
        /// The name asked for.
        output: String,
        /// The names of the outputs that the job has.
        existing: Vec<String>,
    },
    /// The output holds items of another type than it was read as.
    #[error("output `{output}` was read as `{expected}` and holds `{found}`: {difference}")]
    WrongType {
        /// The output's name.
        output: String,
        /// The type it was read as.
        expected: String,
        /// The type that it holds.
        found: String,
        /// Where they differ; *here* is the reader, *there* the output.
        difference: String,
    },
    /// The job ended without finishing the output, which therefore is not whole and never will be.
    #[error("output `{output}` is incomplete: {why}")]
    Incomplete {
        /// The output's name.
        output: String,
        /// How the job ended.
        why: String,
    },
    /// Another reader holds this streamed output, which has one reader at a time. It is free when that one is dropped.
    #[error("output `{output}` has a reader already")]
    ReaderTaken {
        /// The output's name.
        output: String,
    },
    /// The job failed and [began anew](crate::Restart). The next read yields the items of this attempt from the beginning, also those
    /// that were read before. Only outputs made by `stream_out` say so, once, to their next reader.
    #[error("output `{output}` begins anew: the job failed, and this is attempt {attempt}")]
    BegunAnew {
        /// The output's name.
        output: String,
        /// How often the job was begun, this time included.
        attempt: u32,
    },
    /// What was spilled to disk could not be read back.
    #[error("output `{output}` could not be read back from disk: {message}")]
    Disk {
        /// The output's name.
        output: String,
        /// What the operating system said.
        message: String,
    },
    /// An item's bytes were refused by its type's `Deserialize`.
    #[error("item {position} of output `{output}` could not be decoded: {message}")]
    Decode {
        /// The output's name.
        output: String,
        /// The item's position in the output, from 1.
        position: u64,
        /// What was wrong with it.
        message: String,
    },
    /// There was no connection to the node for too long. Reading goes on where it was once there is one again.
    #[error("output `{output}` cannot be reached: {message}")]
    Unreachable {
        /// The output's name.
        output: String,
        /// What was seen of the node.
        message: String,
    },
    /// The node that ran the job is gone, and the output with it.
    #[error("{id} is lost: {reason}")]
    JobLost {
        /// The job asked for.
        id: JobId,
        /// What was seen of the loss.
        reason: String,
    },
    /// The environment was closed.
    #[error("the environment is closed")]
    EnvironmentClosed,
    /// The key that the environment was connected with does not have that right, see [`KeyRole`](crate::KeyRole), and
    /// nothing was done; or it was revoked meanwhile.
    #[error("{message}")]
    Forbidden {
        /// Which key it is, and what it lacks, or that it was revoked.
        message: String,
    },
}

impl OutputError {
    pub(crate) fn wrong_type(output: &str, wanted: &TypeDescription, held: &TypeDescription) -> Self {
        let (expected, found, difference) = (wanted.text(), held.text(), wanted.difference(held));
        Self::WrongType { output: output.to_owned(), expected, found, difference }
    }
}

/// Why an input did not take items. The items were not sent, but perhaps in the case of
/// [`Unreachable`](Self::Unreachable).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum InputError {
    /// The environment knows no such job.
    #[error("no such job: {id}")]
    NoSuchJob {
        /// The job asked for.
        id: JobId,
    },
    /// The job ended long ago and was forgotten.
    #[error("{id} has expired")]
    Expired {
        /// The job asked for.
        id: JobId,
    },
    /// The job has no input of this name.
    #[error("no input is named `{input}`; {}", listed("the job's inputs", .existing))]
    NoSuchInput {
        /// The name asked for.
        input: String,
        /// The names of the inputs that the job has.
        existing: Vec<String>,
    },
    /// The input takes items of another type.
    #[error("input `{input}` takes `{expected}`, not `{found}`: {difference}")]
    WrongType {
        /// The input's name.
        input: String,
        /// The type that it takes.
        expected: String,
        /// The type of the handle.
        found: String,
        /// Where they differ; *here* is the handle, *there* the input.
        difference: String,
    },
    /// The input was finished, by this handle or another one.
    #[error("input `{input}` is finished")]
    Finished {
        /// The input's name.
        input: String,
    },
    /// The job takes no more items: it was stopped or has ended.
    #[error("input `{input}` is closed, because the job was stopped or has ended")]
    Closed {
        /// The input's name.
        input: String,
    },
    /// An item could not be encoded to be sent, or not be decoded on the node.
    #[error("an item for input `{input}` did not reach the job: {message}")]
    NotCarried {
        /// The input's name.
        input: String,
        /// What was wrong.
        message: String,
    },
    /// More handles send to the input, or have sent to it, than it can tell apart.
    #[error("input `{input}` knows {limit} senders already")]
    TooManySenders {
        /// The input's name.
        input: String,
        /// How many senders are told apart.
        limit: usize,
    },
    /// There was no connection to the node for too long. Whether the job has the items is not known.
    #[error("input `{input}` cannot be reached, and whether the job has the items is not known: {message}")]
    Unreachable {
        /// The input's name.
        input: String,
        /// What was seen of the node.
        message: String,
    },
    /// The node that ran the job is gone, and what was sent with it.
    #[error("{id} is lost: {reason}")]
    JobLost {
        /// The job asked for.
        id: JobId,
        /// What was seen of the loss.
        reason: String,
    },
    /// The environment was closed.
    #[error("the environment is closed")]
    EnvironmentClosed,
    /// The key that the environment was connected with does not have that right, see [`KeyRole`](crate::KeyRole), and
    /// nothing was done; or it was revoked meanwhile.
    #[error("{message}")]
    Forbidden {
        /// Which key it is, and what it lacks, or that it was revoked.
        message: String,
    },
}

impl InputError {
    pub(crate) fn wrong_type(input: &str, port: &TypeDescription, handle: &TypeDescription) -> Self {
        let difference = if port.fingerprint() == handle.fingerprint() {
            // Inputs are typed within a process, so equal structure is not enough.
            "the two are different Rust types of the same structure".to_owned()
        } else {
            handle.difference(port)
        };
        let (expected, found) = (port.type_name().to_owned(), handle.type_name().to_owned());
        Self::WrongType { input: input.to_owned(), expected, found, difference }
    }
}

/// What was not sent, and why.
///
/// It is `Sync` only if the item is; [`into_error`](Self::into_error), which `?` applies where an [`InputError`] is
/// wanted, drops the item.
#[derive(Clone, PartialEq, Eq)]
pub struct SendError<T> {
    item: T,
    /// In a box because results carry it around, and mostly do not.
    error: Box<InputError>,
}

impl<T> SendError<T> {
    pub(super) fn new(item: T, error: InputError) -> Self {
        Self { item, error: Box::new(error) }
    }

    /// Why it was not sent.
    #[must_use]
    pub fn error(&self) -> &InputError {
        &self.error
    }

    /// What was not sent.
    #[must_use]
    pub fn into_item(self) -> T {
        self.item
    }

    /// Why it was not sent; drops the item.
    #[must_use]
    pub fn into_error(self) -> InputError {
        *self.error
    }

    /// What was not sent, and why.
    #[must_use]
    pub fn into_parts(self) -> (T, InputError) {
        (self.item, *self.error)
    }
}

impl<T> fmt::Debug for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendError").field("error", &self.error).finish_non_exhaustive()
    }
}

impl<T> fmt::Display for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not sent")
    }
}

impl<T> std::error::Error for SendError<T> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.error)
    }
}

impl<T> From<SendError<T>> for InputError {
    fn from(error: SendError<T>) -> Self {
        *error.error
    }
}

fn listed(what: &str, names: &[String]) -> String {
    if names.is_empty() { format!("{what}: none") } else { format!("{what}: `{}`", names.join("`, `")) }
}
