//! What does a one-way message to a service cost, next to raw actix and to a channel?
//!
//! Each iteration sends `ROUND` messages from a thread outside and then makes one call, so that all of them have been
//! handled. `one_to_one` is `ServiceRef::tell`; `actix_do_send` is the same actor on an arbiter of its own, without a
//! bound on its queue; `tokio_mpsc` is a bounded channel of the same size to a thread. Setting up is not timed.

use std::{thread, time::Duration};

use actix::{Actor as _, Arbiter, System};
use criterion::{Criterion, Throughput};
use proscenium::{LocalEnvironment, ServiceRef};
use tokio::sync::{mpsc, oneshot};

use self::counter::{Add, Counter, Counting, Sum};

#[path = "support/counter.rs"]
mod counter;

#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROUND: u64 = 1024;
const QUEUE: usize = 4096;

#[derive(Debug)]
enum ToThread {
    Add(u64),
    Sum(oneshot::Sender<u64>),
}

fn mailbox(c: &mut Criterion) {
    let mut group = c.benchmark_group("mailbox");
    group
        .throughput(Throughput::Elements(ROUND))
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3));
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime starts");

    let (tx, mut rx) = mpsc::channel(QUEUE);
    let thread = thread::spawn(move || {
        let mut sum = 0;
        while let Some(message) = rx.blocking_recv() {
            match message {
                ToThread::Add(n) => sum += n,
                ToThread::Sum(reply) => drop(reply.send(sum)),
            }
        }
    });
    let round = async || {
        for _ in 0..ROUND {
            tx.send(ToThread::Add(1)).await.expect("the thread reads");
        }
        let (reply, sum) = oneshot::channel();
        tx.send(ToThread::Sum(reply)).await.expect("the thread reads");
        sum.await.expect("the thread answers")
    };
    group.bench_function("tokio_mpsc", |b| b.iter(|| runtime.block_on(round())));
    drop(tx);
    thread.join().expect("the thread does not panic");

    let system = System::new();
    let addr = Counter::start_in_arbiter(&Arbiter::new().handle(), |_| Counter::default());
    let round = async || {
        for _ in 0..ROUND {
            addr.do_send(Add(1));
        }
        addr.send(Sum).await.expect("the actor answers")
    };
    group.bench_function("actix_do_send", |b| b.iter(|| system.block_on(round())));

    let env = LocalEnvironment::new("bench");
    let job = env.submit(Counting).blocking().expect("accepted");
    let counter: ServiceRef<Counter> = job.service("counter");
    let round = async || {
        for _ in 0..ROUND {
            counter.tell(Add(1)).await.expect("the service takes it");
        }
        counter.call(Sum).await.expect("the service answers")
    };
    group.bench_function("one_to_one", |b| b.iter(|| runtime.block_on(round())));
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    mailbox(&mut criterion);
    criterion.final_summary();
}
