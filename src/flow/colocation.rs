//! Which tasks of a job have to be on one worker.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    dataplane::edge::{EdgePlan, Pairing},
    job::Graph,
};

/// The tasks of a job in groups, each of which is placed on one worker as a whole.
///
/// The two ends of a channel whose items cannot be encoded are in one group, and so are all tasks of a feedback loop, whose
/// quiet is found out within one process, and all tasks of a pipeline service, whose callers wait at its head; there its
/// instances run as well.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Colocation {
    /// By task. Groups are numbered in the order of their first tasks.
    pub group_of: Vec<u32>,
}

impl Colocation {
    /// The groups of a job with this graph and these exchanges.
    pub fn of(graph: &Graph, edges: &[EdgePlan]) -> Self {
        let mut sets = Sets::new(graph.tasks.len());
        for edge in edges.iter().filter(|edge| !edge.travels()) {
            let consumers = edge.tasks();
            for feed in &edge.feeds {
                match feed.pairing {
                    Pairing::OneToOne => feed.tasks().zip(consumers.clone()).for_each(|(a, b)| sets.join(a, b)),
                    // Without an end on either side there is no channel.
                    Pairing::AllToAll if feed.producers == 0 || edge.consumers == 0 => {}
                    Pairing::AllToAll => sets.join_all(feed.tasks().chain(consumers.clone())),
                }
            }
        }
        for tasks in &graph.loops {
            sets.join_all(tasks.iter().map(|task| task.index()));
        }
        let mut of_service = BTreeMap::new();
        let serving = graph.tasks.iter().filter_map(|task| Some((task.id.index(), task.service?)));
        for (task, service) in serving {
            sets.join(*of_service.entry(service).or_insert(task), task);
        }
        sets.number()
    }
}

/// Disjoint sets of tasks: each points to an earlier one of its set, the first to itself.
struct Sets(Vec<usize>);

impl Sets {
    fn new(tasks: usize) -> Self {
        Self((0..tasks).collect())
    }

    fn first(&mut self, mut task: usize) -> usize {
        while self.0[task] != task {
            // Halves the way for the next one.
            self.0[task] = self.0[self.0[task]];
            task = self.0[task];
        }
        task
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.first(a), self.first(b));
        self.0[a.max(b)] = a.min(b);
    }

    fn join_all(&mut self, mut tasks: impl Iterator<Item = usize>) {
        let Some(first) = tasks.next() else { return };
        tasks.for_each(|task| self.join(first, task));
    }

    fn number(mut self) -> Colocation {
        let (mut group_of, mut groups) = (Vec::with_capacity(self.0.len()), 0);
        for task in 0..self.0.len() {
            let first = self.first(task);
            if first == task {
                group_of.push(groups);
                groups += 1;
            } else {
                group_of.push(group_of[first]);
            }
        }
        Colocation { group_of }
    }
}

#[cfg(test)]
mod tests;
