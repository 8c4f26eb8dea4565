//! Programs of users: with jobs of their own, and the whole command line. This test binary is one, if it is told to be.

use std::{
    env,
    io::{BufRead, BufReader, Read},
    process::{Command, Stdio},
};

use proscenium::{BuildError, CommandLine, Flow, Job, JobRegistry, jobs};
use serde::{Deserialize, Serialize};

use super::{Said, User};
use crate::support::on_a_thread;

/// What is typed, as JSON.
const LINE: &str = "PROSCENIUM_TEST_LINE";
/// The version of the program, if it says it.
const VERSION: &str = "PROSCENIUM_TEST_VERSION";

#[derive(Serialize, Deserialize)]
struct Upper;

impl Job for Upper {
    const NAME: &'static str = "upper";

    fn build(&self, flow: &mut Flow) -> Result<(), BuildError> {
        flow.from_batch(["a", "b"].map(str::to_uppercase)).collect("out");
        Ok(())
    }
}

#[derive(Serialize, Deserialize)]
struct Panics;

impl Job for Panics {
    const NAME: &'static str = "panics";

    fn build(&self, _: &mut Flow) -> Result<(), BuildError> {
        panic!("planned: it cannot be built");
    }
}

fn program() -> JobRegistry {
    jobs![Upper, Panics]
}

#[test]
fn a_test_binary_can_be_a_program_of_a_user() {
    let Ok(line) = env::var(LINE) else { return };
    let line: Vec<String> = serde_json::from_str(&line).unwrap();
    let program = CommandLine::new(program()).arguments([&["mine".to_owned()], &*line].concat());
    let code = match env::var(VERSION) {
        Ok(version) => program.version(version.leak()).run(),
        Err(_) => program.run(),
    };
    println!("\nended with {code:?}");
}

fn command(user: &User, words: &[&str], version: Option<&str>) -> Command {
    let mut command = Command::new(env::current_exe().expect("this is a program"));
    for variable in ["KEY", "KEY_FILE", "CONFIG", "FORMAT", "DATA", "LOG"] {
        command.env_remove(format!("PROSCENIUM_{variable}"));
    }
    command.args(["cli::programs::a_test_binary_can_be_a_program_of_a_user", "--exact", "--nocapture"]);
    command.env(LINE, serde_json::to_string(words).unwrap());
    command.env("PROSCENIUM_HOME", user.home.path()).env("PROSCENIUM_ADDRESS", &user.address);
    command.envs(version.map(|version| (VERSION, version)));
    command
}

/// What the program says, without what the test binary says around it.
fn types(user: &User, words: &[&str], version: Option<&str>) -> Said {
    let mut command = command(user, words, version);
    let output = on_a_thread(&words.join(" "), move || command.output().expect("it can be run"));
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("it prints text");
    let out = text(output.stdout);
    let (before, after) = out.split_once("\nended with ExitCode(unix_exit_status(").expect("it ends by itself");
    let code = after.split(')').next().and_then(|code| code.parse().ok());
    let said = before.split_once("running 1 test\n").map_or("", |(_, said)| said).to_owned();
    Said { code, out: said, err: text(output.stderr) }
}

#[test]
fn a_job_without_parameters_needs_none() {
    let user = User::new();
    for json in [None, Some("{}"), Some("null"), Some("")] {
        let line = [&["run", "upper"][..], &json.map(|json| vec![json]).unwrap_or_default()].concat();
        let said = types(&user, &line, None).with(0);
        assert!(said.out.contains("outcome    completed"), "{said:?}");
    }
    let said = types(&user, &["run", "upper", "{\"loud\": true}"], None).with(2);
    assert!(said.err.contains("these are no parameters of `upper`"), "{said:?}");
}

#[test]
fn a_program_says_its_own_name_and_version_or_that_of_the_library_as_such() {
    let user = User::new();
    let library = env!("CARGO_PKG_VERSION");
    let said = types(&user, &["version"], Some("7.8.9")).well();
    assert!(said.contains(&format!("mine 7.8.9 (proscenium {library})\njob upper: Upper\n")), "{said}");
    let said = types(&user, &["--version"], Some("7.8.9")).well();
    assert!(said.contains(&format!("mine 7.8.9 (proscenium {library})")), "{said}");
    for line in ["version", "--version"] {
        let said = types(&user, &[line], None).well();
        assert!(said.contains(&format!("mine (proscenium {library})")), "{said}");
    }
    let said = types(&user, &["version", "--format", "json"], Some("7.8.9")).with(0).json();
    assert_eq!((&said["program"], &said["version"]), (&"mine".into(), &"7.8.9".into()));
    let said = types(&user, &["version", "--format", "json"], None).with(0).json();
    assert_eq!((said["version"].is_null(), &said["proscenium"]), (true, &library.into()));
}

#[test]
fn a_job_that_panics_is_one_line_in_the_log_of_the_node() {
    let mut user = User::new();
    let mut command = command(&user, &["jobmanager", "start"], None);
    // Nobody has asked for it by that: it is set in many a container.
    command.env("RUST_BACKTRACE", "1").stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut node = command.spawn().unwrap();
    let mut out = BufReader::new(node.stdout.take().unwrap());
    let mut err = node.stderr.take().unwrap();
    let (address, mut out) = on_a_thread("the greeting", move || {
        let mut line = String::new();
        while !line.contains("serving at ") {
            line.clear();
            assert!(out.read_line(&mut line).unwrap() > 0, "it says where it listens");
        }
        let (_, rest) = line.split_once("serving at ").unwrap();
        (rest.split(' ').next().unwrap().to_owned(), out)
    });
    user.address = address;
    let said = types(&user, &["job", "submit", "panics"], None).with(1);
    assert!(said.err.contains("planned: it cannot be built"), "{said:?}");
    user.well(&["jobmanager", "stop"]);
    let log = on_a_thread("the end of the node", move || {
        let (mut log, mut rest) = (String::new(), String::new());
        err.read_to_string(&mut log).unwrap();
        out.read_to_string(&mut rest).unwrap();
        assert!(node.wait().unwrap().success());
        log
    });
    let panics = log.lines().filter(|line| line.contains("a panic")).collect::<Vec<_>>();
    assert!(matches!(&panics[..], [line] if line.contains("planned") && line.contains("programs.rs")), "{log}");
    assert!(log.lines().count() < 10, "{log}");
}
