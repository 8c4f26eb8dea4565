//! `jobmanager`, `health` and `info`.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use super::{
    args::{NodeCommand, Start, StopNode},
    daemon::{self, Record},
    exit::{Code, Failure},
    json, log,
    screen::Screen,
    settings::{self, KeyChoice, Settings, absolute},
    table,
};
use futures::future::BoxFuture;

use crate::{
    blocking::block_on,
    bridge::{Key, TlsIdentity},
    environment::{Environment, RemoteEnvironment},
    flow::JobRegistry,
    handle::QueryError,
    job::{Health, JobId},
    launch::Workers,
    link::NodeStop,
    node::Node,
};

/// Between one look for a node that cannot be reached and the next.
const RETRY_AFTER: Duration = Duration::from_millis(200);

pub(super) fn carry_out(
    command: NodeCommand,
    settings: Settings,
    jobs: JobRegistry,
    screen: &mut Screen,
) -> Result<Code, Failure> {
    match command {
        NodeCommand::Start(start) => {
            let is_child = start.daemon_child;
            let started = if start.daemon {
                start_in_background(start, &settings, screen)
            } else {
                serve(start, &settings, jobs, screen)
            };
            if let (true, Err(failure)) = (is_child, &started) {
                daemon::greet(Err(failure));
            }
            started
        }
        NodeCommand::Stop(stop) => stop_node(&stop, &settings, screen),
        NodeCommand::Restart(restart) => restart_node(&restart, settings, screen),
        NodeCommand::Status => status(&settings, screen),
    }
}

/// What flags and variables say, else what the configuration file says.
fn merge(flags: Start, file: Start) -> Result<Start, Failure> {
    let variables = (settings::path_in("PROSCENIUM_TLS_CERTIFICATE"), settings::path_in("PROSCENIUM_TLS_KEY"));
    let identity = [(flags.tls_certificate, flags.tls_key), variables, (file.tls_certificate, file.tls_key)];
    let identity = identity.into_iter().find(|(certificate, key)| certificate.is_some() || key.is_some());
    let (certificate, key) = identity.unwrap_or_default();
    if certificate.is_some() != key.is_some() {
        return Err(Failure::usage("TLS takes both a certificate and its key"));
    }
    let folder = flags.data_folder.or(file.data_folder).map_or_else(data_folder_default, Ok)?;
    // What a flag says of workers counts before all that the file says of them.
    let (workers, join_workers) = match (flags.workers, flags.join_workers) {
        (None, false) => (file.workers, file.join_workers),
        flags => flags,
    };
    if workers.is_some() && join_workers {
        return Err(Failure::usage(
            "a node starts its workers, or lets them join: `workers` and `join_workers` are not for one",
        ));
    }
    if (flags.worker_slots.is_some() || flags.worker_memory.is_some()) && workers.is_none() {
        return Err(Failure::usage(
            "`--worker-slots` and `--worker-memory` are about the workers that a node starts: say how many, by `--workers`",
        ));
    }
    if (flags.data_address.is_some() || flags.advertise.is_some()) && !join_workers {
        return Err(Failure::usage(
            "`--data-address` and `--advertise` are about workers that join: say `--join-workers`",
        ));
    }
    // Later ones count, so that a flag changes what the file says.
    let limit = file.limit.into_iter().chain(flags.limit).collect();
    Ok(Start {
        daemon: flags.daemon,
        data_folder: absolute(Some(folder))?,
        task_threads: flags.task_threads.or(file.task_threads),
        service_threads: flags.service_threads.or(file.service_threads),
        io_threads: flags.io_threads.or(file.io_threads),
        connections_max: flags.connections_max.or(file.connections_max),
        submitter_jobs_max: flags.submitter_jobs_max.or(file.submitter_jobs_max),
        limit,
        workers,
        worker_slots: flags.worker_slots.or(file.worker_slots).filter(|_| workers.is_some()),
        worker_memory: flags.worker_memory.or(file.worker_memory).filter(|_| workers.is_some()),
        join_workers,
        data_address: flags.data_address.or(file.data_address).filter(|_| join_workers),
        advertise: flags.advertise.or(file.advertise).filter(|_| join_workers),
        tls_certificate: absolute(certificate)?,
        tls_key: absolute(key)?,
        daemon_child: flags.daemon_child,
    })
}

fn data_folder_default() -> Result<PathBuf, Failure> {
    let home =
        settings::home().ok_or_else(|| Failure::usage("there is no place for data: set HOME, or --data-folder"))?;
    Ok(home.join("node"))
}

fn folder_of(start: &Start) -> &Path {
    start.data_folder.as_deref().expect("a data folder was chosen when the settings were merged")
}

fn start_in_background(start: Start, settings: &Settings, screen: &mut Screen) -> Result<Code, Failure> {
    settings.check_limits()?;
    let start = merge(start, settings.node.clone())?;
    settings::limits(&start.limit)?;
    let record = daemon::record(settings, &start, String::new());
    spawn(&record, screen)
}

fn spawn(record: &Record, screen: &mut Screen) -> Result<Code, Failure> {
    let (address, process, log) = daemon::spawn(record)?;
    if screen.is_json() {
        screen.json(&serde_json::json!({ "address": address, "process": process, "log": log }))?;
    } else {
        screen.line(format_args!("serving at {address} (process {process}, log {})", log.display()))?;
    }
    Ok(Code::Done)
}

fn serve(start: Start, settings: &Settings, jobs: JobRegistry, screen: &mut Screen) -> Result<Code, Failure> {
    settings.check_limits()?;
    let start = merge(start, settings.node.clone())?;
    let folder = folder_of(&start);
    let mut node = Node::builder()
        .jobs(jobs)
        .address(&settings.address)
        .limits(settings::limits(&start.limit)?)
        .encrypted(settings.encrypted)
        .data_folder(folder);
    node = match &settings.key {
        // There is no file to keep the named keys beside.
        KeyChoice::Variable => node.key(Key::find()?).key_ring(folder.join("key.ring")),
        KeyChoice::File(path) => node.key_file(path),
    };
    if let Some(threads) = start.task_threads {
        node = node.task_threads(threads.into());
    }
    if let Some(threads) = start.service_threads {
        node = node.service_threads(threads.into());
    }
    if let Some(threads) = start.io_threads {
        node = node.io_threads(threads.into());
    }
    if let Some(connections) = start.connections_max {
        node = node.connections_max(usize::try_from(connections).unwrap_or(usize::MAX));
    }
    if let Some(jobs) = start.submitter_jobs_max {
        node = node.submitter_jobs_max(usize::try_from(jobs).unwrap_or(usize::MAX));
    }
    if let Some(workers) = workers_of(&start) {
        node = node.workers(workers);
    }
    if let (Some(certificate), Some(key)) = (&start.tls_certificate, &start.tls_key) {
        node = node.tls(TlsIdentity::from_pem_files(certificate, key)?);
    }
    if start.daemon_child {
        daemon::detach();
    }
    raise_descriptors();
    log::panics_in_one_line();
    let node = node.open()?;
    if start.daemon_child {
        // Not before the folder is known to be this node's.
        log::rotate(&folder.join(daemon::LOG));
    }
    // Before anybody hears that it serves, and may stop it.
    node.listen_for_signals();
    let address = node.address().map(|address| address.to_string()).unwrap_or_default();
    let record = daemon::record(settings, &start, address.clone());
    if let Err(error) = record.write(folder) {
        tracing::warn!(%error, folder = %folder.display(), "how the node was started could not be noted");
    }
    if start.daemon_child {
        daemon::greet(Ok(&address));
    } else if screen.is_json() {
        screen.json(&serde_json::json!({ "address": address, "process": record.process, "data_folder": folder }))?;
    } else {
        screen.line(format_args!("serving at {address} (data in {}); Ctrl+C stops", folder.display()))?;
    }
    node.serve().blocking();
    Ok(Code::Done)
}

fn workers_of(start: &Start) -> Option<Workers> {
    let Start { workers, worker_slots, worker_memory, join_workers, data_address, advertise, .. } = start;
    if let Some(count) = workers {
        let mut workers = Workers::processes(usize::from(*count));
        if let Some(slots) = worker_slots {
            workers = workers.slots(usize::from(*slots));
        }
        if let Some(memory) = worker_memory {
            workers = workers.memory_max(u64::from(*memory) << 20);
        }
        return Some(workers);
    }
    let mut workers = join_workers.then(Workers::joining)?;
    if let Some(address) = data_address {
        workers = workers.data_address(address);
    }
    if let Some(address) = advertise {
        workers = workers.advertise(address);
    }
    Some(workers)
}

/// Each connection takes a file descriptor, and many systems allow 1,024 unless a process asks for more.
#[cfg(unix)]
fn raise_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, "the number of file descriptors could not be raised");
    }
}

#[cfg(not(unix))]
fn raise_descriptors() {}

fn stop_node(stop: &StopNode, settings: &Settings, screen: &mut Screen) -> Result<Code, Failure> {
    let folder = stop.data_folder.clone().or_else(|| settings.node.data_folder.clone());
    let folder = folder.or_else(|| data_folder_default().ok());
    stop_and_wait(stop, settings, &settings.address, folder.as_deref())?;
    say(screen, "stopped", "the node has ended")?;
    Ok(Code::Done)
}

fn say(screen: &mut Screen, state: &str, sentence: &str) -> Result<(), Failure> {
    if screen.is_json() {
        screen.json(&serde_json::json!({ "state": state }))?;
    } else {
        screen.line(format_args!("{sentence}"))?;
    }
    Ok(())
}

/// Returns once the node has ended. `folder`: where its data may be, if it runs on this machine.
fn stop_and_wait(stop: &StopNode, settings: &Settings, address: &str, folder: Option<&Path>) -> Result<(), Failure> {
    let deadline = Instant::now() + stop.wait_timeout;
    let env = settings.connect_to(address, Duration::ZERO)?;
    let lost = env.disconnected();
    let how = if stop.cancel { NodeStop::Cancel } else { NodeStop::Drain };
    block_on(env.stop_node(how))?;
    if !is_gone(&env, lost, deadline)? {
        let message = format!(
            "the node has been told to stop, and has not ended within {}: jobs are still draining; `jobmanager stop --cancel` cancels them",
            humantime::format_duration(stop.wait_timeout)
        );
        return Err(Failure::new(Code::WaitedTooLong, message));
    }
    // The connection goes before the process does, which still writes its history.
    let record = folder.and_then(|folder| Some((folder, Record::read(folder).ok().flatten()?)));
    if let Some((folder, record)) = record
        && record.is_at(address)
        && !daemon::wait_until_free(folder, deadline.saturating_duration_since(Instant::now()))
    {
        return Err(Failure::new(
            Code::WaitedTooLong,
            "the node takes no connections any more, but its process goes on",
        ));
    }
    Ok(())
}

/// Whether the node, which was told to stop, is gone before the deadline. A lost connection alone does not say so: its
/// host has to say that nobody listens there, or another start of it has to answer.
fn is_gone(env: &RemoteEnvironment, lost: BoxFuture<'static, ()>, deadline: Instant) -> Result<bool, Failure> {
    let host = env.host();
    let left = || deadline.saturating_duration_since(Instant::now());
    let mut lost = lost;
    loop {
        if block_on(host.timeout(left(), lost)).is_err() {
            return Ok(false);
        }
        // Of a job that no node has, so that the answer is of the node alone.
        loop {
            match block_on(host.timeout(left(), env.job(JobId::random()))) {
                Err(_) => return Ok(false),
                Ok(Err(QueryError::Lost { .. })) => return Ok(true),
                Ok(Err(QueryError::Unreachable { message })) => {
                    let pause = left().min(RETRY_AFTER);
                    if pause.is_zero() {
                        let message = format!("whether the node has ended is not known: {message}");
                        return Err(Failure::new(Code::NoNode, message));
                    }
                    // Nothing tells when the network is back.
                    let _ = block_on(host.timeout(pause, std::future::pending::<()>()));
                }
                Ok(_) => break,
            }
        }
        lost = env.disconnected();
        if block_on(env.health()).is_ok_and(|health| health.accepting) {
            // That is its successor.
            return Ok(true);
        }
    }
}

fn restart_node(restart: &StopNode, settings: Settings, screen: &mut Screen) -> Result<Code, Failure> {
    let flags = Start { data_folder: restart.data_folder.clone(), ..Start::default() };
    let now = merge(flags, settings.node.clone())?;
    let folder = folder_of(&now).to_owned();
    let mut record = match Record::read(&folder)? {
        Some(record) => record,
        None if daemon::is_free(&folder) => {
            let message =
                format!("no node was started with its data in {}: `jobmanager start` starts one", folder.display());
            return Err(Failure::new(Code::NoNode, message));
        }
        // It runs, and could not note how it was started.
        None => daemon::record(&settings, &now, String::new()),
    };
    record.start.data_folder = Some(folder.clone());
    if record.key_file.is_none() && !matches!(settings.key, KeyChoice::Variable) {
        return Err(Failure::usage("the node was started with a key in PROSCENIUM_KEY, which has to be set again"));
    }
    if !daemon::is_free(&folder) {
        let key = record.key_file.clone().map_or(KeyChoice::Variable, KeyChoice::File);
        let encrypted = settings.encrypted || record.encrypted;
        // A certificate of its own is one to trust.
        let tls_pin = settings.tls_pin.clone().or_else(|| record.start.tls_certificate.clone());
        let settings = Settings { key, tls_pin, encrypted, ..settings };
        stop_and_wait(restart, &settings, &record.listens_at, Some(&folder))?;
    }
    spawn(&record, screen)
}

fn status(settings: &Settings, screen: &mut Screen) -> Result<Code, Failure> {
    let env = settings.connect()?;
    let (info, health) = (env.blocking().info()?, env.blocking().health()?);
    if screen.is_json() {
        let (info, health) = (json::info(&settings.address, &info), json::health(&health));
        screen.json(&serde_json::json!({ "state": "running", "info": info, "health": health }))?;
        return Ok(Code::Done);
    }
    let uptime = SystemTime::now().duration_since(info.opened_at).unwrap_or_default();
    screen.line(format_args!("node      {} {} at {}", table::clean(&info.name), info.version, settings.address))?;
    screen.line(format_args!("running   for {}, since {}", table::span(uptime), table::time(info.opened_at)))?;
    screen.line(format_args!("threads   {} for tasks, {} for services", info.task_threads, info.service_threads))?;
    screen.line(format_args!("jobs      {} live, {} ended", health.jobs_live, health.jobs_ended))?;
    screen.line(format_args!("health    {}", sentence(&health)))?;
    Ok(Code::Done)
}

fn is_well(health: &Health) -> bool {
    health.accepting && health.history_error.is_none()
}

fn sentence(health: &Health) -> String {
    let mut sentence = match health.accepting {
        true => "accepts jobs".to_owned(),
        false => "accepts no jobs: it is stopping".to_owned(),
    };
    if let Some(error) = &health.history_error {
        sentence = format!("accepts no jobs: its history cannot be written: {}", table::clean(error));
    }
    if health.threads_abandoned > 0 {
        sentence = format!("{sentence}; {} tasks or services were abandoned", health.threads_abandoned);
    }
    sentence
}

pub(super) fn health(settings: &Settings, screen: &mut Screen) -> Result<Code, Failure> {
    let env = settings.connect()?;
    let health = env.blocking().health()?;
    if screen.is_json() {
        screen.json(&json::health(&health))?;
    } else {
        let (live, ended) = (health.jobs_live, health.jobs_ended);
        screen.line(format_args!("{}; {live} jobs live, {ended} ended", sentence(&health)))?;
    }
    Ok(if is_well(&health) { Code::Done } else { Code::Refused })
}

pub(super) fn info(settings: &Settings, screen: &mut Screen) -> Result<Code, Failure> {
    let env = settings.connect()?;
    let info = env.blocking().info()?;
    if screen.is_json() {
        screen.json(&json::info(&settings.address, &info))?;
        return Ok(Code::Done);
    }
    screen.line(format_args!("address          {}", settings.address))?;
    screen.line(format_args!("name             {}", table::clean(&info.name)))?;
    screen.line(format_args!("version          {}", table::clean(&info.version)))?;
    screen.line(format_args!("task threads     {}", info.task_threads))?;
    screen.line(format_args!("service threads  {}", info.service_threads))?;
    screen.line(format_args!("opened           {}", table::time(info.opened_at)))?;
    Ok(Code::Done)
}
