//! The connection of a worker, on the node: what the JobManager has it do, and what it says.
//!
//! A worker has no rights, so nothing that it says asks for anything. While it is large what a worker has to read yet, it is
//! read on, and its pings are answered: its lease must not depend on how fast it reads.

use std::{collections::BTreeMap, pin::pin, sync::Arc, time::Duration};

use futures::future::{BoxFuture, Either, select};
use parking_lot::Mutex;
use tokio::{
    io::AsyncRead,
    sync::{oneshot, watch},
};

use super::{
    access::{self, Access},
    say::say,
    state::{AdmittedWorkers, Server, SessionEntry},
};
use crate::{
    bridge::{
        connection::{self, Handler, Violation},
        frame::{Kind, Message},
        message::{FromClient, FromNode, REQUESTS_MAX},
        outbound::Outbound,
        worker::{
            LEASE, heartbeat_of_node,
            message::{EncodedPrepare, FromWorker, ToWorker, encoded, frame_limits, send},
        },
    },
    codec,
    flow::splits::Splits,
    host::{Host, LocalTasks},
    job::{JobId, NAME_BYTES_MAX, NotSendable, Term},
    link::{
        Connect, Departure, Prepare, Prepared, Refusal, Unconnected, Unprepared, WorkerEvents, WorkerFacts, WorkerId,
        WorkerLink,
    },
    protocol::{Order, Progress, WorkerEvent, WorkerOrder},
};

/// While a worker has more to read than this, no further job is sent to it.
const UNREAD_MAX: usize = 4 << 20;

/// Bytes that a worker may have to read yet for its pings to be answered: jobs of the greatest size among them.
const UNHEARD_MAX: usize = 256 << 20;

/// Threads of a worker that are believed.
const SLOTS_MAX: u32 = 65_536;

/// How long a worker that is told to go may take.
const FAREWELL_LIMIT: Duration = Duration::from_secs(2);

/// What waits for an answer of a worker. Dropped, it says that the worker is gone.
enum Waiting {
    Prepare(oneshot::Sender<Result<Prepared, Unprepared>>),
    Connect(oneshot::Sender<Result<(), Unconnected>>),
    Progress(oneshot::Sender<Progress>),
}

/// The way to one worker, for as long as its connection lasts.
struct Way {
    outbound: Arc<Outbound>,
    /// Where other workers reach it.
    address: String,
    host: Host,
    state: Mutex<State>,
    /// What the worker was told that it has joined as. It takes no order before.
    registered: watch::Receiver<Option<WorkerId>>,
    over: watch::Receiver<()>,
}

#[derive(Default)]
struct State {
    is_over: bool,
    requests_ever: u64,
    waiting: BTreeMap<u64, Waiting>,
    /// Where to report to, of each attempt that the worker has prepared, or is about to, and was not told to release.
    events: BTreeMap<(JobId, Term), WorkerEvents>,
}

/// A [`Way`] for the JobManager.
struct WorkerWay(Arc<Way>);

/// A question that waits for its answer, until this is dropped.
struct Asked<T> {
    way: Arc<Way>,
    id: u64,
    answer: oneshot::Receiver<T>,
}

impl<T> Drop for Asked<T> {
    fn drop(&mut self) {
        self.way.state.lock().waiting.remove(&self.id);
    }
}

impl Way {
    /// Sends a question. None if the worker is gone, or has left too many unanswered.
    fn ask<T>(
        self: &Arc<Self>,
        payload: &[u8],
        waiting: impl FnOnce(oneshot::Sender<T>) -> Waiting,
    ) -> Option<Asked<T>> {
        let (tx, answer) = oneshot::channel();
        let id = {
            let mut state = self.state.lock();
            if state.is_over || state.waiting.len() >= REQUESTS_MAX {
                return None;
            }
            state.requests_ever += 1;
            let id = state.requests_ever;
            state.waiting.insert(id, waiting(tx));
            id
        };
        send(&self.outbound, id, payload);
        Some(Asked { way: Arc::clone(self), id, answer })
    }

    fn say(&self, message: ToWorker) {
        match encoded(&FromNode::Worker(message)) {
            Some(payload) => send(&self.outbound, 0, &payload),
            None => {
                // The worker would not do what it has to. So it is lost.
                tracing::error!("an order is too large to be sent");
                self.outbound.abandon();
            }
        }
    }

    async fn prepare(self: Arc<Self>, prepare: Prepare) -> Result<Prepared, Unprepared> {
        let Prepare { job, term, payload, parallelism, error_policy, limits, place, splits, events, fence: _ } =
            prepare;
        let name = payload.0.name().to_owned();
        // Everything else that it is told of a job comes behind this.
        if self.registered.clone().wait_for(Option::is_some).await.is_err() {
            return Err(Unprepared::Gone);
        }
        // Its `Serialize` is code of the user's, and it may be large.
        let whole = self.host.blocking(move || {
            let payload = payload.0.encode()?;
            let (limits, splits) = ((*limits).clone(), splits.map(|splits| Splits::clone(&splits)));
            let prepare = EncodedPrepare { job, term, payload, parallelism, error_policy, limits, place, splits };
            Ok(encoded(&FromNode::Worker(ToWorker::Prepare(Box::new(prepare)))))
        });
        let whole = whole.await.map_err(|_| Unprepared::Gone)?.map_err(Unprepared::NotSendable)?;
        self.outbound.drained(UNREAD_MAX).await;
        let Some(payload) = whole else {
            let message = "its parameters, with what its sources read, are too large to be sent".to_owned();
            return Err(Unprepared::NotSendable(NotSendable::Encode { job: name, message }));
        };
        self.state.lock().events.insert((job, term), events);
        let prepared = match self.ask(&payload, Waiting::Prepare) {
            Some(mut asked) => (&mut asked.answer).await.unwrap_or(Err(Unprepared::Gone)),
            None => Err(Unprepared::Gone),
        };
        if prepared.is_err() {
            self.state.lock().events.remove(&(job, term));
        }
        prepared
    }

    /// Takes an answer, unless nobody waits for it any more.
    fn answered(&self, id: u64, said: FromWorker) -> Result<(), Violation> {
        let Some(waiting) = self.state.lock().waiting.remove(&id) else { return Ok(()) };
        // Nobody may wait any more.
        match (waiting, said) {
            (Waiting::Prepare(tx), FromWorker::Prepared(answer)) => drop(tx.send(answer)),
            (Waiting::Connect(tx), FromWorker::Connected(answer)) => drop(tx.send(answer)),
            (Waiting::Progress(tx), FromWorker::Progressed(answer)) => drop(tx.send(answer)),
            _ => return Err(Violation::new(format_args!("an answer to something else than what {id} asked"))),
        }
        Ok(())
    }

    fn report(&self, event: WorkerEvent) {
        let events = self.state.lock().events.get(&(event.job, event.term)).cloned();
        // One of an attempt that was released is late.
        if let Some(events) = events {
            events(event);
        }
    }

    /// The connection is over: every question that waits is answered with that.
    fn end(&self) {
        let mut state = self.state.lock();
        state.is_over = true;
        let dropped = (std::mem::take(&mut state.waiting), std::mem::take(&mut state.events));
        drop(state);
        drop(dropped);
    }
}

impl WorkerLink for WorkerWay {
    fn prepare(&self, prepare: Prepare) -> BoxFuture<'static, Result<Prepared, Unprepared>> {
        Box::pin(Arc::clone(&self.0).prepare(prepare))
    }

    fn connect(&self, connect: Connect) -> BoxFuture<'static, Result<(), Unconnected>> {
        let asked = encoded(&FromNode::Worker(ToWorker::Connect(connect)))
            .and_then(|payload| self.0.ask(&payload, Waiting::Connect));
        Box::pin(async move {
            match asked {
                Some(mut asked) => (&mut asked.answer).await.unwrap_or(Err(Unconnected::Gone)),
                None => Err(Unconnected::Gone),
            }
        })
    }

    fn order(&self, order: Order) {
        if order.order == WorkerOrder::Release {
            let events = self.0.state.lock().events.remove(&(order.job, order.term));
            drop(events);
        }
        self.0.say(ToWorker::Order(order));
    }

    fn progress(&self, job: JobId) -> BoxFuture<'static, Progress> {
        let asked = encoded(&FromNode::Worker(ToWorker::Progress(job)))
            .and_then(|payload| self.0.ask(&payload, Waiting::Progress));
        Box::pin(async move {
            match asked {
                Some(mut asked) => (&mut asked.answer).await.unwrap_or_default(),
                None => Progress::default(),
            }
        })
    }

    fn address(&self) -> String {
        self.0.address.clone()
    }

    fn dismiss(&self) {
        self.0.say(ToWorker::Dismissed);
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        self.0.say(ToWorker::Close);
        let (host, mut over) = (self.0.host.clone(), self.0.over.clone());
        Box::pin(async move {
            // One that does not go is cut off when the node ends.
            let _ = host.timeout(FAREWELL_LIMIT, async move { while over.changed().await.is_ok() {} }).await;
        })
    }
}

/// A worker's connection.
pub(super) struct WorkerSession {
    server: Arc<Server>,
    incarnation: u128,
    outbound: Arc<Outbound>,
    access: Access,
    way: Option<Arc<Way>>,
    over: Option<watch::Receiver<()>>,
    /// Whether the JobManager has taken the worker.
    joined: Option<oneshot::Receiver<Result<WorkerId, Refusal>>>,
    tasks: LocalTasks,
}

impl WorkerSession {
    pub(super) fn new(server: Arc<Server>, incarnation: u128, outbound: Arc<Outbound>, access: Access) -> Self {
        Self {
            server,
            incarnation,
            outbound,
            access,
            way: None,
            over: None,
            joined: None,
            tasks: LocalTasks::default(),
        }
    }

    /// Talks until the connection ends, or `entry` is dismissed; then the JobManager has lost the worker, and knows it.
    pub(super) async fn run(mut self, reader: impl AsyncRead + Unpin, entry: &SessionEntry) -> String {
        let config = &self.server.config;
        let welcome =
            FromNode::Welcome { environment: config.environment.clone(), call_deadline: config.call_deadline };
        say(&self.outbound, 0, &welcome);
        self.over = Some(entry.over.clone());
        let (outbound, host) = (Arc::clone(&self.outbound), self.server.host().clone());
        let end = {
            let heartbeat = heartbeat_of_node();
            let running = connection::run(reader, &outbound, frame_limits(), heartbeat, &host, &mut self);
            match select(pin!(running), pin!(entry.dismissed.notified())).await {
                Either::Left((end, _)) => end.to_string(),
                Either::Right(_) => "its session was ended".to_owned(),
            }
        };
        outbound.abandon();
        if let Some(way) = &self.way {
            way.end();
        }
        // If the worker is about to be taken, the JobManager may have it already.
        if let Some(joined) = self.joined.take()
            && let Ok(Ok(worker)) = joined.await
        {
            self.server.link.leave(worker, end.clone(), Departure::Unreachable);
        }
        self.tasks.shutdown().await;
        end
    }

    fn register(&mut self, facts: WorkerFacts) -> Result<(), Violation> {
        if self.joined.is_some() {
            return Err(Violation::new("a worker registers twice"));
        }
        if facts.incarnation != self.incarnation {
            return Err(Violation::new("a worker that is another one than it has proven to be"));
        }
        let is_long = facts.name.len() > NAME_BYTES_MAX || facts.data_address.len() > NAME_BYTES_MAX;
        if is_long || facts.slots == 0 || facts.slots > SLOTS_MAX {
            return Err(Violation::new("no facts of a worker"));
        }
        let over = self.over.clone().expect("it is set before anything is heard");
        let (is_registered, registered) = watch::channel(None);
        let way = Arc::new(Way {
            outbound: Arc::clone(&self.outbound),
            address: facts.data_address.clone(),
            host: self.server.host().clone(),
            state: Mutex::default(),
            registered,
            over,
        });
        self.way = Some(Arc::clone(&way));
        let (server, link) = (Arc::clone(&self.server), Arc::new(WorkerWay(Arc::clone(&way))));
        let (tx, joined) = oneshot::channel();
        self.joined = Some(joined);
        self.tasks.spawn(async move {
            let joined = match server.admit(&facts).await {
                Ok(()) => server.link.join(facts, link).await,
                Err(message) => Err(Refusal::Forbidden { message }),
            };
            way.say(match &joined {
                Ok(worker) => ToWorker::Registered { worker: *worker, lease: LEASE },
                Err(refusal) => ToWorker::Refused(refusal.clone()),
            });
            // The JobManager may have asked already, which waits for this.
            is_registered.send_replace(joined.as_ref().ok().copied());
            // The session lives until it has this.
            let _ = tx.send(joined);
        });
        Ok(())
    }

    fn hear(&mut self, id: u64, said: FromWorker) -> Result<(), Violation> {
        if let FromWorker::Register(facts) = said {
            return self.register(facts);
        }
        let Some(way) = &self.way else { return Err(Violation::new("a worker that has not registered")) };
        match said {
            FromWorker::Event(event) => way.report(event),
            FromWorker::Drain => match *way.registered.borrow() {
                Some(worker) => self.server.link.drain(worker),
                None => return Err(Violation::new("a worker leaves that has not joined")),
            },
            answer => return way.answered(id, answer),
        }
        Ok(())
    }
}

impl Server {
    /// Whether a worker may join.
    ///
    /// # Errors
    ///
    /// A sentence that says why not.
    async fn admit(&self, facts: &WorkerFacts) -> Result<(), String> {
        match self.config.workers {
            AdmittedWorkers::Launched => Ok(()),
            AdmittedWorkers::None => Err("no worker may join: the node was not started to let them".to_owned()),
            AdmittedWorkers::SameProgram(digest) => {
                // A whole executable is read.
                let ours = self.host().blocking(digest).await.map_err(|error| error.to_string())?;
                let ours = ours.map_err(|error| format!("the node's program cannot be read: {error}"))?;
                let is_same = ours == facts.executable;
                is_same.then_some(()).ok_or_else(|| "the worker runs another program than the node".to_owned())
            }
        }
    }
}

impl Handler for WorkerSession {
    fn handle(&mut self, message: &Message<'_>) -> Result<(), Violation> {
        if message.kind != Kind::Message {
            return Err(Violation::new(format_args!("a message of kind {:?} from a worker", message.kind)));
        }
        let said = codec::decode::<FromClient>(message.payload).map_err(Violation::new)?;
        if let Err(obstacle) = self.access.check(&self.server, &said) {
            access::refuse(&self.outbound, message, &said, obstacle);
            return Ok(());
        }
        match said {
            FromClient::Worker(said) => self.hear(message.id, said),
            _ => Err(Violation::new("a worker says what a client says")),
        }
    }

    fn unheard_max(&self) -> usize {
        UNHEARD_MAX
    }
}
