//! Reads the rows of files.
//!
//! One implementation for text, JSON lines and CSV. What it makes of a row is its [`Shape`].

use std::{
    collections::VecDeque,
    fmt,
    future::Future,
    io::{self, Read},
    marker::PhantomData,
    ops::Range,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use crate::{
    dataplane::{
        context::TaskContext,
        error::TaskError,
        source::{More, Part, Positioned},
    },
    flow::files::{
        cut::Cutter,
        gzip::Input,
        position::{FilePosition, RowStart},
        span::{Block, CHUNK_BYTES, MARK, ROW_BYTES_MAX, Span},
        unreadable,
    },
    host::Blocking,
};

/// What rows are given out as.
pub(crate) trait Shape: Send + 'static {
    type Item;

    /// Makes the item of the row at `range` in `block`. `line` counts the line ends in front of it within the span, and
    /// `offset` is where it begins in the file, or in what came out of a compressed one.
    fn item(block: &Arc<Block>, range: Range<usize>, line: u64, offset: u64) -> Result<Self::Item, TaskError>;
}

/// The rows of several spans, one after another.
pub(crate) struct FilePart<S> {
    spans: VecDeque<Arc<Span>>,
    /// How many spans are no longer among them.
    begun: usize,
    reader: Option<Reader>,
    work: Option<Blocking<Done>>,
    shape: PhantomData<fn() -> S>,
}

impl<S> fmt::Debug for FilePart<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FilePart").field("reader", &self.reader).field("spans", &self.spans).finish_non_exhaustive()
    }
}

/// How far rows could be made without another look at the disk.
enum Progress {
    Full,
    Done,
    Needs(Work),
}

/// What has to be done where blocking is allowed.
enum Work {
    Fetch { span: Arc<Span>, input: Option<Input>, offset: u64 },
    Count { span: Arc<Span> },
}

enum Done {
    Fetched(io::Result<Fetched>),
    Counted(io::Result<()>),
}

struct Fetched {
    input: Input,
    chunk: Vec<u8>,
    at_end: bool,
}

impl Work {
    fn run(self) -> Done {
        match self {
            Self::Fetch { span, input, offset } => Done::Fetched(fetch(&span, input, offset)),
            Self::Count { span } => Done::Counted(span.count_lines_before()),
        }
    }
}

fn fetch(span: &Span, input: Option<Input>, offset: u64) -> io::Result<Fetched> {
    let mut input = match input {
        Some(input) => input,
        None => {
            // It is behind, also in a span that begins its file, where reading goes on from a position.
            if (span.start > 0 || offset > 0) && span.lacks_first() {
                span.read_first()?;
            }
            Input::open(&span.path, offset, span.length)?
        }
    };
    // What was appended since the flow was built is not read.
    let wanted = if span.compressed { CHUNK_BYTES as u64 } else { (span.length - offset).min(CHUNK_BYTES as u64) };
    let mut chunk = Vec::with_capacity(wanted as usize);
    let read = Read::by_ref(&mut input).take(wanted).read_to_end(&mut chunk)?;
    let at_end = if span.compressed { (read as u64) < wanted } else { offset + read as u64 >= span.length && read > 0 };
    Ok(Fetched { input, chunk, at_end })
}

impl<S: Shape> FilePart<S> {
    /// The rows of `spans` from `at` on.
    pub fn open(spans: Vec<Arc<Span>>, at: FilePosition) -> Result<Self, TaskError> {
        let mut spans = VecDeque::from(spans);
        if spans.len() < at.ranges {
            return Err(TaskError::new("the position is behind more files than the split has"));
        }
        spans.drain(..at.ranges);
        let mut reader = None;
        if let Some(row) = at.row {
            let span = spans.pop_front().filter(|span| span.may_begin_a_row(row.offset));
            let span =
                span.ok_or_else(|| TaskError::new("the position is outside of what the split has of the file"))?;
            reader = Some(Reader::at(span, row));
        }
        Ok(Self { spans, begun: at.ranges + usize::from(reader.is_some()), reader, work: None, shape: PhantomData })
    }

    /// Makes rows of what is there.
    fn advance(&mut self, into: &mut Vec<S::Item>, max: usize) -> Result<Progress, TaskError> {
        loop {
            let reader = match &mut self.reader {
                Some(reader) => reader,
                None => match self.spans.pop_front() {
                    Some(span) => {
                        self.begun += 1;
                        self.reader.insert(Reader::new(span))
                    }
                    None => return Ok(Progress::Done),
                },
            };
            match reader.rows::<S>(into, max)? {
                Rows::Full => return Ok(Progress::Full),
                Rows::NeedsMore => return Ok(Progress::Needs(reader.fetch())),
                Rows::NeedsLine => return Ok(Progress::Needs(Work::Count { span: Arc::clone(&reader.block.span) })),
                Rows::End => self.reader = None,
            }
        }
    }

    fn done(&mut self, done: Done) -> Result<(), TaskError> {
        let Some(reader) = &mut self.reader else { return Ok(()) };
        match done {
            Done::Fetched(Ok(fetched)) => reader.fetched(fetched),
            Done::Counted(Ok(())) => Ok(()),
            Done::Fetched(Err(error)) | Done::Counted(Err(error)) => Err(unreadable(&reader.block.span.path, &error)),
        }
    }
}

impl<S: Shape> Part for FilePart<S> {
    type Item = S::Item;

    fn read(&mut self, into: &mut Vec<S::Item>, max: usize) -> Result<More, TaskError> {
        loop {
            match self.advance(into, max)? {
                Progress::Done => return Ok(More::No),
                Progress::Full => return Ok(More::Yes),
                Progress::Needs(work) => self.done(work.run())?,
            }
        }
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        ctx: &TaskContext,
        into: &mut Vec<S::Item>,
        max: usize,
    ) -> Poll<Result<More, TaskError>> {
        loop {
            if self.work.is_none() {
                match self.advance(into, max)? {
                    Progress::Done => return Poll::Ready(Ok(More::No)),
                    Progress::Full => return Poll::Ready(Ok(More::Yes)),
                    Progress::Needs(work) => self.work = Some(ctx.host.blocking(|| work.run())),
                }
            }
            if let Some(work) = &mut self.work {
                let Poll::Ready(done) = Pin::new(work).poll(cx) else {
                    // Rows in front of the read go on meanwhile.
                    return if into.is_empty() { Poll::Pending } else { Poll::Ready(Ok(More::Yes)) };
                };
                self.work = None;
                self.done(done.map_err(|error| TaskError::new(format!("the read was given up: {error}")))?)?;
            }
        }
    }
}

impl<S: Shape> Positioned for FilePart<S> {
    type Position = FilePosition;

    fn position(&self) -> FilePosition {
        match &self.reader {
            Some(reader) => FilePosition { ranges: self.begun - 1, row: reader.position() },
            None => FilePosition { ranges: self.begun, row: None },
        }
    }
}

/// Reads one span.
#[derive(Debug)]
struct Reader {
    /// Absent before the first read and while a read is under way.
    input: Option<Input>,
    /// Bytes read. Shared with the rows that were made of them.
    block: Arc<Block>,
    /// How many of them have been made into rows.
    used: usize,
    /// How many of them the cutter has seen.
    seen: usize,
    cutter: Cutter,
    /// Offset in the file behind the block.
    offset: u64,
    /// Whether nothing follows the block.
    at_end: bool,
    /// No row of the file has been made yet, and none is in front of the span.
    at_start: bool,
    /// The row the span begins in is the one before's.
    skipping: bool,
    too_long: bool,
    /// Line ends in front of the next row within the span.
    lines: u64,
}

/// How far the rows of a span could be made.
enum Rows {
    Full,
    NeedsMore,
    /// There is something to say about a row of which it is not known where it is.
    NeedsLine,
    End,
}

enum Cutting {
    /// Where it is in the block, and the line ends in front of it within the span.
    Row(Range<usize>, u64),
    NeedsMore,
    TooLong,
    End,
}

impl Reader {
    fn new(span: Arc<Span>) -> Self {
        Self {
            input: None,
            used: 0,
            seen: 0,
            cutter: Cutter::new(span.reading.cut),
            // A span that does not begin the file looks at the byte before it: if that ends a row, the span begins one;
            // if not, the row it is in is the one before's.
            offset: span.start.saturating_sub(1),
            at_end: false,
            at_start: span.start == 0,
            skipping: span.start > 0,
            too_long: false,
            lines: 0,
            block: Arc::new(Block { bytes: Vec::new(), span }),
        }
    }

    /// One that goes on with a row that is the span's.
    fn at(span: Arc<Span>, RowStart { offset, lines }: RowStart) -> Self {
        Self { offset, lines, at_start: false, skipping: false, ..Self::new(span) }
    }

    /// Where the next row begins; none while no row has been made.
    fn position(&self) -> Option<RowStart> {
        let has_begun = !self.at_start && !self.skipping;
        has_begun.then(|| RowStart { offset: self.offset_of(self.used), lines: self.lines })
    }

    fn fetch(&mut self) -> Work {
        Work::Fetch { span: Arc::clone(&self.block.span), input: self.input.take(), offset: self.offset }
    }

    fn fetched(&mut self, Fetched { input, chunk, at_end }: Fetched) -> Result<(), TaskError> {
        self.input = Some(input);
        let span = Arc::clone(&self.block.span);
        if chunk.is_empty() && !at_end {
            let message = format!("`{}` has become shorter while it was read", span.path.display());
            return Err(TaskError::new(message));
        }
        let mark = if self.offset == 0 && self.at_start && chunk.starts_with(MARK) { MARK.len() } else { 0 };
        self.at_end = at_end;
        self.offset += chunk.len() as u64;
        // A block that no row holds any more is used again, so that a long row is not copied once for each read of it.
        let mut bytes = match Arc::get_mut(&mut self.block) {
            Some(block) => {
                let mut bytes = std::mem::take(&mut block.bytes);
                bytes.drain(..self.used);
                bytes
            }
            None => self.block.bytes[self.used..].to_vec(),
        };
        self.seen -= self.used;
        if bytes.is_empty() {
            bytes = chunk;
        } else {
            bytes.extend_from_slice(&chunk);
        }
        self.used = mark;
        self.seen += mark;
        self.block = Arc::new(Block { bytes, span });
        Ok(())
    }

    /// Offset in the file of what is at `place` in the block.
    fn offset_of(&self, place: usize) -> u64 {
        self.offset - (self.block.bytes.len() - place) as u64
    }

    /// Makes rows of what is there.
    fn rows<S: Shape>(&mut self, into: &mut Vec<S::Item>, max: usize) -> Result<Rows, TaskError> {
        while into.len() < max {
            let (range, line) = match self.cut() {
                Cutting::Row(range, line) => (range, line),
                Cutting::NeedsMore => return Ok(Rows::NeedsMore),
                Cutting::End => return Ok(Rows::End),
                Cutting::TooLong => {
                    let Some(before) = self.block.span.lines_before() else { return Ok(Rows::NeedsLine) };
                    let (path, line) = (self.block.span.path.display(), before + self.lines + 1);
                    let message = format!("`{path}`, line {line}: more than {ROW_BYTES_MAX} bytes before its end");
                    return Err(TaskError::new(message));
                }
            };
            let (block, span) = (&self.block, &self.block.span);
            let row = &block.bytes[range.clone()];
            if span.reading.is_blank(row) {
                continue;
            }
            let offset = self.offset_of(range.start);
            if span.lacks_first() {
                span.set_first(row, offset);
            }
            if span.is_header(offset) {
                continue;
            }
            into.push(S::item(block, range, line, offset)?);
        }
        Ok(Rows::Full)
    }

    /// The next row that is the span's.
    fn cut(&mut self) -> Cutting {
        if self.too_long {
            return Cutting::TooLong;
        }
        if self.skipping {
            match memchr::memchr(b'\n', &self.block.bytes[self.used..]) {
                Some(newline) => {
                    // The one right in front of the span is not within it.
                    self.lines = u64::from(self.offset_of(self.used + newline) >= self.block.span.start);
                    self.used += newline + 1;
                    self.seen = self.used;
                    self.skipping = false;
                }
                None if self.at_end => return Cutting::End,
                None => {
                    self.used = self.block.bytes.len();
                    self.seen = self.used;
                    return Cutting::NeedsMore;
                }
            }
        }
        let bytes = &self.block.bytes;
        // The first row begins the file even if a byte order mark is in front of it.
        if !self.at_start && self.offset_of(self.used) >= self.block.span.end || self.at_end && self.used == bytes.len()
        {
            return Cutting::End;
        }
        let (end, taken) = match self.cutter.find(&bytes[self.seen..]) {
            Some(newline) => (self.seen + newline, self.seen + newline + 1),
            None if self.at_end => (bytes.len(), bytes.len()),
            None => {
                self.seen = bytes.len();
                self.too_long = self.seen - self.used > ROW_BYTES_MAX;
                return if self.too_long { Cutting::TooLong } else { Cutting::NeedsMore };
            }
        };
        let (start, line) = (self.used, self.lines);
        if end - start > ROW_BYTES_MAX {
            self.too_long = true;
            return Cutting::TooLong;
        }
        self.used = taken;
        self.seen = taken;
        self.lines += 1 + std::mem::take(&mut self.cutter.inner_lines);
        self.at_start = false;
        let row = &bytes[start..end];
        Cutting::Row(start..end - usize::from(row.ends_with(b"\r")), line)
    }
}
