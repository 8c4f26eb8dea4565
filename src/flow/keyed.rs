//! Streams whose items have a key.

use std::{cell::RefCell, fmt, hash::Hash, ops::AddAssign, rc::Rc};

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    dataplane::{chain::BoxStage, edge::Pairing, exchange::ByKey, hash::KEY_GROUPS},
    flow::{
        aggregate::{Combine, Fold, FoldByKey, Folding, MapWithState, Reduce},
        graph::Blueprint,
        stream::{Exchange, Stream},
    },
    job::{BuildRefusal, Parallelism},
};

/// A stream whose items have a key; what is done with it brings equal keys to one instance.
///
/// Which instance a key goes to depends on the key and the parallelism alone, and is the same in every process. Keys
/// are dealt out in 128 groups, so the parallelism is at most 128. The items of one key keep the order in which each
/// upstream instance had them.
///
/// The state kept per key lives in memory until the input ends.
#[must_use = "a stream that nothing consumes refuses the flow"]
pub struct KeyedStream<K, T> {
    stream: Stream<(K, T)>,
    /// The job's if it is not said.
    parallelism: Option<usize>,
}

impl<K, T> fmt::Debug for KeyedStream<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedStream").field("parallelism", &self.parallelism).finish_non_exhaustive()
    }
}

impl<K: Send + 'static, T: Send + 'static> KeyedStream<K, T> {
    pub(crate) fn new(stream: Stream<(K, T)>) -> Self {
        Self { stream, parallelism: None }
    }

    /// The items with their keys, and how many instances the keys are to be dealt out to if that was said.
    pub(crate) fn into_parts(self) -> (Stream<(K, T)>, Option<usize>) {
        (self.stream, self.parallelism)
    }

    /// How many instances the keys are dealt out to. By default the job's parallelism. 0 or more than 128 refuses the
    /// flow.
    pub fn parallelism(mut self, parallelism: usize) -> Self {
        self.parallelism = Some(parallelism);
        self
    }

    /// Names the `key_by`; see [`Stream::uid`].
    pub fn uid(mut self, uid: &str) -> Self {
        self.stream = self.stream.uid(uid);
        self
    }

    /// See [`Stream::weigh`].
    pub fn weigh(mut self, weight: impl Fn(&K, &T) -> usize + Send + Sync + 'static) -> Self {
        self.stream = self.stream.weigh(move |(key, item)| weight(key, item));
        self
    }
}

impl<K, T> KeyedStream<K, T>
where
    K: Hash + Eq + Serialize + DeserializeOwned + Send + 'static,
    T: Send + 'static,
{
    /// The items with their keys, each key on one instance.
    pub fn entries(self) -> Stream<(K, T)>
    where
        T: Serialize + DeserializeOwned,
    {
        exchange(self.stream, self.parallelism)
    }

    /// The items without their keys, those of each key on one instance.
    pub fn values(self) -> Stream<T>
    where
        T: Serialize + DeserializeOwned,
    {
        self.entries().map(|(_, item)| item)
    }

    /// Folds the items of each key, starting from `init`. The results come out at the end of the input, in no
    /// particular order.
    pub fn fold<A, F>(self, init: A, f: F) -> Stream<(K, A)>
    where
        T: Serialize + DeserializeOwned,
        A: Clone + Serialize + DeserializeOwned + Send + 'static,
        F: FnMut(&mut A, T) + Clone + Send + 'static,
    {
        fold_by_key(exchange(self.stream, self.parallelism), "fold", Fold(init, f))
    }

    /// Folds the items of each key, first where they are, as far as that saves sending, and then across instances.
    ///
    /// `init` starts every partial result and their combination, so it must be neutral to `combine`. The results come
    /// out at the end of the input, in no particular order.
    pub fn fold_assoc<A, F, C>(self, init: A, f: F, combine: C) -> Stream<(K, A)>
    where
        A: Clone + Serialize + DeserializeOwned + Send + 'static,
        F: FnMut(&mut A, T) + Clone + Send + 'static,
        C: FnMut(&mut A, A) + Clone + Send + 'static,
    {
        let partial = pre_combine(self.stream, Fold(init.clone(), f));
        fold_by_key(exchange(partial, self.parallelism), "fold_assoc", Fold(init, combine))
    }

    /// Combines the items of each key into one, which comes out at the end of the input, in no particular order.
    /// `combine` must be associative, and commutative if upstream is parallel: it runs also in front of the exchange.
    pub fn reduce<F>(self, combine: F) -> Stream<(K, T)>
    where
        T: Serialize + DeserializeOwned,
        F: FnMut(&mut T, T) + Clone + Send + 'static,
    {
        let partial = pre_combine(self.stream, Reduce(combine.clone()));
        fold_by_key(exchange(partial, self.parallelism), "reduce", Reduce(combine))
    }

    /// The number of items of each key, at the end of the input, in no particular order.
    pub fn count(self) -> Stream<(K, u64)> {
        let partial = pre_combine(self.stream, Fold(0, |count: &mut u64, _| *count += 1));
        let add = |count: &mut u64, more| *count += more;
        fold_by_key(exchange(partial, self.parallelism), "count", Fold(0, add))
    }

    /// The sum of the items of each key, at the end of the input, in no particular order. Overflow does what `+=` of
    /// `T` does.
    pub fn sum(self) -> Stream<(K, T)>
    where
        T: AddAssign + Serialize + DeserializeOwned,
    {
        self.reduce(|sum, item| *sum += item)
    }

    /// One item out for each in, by a closure that has a state for each key, which starts as a clone of `init`.
    /// Results come out at once, in the order of the items.
    pub fn map_with_state<S, U, F>(self, init: S, f: F) -> Stream<U>
    where
        T: Serialize + DeserializeOwned,
        S: Clone + Serialize + DeserializeOwned + Send + 'static,
        U: Send + 'static,
        F: FnMut(&K, &mut S, T) -> U + Clone + Send + 'static,
    {
        self.entries().then("map_with_state", move |_| {
            let (init, f) = (init.clone(), f.clone());
            Box::new(move |meter, next| Box::new(MapWithState::new(meter, init, f, next)) as BoxStage<(K, T)>)
        })
    }

    /// A running fold for each key: after each item what its key's items have come to so far, starting from `init`.
    ///
    /// Results come out at once, in the order of the items; the last one of a key is what [`fold`](Self::fold) gives. An
    /// accumulator for each key is kept until the input ends, and cloned for each item. Under *skip* an item that panics
    /// leaves no trace in it.
    ///
    /// ```
    /// use proscenium::{LocalEnvironment, job_fn};
    ///
    /// let env = LocalEnvironment::new("doc");
    /// let job = env.submit(job_fn("balances", |flow| {
    ///     let amounts = flow.from_batch([(1u8, 10i64), (1, -4), (1, 1)]).key_by(|(account, _)| *account);
    ///     amounts.scan(0, |balance, (_, amount)| *balance += amount).collect("balances");
    ///     Ok(())
    /// }));
    /// let job = job.autostop(true).blocking()?;
    /// assert_eq!(job.output::<(u8, i64)>("balances").blocking()?, [(1, 10), (1, 6), (1, 7)]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn scan<A, F>(self, init: A, f: F) -> Stream<(K, A)>
    where
        K: Clone,
        T: Serialize + DeserializeOwned,
        A: Clone + Serialize + DeserializeOwned + Send + 'static,
        F: FnMut(&mut A, T) + Clone + Send + 'static,
    {
        self.entries().then("scan", move |_| {
            let (init, mut f) = (init.clone(), f.clone());
            let f = move |key: &K, acc: &mut A, item| {
                f(acc, item);
                (key.clone(), acc.clone())
            };
            Box::new(move |meter, next| Box::new(MapWithState::new(meter, init, f, next)) as BoxStage<(K, T)>)
        })
    }
}

/// The instances that keys are dealt out to: so many, or as many as the job's parallelism. A number that cannot be refuses the
/// flow.
pub(crate) fn key_parallelism(blueprint: &Rc<RefCell<Blueprint>>, said: Option<usize>) -> Parallelism {
    let parallelism = said.unwrap_or(blueprint.borrow().options.parallelism);
    // Here, so that it names what the user wrote and not the exchange it comes to.
    let operator = || "key_by".to_owned();
    if parallelism == 0 {
        blueprint.borrow_mut().refuse(BuildRefusal::ZeroParallelism { operator: operator() });
    }
    if parallelism > KEY_GROUPS {
        let refusal = BuildRefusal::TooParallel { operator: operator(), asked: parallelism, limit: KEY_GROUPS };
        blueprint.borrow_mut().refuse(refusal);
    }
    said.map_or(Parallelism::Job, |said| Parallelism::Fixed(said.min(KEY_GROUPS)))
}

fn exchange<K, V>(stream: Stream<(K, V)>, parallelism: Option<usize>) -> Stream<(K, V)>
where
    K: Hash + Serialize + DeserializeOwned + Send + 'static,
    V: Serialize + DeserializeOwned + Send + 'static,
{
    let parallelism = key_parallelism(stream.blueprint(), parallelism);
    let mut exchange = Exchange::between_workers(stream.blueprint(), parallelism);
    exchange.add(stream, "exchange", Pairing::AllToAll, |_, lanes| ByKey::new(lanes));
    exchange.is_dealt_by_key();
    exchange.finish()
}

fn pre_combine<K, T, D>(stream: Stream<(K, T)>, folding: D) -> Stream<(K, D::Acc)>
where
    K: Hash + Eq + Send + 'static,
    T: Send + 'static,
    D: Folding<T> + Clone + Send,
    D::Acc: Send,
{
    stream.then("combine", move |_| {
        let folding = folding.clone();
        Box::new(move |meter, next| Box::new(Combine::new(meter, folding, next)))
    })
}

fn fold_by_key<K, T, D>(stream: Stream<(K, T)>, kind: &'static str, folding: D) -> Stream<(K, D::Acc)>
where
    K: Hash + Eq + Send + 'static,
    T: Send + 'static,
    D: Folding<T> + Clone + Send,
    D::Acc: Send,
{
    stream.then(kind, move |_| {
        let folding = folding.clone();
        Box::new(move |meter, next| Box::new(FoldByKey::new(meter, folding, next)))
    })
}
