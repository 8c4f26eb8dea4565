//! Reading on from a position, in splits however they are cut.

use std::{fmt::Debug, fs, io::Write as _, marker::PhantomData, ops::Range, path::Path};

use proptest::prelude::*;

use super::*;
use crate::flow::{
    ItemsPart, TextFiles,
    files::{Blank, Block, Cut, FileSource, Files, First, Reading, Shape},
};

/// A value as it comes out where it travelled to.
fn travelled<T: Serialize + DeserializeOwned>(value: &T) -> T {
    let mut bytes = Vec::new();
    crate::codec::encode_into(value, &mut bytes).expect("it can be encoded");
    crate::codec::decode(&bytes).expect("it can be decoded")
}

/// What the splits of a source yield. Each time so many items have been read as `steps` says next, the split is opened anew
/// at the position that was come to; without steps, each is read at once.
fn read<S: ReplayableSource>(source: &mut S, parts: usize, steps: &[usize]) -> Vec<Vec<S::Item>> {
    let splits = source.splits(parts).expect("the source can be read");
    assert!(splits.len() <= parts);
    splits.iter().map(|split| read_split(source, split, steps)).collect()
}

fn read_split<S: ReplayableSource>(source: &S, split: &S::Split, steps: &[usize]) -> Vec<S::Item> {
    let mut items = Vec::new();
    let mut part = source.open(split.clone(), S::Position::default()).expect("the split can be opened");
    let mut steps = steps.iter().cycle();
    loop {
        // A part may stop short of a step, as one that waits for the disk does.
        let wanted = items.len() + steps.next().copied().unwrap_or(usize::MAX >> 1);
        loop {
            let (before, mut some) = (items.len(), Vec::new());
            let more = part.read(&mut some, wanted - before).expect("the split can be read");
            items.extend(some);
            assert!(items.len() <= wanted);
            match more {
                More::No => return items,
                More::Yes if items.len() < wanted => {}
                More::Yes => break,
            }
        }
        part = source.open(travelled(split), travelled(&part.position())).expect("the split can be opened again");
    }
}

fn steps() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(1..6_usize, 1..5)
}

#[track_caller]
fn assert_same<S>(make: impl Fn() -> S, parts: usize, steps: &[usize]) -> Vec<S::Item>
where
    S: ReplayableSource<Item: PartialEq + Debug>,
{
    let once = read(&mut make(), parts, &[]);
    assert_eq!(read(&mut make(), parts, steps), once);
    once.into_iter().flatten().collect()
}

fn write(path: &Path, bytes: &[u8]) {
    if path.extension().is_some_and(|ending| ending == "gz") {
        let file = fs::File::create(path).expect("the folder is there");
        let mut packed = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
        packed.write_all(bytes).and_then(|()| packed.finish()).expect("it can be written");
    } else {
        fs::write(path, bytes).expect("it can be written");
    }
}

/// A row with all that JSON lines and CSV know of it: its line, where it begins, and the first row of its file.
enum Seen {}

impl Shape for Seen {
    type Item = (String, u64, u64, Option<Vec<u8>>);

    fn item(block: &Arc<Block>, range: Range<usize>, line: u64, offset: u64) -> Result<Self::Item, TaskError> {
        let row = String::from_utf8_lossy(&block.bytes[range]).into_owned();
        Ok((row, line, offset, block.span.first().map(<[u8]>::to_vec)))
    }
}

/// How JSON lines and CSV are read.
fn readings() -> impl Strategy<Value = Reading> {
    let records = Cut::Records { delimiter: b',' };
    prop::sample::select(vec![
        Reading { cut: Cut::Lines, blank: Blank::White, first: First::Row },
        Reading { cut: Cut::Lines, blank: Blank::Empty, first: First::Header },
        Reading { cut: Cut::Lines, blank: Blank::Empty, first: First::Model },
        Reading { cut: records, blank: Blank::Empty, first: First::Header },
        Reading { cut: records, blank: Blank::Empty, first: First::Model },
    ])
}

fn names() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["a", "b.gz"])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_range_read_on_from_its_positions_is_that_read_once(
        start in 0..100_u64,
        length in 0..50_u64,
        parts in 1..6_usize,
        steps in steps(),
    ) {
        let items = assert_same(|| ParallelRange::new(start..start + length), parts, &steps);
        prop_assert_eq!(items, (start..start + length).collect::<Vec<_>>());
    }

    #[test]
    fn items_read_on_from_their_positions_are_those_read_once(
        items in prop::collection::vec(".{0,3}", 0..40),
        parts in 1..6_usize,
        steps in steps(),
    ) {
        let read = assert_same(|| ParallelItems::new(items.clone()), parts, &steps);
        prop_assert_eq!(read, items);
    }

    #[test]
    fn lines_read_on_from_their_positions_are_those_read_once(
        texts in prop::collection::vec((names(), "\u{feff}?([a-c\u{e4}]{0,4}\r?\n){0,12}[a-c]{0,3}"), 1..4),
        parts in 1..6_usize,
        steps in steps(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut expected = Vec::new();
        for (number, (name, text)) in texts.iter().enumerate() {
            write(&folder.path().join(format!("{number}{name}")), text.as_bytes());
            let text = text.strip_prefix('\u{feff}').unwrap_or(text);
            expected.extend(text.lines().map(str::to_owned));
        }
        let mut read = assert_same(|| TextFiles::lines(folder.path()), parts, &steps);
        read.sort_unstable();
        expected.sort_unstable();
        prop_assert_eq!(read, expected);
    }

    #[test]
    fn rows_read_on_from_their_positions_are_those_read_once(
        reading in readings(),
        texts in prop::collection::vec(
            (names(), "\u{feff}?\n?((a{0,2}|\"[b\n]{0,3}(\"\")?\")(,(a{0,2}|\"[b\n]{0,3}\"))?\r?\n){0,12}(a{0,2}|\"b\n)"),
            1..4,
        ),
        parts in 1..6_usize,
        steps in steps(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        for (number, (name, text)) in texts.iter().enumerate() {
            write(&folder.path().join(format!("{number}{name}")), text.as_bytes());
        }
        let source = || FileSource::<Seen> { files: Files::new(folder.path()), reading, shape: PhantomData };
        for (_, _, _, first) in assert_same(source, parts, &steps) {
            prop_assert_eq!(first.is_some(), reading.first != First::Row);
        }
    }
}

#[test]
fn files_of_several_reads_can_be_read_on_from_the_middle_of_one() {
    let folder = tempfile::tempdir().unwrap();
    let lines: Vec<String> = (0..40).map(|n| format!("{n} ").repeat(9_000 + n)).collect();
    for name in ["a", "b.gz"] {
        write(&folder.path().join(name), lines.join("\n").as_bytes());
    }
    for (parts, steps) in [(1, [1, 1, 1]), (3, [7, 1, 2]), (5, [20, 3, 5])] {
        let read = assert_same(|| TextFiles::lines(folder.path()), parts, &steps);
        assert_eq!(read.len(), 80);
    }
}

/// Who did not begin the file looked for its header, and took it for one that had become shorter.
#[test]
fn files_of_blank_rows_are_sources_of_nothing_however_they_are_split() {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [("a", "\u{feff}"), ("b", "\n\r\n\n"), ("c.gz", "\n\n")] {
        write(&folder.path().join(name), text.as_bytes());
    }
    let reading = Reading { cut: Cut::Lines, blank: Blank::Empty, first: First::Header };
    let source = || FileSource::<Seen> { files: Files::new(folder.path()), reading, shape: PhantomData };
    for parts in 1..6 {
        assert_eq!(assert_same(source, parts, &[1]), []);
    }
}

#[test]
fn a_position_that_is_not_one_of_the_split_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("long"), "1\n2\n3\n4\n").unwrap();
    fs::write(folder.path().join("short"), "1\n").unwrap();
    let mut long = TextFiles::lines(folder.path().join("long"));
    let mut short = TextFiles::lines(folder.path().join("short"));
    let split = long.splits(1).unwrap().remove(0);
    let mut part = long.open(split, Default::default()).unwrap();
    part.read(&mut Vec::new(), 3).unwrap();
    let split = short.splits(1).unwrap().remove(0);
    let refused = short.open(split.clone(), part.position()).unwrap_err().message();
    assert_eq!(refused, "the position is outside of what the split has of the file");
    while part.read(&mut Vec::new(), 1).unwrap() == More::Yes {}
    let ended = part.position();
    assert_eq!(short.open(split, ended.clone()).unwrap().read(&mut Vec::new(), 1).unwrap(), More::No);
    let nothing = short.open(serde_json::from_str("[]").unwrap(), ended).unwrap_err().message();
    assert_eq!(nothing, "the position is behind more files than the split has");
    assert!(ParallelRange::new(0..3).open(0..3, 4).is_err());
    let items = ParallelItems::new(vec![0_u8]).open(vec![1, 2], 3);
    assert!(items.map(|_: ItemsPart<u8>| ()).is_err());
}

#[test]
fn a_file_that_has_changed_since_its_splits_were_made_is_read_as_long_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lines");
    fs::write(&path, "1\n2\n3\n4\n").unwrap();
    let mut source = TextFile::lines(&path);
    let split = source.splits(1).unwrap().remove(0);
    fs::write(&path, "1\n2\n3\n4\n5\n").unwrap();
    assert_eq!(read_split(&source, &split, &[1]), ["1", "2", "3", "4"]);
    let mut part = source.open(split.clone(), Default::default()).unwrap();
    part.read(&mut Vec::new(), 2).unwrap();
    let at = part.position();
    fs::write(&path, "1\n2\n").unwrap();
    let mut part = source.open(split.clone(), at).unwrap();
    let error = part.read(&mut Vec::new(), 2).unwrap_err().message();
    assert!(error.contains("has become shorter"), "{error}");
    fs::remove_file(&path).unwrap();
    let mut part = source.open(split, Default::default()).unwrap();
    let error = part.read(&mut Vec::new(), 2).unwrap_err().message();
    assert!(error.contains("cannot read"), "{error}");
}
