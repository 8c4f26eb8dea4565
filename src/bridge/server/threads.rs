//! The threads on which connections are served: each has a runtime of its own, and a connection stays on one of them.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::JoinHandle,
};

use tokio::{runtime::Runtime, sync::mpsc};

use crate::host::{Host, thread};

/// Makes a future on the thread that is to run it, so that the future need not be `Send`. `None` ends the thread.
type Work = Option<Box<dyn FnOnce() + Send>>;

/// All of a node's I/O threads. [`end`](Self::end) joins them.
pub(crate) struct IoThreads {
    threads: Vec<(Desk, JoinHandle<()>)>,
}

/// One thread, for those who hand work to it.
#[derive(Clone)]
struct Desk {
    work: mpsc::UnboundedSender<Work>,
    connections: Arc<AtomicUsize>,
}

/// A connection's place on one thread. The thread counts as less busy once this is dropped.
pub(super) struct Seat {
    desk: Desk,
    host: Host,
}

/// Where to put the next connection. It does not keep the threads running.
pub(super) struct Desks {
    desks: Vec<Desk>,
    host: Host,
}

impl IoThreads {
    /// # Errors
    ///
    /// The operating system refused a thread or a descriptor; then none is left.
    pub(crate) fn start(count: usize, name: &str) -> io::Result<Self> {
        let mut started = Self { threads: Vec::new() };
        for number in 0..count.max(1) {
            match start(format!("{name}-{number}")) {
                Ok(thread) => started.threads.push(thread),
                Err(error) => {
                    started.end();
                    return Err(error);
                }
            }
        }
        Ok(started)
    }

    pub(super) fn desks(&self, host: &Host) -> Desks {
        Desks { desks: self.threads.iter().map(|(desk, _)| desk.clone()).collect(), host: host.clone() }
    }

    /// Drops whatever is still served, and joins the threads.
    pub(crate) fn end(self) {
        for (desk, _) in &self.threads {
            // A thread that has broken off has ended.
            let _ = desk.work.send(None);
        }
        for (_, thread) in self.threads {
            if thread.join().is_err() {
                tracing::error!("an I/O thread of a node panicked");
            }
        }
    }
}

fn start(name: String) -> io::Result<(Desk, JoinHandle<()>)> {
    let runtime = thread::runtime()?;
    let (work, orders) = mpsc::unbounded_channel();
    let thread = thread::start(name, move || run(runtime, orders))?;
    Ok((Desk { work, connections: Arc::default() }, thread))
}

fn run(runtime: Runtime, mut orders: mpsc::UnboundedReceiver<Work>) {
    thread::run_local(&runtime, async {
        while let Some(Some(work)) = orders.recv().await {
            work();
        }
    });
    runtime.shutdown_background();
}

impl Desks {
    /// A place on the thread that has the fewest connections.
    pub(super) fn seat(&self) -> Seat {
        let busy = |desk: &&Desk| desk.connections.load(Ordering::Relaxed);
        let desk = self.desks.iter().min_by_key(busy).expect("there is at least one thread").clone();
        desk.connections.fetch_add(1, Ordering::Relaxed);
        Seat { desk, host: self.host.clone() }
    }
}

impl Seat {
    /// Runs the future that `make` makes on this thread. It is dropped unfinished if the thread ends first.
    pub(super) fn run<F: Future<Output = ()> + 'static>(self, make: impl FnOnce() -> F + Send + 'static) {
        let work = self.desk.work.clone();
        let work_here = Box::new(move || {
            let future = make();
            let host = self.host.clone();
            host.spawn_local(async move {
                future.await;
                drop(self);
            });
        });
        // The node has ended, and nobody is served any more.
        let _ = work.send(Some(work_here));
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.desk.connections.fetch_sub(1, Ordering::Relaxed);
    }
}
