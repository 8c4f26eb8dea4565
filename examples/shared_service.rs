//! A service that all tasks of a job share: it is asked which words to leave out, at most 64 calls in flight a task.
//!
//! ```text
//! cargo run --release --example shared_service
//! ```
//!
//! prints
//!
//! ```text
//! [("cat", 2), ("dog", 2), ("runs", 1), ("sees", 2)]
//! 12 words were looked up, 5 of them left out
//! ```

use std::{collections::HashSet, error::Error};

use actix::{Actor, Context, Handler, Message};
use proscenium::{BuildError, Flow, Job, LocalEnvironment, MessageTable, Service, partitioned};
use serde::{Deserialize, Serialize};

struct StopWords {
    words: HashSet<&'static str>,
    asked: u64,
}

impl Actor for StopWords {
    type Context = Context<Self>;
}

impl Service for StopWords {
    fn messages(table: &mut MessageTable<Self>) {
        table.accept::<Contains>("contains").accept::<Asked>("asked");
    }
}

#[derive(Serialize, Deserialize, Message)]
#[rtype(result = "bool")]
struct Contains(String);

impl Handler<Contains> for StopWords {
    type Result = bool;

    fn handle(&mut self, Contains(word): Contains, _: &mut Context<Self>) -> bool {
        self.asked += 1;
        self.words.contains(word.as_str())
    }
}

#[derive(Serialize, Deserialize, Message)]
#[rtype(result = "u64")]
struct Asked;

impl Handler<Asked> for StopWords {
    type Result = u64;

    fn handle(&mut self, _: Asked, _: &mut Context<Self>) -> u64 {
        self.asked
    }
}

#[derive(Serialize, Deserialize)]
struct WordCount {
    lines: Vec<String>,
}

impl Job for WordCount {
    const NAME: &'static str = "word-count";

    fn build(&self, flow: &mut Flow) -> Result<(), BuildError> {
        flow.register_service("stop-words", || StopWords { words: HashSet::from(["a", "and", "the"]), asked: 0 });
        let lines = self.lines.clone();
        // Each of the parallel instances reads every n-th line.
        flow.from_batch(partitioned(move |part, parts| lines.clone().into_iter().skip(part).step_by(parts)))
            .flat_map_into(|line: String, words| words.extend(line.split(' ').map(str::to_owned)))
            .filter_async(64, async |ctx, word: &String| {
                let stop_words = ctx.service::<StopWords>("stop-words")?;
                Ok(!stop_words.call(Contains(word.clone())).await?)
            })
            .key_by(|word| word.clone())
            .count()
            .collect("counts");
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let env = LocalEnvironment::new("shared-service");
    let lines = ["the cat sees the dog", "the dog sees a cat", "and runs"].map(str::to_owned);
    // Without autostop: the service stays callable after the last task has finished.
    let job = env.submit(WordCount { lines: lines.to_vec() }).parallelism(2).blocking()?;
    let mut counts: Vec<(String, u64)> = job.output("counts").blocking()?;
    counts.sort();
    let asked = job.service::<StopWords>("stop-words").call(Asked).blocking()?;
    job.blocking().stop()?;
    assert!(job.blocking().wait()?.is_completed());
    let left: u64 = counts.iter().map(|(_, count)| count).sum();
    println!("{counts:?}\n{asked} words were looked up, {} of them left out", asked - left);
    assert_eq!(counts, [("cat", 2), ("dog", 2), ("runs", 1), ("sees", 2)].map(|(word, n)| (word.to_owned(), n)));
    assert_eq!((asked, left), (12, 7));
    Ok(())
}
