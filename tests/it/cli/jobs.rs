//! Jobs on a node.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use serde_json::Value;

use super::{User, count};
use crate::support::on_a_thread;

#[test]
fn a_job_is_submitted_waited_for_and_read() {
    let user = User::with_node();
    let text = user.file("text", "a b\nb c b\n");
    let said = user.types(&["job", "submit", "word-count", &count(&text), "--autostop", "--wait"]).with(0);
    let lines: Vec<&str> = said.out.lines().collect();
    assert!(matches!(lines[..], [id, "completed"] if id.starts_with("job-") && id.len() == 36), "{lines:?}");
    let id = lines[0];
    for name in [id, &id[..10], &id[4..10], "word-count"] {
        let shown = user.well(&["job", "show", name]);
        assert!(shown.contains(id) && shown.contains("outcome    completed"), "{shown}");
        assert!(shown.contains("count -> collect #0") && shown.contains("outputs    counts"), "{shown}");
    }
    let status = user.well(&["job", "status", id]);
    assert!(status.starts_with(&format!("{id} word-count: completed; tasks: ")), "{status}");
    assert!(user.well(&["job", "output", id]).contains("counts  (string, u64)"));
    let mut counts: Vec<String> = user.well(&["job", "output", id, "counts"]).lines().map(str::to_owned).collect();
    counts.sort();
    assert_eq!(counts, [r#"["a",1]"#, r#"["b",3]"#, r#"["c",1]"#]);
    assert_eq!(user.well(&["job", "output", id, "counts", "--limit", "2"]).lines().count(), 2);
    let list = user.well(&["job", "list"]);
    assert!(list.starts_with("JOB ") && list.contains(&id[..12]) && list.contains("completed"), "{list}");
    assert_eq!(user.well(&["job", "list", "--running"]), "no jobs\n");
    assert_eq!(user.well(&["job", "explain", id]), "ended\n");
    assert_eq!(user.well(&["job", "delete", id]), format!("{id} deleted\n"));
    assert_eq!(user.well(&["job", "list"]), "no jobs\n");
    user.well(&["jobmanager", "stop"]);
}

#[test]
fn a_job_without_end_is_steered_and_followed() {
    let user = User::with_node();
    let id = user.submits(&["ticker", r#"{"interval_ms": 1, "readable": true}"#, "--job-name", "clock"]);
    assert!(user.well(&["job", "status", "clock"]).contains("running"));
    assert_eq!(user.well(&["job", "output", "clock", "ticks", "--limit", "3"]), "1\n2\n3\n");
    assert_eq!(
        user.well(&["job", "output", "clock", "ticks", "--limit", "1"]),
        "4\n",
        "a reader goes on where one ended"
    );
    assert_eq!(user.well(&["job", "pause", "clock"]), format!("{id} told to pause\n"));
    let explained = user.well(&["job", "explain", "clock"]);
    assert!(explained.starts_with("pausing") || explained.starts_with("paused"), "{explained}");
    user.well(&["job", "resume", "clock"]);
    // It waits for a reader now, or will.
    let watching = user.command(&["job", "watch", "clock"]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    user.types(&["job", "cancel", "clock", "--wait"]).with(12);
    let watched = crate::support::on_a_thread("the watch", move || watching.wait_with_output().unwrap());
    let lines = String::from_utf8(watched.stdout).unwrap();
    assert!(lines.lines().last().is_some_and(|line| line.contains("cancelled (requested)")), "{lines}");
    assert_eq!(watched.status.code(), Some(12));
    let stopped = user.submits(&["ticker", "{}"]);
    assert_eq!(user.types(&["job", "stop", &stopped, "--wait"]).with(11).out, "stopped\n");
    assert_eq!(user.well(&["job", "cleanup"]), "2 ended jobs forgotten\n");
    let forced = user.submits(&["ticker"]);
    let refused = user.types(&["job", "delete", &forced]).with(1);
    assert!(refused.err.contains("running"), "{refused:?}");
    user.well(&["job", "delete", &forced, "--force"]);
    user.well(&["jobmanager", "stop", "--cancel"]);
}

/// To look at a job used to hold it: whoever looked was shown as its holder, and its lease began anew.
#[test]
fn who_looks_at_a_job_does_not_hold_it() {
    let user = User::with_node();
    let id = user.submits(&["ticker", "--lease", "300"]);
    let is_let_go = || {
        let shown = user.well(&["job", "show", &id]);
        assert!(shown.contains("lease      5m"), "{shown}");
        shown.lines().any(|line| line.starts_with("held by") && line.contains(", until "))
    };
    assert!((0..1000).any(|_| is_let_go()), "the one that submitted it has ended, and nobody else has it");
    let held_until = || user.types(&["job", "show", &id, "--format", "json"]).json()["held_by"]["until"].clone();
    let until = held_until();
    user.well(&["job", "status", &id]);
    user.well(&["job", "explain", &id]);
    assert_eq!(held_until(), until);
    user.well(&["jobmanager", "stop", "--cancel"]);
}

#[cfg(unix)]
#[test]
fn a_wait_that_is_interrupted_says_that_the_job_goes_on() {
    let user = User::with_node();
    let mut waiting = user.command(&["job", "submit", "ticker", "--wait"]);
    let mut waiting = waiting.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(waiting.stdout.take().unwrap());
    let id = on_a_thread("the id", move || {
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        line.trim().to_owned()
    });
    assert!(Command::new("kill").args(["-INT", &waiting.id().to_string()]).status().unwrap().success());
    let output = on_a_thread("the end of the wait", move || waiting.wait_with_output().unwrap());
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains(&format!("{id} has not ended, and goes on; `job status {id}` looks at it")), "{said}");
    assert!(user.well(&["job", "status", &id]).contains("running"));
    user.well(&["jobmanager", "stop", "--cancel"]);
}

#[test]
fn exit_codes_say_what_happened() {
    let user = User::with_node();
    let text = user.file("latin-1", "ok\n");
    std::fs::write(&text, b"fine\n\xff\n").unwrap();
    let failed = user.types(&["job", "submit", "word-count", &count(&text), "--autostop", "--wait"]).with(10);
    assert!(failed.out.contains("failed: operator `from_batch`"), "{failed:?}");
    let limited = ["job", "submit", "ticker", "--autostop", "--run-limit", "1ms", "--wait"];
    assert!(user.types(&limited).with(12).out.contains("cancelled (run limit reached)"));
    let waited = user.types(&["job", "submit", "ticker", "--wait", "--wait-timeout", "1ms"]).with(5);
    assert!(waited.err.contains("has not ended within 1ms, and goes on"), "{waited:?}");
    let missing = user.types(&["job", "submit", "word-count", &count(&user.home.path().join("no"))]).with(1);
    assert!(missing.err.contains("No such file"), "{missing:?}");
    for (line, part) in [
        (&["job", "submit", "words", "{}"][..], "it has `word-count`, `ticker`"),
        (&["job", "submit", "word-count"], "missing field `file` at line 1 column 2"),
        (&["job", "submit", "word-count", "{"], "WordCount { file: string }"),
        (&["job", "submit", "ticker", r#"{"interval_ms": "soon"}"#], "invalid type"),
        (&["job", "submit", "ticker", "--parallelism", "0"], "--parallelism"),
        (&["job", "submit", "ticker", "--job-name", ""], "--job-name"),
        (&["job", "watch"], "<JOB>"),
        (&["job", "stop", "ticker", "--wait-timeout", "5s"], "--wait"),
        (&["job", "output", "ticker", "--limit", "5"], "<OUTPUT>"),
        (&["jobs"], "unrecognized subcommand"),
    ] {
        let said = user.types(line).with(2);
        assert!(said.err.contains(part) && said.out.is_empty(), "{said:?}");
    }
    for verb in ["show", "status", "watch", "explain", "output", "stop", "cancel", "pause", "resume", "delete"] {
        let said = user.types(&["job", verb, "job-00000000000000000000000000000001"]).with(4);
        assert!(said.err.starts_with("error: no such job: job-0"), "{said:?}");
        user.types(&["job", verb, "nobody"]).with(4);
    }
    let said = user.types(&["job", "output", "ticker", "ticks"]).with(1);
    assert!(said.err.contains("the job's outputs: none"), "of two jobs of that name one runs, and is meant: {said:?}");
    user.submits(&["ticker"]);
    let said = user.types(&["job", "stop", "ticker"]).with(4);
    assert!(said.err.contains("2 jobs are meant by `ticker`: say which by its id"), "{said:?}");
    user.well(&["jobmanager", "stop", "--cancel"]);
}

#[test]
fn scripts_get_json() {
    let user = User::with_node();
    let text = user.file("text", "a\n");
    let json = |line: &[&str]| user.types(&[line, &["--format", "json"]].concat());
    let submitted = json(&["job", "submit", "word-count", &count(&text), "--autostop", "--wait"]).with(0).json();
    assert_eq!((&submitted["outcome"], &submitted["state"]), (&"completed".into(), &"ended".into()));
    let id = submitted["id"].as_str().expect("it has an id");
    let shown = json(&["job", "show", id]).with(0).json();
    assert_eq!((&shown["outputs"][0], &shown["dead_letters"]["total"]), (&"counts".into(), &0.into()));
    let items: u64 = shown["tasks"].as_array().unwrap().iter().map(|task| task["items_in"].as_u64().unwrap()).sum();
    assert_eq!(items, 2, "one line, and one word");
    assert_eq!(json(&["job", "list"]).with(0).json()[0]["id"], *id);
    assert_eq!(json(&["job", "explain", id]).with(0).json()["state"], "ended");
    assert_eq!(json(&["job", "output", id]).with(0).json()[0]["items"], "(string, u64)");
    let watched = json(&["job", "watch", id]).with(0);
    let snapshots: Vec<Value> = watched.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(snapshots.last().map(|last| last["outcome"].clone()), Some("completed".into()));
    assert_eq!(json(&["health"]).with(0).json()["accepting"], true);
    assert_eq!(json(&["info"]).with(0).json()["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(json(&["jobmanager", "status"]).with(0).json()["state"], "running");
    let version = json(&["version"]).with(0).json();
    assert_eq!(version["jobs"][0]["name"], "word-count");
    assert_eq!(version["jobs"][1]["optional"], serde_json::json!(["interval_ms", "readable"]));
    assert_eq!(json(&["job", "cleanup"]).with(0).json()["removed"], 1);
    let refused = json(&["job", "show", "nobody"]).with(4);
    let error: Value = serde_json::from_str(&refused.err).expect("errors are JSON too");
    assert_eq!(error["exit_code"], 4);
    assert_eq!(json(&["jobmanager", "stop"]).with(0).json()["state"], "stopped");
    user.types(&["health"]).with(3);
}
