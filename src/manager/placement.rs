//! Which thread runs which task.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use crate::{
    flow::graph::KEYED_PARALLELISM_MAX,
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

/// The policy by which the tasks of a job are spread over the task threads of an environment.
///
/// [`RoundRobin`] is the default and [`LeastLoaded`] the alternative. A policy of your own is called on the
/// environment's control thread, so it must not block; if it panics, or names a slot that does not exist, the tasks
/// in question are placed round robin.
pub trait Placement: Send + 'static {
    /// For each of `tasks` the index of its slot. `slots` has at least one entry.
    fn place(&mut self, tasks: &[TaskDescription], slots: &[SlotLoad]) -> Vec<usize>;
}

/// Each task goes to the thread after the last one's, in the order of the graph and from job to job.
///
/// So a pipeline of chains with one instance each uses all threads, and where every chain has as many instances as
/// there are threads, equal instances of all chains meet on one thread.
#[derive(Debug, Clone, Default)]
pub struct RoundRobin {
    next: usize,
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
}

/// Each task goes to the thread with the fewest tasks; among equals to the first.
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

/// The slots of a worker, what runs on them, and the policy that fills them.
pub(crate) struct Slots {
    policy: Box<dyn Placement>,
    fallback: RoundRobin,
    loads: Vec<SlotLoad>,
    joined: BTreeMap<WorkerId, Station>,
    workers_ever: u32,
}

/// A worker of another process.
struct Station {
    facts: WorkerFacts,
    link: Arc<dyn WorkerLink>,
}

impl Slots {
    /// # Panics
    ///
    /// Panics if there is no slot.
    pub(crate) fn new(policy: Box<dyn Placement>, count: usize) -> Self {
        assert!(count > 0, "a worker has at least one task thread");
        Self {
            policy,
            fallback: RoundRobin::new(),
            loads: vec![SlotLoad::default(); count],
            joined: BTreeMap::new(),
            workers_ever: 0,
        }
    }

    pub(crate) fn join(&mut self, facts: WorkerFacts, link: Arc<dyn WorkerLink>) -> WorkerId {
        self.workers_ever += 1;
        let id = WorkerId(self.workers_ever);
        self.joined.insert(id, Station { facts, link });
        id
    }

    /// The worker is gone; what it was, if it had not gone before.
    pub(crate) fn leave(&mut self, worker: WorkerId) -> Option<WorkerFacts> {
        self.joined.remove(&worker).map(|station| station.facts)
    }

    /// How many instances an operator has that says nothing of it: one for each slot, but no more than keys can be dealt
    /// out to, so that a flow is not refused for the number of cores.
    pub(crate) fn parallelism(&self) -> usize {
        self.loads.len().min(KEYED_PARALLELISM_MAX)
    }

    /// Places `tasks` and counts them as load until [`free`](Self::free) is called with the same slots.
    pub(crate) fn take(&mut self, tasks: &[TaskDescription]) -> Vec<u32> {
        let fallback = self.fallback.place(tasks, &self.loads);
        // User code: what it does wrong must not take the control thread along.
        let chosen = catch_unwind(AssertUnwindSafe(|| self.policy.place(tasks, &self.loads))).unwrap_or_else(|_| {
            tracing::warn!("the placement policy panicked; tasks are placed round robin");
            Vec::new()
        });
        let count = self.loads.len();
        let slot_of = |(index, &fallback): (usize, &usize)| {
            chosen.get(index).copied().filter(|slot| *slot < count).unwrap_or(fallback)
        };
        let slots: Vec<usize> = fallback.iter().enumerate().map(slot_of).collect();
        for &slot in &slots {
            self.loads[slot].tasks += 1;
        }
        slots.into_iter().map(|slot| u32::try_from(slot).expect("there are fewer threads than 2^32")).collect()
    }

    pub(crate) fn free(&mut self, slots: &[u32]) {
        for &slot in slots {
            if let Some(load) = self.loads.get_mut(slot as usize) {
                load.tasks = load.tasks.saturating_sub(1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(instances: u32) -> Vec<TaskDescription> {
        (0..instances).map(|instance| TaskDescription::new("map".to_owned(), instance, false)).collect()
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
        let first = slots.take(&chain(3));
        assert_eq!(first, [0, 1, 0]);
        let second = slots.take(&chain(1));
        assert_eq!(second, [1]);
        slots.free(&first);
        assert_eq!(slots.take(&chain(2)), [0, 0]);
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
        assert_eq!(Slots::new(Box::new(Bad(true)), 2).take(&chain(3)), [1, 1, 0]);
        assert_eq!(Slots::new(Box::new(Bad(false)), 2).take(&chain(3)), [0, 1, 0]);
    }
}
