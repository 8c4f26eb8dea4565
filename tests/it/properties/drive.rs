//! Runs a random job and judges what came of it.

use std::collections::{BTreeMap, BTreeSet};

use proptest::{prop_assert, prop_assert_eq, test_runner::TestCaseError};
use proscenium::{
    ActorState, CancelReason, FailureCause, JobHandle, JobState, JobStatus, Limits, Outcome, OutputError,
};

use super::{
    eval::{Expected, evaluate, items_of, origins},
    helper::{Calls, Helper},
    shape::{JOB_PARALLELISM, OriginKind, ROOT, RandomJob, TICKS, asks, record_name, service_name},
};
use crate::support::{self, Opened, Place};

type Verdict = Result<(), TestCaseError>;

/// A job, what is done to it, and how little room it has.
#[derive(Debug, Clone)]
pub struct Case {
    pub job: RandomJob,
    pub plan: Plan,
    pub room: Room,
    pub place: Place,
}

/// What is done to a job while it runs. `after`: once that many items of the first source have been seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// It runs with autostop, and is watched.
    Watch,
    /// It runs without autostop, and is stopped once it idles.
    Idle,
    Stop {
        after: usize,
    },
    Cancel {
        after: usize,
    },
    Pause {
        after: usize,
    },
}

/// The limits that decide how early a job has to wait for room.
#[derive(Debug, Clone)]
pub struct Room {
    pub batch_items: usize,
    pub channel_batches: usize,
    pub port_items: usize,
    pub task_threads: usize,
}

impl Room {
    fn open(&self, place: Place) -> Opened {
        place.open_with(self.limits(), self.task_threads)
    }

    pub fn limits(&self) -> Limits {
        let &Self { batch_items, channel_batches, port_items, .. } = self;
        Limits { batch_items, channel_batches, port_items, ..Limits::default() }
    }

    /// Items that a source may be ahead of the reader of its ticks: those that wait, and what its instances, the reader
    /// and the channel between them have in hand.
    fn ahead_max(&self) -> usize {
        self.port_items + self.batch_items * (2 * JOB_PARALLELISM + 2) + 16
    }
}

/// Runs the case to its end in an environment of its own. Returns how many workers of other processes had tasks of it.
pub async fn run(case: Case) -> Result<usize, TestCaseError> {
    let env = case.room.open(case.place);
    let submitted = env
        .env
        .submit(case.job.clone())
        .parallelism(JOB_PARALLELISM)
        .autostop(case.plan != Plan::Idle)
        .await
        .map_err(|error| TestCaseError::fail(format!("not submitted: {error:?}")))?;
    let verdict = to_its_end(&case, &submitted).await;
    support::deadline("closing the environment", env.close()).await;
    verdict
}

/// Does to the job what is planned, and judges it. Returns how many workers of other processes had tasks of it.
pub async fn to_its_end(case: &Case, job: &JobHandle) -> Result<usize, TestCaseError> {
    within_the_deadline(job, drive(case, job)).await
}

/// What `driven` yields, or what the job waited for when it was not over by the deadline.
pub async fn within_the_deadline<T>(
    job: &JobHandle,
    driven: impl Future<Output = Result<T, TestCaseError>>,
) -> Result<T, TestCaseError> {
    match tokio::time::timeout(support::DEADLINE, driven).await {
        Ok(verdict) => verdict,
        Err(_) => {
            let explanation = job.explain().await.map(|explanation| explanation.to_string());
            Err(TestCaseError::fail(format!("did not end by the deadline: {explanation:?}")))
        }
    }
}

async fn drive(case: &Case, job: &JobHandle) -> Result<usize, TestCaseError> {
    let sources: Vec<Vec<u64>> = origins(&case.job.root).into_iter().map(items_of).collect();
    let expected = evaluate(&case.job.root, sources.clone());
    let ticks = match case.plan {
        Plan::Watch => {
            watch_to_the_end(job).await?;
            None
        }
        Plan::Idle => {
            idle_and_stop(case, job).await?;
            None
        }
        Plan::Stop { after } => {
            let mut ticks = Ticks::read(job, after).await;
            job.stop().await.map_err(fail)?;
            ticks.drain().await;
            Some(ticks.seen)
        }
        Plan::Cancel { after } => {
            let ticks = Ticks::read(job, after).await;
            job.cancel().await.map_err(fail)?;
            Some(ticks.seen)
        }
        Plan::Pause { after } => Some(pause_and_resume(case, job, after).await?),
    };
    let outcome = job.wait().await.map_err(fail)?;
    let status = job.status().await.map_err(fail)?;
    check_end(&status, &outcome)?;
    match case.plan {
        Plan::Watch | Plan::Idle | Plan::Pause { .. } => {
            check_ran(&outcome, &expected)?;
            if outcome.is_completed() {
                check_whole(case, job, &status, &expected, ticks.as_deref()).await?;
                if let Some(ticks) = ticks {
                    prop_assert_eq!(sorted(ticks), sorted(sources[0].clone()), "not every tick was seen once");
                }
            }
        }
        Plan::Stop { .. } => {
            check_stopped(case, job, &outcome, &status, ticks.unwrap_or_default(), &sources).await?;
        }
        Plan::Cancel { after } => {
            // Over a connection, more is on the way than sources of such length have.
            let surely = case.place == Place::Local && sources[0].len() > after + case.room.ahead_max();
            check_cancelled(job, &outcome, &expected, surely).await?;
        }
    }
    workers(case, &status)
}

fn workers(case: &Case, status: &JobStatus) -> Result<usize, TestCaseError> {
    let names: BTreeSet<&str> = status.tasks.iter().filter_map(|task| task.worker.as_deref()).collect();
    // A pipeline is where its requests come in.
    if matches!(case.place, Place::Workers { .. }) && !asks(&case.job.root) {
        prop_assert!(status.tasks.iter().all(|task| task.worker.is_some()), "a task was with no worker");
    }
    Ok(names.len())
}

fn fail(error: impl std::fmt::Debug) -> TestCaseError {
    TestCaseError::fail(format!("refused: {error:?}"))
}

fn sorted(mut items: Vec<u64>) -> Vec<u64> {
    items.sort_unstable();
    items
}

/// A reader of the first source's items.
pub struct Ticks {
    output: proscenium::Output<u64>,
    pub seen: Vec<u64>,
}

impl Ticks {
    /// Reads `count` items, or what there is; a job that failed has no more.
    pub async fn read(job: &JobHandle, count: usize) -> Self {
        let mut ticks = Self { output: job.output(TICKS), seen: Vec::new() };
        while ticks.seen.len() < count && ticks.more().await {}
        ticks
    }

    pub async fn drain(&mut self) {
        while self.more().await {}
    }

    async fn more(&mut self) -> bool {
        match self.output.next().await {
            Ok(Some(item)) => {
                self.seen.push(item);
                true
            }
            Ok(None) | Err(_) => false,
        }
    }
}

async fn watch_to_the_end(job: &JobHandle) -> Verdict {
    let mut changes = job.watch();
    let mut version = None;
    let mut state = JobState::Starting;
    while let Some(status) = changes.next().await {
        let status = status.map_err(fail)?;
        prop_assert!(Some(status.version) > version, "a snapshot came twice");
        version = Some(status.version);
        prop_assert!(state != JobState::Ended, "a snapshot came after the last one");
        state = status.state;
        if state == JobState::Ended {
            prop_assert_eq!((status.task_count, status.service_count), (0, 0));
        }
    }
    prop_assert_eq!(state, JobState::Ended);
    Ok(())
}

/// The first snapshot in one of `states`.
async fn reach(job: &JobHandle, states: &[JobState]) -> Result<JobStatus, TestCaseError> {
    let mut changes = job.watch();
    while let Some(status) = changes.next().await {
        let status = status.map_err(fail)?;
        if states.contains(&status.state) {
            return Ok(status);
        }
    }
    Err(TestCaseError::fail(format!("the job was never in one of {states:?}")))
}

/// With the pipeline, if it is asked.
fn services(case: &Case) -> usize {
    case.job.services + usize::from(asks(&case.job.root))
}

async fn call_every_service(case: &Case, job: &JobHandle) -> Verdict {
    for index in 0..case.job.services {
        job.service::<Helper>(&service_name(index)).call(Calls).await.map_err(fail)?;
    }
    Ok(())
}

async fn idle_and_stop(case: &Case, job: &JobHandle) -> Verdict {
    let status = reach(job, &[JobState::Idle, JobState::Ended]).await?;
    if status.state == JobState::Ended {
        // A job that has a service ends without autostop only by a failure.
        let failed = matches!(status.outcome, Some(Outcome::Failed(_)));
        prop_assert!(failed || services(case) == 0, "ended as {:?}", status.outcome);
        return Ok(());
    }
    prop_assert!(services(case) > 0, "idle with nothing to call");
    // The tasks of a pipeline are there for as long as it is.
    prop_assert!(status.task_count == 0 || asks(&case.job.root), "idle with {} tasks", status.task_count);
    prop_assert_eq!(status.service_count, services(case));
    call_every_service(case, job).await?;
    job.stop().await.map_err(fail)
}

/// Returns the ticks.
async fn pause_and_resume(case: &Case, job: &JobHandle, after: usize) -> Result<Vec<u64>, TestCaseError> {
    let mut ticks = Ticks::read(job, after).await;
    if let Err(error) = job.pause().await {
        // Possible only once the sources have ended, or something has failed.
        prop_assert!(matches!(error, proscenium::ControlError::Conflict { .. }), "{:?}", error);
    }
    let resumed = async {
        let status = reach(job, &[JobState::Paused, JobState::Ended, JobState::StoppingServices, JobState::Draining]);
        if status.await?.state == JobState::Paused {
            let called = call_every_service(case, job).await;
            // The end of a task in another process is told after its hold, so a job may have ended after all.
            if called.is_err() && job.status().await.map_err(fail)?.state != JobState::Paused {
                return Ok(());
            }
            called?;
            let one = sources_in(&job.status().await.map_err(fail)?);
            call_every_service(case, job).await?;
            let other = sources_in(&job.status().await.map_err(fail)?);
            prop_assert_eq!(one, other, "a source went on while the job was paused");
            job.resume().await.map_err(fail)?;
        }
        Ok(())
    };
    let (resumed, ()) = futures::join!(resumed, ticks.drain());
    resumed?;
    Ok(ticks.seen)
}

fn sources_in(status: &JobStatus) -> u64 {
    status.tasks.iter().filter(|task| task.name.starts_with("from_")).map(|task| task.counters.items_in).sum()
}

fn check_end(status: &JobStatus, outcome: &Outcome) -> Verdict {
    prop_assert_eq!(status.state, JobState::Ended);
    prop_assert_eq!(status.outcome.as_ref(), Some(outcome));
    prop_assert_eq!((status.task_count, status.service_count), (0, 0));
    prop_assert!(status.warnings.is_empty(), "warned of {:?}", status.warnings);
    prop_assert_eq!(status.restarts, 0);
    prop_assert_eq!(status.dead_letters, status.tasks.iter().map(|task| task.counters.dead_letters).sum::<u64>());
    let waiting = status.tasks.iter().filter(|task| task.state == ActorState::Waiting).count();
    prop_assert!(waiting == 0 || waiting == status.tasks.len(), "some tasks were started and some were not");
    for task in &status.tasks {
        let over = !matches!(task.state, ActorState::Running | ActorState::Restarting);
        prop_assert!(over, "{} is {}", task.name, task.state);
        // A job that was stopped while its services started has started no task.
        let unstarted = *outcome == Outcome::Stopped && task.state == ActorState::Waiting;
        let finished = task.state == ActorState::Finished || unstarted;
        prop_assert!(!outcome.is_drained() || finished, "{} is {}", task.name, task.state);
        prop_assert!(task.counters.batches <= task.counters.items_in, "{} took empty batches", task.name);
        prop_assert_eq!(task.counters.queue_depth, 0);
    }
    Ok(())
}

fn planned(cause: &FailureCause) -> bool {
    match cause {
        FailureCause::Operator { message, .. } | FailureCause::OperatorPanicked { message, .. } => {
            message == "planned: this item is bad"
        }
        _ => false,
    }
}

pub fn check_ran(outcome: &Outcome, expected: &Expected) -> Verdict {
    match outcome {
        Outcome::Completed => {
            prop_assert!(!expected.fails || expected.takes, "completed, though an operator had to fail");
        }
        Outcome::Failed(cause) => prop_assert!(expected.fails && planned(cause), "failed: {}", cause),
        other => prop_assert!(false, "{}", other),
    }
    Ok(())
}

async fn read(job: &JobHandle, name: &str) -> Result<Vec<u64>, TestCaseError> {
    job.output::<u64>(name).await.map(sorted).map_err(fail)
}

async fn outputs(
    job: &JobHandle,
    names: impl Iterator<Item = &String>,
) -> Result<BTreeMap<String, Vec<u64>>, TestCaseError> {
    let mut outputs = BTreeMap::new();
    for name in names {
        outputs.insert(name.clone(), read(job, name).await?);
    }
    Ok(outputs)
}

/// The job processed everything: results and accounts are exact. `ticks` is what came out of the streamed output.
pub async fn check_whole(
    case: &Case,
    job: &JobHandle,
    status: &JobStatus,
    expected: &Expected,
    ticks: Option<&[u64]>,
) -> Verdict {
    let found = outputs(job, expected.outputs.keys()).await?;
    prop_assert_eq!(&found, &expected.outputs);
    // Read again, it is the same.
    prop_assert_eq!(&read(job, ROOT).await?, &expected.outputs[ROOT]);
    let graph = job.graph().await.map_err(fail)?;
    prop_assert_eq!(graph.task_count(), status.tasks.len());
    prop_assert_eq!(graph.services().count(), services(case));
    if expected.takes {
        return Ok(());
    }
    prop_assert_eq!(status.dead_letters, expected.dead_letters);
    prop_assert_eq!(job.dead_letters().await.map_err(fail)?.total, expected.dead_letters);
    let origins = origins(&case.job.root);
    if expected.uncounted || origins.iter().any(|origin| origin.kind == OriginKind::Endless) {
        return Ok(());
    }
    let emitted: u64 = origins.iter().map(|origin| origin.count).sum();
    prop_assert_eq!(sources_in(status), emitted, "what the sources say they emitted");
    let taken = status.tasks.iter().map(|task| task.counters.items_in).sum::<u64>() - emitted;
    let put_out = status.tasks.iter().map(|task| task.counters.items_out).sum::<u64>();
    let left = found.values().map(Vec::len).sum::<usize>() + ticks.map_or(0, <[u64]>::len);
    prop_assert_eq!(put_out, taken + left as u64, "what all tasks put out is what others took or outputs got");
    Ok(())
}

/// What was emitted before the stop, and nothing else, is in the outputs. When the stop reaches the sources is up to
/// them: whether one was cut short shows in what it emitted.
async fn check_stopped(
    case: &Case,
    job: &JobHandle,
    outcome: &Outcome,
    status: &JobStatus,
    ticks: Vec<u64>,
    sources: &[Vec<u64>],
) -> Verdict {
    if let Outcome::Failed(cause) = outcome {
        let can_fail = evaluate(&case.job.root, sources.to_vec()).can_fail;
        prop_assert!(can_fail && planned(cause), "failed: {}", cause);
        return Ok(());
    }
    prop_assert!(outcome.is_drained(), "{}", outcome);
    let mut emitted = Vec::new();
    for (index, all) in sources.iter().enumerate() {
        let some = if index == 0 { sorted(ticks.clone()) } else { read(job, &record_name(index)).await? };
        prop_assert!(some.windows(2).all(|pair| pair[0] < pair[1]), "source {} emitted something twice", index);
        prop_assert!(some.iter().all(|item| all.binary_search(item).is_ok()), "source {} invented items", index);
        prop_assert!(some.len() == all.len() || *outcome == Outcome::Stopped, "completed with {} cut short", index);
        emitted.push(some);
    }
    let origins = origins(&case.job.root);
    if origins.iter().all(|origin| origin.kind != OriginKind::Endless) {
        prop_assert_eq!(sources_in(status), emitted.iter().map(Vec::len).sum::<usize>() as u64);
    }
    if !status.tasks.is_empty() && status.tasks.iter().all(|task| task.state == ActorState::Waiting) {
        // Stopped before any task was started: there is nothing, not even the count of no items.
        prop_assert!(emitted.iter().all(Vec::is_empty));
        return Ok(());
    }
    let expected = evaluate(&case.job.root, emitted);
    prop_assert!(!expected.fails || expected.takes, "drained, though an operator had to fail");
    prop_assert_eq!(outputs(job, expected.outputs.keys()).await?, expected.outputs);
    Ok(())
}

async fn check_cancelled(job: &JobHandle, outcome: &Outcome, expected: &Expected, surely: bool) -> Verdict {
    match outcome {
        Outcome::Cancelled { reason, .. } => {
            prop_assert_eq!(reason, &CancelReason::Requested);
            for name in expected.outputs.keys() {
                let incomplete = matches!(job.output::<u64>(name).await, Err(OutputError::Incomplete { .. }));
                prop_assert!(incomplete, "the output of a cancelled job was read as if it were whole");
            }
        }
        Outcome::Failed(cause) => prop_assert!(expected.fails && planned(cause), "failed: {}", cause),
        Outcome::Completed => {
            prop_assert!(!surely, "completed, though the source had more");
            prop_assert!(!expected.fails || expected.takes, "completed, though an operator had to fail");
            prop_assert_eq!(outputs(job, expected.outputs.keys()).await?, expected.outputs.clone());
        }
        other => prop_assert!(false, "{}", other),
    }
    Ok(())
}
