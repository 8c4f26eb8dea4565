//! What a worker does where it is one of several in an attempt: it meets the others, lays its part of the channels, and
//! reports the end of a task only once all that the task sent has arrived.

use std::{collections::BTreeMap, sync::Arc};

use actix::{ActorFutureExt, AsyncContext, Context, Handler, Message, ResponseActFuture, WrapFuture};
use futures::future::try_join_all;

use super::{
    HostedService, Worker,
    relay::{
        CallsAtHome, CallsAtWorker, InputsAtHome, InputsAtWorker, InstancesAtHome, InstancesAtWorker, OutputsAtHome,
        OutputsAtWorker,
    },
};
use crate::{
    dataplane::wiring::Wiring,
    flow::graph::{Plan, TaskPlan},
    host::Host,
    job::{FailureCause, Graph, Incarnation, JobId, Limits, ServiceId, TaskId, Term},
    link::{Connect, JobPorts, Place, Unconnected},
    peer::{Broken, Meet, Peers, StreamId},
    protocol::{Layout, Order, ServiceEvent, TaskEvent, TaskReport, WorkerEvent, WorkerEventKind, WorkerOrder},
    service::{AnyGate, ErasedService, ServiceDirectory},
};

/// A flow that was built, with the channels of its attempt yet to be laid.
pub(super) struct Unlaid {
    pub plan: Plan,
    /// That of the plan.
    pub graph: Arc<Graph>,
    /// Of the worker that has the job's outputs, inputs and services.
    pub home: Option<HomeEnds>,
}

/// Where the outside reaches into a job, and its gates once more as what they are. They live as long as the job, whichever attempts
/// it makes.
#[derive(Clone)]
pub(super) struct HomeEnds {
    pub ports: Arc<JobPorts>,
    pub gates: Vec<Arc<dyn AnyGate>>,
}

/// What the actors of an attempt are made of.
pub(super) struct Laid {
    pub tasks: Vec<TaskPlan>,
    pub wiring: Arc<Wiring>,
    /// Those whose instances are here, and at home what stands in for the others.
    pub services: Vec<(ServiceId, Box<dyn ErasedService>)>,
    pub ports: Arc<JobPorts>,
    pub gates: Vec<Arc<dyn AnyGate>>,
    pub attendance: Option<Attendance>,
}

impl HomeEnds {
    pub fn open(plan: &Plan, job: JobId, limits: &Limits, host: &Host) -> Self {
        let (streams, gates) = plan.open(limits, host);
        let directory = ServiceDirectory::new(job, gates.clone(), host.clone(), limits.call_deadline);
        Self { ports: Arc::new(JobPorts { directory, streams }), gates }
    }
}

impl Unlaid {
    /// All of the job is in this process.
    pub fn lay_alone(self) -> Option<Laid> {
        let Self { mut plan, home, .. } = self;
        let HomeEnds { ports, gates } = home?;
        let layout = Layout::alone(plan.tasks.len());
        let wiring = plan.wire(&ports.streams, &layout, None);
        let services = plan.host_services(&layout, &gates, &wiring, &BTreeMap::new());
        Some(Laid { tasks: plan.tasks, wiring, services, ports, gates, attendance: None })
    }

    /// A part of the job is, and others are where `peers` leads.
    fn lay(
        self,
        (job, layout): (JobId, Layout),
        peers: Arc<Peers>,
        (limits, host): (&Limits, &Host),
        stop: impl Fn(ServiceId, Incarnation) + Send + Sync + 'static,
    ) -> Laid {
        let Self { mut plan, graph, home } = self;
        let (ports, gates, is_home) = match home {
            Some(HomeEnds { ports, gates }) => (ports, gates, true),
            None => {
                let HomeEnds { ports, gates } = HomeEnds::open(&plan, job, limits, host);
                (ports, gates, false)
            }
        };
        let wiring = plan.wire(&ports.streams, &layout, Some(&peers));
        let (services, relays) = if is_home {
            let outputs = OutputsAtHome::new(&peers, &ports.streams);
            let calls = CallsAtHome::new(&peers, &ports.directory);
            let inputs = InputsAtHome::new(&peers, &ports.streams, &graph, &layout, host);
            let (instances, elsewhere) = InstancesAtHome::new(&peers, &layout, &gates);
            let services = plan.host_services(&layout, &gates, &wiring, &elsewhere);
            let relays = Relays::Home { _outputs: outputs, _calls: calls, _inputs: inputs, _instances: instances };
            (services, relays)
        } else {
            let home = peers.link(Layout::HOME);
            let outputs = Arc::new(OutputsAtWorker::new(home, &ports.streams));
            let calls = CallsAtWorker::new(home, &ports.directory);
            let inputs = InputsAtWorker::new(home, &ports.streams, &graph, &layout, &ports.directory);
            let services = plan.host_services(&layout, &gates, &wiring, &BTreeMap::new());
            let here = services.iter().map(|(service, recipe)| (*service, recipe.gate())).collect();
            let instances = InstancesAtWorker::new(home, &ports.directory, here, stop);
            (services, Relays::Away { outputs, _calls: calls, _inputs: inputs, instances })
        };
        let attendance = Some(Attendance { layout, channels_of: channels_of(&graph), relays, peers });
        Laid { tasks: plan.tasks, wiring, services, ports, gates, attendance }
    }
}

/// A worker's part in an attempt of several. Dropped, it takes its leave of the others.
pub(super) struct Attendance {
    layout: Layout,
    channels_of: Vec<Vec<u32>>,
    /// Dropped once the leave is taken, so they say nothing any more.
    relays: Relays,
    peers: Arc<Peers>,
}

/// What goes between the home of the job's outputs, inputs and gates and the other workers; held for its drop.
enum Relays {
    Home { _outputs: OutputsAtHome, _calls: CallsAtHome, _inputs: InputsAtHome, _instances: InstancesAtHome },
    Away { outputs: Arc<OutputsAtWorker>, _calls: CallsAtWorker, _inputs: InputsAtWorker, instances: InstancesAtWorker },
}

impl Drop for Attendance {
    fn drop(&mut self) {
        self.peers.iter().for_each(|(_, link)| link.leave());
    }
}

/// Why it is not known that everything has arrived.
enum Unsettled {
    /// An output has not taken it.
    Output(FailureCause),
    Broken(Broken),
}

/// The streams of a task to one other worker, with their places in its report.
struct Outgoing {
    peer: u32,
    streams: Vec<StreamId>,
    places: Vec<usize>,
}

impl Outgoing {
    fn to(peer: u32) -> Self {
        Self { peer, streams: Vec::new(), places: Vec::new() }
    }
}

/// By task, the numbers of the channels out of it, in the order in which it accounts for them.
fn channels_of(graph: &Graph) -> Vec<Vec<u32>> {
    let mut channels = vec![Vec::new(); graph.tasks.len()];
    for (number, channel) in (0..).zip(&graph.channels) {
        channels[channel.from.index()].push(number);
    }
    channels
}

impl Attendance {
    /// Ends it not as one who is done: the others wait for what will not come.
    pub(super) fn break_off(&self) {
        self.peers.iter().for_each(|(_, link)| link.break_off("the worker has dropped all its jobs"));
    }

    /// What the task has to do with other workers: those that its channels lead to, and the home of outputs and services.
    fn outgoing(&self, graph: &Graph, task: TaskId) -> Vec<Outgoing> {
        let mut all: BTreeMap<u32, Outgoing> = BTreeMap::new();
        if self.layout.here != Layout::HOME {
            all.insert(Layout::HOME, Outgoing::to(Layout::HOME));
        }
        let channels = self.channels_of.get(task.index()).map_or(&[][..], Vec::as_slice);
        for (place, &number) in channels.iter().enumerate() {
            let there = graph.channels.get(number as usize).and_then(|it| self.layout.tasks.get(it.to.index()));
            let Some(&there) = there.filter(|there| **there != self.layout.here) else { continue };
            let outgoing = all.entry(there).or_insert_with(|| Outgoing::to(there));
            outgoing.streams.push(StreamId::Channel(number));
            outgoing.places.push(place);
        }
        all.into_values().collect()
    }

    /// The job drops what is in flight: no end of a task waits for the readers of outputs any more.
    pub(super) fn give_up_outputs(&self) {
        if let Relays::Away { outputs, .. } = &self.relays {
            outputs.give_up();
        }
    }

    /// Whether the service has heard of everything that it is to answer before it stops. If not, the order comes again once it
    /// has.
    pub(super) fn may_stop(&self, service: ServiceId, incarnation: Incarnation) -> bool {
        match &self.relays {
            Relays::Home { .. } => true,
            Relays::Away { instances, .. } => instances.may_stop(service, incarnation),
        }
    }

    /// Ready once what services here have answered has arrived at home, or cannot any more.
    fn answered(&self) -> Option<impl Future<Output = ()> + use<>> {
        let Relays::Away { instances, .. } = &self.relays else { return None };
        let (said, home) = (instances.said(), Arc::clone(self.peers.link(Layout::HOME)));
        Some(async move {
            said.await;
            // If the link is broken, the job is told so by others.
            let _ = home.settle(&[]).await;
        })
    }

    /// Ready once everything that a task has sent, and written to these outputs, has arrived: for each other worker, the items
    /// that came too late.
    fn settle(
        &self,
        outgoing: &[Outgoing],
        written: Vec<String>,
    ) -> impl Future<Output = Result<Vec<Vec<u64>>, Unsettled>> + use<> {
        let outputs = match &self.relays {
            Relays::Home { .. } => None,
            Relays::Away { outputs, .. } => Some(Arc::clone(outputs)),
        };
        let asked: Vec<_> =
            outgoing.iter().map(|to| (Arc::clone(self.peers.link(to.peer)), to.streams.clone())).collect();
        async move {
            if let Some(outputs) = &outputs {
                outputs.flushed(&written).await.map_err(Unsettled::Output)?;
            }
            let settles = asked.iter().map(|(link, streams)| link.settle(streams));
            let late = try_join_all(settles.collect::<Vec<_>>()).await.map_err(Unsettled::Broken)?;
            match outputs.and_then(|outputs| outputs.failure(&written)) {
                Some(failure) => Err(Unsettled::Output(failure)),
                None => Ok(late),
            }
        }
    }
}

fn severed((job, term): (JobId, Term), here: u32, broken: Broken) -> WorkerEvent {
    let Broken { peer, message } = broken;
    WorkerEvent { job, term, kind: WorkerEventKind::Severed { here, peer, message } }
}

fn is_end(event: &TaskEvent) -> bool {
    matches!(event, TaskEvent::Finished(_) | TaskEvent::Cancelled(_) | TaskEvent::Failed { .. })
}

fn is_end_of_instance(event: &ServiceEvent) -> bool {
    matches!(event, ServiceEvent::Failed { .. } | ServiceEvent::Stopped { .. })
}

/// The report of a task that has ended.
fn report_of(event: &mut TaskEvent) -> Option<&mut TaskReport> {
    match event {
        TaskEvent::Finished(report) | TaskEvent::Cancelled(report) | TaskEvent::Failed { report, .. } => Some(report),
        _ => None,
    }
}

/// A task has ended; it is told once what it sent has arrived.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Ended {
    job: JobId,
    term: Term,
    task: TaskId,
    event: TaskEvent,
}

/// The instance of a service has ended; it is told once what it has answered has arrived.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct InstanceEnded {
    job: JobId,
    term: Term,
    service: ServiceId,
    incarnation: Incarnation,
    event: ServiceEvent,
}

/// See [`WorkerLink::connect`](crate::link::WorkerLink::connect).
#[derive(Message)]
#[rtype(result = "Result<(), Unconnected>")]
pub(super) struct ConnectJob(pub Connect);

impl Worker {
    /// What becomes of a job that is to be built: it is all here, or a part of it will be.
    pub(super) fn unlaid(
        (plan, graph): (Plan, &Arc<Graph>),
        prepare: (JobId, Place),
        kept: Option<HomeEnds>,
        limits: &Limits,
        host: &Host,
    ) -> Unlaid {
        let (job, place) = prepare;
        let home = (place != Place::Away).then(|| kept.unwrap_or_else(|| HomeEnds::open(&plan, job, limits, host)));
        Unlaid { plan, graph: Arc::clone(graph), home }
    }

    fn connect(&mut self, connect: Connect, ctx: &Context<Self>) -> ResponseActFuture<Self, Result<(), Unconnected>> {
        let Connect { job, term, layout, peers, key } = connect;
        let here = layout.here;
        let hosted = self.jobs.get_mut(&job).filter(|hosted| hosted.term == term);
        let Some(meeting) = self.config.peers.clone() else {
            return Box::pin(std::future::ready(Err(Unconnected::Gone)).into_actor(self));
        };
        let unlaid = hosted.and_then(|hosted| Some((hosted.unlaid.take()?, Arc::clone(&hosted.limits))));
        let Some((unlaid, limits)) = unlaid else {
            return Box::pin(std::future::ready(Err(Unconnected::Gone)).into_actor(self));
        };
        let host = self.config.host.clone();
        let worker = ctx.address().downgrade();
        let stop = move |service, incarnation| {
            if let Some(worker) = worker.upgrade() {
                worker.do_send(Order { job, term, order: WorkerOrder::StopService { service, incarnation } });
            }
        };
        let met = meeting.meet(Meet { job, term, here, addresses: peers, key: key.0 });
        let laid = async move {
            let pool = host.clone();
            let peers = match met.await {
                Ok(peers) => peers,
                Err(Broken { peer, message }) => {
                    // Values of the user's are in it.
                    pool.blocking(move || drop(unlaid));
                    return Err(Unconnected::Peer { peer, message });
                }
            };
            let laid = pool.blocking(move || unlaid.lay((job, layout), peers, (&limits, &host), stop)).await;
            laid.map_err(|panic| Unconnected::Internal(panic.to_string()))
        };
        Box::pin(laid.into_actor(self).map(move |laid, worker, ctx| worker.attend((job, term), laid?, ctx)))
    }

    /// The channels are laid.
    fn attend(&mut self, (job, term): (JobId, Term), laid: Laid, ctx: &mut Context<Self>) -> Result<(), Unconnected> {
        let hosted = self.jobs.get(&job).filter(|hosted| hosted.term == term);
        let Some(events) = hosted.map(|hosted| Arc::clone(&hosted.events)) else {
            self.drop_elsewhere(laid);
            return Err(Unconnected::Gone);
        };
        let Laid { tasks, wiring, services, ports, gates, attendance } = laid;
        if let Some(attendance) = &attendance {
            let here = attendance.layout.here;
            for (_, link) in attendance.peers.iter() {
                let events = Arc::clone(&events);
                // It ends with the attempt at the latest.
                ctx.spawn(link.severed().into_actor(self).map(move |broken, _, _| {
                    if let Some(broken) = broken {
                        events(severed((job, term), here, broken));
                    }
                }));
            }
        }
        let worker = ctx.address().downgrade();
        let Some(hosted) = self.jobs.get_mut(&job) else { return Err(Unconnected::Gone) };
        hosted.settled_events = Arc::new(move |event| {
            let Some(worker) = worker.upgrade() else { return events(event) };
            let WorkerEvent { job, term, kind } = event;
            match kind {
                WorkerEventKind::Task { task, event } if is_end(&event) => {
                    worker.do_send(Ended { job, term, task, event });
                }
                WorkerEventKind::Service { service, incarnation, event } if is_end_of_instance(&event) => {
                    worker.do_send(InstanceEnded { job, term, service, incarnation, event });
                }
                kind => events(WorkerEvent { job, term, kind }),
            }
        });
        hosted.unstarted = Some((tasks, wiring));
        hosted.home = Some(HomeEnds { ports, gates });
        hosted.attendance = attendance;
        self.host_services(job, services);
        Ok(())
    }

    pub(super) fn host_services(&mut self, job: JobId, services: Vec<(ServiceId, Box<dyn ErasedService>)>) {
        let slots = self.service_slots.len();
        let Some(hosted) = self.jobs.get_mut(&job) else { return };
        for (id, recipe) in services {
            self.next_service_slot = (self.next_service_slot + 1) % slots;
            let (slot, waiting) = (self.next_service_slot, Arc::default());
            hosted.services.insert(id, HostedService { recipe, slot, thread: None, waiting, claim: None });
        }
    }
}

impl Handler<ConnectJob> for Worker {
    type Result = ResponseActFuture<Self, Result<(), Unconnected>>;

    fn handle(&mut self, ConnectJob(connect): ConnectJob, ctx: &mut Context<Self>) -> Self::Result {
        self.connect(connect, ctx)
    }
}

impl Handler<InstanceEnded> for Worker {
    type Result = ();

    fn handle(&mut self, ended: InstanceEnded, ctx: &mut Context<Self>) {
        let InstanceEnded { job, term, service, incarnation, event } = ended;
        let Some(hosted) = self.jobs.get(&job).filter(|hosted| hosted.term == term) else { return };
        let events = Arc::clone(&hosted.events);
        let event = WorkerEvent { job, term, kind: WorkerEventKind::Service { service, incarnation, event } };
        match hosted.attendance.as_ref().and_then(Attendance::answered) {
            Some(answered) => drop(ctx.spawn(answered.into_actor(self).map(move |(), _, _| events(event)))),
            None => events(event),
        }
    }
}

impl Handler<Ended> for Worker {
    type Result = ();

    fn handle(&mut self, Ended { job, term, task, mut event }: Ended, ctx: &mut Context<Self>) {
        let Some(hosted) = self.jobs.get(&job).filter(|hosted| hosted.term == term) else { return };
        let Some(attendance) = &hosted.attendance else { return };
        let (outgoing, here) = (attendance.outgoing(&hosted.graph, task), attendance.layout.here);
        let finished = matches!(event, TaskEvent::Finished(_));
        // A task that failed or was cancelled waits for no reader: the job drops what is in flight.
        let node = hosted.graph.tasks.get(task.index()).filter(|_| finished);
        let written = node.map(|node| node.outputs.clone()).unwrap_or_default();
        // They go with the worker, which may be lost before the job has ended.
        let counters = hosted.tasks.get(task.index()).map(|task| task.counters.read(self.config.host.now()).0);
        if let Some(report) = report_of(&mut event) {
            report.counters = counters.map(Box::new);
        }
        let (settled, events) = (attendance.settle(&outgoing, written), Arc::clone(&hosted.events));
        ctx.spawn(settled.into_actor(self).map(move |settled, _, _| {
            match settled {
                Ok(late) => {
                    if let Some(report) = report_of(&mut event) {
                        take_off(report, finished, &outgoing, &late);
                    }
                }
                Err(Unsettled::Broken(broken)) => {
                    // Before the end of the task, which so is none that the job has earned.
                    events(severed((job, term), here, broken));
                    if let TaskEvent::Finished(report) = event {
                        event = TaskEvent::Cancelled(report);
                    }
                }
                Err(Unsettled::Output(cause)) => {
                    if let TaskEvent::Finished(report) = event {
                        event = TaskEvent::Failed { cause, report };
                    }
                }
            }
            events(WorkerEvent { job, term, kind: WorkerEventKind::Task { task, event } });
        }));
    }
}

/// What came after its consumer had closed the channel was not sent, as it would not have been within one process: a task that has
/// not `finished` has dropped it.
fn take_off(report: &mut TaskReport, finished: bool, outgoing: &[Outgoing], late: &[Vec<u64>]) {
    for (outgoing, late) in outgoing.iter().zip(late) {
        for (place, late) in outgoing.places.iter().zip(late) {
            if let Some(sent) = report.sent.get_mut(*place) {
                sent.sent = sent.sent.saturating_sub(*late);
                sent.dropped += if finished { 0 } else { *late };
            }
        }
    }
}
