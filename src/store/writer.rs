//! The thread that writes. What comes while it writes is written together next time.

use std::{
    collections::{BTreeMap, HashSet},
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use parking_lot::Mutex;

use super::{
    database::{Database, WriteError},
    encode,
    error::{self, HistoryError, damaged},
    reserve::{Reserve, end_of},
};
use crate::{
    job::JobId,
    manager::{ArchiveError, Kept, Recorded},
};

/// What could not be written is tried again after this long, if nothing else is to be written before.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Orders that are written together at most. It bounds what a single transaction takes.
const TOGETHER_MAX: usize = 256;

pub(super) struct Writer {
    /// Taken when dropped, which ends the thread.
    orders: Option<Sender<Order>>,
    trouble: Arc<Mutex<Option<String>>>,
    thread: Option<JoinHandle<()>>,
}

struct Order {
    change: Change,
    recorded: Recorded,
}

enum Change {
    Keep(Kept),
    Forget(Vec<JobId>),
}

impl Writer {
    /// Begins with writing what has `changed` since the file was written. If there is no room for that, it is written later.
    pub(super) fn start(
        path: PathBuf,
        database: Result<Database, String>,
        reserve: Reserve,
        changed: BTreeMap<JobId, Option<Vec<u8>>>,
    ) -> Result<Self, HistoryError> {
        let (orders, received) = mpsc::channel();
        let trouble = Arc::new(Mutex::new(database.as_ref().err().cloned()));
        let mut state = State {
            path,
            database: database.ok(),
            reserve,
            live: HashSet::new(),
            unwritten: changed,
            ends: BTreeMap::new(),
            trouble: Arc::clone(&trouble),
        };
        if state.database.is_some() {
            match state.write() {
                Err(error) if !error.no_room => return Err(damaged(&state.path, &error.message)),
                _ => {}
            }
        }
        let folder = state.path.clone();
        let thread = thread::Builder::new().name("proscenium-history".to_owned()).spawn(move || state.run(&received));
        let thread = thread.map_err(|error| error::folder(&folder, &error))?;
        Ok(Self { orders: Some(orders), trouble, thread: Some(thread) })
    }

    pub(super) fn keep(&self, job: Kept, recorded: Recorded) {
        self.order(Order { change: Change::Keep(job), recorded });
    }

    pub(super) fn forget(&self, jobs: Vec<JobId>, recorded: Recorded) {
        self.order(Order { change: Change::Forget(jobs), recorded });
    }

    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.lock().clone()
    }

    fn order(&self, order: Order) {
        let Some(orders) = &self.orders else { return };
        if let Err(mpsc::SendError(order)) = orders.send(order) {
            // Whoever waits for it must not do so for ever.
            (order.recorded)(Err(ArchiveError("the thread that writes it broke off".to_owned())));
        }
    }
}

impl Drop for Writer {
    /// Waits until everything is written, or was tried to be.
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of a node's history panicked");
        }
    }
}

struct State {
    path: PathBuf,
    /// None after an error of the disk.
    database: Option<Database>,
    /// Where ends go that the file has no room for.
    reserve: Reserve,
    /// Jobs whose end is to be expected; there is room for it in the reserve.
    live: HashSet<JobId>,
    /// What the file should hold of these jobs, and does not yet.
    unwritten: BTreeMap<JobId, Option<Vec<u8>>>,
    /// Of these, the ends: what is kept of them in the reserve. Without a value, it is there.
    ends: BTreeMap<JobId, Option<Vec<u8>>>,
    trouble: Arc<Mutex<Option<String>>>,
}

/// An order that is carried out.
struct Waiting {
    recorded: Recorded,
    /// The job whose end it is to write.
    end: Option<JobId>,
}

impl State {
    fn run(mut self, orders: &Receiver<Order>) {
        loop {
            let first = if self.unwritten.is_empty() && self.database.is_some() {
                orders.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                orders.recv_timeout(RETRY_AFTER)
            };
            let mut waiting = Vec::new();
            match first {
                Ok(order) => waiting.extend(self.note(order)),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            for order in orders.try_iter().take(TOGETHER_MAX - 1) {
                waiting.extend(self.note(order));
            }
            let written = self.write().map_err(|error| ArchiveError(error.message));
            let kept_back = written.is_err() && self.keep_ends_back();
            for Waiting { recorded, end } in waiting {
                recorded(if kept_back && end.is_some() { Ok(()) } else { written.clone() });
            }
        }
        if let (false, Err(error)) = (self.unwritten.is_empty(), self.write()) {
            tracing::error!(
                error = error.message,
                jobs = self.unwritten.len(),
                "the history on disk is not up to date"
            );
        }
    }

    /// Takes an order on. A job for whose end no room can be kept back is refused at once.
    fn note(&mut self, Order { change, recorded }: Order) -> Option<Waiting> {
        match change {
            Change::Keep(job) => {
                let (id, plain) = (job.id(), job.plain());
                let bytes = encode(plain);
                match &job {
                    Kept::Live(_) if !self.live.contains(&id) => {
                        if let Err(error) = self.reserve.provide(self.live.len() + 1) {
                            recorded(Err(ArchiveError(format!("no room can be kept back for its end: {error}"))));
                            return None;
                        }
                        self.live.insert(id);
                    }
                    Kept::Live(_) => {}
                    Kept::Ended(_) => {
                        self.ends.insert(id, Some(end_of(plain, &bytes)));
                        self.unwritten.insert(id, Some(bytes));
                        return Some(Waiting { recorded, end: Some(id) });
                    }
                }
                self.unwritten.insert(id, Some(bytes));
            }
            Change::Forget(jobs) => {
                for id in jobs {
                    self.live.remove(&id);
                    self.ends.remove(&id);
                    self.unwritten.insert(id, None);
                }
            }
        }
        Some(Waiting { recorded, end: None })
    }

    fn write(&mut self) -> Result<(), WriteError> {
        let written = self.try_to_write();
        let trouble = written.as_ref().err().map(|error| error.message.clone());
        if let (Some(trouble), None) = (&trouble, &*self.trouble.lock()) {
            tracing::error!(error = trouble, history = %self.path.display(), "the history cannot be written");
        }
        *self.trouble.lock() = trouble;
        written
    }

    fn try_to_write(&mut self) -> Result<(), WriteError> {
        let database = match self.database.take() {
            Some(database) => database,
            None => Database::reopen(&self.path)
                .map_err(|error| WriteError { message: error.to_string(), no_room: true })?,
        };
        let jobs = self.unwritten.iter().map(|(id, bytes)| (*id, bytes.as_deref()));
        database.write(jobs).map_err(|error| {
            let message = format!("{}: {}", self.path.display(), error.message);
            WriteError { message, ..error }
        })?;
        self.unwritten.clear();
        self.database = Some(database);
        for id in std::mem::take(&mut self.ends).into_keys() {
            self.live.remove(&id);
        }
        if let Err(error) = self.reserve.clear() {
            // What is in it is older than the history, which knows these jobs as ended, and counts no more.
            tracing::warn!(%error, "the ends that were kept back could not be removed");
        }
        Ok(())
    }

    /// Writes the ends that the history has no room for where room was kept for them. Says whether all are there now.
    fn keep_ends_back(&mut self) -> bool {
        let late = self.ends.values().filter_map(Option::as_deref);
        if let Err(error) = self.reserve.append(late) {
            tracing::error!(%error, "the ends of jobs could not be kept back");
            return false;
        }
        for (id, end) in &mut self.ends {
            *end = None;
            self.live.remove(id);
        }
        true
    }
}
