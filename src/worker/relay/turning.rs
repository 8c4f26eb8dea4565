//! Work that goes on by itself whenever it is woken.

use std::{
    sync::{Arc, Weak},
    task::{Context, Wake, Waker},
};

use parking_lot::Mutex;

/// Work that is done in turns, as far as it gets.
pub(super) trait Turn: Send + Sync + 'static {
    /// Goes on until there is nothing to do; the waker of `cx` brings the next turn. Never called twice at a time.
    fn turn(&self, cx: &mut Context<'_>);

    /// Where turns are taken: on the thread that wakes, unless this says otherwise.
    fn run(&self, turns: impl FnOnce() + Send + 'static) {
        turns();
    }
}

/// Takes a turn of `T` each time it is woken. Wakers do not keep it: its owner decides how long the work goes on.
pub(super) struct Turning<T> {
    pub work: T,
    state: Mutex<State>,
    waker: Waker,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Resting,
    Turning,
    /// It was woken during a turn, which may have looked before.
    Again,
}

impl<T: Turn> Turning<T> {
    /// Nothing is done before it is woken.
    pub fn new(work: T) -> Arc<Self> {
        Arc::new_cyclic(|turning| {
            let waker = Waker::from(Arc::new(Bell(Weak::clone(turning))));
            Self { work, state: Mutex::new(State::Resting), waker }
        })
    }

    /// Takes a turn, or has the thread that takes one take another.
    pub fn wake(self: &Arc<Self>) {
        let mut state = self.state.lock();
        if *state != State::Resting {
            *state = State::Again;
            return;
        }
        *state = State::Turning;
        drop(state);
        let this = Arc::clone(self);
        self.work.run(move || this.turns());
    }

    /// As [`wake`](Self::wake), for who does not know who keeps it.
    pub fn ring(&self) {
        self.waker.wake_by_ref();
    }

    fn turns(&self) {
        loop {
            self.work.turn(&mut Context::from_waker(&self.waker));
            let mut state = self.state.lock();
            if *state == State::Turning {
                *state = State::Resting;
                return;
            }
            *state = State::Turning;
        }
    }
}

struct Bell<T>(Weak<Turning<T>>);

impl<T: Turn> Wake for Bell<T> {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if let Some(turning) = self.0.upgrade() {
            turning.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn one_that_is_woken_during_its_turn_takes_another() {
        struct Twice(AtomicUsize);
        impl Turn for Twice {
            fn turn(&self, cx: &mut Context<'_>) {
                if self.0.fetch_add(1, Ordering::SeqCst) == 0 {
                    cx.waker().wake_by_ref();
                    assert_eq!(self.0.load(Ordering::SeqCst), 1, "no turn within a turn");
                }
            }
        }
        let turning = Turning::new(Twice(AtomicUsize::new(0)));
        turning.wake();
        assert_eq!(turning.work.0.load(Ordering::SeqCst), 2);
        let waker = turning.waker.clone();
        drop(turning);
        waker.wake();
    }
}
