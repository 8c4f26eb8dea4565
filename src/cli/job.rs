//! `job`: submits jobs to a node and looks after them.

use std::{io::Read, time::Duration};

use futures::future::{Either, select};
use tokio::sync::mpsc;

use super::{
    args::{EndJob, JobCommand, Named, NewJob, Submit},
    exit::{Code, Failure},
    find, json, output,
    screen::Screen,
    settings::Settings,
    table, watch,
};
use crate::{
    blocking::block_on,
    environment::RemoteEnvironment,
    flow::{JobPayload, JobRegistry},
    handle::{ControlError, JobHandle},
    job::{ErrorPolicy, Explanation, JobStatus},
};

pub(super) fn carry_out(
    command: JobCommand,
    settings: &Settings,
    jobs: &JobRegistry,
    screen: &mut Screen,
) -> Result<Code, Failure> {
    // What can be found to be wrong without a node is told without one.
    if let JobCommand::Submit(submit) = command {
        let payload = read_job(&submit.job, jobs)?;
        return self::submit(&submit, payload, &settings.connect()?, screen);
    }
    let env = settings.connect()?;
    match command {
        JobCommand::Submit(_) => Ok(Code::Done),
        JobCommand::List { running } => list(&env, running, screen),
        JobCommand::Show(named) => show(&find::look_at(&env, &named)?, screen),
        JobCommand::Status(named) => status(&find::look_at(&env, &named)?, screen),
        JobCommand::Watch(named) => watch::watch(&find::find(&env, &named)?, screen),
        JobCommand::Explain(named) => explain(&find::look_at(&env, &named)?, screen),
        JobCommand::Output(read) => output::output(&find::find(&env, &read.job)?, &read, screen),
        JobCommand::Stop(end) => end_job(&env, &end, |job| block_on(job.stop()), screen),
        JobCommand::Cancel(end) => end_job(&env, &end, |job| block_on(job.cancel()), screen),
        JobCommand::Pause(named) => order(&env, &named, |job| block_on(job.pause()), "told to pause", screen),
        JobCommand::Resume(named) => order(&env, &named, |job| block_on(job.resume()), "told to go on", screen),
        JobCommand::Delete { job, force } => {
            let delete = |job: &JobHandle| if force { block_on(job.delete_forced()) } else { block_on(job.delete()) };
            order(&env, &job, delete, "deleted", screen)
        }
        JobCommand::Cleanup => cleanup(&env, screen),
    }
}

/// The job with its parameters, which `-` has read from standard input.
pub(super) fn read_job(job: &NewJob, jobs: &JobRegistry) -> Result<JobPayload, Failure> {
    let mut json = job.json.clone();
    if json == "-" {
        json.clear();
        std::io::stdin().lock().read_to_string(&mut json)?;
    }
    jobs.read_json(&job.name, &json).map_err(Failure::usage)
}

pub(super) fn policy(job: &NewJob) -> ErrorPolicy {
    if job.skip_errors { ErrorPolicy::Skip } else { ErrorPolicy::Fail }
}

fn submit(
    Submit { job, autostop, lease, waiting }: &Submit,
    payload: JobPayload,
    env: &RemoteEnvironment,
    screen: &mut Screen,
) -> Result<Code, Failure> {
    let mut submit = env.submit(payload).autostop(*autostop).error_policy(policy(job));
    if let Some(name) = &job.job_name {
        submit = submit.name(name);
    }
    if let Some(instances) = job.parallelism {
        submit = submit.parallelism(instances.into());
    }
    if let Some(limit) = job.run_limit {
        submit = submit.run_limit(limit);
    }
    if let Some(restart) = job.restart {
        submit = submit.restart(restart);
    }
    if let Some(lease) = lease {
        submit = submit.lease(*lease);
    }
    let job = submit.blocking()?;
    // Ctrl+C is taken over as soon as there is a job whose id can be told, and not while it is submitted: a node may not
    // answer, and then there is nothing to tell.
    let interrupts = waiting.wait.then(|| block_on(env.interrupts()));
    if !waiting.wait && screen.is_json() {
        screen.json(&json::job(&job.blocking().status()?))?;
    } else if !screen.is_json() {
        // At once: whoever interrupts the wait needs it.
        screen.line(format_args!("{}", job.id()))?;
    }
    interrupts.map_or(Ok(Code::Done), |interrupts| wait(&job, interrupts, waiting.wait_timeout, screen))
}

/// Waits for the job's end, and says how it ended.
fn wait(
    job: &JobHandle,
    mut interrupts: mpsc::Receiver<()>,
    limit: Duration,
    screen: &mut Screen,
) -> Result<Code, Failure> {
    let waited = block_on(async {
        let interrupted = std::pin::pin!(async {
            // None if the process cannot listen for signals: they then end it at once.
            if interrupts.recv().await.is_none() {
                std::future::pending::<()>().await;
            }
        });
        match select(std::pin::pin!(job.wait_timeout(limit)), interrupted).await {
            Either::Left((outcome, _)) => Some(outcome),
            Either::Right(_) => None,
        }
    });
    let Some(outcome) = waited else {
        let id = job.id();
        let message = format!(
            "interrupted: {id} has not ended, and goes on; `job status {id}` looks at it, `job stop {id}` or `job cancel {id}` ends it"
        );
        return Err(Failure::new(Code::Interrupted, message));
    };
    let Some(outcome) = outcome? else {
        let message = format!(
            "{} has not ended within {}, and goes on: {}",
            job.id(),
            humantime::format_duration(limit),
            table::clean(&in_short(&job.blocking().explain()?)),
        );
        return Err(Failure::new(Code::WaitedTooLong, message));
    };
    if screen.is_json() {
        match job.blocking().status() {
            Ok(status) => screen.json(&json::job(&status))?,
            // Of a job that is lost with its node nothing else is known.
            Err(_) => screen.json(&serde_json::json!({
                "id": job.id().to_string(),
                "name": job.name(),
                "outcome": json::outcome_name(&outcome),
                "reason": outcome.to_string(),
            }))?,
        }
    } else {
        screen.line(format_args!("{}", table::clean(&outcome.to_string())))?;
    }
    Ok(Code::of(&outcome))
}

/// The state, and what it waits for first. Some of those sentences begin with the state.
fn in_short(Explanation { state, waits, .. }: &Explanation) -> String {
    let state = state.to_string();
    match waits.first() {
        Some(wait) if wait.starts_with(&format!("{state}: ")) => wait.clone(),
        Some(wait) => format!("{state}; {wait}"),
        None => state,
    }
}

fn list(env: &RemoteEnvironment, running: bool, screen: &mut Screen) -> Result<Code, Failure> {
    let all = env.blocking().jobs()?;
    let shown: Vec<&JobStatus> = all.iter().filter(|job| !running || job.is_running()).collect();
    if screen.is_json() {
        screen.json(&shown.into_iter().map(json::job).collect::<Vec<_>>().into())?;
        return Ok(Code::Done);
    }
    if shown.is_empty() {
        screen.line(format_args!("no jobs"))?;
        return Ok(Code::Done);
    }
    let digits = find::digits_needed(&all);
    let rows = shown.into_iter().map(|job| {
        [
            find::short(job.id, digits),
            job.name.clone(),
            table::standing(job),
            table::tally(job.tasks.iter().map(|task| task.state)),
            table::time(job.submitted_at),
            table::span(table::age(job)),
        ]
    });
    let table = table::table(["JOB", "NAME", "STATE", "TASKS", "SUBMITTED", "TOOK"], rows);
    screen.line(format_args!("{table}"))?;
    Ok(Code::Done)
}

fn show(job: &JobHandle, screen: &mut Screen) -> Result<Code, Failure> {
    let (status, letters) = (job.blocking().status()?, job.blocking().dead_letters()?);
    let outputs = block_on(job.output_types())?;
    let outputs: Vec<String> = outputs.into_iter().map(|(name, _)| name).collect();
    if screen.is_json() {
        let mut value = json::job(&status);
        value["outputs"] = outputs.into();
        value["dead_letters"] = json::dead_letters(&letters);
        screen.json(&value)?;
        return Ok(Code::Done);
    }
    screen.line(format_args!("{}", table::job(&status)))?;
    if !outputs.is_empty() {
        screen.line(format_args!("\noutputs    {}", table::clean(&outputs.join(", "))))?;
    }
    if letters.total > 0 {
        screen.line(format_args!("\nitems set aside: {} (the newest {})", letters.total, letters.newest.len()))?;
    }
    for letter in &letters.newest {
        let (operator, cause) = (table::clean(&letter.operator), table::clean(&letter.cause));
        screen.line(format_args!("  {operator} #{} at item {}: {cause}", letter.instance, letter.position))?;
    }
    Ok(Code::Done)
}

fn status(job: &JobHandle, screen: &mut Screen) -> Result<Code, Failure> {
    let status = job.blocking().status()?;
    if screen.is_json() {
        screen.json(&json::job(&status))?;
        return Ok(Code::Done);
    }
    let standing = match &status.outcome {
        Some(outcome) => outcome.to_string(),
        None => table::standing(&status),
    };
    let (name, standing) = (table::clean(&status.name), table::clean(&standing));
    let tasks = table::tally(status.tasks.iter().map(|task| task.state));
    screen.line(format_args!(
        "{} {name}: {standing}; tasks: {tasks}; {}",
        status.id,
        table::span(table::age(&status))
    ))?;
    Ok(Code::Done)
}

fn explain(job: &JobHandle, screen: &mut Screen) -> Result<Code, Failure> {
    let explanation = job.blocking().explain()?;
    if screen.is_json() {
        screen.json(&json::explanation(&explanation))?;
        return Ok(Code::Done);
    }
    let state = explanation.state.to_string();
    screen.line(format_args!("{state}"))?;
    for wait in &explanation.waits {
        let wait = wait.strip_prefix(&format!("{state}: ")).unwrap_or(wait);
        screen.line(format_args!("  {}", table::clean(wait)))?;
    }
    Ok(Code::Done)
}

fn end_job(
    env: &RemoteEnvironment,
    EndJob { job, waiting }: &EndJob,
    end: impl FnOnce(&JobHandle) -> Result<(), ControlError>,
    screen: &mut Screen,
) -> Result<Code, Failure> {
    if !waiting.wait {
        return order(env, job, end, "told to end", screen);
    }
    let job = find::find(env, job)?;
    end(&job)?;
    wait(&job, block_on(env.interrupts()), waiting.wait_timeout, screen)
}

fn order(
    env: &RemoteEnvironment,
    named: &Named,
    give: impl FnOnce(&JobHandle) -> Result<(), ControlError>,
    done: &str,
    screen: &mut Screen,
) -> Result<Code, Failure> {
    let job = find::find(env, named)?;
    give(&job)?;
    if screen.is_json() {
        screen.json(&serde_json::json!({ "id": job.id().to_string(), "done": done }))?;
    } else {
        screen.line(format_args!("{} {done}", job.id()))?;
    }
    Ok(Code::Done)
}

fn cleanup(env: &RemoteEnvironment, screen: &mut Screen) -> Result<Code, Failure> {
    let removed = env.blocking().cleanup()?;
    if screen.is_json() {
        screen.json(&serde_json::json!({ "removed": removed }))?;
    } else {
        screen.line(format_args!("{removed} ended jobs forgotten"))?;
    }
    Ok(Code::Done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::JobState;

    #[test]
    fn a_state_is_not_said_twice() {
        let explanation =
            |state, wait: Option<&str>| Explanation { state, waits: wait.map(str::to_owned).into_iter().collect() };
        let in_short = |state, wait| in_short(&explanation(state, wait));
        assert_eq!(in_short(JobState::Idle, Some("idle: services run")), "idle: services run");
        assert_eq!(in_short(JobState::Running, Some("task x waits")), "running; task x waits");
        assert_eq!(in_short(JobState::Running, None), "running");
    }
}
