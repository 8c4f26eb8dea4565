//! What a client has asked and waits to be begun: while that is much, nothing more is read from it.

use std::{cell::Cell, rc::Rc, sync::Arc};

use super::tally::Tally;
use crate::link::{JobRequest, Request};

/// Questions that wait to be answered so, and streams that are being opened. While there are more, nothing more is read.
const PENDING_MAX: usize = 256;

/// Whether a question may wait long for its answer.
pub(super) fn waits(request: &Request) -> bool {
    match request {
        Request::ListJobs | Request::Health | Request::Info | Request::Cleanup => false,
        Request::ListWorkers | Request::DrainWorker { .. } => false,
        Request::Job { request, .. } => match request {
            JobRequest::WatchJob { .. } | JobRequest::WaitJob => true,
            JobRequest::Control(_) | JobRequest::DeleteJob { .. } => true,
            JobRequest::Open { .. } | JobRequest::JobStatus | JobRequest::ExplainJob => false,
            JobRequest::DeadLetters | JobRequest::JobGraph | JobRequest::OutputTypes => false,
        },
    }
}

/// The same question, where it need not be waited for any more.
pub(super) fn at_once(request: Request) -> Request {
    match request {
        Request::Job { job, request: JobRequest::WatchJob { .. } } => {
            Request::Job { job, request: JobRequest::JobStatus }
        }
        other => other,
    }
}

/// What a client has asked and waits to be begun.
pub(super) struct Pending {
    count: Cell<usize>,
    tally: Arc<Tally>,
}

impl Pending {
    pub(super) fn new(tally: &Arc<Tally>) -> Rc<Self> {
        Rc::new(Self { count: Cell::new(0), tally: Arc::clone(tally) })
    }

    pub(super) fn has_room(&self) -> bool {
        self.count.get() < PENDING_MAX && self.tally.takes_submits()
    }

    pub(super) async fn room(&self) {
        loop {
            let fewer = self.tally.fewer.notified();
            if self.has_room() {
                return;
            }
            fewer.await;
        }
    }
}

/// One question of a [`Pending`], until this is dropped.
pub(super) struct Held {
    pending: Rc<Pending>,
    bytes: usize,
}

impl Held {
    pub(super) fn new(pending: &Rc<Pending>, bytes: usize) -> Self {
        pending.count.set(pending.count.get() + 1);
        pending.tally.begin_submit(bytes);
        Self { pending: Rc::clone(pending), bytes }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.pending.count.set(self.pending.count.get() - 1);
        self.pending.tally.end_submit(self.bytes);
        self.pending.tally.fewer.notify_waiters();
    }
}
