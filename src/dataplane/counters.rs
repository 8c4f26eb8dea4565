//! The counters a task shares with whoever asks for its status.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::{job::TaskCounters, protocol::Wait};

/// Written by one task, once per step; read by anyone at any time. Each figure is exact on its own; two figures read
/// together may be of neighbouring steps.
#[derive(Debug)]
pub(crate) struct SharedCounters {
    items_in: AtomicU64,
    items_out: AtomicU64,
    batches: AtomicU64,
    queue_depth: AtomicU64,
    dead_letters: AtomicU64,
    times: Mutex<Times>,
}

#[derive(Debug)]
struct Times {
    busy: Duration,
    blocked: Duration,
    idle: Duration,
    /// What the task has been doing since `since`; added to its class when it changes or is asked for.
    now: Wait,
    working: bool,
    since: Option<Instant>,
}

impl SharedCounters {
    pub fn new() -> Self {
        let times = Times {
            busy: Duration::ZERO,
            blocked: Duration::ZERO,
            idle: Duration::ZERO,
            now: Wait::Nothing,
            working: false,
            since: None,
        };
        Self {
            items_in: AtomicU64::new(0),
            items_out: AtomicU64::new(0),
            batches: AtomicU64::new(0),
            queue_depth: AtomicU64::new(0),
            dead_letters: AtomicU64::new(0),
            times: Mutex::new(times),
        }
    }

    pub fn took(&self, items: usize) {
        self.items_in.store(self.items_in.load(Relaxed) + items as u64, Relaxed);
        self.batches.store(self.batches.load(Relaxed) + 1, Relaxed);
    }

    pub fn put(&self, items_out: u64) {
        self.items_out.store(items_out, Relaxed);
    }

    pub fn queued(&self, batches: usize) {
        self.queue_depth.store(batches as u64, Relaxed);
    }

    pub fn buried(&self, count: u64) {
        self.dead_letters.fetch_add(count, Relaxed);
    }

    pub fn starts_working(&self, now: Instant) {
        let mut times = self.times.lock();
        times.account(now);
        times.working = true;
        times.now = Wait::Nothing;
    }

    pub fn waits_for(&self, what: Wait, now: Instant) {
        let mut times = self.times.lock();
        times.account(now);
        times.working = false;
        times.now = what;
    }

    /// No time passes for the task any more.
    pub fn ended(&self, now: Instant) {
        let mut times = self.times.lock();
        times.account(now);
        times.since = None;
        times.working = false;
        times.now = Wait::Nothing;
    }

    pub fn read(&self, now: Instant) -> (TaskCounters, Wait) {
        let mut times = self.times.lock();
        if times.since.is_some() {
            times.account(now);
        }
        let counters = TaskCounters {
            items_in: self.items_in.load(Relaxed),
            items_out: self.items_out.load(Relaxed),
            batches: self.batches.load(Relaxed),
            busy: times.busy,
            blocked: times.blocked,
            idle: times.idle,
            queue_depth: self.queue_depth.load(Relaxed),
            dead_letters: self.dead_letters.load(Relaxed),
        };
        (counters, times.now)
    }
}

impl Times {
    fn account(&mut self, now: Instant) {
        let spent = self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        self.since = Some(now);
        let class = match self.now {
            _ if self.working => &mut self.busy,
            Wait::Room | Wait::Reader | Wait::Calls => &mut self.blocked,
            _ => &mut self.idle,
        };
        *class += spent;
    }
}
