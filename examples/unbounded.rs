//! A source that never ends: the job is paused, resumed and stopped, and nothing that was emitted is lost.
//!
//! ```text
//! cargo run --release --example unbounded
//! ```
//!
//! prints, with other numbers:
//!
//! ```text
//! paused after 1100 readings
//! stopped after 2100 readings, 2100 received
//! ```

use std::{error::Error, sync::mpsc, thread, time::Duration};

use proscenium::{
    BuildError, Flow, Job, JobHandle, JobState, LocalEnvironment, Next, Outcome, OutputError, QueryError, Source,
    TaskContext, TaskError,
};
use serde::{Deserialize, Serialize};

/// Read a hundred times every millisecond, for ever.
#[derive(Default)]
struct Sensor {
    readings: u64,
    read: bool,
}

impl Source for Sensor {
    type Item = u64;

    async fn next(&mut self, _: &TaskContext) -> Result<Next<u64>, TaskError> {
        self.read = !self.read;
        if !self.read {
            return Ok(Next::Later(Duration::from_millis(1)));
        }
        let first = self.readings + 1;
        self.readings += 100;
        Ok(Next::Items((first..=self.readings).collect()))
    }
}

#[derive(Serialize, Deserialize)]
struct Monitor;

impl Job for Monitor {
    const NAME: &'static str = "monitor";

    fn build(&self, flow: &mut Flow) -> Result<(), BuildError> {
        flow.from_source(Sensor::default()).stream_out("readings");
        Ok(())
    }
}

/// Reads to the end and says how much it was; tells `some` after every thousand.
fn read_all(job: &JobHandle, some: &mpsc::Sender<()>) -> Result<u64, OutputError> {
    let mut readings = job.output::<u64>("readings");
    let mut received = 0;
    while let Some(reading) = readings.blocking_next()? {
        received += 1;
        assert_eq!(reading, received, "a reading was lost, or came twice");
        if received % 1000 == 0 {
            let _ = some.send(());
        }
    }
    Ok(received)
}

fn emitted(job: &JobHandle) -> Result<u64, QueryError> {
    Ok(job.blocking().status()?.tasks.iter().map(|task| task.counters.items_in).sum())
}

fn main() -> Result<(), Box<dyn Error>> {
    let env = LocalEnvironment::new("unbounded");
    let job = env.submit(Monitor).autostop(true).blocking()?;
    let (some, some_read) = mpsc::channel();
    let reader = thread::spawn({
        let job = job.clone();
        move || read_all(&job, &some)
    });
    some_read.recv()?;
    job.blocking().pause()?;
    for status in job.blocking().watch() {
        if status?.state == JobState::Paused {
            break;
        }
    }
    let paused_at = emitted(&job)?;
    println!("paused after {paused_at} readings");

    job.blocking().resume()?;
    some_read.recv()?;
    job.blocking().stop()?;
    assert_eq!(job.blocking().wait()?, Outcome::Stopped);
    let received = reader.join().expect("the reader does not panic")?;
    println!("stopped after {} readings, {received} received", emitted(&job)?);
    assert_eq!(received, emitted(&job)?);
    assert!(received >= paused_at);
    Ok(())
}
