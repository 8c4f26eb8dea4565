//! The places where actors run.

use std::thread;

use actix::{Actor, Addr, Context};
use actix_rt::{Arbiter, ArbiterHandle};

/// A thread with an actix arbiter. Dropping it neither stops nor joins it.
#[derive(Debug)]
pub(crate) struct Seat(Arbiter);

impl Seat {
    pub(super) fn new() -> Self {
        Self(Arbiter::new())
    }

    pub fn handle(&self) -> SeatHandle {
        SeatHandle(self.0.handle())
    }

    /// Ends the seat once the code that runs on it gives its thread back; what is on it is dropped.
    pub fn stop(&self) {
        self.0.stop();
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    ///
    /// Its thread panicked.
    pub fn join(self) -> thread::Result<()> {
        self.0.join()
    }
}

/// Puts something on a [`Seat`]. It does not keep it running.
#[derive(Debug, Clone)]
pub(crate) struct SeatHandle(ArbiterHandle);

impl SeatHandle {
    /// Runs `code` there. `false` if the seat has ended; what it has not come to by its end is dropped.
    pub fn run(&self, code: impl FnOnce() + Send + 'static) -> bool {
        self.0.spawn_fn(code)
    }

    /// Starts the actor that `make` makes there.
    pub fn start<A: Actor<Context = Context<A>>>(
        &self,
        make: impl FnOnce(&mut Context<A>) -> A + Send + 'static,
    ) -> Addr<A> {
        A::start_in_arbiter(&self.0, make)
    }

    /// See [`Seat::stop`].
    pub fn stop(&self) {
        self.0.stop();
    }
}

#[cfg(test)]
impl From<ArbiterHandle> for SeatHandle {
    fn from(handle: ArbiterHandle) -> Self {
        Self(handle)
    }
}
