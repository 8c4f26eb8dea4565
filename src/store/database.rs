//! The file: the jobs by id, as JSON.
//!
//! An existing file is read through before anything is written to it. One that was not closed has to be repaired first;
//! that is done to a copy, which takes its place if it proves whole. So what cannot be read stays as it was. Where there is
//! no room for a copy on the disk, it is made in memory to read what is there, and on the disk once there is room.

use std::{
    fs::{self, File},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use redb::{
    Builder, DatabaseError, ReadableDatabase, ReadableTable, StorageBackend, StorageError, TableDefinition,
    backends::InMemoryBackend,
};

use super::error::{HistoryError, damaged, folder};
use crate::{job::JobId, manager::PlainJob};

const META: TableDefinition<'_, &str, &str> = TableDefinition::new("proscenium");
const JOBS: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("jobs");

/// The key in [`META`], and its value in files that this version writes. It is raised when older versions could not read
/// them.
const FORMAT_KEY: &str = "history format";
const FORMAT: &str = "1";

/// Memory for pages of the file. A history is small, and read as a whole only once.
const CACHE_BYTES: usize = 4 << 20;

/// Its content is taken when it is dropped or closed.
pub(super) struct Database(Option<redb::Database>);

impl Drop for Database {
    /// The store panics once more when it is dropped after it has panicked; that is of no more interest.
    fn drop(&mut self) {
        let store = self.0.take();
        let _ = caught(move || drop(store));
    }
}

/// What there is at `path`.
pub(super) struct Found {
    pub jobs: Vec<PlainJob>,
    /// Without room on the disk for what it takes: why not.
    pub database: Result<Database, String>,
}

/// The file at `path`, made if there is none, and the jobs that are in it.
pub(super) fn open(path: &Path) -> Result<Found, HistoryError> {
    if !path.try_exists().map_err(|error| folder(path, &error))? {
        make(path)?;
    }
    let jobs = match read(path) {
        Ok(jobs) => jobs,
        Err(Refused::NeedsRepair) => match repaired(path) {
            Ok(jobs) => jobs,
            Err(Refused::NoRoom(message)) => {
                let jobs = read_in_memory(path).map_err(|refused| refused.into_error(path))?;
                return Ok(Found { jobs, database: Err(message) });
            }
            Err(refused) => return Err(refused.into_error(path)),
        },
        Err(refused) => return Err(refused.into_error(path)),
    };
    match open_to_write(path) {
        Ok(database) => Ok(Found { jobs, database: Ok(database) }),
        Err(Refused::NoRoom(message)) => Ok(Found { jobs, database: Err(message) }),
        Err(refused) => Err(refused.into_error(path)),
    }
}

/// Why something was not written.
pub(super) struct WriteError {
    pub message: String,
    pub no_room: bool,
}

impl Database {
    /// Opens again what was open before, for an error of the disk closes it for good.
    pub(super) fn reopen(path: &Path) -> Result<Self, HistoryError> {
        if matches!(read(path), Err(Refused::NeedsRepair)) {
            repaired(path).map_err(|refused| refused.into_error(path))?;
        }
        open_to_write(path).map_err(|refused| refused.into_error(path))
    }

    /// Writes these jobs, or removes those without bytes: all of them or none, and for good.
    pub(super) fn write<'a>(&self, jobs: impl Iterator<Item = (JobId, Option<&'a [u8]>)>) -> Result<(), WriteError> {
        caught(|| {
            let store = self.0.as_ref().expect("it is taken only when it is dropped or closed");
            let transaction = store.begin_write()?;
            {
                let mut table = transaction.open_table(JOBS)?;
                for (id, bytes) in jobs {
                    match bytes {
                        Some(bytes) => drop(table.insert(id.number(), bytes)?),
                        None => drop(table.remove(id.number())?),
                    }
                }
            }
            Ok::<(), redb::Error>(transaction.commit()?)
        })
        .map_err(|message| WriteError { message, no_room: false })?
        .map_err(|error| {
            let no_room = matches!(&error, redb::Error::Io(error) if is_full(error));
            WriteError { message: error.to_string(), no_room }
        })
    }
}

/// Why a file was not opened.
enum Refused {
    NeedsRepair,
    NoRoom(String),
    Because(HistoryError),
}

impl Refused {
    fn into_error(self, path: &Path) -> HistoryError {
        match self {
            Self::NeedsRepair => damaged(path, &"it was not closed properly"),
            Self::NoRoom(message) => HistoryError::Folder { folder: path.to_owned(), message },
            Self::Because(error) => error,
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// What to make of an error of the operating system.
fn failed(path: &Path, error: &io::Error) -> Refused {
    if is_full(error) { Refused::NoRoom(error.to_string()) } else { Refused::Because(folder(path, error)) }
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

/// The store takes some kinds of damage for mistakes of its own, and panics.
fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let message = panic.downcast_ref::<&str>().map(|message| (*message).to_owned());
        message.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "the store broke off".to_owned())
    })
}

fn open_to_write(path: &Path) -> Result<Database, Refused> {
    let opened = caught(|| builder().open(path)).map_err(|message| Refused::Because(damaged(path, &message)))?;
    opened.map(|store| Database(Some(store))).map_err(|error| refused(path, error))
}

fn refused(path: &Path, error: DatabaseError) -> Refused {
    Refused::Because(match error {
        DatabaseError::RepairAborted => return Refused::NeedsRepair,
        DatabaseError::DatabaseAlreadyOpen => {
            HistoryError::InUse { folder: path.to_owned(), holder: "another program".to_owned() }
        }
        DatabaseError::UpgradeRequired(version) => HistoryError::Format {
            path: path.to_owned(),
            found: format!("of an older store, {version}"),
            known: FORMAT,
        },
        DatabaseError::Storage(StorageError::Io(error)) if error.kind() == io::ErrorKind::InvalidData => {
            HistoryError::Foreign { path: path.to_owned(), message: error.to_string() }
        }
        DatabaseError::Storage(StorageError::Io(error)) if is_full(&error) => {
            return Refused::NoRoom(error.to_string());
        }
        DatabaseError::Storage(StorageError::Io(error)) if error.kind() != io::ErrorKind::UnexpectedEof => {
            folder(path, &error)
        }
        error => damaged(path, &error),
    })
}

/// The jobs in the file, without changing it.
fn read(path: &Path) -> Result<Vec<PlainJob>, Refused> {
    let read = caught(|| {
        let file = builder().open_read_only(path).map_err(|error| refused(path, error))?;
        jobs_in(path, &file)
    });
    read.unwrap_or_else(|message| Err(Refused::Because(damaged(path, &message))))
}

/// The jobs in a file that was not closed, without a copy of it on the disk.
fn read_in_memory(path: &Path) -> Result<Vec<PlainJob>, Refused> {
    let bytes = fs::read(path).map_err(|error| Refused::Because(folder(path, &error)))?;
    let read = caught(|| {
        let copy = InMemoryBackend::new();
        let copied =
            StorageBackend::set_len(&copy, bytes.len() as u64).and_then(|()| StorageBackend::write(&copy, 0, &bytes));
        copied.map_err(|error| Refused::Because(damaged(path, &error)))?;
        let file = builder().create_with_backend(copy).map_err(|error| refused(path, error))?;
        jobs_in(path, &file)
    });
    read.unwrap_or_else(|message| Err(Refused::Because(damaged(path, &message))))
}

fn jobs_in(path: &Path, file: &impl ReadableDatabase) -> Result<Vec<PlainJob>, Refused> {
    check_format(path, file)?;
    let wrong = |error: redb::Error| Refused::Because(damaged(path, &error));
    let transaction = file.begin_read().map_err(|error| wrong(error.into()))?;
    let table = transaction.open_table(JOBS).map_err(|error| wrong(error.into()))?;
    let mut jobs = Vec::new();
    for entry in table.iter().map_err(|error| wrong(error.into()))? {
        let (_, bytes) = entry.map_err(|error| wrong(error.into()))?;
        jobs.push(super::decode(bytes.value()).map_err(|error| Refused::Because(damaged(path, &error)))?);
    }
    Ok(jobs)
}

fn check_format(path: &Path, file: &impl ReadableDatabase) -> Result<(), Refused> {
    let foreign = |error: redb::Error| {
        Refused::Because(HistoryError::Foreign { path: path.to_owned(), message: error.to_string() })
    };
    let transaction = file.begin_read().map_err(|error| foreign(error.into()))?;
    let meta = transaction.open_table(META).map_err(|error| foreign(error.into()))?;
    let format = meta.get(FORMAT_KEY).map_err(|error| foreign(error.into()))?;
    let found = format.map(|format| format.value().to_owned()).unwrap_or_default();
    if found != FORMAT {
        return Err(Refused::Because(HistoryError::Format { path: path.to_owned(), found, known: FORMAT }));
    }
    Ok(())
}

/// Makes the file under another name first, so that one that is only half made is never taken for the history.
fn make(path: &Path) -> Result<(), HistoryError> {
    let unfinished = beside(path, "new");
    let failed = |error: &dyn ToString| HistoryError::Folder { folder: path.to_owned(), message: error.to_string() };
    remove_if_there(&unfinished).map_err(|error| failed(&error))?;
    let made = caught(|| {
        let file = builder().create(&unfinished)?;
        let transaction = file.begin_write()?;
        transaction.open_table(META)?.insert(FORMAT_KEY, FORMAT)?;
        transaction.open_table(JOBS)?;
        transaction.commit()?;
        file.close()?;
        // Also in a folder that others may look into: causes of dead letters may quote items.
        #[cfg(unix)]
        fs::set_permissions(&unfinished, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        Ok::<(), redb::Error>(())
    });
    let made = made.map_err(|message| failed(&message)).and_then(|made| made.map_err(|error| failed(&error)));
    made.and_then(|()| put_in_place(&unfinished, path).map_err(|error| failed(&error))).inspect_err(|_| {
        // What is left of it is removed at the next start at the latest.
        let _ = fs::remove_file(&unfinished);
    })
}

/// Repairs a copy of the file, and puts it in its place if it is whole then.
fn repaired(path: &Path) -> Result<Vec<PlainJob>, Refused> {
    let copy = beside(path, "repair");
    let copied = fs::copy(path, &copy).map_err(|error| failed(path, &error));
    let jobs = copied.and_then(|_| open_to_write(&copy)).and_then(|mut database| {
        let store = database.0.take();
        let closed = caught(|| store.map_or(Ok(()), redb::Database::close))
            .map_err(|message| Refused::Because(damaged(path, &message)))?;
        closed.map_err(|error| refused(path, error))?;
        read(&copy)
    });
    let jobs = jobs.and_then(|jobs| put_in_place(&copy, path).map(|()| jobs).map_err(|error| failed(path, &error)));
    jobs.inspect_err(|_| {
        // It is overwritten by the next attempt at the latest.
        let _ = fs::remove_file(&copy);
    })
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    name.into()
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// For good: the folder is told to be written too.
fn put_in_place(made: &Path, path: &Path) -> io::Result<()> {
    File::open(made)?.sync_all()?;
    fs::rename(made, path)?;
    match path.parent() {
        Some(folder) if cfg!(unix) => File::open(folder)?.sync_all(),
        _ => Ok(()),
    }
}
