//! Rows and files in which something is wrong.

use std::{io::Write, os::unix::fs::FileExt, path::PathBuf};

use proscenium::{
    CsvSink, Environment, ErrorPolicy, FailureCause, Job, JobHandle, JobState, JsonLinesSink, Limits, Outcome,
    TaskError,
};
use serde::{Deserialize, Serialize};

use super::{JsonLines, Kind, Person, Read, Records, Rows, packed, person};
use crate::support::{
    block_on, deadline, each_environment, each_environment_with, ended, job, reached, read, registered, sorted,
};

async fn run(env: &dyn Environment, parallelism: usize, policy: ErrorPolicy, job: impl Job) -> (JobHandle, Outcome) {
    let job = env.submit(job).autostop(true).parallelism(parallelism).error_policy(policy);
    let job = deadline("submit", job).await.unwrap();
    let outcome = ended(&job).await;
    (job, outcome)
}

fn failure(outcome: &Outcome) -> (&str, u64, &str) {
    match outcome.failure() {
        Some(FailureCause::Operator { operator, position, message, .. }) => (operator, *position, message),
        _ => panic!("not failed by an operator but {outcome}"),
    }
}

/// The causes of the dead letters of a job that completed, in order, and the people it read.
async fn set_aside(env: &dyn Environment, parallelism: usize, job: impl Job) -> (Vec<String>, Vec<Person>) {
    let (job, outcome) = run(env, parallelism, ErrorPolicy::Skip, job).await;
    assert_eq!(outcome, Outcome::Completed);
    let letters = job.dead_letters().await.unwrap().newest;
    (sorted(letters.into_iter().map(|letter| letter.cause)), sorted(read::<Person>(&job, "out").await))
}

const BAD_CSV: &[u8] = b"name,age,town\n\
    Ada,36,London\n\
    Bob,old,Rome\n\
    Cleo,40\n\
    \n\
    D\xff,1,x\n\
    Eve,7,\"Bonn\"\n\
    Fay,,x\n\
    Gus,1,x,y\n\
    Hal,300,x\n\
    Ivy,8,\"Bonn";

#[test]
fn each_bad_record_is_a_dead_letter_that_names_file_line_field_and_cause() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), BAD_CSV).unwrap();
    let path = file.path().display();
    let causes = sorted([
        format!("`{path}`, line 3, field `age`: invalid digit found in string"),
        format!("`{path}`, line 4: 2 fields where the first record has 3"),
        format!("`{path}`, line 6: invalid UTF-8 at byte 2 of the row"),
        format!("`{path}`, line 8, field `age`: cannot parse integer from empty string"),
        format!("`{path}`, line 9: 4 fields where the first record has 3"),
        format!("`{path}`, line 10, field `age`: number too large to fit in target type"),
        format!("`{path}`, line 11: a quoted field is not closed"),
    ]);
    let good = [person("Ada", 36, "London"), person("Eve", 7, "Bonn")];
    each_environment(async |env| {
        for (rows, parallelisms) in [(Rows::Quoted, 1..3), (Rows::Lines, 1..9)] {
            for parallelism in parallelisms {
                let job = Records { path: file.path().to_owned(), rows };
                let (letters, people) = set_aside(env, parallelism, job).await;
                assert_eq!(letters, causes, "{rows:?} in {parallelism} parts");
                assert_eq!(people, good);
            }
        }
    });
}

#[test]
fn under_the_policy_fail_the_first_bad_record_fails_the_job_and_those_before_it_count() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "name,age,town\n\"A\nda\",36,London\nBob,5,Rome\nCleo,-1,x\n").unwrap();
    each_environment(async |env| {
        let job = Records { path: file.path().to_owned(), rows: Rows::Quoted };
        let (_, outcome) = run(env, 2, ErrorPolicy::Fail, job).await;
        let message = format!("`{}`, line 5, field `age`: invalid digit found in string", file.path().display());
        assert_eq!(failure(&outcome), ("read_csv", 3, &*message));
    });
}

const BAD_JSON: &[u8] = b"{\"name\":\"Ada\",\"age\":36}\n\
    \n\
    {\"name\":\"Bob\"}\n\
    {\"name\":\"Cleo\",\"age\":4,\"town\":\"x\"}\n\
    {\"name\":\"D\xff\",\"age\":4}\n\
    {\"name\":\"Eve\",\n\
    \"age\":4}\n\
    []\n";

#[test]
fn each_bad_line_of_json_is_a_dead_letter_from_whichever_part_it_is_read() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), BAD_JSON).unwrap();
    let path = file.path().display();
    let causes = sorted([
        format!("`{path}`, line 3, column 14: missing field `age`"),
        format!("`{path}`, line 5: invalid UTF-8 at byte 11 of the row"),
        format!("`{path}`, line 6, column 14: EOF while parsing a value"),
        format!("`{path}`, line 7, column 5: invalid type: string \"age\", expected struct Person"),
        format!("`{path}`, line 8, column 2: invalid length 0, expected struct Person with 3 elements"),
    ]);
    let good = [person("Ada", 36, ""), person("Cleo", 4, "x")];
    each_environment(async |env| {
        for parallelism in [1, 2, 3, 5, 40] {
            let job = JsonLines { path: file.path().to_owned() };
            let (letters, people) = set_aside(env, parallelism, job).await;
            assert_eq!(letters, causes, "in {parallelism} parts");
            assert_eq!(people, good);
        }
    });
}

#[test]
fn a_bad_line_in_the_middle_of_a_large_file_is_named_under_both_policies() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    // Several reads for each of the parts.
    let line = serde_json::to_string(&person("one of many", 1, &"x".repeat(100))).unwrap() + "\n";
    let bad = 9_000;
    file.write_all((line.repeat(bad) + "oops\n" + &line.repeat(1_000)).as_bytes()).unwrap();
    let cause = format!("`{}`, line {}, column 1: expected value", file.path().display(), bad + 1);
    each_environment(async |env| {
        for parallelism in [1, 4] {
            let job = || JsonLines { path: file.path().to_owned() };
            let (letters, people) = set_aside(env, parallelism, job()).await;
            assert_eq!((letters, people.len()), (vec![cause.clone()], 10_000));
            let (_, outcome) = run(env, parallelism, ErrorPolicy::Fail, job()).await;
            let (operator, _, message) = failure(&outcome);
            assert_eq!((operator, message), ("read_json_lines", &*cause));
        }
    });
}

#[test]
fn a_header_that_cannot_be_read_fails_the_job_whatever_the_policy() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), b"n\xe4me,age,town\nAda,1,x\n").unwrap();
    each_environment(async |env| {
        for rows in [Rows::Quoted, Rows::Lines] {
            let job = Records { path: file.path().to_owned(), rows };
            let (_, outcome) = run(env, 2, ErrorPolicy::Skip, job).await;
            let why = "line 2: the header cannot be read: invalid UTF-8 at byte 2 of the row";
            assert_eq!(failure(&outcome), ("read_csv", 1, &*format!("`{}`, {why}", file.path().display())));
        }
    });
}

#[test]
fn compressed_data_that_are_damaged_or_end_too_early_fail_the_job_whatever_the_policy() {
    let folder = tempfile::tempdir().unwrap();
    let whole = packed(&"{\"name\":\"Ada\",\"age\":36}\n".repeat(10));
    let mut damaged = whole.clone();
    let checksum = damaged.len() - 8;
    damaged[checksum] ^= 1;
    let too_early = "its compressed data end too early";
    let cases = [
        (whole[..whole.len() - 1].to_vec(), too_early),
        (whole[..20].to_vec(), too_early),
        (Vec::new(), too_early),
        (damaged, "corrupt gzip stream does not have a matching checksum"),
        ([&whole[..], b"more than that"].concat(), "invalid gzip header"),
    ];
    each_environment(async |env| {
        for (bytes, why) in &cases {
            let path = folder.path().join("people.gz");
            std::fs::write(&path, bytes).unwrap();
            let (_, outcome) = run(env, 1, ErrorPolicy::Skip, JsonLines { path: path.clone() }).await;
            let (operator, _, message) = failure(&outcome);
            assert_eq!((operator, message), ("files", &*format!("cannot read `{}`: {why}", path.display())));
        }
    });
}

job!(Changing { path: PathBuf, change: Change, kind: Kind }, |this, flow| {
    match this.kind {
        Kind::Csv => flow.read_csv::<Person>(Rows::Lines.of(&this.path)).collect("out"),
        _ => flow.read_json_lines::<Person>(&this.path).collect("out"),
    }
    match this.change {
        Change::Vanish => std::fs::remove_file(&this.path)?,
        Change::Shrink => std::fs::write(&this.path, "\n")?,
        Change::Grow => std::fs::OpenOptions::new().append(true).open(&this.path)?.write_all(b"oops\n")?,
    }
});

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Change {
    Vanish,
    Shrink,
    Grow,
}

#[test]
fn a_file_that_is_gone_or_shorter_by_the_time_it_is_read_fails_the_job_and_what_was_appended_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("changing");
    let shown = path.display();
    let gone = format!("cannot read `{shown}`: No such file or directory (os error 2)");
    let shorter = format!("`{shown}` has become shorter while it was read");
    each_environment(async |env| {
        for kind in [Kind::Json, Kind::Csv] {
            let text = match kind {
                Kind::Csv => "name,age,town\nAda,36,\n",
                _ => "{\"name\":\"Ada\",\"age\":36}\n",
            };
            for (change, message) in
                [(Change::Vanish, Some(&gone)), (Change::Shrink, Some(&shorter)), (Change::Grow, None)]
            {
                std::fs::write(&path, text).unwrap();
                let (job, outcome) =
                    run(env, 1, ErrorPolicy::Skip, Changing { path: path.clone(), change, kind }).await;
                match message {
                    Some(message) => {
                        assert_eq!((failure(&outcome).0, failure(&outcome).2), ("files", message.as_str()))
                    }
                    None => assert_eq!(read::<Person>(&job, "out").await, [person("Ada", 36, "")]),
                }
            }
        }
    });
}

#[test]
fn a_row_of_more_than_64_mib_fails_the_job_and_is_named() {
    const MIB: u64 = 1 << 20;
    let csv = tempfile::NamedTempFile::new().unwrap();
    csv.as_file().write_all_at(b"name,age,town\nAda,36,\"\n\"\n", 0).unwrap();
    // Without anything on the disk.
    csv.as_file().set_len(70 * MIB).unwrap();
    // The second of two parts begins in the second line, and the third is too long.
    let json = tempfile::NamedTempFile::new().unwrap();
    json.as_file().set_len(150 * MIB).unwrap();
    for end in [40 * MIB, 79 * MIB] {
        json.as_file().write_all_at(b"\n", end).unwrap();
    }
    let env = proscenium::LocalEnvironment::new("long");
    for (file, kind, line) in [(csv, Kind::Csv, 4), (json, Kind::Json, 3)] {
        let message = format!("`{}`, line {line}: more than 67108864 bytes before its end", file.path().display());
        let job = Read { path: file.path().to_owned(), kind };
        let (_, outcome) = block_on(run(&env, 2, ErrorPolicy::Skip, job));
        assert_eq!((failure(&outcome).0, failure(&outcome).2), ("files", message.as_str()));
    }
}

job!(Streamed { path: PathBuf }, |this, flow| {
    flow.read_json_lines::<u64>(&this.path).stream_out("live");
});

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Resume,
    Stop,
    Cancel,
}

#[test]
fn a_job_that_reads_bad_rows_can_be_paused_stopped_and_cancelled_and_a_pause_loses_nothing() {
    let file = tempfile::NamedTempFile::new().unwrap();
    // Each part has bad rows at its beginning, so that it counts the lines in front of it, and more than has room.
    let lines: Vec<String> =
        (0..8_000).map(|n| if n % 4 == 0 { "oops\n".to_owned() } else { format!("{n}\n") }).collect();
    std::fs::write(file.path(), lines.concat()).unwrap();
    let limits = Limits { port_items: 100, batch_items: 10, dead_letters_max: 10_000, ..Limits::default() };
    each_environment_with(&limits, async |env| {
        for order in [Order::Resume, Order::Stop, Order::Cancel] {
            let job = env.submit(Streamed { path: file.path().to_owned() }).autostop(true);
            let job = deadline("submit", job.parallelism(4).error_policy(ErrorPolicy::Skip)).await.unwrap();
            deadline("pause", job.pause()).await.unwrap();
            let goes_on = async {
                match order {
                    Order::Cancel => job.cancel().await.unwrap(),
                    order => {
                        reached(&job, JobState::Paused).await;
                        if order == Order::Stop { job.stop().await.unwrap() } else { job.resume().await.unwrap() }
                    }
                }
            };
            let (read, ()) = futures::join!(job.output::<u64>("live").into_future(), goes_on);
            let outcome = ended(&job).await;
            let letters = job.dead_letters().await.unwrap().newest;
            match order {
                Order::Resume => {
                    assert_eq!(outcome, Outcome::Completed);
                    assert_eq!(sorted(read.unwrap()), (0..8_000).filter(|n| n % 4 != 0).collect::<Vec<u64>>());
                    let path = file.path().display();
                    let causes = (0..8_000).step_by(4).map(|n| n + 1);
                    let causes = causes.map(|line| format!("`{path}`, line {line}, column 1: expected value"));
                    assert_eq!(sorted(letters.into_iter().map(|letter| letter.cause)), sorted(causes));
                }
                Order::Stop => assert_eq!(outcome, Outcome::Stopped),
                Order::Cancel => assert!(matches!(outcome, Outcome::Cancelled { .. }), "{outcome}"),
            }
        }
    });
}

/// Cannot always be serialized.
#[derive(Clone, Serialize, Deserialize)]
struct Moody {
    name: String,
    #[serde(serialize_with = "unless_seven")]
    age: u8,
}

fn unless_seven<S: serde::Serializer>(age: &u8, serializer: S) -> Result<S::Ok, S::Error> {
    match age {
        7 => Err(serde::ser::Error::custom("seven is too much")),
        8 => panic!("planned"),
        age => serializer.serialize_u8(*age),
    }
}

job!(BrittleRows { path: PathBuf, kind: Kind }, |this, flow| {
    let people = flow.from_batch(0..10u8).map(|age| Moody { name: format!("number {age}"), age: age + 6 });
    let path = this.path.clone();
    match this.kind {
        Kind::Csv => people.sink(move || CsvSink::create(&path)),
        _ => people.sink(move || JsonLinesSink::create(&path)),
    }
});

#[test]
fn an_item_that_cannot_be_serialized_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    each_environment(async |env| {
        for kind in [Kind::Json, Kind::Csv] {
            let path = folder.path().join("rows");
            let (job, outcome) = run(env, 1, ErrorPolicy::Skip, BrittleRows { path: path.clone(), kind }).await;
            assert_eq!(outcome, Outcome::Completed);
            assert_eq!(job.dead_letters().await.unwrap().total, 2);
            let (_, outcome) = run(env, 1, ErrorPolicy::Skip, Read { path: path.clone(), kind: Kind::Text }).await;
            assert_eq!(outcome, Outcome::Completed);
            let text = std::fs::read_to_string(&path).unwrap();
            let lines = if kind == Kind::Csv { 9 } else { 8 };
            assert_eq!(text.lines().count(), lines, "{text}");
            assert!(!text.contains("number 1\"") && !text.contains("number 2"), "{text}");
        }
    });
}

job!(FailingSink { path: PathBuf }, |this, flow| {
    let path = this.path.clone();
    let numbers = flow.from_batch(0..100_000u64).try_map(|n| match n {
        99_999 => Err(TaskError::new("the last one")),
        n => Ok(n),
    });
    numbers.sink(move || JsonLinesSink::create(&path));
});

#[test]
fn a_compressed_file_of_a_job_that_failed_is_known_to_be_a_part() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("numbers.gz");
    each_environment(async |env| {
        let (_, outcome) = run(env, 1, ErrorPolicy::Fail, FailingSink { path: path.clone() }).await;
        assert_eq!(failure(&outcome).2, "the last one");
        let (_, outcome) = run(env, 1, ErrorPolicy::Skip, Read { path: path.clone(), kind: Kind::Text }).await;
        assert!(failure(&outcome).2.ends_with("its compressed data end too early"), "{outcome}");
    });
}

registered![Streamed, Changing, BrittleRows, FailingSink];
