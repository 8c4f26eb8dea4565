//! What a process knows of each key: its state, its timers, and when it was last touched.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    hash::{BuildHasher, Hash},
    time::Duration,
};

use hashbrown::hash_table::{Entry as Place, HashTable};

use crate::{host::TableState, timestamp::Timestamp};

/// Rooms that may stay empty when no key is left, so that few keys that come and go do not cost an allocation each.
const SPARE: usize = 1024;

/// What user code ordered in one step. It takes effect when the step has succeeded.
#[derive(Debug, Default)]
pub(super) struct Orders {
    /// Timers set so far were cancelled before those of `fire` were set.
    pub cancel: bool,
    pub fire: Vec<Timestamp>,
    pub clear: bool,
}

impl Orders {
    pub fn withdraw(&mut self) {
        self.cancel = false;
        self.fire.clear();
        self.clear = false;
    }
}

/// One key. It is here as long as it has a state or a timer.
pub(super) struct Entry<K, S> {
    pub key: K,
    hash: u64,
    pub state: Option<S>,
    /// Each with its number in the order in which timers were set.
    timers: BTreeMap<Timestamp, u64>,
    /// `None` if nothing expires.
    touched: Option<Timestamp>,
}

/// Where a key is. Timers and expiries name rooms, so that keys need not be cloned.
struct Room<K, S> {
    entry: Option<Entry<K, S>>,
    /// The room is in `expiries`, whichever key lived in it when it was put there.
    watched: bool,
}

/// Keys in rooms, found by a table of room numbers that is seeded at random.
pub(super) struct Keys<K, S> {
    table: HashTable<usize>,
    hasher: TableState,
    rooms: Vec<Room<K, S>>,
    free: Vec<usize>,
    /// By time, then by the order in which they were set.
    timers: BTreeMap<(Timestamp, u64), usize>,
    timers_set: u64,
    time_to_live: Option<Duration>,
    /// When to look at a room. A touch does not move it: that its key was touched is seen when it is looked at.
    expiries: BinaryHeap<Reverse<(Timestamp, usize)>>,
}

impl<K: Hash + Eq, S> Keys<K, S> {
    pub fn new(time_to_live: Option<Duration>, hasher: TableState) -> Self {
        Self {
            table: HashTable::new(),
            hasher,
            rooms: Vec::new(),
            free: Vec::new(),
            timers: BTreeMap::new(),
            timers_set: 0,
            time_to_live,
            expiries: BinaryHeap::new(),
        }
    }

    pub fn expires(&self) -> bool {
        self.time_to_live.is_some()
    }

    /// The room of `key`, which gets one if it has none.
    pub fn room(&mut self, key: K) -> usize {
        let hash = self.hasher.hash_one(&key);
        let rooms = &self.rooms;
        let is_it = |room: &usize| rooms[*room].entry.as_ref().is_some_and(|entry| entry.key == key);
        let hash_of = |room: &usize| rooms[*room].entry.as_ref().map_or(0, |entry| entry.hash);
        match self.table.entry(hash, is_it, hash_of) {
            Place::Occupied(place) => *place.get(),
            Place::Vacant(place) => {
                let room = self.free.pop().unwrap_or(self.rooms.len());
                place.insert(room);
                let entry = Entry { key, hash, state: None, timers: BTreeMap::new(), touched: None };
                match self.rooms.get_mut(room) {
                    Some(free) => free.entry = Some(entry),
                    None => self.rooms.push(Room { entry: Some(entry), watched: false }),
                }
                room
            }
        }
    }

    pub fn entry(&mut self, room: usize) -> Option<&mut Entry<K, S>> {
        self.rooms.get_mut(room)?.entry.as_mut()
    }

    pub fn rooms(&self) -> usize {
        self.rooms.len()
    }

    /// Drops the state of a key that has not been touched for its time to live at `now`, as an item finds it.
    pub fn expire(&mut self, room: usize, now: Timestamp) {
        let Some(limit) = self.time_to_live else { return };
        if let Some(entry) = self.entry(room)
            && entry.touched.is_some_and(|touched| now.saturating_duration_since(touched) >= limit)
        {
            entry.state = None;
        }
    }

    /// The same as a timer finds it: at its own time, so that a timer as long as the time to live still finds the state.
    pub fn expire_before(&mut self, room: usize, at: Timestamp) {
        let Some(limit) = self.time_to_live else { return };
        if let Some(entry) = self.entry(room)
            && entry.touched.is_some_and(|touched| at.saturating_duration_since(touched) > limit)
        {
            entry.state = None;
        }
    }

    /// Carries out what a step that succeeded ordered, and takes back its state. `fires` is false once no timer set from now
    /// on is to fire.
    pub fn conclude(&mut self, room: usize, state: S, now: Option<Timestamp>, orders: &mut Orders, fires: bool) {
        let Some(entry) = self.rooms.get_mut(room).and_then(|room| room.entry.as_mut()) else { return };
        entry.state = if orders.clear { None } else { Some(state) };
        entry.touched = now.filter(|_| self.time_to_live.is_some());
        if orders.cancel {
            for timer in std::mem::take(&mut entry.timers) {
                self.timers.remove(&timer);
            }
        }
        if fires {
            for at in orders.fire.drain(..) {
                let number = self.timers_set;
                if let std::collections::btree_map::Entry::Vacant(place) = entry.timers.entry(at) {
                    place.insert(number);
                    self.timers.insert((at, number), room);
                    self.timers_set += 1;
                }
            }
        }
        orders.withdraw();
        self.watch(room);
        self.vacate(room);
    }

    /// Sees to it that a key with a state is looked at when it may have expired.
    fn watch(&mut self, number: usize) {
        let Some(limit) = self.time_to_live else { return };
        let room = &mut self.rooms[number];
        if room.watched {
            return;
        }
        // A time beyond what can be expressed never comes.
        if let Some(entry) = &room.entry
            && entry.state.is_some()
            && let Some(at) = entry.touched.and_then(|touched| touched.checked_add(limit))
        {
            room.watched = true;
            self.expiries.push(Reverse((at, number)));
        }
    }

    /// Gives the room back if its key has neither a state nor a timer.
    pub fn vacate(&mut self, number: usize) {
        let room = &mut self.rooms[number];
        let Some(entry) = room.entry.take_if(|entry| entry.state.is_none() && entry.timers.is_empty()) else { return };
        if let Ok(place) = self.table.find_entry(entry.hash, |room| *room == number) {
            place.remove();
        }
        self.free.push(number);
        if self.table.is_empty() && self.rooms.len() > SPARE {
            self.clear();
        }
    }

    /// Forgets everything and gives back its memory.
    pub fn clear(&mut self) {
        self.table = HashTable::new();
        self.rooms = Vec::new();
        self.free = Vec::new();
        self.timers = BTreeMap::new();
        self.expiries = BinaryHeap::new();
    }

    pub fn has_timers(&self) -> bool {
        !self.timers.is_empty()
    }

    /// Whether a timer is due at `now`.
    pub fn is_due(&self, now: Timestamp) -> bool {
        self.timers.first_key_value().is_some_and(|((at, _), _)| *at <= now)
    }

    /// Takes the next timer: its time, and the room of its key.
    pub fn take_timer(&mut self) -> Option<(Timestamp, usize)> {
        let ((at, _), room) = self.timers.pop_first()?;
        if let Some(entry) = self.entry(room) {
            entry.timers.remove(&at);
        }
        Some((at, room))
    }

    /// When something happens next although nothing comes in.
    pub fn next_event(&self) -> Option<Timestamp> {
        let timer = self.timers.first_key_value().map(|((at, _), _)| *at);
        let expiry = self.expiries.peek().map(|Reverse((at, _))| *at);
        timer.into_iter().chain(expiry).min()
    }

    /// Looks at no more than `most` rooms whose keys may have expired, and drops the states of those that have. Says whether
    /// more are to be looked at.
    pub fn purge(&mut self, now: Timestamp, most: usize) -> bool {
        let is_due = |expiries: &BinaryHeap<Reverse<(Timestamp, usize)>>| {
            expiries.peek().is_some_and(|Reverse((at, _))| *at <= now)
        };
        for _ in 0..most {
            if !is_due(&self.expiries) {
                return false;
            }
            let Some(Reverse((_, number))) = self.expiries.pop() else { return false };
            self.rooms[number].watched = false;
            if self.rooms[number].entry.is_some() {
                self.expire(number, now);
                self.watch(number);
                self.vacate(number);
            }
        }
        is_due(&self.expiries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const NOW: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);

    fn touch(keys: &mut Keys<u32, u32>, key: u32, now: Timestamp, mut orders: Orders) {
        let room = keys.room(key);
        keys.expire(room, now);
        let state = keys.entry(room).and_then(|entry| entry.state.take()).unwrap_or_default() + 1;
        keys.conclude(room, state, Some(now), &mut orders, true);
    }

    fn state(keys: &mut Keys<u32, u32>, key: u32) -> Option<u32> {
        let room = keys.room(key);
        let state = keys.entry(room).and_then(|entry| entry.state);
        keys.vacate(room);
        state
    }

    fn fire(at: Timestamp) -> Orders {
        Orders { fire: vec![at], ..Orders::default() }
    }

    #[test]
    fn timers_come_by_time_and_then_as_they_were_set_and_each_once() {
        let mut keys = Keys::new(None, TableState::fixed());
        touch(&mut keys, 1, NOW, fire(NOW + HOUR));
        touch(&mut keys, 2, NOW, fire(NOW));
        touch(&mut keys, 3, NOW, fire(NOW + HOUR));
        touch(&mut keys, 1, NOW, fire(NOW + HOUR));
        let mut fired = Vec::new();
        while let Some((at, room)) = keys.take_timer() {
            fired.push((at.saturating_duration_since(NOW), keys.entry(room).expect("it has a state").key));
        }
        assert_eq!(fired, [(Duration::ZERO, 2), (HOUR, 1), (HOUR, 3)]);
    }

    #[test]
    fn cancelled_timers_of_a_key_leave_those_of_others() {
        let mut keys = Keys::new(None, TableState::fixed());
        touch(&mut keys, 1, NOW, fire(NOW));
        touch(&mut keys, 2, NOW, fire(NOW));
        touch(&mut keys, 1, NOW, Orders { cancel: true, fire: vec![NOW + HOUR], clear: true });
        let first = keys.take_timer().expect("a timer");
        assert_eq!((first.0, keys.entry(first.1).map(|entry| entry.key)), (NOW, Some(2)));
        let second = keys.take_timer().expect("a timer");
        assert_eq!((second.0, keys.entry(second.1).map(|entry| entry.state)), (NOW + HOUR, Some(None)));
        assert!(keys.take_timer().is_none());
    }

    #[test]
    fn what_nothing_touches_is_released_and_what_is_touched_stays() {
        let mut keys = Keys::new(Some(2 * HOUR), TableState::fixed());
        for key in 0..10_000 {
            touch(&mut keys, key, NOW, Orders::default());
        }
        touch(&mut keys, 7, NOW + HOUR, Orders::default());
        assert_eq!(keys.next_event(), Some(NOW + 2 * HOUR));
        assert!(keys.purge(NOW + 2 * HOUR, 10));
        assert!(!keys.purge(NOW + 2 * HOUR, usize::MAX));
        assert_eq!(keys.table.len(), 1);
        assert_eq!(state(&mut keys, 7), Some(2));
        assert_eq!(keys.next_event(), Some(NOW + 3 * HOUR));
        assert!(!keys.purge(NOW + 3 * HOUR, usize::MAX));
        assert_eq!((keys.rooms.capacity(), keys.expiries.len()), (0, 0), "no key is left, and no memory");
    }

    #[test]
    fn a_key_that_comes_and_goes_is_watched_once() {
        let mut keys = Keys::new(Some(HOUR), TableState::fixed());
        for _ in 0..100 {
            touch(&mut keys, 1, NOW, Orders { clear: false, ..Orders::default() });
            touch(&mut keys, 1, NOW, Orders { clear: true, ..Orders::default() });
        }
        assert_eq!((keys.expiries.len(), keys.table.len()), (1, 0));
    }
}
