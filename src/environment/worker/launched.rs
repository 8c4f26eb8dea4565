//! What a process does that was started as a worker by another one.

use std::{
    io::{self, Write},
    process,
    sync::{Arc, mpsc},
    time::Duration,
};

use super::{Worker, WorkerError};
use crate::{
    bridge::{Key, WorkerEnd},
    environment::interrupts,
    flow::JobRegistry,
    host::thread,
    launch::{self, Leash, Orders},
};

/// How long the worker may take to end, whose process would else be killed a moment later.
const END_LIMIT: Duration = Duration::from_secs(4);

/// What a program calls first in its `main` that is to be started again as workers, by
/// [`Workers::processes`](crate::Workers::processes): in a process that was started as a worker, it runs the worker and never
/// returns; in any other process it returns at once. It looks at the arguments of the process.
///
/// `jobs` are the job types of the program; those of which tasks are to run in workers.
/// [`command_line`](crate::command_line) does it by itself.
///
/// ```
/// use proscenium::{jobs, worker_main};
///
/// fn main() {
///     worker_main(jobs![]);
///     println!("this process was not started as a worker");
/// }
/// ```
pub fn worker_main(jobs: JobRegistry) {
    launch::declare();
    let Some(orders) = launch::take_orders() else { return };
    // Held until the exit, for without it this process is killed before its last words are out.
    let mut leash = None;
    let worked = orders.map_err(WorkerError::Thread).and_then(|(orders, held)| {
        let held = leash.insert(Arc::new(held));
        work(orders, held, jobs)
    });
    let Err(error) = worked else { process::exit(0) };
    // It goes to the log of who started this process, as its last words.
    let _ = writeln!(io::stderr(), "{}", sentence(&error));
    process::exit(1)
}

fn sentence(error: &dyn std::error::Error) -> String {
    let mut sentence = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        sentence = format!("{sentence}: {error}");
        source = error.source();
    }
    sentence
}

fn work(orders: Orders, leash: &Arc<Leash>, jobs: JobRegistry) -> Result<(), WorkerError> {
    let Orders { name, manager, key, slots, memory_max: _ } = orders;
    let told = Arc::clone(leash);
    let worker = Worker::builder()
        .jobs(jobs)
        .manager(manager)
        .key(Key::parse(&key)?)
        .name(name)
        .slots(slots)
        // Who started it starts another one.
        .launched(move |worker| told.joined(worker.0))
        .open()?;
    let (core, held) = (Arc::clone(&worker.core), Arc::clone(leash));
    let (ended, has_ended) = mpsc::channel::<()>();
    let watch = move || {
        held.wait();
        core.stop();
        // Code of the user's may not return, and nobody may be left who would kill this process for it.
        if has_ended.recv_timeout(END_LIMIT) == Err(mpsc::RecvTimeoutError::Timeout) {
            process::exit(1);
        }
    };
    thread::start("proscenium-leash".to_owned(), watch).map_err(WorkerError::Thread)?;
    // A signal to a whole group of processes is meant for the one that started this one, and it decides: a worker that ended first
    // would fail the jobs that are to be drained.
    let ignored = interrupts::told_to_end(&worker.runtime);
    let end = worker.ended_or(std::future::pending());
    drop((ended, ignored));
    match end {
        WorkerEnd::Stopped => Ok(()),
        WorkerEnd::Closed | WorkerEnd::Dismissed => {
            leash.closed();
            Ok(())
        }
        WorkerEnd::Lost(message) => Err(WorkerError::Lost { message }),
    }
}
