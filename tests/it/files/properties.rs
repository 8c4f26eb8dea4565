//! What is read is what a plain reading of the whole file gives, however it is cut.

use std::path::PathBuf;

use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use proscenium::{ErrorPolicy, Job, LocalEnvironment};
use serde::de::DeserializeOwned;

use super::{Headless, Person, Records, Rows, packed};
use crate::support::{job, registered, sorted};

job!(LenientJson { path: PathBuf }, |this, flow| {
    flow.read_json_lines::<Person>(&this.path).on_error(ErrorPolicy::Skip).collect("out");
});

/// How the rows are laid out in the file.
#[derive(Debug, Clone)]
struct Layout {
    mark: bool,
    line_end: &'static str,
    open_end: bool,
    compressed: bool,
}

fn layouts() -> impl Strategy<Value = Layout> {
    let line_ends = prop_oneof![Just("\n"), Just("\r\n")];
    (any::<bool>(), line_ends, any::<bool>(), prop::bool::weighted(0.2))
        .prop_map(|(mark, line_end, open_end, compressed)| Layout { mark, line_end, open_end, compressed })
}

impl Layout {
    /// Writes the file and tells where it is.
    fn write(&self, folder: &tempfile::TempDir, text: &str) -> PathBuf {
        let text = if self.open_end { text.strip_suffix(self.line_end).unwrap_or(text) } else { text };
        let text = if self.mark { format!("\u{feff}{text}") } else { text.to_owned() };
        let (name, bytes) = if self.compressed { ("file.gz", packed(&text)) } else { ("file", text.into_bytes()) };
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

fn people() -> impl Strategy<Value = Vec<Person>> {
    let text = || "[a,\"\n\r é日;]{0,6}";
    let town = proptest::option::of("[a,\"\n\r é日;]{1,6}");
    let person = (text(), any::<u8>(), town).prop_map(|(name, age, town)| Person { name, age, town });
    proptest::collection::vec(person, 0..20)
}

/// What the job gives under *skip*, and the causes of its dead letters in the order of their text.
fn outcome<T: DeserializeOwned + Send + 'static>(
    env: &LocalEnvironment,
    parallelism: usize,
    job: impl Job,
) -> (Vec<T>, Vec<String>) {
    let job = env.submit(job).autostop(true).parallelism(parallelism).error_policy(ErrorPolicy::Skip).blocking();
    let job = job.unwrap();
    assert!(job.blocking().wait().unwrap().is_completed());
    let letters = job.blocking().dead_letters().unwrap().newest;
    (job.output("out").blocking().unwrap(), letters.into_iter().map(|letter| letter.cause).collect())
}

fn holds<C: std::fmt::Debug>(
    cases: impl Strategy<Value = C>,
    test: impl Fn(&LocalEnvironment, &tempfile::TempDir, C) -> Result<(), TestCaseError>,
) {
    let (env, folder) = (LocalEnvironment::new("files"), tempfile::tempdir().unwrap());
    let config = Config { cases: 60, failure_persistence: None, ..Config::default() };
    TestRunner::new(config).run(&cases, |case| test(&env, &folder, case)).unwrap();
}

#[test]
fn csv_gives_what_a_plain_reading_gives() {
    holds((people(), layouts()), |env, folder, (people, layout)| {
        let terminator = match layout.line_end {
            "\n" => csv::Terminator::Any(b'\n'),
            _ => csv::Terminator::CRLF,
        };
        let mut writer = csv::WriterBuilder::new().terminator(terminator).from_writer(Vec::new());
        for person in &people {
            writer.serialize(person).unwrap();
        }
        let text = String::from_utf8(writer.into_inner().unwrap()).unwrap();
        let plain: Vec<Person> =
            csv::Reader::from_reader(text.as_bytes()).into_deserialize().collect::<Result<_, _>>().unwrap();
        let path = layout.write(folder, &text);
        for parallelism in 1..=4 {
            let job = Records { path: path.clone(), rows: Rows::Quoted };
            let (read, letters) = outcome::<Person>(env, parallelism, job);
            prop_assert_eq!(&read, &plain);
            prop_assert!(letters.is_empty(), "{:?}", letters);
        }
        Ok(())
    });
}

#[test]
fn any_text_is_read_as_a_plain_reading_reads_it() {
    let texts = proptest::collection::vec(prop_oneof!["[ab;\"\n]{0,8}", Just("\";\"".to_owned())], 0..12);
    holds(texts, |env, folder, texts| {
        let text = texts.concat();
        let path = folder.path().join("file");
        std::fs::write(&path, &text).unwrap();
        let mut reader = csv::ReaderBuilder::new();
        let reader = reader.has_headers(false).flexible(true).delimiter(b';').terminator(csv::Terminator::Any(b'\n'));
        let records = reader.from_reader(text.as_bytes()).into_deserialize::<Vec<String>>();
        let records: Vec<Vec<String>> = records.collect::<Result<_, _>>().unwrap();
        let (read, letters) = outcome::<Vec<String>>(env, 2, Headless { path, rows: Rows::Quoted });
        prop_assert_eq!(read.len() + letters.len(), records.len());
        let unclosed = letters.iter().any(|cause| cause.ends_with("a quoted field is not closed"));
        let closed = &records[..records.len() - usize::from(unclosed)];
        // If the only record is not closed, there is none to compare with.
        let fields = closed.first().map_or(0, Vec::len);
        let equal: Vec<&Vec<String>> = closed.iter().filter(|record| record.len() == fields).collect();
        prop_assert_eq!(read.iter().collect::<Vec<_>>(), equal);
        Ok(())
    });
}

#[test]
fn lines_of_json_and_of_csv_give_what_a_plain_reading_gives_and_bad_ones_are_named() {
    let blank = prop_oneof![Just(""), Just("oops"), Just("\"a")];
    let lines = proptest::collection::vec((people(), blank), 0..6);
    holds((lines, layouts()), |env, folder, (lines, layout)| {
        let (mut json, mut csv) = (Vec::new(), vec!["name,age,town".to_owned()]);
        for (people, other) in lines {
            for person in people {
                json.push(serde_json::to_string(&person).unwrap());
                let name = person.name.replace(['\n', '\r', '"', ','], "");
                csv.push(format!("{name},{},\"{}\"", person.age, name.replace('a', "\"\",")));
            }
            json.push(other.to_owned());
            csv.push(other.to_owned());
        }
        let text = |lines: &[String]| lines.iter().map(|line| format!("{line}{}", layout.line_end)).collect::<String>();
        let path = layout.write(folder, &text(&json));
        let (good, bad) = plain(&json, |line| serde_json::from_str(line).ok());
        for parallelism in 1..=4 {
            let (read, letters) = outcome::<Person>(env, parallelism, LenientJson { path: path.clone() });
            prop_assert_eq!(sorted(read), sorted(good.iter().cloned()));
            prop_assert_eq!(sorted(letters.iter().map(|cause| line_of(cause))), bad.clone());
        }
        let path = layout.write(folder, &text(&csv));
        let (good, bad) = plain(&csv[1..], |line| {
            let text = format!("name,age,town\n{line}\n");
            csv::Reader::from_reader(text.as_bytes()).into_deserialize().next()?.ok()
        });
        let bad: Vec<usize> = bad.into_iter().map(|line| line + 1).collect();
        for parallelism in 1..=4 {
            let job = Records { path: path.clone(), rows: Rows::Lines };
            let (read, letters) = outcome::<Person>(env, parallelism, job);
            prop_assert_eq!(sorted(read), sorted(good.iter().cloned()));
            prop_assert_eq!(sorted(letters.iter().map(|cause| line_of(cause))), bad.clone());
        }
        Ok(())
    });
}

/// The values of the lines, and the numbers of those that have none.
fn plain(lines: &[String], parse: impl Fn(&str) -> Option<Person>) -> (Vec<Person>, Vec<usize>) {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for (index, line) in lines.iter().enumerate().filter(|(_, line)| !line.is_empty()) {
        match parse(line) {
            Some(person) => good.push(person),
            None => bad.push(index + 1),
        }
    }
    (good, bad)
}

/// The line that a cause names.
fn line_of(cause: &str) -> usize {
    let (_, rest) = cause.split_once("`, line ").unwrap();
    rest.split([',', ':']).next().unwrap().parse().unwrap()
}

registered![LenientJson];
