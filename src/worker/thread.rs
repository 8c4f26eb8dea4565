//! The threads that task and service actors run on.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use actix_rt::{Arbiter, ArbiterHandle};
use parking_lot::Mutex;

/// The arbiters of an environment that can be joined, handed over when the worker closes.
pub(crate) type Threads = Arc<Mutex<Vec<Arbiter>>>;

/// One arbiter, made when it is first needed, and made anew after it was retired.
pub(crate) struct Slot {
    current: Option<(Arbiter, Arc<Load>)>,
    /// Arbiters on which user code did not return. They are told to stop and never joined.
    retired: Vec<Arbiter>,
}

struct Load {
    handle: ArbiterHandle,
    actors: AtomicUsize,
    retired: AtomicBool,
}

/// A running actor's claim on its thread.
pub(crate) struct Occupied(Arc<Load>);

impl Drop for Occupied {
    fn drop(&mut self) {
        // `SeqCst` here and in `retire`: of two that write one flag and read the other, one must see the other's.
        // The last actor of a retired thread ends it: user code did return in the end.
        if self.0.actors.fetch_sub(1, Ordering::SeqCst) == 1 && self.0.retired.load(Ordering::SeqCst) {
            self.0.handle.stop();
        }
    }
}

impl Occupied {
    pub fn handle(&self) -> &ArbiterHandle {
        &self.0.handle
    }

    /// Names the thread, for [`Slot::retire`].
    pub fn same_thread(&self) -> ThreadKey {
        ThreadKey(Arc::clone(&self.0))
    }
}

/// Remembers which of a slot's threads, past or present, an actor runs on.
pub(crate) struct ThreadKey(Arc<Load>);

impl Slot {
    pub fn new() -> Self {
        Self { current: None, retired: Vec::new() }
    }

    /// The thread, for one more actor.
    pub fn occupy(&mut self) -> Occupied {
        let (_, load) = self.current.get_or_insert_with(|| {
            let arbiter = Arbiter::new();
            let load = Load { handle: arbiter.handle(), actors: AtomicUsize::new(0), retired: AtomicBool::new(false) };
            (arbiter, Arc::new(load))
        });
        load.actors.fetch_add(1, Ordering::SeqCst);
        Occupied(Arc::clone(load))
    }

    /// Places nothing more on the thread `key` names. Actors on it go on if the code that blocks it ever returns, and
    /// the thread ends with the last of them. Returns whether this retired a thread.
    pub fn retire(&mut self, key: &ThreadKey) -> bool {
        let Some((arbiter, load)) = self.current.take() else { return false };
        if !Arc::ptr_eq(&load, &key.0) {
            self.current = Some((arbiter, load));
            return false;
        }
        load.retired.store(true, Ordering::SeqCst);
        if load.actors.load(Ordering::SeqCst) == 0 {
            load.handle.stop();
        }
        self.retired.push(arbiter);
        true
    }

    /// Tells all its threads to stop; those that will are added to `joinable`.
    pub fn close(&mut self, joinable: &Threads) {
        if let Some((arbiter, _)) = self.current.take() {
            arbiter.stop();
            joinable.lock().push(arbiter);
        }
        for arbiter in self.retired.drain(..) {
            arbiter.stop();
        }
    }
}
