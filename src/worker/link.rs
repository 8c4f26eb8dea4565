//! How the JobManager speaks to the worker of its own process.

use std::sync::Arc;

use actix::{Addr, MailboxError};
use futures::future::BoxFuture;

use super::{CloseWorker, HaltWorker, PrepareJob, ReportProgress, Worker, team::ConnectJob};
use crate::{
    job::JobId,
    link::{Connect, OwnWorker, Prepare, Prepared, Unconnected, Unprepared, WorkerLink},
    peer::Meeting,
    protocol::{Order, Progress},
};

/// The worker of this very process, an actor on the control thread.
pub(crate) struct Embedded {
    pub worker: Addr<Worker>,
    /// That of the worker's configuration.
    pub peers: Option<Arc<dyn Meeting>>,
}

impl Embedded {
    /// A fresh clone, because actix never wakes a sender that waits for room in a mailbox; a clone has room.
    fn address(&self) -> Addr<Worker> {
        self.worker.clone()
    }
}

impl WorkerLink for Embedded {
    fn prepare(&self, prepare: Prepare) -> BoxFuture<'static, Result<Prepared, Unprepared>> {
        let prepared = self.address().send(PrepareJob(prepare));
        Box::pin(async move {
            match prepared.await {
                Ok(prepared) => prepared,
                Err(MailboxError::Closed | MailboxError::Timeout) => Err(Unprepared::Gone),
            }
        })
    }

    fn connect(&self, connect: Connect) -> BoxFuture<'static, Result<(), Unconnected>> {
        let connected = self.address().send(ConnectJob(connect));
        Box::pin(async move { connected.await.unwrap_or(Err(Unconnected::Gone)) })
    }

    fn order(&self, order: Order) {
        self.worker.do_send(order);
    }

    fn progress(&self, job: JobId) -> BoxFuture<'static, Progress> {
        let progress = self.address().send(ReportProgress { job });
        Box::pin(async move { progress.await.unwrap_or_default() })
    }

    fn address(&self) -> String {
        self.peers.as_ref().map_or_else(String::new, |peers| peers.address())
    }

    fn dismiss(&self) {
        // It ends with its environment.
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        let closed = self.address().send(CloseWorker);
        Box::pin(async move {
            // Whatever the worker answers, there is nothing left of it.
            let _ = closed.await;
        })
    }
}

impl OwnWorker for Embedded {
    fn halt(&self) {
        self.worker.do_send(HaltWorker);
    }
}
