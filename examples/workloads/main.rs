//! Workloads to be measured beside other engines: in this process, and against a node in another one.
//!
//! ```text
//! cargo run --release --example workloads -- WORKLOAD [SIZE|FILE] [--threads N] [--workers N]
//!     [--remote HOST:PORT [--encrypted]]
//! cargo run --release --example workloads -- --serve 127.0.0.1:19001      the node for it, until Ctrl+C
//! ```
//!
//! | workload | what is done | prints |
//! |---|---|---|
//! | `mapfold N` | `0..N`, `x * 3 + 1`, keep the even, `x ^ (x >> 7)`, wrapping sum | `seconds checksum` |
//! | `shuffle N` | `0..N`, key `(x * 0x9E3779B97F4A7C15) >> 44`, sum for each key, one sum over `key ^ sum` | `seconds checksum` |
//! | `exchange N` | `0..N`, each with the key of `shuffle`, to the instance of its key, wrapping sum of `key ^ x` | `seconds checksum` |
//! | `wordcount FILE` | lines, lower-case alphanumeric words, count for each word | `seconds checksum` |
//! | `tell [N]` | N (3,000,000) messages to a service, a call after every 1,024 | rate, median latency of a message |
//! | `ask [N]` | N (200,000) calls of a service, one at a time, from a thread outside | rate, median latency of a call |
//! | `ask-inside [N]` | N (200,000) calls of a service by another one on its thread, one at a time | rate, mean latency of a call |
//! | `idle [N]` | N (100,000) services in one job, which wait for 2 s | bytes of memory each, CPU time meanwhile |
//! | `job [N]` | N (10,000) jobs of 10 items, from submit to completed, one at a time | rate, median latency of a job |
//! | `latency-flow [MS]` | items over an exchange to a state for each key, at 10, 50 and 90 % of the top rate for MS (3,000) ms each | rates, latency from the intended instant |
//! | `latency-call [MS]` | calls of a service from a thread outside, likewise | rates, latency from the intended instant |
//! | `latency-nothing [MS]` | threads that only look at the clock, one for each core | how late they are |
//! | `job-scale [N]` | 10, 100 and 1,000 jobs in an environment of their own, N (1,000) at least of each in a round, in turn | latency of a job, and ratios |
//! | `latency-across [N]` | N (10,000) items, one at a time, into an input, through two tasks, and out: with `--workers` on several of them | rate, median latency of each of the 4 ways |
//! | `job-across [N]` | N (1,000) jobs of 30 items with an exchange, as `job`: with `--workers` on all of them | rate, median latency of a job |
//! | `neighbour [N]` | N (20,000,000) items from one worker to another, alone and beside a flow whose consumer is blocked, in turn | ratio of the rates |
//! | `lost [N]` | N (30) times one of three workers is killed (Linux) | median latency from that to the failure of the job |
//! | `clients [N]` | 10, 100 and 1,000, or N, clients of a node, which call it in turn; needs `--remote` | time, memory and calls for each client, and ratios |
//! | `remote-ask [N]` | as `ask`, over the network | rate, median latency of a call |
//! | `remote-ask-64 [N]` | N (500,000) calls, 64 in flight | rate, median latency of a call |
//! | `remote-tell [N]` | as `tell`, over the network, with messages of 64 bytes | rate, median latency of a message |
//! | `remote-output [N]` | N (5,000,000) random `u64` in an output, which is read 10 times | bytes/s, at 8 bytes an item |
//! | `remote-job [N]` | as `job`, over the network | rate, median latency of a job |
//!
//! The remote ones need `--remote`, and the others can be sent to a node by it as well (`latency-nothing`, `neighbour` and
//! `lost` stay here). With `--workers`, tasks run in so many processes of this program.
//!
//! Seconds are from before the environment is opened until the result is there. The median latency of a message is that
//! of a round of 1,024 messages and their call, divided by 1,024.

mod clients;
mod flows;
mod jobs;
mod latency;
mod measure;
mod services;
mod workers;

use std::{error::Error, path::Path};

use clap::Parser;
use proscenium::{
    Environment, JobRegistry, Limits, LocalEnvironment, Node, RemoteEnvironment, Workers, jobs, worker_main,
};

use crate::{
    clients::clients,
    flows::{Exchange, MapFold, RandomNumbers, Shuffle, WordCount, checksum_of, output},
    jobs::{TenItems, run_jobs, scale},
    latency::{
        Between,
        call::latency_call,
        flow::{PacedFlow, latency_flow},
        nothing::latency_nothing,
    },
    services::{Add, AddPadded, Asking, Counting, Idling, ask, ask_64, ask_inside, idle, tell, with_counter},
    workers::{Neighbours, ThereAndBack, jobs_across, latency_across, neighbour},
};

// That of the programs this is compared with.
#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs one workload and prints how long it took.
#[derive(Parser)]
struct Args {
    /// One of `mapfold`, `shuffle`, `exchange`, `wordcount`, `tell`, `ask`, `ask-inside`, `idle`, `job`, `latency-flow`, `latency-call`,
    /// `latency-nothing`, `latency-across`, `job-across`, `neighbour`, `lost`, `job-scale`, `clients`, `remote-ask`, `remote-ask-64`, `remote-tell`, `remote-output`, `remote-job`.
    #[arg(required_unless_present = "serve")]
    workload: Option<String>,
    /// How many items, messages, calls, jobs, clients or milliseconds; for `wordcount` the file.
    size: Option<String>,
    /// Threads that run tasks. Default: one for each core.
    #[arg(long)]
    threads: Option<usize>,
    /// Worker processes that run tasks, if any, instead of this one.
    #[arg(long, conflicts_with_all = ["threads", "serve"])]
    workers: Option<usize>,
    /// Be a node at this address.
    #[arg(long, value_name = "HOST:PORT")]
    serve: Option<String>,
    /// Run it on the node at this address.
    #[arg(long, value_name = "HOST:PORT", conflicts_with_all = ["threads", "workers", "batch_items"])]
    remote: Option<String>,
    /// Encrypt the connection, as beyond this machine.
    #[arg(long, requires = "remote")]
    encrypted: bool,
    /// Items of a full batch.
    #[arg(long)]
    batch_items: Option<usize>,
    /// What `latency-flow` and `latency-call` do until the next item or call is due.
    #[arg(long)]
    between: Option<Between>,
}

fn main() -> Result<(), Box<dyn Error>> {
    // In a process that is a worker of this one, it does not return.
    worker_main(known());
    let Args { workload, size, threads, workers, serve, remote, encrypted, batch_items, between } = Args::parse();
    let mut limits = Limits::default();
    limits.batch_items = batch_items.unwrap_or(limits.batch_items);
    if let Some(address) = serve {
        return be_node(address, threads, limits);
    }
    let workload = workload.ok_or("which workload?")?;
    if workload.starts_with("remote-") && remote.is_none() {
        return Err(format!("`{workload}` needs `--remote HOST:PORT`, where `--serve HOST:PORT` runs").into());
    }
    let place = Place { threads, workers, remote, encrypted, limits, between };
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
        "exchange" => checksum_of(Exchange { items: number(None)? }, &place),
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
        "latency-flow" => latency_flow(number(Some(3_000))?, &place),
        "latency-across" => latency_across(number(Some(10_000))?, &place),
        "job-across" => jobs_across(number(Some(1_000))?, &place),
        "neighbour" => neighbour(number(Some(20_000_000))?),
        #[cfg(target_os = "linux")]
        "lost" => workers::lost(number(Some(30))?),
        "latency-nothing" => latency_nothing(number(Some(3_000))?),
        "latency-call" => with_counter(&place, |counter| latency_call(&counter, number(Some(3_000))?, place.between)),
        "job-scale" => scale(number(Some(1_000))?, &place),
        "clients" => clients(size.as_ref().map(|_| number(None)).transpose()?, &place),
        other => Err(format!("no workload is named `{other}`").into()),
    }
}

/// Where workloads run.
pub(crate) struct Place {
    threads: Option<usize>,
    workers: Option<usize>,
    pub(crate) remote: Option<String>,
    encrypted: bool,
    limits: Limits,
    between: Option<Between>,
}

impl Place {
    pub(crate) fn open(&self) -> Result<Box<dyn Environment>, Box<dyn Error>> {
        let local = LocalEnvironment::builder("workloads").limits(self.limits.clone());
        let local = local.workers(Workers::processes(self.workers.unwrap_or_default()));
        Ok(match (&self.remote, self.threads) {
            (Some(address), _) => {
                Box::new(RemoteEnvironment::connect("workloads", address).encrypted(self.encrypted).blocking()?)
            }
            (None, Some(threads)) => Box::new(local.task_threads(threads).open()?),
            (None, None) => Box::new(local.open()?),
        })
    }
}

/// What a node or a worker can run.
fn known() -> JobRegistry {
    jobs![
        MapFold,
        Shuffle,
        Exchange,
        WordCount,
        TenItems,
        RandomNumbers,
        Counting,
        Asking,
        Idling,
        PacedFlow,
        Neighbours,
        ThereAndBack
    ]
}

fn be_node(address: String, threads: Option<usize>, limits: Limits) -> Result<(), Box<dyn Error>> {
    let mut node = Node::builder().jobs(known()).address(address).limits(limits);
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
