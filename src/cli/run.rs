//! `run`: a job in this process.

use std::{sync::mpsc, thread};

use super::{
    args::RunJob,
    exit::{Code, Failure},
    job::{policy, read_job},
    json,
    output::{self, Unprinted},
    screen::Screen,
    table,
};
use crate::{blocking::block_on, environment::LocalEnvironment, flow::JobRegistry, port::OutputError};

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
    if let Some(restart) = job.restart {
        run = run.restart(restart);
    }
    let (accepted, is_accepted) = mpsc::channel();
    // Nobody listens if this thread broke off.
    let run = run.accepted(move |job| drop(accepted.send(job)));
    let running = thread::spawn(move || block_on(run.until_its_end()));
    // Without a job the channel is closed, and the thread says why.
    let handle = is_accepted.recv().ok();
    let mut printed = Ok(());
    if let (Some(name), Some(handle)) = (&output, &handle) {
        // While it runs: a streamed output holds the job up until it is read.
        printed = output::print(handle, name, u64::MAX, screen);
        if let Err(Unprinted::Other(_) | Unprinted::Output(OutputError::NoSuchOutput { .. })) = &printed {
            // Nobody reads it any more, or ever.
            let _ = block_on(handle.cancel());
        }
    }
    let joined = running.join();
    let outcome = joined.map_err(|_| Failure::new(Code::Refused, "internal error: the run broke off"))??;
    match printed {
        Ok(()) if output.is_some() && outcome.is_drained() => return Ok(Code::of(&outcome)),
        // The outcome says why it is not whole.
        Ok(()) | Err(Unprinted::Output(OutputError::Incomplete { .. })) => {}
        Err(unprinted) => return Err(unprinted.into()),
    }
    let Some(handle) = handle else { return Ok(Code::of(&outcome)) };
    let status = handle.blocking().status()?;
    if screen.is_json() {
        screen.json(&json::job(&status))?;
    } else {
        screen.line(format_args!("{}", table::job(&status)))?;
    }
    Ok(Code::of(&outcome))
}
