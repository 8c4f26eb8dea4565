//! What can be typed.

use std::{ops::RangeInclusive, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::job::Restart;

/// Runs jobs in this process, or has them run by a node (a JobManager that is reached over TCP).
#[derive(Debug, Parser)]
#[command(subcommand_required = true, arg_required_else_help = true, after_help = EXIT_CODES)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub common: Common,
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  done; a job that was waited for completed      10  the job failed
  1  not done, for the reason printed               11  the job was stopped
  2  usage or configuration                         12  the job was cancelled
  3  no node, or none that serves this client       13  the job is lost
  4  no such job, or more than one                 130  interrupted
  5  not waited for any longer; the job goes on    141  the reader of the output has gone";

/// What every command takes. A flag counts before its variable, and that before the configuration file.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Options for every command")]
pub(super) struct Common {
    /// The node: where it is reached, or where it listens [default: 127.0.0.1:19001]. A port that is left out is 19001.
    /// [env: PROSCENIUM_ADDRESS]
    // Not `env = ..`: usage lines would show it as if it had been typed.
    #[arg(long, global = true, value_name = "HOST[:PORT]")]
    pub address: Option<String>,
    /// The file with the key that node and clients have in common; it counts before PROSCENIUM_KEY (the key itself),
    /// and that before PROSCENIUM_KEY_FILE [default: the file that a node of this user makes at its first start].
    #[arg(long, global = true, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// Talk TLS to the node, and trust this certificate alone (PEM).
    /// [env: PROSCENIUM_TLS_PIN]
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "tls_authorities")]
    pub tls_pin: Option<PathBuf>,
    /// Talk TLS to the node, and trust certificates that these authorities have signed (PEM).
    /// [env: PROSCENIUM_TLS_AUTHORITIES]
    #[arg(long, global = true, value_name = "FILE")]
    pub tls_authorities: Option<PathBuf>,
    /// Encrypt connections within this machine, too, as those to other machines always are.
    #[arg(long, global = true)]
    pub encrypted: bool,
    /// How results are printed [default: human].
    #[arg(long, global = true, value_enum, env = "PROSCENIUM_FORMAT")]
    pub format: Option<Format>,
    /// The configuration file [default: config.toml in the configuration folder].
    /// [env: PROSCENIUM_CONFIG]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Format {
    /// Tables and sentences.
    #[default]
    Human,
    /// One JSON value; lists of unknown length as one value a line.
    Json,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Starts and stops nodes.
    #[command(subcommand)]
    Jobmanager(NodeCommand),
    /// Submits jobs to the node and looks after them.
    #[command(subcommand)]
    Job(JobCommand),
    /// Makes and revokes keys by which others may do less than everything.
    #[command(subcommand)]
    Key(KeyCommand),
    /// Has this process join the node as a worker, which runs tasks of its jobs until Ctrl+C.
    Worker(WorkerCommand),
    /// Lists the workers that have joined the node.
    Workers,
    /// Runs a job in this process, with autostop, to its end.
    Run(RunJob),
    /// Whether the node accepts jobs, and how many it has.
    Health,
    /// What the node is made of.
    Info,
    /// The version of this program, and the jobs that are linked into it.
    Version,
    /// Prints a script that completes this command line in a shell.
    Completions {
        #[arg(value_enum)]
        shell: Shell,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum NodeCommand {
    /// Starts a node, which runs until it is stopped.
    Start(Start),
    /// Stops the node, once its jobs have ended.
    Stop(StopNode),
    /// Stops the node, and starts it again in the background as it was started before.
    Restart(StopNode),
    /// Whether the node runs; exit code 3 if it does not.
    Status,
}

#[derive(Debug, Subcommand)]
pub(super) enum KeyCommand {
    /// Lists the node's named keys.
    List,
    /// Makes a key and prints it: the text is the secret, and the node never shows it again. A file that it goes into
    /// must be its owner's alone, for `--key-file` takes no other: `umask 077` before `> FILE`, or `chmod 600 FILE`
    /// after it.
    Add {
        /// What it is called: letters, digits, `.`, `_` and `-`.
        name: String,
        /// What those who have it may do.
        #[arg(long, value_enum)]
        role: Role,
    },
    /// Takes a key away; its connections end at once.
    Revoke { name: String },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Role {
    /// Look at jobs, and read their collected outputs.
    Reader,
    /// Submit jobs, and have the use of those alone.
    Submitter,
    /// Join as a worker, which runs tasks of jobs, and nothing else.
    Worker,
}

#[derive(Debug, Clone, Default, Args, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Start {
    /// Run in the background; what it says goes to `node.log` in the data folder, which keeps the last 16 to 32 MiB.
    #[arg(long)]
    #[serde(skip)]
    pub daemon: bool,
    /// The folder for its history [default: `node` beside the key file].
    #[arg(long, value_name = "FOLDER", env = "PROSCENIUM_DATA")]
    pub data_folder: Option<PathBuf>,
    /// Threads that run tasks [default: the cores].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub task_threads: Option<u16>,
    /// Threads that run services [default: 1].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub service_threads: Option<u16>,
    /// Threads that serve clients' connections [default: half the cores].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub io_threads: Option<u16>,
    /// Clients that may be connected at the same time [default: 4096].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub connections_max: Option<u32>,
    /// Jobs of one submitter's key that have not ended [default: 256].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub submitter_jobs_max: Option<u32>,
    /// Another limit, such as `ended_jobs_max=100` or `call_deadline=30s`; can be given several times.
    #[arg(long, value_name = "NAME=VALUE")]
    pub limit: Vec<String>,
    /// Show this certificate (PEM) to the clients that want one.
    /// [env: PROSCENIUM_TLS_CERTIFICATE]
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_certificate: Option<PathBuf>,
    /// The certificate's key (PEM).
    /// [env: PROSCENIUM_TLS_KEY]
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    pub tls_key: Option<PathBuf>,
    /// Run tasks in so many further processes of this program, too, which the node starts and ends.
    #[arg(long, value_name = "N", conflicts_with = "join_workers")]
    pub workers: Option<u16>,
    /// Threads that run tasks in each of them [default: the cores, dealt out].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub worker_slots: Option<u16>,
    /// Memory that each of them may have of its own at most, in MiB [default: no limit].
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..))]
    pub worker_memory: Option<u32>,
    /// Let workers join, with keys of the role `worker`: processes that were started by `worker`, on this machine or others.
    #[arg(long)]
    pub join_workers: bool,
    /// Where to listen for the workers that join [default: any port of the node's address].
    #[arg(long, value_name = "HOST:PORT")]
    pub data_address: Option<String>,
    /// Where they reach this process, if that is elsewhere; needed if it listens at every address.
    #[arg(long, value_name = "HOST[:PORT]")]
    pub advertise: Option<String>,
    /// It is the background process that `--daemon` has started.
    #[arg(long, hide = true)]
    #[serde(skip)]
    pub daemon_child: bool,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct WorkerCommand {
    #[command(subcommand)]
    pub verb: Option<WorkerVerb>,
    #[command(flatten)]
    pub join: JoinAsWorker,
}

#[derive(Debug, Subcommand)]
pub(super) enum WorkerVerb {
    /// Has the workers of this name take no further job, and end with the last that they have.
    Drain { name: String },
}

#[derive(Debug, Args)]
pub(super) struct JoinAsWorker {
    /// The node [default: that of `--address`].
    #[arg(long, value_name = "HOST[:PORT]")]
    pub join: Option<String>,
    /// What the worker is called [default: `worker-` and the number of its process].
    #[arg(long, value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub name: Option<String>,
    /// Threads that run tasks [default: the cores].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub slots: Option<u16>,
    /// Where to listen for other workers [default: any port of the address from which the node is reached].
    #[arg(long, value_name = "HOST:PORT")]
    pub data_address: Option<String>,
    /// The ports at which to listen for other workers: the first that is free.
    #[arg(long, value_name = "FIRST-LAST", value_parser = ports)]
    pub port_range: Option<RangeInclusive<u16>>,
    /// Where other workers reach this one, if that is elsewhere; needed if it listens at every address.
    #[arg(long, value_name = "HOST[:PORT]")]
    pub advertise: Option<String>,
    /// End when the node cannot be joined, or is lost, instead of trying again for ever.
    #[arg(long)]
    pub once: bool,
}

#[derive(Debug, Clone, Args)]
pub(super) struct StopNode {
    /// Cancel its jobs, instead of having them process what their sources have emitted.
    #[arg(long)]
    pub cancel: bool,
    /// How long to wait for its end. A number alone is seconds.
    #[arg(long, value_name = "TIME", default_value = "300s", value_parser = duration)]
    pub wait_timeout: Duration,
    /// Where its history is, if it runs on this machine [default: `node` beside the key file].
    #[arg(long, value_name = "FOLDER", env = "PROSCENIUM_DATA")]
    pub data_folder: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(super) enum JobCommand {
    /// Submits a job, and prints its id.
    Submit(Submit),
    /// All jobs that the node knows, oldest first.
    List {
        /// Only those that have not ended.
        #[arg(long)]
        running: bool,
    },
    /// Everything about a job.
    Show(Named),
    /// A job's state in one line.
    Status(Named),
    /// Follows a job's tasks until it ends.
    Watch(Named),
    /// What a job still waits for.
    Explain(Named),
    /// A job's outputs; with a name, the items of that output, as one JSON value a line.
    Output(ReadOutput),
    /// Ends a job's sources, and has it process what they have emitted.
    Stop(EndJob),
    /// Ends a job at once.
    Cancel(EndJob),
    /// Holds a job's sources; its services stay callable.
    Pause(Named),
    /// Lets a paused job go on.
    Resume(Named),
    /// Forgets an ended job.
    Delete {
        #[command(flatten)]
        job: Named,
        /// Cancel the job first if it has not ended.
        #[arg(long)]
        force: bool,
    },
    /// Forgets all ended jobs.
    Cleanup,
}

/// A job of the node.
#[derive(Debug, Args)]
pub(super) struct Named {
    /// The job's id, the beginning of one (4 digits at least), or its name: of several jobs of that name, the only one
    /// that has not ended.
    #[arg(value_name = "JOB")]
    pub job: String,
}

#[derive(Debug, Args)]
pub(super) struct EndJob {
    #[command(flatten)]
    pub job: Named,
    #[command(flatten)]
    pub waiting: Waiting,
}

#[derive(Debug, Args)]
pub(super) struct Waiting {
    /// Wait for the job's end; the exit code says how it ended.
    #[arg(long)]
    pub wait: bool,
    /// How long to wait; then the job goes on without being waited for. A number alone is seconds.
    #[arg(long, value_name = "TIME", default_value = "300s", value_parser = duration, requires = "wait")]
    pub wait_timeout: Duration,
}

/// A job to be run, by the name of its type and its parameters.
#[derive(Debug, Args)]
pub(super) struct NewJob {
    /// The name of the job's type; `version` lists those linked into this program, with their parameters.
    pub name: String,
    /// Its parameters as JSON; `-` reads them from standard input. Those of a type without any are `{}`, or nothing.
    #[arg(default_value = "{}")]
    pub json: String,
    /// What the job is called [default: the name of its type].
    #[arg(long, value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub job_name: Option<String>,
    /// The instances of an operator that does not say otherwise [default: the task threads].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub parallelism: Option<u16>,
    /// How long it may run; then it is cancelled. `90s`, `10m`, `1h 30m`; a number alone is seconds.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub run_limit: Option<Duration>,
    /// Set items aside that cannot be processed, instead of failing.
    #[arg(long)]
    pub skip_errors: bool,
    /// Begin anew if it fails: `never`; `N:DELAY`, N times; `N/WITHIN:DELAY`, N times within so long; `exponential`, after 1 s, 2 s and
    /// so on up to a minute. `3:1s`, `5/1h:10s` [default: never].
    #[arg(long, value_name = "HOW", value_parser = restart)]
    pub restart: Option<Restart>,
}

#[derive(Debug, Args)]
pub(super) struct Submit {
    #[command(flatten)]
    pub job: NewJob,
    /// End the job's services too once its tasks have finished.
    #[arg(long)]
    pub autostop: bool,
    /// Stop the job once no client has held it for so long. This command holds it while it waits. `90s`, `10m`, `1h 30m`; a
    /// number alone is seconds.
    #[arg(long, value_name = "TIME", value_parser = lease)]
    pub lease: Option<Duration>,
    #[command(flatten)]
    pub waiting: Waiting,
}

#[derive(Debug, Args)]
pub(super) struct RunJob {
    #[command(flatten)]
    pub job: NewJob,
    /// Print the items of this output, as one JSON value a line.
    #[arg(long, value_name = "NAME")]
    pub output: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct ReadOutput {
    #[command(flatten)]
    pub job: Named,
    /// The output to read.
    pub output: Option<String>,
    /// End after this many items.
    #[arg(long, value_name = "N", requires = "output")]
    pub limit: Option<u64>,
}

/// A time that a job may go without a holder.
fn lease(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => {
            Err("a lease of no time would stop the job before anybody could hold it; leave the flag out for none"
                .to_owned())
        }
        lease => Ok(lease),
    }
}

/// Whether and how often a job begins anew.
pub(super) fn restart(text: &str) -> Result<Restart, String> {
    match text {
        "never" => return Ok(Restart::never()),
        "exponential" => return Ok(Restart::exponential()),
        _ => {}
    }
    let how = "it is `never`, `exponential`, `N:DELAY` or `N/WITHIN:DELAY`, as in `3:1s` or `5/1h:10s`";
    let (times, delay) = text.split_once(':').ok_or(how)?;
    let delay = duration(delay)?;
    let (times, within) = times.split_once('/').map_or((times, None), |(times, within)| (times, Some(within)));
    let times: u32 = times.parse().map_err(|_| how)?;
    Ok(match within {
        Some(within) => Restart::rate(times, duration(within)?, delay),
        None => Restart::fixed(times, delay),
    })
}

/// `300`, `300s`, `5m`, `1h 30m`; a number alone counts seconds.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(Duration::from_secs(seconds));
    }
    humantime::parse_duration(text).map_err(|error| error.to_string())
}

/// `20000-20099`: the first and the last.
fn ports(text: &str) -> Result<RangeInclusive<u16>, String> {
    let ends = text.split_once('-').and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
    match ends {
        Some((first, last)) if 0 < first && first <= last => Ok(first..=last),
        _ => Err("that is no range of ports, such as 20000-20099".to_owned()),
    }
}
