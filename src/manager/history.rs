//! Which ended jobs stay readable.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    time::Duration,
};

use crate::job::JobId;

/// Ids of evicted jobs that are remembered, so that a query says *expired* rather than *no such job*.
const EXPIRED_REMEMBERED: usize = 65_536;

/// Records kept back by a handle that are looked at again in each call: a constant, so that no number of handles makes
/// a call slow, and above one, so that the backlog shrinks faster than it can grow.
const HELD_LOOKED_AT: usize = 4;

/// A record that may have to stay.
pub(crate) trait Kept {
    /// Whether a local handle to it lives.
    fn is_kept(&self) -> bool;
}

/// The ended jobs that are still readable: the newest ones up to a number and an age, and those that a local handle
/// refers to. Needs no timer, since age is looked at whenever the history is; it reads no clock itself.
#[derive(Debug)]
pub(crate) struct History<R> {
    ended_max: usize,
    age_max: Duration,
    entries: BTreeMap<JobId, Entry<R>>,
    /// Oldest first, with their ends; those in `held` are not in here.
    order: BTreeMap<u64, (JobId, Duration)>,
    /// Due, but kept back by a handle. Removed entries leave their id behind, which the next look drops.
    held: VecDeque<(u64, JobId)>,
    expired: Expired,
    /// What has expired since the last [`take_expired`](Self::take_expired).
    newly_expired: Vec<JobId>,
    sequence: u64,
}

#[derive(Debug)]
struct Entry<R> {
    sequence: u64,
    held: bool,
    record: R,
}

/// What is known of an id.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Lookup<'a, R> {
    Known(&'a R),
    Expired,
    Unknown,
}

impl<R: Kept> History<R> {
    pub(crate) fn new(ended_max: usize, age_max: Duration) -> Self {
        Self {
            ended_max,
            age_max,
            entries: BTreeMap::new(),
            order: BTreeMap::new(),
            held: VecDeque::new(),
            expired: Expired::default(),
            newly_expired: Vec::new(),
            sequence: 0,
        }
    }

    /// Adds a job that ended at `now`, a clock reading that never falls.
    pub(crate) fn insert(&mut self, id: JobId, record: R, now: Duration) {
        self.sequence += 1;
        let entry = Entry { sequence: self.sequence, held: false, record };
        if let Some(replaced) = self.entries.insert(id, entry) {
            self.order.remove(&replaced.sequence);
        }
        self.order.insert(self.sequence, (id, now));
        self.evict(now);
    }

    pub(crate) fn find(&mut self, id: JobId, now: Duration) -> Lookup<'_, R> {
        self.evict(now);
        // Most often nothing is held, and then it need not be looked for.
        if !self.held.is_empty() && self.entries.get(&id).is_some_and(|entry| entry.held && !entry.record.is_kept()) {
            self.expire(id);
        }
        match self.entries.get(&id) {
            Some(entry) => Lookup::Known(&entry.record),
            None if self.expired.knows(id) => Lookup::Expired,
            None => Lookup::Unknown,
        }
    }

    /// Forgets a job, as if it had never been.
    pub(crate) fn remove(&mut self, id: JobId) -> Option<R> {
        let entry = self.entries.remove(&id)?;
        self.order.remove(&entry.sequence);
        Some(entry.record)
    }

    /// Forgets all jobs and says which there were.
    pub(crate) fn clear(&mut self, now: Duration) -> Vec<JobId> {
        self.evict(now);
        let removed = std::mem::take(&mut self.entries).into_keys().collect();
        self.order.clear();
        self.held.clear();
        removed
    }

    /// The jobs that have expired since this was asked last.
    pub(crate) fn take_expired(&mut self) -> Vec<JobId> {
        std::mem::take(&mut self.newly_expired)
    }

    fn expire(&mut self, id: JobId) {
        self.entries.remove(&id);
        self.expired.remember(id);
        self.newly_expired.push(id);
    }

    /// The records, in no particular order.
    pub(crate) fn records(&mut self, now: Duration) -> impl Iterator<Item = (JobId, &R)> {
        self.evict(now);
        self.entries.iter().map(|(id, entry)| (*id, &entry.record))
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    fn evict(&mut self, now: Duration) {
        while let Some((&sequence, &(id, ended_at))) = self.order.first_key_value() {
            if self.order.len() <= self.ended_max && now.saturating_sub(ended_at) <= self.age_max {
                break;
            }
            self.order.pop_first();
            let entry = self.entries.get_mut(&id).expect("what is in the order is an entry");
            if entry.record.is_kept() {
                entry.held = true;
                self.held.push_back((sequence, id));
            } else {
                self.expire(id);
            }
        }
        for _ in 0..HELD_LOOKED_AT.min(self.held.len()) {
            let Some((sequence, id)) = self.held.pop_front() else { break };
            match self.entries.get(&id) {
                Some(entry) if entry.sequence == sequence && entry.record.is_kept() => {
                    self.held.push_back((sequence, id));
                }
                Some(entry) if entry.sequence == sequence => {
                    self.expire(id);
                }
                _ => {}
            }
        }
    }
}

#[derive(Debug, Default)]
struct Expired {
    order: VecDeque<JobId>,
    ids: HashSet<JobId>,
}

impl Expired {
    fn remember(&mut self, id: JobId) {
        if self.ids.insert(id) {
            self.order.push_back(id);
        }
        if self.order.len() > EXPIRED_REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
    }

    fn knows(&self, id: JobId) -> bool {
        self.ids.contains(&id)
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, rc::Rc};

    use super::*;

    const AGE: Duration = Duration::from_secs(100);

    #[derive(Debug, Clone, Default)]
    struct Record(Rc<Cell<bool>>);

    impl Kept for Record {
        fn is_kept(&self) -> bool {
            self.0.get()
        }
    }

    impl PartialEq for Record {
        fn eq(&self, other: &Self) -> bool {
            Rc::ptr_eq(&self.0, &other.0)
        }
    }

    fn at(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn ids<const N: usize>() -> [JobId; N] {
        std::array::from_fn(|_| JobId::random())
    }

    #[test]
    fn the_newest_jobs_stay_and_older_ones_read_as_expired() {
        let mut history = History::new(2, AGE);
        let [first, second, third, never] = ids();
        for id in [first, second, third] {
            history.insert(id, Record::default(), at(0));
        }
        assert_eq!(history.find(first, at(0)), Lookup::Expired);
        assert!(matches!(history.find(second, at(0)), Lookup::Known(_)));
        assert!(matches!(history.find(third, at(0)), Lookup::Known(_)));
        assert_eq!(history.find(never, at(0)), Lookup::Unknown);
    }

    #[test]
    fn a_job_past_its_age_expires_at_the_next_look() {
        let mut history = History::new(10, AGE);
        let [old, young] = ids();
        history.insert(old, Record::default(), at(0));
        history.insert(young, Record::default(), at(60));
        assert!(matches!(history.find(old, at(100)), Lookup::Known(_)));
        assert_eq!(history.find(old, at(101)), Lookup::Expired);
        assert!(matches!(history.find(young, at(101)), Lookup::Known(_)));
    }

    #[test]
    fn a_job_that_a_handle_refers_to_stays_until_the_handle_is_gone() {
        let mut history = History::new(1, AGE);
        let [held, other] = ids();
        let record = Record::default();
        record.0.set(true);
        history.insert(held, record.clone(), at(0));
        history.insert(other, Record::default(), at(1));
        assert!(matches!(history.find(held, at(500)), Lookup::Known(_)));
        record.0.set(false);
        assert_eq!(history.find(held, at(501)), Lookup::Expired);
    }

    #[test]
    fn what_handles_kept_back_is_evicted_without_being_asked_for() {
        let mut history = History::new(0, AGE);
        let records: Vec<_> = (0..100).map(|_| Record::default()).collect();
        for record in &records {
            record.0.set(true);
            history.insert(JobId::random(), record.clone(), at(0));
        }
        assert_eq!(history.len(), 100);
        for record in &records {
            record.0.set(false);
        }
        let [unknown] = ids();
        for _ in 0..100 / HELD_LOOKED_AT {
            history.find(unknown, at(0));
        }
        assert_eq!(history.len(), 0);
    }

    #[test]
    fn a_removed_job_is_unknown_and_its_id_can_be_used_again() {
        let mut history = History::new(1, AGE);
        let [id, next] = ids();
        history.insert(id, Record::default(), at(0));
        assert!(history.remove(id).is_some());
        assert_eq!(history.find(id, at(0)), Lookup::Unknown);
        history.insert(id, Record::default(), at(1));
        assert!(matches!(history.find(id, at(1)), Lookup::Known(_)));
        history.insert(next, Record::default(), at(2));
        assert_eq!(history.find(id, at(2)), Lookup::Expired);
    }

    #[test]
    fn cleanup_removes_all_and_counts_them_kept_or_not() {
        let mut history = History::new(1, AGE);
        let record = Record::default();
        record.0.set(true);
        let [held, other] = ids();
        history.insert(held, record, at(0));
        history.insert(other, Record::default(), at(0));
        assert_eq!(history.clear(at(0)).len(), 2);
        assert_eq!(history.find(held, at(0)), Lookup::Unknown);
        assert_eq!(history.len(), 0);
    }

    #[test]
    fn expired_ids_are_remembered_up_to_a_limit() {
        let mut expired = Expired::default();
        let [first] = ids();
        expired.remember(first);
        for _ in 1..EXPIRED_REMEMBERED {
            expired.remember(JobId::random());
        }
        assert!(expired.knows(first));
        expired.remember(JobId::random());
        assert!(!expired.knows(first));
        assert_eq!(expired.order.len(), expired.ids.len());
    }
}
