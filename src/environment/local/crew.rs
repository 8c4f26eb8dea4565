//! The workers of a local environment in processes of their own, and the server that they join.

use std::{
    io,
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use tokio::sync::{mpsc as tokio_mpsc, oneshot};

use crate::{
    blocking::block_on,
    bridge::{
        AdmittedWorkers, Heartbeat, IoThreads, Key, KeyRing, NodeEncryption, Server, ServerConfig, accept, listen,
    },
    environment::OpenError,
    flow::JobRegistry,
    host::thread,
    launch::{Ended, Launch, Launcher, Program},
    link::{Departure, NearLink, WorkerId},
};

/// How long all processes together may take to join.
const JOIN_LIMIT: Duration = Duration::from_secs(30);

/// Which processes to start.
pub(super) struct Processes {
    pub(super) program: Program,
    pub(super) count: usize,
    /// Task threads of each.
    pub(super) slots: usize,
    /// Bytes of each.
    pub(super) memory_max: Option<u64>,
}

/// The processes, and what they join. They end when it is dropped.
pub(super) struct Crew {
    /// None once they have ended.
    launcher: Option<Launcher>,
    over: Option<oneshot::Sender<()>>,
    server: Option<JoinHandle<()>>,
}

impl Crew {
    /// Starts the server, but no worker yet.
    ///
    /// # Errors
    ///
    /// The operating system refuses a thread or a descriptor.
    fn serve(link: &Arc<dyn NearLink>, prefix: &str) -> io::Result<(Self, String, Key)> {
        let runtime = thread::runtime()?;
        let threads = IoThreads::start(1, &format!("{prefix}io"))?;
        let key = Key::generate();
        // Nobody has the other one.
        let keys = KeyRing::open(Key::generate(), None, |_| None).map_err(io::Error::other)?.with_launched(key.clone());
        let server = ServerConfig {
            workers: AdmittedWorkers::Launched,
            encryption: NodeEncryption::on_this_machine(keys.seed())?,
            keys,
            incarnation: u128::from_le_bytes(random(link)?),
            // Nobody submits anything here.
            registry: JobRegistry::new(),
            heartbeat: Heartbeat { interval: Duration::from_secs(1), timeout: Duration::from_secs(15) },
            hello_limit: Duration::from_secs(5),
            connections_max: 4096,
            submitter_jobs_max: 1,
            environment: link.environment().to_owned(),
            call_deadline: link.call_deadline(),
        };
        let (over, is_over) = oneshot::channel::<()>();
        let (opened, is_open) = mpsc::sync_channel(1);
        let link = Arc::clone(link);
        let server = thread::start(format!("{prefix}workers"), move || {
            thread::run_local(&runtime, async {
                let listener = match listen(&[([127, 0, 0, 1], 0).into()]).await {
                    Ok(listener) => listener,
                    Err(error) => return drop(opened.send(Err(error))),
                };
                // Nobody who comes may stop anything.
                let (stops, _) = tokio_mpsc::unbounded_channel();
                let host = link.host().clone();
                let address = listener.local_addr();
                let server = Server::new(server, link, stops, &threads);
                let accepting = host.spawn_local(accept(Arc::clone(&server), listener));
                if opened.send(address).is_ok() {
                    // An error says that the other end is gone.
                    let _ = is_over.await;
                }
                accepting.abort();
                server.close().await;
            });
            threads.end();
            runtime.shutdown_background();
        })?;
        let crew = Self { launcher: None, over: Some(over), server: Some(server) };
        let broken_off = || io::Error::other("the thread for the workers broke off while it was starting");
        let address = is_open.recv().map_err(|_| broken_off())??;
        Ok((crew, address.to_string(), key))
    }

    /// Starts so many processes, and waits until they have joined.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; then none is left.
    pub(super) fn open(
        Processes { program, count, slots, memory_max }: Processes,
        link: &Arc<dyn NearLink>,
        prefix: &str,
    ) -> Result<Self, OpenError> {
        let (mut crew, manager, key) = Self::serve(link, prefix).map_err(OpenError::Refused)?;
        let launch = Launch {
            program,
            count,
            slots,
            memory_max,
            manager,
            key: key.reveal(),
            thread_name: format!("{prefix}launch"),
            host: link.host().clone(),
            ended: telling(link),
        };
        let launcher = Launcher::start(launch).map_err(OpenError::Refused)?;
        let joined = block_on(launcher.all_joined(link.host(), JOIN_LIMIT));
        crew.launcher = Some(launcher);
        joined.map_err(|unjoined| OpenError::unjoined(count, unjoined))?;
        Ok(crew)
    }
}

/// Tells the JobManager that a process is gone, before its connection's lease says so.
fn telling(link: &Arc<dyn NearLink>) -> Ended {
    let link = Arc::clone(link);
    Arc::new(move |number, why| link.leave(WorkerId(number), why.to_owned(), Departure::Ended))
}

impl Drop for Crew {
    fn drop(&mut self) {
        // First the processes: each still says goodbye to the server.
        drop(self.launcher.take());
        drop(self.over.take());
        if let Some(server) = self.server.take()
            && server.join().is_err()
        {
            tracing::error!("the thread for the workers of an environment panicked");
        }
    }
}

fn random(link: &Arc<dyn NearLink>) -> io::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    link.host().fill(&mut bytes).map(|()| bytes)
}
