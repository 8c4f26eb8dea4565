//! The thread that writes. What comes while it writes is written together next time.

use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use parking_lot::Mutex;

use super::{database::Database, encode};
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
    pub(super) fn start(path: PathBuf, database: Database) -> io::Result<Self> {
        let (orders, received) = mpsc::channel();
        let trouble = Arc::new(Mutex::new(None));
        let shared = Arc::clone(&trouble);
        let state = State { path, database: Some(database), unwritten: BTreeMap::new(), trouble: shared };
        let thread =
            thread::Builder::new().name("proscenium-history".to_owned()).spawn(move || state.run(&received))?;
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
    /// What the file should hold of these jobs, and does not yet.
    unwritten: BTreeMap<JobId, Option<Vec<u8>>>,
    trouble: Arc<Mutex<Option<String>>>,
}

impl State {
    fn run(mut self, orders: &Receiver<Order>) {
        loop {
            let first = if self.unwritten.is_empty() {
                orders.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                orders.recv_timeout(RETRY_AFTER)
            };
            let mut waiting = Vec::new();
            match first {
                Ok(order) => waiting.push(self.note(order)),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            waiting.extend(orders.try_iter().take(TOGETHER_MAX - 1).map(|order| self.note(order)));
            let written = self.write();
            for recorded in waiting {
                recorded(written.clone());
            }
        }
        if let (false, Err(error)) = (self.unwritten.is_empty(), self.write()) {
            tracing::error!(%error, jobs = self.unwritten.len(), "the history on disk is not up to date");
        }
    }

    fn note(&mut self, Order { change, recorded }: Order) -> Recorded {
        match change {
            Change::Keep(job) => {
                self.unwritten.insert(job.id(), Some(encode(job.plain())));
            }
            Change::Forget(jobs) => self.unwritten.extend(jobs.into_iter().map(|id| (id, None))),
        }
        recorded
    }

    fn write(&mut self) -> Result<(), ArchiveError> {
        let written = self.try_to_write();
        let trouble = written.as_ref().err().map(|error| error.0.clone());
        if let (Some(trouble), None) = (&trouble, &*self.trouble.lock()) {
            tracing::error!(error = trouble, history = %self.path.display(), "the history cannot be written");
        }
        *self.trouble.lock() = trouble;
        written
    }

    fn try_to_write(&mut self) -> Result<(), ArchiveError> {
        let database = match self.database.take() {
            Some(database) => database,
            None => Database::reopen(&self.path).map_err(|error| ArchiveError(error.to_string()))?,
        };
        let jobs = self.unwritten.iter().map(|(id, bytes)| (*id, bytes.as_deref()));
        database.write(jobs).map_err(|error| ArchiveError(format!("{}: {error}", self.path.display())))?;
        self.unwritten.clear();
        self.database = Some(database);
        Ok(())
    }
}
