//! Files that people have, read and written: text, JSON lines, CSV, compressed or not, one or a folder of them.

mod bad;
mod properties;

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use flate2::{Compression, write::GzEncoder};
use proscenium::{
    BuildRefusal, Csv, CsvSink, Environment, FilePosition, Job, JsonLinesSink, LineSink, More, Outcome, Part as _,
    ReplayableSource as _, TextFiles,
};
use serde::{Deserialize, Serialize};

use crate::support::{completed, deadline, each_environment, ended, job, output_of, read, refusal, registered, sorted};

/// What rows are made into.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Person {
    name: String,
    age: u8,
    town: Option<String>,
}

fn person(name: &str, age: u8, town: &str) -> Person {
    Person { name: name.to_owned(), age, town: Some(town.to_owned()).filter(|town| !town.is_empty()) }
}

job!(Text { path: PathBuf }, |this, flow| {
    flow.from_batch(TextFiles::lines(&this.path)).collect("out");
});

job!(JsonLines { path: PathBuf }, |this, flow| {
    flow.read_json_lines::<Person>(&this.path).collect("out");
});

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Rows {
    Quoted,
    Lines,
}

impl Rows {
    fn of(self, path: &Path) -> Csv {
        match self {
            Self::Quoted => Csv::new(path),
            Self::Lines => Csv::new(path).one_record_per_line(),
        }
    }
}

job!(Records { path: PathBuf, rows: Rows }, |this, flow| {
    flow.read_csv::<Person>(this.rows.of(&this.path)).collect("out");
});

job!(Headless { path: PathBuf, rows: Rows }, |this, flow| {
    let csv = this.rows.of(&this.path).without_header().delimiter(b';');
    flow.read_csv::<Vec<String>>(csv).collect("out");
});

fn packed(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

async fn with<T>(env: &dyn Environment, parallelism: usize, job: impl Job) -> Vec<T>
where
    T: serde::de::DeserializeOwned + Send + 'static,
{
    let job = deadline("submit", env.submit(job).autostop(true).parallelism(parallelism)).await.unwrap();
    assert_eq!(ended(&job).await, Outcome::Completed);
    read(&job, "out").await
}

#[test]
fn the_files_of_a_folder_are_read_in_order_of_name_and_other_things_in_it_are_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("b"), "three\r\nfour").unwrap();
    std::fs::write(at("a"), "\u{feff}one\n\ntwo\n").unwrap();
    std::fs::write(at("c"), "").unwrap();
    std::fs::write(at(".hidden"), "hidden\n").unwrap();
    std::fs::create_dir(at("bb")).unwrap();
    std::fs::write(at("bb/inside"), "inside\n").unwrap();
    // Two members, and a third without anything in it.
    std::fs::write(at("d.gz"), [packed("five\nsi"), packed("x\nseven"), packed("")].concat()).unwrap();
    let lines = ["one", "", "two", "three", "four", "five", "six", "seven"];
    each_environment(async |env| {
        let path = folder.path().to_owned();
        assert_eq!(with::<String>(env, 1, Text { path: path.clone() }).await, lines);
        for parallelism in 2..=9 {
            let out: Vec<String> = with(env, parallelism, Text { path: path.clone() }).await;
            assert_eq!(sorted(out), sorted(lines.map(str::to_owned)), "in {parallelism} parts");
        }
    });
}

#[test]
fn parts_can_be_read_without_a_job_as_many_lines_at_a_time_as_are_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a"), "1\n2\n3\n4\n5\n").unwrap();
    std::fs::write(folder.path().join("b.gz"), packed("6\n7")).unwrap();
    for parts in [1, 2, 3] {
        let mut lines = Vec::new();
        let mut source = TextFiles::lines(folder.path());
        for split in source.splits(parts).unwrap() {
            let mut part = source.open(split, FilePosition::default()).unwrap();
            loop {
                let mut some = Vec::new();
                let more = part.read(&mut some, 2).unwrap();
                assert!(some.len() <= 2);
                lines.extend(some);
                if more == More::No {
                    break;
                }
            }
        }
        assert_eq!(sorted(lines), ["1", "2", "3", "4", "5", "6", "7"]);
    }
}

#[test]
fn an_empty_folder_and_an_empty_file_are_sources_of_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    each_environment(async |env| {
        for path in [folder.path(), file.path()] {
            let path = path.to_owned();
            assert!(with::<String>(env, 3, Text { path: path.clone() }).await.is_empty());
            assert!(with::<Person>(env, 3, JsonLines { path: path.clone() }).await.is_empty());
            for rows in [Rows::Quoted, Rows::Lines] {
                assert!(with::<Person>(env, 3, Records { path: path.clone(), rows }).await.is_empty());
            }
        }
    });
}

#[test]
fn json_lines_are_read_in_parallel_and_blank_ones_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let people = [person("Ada", 36, ""), person("Äneas, \"the first\"", 7, "Троя"), person("日本", 0, "x\ny")];
    let text: String = people.iter().map(|one| serde_json::to_string(one).unwrap() + "\r\n \t\n\n").collect();
    std::fs::write(folder.path().join("1.jsonl"), format!("\u{feff}\n{text}")).unwrap();
    std::fs::write(folder.path().join("2.jsonl.gz"), packed(text.trim_end())).unwrap();
    each_environment(async |env| {
        for parallelism in 1..=4 {
            let out: Vec<Person> = with(env, parallelism, JsonLines { path: folder.path().to_owned() }).await;
            assert_eq!(sorted(out), sorted(people.iter().chain(&people).cloned()), "in {parallelism} parts");
        }
    });
}

#[test]
fn each_file_of_csv_has_a_header_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("1.csv"), "\u{feff}\"name\",age,town\r\nAda,36,London\r\n\r\nBob,5,\r\n").unwrap();
    std::fs::write(at("2.csv"), "\n\nage,more,town,name\n40,x,\"Paris, \"\"TX\"\"\",Cleo").unwrap();
    std::fs::write(at("3.csv.gz"), packed("town,name,age\nRome,Dora,9\n")).unwrap();
    std::fs::write(at("4.csv"), "name,age,town\n").unwrap();
    let people = [
        person("Ada", 36, "London"),
        person("Bob", 5, ""),
        person("Cleo", 40, "Paris, \"TX\""),
        person("Dora", 9, "Rome"),
    ];
    each_environment(async |env| {
        for rows in [Rows::Quoted, Rows::Lines] {
            let job = || Records { path: folder.path().to_owned(), rows };
            assert_eq!(with::<Person>(env, 1, job()).await, people, "{rows:?}");
            for parallelism in [2, 3, 8, 30] {
                let out: Vec<Person> = with(env, parallelism, job()).await;
                assert_eq!(sorted(out), people, "{rows:?} in {parallelism} parts");
            }
        }
    });
}

#[test]
fn without_a_header_the_first_record_is_one_like_the_others() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "a;b\n\"c;d\";\n;\n").unwrap();
    each_environment(async |env| {
        for rows in [Rows::Quoted, Rows::Lines] {
            let out: Vec<Vec<String>> = with(env, 1, Headless { path: file.path().to_owned(), rows }).await;
            assert_eq!(out, [["a", "b"], ["c;d", ""], ["", ""]]);
        }
    });
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Kind {
    Text,
    Json,
    Csv,
}

const KINDS: [(Kind, &str); 3] = [(Kind::Text, "from_batch"), (Kind::Json, "read_json_lines"), (Kind::Csv, "read_csv")];

job!(Read { path: PathBuf, kind: Kind }, |this, flow| {
    match this.kind {
        Kind::Text => flow.from_batch(TextFiles::lines(&this.path)).collect("out"),
        Kind::Json => flow.read_json_lines::<Person>(&this.path).collect("out"),
        Kind::Csv => flow.read_csv::<Person>(&this.path).collect("out"),
    }
});

#[test]
fn a_path_that_cannot_be_read_refuses_the_flow_and_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (missing, broken) = (folder.path().join("missing"), folder.path().join("broken"));
    std::os::unix::fs::symlink("nowhere", &broken).unwrap();
    let none = "No such file or directory (os error 2)";
    let cases = [
        (missing.clone(), format!("cannot read `{}`: {none}", missing.display())),
        (folder.path().to_owned(), format!("cannot read `{}`: {none}", broken.display())),
        (PathBuf::from("/dev/null"), "`/dev/null` is neither a regular file nor a folder".to_owned()),
    ];
    each_environment(async |env| {
        for (kind, source_name) in KINDS {
            for (path, message) in &cases {
                let refused = refusal(env, Read { path: path.clone(), kind }).await;
                let source_name = source_name.to_owned();
                assert_eq!(refused, BuildRefusal::Source { source_name, message: message.clone() });
            }
        }
    });
}

job!(Quotes { path: PathBuf }, |this, flow| {
    flow.read_csv::<Person>(Csv::new(&this.path).delimiter(b'"')).collect("out");
});

#[test]
fn a_delimiter_that_separates_nothing_refuses_the_flow() {
    let file = tempfile::NamedTempFile::new().unwrap();
    each_environment(async |env| {
        let refused = refusal(env, Quotes { path: file.path().to_owned() }).await;
        assert_eq!(refused.to_string(), "source `read_csv`: '\"' separates no fields");
    });
}

job!(Written { people: Vec<Person>, path: PathBuf, kind: Kind, instances: usize }, |this, flow| {
    let people = flow.from_batch(this.people.clone()).rebalance(this.instances);
    let path = this.path.clone();
    match this.kind {
        Kind::Text => people.map(|one| one.name).sink(move || LineSink::create(&path)),
        Kind::Json => people.sink(move || JsonLinesSink::create(&path)),
        Kind::Csv => people.sink(move || CsvSink::create(&path)),
    }
});

#[test]
fn what_sinks_have_written_is_read_back_from_the_folder() {
    let people: Vec<Person> = (0..200_u8)
        .map(|n| person(&format!("number \"{n}\"\r\nof, 200"), n, ["", "Köln"][usize::from(n % 2)]))
        .collect();
    each_environment(async |env| {
        for (kind, _) in KINDS {
            for (name, instances) in [("rows", 1), ("rows", 3), ("rows.gz", 1), ("rows.gz", 3)] {
                let folder = tempfile::tempdir().unwrap();
                let (people, path) = (people.clone(), folder.path().join(name));
                let names = sorted(people.iter().flat_map(|one| one.name.lines()).map(str::to_owned));
                completed(env, Written { people: people.clone(), path, kind, instances }).await;
                let files = sorted(std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()));
                assert_eq!(files.len(), instances);
                assert_eq!(
                    files.last().unwrap().to_str().unwrap(),
                    match (name, instances) {
                        ("rows.gz", 3) => "rows.2.gz",
                        (name, 1) => name,
                        _ => "rows.2",
                    }
                );
                let read = Read { path: folder.path().to_owned(), kind };
                match kind {
                    Kind::Text => assert_eq!(sorted(output_of::<String>(env, read).await), names),
                    _ => assert_eq!(sorted(output_of::<Person>(env, read).await), sorted(people)),
                }
            }
        }
    });
}

#[test]
fn csv_is_written_with_a_header_and_json_as_one_line_each() {
    each_environment(async |env| {
        let folder = tempfile::tempdir().unwrap();
        let people = vec![person("Ada", 36, ""), person("B\nb", 5, "x")];
        for (kind, expected) in [
            (Kind::Csv, "name,age,town\nAda,36,\n\"B\nb\",5,x\n"),
            (
                Kind::Json,
                "{\"name\":\"Ada\",\"age\":36,\"town\":null}\n{\"name\":\"B\\nb\",\"age\":5,\"town\":\"x\"}\n",
            ),
        ] {
            let path = folder.path().join("rows");
            completed(env, Written { people: people.clone(), path: path.clone(), kind, instances: 1 }).await;
            assert_eq!(std::fs::read_to_string(path).unwrap(), expected);
        }
    });
}

mod own {
    use super::*;

    registered![Text, JsonLines, Records, Headless, Read, Quotes, Written];
}

pub fn jobs() -> proscenium::JobRegistry {
    own::jobs().merge(bad::jobs()).merge(properties::jobs())
}
