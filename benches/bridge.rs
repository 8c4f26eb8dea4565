//! What does the bridge add to a call, a told message and an item, next to the bare connection under it?
//!
//! `ask` is one call at a time, `ask_64` keeps 64 in flight, `tell` sends messages of 64 bytes and then asks once, `output` reads
//! a collected output. Each runs over loopback TCP and over a pipe in memory, against a node in this process. The baseline is a
//! thread that echoes 64 bytes, one at a time or 64 in flight, or sends a stream of them, over loopback TCP with blocking sockets.
//! Opening the node, connecting and submitting are not timed, nor is the job that makes the output; but the thread and the
//! connection of a baseline's stream are made anew inside the timed part.

use std::{
    hint::black_box,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    thread,
    time::Duration,
};

use actix::{Actor, Context, Handler, Message};
use criterion::{BenchmarkGroup, Criterion, Throughput, measurement::WallTime};
use futures::{StreamExt, stream};
use proscenium::{BuildError, Flow, Job, JobHandle, Key, MessageTable, Node, RemoteEnvironment, Service, jobs};
use serde::{Deserialize, Serialize};

#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

const TELLS: u64 = 10_000;
const ITEMS: u64 = 1_000_000;
const CALLS: u64 = 2_000;

#[derive(Default)]
struct Sink(u64);

#[derive(Serialize, Deserialize, Message)]
#[rtype(result = "u64")]
struct Ask(u64);

#[derive(Serialize, Deserialize, Message)]
#[rtype(result = "()")]
struct Told([u64; 8]);

impl Actor for Sink {
    type Context = Context<Self>;
}

impl Service for Sink {
    fn messages(table: &mut MessageTable<Self>) {
        table.accept::<Ask>("ask").accept::<Told>("told");
    }
}

impl Handler<Ask> for Sink {
    type Result = u64;

    fn handle(&mut self, Ask(n): Ask, _: &mut Context<Self>) -> u64 {
        self.0.wrapping_add(n)
    }
}

impl Handler<Told> for Sink {
    type Result = ();

    fn handle(&mut self, Told(words): Told, _: &mut Context<Self>) {
        self.0 = self.0.wrapping_add(words[0]);
    }
}

#[derive(Serialize, Deserialize)]
struct Sinks;

impl Job for Sinks {
    const NAME: &'static str = "sinks";

    fn build(&self, flow: &mut Flow) -> Result<(), BuildError> {
        flow.register_service("sink", Sink::default);
        flow.from_batch(0..ITEMS).map(|n| n.wrapping_mul(0x9E37_79B9_7F4A_7C15)).collect("numbers");
        Ok(())
    }
}

/// A thread that answers each 64 bytes with 64 bytes.
fn echo() -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let client = TcpStream::connect(listener.local_addr().expect("it is bound")).expect("it listens");
    let (mut server, _) = listener.accept().expect("a client came");
    for stream in [&client, &server] {
        stream.set_nodelay(true).expect("a socket option");
    }
    thread::spawn(move || {
        let mut bytes = [0; 64];
        while server.read_exact(&mut bytes).is_ok() && server.write_all(&bytes).is_ok() {}
    });
    client
}

/// A thread that sends this many bytes.
fn source(bytes: usize) -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    thread::spawn(move || {
        let (mut server, _) = listener.accept().expect("a client came");
        let chunk = vec![7; 64 << 10];
        let mut left = bytes;
        while left > 0 {
            let now = left.min(chunk.len());
            server.write_all(&chunk[..now]).expect("the client reads to the end");
            left -= now;
        }
    });
    TcpStream::connect(address).expect("it listens")
}

fn baselines(group: &mut BenchmarkGroup<'_, WallTime>) {
    let mut client = echo();
    let mut bytes = [0; 64];
    group.throughput(Throughput::Elements(1));
    group.bench_function("ask/bare_tcp", |b| {
        b.iter(|| {
            client.write_all(&bytes).expect("the echo reads");
            client.read_exact(&mut bytes).expect("the echo answers");
        });
    });
    group.throughput(Throughput::Elements(CALLS));
    group.bench_function("ask_64/bare_tcp", |b| {
        b.iter(|| {
            for asked in 0..CALLS + 64 {
                if asked >= 64 {
                    client.read_exact(&mut bytes).expect("the echo answers");
                }
                if asked < CALLS {
                    client.write_all(&bytes).expect("the echo reads");
                }
            }
        });
    });
    for (name, bytes, elements) in [("tell/bare_tcp", TELLS * 64, TELLS), ("output/bare_tcp", ITEMS * 8, ITEMS)] {
        let bytes = usize::try_from(bytes).expect("it fits");
        group.throughput(Throughput::Elements(elements));
        group.bench_function(name, |b| {
            b.iter(|| {
                let mut client = source(bytes);
                let mut into = Vec::with_capacity(bytes);
                client.read_to_end(&mut into).expect("the source sends to the end");
                black_box(into).len()
            });
        });
    }
}

fn over(group: &mut BenchmarkGroup<'_, WallTime>, place: &str, job: &JobHandle) {
    let sink = job.service::<Sink>("sink");
    group.throughput(Throughput::Elements(1));
    group.bench_function(format!("ask/{place}"), |b| {
        b.iter(|| black_box(sink.call(Ask(1)).blocking().expect("an answer")));
    });
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime without threads");
    group.throughput(Throughput::Elements(CALLS));
    group.bench_function(format!("ask_64/{place}"), |b| {
        b.iter(|| {
            let calls = stream::iter(0..CALLS).map(|n| sink.call(Ask(n))).buffer_unordered(64);
            runtime.block_on(calls.for_each(async |answer| {
                black_box(answer.expect("an answer"));
            }));
        });
    });
    group.throughput(Throughput::Elements(TELLS));
    group.bench_function(format!("tell/{place}"), |b| {
        b.iter(|| {
            for n in 0..TELLS {
                sink.tell(Told([n; 8])).blocking().expect("accepted");
            }
            black_box(sink.call(Ask(0)).blocking().expect("an answer"))
        });
    });
    group.throughput(Throughput::Elements(ITEMS));
    group.bench_function(format!("output/{place}"), |b| {
        b.iter(|| {
            let items: Vec<u64> = job.output("numbers").blocking().expect("the output is whole");
            assert_eq!(items.len() as u64, ITEMS);
        });
    });
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("bridge");
    group.sample_size(20).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    baselines(&mut group);
    let key = Key::generate();
    let node = Node::builder().jobs(jobs![Sinks]).address("127.0.0.1:0").key(key.clone());
    let node = node.open().expect("the node opens");
    let address = node.address().expect("it listens").to_string();
    let tcp = RemoteEnvironment::connect("bench", address).key(key).blocking().expect("connected");
    let pipe = node.connect("bench").blocking().expect("connected");
    for (place, env) in [("tcp", &tcp), ("pipe", &pipe)] {
        let job = env.submit(Sinks).blocking().expect("accepted");
        over(&mut group, place, &job);
        job.blocking().cancel().expect("it can be cancelled");
    }
    group.finish();
    criterion.final_summary();
}
