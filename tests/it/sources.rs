//! Where items come from, and that all of them arrive.

use std::{collections::BTreeSet, io::Write, time::Duration};

use proscenium::{
    BatchSource, ErrorPolicy, FailureCause, More, Next, Outcome, ParallelItems, ParallelRange, Part, Source,
    TaskContext, TaskError, TextFile, partitioned,
};
use serde::{Deserialize, Serialize};

use crate::support::{
    Journal, JournalSink, Pen, completed, each_environment, ended, job, output_of, read, registered, sorted, start,
};

const NUMBERS: [i64; 8] = [1, -2, 3, 4, -5, 6, 0, 7];

job!(PositiveEven { numbers: Vec<i64> }, |job, flow| {
    flow.from_batch(job.numbers.clone()).filter(|n| *n > 0).filter(|n| n % 2 == 0).collect("out");
});

#[test]
fn what_passes_two_filters_comes_out_in_order() {
    each_environment(async |env| {
        let out: Vec<i64> = output_of(env, PositiveEven { numbers: NUMBERS.into() }).await;
        assert_eq!(out, [4, 6]);
    });
}

job!(AllOrNothing { numbers: Vec<i64>, all: bool, pen: Pen }, |job, flow| {
    let (all, pen) = (job.all, job.pen.clone());
    flow.from_batch(job.numbers.clone()).filter(move |_| all).sink(move || JournalSink::new(&pen));
});

#[test]
fn a_filter_that_says_yes_passes_all_and_one_that_says_no_passes_nothing() {
    each_environment(async |env| {
        for all in [true, false] {
            let journal = Journal::new();
            completed(env, AllOrNothing { numbers: NUMBERS.into(), all, pen: journal.pen() }).await;
            let items = NUMBERS.iter().filter(|_| all).map(|n| format!("0 {n}"));
            let expected: Vec<String> = ["0 open".to_owned()]
                .into_iter()
                .chain(items)
                .chain(["0 flush", "0 close", "0 drop"].map(str::to_owned))
                .collect();
            assert_eq!(journal.lines(), expected);
        }
    });
}

job!(SplitAtCommas { texts: Vec<String> }, |job, flow| {
    let split = |text: String| text.split(',').map(str::to_owned).collect::<Vec<_>>();
    flow.from_batch(job.texts.clone()).flat_map(split).collect("out");
});

#[test]
fn flat_map_keeps_the_order_of_items_and_of_what_each_became() {
    each_environment(async |env| {
        let texts = ["a,b", "c,d,e", "f"].map(str::to_owned).into();
        let out: Vec<String> = output_of(env, SplitAtCommas { texts }).await;
        assert_eq!(out, ["a", "b", "c", "d", "e", "f"]);
    });
}

job!(Silent { pen: Pen }, |job, flow| {
    let pen = job.pen.clone();
    flow.from_batch(Vec::<u64>::new()).map(|n| n + 1).rebalance(2).sink(move || JournalSink::new(&pen));
});

#[test]
fn an_empty_source_completes_and_closes_every_sink_once() {
    each_environment(async |env| {
        let journal = Journal::new();
        let job = completed(env, Silent { pen: journal.pen() }).await;
        let lines = ["open", "flush", "close", "drop"];
        let expected = sorted((0..2).flat_map(|instance| lines.map(|line| format!("{instance} {line}"))));
        assert_eq!(sorted(journal.lines()), expected);
        let status = job.status().await.unwrap();
        assert!(status.tasks.iter().all(|task| task.counters.items_in == 0), "{:?}", status.tasks);
    });
}

job!(Numbered { kind: Splitting }, |job, flow| {
    let stream = match job.kind {
        Splitting::Range => flow.from_batch(ParallelRange::new(0..10)),
        Splitting::Items => flow.from_batch(ParallelItems::new((0..10).collect::<Vec<u64>>())),
        Splitting::Partitions => flow.from_batch(partitioned(|part, parts| (part as u64..10).step_by(parts))),
        Splitting::Iterator => flow.from_batch(0..10u64),
    };
    stream.map_async(1, async |ctx, n| Ok((ctx.instance(), n))).collect("out");
});

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Splitting {
    Range,
    Items,
    Partitions,
    Iterator,
}

#[test]
fn a_splittable_source_yields_each_item_once_and_not_once_per_instance() {
    each_environment(async |env| {
        use Splitting::{Items, Iterator, Partitions, Range};
        for (kind, instances) in [(Range, 4), (Items, 4), (Partitions, 4), (Iterator, 1)] {
            let job = env.submit(Numbered { kind }).autostop(true).parallelism(4).await.unwrap();
            assert_eq!(ended(&job).await, Outcome::Completed);
            let out: Vec<(u32, u64)> = read(&job, "out").await;
            assert_eq!(sorted(out.iter().map(|(_, n)| *n)), (0..10).collect::<Vec<_>>(), "{kind:?}");
            let used: BTreeSet<u32> = out.iter().map(|(instance, _)| *instance).collect();
            assert_eq!(used.len(), instances, "{kind:?}");
        }
    });
}

/// Yields what it is given, one call at a time, and writes down each call.
struct Script {
    steps: std::vec::IntoIter<Step>,
    pen: Pen,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
enum Step {
    Later(Duration),
    Item(u64),
    Items(Vec<u64>),
    Fail(String),
    Panic(String),
    End,
}

impl Source for Script {
    type Item = u64;

    async fn next(&mut self, _: &TaskContext) -> Result<Next<u64>, TaskError> {
        self.pen.write("asked");
        match self.steps.next() {
            Some(Step::Later(pause)) => Ok(Next::Later(pause)),
            Some(Step::Item(item)) => Ok(Next::Item(item)),
            Some(Step::Items(items)) => Ok(Next::Items(items)),
            Some(Step::Fail(message)) => Err(TaskError::new(message)),
            Some(Step::Panic(message)) => panic!("{message}"),
            Some(Step::End) | None => Ok(Next::End),
        }
    }
}

job!(Scripted { steps: Vec<Step>, pen: Pen }, |job, flow| {
    let (tee, pen) = (job.pen.clone(), job.pen.clone());
    let source = Script { steps: job.steps.clone().into_iter(), pen: Pen::clone(&job.pen) };
    let seen = flow.from_source(source).inspect(move |n| tee.write(format_args!("seen {n}")));
    seen.sink(move || JournalSink::new(&pen));
});

#[test]
fn a_source_that_has_nothing_yet_is_asked_again_only_when_it_said_so() {
    each_environment(async |env| {
        let journal = Journal::new();
        let pause = Duration::from_millis(20);
        let steps = vec![Step::Later(pause), Step::Later(pause), Step::Item(7), Step::End];
        let before = std::time::Instant::now();
        completed(env, Scripted { steps, pen: journal.pen() }).await;
        assert!(before.elapsed() >= 2 * pause, "it was asked too early");
        assert_eq!(journal.count("asked"), 4, "each step is asked for once; waiting asks nothing");
        assert_eq!(journal.count("0 7"), 1);
    });
}

#[test]
fn a_source_may_yield_items_one_by_one_or_many_at_once() {
    each_environment(async |env| {
        let journal = Journal::new();
        let steps = vec![Step::Item(1), Step::Items(vec![2, 3, 4]), Step::Items(vec![]), Step::Item(5), Step::End];
        completed(env, Scripted { steps, pen: journal.pen() }).await;
        let seen: Vec<String> = journal.lines().into_iter().filter(|line| line.starts_with("seen")).collect();
        assert_eq!(seen, ["seen 1", "seen 2", "seen 3", "seen 4", "seen 5"]);
    });
}

#[test]
fn a_source_that_fails_at_item_k_has_delivered_the_items_before_it() {
    each_environment(async |env| {
        for last in [Step::Fail("the disk is gone".to_owned()), Step::Panic("the disk is gone".to_owned())] {
            let journal = Journal::new();
            let panics = matches!(last, Step::Panic(_));
            let steps = vec![Step::Item(10), Step::Item(20), last, Step::Item(40), Step::End];
            let job = start(env, Scripted { steps, pen: journal.pen() }).await;
            let (operator, instance, position) = ("from_source".to_owned(), 0, 3);
            let message = "the disk is gone".to_owned();
            let expected = if panics {
                FailureCause::OperatorPanicked { operator, instance, position, message }
            } else {
                FailureCause::Operator { operator, instance, position, message }
            };
            assert_eq!(ended(&job).await, Outcome::Failed(expected));
            assert_eq!((journal.count("0 10"), journal.count("0 20")), (1, 1), "{:?}", journal.lines());
            assert_eq!(journal.count("0 40"), 0);
            assert_eq!(journal.count("0 close"), 0, "the sink of a failed job is dropped, not closed");
            assert_eq!(journal.count("0 drop"), 1);
        }
    });
}

/// A batch source in two parts, of which the second one fails at its third item.
#[derive(Clone, Copy)]
struct Brittle;

struct BrittlePart {
    next: u64,
    fails_at: Option<u64>,
}

impl BatchSource for Brittle {
    type Item = u64;
    type Part = BrittlePart;

    fn split(self, _: usize) -> Result<Vec<BrittlePart>, TaskError> {
        Ok(vec![BrittlePart { next: 0, fails_at: None }, BrittlePart { next: 100, fails_at: Some(103) }])
    }
}

impl Part for BrittlePart {
    type Item = u64;

    fn read(&mut self, into: &mut Vec<u64>, max: usize) -> Result<More, TaskError> {
        for _ in 0..max.min(10) {
            if self.fails_at == Some(self.next) {
                return Err(TaskError::new("a bad block"));
            }
            into.push(self.next);
            self.next += 1;
        }
        Ok(if self.next % 100 < 10 { More::Yes } else { More::No })
    }
}

job!(ReadBrittle { pen: Pen }, |job, flow| {
    let pen = job.pen.clone();
    flow.from_batch(Brittle).sink(move || JournalSink::new(&pen));
});

#[test]
fn a_part_that_fails_has_delivered_what_it_read_before_and_names_its_instance() {
    each_environment(async |env| {
        let journal = Journal::new();
        let job = env.submit(ReadBrittle { pen: journal.pen() }).autostop(true).parallelism(2).await.unwrap();
        let expected = FailureCause::Operator {
            operator: "from_batch".to_owned(),
            instance: 1,
            position: 4,
            message: "a bad block".to_owned(),
        };
        assert_eq!(ended(&job).await, Outcome::Failed(expected));
        let delivered: Vec<String> = journal.lines().into_iter().filter(|line| line.starts_with("1 1")).collect();
        assert_eq!(delivered, ["1 100", "1 101", "1 102"]);
    });
}

job!(UpperCase { texts: Vec<String> }, |job, flow| {
    flow.from_batch(job.texts.clone()).map(|text: String| text.to_uppercase()).collect("out");
});

#[test]
fn all_500_strings_have_arrived_before_wait_returns() {
    each_environment(async |env| {
        let texts: Vec<String> = (0..500).map(|n| format!("text number {n}")).collect();
        let expected: Vec<String> = texts.iter().map(|text| text.to_uppercase()).collect();
        let job = start(env, UpperCase { texts }).await;
        assert_eq!(ended(&job).await, Outcome::Completed);
        let status = job.status().await.unwrap();
        assert_eq!(status.tasks.iter().map(|task| task.counters.items_out).sum::<u64>(), 500);
        assert_eq!(read::<String>(&job, "out").await, expected);
    });
}

job!(Lines { path: std::path::PathBuf }, |job, flow| {
    flow.from_batch(TextFile::lines(&job.path)).collect("out");
});

#[test]
fn a_file_read_in_parallel_yields_each_line_once_whatever_the_cut() {
    each_environment(async |env| {
        let several = "\n\na long line that spans several parts\n\nÄäß\n日本\n";
        let texts = ["", "\n", "one", "one\n", "one\ntwo\r\nthree", several];
        for text in texts {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(text.as_bytes()).unwrap();
            for parallelism in [1, 2, 3, 7] {
                let job = env.submit(Lines { path: file.path().to_owned() });
                let job = job.autostop(true).parallelism(parallelism).await.unwrap();
                assert_eq!(ended(&job).await, Outcome::Completed);
                let expected = sorted(text.lines().map(str::to_owned));
                let out: Vec<String> = read(&job, "out").await;
                assert_eq!(sorted(out), expected, "{text:?} in {parallelism} parts");
            }
        }
    });
}

/// Where user code goes wrong at the third item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Site {
    Filter,
    FilterText,
    Map,
    FlatMap,
    Inspect,
    ForEach,
    Sink,
    MapAsync,
    ForEachAsync,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Mishap {
    Error,
    Panic,
}

impl Mishap {
    /// The third of [`NUMBERS`] is a 3.
    fn strike(self, number: i64) -> Result<(), TaskError> {
        match self {
            _ if number != 3 => Ok(()),
            Self::Error => Err(TaskError::new("three is too much")),
            Self::Panic => panic!("three is too much"),
        }
    }
}

/// A [`JournalSink`] whose `write` goes wrong.
struct BrittleSink {
    journal: JournalSink<i64>,
    mishap: Mishap,
}

impl proscenium::Sink for BrittleSink {
    type Item = i64;

    async fn open(&mut self, ctx: &TaskContext) -> Result<(), TaskError> {
        self.journal.open(ctx).await
    }

    async fn write(&mut self, item: i64) -> Result<(), TaskError> {
        self.mishap.strike(item)?;
        self.journal.write(item).await
    }
}

job!(GoesWrong { site: Site, mishap: Mishap, pen: Pen }, |job, flow| {
    let (site, mishap, pen) = (job.site, job.mishap, job.pen.clone());
    let numbers = flow.from_batch(NUMBERS);
    let note = move |n: i64| pen.write(format_args!("0 {n}"));
    match site {
        Site::Filter => numbers.try_filter(move |n| mishap.strike(*n).map(|()| true)).uid("it").for_each(note),
        Site::FilterText => {
            let number = |text: &String| text.parse::<i64>().expect("a number");
            let checked = move |text: &String| mishap.strike(number(text)).map(|()| true);
            let texts = numbers.map(|n| n.to_string()).try_filter(checked).uid("it");
            texts.for_each(move |text| note(number(&text)));
        }
        Site::Map => numbers.try_map(move |n| mishap.strike(n).map(|()| n)).uid("it").for_each(note),
        Site::FlatMap => {
            let halves = move |n: i64| {
                mishap.strike(n).expect("this closure can only panic");
                [n]
            };
            numbers.flat_map(halves).uid("it").for_each(note);
        }
        Site::Inspect => {
            numbers.inspect(move |n| mishap.strike(*n).expect("only a panic")).uid("it").for_each(note);
        }
        Site::ForEach => numbers.try_for_each(move |n| {
            mishap.strike(n)?;
            note(n);
            Ok(())
        }),
        Site::Sink => {
            let pen = job.pen.clone();
            numbers.sink(move || BrittleSink { journal: JournalSink::new(&pen), mishap });
        }
        Site::MapAsync => {
            numbers.map_async(2, async move |_, n| mishap.strike(n).map(|()| n)).uid("it").for_each(note);
        }
        Site::ForEachAsync => numbers.for_each_async(2, async move |_, n| {
            mishap.strike(n)?;
            note(n);
            Ok(())
        }),
    }
});

/// Each site with the name of its operator, and the ways in which it can go wrong.
const SITES: [(Site, &str, &[Mishap]); 9] = [
    (Site::Filter, "it", &[Mishap::Error, Mishap::Panic]),
    (Site::FilterText, "it", &[Mishap::Error, Mishap::Panic]),
    (Site::Map, "it", &[Mishap::Error, Mishap::Panic]),
    (Site::FlatMap, "it", &[Mishap::Panic]),
    (Site::Inspect, "it", &[Mishap::Panic]),
    (Site::ForEach, "try_for_each", &[Mishap::Error, Mishap::Panic]),
    (Site::Sink, "sink", &[Mishap::Error, Mishap::Panic]),
    (Site::MapAsync, "it", &[Mishap::Error, Mishap::Panic]),
    (Site::ForEachAsync, "for_each_async", &[Mishap::Error, Mishap::Panic]),
];

#[test]
fn user_code_that_goes_wrong_at_item_3_fails_the_job_and_is_named() {
    each_environment(async |env| {
        for (site, operator, mishaps) in SITES {
            for &mishap in mishaps {
                let journal = Journal::new();
                let job = start(env, GoesWrong { site, mishap, pen: journal.pen() }).await;
                let (operator, message) = (operator.to_owned(), "three is too much".to_owned());
                let (instance, position) = (0, 3);
                let expected = match mishap {
                    Mishap::Error => FailureCause::Operator { operator, instance, position, message },
                    Mishap::Panic => FailureCause::OperatorPanicked { operator, instance, position, message },
                };
                assert_eq!(ended(&job).await, Outcome::Failed(expected), "{site:?} {mishap:?}");
                assert_eq!(journal.count("0 3"), 0);
                assert_eq!(journal.count("0 close"), 0);
            }
        }
    });
}

job!(FoldGoesWrong {}, |_job, flow| {
    let add = |sum: &mut i64, n: i64| {
        Mishap::Panic.strike(n).expect("this closure can only panic");
        *sum += n;
    };
    flow.from_batch(NUMBERS).fold(0, add).uid("it").collect("sum");
});

#[test]
fn a_fold_that_panics_names_the_item() {
    each_environment(async |env| {
        let job = start(env, FoldGoesWrong {}).await;
        let message = "three is too much".to_owned();
        let expected = FailureCause::OperatorPanicked { operator: "it".to_owned(), instance: 0, position: 3, message };
        assert_eq!(ended(&job).await, Outcome::Failed(expected));
    });
}

#[test]
fn under_the_policy_skip_the_item_becomes_a_dead_letter_and_the_others_arrive() {
    each_environment(async |env| {
        for (site, operator, mishaps) in SITES {
            for &mishap in mishaps {
                let journal = Journal::new();
                let job = env.submit(GoesWrong { site, mishap, pen: journal.pen() });
                let job = job.autostop(true).error_policy(ErrorPolicy::Skip).await.unwrap();
                assert_eq!(ended(&job).await, Outcome::Completed, "{site:?} {mishap:?}");
                let results: Vec<String> = NUMBERS.iter().filter(|n| **n != 3).map(|n| format!("0 {n}")).collect();
                let is_hook = |line: &str| matches!(line, "0 open" | "0 drop");
                let lines: Vec<String> = journal.lines().into_iter().filter(|line| !is_hook(line)).collect();
                assert_eq!(lines, results, "{site:?} {mishap:?}");

                let letters = job.dead_letters().await.unwrap();
                assert_eq!((letters.total, letters.newest.len()), (1, 1), "{site:?} {mishap:?}");
                let letter = &letters.newest[0];
                assert_eq!((letter.operator.as_str(), letter.instance, letter.position), (operator, 0, 3), "{site:?}");
                assert_eq!(letter.cause, "three is too much");
                let status = job.status().await.unwrap();
                assert_eq!(status.dead_letters, 1);
                assert_eq!(status.tasks.iter().map(|task| task.counters.dead_letters).sum::<u64>(), 1);
            }
        }
    });
}

registered![
    PositiveEven,
    AllOrNothing,
    SplitAtCommas,
    Silent,
    Numbered,
    Scripted,
    ReadBrittle,
    UpperCase,
    Lines,
    GoesWrong,
    FoldGoesWrong
];
