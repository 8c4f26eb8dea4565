//! `worker` and `workers`: this process as a worker of a node, and those that the node has.

use serde_json::json;

use super::{
    args::{JoinAsWorker, WorkerCommand, WorkerVerb},
    exit::{Code, Failure},
    log,
    screen::Screen,
    settings::{KeyChoice, Settings},
    table,
};
use crate::{
    bridge::{Key, complete},
    environment::Worker,
    flow::JobRegistry,
};

pub(super) fn worker(
    WorkerCommand { verb, join: what }: WorkerCommand,
    settings: &Settings,
    jobs: JobRegistry,
    screen: &mut Screen,
) -> Result<Code, Failure> {
    match verb {
        Some(WorkerVerb::Drain { name }) => drain(&name, settings, screen),
        None => join(what, settings, jobs, screen),
    }
}

fn drain(name: &str, settings: &Settings, screen: &mut Screen) -> Result<Code, Failure> {
    match settings.connect()?.blocking().drain_worker(name)? {
        0 => Err(Failure::new(Code::Refused, format!("no worker is called `{name}`"))),
        count if screen.is_json() => {
            screen.json(&json!({ "draining": count }))?;
            Ok(Code::Done)
        }
        count => {
            let workers = if count == 1 { "worker" } else { "workers" };
            screen.line(format_args!("{count} {workers} called {name}: no further job, and an end with the last"))?;
            Ok(Code::Done)
        }
    }
}

/// Is a worker of the node until it is told to end.
fn join(
    JoinAsWorker { join, name, slots, data_address, port_range, advertise, once }: JoinAsWorker,
    settings: &Settings,
    jobs: JobRegistry,
    screen: &mut Screen,
) -> Result<Code, Failure> {
    let manager = join.map_or_else(|| Ok(settings.address.clone()), |join| complete(&join)).map_err(Failure::usage)?;
    let mut worker = Worker::builder().jobs(jobs).manager(&manager).encrypted(settings.encrypted).join_once(once);
    worker = match &settings.key {
        KeyChoice::Variable => worker.key(Key::find()?),
        KeyChoice::File(path) => worker.key_file(path),
    };
    if let Some(trust) = settings.trust()? {
        worker = worker.tls(trust);
    }
    if let Some(name) = name {
        worker = worker.name(name);
    }
    if let Some(slots) = slots {
        worker = worker.slots(slots.into());
    }
    if let Some(address) = data_address {
        worker = worker.address(address);
    }
    if let Some(ports) = port_range {
        worker = worker.port_range(ports);
    }
    if let Some(address) = advertise {
        worker = worker.advertise(address);
    }
    log::panics_in_one_line();
    let worker = worker.open()?;
    let (name, data_address) = (worker.name(), worker.data_address());
    if screen.is_json() {
        screen.json(&json!({
            "worker": name,
            "manager": manager,
            "data_address": data_address,
            "process": std::process::id(),
        }))?;
    } else {
        screen.line(format_args!("worker {name} of {manager} (others reach it at {data_address}); Ctrl+C: no further job, and again: an end at once"))?;
    }
    worker.serve()?;
    Ok(Code::Done)
}

pub(super) fn list(settings: &Settings, screen: &mut Screen) -> Result<Code, Failure> {
    let workers = settings.connect()?.blocking().workers()?;
    if screen.is_json() {
        let workers: Vec<_> = workers
            .iter()
            .map(|worker| {
                json!({
                    "name": worker.name,
                    "address": worker.address,
                    "state": worker.state.to_string(),
                    "slots": worker.slots,
                    "slots_used": worker.slots_used,
                    "tasks": worker.tasks,
                    "services": worker.services,
                    "jobs": worker.jobs,
                })
            })
            .collect();
        screen.json(&json!(workers))?;
        return Ok(Code::Done);
    }
    let rows = workers.into_iter().map(|worker| {
        let slots = format!("{}/{}", worker.slots_used, worker.slots);
        let counts = [worker.tasks, worker.services, worker.jobs].map(|count| count.to_string());
        let [tasks, services, jobs] = counts;
        [worker.name, worker.state.to_string(), slots, tasks, services, jobs, worker.address]
    });
    let head = ["WORKER", "STATE", "SLOTS", "TASKS", "SERVICES", "JOBS", "ADDRESS"];
    screen.line(format_args!("{}", table::table(head, rows)))?;
    Ok(Code::Done)
}
