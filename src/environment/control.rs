//! The control thread of a process that hosts actors: the actix system, the worker, and everything that ends after them.

use std::{
    io,
    ops::RangeInclusive,
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use actix::{Actor, System};
use parking_lot::Mutex;
use tokio::{runtime::Handle, sync::oneshot};

use crate::{
    bridge::{PeerHub, PeerHubConfig, PeerHubError, PeerLimits},
    host::{Host, thread},
    link::OwnWorker,
    peer::Meeting,
    worker::{Embedded, Worker, WorkerConfig},
};

/// How long user code on the blocking pool may still take once the environment is closed. It was told to end before
/// that; what does not return by then is left behind.
const BLOCKING_GRACE: Duration = Duration::from_secs(1);

/// Threads for `build`, file access and spilling.
const BLOCKING_THREADS_MAX: usize = 64;

/// What the thread is made of.
pub(super) struct ControlThread {
    /// What the names of the threads begin with.
    pub(super) thread_prefix: String,
    pub(super) task_threads: usize,
    pub(super) service_threads: usize,
    /// How other workers reach this one, if there are any.
    pub(super) data: Option<DataAddress>,
}

/// Where a worker listens for others.
#[derive(Debug, Clone)]
pub(crate) struct DataAddress {
    /// `host:port`; any port for 0.
    pub(crate) address: String,
    /// The first of these that is free, whatever port the address has.
    pub(crate) ports: Option<RangeInclusive<u16>>,
    /// Where others reach it, if that is elsewhere.
    pub(crate) advertised: Option<String>,
    /// On this machine, too.
    pub(crate) encrypted: bool,
}

impl DataAddress {
    /// For workers of this machine.
    pub(super) fn loopback() -> Self {
        Self { address: "127.0.0.1:0".to_owned(), ports: None, advertised: None, encrypted: false }
    }
}

/// What the thread has.
pub(super) struct Controlled {
    pub(super) host: Host,
    /// That of the thread itself.
    pub(super) runtime: Handle,
    /// The number of the actix system, by which its arbiters' threads are told apart from others.
    pub(super) system: usize,
    pub(super) worker: Arc<dyn OwnWorker>,
}

/// Why there is no control thread.
#[derive(Debug)]
pub(super) enum Uncontrolled {
    Refused(io::Error),
    Address(PeerHubError),
}

impl From<io::Error> for Uncontrolled {
    fn from(error: io::Error) -> Self {
        Self::Refused(error)
    }
}

impl ControlThread {
    /// Runs `body` on this thread to its end, which leaves the worker closed, and then `last`. No other thread is left
    /// afterwards but those that were abandoned.
    pub(super) fn run<F: Future<Output = ()>>(
        self,
        body: impl FnOnce(Controlled) -> F,
        last: impl FnOnce(),
    ) -> Result<(), Uncontrolled> {
        let Self { thread_prefix, task_threads, service_threads, data } = self;
        let blocking = thread::pool(BLOCKING_THREADS_MAX, format!("{thread_prefix}blocking"))?;
        let runtime = thread::runtime()?;
        let handle = runtime.handle().clone();
        let system = System::with_tokio_rt(|| runtime);
        let (host, timer_thread) = Host::on_threads(&format!("{thread_prefix}timer"), blocking.handle());
        let hub = data.map(|data| open_hub(data, format!("{thread_prefix}peers"), &host)).transpose()?;
        let peers = hub.clone().map(|hub| hub as Arc<dyn Meeting>);
        let threads = Arc::new(Mutex::new(Vec::new()));
        system.block_on(async {
            let worker = Worker::new(WorkerConfig {
                task_threads,
                service_threads,
                host: host.clone(),
                threads: Arc::clone(&threads),
                peers: peers.clone(),
            });
            // A mailbox without a bound of its own: actix does not wake a sender that waits for room.
            let worker = Worker::create(|ctx| {
                ctx.set_mailbox_capacity(0);
                worker
            });
            let controlled = Controlled {
                host: host.clone(),
                runtime: handle,
                system: System::current().id(),
                worker: Arc::new(Embedded { worker, peers }),
            };
            body(controlled).await;
        });
        last();
        drop(system);
        // Those of abandoned tasks and services are not among them.
        let threads = std::mem::take(&mut *threads.lock());
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a task or service thread panicked");
            }
        }
        if let Some(hub) = hub {
            hub.close();
        }
        timer_thread.stop_and_join();
        blocking.shutdown_timeout(BLOCKING_GRACE);
        Ok(())
    }
}

/// A control thread with nothing but a worker, which runs until `over` is dropped.
pub(super) struct Alone {
    pub(super) host: Host,
    pub(super) runtime: Handle,
    pub(super) worker: Arc<dyn OwnWorker>,
    pub(super) over: oneshot::Sender<()>,
    pub(super) thread: JoinHandle<()>,
}

impl ControlThread {
    /// Starts the thread, and waits until its worker is there.
    pub(super) fn start_alone(self) -> Result<Alone, Uncontrolled> {
        let (opened, is_open) = mpsc::sync_channel(1);
        let (over, is_over) = oneshot::channel::<()>();
        let thread = thread::start(format!("{}control", self.thread_prefix), move || {
            let failed = opened.clone();
            let body = async move |controlled: Controlled| {
                let worker = Arc::clone(&controlled.worker);
                if opened.send(Ok(controlled)).is_ok() {
                    // Nothing is ever sent: this ends by the error that the sender is gone.
                    let _ = is_over.await;
                }
                worker.close().await;
            };
            if let Err(error) = self.run(body, || ()) {
                // Without an opener there is nobody to tell.
                let _ = failed.send(Err(error));
            }
        })?;
        let broken_off = || io::Error::other("the control thread of a worker broke off while it was starting");
        match is_open.recv().map_err(|_| broken_off())? {
            Ok(Controlled { host, runtime, worker, .. }) => Ok(Alone { host, runtime, worker, over, thread }),
            Err(error) => {
                // It has nothing to do any more.
                let _ = thread.join();
                Err(error)
            }
        }
    }
}

fn open_hub(data: DataAddress, thread_name: String, host: &Host) -> Result<Arc<PeerHub>, Uncontrolled> {
    let DataAddress { address, ports, advertised, encrypted } = data;
    let limits = PeerLimits::default();
    let config = PeerHubConfig { address, ports, advertised, always_encrypted: encrypted, thread_name, limits };
    PeerHub::open(config, host).map(Arc::new).map_err(Uncontrolled::Address)
}
