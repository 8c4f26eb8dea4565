//! `job watch`: a job's tasks while it runs.

use std::{
    collections::HashMap,
    io,
    time::{Duration, Instant},
};

use console::Term;

use super::{
    exit::{Code, Failure},
    json,
    screen::Screen,
    table,
};
use crate::{
    handle::JobHandle,
    job::{JobStatus, TaskId, TaskStatus},
};

/// How often the table is drawn anew.
const REDRAW_EVERY: Duration = Duration::from_millis(500);

/// Follows the job until it ends; the exit code says how. On a terminal it is one table that is drawn anew, elsewhere a
/// line for each change.
pub(super) fn watch(job: &JobHandle, screen: &mut Screen) -> Result<Code, Failure> {
    if screen.is_terminal() {
        return redraw(job);
    }
    let mut last = None;
    for status in job.blocking().watch() {
        let status = status?;
        if screen.is_json() {
            screen.json(&json::job(&status))?;
        } else {
            let standing = match &status.outcome {
                Some(outcome) => outcome.to_string(),
                None => table::standing(&status),
            };
            let tasks = table::tally(status.tasks.iter().map(|task| task.state));
            screen.line(format_args!(
                "{} {}; tasks: {tasks}",
                table::span(table::age(&status)),
                table::clean(&standing)
            ))?;
        }
        last = status.outcome;
    }
    let ended = last.as_ref().map(Code::of);
    ended.ok_or_else(|| Failure::new(Code::Refused, "internal error: the job was not followed to its end"))
}

fn redraw(job: &JobHandle) -> Result<Code, Failure> {
    let (term, mut rates, mut drawn) = (Term::buffered_stdout(), Rates::default(), 0);
    loop {
        let status = job.blocking().status()?;
        let text = picture(&status, &mut rates, usize::from(term.size().0));
        drawn = draw(&term, &text, drawn)?;
        if let Some(outcome) = &status.outcome {
            return Ok(Code::of(outcome));
        }
        // An end is shown at once.
        job.blocking().wait_timeout(REDRAW_EVERY)?;
    }
}

/// Draws `text` over the `drawn` lines before; says how many lines it has.
fn draw(term: &Term, text: &str, drawn: usize) -> io::Result<usize> {
    if drawn > 0 {
        term.move_cursor_up(drawn)?;
        term.clear_to_end_of_screen()?;
    }
    let width = usize::from(term.size().1);
    let mut lines = 0;
    for line in text.lines() {
        // A line that is wrapped would count as two.
        term.write_line(&console::truncate_str(line, width, ""))?;
        lines += 1;
    }
    term.flush()?;
    Ok(lines)
}

/// What a task had counted when it was looked at last.
#[derive(Default)]
struct Rates {
    seen: HashMap<TaskId, (Instant, TaskStatus)>,
}

struct Rate {
    items_in: f64,
    items_out: f64,
    /// Parts of the time, 0 to 1.
    busy: f64,
    blocked: f64,
}

impl Rates {
    /// Since the last look; since the beginning of its time at the first.
    fn of(&mut self, task: &TaskStatus, now: Instant) -> Option<Rate> {
        let before = self.seen.insert(task.id?, (now, task.clone()));
        let (at, before) = before?;
        let seconds = now.duration_since(at).as_secs_f64();
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        let part = |now: Duration, before: Duration| (now.saturating_sub(before).as_secs_f64() / seconds).min(1.0);
        let (now, before) = (&task.counters, &before.counters);
        (seconds > 0.0).then(|| Rate {
            items_in: rate(now.items_in, before.items_in),
            items_out: rate(now.items_out, before.items_out),
            busy: part(now.busy, before.busy),
            blocked: part(now.blocked, before.blocked),
        })
    }
}

/// No more than `height` lines, less one for the cursor.
fn picture(status: &JobStatus, rates: &mut Rates, height: usize) -> String {
    let standing = match &status.outcome {
        Some(outcome) => outcome.to_string(),
        None => table::standing(status),
    };
    let mut text = format!(
        "{} {}: {}, {}\n",
        status.id,
        table::clean(&status.name),
        table::clean(&standing),
        table::span(table::age(status))
    );
    let room = height.saturating_sub(status.services.len() + 6).max(3);
    let now = Instant::now();
    let rows: Vec<_> = status.tasks.iter().map(|task| row(task, rates.of(task, now))).collect();
    let hidden = rows.len().saturating_sub(room);
    if !rows.is_empty() {
        let head = ["TASK", "STATE", "IN", "IN/S", "OUT", "OUT/S", "QUEUED", "BUSY", "BLOCKED"];
        text.push_str(&table::table(head, rows.into_iter().take(room)));
        text.push('\n');
    }
    if hidden > 0 {
        text.push_str(&format!(".. and {hidden} more tasks\n"));
    }
    if !status.services.is_empty() {
        text.push_str(&table::services(&status.services));
    }
    text
}

fn row(task: &TaskStatus, rate: Option<Rate>) -> [String; 9] {
    let per_second = |rate: Option<f64>| rate.map_or_else(String::new, |rate| format!("{rate:.0}"));
    let percent = |part: Option<f64>| part.map_or_else(String::new, |part| format!("{:.0}%", part * 100.0));
    let counters = &task.counters;
    [
        table::task_name(task),
        task.state.to_string(),
        counters.items_in.to_string(),
        per_second(rate.as_ref().map(|rate| rate.items_in)),
        counters.items_out.to_string(),
        per_second(rate.as_ref().map(|rate| rate.items_out)),
        counters.queue_depth.to_string(),
        percent(rate.as_ref().map(|rate| rate.busy)),
        percent(rate.as_ref().map(|rate| rate.blocked)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_those_since_the_last_look() {
        let mut rates = Rates::default();
        let mut task = TaskStatus { id: Some(TaskId(1)), ..TaskStatus::default() };
        let begin = Instant::now();
        task.counters.items_in = 100;
        assert!(rates.of(&task, begin).is_none());
        task.counters.items_in = 300;
        task.counters.busy = Duration::from_secs(1);
        let rate = rates.of(&task, begin + Duration::from_secs(2)).unwrap();
        assert_eq!((rate.items_in, rate.items_out, rate.busy), (100.0, 0.0, 0.5));
    }
}
