//! Joins of streams that do not end: of items that came within a time of each other.

use std::{collections::VecDeque, hash::Hash, time::Duration};

use serde::{Serialize, de::DeserializeOwned};

use super::{Side, merge};
use crate::{
    flow::{keyed::KeyedStream, process::Process, stream::Stream},
    timestamp::Timestamp,
};

/// What came of a key on both sides, with the time at which it came.
struct Recent<A, B> {
    lefts: VecDeque<(Timestamp, A)>,
    rights: VecDeque<(Timestamp, B)>,
}

impl<A, B> Default for Recent<A, B> {
    fn default() -> Self {
        Self { lefts: VecDeque::new(), rights: VecDeque::new() }
    }
}

impl<A, B> Recent<A, B> {
    /// Forgets what came longer than `retention` ago.
    fn forget(&mut self, now: Timestamp, retention: Duration) {
        let is_old = |at: Timestamp| now.saturating_duration_since(at) > retention;
        while self.lefts.front().is_some_and(|(at, _)| is_old(*at)) {
            self.lefts.pop_front();
        }
        while self.rights.front().is_some_and(|(at, _)| is_old(*at)) {
            self.rights.pop_front();
        }
    }
}

impl<K, A> KeyedStream<K, A>
where
    K: Hash + Eq + Clone + Serialize + DeserializeOwned + Send + 'static,
    A: Clone + Serialize + DeserializeOwned + Send + 'static,
{
    /// Pairs of an item of this stream and one of `other` that have the same key and reached the join within `retention` of
    /// each other, as [`ProcessContext::now`](crate::ProcessContext::now) has the time. For streams that do not end; of
    /// those that do, [`join`](Self::join) makes all pairs.
    ///
    /// Each pair comes out once, when the later of the two is there, in the order of that one's arrival. Items that came
    /// longer ago are forgotten, those of a key for which nothing comes any more too: what is held
    /// in memory came within the last two times `retention`. What has found no partner
    /// does not come out. Nothing comes out at the end of the input. It costs a reading of the clock for each item. A
    /// [`parallelism`](Self::parallelism) said of one side is that of the join; two that differ refuse the flow.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use proscenium::{LocalEnvironment, job_fn};
    ///
    /// let env = LocalEnvironment::new("doc");
    /// let job = env.submit(job_fn("shown-and-clicked", |flow| {
    ///     let shown = flow.from_batch([1u32, 2, 3]).key_by(|page| *page);
    ///     let clicked = flow.from_batch([(2u32, "ann".to_owned()), (4, "bob".to_owned())]).key_by(|(page, _)| *page);
    ///     shown.join_within(clicked, Duration::from_secs(60)).map(|(page, (_, (_, who)))| (page, who)).collect("pairs");
    ///     Ok(())
    /// }));
    /// let job = job.autostop(true).blocking()?;
    /// assert_eq!(job.output::<(u32, String)>("pairs").blocking()?, [(2, "ann".to_owned())]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn join_within<B>(self, other: KeyedStream<K, B>, retention: Duration) -> Stream<(K, (A, B))>
    where
        B: Clone + Serialize + DeserializeOwned + Send + 'static,
    {
        let both = merge("join_within", self, other);
        // No user code that could fail: nothing is skipped, and so the state need not be cloned for each item.
        let process = Process::new(both, "join_within", None, move |ctx, key: &K, item, recent: &mut Recent<A, B>| {
            let now = ctx.now();
            recent.forget(now, retention);
            match item {
                Side::Left(left) => {
                    for (_, right) in &recent.rights {
                        ctx.emit((key.clone(), (left.clone(), right.clone())));
                    }
                    recent.lefts.push_back((now, left));
                }
                Side::Right(right) => {
                    for (_, left) in &recent.lefts {
                        ctx.emit((key.clone(), (left.clone(), right.clone())));
                    }
                    recent.rights.push_back((now, right));
                }
            }
            Ok(())
        });
        process.time_to_live(retention).stream()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_too_long_ago_is_forgotten_on_both_sides() {
        let at = |seconds| Timestamp::UNIX_EPOCH + Duration::from_secs(seconds);
        let mut recent = Recent { lefts: VecDeque::new(), rights: VecDeque::new() };
        recent.lefts.extend([0, 3, 7].map(|seconds| (at(seconds), seconds)));
        recent.rights.extend([1, 2, 9].map(|seconds| (at(seconds), seconds)));
        recent.forget(at(9), Duration::from_secs(6));
        let left = |recent: &Recent<u64, u64>| recent.lefts.iter().map(|(_, item)| *item).collect::<Vec<_>>();
        let right = |recent: &Recent<u64, u64>| recent.rights.iter().map(|(_, item)| *item).collect::<Vec<_>>();
        assert_eq!((left(&recent), right(&recent)), (vec![3, 7], vec![9]));
        recent.forget(at(100), Duration::MAX);
        assert_eq!((left(&recent), right(&recent)), (vec![3, 7], vec![9]));
        recent.forget(at(100), Duration::ZERO);
        assert_eq!((left(&recent), right(&recent)), (vec![], vec![]));
    }
}
