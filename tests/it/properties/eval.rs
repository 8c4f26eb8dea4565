//! What a random graph comes to, worked out one item after the other.

use std::collections::BTreeMap;

use super::shape::{
    Join, JoinKind, Keyed, Node, Origin, Policy, ROOT, Round, Step, Whole, branch_name, changed, entry, is_bad, pair,
    tripped, trips,
};

/// What a job has to yield if it processes the whole of what its sources emitted.
#[derive(Debug, Default)]
pub struct Expected {
    /// Sorted items of each collected output of the graph, records not included.
    pub outputs: BTreeMap<String, Vec<u64>>,
    /// Whether an operator under the policy *fail* has an item to fail on.
    pub fails: bool,
    /// Whether there is such an operator at all. Fed with less than everything, as by `stop`, aggregates yield other
    /// items, on which it may fail too.
    pub can_fail: bool,
    /// Items that operators under the policy *skip* fail on.
    pub dead_letters: u64,
    /// Whether a `take` can end what is in front of it before it has seen all items: then failures and dead letters
    /// may or may not be reached.
    pub takes: bool,
    /// Whether there is an operator that counts more than its items, or others than it hands on.
    pub uncounted: bool,
    /// The most items that any stream of the graph has.
    pub peak: usize,
}

/// The origins of a graph, in the order in which they are built.
pub fn origins(node: &Node) -> Vec<&Origin> {
    match node {
        Node::From(origin) => vec![origin],
        Node::Then(before, _) => origins(before),
        Node::Union(left, right) | Node::Connect(left, right) | Node::Join(left, right, _) | Node::Zip(left, right) => {
            [origins(left), origins(right)].concat()
        }
    }
}

/// All that a source can emit.
pub fn items_of(origin: &Origin) -> Vec<u64> {
    (origin.first..origin.first + origin.count).collect()
}

/// What `root` yields if its sources, in order, emit `emitted`.
pub fn evaluate(root: &Node, emitted: Vec<Vec<u64>>) -> Expected {
    let mut evaluator = Evaluator { emitted: emitted.into_iter(), branches: 0, expected: Expected::default() };
    let mut items = evaluator.node(root);
    items.sort_unstable();
    evaluator.expected.outputs.insert(ROOT.to_owned(), items);
    evaluator.expected
}

/// A join of more is not worked out; its number is told, and such graphs are not run.
const PAIRS_MAX: usize = 100_000;

struct Evaluator {
    emitted: std::vec::IntoIter<Vec<u64>>,
    branches: usize,
    expected: Expected,
}

impl Evaluator {
    fn node(&mut self, node: &Node) -> Vec<u64> {
        let items = match node {
            Node::From(_) => self.emitted.next().expect("each source has emitted something, if only nothing"),
            Node::Then(before, step) => {
                let items = self.node(before);
                self.step(items, step)
            }
            Node::Union(left, right) => {
                let mut items = self.node(left);
                items.append(&mut self.node(right));
                items
            }
            Node::Connect(left, right) => {
                let mut items = self.node(left);
                items.extend(self.node(right).into_iter().map(changed));
                items
            }
            Node::Zip(left, right) => {
                self.expected.takes = true;
                self.expected.uncounted = true;
                let left = self.node(left).len();
                vec![1; left.min(self.node(right).len())]
            }
            Node::Join(left, right, join) => {
                let left = self.node(left);
                let right = self.node(right);
                self.join(&left, &right, join)
            }
        };
        self.expected.peak = self.expected.peak.max(items.len());
        items
    }

    fn join(&mut self, left: &[u64], right: &[u64], Join { how, keys, .. }: &Join) -> Vec<u64> {
        let mut sides: BTreeMap<u64, (Vec<u64>, Vec<u64>)> = BTreeMap::new();
        left.iter().for_each(|item| sides.entry(item % keys).or_default().0.push(*item));
        right.iter().for_each(|item| sides.entry(item % keys).or_default().1.push(*item));
        let pairs: usize = sides.values().map(|(left, right)| left.len() * right.len()).sum();
        self.expected.peak = self.expected.peak.max(pairs);
        if pairs > PAIRS_MAX {
            return Vec::new();
        }
        let mut items = Vec::new();
        for (left, right) in sides.into_values() {
            if right.is_empty() && *how != JoinKind::Inner {
                items.extend(left.iter().map(|left| pair(Some(*left), None)));
            }
            if left.is_empty() && *how == JoinKind::FullOuter {
                items.extend(right.iter().map(|right| pair(None, Some(*right))));
            }
            items.extend(left.iter().flat_map(|left| right.iter().map(|right| pair(Some(*left), Some(*right)))));
        }
        items
    }

    fn steps(&mut self, items: Vec<u64>, steps: &[Step]) -> Vec<u64> {
        steps.iter().fold(items, |items, step| self.step(items, step))
    }

    fn step(&mut self, items: Vec<u64>, step: &Step) -> Vec<u64> {
        let items: Vec<u64> = match *step {
            Step::Map { times, plus } => {
                items.into_iter().map(|item| item.wrapping_mul(times).wrapping_add(plus)).collect()
            }
            Step::DropMultiples { of } => items.into_iter().filter(|item| item % of != 0).collect(),
            Step::FlatMap { copies } => {
                items.into_iter().flat_map(|item| (0..copies).map(move |i| item.wrapping_add(i))).collect()
            }
            Step::Take { count } => {
                self.expected.takes = true;
                vec![1; items.len().min(count)]
            }
            Step::Rebalance { .. } | Step::Gather | Step::Keyed { how: Keyed::Values, .. } => items,
            Step::Broadcast { parallelism } => items.repeat(parallelism),
            Step::Keyed { how, keys, .. } => keyed(&items, how, keys),
            Step::Whole(Whole::Count) => vec![items.len() as u64],
            Step::Whole(Whole::Fold | Whole::FoldAssoc) => vec![items.into_iter().fold(0, u64::wrapping_add)],
            Step::Whole(Whole::Reduce) => items.into_iter().max().into_iter().collect(),
            Step::Call { order: super::shape::Order::Filter, .. } => items,
            Step::Call { .. } => items.into_iter().map(|item| item.wrapping_mul(2)).collect(),
            Step::Fail { rest, policy, .. } => {
                let before = items.len();
                let good: Vec<u64> = items.into_iter().filter(|item| !is_bad(*item, rest)).collect();
                let bad = before - good.len();
                match policy {
                    Policy::Fail => {
                        self.expected.can_fail = true;
                        self.expected.fails |= bad > 0;
                    }
                    Policy::Skip => self.expected.dead_letters += bad as u64,
                }
                good
            }
            Step::Diamond(ref first, ref second) => {
                let mut left = self.steps(items.clone(), first);
                left.append(&mut self.steps(items, second));
                left
            }
            Step::Split(of, ref first, ref second) => {
                let (left, right) = items.into_iter().partition(|item| item % of == 0);
                let mut left = self.steps(left, first);
                left.append(&mut self.steps(right, second));
                left
            }
            Step::Branch(ref steps) => {
                let name = branch_name(self.branches);
                self.branches += 1;
                let mut copy = self.steps(items.clone(), steps);
                copy.sort_unstable();
                self.expected.outputs.insert(name, copy);
                items
            }
            Step::ZipChanged { .. } => {
                self.expected.uncounted = true;
                items.into_iter().map(|item| pair(Some(item), Some(changed(item)))).collect()
            }
            Step::Ask { .. } => {
                self.expected.uncounted = true;
                items.into_iter().map(changed).collect()
            }
            Step::Loop(Round { trips: most, .. }) => {
                items.into_iter().map(|item| (0..trips(item, most)).fold(item, |item, _| tripped(item))).collect()
            }
        };
        self.expected.peak = self.expected.peak.max(items.len());
        items
    }
}

fn keyed(items: &[u64], how: Keyed, keys: u64) -> Vec<u64> {
    let mut groups: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for item in items {
        groups.entry(item % keys).or_default().push(*item);
    }
    let of_key = |(key, items): (u64, Vec<u64>)| -> Vec<u64> {
        let results = match how {
            Keyed::Count => vec![items.len() as u64],
            Keyed::Fold => vec![items.into_iter().fold(0, u64::wrapping_add)],
            Keyed::Reduce => items.into_iter().max().into_iter().collect(),
            Keyed::Number => (1..=items.len() as u64).collect(),
            Keyed::Values | Keyed::Timers => return items,
        };
        results.into_iter().map(|value| entry(key, value)).collect()
    };
    groups.into_iter().flat_map(of_key).collect()
}
