//! Joins: pairs of items of two streams that have the same key.

mod within;

use std::{
    hash::Hash,
    marker::PhantomData,
    rc::Rc,
    task::{Context, Poll, ready},
};

use hashbrown::hash_map::IntoIter;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    dataplane::{
        chain::{BoxStage, Ending, Failure, Lull, Meter, Reach, Stage},
        edge::Pairing,
        exchange::ByKey,
        mark::Mark,
    },
    flow::{
        aggregate::Table,
        keyed::{KeyedStream, key_parallelism},
        operator::Map,
        stream::{Exchange, Stream},
    },
    job::{BuildRefusal, Parallelism},
};

/// An item of one of two sides.
#[derive(Serialize, Deserialize)]
enum Side<A, B> {
    Left(A),
    Right(B),
}

/// What comes out of a join.
trait Kind<K, A, B>: 'static {
    const NAME: &'static str;
    type Out: Send + 'static;

    fn pair(key: K, left: A, right: B) -> Self::Out;

    /// Of an item for whose key the right side has nothing.
    fn left(_: K, _: A) -> Option<Self::Out> {
        None
    }

    /// Of an item for whose key the left side has nothing.
    fn right(_: K, _: B) -> Option<Self::Out> {
        None
    }
}

struct Inner;

impl<K: Send + 'static, A: Send + 'static, B: Send + 'static> Kind<K, A, B> for Inner {
    const NAME: &'static str = "join";
    type Out = (K, (A, B));

    fn pair(key: K, left: A, right: B) -> Self::Out {
        (key, (left, right))
    }
}

struct LeftOuter;

impl<K: Send + 'static, A: Send + 'static, B: Send + 'static> Kind<K, A, B> for LeftOuter {
    const NAME: &'static str = "left_outer_join";
    type Out = (K, (A, Option<B>));

    fn pair(key: K, left: A, right: B) -> Self::Out {
        (key, (left, Some(right)))
    }

    fn left(key: K, left: A) -> Option<Self::Out> {
        Some((key, (left, None)))
    }
}

struct FullOuter;

impl<K: Send + 'static, A: Send + 'static, B: Send + 'static> Kind<K, A, B> for FullOuter {
    const NAME: &'static str = "full_outer_join";
    type Out = (K, (Option<A>, Option<B>));

    fn pair(key: K, left: A, right: B) -> Self::Out {
        (key, (Some(left), Some(right)))
    }

    fn left(key: K, left: A) -> Option<Self::Out> {
        Some((key, (Some(left), None)))
    }

    fn right(key: K, right: B) -> Option<Self::Out> {
        Some((key, (None, Some(right))))
    }
}

impl<K, A> KeyedStream<K, A>
where
    K: Hash + Eq + Clone + Serialize + DeserializeOwned + Send + 'static,
    A: Clone + Serialize + DeserializeOwned + Send + 'static,
{
    /// Every pair of an item of this stream and one of `other` that have the same key.
    ///
    /// A pair comes out as soon as both of its items are there, in no defined order. For bounded streams: each item is kept
    /// in memory until both inputs have ended. As many pairs are made at once as the other side has items of the key. A
    /// [`parallelism`](Self::parallelism) said of one side is that of the join; two that differ refuse the flow.
    ///
    /// ```
    /// use proscenium::{LocalEnvironment, job_fn};
    ///
    /// let env = LocalEnvironment::new("doc");
    /// let job = env.submit(job_fn("greetings", |flow| {
    ///     let hello = flow.from_batch((1..=3u32).map(|i| (i, format!("Hello-{i}")))).key_by(|(i, _)| *i);
    ///     let world = flow.from_batch((2..=5u32).map(|i| (i, format!("World-{i}")))).key_by(|(i, _)| *i);
    ///     hello.join(world).map(|(i, ((_, hello), (_, world)))| (i, hello + " " + &world)).collect("pairs");
    ///     Ok(())
    /// }));
    /// let job = job.autostop(true).blocking()?;
    /// let mut pairs = job.output::<(u32, String)>("pairs").blocking()?;
    /// pairs.sort();
    /// assert_eq!(pairs, [(2, "Hello-2 World-2".to_owned()), (3, "Hello-3 World-3".to_owned())]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn join<B>(self, other: KeyedStream<K, B>) -> Stream<(K, (A, B))>
    where
        B: Clone + Serialize + DeserializeOwned + Send + 'static,
    {
        join::<Inner, K, A, B>(self, other)
    }

    /// As [`join`](Self::join); an item of this stream for whose key `other` has nothing comes out at the end of the input,
    /// without a partner.
    pub fn left_outer_join<B>(self, other: KeyedStream<K, B>) -> Stream<(K, (A, Option<B>))>
    where
        B: Clone + Serialize + DeserializeOwned + Send + 'static,
    {
        join::<LeftOuter, K, A, B>(self, other)
    }

    /// As [`join`](Self::join); an item of either stream for whose key the other has nothing comes out at the end of the
    /// input, without a partner.
    #[expect(clippy::type_complexity, reason = "a name for it would say less")]
    pub fn full_outer_join<B>(self, other: KeyedStream<K, B>) -> Stream<(K, (Option<A>, Option<B>))>
    where
        B: Clone + Serialize + DeserializeOwned + Send + 'static,
    {
        join::<FullOuter, K, A, B>(self, other)
    }
}

fn join<J, K, A, B>(left: KeyedStream<K, A>, right: KeyedStream<K, B>) -> Stream<J::Out>
where
    J: Kind<K, A, B>,
    K: Hash + Eq + Clone + Serialize + DeserializeOwned + Send + 'static,
    A: Clone + Serialize + DeserializeOwned + Send + 'static,
    B: Clone + Serialize + DeserializeOwned + Send + 'static,
{
    merge(J::NAME, left, right).then(J::NAME, |_| {
        Box::new(|meter, next| Box::new(Join::<J, K, A, B>::new(meter, next)) as BoxStage<(K, Side<A, B>)>)
    })
}

/// Both sides in one stream, each key on one instance.
fn merge<K, A, B>(operator: &str, left: KeyedStream<K, A>, right: KeyedStream<K, B>) -> Stream<(K, Side<A, B>)>
where
    K: Hash + Eq + Serialize + DeserializeOwned + Send + 'static,
    A: Serialize + DeserializeOwned + Send + 'static,
    B: Serialize + DeserializeOwned + Send + 'static,
{
    let ((left, parallelism), (right, other)) = (left.into_parts(), right.into_parts());
    let blueprint = Rc::clone(left.blueprint());
    let operator = operator.to_owned();
    if !Rc::ptr_eq(&blueprint, right.blueprint()) {
        blueprint.borrow_mut().refuse(BuildRefusal::ForeignStream { operator });
    } else if let (Some(left), Some(right)) = (parallelism, other)
        && left != right
    {
        let (left, right) = (Parallelism::Fixed(left), Parallelism::Fixed(right));
        blueprint.borrow_mut().refuse(BuildRefusal::UnequalParallelism { operator, left, right });
    }
    let mut exchange = Exchange::between_workers(&blueprint, key_parallelism(&blueprint, parallelism.or(other)));
    let left = sided::<_, _, Side<A, B>>(left, Side::Left);
    exchange.add(left, "exchange", Pairing::AllToAll, |_, lanes| ByKey::new(lanes));
    let right = sided::<_, _, Side<A, B>>(right, Side::Right);
    exchange.add(right, "exchange", Pairing::AllToAll, |_, lanes| ByKey::new(lanes));
    exchange.is_dealt_by_key();
    exchange.finish()
}

/// Notes of each item which side it is of.
fn sided<K: Send + 'static, T: Send + 'static, S: Send + 'static>(
    stream: Stream<(K, T)>,
    side: fn(T) -> S,
) -> Stream<(K, S)> {
    stream.then("side", move |_| {
        let f = move |(key, item)| (key, side(item));
        Box::new(move |meter, next| Box::new(Map::new(meter, f, next)) as BoxStage<(K, T)>)
    })
}

/// What the two sides have of a key.
type Sides<A, B> = (Vec<A>, Vec<B>);

/// The items of both sides by their key. A hash join that reads both sides at once: the symmetric hash join of Wilschut
/// and Apers (1991).
struct Join<J: Kind<K, A, B>, K, A, B> {
    meter: Meter,
    table: Table<K, Sides<A, B>>,
    /// What is still to come out at the end.
    leaving: Option<IntoIter<K, Sides<A, B>>>,
    out: Vec<J::Out>,
    next: BoxStage<J::Out>,
    kind: PhantomData<J>,
}

impl<J: Kind<K, A, B>, K, A, B> Join<J, K, A, B> {
    fn new(meter: Meter, next: BoxStage<J::Out>) -> Self {
        let table = Table::with_hasher(meter.task.context.host.table_state());
        Self { meter, table, leaving: None, out: Vec::new(), next, kind: PhantomData }
    }
}

impl<J, K, A, B> Stage<(K, Side<A, B>)> for Join<J, K, A, B>
where
    J: Kind<K, A, B>,
    K: Hash + Eq + Clone,
    A: Clone,
    B: Clone,
{
    fn batch(&mut self, items: &mut Vec<(K, Side<A, B>)>) -> Result<(), Failure> {
        let batch_items = self.meter.task.limits.batch_items;
        let mut cursor = self.meter.receive(items.len());
        for (key, item) in items.drain(..) {
            cursor.advance();
            let (lefts, rights) = self.table.entry(key.clone()).or_default();
            match item {
                Side::Left(left) => {
                    self.out.extend(rights.iter().map(|right| J::pair(key.clone(), left.clone(), right.clone())));
                    lefts.push(left);
                }
                Side::Right(right) => {
                    self.out.extend(lefts.iter().map(|left| J::pair(key.clone(), left.clone(), right.clone())));
                    rights.push(right);
                }
            }
            self.meter.account.processed += 1;
            if self.out.len() >= batch_items {
                let position = cursor.position;
                drop(cursor);
                self.next.batch(&mut self.out)?;
                cursor = self.meter.cursor(position);
            }
        }
        drop(cursor);
        if self.out.is_empty() { Ok(()) } else { self.next.batch(&mut self.out) }
    }

    fn mark(&mut self, mark: Mark) -> Result<(), Failure> {
        if mark != Mark::End {
            return self.next.mark(mark);
        }
        self.leaving = Some(std::mem::take(&mut self.table).into_iter());
        Ok(())
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        loop {
            ready!(self.next.poll(cx))?;
            let Some(leaving) = &mut self.leaving else { return Poll::Ready(Ok(())) };
            let wanted = if self.next.wants_more(Reach::Anywhere) { self.meter.task.limits.batch_items } else { 0 };
            self.meter.enter();
            while self.out.len() < wanted
                && let Some((key, (lefts, rights))) = leaving.next()
            {
                // One side has nothing of this key, or the items have come out as pairs.
                if rights.is_empty() {
                    self.out.extend(lefts.into_iter().filter_map(|left| J::left(key.clone(), left)));
                } else if lefts.is_empty() {
                    self.out.extend(rights.into_iter().filter_map(|right| J::right(key.clone(), right)));
                }
            }
            if self.out.is_empty() {
                self.next.mark(Mark::End)?;
                self.leaving = None;
            } else {
                self.next.batch(&mut self.out)?;
            }
        }
    }

    crate::flow::operator::pass_on_rest!();
}
