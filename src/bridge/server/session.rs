//! One client's connection, on the node.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    future::Future,
    net::SocketAddr,
    rc::Rc,
    sync::{Arc, Weak},
};

use futures::future::{Either, join, select};
use sha2::{Digest, Sha256};
use tokio::{
    io::AsyncRead,
    sync::{Notify, Semaphore, oneshot},
};

use super::{
    access::{self, Access},
    ends::Ends,
    input::InputPump,
    output::OutputPump,
    pending::{Held, Pending, at_once, waits},
    say::say,
    service::{Calls, Route, RouteCredit, Telling},
    state::{Question, Server},
    tally::Tally,
};
use crate::{
    bridge::{
        ById,
        connection::{self, Handler, Violation},
        frame::{FrameLimits, Kind, Message},
        key::KeyId,
        message::{
            FromClient, FromNode, Goodbye, InputFault, OpenRoute, OutputFault, REQUESTS_MAX, RouteFault, STREAMS_MAX,
            run_head,
        },
        outbound::Outbound,
    },
    codec,
    flow::Opening,
    host::{LocalTask, LocalTasks},
    job::{EncodedJob, JobId, JobOptions, NAME_BYTES_MAX},
    link::{JobRequest, Keep, NodeStop, Opened, Refusal, Reply, Request, SubmitJob},
    port::{ClientId, InputError, OutputError, WriterId},
    schema::{Fingerprint, TypeDescription},
    service::{Answers, CallError, Origin, bound_to},
};

/// Bytes of parameters that are no burden: their digest costs less than the way to another thread and back.
const DIGESTED_HERE_MAX: usize = 4096;

/// Is never sent: that it is dropped is what is waited for.
enum Never {}

/// Answers that are made for one client at the same time, of those that are made at once.
const ANSWERS_AT_ONCE: usize = 8;

/// Jobs of one client whose parameters are decoded at the same time.
const DECODED_AT_ONCE: usize = 4;

/// A message that is no submit, at most: it consists of ids and names.
const PLAIN_BYTES_MAX: usize = 1 << 20;

/// Tasks of a session: one for each question, and for each stream that is open or about to end.
const TASKS_MAX: usize = REQUESTS_MAX + 3 * STREAMS_MAX;

pub(super) struct Session {
    pub(super) server: Arc<Server>,
    client: ClientId,
    /// Where the connection comes from, for those who ask who holds a job.
    from: Option<String>,
    pub(super) outbound: Arc<Outbound>,
    access: Access,
    /// What this connection has, and the others with the same key.
    tally: Arc<Tally>,
    pending: Rc<Pending>,
    answers: Arc<Semaphore>,
    decoding: Arc<Semaphore>,
    streams: Rc<RefCell<Streams>>,
    /// Everything that is done for this client and takes its time. Nothing of it outlives the session.
    tasks: LocalTasks,
    calls: Arc<Calls>,
    /// Routes with credit to give back when all that was read is handled.
    touched: Vec<Arc<RouteCredit>>,
    telling: Telling,
}

/// What is open on this connection, by correlation id.
#[derive(Default)]
pub(super) struct Streams {
    requests: BTreeMap<u64, LocalTask>,
    /// What keeps a job readable for a handle of the client, by the question that the handle came from.
    holds: BTreeMap<u64, Keep>,
    /// Without a value while the service is looked for.
    routes: ById<Option<Route>>,
    outputs: BTreeMap<u64, Rc<OutputPump>>,
    inputs: BTreeMap<u64, Rc<InputPump>>,
}

impl Streams {
    /// The question is not waited for, or the handle that came of it is gone.
    fn forget(&mut self, id: u64) {
        self.holds.remove(&id);
        if let Some(request) = self.requests.remove(&id) {
            request.abort();
        }
    }
}

impl Session {
    pub(super) fn new(
        server: Arc<Server>,
        (client, from): (ClientId, Option<SocketAddr>),
        outbound: Arc<Outbound>,
        access: Access,
        tally: Arc<Tally>,
    ) -> Self {
        let calls = Calls::new(&tally, &outbound);
        Self {
            server,
            client,
            from: from.map(|address| address.to_string()),
            outbound,
            access,
            pending: Pending::new(&tally),
            answers: Arc::new(Semaphore::new(ANSWERS_AT_ONCE)),
            decoding: Arc::new(Semaphore::new(DECODED_AT_ONCE)),
            streams: Rc::default(),
            tasks: LocalTasks::default(),
            calls,
            tally,
            touched: Vec::new(),
            telling: Telling::default(),
        }
    }

    /// Talks until the connection ends, or `dismissed`; then nothing of the session is left.
    pub(super) async fn run(mut self, reader: impl AsyncRead + Unpin, dismissed: &Notify) -> String {
        let config = &self.server.config;
        let welcome =
            FromNode::Welcome { environment: config.environment.clone(), call_deadline: config.call_deadline };
        say(&self.outbound, 0, &welcome);
        let (outbound, heartbeat) = (Arc::clone(&self.outbound), config.heartbeat);
        let host = self.server.link.host().clone();
        let end = {
            let running = connection::run(reader, &outbound, FrameLimits::default(), heartbeat, &host, &mut self);
            match select(std::pin::pin!(running), std::pin::pin!(dismissed.notified())).await {
                Either::Left((end, _)) => end.to_string(),
                Either::Right(_) => format!("{:?}", Goodbye::Replaced),
            }
        };
        // What came before the end was accepted.
        self.hand_in();
        outbound.abandon();
        // Waited for, so that what they hold is free again before anybody hears that the session is over.
        self.tasks.shutdown().await;
        self.calls.withdraw_all();
        end
    }

    /// Asks once there is room for the answer, so that answers do not pile up for a client that does not read.
    fn ask(&self, request: Request) -> impl Future<Output = Result<Reply, Refusal>> + use<> {
        let (server, outbound, answers) =
            (Arc::clone(&self.server), Arc::clone(&self.outbound), Arc::clone(&self.answers));
        let (access, tally) = (self.access.clone(), Arc::clone(&self.tally));
        let waits = waits(&request);
        let pending = (!waits).then(|| Held::new(&self.pending, 0));
        async move {
            if waits {
                let answer = server.ask(request.clone()).await;
                let unread = outbound.backlog();
                if unread <= tally.unread_max(unread) || !matches!(answer, Ok(Reply::Status(_))) {
                    return answer;
                }
            }
            let _permit = answers.acquire_owned().await;
            outbound.drained(tally.unread_max(outbound.backlog())).await;
            let mut answer = server.ask(at_once(request)).await;
            drop(pending);
            if let Ok(reply) = &mut answer {
                access.reduce(&server, reply);
            }
            answer
        }
    }

    fn hear(&mut self, message: &Message<'_>) -> Result<(), Violation> {
        let said = codec::decode::<FromClient>(message.payload).map_err(Violation::new)?;
        if message.payload.len() > PLAIN_BYTES_MAX && !matches!(said, FromClient::Submit { .. }) {
            return Err(Violation::new(format_args!("a question of more than {PLAIN_BYTES_MAX} bytes")));
        }
        if let Err(obstacle) = self.access.check(&self.server, &said) {
            access::refuse(&self.outbound, message, &said, obstacle);
            return Ok(());
        }
        self.follow(message.id, said)
    }

    /// Does what the client said, which it may.
    fn follow(&mut self, id: u64, said: FromClient) -> Result<(), Violation> {
        match said {
            FromClient::Ask(Request::Job { job, request: JobRequest::Open { .. } }) if !self.access.may_hold() => {
                let opened = self.open_unheld(job);
                self.answer(id, opened)
            }
            FromClient::Worker(_) => Err(Violation::new("a client says what a worker says")),
            FromClient::Ask(mut request) => {
                if let Request::Job { request: JobRequest::Open { by }, .. } = &mut request {
                    by.address.clone_from(&self.from);
                }
                let answer = self.ask(request);
                self.answer(id, answer)
            }
            FromClient::Submit { id: job, mut options, job: encoded } => {
                options.by.address.clone_from(&self.from);
                self.submit(id, job, options, encoded)
            }
            FromClient::StopNode(how) => self.stop_node(id, how),
            said @ (FromClient::ListKeys | FromClient::AddKey { .. } | FromClient::RevokeKey { .. }) => {
                let changed = self.change_keys(said);
                self.answer(id, changed)
            }
            FromClient::Forget => {
                self.streams.borrow_mut().forget(id);
                Ok(())
            }
            FromClient::OpenRoute(open) => self.open_route(id, open),
            FromClient::CloseRoute => {
                self.streams.borrow_mut().routes.remove(&id);
                Ok(())
            }
            FromClient::Withdraw => {
                self.calls.withdraw(id);
                Ok(())
            }
            FromClient::OpenOutput { job, output, item_type, from } => {
                self.open_output(id, job, output, item_type, from)
            }
            FromClient::OutputCredit { consumed } => {
                let pump = self.streams.borrow().outputs.get(&id).cloned();
                pump.map_or(Ok(()), |pump| pump.consumed(consumed))
            }
            FromClient::CloseOutput { consumed } => {
                let pump = self.streams.borrow_mut().outputs.remove(&id);
                pump.map_or(Ok(()), |pump| pump.close(consumed))
            }
            FromClient::OpenInput { job, input, item_type, writer } => {
                self.open_input(id, job, input, item_type, writer)
            }
            FromClient::FinishInput => {
                self.streams.borrow().inputs.get(&id).into_iter().for_each(|pump| pump.finish());
                Ok(())
            }
            FromClient::CloseInput => {
                let pump = self.streams.borrow_mut().inputs.remove(&id);
                pump.into_iter().for_each(|pump| pump.close(true));
                Ok(())
            }
        }
    }

    fn open_unheld(&self, job: JobId) -> impl Future<Output = Result<Reply, Refusal>> + use<> {
        let status = self.ask(Request::Job { job, request: JobRequest::JobStatus });
        async move {
            match status.await? {
                Reply::Status(status) => Ok(Reply::Opened(Opened::new(status.name, Keep::default()))),
                other => Ok(other),
            }
        }
    }

    /// Not on this thread, for it waits for a disk.
    fn change_keys(&self, said: FromClient) -> impl Future<Output = Result<Reply, Refusal>> + use<> {
        let server = Arc::clone(&self.server);
        let changed = self.server.link.host().blocking(move || server.change_keys(said));
        async move { changed.await.unwrap_or(Err(Refusal::EnvironmentClosed)) }
    }

    fn open_output(
        &mut self,
        id: u64,
        job: JobId,
        output: String,
        item_type: Fingerprint,
        from: u64,
    ) -> Result<(), Violation> {
        self.bounded(|streams| streams.outputs.len())?;
        self.unused(id, |streams| streams.outputs.contains_key(&id))?;
        if output.len() > NAME_BYTES_MAX {
            let error = OutputError::NoSuchOutput { output, existing: Vec::new() };
            say(&self.outbound, id, &FromNode::OutputOpened(Err(OutputFault::Refused(error))));
            return Ok(());
        }
        let pump = OutputPump::new(id, from);
        self.streams.borrow_mut().outputs.insert(id, Rc::clone(&pump));
        let (ends, pending) = (self.ends(), Held::new(&self.pending, 0));
        self.tasks.spawn(pump.run(ends, pending, job, output, item_type));
        Ok(())
    }

    fn open_input(
        &mut self,
        id: u64,
        job: JobId,
        input: String,
        item_type: Fingerprint,
        writer: u128,
    ) -> Result<(), Violation> {
        self.bounded(|streams| streams.inputs.len())?;
        // After a refusal it is opened again.
        self.unused(id, |streams| streams.inputs.get(&id).is_some_and(|before| !before.is_closed()))?;
        if input.len() > NAME_BYTES_MAX {
            let error = InputError::NoSuchInput { input, existing: Vec::new() };
            say(&self.outbound, id, &FromNode::InputOpened(Err(InputFault::Refused(error))));
            return Ok(());
        }
        let pump = InputPump::new(id, WriterId { client: self.client, number: writer });
        self.streams.borrow_mut().inputs.insert(id, Rc::clone(&pump));
        let (ends, pending) = (self.ends(), Held::new(&self.pending, 0));
        self.tasks.spawn(pump.run(ends, pending, job, input, item_type));
        Ok(())
    }

    /// Between which a stream of items runs.
    fn ends(&self) -> Ends {
        Ends { link: Arc::clone(&self.server.link), outbound: Arc::clone(&self.outbound), access: self.access.clone() }
    }

    fn bounded(&self, count: impl FnOnce(&Streams) -> usize) -> Result<(), Violation> {
        // What was closed may still be about to end.
        if count(&self.streams.borrow()) < STREAMS_MAX && self.tasks.len() < TASKS_MAX {
            return Ok(());
        }
        Err(Violation::new(format_args!("more than {STREAMS_MAX} streams of one kind are open")))
    }

    /// What is under way is counted by its number.
    fn unused(&self, id: u64, is_used: impl FnOnce(&Streams) -> bool) -> Result<(), Violation> {
        if is_used(&self.streams.borrow()) {
            return Err(Violation::new(format_args!("the number {id} is used twice")));
        }
        Ok(())
    }

    /// Answers a question when `answer` is ready.
    fn answer(
        &mut self,
        id: u64,
        answer: impl Future<Output = Result<Reply, Refusal>> + 'static,
    ) -> Result<(), Violation> {
        if self.streams.borrow().requests.len() >= REQUESTS_MAX {
            return Err(Violation::new(format_args!("more than {REQUESTS_MAX} questions wait for an answer")));
        }
        self.unused(id, |streams| streams.requests.contains_key(&id))?;
        let (outbound, streams) = (Arc::clone(&self.outbound), Rc::clone(&self.streams));
        let question = Question::new(&self.server.questions);
        // In a box, because a future is moved and copied several times on its way to where it runs.
        let answer = Box::pin(answer);
        let task = self.tasks.spawn(async move {
            let reply = answer.await;
            let mut streams = streams.borrow_mut();
            streams.requests.remove(&id);
            if let Ok(Reply::Opened(opened)) = &reply
                && streams.holds.len() < STREAMS_MAX
            {
                streams.holds.insert(id, opened.keep.clone());
            }
            drop(streams);
            say(&outbound, id, &FromNode::Reply(reply));
            drop(question);
        });
        self.streams.borrow_mut().requests.insert(id, task);
        Ok(())
    }

    fn stop_node(&mut self, id: u64, how: NodeStop) -> Result<(), Violation> {
        // Noted as a question first: the node, on its own thread, waits for the answers of all there are before it says
        // goodbye, and may have nothing else to wait for.
        self.answer(id, async { Ok(Reply::Done(())) })?;
        // The node that listens for it outlives its sessions.
        let _ = self.server.stops.send(how);
        Ok(())
    }

    fn submit(&mut self, id: u64, job: JobId, options: JobOptions, encoded: EncodedJob) -> Result<(), Violation> {
        let (server, decoding) = (Arc::clone(&self.server), Arc::clone(&self.decoding));
        let (access, pending) = (self.access.clone(), Held::new(&self.pending, encoded.parameters.len()));
        self.answer(id, async move {
            if !server.accepts_jobs() {
                return Err(Refusal::EnvironmentClosed);
            }
            let turn = decoding.acquire_owned().await;
            let (key, host) = (access.key(), server.link.host().clone());
            // First, so that of another key's job nothing shows, and nothing is noted, but that it does not exist.
            let claim = if access.is_unlimited() { None } else { Some(server.claim(job, &access.0).await?) };
            // Parameters may be large, and their `Deserialize` is code of the user's. The pool drops what it has not begun
            // when it is shut down; panics were caught.
            let (digest, encoded) = if encoded.parameters.len() <= DIGESTED_HERE_MAX {
                (digest_of(&encoded, key), encoded)
            } else {
                let digested = host.blocking(move || (digest_of(&encoded, key), encoded)).await;
                digested.map_err(|_| Refusal::EnvironmentClosed)?
            };
            if !server.remembers(job, digest) {
                return Err(Refusal::Internal(format!("{job} was submitted before, as another job")));
            }
            // The bytes count until they are decoded, or dropped because nobody needs them; where they are few, it is not
            // worth being woken for.
            let (decodes, decoded) = oneshot::channel::<Never>();
            let is_large = encoded.parameters.len() > DIGESTED_HERE_MAX;
            let opening = Opening { resolver: access.resolver(&server), held: Box::new((turn, decodes)) };
            let payload = server.config.registry.sealed(encoded, opening).map_err(Refusal::Job)?;
            let submitted = server.link.submit(SubmitJob { id: job, options, payload });
            let submitted = async {
                match claim {
                    Some(claim) => claim.follow(submitted).await,
                    None => submitted.await,
                }
            };
            let counted = async move {
                if is_large {
                    let _ = decoded.await;
                }
                drop(pending);
            };
            let (submitted, ()) = join(submitted, counted).await;
            submitted.map(Reply::Opened)
        })
    }

    fn open_route(&mut self, id: u64, open: OpenRoute) -> Result<(), Violation> {
        let OpenRoute { job, service, actor, message, message_type, reply_type } = open;
        self.bounded(|streams| streams.routes.len())?;
        self.unused(id, |streams| streams.routes.contains_key(&id))?;
        if service.len() > NAME_BYTES_MAX {
            let error = CallError::NoSuchService { service, existing: Vec::new() };
            say(&self.outbound, id, &FromNode::RouteOpened(Err(RouteFault::Refused(error))));
            return Ok(());
        }
        let pending = Held::new(&self.pending, 0);
        self.streams.borrow_mut().routes.insert(id, None);
        let (outbound, streams) = (Arc::clone(&self.outbound), Rc::clone(&self.streams));
        let gate = self.server.link.gate(job, &service);
        let resolver = self.access.resolver(&self.server);
        let answers: Weak<dyn Answers> = Arc::<Calls>::downgrade(&self.calls);
        self.tasks.spawn(async move {
            let mut watch = None;
            let opened = async {
                let gate = gate.await.map_err(RouteFault::Refused)?;
                if simple_name(gate.actor()) != simple_name(&actor) {
                    let registered = gate.actor().to_owned();
                    let error = CallError::WrongService { service: gate.name().to_owned(), asked: actor, registered };
                    return Err(RouteFault::Refused(error));
                }
                let entrance = gate.entrance(&message).map_err(RouteFault::Refused)?;
                let described = |there: Arc<TypeDescription>| Box::new((*there).clone());
                if entrance.message_type().fingerprint() != message_type {
                    return Err(RouteFault::MessageDiffers(described(entrance.message_type())));
                }
                if entrance.reply_type().fingerprint() != reply_type {
                    return Err(RouteFault::ReplyDiffers(described(entrance.reply_type())));
                }
                let way = entrance.way(Origin::Outside, resolver, answers);
                let credit = RouteCredit::new(id, &outbound);
                let watcher = Arc::downgrade(&credit);
                watch = Some((Arc::clone(&entrance), watcher));
                // It may have been closed meanwhile.
                if let Some(route) = streams.borrow_mut().routes.get_mut(&id) {
                    *route = Some(Route { entrance, way, credit });
                }
                Ok(())
            };
            let opened = opened.await;
            if opened.is_err() {
                streams.borrow_mut().routes.remove(&id);
            }
            drop(pending);
            say(&outbound, id, &FromNode::RouteOpened(opened));
            if let Some((entrance, watcher)) = watch {
                entrance.watch(watcher);
            }
        });
        Ok(())
    }

    fn call(&mut self, message: &Message<'_>) -> Result<(), Violation> {
        let Some((route, bytes)) = message.payload.split_first_chunk::<8>() else {
            return Err(Violation::new("a call that names no route"));
        };
        let (calls, id) = (&self.calls, message.id);
        // No code of the user's runs in here, and nothing that asks for a route.
        let underway = self.route(u64::from_le_bytes(*route), |route| match calls.begin(id)? {
            Ok(()) => Ok(route.entrance.call(bytes, &route.way, id)),
            Err(error) => {
                calls.fail(id, error);
                Ok(None)
            }
        })?;
        if let Some(withdraw) = underway? {
            calls.is_underway(id, withdraw);
        }
        Ok(())
    }

    /// Messages of one route that follow each other are handed in together.
    fn tell(&mut self, message: &Message<'_>) -> Result<(), Violation> {
        if !self.telling.takes(message) {
            self.hand_in();
            let route = self.route(message.id, Clone::clone)?;
            if !self.touched.iter().any(|touched| Arc::ptr_eq(touched, &route.credit)) {
                route.credit.reading(true);
                self.touched.push(Arc::clone(&route.credit));
            }
            self.telling.begin(message.id, route);
        }
        self.telling.add(message)
    }

    /// Hands to their service the messages that were read and told.
    fn hand_in(&mut self) {
        if self.telling.is_begun() {
            let resolver = self.access.resolver(&self.server);
            bound_to(resolver, || self.telling.hand_in());
        }
    }

    fn route<R>(&self, id: u64, what: impl FnOnce(&Route) -> R) -> Result<R, Violation> {
        let route = self.streams.borrow().routes.get(&id).and_then(Option::as_ref).map(what);
        route.ok_or_else(|| Violation::new("a message over a route that is not open"))
    }
}

/// The name of a type without its module and its parameters: two programs may have it in different places.
fn simple_name(type_name: &str) -> &str {
    let plain = type_name.split('<').next().unwrap_or(type_name);
    plain.rsplit("::").next().unwrap_or(plain)
}

/// Tells two jobs apart that were submitted under one id.
fn digest_of(job: &EncodedJob, key: KeyId) -> u128 {
    let mut digest = Sha256::new();
    digest.update(key.to_bytes());
    digest.update((job.name.len() as u64).to_le_bytes());
    digest.update(job.name.as_bytes());
    digest.update(job.version.to_le_bytes());
    digest.update(&job.parameters);
    let (first, _) =
        digest.finalize().split_first_chunk::<16>().map(|(first, rest)| (*first, rest.len())).expect("it has 32 bytes");
    u128::from_le_bytes(first)
}

impl Handler for Session {
    fn handle(&mut self, message: &Message<'_>) -> Result<(), Violation> {
        if message.kind != Kind::Tell {
            self.hand_in();
        }
        match message.kind {
            Kind::Message => self.hear(message),
            Kind::Call => self.call(message),
            Kind::Tell => self.tell(message),
            Kind::Items => {
                let (first, items, bytes) = run_head(message.payload)?;
                // An input that was closed on this side is passed over, until it is opened again.
                let pump = self.streams.borrow().inputs.get(&message.id).cloned();
                pump.map_or(Ok(()), |pump| pump.receive(first, items, bytes))
            }
            kind => Err(Violation::new(format_args!("a message of kind {kind:?} from a client"))),
        }
    }

    fn has_room(&self) -> bool {
        let unread = self.outbound.backlog();
        unread <= self.tally.unread_max(unread) && self.pending.has_room()
    }

    async fn ready(&mut self) {
        self.hand_in();
        for credit in self.touched.drain(..) {
            credit.reading(false);
        }
        self.tasks.forget_ended();
        self.outbound.drained(self.tally.unread_max(self.outbound.backlog())).await;
        self.pending.room().await;
    }
}
