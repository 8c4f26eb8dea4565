//! Items that cannot be processed are set aside with their cause, and the job goes on.
//!
//! ```text
//! cargo run --release --example dead_letters
//! ```
//!
//! prints
//!
//! ```text
//! sum 7
//! set aside: item 3 of `parse`: invalid digit found in string
//! set aside: item 5 of `parse`: number too large to fit in target type
//! ```

use std::error::Error;

use proscenium::{BuildError, ErrorPolicy, Flow, Job, LocalEnvironment, TaskError};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Sum {
    numbers: String,
}

impl Job for Sum {
    const NAME: &'static str = "sum";

    fn build(&self, flow: &mut Flow) -> Result<(), BuildError> {
        let numbers: Vec<String> = self.numbers.split_whitespace().map(str::to_owned).collect();
        flow.from_batch(numbers)
            .try_map(|number: String| -> Result<u8, TaskError> { Ok(number.parse()?) })
            .uid("parse")
            .on_error(ErrorPolicy::Skip)
            .map(u64::from)
            .sum()
            .collect("sum");
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let env = LocalEnvironment::new("dead-letters");
    let job = env.submit(Sum { numbers: "1 2 three 4 1000".to_owned() }).autostop(true).blocking()?;
    assert!(job.blocking().wait()?.is_completed());

    let sum: Vec<u64> = job.output("sum").blocking()?;
    println!("sum {}", sum[0]);
    let letters = job.blocking().dead_letters()?;
    for letter in &letters.newest {
        println!("set aside: item {} of `{}`: {}", letter.position, letter.operator, letter.cause);
    }
    assert_eq!(sum, [7]);
    assert_eq!(letters.total, 2);
    assert_eq!(letters.newest.iter().map(|letter| letter.position).collect::<Vec<_>>(), [3, 5]);
    Ok(())
}
