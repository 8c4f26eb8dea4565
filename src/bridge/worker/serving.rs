//! What a worker does that its JobManager says.

use std::{future::ready, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use tokio::sync::{oneshot, watch};

use super::{
    lease::Lease,
    message::{EncodedPrepare, FromWorker, ToWorker, encoded, send},
};
use crate::{
    bridge::{
        connection::{Handler, Violation},
        frame::{Kind, Message},
        message::{FromClient, FromNode},
        outbound::Outbound,
    },
    codec,
    flow::{JobRegistry, Opening, job::Unplanned},
    host::{Host, LocalTasks},
    job::{JobId, NotSendable},
    link::{OwnWorker, Prepare, Refusal, Unprepared, WorkerEvents, WorkerId},
    protocol::Progress,
    service::{CallError, FoundService, ServiceResolver},
};

/// Why this side is to end a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The environment is closed.
    Closed,
    /// The node has no more for it to do.
    Dismissed,
    /// The node does not take this process for a worker; why.
    Refused(String),
}

/// The worker of this process, and what it is for one connection.
pub(super) struct Serving<'a> {
    pub jobs: &'a JobRegistry,
    pub worker: &'a Arc<dyn OwnWorker>,
    pub host: &'a Host,
    pub outbound: &'a Arc<Outbound>,
    pub lease: &'a Lease,
    /// Set once the node has taken it.
    pub registered: &'a watch::Sender<bool>,
    pub joined: Option<&'a (dyn Fn(WorkerId) + Send + Sync)>,
    pub verdict: Option<oneshot::Sender<Verdict>>,
    /// What is being prepared, connected and counted.
    pub tasks: LocalTasks,
}

impl Handler for Serving<'_> {
    fn handle(&mut self, message: &Message<'_>) -> Result<(), Violation> {
        if message.kind != Kind::Message {
            return Err(Violation::new(format_args!("a message of kind {:?} to a worker", message.kind)));
        }
        // A process that was stopped, and goes on after its lease, has its orders still to read: they are those of another.
        if self.lease.is_over() {
            return Ok(());
        }
        match codec::decode::<FromNode>(message.payload).map_err(Violation::new)? {
            FromNode::Welcome { environment, .. } => {
                tracing::debug!(environment, "connected");
                Ok(())
            }
            FromNode::Worker(said) => self.follow(message.id, said),
            FromNode::Reply(Err(refusal)) => {
                self.end(Verdict::Refused(refused(&refusal)));
                Ok(())
            }
            other => Err(Violation::new(format_args!("{other:?} to a worker"))),
        }
    }

    fn ponged(&mut self, ping: u64) {
        self.lease.ponged(ping);
    }

    async fn ready(&mut self) {
        self.tasks.forget_ended();
    }
}

impl Serving<'_> {
    fn follow(&mut self, id: u64, said: ToWorker) -> Result<(), Violation> {
        match said {
            ToWorker::Registered { worker, lease } => {
                if self.registered.send_replace(true) {
                    return Err(Violation::new("a worker is registered twice"));
                }
                tracing::info!(worker = worker.0, "joined");
                self.lease.lasts(lease);
                if let Some(joined) = self.joined {
                    joined(worker);
                }
            }
            ToWorker::Refused(refusal) => self.end(Verdict::Refused(refused(&refusal))),
            ToWorker::Close => self.end(Verdict::Closed),
            ToWorker::Dismissed => self.end(Verdict::Dismissed),
            _ if !*self.registered.borrow() => return Err(Violation::new("an order to a worker that is none yet")),
            ToWorker::Prepare(prepare) => self.prepare(id, *prepare),
            ToWorker::Connect(connect) => {
                // Handed over here and not when it is waited for, so that it keeps its place among the orders.
                let connected = self.worker.connect(connect);
                self.answer(id, async { FromWorker::Connected(connected.await) });
            }
            ToWorker::Progress(job) => {
                let progress = self.worker.progress(job);
                self.answer(id, async { FromWorker::Progressed(progress.await) });
            }
            ToWorker::Order(order) => self.worker.order(order),
        }
        Ok(())
    }

    fn prepare(&mut self, id: u64, prepare: EncodedPrepare) {
        let EncodedPrepare { job, term, payload, parallelism, error_policy, limits, place, splits } = prepare;
        let resolver = Arc::new(Nowhere { host: self.host.clone(), call_deadline: limits.call_deadline });
        let name = payload.name.clone();
        // It is decoded where its flow is built, for that is code of the user's.
        let payload = match self.jobs.sealed(payload, Opening { resolver, held: Box::new(()) }) {
            Ok(payload) => payload,
            Err(refusal) => {
                let refused = Unprepared::Unplanned(Unplanned::Job(refusal));
                return self.answer(id, async { FromWorker::Prepared(Err(refused)) });
            }
        };
        let (limits, events) = (Arc::new(limits), reporting(self.outbound));
        let (splits, fence) = (splits.map(Arc::new), self.lease.fence().clone());
        let prepare = Prepare { job, term, payload, parallelism, error_policy, limits, place, splits, events, fence };
        let (prepared, outbound) = (self.worker.prepare(prepare), Arc::clone(self.outbound));
        self.tasks.spawn(async move {
            let answer = FromClient::Worker(FromWorker::Prepared(prepared.await));
            let payload = encoded(&answer).unwrap_or_else(|| {
                let message = "its graph is too large to be sent".to_owned();
                let refused = Unprepared::NotSendable(NotSendable::Encode { job: name, message });
                encoded(&FromClient::Worker(FromWorker::Prepared(Err(refused)))).expect("it is short and plain")
            });
            send(&outbound, id, &payload);
        });
    }

    fn answer(&mut self, id: u64, answer: impl Future<Output = FromWorker> + 'static) {
        let outbound = Arc::clone(self.outbound);
        self.tasks.spawn(async move {
            let answer = FromClient::Worker(answer.await);
            let payload = encoded(&answer).or_else(|| {
                // Nothing else is this large.
                encoded(&FromClient::Worker(FromWorker::Progressed(Progress::default())))
            });
            payload.into_iter().for_each(|payload| send(&outbound, id, &payload));
        });
    }

    fn end(&mut self, verdict: Verdict) {
        if let Some(end) = self.verdict.take() {
            // The connection may be ending for another reason.
            let _ = end.send(verdict);
        }
    }
}

fn refused(refusal: &Refusal) -> String {
    match refusal {
        Refusal::Forbidden { message } | Refusal::Internal(message) => message.clone(),
        Refusal::EnvironmentClosed => "the environment is closed".to_owned(),
        other => format!("{other:?}"),
    }
}

/// Takes what tasks report, on their threads, to the other end of the connection.
fn reporting(outbound: &Arc<Outbound>) -> WorkerEvents {
    let outbound = Arc::clone(outbound);
    Arc::new(move |event| match encoded(&FromClient::Worker(FromWorker::Event(event))) {
        Some(payload) => send(&outbound, 0, &payload),
        None => {
            // Its job would wait for it for ever. So the worker is lost, which ends the job.
            tracing::error!("a worker's report is too large to be sent");
            outbound.abandon();
        }
    })
}

/// To which references in the parameters of jobs are bound: the services they lead to are in another process.
struct Nowhere {
    host: Host,
    call_deadline: Duration,
}

impl ServiceResolver for Nowhere {
    fn service(&self, job: JobId, _: &str) -> BoxFuture<'static, Result<FoundService, CallError>> {
        Box::pin(ready(Err(CallError::NoSuchJob { job })))
    }

    fn host(&self) -> &Host {
        &self.host
    }

    fn call_deadline(&self) -> Duration {
        self.call_deadline
    }
}
