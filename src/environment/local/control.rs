//! The control thread of a local environment, on which its JobManager is.

use std::sync::{Arc, mpsc::SyncSender};

use actix::{Actor, Addr};
use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    sync::{oneshot, watch},
};

use super::Company;
use crate::{
    environment::control::{ControlThread, Controlled, Uncontrolled},
    host::Host,
    job::Limits,
    manager::{JobManager, ManagerConfig, Placement, Recording},
};

pub(super) struct ControlSetup {
    pub(super) environment: Arc<str>,
    pub(super) thread: ControlThread,
    pub(super) limits: Arc<Limits>,
    pub(super) placement: Box<dyn Placement>,
    /// There are to be workers in other processes.
    pub(super) has_workers: bool,
    pub(super) recording: Recording,
    /// The workers of other processes, once they are there. They end when all jobs have.
    pub(super) crew: Arc<Mutex<Option<Company>>>,
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
pub(super) fn run(setup: ControlSetup, opened: &SyncSender<Result<Control, Uncontrolled>>, closed: watch::Sender<()>) {
    let ControlSetup { environment, thread, limits, placement, has_workers, recording, crew } = setup;
    let (task_threads, service_threads) = (thread.task_threads, thread.service_threads);
    let body = async |controlled| {
        let Controlled { host, runtime, system, worker } = controlled;
        let host_of_clients = host.with_pool(&runtime);
        let (ended, manager_ended) = oneshot::channel();
        // A mailbox without a bound of its own: actix does not wake a sender that waits for room. What clients send is
        // bounded on their side, by permits that travel with the messages.
        let manager = JobManager::create(|ctx| {
            ctx.set_mailbox_capacity(0);
            JobManager::new(ManagerConfig {
                environment,
                limits,
                task_threads,
                service_threads,
                placement,
                worker,
                has_workers,
                recording,
                host,
                closed: ended,
            })
        });
        let control = Control { manager, host: host_of_clients, runtime, system };
        if opened.send(Ok(control)).is_ok() {
            // An error says that the manager is gone, which is what is waited for.
            let _ = manager_ended.await;
        }
    };
    if let Err(error) = thread.run(body, || drop(crew.lock().take())) {
        // Without an opener there is nobody to tell.
        let _ = opened.send(Err(error));
    }
    drop(closed);
}
