//! A worker's end of the bridge: a process that joins a JobManager in another one and runs tasks of its jobs.
//!
//! The process dials the node, registers under an incarnation of its own, and has its worker do what it is told. Once the
//! connection is lost, or the [`lease`] over, all jobs are dropped, and the process is another worker if it comes again.

mod lease;
pub(super) mod message;
mod serving;
#[cfg(test)]
mod tests;

use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::{Either, select};
use tokio::sync::{oneshot, watch};

pub(super) use self::lease::{LEASE, heartbeat_of_node};
use self::{
    lease::Lease,
    message::{FromWorker, encoded, frame_limits, send},
    serving::{Serving, Verdict},
};
use super::{
    backoff::Backoff,
    client::ConnectFault,
    connection::{self, Heartbeat, say_goodbye},
    encryption::ClientEncryption,
    handshake::{ClientSide, Established, Peer},
    key::Key,
    message::{FromClient, Goodbye},
    outbound::Outbound,
    stream::Dial,
};
use crate::{
    flow::JobRegistry,
    host::{Host, LocalTasks},
    link::{OwnWorker, WorkerFacts, WorkerId},
};

/// How long a worker that stops waits for its last frames to be written.
const FAREWELL_LIMIT: Duration = Duration::from_secs(1);

/// It is the [lease](Lease) that ends a connection to a node that is silent.
const CALM: Heartbeat = Heartbeat { interval: Duration::from_secs(60), timeout: Duration::from_secs(120) };

/// What a worker is made of that joins a JobManager in another process.
pub(crate) struct WorkerClientConfig {
    /// To the node.
    pub dial: Arc<dyn Dial>,
    /// Of the role [`Worker`](crate::link::KeyRole::Worker) there.
    pub key: Key,
    pub encryption: ClientEncryption,
    /// How long it may take from dialling to being registered.
    pub connect_limit: Duration,
    /// The incarnation is drawn anew for each connection, whatever it says here.
    pub facts: WorkerFacts,
    pub jobs: JobRegistry,
    /// The worker of this process. It has no jobs but those of the connection.
    pub worker: Arc<dyn OwnWorker>,
    pub host: Host,
    /// Whether it dials for ever: else it ends with its first connection, or for want of one.
    pub keeps_dialling: bool,
    /// Called if code of the user's still runs when the lease is over. It ends the process.
    pub overrun: Arc<dyn Fn() + Send + Sync>,
    /// True once the worker is to leave, as soon as it has no job any more.
    pub draining: watch::Receiver<bool>,
    /// Told each time the node has taken it.
    pub joined: Option<Arc<dyn Fn(WorkerId) + Send + Sync>>,
}

/// Why a process is a worker no more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WorkerEnd {
    #[error("the worker was stopped")]
    Stopped,
    #[error("the environment was closed")]
    Closed,
    /// It was drained.
    #[error("the worker has no job any more and gets none")]
    Dismissed,
    /// Only if it does not dial again.
    #[error("the worker has no JobManager: {0}")]
    Lost(String),
}

/// How one connection, or the attempt to make one, ended.
enum Outcome {
    Stopped,
    Closed,
    Dismissed,
    Lost { why: String, registered: bool },
}

/// Has this process be a worker until it is stopped, by a message or by dropping its sender. All jobs of the worker are
/// dropped then. It lives on a thread of the bridge, which does nothing that takes its time: who is late with a ping is
/// lost.
///
/// # Panics
///
/// On a thread where nothing can be [spawned](Host::spawn_local).
pub(crate) async fn serve(config: WorkerClientConfig, mut stop: oneshot::Receiver<()>) -> WorkerEnd {
    let mut backoff = Backoff::new();
    // Told once, and not again each time it is tried in vain.
    let mut told = String::new();
    loop {
        let end = match config.attempt(&mut stop).await {
            Outcome::Stopped => return WorkerEnd::Stopped,
            Outcome::Dismissed => return WorkerEnd::Dismissed,
            Outcome::Closed => {
                tracing::info!(node = config.dial.place(), "the JobManager has closed its environment");
                WorkerEnd::Closed
            }
            Outcome::Lost { why, registered } => {
                if registered {
                    backoff = Backoff::new();
                    told.clear();
                    tracing::warn!(
                        node = config.dial.place(),
                        why,
                        "the JobManager is lost, and the worker's jobs dropped"
                    );
                } else if told != why {
                    tracing::warn!(node = config.dial.place(), why, "the worker could not join");
                    told.clone_from(&why);
                }
                WorkerEnd::Lost(why)
            }
        };
        if !config.keeps_dialling {
            return end;
        }
        let wait = backoff.next(&config.host);
        let mut draining = config.draining.clone();
        let drained = pin!(becomes_true(&mut draining));
        match config.host.timeout(wait, select(&mut stop, drained)).await {
            Ok(Either::Left(_)) => return WorkerEnd::Stopped,
            // It has no job.
            Ok(Either::Right(_)) => return WorkerEnd::Dismissed,
            Err(_) => {}
        }
    }
}

/// Ready once it is so.
async fn becomes_true(what: &mut watch::Receiver<bool>) {
    if what.wait_for(|is_so| *is_so).await.is_err() {
        std::future::pending::<()>().await;
    }
}

impl WorkerClientConfig {
    /// Joins the node once, and is its worker for as long as that lasts. Afterwards the worker has no jobs.
    async fn attempt(&self, stop: &mut oneshot::Receiver<()>) -> Outcome {
        let lost = |why: String| Outcome::Lost { why, registered: false };
        let begun = self.host.now();
        let mut incarnation = [0; 16];
        if let Err(error) = self.host.fill(&mut incarnation) {
            return lost(error.to_string());
        }
        let incarnation = u128::from_le_bytes(incarnation);
        let connecting = pin!(self.host.timeout(self.connect_limit, self.connect(incarnation)));
        let Established { stream, integrity, .. } = match select(connecting, &mut *stop).await {
            Either::Right(_) => return Outcome::Stopped,
            Either::Left((Err(_), _)) => return lost(ConnectFault::TimedOut(self.connect_limit).to_string()),
            Either::Left((Ok(Err(fault)), _)) => return lost(fault.to_string()),
            Either::Left((Ok(Ok(connected)), _)) => connected,
        };
        let (reader, writer) = stream.halves();
        let outbound = Outbound::new(writer, integrity);
        let (lease, registered) = (Lease::new(&self.host), watch::Sender::new(false));
        let facts = WorkerFacts { incarnation, ..self.facts.clone() };
        match encoded(&FromClient::Worker(FromWorker::Register(facts))) {
            Some(register) => send(&outbound, 0, &register),
            None => return lost("what is to be said of the worker is too long".to_owned()),
        }
        let (end, verdict) = oneshot::channel();
        let mut serving = Serving {
            jobs: &self.jobs,
            worker: &self.worker,
            host: &self.host,
            outbound: &outbound,
            lease: &lease,
            registered: &registered,
            joined: self.joined.as_deref(),
            verdict: Some(end),
            tasks: LocalTasks::default(),
        };
        let why = {
            let running = connection::run(reader, &outbound, frame_limits(), CALM, &self.host, &mut serving);
            let mut running = pin!(running);
            let over = pin!(self.over((&outbound, &lease, &registered), begun, verdict, stop));
            let ended = match select(running.as_mut(), over).await {
                Either::Left((end, _)) => Err(end.to_string()),
                Either::Right((ended, _)) => ended,
            };
            // Before anything is waited for, because the JobManager may give the jobs to others from now on.
            lease.end();
            self.worker.halt();
            if ended.is_ok() {
                say_goodbye(&outbound, &Goodbye::Closed);
                // It ends in any case; how, is of no interest any more.
                let _ = self.host.timeout(FAREWELL_LIMIT, running).await;
            }
            ended
        };
        outbound.abandon();
        serving.tasks.shutdown().await;
        if !matches!(why, Ok(Outcome::Stopped)) {
            self.vacate(&lease, stop).await;
        }
        why.unwrap_or_else(|why| Outcome::Lost { why, registered: *registered.borrow() })
    }

    /// Ready once this side is to end a connection that is kept up all the while: how, or for want of what.
    async fn over(
        &self,
        (outbound, lease, registered): (&Arc<Outbound>, &Lease, &watch::Sender<bool>),
        begun: Instant,
        verdict: oneshot::Receiver<Verdict>,
        stop: &mut oneshot::Receiver<()>,
    ) -> Result<Outcome, String> {
        let unregistered = pin!(async {
            let left = self.connect_limit.saturating_sub(self.host.since(begun));
            self.host.sleep(left).await;
            if *registered.borrow() {
                std::future::pending::<()>().await;
            }
        });
        let leaving = pin!(async {
            let mut draining = self.draining.clone();
            becomes_true(&mut draining).await;
            let mut is_registered = registered.subscribe();
            becomes_true(&mut is_registered).await;
            let leave = encoded(&FromClient::Worker(FromWorker::Drain)).expect("it is short and plain");
            send(outbound, 0, &leave);
            // It is dismissed once it has no job any more.
            std::future::pending::<()>().await;
        });
        let leased = pin!(lease.run(outbound));
        match select(select(stop, verdict), select(leased, select(unregistered, leaving))).await {
            Either::Left((Either::Left(_), _)) => Ok(Outcome::Stopped),
            Either::Left((Either::Right((Ok(Verdict::Closed), _)), _)) => Ok(Outcome::Closed),
            Either::Left((Either::Right((Ok(Verdict::Dismissed), _)), _)) => Ok(Outcome::Dismissed),
            Either::Left((Either::Right((Ok(Verdict::Refused(why)), _)), _)) => Err(why),
            // The verdict's sender lives as long as the connection.
            Either::Left((Either::Right((Err(_), _)), _)) => Err("it broke off".to_owned()),
            Either::Right((Either::Left(_), _)) => Err("its lease ended: the node did not answer its pings".to_owned()),
            Either::Right((Either::Right(_), _)) => Err(ConnectFault::TimedOut(self.connect_limit).to_string()),
        }
    }

    /// Waits until no code of a job runs, and ends the process if some still does when others may have the job.
    async fn vacate(&self, lease: &Lease, stop: &mut oneshot::Receiver<()>) {
        // Who stops the process knows what it does then.
        let vacated = pin!(lease.vacated());
        if matches!(select(vacated, stop).await, Either::Left((false, _))) {
            (self.overrun)();
        }
    }

    async fn connect(&self, incarnation: u128) -> Result<Established<Peer>, ConnectFault> {
        let dialled = self.dial.dial().await.map_err(ConnectFault::Dial)?;
        let side = ClientSide { key: &self.key, client: incarnation, encryption: &self.encryption, host: &self.host };
        side.connect(dialled).await.map_err(ConnectFault::Hello)
    }
}
