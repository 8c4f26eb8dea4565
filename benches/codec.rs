//! What does it cost to encode items into a collected output, and to decode them when it is read?
//!
//! Items are kept encoded whatever the environment, so the public way in and out is a job with an output: `write` is such a job
//! from submit to completed, `read` one reading of its output. Three shapes: a number, a text of 16 bytes, and a record of five
//! fields. The baseline is a loop written by hand for the shape, which puts the same fields into one `Vec<u8>` and takes them out
//! again, each number in 8 bytes, each text behind its length. Opening the environment is not timed; making the items is, on both
//! sides.

use std::{hint::black_box, time::Duration};

use criterion::{BenchmarkGroup, Criterion, Throughput, measurement::WallTime};
use proscenium::{LocalEnvironment, job_fn};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ITEMS: u64 = 200_000;

#[derive(Serialize, Deserialize)]
struct Record {
    id: u64,
    name: String,
    price: f64,
    tags: Vec<u64>,
    open: bool,
}

fn number(n: u64) -> u64 {
    n.wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

fn text(n: u64) -> String {
    format!("{:016x}", number(n))
}

fn record(n: u64) -> Record {
    Record { id: n, name: text(n), price: n as f64 / 8.0, tags: vec![n, n + 1, n + 2], open: n.is_multiple_of(2) }
}

fn put(bytes: &mut Vec<u8>, n: u64) {
    bytes.extend_from_slice(&n.to_le_bytes());
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    put(bytes, text.len() as u64);
    bytes.extend_from_slice(text.as_bytes());
}

fn take(bytes: &mut &[u8]) -> u64 {
    let (head, rest) = bytes.split_first_chunk::<8>().expect("it was put there");
    *bytes = rest;
    u64::from_le_bytes(*head)
}

fn take_text(bytes: &mut &[u8]) -> String {
    let length = usize::try_from(take(bytes)).expect("it was a length");
    let (head, rest) = bytes.split_at(length);
    *bytes = rest;
    String::from_utf8(head.to_vec()).expect("it was a text")
}

/// A shape, and how it is put into bytes and taken out by hand.
struct Shape<T> {
    name: &'static str,
    make: fn(u64) -> T,
    put: fn(&mut Vec<u8>, &T),
    take: fn(&mut &[u8]) -> T,
}

fn measure<T>(group: &mut BenchmarkGroup<'_, WallTime>, env: &LocalEnvironment, shape: &Shape<T>)
where
    T: Serialize + DeserializeOwned + Send + 'static,
{
    let Shape { name, make, put, take } = *shape;
    let by_hand = || {
        let mut bytes = Vec::new();
        (0..ITEMS).for_each(|n| put(&mut bytes, &make(n)));
        bytes
    };
    let job = || {
        let job = job_fn(name, move |flow| {
            flow.from_batch((0..ITEMS).map(make)).collect("items");
            Ok(())
        });
        let job = env.submit(job).autostop(true).blocking().expect("accepted");
        job.blocking().wait().expect("it ends").into_result().expect("it completes");
        job
    };
    group.bench_function(format!("write_{name}/by_hand"), |b| b.iter(|| black_box(by_hand())));
    group.bench_function(format!("write_{name}/output"), |b| b.iter(|| black_box(job())));
    let (bytes, written) = (by_hand(), job());
    group.bench_function(format!("read_{name}/by_hand"), |b| {
        b.iter(|| {
            let mut bytes = bytes.as_slice();
            let items: Vec<T> = (0..ITEMS).map(|_| take(&mut bytes)).collect();
            black_box(items).len()
        });
    });
    group.bench_function(format!("read_{name}/output"), |b| {
        b.iter(|| {
            let items: Vec<T> = written.output("items").blocking().expect("it is whole");
            assert_eq!(items.len() as u64, ITEMS);
        });
    });
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("codec");
    group
        .throughput(Throughput::Elements(ITEMS))
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    let env = LocalEnvironment::new("bench");
    measure(&mut group, &env, &Shape { name: "number", make: number, put: |bytes, n| put(bytes, *n), take });
    measure(
        &mut group,
        &env,
        &Shape { name: "text", make: text, put: |bytes, text| put_text(bytes, text), take: take_text },
    );
    let put_record = |bytes: &mut Vec<u8>, record: &Record| {
        put(bytes, record.id);
        put_text(bytes, &record.name);
        put(bytes, record.price.to_bits());
        put(bytes, record.tags.len() as u64);
        record.tags.iter().for_each(|tag| put(bytes, *tag));
        bytes.push(u8::from(record.open));
    };
    let take_record = |bytes: &mut &[u8]| {
        let (id, name, price) = (take(bytes), take_text(bytes), f64::from_bits(take(bytes)));
        let tags = (0..take(bytes)).map(|_| take(bytes)).collect();
        let open = bytes[0] == 1;
        *bytes = &bytes[1..];
        Record { id, name, price, tags, open }
    };
    measure(&mut group, &env, &Shape { name: "record", make: record, put: put_record, take: take_record });
    group.finish();
    criterion.final_summary();
}
