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
    assert!(version.contains("job word-count: WordCount { file: string }\n"), "{version}");
    let ticker = "job ticker: Ticker { interval_ms: u64, readable: bool } (may be left out: interval_ms, readable)\n";
    assert!(version.contains(ticker), "{version}");
    // The address is in a variable here, and was not typed.
    let usage = user.types(&["job", "submit"]).with(2);
    assert!(usage.err.contains("Usage: ") && !usage.err.contains("--address"), "{usage:?}");
    assert_eq!(user.well(&["--version"]), format!("proscenium {}\n", env!("CARGO_PKG_VERSION")));
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = user.well(&["completions", shell]);
        assert!(script.contains("proscenium") && script.contains("word") | script.contains("jobmanager"), "{script}");
    }
}

#[test]
fn a_reader_that_goes_is_told_nothing_and_the_exit_code_says_so() {
    let mut user = User::new();
    let text: String = (0..20_000).map(|n| format!("word{n}\n")).collect();
    let text = user.file("text", &text);
    user.start_node(&[]);
    user.submits(&["word-count", &count(&text), "--autostop", "--wait"]);
    for line in
        [&["run", "word-count", &count(&text), "--output", "counts"][..], &["job", "output", "word-count", "counts"]]
    {
        let mut command = user.command(line);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = on_a_thread(&line.join(" "), move || {
            let mut child = command.spawn().unwrap();
            drop(child.stdout.take());
            child.wait_with_output().unwrap()
        });
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        // As if by SIGPIPE, which ends other tools.
        assert_eq!(output.status.code(), Some(141), "{line:?}");
    }
    user.well(&["jobmanager", "stop"]);
}

#[test]
fn a_field_that_the_job_does_not_have_is_refused_and_the_nearest_named() {
    let user = User::new();
    for verb in [&["run"][..], &["job", "submit"]] {
        let said = user.types(&[verb, &["ticker", r#"{"intervalms": 5}"#]].concat()).with(2);
        assert!(said.err.contains("there is no field `intervalms`; is `interval_ms` meant?"), "{said:?}");
    }
    let said = user.types(&["job", "submit", "word-count", r#"{"flie": "x"}"#]).with(2);
    assert!(said.err.contains("no field `flie`; is `file` meant?; they have the structure WordCount"), "{said:?}");
    // Nothing is sent for its being wrong, so nobody is asked for a node either.
    assert!(!said.err.contains("key"), "{said:?}");
}

#[test]
fn whatever_keeps_a_node_from_being_reached_has_its_exit_code() {
    let user = User::with_node();
    let types = |address: &str, more: &[&str]| user.types(&[&["job", "list", "--address", address], more].concat());
    for address in ["no-such-host.invalid:7", "no-such-host.invalid", "127.0.0.1:1"] {
        let said = types(address, &[]).with(3);
        assert!(said.err.starts_with("error: no node could be reached at "), "{said:?}");
    }
    // Whether somebody listens there or not: it is none that has this user's key.
    for (address, in_full) in [("127.0.0.1", "127.0.0.1:19001"), ("[::1]", "[::1]:19001"), ("::1", "[::1]:19001")] {
        let said = types(address, &[]).with(3);
        assert!(said.err.contains(in_full), "{said:?}");
    }
    for address in ["node:", "node:http", "node:65536", ":19001", "http://node:7", ""] {
        let said = types(address, &[]).with(2);
        assert!(said.err.contains("is no address of a node") && said.out.is_empty(), "{said:?}");
    }
    let other = user.file("other.key", &"ab".repeat(32));
    std::fs::set_permissions(&other, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let said = types(&user.address, &["--key-file", other.to_str().unwrap()]).with(3);
    assert!(said.err.contains("but no connection came about: the peer refused: the key"), "{said:?}");
    let broken = user.file("broken.key", "no key");
    std::fs::set_permissions(&broken, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let said = types(&user.address, &["--key-file", broken.to_str().unwrap()]).with(2);
    assert!(said.err.contains("cannot be used") && said.err.contains("broken.key is malformed"), "{said:?}");
    // A file that is named and is not there is one rule, whatever is in it.
    for flag in ["--key-file", "--tls-pin", "--tls-authorities", "--config"] {
        let said = types(&user.address, &[flag, "/nowhere/to/be/found"]).with(2);
        assert!(said.err.contains("/nowhere/to/be/found"), "{said:?}");
    }
    types(&user.address, &["--tls-pin", broken.to_str().unwrap()]).with(2);
    user.well(&["jobmanager", "stop"]);
}

/// An empty variable used to count as none, so that another key was taken than the one meant.
#[test]
fn a_variable_with_an_empty_or_malformed_key_is_an_error() {
    let user = User::with_node();
    let with = |variable: &str, value: &str| {
        let output = user.command(&["job", "list"]).env(variable, value).output().expect("the program can be run");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for variable in ["PROSCENIUM_KEY", "PROSCENIUM_KEY_FILE"] {
        let (code, said) = with(variable, "");
        assert!(code == Some(2) && said.contains(&format!("the variable {variable} is set, and empty")), "{said}");
    }
    let (code, said) = with("PROSCENIUM_KEY", "sesame");
    assert!(code == Some(2) && said.contains("the key in PROSCENIUM_KEY is malformed: "), "{said}");
    assert!(!said.contains("sesame"), "{said}");
    user.well(&["jobmanager", "stop"]);
}

#[test]
fn parameters_that_are_no_json_are_told_how_to_be_written() {
    let user = User::new();
    for verb in [&["run"][..], &["job", "submit"]] {
        let said = user.types(&[verb, &["word-count", "file=x"]].concat()).with(2);
        assert!(
            said.err.contains("they are not JSON (") && said.err.contains(r#"such as {"file":"text"}"#),
            "{said:?}"
        );
    }
}

#[test]
fn a_broken_configuration_is_named_and_keeps_nobody_from_the_version() {
    let user = User::new();
    user.file("config.toml", "[node]\nlimit = [\"speed=9\"]\n");
    for flags in [&[][..], &["--daemon"]] {
        let said = user.types(&[&["jobmanager", "start"], flags].concat()).with(2);
        assert!(said.err.contains("config.toml: there is no limit `speed`"), "{said:?}");
    }
    user.file("config.toml", "adress = 7");
    assert!(user.well(&["version"]).contains("job word-count"));
    user.types(&["health"]).with(2);
}

#[test]
fn a_lease_is_some_time_and_a_number_alone_is_seconds() {
    let user = User::new();
    for none in ["0", "0s"] {
        let said = user.types(&["job", "submit", "ticker", "--lease", none]).with(2);
        assert!(said.err.contains("a lease of no time would stop the job"), "{said:?}");
    }
    assert!(user.well(&["job", "submit", "--help"]).contains("number alone is seconds"));
}

#[test]
fn what_is_wrong_is_told_in_one_line_and_nothing_else_is() {
    let user = User::with_node();
    user.file("config.toml", "format = \"human\"\nadress = \"node:7\"\n");
    let said = user.types(&["job", "list"]).with(2);
    assert!(said.err.contains("config.toml, line 2: unknown field `adress`"), "{said:?}");
    assert!(said.err.lines().count() == 1 && !said.err.contains("\\n"), "{said:?}");
    std::fs::remove_file(user.home.path().join("config.toml")).unwrap();
    let folder = user.home.path().join("another");
    // Somebody listens there.
    let line = ["jobmanager", "start", "--address", &user.address, "--data-folder", folder.to_str().unwrap()];
    let said = user.types(&line).with(1);
    assert!(said.err.starts_with("error: the node cannot listen at ") && said.err.lines().count() == 1, "{said:?}");
    user.well(&["jobmanager", "stop"]);
}
