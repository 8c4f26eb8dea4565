//! Text files as source and sink.

use std::{
    fmt::{self, Display, Write as _},
    marker::PhantomData,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
    task::{Context, Poll},
};

use crate::{
    dataplane::{
        context::TaskContext,
        error::TaskError,
        source::{More, Part, Positioned},
    },
    flow::{
        files::{
            Blank, Block, Cut, FilePart, FilePosition, FileSource, FileSplit, Files, First, Reading, RowWriter, Shape,
        },
        replay::ReplayableSource,
        sink::Sink,
    },
};

/// A file of UTF-8 text, read line by line and in parallel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextFile {
    path: PathBuf,
}

impl TextFile {
    /// The lines of the file at `path`, without their line ends (`\n` or `\r\n`). A byte order mark at its beginning is
    /// passed over.
    ///
    /// The file is split by byte range, one range for each instance; a line belongs to the range its first byte lies
    /// in. Within an instance lines keep their order. A file whose name ends in `.gz` is decompressed, and not split: see
    /// [`Files`]. The file is read as long as it was when the flow was built: what is appended later is not read, and a
    /// file that has become shorter fails the job. Invalid UTF-8 fails it with the offset of the first bad byte, and so
    /// does a line of more than 64 MiB.
    ///
    /// A path that is missing, unreadable or not a regular file refuses the flow. For the files of a folder see
    /// [`TextFiles`].
    pub fn lines(path: impl AsRef<Path>) -> Self {
        Self { path: path.as_ref().to_owned() }
    }
}

impl ReplayableSource for TextFile {
    type Item = String;
    type Split = FileSplit;
    type Position = FilePosition;
    type Part = TextPart;

    fn splits(&mut self, parts: usize) -> Result<Vec<FileSplit>, TaskError> {
        if std::fs::metadata(&self.path).is_ok_and(|metadata| !metadata.is_file()) {
            return Err(TaskError::new(format!("`{}` is not a regular file", self.path.display())));
        }
        TextFiles::lines(&self.path).splits(parts)
    }

    fn open(&self, split: FileSplit, at: FilePosition) -> Result<TextPart, TaskError> {
        TextFiles::lines(&self.path).open(split, at)
    }
}

/// Files of UTF-8 text, read line by line and in parallel: one, or all of a folder.
///
/// ```
/// use proscenium::{LocalEnvironment, TextFiles, job_fn};
///
/// let folder = tempfile::tempdir()?;
/// std::fs::write(folder.path().join("1.txt"), "one\ntwo\n")?;
/// std::fs::write(folder.path().join("2.txt"), "three")?;
/// let env = LocalEnvironment::new("doc");
/// let path = folder.path().to_owned();
/// let job = job_fn("lines", move |flow| {
///     flow.from_batch(TextFiles::lines(&path)).collect("lines");
///     Ok(())
/// });
/// let job = env.submit(job).autostop(true).parallelism(1).blocking()?;
/// let lines: Vec<String> = job.output("lines").blocking()?;
/// assert_eq!(lines, ["one", "two", "three"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextFiles {
    files: Files,
}

impl TextFiles {
    /// The lines of `files`: of each what [`TextFile::lines`] says. A line does not go on from one file to the next.
    pub fn lines(files: impl Into<Files>) -> Self {
        Self { files: files.into() }
    }
}

impl TextFiles {
    fn source(&self) -> FileSource<Text> {
        let reading = Reading { cut: Cut::Lines, blank: Blank::Kept, first: First::Row };
        FileSource { files: self.files.clone(), reading, shape: PhantomData }
    }
}

impl ReplayableSource for TextFiles {
    type Item = String;
    type Split = FileSplit;
    type Position = FilePosition;
    type Part = TextPart;

    fn splits(&mut self, parts: usize) -> Result<Vec<FileSplit>, TaskError> {
        self.source().splits(parts)
    }

    fn open(&self, split: FileSplit, at: FilePosition) -> Result<TextPart, TaskError> {
        Ok(TextPart(self.source().open(split, at)?))
    }
}

/// What one instance reads of a [`TextFile`] or of [`TextFiles`].
pub struct TextPart(FilePart<Text>);

/// Lines as strings.
enum Text {}

impl Shape for Text {
    type Item = String;

    fn item(block: &Arc<Block>, range: Range<usize>, _line: u64, offset: u64) -> Result<String, TaskError> {
        let text = std::str::from_utf8(&block.bytes[range]).map_err(|error| {
            let offset = offset + error.valid_up_to() as u64;
            TaskError::new(format!("`{}` has invalid UTF-8 at offset {offset}", block.span.path.display()))
        })?;
        Ok(text.to_owned())
    }
}

impl Part for TextPart {
    type Item = String;

    fn read(&mut self, into: &mut Vec<String>, max: usize) -> Result<More, TaskError> {
        self.0.read(into, max)
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        ctx: &TaskContext,
        into: &mut Vec<String>,
        max: usize,
    ) -> Poll<Result<More, TaskError>> {
        self.0.poll_read(cx, ctx, into, max)
    }
}

impl Positioned for TextPart {
    type Position = FilePosition;

    fn position(&self) -> FilePosition {
        self.0.position()
    }
}

impl fmt::Debug for TextPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TextPart").field(&self.0).finish()
    }
}

/// A sink that writes each item as a line of text; see [`TextFile`] for the way back.
///
/// Lines are written in the blocking pool, 64 KiB at a time, and the file is complete when the job has completed. The file
/// of a job that failed or was cancelled stays as far as it was written. A file whose name ends in `.gz` is compressed
/// (feature `files`, on by default; without it the job fails); the end of its data is written when the job completes, so
/// that a part of it is known as such by whoever reads it.
#[derive(Debug)]
pub struct LineSink<T> {
    writer: RowWriter,
    line: String,
    item: PhantomData<fn(T)>,
}

impl<T: Display> LineSink<T> {
    /// Writes to a new file at `path`, replacing one that exists. When the sink has several parallel instances, each
    /// writes a file of its own: `path` followed by `.0`, `.1` and so on, in front of an ending `.gz`.
    pub fn create(path: impl AsRef<Path>) -> Self {
        Self::to(RowWriter::create(path.as_ref()))
    }

    pub(crate) fn stdout() -> Self {
        Self::to(RowWriter::stdout())
    }

    fn to(writer: RowWriter) -> Self {
        Self { writer, line: String::new(), item: PhantomData }
    }
}

impl<T: Display + 'static> Sink for LineSink<T> {
    type Item = T;

    async fn open(&mut self, ctx: &TaskContext) -> Result<(), TaskError> {
        self.writer.open(ctx).await
    }

    async fn write(&mut self, item: T) -> Result<(), TaskError> {
        // Aside first, so that an item whose `Display` fails or panics leaves nothing behind.
        self.line.clear();
        writeln!(self.line, "{item}")?;
        self.writer.write(self.line.as_bytes()).await
    }

    async fn flush(&mut self) -> Result<(), TaskError> {
        self.writer.flush().await
    }

    async fn close(&mut self) -> Result<(), TaskError> {
        self.writer.close().await
    }
}
