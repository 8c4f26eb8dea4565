//! `worker` and `workers`: this process as a worker of a node, and those that the node has.

use serde_json::json;

use super::{
    args::JoinAsWorker,
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

/// Is a worker of the node until it is told to end.
pub(super) fn join(
    JoinAsWorker { join, name, slots, data_address, advertise, once }: JoinAsWorker,
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
        screen.line(format_args!("worker {name} of {manager} (others reach it at {data_address}); Ctrl+C ends it"))?;
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
                    "slots": worker.slots,
                    "tasks": worker.tasks,
                })
            })
            .collect();
        screen.json(&json!(workers))?;
        return Ok(Code::Done);
    }
    let rows = workers
        .into_iter()
        .map(|worker| [worker.name, worker.slots.to_string(), worker.tasks.to_string(), worker.address]);
    screen.line(format_args!("{}", table::table(["WORKER", "SLOTS", "TASKS", "ADDRESS"], rows)))?;
    Ok(Code::Done)
}
