//! Text files as source and sink.

use std::{
    fmt::{self, Display, Write as _},
    fs::File,
    future::Future,
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::task::JoinHandle;

use crate::flow::{
    context::TaskContext,
    error::TaskError,
    sink::Sink,
    source::{BatchSource, More, Part},
};

/// Bytes read from a file at a time.
const CHUNK_BYTES: usize = 256 << 10;

/// The longest line that is read; a longer one is an error.
const LINE_BYTES_MAX: usize = 64 << 20;

/// A file of UTF-8 text, read line by line and in parallel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextFile {
    path: PathBuf,
}

impl TextFile {
    /// The lines of the file at `path`, without their line ends (`\n` or `\r\n`).
    ///
    /// The file is split by byte range, one range for each instance; a line belongs to the range its first byte lies
    /// in. Within an instance lines keep their order. The file is read as long as it was when the flow was built:
    /// what is appended later is not read, and a file that has become shorter fails the job. Invalid UTF-8 fails it
    /// with the offset of the first bad byte, and so does a line of more than 64 MiB.
    ///
    /// A path that is missing, unreadable or not a regular file refuses the flow.
    pub fn lines(path: impl AsRef<Path>) -> Self {
        Self { path: path.as_ref().to_owned() }
    }
}

impl BatchSource for TextFile {
    type Item = String;
    type Part = TextPart;

    fn split(self, parts: usize) -> Result<Vec<TextPart>, TaskError> {
        let metadata = std::fs::metadata(&self.path)
            .and_then(|metadata| File::open(&self.path).map(|_| metadata))
            .map_err(|error| TaskError::new(format!("cannot read `{}`: {error}", self.path.display())))?;
        if !metadata.is_file() {
            return Err(TaskError::new(format!("`{}` is not a regular file", self.path.display())));
        }
        let length = metadata.len();
        let cut = |part: usize| (u128::from(length) * part as u128 / parts as u128) as u64;
        let part = |part| TextPart::new(self.path.clone(), cut(part), cut(part + 1), length);
        Ok((0..parts).map(part).filter(|part| part.next_line < part.end).collect())
    }
}

/// A byte range of a [`TextFile`].
pub struct TextPart {
    path: PathBuf,
    /// Absent before the first read and while a read is under way.
    file: Option<File>,
    reading: Option<JoinHandle<Fetched>>,
    /// Bytes read and not yet made into lines.
    bytes: Vec<u8>,
    used: usize,
    /// Offset in the file of the line that starts at `bytes[used]`.
    next_line: u64,
    /// Offset behind `bytes`.
    offset: u64,
    /// Lines that start at or behind this offset are another part's.
    end: u64,
    length: u64,
    skipping: bool,
}

struct Fetched {
    file: Option<File>,
    chunk: io::Result<Vec<u8>>,
}

impl TextPart {
    fn new(path: PathBuf, start: u64, end: u64, length: u64) -> Self {
        // A part that does not begin the file looks at the byte before it: if that ends a line, the part begins one;
        // if not, the line it is in is the previous part's.
        let offset = start.saturating_sub(1);
        Self {
            path,
            file: None,
            reading: None,
            bytes: Vec::new(),
            used: 0,
            next_line: start,
            offset,
            end,
            length,
            skipping: start > 0,
        }
    }

    /// What a read needs, to be run wherever blocking is allowed.
    fn fetch(&mut self) -> impl FnOnce() -> Fetched + Send + use<> {
        let (file, path, offset) = (self.file.take(), self.path.clone(), self.offset);
        // What was appended since the flow was built is not read.
        let bytes = (self.length - offset).min(CHUNK_BYTES as u64);
        move || {
            let mut file = match file.map_or_else(|| open_at(&path, offset), Ok) {
                Ok(file) => file,
                Err(error) => return Fetched { file: None, chunk: Err(error) },
            };
            let mut chunk = Vec::with_capacity(CHUNK_BYTES);
            let read = Read::by_ref(&mut file).take(bytes).read_to_end(&mut chunk);
            Fetched { file: Some(file), chunk: read.map(|_| chunk) }
        }
    }

    fn fetched(&mut self, fetched: Fetched) -> Result<(), TaskError> {
        self.file = fetched.file;
        let chunk =
            fetched.chunk.map_err(|error| TaskError::new(format!("cannot read `{}`: {error}", self.path.display())))?;
        if chunk.is_empty() {
            let message = format!("`{}` has become shorter while it was read", self.path.display());
            return Err(TaskError::new(message));
        }
        self.bytes.drain(..self.used);
        self.used = 0;
        self.offset += chunk.len() as u64;
        if self.bytes.is_empty() {
            self.bytes = chunk;
        } else {
            self.bytes.extend_from_slice(&chunk);
        }
        Ok(())
    }

    /// Whether everything up to the end of the last line of this part is in `bytes`.
    fn at_end_of_file(&self) -> bool {
        self.offset >= self.length
    }

    /// Makes lines of what is there.
    fn lines(&mut self, into: &mut Vec<String>, max: usize) -> Result<Split, TaskError> {
        if self.skipping {
            match find_newline(&self.bytes[self.used..]) {
                Some(newline) => {
                    self.used += newline + 1;
                    self.next_line = self.offset - (self.bytes.len() - self.used) as u64;
                    self.skipping = false;
                }
                None if self.at_end_of_file() => return Ok(Split::Done),
                None => {
                    self.used = self.bytes.len();
                    return Ok(Split::NeedsMore);
                }
            }
        }
        for _ in 0..max {
            if self.next_line >= self.end {
                return Ok(Split::Done);
            }
            let rest = &self.bytes[self.used..];
            let (line, taken) = match find_newline(rest) {
                Some(newline) => (&rest[..newline], newline + 1),
                None if self.at_end_of_file() => (rest, rest.len()),
                None if rest.len() > LINE_BYTES_MAX => {
                    let (path, offset) = (self.path.display(), self.next_line);
                    let message = format!("`{path}` has a line of more than {LINE_BYTES_MAX} bytes at offset {offset}");
                    return Err(TaskError::new(message));
                }
                None => return Ok(Split::NeedsMore),
            };
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let text = std::str::from_utf8(line).map_err(|error| {
                let offset = self.next_line + error.valid_up_to() as u64;
                TaskError::new(format!("`{}` has invalid UTF-8 at offset {offset}", self.path.display()))
            })?;
            into.push(text.to_owned());
            self.used += taken;
            self.next_line += taken as u64;
        }
        Ok(Split::Full)
    }
}

enum Split {
    Full,
    NeedsMore,
    Done,
}

fn open_at(path: &Path, offset: u64) -> io::Result<File> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(offset))?;
    Ok(file)
}

fn find_newline(bytes: &[u8]) -> Option<usize> {
    memchr::memchr(b'\n', bytes)
}

impl Part for TextPart {
    type Item = String;

    fn read(&mut self, into: &mut Vec<String>, max: usize) -> Result<More, TaskError> {
        loop {
            match self.lines(into, max - into.len())? {
                Split::Done => return Ok(More::No),
                Split::Full => return Ok(More::Yes),
                Split::NeedsMore => {
                    let fetched = self.fetch()();
                    self.fetched(fetched)?;
                }
            }
        }
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        ctx: &TaskContext,
        into: &mut Vec<String>,
        max: usize,
    ) -> Poll<Result<More, TaskError>> {
        loop {
            if self.reading.is_none() {
                match self.lines(into, max - into.len())? {
                    Split::Done => return Poll::Ready(Ok(More::No)),
                    Split::Full => return Poll::Ready(Ok(More::Yes)),
                    Split::NeedsMore => self.reading = Some(ctx.blocking.spawn_blocking(self.fetch())),
                }
            }
            if let Some(reading) = &mut self.reading {
                let Poll::Ready(fetched) = Pin::new(reading).poll(cx) else {
                    // Lines in front of the read go on meanwhile.
                    return if into.is_empty() { Poll::Pending } else { Poll::Ready(Ok(More::Yes)) };
                };
                self.reading = None;
                self.fetched(fetched.map_err(|error| TaskError::new(format!("the read was given up: {error}")))?)?;
            }
        }
    }
}

impl fmt::Debug for TextPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TextPart")
            .field("path", &self.path)
            .field("from", &self.next_line)
            .field("to", &self.end)
            .finish()
    }
}

/// A sink that writes each item as a line of text; see [`TextFile`] for the way back.
///
/// Lines are written in the blocking pool, 64 KiB at a time, and the file is complete when the job has completed.
#[derive(Debug)]
pub struct LineSink<T> {
    target: Target,
    text: String,
    line: String,
    failed: Option<String>,
    writer: Option<Box<dyn DebugWrite>>,
    blocking: Option<tokio::runtime::Handle>,
    item: std::marker::PhantomData<fn(T)>,
}

#[derive(Debug)]
enum Target {
    File(PathBuf),
    Stdout,
}

trait DebugWrite: Write + Send + fmt::Debug {}
impl<W: Write + Send + fmt::Debug> DebugWrite for W {}

const WRITE_BYTES: usize = 64 << 10;

impl<T: Display> LineSink<T> {
    /// Writes to a new file at `path`, replacing one that exists. When the sink has several parallel instances, each
    /// writes a file of its own: `path` followed by `.0`, `.1` and so on.
    pub fn create(path: impl AsRef<Path>) -> Self {
        Self::to(Target::File(path.as_ref().to_owned()))
    }

    pub(crate) fn stdout() -> Self {
        Self::to(Target::Stdout)
    }

    fn to(target: Target) -> Self {
        Self {
            target,
            text: String::new(),
            line: String::new(),
            failed: None,
            writer: None,
            blocking: None,
            item: std::marker::PhantomData,
        }
    }

    async fn write_out(&mut self, finish: bool) -> Result<(), TaskError> {
        if let Some(failed) = &self.failed {
            return Err(TaskError::new(failed.clone()));
        }
        let (Some(mut writer), Some(blocking)) = (self.writer.take(), &self.blocking) else {
            return Err(TaskError::new(format!("{} was not opened", self.place())));
        };
        let text = std::mem::take(&mut self.text);
        let work = move || {
            let written = writer.write_all(text.as_bytes());
            let result = written.and_then(|()| if finish { writer.flush() } else { Ok(()) });
            (writer, text, result)
        };
        let (writer, mut text, result) = blocking.spawn_blocking(work).await?;
        text.clear();
        self.text = text;
        self.writer = Some(writer);
        // Lines that were taken before are lost with this write. So it fails for good: `flush` fails the job, whatever
        // the error policy made of the item at hand.
        self.failed = result.err().map(|error| format!("cannot write to {}: {error}", self.place()));
        self.failed.clone().map_or(Ok(()), |failed| Err(TaskError::new(failed)))
    }

    fn place(&self) -> String {
        match &self.target {
            Target::File(path) => format!("`{}`", path.display()),
            Target::Stdout => "standard output".to_owned(),
        }
    }
}

impl<T: Display + 'static> Sink for LineSink<T> {
    type Item = T;

    async fn open(&mut self, ctx: &TaskContext) -> Result<(), TaskError> {
        if let Target::File(path) = &mut self.target
            && ctx.parallelism() > 1
        {
            let mut name = path.clone().into_os_string();
            name.push(format!(".{}", ctx.instance()));
            *path = name.into();
        }
        self.blocking = Some(ctx.blocking.clone());
        self.writer = Some(match &self.target {
            Target::Stdout => Box::new(io::stdout()),
            Target::File(path) => {
                let path = path.clone();
                let file = ctx.blocking.spawn_blocking(move || File::create(path)).await?;
                Box::new(file.map_err(|error| TaskError::new(format!("cannot create {}: {error}", self.place())))?)
            }
        });
        Ok(())
    }

    async fn write(&mut self, item: T) -> Result<(), TaskError> {
        // Aside first, so that an item whose `Display` fails or panics leaves nothing behind.
        self.line.clear();
        writeln!(self.line, "{item}")?;
        self.text.push_str(&self.line);
        if self.text.len() >= WRITE_BYTES { self.write_out(false).await } else { Ok(()) }
    }

    async fn flush(&mut self) -> Result<(), TaskError> {
        self.write_out(true).await
    }
}
