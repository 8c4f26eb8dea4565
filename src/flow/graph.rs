//! The graph of a job: what a flow comes to once it is built, as data and as recipes.

use std::{
    collections::{BTreeMap, HashSet},
    ops::Range,
    sync::Arc,
};

use crate::{
    dataplane::{
        chain::{OperatorInfo, Recipe},
        channel::LaneLimits,
        edge::EdgePlan,
        hash::KEY_GROUPS,
        loops::{LoopPlan, LoopWatch},
        task::Task,
        wiring::{Streams, Wiring},
    },
    flow::{
        colocation::Colocation,
        loops,
        splits::{EncodedSplit, SourceSplits, Splits},
    },
    host::Host,
    job::{BuildRefusal, ChannelNode, ErrorPolicy, Graph, Limits, Parallelism, ServiceId, TaskId, TaskNode},
    peer::Peers,
    port::{AnyInput, OutputKind, OutputStore},
    protocol::Layout,
    schema::TypeDescription,
    service::{AnyGate, Elsewhere, ErasedService, ServicePlan},
};

/// A built flow: the graph, and the recipes of everything in it.
pub(crate) struct Plan {
    pub graph: Graph,
    pub tasks: Vec<TaskPlan>,
    pub services: Vec<Box<dyn ServicePlan>>,
    pub outputs: Vec<OutputPlan>,
    pub inputs: Vec<InputPlan>,
    pub edges: Vec<EdgePlan>,
    /// How many tasks each loop has.
    pub loops: Vec<usize>,
    /// Which tasks have to be on one worker.
    pub colocation: Colocation,
    pub lane_limits: LaneLimits,
    /// What the instances of replayable sources read: as given, or else as made by this very build.
    pub splits: Arc<Splits>,
    /// The operator of the first source that cannot be read again, if there is one: then the job cannot start anew.
    pub first_not_replayable: Option<String>,
}

impl Plan {
    /// Where the outside reaches into the job, which lives as long as it does: outputs, inputs, gates.
    pub fn open(&self, limits: &Limits, host: &Host) -> (Arc<Streams>, Vec<Arc<dyn AnyGate>>) {
        let outputs = self.outputs.iter().map(|OutputPlan { name, kind, description }| {
            let store = OutputStore::new(name, *kind, Arc::clone(description), limits, host.clone());
            (name.clone(), store)
        });
        let inputs = self.inputs.iter().map(|InputPlan { name, open }| (name.clone(), open(name, limits)));
        let streams = Arc::new(Streams { outputs: outputs.collect(), inputs: inputs.collect() });
        (streams, self.services.iter().map(|service| service.open_gate()).collect())
    }

    /// What the actors of one attempt share.
    ///
    /// # Panics
    ///
    /// See [`EdgePlan::wire`].
    pub fn wire(&self, streams: &Arc<Streams>, layout: &Layout, peers: Option<&Peers>) -> Arc<Wiring> {
        let edges = self.edges.iter().map(|edge| edge.wire(self.lane_limits, layout, peers)).collect();
        let loops = self.loops.iter().map(|&tasks| Arc::new(LoopWatch::new(tasks))).collect();
        let requests = self.services.iter().map(|service| service.open_requests()).collect();
        Arc::new(Wiring::new(edges, loops, requests, Arc::clone(streams)))
    }

    /// The services of one attempt that run here, behind these gates, and what stands in for those that are `elsewhere`. All
    /// are taken out of the plan.
    pub fn host_services(
        &mut self,
        layout: &Layout,
        gates: &[Arc<dyn AnyGate>],
        wiring: &Wiring,
        elsewhere: &BTreeMap<ServiceId, Arc<dyn Elsewhere>>,
    ) -> Vec<(ServiceId, Box<dyn ErasedService>)> {
        let services = std::mem::take(&mut self.services).into_iter().zip(gates).zip(wiring.all_requests());
        let hosted = (0..).map(ServiceId).zip(services).filter_map(|(id, ((service, gate), requests))| {
            let hosted = if layout.place_of(id) == layout.here {
                service.host(gate, requests.as_ref())
            } else {
                service.stand_in(gate, Arc::clone(elsewhere.get(&id)?))
            };
            Some((id, hosted))
        });
        hosted.collect()
    }
}

/// An output in a plan.
#[derive(Debug, Clone)]
pub(crate) struct OutputPlan {
    pub name: String,
    pub kind: OutputKind,
    pub description: Arc<TypeDescription>,
}

/// An input in a plan.
#[derive(Debug, Clone)]
pub(crate) struct InputPlan {
    pub name: String,
    /// The items' type is known to it alone.
    pub open: fn(&str, &Limits) -> Arc<dyn AnyInput>,
}

/// What it takes to start one task.
pub(crate) struct TaskPlan {
    pub instance: u32,
    pub parallelism: u32,
    /// Those of all tasks of its chain.
    pub operators: Arc<[OperatorInfo]>,
    /// The pipeline service that it answers for.
    pub service: Option<ServiceId>,
    /// Its part in a feedback loop.
    pub looped: Option<LoopPlan>,
    pub recipe: Recipe<Box<dyn Task>>,
}

/// What `build` is given besides the flow.
#[derive(Debug, Clone)]
pub(crate) struct BuildOptions {
    pub parallelism: usize,
    pub error_policy: ErrorPolicy,
    pub limits: Arc<Limits>,
    /// The splits of its sources, if they were made elsewhere; else they are made now.
    pub splits: Option<Arc<Splits>>,
}

/// The most instances a chain may have.
pub(crate) const PARALLELISM_MAX: usize = 1024;

/// The most instances that keys can be dealt out to.
pub(crate) const KEYED_PARALLELISM_MAX: usize = KEY_GROUPS;

/// Makes the recipe of a chain's instance.
pub(crate) type TaskFactory = Box<dyn FnMut(usize) -> Recipe<Box<dyn Task>>>;

/// The flow as it is being laid out, shared by the flow and its streams.
pub(crate) struct Blueprint {
    pub options: BuildOptions,
    pub chains: Vec<Chain>,
    pub tasks: u32,
    /// Channels by chain and instance of their ends, in the order in which they were made.
    pub channels: Vec<Ends>,
    pub services: Vec<Box<dyn ServicePlan>>,
    /// Their names.
    service_names: HashSet<String>,
    pub outputs: Vec<OutputPlan>,
    pub inputs: Vec<InputPlan>,
    pub edges: Vec<EdgePlan>,
    pub futures: Vec<Future>,
    /// Streams nobody has consumed yet: where each comes from.
    pub open: BTreeMap<u64, (usize, usize)>,
    pub next_stream: u64,
    /// The first thing wrong. What follows an error may be its consequence.
    pub refusal: Option<BuildRefusal>,
}

/// A stream whose items come from further down the flow.
pub(crate) struct Future {
    pub name: Arc<str>,
    pub chain: usize,
    pub filled: bool,
    /// The channels from what fills it.
    pub filled_by: Range<usize>,
}

/// A chain in the making.
pub(crate) struct Chain {
    pub operators: Vec<Operator>,
    pub parallelism: usize,
    /// The same, as far as the flow says it.
    pub said: Parallelism,
    /// Its items were dealt out to its instances by key.
    pub keyed: bool,
    /// Each of its instances was given all items.
    pub copied: bool,
    pub first_task: u32,
    pub origin: Origin,
    /// The operator of an exchange in front, by its chain and number.
    pub fed_by: Option<(usize, usize)>,
    pub outputs: Vec<String>,
    /// The pipeline service that its tasks answer for.
    pub service: Option<ServiceId>,
    pub factory: Option<TaskFactory>,
}

/// Where the items of a chain come from.
#[derive(Debug)]
pub(crate) enum Origin {
    /// Other chains.
    Chains,
    /// The input of this name.
    Input(String),
    /// Callers of a pipeline service, which begins empty when the job starts anew.
    Requests,
    /// A source that can be read once.
    Once,
    /// A source that can be read again. Its splits, if they were made by this build.
    Replayable(Vec<EncodedSplit>),
}

#[derive(Debug, Clone)]
pub(crate) struct Operator {
    pub kind: &'static str,
    pub uid: Option<String>,
    pub policy: Option<ErrorPolicy>,
}

impl Blueprint {
    pub fn new(options: BuildOptions) -> Self {
        Self {
            options,
            chains: Vec::new(),
            tasks: 0,
            channels: Vec::new(),
            services: Vec::new(),
            service_names: HashSet::new(),
            outputs: Vec::new(),
            inputs: Vec::new(),
            edges: Vec::new(),
            futures: Vec::new(),
            open: BTreeMap::new(),
            next_stream: 0,
            refusal: None,
        }
    }

    pub fn refuse(&mut self, refusal: BuildRefusal) {
        self.refusal.get_or_insert(refusal);
    }

    pub fn add_chain(&mut self, said: Parallelism, origin: Origin) -> usize {
        let parallelism = said.in_job(self.options.parallelism).min(PARALLELISM_MAX);
        let first_task = self.tasks;
        self.tasks = self.tasks.saturating_add(u32::try_from(parallelism).unwrap_or(u32::MAX));
        self.chains.push(Chain {
            operators: Vec::new(),
            parallelism,
            said,
            keyed: false,
            copied: false,
            first_task,
            origin,
            fed_by: None,
            outputs: Vec::new(),
            service: None,
            factory: None,
        });
        self.chains.len() - 1
    }

    pub fn add_operator(&mut self, chain: usize, kind: &'static str) -> usize {
        let operators = &mut self.chains[chain].operators;
        operators.push(Operator { kind, uid: None, policy: None });
        operators.len() - 1
    }

    /// The chains that begin with a source that can be read again.
    pub fn replayable_sources(&self) -> impl Iterator<Item = usize> {
        let chains = self.chains.iter().enumerate();
        chains.filter(|(_, chain)| matches!(chain.origin, Origin::Replayable(_))).map(|(index, _)| index)
    }

    /// Whether no service has this name yet; else the flow is refused.
    pub fn name_service(&mut self, name: &str) -> bool {
        let is_new = self.service_names.insert(name.to_owned());
        if !is_new {
            self.refuse(BuildRefusal::DuplicateService { service: name.to_owned() });
        }
        is_new
    }

    /// Returns the future's position among those of the flow.
    pub fn add_future(&mut self, name: &Arc<str>, chain: usize) -> usize {
        if self.futures.iter().any(|future| future.name == *name) {
            self.refuse(BuildRefusal::DuplicateFuture { future: name.to_string() });
        }
        self.futures.push(Future { name: Arc::clone(name), chain, filled: false, filled_by: 0..0 });
        self.futures.len() - 1
    }

    pub fn lane_limits(&self) -> LaneLimits {
        let limits = &self.options.limits;
        let (batches, bytes) = (limits.channel_batches.max(1), limits.channel_bytes);
        LaneLimits { batches, bytes, peer_bytes: limits.peer_channel_bytes }
    }

    /// The operators' names: the uid where one was given, else the kind, numbered from the second of a kind on.
    fn names(&mut self) -> Vec<Vec<OperatorInfo>> {
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        let mut uids: BTreeMap<String, usize> = BTreeMap::new();
        let operators = self.chains.iter().flat_map(|chain| &chain.operators);
        let taken: HashSet<String> = operators.filter_map(|operator| operator.uid.clone()).collect();
        let default_policy = self.options.error_policy;
        let mut names = Vec::new();
        let mut duplicate = None;
        for chain in &self.chains {
            let mut chain_names = Vec::new();
            for operator in &chain.operators {
                let name = if let Some(uid) = &operator.uid {
                    let count = uids.entry(uid.clone()).or_default();
                    *count += 1;
                    if *count == 2 {
                        duplicate = Some(uid.clone());
                    }
                    uid.clone()
                } else {
                    let count = seen.entry(operator.kind).or_default();
                    loop {
                        *count += 1;
                        let name =
                            if *count == 1 { operator.kind.to_owned() } else { format!("{}-{count}", operator.kind) };
                        if !taken.contains(&name) {
                            break name;
                        }
                    }
                };
                chain_names.push(OperatorInfo { name, policy: operator.policy.unwrap_or(default_policy) });
            }
            names.push(chain_names);
        }
        if let Some(uid) = duplicate {
            self.refuse(BuildRefusal::DuplicateUid { uid });
        }
        names
    }

    /// What a pipeline service's chain feeds is the service's too: nothing but its replies leaves it.
    fn spread_services(&mut self) {
        // A channel is made after those that lead to where it begins.
        for &((from, _), (to, _)) in &self.channels {
            if let Some(service) = self.chains[from].service {
                self.chains[to].service = Some(service);
            }
        }
    }

    /// The splits of replayable sources; refuses the flow if those that were given are not those of its sources.
    fn splits(&mut self, names: &[Vec<OperatorInfo>]) -> Arc<Splits> {
        if let Some(given) = self.options.splits.clone() {
            let sources: Vec<&OperatorInfo> = self.replayable_sources().map(|chain| &names[chain][0]).collect();
            if let Err(refusal) = given.check(&sources) {
                self.refuse(refusal);
            }
            return given;
        }
        let chains = self.chains.iter_mut().zip(names);
        let made = chains.filter_map(|(chain, operators)| match &mut chain.origin {
            Origin::Replayable(splits) => {
                Some(SourceSplits { source: operators[0].name.clone(), splits: std::mem::take(splits) })
            }
            _ => None,
        });
        Arc::new(Splits(made.collect()))
    }

    /// The operator of the first source that cannot be read again.
    fn first_not_replayable(&self, names: &[Vec<OperatorInfo>]) -> Option<String> {
        let is_once = |chain: &Chain| matches!(chain.origin, Origin::Once | Origin::Input(_));
        let first = self.chains.iter().position(is_once)?;
        Some(names[first][0].name.clone())
    }

    /// The graph without its tasks and channels.
    fn bare_graph(&self, loops: usize) -> Graph {
        Graph {
            services: self.services.iter().map(|service| service.name().to_owned()).collect(),
            outputs: self.outputs.iter().map(|output| output.name.clone()).collect(),
            inputs: self.inputs.iter().map(|input| input.name.clone()).collect(),
            loops: vec![Vec::new(); loops],
            ..Graph::default()
        }
    }

    /// Turns the finished layout into a plan.
    pub fn finish(mut self) -> Result<Plan, BuildRefusal> {
        let names = self.names();
        if let Some(future) = self.futures.iter().find(|future| !future.filled) {
            let future = future.name.to_string();
            self.refuse(BuildRefusal::UnfilledFuture { future });
        }
        if let Some((chain, operator)) = self.open.values().min().copied() {
            let operator = names[chain][operator].name.clone();
            self.refuse(BuildRefusal::Unconsumed { operator });
        }
        let splits = self.splits(&names);
        if let Some(refusal) = self.refusal {
            return Err(refusal);
        }
        self.spread_services();
        let first_not_replayable = self.first_not_replayable(&names);
        let loops = loops::find(&self);
        let lane_limits = self.lane_limits();
        let mut graph = self.bare_graph(loops.tasks.len());
        let mut tasks = Vec::new();
        let first_tasks: Vec<u32> = self.chains.iter().map(|chain| chain.first_task).collect();
        for (index, (chain, operators)) in self.chains.into_iter().zip(names).enumerate() {
            let looped = loops.of_chain.get(&index);
            let Some(mut factory) = chain.factory else {
                return Err(BuildRefusal::User("a chain was left without an end".to_owned()));
            };
            let op_names: Vec<String> = operators.iter().map(|operator| operator.name.clone()).collect();
            let (name, operators) = (op_names.join(" -> "), Arc::<[OperatorInfo]>::from(operators));
            for instance in 0..chain.parallelism {
                if let Some(looped) = looped {
                    graph.loops[looped.id.index()].push(TaskId(chain.first_task + instance as u32));
                }
                graph.tasks.push(TaskNode {
                    id: TaskId(chain.first_task + instance as u32),
                    name: name.clone(),
                    instance: instance as u32,
                    operators: op_names.clone(),
                    is_source: !matches!(chain.origin, Origin::Chains),
                    input: match &chain.origin {
                        Origin::Input(name) => Some(name.clone()),
                        _ => None,
                    },
                    outputs: chain.outputs.clone(),
                    service: chain.service,
                });
                tasks.push(TaskPlan {
                    instance: instance as u32,
                    parallelism: chain.parallelism as u32,
                    operators: Arc::clone(&operators),
                    service: chain.service,
                    looped: looped.cloned(),
                    recipe: factory(instance),
                });
            }
        }
        graph.channels = channel_nodes(&self.channels, &first_tasks, &graph.tasks);
        let (services, outputs, inputs, edges) = (self.services, self.outputs, self.inputs, self.edges);
        let (colocation, loops) = (Colocation::of(&graph, &edges), loops.tasks);
        Ok(Plan {
            graph,
            tasks,
            services,
            outputs,
            inputs,
            edges,
            loops,
            colocation,
            lane_limits,
            splits,
            first_not_replayable,
        })
    }
}

/// Both ends of a channel, by chain and instance.
type Ends = ((usize, usize), (usize, usize));

/// The channels between tasks.
fn channel_nodes(channels: &[Ends], first: &[u32], tasks: &[TaskNode]) -> Vec<ChannelNode> {
    let node = |&((from, i), (to, j)): &Ends| {
        let (from, to) = (TaskId(first[from] + i as u32), TaskId(first[to] + j as u32));
        let (a, b) = (&tasks[from.index()], &tasks[to.index()]);
        let name = format!("{} [{}] => {} [{}]", a.name, a.instance, b.name, b.instance);
        ChannelNode { from, to, name }
    };
    channels.iter().map(node).collect()
}
