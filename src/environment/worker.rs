//! A process that is a worker of an environment in another one.

mod builder;
mod launched;

use std::{fmt, pin::pin, sync::Arc, thread::JoinHandle};

use futures::future::{Either, select};
use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    sync::{oneshot, watch},
};

pub use self::{
    builder::{WorkerBuilder, WorkerError},
    launched::worker_main,
};
use super::interrupts;
use crate::{blocking::block_on, bridge::WorkerEnd};

/// A process that runs tasks of the jobs of a [`Node`](crate::Node) in another process, most often on another machine.
///
/// It joins the node by the address and a key of the role [`Worker`](crate::KeyRole::Worker), under whatever name, and has
/// the job types of its own program: of several programs that workers run, a job is placed on workers of one. When its
/// connection to the node is lost, it drops all tasks, which fails their jobs, and joins again as another worker, for as long
/// as it is not stopped.
///
/// What the node has given it, it does for as long as the node hears of it. It pings each second; 4 s after the last ping that
/// was answered no task takes a further step, also if the process was stopped meanwhile and wakes then. Code of a task that runs
/// on for another 0.5 s, or is running when the process wakes, ends the process by an abort: others may have its job by then. So
/// have something start the process again.
///
/// It listens for other workers, because tasks send their items directly to each other; all connections beyond the machine
/// are encrypted. Processes that a program starts by itself ([`Workers::processes`](crate::Workers::processes)) need none of
/// this.
///
/// ```no_run
/// use proscenium::{Worker, jobs};
///
/// let worker = Worker::builder().jobs(jobs![]).manager("jobs.example.com").slots(4).open()?;
/// // Until Ctrl+C or a SIGTERM, and the end of the jobs that it has then.
/// worker.serve()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a worker that is dropped ends"]
pub struct Worker {
    core: Arc<Core>,
    threads: Mutex<Option<Threads>>,
    /// Of the control thread.
    runtime: Handle,
}

/// What those who stop a worker share with it.
struct Core {
    name: String,
    data_address: String,
    /// True once it is to leave.
    draining: watch::Sender<bool>,
    stop: Mutex<Option<oneshot::Sender<()>>>,
    /// Why it has ended; its sender is dropped once it has.
    ended: watch::Receiver<Option<WorkerEnd>>,
}

struct Threads {
    /// The one with the actors.
    control: JoinHandle<()>,
    /// The one that keeps the connection to the node.
    bridge: JoinHandle<()>,
}

impl Core {
    fn stop(&self) {
        // If it is gone, it was stopped before; if its receiver is, the worker has ended.
        if let Some(stop) = self.stop.lock().take() {
            let _ = stop.send(());
        }
    }
}

impl Worker {
    /// A worker about to be opened: set what differs from the defaults, then [`open`](WorkerBuilder::open) it.
    pub fn builder() -> WorkerBuilder {
        WorkerBuilder::new()
    }

    /// What it is called.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.core.name
    }

    /// Where other workers reach it.
    #[must_use]
    pub fn data_address(&self) -> &str {
        &self.core.data_address
    }

    /// Has the worker leave its node: it gets no further job, and ends once those have ended that it has. If it cannot join,
    /// it ends.
    pub fn drain(&self) {
        self.core.draining.send_replace(true);
    }

    /// Blocks the calling thread until the worker has ended: because its node has drained it, or by Ctrl+C or a SIGTERM, which
    /// [drain](Self::drain) it. A second one ends it at once: what it runs then is dropped, and the jobs in question fail.
    ///
    /// # Errors
    ///
    /// [`WorkerError::Lost`], of a worker that was [told to join once](WorkerBuilder::join_once).
    pub fn serve(self) -> Result<(), WorkerError> {
        let core = Arc::clone(&self.core);
        let mut told = interrupts::each_end(&self.runtime);
        let twice = async move {
            if told.recv().await.is_some() {
                tracing::info!("the worker gets no further job, and ends with those that it has");
                core.draining.send_replace(true);
            }
            if told.recv().await.is_none() {
                std::future::pending::<()>().await;
            }
        };
        match self.ended_or(twice) {
            WorkerEnd::Stopped | WorkerEnd::Closed | WorkerEnd::Dismissed => Ok(()),
            WorkerEnd::Lost(message) => Err(WorkerError::Lost { message }),
        }
    }

    /// Blocks the calling thread until the worker has ended, by itself or because it was `told` to.
    fn ended_or(self, told: impl Future<Output = ()>) -> WorkerEnd {
        let mut ended = self.core.ended.clone();
        // An error says that the worker broke off.
        let end = pin!(async { ended.wait_for(Option::is_some).await.ok().and_then(|end| end.clone()) });
        let end = block_on(async {
            match select(end, pin!(told)).await {
                Either::Left((end, _)) => end,
                Either::Right((_, end)) => {
                    self.core.stop();
                    end.await
                }
            }
        });
        drop(self);
        end.unwrap_or_else(|| WorkerEnd::Lost("it broke off".to_owned()))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.core.stop();
        let Some(Threads { control, bridge }) = self.threads.lock().take() else { return };
        for thread in [bridge, control] {
            if thread.join().is_err() {
                tracing::error!("a thread of a worker panicked");
            }
        }
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("name", &self.core.name)
            .field("data_address", &self.core.data_address)
            .finish_non_exhaustive()
    }
}
