//! `run`: a job in this process.

use super::{
    args::RunJob,
    exit::{Code, Failure},
    job::{policy, read_job},
    json, output,
    screen::Screen,
    table,
};
use crate::{environment::LocalEnvironment, job::JobRegistry};

/// Runs the job with autostop. Ctrl+C stops it, a second one cancels it, and a third ends the process.
pub(super) fn run(RunJob { job, output }: RunJob, jobs: &JobRegistry, screen: &mut Screen) -> Result<Code, Failure> {
    let payload = read_job(&job, jobs)?;
    let env = LocalEnvironment::builder("run").open()?;
    let mut run = env.run(payload).error_policy(policy(&job));
    if let Some(name) = &job.job_name {
        run = run.name(name);
    }
    if let Some(instances) = job.parallelism {
        run = run.parallelism(instances.into());
    }
    if let Some(limit) = job.run_limit {
        run = run.run_limit(limit);
    }
    let outcome = run.blocking()?;
    // The environment is new, so that its only job is this one.
    let jobs = env.blocking().jobs()?;
    let [status] = &jobs[..] else {
        return Err(Failure::new(Code::Refused, "internal error: the job is not among those of its environment"));
    };
    let handle = env.blocking().job(status.id)?;
    if let (Some(name), true) = (&output, outcome.is_drained()) {
        output::print(&handle, name, u64::MAX, screen)?;
    } else if screen.is_json() {
        screen.json(&json::job(status))?;
    } else {
        screen.line(format_args!("{}", table::job(status)))?;
    }
    Ok(Code::of(&outcome))
}
