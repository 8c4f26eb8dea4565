//! The control thread of a local environment: the actix system, and everything that ends after it.

use std::{
    io,
    sync::{Arc, mpsc::SyncSender},
    time::Duration,
};

use actix::{Actor, Addr, System};
use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    sync::{oneshot, watch},
};

use crate::{
    host::{Host, thread},
    job::Limits,
    manager::{JobManager, ManagerConfig, Placement, Recording},
    worker::{Embedded, Worker, WorkerConfig},
};

/// How long user code on the blocking pool may still take once the environment is closed. It was told to end before
/// that; what does not return by then is left behind.
const BLOCKING_GRACE: Duration = Duration::from_secs(1);

/// Threads for `build`, file access and spilling.
const BLOCKING_THREADS_MAX: usize = 64;

pub(super) struct ControlSetup {
    pub(super) environment: Arc<str>,
    /// What the names of the environment's own threads begin with.
    pub(super) thread_prefix: String,
    pub(super) task_threads: usize,
    pub(super) service_threads: usize,
    pub(super) limits: Arc<Limits>,
    pub(super) placement: Box<dyn Placement>,
    pub(super) recording: Recording,
}

/// What the opener needs to reach the control thread.
pub(super) struct Control {
    pub(super) manager: Addr<JobManager>,
    /// What serves clients takes its time on the pool of the control thread.
    pub(super) host: Host,
    pub(super) runtime: Handle,
    /// The number of the actix system, by which its arbiters' threads are told apart from others.
    pub(super) system: usize,
}

/// Runs until the environment is closed. `closed` is dropped last: when it is, no other thread of the environment is
/// left but those that were abandoned.
pub(super) fn run(setup: ControlSetup, opened: &SyncSender<io::Result<Control>>, closed: watch::Sender<()>) {
    if let Err(error) = open_and_run(setup, opened) {
        // Without an opener there is nobody to tell.
        let _ = opened.send(Err(error));
    }
    drop(closed);
}

fn open_and_run(setup: ControlSetup, opened: &SyncSender<io::Result<Control>>) -> io::Result<()> {
    let ControlSetup { environment, thread_prefix, task_threads, service_threads, limits, placement, recording } =
        setup;
    let blocking = thread::pool(BLOCKING_THREADS_MAX, format!("{thread_prefix}blocking"))?;
    let runtime = thread::runtime()?;
    let runtime_handle = runtime.handle().clone();
    let system = System::with_tokio_rt(|| runtime);
    let (host, timer_thread) = Host::on_threads(&format!("{thread_prefix}timer"), blocking.handle());
    let host_of_clients = host.with_pool(&runtime_handle);
    let threads = Arc::new(Mutex::new(Vec::new()));
    system.block_on(async {
        let worker = Worker::new(WorkerConfig {
            task_threads,
            service_threads,
            host: host.clone(),
            threads: Arc::clone(&threads),
            peers: None,
        });
        // Mailboxes without a bound of their own: actix does not wake a sender that waits for room. What clients send
        // is bounded on their side, by permits that travel with the messages.
        let worker = Worker::create(|ctx| {
            ctx.set_mailbox_capacity(0);
            worker
        });
        let (closed, manager_closed) = oneshot::channel();
        let manager = JobManager::create(|ctx| {
            ctx.set_mailbox_capacity(0);
            JobManager::new(ManagerConfig {
                environment,
                limits,
                task_threads,
                service_threads,
                placement,
                worker: Arc::new(Embedded { worker, peers: None }),
                recording,
                host,
                closed,
            })
        });
        let control =
            Control { manager, host: host_of_clients, runtime: runtime_handle, system: System::current().id() };
        if opened.send(Ok(control)).is_ok() {
            // An error says that the manager is gone, which is what is waited for.
            let _ = manager_closed.await;
        }
    });
    drop(system);
    // Those of abandoned tasks and services are not among them.
    let threads = std::mem::take(&mut *threads.lock());
    for thread in threads {
        if thread.join().is_err() {
            tracing::error!("a task or service thread panicked");
        }
    }
    timer_thread.stop_and_join();
    blocking.shutdown_timeout(BLOCKING_GRACE);
    Ok(())
}
