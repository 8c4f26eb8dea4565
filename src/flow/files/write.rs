//! Writes rows to a file or to standard output, for the sinks.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::{
    dataplane::{context::TaskContext, error::TaskError},
    flow::files::gzip::{self, Writer},
    host::Host,
};

/// Bytes that are gathered before they are written.
const WRITE_BYTES: usize = 64 << 10;

/// Where rows go, and those that have not gone there yet.
#[derive(Debug)]
pub(crate) struct RowWriter {
    target: Target,
    bytes: Vec<u8>,
    failed: Option<String>,
    writer: Option<Box<dyn Writer>>,
    host: Option<Host>,
}

#[derive(Debug)]
enum Target {
    File(PathBuf),
    Stdout,
}

/// How much of what was written has to be visible afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Until {
    Handed,
    Flushed,
    Finished,
}

impl RowWriter {
    pub fn create(path: &Path) -> Self {
        Self::to(Target::File(path.to_owned()))
    }

    pub fn stdout() -> Self {
        Self::to(Target::Stdout)
    }

    fn to(target: Target) -> Self {
        Self { target, bytes: Vec::new(), failed: None, writer: None, host: None }
    }

    pub async fn open(&mut self, ctx: &TaskContext) -> Result<(), TaskError> {
        if let Target::File(path) = &mut self.target
            && ctx.parallelism() > 1
        {
            *path = numbered(path, ctx.instance());
        }
        self.host = Some(ctx.host.clone());
        self.writer = Some(match &self.target {
            Target::Stdout => Box::new(io::stdout()),
            Target::File(path) => {
                let path = path.clone();
                let file = ctx.host.blocking(move || gzip::create(&path)).await?;
                file.map_err(|error| TaskError::new(format!("cannot create {}: {error}", self.place())))?
            }
        });
        Ok(())
    }

    /// Takes a row with its line end.
    pub async fn write(&mut self, row: &[u8]) -> Result<(), TaskError> {
        self.bytes.extend_from_slice(row);
        if self.bytes.len() >= WRITE_BYTES { self.write_out(Until::Handed).await } else { Ok(()) }
    }

    pub async fn flush(&mut self) -> Result<(), TaskError> {
        self.write_out(Until::Flushed).await
    }

    pub async fn close(&mut self) -> Result<(), TaskError> {
        self.write_out(Until::Finished).await
    }

    async fn write_out(&mut self, until: Until) -> Result<(), TaskError> {
        if let Some(failed) = &self.failed {
            return Err(TaskError::new(failed.clone()));
        }
        let (Some(mut writer), Some(host)) = (self.writer.take(), &self.host) else {
            return Err(TaskError::new(format!("{} was not opened", self.place())));
        };
        let bytes = std::mem::take(&mut self.bytes);
        let work = move || {
            let written = writer.write_all(&bytes);
            let result = written.and_then(|()| match until {
                Until::Handed => Ok(()),
                Until::Flushed => writer.flush(),
                Until::Finished => writer.finish(),
            });
            (writer, bytes, result)
        };
        let (writer, mut bytes, result) = host.blocking(work).await?;
        bytes.clear();
        self.bytes = bytes;
        self.writer = Some(writer);
        // Rows that were taken before are lost with this write. So it fails for good: `flush` fails the job, whatever the
        // error policy made of the item at hand.
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

/// The file of an instance among several. The number is in front of the ending `.gz`, by which a compressed file is
/// known.
fn numbered(path: &Path, instance: u32) -> PathBuf {
    let compressed = gzip::is_compressed(path);
    let mut name = if compressed { path.with_extension("") } else { path.to_owned() }.into_os_string();
    name.push(format!(".{instance}"));
    if compressed {
        name.push(".gz");
    }
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_an_instance_keeps_the_ending_of_a_compressed_file() {
        assert_eq!(numbered(Path::new("a/out.csv"), 3), Path::new("a/out.csv.3"));
        assert_eq!(numbered(Path::new("a/out.csv.gz"), 3), Path::new("a/out.csv.3.gz"));
        assert_eq!(numbered(Path::new("out.gz"), 0), Path::new("out.0.gz"));
    }
}
