//! Jobs over worker processes.

use std::{
    error::Error,
    time::{Duration, Instant},
};

use proscenium::{
    BuildError, FailureCause, Flow, Job, LocalEnvironment, Outcome, Placement, SlotLoad, TaskDescription, Workers,
};
use serde::{Deserialize, Serialize};

use tokio::runtime::Builder;

use crate::{
    Place,
    flows::Shuffle,
    measure::{median, report},
};

/// Items go through two tasks and come back, one at a time.
#[derive(Serialize, Deserialize)]
pub(crate) struct ThereAndBack;

impl Job for ThereAndBack {
    const NAME: &'static str = "there-and-back";

    fn build(&self, flow: &mut Flow) -> Result<(), BuildError> {
        let there = flow.from_channel::<u64>("there").rebalance(1).map(|x| x + 1);
        there.rebalance(1).map(|x| x + 1).stream_out("back");
        Ok(())
    }
}

/// How often an item of [`ThereAndBack`] goes from one task or process to another: into the source, to each of the two tasks,
/// and out.
const WAYS: u32 = 4;

pub(crate) fn latency_across(items: u64, place: &Place) -> Result<(), Box<dyn Error>> {
    let env = place.open()?;
    let job = env.submit(ThereAndBack).parallelism(1).blocking()?;
    let (input, mut output) = (job.input::<u64>("there"), job.output::<u64>("back"));
    let mut latencies = Vec::new();
    let start = Instant::now();
    Builder::new_current_thread().build()?.block_on(async {
        for item in 0..items {
            let sent = Instant::now();
            input.send(item).await?;
            let back = output.next().await?;
            assert_eq!(back, Some(item + 2));
            latencies.push(sent.elapsed() / WAYS);
        }
        Ok::<(), Box<dyn Error>>(())
    })?;
    report("latency-across", items, start.elapsed(), latencies);
    job.blocking().cancel()?;
    let outcome = job.blocking().wait()?;
    assert!(matches!(outcome, Outcome::Cancelled { .. }), "{outcome}");
    Ok(())
}

/// As [`crate::jobs::run_jobs`], with jobs that have two tasks for each slot and an exchange.
pub(crate) fn jobs_across(jobs: u64, place: &Place) -> Result<(), Box<dyn Error>> {
    let env = place.open()?;
    let mut latencies = Vec::new();
    let start = Instant::now();
    for _ in 0..jobs {
        let start = Instant::now();
        let job = env.submit(Shuffle { items: 30 }).autostop(true).blocking()?;
        assert!(job.blocking().wait()?.is_completed());
        latencies.push(start.elapsed());
    }
    report("job-across", jobs, start.elapsed(), latencies);
    Ok(())
}

/// Two flows from one worker to another one, over one connection.
#[derive(Serialize, Deserialize)]
pub(crate) struct Neighbours {
    items: u64,
    /// Nobody takes what comes out of the second one, which has items without end; else it has none.
    blocked: bool,
}

impl Job for Neighbours {
    const NAME: &'static str = "neighbours";

    fn build(&self, flow: &mut Flow) -> Result<(), BuildError> {
        let add = |sum: &mut u64, x: u64| *sum = sum.wrapping_add(x);
        flow.from_batch(0..self.items).rebalance(1).fold(0, add).stream_out("sum");
        let other = if self.blocked { u64::MAX } else { 0 };
        flow.from_batch(0..other).rebalance(1).map(|x| x + 1).stream_out("unread");
        Ok(())
    }
}

/// Sources on the first half of the threads, the other tasks on the second.
struct Apart;

impl Placement for Apart {
    fn place(&mut self, tasks: &[TaskDescription], slots: &[SlotLoad]) -> Vec<usize> {
        let half = slots.len() / 2;
        let mut next = [0, 0];
        let mut place = |task: &TaskDescription| {
            let side = usize::from(!task.is_source);
            next[side] += 1;
            side * half + (next[side] - 1) % half
        };
        tasks.iter().map(&mut place).collect()
    }
}

const PAIRS: usize = 11;

/// The rate of a flow from one worker to another beside one over the same connection whose consumer is blocked, and alone, in
/// turn.
pub(crate) fn neighbour(items: u64) -> Result<(), Box<dyn Error>> {
    let env = LocalEnvironment::builder("workloads").placement(Apart).workers(Workers::processes(2).slots(2));
    let env = env.open()?;
    let runtime = Builder::new_current_thread().build()?;
    let run = |blocked: bool| -> Result<f64, Box<dyn Error>> {
        let start = Instant::now();
        let job = env.submit(Neighbours { items, blocked }).parallelism(1).blocking()?;
        let sum = runtime.block_on(async { job.output::<u64>("sum").next().await })?;
        let rate = items as f64 / start.elapsed().as_secs_f64();
        assert_eq!(sum, Some((0..items).fold(0, u64::wrapping_add)));
        let tasks = job.blocking().status()?.tasks;
        let workers: Vec<_> = tasks.iter().filter_map(|task| task.worker.as_deref()).collect();
        assert!(workers.len() == 4 && workers.contains(&"worker-1") && workers.contains(&"worker-2"), "{workers:?}");
        job.blocking().cancel()?;
        let outcome = job.blocking().wait()?;
        assert!(matches!(outcome, Outcome::Cancelled { .. }) || !blocked, "{outcome}");
        Ok(rate)
    };
    run(false)?;
    let (mut rates, mut ratios) = (Vec::new(), Vec::new());
    for pair in 0..PAIRS {
        let (first, second) = (run(pair % 2 == 0)?, run(pair % 2 == 1)?);
        let (blocked, alone) = if pair % 2 == 0 { (first, second) } else { (second, first) };
        rates.push(alone);
        ratios.push(blocked / alone);
    }
    let (least, most) =
        ratios.iter().fold((f64::MAX, 0.0), |(least, most): (f64, f64), ratio| (least.min(*ratio), most.max(*ratio)));
    println!("neighbour {:.3} ({least:.2} to {most:.2}) of {:.0}/s alone", median(ratios), median(rates));
    Ok(())
}

/// How long after one of three workers is killed its job has failed.
#[cfg(target_os = "linux")]
pub(crate) fn lost(times: u64) -> Result<(), Box<dyn Error>> {
    use rustix::process::{Pid, Signal, kill_process};
    let mut latencies = Vec::new();
    for time in 0..times {
        let env = LocalEnvironment::builder("workloads").workers(Workers::processes(3)).open()?;
        let job = env.submit(Shuffle { items: 1 << 40 }).autostop(true).blocking()?;
        let is_at_work = || -> Result<bool, Box<dyn Error>> {
            let tasks = job.blocking().status()?.tasks;
            Ok(tasks
                .iter()
                .all(|task| task.counters.items_in > 0 || task.instance > 0 || task.name.contains("collect")))
        };
        while !is_at_work()? {}
        let children = std::fs::read_to_string(format!("/proc/self/task/{}/children", launcher()?))?;
        let mut children = children.split_whitespace();
        let child = children.nth(usize::try_from(time % 3)?).ok_or("there is no worker")?.parse()?;
        let killed = Instant::now();
        kill_process(Pid::from_raw(child).ok_or("it is no process")?, Signal::KILL)?;
        let outcome = job.blocking().wait()?;
        latencies.push(killed.elapsed());
        assert!(matches!(outcome, Outcome::Failed(FailureCause::WorkerLost { .. })), "{outcome}");
    }
    let most = latencies.iter().max().copied().unwrap_or_default();
    let total: Duration = latencies.iter().sum();
    report("lost", times, total, latencies);
    println!("at most {:.3}us", most.as_secs_f64() * 1e6);
    Ok(())
}

/// The thread that starts the processes, whose children they are.
#[cfg(target_os = "linux")]
fn launcher() -> Result<String, Box<dyn Error>> {
    for thread in std::fs::read_dir("/proc/self/task")? {
        let thread = thread?;
        if !std::fs::read_to_string(thread.path().join("children"))?.is_empty() {
            return Ok(thread.file_name().to_string_lossy().into_owned());
        }
    }
    Err("no thread has started a process".into())
}
