//! Operators that work item by item: map, filter, flat-map and their kin.

use std::task::{Context, Poll};

use crate::dataplane::{
    chain::{BoxStage, Ending, Failure, Lull, Meter, Reach, Stage, map_batch},
    error::TaskError,
    mark::Mark,
};

/// What a stage only passes on to the stage behind it, apart from batches, marks and polls.
macro_rules! pass_on_rest {
    () => {
        fn flush(&mut self, lull: Lull) -> Result<(), Failure> {
            self.next.flush(lull)
        }

        fn wants_more(&self, reach: Reach) -> bool {
            self.next.wants_more(reach)
        }

        fn owes(&self) -> bool {
            self.next.owes()
        }

        fn settle(&mut self, ending: Ending) {
            self.meter.settle(ending);
            self.next.settle(ending);
        }
    };
}
pub(crate) use pass_on_rest;

/// The methods a stage only passes on to the stage behind it: all but batches.
macro_rules! pass_on {
    () => {
        fn mark(&mut self, mark: Mark) -> Result<(), Failure> {
            self.next.mark(mark)
        }

        fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
            self.next.poll(cx)
        }

        $crate::flow::operator::pass_on_rest!();
    };
}
pub(crate) use pass_on;

/// Passes every item on: an operator that stands for where a stream comes from.
pub(crate) struct Pass<T> {
    meter: Meter,
    next: BoxStage<T>,
}

impl<T> Pass<T> {
    pub fn new(meter: Meter, next: BoxStage<T>) -> Self {
        Self { meter, next }
    }
}

impl<T> Stage<T> for Pass<T> {
    fn batch(&mut self, items: &mut Vec<T>) -> Result<(), Failure> {
        self.meter.account.received += items.len() as u64;
        self.meter.account.processed += items.len() as u64;
        self.next.batch(items)
    }

    pass_on!();
}

/// One item in, one out; the closure cannot fail.
pub(crate) struct Map<F, U> {
    meter: Meter,
    f: F,
    out: Vec<U>,
    next: BoxStage<U>,
}

impl<F, U> Map<F, U> {
    pub fn new(meter: Meter, f: F, next: BoxStage<U>) -> Self {
        Self { meter, f, out: Vec::new(), next }
    }
}

impl<T, U, F: FnMut(T) -> U> Stage<T> for Map<F, U> {
    fn batch(&mut self, items: &mut Vec<T>) -> Result<(), Failure> {
        let (before, count) = (self.meter.account.received, items.len() as u64);
        let mut cursor = self.meter.receive(items.len());
        let (f, out) = (&mut self.f, &mut self.out);
        if self.meter.skips {
            for item in items.drain(..) {
                cursor.advance();
                out.extend(self.meter.attempt(cursor.position, || Ok(f(item))));
            }
        } else {
            map_batch(items, out, f).map_err(|(index, panic)| self.meter.panicked(before + index, panic))?;
            self.meter.account.processed += count;
        }
        drop(cursor);
        if self.out.is_empty() { Ok(()) } else { self.next.batch(&mut self.out) }
    }

    pass_on!();
}

/// One item in, any number out, possibly an error: the general case behind `try_map`, `filter_map` and `flat_map`.
pub(crate) struct Expand<F, U> {
    meter: Meter,
    f: F,
    out: Vec<U>,
    next: BoxStage<U>,
}

impl<F, U> Expand<F, U> {
    pub fn new(meter: Meter, f: F, next: BoxStage<U>) -> Self {
        Self { meter, f, out: Vec::new(), next }
    }
}

impl<F, U> Expand<F, U> {
    fn skipping<T>(&mut self, items: &mut Vec<T>)
    where
        F: FnMut(T, &mut Vec<U>) -> Result<(), TaskError>,
    {
        let mut cursor = self.meter.receive(items.len());
        for item in items.drain(..) {
            cursor.advance();
            let (f, out) = (&mut self.f, &mut self.out);
            let before = out.len();
            if self.meter.attempt(cursor.position, || f(item, out)).is_none() {
                // An item is processed whole or not at all.
                self.out.truncate(before);
            }
        }
    }

    fn failing<T>(&mut self, items: &mut Vec<T>) -> Result<(), Failure>
    where
        F: FnMut(T, &mut Vec<U>) -> Result<(), TaskError>,
    {
        let batch_items = self.meter.task.limits.batch_items;
        let mut cursor = self.meter.receive(items.len());
        for item in items.drain(..) {
            cursor.advance();
            if let Err(error) = (self.f)(item, &mut self.out) {
                let failure = self.meter.failed(cursor.position, &error);
                // What came before the item goes on, so that the failure is seen behind it. The cursor is gone by
                // then, here and below, so that a panic downstream is not attributed to this operator.
                drop(cursor);
                if !self.out.is_empty() {
                    self.next.batch(&mut self.out)?;
                }
                return Err(failure);
            }
            self.meter.account.processed += 1;
            if self.out.len() >= batch_items {
                let position = cursor.position;
                drop(cursor);
                self.next.batch(&mut self.out)?;
                cursor = self.meter.cursor(position);
            }
        }
        Ok(())
    }
}

impl<T, U, F: FnMut(T, &mut Vec<U>) -> Result<(), TaskError>> Stage<T> for Expand<F, U> {
    fn batch(&mut self, items: &mut Vec<T>) -> Result<(), Failure> {
        if self.meter.skips {
            self.skipping(items);
        } else {
            self.failing(items)?;
        }
        if self.out.is_empty() { Ok(()) } else { self.next.batch(&mut self.out) }
    }

    pass_on!();
}

/// Shows every item to a closure.
pub(crate) struct Inspect<T, F> {
    meter: Meter,
    f: F,
    next: BoxStage<T>,
}

impl<T, F> Inspect<T, F> {
    pub fn new(meter: Meter, f: F, next: BoxStage<T>) -> Self {
        Self { meter, f, next }
    }
}

impl<T, F: FnMut(&T)> Stage<T> for Inspect<T, F> {
    fn batch(&mut self, items: &mut Vec<T>) -> Result<(), Failure> {
        let mut cursor = self.meter.receive(items.len());
        let f = &mut self.f;
        if self.meter.skips {
            items.retain(|item| {
                cursor.advance();
                let run = || {
                    f(item);
                    Ok(())
                };
                self.meter.attempt(cursor.position, run).is_some()
            });
        } else {
            for item in items.iter() {
                cursor.advance();
                f(item);
            }
            self.meter.account.processed += items.len() as u64;
        }
        drop(cursor);
        if items.is_empty() { Ok(()) } else { self.next.batch(items) }
    }

    pass_on!();
}

/// Passes the first `left` items of its instance and wants no more.
pub(crate) struct Take<T> {
    meter: Meter,
    left: usize,
    next: BoxStage<T>,
}

impl<T> Take<T> {
    pub fn new(meter: Meter, count: usize, next: BoxStage<T>) -> Self {
        Self { meter, left: count, next }
    }
}

impl<T> Stage<T> for Take<T> {
    fn batch(&mut self, items: &mut Vec<T>) -> Result<(), Failure> {
        drop(self.meter.receive(items.len()));
        let beyond = items.len().saturating_sub(self.left);
        self.meter.account.discarded += beyond as u64;
        items.truncate(self.left);
        self.meter.account.processed += items.len() as u64;
        self.left -= items.len();
        if items.is_empty() { Ok(()) } else { self.next.batch(items) }
    }

    fn mark(&mut self, mark: Mark) -> Result<(), Failure> {
        self.next.mark(mark)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        self.next.poll(cx)
    }

    fn flush(&mut self, lull: Lull) -> Result<(), Failure> {
        self.next.flush(lull)
    }

    fn wants_more(&self, reach: Reach) -> bool {
        self.left > 0 && self.next.wants_more(reach)
    }

    fn owes(&self) -> bool {
        self.next.owes()
    }

    fn settle(&mut self, ending: Ending) {
        self.meter.settle(ending);
        self.next.settle(ending);
    }
}

/// What a stage with two chains behind it passes on to both.
macro_rules! pass_on_both {
    () => {
        fn mark(&mut self, mark: Mark) -> Result<(), Failure> {
            self.left.mark(mark)?;
            self.right.mark(mark)
        }

        fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
            // Both are polled, so that a blocked branch does not keep the other from working off what it has.
            let left = self.left.poll(cx)?;
            let right = self.right.poll(cx)?;
            if left.is_pending() || right.is_pending() { Poll::Pending } else { Poll::Ready(Ok(())) }
        }

        fn flush(&mut self, lull: Lull) -> Result<(), Failure> {
            self.left.flush(lull)?;
            self.right.flush(lull)
        }

        fn wants_more(&self, reach: Reach) -> bool {
            self.left.wants_more(reach) || self.right.wants_more(reach)
        }

        fn owes(&self) -> bool {
            self.left.owes() || self.right.owes()
        }

        fn settle(&mut self, ending: Ending) {
            self.meter.settle(ending);
            self.left.settle(ending);
            self.right.settle(ending);
        }
    };
}

/// Two chains behind one: both see every item.
pub(crate) struct Tee<T> {
    meter: Meter,
    copy: Vec<T>,
    left: BoxStage<T>,
    right: BoxStage<T>,
}

impl<T> Tee<T> {
    pub fn new(meter: Meter, left: BoxStage<T>, right: BoxStage<T>) -> Self {
        Self { meter, copy: Vec::new(), left, right }
    }
}

impl<T: Clone> Stage<T> for Tee<T> {
    fn batch(&mut self, items: &mut Vec<T>) -> Result<(), Failure> {
        drop(self.meter.receive(items.len()));
        self.meter.account.processed += items.len() as u64;
        // A branch that wants no more is spared, so that `take` on one side does not keep the other from ending.
        if self.left.wants_more(Reach::Anywhere) {
            self.copy.extend_from_slice(items);
            self.left.batch(&mut self.copy)?;
        }
        if self.right.wants_more(Reach::Anywhere) {
            self.right.batch(items)?;
        }
        items.clear();
        Ok(())
    }

    pass_on_both!();
}

/// One of two: which stream of a [`split_map`](crate::Stream::split_map) an item goes into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Either<A, B> {
    /// Into the first.
    Left(A),
    /// Into the second.
    Right(B),
}

/// Two chains behind one: each item goes into one of them.
pub(crate) struct Split<F, A, B> {
    meter: Meter,
    f: F,
    lefts: Vec<A>,
    rights: Vec<B>,
    left: BoxStage<A>,
    right: BoxStage<B>,
}

impl<F, A, B> Split<F, A, B> {
    pub fn new(meter: Meter, f: F, left: BoxStage<A>, right: BoxStage<B>) -> Self {
        Self { meter, f, lefts: Vec::new(), rights: Vec::new(), left, right }
    }
}

impl<T, F: FnMut(T) -> Either<A, B>, A, B> Stage<T> for Split<F, A, B> {
    fn batch(&mut self, items: &mut Vec<T>) -> Result<(), Failure> {
        let mut cursor = self.meter.receive(items.len());
        for item in items.drain(..) {
            cursor.advance();
            let side = if self.meter.skips {
                let f = &mut self.f;
                self.meter.attempt(cursor.position, || Ok(f(item)))
            } else {
                let side = (self.f)(item);
                self.meter.account.processed += 1;
                Some(side)
            };
            match side {
                Some(Either::Left(item)) => self.lefts.push(item),
                Some(Either::Right(item)) => self.rights.push(item),
                None => {}
            }
        }
        drop(cursor);
        // A branch that wants no more is spared, so that `take` on one side does not keep the other from ending.
        if !self.left.wants_more(Reach::Anywhere) {
            self.lefts.clear();
        }
        if !self.right.wants_more(Reach::Anywhere) {
            self.rights.clear();
        }
        if !self.lefts.is_empty() {
            self.left.batch(&mut self.lefts)?;
        }
        if self.rights.is_empty() { Ok(()) } else { self.right.batch(&mut self.rights) }
    }

    pass_on_both!();
}
