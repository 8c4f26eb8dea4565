//! A wall clock that is stepped, forwards and back, while a node runs and between its starts. It takes a clock of the
//! node's own, by libfaketime; so this runs where the gate says that it is there.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Instant,
};

use serde_json::Value;

use super::User;
use crate::support::on_a_thread;

/// A node's clock: what the file says, at once.
struct Clock {
    library: PathBuf,
    offset: PathBuf,
}

impl Clock {
    fn step(&self, offset: &str) {
        // As a whole: it may be read at any time.
        let new = self.offset.with_extension("new");
        fs::write(&new, offset).expect("the folder can be written to");
        fs::rename(new, &self.offset).expect("the folder can be written to");
    }

    fn start(&self, user: &User) -> Child {
        let mut command: Command = user.command(&["jobmanager", "start", "--format", "json"]);
        command
            .env("LD_PRELOAD", &self.library)
            .env("FAKETIME_TIMESTAMP_FILE", &self.offset)
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it can be run")
    }
}

/// Where the node listens.
fn address(node: &mut Child) -> String {
    let out = node.stdout.take().expect("it is piped");
    let said = on_a_thread("the greeting", move || {
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).expect("it is text");
        line
    });
    let said: Value = serde_json::from_str(&said).expect("it greets");
    said["address"].as_str().expect("it says where it listens").to_owned()
}

fn job(user: &User, id: &str) -> Value {
    user.types(&["job", "status", id, "--format", "json"]).with(0).json()
}

#[test]
fn a_stepped_clock_changes_no_deadline_and_forgets_no_job() {
    let Some(library) = std::env::var_os("PROSCENIUM_FAKETIME") else { return };
    let mut user = User::new();
    let clock = Clock { library: library.into(), offset: user.home.path().join("offset") };
    clock.step("+0");
    let mut node = clock.start(&user);
    user.address = address(&mut node);
    let mut ids = Vec::new();
    for offset in ["+10d", "-10d", "+0"] {
        let begun = Instant::now();
        let id = user.submits(&["ticker", r#"{"interval_ms": 10}"#, "--run-limit", "2s"]);
        let before = job(&user, &id)["submitted_at"].as_str().expect("a time").to_owned();
        clock.step(offset);
        let status = on_the_limit(&user, &id);
        let took = begun.elapsed().as_secs_f64();
        assert!((2.0..12.0).contains(&took), "by the clock {offset} the limit of 2 s took {took} s");
        assert_eq!(status["reason"], "run limit reached");
        assert_ne!(status["ended_at"].as_str().map(|time| &time[..10]), Some(&before[..10]), "the clock was stepped");
        ids.push(id);
        for id in &ids {
            assert_eq!(job(&user, id)["outcome"], "cancelled", "it is not forgotten by the clock {offset}");
        }
    }
    user.well(&["jobmanager", "stop"]);
    assert!(on_a_thread("the end of the node", move || node.wait()).expect("it is waited for").success());
    // Between two starts: jobs that ended in what is the future now are kept.
    clock.step("-30d");
    let mut node = clock.start(&user);
    user.address = address(&mut node);
    for id in &ids {
        assert_eq!(job(&user, id)["outcome"], "cancelled");
    }
    user.well(&["jobmanager", "stop"]);
    assert!(on_a_thread("the end of the node", move || node.wait()).expect("it is waited for").success());
}

/// Waits for the job's end.
fn on_the_limit(user: &User, id: &str) -> Value {
    let watched = user.types(&["job", "watch", id, "--format", "json"]).with(12);
    let last = watched.out.lines().last().expect("there is an end");
    serde_json::from_str(last).expect("it is JSON")
}
