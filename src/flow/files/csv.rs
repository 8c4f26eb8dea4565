//! CSV as source and sink.

use std::{
    cell::RefCell,
    fmt,
    io::{self, Write},
    marker::PhantomData,
    path::Path,
    rc::Rc,
    sync::Arc,
};

use csv::StringRecord;
use csv_core::ReadRecordResult;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    dataplane::{context::TaskContext, error::TaskError},
    flow::{
        Flow,
        files::{
            Blank, Block, Cut, Files, First, Reading, RowWriter,
            parse::{Flaw, Parser, Row, text_of},
        },
        sink::Sink,
        stream::Stream,
    },
};

/// Files of comma-separated values, and how they are written. Made from a path, or with [`Csv::new`]. Needs the feature
/// `files`, which is on by default.
///
/// A record ends with `\n` or `\r\n`, fields are separated by commas, and a field may be enclosed in `"`: then it may
/// contain commas, line ends, and `""` for a quote. Empty lines are passed over. The first record of each file is its
/// header, which names the fields. A file is read by one instance, from its beginning to its end, because a line end may
/// be part of a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Csv {
    files: Files,
    delimiter: u8,
    has_header: bool,
    by_line: bool,
}

impl Csv {
    /// The records of `files`, written as above.
    pub fn new(files: impl Into<Files>) -> Self {
        Self { files: files.into(), delimiter: b',', has_header: true, by_line: false }
    }

    /// Fields are separated by `delimiter` instead of a comma. A quote or a line end separates nothing: it refuses the
    /// flow.
    #[must_use]
    pub fn delimiter(mut self, delimiter: u8) -> Self {
        self.delimiter = delimiter;
        self
    }

    /// The files have no header: the first record is one like the others. Fields have no names then, so what is read is a
    /// tuple, or a struct whose fields are in the order of the file.
    #[must_use]
    pub fn without_header(mut self) -> Self {
        self.has_header = false;
        self
    }

    /// Promises that no field contains a line end, so that the files can be split by byte range and read in parallel.
    ///
    /// Where that does not hold, each line is taken as a record nevertheless. A line with a quote that is not closed is a
    /// bad row; what follows it may pass for a record.
    #[must_use]
    pub fn one_record_per_line(mut self) -> Self {
        self.by_line = true;
        self
    }
}

impl From<Files> for Csv {
    fn from(files: Files) -> Self {
        Self::new(files)
    }
}

impl<P: AsRef<Path>> From<P> for Csv {
    fn from(path: P) -> Self {
        Self::new(path)
    }
}

impl Flow {
    /// The records of CSV files as values of `T`. Needs the feature `files`, which is on by default. Read by as many
    /// instances as the job's parallelism, a file by one of them unless [`Csv::one_record_per_line`] allows more.
    ///
    /// See [`Csv`] for how the files are written, and [`Files`] for which are read, and by whom. Within an instance records
    /// keep their order. A field of `T` gets the field of the record that the header names so, others are ignored; without
    /// a header it goes by the order. An empty field is `None` for an `Option`.
    ///
    /// Records are parsed by the operator `read_csv` behind the source `files`, which reads them in the blocking pool. So
    /// the error policy holds for a record that cannot be made into a `T`: under *fail* it fails the job, under *skip* it
    /// becomes a dead letter. Such are also one with more or fewer fields than the first record of its file, invalid UTF-8,
    /// and a quote that is not closed. The cause names the file, the line (from 1) the record begins in, the field, and what
    /// is wrong. Counting lines costs what it costs [`read_json_lines`](Self::read_json_lines).
    ///
    /// A file that cannot be read to its end, damaged compressed data, a header that is no record, and a record of more
    /// than 64 MiB fail the job whatever the error policy.
    ///
    /// ```
    /// use proscenium::{Csv, LocalEnvironment, job_fn};
    ///
    /// #[derive(serde::Deserialize)]
    /// struct Item {
    ///     price: u64,
    ///     name: String,
    /// }
    ///
    /// let file = tempfile::NamedTempFile::new()?;
    /// std::fs::write(&file, "name;price\n\"spoon; large\";3\nfork;2\n")?;
    /// let env = LocalEnvironment::new("doc");
    /// let path = file.path().to_owned();
    /// let job = job_fn("names", move |flow| {
    ///     let items = flow.read_csv::<Item>(Csv::new(&path).delimiter(b';'));
    ///     items.filter(|item| item.price > 2).map(|item| item.name).collect("dear");
    ///     Ok(())
    /// });
    /// let job = env.submit(job).autostop(true).blocking()?;
    /// assert_eq!(job.output::<String>("dear").blocking()?, ["spoon; large"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn read_csv<T>(&mut self, csv: impl Into<Csv>) -> Stream<T>
    where
        T: DeserializeOwned + Send + 'static,
    {
        let Csv { files, delimiter, has_header, by_line } = csv.into();
        let cut = if by_line { Cut::Lines } else { Cut::Records { delimiter } };
        let first = if has_header { First::Header } else { First::Model };
        let reading = Reading { cut, blank: Blank::Empty, first };
        if is_no_delimiter(delimiter) {
            self.refuse_source("read_csv", no_delimiter(delimiter));
        }
        self.read_rows("read_csv", files, reading, move || Records::new(delimiter, has_header))
    }
}

fn is_no_delimiter(delimiter: u8) -> bool {
    matches!(delimiter, b'"' | b'\n' | b'\r')
}

fn no_delimiter(delimiter: u8) -> String {
    format!("{:?} separates no fields", char::from(delimiter))
}

/// Parses records one by one.
struct Records<T> {
    delimiter: u8,
    has_header: bool,
    core: csv_core::Reader,
    /// A block of the span whose first record is `first`.
    of: Option<Arc<Block>>,
    first: Result<StringRecord, String>,
    record: StringRecord,
    fields: Vec<u8>,
    ends: Vec<usize>,
    item: PhantomData<fn() -> T>,
}

impl<T> Records<T> {
    fn new(delimiter: u8, has_header: bool) -> Self {
        Self {
            delimiter,
            has_header,
            core: core_of(delimiter),
            of: None,
            first: Ok(StringRecord::new()),
            record: StringRecord::new(),
            fields: vec![0; 1024],
            ends: vec![0; 64],
            item: PhantomData,
        }
    }

    /// Takes note of the first record of the row's file.
    fn know_first(&mut self, row: &Row) {
        if self.of.as_ref().is_some_and(|block| row.is_of_span(block)) {
            return;
        }
        self.of = Some(Arc::clone(row.block()));
        let first = self.read(row.first().unwrap_or_default());
        self.first = first.map(|()| std::mem::take(&mut self.record)).map_err(|flaw| flaw.what().to_owned());
    }

    /// Reads `bytes`, which are not empty, into the record.
    fn read(&mut self, bytes: &[u8]) -> Result<(), Flaw> {
        let text = text_of(bytes)?;
        let (mut rest, mut written, mut ended) = (bytes, 0, 0);
        let mut at_line_end = false;
        loop {
            let (fields, ends) = (&mut self.fields[written..], &mut self.ends[ended..]);
            let (result, read, bytes, count) = self.core.read_record(rest, fields, ends);
            rest = &rest[read..];
            written += bytes;
            ended += count;
            match result {
                ReadRecordResult::InputEmpty if at_line_end => {
                    self.core = core_of(self.delimiter);
                    return Err(Flaw::new("a quoted field is not closed"));
                }
                ReadRecordResult::InputEmpty => {
                    // In front of it the row is not known to be over.
                    rest = b"\n";
                    at_line_end = true;
                }
                ReadRecordResult::OutputFull => self.fields.resize(self.fields.len() * 2, 0),
                ReadRecordResult::OutputEndsFull => self.ends.resize(self.ends.len() * 2, 0),
                ReadRecordResult::Record | ReadRecordResult::End => break,
            }
        }
        debug_assert!(written <= text.len(), "fields are cut out of the text");
        self.record.clear();
        let mut start = 0;
        for &end in &self.ends[..ended] {
            // The row is UTF-8, and so is what is between two bytes of ASCII in it.
            let field = std::str::from_utf8(&self.fields[start..end]);
            self.record.push_field(field.map_err(Flaw::new)?);
            start = end;
        }
        Ok(())
    }
}

/// A reader of single records.
fn core_of(delimiter: u8) -> csv_core::Reader {
    let terminator = csv_core::Terminator::Any(b'\n');
    let mut core = csv_core::ReaderBuilder::new().delimiter(delimiter).terminator(terminator).build();
    // It looks for a byte order mark in the first bytes it sees; those of a row may be in the middle of a file.
    let _ = core.read_record(b"\n", &mut [0], &mut [0]);
    core
}

impl<T: DeserializeOwned + Send + 'static> Parser for Records<T> {
    type Item = T;

    fn parse(&mut self, row: &Row) -> Result<T, Flaw> {
        self.know_first(row);
        if let Err(what) = &self.first
            && self.has_header
        {
            return Err(Flaw::of_file(format_args!("the header cannot be read: {what}")));
        }
        self.read(row.bytes())?;
        let (first, record) = (self.first.as_ref().ok(), &self.record);
        if let Some(expected) = first.map(StringRecord::len).filter(|expected| *expected != record.len()) {
            let has = record.len();
            return Err(Flaw::new(format_args!("{has} fields where the first record has {expected}")));
        }
        let header = first.filter(|_| self.has_header);
        record.deserialize(header).map_err(|error| flaw_of(&error, header))
    }
}

fn flaw_of(error: &csv::Error, header: Option<&StringRecord>) -> Flaw {
    let csv::ErrorKind::Deserialize { err, .. } = error.kind() else { return Flaw::new(error) };
    let Some(field) = err.field() else { return Flaw::new(err.kind()) };
    match header.and_then(|header| header.get(field as usize)) {
        Some(name) => Flaw::at(format_args!("field `{name}`"), err.kind()),
        None => Flaw::at(format_args!("field {}", field + 1), err.kind()),
    }
}

/// A sink that writes each item as a record of CSV; see [`Flow::read_csv`] for the way back. Needs the feature `files`,
/// which is on by default.
///
/// In front of the first item of a struct type the names of its fields are written as a header, in each file. A file to
/// which no item was written stays empty. Fields that contain a delimiter, a quote or a line end are enclosed in quotes.
///
/// Records are written in the blocking pool, 64 KiB at a time, and the file is complete when the job has completed. The
/// file of a job that failed or was cancelled stays as far as it was written; of a compressed one the end is then missing.
/// An item that cannot be serialized, such as one with a list of structs in it, leaves nothing behind, and the error policy
/// holds for it.
pub struct CsvSink<T> {
    writer: RowWriter,
    delimiter: u8,
    /// Whether a header is still to be written, if the items have one.
    header: bool,
    record: Record,
    /// Absent while it is at work: what an item that fails left in it is not used again.
    records: Option<csv::Writer<Record>>,
    item: PhantomData<fn(T)>,
}

impl<T> fmt::Debug for CsvSink<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CsvSink").field("writer", &self.writer).finish_non_exhaustive()
    }
}

/// The bytes of one record, which the writer of `csv` owns the other half of.
#[derive(Debug, Clone, Default)]
struct Record(Rc<RefCell<Vec<u8>>>);

impl Write for Record {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<T: Serialize> CsvSink<T> {
    /// Writes to a new file at `path`, replacing one that exists; compressed if the name ends in `.gz`. When the sink has
    /// several parallel instances, each writes a file of its own: `path` followed by `.0`, `.1` and so on, in front of an
    /// ending `.gz`.
    pub fn create(path: impl AsRef<Path>) -> Self {
        let (writer, record) = (RowWriter::create(path.as_ref()), Record::default());
        Self { writer, delimiter: b',', header: true, record, records: None, item: PhantomData }
    }

    /// Separates fields by `delimiter` instead of a comma. A quote or a line end separates nothing: it fails the job.
    #[must_use]
    pub fn delimiter(mut self, delimiter: u8) -> Self {
        self.delimiter = delimiter;
        self
    }

    /// Writes no header.
    #[must_use]
    pub fn without_header(mut self) -> Self {
        self.header = false;
        self
    }
}

impl<T: Serialize + 'static> Sink for CsvSink<T> {
    type Item = T;

    async fn open(&mut self, ctx: &TaskContext) -> Result<(), TaskError> {
        if is_no_delimiter(self.delimiter) {
            return Err(TaskError::new(no_delimiter(self.delimiter)));
        }
        self.writer.open(ctx).await
    }

    async fn write(&mut self, item: T) -> Result<(), TaskError> {
        let mut records = self.records.take().unwrap_or_else(|| {
            let mut builder = csv::WriterBuilder::new();
            builder.delimiter(self.delimiter).has_headers(self.header).from_writer(self.record.clone())
        });
        // A writer that failed has put what it had into the record when it was dropped.
        self.record.0.borrow_mut().clear();
        records.serialize(&item)?;
        records.flush()?;
        self.records = Some(records);
        self.header = false;
        let record = std::mem::take(&mut *self.record.0.borrow_mut());
        let written = self.writer.write(&record).await;
        *self.record.0.borrow_mut() = record;
        written
    }

    async fn flush(&mut self) -> Result<(), TaskError> {
        self.writer.flush().await
    }

    async fn close(&mut self) -> Result<(), TaskError> {
        self.writer.close().await
    }
}
