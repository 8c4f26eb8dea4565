//! The command line, typed as a user types it: each command a process of its own.

mod disks;
mod documents;
mod jobs;
mod keys;
mod network;
mod nodes;
mod programs;
mod typed;
mod workers;

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::on_a_thread;

/// What a command said, and how it ended.
#[derive(Debug)]
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Said {
    /// Its output, after it has ended well.
    #[track_caller]
    fn well(self) -> String {
        self.with(0).out
    }

    #[track_caller]
    fn with(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        self
    }

    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// A user's folder: with a key, a node's data and a configuration of its own, away from that of whoever runs the tests.
struct User {
    home: TempDir,
    /// That of the node, once one was started.
    address: String,
}

impl User {
    fn new() -> Self {
        Self { home: tempfile::tempdir().expect("a folder can be made"), address: "127.0.0.1:0".to_owned() }
    }

    /// One with a node in the background.
    fn with_node() -> Self {
        let mut user = Self::new();
        user.start_node(&[]);
        user
    }

    fn start_node(&mut self, flags: &[&str]) {
        let line = [&["jobmanager", "start", "--daemon", "--format", "json"], flags].concat();
        let said = self.types(&line).with(0);
        self.address = said.json()["address"].as_str().expect("it says where it listens").to_owned();
    }

    fn data(&self) -> PathBuf {
        self.home.path().join("node")
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_proscenium"));
        for variable in ["KEY", "KEY_FILE", "CONFIG", "FORMAT", "DATA", "LOG"] {
            command.env_remove(format!("PROSCENIUM_{variable}"));
        }
        command.args(words).env("PROSCENIUM_HOME", self.home.path()).env("PROSCENIUM_ADDRESS", &self.address);
        command
    }

    fn types(&self, words: &[&str]) -> Said {
        self.types_into(words, "")
    }

    /// With this on standard input.
    fn types_into(&self, words: &[&str], input: &str) -> Said {
        let mut command = self.command(words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let input = input.to_owned();
        on_a_thread(&words.join(" "), move || {
            let mut child = command.spawn().expect("the program can be run");
            let mut stdin = child.stdin.take().expect("it is piped");
            // It may not read what it is given.
            let _ = stdin.write_all(input.as_bytes());
            drop(stdin);
            let output = child.wait_with_output().expect("it can be waited for");
            let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("it prints text");
            Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
        })
    }

    /// The text of a command that has to go well.
    #[track_caller]
    fn well(&self, words: &[&str]) -> String {
        self.types(words).well()
    }

    /// Submits a job, and returns its id.
    #[track_caller]
    fn submits(&self, words: &[&str]) -> String {
        self.well(&[&["job", "submit"], words].concat()).trim().to_owned()
    }

    fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.home.path().join(name);
        std::fs::write(&path, content).expect("the folder can be written to");
        path
    }

    /// The processes that have this user's home, besides those that have ended.
    fn processes(&self) -> Vec<u32> {
        let home = format!("PROSCENIUM_HOME={}", self.home.path().display());
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let is_of_this_home = |id: &u32| {
            let variables = std::fs::read(format!("/proc/{id}/environ")).unwrap_or_default();
            variables.split(|byte| *byte == 0).any(|variable| variable == home.as_bytes())
        };
        ids.filter(is_of_this_home).collect()
    }

    /// The process of its node.
    fn node_process(&self) -> Option<u32> {
        // Not from `node.json`, which a node on a full disk cannot write anew.
        let holder = std::fs::read_to_string(self.data().join("lock")).ok()?;
        let process = holder.trim().strip_prefix("process ")?.parse().ok()?;
        // The lock file stays when its holder has ended, and then names a process that is no more, or another one.
        let program = std::fs::read_link(format!("/proc/{process}/exe")).ok()?;
        (program == Path::new(env!("CARGO_BIN_EXE_proscenium"))).then_some(process)
    }

    /// Kills its node as the operating system does: nothing is ended in an orderly way.
    fn kills_node(&self) {
        let process = self.node_process().expect("there is a node");
        let killed = Command::new("kill").args(["-KILL", &process.to_string()]).status();
        assert!(killed.expect("there is a `kill`").success());
        wait_for_end(process);
    }
}

/// Waits until the process is no more. It is nobody's child here, so nothing tells.
fn wait_for_end(process: u32) {
    on_a_thread("the end of a process", move || {
        while std::fs::read_to_string(format!("/proc/{process}/stat")).is_ok_and(|stat| !stat.contains(") Z ")) {
            std::thread::yield_now();
        }
    });
}

impl Drop for User {
    fn drop(&mut self) {
        // What a failed test left: nodes in the background and in the foreground, wherever their data is.
        for process in self.processes() {
            let _ = Command::new("kill").args(["-KILL", &process.to_string()]).status();
        }
    }
}

/// Parameters of `word-count`.
fn count(file: &Path) -> String {
    serde_json::json!({ "file": file }).to_string()
}
