//! The stock binary: the whole command line, with two jobs to try it on.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use proscenium::{BuildError, CommandLine, Flow, Job, Next, Source, TaskContext, TaskError, TextFile, jobs};
use serde::{Deserialize, Serialize};

fn main() -> ExitCode {
    CommandLine::new(jobs![WordCount, Ticker]).version(env!("CARGO_PKG_VERSION")).run()
}

/// Counts the words of a text file: runs of alphanumeric characters, in lower case.
#[derive(Serialize, Deserialize)]
struct WordCount {
    /// On the machine where the job runs.
    file: PathBuf,
}

impl Job for WordCount {
    const NAME: &'static str = "word-count";

    fn build(&self, flow: &mut Flow) -> Result<(), BuildError> {
        flow.from_batch(TextFile::lines(&self.file))
            .flat_map_into(|line: String, words| {
                let parts = line.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
                words.extend(parts.map(str::to_lowercase));
            })
            .key_by(|word: &String| word.clone())
            .count()
            .collect("counts");
        Ok(())
    }
}

/// Counts up, for ever.
#[derive(Serialize, Deserialize)]
struct Ticker {
    #[serde(default = "a_second")]
    interval_ms: u64,
    /// Whether the ticks can be read, as the output `ticks`. Unread, they hold the job up once 16,384 wait.
    #[serde(default)]
    readable: bool,
}

fn a_second() -> u64 {
    1000
}

impl Job for Ticker {
    const NAME: &'static str = "ticker";

    fn build(&self, flow: &mut Flow) -> Result<(), BuildError> {
        let interval = Duration::from_millis(self.interval_ms.max(1));
        let ticks = flow.from_source(Clock { interval, ticks: 0, is_due: false });
        if self.readable {
            ticks.stream_out("ticks");
        } else {
            ticks.for_each(|_| ());
        }
        Ok(())
    }
}

struct Clock {
    interval: Duration,
    ticks: u64,
    is_due: bool,
}

impl Source for Clock {
    type Item = u64;

    async fn next(&mut self, _: &TaskContext) -> Result<Next<u64>, TaskError> {
        self.is_due = !self.is_due;
        if self.is_due {
            return Ok(Next::Later(self.interval));
        }
        self.ticks += 1;
        Ok(Next::Items(vec![self.ticks]))
    }
}
