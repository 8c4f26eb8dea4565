//! Traces that user code of a job leaves for the test, in whichever process it runs.

use std::{fmt::Display, fs::OpenOptions, io::Write, marker::PhantomData, path::PathBuf};

use proscenium::{Sink, TaskContext, TaskError};
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

/// The test's side: reads what was written.
#[derive(Debug)]
pub struct Journal {
    file: NamedTempFile,
}

/// The job's side; a parameter of the job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Pen {
    path: PathBuf,
}

impl Journal {
    pub fn new() -> Self {
        Self { file: NamedTempFile::new().expect("a temporary file can be made") }
    }

    pub fn pen(&self) -> Pen {
        Pen { path: self.file.path().to_owned() }
    }

    /// All lines so far, in the order in which they were written.
    pub fn lines(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.file.path()).expect("the journal can be read");
        text.lines().map(str::to_owned).collect()
    }

    /// How many lines are `line`.
    pub fn count(&self, line: &str) -> usize {
        self.lines().iter().filter(|other| *other == line).count()
    }
}

impl Pen {
    /// Appends a line.
    pub fn write(&self, line: impl Display) {
        // One write, so that lines of several threads and processes do not mix. A journal that is gone has no reader.
        if let Ok(mut file) = OpenOptions::new().append(true).open(&self.path) {
            let _ = file.write_all(format!("{line}\n").as_bytes());
        }
    }
}

/// A sink that writes down all that happens to it: `open`, each item, `flush`, `close`, `drop`, each behind its
/// instance, which is `?` as long as it was not opened.
#[derive(Debug)]
pub struct JournalSink<T> {
    pen: Pen,
    instance: String,
    items: PhantomData<fn(T)>,
}

impl<T> JournalSink<T> {
    pub fn new(pen: &Pen) -> Self {
        Self { pen: pen.clone(), instance: "?".to_owned(), items: PhantomData }
    }
}

impl<T: Display + 'static> Sink for JournalSink<T> {
    type Item = T;

    async fn open(&mut self, ctx: &TaskContext) -> Result<(), TaskError> {
        self.instance = ctx.instance().to_string();
        self.pen.write(format_args!("{} open", self.instance));
        Ok(())
    }

    async fn write(&mut self, item: T) -> Result<(), TaskError> {
        self.pen.write(format_args!("{} {item}", self.instance));
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), TaskError> {
        self.pen.write(format_args!("{} flush", self.instance));
        Ok(())
    }

    async fn close(&mut self) -> Result<(), TaskError> {
        self.pen.write(format_args!("{} close", self.instance));
        Ok(())
    }
}

impl<T> Drop for JournalSink<T> {
    fn drop(&mut self) {
        self.pen.write(format_args!("{} drop", self.instance));
    }
}
