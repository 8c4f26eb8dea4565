//! The workers of a local environment that are in its own process.

use std::{
    io,
    sync::{Arc, mpsc},
    thread::JoinHandle,
};

use tokio::sync::oneshot;

use crate::{
    blocking::block_on,
    environment::{
        OpenError,
        control::{ControlThread, Controlled, DataAddress},
    },
    host::thread,
    launch::executable_digest,
    link::{NearLink, OwnWorker, WorkerFacts},
};

/// Workers on threads of their own. They end when it is dropped.
#[derive(Default)]
pub(super) struct Inside(Vec<Inner>);

struct Inner {
    over: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Inside {
    /// Starts so many workers with so many task threads each, and has them join.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; then none is left.
    pub(super) fn open(count: usize, slots: usize, link: &Arc<dyn NearLink>, prefix: &str) -> Result<Self, OpenError> {
        let mut inside = Self::default();
        for number in 1..=count {
            let (inner, worker) = Inner::start(slots, format!("{prefix}w{number}-")).map_err(OpenError::Refused)?;
            inside.0.push(inner);
            let mut incarnation = [0; 16];
            link.host().fill(&mut incarnation).map_err(OpenError::Refused)?;
            let facts = WorkerFacts {
                name: format!("inside-{number}"),
                incarnation: u128::from_le_bytes(incarnation),
                slots: u32::try_from(slots).unwrap_or(u32::MAX),
                data_address: worker.address(),
                executable: executable_digest().map_err(OpenError::Refused)?,
            };
            block_on(link.join(facts, worker))
                .map_err(|refusal| OpenError::Refused(io::Error::other(format!("{refusal:?}"))))?;
        }
        Ok(inside)
    }
}

impl Inner {
    fn start(slots: usize, thread_prefix: String) -> io::Result<(Self, Arc<dyn OwnWorker>)> {
        let (over, is_over) = oneshot::channel::<()>();
        let (opened, is_open) = mpsc::sync_channel(1);
        let name = format!("{thread_prefix}control");
        let control = ControlThread {
            thread_prefix,
            task_threads: slots,
            service_threads: 1,
            data: Some(DataAddress::loopback()),
        };
        let thread = thread::start(name, move || {
            let failed = opened.clone();
            let body = async |Controlled { worker, .. }: Controlled| {
                if opened.send(Ok(Arc::clone(&worker))).is_ok() {
                    // An error says that the other end is gone.
                    let _ = is_over.await;
                }
                worker.close().await;
            };
            if let Err(error) = control.run(body, || ()) {
                // Without an opener there is nobody to tell.
                let _ = failed.send(Err(error));
            }
        })?;
        let inner = Self { over: Some(over), thread: Some(thread) };
        let broken_off = || io::Error::other("the control thread of a worker broke off while it was starting");
        let worker = is_open.recv().map_err(|_| broken_off())?;
        worker.map(|worker| (inner, worker)).map_err(|error| io::Error::other(format!("{error:?}")))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        drop(self.over.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the control thread of a worker panicked");
        }
    }
}
