//! A node whose clock is stepped while it runs, and between one start and the next. In the long campaign only: it takes
//! the library `libfaketime`. What can be seen without it is tested beside the store.

#![cfg(feature = "store")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant, SystemTime},
};

use proscenium::{CallError, Environment, JobHandle, Outcome, RemoteEnvironment};

use super::{Brief, Doored, SILENCE, Talkative, Timed, wire::key};
use crate::{
    leaks::child::is_long,
    support::{Answer, Door, Echo, Journal, LateAnswer, NodeProcess, NodeSetup, Proxy, block_on, deadline, ended},
};

/// Hours that the clock is ahead.
const STEPS: [i64; 6] = [72, -72, 1, 0, 72, -1];

/// A clock that the test sets.
struct Clock {
    file: tempfile::NamedTempFile,
    library: PathBuf,
}

impl Clock {
    fn new() -> Self {
        let found = fs::read_dir("/usr/lib").unwrap().filter_map(|entry| {
            let library = entry.ok()?.path().join("faketime/libfaketimeMT.so.1");
            library.exists().then_some(library)
        });
        let library = found.into_iter().next().expect("the package `faketime` is installed");
        let clock = Self { file: tempfile::NamedTempFile::new().unwrap(), library };
        clock.set(0);
        clock
    }

    /// The clock is so many hours ahead.
    fn set(&self, hours: i64) {
        // As a whole, for a node may read it at any time.
        let next = self.file.path().with_extension("next");
        fs::write(&next, format!("{:+}\n", hours * 3_600)).unwrap();
        fs::rename(next, self.file.path()).unwrap();
    }

    fn node(&self, folder: &Path) -> NodeProcess {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env("LD_PRELOAD", &self.library).env("FAKETIME_TIMESTAMP_FILE", self.file.path());
        command.env("FAKETIME_NO_CACHE", "1");
        // Only the clock on the wall is set.
        command.env("DONT_FAKE_MONOTONIC", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        let setup = NodeSetup { folder: Some(folder.to_owned()), silence: Some(SILENCE), ..NodeSetup::default() };
        NodeProcess::set_up_by(&setup, command)
    }
}

/// How many hours a time is ahead of the test's clock, about.
fn hours_ahead(time: SystemTime) -> i64 {
    let seconds = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let ahead = i64::try_from(seconds(time)).unwrap() - i64::try_from(seconds(SystemTime::now())).unwrap();
    (ahead + 1_800).div_euclid(3_600)
}

async fn brief(env: &RemoteEnvironment, number: u64, journal: &Journal) -> JobHandle {
    let submit = env.submit(Brief { number, pen: journal.pen() }).autostop(true);
    let job = deadline("submit", submit).await.unwrap();
    assert_eq!(ended(&job).await, Outcome::Completed);
    job
}

#[test]
fn a_clock_that_is_stepped_changes_no_deadline_no_job_and_no_connection() {
    if !is_long() {
        return;
    }
    let (clock, folder) = (Clock::new(), tempfile::tempdir().unwrap());
    let node = clock.node(folder.path());
    let proxy = Proxy::to(node.address().parse().unwrap());
    block_on(async {
        let (door, journal) = (Door::new().await, Journal::new());
        let connect = RemoteEnvironment::connect("test", proxy.address()).key(key());
        let env = connect.heartbeat(SILENCE / 10, SILENCE).await.unwrap();
        let running = env.submit(Doored { door: door.way(), pen: journal.pen() }).autostop(true).await.unwrap();
        let mut visitor = door.arrival_of("0").await;
        let services = env.submit(Talkative { pen: journal.pen() }).autostop(true).await.unwrap();
        let echo = services.service::<Echo>("echo");
        assert_eq!(echo.call(Answer(0)).await, Ok(0));
        let mut done = Vec::new();
        for (number, hours) in STEPS.into_iter().enumerate() {
            let number = number as u64 + 1;
            // A call is on its way when the clock is stepped, and a job runs.
            let late = tokio::spawn(echo.call(LateAnswer(100, door.way())));
            let caller = door.arrival_of("100").await;
            clock.set(hours);
            let job = brief(&env, number, &journal).await;
            assert_eq!(hours_ahead(job.status().await.unwrap().submitted_at), hours, "the clock is stepped");
            let status = job.status().await.unwrap();
            assert!(status.submitted_at <= status.started_at.unwrap() && status.started_at <= status.ended_at);
            done.push((job.status().await.unwrap(), job));
            caller.admit();
            assert_eq!(deadline("a call", late).await.unwrap(), Ok(100));
            let (limit, begun) = (Duration::from_millis(300), Instant::now());
            let error = echo.call(LateAnswer(101, door.way())).deadline(limit).await.unwrap_err();
            assert!(matches!(error, CallError::Timeout { .. } | CallError::FateUnknown { .. }), "{error:?}");
            assert!((limit..20 * limit).contains(&begun.elapsed()), "{:?}", begun.elapsed());
            door.arrival_of("101").await.admit();
            visitor.admit();
            visitor = door.arrival_of(&number.to_string()).await;
            for (status, job) in &done {
                assert_eq!(job.status().await.as_ref(), Ok(status));
            }
            assert!(running.status().await.unwrap().is_running());
        }
        visitor.admit();
        for n in STEPS.len() + 1..10 {
            door.arrival_of(&n.to_string()).await.admit();
        }
        assert_eq!(ended(&running).await, Outcome::Completed);
        services.input::<u64>("numbers").finish().await.unwrap();
        assert_eq!(ended(&services).await, Outcome::Completed);
        assert_eq!(env.jobs().await.unwrap().len(), STEPS.len() + 2);
        assert_eq!(proxy.connections(), 1, "the connection was not given up");
        env.close().await;
    });
    node.end();
}

#[test]
fn a_clock_that_is_stepped_fires_no_timer_too_early_and_holds_none_up() {
    if !is_long() {
        return;
    }
    const DAY: u64 = 24 * 3_600 * 1_000;
    let (clock, folder) = (Clock::new(), tempfile::tempdir().unwrap());
    let node = clock.node(folder.path());
    block_on(async {
        let env = node.connect().await.unwrap();
        let job = env.submit(Timed {}).autostop(true).await.unwrap();
        let (delays, mut fired) = (job.input::<u64>("delays"), job.output::<(u64, i64)>("fired"));
        delays.send(DAY).await.unwrap();
        let mut times = Vec::new();
        for (number, hours) in STEPS.into_iter().enumerate() {
            // A timer is set before the clock is stepped, and one afterwards.
            let (before, after) = (200 + number as u64, 100 + number as u64);
            let begun = Instant::now();
            delays.send(before).await.unwrap();
            clock.set(hours);
            delays.send(after).await.unwrap();
            for _ in 0..2 {
                let (delay, time) = deadline("a timer", fired.next()).await.unwrap().unwrap();
                assert!([before, after].contains(&delay), "{delay} at {hours} hours");
                assert!(begun.elapsed() >= Duration::from_millis(delay / 2), "{:?} for {delay}", begun.elapsed());
                times.push(time);
            }
        }
        assert!(times.is_sorted() && times[times.len() - 1] - times[0] < 3_600, "{times:?}");
        delays.finish().await.unwrap();
        assert_eq!(deadline("the last timer", fired.next()).await.unwrap().map(|(delay, _)| delay), Some(DAY));
        assert_eq!(ended(&job).await, Outcome::Completed);
        env.close().await;
    });
    node.end();
}

#[test]
fn a_node_that_starts_again_with_another_clock_tells_of_its_jobs_what_it_told_before() {
    if !is_long() {
        return;
    }
    let (clock, folder) = (Clock::new(), tempfile::tempdir().unwrap());
    let journal = Journal::new();
    let mut ids = Vec::new();
    for (number, hours) in STEPS.into_iter().enumerate() {
        clock.set(hours);
        let node = clock.node(folder.path());
        let after = block_on(async {
            let env = node.connect().await.unwrap();
            for (before, is_done) in &ids {
                let job = env.job(*before).await.unwrap();
                let outcome = deadline("wait", job.wait()).await.unwrap();
                assert!(
                    if *is_done { outcome == Outcome::Completed } else { matches!(outcome, Outcome::Lost { .. }) },
                    "{outcome}"
                );
            }
            let door = Door::new().await;
            let running = env.submit(Doored { door: door.way(), pen: journal.pen() }).autostop(true).await.unwrap();
            let _visitor = door.arrival_of("0").await;
            let done = brief(&env, 100 + number as u64, &journal).await;
            node.kill();
            [(running.id(), false), (done.id(), true)]
        });
        ids.extend(after);
        assert_eq!(journal.count(&format!("0 {}", 100 + number)), 1);
    }
    // The age of a job is told by the clock, too: one that ended longer ago than jobs are kept is kept no longer.
    clock.set(72 + 8 * 24);
    let node = clock.node(folder.path());
    let env = node.connect().blocking().unwrap();
    // The last one that ran ended when this node started, as far as anybody can know.
    let kept: Vec<_> = env.blocking().jobs().unwrap().into_iter().map(|status| (status.id, false)).collect();
    assert_eq!(kept, [ids[ids.len() - 2]]);
    env.blocking().close();
    node.end();
}
