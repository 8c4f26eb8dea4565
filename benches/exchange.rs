//! What does it cost to move items from one task to another, next to a bounded channel between two threads?
//!
//! Each iteration moves `ITEMS` integers and sums them behind the exchange: `one_to_one` between two tasks,
//! `all_to_all` by key from two tasks to two. The baseline sends the same batches of 1,024 over a bounded
//! `std::sync::mpsc` channel. For the job everything from submit to the read result is timed; opening and closing the
//! environment is not. The baseline's thread is made inside the timed part.

use std::{hint::black_box, sync::mpsc, thread, time::Duration};

use criterion::{Criterion, Throughput};
use proscenium::{Flow, LocalEnvironment, ParallelRange, job_fn};

#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ITEMS: u64 = 2_000_000;
const BATCH: u64 = 1024;

fn channel() -> u64 {
    let (tx, rx) = mpsc::sync_channel::<Vec<u64>>(8);
    let consumer = thread::spawn(move || rx.iter().flatten().fold(0u64, u64::wrapping_add));
    for batch in 0..ITEMS.div_ceil(BATCH) {
        let end = ITEMS.min((batch + 1) * BATCH);
        tx.send((batch * BATCH..end).map(black_box).collect()).expect("the consumer reads to the end");
    }
    drop(tx);
    consumer.join().expect("the consumer does not panic")
}

fn one_to_one(flow: &mut Flow) {
    flow.from_batch(0..ITEMS).rebalance(1).sum().collect("sum");
}

fn all_to_all(flow: &mut Flow) {
    let add = |sum: &mut u64, x: u64| *sum = sum.wrapping_add(x);
    let keyed = flow.from_batch(ParallelRange::new(0..ITEMS)).key_by(|x| x % 1000);
    keyed.fold(0, add).map(|(_, sum)| sum).sum().collect("sum");
}

fn exchange(c: &mut Criterion) {
    let mut group = c.benchmark_group("exchange");
    group
        .throughput(Throughput::Elements(ITEMS))
        .sample_size(20)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3));
    group.bench_function("std_mpsc", |b| b.iter(|| black_box(channel())));
    let env = LocalEnvironment::new("bench");
    let expected = ITEMS * (ITEMS - 1) / 2;
    for (name, build) in [("one_to_one", one_to_one as fn(&mut Flow)), ("all_to_all", all_to_all)] {
        group.bench_function(name, |b| {
            b.iter(|| {
                let job = job_fn(name, move |flow| {
                    build(flow);
                    Ok(())
                });
                let job = env.submit(job).autostop(true).parallelism(2).blocking().expect("accepted");
                let sum: Vec<u64> = job.output("sum").blocking().expect("completed");
                assert_eq!(sum, [expected]);
            });
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    exchange(&mut criterion);
    criterion.final_summary();
}
