//! A node's history on disk: its jobs, with their outcomes, counts and dead letters, in an embedded store in the node's
//! data folder.

mod database;
mod error;
mod reserve;
mod writer;

use std::{
    collections::BTreeMap,
    fs::{self, File, TryLockError},
    io::{self, Read, Seek, Write},
    path::Path,
    time::SystemTime,
};

pub use self::error::HistoryError;
use self::{database::Found, reserve::Reserve, writer::Writer};
use crate::{
    job::JobId,
    manager::{Archive, Kept, PlainJob, Recorded, Recording, lost},
};

/// Held locked for as long as a node uses the folder. Its content says which process that is.
const LOCK: &str = "lock";
const HISTORY: &str = "history.redb";

/// What a node keeps in its data folder, open for it alone.
pub(crate) struct Store {
    writer: Writer,
    /// Dropped after the writer, which has written everything by then.
    _lock: File,
}

impl Store {
    /// Opens the history in `folder`, which is made if there is none. Jobs in it that had not ended are lost, and are
    /// so in the history too from then on.
    pub(crate) fn open(folder: &Path) -> Result<Recording, HistoryError> {
        let (store, jobs) = Self::open_parts(folder)?;
        Ok(Recording::new(store, jobs))
    }

    fn open_parts(folder: &Path) -> Result<(Self, Vec<PlainJob>), HistoryError> {
        let lock = lock(folder)?;
        let path = folder.join(HISTORY);
        let Found { mut jobs, database } = database::open(&path)?;
        let failed = |error: io::Error| error::folder(folder, &error);
        let (reserve, ends) = Reserve::open(reserve::file_in(folder)).map_err(failed)?;
        let mut changed = BTreeMap::new();
        for job in jobs.iter_mut().filter(|job| job.status.is_running()) {
            match ends.iter().find(|end| end.status.id == job.status.id) {
                // It was told, and there was no room for it in the history.
                Some(end) => job.clone_from(end),
                None => lost(job, SystemTime::now()),
            }
            changed.insert(job.status.id, Some(encode(job)));
        }
        jobs.sort_by_key(|job| (job.status.ended_at, job.status.submitted_at));
        let writer = Writer::start(path, database, reserve, changed)?;
        Ok((Self { writer, _lock: lock }, jobs))
    }
}

impl Archive for Store {
    fn keep(&mut self, job: Kept, recorded: Recorded) {
        self.writer.keep(job, recorded);
    }

    fn forget(&mut self, jobs: Vec<JobId>, recorded: Recorded) {
        self.writer.forget(jobs, recorded);
    }

    fn trouble(&self) -> Option<String> {
        self.writer.trouble()
    }
}

/// Makes the folder if need be, and takes it.
fn lock(folder: &Path) -> Result<File, HistoryError> {
    let failed = |error: io::Error| error::folder(folder, &error);
    make_folder(folder).map_err(failed)?;
    let path = folder.join(LOCK);
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut lock = options.open(&path).map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // It may be about to write it; then nothing is said of it.
            let _ = lock.read_to_string(&mut holder);
            return Err(HistoryError::InUse { folder: folder.to_owned(), holder: holder.trim().to_owned() });
        }
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }
    // Over what is there, which takes no room; without any, the lock holds, and does not say whose it is.
    let holder = format!("process {}\n", std::process::id());
    match lock.rewind().and_then(|()| lock.write_all(holder.as_bytes())) {
        Err(error) if error.kind() != io::ErrorKind::StorageFull => return Err(failed(error)),
        _ => lock.set_len(holder.len() as u64).map_err(failed)?,
    }
    Ok(lock)
}

/// What is in there concerns nobody but its owner: causes of dead letters may quote items.
#[cfg(unix)]
fn make_folder(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

#[cfg(not(unix))]
fn make_folder(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)
}

fn encode(job: &PlainJob) -> Vec<u8> {
    serde_json::to_vec(job).expect("plain data with text for keys can be written as JSON")
}

fn decode(bytes: &[u8]) -> Result<PlainJob, serde_json::Error> {
    serde_json::from_slice(bytes)
}

#[cfg(test)]
mod tests;
