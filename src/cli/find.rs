//! Jobs by id, the beginning of one, or their name.

use super::{
    args::Named,
    exit::{Code, Failure},
};
use crate::{
    blocking::block_on,
    environment::RemoteEnvironment,
    handle::JobHandle,
    job::{JobId, JobStatus},
};

/// Digits of an id at least that stand for it, so that a short name is not taken for the beginning of one.
const DIGITS_MIN: usize = 4;

/// Jobs that are named where one was meant and there are more.
const NAMED_MAX: usize = 5;

/// A handle that holds the job.
pub(super) fn find(env: &RemoteEnvironment, named: &Named) -> Result<JobHandle, Failure> {
    Ok(env.blocking().job(id_of(env, named)?)?)
}

/// A handle that does not: to look at a job is not to use it.
pub(super) fn look_at(env: &RemoteEnvironment, named: &Named) -> Result<JobHandle, Failure> {
    Ok(block_on(env.look_at(id_of(env, named)?))?)
}

fn id_of(env: &RemoteEnvironment, Named { job }: &Named) -> Result<JobId, Failure> {
    match job.parse::<JobId>() {
        Ok(id) => Ok(id),
        Err(_) => choose(&env.blocking().jobs()?, job),
    }
}

/// Names count before ids: a job that is called like the beginning of an id is meant by its name. Of several jobs of one
/// name, the only one that has not ended is meant.
fn choose(jobs: &[JobStatus], text: &str) -> Result<JobId, Failure> {
    let mut by_name: Vec<&JobStatus> = jobs.iter().filter(|job| job.name == text).collect();
    if by_name.iter().any(|job| job.is_running()) {
        by_name.retain(|job| job.is_running());
    }
    let digits = text.strip_prefix("job-").unwrap_or(text).to_ascii_lowercase();
    let is_id = digits.len() >= DIGITS_MIN && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let found = match by_name.is_empty() && is_id {
        true => jobs.iter().filter(|job| digits_of(job.id).starts_with(&digits)).collect(),
        false => by_name,
    };
    match &found[..] {
        [job] => Ok(job.id),
        [] => Err(Failure::new(
            Code::NoJob,
            format_args!("no job is called `{text}`, or has an id that begins so (at least {DIGITS_MIN} digits)"),
        )),
        many => {
            let newest = many.iter().rev().take(NAMED_MAX);
            let ids: Vec<String> = newest.map(|job| format!("{} ({})", job.id, super::table::standing(job))).collect();
            let count = many.len();
            let message =
                format!("{count} jobs are meant by `{text}`: say which by its id; the newest are {}", ids.join(", "));
            Err(Failure::new(Code::NoJob, message))
        }
    }
}

fn digits_of(id: JobId) -> String {
    id.to_string().trim_start_matches("job-").to_owned()
}

/// How many digits it takes to tell each of these ids from the others.
pub(super) fn digits_needed(jobs: &[JobStatus]) -> usize {
    let mut ids: Vec<String> = jobs.iter().map(|job| digits_of(job.id)).collect();
    ids.sort_unstable();
    let common = |a: &str, b: &str| a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
    let longest = ids.windows(2).map(|pair| common(&pair[0], &pair[1])).max().unwrap_or(0);
    (longest + 1).max(8)
}

/// The id, cut to so many digits.
pub(super) fn short(id: JobId, digits: usize) -> String {
    format!("job-{}", &digits_of(id)[..digits.min(32)])
}

#[cfg(test)]
pub(super) fn choose_for_test(jobs: &[JobStatus], text: &str) -> Result<JobId, String> {
    choose(jobs, text).map_err(|failure| failure.message)
}
