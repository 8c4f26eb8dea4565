//! The threads that task and service actors run on.

use std::sync::{
    Arc, Weak,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use parking_lot::Mutex;

use crate::host::{Host, Seat, SeatHandle};
use crate::job::JobId;

/// The arbiters of an environment that can be joined, handed over when the worker closes.
pub(crate) type Threads = Arc<Mutex<Vec<Seat>>>;

/// One arbiter, made when it is first needed, and made anew after it was retired.
pub(crate) struct Slot {
    current: Option<(Seat, Arc<Load>)>,
    /// Arbiters that end with the last actor on them, or on which user code did not return: told to stop, and never joined.
    retired: Vec<SeatHandle>,
}

struct Load {
    handle: SeatHandle,
    actors: AtomicUsize,
    retired: AtomicBool,
    /// Once it is retired: all who were on it, one of whom holds it.
    suspects: Mutex<Vec<Weak<Claim>>>,
}

/// Who runs on a thread: the number of a task, or of a service on threads for services.
pub(crate) type Tenant = (JobId, u32);

/// A running actor's claim on its thread.
pub(crate) struct Occupied(Arc<Claim>);

struct Claim {
    load: Arc<Load>,
    /// Code of the actor runs, as far as is known.
    is_at_work: AtomicBool,
    tenant: Tenant,
}

impl Drop for Occupied {
    fn drop(&mut self) {
        self.set_at_work(false);
        let load = &self.0.load;
        // `SeqCst` here and in `retire`: of two that write one flag and read the other, one must see the other's.
        // The last actor of a retired thread ends it: user code did return in the end.
        if load.actors.fetch_sub(1, Ordering::SeqCst) == 1 && load.retired.load(Ordering::SeqCst) {
            load.handle.stop();
        }
    }
}

impl Occupied {
    pub fn handle(&self) -> &SeatHandle {
        &self.0.load.handle
    }

    /// Code of the actor begins to run, or has returned.
    pub fn set_at_work(&self, is_at_work: bool) {
        // Only told to people: it orders nothing.
        self.0.is_at_work.store(is_at_work, Ordering::Relaxed);
    }

    /// Names the thread, for [`Slot::retire`].
    pub fn same_thread(&self) -> ThreadKey {
        ThreadKey(Arc::clone(&self.0))
    }
}

/// Remembers which of a slot's threads, past or present, an actor runs on.
#[derive(Clone)]
pub(crate) struct ThreadKey(Arc<Claim>);

impl ThreadKey {
    /// Whether both actors run on one thread.
    pub fn is_that_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0.load, &other.0.load)
    }

    /// The thread was retired with this actor on it: it may be the one that holds it.
    pub fn suspect(&self) {
        self.0.load.suspects.lock().push(Arc::downgrade(&self.0));
    }

    /// For actors that do not say when their code runs: this one's was given up, and runs until the actor is gone.
    pub fn accuse(&self) {
        self.0.is_at_work.store(true, Ordering::Relaxed);
        self.suspect();
    }

    /// Whether code of the actor runs, as far as is known.
    pub fn is_at_work(&self) -> bool {
        self.0.is_at_work.load(Ordering::Relaxed)
    }

    pub fn tenant(&self) -> Tenant {
        self.0.tenant
    }

    /// Whose code holds the retired thread, and with it everyone else on it. It returns in the end, or never.
    pub fn held_by(&self) -> Option<Tenant> {
        let suspects = self.0.load.suspects.lock();
        let mut claims = suspects.iter().filter_map(Weak::upgrade);
        claims.find(|claim| claim.is_at_work.load(Ordering::Relaxed)).map(|claim| claim.tenant)
    }
}

impl Slot {
    pub fn new() -> Self {
        Self { current: None, retired: Vec::new() }
    }

    /// The thread, for one more actor.
    pub fn occupy(&mut self, tenant: Tenant, host: &Host) -> Occupied {
        let (_, load) = self.current.get_or_insert_with(|| {
            let arbiter = host.seat();
            let load = Load {
                handle: arbiter.handle(),
                actors: AtomicUsize::new(0),
                retired: AtomicBool::new(false),
                suspects: Mutex::default(),
            };
            (arbiter, Arc::new(load))
        });
        load.actors.fetch_add(1, Ordering::SeqCst);
        Occupied(Arc::new(Claim { load: Arc::clone(load), is_at_work: AtomicBool::new(false), tenant }))
    }

    /// Places nothing more on the thread `key` names. Actors on it go on if the code that blocks it ever returns, and
    /// the thread ends with the last of them. Returns whether this retired a thread.
    pub fn retire(&mut self, key: &ThreadKey) -> bool {
        let Some((arbiter, load)) = self.current.take() else { return false };
        if !Arc::ptr_eq(&load, &key.0.load) {
            self.current = Some((arbiter, load));
            return false;
        }
        load.retired.store(true, Ordering::SeqCst);
        if load.actors.load(Ordering::SeqCst) == 0 {
            load.handle.stop();
        }
        // Dropped, it lets go of its thread, which leaves nothing behind when it ends.
        self.retired.push(arbiter.handle());
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
