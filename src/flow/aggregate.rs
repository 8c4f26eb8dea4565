//! Aggregates: folds over a whole stream and over each key, and state per key.

use std::{
    hash::Hash,
    task::{Context, Poll},
    vec::Drain,
};

use hashbrown::hash_map::{Entry, HashMap, IntoIter};

use crate::{
    dataplane::{
        chain::{BoxStage, Ending, Failure, Lull, Meter, Reach, Stage, Steps, map_batch},
        hash::hash_of,
        mark::Mark,
        wide::widely,
    },
    host::TableState,
};

/// Tables are seeded at random: unlike the routing hash, they resist keys chosen to collide.
pub(crate) type Table<K, V> = HashMap<K, V, TableState>;

/// How items are taken into an accumulator.
pub(crate) trait Folding<T>: 'static {
    type Acc: 'static;

    /// The accumulator of nothing; `None` if there is none, as for `reduce`.
    fn empty(&mut self) -> Option<Self::Acc>;
    /// The accumulator of the first item.
    fn first(&mut self, item: T) -> Self::Acc;
    fn add(&mut self, acc: &mut Self::Acc, item: T);
}

/// A start value and a closure.
#[derive(Clone)]
pub(crate) struct Fold<A, F>(pub A, pub F);

impl<T, A: Clone + 'static, F: FnMut(&mut A, T) + 'static> Folding<T> for Fold<A, F> {
    type Acc = A;

    fn empty(&mut self) -> Option<A> {
        Some(self.0.clone())
    }

    fn first(&mut self, item: T) -> A {
        let mut acc = self.0.clone();
        (self.1)(&mut acc, item);
        acc
    }

    #[inline]
    fn add(&mut self, acc: &mut A, item: T) {
        (self.1)(acc, item);
    }
}

/// A closure that combines two items into the first.
#[derive(Clone)]
pub(crate) struct Reduce<F>(pub F);

impl<T: 'static, F: FnMut(&mut T, T) + 'static> Folding<T> for Reduce<F> {
    type Acc = T;

    fn empty(&mut self) -> Option<T> {
        None
    }

    fn first(&mut self, item: T) -> T {
        item
    }

    #[inline]
    fn add(&mut self, acc: &mut T, item: T) {
        (self.0)(acc, item);
    }
}

/// Folds everything an instance sees into one accumulator, which comes out at the end.
pub(crate) struct FoldAll<T, D: Folding<T>> {
    meter: Meter,
    folding: D,
    acc: Option<D::Acc>,
    next: BoxStage<D::Acc>,
}

impl<T, D: Folding<T>> FoldAll<T, D> {
    pub fn new(meter: Meter, folding: D, next: BoxStage<D::Acc>) -> Self {
        Self { meter, folding, acc: None, next }
    }
}

impl<T, D: Folding<T>> Stage<T> for FoldAll<T, D> {
    fn batch(&mut self, items: &mut Vec<T>) -> Result<(), Failure> {
        let count = items.len() as u64;
        let mut cursor = self.meter.receive(items.len());
        let mut items = items.drain(..);
        if self.acc.is_none() {
            let Some(first) = items.next() else { return Ok(()) };
            cursor.advance();
            self.acc = Some(self.folding.first(first));
        }
        if let Some(acc) = &mut self.acc {
            widely(|| fold_into(acc, &mut self.folding, items, cursor.steps()));
        }
        self.meter.account.processed += count;
        Ok(())
    }

    fn mark(&mut self, mark: Mark) -> Result<(), Failure> {
        if mark == Mark::End {
            self.meter.enter();
            if let Some(acc) = self.acc.take().or_else(|| self.folding.empty()) {
                self.next.batch(&mut vec![acc])?;
            }
        }
        self.next.mark(mark)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        self.next.poll(cx)
    }

    crate::flow::operator::pass_on_rest!();
}

/// A function of its own, whose arguments are known not to overlap: a small accumulator is in a register throughout.
fn fold_into<T, D: Folding<T>>(acc: &mut D::Acc, folding: &mut D, items: Drain<'_, T>, mut steps: Steps<'_>) {
    for item in items {
        steps.advance();
        folding.add(acc, item);
    }
}

/// Folds the items of each key into an accumulator of its own; all come out at the end, in no particular order.
pub(crate) struct FoldByKey<K, T, D: Folding<T>> {
    meter: Meter,
    folding: D,
    table: Table<K, D::Acc>,
    /// What is still to come out, in batches, with the mark to follow.
    leaving: Option<(IntoIter<K, D::Acc>, Mark)>,
    out: Vec<(K, D::Acc)>,
    next: BoxStage<(K, D::Acc)>,
}

impl<K, T, D: Folding<T>> FoldByKey<K, T, D> {
    pub fn new(meter: Meter, folding: D, next: BoxStage<(K, D::Acc)>) -> Self {
        let table = Table::with_hasher(meter.task.context.host.table_state());
        Self { meter, folding, table, leaving: None, out: Vec::new(), next }
    }
}

impl<K: Hash + Eq, T, D: Folding<T>> Stage<(K, T)> for FoldByKey<K, T, D> {
    fn batch(&mut self, items: &mut Vec<(K, T)>) -> Result<(), Failure> {
        let count = items.len() as u64;
        let mut cursor = self.meter.receive(items.len());
        for (key, item) in items.drain(..) {
            cursor.advance();
            match self.table.entry(key) {
                Entry::Occupied(mut entry) => self.folding.add(entry.get_mut(), item),
                Entry::Vacant(entry) => {
                    entry.insert(self.folding.first(item));
                }
            }
        }
        self.meter.account.processed += count;
        Ok(())
    }

    fn mark(&mut self, mark: Mark) -> Result<(), Failure> {
        if mark != Mark::End {
            return self.next.mark(mark);
        }
        self.leaving = Some((std::mem::take(&mut self.table).into_iter(), mark));
        Ok(())
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        loop {
            std::task::ready!(self.next.poll(cx))?;
            let Some((leaving, mark)) = &mut self.leaving else { return Poll::Ready(Ok(())) };
            let wanted = self.next.wants_more(Reach::Anywhere);
            self.out.extend(leaving.take(if wanted { self.meter.task.limits.batch_items } else { 0 }));
            if self.out.is_empty() {
                self.next.mark(*mark)?;
                self.leaving = None;
            } else {
                self.next.batch(&mut self.out)?;
            }
        }
    }

    crate::flow::operator::pass_on_rest!();
}

/// Slots of the table that pre-combines in front of an exchange. It bounds the memory this may take.
const SLOTS: usize = 1 << 14;
/// Items after which it is decided whether pre-combining pays.
const TRIAL: u64 = 1 << 16;
/// Items that pass uncombined before it is tried again.
const REST: u64 = 1 << 22;

/// Combines items of equal key before they cross an exchange, as far as that pays.
///
/// A direct-mapped table: an item whose slot is taken by another key sends that key's accumulator on. Frequent keys
/// stay, memory is fixed, and there is never a burst. When fewer than a third of the items of a trial found their key,
/// items pass uncombined for a while.
pub(crate) struct Combine<K, T, D: Folding<T>> {
    meter: Meter,
    folding: D,
    slots: Vec<Option<(K, D::Acc)>>,
    /// Items until the next decision, and how many of the trial's found their key.
    left: u64,
    hits: u64,
    resting: bool,
    leaving: Option<Mark>,
    out: Vec<(K, D::Acc)>,
    next: BoxStage<(K, D::Acc)>,
}

impl<K, T, D: Folding<T>> Combine<K, T, D> {
    pub fn new(meter: Meter, folding: D, next: BoxStage<(K, D::Acc)>) -> Self {
        Self {
            meter,
            folding,
            slots: Vec::new(),
            left: TRIAL,
            hits: 0,
            resting: false,
            leaving: None,
            out: Vec::new(),
            next,
        }
    }

    /// Moves up to a batch of what the table holds into `out`.
    fn empty_slots(&mut self) {
        let batch_items = self.meter.task.limits.batch_items;
        while self.out.len() < batch_items
            && let Some(slot) = self.slots.pop()
        {
            self.out.extend(slot);
        }
    }

    fn decide(&mut self) {
        self.resting = !self.resting && self.hits < TRIAL / 3;
        self.left = if self.resting { REST } else { TRIAL };
        self.hits = 0;
    }
}

impl<K: Hash + Eq, T, D: Folding<T>> Stage<(K, T)> for Combine<K, T, D> {
    fn batch(&mut self, items: &mut Vec<(K, T)>) -> Result<(), Failure> {
        let (before, count) = (self.meter.account.received, items.len() as u64);
        let mut cursor = self.meter.receive(items.len());
        if self.resting {
            let folding = &mut self.folding;
            map_batch(items, &mut self.out, |(key, item)| (key, folding.first(item)))
                .map_err(|(index, panic)| self.meter.panicked(before + index, panic))?;
        } else {
            if self.slots.is_empty() {
                self.slots.resize_with(SLOTS, || None);
            }
            for (key, item) in items.drain(..) {
                cursor.advance();
                let slot = &mut self.slots[hash_of(&key) as usize % SLOTS];
                match slot {
                    Some((held, acc)) if *held == key => {
                        self.hits += 1;
                        self.folding.add(acc, item);
                    }
                    _ => {
                        let fresh = Some((key, self.folding.first(item)));
                        self.out.extend(std::mem::replace(slot, fresh));
                    }
                }
            }
        }
        drop(cursor);
        self.meter.account.processed += count;
        self.left = self.left.saturating_sub(count);
        if self.left == 0 {
            self.decide();
        }
        if self.out.is_empty() { Ok(()) } else { self.next.batch(&mut self.out) }
    }

    fn mark(&mut self, mark: Mark) -> Result<(), Failure> {
        // What was combined so far lies in front of the mark: behind a `Hold` nothing may be in flight.
        self.leaving = Some(mark);
        Ok(())
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        loop {
            std::task::ready!(self.next.poll(cx))?;
            let Some(mark) = self.leaving else { return Poll::Ready(Ok(())) };
            self.empty_slots();
            if self.out.is_empty() {
                self.leaving = None;
                self.next.mark(mark)?;
            } else {
                self.next.batch(&mut self.out)?;
            }
        }
    }

    crate::flow::operator::pass_on_rest!();
}

/// One item in, one out, with a state for each key.
pub(crate) struct MapWithState<K, S, F, U> {
    meter: Meter,
    init: S,
    f: F,
    table: Table<K, S>,
    out: Vec<U>,
    next: BoxStage<U>,
}

impl<K, S, F, U> MapWithState<K, S, F, U> {
    pub fn new(meter: Meter, init: S, f: F, next: BoxStage<U>) -> Self {
        let table = Table::with_hasher(meter.task.context.host.table_state());
        Self { meter, init, f, table, out: Vec::new(), next }
    }
}

impl<K, T, S, F, U> Stage<(K, T)> for MapWithState<K, S, F, U>
where
    K: Hash + Eq,
    S: Clone,
    F: FnMut(&K, &mut S, T) -> U,
{
    fn batch(&mut self, items: &mut Vec<(K, T)>) -> Result<(), Failure> {
        let mut cursor = self.meter.receive(items.len());
        for (key, item) in items.drain(..) {
            cursor.advance();
            let (f, init) = (&mut self.f, &self.init);
            let mut run = |key: &K, state: &mut S, item| {
                if self.meter.skips {
                    // A panic may leave the state half-changed; the item is set aside and its key's state undone.
                    let before = state.clone();
                    let result = self.meter.attempt(cursor.position, || Ok(f(key, state, item)));
                    if result.is_none() {
                        *state = before;
                    }
                    result
                } else {
                    self.meter.account.processed += 1;
                    Some(f(key, state, item))
                }
            };
            let result = match self.table.get_key_value_mut(&key) {
                Some((key, state)) => run(key, state, item),
                None => {
                    let mut state = init.clone();
                    let result = run(&key, &mut state, item);
                    self.table.insert(key, state);
                    result
                }
            };
            self.out.extend(result);
        }
        drop(cursor);
        if self.out.is_empty() { Ok(()) } else { self.next.batch(&mut self.out) }
    }

    crate::flow::operator::pass_on!();
}
