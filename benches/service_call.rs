//! How long does a call of a service take, next to raw actix and to a channel?
//!
//! Each iteration is one call from a thread outside, answered before the next begins (`one_to_one`), or 64 calls at
//! once (`many_at_once`). `actix_send` is the same actor on an arbiter of its own, without deadlines; `tokio_mpsc` is a
//! channel to a thread, with a oneshot channel back. Setting up is not timed.

use std::{thread, time::Duration};

use actix::{Actor as _, Arbiter, System};
use criterion::{Criterion, Throughput};
use futures::future::join_all;
use proscenium::{LocalEnvironment, ServiceRef};
use tokio::sync::{mpsc, oneshot};

use self::counter::{Counter, Counting, Sum};

#[path = "support/counter.rs"]
mod counter;

#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

const AT_ONCE: usize = 64;

fn service_call(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime starts");
    let (tx, mut rx) = mpsc::channel::<oneshot::Sender<u64>>(4096);
    let thread = thread::spawn(move || {
        while let Some(reply) = rx.blocking_recv() {
            // Nobody waits for it any more only if the benchmark gave up.
            let _ = reply.send(0);
        }
    });
    let through_channel = async || {
        let (reply, answer) = oneshot::channel();
        tx.send(reply).await.expect("the thread reads");
        answer.await.expect("the thread answers")
    };
    let system = System::new();
    let addr = Counter::start_in_arbiter(&Arbiter::new().handle(), |_| Counter::default());
    let through_actix = async || addr.send(Sum).await.expect("the actor answers");
    let env = LocalEnvironment::new("bench");
    let job = env.submit(Counting).blocking().expect("accepted");
    let counter: ServiceRef<Counter> = job.service("counter");
    let through_service = async || counter.call(Sum).await.expect("the service answers");

    let mut group = c.benchmark_group("service_call/one_to_one");
    group
        .throughput(Throughput::Elements(1))
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3));
    group.bench_function("tokio_mpsc", |b| b.iter(|| runtime.block_on(through_channel())));
    group.bench_function("actix_send", |b| b.iter(|| system.block_on(through_actix())));
    group.bench_function("proscenium", |b| b.iter(|| runtime.block_on(through_service())));
    group.bench_function("proscenium_blocking", |b| b.iter(|| counter.call(Sum).blocking().expect("it answers")));
    group.finish();

    let mut group = c.benchmark_group("service_call/many_at_once");
    group
        .throughput(Throughput::Elements(AT_ONCE as u64))
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3));
    group.bench_function("tokio_mpsc", |b| {
        b.iter(|| runtime.block_on(join_all((0..AT_ONCE).map(|_| through_channel()))));
    });
    group.bench_function("actix_send", |b| b.iter(|| system.block_on(join_all((0..AT_ONCE).map(|_| through_actix())))));
    group.bench_function("proscenium", |b| {
        b.iter(|| runtime.block_on(join_all((0..AT_ONCE).map(|_| through_service()))));
    });
    group.finish();
    drop(tx);
    thread.join().expect("the thread does not panic");
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    service_call(&mut criterion);
    criterion.final_summary();
}
