//! Files as sources and sinks: which files, which instance reads what of them, and what their rows are.

#[cfg(feature = "files")]
mod csv;
mod cut;
mod gzip;
#[cfg(feature = "files")]
mod json;
#[cfg(feature = "files")]
mod parse;
mod plan;
mod position;
mod rows;
mod span;
mod write;

use std::path::{Path, PathBuf};

#[cfg(feature = "files")]
pub use self::csv::{Csv, CsvSink};
#[cfg(feature = "files")]
pub use self::json::JsonLinesSink;
pub(crate) use self::{
    cut::Cut,
    rows::{FilePart, Shape},
    span::{Blank, Block, First, Reading},
    write::RowWriter,
};
pub use self::{plan::FileSplit, position::FilePosition};
use crate::{dataplane::error::TaskError, flow::replay::ReplayableSource};

/// Which files a source reads: one, or all in a folder. Made from a path.
///
/// The path of a regular file means that file. The path of a folder means the regular files directly in it, in the order
/// of their names; those whose name begins with a dot are left out, and so are folders in it. An empty folder is a source
/// without items. Which files there are, and how long they are, is found out when the flow is built, on the machine that
/// runs the job: what is added or appended later is not read, and a file that is gone or has become shorter by the time
/// it is read fails the job, whatever the error policy. That a file has other content by then, and is as long as before, is
/// not noticed: what is there is read, in the ranges that were cut before. The path must lead to the same files in each
/// process that hosts tasks of the job.
///
/// A file whose name ends in `.gz` is decompressed while it is read. It may have several members, as files that were
/// appended to have. What follows them must be another member, or the job fails; so it does where the data are damaged or
/// end too early. This needs the feature `files` (on by default); without it such a file refuses the flow.
///
/// The bytes are dealt out among the instances of the source in about equal amounts, counted as they lie on the disk.
/// Files that cannot be split go to one instance as a whole. An instance reads its files one after another, in order of
/// name. A UTF-8 byte order mark at the beginning of a file is passed over.
///
/// A path that is missing, or neither a file nor a folder, or a file that cannot be opened, refuses the flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    path: PathBuf,
}

impl Files {
    /// The file at `path`, or the files in it.
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self { path: path.as_ref().to_owned() }
    }
}

impl<P: AsRef<Path>> From<P> for Files {
    fn from(path: P) -> Self {
        Self::new(path)
    }
}

/// Files, and what a row of them is.
pub(crate) struct FileSource<S> {
    pub files: Files,
    pub reading: Reading,
    pub shape: std::marker::PhantomData<fn() -> S>,
}

impl<S: Shape> ReplayableSource for FileSource<S> {
    type Item = S::Item;
    type Split = FileSplit;
    type Position = FilePosition;
    type Part = FilePart<S>;

    fn splits(&mut self, parts: usize) -> Result<Vec<FileSplit>, TaskError> {
        let found = plan::find(&self.files.path)?;
        Ok(plan::deal(&found, self.reading.cut, parts))
    }

    fn open(&self, split: FileSplit, at: FilePosition) -> Result<FilePart<S>, TaskError> {
        FilePart::open(split.spans(self.reading), at)
    }
}

pub(crate) fn unreadable(path: &Path, error: &std::io::Error) -> TaskError {
    TaskError::new(format!("cannot read `{}`: {error}", path.display()))
}
