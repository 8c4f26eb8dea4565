//! Loops of random graphs.

use std::time::Duration;

use proscenium::Stream;

use super::shape::{Body, Round, tripped, trips};

/// An item, and how many trips it has yet to make.
type Going = (u64, u64);

impl Round {
    pub fn turn(self, stream: Stream<u64>, name: &str) -> Stream<u64> {
        let most = self.trips;
        let inner = format!("{name}-inner");
        stream
            .map(move |item| (item, trips(item, most)))
            .iterate(name, |items| {
                let items = self.way(items, &inner);
                let (done, going) = items.split(|(_, left)| *left == 0);
                (going.map(|(item, left)| (tripped(item), left - 1)), done)
            })
            .map(|(item, _)| item)
    }

    fn way(self, items: Stream<Going>, inner: &str) -> Stream<Going> {
        let parallelism = self.parallelism;
        match self.body {
            Body::Nothing => items,
            Body::Rebalance => items.rebalance(parallelism),
            Body::ByKey => items.key_by(|(item, _)| item % 13).parallelism(parallelism).values(),
            Body::Call => items.map_async_unordered(parallelism, async |_, going| {
                tokio::task::yield_now().await;
                Ok(going)
            }),
            Body::Timers => {
                let keyed = items.key_by(|(item, _)| item % 13).parallelism(parallelism);
                let held = keyed.process(|ctx, _, going: Going, held: &mut Vec<Going>| {
                    ctx.fire_after(Duration::from_micros(going.0 % 500));
                    held.push(going);
                    Ok(())
                });
                let process = held.on_timer(|ctx, _, _, held| {
                    held.drain(..).for_each(|going| ctx.emit(going));
                    Ok(())
                });
                process.stream()
            }
            Body::Split => {
                let (long, short) = items.split(|(item, _)| item % 2 == 0);
                long.rebalance(parallelism).union(short)
            }
            Body::Nested => items
                .map(|going| (going, true))
                .iterate(inner, |steps| {
                    let (going, done) = steps.split(|(_, again)| *again);
                    (going.map(|(going, _)| (going, false)), done)
                })
                .map(|(going, _)| going),
        }
    }
}
