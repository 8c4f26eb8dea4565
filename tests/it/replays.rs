//! Sources that can be read again, as users write them.

use proscenium::{FailureCause, More, Outcome, Part, Positioned, ReplayableSource, TaskError};
use serde::{Deserialize, Serialize};

use crate::support::{each_environment, ended, job, read, registered, sorted};

/// Numbers in blocks of ten, one for each split; a block may be one that cannot be opened.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Blocks {
    count: u64,
    shut: Option<(u64, Shut)>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum Shut {
    Error,
    Panic,
}

struct Block {
    number: u64,
    read: u64,
}

impl ReplayableSource for Blocks {
    type Item = u64;
    type Split = u64;
    type Position = u64;
    type Part = Block;

    fn splits(&mut self, parts: usize) -> Result<Vec<u64>, TaskError> {
        assert!(self.count <= parts as u64);
        Ok((0..self.count).collect())
    }

    fn open(&self, number: u64, read: u64) -> Result<Block, TaskError> {
        match self.shut {
            Some((shut, Shut::Error)) if shut == number => Err(TaskError::new("the block is shut")),
            Some((shut, Shut::Panic)) if shut == number => panic!("the block is shut"),
            _ => Ok(Block { number, read }),
        }
    }
}

impl Part for Block {
    type Item = u64;

    fn read(&mut self, into: &mut Vec<u64>, max: usize) -> Result<More, TaskError> {
        let end = (self.read + max as u64).min(10);
        into.extend((self.read..end).map(|n| 10 * self.number + n));
        self.read = end;
        Ok(if end == 10 { More::No } else { More::Yes })
    }
}

impl Positioned for Block {
    type Position = u64;

    fn position(&self) -> u64 {
        self.read
    }
}

job!(ReadBlocks { blocks: Blocks }, |job, flow| {
    flow.from_batch(job.blocks.clone()).uid("blocks").collect("out");
});

#[test]
fn a_source_of_ones_own_that_can_be_read_again_is_read_by_as_many_instances_as_it_has_splits() {
    each_environment(async |env| {
        let job = env.submit(ReadBlocks { blocks: Blocks { count: 3, shut: None } });
        let job = job.autostop(true).parallelism(4).await.unwrap();
        assert_eq!(ended(&job).await, Outcome::Completed);
        assert_eq!(sorted(read::<u64>(&job, "out").await), (0..30).collect::<Vec<_>>());
        let status = job.status().await.unwrap();
        let read: Vec<u64> = status.tasks.iter().map(|task| task.counters.items_out).collect();
        assert_eq!(read, [10, 10, 10, 0]);
    });
}

#[test]
fn a_part_that_cannot_be_opened_fails_the_job_as_one_that_fails_at_its_first_item() {
    each_environment(async |env| {
        for shut in [Shut::Error, Shut::Panic] {
            let blocks = Blocks { count: 3, shut: Some((1, shut)) };
            let job = env.submit(ReadBlocks { blocks }).autostop(true).parallelism(3).await.unwrap();
            let (operator, instance, position) = ("blocks".to_owned(), 1, 1);
            let message = "the block is shut".to_owned();
            let expected = match shut {
                Shut::Error => FailureCause::Operator { operator, instance, position, message },
                Shut::Panic => FailureCause::OperatorPanicked { operator, instance, position, message },
            };
            assert_eq!(ended(&job).await, Outcome::Failed(expected));
        }
    });
}

registered![ReadBlocks];
