//! What does it cost to run a chain of operators in a job, next to the plain loop it stands for?
//!
//! Each iteration works off `ITEMS` integers: times 3 plus 1, keep the even, `x ^ (x >> 7)`, wrapping sum. For the job
//! everything from submit to the read result is timed; opening and closing the environment is not.

use std::{hint::black_box, time::Duration};

use criterion::{BenchmarkId, Criterion, Throughput};
use proscenium::{BuildError, Flow, Job, LocalEnvironment, ParallelRange};
use serde::{Deserialize, Serialize};

#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ITEMS: u64 = 10_000_000;

#[derive(Serialize, Deserialize)]
struct MapFold;

impl Job for MapFold {
    const NAME: &'static str = "mapfold";

    fn build(&self, flow: &mut Flow) -> Result<(), BuildError> {
        let add = |sum: &mut u64, x: u64| *sum = sum.wrapping_add(x);
        flow.from_batch(ParallelRange::new(0..ITEMS))
            .map(|x| x.wrapping_mul(3).wrapping_add(1))
            .filter(|x| x % 2 == 0)
            .map(|x| x ^ (x >> 7))
            .fold_assoc(0, add, add)
            .collect("sum");
        Ok(())
    }
}

fn plain_loop() -> u64 {
    (0..ITEMS)
        .map(|x| black_box(x).wrapping_mul(3).wrapping_add(1))
        .filter(|x| x % 2 == 0)
        .map(|x| x ^ (x >> 7))
        .fold(0, u64::wrapping_add)
}

fn chain(c: &mut Criterion) {
    let mut group = c.benchmark_group("chain");
    group
        .throughput(Throughput::Elements(ITEMS))
        .sample_size(20)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3));
    group.bench_function("plain_loop", |b| b.iter(|| black_box(plain_loop())));
    let env = LocalEnvironment::new("bench");
    let expected = plain_loop();
    for parallelism in [1, 2] {
        group.bench_function(BenchmarkId::new("job", parallelism), |b| {
            b.iter(|| {
                let job = env.submit(MapFold).autostop(true).parallelism(parallelism).blocking().expect("accepted");
                let sum: Vec<u64> = job.output("sum").blocking().expect("completed");
                assert_eq!(sum, [expected]);
            });
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    chain(&mut criterion);
    criterion.final_summary();
}
