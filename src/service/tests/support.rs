//! A stage with one arbiter, and a service that does what its messages say.

use std::{
    future::Future,
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};

use actix::{
    Actor, ActorContext, AsyncContext, AtomicResponse, Context, Handler, Message, ResponseActFuture, ResponseFuture,
    Running, WrapFuture,
};
use actix_rt::{Arbiter, ArbiterHandle, System};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, oneshot};

use crate::{
    blocking::block_on,
    host::{Fence, Host, TimerThread},
    job::{Incarnation, JobId, Limits, ServiceId},
    protocol::ServiceEvent,
    service::{
        ErasedService, MessageTable, Origin, Service, ServiceContext, ServiceDirectory, ServiceRef, service_plan,
    },
};

const PATIENCE: Duration = Duration::from_secs(20);

/// The next thing that `receiver` hears of, which must come.
pub(crate) fn next<T>(receiver: &mpsc::Receiver<T>, what: &str) -> T {
    receiver.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

/// Runs `future` on a thread of its own.
pub(crate) fn in_background<F>(future: F) -> mpsc::Receiver<F::Output>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    let (tx, rx) = mpsc::channel();
    thread::spawn(move || tx.send(block_on(future)));
    rx
}

/// Polls once, with a waker that does nothing.
pub(crate) fn poll_once<F: Future + Unpin>(future: &mut F) -> std::task::Poll<F::Output> {
    std::pin::Pin::new(future).poll(&mut std::task::Context::from_waker(std::task::Waker::noop()))
}

/// An actix system with one arbiter, and a timer.
pub(crate) struct Stage {
    pub(crate) arbiter: ArbiterHandle,
    pub(crate) host: Host,
    end: Option<oneshot::Sender<()>>,
    system: Option<JoinHandle<()>>,
    timer_thread: Option<TimerThread>,
}

impl Stage {
    pub(crate) fn new() -> Self {
        let (host, timer_thread) = Host::of_tests();
        let (ready, arbiter) = mpsc::channel();
        let (end, ended) = oneshot::channel();
        let system = thread::spawn(move || {
            System::new().block_on(async move {
                let arbiter = Arbiter::new();
                ready.send(arbiter.handle()).expect("the test waits");
                ended.await.ok();
                arbiter.stop();
                arbiter.join().expect("nothing panics through the arbiter");
            });
        });
        let arbiter = next(&arbiter, "the arbiter");
        Self { arbiter, host, end: Some(end), system: Some(system), timer_thread: Some(timer_thread) }
    }

    /// Ends the arbiter with all that is on it.
    pub(crate) fn close(&mut self) {
        drop(self.end.take());
        if let Some(system) = self.system.take() {
            system.join().expect("the system's thread ends");
        }
        if let Some(thread) = self.timer_thread.take() {
            thread.stop_and_join();
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if !thread::panicking() {
            self.close();
        }
    }
}

/// A hosted [`Probe`], with everything a test wants to see of it.
pub(crate) struct Hosted {
    pub(crate) recipe: Box<dyn ErasedService>,
    pub(crate) directory: Arc<ServiceDirectory>,
    pub(crate) world: Arc<World>,
    reports: mpsc::Receiver<(Incarnation, ServiceEvent)>,
    sink: mpsc::Sender<(Incarnation, ServiceEvent)>,
    arbiter: ArbiterHandle,
    pub(crate) fence: Fence,
}

impl Hosted {
    pub(crate) fn handled(&self) -> u64 {
        self.recipe.gate().counts(ServiceId(0)).handled()
    }

    pub(crate) fn queued(&self) -> u64 {
        self.recipe.gate().counts(ServiceId(0)).queued()
    }

    pub(crate) fn new(stage: &Stage, limits: &Limits) -> Self {
        Self::acting(stage, limits, Act::default())
    }

    pub(crate) fn acting(stage: &Stage, limits: &Limits, act: Act) -> Self {
        let world = Arc::new(World::new(act));
        let factory = {
            let world = Arc::clone(&world);
            move |_: &ServiceContext| {
                assert!(!world.act.factory_panics, "the factory is on fire");
                Probe { world: Arc::clone(&world) }
            }
        };
        let plan = service_plan("probe", factory, limits);
        let gate = plan.open_gate();
        let recipe = plan.host(&gate, None);
        let directory = ServiceDirectory::new(JobId::random(), vec![gate], stage.host.clone(), limits.call_deadline);
        let (sink, reports) = mpsc::channel();
        Self { recipe, directory, world, reports, sink, arbiter: stage.arbiter.clone(), fence: Fence::default() }
    }

    /// With limits that suit most tests, and running.
    pub(crate) fn running(stage: &Stage) -> Self {
        let hosted = Self::new(stage, &Limits::default());
        hosted.start(0);
        hosted.expect(0, ServiceEvent::Started);
        hosted
    }

    pub(crate) fn start(&self, incarnation: u32) {
        let context = ServiceContext::new(Arc::clone(&self.directory), "probe").behind(self.fence.clone());
        let sink = self.sink.clone();
        let events = Arc::new(move |incarnation, event| drop(sink.send((incarnation, event))));
        if let Some(launch) = self.recipe.start(Incarnation(incarnation), context, events) {
            self.arbiter.spawn_fn(launch);
        }
    }

    pub(crate) fn service(&self, origin: Origin) -> ServiceRef<Probe> {
        self.directory.get("probe", origin).expect("the probe is registered")
    }

    pub(crate) fn report(&self) -> (u32, ServiceEvent) {
        let (incarnation, event) = next(&self.reports, "a report of the service");
        (incarnation.0, event)
    }

    pub(crate) fn expect(&self, incarnation: u32, event: ServiceEvent) {
        assert_eq!(self.report(), (incarnation, event));
    }

    pub(crate) fn expect_failure(&self, incarnation: u32, words: &str) {
        match self.report() {
            (number, ServiceEvent::Failed { message }) if number == incarnation && message.contains(words) => {}
            other => panic!("expected {incarnation} to fail with `{words}`, got {other:?}"),
        }
    }

    pub(crate) fn stop(&self, incarnation: u32) {
        self.recipe.stop(Incarnation(incarnation));
    }

    /// What is left of the reports.
    pub(crate) fn no_more_reports(&self) {
        assert_eq!(self.reports.try_iter().collect::<Vec<_>>(), []);
    }
}

/// What an instance does unasked.
#[derive(Debug, Default)]
pub(crate) struct Act {
    pub(crate) factory_panics: bool,
    pub(crate) started_panics: bool,
    pub(crate) stopping_panics_once: bool,
    pub(crate) stopping_continues: bool,
    pub(crate) stopped_panics: bool,
    /// `started` waits for a permit before messages are taken.
    pub(crate) started_waits: bool,
}

/// What the test and the service share.
pub(crate) struct World {
    pub(crate) act: Act,
    pub(crate) log: Mutex<Vec<String>>,
    /// Each permit lets one waiting handler go on.
    pub(crate) go_on: Semaphore,
    begun_tx: mpsc::Sender<()>,
    begun: Mutex<mpsc::Receiver<()>>,
    pub(crate) unhang: mpsc::Sender<()>,
    hang: Mutex<mpsc::Receiver<()>>,
}

impl World {
    fn new(act: Act) -> Self {
        let (begun_tx, begun) = mpsc::channel();
        let (unhang, hang) = mpsc::channel();
        Self {
            act,
            log: Mutex::new(Vec::new()),
            go_on: Semaphore::new(0),
            begun_tx,
            begun: Mutex::new(begun),
            unhang,
            hang: Mutex::new(hang),
        }
    }

    pub(crate) fn note(&self, what: impl Into<String>) {
        self.log.lock().push(what.into());
    }

    pub(crate) fn noted(&self, what: &str) -> usize {
        self.log.lock().iter().filter(|entry| *entry == what).count()
    }

    /// A handler has begun and waits.
    pub(crate) fn wait_until_begun(&self) {
        next(&self.begun.lock(), "a handler to begin");
    }

    fn begin(&self) {
        self.begun_tx.send(()).expect("the world has the other end");
    }

    async fn wait(self: Arc<Self>) {
        self.begin();
        self.go_on.acquire().await.expect("the semaphore is never closed").forget();
    }
}

/// Does what its messages say.
pub(crate) struct Probe {
    world: Arc<World>,
}

impl Actor for Probe {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.world.note("started");
        if self.world.act.started_waits {
            ctx.wait(Arc::clone(&self.world).wait().into_actor(self));
        }
        assert!(!self.world.act.started_panics, "no start today");
    }

    fn stopping(&mut self, _: &mut Self::Context) -> Running {
        let first = self.world.noted("stopping") == 0;
        self.world.note("stopping");
        assert!(!(self.world.act.stopping_panics_once && first), "no stopping yet");
        if self.world.act.stopping_continues { Running::Continue } else { Running::Stop }
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.world.note("stopped");
        assert!(!self.world.act.stopped_panics, "no end in sight");
    }
}

impl Service for Probe {
    fn messages(table: &mut MessageTable<Self>) {
        table
            .accept::<Double>("double")
            .accept::<Note>("note")
            .accept::<Panic>("panic")
            .accept::<Later>("later")
            .accept::<LaterTell>("later-tell")
            .accept::<LaterInActor>("later-in-actor")
            .accept::<Alone>("alone")
            .accept::<LoseReply>("lose-reply")
            .accept::<PanicInActor>("panic-in-actor")
            .accept::<Hang>("hang")
            .accept::<StopYourself>("stop-yourself")
            .accept::<Sour>("sour");
    }
}

macro_rules! messages {
    ($($(#[$doc:meta])* $name:ident $(($field:ty))? -> $result:ty;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Serialize, Deserialize)]
        pub(crate) struct $name $((pub(crate) $field))?;
        impl Message for $name {
            type Result = $result;
        }
    )*};
}

messages! {
    Double(u64) -> u64;
    Note(String) -> ();
    Panic -> ();
    /// Replies when let go on; the actor goes on meanwhile.
    Later(u64) -> u64;
    /// The same, for a tell: notes `done`.
    LaterTell -> ();
    /// Replies when let go on, from a future of the actor.
    LaterInActor(u64) -> u64;
    /// Replies when let go on; the actor handles nothing meanwhile.
    Alone(u64) -> u64;
    LoseReply -> ();
    PanicInActor -> ();
    /// Blocks the thread.
    Hang -> ();
    StopYourself -> ();
    /// Handled, but not in the table.
    Unlisted -> ();
}

impl Handler<Double> for Probe {
    type Result = u64;
    fn handle(&mut self, Double(n): Double, _: &mut Self::Context) -> u64 {
        2 * n
    }
}

impl Handler<Note> for Probe {
    type Result = ();
    fn handle(&mut self, Note(text): Note, _: &mut Self::Context) {
        self.world.note(text);
    }
}

impl Handler<Panic> for Probe {
    type Result = ();
    fn handle(&mut self, _: Panic, _: &mut Self::Context) {
        panic!("as told");
    }
}

impl Handler<Later> for Probe {
    type Result = ResponseFuture<u64>;
    fn handle(&mut self, Later(n): Later, _: &mut Self::Context) -> Self::Result {
        let wait = Arc::clone(&self.world).wait();
        Box::pin(async move {
            wait.await;
            n
        })
    }
}

impl Handler<LaterTell> for Probe {
    type Result = ResponseFuture<()>;
    fn handle(&mut self, _: LaterTell, _: &mut Self::Context) -> Self::Result {
        let world = Arc::clone(&self.world);
        Box::pin(async move {
            Arc::clone(&world).wait().await;
            world.note("done");
        })
    }
}

impl Handler<LaterInActor> for Probe {
    type Result = ResponseActFuture<Self, u64>;
    fn handle(&mut self, LaterInActor(n): LaterInActor, _: &mut Self::Context) -> Self::Result {
        let wait = Arc::clone(&self.world).wait();
        Box::pin(
            async move {
                wait.await;
                n
            }
            .into_actor(self),
        )
    }
}

impl Handler<Alone> for Probe {
    type Result = AtomicResponse<Self, u64>;
    fn handle(&mut self, Alone(n): Alone, _: &mut Self::Context) -> Self::Result {
        let wait = Arc::clone(&self.world).wait();
        let reply = async move {
            wait.await;
            n
        };
        AtomicResponse::new(Box::pin(reply.into_actor(self)))
    }
}

impl Handler<LoseReply> for Probe {
    type Result = ResponseFuture<()>;
    fn handle(&mut self, _: LoseReply, _: &mut Self::Context) -> Self::Result {
        Box::pin(async { panic!("a reply goes missing") })
    }
}

impl Handler<PanicInActor> for Probe {
    type Result = ResponseActFuture<Self, ()>;
    fn handle(&mut self, _: PanicInActor, _: &mut Self::Context) -> Self::Result {
        Box::pin(async { panic!("inside the actor") }.into_actor(self))
    }
}

impl Handler<Hang> for Probe {
    type Result = ();
    fn handle(&mut self, _: Hang, _: &mut Self::Context) {
        self.world.begin();
        next(&self.world.hang.lock(), "the test to end the hanging");
    }
}

impl Handler<StopYourself> for Probe {
    type Result = ();
    fn handle(&mut self, _: StopYourself, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

/// Cannot be decoded if it is odd.
#[derive(Debug, Serialize)]
pub(crate) struct Sour(pub(crate) u64);

impl<'de> Deserialize<'de> for Sour {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = u64::deserialize(deserializer)?;
        if number % 2 == 0 { Ok(Self(number)) } else { Err(serde::de::Error::custom("it is odd")) }
    }
}

impl Message for Sour {
    type Result = ();
}

impl Handler<Sour> for Probe {
    type Result = ();
    fn handle(&mut self, Sour(number): Sour, _: &mut Self::Context) {
        self.world.note(number.to_string());
    }
}

impl Handler<Unlisted> for Probe {
    type Result = ();
    fn handle(&mut self, _: Unlisted, _: &mut Self::Context) {}
}
