//! What the tests share: environments, deadlines, gates, and jobs that leave traces.

mod company;
mod door;
mod journal;
mod node;
mod places;
mod proxy;
mod services;
#[cfg(target_os = "linux")]
mod worker;

use std::{
    fmt::Debug,
    future::{Future, IntoFuture},
    sync::mpsc,
    time::Duration,
};

use futures::FutureExt;
use proscenium::{
    BuildRefusal, ControlError, Environment, IntoJob, JobHandle, JobState, JobStatus, Outcome, QueryError, SubmitError,
};
use serde::de::DeserializeOwned;
use tokio::task::JoinHandle;

#[cfg(target_os = "linux")]
pub use self::worker::WorkerProcess;
pub use self::{
    company::{Company, dismiss_workers},
    door::{Door, Doorway, Visitor},
    journal::{Journal, JournalSink, Pen},
    node::{NodeProcess, NodeSetup},
    places::{Opened, Place, each_environment, each_environment_with, each_place_with},
    proxy::{Cut, Flip, Proxy, Swallow},
    services::{Answer, Counter, Crash, Echo, Increment, LateAnswer, LoseReply, SlowAnswer, Total},
};

/// How long anything may take before it counts as hung.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Declares a job type: its parameters, and what it lays out.
macro_rules! job {
    (
        $(#[$attribute:meta])*
        $job:ident { $($field:ident: $type:ty),* $(,)? }, |$this:ident, $flow:ident| $build:block
    ) => {
        $(#[$attribute])*
        #[derive(serde::Serialize, serde::Deserialize)]
        pub(crate) struct $job {
            $($field: $type),*
        }

        impl proscenium::Job for $job {
            const NAME: &'static str = stringify!($job);

            fn build(&self, $flow: &mut proscenium::Flow) -> Result<(), proscenium::BuildError> {
                let $this = self;
                // Jobs without parameters have no use for it.
                let _ = $this;
                $build
                Ok(())
            }
        }
    };
}
pub(crate) use job;

/// Makes job types known to the nodes of the tests.
macro_rules! registered {
    ($($job:ident),* $(,)?) => {
        pub fn jobs() -> proscenium::JobRegistry {
            proscenium::jobs![$($job),*]
        }
    };
}
pub(crate) use registered;

/// Awaits `future`, but not for ever.
pub async fn deadline<F: IntoFuture>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(DEADLINE, future.into_future()).await {
        Ok(output) => output,
        Err(_) => panic!("{what} did not happen within {} s", DEADLINE.as_secs()),
    }
}

/// Runs `body` on a thread of its own; fails if it does not return. For code that blocks.
pub fn on_a_thread<T: Send + 'static>(what: &str, body: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, is_done) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let output = body();
        // Nobody listens once the deadline has passed.
        let _ = done.send(output);
    });
    match is_done.recv_timeout(DEADLINE) {
        Ok(output) => {
            thread.join().expect("it has sent its output");
            output
        }
        Err(mpsc::RecvTimeoutError::Disconnected) => match thread.join() {
            Ok(()) => unreachable!("a thread that returned has sent its output"),
            Err(panic) => std::panic::resume_unwind(panic),
        },
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("{what} did not return within {} s", DEADLINE.as_secs()),
    }
}

/// Runs an async body on a runtime of its own.
pub fn block_on<T>(body: impl Future<Output = T>) -> T {
    block_on_for(DEADLINE, body)
}

/// As [`block_on`], for a body that may take longer.
pub fn block_on_for<T>(limit: Duration, body: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be built");
    match runtime.block_on(async { tokio::time::timeout(limit, body).await }) {
        Ok(output) => output,
        Err(_) => panic!("the test did not end within {} s", limit.as_secs()),
    }
}

/// Submits `job` with autostop.
pub async fn start(env: &dyn Environment, job: impl IntoJob) -> JobHandle {
    deadline("submit", env.submit(job).autostop(true)).await.unwrap()
}

/// Submits `job` without autostop and waits until its tasks have finished.
pub async fn idle(env: &dyn Environment, job: impl IntoJob) -> JobHandle {
    let job = deadline("submit", env.submit(job)).await.unwrap();
    reached(&job, JobState::Idle).await;
    job
}

/// Waits for the end of a job, and checks what holds however it ended.
pub async fn ended(job: &JobHandle) -> Outcome {
    let outcome = deadline("the end of the job", job.wait()).await.unwrap();
    let status = job.status().await.unwrap();
    assert_eq!(status.state, JobState::Ended);
    assert_eq!(status.outcome.as_ref(), Some(&outcome), "`wait` and `status` tell the same outcome");
    assert_eq!((status.task_count, status.service_count), (0, 0), "nothing of an ended job is live");
    assert!(!status.is_running());
    assert!(status.ended_at >= status.started_at);
    assert_eq!(status.error().is_some(), outcome.is_failed());
    assert!(job.explain().await.unwrap().waits.is_empty(), "an ended job waits for nothing");
    outcome
}

/// Runs `job` to its end, which has to be `Completed`.
pub async fn completed(env: &dyn Environment, job: impl IntoJob) -> JobHandle {
    let job = start(env, job).await;
    assert_eq!(ended(&job).await, Outcome::Completed);
    job
}

/// Runs `job` to `Completed` and reads its output `out`.
pub async fn output_of<T>(env: &dyn Environment, job: impl IntoJob) -> Vec<T>
where
    T: DeserializeOwned + Send + 'static,
{
    let job = completed(env, job).await;
    read(&job, "out").await
}

/// The whole of a job's output.
pub async fn read<T: DeserializeOwned + Send + 'static>(job: &JobHandle, output: &str) -> Vec<T> {
    deadline("the output", job.output(output)).await.unwrap()
}

/// Waits for the end of the job on a task of its own, and has asked for it when this returns: what goes on does not have to
/// yield first, and whoever ends the node may be quick.
pub fn waiting_for(job: &JobHandle) -> JoinHandle<Result<Outcome, QueryError>> {
    let mut wait = Box::pin(job.wait());
    let at_once = wait.as_mut().now_or_never();
    tokio::spawn(async move {
        match at_once {
            Some(outcome) => outcome,
            None => wait.await,
        }
    })
}

/// Follows the job until its state is `state`.
pub async fn reached(job: &JobHandle, state: JobState) -> JobStatus {
    until(job, &format!("state {state}"), |status| status.state == state).await
}

/// Follows the job until `is_it` says yes.
pub async fn until(job: &JobHandle, what: &str, is_it: impl Fn(&JobStatus) -> bool) -> JobStatus {
    let mut changes = job.watch();
    loop {
        let status = deadline(what, changes.next()).await;
        let status = status.unwrap_or_else(|| panic!("the job ended before {what}")).unwrap();
        if is_it(&status) {
            return status;
        }
    }
}

/// Submits a job whose flow has to be refused, and says why it was.
pub async fn refusal(env: &dyn Environment, job: impl IntoJob) -> BuildRefusal {
    match deadline("submit", env.submit(job)).await {
        Err(SubmitError::Build(refusal)) => refusal,
        other => panic!("the flow was not refused but: {other:?}"),
    }
}

/// Ends a job that is not needed any more.
pub async fn cancel(job: &JobHandle) -> Result<(), ControlError> {
    job.cancel().await?;
    let _ = ended(job).await;
    Ok(())
}

pub fn sorted<T: Ord>(items: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut items: Vec<T> = items.into_iter().collect();
    items.sort();
    items
}

/// The value that is under `key`, once.
pub fn only<K: PartialEq + Debug, V: Clone + Debug>(pairs: &[(K, V)], key: &K) -> V {
    let found: Vec<&V> = pairs.iter().filter(|(other, _)| other == key).map(|(_, value)| value).collect();
    match found.as_slice() {
        [value] => (*value).clone(),
        _ => panic!("{key:?} is there {} times in {pairs:?}", found.len()),
    }
}
