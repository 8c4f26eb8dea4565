//! Room that is kept back for the ends of jobs, so that they outlast a disk that is full.
//!
//! A file that is written full of zeros while there is room: what takes their place later needs no more. An end that cannot
//! be written into the history is written here, and stays until the history has it. (A file system that never overwrites,
//! as btrfs and ZFS, may need room all the same.)
//!
//! ```text
//! magic 8 | epoch u64 | check 8          a new epoch makes all records of the earlier ones void
//! length u32 | check 8 | JSON of a job   ..once for each end
//! ```
//! Numbers are little endian. A check is the first 8 bytes of SHA-256 over the epoch and what it is for.

use std::{
    fs::{self, File},
    io::{self, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use sha2::{Digest, Sha256};

use super::decode;
use crate::{
    job::{FailureCause, Outcome},
    manager::PlainJob,
};

const MAGIC: [u8; 8] = *b"PROSCEND";
const HEADER_BYTES: u64 = 24;
const RECORD_HEAD_BYTES: usize = 12;

/// Room for the end of one job. One that needs more is kept without what makes it large.
pub(super) const END_BYTES_MAX: usize = 4096;

/// By so much the file grows: room for 64 ends.
const STEP_BYTES: u64 = 64 * END_BYTES_MAX as u64;

/// Bytes that a text may take, as JSON, where there is no room for all of it.
const TEXT_BYTES_MAX: usize = 256;

#[derive(Debug)]
pub(super) struct Reserve {
    path: PathBuf,
    /// None until there was room for it.
    file: Option<File>,
    capacity: u64,
    /// Where the next record goes.
    used: u64,
    epoch: u64,
}

impl Reserve {
    /// What there is, and the ends that are in it.
    pub(super) fn open(path: PathBuf) -> io::Result<(Self, Vec<PlainJob>)> {
        let mut reserve = Self { path, file: None, capacity: 0, used: HEADER_BYTES, epoch: 0 };
        let bytes = match fs::read(&reserve.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((reserve, Vec::new())),
            bytes => bytes?,
        };
        let Some(epoch) = epoch_of(&bytes) else {
            // It broke off while it was made, before any end was in it.
            return Ok((reserve, Vec::new()));
        };
        let (ends, used) = records(&bytes, epoch);
        reserve.file = Some(File::options().read(true).write(true).open(&reserve.path)?);
        (reserve.capacity, reserve.used, reserve.epoch) = (bytes.len() as u64, used, epoch);
        Ok((reserve, ends))
    }

    /// Makes sure that there is room for the ends of so many jobs, besides those that are in here.
    pub(super) fn provide(&mut self, jobs: usize) -> io::Result<()> {
        let wanted = self.used + (jobs * END_BYTES_MAX) as u64;
        if self.file.is_some() && wanted <= self.capacity {
            return Ok(());
        }
        let before = self.capacity;
        let capacity = wanted.next_multiple_of(STEP_BYTES).max(before);
        let mut file = match self.file.take() {
            Some(file) => file,
            None => self.make()?,
        };
        let grown = fill(&mut file, before.max(HEADER_BYTES), capacity);
        if grown.is_err() {
            // What could not be filled counts for nothing, and its room is of use to others.
            let _ = file.set_len(before.max(HEADER_BYTES));
        } else {
            self.capacity = capacity;
        }
        self.file = Some(file);
        grown
    }

    fn make(&mut self) -> io::Result<File> {
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&self.path)?;
        file.write_all(&header(self.epoch))?;
        file.sync_all()?;
        if let (Some(folder), true) = (self.path.parent(), cfg!(unix)) {
            File::open(folder)?.sync_all()?;
        }
        self.capacity = HEADER_BYTES;
        Ok(file)
    }

    /// Keeps these ends, each as [`end_of`] made it: all of them, or it is an error.
    pub(super) fn append<'a>(&mut self, ends: impl Iterator<Item = &'a [u8]>) -> io::Result<()> {
        let mut bytes = Vec::new();
        for end in ends {
            let length = u32::try_from(end.len()).map_err(io::Error::other)?;
            bytes.extend(length.to_le_bytes());
            bytes.extend(check(self.epoch, end));
            bytes.extend(end);
        }
        if bytes.is_empty() {
            return Ok(());
        }
        let after = self.used + bytes.len() as u64;
        let Some(file) = self.file.as_mut().filter(|_| after <= self.capacity) else {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "no room was kept back for so many ends"));
        };
        file.seek(SeekFrom::Start(self.used))?;
        file.write_all(&bytes)?;
        file.sync_data()?;
        self.used = after;
        Ok(())
    }

    /// The history has what is in here.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        let Some(file) = self.file.as_mut().filter(|_| self.used > HEADER_BYTES) else { return Ok(()) };
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&header(self.epoch + 1))?;
        file.sync_data()?;
        (self.epoch, self.used) = (self.epoch + 1, HEADER_BYTES);
        Ok(())
    }
}

fn fill(file: &mut File, from: u64, to: u64) -> io::Result<()> {
    let zeros = vec![0; END_BYTES_MAX];
    file.seek(SeekFrom::Start(from))?;
    let mut left = to.saturating_sub(from);
    while left > 0 {
        let count = left.min(zeros.len() as u64) as usize;
        file.write_all(&zeros[..count])?;
        left -= count as u64;
    }
    file.sync_all()
}

fn check(epoch: u64, bytes: &[u8]) -> [u8; 8] {
    let digest = Sha256::new().chain_update(epoch.to_le_bytes()).chain_update(bytes).finalize();
    std::array::from_fn(|at| digest[at])
}

fn header(epoch: u64) -> Vec<u8> {
    [&MAGIC[..], &epoch.to_le_bytes(), &check(epoch, &MAGIC)].concat()
}

fn epoch_of(bytes: &[u8]) -> Option<u64> {
    let epoch = u64::from_le_bytes(bytes.get(8..16)?.try_into().ok()?);
    bytes.starts_with(&header(epoch)).then_some(epoch)
}

/// The jobs of this epoch, and where the last of them ends. A record that broke off is none.
fn records(bytes: &[u8], epoch: u64) -> (Vec<PlainJob>, u64) {
    let mut jobs = Vec::new();
    let mut at = HEADER_BYTES as usize;
    while let Some((job, length)) = bytes.get(at..).and_then(|rest| record(rest, epoch)) {
        jobs.push(job);
        at += length;
    }
    (jobs, at as u64)
}

fn record(bytes: &[u8], epoch: u64) -> Option<(PlainJob, usize)> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (sum, rest) = rest.split_first_chunk::<8>()?;
    let length = u32::from_le_bytes(*length) as usize;
    let end = rest.get(..length).filter(|end| !end.is_empty() && check(epoch, end) == *sum)?;
    Some((decode(end).ok()?, RECORD_HEAD_BYTES + length))
}

/// What is kept of a job's end where there is no more room for it than this: all of it, if that is enough; else its
/// outcome and times, with long texts cut short, and without its tasks, its graph and its dead letters.
pub(super) fn end_of(job: &PlainJob, whole: &[u8]) -> Vec<u8> {
    let fits = |bytes: &[u8]| bytes.len() + RECORD_HEAD_BYTES <= END_BYTES_MAX;
    if fits(whole) {
        return whole.to_vec();
    }
    let mut short = job.clone();
    short.graph = Arc::default();
    short.dead_letters.newest.clear();
    short.inputs_finished.clear();
    let status = &mut short.status;
    status.tasks.clear();
    status.services.clear();
    status.warnings.clear();
    status.held_by = None;
    status.name = cut(&status.name);
    status.outcome = status.outcome.as_ref().map(|outcome| match outcome {
        Outcome::Failed(FailureCause::Abandoned { what }) => {
            Outcome::Failed(FailureCause::Abandoned { what: what.iter().take(8).map(|name| cut(name)).collect() })
        }
        Outcome::Failed(cause) => Outcome::Failed(brief(cause)),
        Outcome::Lost { reason } => Outcome::Lost { reason: cut(reason) },
        outcome => outcome.clone(),
    });
    let bytes = super::encode(&short);
    debug_assert!(fits(&bytes), "{} bytes", bytes.len());
    bytes
}

fn cut(text: &str) -> String {
    let mut bytes = 0;
    let end = text.char_indices().find(|(_, letter)| {
        bytes += match letter {
            // As `\u0000`.
            '\0'..='\x1f' => 6,
            '"' | '\\' => 2,
            letter => letter.len_utf8(),
        };
        bytes > TEXT_BYTES_MAX
    });
    match end {
        Some((at, _)) => format!("{}..", &text[..at]),
        None => text.to_owned(),
    }
}

/// The same cause with its texts cut short.
fn brief(cause: &FailureCause) -> FailureCause {
    let mut value = serde_json::to_value(cause).unwrap_or_default();
    cut_texts(&mut value);
    serde_json::from_value(value).unwrap_or_else(|_| FailureCause::Internal(cut(&cause.to_string())))
}

fn cut_texts(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::String(text) => *text = cut(text),
        serde_json::Value::Array(values) => values.iter_mut().for_each(cut_texts),
        serde_json::Value::Object(fields) => fields.values_mut().for_each(cut_texts),
        _ => {}
    }
}

/// The file in which the ends of a data folder's jobs are kept back.
pub(super) fn file_in(folder: &Path) -> PathBuf {
    folder.join("ends")
}
