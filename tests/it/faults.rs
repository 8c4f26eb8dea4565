//! What peers, processes, networks and clocks do to a node and its clients when they fail: each fault ends in its
//! documented error, or what was begun goes on within its deadline; nothing hangs, leaks, comes twice, or is told falsely.
//!
//! Connections that are cut at any byte, strangers, and nodes that die are in `remote`; the bytes of hellos and frames
//! beside their code.

mod clock;
mod fakes;
mod greedy;
mod network;
mod peers;
mod process;
mod silence;
mod wire;

use std::time::{Duration, Instant};

use proscenium::{JobRegistry, jobs};

use crate::{
    leaks::child::{Holdings, holdings_of},
    support::{Counter, DEADLINE, Doorway, Echo, Journal, JournalSink, NodeProcess, Pen, job},
};

job!(
    /// Something of everything that a client can talk to; what services do is written down.
    Talkative { pen: Pen }, |job, flow| {
        let pen = job.pen.clone();
        flow.register_service("counter", move || Counter::new("counter", &pen));
        flow.register_service("echo", || Echo);
        let (kept, streamed) = flow.from_channel::<u64>("numbers").map(|n| n * 2).tee();
        kept.collect("doubles");
        streamed.stream_out("live");
    }
);

job!(
    /// Goes on for as long as the test wants; that it runs is written down.
    Doored { door: Doorway, pen: Pen }, |job, flow| {
        let (door, pen) = (job.door.clone(), job.pen.clone());
        flow.from_batch(0..10u64)
            .map_async(1, async move |_, n| {
                door.pass(n).await;
                Ok(n)
            })
            .sink(move || JournalSink::new(&pen));
    }
);

job!(
    /// Over at once; that it ran is written down.
    Brief { number: u64, pen: Pen }, |job, flow| {
        let (number, pen) = (job.number, job.pen.clone());
        flow.from_batch([number]).sink(move || JournalSink::new(&pen));
    }
);

job!(
    /// A timer for each item, after as many milliseconds as it says; what time the process has by then, in seconds.
    Timed {}, |job, flow| {
        let timed = flow.from_channel::<u64>("delays").key_by(|delay| *delay).parallelism(1).process(|ctx, _, delay, (): &mut ()| {
            ctx.fire_after(Duration::from_millis(delay));
            Ok(())
        });
        let timed = timed.on_timer(|ctx, delay, _, ()| {
            ctx.emit((*delay, ctx.now().as_micros() / 1_000_000));
            Ok(())
        });
        timed.stream().stream_out("fired");
    }
);

pub fn jobs() -> JobRegistry {
    jobs![Talkative, Doored, Brief, Timed, greedy::Plentiful, greedy::WithNames]
}

/// Waits until the node holds no more than `before`: descriptors of its own and threads, but for those that build flows,
/// which come and go with the work.
fn came_to_rest(node: &NodeProcess, before: Holdings) {
    let begun = Instant::now();
    loop {
        let now = holdings_of(&node.id().to_string());
        if now.descriptors <= before.descriptors && now.threads <= before.threads + 8 {
            return;
        }
        assert!(begun.elapsed() < DEADLINE, "{before:?} -> {now:?}");
        std::thread::yield_now();
    }
}

/// Waits until another process has written the line.
fn until_written(journal: &Journal, line: &str) {
    let begun = Instant::now();
    while journal.count(line) == 0 {
        assert!(begun.elapsed() < DEADLINE, "no `{line}` in {:?}", journal.lines());
        std::thread::yield_now();
    }
}

/// Short, so that a test notices silence soon; long enough for a busy machine.
const SILENCE: Duration = Duration::from_millis(1_500);
