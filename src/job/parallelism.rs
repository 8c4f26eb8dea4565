//! How many instances streams have, as far as the flow says it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How many parallel instances a stream has, whatever the job's parallelism is.
///
/// Whether a flow is refused depends on this alone, and not on how many cores a machine has: two streams are of equal
/// parallelism if they are so at every parallelism of the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Parallelism {
    /// So many: 1 behind an iterator, and what `rebalance` and its kin were told.
    Fixed(usize),
    /// The job's parallelism: behind a source that is split, and behind `key_by`.
    Job,
    /// The job's parallelism, but at least so many: where streams of both kinds became one.
    AtLeast(usize),
}

impl Parallelism {
    /// The number, in a job of this parallelism.
    pub(crate) fn in_job(self, parallelism: usize) -> usize {
        match self {
            Self::Fixed(fixed) => fixed,
            Self::Job => parallelism,
            Self::AtLeast(least) => parallelism.max(least),
        }
    }

    /// As many as the wider of two.
    pub(crate) fn widest(self, other: Self) -> Self {
        let least = |parallelism| match parallelism {
            Self::Fixed(least) | Self::AtLeast(least) => least,
            Self::Job => 1,
        };
        match (self, other, least(self).max(least(other))) {
            (Self::Fixed(_), Self::Fixed(_), widest) => Self::Fixed(widest),
            (_, _, 0 | 1) => Self::Job,
            (_, _, least) => Self::AtLeast(least),
        }
    }
}

impl fmt::Display for Parallelism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(fixed) => write!(f, "{fixed}"),
            Self::Job => f.write_str("the job's"),
            Self::AtLeast(least) => write!(f, "the job's but at least {least}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Parallelism; 7] = [
        Parallelism::Fixed(1),
        Parallelism::Fixed(2),
        Parallelism::Fixed(3),
        Parallelism::Job,
        Parallelism::Job,
        Parallelism::AtLeast(2),
        Parallelism::AtLeast(3),
    ];

    #[test]
    fn two_are_equal_if_they_are_so_in_every_job() {
        for (left, right) in ALL.iter().flat_map(|left| ALL.iter().map(move |right| (left, right))) {
            let everywhere = (1..10).all(|job| left.in_job(job) == right.in_job(job));
            assert_eq!(left == right, everywhere, "{left:?}, {right:?}");
        }
    }

    #[test]
    fn the_wider_of_two_is_so_in_every_job() {
        for (left, right) in ALL.iter().flat_map(|left| ALL.iter().map(move |right| (left, right))) {
            let widest = left.widest(*right);
            assert!(ALL.contains(&widest), "{widest:?} has no second name");
            for job in 1..10 {
                assert_eq!(widest.in_job(job), left.in_job(job).max(right.in_job(job)), "{left:?}, {right:?}");
            }
        }
    }
}
