//! Jobs over worker processes take no more memory than their channels hold, in any of the processes.

use std::time::Duration;

use proscenium::{JobHandle, JobStatus, Limits, Outcome, ParallelRange};

use super::{LIMIT, work_for};
use crate::{
    leaks::child::{in_child, is_long, mebibytes, resident_of},
    support::{Company, block_on_for, deadline, job, registered},
};

registered![Slow, Wide];

/// Items that share some microseconds of the slow sink's time, one for each.
const TURN: u64 = 1_000;

job!(Slow { items: u64 }, |job, flow| {
    let mut seen = 0u64;
    flow.from_batch(0..job.items).rebalance(1).for_each(move |_| {
        seen += 1;
        if seen.is_multiple_of(TURN) {
            work_for(Duration::from_micros(TURN));
        }
    });
});

fn taken_by_sinks(status: &JobStatus) -> u64 {
    let sinks = status.tasks.iter().filter(|task| task.name.contains("for_each"));
    sinks.map(|task| task.counters.items_in).sum()
}

/// The most that each process had resident in each quarter of the items.
async fn quarters(company: &Company, job: &JobHandle, items: u64) -> Vec<[u64; 4]> {
    let processes = company.processes();
    let mut most = vec![[0; 4]; processes.len()];
    loop {
        let status = deadline("the status", job.status()).await.unwrap();
        if !status.is_running() {
            return most;
        }
        let workers: Vec<_> = status.tasks.iter().map(|task| task.worker.as_deref()).collect();
        assert!(workers[0].is_some() && workers[1].is_some() && workers[0] != workers[1], "{workers:?}");
        let quarter = usize::try_from(taken_by_sinks(&status) * 4 / items).expect("a quarter").min(3);
        for (process, most) in processes.iter().zip(&mut most) {
            most[quarter] = most[quarter].max(resident_of(process));
        }
        // Now and then is enough, and to look costs something.
        let _ = job.wait_timeout(Duration::from_millis(20)).await;
    }
}

#[test]
fn a_source_and_a_slow_sink_on_two_workers_take_no_more_memory_as_time_goes_on() {
    let name = "bounded::workers::a_source_and_a_slow_sink_on_two_workers_take_no_more_memory_as_time_goes_on";
    in_child(name, LIMIT, || {
        let items: u64 = if is_long() { 100_000_000 } else { 10_000_000 };
        block_on_for(LIMIT, async {
            let company = Company::open(Limits::default(), &[1, 1]).await;
            let job = company.env.submit(Slow { items }).parallelism(1).autostop(true).await.unwrap();
            let most = quarters(&company, &job, items).await;
            assert_eq!(job.wait().await, Ok(Outcome::Completed));
            assert_eq!(taken_by_sinks(&job.status().await.unwrap()), items);
            for quarters in most {
                println!("resident in each quarter: {:.1?} MiB", quarters.map(mebibytes));
                let [_, second, _, last] = quarters;
                assert!(last <= second + second / 20, "{quarters:?}");
            }
            company.close().await;
        });
    });
}

// An exchange between so many tasks on either side, and an output that nobody reads.
job!(Wide { items: u64 }, |job, flow| {
    let keyed = flow.from_batch(ParallelRange::new(0..job.items)).key_by(|n| *n).parallelism(128);
    keyed.values().stream_out("unread");
});

/// What the processes of a company have resident together.
fn resident_together(company: &Company) -> u64 {
    company.processes().iter().map(|process| resident_of(process)).sum()
}

/// 16,384 channels, half of them between the workers, all of which fill: nothing is taken from the last tasks.
#[test]
fn a_wide_exchange_that_is_blocked_stays_below_a_gibibyte() {
    let name = "bounded::workers::a_wide_exchange_that_is_blocked_stays_below_a_gibibyte";
    in_child(name, LIMIT, || {
        block_on_for(LIMIT, async {
            let company = Company::open(Limits::default(), &[1, 1]).await;
            let idle = resident_together(&company);
            let job = company.env.submit(Wide { items: u64::MAX >> 1 }).parallelism(128).await.unwrap();
            let emitted = async || {
                let status = deadline("the status", job.status()).await.unwrap();
                let sources = status.tasks.iter().filter(|task| task.name.starts_with("from_"));
                sources.map(|task| task.counters.items_in).sum::<u64>()
            };
            let mut before = u64::MAX;
            let mut most = 0;
            // Nothing more comes once all is full.
            loop {
                most = most.max(resident_together(&company));
                let now = emitted().await;
                if now > 0 && now == before {
                    break;
                }
                before = now;
                let _ = job.wait_timeout(Duration::from_millis(500)).await;
            }
            println!(
                "{before} items wait; the processes have {:.0} MiB, and had {:.0} MiB before",
                mebibytes(most),
                mebibytes(idle)
            );
            assert!(most < 1 << 30, "{most} bytes");
            deadline("the cancel", job.cancel()).await.unwrap();
            let outcome = deadline("the end", job.wait()).await.unwrap();
            assert!(matches!(outcome, Outcome::Cancelled { .. }), "{outcome}");
            company.close().await;
        });
    });
}
