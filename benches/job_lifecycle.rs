//! How long does a small job take, from submit until its outcome is known, next to starting a thread for it?
//!
//! `ten_items` is a job of one task that moves 10 items into an output; `with_service` has a service too, and
//! `exchange` is two tasks with an exchange between them. `thread` starts and joins one thread that does the same work;
//! `actix_actor` starts an actor on a running arbiter, sends it one message and awaits the answer. Opening and closing
//! the environment is timed as `environment` only.

use std::{thread, time::Duration};

use actix::{Actor as _, Arbiter, System};
use criterion::{Criterion, Throughput};
use proscenium::{Flow, Job as _, LocalEnvironment, job_fn};

use self::counter::{Add, Counter, Counting};

#[path = "support/counter.rs"]
mod counter;

#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn ten_items(flow: &mut Flow) {
    flow.from_batch(0..10u64).map(|x| x + 1).collect("items");
}

fn with_service(flow: &mut Flow) {
    Counting.build(flow).expect("it has nothing that can fail");
    ten_items(flow);
}

fn exchange(flow: &mut Flow) {
    flow.from_batch(0..10u64).rebalance(1).map(|x| x + 1).collect("items");
}

fn job_lifecycle(c: &mut Criterion) {
    let mut group = c.benchmark_group("job_lifecycle");
    group
        .throughput(Throughput::Elements(1))
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3));
    group.bench_function("thread", |b| {
        b.iter(|| thread::spawn(|| (0..10u64).map(|x| x + 1).collect::<Vec<_>>()).join().expect("it does not panic"));
    });
    let system = System::new();
    let arbiter = Arbiter::new().handle();
    group.bench_function("actix_actor", |b| {
        b.iter(|| {
            let addr = Counter::start_in_arbiter(&arbiter, |_| Counter::default());
            system.block_on(addr.send(Add(1))).expect("the actor answers");
        });
    });
    let env = LocalEnvironment::new("bench");
    let shapes = [("ten_items", ten_items as fn(&mut Flow)), ("with_service", with_service), ("exchange", exchange)];
    for (name, build) in shapes {
        group.bench_function(name, |b| {
            b.iter(|| {
                let job = job_fn(name, move |flow| {
                    build(flow);
                    Ok(())
                });
                let job = env.submit(job).autostop(true).blocking().expect("accepted");
                assert!(job.blocking().wait().expect("the environment is open").is_completed());
            });
        });
    }
    group.bench_function("environment", |b| b.iter(|| drop(LocalEnvironment::new("bench"))));
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    job_lifecycle(&mut criterion);
    criterion.final_summary();
}
