//! What people are shown: tables, times, names.

use std::{
    fmt::Write as _,
    time::{Duration, SystemTime},
};

use comfy_table::{ContentArrangement, Table, presets};

use crate::job::{ActorState, JobState, JobStatus, ServiceStatus, TaskStatus};

/// A table of plain columns, two spaces apart.
pub(super) fn table<const N: usize>(head: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(head);
    for row in rows {
        table.add_row(row.map(|cell| clean(&cell)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let lines = table.to_string();
    lines.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// Names and messages come from elsewhere: what would steer a terminal is shown, not done.
pub(super) fn clean(text: &str) -> String {
    let mut cleaned = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            cleaned.extend(character.escape_default());
        } else {
            cleaned.push(character);
        }
    }
    cleaned
}

/// In a form that sorts, in UTC, to the second.
pub(super) fn time(time: SystemTime) -> String {
    written(humantime::format_rfc3339_seconds(time))
}

/// A time, which may be a peer's and beyond what can be written.
pub(super) fn written(time: humantime::Rfc3339Timestamp) -> String {
    let mut text = String::new();
    match write!(text, "{time}") {
        Ok(()) => text,
        Err(_) => "at no time that can be written".to_owned(),
    }
}

/// To as much as is of interest: `0.4s`, `12s`, `3m 20s`, `2h 5m`, `3days 4h`.
pub(super) fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    let rounded = match seconds {
        0..=9 => return format!("{:.1}s", span.as_secs_f64()),
        10..=3599 => seconds,
        3600..=86_399 => seconds / 60 * 60,
        _ => seconds / 3600 * 3600,
    };
    humantime::format_duration(Duration::from_secs(rounded)).to_string()
}

/// From the job's acceptance to its end, or to now.
pub(super) fn age(status: &JobStatus) -> Duration {
    let end = status.ended_at.unwrap_or_else(SystemTime::now);
    end.duration_since(status.submitted_at).unwrap_or_default()
}

/// `completed`, `failed`, .., or the state of a job that has not ended.
pub(super) fn standing(status: &JobStatus) -> String {
    match &status.outcome {
        Some(outcome) => super::json::outcome_name(outcome).to_owned(),
        None if status.attempt > 1 && status.state == JobState::Running => {
            format!("running (attempt {})", status.attempt)
        }
        None if status.state == JobState::Idle && status.service_count > 0 => "idle (services run)".to_owned(),
        None => status.state.to_string(),
    }
}

/// Tasks in every state that occurs, as `2 running, 1 finished`.
pub(super) fn tally(states: impl Iterator<Item = ActorState>) -> String {
    let mut counts: Vec<(ActorState, usize)> = Vec::new();
    for state in states {
        match counts.iter_mut().find(|(known, _)| *known == state) {
            Some((_, count)) => *count += 1,
            None => counts.push((state, 1)),
        }
    }
    let parts: Vec<String> = counts.iter().map(|(state, count)| format!("{count} {state}")).collect();
    if parts.is_empty() { "none".to_owned() } else { parts.join(", ") }
}

pub(super) fn tasks(tasks: &[TaskStatus]) -> String {
    let rows = tasks.iter().map(|task| {
        let counters = &task.counters;
        [
            task_name(task),
            task.state.to_string(),
            counters.items_in.to_string(),
            counters.items_out.to_string(),
            counters.queue_depth.to_string(),
            counters.dead_letters.to_string(),
            span(counters.busy),
            span(counters.blocked),
            span(counters.idle),
        ]
    });
    table(["TASK", "STATE", "IN", "OUT", "QUEUED", "DEAD", "BUSY", "BLOCKED", "IDLE"], rows)
}

/// With the worker that runs it, if that is another process.
pub(super) fn task_name(task: &TaskStatus) -> String {
    format!("{} #{}{}", task.name, task.instance, at(task.worker.as_ref()))
}

fn at(worker: Option<&String>) -> String {
    worker.map_or_else(String::new, |worker| format!(" @{}", clean(worker)))
}

pub(super) fn services(services: &[ServiceStatus]) -> String {
    let rows = services.iter().map(|service| {
        [
            format!("{}{}", service.name, at(service.worker.as_ref())),
            service.state.to_string(),
            service.handled.to_string(),
            service.queued.to_string(),
            service.restarts.to_string(),
        ]
    });
    table(["SERVICE", "STATE", "HANDLED", "QUEUED", "RESTARTS"], rows)
}

/// Everything about a job.
pub(super) fn job(status: &JobStatus) -> String {
    let mut text = String::new();
    let mut field = |name: &str, value: String| {
        // To write to text does not fail.
        let _ = writeln!(text, "{name:<10} {}", clean(&value));
    };
    field("job", status.id.to_string());
    field("name", status.name.clone());
    field("state", status.state.to_string());
    if let Some(outcome) = &status.outcome {
        field("outcome", outcome.to_string());
    }
    if let Some(failure) = &status.last_failure {
        field("attempt", status.attempt.to_string());
        field("failed by", failure.to_string());
    }
    field("autostop", if status.autostop { "yes" } else { "no" }.to_owned());
    if let Some(lease) = status.lease {
        field("lease", humantime::format_duration(lease).to_string());
    }
    if let Some(holder) = &status.held_by {
        let until = holder.until.map_or_else(String::new, |until| format!(", until {}", time(until)));
        field("held by", format!("{holder}{until}"));
    }
    field("submitted", time(status.submitted_at));
    if let Some(started) = status.started_at {
        field("started", time(started));
    }
    if let Some(ended) = status.ended_at {
        field("ended", time(ended));
    }
    field("took", span(age(status)));
    if status.dead_letters > 0 {
        field("dead", format!("{} items set aside", status.dead_letters));
    }
    for warning in &status.warnings {
        field("warning", warning.to_string());
    }
    if !status.tasks.is_empty() {
        let _ = write!(text, "\n{}\n", tasks(&status.tasks));
    }
    if !status.services.is_empty() {
        let _ = write!(text, "\n{}\n", services(&status.services));
    }
    text.truncate(text.trim_end().len());
    text
}
