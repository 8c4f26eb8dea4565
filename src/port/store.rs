//! What a job's tasks write to a named output and its readers read.

use std::{
    collections::{BTreeMap, VecDeque},
    mem,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{
    OutputEnd, OutputError, OutputReader,
    chunk::{CHUNK_BYTES, Chunk},
    collected::{Collected, Entry, Place, Spill},
    relayed::{Relayed, UNBOUNDED},
    spill::SpillFile,
    streamed::Streamed,
};
use crate::{
    codec::{EncodeError, Run},
    host::Host,
    job::{Attempt, FailureCause, Limits},
    schema::TypeDescription,
};

/// How a named output is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OutputKind {
    /// Retained, whole or nothing, read any number of times.
    Collected,
    /// A bounded queue with one reader.
    Streamed,
}

/// Why an output does not take items; the job fails with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub(crate) enum AppendError {
    #[error("output `{output}` outgrew its limit of {limit_bytes} bytes")]
    Full { output: String, limit_bytes: u64 },
    #[error("output `{output}` could not be written to disk: {message}")]
    Disk { output: String, message: String },
}

impl From<AppendError> for FailureCause {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Full { output, limit_bytes } => Self::OutputTooLarge { output, limit_bytes },
            AppendError::Disk { output, message } => Self::OutputUnwritable { output, message },
        }
    }
}

/// Which of the items given to [`OutputStore::write`] could not be written; those before it were.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{failure}")]
pub(crate) struct WriteError {
    /// Counted from 0.
    pub index: u64,
    pub failure: WriteFailure,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WriteFailure {
    #[error(transparent)]
    Encode(#[from] EncodeError),
    #[error(transparent)]
    Append(#[from] AppendError),
}

/// One named output, shared by the tasks that write it and those who read it. Items are kept encoded.
pub(crate) struct OutputStore {
    name: String,
    kind: OutputKind,
    description: Arc<TypeDescription>,
    bytes_max: u64,
    host: Host,
    state: Mutex<State>,
}

struct State {
    contents: Contents,
    /// The attempt that writes.
    attempt: Attempt,
    /// Appended so far, read or not.
    items: u64,
    bytes: u64,
    seal: Option<Seal>,
    /// Wakers of tasks that wait for room. All are woken at once, and those that find none come back.
    writers: Vec<Waker>,
    /// Everyone who reads, with the waker of those who wait.
    readers: BTreeMap<u64, Option<Waker>>,
    readers_ever: u64,
}

enum Contents {
    Collected(Collected),
    Streamed(Streamed),
    Relayed(Relayed),
}

#[derive(Clone)]
enum Seal {
    Complete,
    Incomplete { why: String },
}

/// The next thing for a reader.
pub(super) enum Next {
    Chunk(Chunk),
    /// It is in a file.
    File {
        first: u64,
        items: u64,
        file: Arc<SpillFile>,
        offset: u64,
        len: usize,
    },
    End,
    Wait,
}

impl OutputStore {
    /// The disk is written and read on the pool of `host`.
    pub(crate) fn new(
        name: &str,
        kind: OutputKind,
        description: Arc<TypeDescription>,
        limits: &Limits,
        host: Host,
    ) -> Arc<Self> {
        let contents = match kind {
            OutputKind::Collected => Contents::Collected(Collected::new(limits.output_memory_bytes)),
            OutputKind::Streamed => {
                Contents::Streamed(Streamed::new(limits.port_items as u64, limits.output_memory_bytes))
            }
        };
        let state = State {
            contents,
            attempt: Attempt(1),
            items: 0,
            bytes: 0,
            seal: None,
            writers: Vec::new(),
            readers: BTreeMap::new(),
            readers_ever: 0,
        };
        let bytes_max = limits.output_bytes_max;
        Arc::new(Self { name: name.to_owned(), kind, description, bytes_max, host, state: Mutex::new(state) })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn kind(&self) -> OutputKind {
        self.kind
    }

    /// Items appended so far.
    pub(crate) fn items(&self) -> u64 {
        self.state.lock().items
    }

    /// Encoded bytes appended so far.
    #[cfg_attr(not(test), expect(dead_code, reason = "no status shows the size of outputs yet"))]
    pub(crate) fn bytes(&self) -> u64 {
        self.state.lock().bytes
    }

    pub(crate) fn reader_present(&self) -> bool {
        !self.state.lock().readers.is_empty()
    }

    /// The end by which tasks of the present attempt write.
    pub(crate) fn end(self: &Arc<Self>) -> OutputEnd {
        OutputEnd::new(self, self.state.lock().attempt)
    }

    /// What was written is thrown away: `attempt` writes everything anew. The ends of earlier ones are given no room for waiting, and what
    /// they write is dropped. Nothing changes for an output that is sealed.
    pub(crate) fn begin_attempt(&self, attempt: Attempt) {
        let mut state = self.state.lock();
        if state.seal.is_some() {
            return;
        }
        state.attempt = attempt;
        let begin = state.items;
        let (mut entries, mut chunks) = (Vec::new(), VecDeque::new());
        match &mut state.contents {
            Contents::Collected(collected) => {
                entries = collected.clear();
                state.items = 0;
            }
            Contents::Streamed(streamed) => chunks = streamed.begin_anew(begin),
            Contents::Relayed(_) => {}
        }
        state.bytes = 0;
        let mut wakers = mem::take(&mut state.writers);
        wakers.extend(state.take_readers());
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        drop((entries, chunks));
    }

    /// Encodes and appends items. Does not block.
    ///
    /// # Errors
    ///
    /// Names the first item that was not written. What encodes badly does not keep the others from being written.
    pub(super) fn write<'a, T: Serialize + 'a>(
        self: &Arc<Self>,
        attempt: Attempt,
        items: impl IntoIterator<Item = &'a T>,
    ) -> Result<(), WriteError> {
        let items = items.into_iter();
        let mut run = Run::new(&self.description, items.size_hint().0);
        let (mut written, mut refused) = (0, None);
        for (index, item) in (0..).zip(items) {
            if let Err(error) = run.push(item) {
                refused = Some(WriteError { index, failure: error.into() });
                break;
            }
            if run.len() >= CHUNK_BYTES {
                written += self.append_run(attempt, written, &mut run)?;
            }
        }
        self.append_run(attempt, written, &mut run)?;
        refused.map_or(Ok(()), Err)
    }

    /// Appends what the run has, behind `written` other items, and says how many items that was.
    fn append_run(self: &Arc<Self>, attempt: Attempt, written: u64, run: &mut Run) -> Result<u64, WriteError> {
        let (items, bytes) = run.take();
        self.append(attempt, items, bytes).map_err(|error| WriteError { index: written, failure: error.into() })?;
        Ok(items)
    }

    /// Appends `items` encoded items. Never waits: the writer asks [`poll_room`](Self::poll_room) before it makes more.
    /// After the seal, items are thrown away, because they come from tasks that were given up; and so are those of an earlier attempt.
    ///
    /// # Errors
    ///
    /// The items were not taken, and the job must fail.
    pub(super) fn append(self: &Arc<Self>, attempt: Attempt, items: u64, bytes: Vec<u8>) -> Result<(), AppendError> {
        if items == 0 {
            return Ok(());
        }
        let mut state = self.state.lock();
        if state.seal.is_some() || state.attempt != attempt {
            return Ok(());
        }
        let spill = self.take(&mut state, items, bytes)?;
        let readers = match &mut state.contents {
            Contents::Streamed(_) => state.take_readers(),
            Contents::Relayed(relayed) => relayed.taker().into_iter().collect(),
            // They wait for the seal.
            Contents::Collected(_) => Vec::new(),
        };
        drop(state);
        readers.into_iter().for_each(Waker::wake);
        if let Some(spill) = spill {
            Spilling::start(Arc::clone(self), spill);
        }
        Ok(())
    }

    /// Returns what is now to be written to disk, if anything.
    fn take(&self, state: &mut State, items: u64, bytes: Vec<u8>) -> Result<Option<Spill>, AppendError> {
        let first = state.items;
        let bytes_after = state.bytes + bytes.len() as u64;
        let spill = match &mut state.contents {
            Contents::Collected(collected) => {
                if let Some(message) = collected.failure() {
                    return Err(AppendError::Disk { output: self.name.clone(), message: message.clone() });
                }
                if bytes_after > self.bytes_max {
                    return Err(AppendError::Full { output: self.name.clone(), limit_bytes: self.bytes_max });
                }
                collected.push(first, items, bytes);
                collected.begin_spill()
            }
            Contents::Streamed(streamed) => {
                streamed.push(Chunk { first, items, bytes: Arc::new(bytes) });
                None
            }
            Contents::Relayed(relayed) => {
                relayed.push(Chunk { first, items, bytes: Arc::new(bytes) })?;
                None
            }
        };
        state.items += items;
        state.bytes = bytes_after;
        Ok(spill)
    }

    /// Ready when a writer should go on: at once after the seal too, because then nothing waits for readers any more.
    pub(super) fn poll_room(&self, attempt: Attempt, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        if state.seal.is_some() || state.attempt != attempt || state.has_room() {
            return Poll::Ready(());
        }
        if !state.writers.iter().any(|waker| waker.will_wake(cx.waker())) {
            state.writers.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Says that nothing more comes: the output is whole, or `why` it is not. The first call counts.
    pub(crate) fn seal(&self, complete: bool, why: impl Into<String>) {
        let mut state = self.state.lock();
        if state.seal.is_some() {
            return;
        }
        let mut discarded: Vec<Entry> = Vec::new();
        state.seal = Some(if complete { Seal::Complete } else { Seal::Incomplete { why: why.into() } });
        if let Contents::Collected(collected) = &mut state.contents
            && !complete
        {
            discarded = collected.clear();
        }
        let mut wakers = mem::take(&mut state.writers);
        wakers.extend(state.take_readers());
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        drop(discarded);
    }

    pub(crate) fn description(&self) -> &Arc<TypeDescription> {
        &self.description
    }

    /// A reader from the beginning, or of a streamed output from where the last reader stopped.
    ///
    /// # Errors
    ///
    /// [`OutputError::WrongType`] if the fingerprints differ; [`OutputError::ReaderTaken`].
    pub(crate) fn reader(self: &Arc<Self>, wanted: &TypeDescription) -> Result<OutputReader, OutputError> {
        if wanted.fingerprint() != self.description.fingerprint() {
            return Err(OutputError::wrong_type(&self.name, wanted, &self.description));
        }
        self.reader_from(0)
    }

    /// A reader that wants nothing of what lies before item `from`, but may get the rest of its chunk: also what lies
    /// before its [`start`](OutputReader::start), which it is to pass over.
    ///
    /// # Errors
    ///
    /// [`OutputError::ReaderTaken`].
    pub(crate) fn reader_from(self: &Arc<Self>, from: u64) -> Result<OutputReader, OutputError> {
        let mut state = self.state.lock();
        if self.kind == OutputKind::Streamed && !state.readers.is_empty() {
            return Err(OutputError::ReaderTaken { output: self.name.clone() });
        }
        let id = state.readers_ever;
        state.readers_ever += 1;
        state.readers.insert(id, None);
        if let Contents::Streamed(streamed) = &mut state.contents {
            streamed.go_on(from);
        }
        let (start, from) = match &state.contents {
            Contents::Collected(_) => (0, from),
            // What was given to nobody cannot have been read.
            Contents::Streamed(streamed) => (streamed.start(), from.min(streamed.given())),
            Contents::Relayed(_) => (0, 0),
        };
        drop(state);
        Ok(OutputReader::new(Arc::clone(self), id, from, start))
    }

    /// The entry of a collected output that holds the item at `position`. Known once the output is whole.
    pub(super) fn entry_at(&self, position: u64) -> usize {
        match &self.state.lock().contents {
            Contents::Collected(collected) => collected.entry_at(position),
            Contents::Streamed(_) | Contents::Relayed(_) => 0,
        }
    }

    /// What the reader `id` reads next; `entry` is how many entries of a collected output it has read.
    pub(super) fn next(&self, id: u64, entry: usize, cx: &mut Context<'_>) -> Result<Next, OutputError> {
        let mut state = self.state.lock();
        let seal = state.seal.clone();
        let incomplete = |why| OutputError::Incomplete { output: self.name.clone(), why };
        if let Contents::Streamed(streamed) = &mut state.contents
            && streamed.take_untold()
        {
            return Err(OutputError::BegunAnew { output: self.name.clone(), attempt: state.attempt.0 });
        }
        let next = match (&mut state.contents, seal) {
            (Contents::Collected(_), None) => Next::Wait,
            (Contents::Collected(_), Some(Seal::Incomplete { why })) => return Err(incomplete(why)),
            (Contents::Collected(collected), Some(Seal::Complete)) => {
                collected.entry(entry).map_or(Next::End, Next::from)
            }
            (Contents::Streamed(streamed), seal) => match (streamed.pop(), seal) {
                (Some(chunk), _) => Next::Chunk(chunk),
                (None, Some(Seal::Incomplete { why })) => return Err(incomplete(why)),
                (None, Some(Seal::Complete)) => Next::End,
                (None, None) => Next::Wait,
            },
            // Its items are read where they go.
            (Contents::Relayed(_), _) => Next::Wait,
        };
        // Dropped without the lock, because the drop of a waker may be that of a future with another reader in it.
        let replaced = match next {
            Next::Wait => state.readers.insert(id, Some(cx.waker().clone())),
            _ => None,
        };
        let writers = state.writers_with_room();
        drop(state);
        drop(replaced);
        writers.into_iter().for_each(Waker::wake);
        Ok(next)
    }

    /// `spill` is in the file, or why not. Returns what is to be written next, if anything.
    fn end_spill(&self, spill: &Spill, written: Result<Arc<SpillFile>, String>) -> Option<Spill> {
        let mut state = self.state.lock();
        let next = match &mut state.contents {
            Contents::Collected(collected) => {
                collected.end_spill(spill, written);
                collected.begin_spill()
            }
            Contents::Streamed(_) | Contents::Relayed(_) => None,
        };
        let writers = state.writers_with_room();
        drop(state);
        writers.into_iter().for_each(Waker::wake);
        next
    }

    /// The reader `id` is gone; `rest` is what it took and did not consume, in order. Of the first chunk of it, the items
    /// before `handed_out` were.
    pub(super) fn leave(&self, id: u64, handed_out: u64, rest: impl DoubleEndedIterator<Item = Chunk>) {
        let mut state = self.state.lock();
        let waker = state.readers.remove(&id);
        if let Contents::Streamed(streamed) = &mut state.contents {
            rest.rev().for_each(|chunk| streamed.push_front(chunk));
            streamed.handed_out(handed_out);
        }
        drop(state);
        drop(waker);
    }

    /// From now on what is appended is for [`poll_taken`](Self::poll_taken), by which it goes to where the output is kept. Of a
    /// streamed one, what has not [arrived](Self::arrived) there counts as waiting here.
    pub(crate) fn relay(&self) {
        let mut state = self.state.lock();
        debug_assert_eq!(state.items, 0, "what was appended before stays here");
        let items_max = match &state.contents {
            Contents::Streamed(streamed) => streamed.items_max(),
            Contents::Collected(_) | Contents::Relayed(_) => UNBOUNDED,
        };
        state.contents = Contents::Relayed(Relayed::new(items_max));
    }

    /// So many of the items that were taken have found room where they go.
    pub(crate) fn arrived(&self, items: u64) {
        let mut state = self.state.lock();
        if let Contents::Relayed(relayed) = &mut state.contents {
            relayed.arrived(items);
        }
        let writers = state.writers_with_room();
        drop(state);
        writers.into_iter().for_each(Waker::wake);
    }

    /// The next items of an output that is relayed. One caller has them.
    pub(crate) fn poll_taken(&self, cx: &mut Context<'_>) -> Poll<Chunk> {
        let mut state = self.state.lock();
        let Contents::Relayed(relayed) = &mut state.contents else { return Poll::Pending };
        let taken = relayed.poll_taken(cx);
        let writers = state.writers_with_room();
        drop(state);
        writers.into_iter().for_each(Waker::wake);
        taken
    }

    /// Where the items go they were not taken: writers are told so from now on. The first reason counts.
    pub(crate) fn refuse(&self, error: AppendError) {
        let mut state = self.state.lock();
        let Contents::Relayed(relayed) = &mut state.contents else { return };
        let discarded = relayed.refuse(error);
        let taker = relayed.taker();
        let writers = mem::take(&mut state.writers);
        drop(state);
        drop(discarded);
        writers.into_iter().chain(taker).for_each(Waker::wake);
    }

    /// Why the items of an output that is relayed are not taken, if they are not.
    pub(crate) fn refusal(&self) -> Option<AppendError> {
        match &self.state.lock().contents {
            Contents::Relayed(relayed) => relayed.refusal().cloned(),
            Contents::Collected(_) | Contents::Streamed(_) => None,
        }
    }

    pub(super) fn host(&self) -> &Host {
        &self.host
    }

    #[cfg(test)]
    pub(super) fn with_collected<R>(&self, look: impl FnOnce(&Collected) -> R) -> R {
        match &self.state.lock().contents {
            Contents::Collected(collected) => look(collected),
            Contents::Streamed(_) | Contents::Relayed(_) => panic!("`{}` is no collected output", self.name),
        }
    }
}

/// A spill under way. If it is dropped before it ran, the pool is shut down, and the writers who wait for it are told.
struct Spilling {
    store: Arc<OutputStore>,
    spill: Option<Spill>,
}

impl Spilling {
    /// Writes `spill`, and what has to be written after it, without holding up the caller.
    fn start(store: Arc<OutputStore>, spill: Spill) {
        let host = store.host.clone();
        let running = Self { store, spill: Some(spill) };
        drop(host.blocking(move || running.run()));
    }

    fn run(mut self) {
        while let Some(spill) = &self.spill {
            let create = || SpillFile::create(self.store.host.clone()).map(Arc::new);
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

impl std::fmt::Debug for OutputStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OutputStore").field("name", &self.name).field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl State {
    fn has_room(&self) -> bool {
        match &self.contents {
            Contents::Collected(collected) => collected.has_room(),
            Contents::Streamed(streamed) => streamed.has_room(),
            Contents::Relayed(relayed) => relayed.has_room(),
        }
    }

    fn writers_with_room(&mut self) -> Vec<Waker> {
        if self.has_room() { mem::take(&mut self.writers) } else { Vec::new() }
    }

    fn take_readers(&mut self) -> Vec<Waker> {
        self.readers.values_mut().filter_map(Option::take).collect()
    }
}

impl From<&Entry> for Next {
    fn from(entry: &Entry) -> Self {
        let (first, items) = (entry.first, entry.items);
        match &entry.place {
            Place::Memory(bytes) => Self::Chunk(Chunk { first, items, bytes: Arc::clone(bytes) }),
            Place::File { file, offset, len } => {
                Self::File { first, items, file: Arc::clone(file), offset: *offset, len: *len }
            }
        }
    }
}
