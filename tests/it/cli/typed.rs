//! What needs no node.

use std::process::Stdio;

use super::{User, count};
use crate::support::on_a_thread;

#[test]
fn a_job_runs_in_this_process() {
    let user = User::new();
    let text = user.file("text", "b a b\n");
    let said = user.well(&["run", "word-count", &count(&text)]);
    assert!(said.contains("outcome    completed"), "{said}");
    let said = user.well(&["run", "word-count", &count(&text), "--output", "counts", "--parallelism", "1"]);
    let mut counts: Vec<&str> = said.lines().collect();
    counts.sort_unstable();
    assert_eq!(counts, [r#"["a",1]"#, r#"["b",2]"#]);
    let said = user.types_into(&["run", "word-count", "-", "--format", "json"], &count(&text)).with(0);
    assert_eq!(said.json()["outcome"], "completed");
    // A streamed output is printed while the job runs: it would hold the job up.
    let ticker = r#"{"interval_ms": 1, "readable": true}"#;
    let said = user.types(&["run", "ticker", ticker, "--output", "ticks", "--run-limit", "300ms"]).with(12);
    assert!(said.out.starts_with("1\n2\n") && said.out.contains("run limit reached"), "{said:?}");
    let said = user.types(&["run", "ticker", "--run-limit", "5ms"]).with(12);
    assert!(said.out.contains("run limit reached"), "{said:?}");
    let said = user.types(&["run", "word-count", &count(&text), "--output", "words"]).with(1);
    assert!(said.err.contains("no output is named `words`"), "{said:?}");
}

#[test]
fn without_a_node_it_says_so() {
    let mut user = User::new();
    for line in [&["job", "list"][..], &["health"], &["info"], &["jobmanager", "status"], &["jobmanager", "stop"]] {
        let said = user.types(line).with(3);
        assert!(said.err.contains("a node makes it at its first start"), "{said:?}");
    }
    user.start_node(&[]);
    user.well(&["jobmanager", "stop"]);
    let said = user.types(&["job", "list"]).with(3);
    assert!(said.err.starts_with(&format!("error: no node could be reached at {}", user.address)), "{said:?}");
}

#[test]
fn help_version_and_completions_are_printed() {
    let user = User::new();
    assert!(user.well(&["--help"]).contains("Exit codes:"));
    assert!(user.well(&["job", "submit", "--help"]).contains("--wait-timeout"));
    let version = user.well(&["version"]);
    assert!(version.contains("job word-count: WordCount { file: string }"), "{version}");
    assert_eq!(user.well(&["--version"]), format!("proscenium {}\n", env!("CARGO_PKG_VERSION")));
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = user.well(&["completions", shell]);
        assert!(script.contains("proscenium") && script.contains("word") | script.contains("jobmanager"), "{script}");
    }
}

#[test]
fn a_reader_that_goes_is_no_error() {
    let user = User::new();
    let text: String = (0..20_000).map(|n| format!("word{n}\n")).collect();
    let text = user.file("text", &text);
    let mut command = user.command(&["run", "word-count", &count(&text), "--output", "counts"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = on_a_thread("the run", move || {
        let mut child = command.spawn().unwrap();
        drop(child.stdout.take());
        child.wait_with_output().unwrap()
    });
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.code(), Some(1));
}
