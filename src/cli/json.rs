//! What scripts are given. The names of fields, and their meaning, are a promise: they are added to, not changed.

use std::time::SystemTime;

use serde_json::{Value, json};

use crate::job::{
    DeadLetters, EnvironmentInfo, Explanation, Health, Holder, JobStatus, Outcome, ServiceStatus, TaskStatus,
};

pub(super) fn outcome_name(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Completed => "completed",
        Outcome::Stopped => "stopped",
        Outcome::Cancelled { .. } => "cancelled",
        Outcome::Failed(_) => "failed",
        Outcome::Lost { .. } => "lost",
    }
}

/// Why the job ended so, where there is something to say.
fn reason(outcome: &Outcome) -> Option<String> {
    match outcome {
        Outcome::Completed | Outcome::Stopped => None,
        Outcome::Cancelled { reason, .. } => Some(reason.to_string()),
        Outcome::Failed(cause) => Some(cause.to_string()),
        Outcome::Lost { reason } => Some(reason.clone()),
    }
}

fn time(time: SystemTime) -> String {
    super::table::written(humantime::format_rfc3339_millis(time))
}

pub(super) fn job(status: &JobStatus) -> Value {
    let outcome = status.outcome.as_ref();
    let dropped = outcome.and_then(|outcome| match outcome {
        Outcome::Cancelled { dropped, .. } => Some(*dropped),
        _ => None,
    });
    json!({
        "id": status.id.to_string(),
        "name": status.name,
        "state": status.state.to_string(),
        "outcome": outcome.map(outcome_name),
        "reason": outcome.and_then(reason),
        "dropped": dropped,
        "autostop": status.autostop,
        "version": status.version,
        "task_count": status.task_count,
        "service_count": status.service_count,
        "restarts": status.restarts,
        "attempt": status.attempt,
        "last_failure": status.last_failure.as_ref().map(ToString::to_string),
        "dead_letters": status.dead_letters,
        "warnings": status.warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "lease_seconds": status.lease.map(|lease| lease.as_secs_f64()),
        "held_by": status.held_by.as_ref().map(holder),
        "submitted_at": time(status.submitted_at),
        "started_at": status.started_at.map(time),
        "ended_at": status.ended_at.map(time),
        "tasks": status.tasks.iter().map(task).collect::<Vec<_>>(),
        "services": status.services.iter().map(service).collect::<Vec<_>>(),
    })
}

fn holder(holder: &Holder) -> Value {
    json!({ "client": holder.client, "address": holder.address, "until": holder.until.map(time) })
}

fn task(task: &TaskStatus) -> Value {
    let counters = &task.counters;
    json!({
        "id": task.id.map(|id| id.to_string()),
        "name": task.name,
        "instance": task.instance,
        "state": task.state.to_string(),
        "worker": task.worker,
        "items_in": counters.items_in,
        "items_out": counters.items_out,
        "batches": counters.batches,
        "queue_depth": counters.queue_depth,
        "dead_letters": counters.dead_letters,
        "busy_seconds": counters.busy.as_secs_f64(),
        "blocked_seconds": counters.blocked.as_secs_f64(),
        "idle_seconds": counters.idle.as_secs_f64(),
    })
}

fn service(service: &ServiceStatus) -> Value {
    json!({
        "name": service.name,
        "state": service.state.to_string(),
        "handled": service.handled,
        "queued": service.queued,
        "restarts": service.restarts,
        "worker": service.worker,
    })
}

pub(super) fn dead_letters(letters: &DeadLetters) -> Value {
    let newest: Vec<Value> = letters
        .newest
        .iter()
        .map(|letter| {
            json!({
                "operator": letter.operator,
                "instance": letter.instance,
                "position": letter.position,
                "cause": letter.cause,
            })
        })
        .collect();
    json!({ "total": letters.total, "newest": newest })
}

pub(super) fn explanation(explanation: &Explanation) -> Value {
    json!({ "state": explanation.state.to_string(), "waits": explanation.waits })
}

pub(super) fn health(health: &Health) -> Value {
    json!({
        "accepting": health.accepting,
        "jobs_live": health.jobs_live,
        "jobs_ended": health.jobs_ended,
        "threads_abandoned": health.threads_abandoned,
        "history_error": health.history_error,
    })
}

pub(super) fn info(address: &str, info: &EnvironmentInfo) -> Value {
    json!({
        "address": address,
        "name": info.name,
        "version": info.version,
        "task_threads": info.task_threads,
        "service_threads": info.service_threads,
        "opened_at": time(info.opened_at),
    })
}
