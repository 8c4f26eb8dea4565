//! Where items leave and enter a job by name: outputs and inputs.
//!
//! An [`OutputStore`] or [`InputPort`] is shared by a job's tasks and the handles outside. Neither side knows where
//! the other runs: a task polls, a handle's futures run on any executor, and the wakers of both are called without
//! locks held. What a handle needs of its environment is one resolver.

mod chunk;
mod collected;
mod end;
mod error;
mod fed;
mod input;
mod output;
mod queue;
mod reader;
mod relayed;
#[cfg(feature = "cli")]
mod shown;
mod source;
mod spill;
mod store;
mod streamed;
mod writer;

use std::sync::Arc;

use futures::future::BoxFuture;

#[cfg(feature = "cli")]
pub(crate) use self::shown::ShownOutput;
pub(crate) use self::{
    chunk::Chunk,
    end::OutputEnd,
    fed::{Feed, Given, InputEnd, Within},
    queue::{AnyInput, InputPort, PortEvent},
    reader::OutputReader,
    source::ChunkSource,
    spill::SpillFile,
    store::{AppendError, OutputKind, OutputStore, WriteError, WriteFailure},
    writer::{ClientId, EncodedWriter, FoundInput, NotTaken, RemoteInput, WriterId},
};
pub use self::{
    error::{InputError, OutputError, SendError},
    input::Input,
    output::Output,
};
use crate::{job::JobId, schema::TypeDescription};

/// Finds a job's outputs. It must not keep the environment alive.
pub(crate) trait OutputResolver: Send + Sync {
    /// A reader of the output as one of items of the type `wanted`.
    fn output(
        &self,
        job: JobId,
        name: &str,
        wanted: Arc<TypeDescription>,
    ) -> BoxFuture<'static, Result<Box<dyn ChunkSource>, OutputError>>;
}

/// Finds a job's inputs. It must not keep the environment alive.
pub(crate) trait InputResolver: Send + Sync {
    /// The input, for items of the type `wanted`.
    fn input(
        &self,
        job: JobId,
        name: &str,
        wanted: Arc<TypeDescription>,
    ) -> BoxFuture<'static, Result<FoundInput, InputError>>;
}

#[cfg(test)]
mod tests;
