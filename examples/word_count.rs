//! Counts the words of a text file, in parallel, in this process or on a node.
//!
//! ```text
//! cargo run --release --example word_count -- [FILE] [--top N] [--threads N]
//!
//! cargo run --release --example word_count -- --serve 127.0.0.1:19001            a node for it, until Ctrl+C
//! cargo run --release --example word_count -- [FILE] --remote 127.0.0.1:19001    the same, counted by that node
//! cargo run --release --example word_count -- --remote 127.0.0.1:19001 --attach job-..    waits for a job of before
//! ```
//!
//! The node reads FILE, so it is a path on the node's machine. A client that goes away changes nothing about its job: the
//! job's id, which is printed on standard error, is what it takes to come back to it.
//!
//! Words are runs of alphanumeric characters, in lower case. Prints `count word`, the most frequent first, words of
//! equal count in alphabetical order. Without FILE it reads the text in `examples/data/`, which begins:
//!
//! ```text
//! 63919 the
//! 51696 and
//! 34618 of
//! ```
//!
//! On a terminal a line on standard error shows the progress. A file that cannot be read as text is an error: exit
//! code 1.

use std::{
    error::Error,
    io::{self, BufWriter, IsTerminal as _, Write as _},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::Parser;
use indicatif::{HumanCount, ProgressBar, ProgressStyle};
use proscenium::{
    BuildError, Environment, Flow, Job, JobHandle, JobId, LocalEnvironment, Node, Outcome, QueryError,
    RemoteEnvironment, TextFile, jobs,
};
use serde::{Deserialize, Serialize};

/// Counts the words of a text file.
#[derive(Parser)]
struct Args {
    /// The text to read, as UTF-8.
    #[arg(default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data/kjv.txt"), hide_default_value = true)]
    file: PathBuf,
    /// How many words to print.
    #[arg(long, default_value_t = 20)]
    top: usize,
    /// Threads to count with, here or, with --serve, for clients. Default: one for each core.
    #[arg(long)]
    threads: Option<usize>,
    /// Be a node at this address, which counts for clients.
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "remote")]
    serve: Option<String>,
    /// Have it counted by the node at this address.
    #[arg(long, value_name = "HOST:PORT")]
    remote: Option<String>,
    /// Wait for this job, which was submitted to the node before.
    #[arg(long, value_name = "JOB", requires = "remote")]
    attach: Option<JobId>,
}

/// What travels to where the job runs: its parameters. The flow is laid out there.
#[derive(Serialize, Deserialize)]
struct WordCount {
    file: PathBuf,
}

impl Job for WordCount {
    const NAME: &'static str = "word-count";

    fn build(&self, flow: &mut Flow) -> Result<(), BuildError> {
        flow.from_batch(TextFile::lines(&self.file))
            .flat_map_into(|line: String, words| words.extend(words_of(&line)))
            .key_by(|word: &String| word.clone())
            .count()
            .collect("counts");
        Ok(())
    }
}

fn words_of(line: &str) -> impl Iterator<Item = String> {
    line.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_lowercase)
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprint!("error: {error}");
            let mut source = error.source();
            while let Some(error) = source {
                eprint!(": {error}");
                source = error.source();
            }
            eprintln!();
            ExitCode::FAILURE
        }
    }
}

fn serve(address: String, threads: Option<usize>) -> Result<(), Box<dyn Error>> {
    let mut node = Node::builder().jobs(jobs![WordCount]).address(address);
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

/// Only this line differs from one environment to the other.
fn open(args: &Args) -> Result<Box<dyn Environment>, Box<dyn Error>> {
    Ok(match (&args.remote, args.threads) {
        (Some(address), _) => Box::new(RemoteEnvironment::connect("word-count", address).blocking()?),
        (None, Some(threads)) => Box::new(LocalEnvironment::builder("word-count").task_threads(threads).open()?),
        (None, None) => Box::new(LocalEnvironment::new("word-count")),
    })
}

fn run(args: Args) -> Result<(), Box<dyn Error>> {
    if let Some(address) = args.serve {
        return serve(address, args.threads);
    }
    let env = open(&args)?;
    let job = match args.attach {
        Some(id) => env.blocking().job(id)?,
        None => env.submit(WordCount { file: std::path::absolute(args.file)? }).autostop(true).blocking()?,
    };
    if args.remote.is_some() {
        eprintln!("{}", job.id());
    }
    let outcome = if io::stderr().is_terminal() { wait_with_progress(&job)? } else { job.blocking().wait()? };
    if !outcome.is_completed() {
        return Err(outcome.to_string().into());
    }
    let mut counts: Vec<(String, u64)> = job.output("counts").blocking()?;
    counts.sort_unstable_by(|(a, m), (b, n)| n.cmp(m).then_with(|| a.cmp(b)));
    counts.truncate(args.top);
    match print(&counts) {
        // The reader has seen enough, as `head` does.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => Ok(printed?),
    }
}

fn print(counts: &[(String, u64)]) -> io::Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    for (word, count) in counts {
        writeln!(out, "{count} {word}")?;
    }
    out.flush()
}

fn wait_with_progress(job: &JobHandle) -> Result<Outcome, QueryError> {
    let style = ProgressStyle::with_template("{spinner} {msg} ({elapsed})").expect("the template is well-formed");
    let line = ProgressBar::new_spinner().with_style(style);
    let job = job.blocking();
    loop {
        if let Some(outcome) = job.wait_timeout(Duration::from_millis(100))? {
            line.finish_and_clear();
            return Ok(outcome);
        }
        let tasks = job.status()?.tasks;
        let sources = tasks.iter().filter(|task| task.name.starts_with("from_batch"));
        let lines = sources.map(|task| task.counters.items_in).sum();
        line.set_message(format!("{} lines read", HumanCount(lines)));
        line.tick();
    }
}
