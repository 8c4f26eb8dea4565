//! A node of one's own in ten lines: it runs the jobs that are linked into it, for clients that have its key.
//!
//! ```text
//! cargo run --release --example node -- [HOST:PORT]
//! ```
//!
//! It listens at 127.0.0.1:19001 if nothing else is said, and prints where. At the first start it makes a key, in
//! `~/.local/share/proscenium/key`, where clients of the same user find it. The first Ctrl+C stops its jobs and then the
//! node; the second cancels them.

use std::{error::Error, path::PathBuf};

use proscenium::{BuildError, Flow, Job, Node, TextFile, jobs};
use serde::{Deserialize, Serialize};

/// Counts the lines of a file.
#[derive(Serialize, Deserialize)]
struct LineCount {
    file: PathBuf,
}

impl Job for LineCount {
    const NAME: &'static str = "line-count";

    fn build(&self, flow: &mut Flow) -> Result<(), BuildError> {
        flow.from_batch(TextFile::lines(&self.file)).count().collect("lines");
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:19001".to_owned());
    let node = Node::builder().jobs(jobs![LineCount]).address(address).open()?;
    if let Some(address) = node.address() {
        println!("serving at {address}");
    }
    node.serve().blocking();
    println!("stopped");
    Ok(())
}
