//! What a job still waits for, in sentences.

use crate::{
    job::{ActorState, Explanation, JobState, ServiceId, TaskNode},
    manager::{
        completion::{Between, Completion},
        record::{JobRecord, service_id},
    },
    protocol::{Progress, ServiceCounts, Wait},
};

/// Says what the job waits for, from the rules' state and from what each task reports of itself. `unread` names the
/// outputs that nobody reads.
pub(crate) fn explain(
    record: &JobRecord,
    completion: &Completion,
    progress: &Progress,
    unread: &[String],
) -> Explanation {
    let state = completion.state();
    let mut waits = Vec::new();
    match state {
        JobState::Starting => starting(record, completion, &mut waits),
        JobState::Restarting => restarting(completion, &mut waits),
        JobState::Paused => waits.push("paused: waits for `resume`, `stop` or `cancel`".to_owned()),
        JobState::Idle => waits.push(idle(record)),
        JobState::StoppingServices => stopping(record, completion, progress, &mut waits),
        JobState::Running | JobState::Pausing | JobState::Draining | JobState::Ended => {}
    }
    if matches!(state, JobState::Running | JobState::Pausing | JobState::Draining) {
        for (task, _, wait) in &progress.tasks {
            let Some(node) = record.graph.tasks.get(task.index()) else { continue };
            match completion.task_state(*task) {
                ActorState::Waiting => waits.push(task_starts(node, *wait)),
                ActorState::Running => waits.push(task_waits(record, completion, node, *wait, unread)),
                _ => {}
            }
        }
    }
    if state != JobState::Ended {
        for (index, name) in record.graph.services.iter().enumerate() {
            if completion.service_state(service_id(index)).0 == ActorState::Restarting {
                let place = place_of(record, service_id(index));
                waits.push(format!("service `{name}` failed and is being restarted{place}"));
            }
        }
        for (service, job, holder) in &progress.services_held {
            let name = record.graph.services.get(service.index()).map_or("", String::as_str);
            let place = place_of(record, *service);
            if completion.service_state(*service).0 != ActorState::Abandoned {
                waits.push(format!(
                    "service `{name}` waits for its thread{place}, which is held by code of {job}, service {}; it goes on when \
                     that code returns, and `cancel` gives it up at its deadline",
                    holder.0
                ));
            }
        }
    }
    Explanation { state, waits }
}

fn starting(record: &JobRecord, completion: &Completion, waits: &mut Vec<String>) {
    let mut services = record.graph.services.iter().enumerate();
    let waiting = services.find(|(index, _)| completion.service_state(service_id(*index)).0 == ActorState::Waiting);
    if let Some((index, name)) = waiting {
        let place = place_of(record, service_id(index));
        waits.push(format!(
            "service `{name}` has not finished its `started` hook{place}; tasks start after all services"
        ));
    }
}

/// Where the service runs, if that is in another process.
fn place_of(record: &JobRecord, service: ServiceId) -> String {
    record.service_worker(service).map_or_else(String::new, |worker| format!(" on worker `{worker}`"))
}

fn restarting(completion: &Completion, waits: &mut Vec<String>) {
    let (attempt, next) = (completion.attempt().0, completion.attempt().0 + 1);
    if let Some(cause) = completion.last_failure() {
        let failed = if completion.between() == Some(Between::Deployment) { attempt - 1 } else { attempt };
        waits.push(format!("attempt {failed} failed: {cause}"));
    }
    waits.push(match completion.between() {
        Some(Between::Tasks) => format!("tasks of attempt {attempt} are being cancelled"),
        Some(Between::Services) => format!("services of attempt {attempt} are being ended"),
        Some(Between::Delay) => format!("attempt {next} begins after a delay of {:?}", completion.restart_delay()),
        Some(Between::Deployment) | None => format!("attempt {attempt} is being prepared on its workers"),
    });
}

fn idle(record: &JobRecord) -> String {
    let services = &record.graph.services;
    match services.as_slice() {
        [service] => format!("idle: all tasks finished; service `{service}` stays callable until `stop`"),
        services => {
            format!("idle: all tasks finished; services {} stay callable until `stop`", quoted(services))
        }
    }
}

fn stopping(record: &JobRecord, completion: &Completion, progress: &Progress, waits: &mut Vec<String>) {
    let Some(service) = completion.stopping_service() else { return };
    let name = record.graph.services.get(service.index()).map_or("", String::as_str);
    let counts = progress.services.iter().find(|counts| counts.service == service);
    let queued = counts.map_or(0, ServiceCounts::queued);
    let place = place_of(record, service);
    waits.push(format!(
        "service `{name}` is stopping{place}: it answers what it had accepted ({queued} messages queued)"
    ));
}

fn task_starts(node: &TaskNode, wait: Wait) -> String {
    let task = subject(node);
    match wait {
        Wait::Thread { job, task: other } => {
            format!("{task} is about to start, once code of {job}, {other} has given the thread back")
        }
        _ => format!("{task} is about to start"),
    }
}

fn task_waits(record: &JobRecord, completion: &Completion, node: &TaskNode, wait: Wait, unread: &[String]) -> String {
    let task = subject(node);
    match wait {
        Wait::Nothing => format!("{task} is working"),
        Wait::Input => match upstream(record, completion, node).as_slice() {
            [] => format!("{task} waits for the end of its input"),
            names => format!("{task} waits for items from {}", quoted(names)),
        },
        Wait::Source => format!("{task} waits for its source, which has nothing yet"),
        Wait::Port { senders } => port_waits(node, &task, senders),
        Wait::Requests => {
            let service = node.service.and_then(|service| record.graph.services.get(service.index()));
            format!("{task} waits for calls of service `{}`", service.map_or("", String::as_str))
        }
        Wait::Room => match downstream(record, node).as_slice() {
            [] => format!("{task} waits for room downstream"),
            names => format!("{task} waits for room towards {}", quoted(names)),
        },
        Wait::Reader => {
            let own: Vec<String> = node.outputs.iter().filter(|output| unread.contains(output)).cloned().collect();
            match own.as_slice() {
                [] => format!("{task} waits for the reader of {}", quoted(&node.outputs)),
                [output] => format!("output `{output}` has no reader, so {task} blocks"),
                outputs => format!("outputs {} have no reader, so {task} blocks", quoted(outputs)),
            }
        }
        Wait::Own => format!("{task} waits for calls or timers of its own, or for further items"),
        Wait::Calls => format!("{task} waits for asynchronous calls of its own"),
        Wait::Resume => format!("{task} is held until `resume`"),
        Wait::Thread { job, task: holder } => format!(
            "{task} waits for its thread, which is held by code of {job}, {holder}; it goes on when that code returns, \
             and `cancel` gives it up at its deadline"
        ),
    }
}

fn subject(node: &TaskNode) -> String {
    format!("task `{}` (instance {})", node.name, node.instance)
}

fn port_waits(node: &TaskNode, task: &str, senders: u32) -> String {
    let input = node.input.as_ref().map_or_else(|| "an input".to_owned(), |input| format!("input `{input}`"));
    let why = match senders {
        0 => "no sender is left and it was not finished; call `finish()` or stop the job".to_owned(),
        1 => "1 sender is open; it ends by `finish()` or `stop`".to_owned(),
        senders => format!("{senders} senders are open; it ends by `finish()` or `stop`"),
    };
    format!("{task} waits for items pushed into {input}: {why}")
}

fn upstream(record: &JobRecord, completion: &Completion, node: &TaskNode) -> Vec<String> {
    let channels = record.graph.channels.iter().filter(|channel| channel.to == node.id);
    let live = channels.filter(|channel| completion.task_state(channel.from) == ActorState::Running);
    distinct(live.filter_map(|channel| record.graph.tasks.get(channel.from.index())))
}

fn downstream(record: &JobRecord, node: &TaskNode) -> Vec<String> {
    let channels = record.graph.channels.iter().filter(|channel| channel.from == node.id);
    distinct(channels.filter_map(|channel| record.graph.tasks.get(channel.to.index())))
}

fn distinct<'a>(tasks: impl Iterator<Item = &'a TaskNode>) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for task in tasks {
        if !names.contains(&task.name) {
            names.push(task.name.clone());
        }
    }
    names
}

fn quoted(names: &[String]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}
