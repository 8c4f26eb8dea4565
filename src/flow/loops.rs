//! Which chains of a flow are in a feedback loop.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use crate::{dataplane::loops::LoopPlan, flow::graph::Blueprint, protocol::LoopId};

/// The loops of a flow: for each the chains in it, and the channels that lie within it as [`LoopPlan`] has them.
pub(crate) struct Loops {
    pub of_chain: HashMap<usize, LoopPlan>,
    /// How many tasks each has.
    pub tasks: Vec<usize>,
}

/// Finds the loops: the strongly connected parts of the graph of chains, each of which a future closes.
pub(crate) fn find(blueprint: &Blueprint) -> Loops {
    let mut loops = Loops { of_chain: HashMap::new(), tasks: Vec::new() };
    if blueprint.futures.is_empty() {
        return loops;
    }
    let edges: HashSet<(usize, usize)> = blueprint.channels.iter().map(|(from, to)| (from.0, to.0)).collect();
    for future in &blueprint.futures {
        if loops.of_chain.contains_key(&future.chain) {
            continue;
        }
        let behind = reach(future.chain, |chain| edges.iter().filter(move |edge| edge.0 == chain).map(|edge| edge.1));
        let before = reach(future.chain, |chain| edges.iter().filter(move |edge| edge.1 == chain).map(|edge| edge.0));
        let members: HashSet<usize> = behind.intersection(&before).copied().collect();
        if members.is_empty() {
            // What fills it does not come from it: a stream like any other.
            continue;
        }
        let plan = plan(blueprint, &members, loops.tasks.len());
        loops.tasks.push(members.iter().map(|&chain| blueprint.chains[chain].parallelism).sum());
        loops.of_chain.extend(members.into_iter().map(|chain| (chain, plan.clone())));
    }
    loops
}

fn plan(blueprint: &Blueprint, members: &HashSet<usize>, index: usize) -> LoopPlan {
    let inner = blueprint.channels.iter().enumerate().filter(|(_, (from, to))| {
        // Of a chain with itself there is a channel only by way of a future.
        members.contains(&from.0) && members.contains(&to.0)
    });
    let fills = |channel: usize| {
        let future = blueprint.futures.iter().find(|future| future.filled_by.contains(&channel));
        future.map(|future| Arc::clone(&future.name))
    };
    LoopPlan {
        id: LoopId(u32::try_from(index).unwrap_or(u32::MAX)),
        channels: Arc::new(inner.map(|(channel, _)| (channel, fills(channel))).collect()),
        items_max: blueprint.options.limits.loop_items_max,
    }
}

/// What can be reached from `start` in one step or more.
fn reach<I: Iterator<Item = usize>>(start: usize, next: impl Fn(usize) -> I) -> HashSet<usize> {
    let mut reached = HashSet::new();
    let mut open: Vec<usize> = next(start).collect();
    while let Some(chain) = open.pop() {
        if reached.insert(chain) {
            open.extend(next(chain));
        }
    }
    reached
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_a_step_or_more_is_reached() {
        let edges = [(0, 1), (1, 2), (2, 1), (2, 3)];
        let next = |chain| edges.iter().filter(move |edge| edge.0 == chain).map(|edge| edge.1);
        assert_eq!(reach(0, next), HashSet::from([1, 2, 3]));
        assert_eq!(reach(1, next), HashSet::from([1, 2, 3]));
        assert_eq!(reach(3, next), HashSet::new());
    }
}
