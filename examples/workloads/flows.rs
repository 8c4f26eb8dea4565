//! Flows of items.

use std::{error::Error, path::PathBuf, time::Instant};

use proscenium::{BuildError, Flow, Job, ParallelRange, TextFile};
use serde::{Deserialize, Serialize};

use crate::{Place, measure::scrambled};

#[derive(Serialize, Deserialize)]
pub(crate) struct MapFold {
    pub items: u64,
}

impl Job for MapFold {
    const NAME: &'static str = "mapfold";

    fn build(&self, flow: &mut Flow) -> Result<(), BuildError> {
        let add = |sum: &mut u64, x: u64| *sum = sum.wrapping_add(x);
        flow.from_batch(ParallelRange::new(0..self.items))
            .map(|x| x.wrapping_mul(3).wrapping_add(1))
            .filter(|x| x % 2 == 0)
            .map(|x| x ^ (x >> 7))
            .fold_assoc(0, add, add)
            .collect("checksum");
        Ok(())
    }
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Shuffle {
    pub items: u64,
}

impl Job for Shuffle {
    const NAME: &'static str = "shuffle";

    fn build(&self, flow: &mut Flow) -> Result<(), BuildError> {
        let add = |sum: &mut u64, x: u64| *sum = sum.wrapping_add(x);
        flow.from_batch(ParallelRange::new(0..self.items))
            .key_by(|x| x.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 44)
            .fold(0, add)
            .map(|(key, sum)| key ^ sum)
            .fold_assoc(0, add, add)
            .collect("checksum");
        Ok(())
    }
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Exchange {
    pub items: u64,
}

impl Job for Exchange {
    const NAME: &'static str = "exchange";

    fn build(&self, flow: &mut Flow) -> Result<(), BuildError> {
        let add = |sum: &mut u64, x: u64| *sum = sum.wrapping_add(x);
        flow.from_batch(ParallelRange::new(0..self.items))
            .map(|x| (x.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 44, x))
            .key_by(|(key, _)| *key)
            .values()
            .map(|(key, x)| key ^ x)
            .fold_assoc(0, add, add)
            .collect("checksum");
        Ok(())
    }
}

#[derive(Serialize, Deserialize)]
pub(crate) struct WordCount {
    pub file: PathBuf,
}

impl Job for WordCount {
    const NAME: &'static str = "wordcount";

    fn build(&self, flow: &mut Flow) -> Result<(), BuildError> {
        let add = |sum: &mut u64, x: u64| *sum = sum.wrapping_add(x);
        flow.from_batch(TextFile::lines(&self.file))
            .flat_map_into(|line: String, words| words.extend(words_of(&line).map(|word| (word, ()))))
            .keyed()
            .count()
            .map(|(word, count)| count.wrapping_mul(word.len() as u64 + 1))
            .fold_assoc(0, add, add)
            .collect("checksum");
        Ok(())
    }
}

fn words_of(line: &str) -> impl Iterator<Item = String> {
    line.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_lowercase)
}

/// Numbers that look random, into an output.
#[derive(Serialize, Deserialize)]
pub(crate) struct RandomNumbers {
    items: u64,
}

impl Job for RandomNumbers {
    const NAME: &'static str = "random-numbers";

    fn build(&self, flow: &mut Flow) -> Result<(), BuildError> {
        flow.from_batch(0..self.items).map(scrambled).collect("numbers");
        Ok(())
    }
}

pub(crate) fn checksum_of(job: impl Job, place: &Place) -> Result<(), Box<dyn Error>> {
    let start = Instant::now();
    let env = place.open()?;
    let job = env.submit(job).autostop(true).blocking()?;
    let outcome = job.blocking().wait()?;
    if !outcome.is_completed() {
        return Err(outcome.to_string().into());
    }
    let checksum: Vec<u64> = job.output("checksum").blocking()?;
    println!("{:.4} {}", start.elapsed().as_secs_f64(), checksum[0]);
    Ok(())
}

pub(crate) fn output(items: u64, place: &Place) -> Result<(), Box<dyn Error>> {
    const READINGS: u32 = 10;
    let env = place.open()?;
    let job = env.submit(RandomNumbers { items }).autostop(true).blocking()?;
    assert!(job.blocking().wait()?.is_completed());
    let start = Instant::now();
    for _ in 0..READINGS {
        assert_eq!(job.output::<u64>("numbers").blocking()?.len() as u64, items);
    }
    let bytes = items as f64 * 8.0 * f64::from(READINGS);
    println!("remote-output {:.0} MB/s", bytes / start.elapsed().as_secs_f64() / 1e6);
    Ok(())
}
