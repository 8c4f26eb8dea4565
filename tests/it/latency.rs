//! Whoever waits is notified: between the submit and the end of a small job there is no interval.

use std::time::{Duration, Instant};

use proscenium::{Environment, LocalEnvironment, Outcome};

use crate::{
    leaks::child::{in_child, is_long},
    support::{Counter, Increment, Journal, Pen, job},
};

const LIMIT: Duration = Duration::from_secs(120);

job!(Ten {}, |this, flow| {
    flow.from_batch(0..10u64).rebalance(2).map(|item| item + 1).collect("out");
});

job!(TenWithService { pen: Pen }, |this, flow| {
    let pen = this.pen.clone();
    flow.register_service("counter", move || Counter::new("counter", &pen));
    flow.from_batch(0..10u64)
        .map_async(4, async |ctx: &proscenium::TaskContext, _| {
            Ok(ctx.service::<Counter>("counter")?.call(Increment).await?)
        })
        .collect("out");
});

/// How often the thread of this process whose name contains `part` has gone to sleep of its own accord.
#[cfg(target_os = "linux")]
fn sleeps_of(part: &str) -> u64 {
    let threads = std::fs::read_dir("/proc/self/task").unwrap();
    let mut of_threads = threads.filter_map(|thread| {
        let directory = thread.unwrap().path();
        let name = std::fs::read_to_string(directory.join("comm")).ok()?;
        name.contains(part).then(|| std::fs::read_to_string(directory.join("status")).unwrap())
    });
    let status = of_threads.next().unwrap_or_else(|| panic!("no thread is called {part}"));
    assert!(of_threads.next().is_none(), "several threads are called {part}");
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
    line.trim().parse().unwrap()
}

/// An environment keeps its deadlines on one thread. If that thread does not stir while jobs run, no job's way through
/// the environment depends on a time having passed.
#[test]
#[cfg(target_os = "linux")]
fn small_jobs_run_from_submit_to_completed_without_a_stir_of_the_timer() {
    in_child("latency::small_jobs_run_from_submit_to_completed_without_a_stir_of_the_timer", LIMIT, || {
        let env = LocalEnvironment::builder("latency").task_threads(2).open().unwrap();
        let run = || {
            let job = env.submit(Ten {}).autostop(true).blocking().unwrap();
            assert_eq!(job.blocking().wait(), Ok(Outcome::Completed));
            assert_eq!(job.output::<u64>("out").blocking().unwrap().len(), 10);
        };
        run();
        // The kernel keeps 15 bytes of a name, and this is the only environment of the process.
        let before = sleeps_of("proscenium-1-ti");
        (0..200).for_each(|_| run());
        assert_eq!(sleeps_of("proscenium-1-ti"), before, "the timer was woken");
        env.blocking().close();
    });
}

/// Ten jobs, one after the other, each of which would take a tick longer if anything waited for one.
#[test]
fn waits_watches_and_reads_end_with_the_job_in_any_order() {
    let env = LocalEnvironment::builder("latency").task_threads(2).open().unwrap();
    let journal = Journal::new();
    crate::support::block_on(async {
        for _ in 0..10 {
            let job = env.submit(TenWithService { pen: journal.pen() }).autostop(true).await.unwrap();
            let watch = async {
                let mut changes = job.watch();
                let mut last = None;
                while let Some(status) = changes.next().await {
                    last = Some(status.unwrap());
                }
                last.unwrap().outcome
            };
            let (one, other, watched, read) =
                futures::join!(job.wait(), job.wait(), watch, async { job.output::<u64>("out").await });
            assert_eq!((one, other), (Ok(Outcome::Completed), Ok(Outcome::Completed)));
            assert_eq!(watched, Some(Outcome::Completed));
            assert_eq!(read.unwrap(), (1..=10).collect::<Vec<u64>>());
            assert_eq!(job.wait().await, Ok(Outcome::Completed), "the end can be waited for afterwards too");
        }
        env.close().await;
    });
}

/// Figures, not judged: only a release build on a quiet machine says something.
#[test]
fn the_latency_of_small_jobs_is_printed_in_long_runs() {
    if !is_long() {
        return;
    }
    in_child("latency::the_latency_of_small_jobs_is_printed_in_long_runs", LIMIT, || {
        let env = LocalEnvironment::builder("latency").task_threads(2).open().unwrap();
        let journal = Journal::new();
        for with_service in [false, true] {
            let mut times: Vec<Duration> = (0..400)
                .map(|_| {
                    let begun = Instant::now();
                    let job = if with_service {
                        env.submit(TenWithService { pen: journal.pen() }).autostop(true).blocking().unwrap()
                    } else {
                        env.submit(Ten {}).autostop(true).blocking().unwrap()
                    };
                    assert_eq!(job.blocking().wait(), Ok(Outcome::Completed));
                    begun.elapsed()
                })
                .skip(200)
                .collect();
            times.sort();
            let (median, late) = (times[times.len() / 2], times[times.len() * 95 / 100]);
            println!("submit to Completed, with a service: {with_service}: median {median:?}, 95 % within {late:?}");
        }
        env.blocking().close();
    });
}
