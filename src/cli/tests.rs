//! What can be told of the command line without a node.

use std::{fs, path::PathBuf, time::SystemTime};

use clap::{CommandFactory, Parser};

use super::{
    args::{Arguments, Common, Format, duration},
    find,
    settings::{self, KeyChoice, Settings},
    table,
};
use crate::job::{JobId, JobState, JobStatus, Limits};

fn job(id: &str, name: &str) -> JobStatus {
    JobStatus {
        id: format!("job-{id:0<32}").parse().expect("it is an id"),
        name: name.to_owned(),
        state: JobState::Running,
        outcome: None,
        autostop: false,
        version: 1,
        task_count: 0,
        service_count: 0,
        restarts: 0,
        attempt: 1,
        last_failure: None,
        dead_letters: 0,
        warnings: Vec::new(),
        submitted_at: SystemTime::now(),
        started_at: None,
        ended_at: None,
        lease: None,
        held_by: None,
        tasks: Vec::new(),
        services: Vec::new(),
    }
}

#[test]
fn the_command_line_is_consistent() {
    Arguments::command().debug_assert();
}

#[test]
fn options_stand_before_or_behind_the_command() {
    for line in ["p --format json job list", "p job --format json list", "p job list --format json"] {
        let arguments = Arguments::try_parse_from(line.split(' ')).expect(line);
        assert_eq!(arguments.common.format, Some(Format::Json), "{line}");
    }
    for line in ["p", "p job", "p job submit", "p job show", "p jobmanager start --task-threads 0", "p job list x"] {
        assert_eq!(Arguments::try_parse_from(line.split(' ')).expect_err(line).exit_code(), 2, "{line}");
    }
}

#[test]
fn a_number_of_seconds_is_a_time() {
    assert_eq!(duration("300").map(|time| time.as_secs()), Ok(300));
    assert_eq!(duration("1h 30m").map(|time| time.as_secs()), Ok(5400));
    assert!(duration("soon").is_err());
}

#[test]
fn a_job_is_found_by_its_name_or_the_beginning_of_its_id() {
    let jobs = [job("abcd1", "one"), job("abcd2", "two"), job("ffff", "two"), job("1234", "abcd1")];
    let id = |index: usize| -> Result<JobId, String> { Ok(jobs[index].id) };
    let choose = |text: &str| find::choose_for_test(&jobs, text);
    assert_eq!(choose("one"), id(0));
    assert_eq!(choose("abcd1"), id(3), "a name counts before an id");
    assert_eq!(choose("job-abcd1"), id(0));
    assert_eq!(choose("FFFF"), id(2));
    assert!(choose("abcd").unwrap_err().contains("2 jobs are meant by `abcd`"));
    let error = choose("two").unwrap_err();
    assert!(error.contains(&jobs[1].id.to_string()) && error.contains(&jobs[2].id.to_string()), "{error}");
    let mut ended = jobs.clone();
    ended[1].state = JobState::Ended;
    assert_eq!(find::choose_for_test(&ended, "two"), Ok(jobs[2].id), "the other one has ended");
    for text in ["", "fff", "three", "abcd3", "job-"] {
        assert!(choose(text).unwrap_err().starts_with("no job is called"), "{text}");
    }
}

#[test]
fn ids_are_shown_as_long_as_it_takes_to_tell_them_apart() {
    let jobs = [job("0123456789a", "x"), job("0123456789b", "x")];
    assert_eq!(find::digits_needed(&jobs), 11);
    assert_eq!(find::digits_needed(&jobs[..1]), 8);
    assert_eq!(find::short(jobs[1].id, 11), "job-0123456789b");
}

#[test]
fn a_limit_is_changed_by_its_name() {
    let changes = ["ended_jobs_max=7", "call_deadline=1m", "ended_jobs_max=8"].map(str::to_owned);
    let limits = settings::limits(&changes).map_err(|failure| failure.message).unwrap();
    let wanted = Limits { ended_jobs_max: 8, call_deadline: std::time::Duration::from_secs(60), ..Limits::default() };
    assert_eq!(limits, wanted);
    for (change, part) in [
        ("ended_jobs=7", "the limits are batch_items, "),
        ("ended_jobs_max", "NAME=VALUE"),
        ("ended_jobs_max=-1", "no whole number"),
        ("call_deadline=soon", "is no time"),
    ] {
        let error = settings::limits(&[change.to_owned()]).unwrap_err().message;
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn a_flag_counts_before_the_file_and_a_mistake_in_the_file_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    let common = |flags: Common| Common { config: Some(path.clone()), key_file: Some("k".into()), ..flags };
    let text = "address = \"a:1\"\nformat = \"json\"\n[node]\ntask_threads = 3\nlimit = [\"ended_jobs_max=1\"]\n";
    fs::write(&path, text).unwrap();
    let load = |flags: Common| Settings::load(&common(flags), false).map_err(|failure| failure.message);
    let settings = load(Common::default()).unwrap();
    assert_eq!((&*settings.address, settings.format, settings.node.task_threads), ("a:1", Format::Json, Some(3)));
    assert!(matches!(settings.key, KeyChoice::File(path) if path.is_absolute()));
    let flags = Common { address: Some("b:2".to_owned()), format: Some(Format::Human), ..Common::default() };
    let settings = load(flags).unwrap();
    assert_eq!((&*settings.address, settings.format), ("b:2", Format::Human));
    for text in ["adress = \"a:1\"", "[node]\nthreads = 3", "format = 7", "= ="] {
        fs::write(&path, text).unwrap();
        let error = load(Common::default()).unwrap_err();
        assert!(error.contains("config.toml"), "{error}");
    }
    let missing = Common { config: Some(PathBuf::from("/nowhere/config.toml")), ..Common::default() };
    assert!(Settings::load(&missing, false).unwrap_err().message.contains("cannot be read"));
}

#[test]
fn what_would_steer_a_terminal_is_shown() {
    assert_eq!(table::clean("a\u{1b}[2Jb\nc"), "a\\u{1b}[2Jb\\nc");
    assert_eq!(table::clean("größe"), "größe");
    let table = table::table(["A", "B"], [["\u{7}".to_owned(), "x".to_owned()]]);
    assert!(table.contains("\\u{7}  x"), "{table}");
}
