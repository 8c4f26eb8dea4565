//! Six workloads, to be measured beside other engines.
//!
//! ```text
//! cargo run --release --example workloads -- WORKLOAD [SIZE|FILE] [--threads N]
//! ```
//!
//! | workload | what is done | prints |
//! |---|---|---|
//! | `mapfold N` | `0..N`, `x * 3 + 1`, keep the even, `x ^ (x >> 7)`, wrapping sum | `seconds checksum` |
//! | `shuffle N` | `0..N`, key `(x * 0x9E3779B97F4A7C15) >> 44`, sum for each key, one sum over `key ^ sum` | `seconds checksum` |
//! | `wordcount FILE` | lines, lower-case alphanumeric words, count for each word | `seconds checksum` |
//! | `tell [N]` | N (3,000,000) messages to a service, a call after every 1,024 | rate, median latency of a message |
//! | `ask [N]` | N (200,000) calls of a service, one at a time, from a thread outside | rate, median latency of a call |
//! | `job [N]` | N (10,000) jobs of 10 items, from submit to completed, one at a time | rate, median latency of a job |
//!
//! Seconds are from before the environment is opened until the result is there. The median latency of a message is that
//! of a round of 1,024 messages and their call, divided by 1,024.

use std::{
    error::Error,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use actix::{Actor, Context, Handler, Message};
use clap::Parser;
use proscenium::{BuildError, Flow, Job, LocalEnvironment, MessageTable, ParallelRange, Service, ServiceRef, TextFile};
use serde::{Deserialize, Serialize};

// That of the programs this is compared with.
#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROUND: u64 = 1024;

/// Runs one workload and prints how long it took.
#[derive(Parser)]
struct Args {
    /// `mapfold`, `shuffle`, `wordcount`, `tell`, `ask` or `job`.
    workload: String,
    /// How many items, messages, calls or jobs; for `wordcount` the file.
    size: Option<String>,
    /// Threads that run tasks. Default: one for each core.
    #[arg(long)]
    threads: Option<usize>,
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
            .flat_map_into(|line: String, words| words.extend(words_of(&line)))
            .key_by(|word: &String| word.clone())
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

#[derive(Default)]
struct Counter(u64);

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
        table.accept::<Add>("add").accept::<Sum>("sum");
    }
}

impl Handler<Add> for Counter {
    type Result = ();

    fn handle(&mut self, Add(n): Add, _: &mut Context<Self>) {
        self.0 += n;
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

fn main() -> Result<(), Box<dyn Error>> {
    let Args { workload, size, threads } = Args::parse();
    let number = |default: Option<u64>| -> Result<u64, Box<dyn Error>> {
        match (&size, default) {
            (Some(size), _) => Ok(size.replace('_', "").parse().map_err(|error| format!("size `{size}`: {error}"))?),
            (None, Some(default)) => Ok(default),
            (None, None) => Err(format!("`{workload}` needs a size").into()),
        }
    };
    match workload.as_str() {
        "mapfold" => checksum_of(MapFold { items: number(None)? }, threads),
        "shuffle" => checksum_of(Shuffle { items: number(None)? }, threads),
        "wordcount" => {
            let file = size.as_deref().map(Path::new).ok_or("`wordcount` needs a file")?;
            checksum_of(WordCount { file: file.to_owned() }, threads)
        }
        "tell" => with_counter(threads, |counter| tell(&counter, number(Some(3_000_000))?)),
        "ask" => with_counter(threads, |counter| ask(&counter, number(Some(200_000))?)),
        "job" => jobs(number(Some(10_000))?, threads),
        other => Err(format!("no workload is named `{other}`").into()),
    }
}

fn open(threads: Option<usize>) -> Result<LocalEnvironment, Box<dyn Error>> {
    let env = LocalEnvironment::builder("workloads");
    Ok(match threads {
        Some(threads) => env.task_threads(threads).open()?,
        None => env.open()?,
    })
}

fn checksum_of(job: impl Job, threads: Option<usize>) -> Result<(), Box<dyn Error>> {
    let start = Instant::now();
    let env = open(threads)?;
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
    threads: Option<usize>,
    body: impl FnOnce(ServiceRef<Counter>) -> Result<(), Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    let env = open(threads)?;
    let job = env.submit(Counting).blocking()?;
    body(job.service("counter"))?;
    job.blocking().stop()?;
    job.blocking().wait()?;
    Ok(())
}

fn tell(counter: &ServiceRef<Counter>, messages: u64) -> Result<(), Box<dyn Error>> {
    let mut rounds = Vec::new();
    let start = Instant::now();
    let mut sent = 0;
    while sent < messages {
        let round = Instant::now();
        let until = messages.min(sent + ROUND);
        let count = until - sent;
        while sent < until {
            counter.tell(Add(1)).blocking()?;
            sent += 1;
        }
        assert_eq!(counter.call(Sum).blocking()?, sent);
        rounds.push(round.elapsed() / u32::try_from(count)?);
    }
    report("tell", messages, start.elapsed(), rounds);
    Ok(())
}

fn ask(counter: &ServiceRef<Counter>, calls: u64) -> Result<(), Box<dyn Error>> {
    let mut latencies = Vec::new();
    let start = Instant::now();
    for _ in 0..calls {
        let call = Instant::now();
        counter.call(Sum).blocking()?;
        latencies.push(call.elapsed());
    }
    report("ask", calls, start.elapsed(), latencies);
    Ok(())
}

fn jobs(jobs: u64, threads: Option<usize>) -> Result<(), Box<dyn Error>> {
    let env = open(threads)?;
    let mut latencies = Vec::new();
    let start = Instant::now();
    for _ in 0..jobs {
        let one = Instant::now();
        let job = env.submit(TenItems).autostop(true).blocking()?;
        assert!(job.blocking().wait()?.is_completed());
        latencies.push(one.elapsed());
    }
    report("job", jobs, start.elapsed(), latencies);
    Ok(())
}

fn report(what: &str, count: u64, elapsed: Duration, mut latencies: Vec<Duration>) {
    latencies.sort_unstable();
    let rate = count as f64 / elapsed.as_secs_f64();
    let median = latencies.get(latencies.len() / 2).copied().unwrap_or_default();
    println!("{what} {rate:.0}/s median {:.3}us", median.as_secs_f64() * 1e6);
}
