//! Workloads to be measured beside other engines: in this process, and against a node in another one.
//!
//! ```text
//! cargo run --release --example workloads -- WORKLOAD [SIZE|FILE] [--threads N] [--remote HOST:PORT]
//! cargo run --release --example workloads -- --serve 127.0.0.1:19001      the node for it, until Ctrl+C
//! ```
//!
//! | workload | what is done | prints |
//! |---|---|---|
//! | `mapfold N` | `0..N`, `x * 3 + 1`, keep the even, `x ^ (x >> 7)`, wrapping sum | `seconds checksum` |
//! | `shuffle N` | `0..N`, key `(x * 0x9E3779B97F4A7C15) >> 44`, sum for each key, one sum over `key ^ sum` | `seconds checksum` |
//! | `wordcount FILE` | lines, lower-case alphanumeric words, count for each word | `seconds checksum` |
//! | `tell [N]` | N (3,000,000) messages to a service, a call after every 1,024 | rate, median latency of a message |
//! | `ask [N]` | N (200,000) calls of a service, one at a time, from a thread outside | rate, median latency of a call |
//! | `ask-inside [N]` | N (200,000) calls of a service by another one on its thread, one at a time | rate, mean latency of a call |
//! | `idle [N]` | N (100,000) services in one job, which wait for 2 s | bytes of memory each, CPU time meanwhile |
//! | `job [N]` | N (10,000) jobs of 10 items, from submit to completed, one at a time | rate, median latency of a job |
//! | `remote-ask [N]` | as `ask`, over the network | rate, median latency of a call |
//! | `remote-ask-64 [N]` | N (500,000) calls, 64 in flight | rate, median latency of a call |
//! | `remote-tell [N]` | as `tell`, over the network, with messages of 64 bytes | rate, median latency of a message |
//! | `remote-output [N]` | N (5,000,000) random `u64` in an output, which is read 10 times | bytes/s, at 8 bytes an item |
//! | `remote-job [N]` | as `job`, over the network | rate, median latency of a job |
//!
//! The remote ones need `--remote`, and the others can be sent to a node by it as well.
//!
//! Seconds are from before the environment is opened until the result is there. The median latency of a message is that
//! of a round of 1,024 messages and their call, divided by 1,024.

use std::{
    error::Error,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use actix::{Actor, Context, Handler, Message, ResponseFuture};
use clap::Parser;
use futures::{StreamExt, TryStreamExt, stream};
use proscenium::{
    BuildError, Environment, Flow, Job, LocalEnvironment, MessageTable, Node, ParallelRange, RemoteEnvironment,
    Service, ServiceMessage, ServiceRef, TextFile, jobs,
};
use serde::{Deserialize, Serialize};

// That of the programs this is compared with.
#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROUND: u64 = 1024;

/// Runs one workload and prints how long it took.
#[derive(Parser)]
struct Args {
    /// One of `mapfold`, `shuffle`, `wordcount`, `tell`, `ask`, `ask-inside`, `idle`, `job`, `remote-ask`, `remote-ask-64`, `remote-tell`,
    /// `remote-output`, `remote-job`.
    #[arg(required_unless_present = "serve")]
    workload: Option<String>,
    /// How many items, messages, calls or jobs; for `wordcount` the file.
    size: Option<String>,
    /// Threads that run tasks. Default: one for each core.
    #[arg(long)]
    threads: Option<usize>,
    /// Be a node at this address.
    #[arg(long, value_name = "HOST:PORT")]
    serve: Option<String>,
    /// Run it on the node at this address.
    #[arg(long, value_name = "HOST:PORT")]
    remote: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct MapFold {
    items: u64,
}

impl Job for MapFold {
    const NAME: &'static str = "mapfold";

    fn build(&self, flow: &mut Flow) -> Result<(), BuildError> {
        let add = |sum: &mut u64, x: u64| *sum = sum.wrapping_add(x);
        flow.from_batch(ParallelRange::new(0..self.items))
            .map(|x| x.wrapping_mul(3).wrapping_add(1))
            .filter(|x| x % 2 == 0)
            .map(|x| x ^ (x >> 7))
            .fold_assoc(0, add, add)
            .collect("checksum");
        Ok(())
    }
}

#[derive(Serialize, Deserialize)]
struct Shuffle {
    items: u64,
}

impl Job for Shuffle {
    const NAME: &'static str = "shuffle";

    fn build(&self, flow: &mut Flow) -> Result<(), BuildError> {
        let add = |sum: &mut u64, x: u64| *sum = sum.wrapping_add(x);
        flow.from_batch(ParallelRange::new(0..self.items))
            .key_by(|x| x.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 44)
            .fold(0, add)
            .map(|(key, sum)| key ^ sum)
            .fold_assoc(0, add, add)
            .collect("checksum");
        Ok(())
    }
}

#[derive(Serialize, Deserialize)]
struct WordCount {
    file: PathBuf,
}

impl Job for WordCount {
    const NAME: &'static str = "wordcount";

    fn build(&self, flow: &mut Flow) -> Result<(), BuildError> {
        let add = |sum: &mut u64, x: u64| *sum = sum.wrapping_add(x);
        flow.from_batch(TextFile::lines(&self.file))
            .flat_map_into(|line: String, words| words.extend(words_of(&line).map(|word| (word, ()))))
            .keyed()
            .count()
            .map(|(word, count)| count.wrapping_mul(word.len() as u64 + 1))
            .fold_assoc(0, add, add)
            .collect("checksum");
        Ok(())
    }
}

fn words_of(line: &str) -> impl Iterator<Item = String> {
    line.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_lowercase)
}

/// Ten items into an output.
#[derive(Serialize, Deserialize)]
struct TenItems;

impl Job for TenItems {
    const NAME: &'static str = "ten-items";

    fn build(&self, flow: &mut Flow) -> Result<(), BuildError> {
        flow.from_batch(0..10u64).map(|x| x + 1).collect("items");
        Ok(())
    }
}

/// Numbers that look random (xorshift64*, by Vigna), into an output.
#[derive(Serialize, Deserialize)]
struct RandomNumbers {
    items: u64,
}

impl Job for RandomNumbers {
    const NAME: &'static str = "random-numbers";

    fn build(&self, flow: &mut Flow) -> Result<(), BuildError> {
        let random = |x: u64| {
            let mut x = x.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            x ^= x >> 12;
            x ^= x << 25;
            x ^= x >> 27;
            x.wrapping_mul(0x2545_F491_4F6C_DD1D)
        };
        flow.from_batch(0..self.items).map(random).collect("numbers");
        Ok(())
    }
}

#[derive(Default)]
struct Counter(u64);

/// A number, and what makes 64 bytes of it.
#[derive(Serialize, Deserialize, Message)]
#[rtype(result = "()")]
struct AddPadded(u8, [u64; 7]);

#[derive(Serialize, Deserialize, Message)]
#[rtype(result = "()")]
struct Add(u64);

#[derive(Serialize, Deserialize, Message)]
#[rtype(result = "u64")]
struct Sum;

impl Actor for Counter {
    type Context = Context<Self>;
}

impl Service for Counter {
    fn messages(table: &mut MessageTable<Self>) {
        table.accept::<Add>("add").accept::<AddPadded>("add-padded").accept::<Sum>("sum");
    }
}

impl Handler<Add> for Counter {
    type Result = ();

    fn handle(&mut self, Add(n): Add, _: &mut Context<Self>) {
        self.0 += n;
    }
}

impl Handler<AddPadded> for Counter {
    type Result = ();

    fn handle(&mut self, AddPadded(n, _): AddPadded, _: &mut Context<Self>) {
        self.0 += u64::from(n);
    }
}

impl Handler<Sum> for Counter {
    type Result = u64;

    fn handle(&mut self, _: Sum, _: &mut Context<Self>) -> u64 {
        self.0
    }
}

/// A job that consists of one service.
#[derive(Serialize, Deserialize)]
struct Counting;

impl Job for Counting {
    const NAME: &'static str = "counting";

    fn build(&self, flow: &mut Flow) -> Result<(), BuildError> {
        flow.register_service("counter", Counter::default);
        Ok(())
    }
}

/// Calls another service, and answers how many nanoseconds that took.
#[derive(Serialize, Deserialize, Message)]
#[rtype(result = "u64")]
struct AskOther(u64);

struct Asker(ServiceRef<Counter>);

impl Actor for Asker {
    type Context = Context<Self>;
}

impl Service for Asker {
    fn messages(table: &mut MessageTable<Self>) {
        table.accept::<AskOther>("ask-other");
    }
}

impl Handler<AskOther> for Asker {
    type Result = ResponseFuture<u64>;

    fn handle(&mut self, AskOther(calls): AskOther, _: &mut Context<Self>) -> Self::Result {
        let counter = self.0.clone();
        Box::pin(async move {
            let start = Instant::now();
            for _ in 0..calls {
                counter.call(Sum).await.expect("the counter answers");
            }
            u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
        })
    }
}

/// A service and another one that calls it.
#[derive(Serialize, Deserialize)]
struct Asking;

impl Job for Asking {
    const NAME: &'static str = "asking";

    fn build(&self, flow: &mut Flow) -> Result<(), BuildError> {
        flow.register_service("counter", Counter::default);
        flow.register_service_with("asker", |ctx| Asker(ctx.service("counter").expect("it is registered")));
        Ok(())
    }
}

/// Services that nobody calls.
#[derive(Serialize, Deserialize)]
struct Idling {
    services: u64,
}

impl Job for Idling {
    const NAME: &'static str = "idling";

    fn build(&self, flow: &mut Flow) -> Result<(), BuildError> {
        for service in 0..self.services {
            flow.register_service(&service.to_string(), Counter::default);
        }
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let Args { workload, size, threads, serve, remote } = Args::parse();
    if let Some(address) = serve {
        return be_node(address, threads);
    }
    let workload = workload.ok_or("which workload?")?;
    if workload.starts_with("remote-") && remote.is_none() {
        return Err(format!("`{workload}` needs `--remote HOST:PORT`, where `--serve HOST:PORT` runs").into());
    }
    let place = Place { threads, remote };
    let number = |default: Option<u64>| -> Result<u64, Box<dyn Error>> {
        match (&size, default) {
            (Some(size), _) => Ok(size.replace('_', "").parse().map_err(|error| format!("size `{size}`: {error}"))?),
            (None, Some(default)) => Ok(default),
            (None, None) => Err(format!("`{workload}` needs a size").into()),
        }
    };
    match workload.as_str() {
        "mapfold" => checksum_of(MapFold { items: number(None)? }, &place),
        "shuffle" => checksum_of(Shuffle { items: number(None)? }, &place),
        "wordcount" => {
            let file = size.as_deref().map(Path::new).ok_or("`wordcount` needs a file")?;
            checksum_of(WordCount { file: std::path::absolute(file)? }, &place)
        }
        "tell" => with_counter(&place, |counter| tell("tell", &counter, number(Some(3_000_000))?, || Add(1))),
        "ask" | "remote-ask" => with_counter(&place, |counter| ask(&workload, &counter, number(Some(200_000))?)),
        "ask-inside" => ask_inside(number(Some(200_000))?, &place),
        "idle" => idle(number(Some(100_000))?, &place),
        "remote-ask-64" => with_counter(&place, |counter| ask_64(&counter, number(Some(500_000))?)),
        "remote-tell" => with_counter(&place, |counter| {
            // Numbers that are encoded in full: a tag and eight bytes each.
            tell("remote-tell", &counter, number(Some(3_000_000))?, || AddPadded(1, [u64::MAX; 7]))
        }),
        "remote-output" => output(number(Some(5_000_000))?, &place),
        "job" | "remote-job" => run_jobs(&workload, number(Some(10_000))?, &place),
        other => Err(format!("no workload is named `{other}`").into()),
    }
}

/// Where workloads run.
struct Place {
    threads: Option<usize>,
    remote: Option<String>,
}

impl Place {
    fn open(&self) -> Result<Box<dyn Environment>, Box<dyn Error>> {
        let local = LocalEnvironment::builder("workloads");
        Ok(match (&self.remote, self.threads) {
            (Some(address), _) => Box::new(RemoteEnvironment::connect("workloads", address).blocking()?),
            (None, Some(threads)) => Box::new(local.task_threads(threads).open()?),
            (None, None) => Box::new(local.open()?),
        })
    }
}

fn be_node(address: String, threads: Option<usize>) -> Result<(), Box<dyn Error>> {
    let known = jobs![MapFold, Shuffle, WordCount, TenItems, RandomNumbers, Counting, Asking, Idling];
    let mut node = Node::builder().jobs(known).address(address);
    if let Some(threads) = threads {
        node = node.task_threads(threads);
    }
    let node = node.open()?;
    if let Some(address) = node.address() {
        eprintln!("serving at {address}; Ctrl+C stops");
    }
    node.serve().blocking();
    Ok(())
}

fn checksum_of(job: impl Job, place: &Place) -> Result<(), Box<dyn Error>> {
    let start = Instant::now();
    let env = place.open()?;
    let job = env.submit(job).autostop(true).blocking()?;
    let outcome = job.blocking().wait()?;
    if !outcome.is_completed() {
        return Err(outcome.to_string().into());
    }
    let checksum: Vec<u64> = job.output("checksum").blocking()?;
    println!("{:.4} {}", start.elapsed().as_secs_f64(), checksum[0]);
    Ok(())
}

fn with_counter(
    place: &Place,
    body: impl FnOnce(ServiceRef<Counter>) -> Result<(), Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    let env = place.open()?;
    let job = env.submit(Counting).blocking()?;
    body(job.service("counter"))?;
    job.blocking().stop()?;
    job.blocking().wait()?;
    Ok(())
}

fn tell<M>(
    what: &str,
    counter: &ServiceRef<Counter>,
    messages: u64,
    message: impl Fn() -> M,
) -> Result<(), Box<dyn Error>>
where
    Counter: Handler<M> + Handler<Sum>,
    M: ServiceMessage,
{
    let mut rounds = Vec::new();
    let start = Instant::now();
    let mut sent = 0;
    while sent < messages {
        let round = Instant::now();
        let until = messages.min(sent + ROUND);
        let count = until - sent;
        while sent < until {
            counter.tell(message()).blocking()?;
            sent += 1;
        }
        assert_eq!(counter.call(Sum).blocking()?, sent);
        rounds.push(round.elapsed() / u32::try_from(count)?);
    }
    report(what, messages, start.elapsed(), rounds);
    Ok(())
}

fn ask(what: &str, counter: &ServiceRef<Counter>, calls: u64) -> Result<(), Box<dyn Error>> {
    let mut latencies = Vec::new();
    let start = Instant::now();
    for _ in 0..calls {
        let call = Instant::now();
        counter.call(Sum).blocking()?;
        latencies.push(call.elapsed());
    }
    report(what, calls, start.elapsed(), latencies);
    Ok(())
}

fn ask_inside(calls: u64, place: &Place) -> Result<(), Box<dyn Error>> {
    let env = place.open()?;
    let job = env.submit(Asking).blocking()?;
    let asker = job.service::<Asker>("asker");
    let nanoseconds = asker.call(AskOther(calls)).deadline(Duration::from_secs(3600)).blocking()?;
    job.blocking().stop()?;
    let mean = nanoseconds as f64 / calls as f64 / 1e3;
    println!("ask-inside {:.0}/s mean {mean:.3}us", 1e6 / mean);
    Ok(())
}

/// Resident bytes, and clock ticks of CPU time, of this process.
fn footprint() -> Result<(u64, u64), Box<dyn Error>> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = statm.split(' ').nth(1).ok_or("no resident size")?.parse()?;
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(") ").next().ok_or("no fields")?.split(' ').collect();
    Ok((pages * 4096, fields[11].parse::<u64>()? + fields[12].parse::<u64>()?))
}

fn idle(services: u64, place: &Place) -> Result<(), Box<dyn Error>> {
    let env = place.open()?;
    env.submit(TenItems).autostop(true).blocking()?.blocking().wait()?;
    let (before, _) = footprint()?;
    let job = env.submit(Idling { services }).blocking()?;
    // Services start one after the other; the last one answers once all of them have.
    let last = job.service::<Counter>(&(services - 1).to_string());
    last.call(Sum).deadline(Duration::from_secs(3600)).blocking()?;
    let (after, used) = footprint()?;
    // For as long as nothing happens.
    std::sync::mpsc::channel::<()>().1.recv_timeout(Duration::from_secs(2)).ok();
    let ticks = footprint()?.1 - used;
    println!(
        "idle {services} services, {} bytes each, {} ms of CPU in 2 s",
        (after - before) / services.max(1),
        ticks * 10
    );
    job.blocking().cancel()?;
    job.blocking().wait()?;
    Ok(())
}

fn ask_64(counter: &ServiceRef<Counter>, calls: u64) -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(async {
        let start = Instant::now();
        let calling = stream::iter(0..calls).map(async |_| {
            let call = Instant::now();
            counter.call(Sum).await.map(|_| call.elapsed())
        });
        let latencies = calling.buffer_unordered(64).try_collect().await?;
        report("remote-ask-64", calls, start.elapsed(), latencies);
        Ok(())
    })
}

fn output(items: u64, place: &Place) -> Result<(), Box<dyn Error>> {
    const READINGS: u32 = 10;
    let env = place.open()?;
    let job = env.submit(RandomNumbers { items }).autostop(true).blocking()?;
    assert!(job.blocking().wait()?.is_completed());
    let start = Instant::now();
    for _ in 0..READINGS {
        assert_eq!(job.output::<u64>("numbers").blocking()?.len() as u64, items);
    }
    let bytes = items as f64 * 8.0 * f64::from(READINGS);
    println!("remote-output {:.0} MB/s", bytes / start.elapsed().as_secs_f64() / 1e6);
    Ok(())
}

fn run_jobs(what: &str, jobs: u64, place: &Place) -> Result<(), Box<dyn Error>> {
    let env = place.open()?;
    let mut latencies = Vec::new();
    let start = Instant::now();
    for _ in 0..jobs {
        let one = Instant::now();
        let job = env.submit(TenItems).autostop(true).blocking()?;
        assert!(job.blocking().wait()?.is_completed());
        latencies.push(one.elapsed());
    }
    report(what, jobs, start.elapsed(), latencies);
    Ok(())
}

fn report(what: &str, count: u64, elapsed: Duration, mut latencies: Vec<Duration>) {
    latencies.sort_unstable();
    let rate = count as f64 / elapsed.as_secs_f64();
    let median = latencies.get(latencies.len() / 2).copied().unwrap_or_default();
    println!("{what} {rate:.0}/s median {:.3}us", median.as_secs_f64() * 1e6);
}
