//! JSON lines as source and sink.

use std::{marker::PhantomData, path::Path};

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    dataplane::{context::TaskContext, error::TaskError},
    flow::{
        Flow,
        files::{
            Blank, Cut, Files, First, Reading, RowWriter,
            parse::{Flaw, Parser, Row, text_of},
        },
        sink::Sink,
        stream::Stream,
    },
};

impl Flow {
    /// The values in files of JSON lines: one JSON value to a line, in UTF-8. Needs the feature `files`, which is on by
    /// default. Read by as many instances as the job's parallelism.
    ///
    /// A file is split by byte range, unless it is compressed; see [`Files`] for which files are read, and by whom. Within
    /// an instance values keep their order. Lines of nothing but white space are passed over.
    ///
    /// Lines are parsed by the operator `read_json_lines` behind the source `files`, which reads them in the blocking pool.
    /// So the error policy holds for a line that cannot be made into a `T`: under *fail* it fails the job, under *skip* it
    /// becomes a dead letter. The cause names the file, the line (from 1) and what is wrong. Where the line is in a range
    /// that does not begin its file, the line ends in front of that range are counted at its first bad line, which reads
    /// all of that once more; the lines behind it wait meanwhile. A `Deserialize` may so be called twice for that line.
    ///
    /// A file that cannot be read to its end, damaged compressed data, and a line of more than 64 MiB fail the job whatever
    /// the error policy.
    ///
    /// ```
    /// use proscenium::{LocalEnvironment, job_fn};
    ///
    /// #[derive(serde::Deserialize)]
    /// struct Reading {
    ///     celsius: f64,
    /// }
    ///
    /// let file = tempfile::NamedTempFile::new()?;
    /// std::fs::write(&file, "{\"celsius\": 21.5}\n{\"celsius\": 19.0}\n")?;
    /// let env = LocalEnvironment::new("doc");
    /// let path = file.path().to_owned();
    /// let job = job_fn("warmest", move |flow| {
    ///     let readings = flow.read_json_lines::<Reading>(&path);
    ///     let celsius = readings.map(|reading| reading.celsius);
    ///     celsius.reduce(|warmest, celsius| *warmest = warmest.max(celsius)).collect("warmest");
    ///     Ok(())
    /// });
    /// let job = env.submit(job).autostop(true).blocking()?;
    /// assert_eq!(job.output::<f64>("warmest").blocking()?, [21.5]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn read_json_lines<T>(&mut self, files: impl Into<Files>) -> Stream<T>
    where
        T: DeserializeOwned + Send + 'static,
    {
        let reading = Reading { cut: Cut::Lines, blank: Blank::White, first: First::Row };
        self.read_rows("read_json_lines", files.into(), reading, || Json(PhantomData))
    }
}

struct Json<T>(PhantomData<fn() -> T>);

impl<T: DeserializeOwned + Send + 'static> Parser for Json<T> {
    type Item = T;

    fn parse(&mut self, row: &Row) -> Result<T, Flaw> {
        serde_json::from_str(text_of(row.bytes())?).map_err(|error| {
            // The line it speaks of is that within the row, which has one only.
            let (text, column) = (error.to_string(), error.column());
            match text.strip_suffix(&format!(" at line 1 column {column}")) {
                Some(text) => Flaw::at(format_args!("column {column}"), text),
                None => Flaw::new(text),
            }
        })
    }
}

/// A sink that writes each item as a line of JSON; see [`Flow::read_json_lines`] for the way back. Needs the feature
/// `files`, which is on by default.
///
/// Lines are written in the blocking pool, 64 KiB at a time, and the file is complete when the job has completed. The file
/// of a job that failed or was cancelled stays as far as it was written; of a compressed one the end is then missing. An
/// item that cannot be serialized leaves nothing behind, and the error policy holds for it.
#[derive(Debug)]
pub struct JsonLinesSink<T> {
    writer: RowWriter,
    line: Vec<u8>,
    item: PhantomData<fn(T)>,
}

impl<T: Serialize> JsonLinesSink<T> {
    /// Writes to a new file at `path`, replacing one that exists; compressed if the name ends in `.gz`. When the sink has
    /// several parallel instances, each writes a file of its own: `path` followed by `.0`, `.1` and so on, in front of an
    /// ending `.gz`.
    pub fn create(path: impl AsRef<Path>) -> Self {
        Self { writer: RowWriter::create(path.as_ref()), line: Vec::new(), item: PhantomData }
    }
}

impl<T: Serialize + 'static> Sink for JsonLinesSink<T> {
    type Item = T;

    async fn open(&mut self, ctx: &TaskContext) -> Result<(), TaskError> {
        self.writer.open(ctx).await
    }

    async fn write(&mut self, item: T) -> Result<(), TaskError> {
        self.line.clear();
        serde_json::to_writer(&mut self.line, &item)?;
        self.line.push(b'\n');
        self.writer.write(&self.line).await
    }

    async fn flush(&mut self) -> Result<(), TaskError> {
        self.writer.flush().await
    }

    async fn close(&mut self) -> Result<(), TaskError> {
        self.writer.close().await
    }
}
