//! The workers of a local environment that are in its own process.

use std::{io, sync::Arc, thread::JoinHandle};

use tokio::sync::oneshot;

use crate::{
    blocking::block_on,
    environment::{
        OpenError,
        control::{Alone, ControlThread, DataAddress},
    },
    launch::executable_digest,
    link::{NearLink, WorkerFacts},
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
            let control = ControlThread {
                thread_prefix: format!("{prefix}w{number}-"),
                task_threads: slots,
                service_threads: 1,
                data: Some(DataAddress::loopback()),
            };
            let Alone { worker, over, thread, .. } = control.start_alone()?;
            inside.0.push(Inner { over: Some(over), thread: Some(thread) });
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
