//! Makes values of rows: an operator of its own, so that a bad row is an item like any other that cannot be processed.

use std::{
    collections::VecDeque,
    fmt::Display,
    future::Future,
    io,
    marker::PhantomData,
    ops::Range,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use crate::{
    dataplane::{
        chain::{BoxStage, Cursor, Ending, Failure, Lull, Meter, Reach, Stage, catch},
        error::TaskError,
        mark::Mark,
    },
    flow::{
        Flow,
        files::{Block, FileSource, Files, Reading, Shape, unreadable},
        stream::Stream,
    },
    host::Blocking,
    protocol::Wait,
};

/// A row that is still to be parsed.
#[derive(Debug)]
pub(super) struct Row {
    block: Arc<Block>,
    range: Range<usize>,
    line: u64,
}

impl Row {
    pub fn bytes(&self) -> &[u8] {
        &self.block.bytes[self.range.clone()]
    }

    /// The first row of its file, if the reading says that it has to be known.
    pub fn first(&self) -> Option<&[u8]> {
        self.block.span.first()
    }

    /// Whether this row and the one whose block `other` was are of one span.
    pub fn is_of_span(&self, other: &Block) -> bool {
        Arc::ptr_eq(&self.block.span, &other.span)
    }

    pub fn block(&self) -> &Arc<Block> {
        &self.block
    }

    /// Its place in its file, from 1. `None` if what is in front of the span has yet to be counted.
    fn line(&self) -> Option<u64> {
        Some(self.block.span.lines_before()? + self.line + 1)
    }
}

/// Rows as they are.
pub(super) enum Raw {}

impl Shape for Raw {
    type Item = Row;

    fn item(block: &Arc<Block>, range: Range<usize>, line: u64, _offset: u64) -> Result<Row, TaskError> {
        Ok(Row { block: Arc::clone(block), range, line })
    }
}

/// Makes the value of a row.
pub(super) trait Parser: Send + 'static {
    type Item: Send + 'static;

    fn parse(&mut self, row: &Row) -> Result<Self::Item, Flaw>;
}

/// What is wrong with a row.
#[derive(Debug)]
pub(super) struct Flaw {
    /// What goes behind the file and the line: `: ` or the place in the row, and what is wrong.
    text: String,
    /// That it is not the row, but what all rows of the file depend on. It fails the job, whatever the error policy.
    pub of_file: bool,
}

impl Flaw {
    pub fn new(what: impl Display) -> Self {
        Self { text: format!(": {what}"), of_file: false }
    }

    pub fn at(place: impl Display, what: impl Display) -> Self {
        Self { text: format!(", {place}: {what}"), of_file: false }
    }

    /// What is wrong, without the place.
    pub fn what(&self) -> &str {
        self.text.trim_start_matches(": ")
    }

    pub fn of_file(what: impl Display) -> Self {
        Self { text: format!(": {what}"), of_file: true }
    }
}

/// The row as text.
pub(super) fn text_of(bytes: &[u8]) -> Result<&str, Flaw> {
    std::str::from_utf8(bytes)
        .map_err(|error| Flaw::new(format_args!("invalid UTF-8 at byte {} of the row", error.valid_up_to() + 1)))
}

impl Flow {
    /// A source of files and the operator `kind` behind it, which makes values of their rows.
    pub(super) fn read_rows<P, M>(
        &mut self,
        kind: &'static str,
        files: Files,
        reading: Reading,
        make: M,
    ) -> Stream<P::Item>
    where
        P: Parser,
        M: Fn() -> P + 'static,
    {
        let rows = self.replayed("files", kind, FileSource::<Raw> { files, reading, shape: PhantomData });
        rows.then(kind, move |_| {
            let parser = make();
            Box::new(move |meter, next| Box::new(Parse::new(meter, parser, next)))
        })
    }
}

/// Parses rows under the operator's error policy.
///
/// An error names the line, and for that what is in front of the span must have been counted. So the first bad row of a
/// span that does not begin its file, and all behind it, wait until that has been done in the blocking pool.
struct Parse<P: Parser> {
    meter: Meter,
    parser: P,
    waiting: VecDeque<Row>,
    /// How many rows have been processed or set aside.
    handled: u64,
    counting: Option<Blocking<io::Result<()>>>,
    out: Vec<P::Item>,
    next: BoxStage<P::Item>,
}

impl<P: Parser> Parse<P> {
    fn new(meter: Meter, parser: P, next: BoxStage<P::Item>) -> Self {
        Self { meter, parser, waiting: VecDeque::new(), handled: 0, counting: None, out: Vec::new(), next }
    }

    /// Parses what waits, up to the first row whose line is not known and has to be.
    fn work(&mut self) -> Result<(), Failure> {
        let batch_items = self.meter.task.limits.batch_items;
        let mut cursor = self.meter.cursor(self.handled);
        while let Some(row) = self.waiting.front() {
            cursor.advance();
            let parser = &mut self.parser;
            let parsed = if self.meter.skips {
                catch(|| parser.parse(row)).unwrap_or_else(|panic| Err(Flaw::new(panic)))
            } else {
                parser.parse(row)
            };
            match parsed {
                Ok(item) => {
                    self.meter.account.processed += 1;
                    self.out.push(item);
                }
                Err(flaw) => {
                    let span = Arc::clone(&row.block.span);
                    let Some(line) = row.line() else {
                        // The row is parsed anew when it is known.
                        let count = move || span.count_lines_before();
                        self.counting = Some(self.meter.task.context.host.blocking(count));
                        break;
                    };
                    let cause = format!("`{}`, line {line}{}", span.path.display(), flaw.text);
                    if flaw.of_file || !self.meter.skips {
                        return Err(self.fail(cursor, cause));
                    }
                    self.meter.bury(cursor.position, cause);
                }
            }
            self.waiting.pop_front();
            self.handled += 1;
            if self.out.len() >= batch_items {
                drop(cursor);
                self.next.batch(&mut self.out)?;
                cursor = self.meter.cursor(self.handled);
            }
        }
        drop(cursor);
        if self.out.is_empty() { Ok(()) } else { self.next.batch(&mut self.out) }
    }

    /// What came before the row goes on, so that the failure is seen behind it.
    fn fail(&mut self, cursor: Cursor, cause: String) -> Failure {
        let failure = self.meter.failed_with(cursor.position, cause);
        // Gone by then, so that a panic downstream is not attributed to this operator.
        drop(cursor);
        let passed = if self.out.is_empty() { Ok(()) } else { self.next.batch(&mut self.out) };
        passed.err().unwrap_or(failure)
    }

    /// Takes note of the count the rows waited for.
    fn counted(&mut self, counted: io::Result<()>) -> Result<(), Failure> {
        let (Err(error), Some(row)) = (counted, self.waiting.front()) else { return Ok(()) };
        Err(self.meter.failed(self.handled + 1, &unreadable(&row.block.span.path, &error)))
    }
}

impl<P: Parser> Stage<Row> for Parse<P> {
    fn batch(&mut self, items: &mut Vec<Row>) -> Result<(), Failure> {
        drop(self.meter.receive(items.len()));
        self.waiting.extend(items.drain(..));
        if self.counting.is_some() { Ok(()) } else { self.work() }
    }

    fn mark(&mut self, mark: Mark) -> Result<(), Failure> {
        // No row waits, or `poll` would not have been ready.
        self.next.mark(mark)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        loop {
            ready!(self.next.poll(cx))?;
            let Some(counting) = &mut self.counting else { return Poll::Ready(Ok(())) };
            let Poll::Ready(counted) = Pin::new(counting).poll(cx) else {
                self.meter.task.wait.set(Wait::Source);
                return Poll::Pending;
            };
            self.counting = None;
            self.counted(counted.unwrap_or_else(|error| Err(io::Error::other(error))))?;
            self.work()?;
        }
    }

    fn flush(&mut self, lull: Lull) -> Result<(), Failure> {
        self.next.flush(lull)
    }

    fn wants_more(&self, reach: Reach) -> bool {
        self.next.wants_more(reach)
    }

    fn owes(&self) -> bool {
        self.counting.is_some() || self.next.owes()
    }

    fn settle(&mut self, ending: Ending) {
        self.meter.settle(ending);
        self.next.settle(ending);
    }
}
