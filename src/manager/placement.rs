//! Which thread runs which task.

use std::{
    cell::Cell,
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    sync::Arc,
};

use tokio::sync::Notify;

use super::team::Member;
use crate::{
    flow::{colocation::Colocation, graph::KEYED_PARALLELISM_MAX},
    job::{WorkerInfo, WorkerState},
    link::{WorkerFacts, WorkerId, WorkerLink},
};

/// A task to be placed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TaskDescription {
    /// Its operators, joined by ` -> `.
    pub name: String,
    /// Which parallel instance of the chain, from 0.
    pub instance: u32,
    /// Whether it has a source.
    pub is_source: bool,
}

impl TaskDescription {
    pub(crate) fn new(name: String, instance: u32, is_source: bool) -> Self {
        Self { name, instance, is_source }
    }
}

/// A thread that runs tasks, and what was placed on it before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SlotLoad {
    /// Tasks of running jobs on this thread.
    pub tasks: usize,
}

/// A service to be placed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServiceDescription {
    /// The name it was registered under.
    pub name: String,
}

/// A worker that runs services, and what was placed on it before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerLoad {
    /// Its task threads.
    pub slots: usize,
    /// Tasks of running jobs on them.
    pub tasks: usize,
    /// Services of running jobs that it runs.
    pub services: usize,
}

/// The policy by which the tasks of a job are spread over the task threads of an environment, and its services over its
/// workers.
///
/// [`RoundRobin`] is the default and [`LeastLoaded`] the alternative. A policy of your own is called on the
/// environment's control thread, so it must not block; if it panics, or names a slot that does not exist, the tasks
/// in question are placed round robin.
pub trait Placement: Send + 'static {
    /// For each of `tasks` the index of its slot. `slots` has at least one entry.
    fn place(&mut self, tasks: &[TaskDescription], slots: &[SlotLoad]) -> Vec<usize>;

    /// For each of `services` the index of the worker that runs it. `workers` has at least one entry.
    ///
    /// It is called where a job runs over several [`Workers`](crate::Workers), and not for pipeline services, which run
    /// where their tasks are. Without a method of its own, a policy has each service go to the worker with the fewest; as
    /// is done with those in question if it panics, or names a worker that does not exist.
    fn place_services(&mut self, services: &[ServiceDescription], workers: &[WorkerLoad]) -> Vec<usize> {
        to_the_fewest(services.len(), workers)
    }
}

/// So many services, each to the worker with the fewest services, among equals with the fewest tasks, and then the first.
fn to_the_fewest(services: usize, workers: &[WorkerLoad]) -> Vec<usize> {
    let mut workers = workers.to_vec();
    let place = |_| {
        let (worker, load) = workers.iter_mut().enumerate().min_by_key(|(_, load)| (load.services, load.tasks))?;
        load.services += 1;
        Some(worker)
    };
    (0..services).map_while(place).collect()
}

/// Each task goes to the thread after the last one's, in the order of the graph and from job to job.
///
/// So a pipeline of chains with one instance each uses all threads, and where every chain has as many instances as
/// there are threads, equal instances of all chains meet on one thread. Services go round the workers likewise.
#[derive(Debug, Clone, Default)]
pub struct RoundRobin {
    next: usize,
    next_worker: usize,
}

impl RoundRobin {
    /// Begins with the first thread.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl Placement for RoundRobin {
    fn place(&mut self, tasks: &[TaskDescription], slots: &[SlotLoad]) -> Vec<usize> {
        let count = slots.len().max(1);
        let first = self.next;
        self.next = (first + tasks.len()) % count;
        (first..first + tasks.len()).map(|slot| slot % count).collect()
    }

    fn place_services(&mut self, services: &[ServiceDescription], workers: &[WorkerLoad]) -> Vec<usize> {
        let count = workers.len().max(1);
        let first = self.next_worker;
        self.next_worker = (first + services.len()) % count;
        (first..first + services.len()).map(|worker| worker % count).collect()
    }
}

/// Each task goes to the thread with the fewest tasks, each service to the worker with the fewest services; among equals to
/// the first.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct LeastLoaded;

impl LeastLoaded {
    /// The policy; it has no state of its own.
    #[must_use]
    pub fn new() -> Self {
        Self
    }
}

impl Placement for LeastLoaded {
    fn place(&mut self, tasks: &[TaskDescription], slots: &[SlotLoad]) -> Vec<usize> {
        let mut loads: Vec<usize> = slots.iter().map(|slot| slot.tasks).collect();
        let place = |_: &TaskDescription| {
            let (slot, load) = loads.iter_mut().enumerate().min_by_key(|(_, load)| **load)?;
            *load += 1;
            Some(slot)
        };
        tasks.iter().map_while(place).collect()
    }
}

/// Where a task was placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seat {
    /// None for the worker of this process.
    pub(crate) worker: Option<WorkerId>,
    /// One of its threads.
    pub(crate) slot: u32,
}

/// The slots of all workers, what runs on them, and the policy that fills them.
pub(crate) struct Slots {
    policy: Box<dyn Placement>,
    fallback: RoundRobin,
    home: Vec<SlotLoad>,
    joined: BTreeMap<WorkerId, Station>,
    workers_ever: u32,
    /// Told when a worker has come.
    arrivals: Rc<Notify>,
}

/// A worker of another process.
struct Station {
    facts: WorkerFacts,
    link: Arc<dyn WorkerLink>,
    loads: Vec<SlotLoad>,
    services: usize,
    tenancy: Rc<Tenancy>,
}

/// Who has a part on a worker of another process.
struct Tenancy {
    jobs: Cell<usize>,
    /// Nobody else gets one, and with the last of them the worker goes.
    is_draining: Cell<bool>,
    link: Arc<dyn WorkerLink>,
}

/// A job that has a part on a worker, or is about to, until this is dropped.
pub(crate) struct Stay(Rc<Tenancy>);

impl Stay {
    fn begin(tenancy: &Rc<Tenancy>) -> Self {
        tenancy.jobs.set(tenancy.jobs.get() + 1);
        Self(Rc::clone(tenancy))
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        self.0.jobs.set(self.0.jobs.get() - 1);
        self.0.dismiss_if_idle();
    }
}

impl Tenancy {
    fn is_over(&self) -> bool {
        self.is_draining.get() && self.jobs.get() == 0
    }

    fn dismiss_if_idle(&self) {
        if self.is_over() {
            self.link.dismiss();
        }
    }
}

/// A worker that is gone.
pub(crate) struct Departed {
    pub(crate) facts: WorkerFacts,
    /// It was drained and had no job any more.
    pub(crate) is_expected: bool,
}

impl Slots {
    /// # Panics
    ///
    /// Panics if there is no slot.
    pub(crate) fn new(policy: Box<dyn Placement>, count: usize) -> Self {
        assert!(count > 0, "a worker has at least one task thread");
        let home = vec![SlotLoad::default(); count];
        Self {
            policy,
            fallback: RoundRobin::new(),
            home,
            joined: BTreeMap::new(),
            workers_ever: 0,
            arrivals: Rc::default(),
        }
    }

    pub(crate) fn join(&mut self, facts: WorkerFacts, link: Arc<dyn WorkerLink>) -> WorkerId {
        self.workers_ever += 1;
        let id = WorkerId(self.workers_ever);
        let loads = vec![SlotLoad::default(); facts.slots.max(1) as usize];
        let tenancy = Tenancy { jobs: Cell::new(0), is_draining: Cell::new(false), link: Arc::clone(&link) };
        self.joined.insert(id, Station { facts, link, loads, services: 0, tenancy: Rc::new(tenancy) });
        self.arrivals.notify_waiters();
        id
    }

    /// Is told whenever a worker has come.
    pub(crate) fn arrivals(&self) -> Rc<Notify> {
        Rc::clone(&self.arrivals)
    }

    pub(crate) fn has(&self, worker: WorkerId) -> bool {
        self.joined.contains_key(&worker)
    }

    /// Those of other processes, in the order in which they came.
    pub(crate) fn workers(&self) -> Vec<WorkerInfo> {
        let info = |Station { facts, loads, services, tenancy, .. }: &Station| WorkerInfo {
            name: facts.name.clone(),
            address: facts.data_address.clone(),
            state: if tenancy.is_draining.get() { WorkerState::Draining } else { WorkerState::Joined },
            slots: loads.len(),
            slots_used: loads.iter().filter(|load| load.tasks > 0).count(),
            tasks: loads.iter().map(|load| load.tasks).sum(),
            services: *services,
            jobs: tenancy.jobs.get(),
        };
        self.joined.values().map(info).collect()
    }

    /// The worker is gone; what it was, if it had not gone before.
    pub(crate) fn leave(&mut self, worker: WorkerId) -> Option<Departed> {
        let Station { facts, tenancy, .. } = self.joined.remove(&worker)?;
        Some(Departed { facts, is_expected: tenancy.is_over() })
    }

    /// Places nothing more on these workers, and dismisses each once it has no job. How many there are.
    pub(crate) fn drain(&mut self, which: impl Fn(WorkerId, &WorkerFacts) -> bool) -> usize {
        let drained = self.joined.iter().filter(|(id, station)| which(**id, &station.facts));
        let begin = |(_, station): (&WorkerId, &Station)| {
            station.tenancy.is_draining.set(true);
            station.tenancy.dismiss_if_idle();
        };
        drained.map(begin).count()
    }

    /// Whether there is a worker in another process that takes jobs.
    pub(crate) fn is_staffed(&self) -> bool {
        self.joined.values().any(|station| !station.tenancy.is_draining.get())
    }

    /// The ways to those of other processes.
    pub(crate) fn links(&self) -> impl Iterator<Item = &Arc<dyn WorkerLink>> {
        self.joined.values().map(|station| &station.link)
    }

    /// The workers of other processes that take jobs, all of which run one program. They have one more as long as these live.
    pub(crate) fn team(&self) -> Vec<Member> {
        let member = |(id, station): (&WorkerId, &Station)| Member {
            id: Some(*id),
            name: station.facts.name.clone(),
            address: station.facts.data_address.clone(),
            link: Arc::clone(&station.link),
            stay: Some(Rc::new(Stay::begin(&station.tenancy))),
        };
        self.joined.iter().filter(|(_, station)| !station.tenancy.is_draining.get()).map(member).collect()
    }

    /// As [`team`](Self::team), without these, as long as the others have a slot for each of so many tasks.
    pub(crate) fn team_without(&self, avoid: &[WorkerId], tasks: usize) -> Vec<Member> {
        let all = self.team();
        let others: Vec<Member> =
            all.iter().filter(|member| member.id.is_none_or(|id| !avoid.contains(&id))).cloned().collect();
        if self.seats(&others).len() >= tasks { others } else { all }
    }

    /// How many instances an operator has that says nothing of it: one for each slot of those that a job is placed on, but no
    /// more than keys can be dealt out to, so that a flow is not refused for the number of cores.
    pub(crate) fn parallelism(&self, team: &[Member]) -> usize {
        let slots = if team.is_empty() { self.home.len() } else { self.seats(team).len() };
        slots.clamp(1, KEYED_PARALLELISM_MAX)
    }

    /// All slots of these workers.
    fn seats(&self, team: &[Member]) -> Vec<Seat> {
        let stations = team.iter().filter_map(|member| Some((member.id?, self.joined.get(&member.id?)?)));
        let seats = |(id, station): (WorkerId, &Station)| {
            (0..station.loads.len()).map(move |slot| Seat { worker: Some(id), slot: number(slot) })
        };
        stations.flat_map(seats).collect()
    }

    fn loads(&mut self, worker: Option<WorkerId>) -> Option<&mut Vec<SlotLoad>> {
        match worker {
            None => Some(&mut self.home),
            Some(id) => self.joined.get_mut(&id).map(|station| &mut station.loads),
        }
    }

    fn load(&mut self, seat: Seat) -> Option<&mut SlotLoad> {
        self.loads(seat.worker)?.get_mut(seat.slot as usize)
    }

    /// Places `tasks` over these workers, or in this process if there is none, and counts them as load until
    /// [`free`](Self::free) is called with the same seats. A group of tasks that belong together goes to where the first of
    /// them was placed.
    pub(crate) fn take(&mut self, tasks: &[TaskDescription], team: &[Member], together: &Colocation) -> Vec<Seat> {
        let mut seats = self.seats(team);
        if seats.is_empty() {
            seats = (0..self.home.len()).map(|slot| Seat { worker: None, slot: number(slot) }).collect();
        }
        let loads: Vec<SlotLoad> = seats.iter().map(|seat| self.load(*seat).copied().unwrap_or_default()).collect();
        let fallback = self.fallback.place(tasks, &loads);
        // User code: what it does wrong must not take the control thread along.
        let chosen = catch_unwind(AssertUnwindSafe(|| self.policy.place(tasks, &loads))).unwrap_or_else(|_| {
            tracing::warn!("the placement policy panicked; tasks are placed round robin");
            Vec::new()
        });
        let mut worker_of: BTreeMap<u32, Option<WorkerId>> = BTreeMap::new();
        let mut taken = Vec::with_capacity(tasks.len());
        for (index, &fallback) in fallback.iter().enumerate() {
            let slot = chosen.get(index).copied().filter(|slot| *slot < seats.len()).unwrap_or(fallback);
            let mut seat = seats[slot];
            if let Some(&group) = together.group_of.get(index) {
                let worker = *worker_of.entry(group).or_insert(seat.worker);
                if worker != seat.worker {
                    seat = self.emptiest(worker);
                }
            }
            if let Some(load) = self.load(seat) {
                load.tasks += 1;
            }
            taken.push(seat);
        }
        taken
    }

    /// Places services over these workers, or in this process if there is none, and counts them until
    /// [`free_services`](Self::free_services) is called with the same places. `with_tasks` says where a service has to be
    /// because of its tasks.
    pub(crate) fn take_services(
        &mut self,
        services: &[String],
        team: &[Member],
        with_tasks: impl Fn(usize) -> Option<Option<WorkerId>>,
    ) -> Vec<Option<WorkerId>> {
        let stations = team.iter().filter_map(|member| Some((member.id?, self.joined.get(&member.id?)?)));
        let (ids, loads): (Vec<WorkerId>, Vec<WorkerLoad>) = stations
            .map(|(id, Station { loads, services, .. })| {
                let tasks = loads.iter().map(|load| load.tasks).sum();
                (id, WorkerLoad { slots: loads.len(), tasks, services: *services })
            })
            .unzip();
        if ids.is_empty() {
            return vec![None; services.len()];
        }
        let free: Vec<usize> = (0..services.len()).filter(|at| with_tasks(*at).is_none()).collect();
        let described: Vec<_> = free.iter().map(|at| ServiceDescription { name: services[*at].clone() }).collect();
        // As with tasks.
        let chosen = catch_unwind(AssertUnwindSafe(|| self.policy.place_services(&described, &loads)));
        let chosen = chosen.unwrap_or_else(|_| {
            tracing::warn!("the placement policy panicked; services go where the fewest are");
            Vec::new()
        });
        let fallback = to_the_fewest(described.len(), &loads);
        let mut free = fallback.into_iter().enumerate().map(|(index, fallback)| {
            ids[chosen.get(index).copied().filter(|worker| *worker < ids.len()).unwrap_or(fallback)]
        });
        let places: Vec<_> = (0..services.len()).map(|at| with_tasks(at).unwrap_or_else(|| free.next())).collect();
        self.count_services(&places, |services| services + 1);
        places
    }

    pub(crate) fn free_services(&mut self, places: &[Option<WorkerId>]) {
        self.count_services(places, |services| services.saturating_sub(1));
    }

    fn count_services(&mut self, places: &[Option<WorkerId>], count: impl Fn(usize) -> usize) {
        for id in places.iter().flatten() {
            if let Some(station) = self.joined.get_mut(id) {
                station.services = count(station.services);
            }
        }
    }

    fn emptiest(&mut self, worker: Option<WorkerId>) -> Seat {
        let loads = self.loads(worker).map(|loads| loads.iter().enumerate());
        let slot = loads.and_then(|mut loads| loads.by_ref().min_by_key(|(_, load)| load.tasks));
        Seat { worker, slot: slot.map_or(0, |(slot, _)| number(slot)) }
    }

    pub(crate) fn free(&mut self, seats: &[Seat]) {
        for &seat in seats {
            if let Some(load) = self.load(seat) {
                load.tasks = load.tasks.saturating_sub(1);
            }
        }
    }
}

fn number(slot: usize) -> u32 {
    u32::try_from(slot).expect("there are fewer threads than 2^32")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(instances: u32) -> Vec<TaskDescription> {
        (0..instances).map(|instance| TaskDescription::new("map".to_owned(), instance, false)).collect()
    }

    fn take(slots: &mut Slots, tasks: &[TaskDescription]) -> Vec<Seat> {
        slots.take(tasks, &[], &Colocation { group_of: Vec::new() })
    }

    fn numbers(seats: &[Seat]) -> Vec<u32> {
        seats.iter().map(|seat| seat.slot).collect()
    }

    #[test]
    fn round_robin_puts_equal_instances_of_two_chains_on_one_thread() {
        let tasks = [chain(3), chain(3)].concat();
        let slots = RoundRobin::new().place(&tasks, &[SlotLoad::default(); 3]);
        assert_eq!(slots, [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn round_robin_spreads_a_pipeline_of_single_instances() {
        let tasks = [chain(1), chain(1), chain(2)].concat();
        let slots = RoundRobin::new().place(&tasks, &[SlotLoad::default(); 2]);
        assert_eq!(slots, [0, 1, 0, 1]);
    }

    #[test]
    fn round_robin_spreads_jobs_of_one_task() {
        let mut policy = RoundRobin::new();
        let slots: Vec<_> = (0..4).flat_map(|_| policy.place(&chain(1), &[SlotLoad::default(); 2])).collect();
        assert_eq!(slots, [0, 1, 0, 1]);
    }

    #[test]
    fn least_loaded_fills_the_emptiest_thread_and_frees_what_ended() {
        let mut slots = Slots::new(Box::new(LeastLoaded), 2);
        let first = take(&mut slots, &chain(3));
        assert_eq!(numbers(&first), [0, 1, 0]);
        let second = take(&mut slots, &chain(1));
        assert_eq!(numbers(&second), [1]);
        slots.free(&first);
        assert_eq!(numbers(&take(&mut slots, &chain(2))), [0, 0]);
    }

    #[test]
    fn services_go_to_the_workers_with_the_fewest_and_with_round_robin_from_one_to_the_next() {
        let services = |count| (0..count).map(|n| ServiceDescription { name: n.to_string() }).collect::<Vec<_>>();
        let load = |tasks, services| WorkerLoad { slots: 1, tasks, services };
        let loads = [load(5, 1), load(3, 0), load(0, 1)];
        assert_eq!(LeastLoaded.place_services(&services(4), &loads), [1, 2, 1, 0]);
        let mut policy = RoundRobin::new();
        assert_eq!(policy.place_services(&services(2), &loads), [0, 1]);
        assert_eq!(policy.place_services(&services(2), &loads), [2, 0]);
        assert_eq!(to_the_fewest(3, &[]), Vec::<usize>::new());
    }

    #[test]
    fn a_policy_that_panics_or_names_a_missing_slot_falls_back_to_round_robin() {
        struct Bad(bool);
        impl Placement for Bad {
            fn place(&mut self, _: &[TaskDescription], _: &[SlotLoad]) -> Vec<usize> {
                assert!(self.0, "a policy that panics");
                vec![1, 7]
            }
        }
        assert_eq!(numbers(&take(&mut Slots::new(Box::new(Bad(true)), 2), &chain(3))), [1, 1, 0]);
        assert_eq!(numbers(&take(&mut Slots::new(Box::new(Bad(false)), 2), &chain(3))), [0, 1, 0]);
    }
}
