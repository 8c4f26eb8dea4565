//! The file behind a collected output, or whatever else outgrows the memory, written and read on blocking threads only.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::runtime::Handle;

use super::{collected::Spill, store::OutputStore};

/// Writes `spill`, and what has to be written after it, without holding up the caller.
pub(super) fn start(store: Arc<OutputStore>, spill: Spill) {
    let blocking = store.blocking().clone();
    let running = Spilling { store, spill: Some(spill) };
    drop(blocking.spawn_blocking(move || running.run()));
}

/// A spill under way. If it is dropped before it ran, the pool is shut down, and the writers who wait for it are told.
struct Spilling {
    store: Arc<OutputStore>,
    spill: Option<Spill>,
}

impl Spilling {
    fn run(mut self) {
        while let Some(spill) = &self.spill {
            let create = || SpillFile::create(self.store.blocking().clone()).map(Arc::new);
            let file = spill.file.clone().map_or_else(create, Ok);
            let written = file.and_then(|file| file.write(spill.offset, &spill.chunks).map(|()| file));
            self.spill = self.store.end_spill(spill, written.map_err(|error| error.to_string()));
        }
    }
}

impl Drop for Spilling {
    fn drop(&mut self) {
        if let Some(spill) = self.spill.take() {
            self.store.end_spill(&spill, Err("the environment is closed".to_owned()));
        }
    }
}

/// An anonymous temporary file: the operating system removes it when it is closed, or when the process dies.
pub(crate) struct SpillFile {
    /// One position for all: readers and the writer take turns, on blocking threads. `None` only while it is dropped.
    file: Mutex<Option<File>>,
    blocking: Handle,
}

impl SpillFile {
    pub(crate) fn create(blocking: Handle) -> io::Result<Self> {
        Ok(Self { file: Mutex::new(Some(tempfile::tempfile()?)), blocking })
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
        drop(self.blocking.spawn_blocking(move || drop(file)));
    }
}
