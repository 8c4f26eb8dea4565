//! The filter: which items stay is for the closure to say, and how the others are thrown out is for the data.

use std::{
    task::{Context, Poll},
    time::{Duration, Instant},
};

use crate::flow::{
    chain::{BoxStage, Ending, Failure, Lull, Mark, Meter, Reach, Stage},
    error::TaskError,
    operator::pass_on,
};

/// Keeps the items a closure says yes to, in place.
pub(crate) struct Filter<T, F> {
    meter: Meter,
    f: F,
    trial: Trial,
    next: BoxStage<T>,
}

impl<T, F> Filter<T, F> {
    pub fn new(meter: Meter, f: F, next: BoxStage<T>) -> Self {
        Self { meter, f, trial: Trial::default(), next }
    }
}

impl<T, F: FnMut(&T) -> Result<bool, TaskError>> Stage<T> for Filter<T, F> {
    fn batch(&mut self, items: &mut Vec<T>) -> Result<(), Failure> {
        let count = items.len() as u64;
        let mut cursor = self.meter.receive(items.len());
        let f = &mut self.f;
        if self.meter.skips {
            items.retain(|item| {
                cursor.advance();
                self.meter.attempt(cursor.position, || f(item)) == Some(true)
            });
        } else {
            let asked = |item: &T| {
                cursor.advance();
                f(item)
            };
            if let Err(error) = self.trial.keep(items, asked) {
                let failure = self.meter.failed(cursor.position, &error);
                drop(cursor);
                if !items.is_empty() {
                    self.next.batch(items)?;
                }
                return Err(failure);
            }
            self.meter.account.processed += count;
        }
        drop(cursor);
        if items.is_empty() { Ok(()) } else { self.next.batch(items) }
    }

    pass_on!();
}

/// Batches from one comparison of the two ways to the next.
const PERIOD: u32 = 512;
/// The least batch whose time says something.
const ITEMS_MIN: usize = 256;
/// Items larger than this cost more to move than a mispredicted branch.
const BYTES_MAX: usize = 16;

/// Finds out which way of throwing items out is the faster one for what comes.
///
/// With a branch for each item, answers that can be predicted cost half of what moving every item does; those that cannot, twice
/// as much. Only the clock can tell which they are: a batch of each way is timed now and then.
struct Trial {
    way: Way,
    /// Batches until the next comparison.
    left: u32,
    /// How long an item took by branching, while a comparison is half done.
    branching: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Branching,
    Moving,
}

impl Default for Trial {
    fn default() -> Self {
        Self { way: Way::Branching, left: 0, branching: None }
    }
}

impl Trial {
    /// Keeps the items that `f` says yes to, in their order; after an error those in front of it.
    fn keep<T>(&mut self, items: &mut Vec<T>, f: impl FnMut(&T) -> Result<bool, TaskError>) -> Result<(), TaskError> {
        let count = items.len();
        if size_of::<T>() > BYTES_MAX {
            return keep_by_branching(items, f);
        }
        if self.left > 0 || count < ITEMS_MIN {
            self.left = self.left.saturating_sub(1);
            return keep(self.way, items, f);
        }
        let way = if self.branching.is_none() { Way::Branching } else { Way::Moving };
        let begun = Instant::now();
        let kept = keep(way, items, f);
        // In parts of a nanosecond: an item may take less than one.
        self.timed(begun.elapsed() * 1024 / u32::try_from(count).unwrap_or(u32::MAX));
        kept
    }

    /// Takes in how long an item took, by whichever way is the next to be timed.
    fn timed(&mut self, item: Duration) {
        match self.branching.take() {
            None => self.branching = Some(item),
            Some(branching) => {
                self.way = if item < branching { Way::Moving } else { Way::Branching };
                self.left = PERIOD;
            }
        }
    }
}

fn keep<T>(way: Way, items: &mut Vec<T>, f: impl FnMut(&T) -> Result<bool, TaskError>) -> Result<(), TaskError> {
    match way {
        Way::Branching => keep_by_branching(items, f),
        Way::Moving => keep_by_moving(items, f),
    }
}

fn keep_by_branching<T>(items: &mut Vec<T>, mut f: impl FnMut(&T) -> Result<bool, TaskError>) -> Result<(), TaskError> {
    let mut result = Ok(());
    items.retain(|item| {
        if result.is_err() {
            return false;
        }
        f(item).unwrap_or_else(|error| {
            result = Err(error);
            false
        })
    });
    result
}

/// Moves every item, whatever `f` says of it, so that no answer costs a mispredicted branch.
fn keep_by_moving<T>(items: &mut Vec<T>, mut f: impl FnMut(&T) -> Result<bool, TaskError>) -> Result<(), TaskError> {
    let mut kept = 0;
    let mut result = Ok(());
    for index in 0..items.len() {
        let keeps = match f(&items[index]) {
            Ok(keeps) => keeps,
            Err(error) => {
                result = Err(error);
                break;
            }
        };
        items.swap(kept, index);
        kept += usize::from(keeps);
    }
    items.truncate(kept);
    result
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn both_ways_keep_the_same(numbers: Vec<u8>, fails_at in 0..400usize) {
            let expected: Vec<u8> = numbers.iter().copied().take(fails_at).filter(|n| n % 3 == 0).collect();
            for way in [Way::Branching, Way::Moving] {
                let (mut items, mut asked) = (numbers.clone(), 0);
                let kept = keep(way, &mut items, |n| {
                    asked += 1;
                    if asked > fails_at { Err(TaskError::new("enough")) } else { Ok(n % 3 == 0) }
                });
                prop_assert_eq!(&items, &expected);
                prop_assert_eq!(kept.is_err(), numbers.len() > fails_at);
                prop_assert_eq!(asked, numbers.len().min(fails_at + 1));
            }
        }
    }

    #[test]
    fn the_faster_way_is_taken_until_the_next_comparison() {
        let mut trial = Trial::default();
        for (branching, moving, faster) in [(3, 2, Way::Moving), (2, 3, Way::Branching), (2, 2, Way::Branching)] {
            trial.timed(Duration::from_nanos(branching));
            trial.timed(Duration::from_nanos(moving));
            assert_eq!((trial.way, trial.left), (faster, PERIOD));
        }
    }
}
