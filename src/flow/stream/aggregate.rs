//! Aggregates over all items of a stream.

use std::ops::AddAssign;

use serde::{Serialize, de::DeserializeOwned};

use crate::flow::{
    aggregate::{Fold, FoldAll, Folding, Reduce},
    operator::Map,
    stream::Stream,
};

impl<T: Send + 'static> Stream<T> {
    /// Folds all items, in one instance, into one result that comes out at the end of the input; `init` if there was
    /// none. Parallel instances are gathered first, in no particular order. See [`fold_assoc`](Self::fold_assoc).
    pub fn fold<A, F>(self, init: A, f: F) -> Stream<A>
    where
        T: Serialize + DeserializeOwned,
        A: Clone + Send + 'static,
        F: FnMut(&mut A, T) + Clone + Send + 'static,
    {
        self.single(Self::gather).fold_each("fold", Fold(init, f))
    }

    /// Folds the items of each instance in parallel, then combines the results, at the end of the input, into one.
    ///
    /// `init` is the start value of each instance and of the combination, so it must be neutral to `combine`.
    pub fn fold_assoc<A, F, C>(self, init: A, f: F, combine: C) -> Stream<A>
    where
        A: Clone + Serialize + DeserializeOwned + Send + 'static,
        F: FnMut(&mut A, T) + Clone + Send + 'static,
        C: FnMut(&mut A, A) + Clone + Send + 'static,
    {
        self.fold_assoc_as("fold_assoc", init, f, combine)
    }

    fn fold_assoc_as<A, F, C>(self, kind: &'static str, init: A, f: F, combine: C) -> Stream<A>
    where
        A: Clone + Serialize + DeserializeOwned + Send + 'static,
        F: FnMut(&mut A, T) + Clone + Send + 'static,
        C: FnMut(&mut A, A) + Clone + Send + 'static,
    {
        let partial = self.fold_each(kind, Fold(init.clone(), f));
        partial.single(|partial| partial.gather().fold_each("combine", Fold(init, combine)))
    }

    /// Combines all items into one that comes out at the end of the input; nothing comes out if there was none. Runs
    /// in parallel, so `combine` must be associative and, behind parallel instances, commutative.
    pub fn reduce<F>(self, combine: F) -> Stream<T>
    where
        T: Serialize + DeserializeOwned,
        F: FnMut(&mut T, T) + Clone + Send + 'static,
    {
        let partial = self.fold_each("reduce", Reduce(combine.clone()));
        partial.single(|partial| partial.gather().fold_each("combine", Reduce(combine)))
    }

    /// The number of items, at the end of the input. Runs in parallel.
    pub fn count(self) -> Stream<u64> {
        self.fold_assoc_as("count", 0, |count: &mut u64, _| *count += 1, |count, more| *count += more)
    }

    /// The sum of the items, at the end of the input; `T::default()` if there was none. Runs in parallel. Overflow
    /// does what `+=` of `T` does.
    pub fn sum(self) -> Stream<T>
    where
        T: AddAssign + Default + Clone + Serialize + DeserializeOwned,
    {
        self.fold_assoc_as("sum", T::default(), |sum: &mut T, item| *sum += item, |sum, item| *sum += item)
    }

    /// A running fold: after each item what the items of its instance have come to so far, starting from `init`.
    ///
    /// Results come out at once, in the order of the items; there are as many of them as items. Each parallel instance has
    /// an accumulator of its own, which is kept until the input ends and cloned for each item; [`gather`](Self::gather)
    /// first for one over all. Under *skip* an item that panics leaves no trace in it, at the cost of a second clone.
    ///
    /// ```
    /// use proscenium::{LocalEnvironment, job_fn};
    ///
    /// let env = LocalEnvironment::new("doc");
    /// let job = env.submit(job_fn("sums", |flow| {
    ///     flow.from_batch(1..=4u64).scan(0, |sum, n| *sum += n).collect("sums");
    ///     Ok(())
    /// }));
    /// let job = job.autostop(true).blocking()?;
    /// assert_eq!(job.output::<u64>("sums").blocking()?, [1, 3, 6, 10]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn scan<A, F>(self, init: A, f: F) -> Stream<A>
    where
        A: Clone + Send + 'static,
        F: FnMut(&mut A, T) + Clone + Send + 'static,
    {
        self.then("scan", move |_| {
            let (mut acc, mut f) = (init.clone(), f.clone());
            Box::new(move |meter, next| {
                let skips = meter.skips;
                let step = move |item| {
                    if skips {
                        // An item that panics half-way has changed the copy.
                        let mut copy = acc.clone();
                        f(&mut copy, item);
                        acc = copy;
                    } else {
                        f(&mut acc, item);
                    }
                    acc.clone()
                };
                Box::new(Map::new(meter, step, next))
            })
        })
    }

    fn fold_each<D>(self, kind: &'static str, folding: D) -> Stream<D::Acc>
    where
        D: Folding<T> + Clone + Send,
        D::Acc: Send,
    {
        self.then(kind, move |_| {
            let folding = folding.clone();
            Box::new(move |meter, next| Box::new(FoldAll::new(meter, folding, next)))
        })
    }
}
