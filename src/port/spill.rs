//! The file behind a collected output, or whatever else outgrows the memory, written and read on blocking threads only.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    sync::Arc,
};

use parking_lot::Mutex;

use crate::host::Host;

/// An anonymous temporary file: the operating system removes it when it is closed, or when the process dies.
pub(crate) struct SpillFile {
    /// One position for all: readers and the writer take turns, on blocking threads. `None` only while it is dropped.
    file: Mutex<Option<File>>,
    host: Host,
}

impl SpillFile {
    pub(crate) fn create(host: Host) -> io::Result<Self> {
        Ok(Self { file: Mutex::new(Some(tempfile::tempfile()?)), host })
    }

    pub(crate) fn write(&self, offset: u64, chunks: &[Arc<Vec<u8>>]) -> io::Result<()> {
        self.with(offset, |file| chunks.iter().try_for_each(|chunk| file.write_all(chunk)))
    }

    pub(crate) fn read(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.with(offset, |file| file.read_exact(&mut bytes))?;
        Ok(bytes)
    }

    fn with<R>(&self, offset: u64, act: impl FnOnce(&mut File) -> io::Result<R>) -> io::Result<R> {
        let mut file = self.file.lock();
        let file = file.as_mut().ok_or_else(|| io::Error::other("the file is closed"))?;
        file.seek(SeekFrom::Start(offset))?;
        act(file)
    }
}

impl Drop for SpillFile {
    /// Closing gives the disk space back, which can take long for a large file; the last holder may be an arbiter.
    fn drop(&mut self) {
        let file = self.file.get_mut().take();
        drop(self.host.blocking(move || drop(file)));
    }
}
