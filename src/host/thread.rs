//! The threads of an environment that runs on threads, and what they run futures on.

use std::{
    io,
    thread::{Builder, JoinHandle},
};

use tokio::{
    runtime::{self, Runtime},
    task::LocalSet,
};

/// Starts a thread.
///
/// # Errors
///
/// The operating system refuses one.
pub(crate) fn start(name: String, body: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    Builder::new().name(name).spawn(body)
}

/// What drives futures on one thread.
///
/// # Errors
///
/// The operating system refuses a descriptor.
pub(crate) fn runtime() -> io::Result<Runtime> {
    runtime::Builder::new_current_thread().enable_all().build()
}

/// A pool of at most so many threads, which come with the work and go when they have had none for 10 s. Its futures are
/// never driven.
///
/// # Errors
///
/// The operating system refuses a descriptor.
pub(crate) fn pool(threads_max: usize, name: String) -> io::Result<Runtime> {
    runtime::Builder::new_current_thread().max_blocking_threads(threads_max).thread_name(name).build()
}

/// Runs `future` on this thread to its end, and meanwhile what is [spawned](super::Host::spawn_local) beside it.
pub(crate) fn run_local<F: Future>(runtime: &Runtime, future: F) -> F::Output {
    LocalSet::new().block_on(runtime, future)
}
