use std::fmt::Debug;

use proptest::prelude::*;
use serde::{Deserialize, Deserializer, Serializer};

use super::*;
use crate::codec::catching;

/// Writes items as a run of which so many were expected.
fn run_of<T: Serialize + DeserializeOwned + 'static>(items: &[T], expected: usize) -> Vec<u8> {
    let mut run = Run::new(&TypeDescription::of::<T>(), expected);
    items.iter().for_each(|item| run.push(item).expect("the item can be encoded"));
    let (count, bytes) = run.take();
    assert_eq!(count, items.len() as u64);
    bytes
}

fn written<T: Serialize + DeserializeOwned + 'static>(items: &[T]) -> Vec<u8> {
    run_of(items, items.len().max(COLUMN_ITEMS_MIN))
}

/// Reads a run of so many items; the items before one that cannot be decoded are lost here.
fn read_by<T: DeserializeOwned>(decode: &TypedItems<T>, items: usize, bytes: &[u8]) -> Result<Vec<T>, DecodeError> {
    catching(|| {
        let (mut rest, mut read) = (bytes, Vec::new());
        while read.len() < items {
            let left = (items - read.len()) as u64;
            let used = decode.decode_some(rest, left, |item| read.push(item))?;
            rest = &rest[used..];
        }
        match rest.len() {
            0 => Ok(read),
            count => Err(DecodeError::TrailingBytes { count }),
        }
    })
}

fn read<T: DeserializeOwned + 'static>(items: usize, bytes: &[u8]) -> Result<Vec<T>, DecodeError> {
    read_by(&TypedItems::untrusted(), items, bytes)
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Reading {
    at: (i32, u128),
    note: Option<(char, Option<String>)>,
    level: f32,
    unit: (),
    on: bool,
}

#[test]
fn the_layout_does_not_change() {
    let items = [(1u16, Some("ab".to_owned())), (300, None), (2, Some("c".to_owned()))];
    let columns = [1, 0, 44, 1, 2, 0, 1, 0, 1, 2, 0, 0, 0, 1, 0, 0, 0, b'a', b'b', b'c'];
    assert_eq!(run_of(&items, 100), [&[7][..], &columns].concat());
    let rows = [1, 1, 2, b'a', b'b', 251, 44, 1, 0, 2, 1, 1, b'c'];
    assert_eq!(run_of(&items, 3), [&[6][..], &rows].concat());
    assert_eq!(written(&['ä']), [3, 0xe4, 0, 0, 0]);
    assert_eq!(written(&[true, false]), [5, 1, 0]);
    assert_eq!(written(&[vec![1u8], vec![]]), [1, 1, 0]);
    assert_eq!(written(&[7u8; 100])[..3], [201, 1, 7]);
    assert_eq!(written::<u8>(&[]), [0u8; 0]);
}

#[test]
fn runs_are_joined_by_joining_their_bytes() {
    let bytes = [written(&[1u64, 2]), run_of(&[3u64], 1), written(&[4u64; 9])].concat();
    assert_eq!(read::<u64>(12, &bytes), Ok(vec![1, 2, 3, 4, 4, 4, 4, 4, 4, 4, 4, 4]));
}

#[test]
fn a_long_run_has_several_blocks() {
    let numbers: Vec<u32> = (0..150_000).collect();
    let bytes = written(&numbers);
    assert_eq!(bytes.len(), 3 * 3 + 4 * numbers.len());
    assert_eq!(read::<u32>(numbers.len(), &bytes), Ok(numbers.clone()));
    let rows = run_of(&numbers, 1);
    assert_eq!(read::<u32>(numbers.len(), &rows), Ok(numbers));
}

/// Writes odd numbers as bytes, and refuses or panics at some of the even ones; reads bytes.
#[derive(Debug, PartialEq)]
struct Odd(u8);

impl Serialize for Odd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            // As it is, and then what the type does not read.
            4 => (Some(4u8), 4u8).serialize(serializer),
            6 => Err(serde::ser::Error::custom("not six")),
            8 => panic!("not eight"),
            n => n.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Odd {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u8::deserialize(deserializer)? {
            7 => panic!("seven"),
            n => Ok(Self(n)),
        }
    }
}

#[test]
fn an_item_that_is_refused_leaves_those_before_it() {
    let description = TypeDescription::of::<(Option<String>, u8)>();
    let mut run = Run::new(&description, 100);
    run.push(&(Some("a"), 1u8)).expect("it is plain");
    run.push(&(None::<String>, 2u8)).expect("it is plain");
    let refused = run.push(&(Some("bc"), Odd(6)));
    assert_eq!(refused, Err(EncodeError::Refused("not six".to_owned())));
    assert_eq!(run.len(), 2 + 4 + 1 + 2);
    run.push(&(Some("d"), 3u8)).expect("it is plain");
    let (items, bytes) = run.take();
    assert_eq!(items, 3);
    let expected = [(Some("a".to_owned()), 1), (None, 2), (Some("d".to_owned()), 3)];
    assert_eq!(read::<(Option<String>, u8)>(3, &bytes), Ok(expected.to_vec()));
    let large = "x".repeat(crate::codec::VALUE_BYTES_MAX - 3);
    let mut run = Run::new(&TypeDescription::of::<String>(), 100);
    run.push(&"a").expect("it is short");
    let limit_bytes = crate::codec::VALUE_BYTES_MAX;
    assert_eq!(run.push(&large), Err(EncodeError::TooLarge { limit_bytes }));
    assert_eq!((run.len(), run.take()), (5, (1, vec![3, 1, 0, 0, 0, b'a'])));
}

#[test]
fn an_item_that_does_not_write_what_it_reads_is_written_as_a_row() {
    #[derive(Debug, PartialEq, Deserialize)]
    struct Loose(u64, Option<u64>);
    impl Serialize for Loose {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            // A narrower number lies on the wire as the wider one does.
            match u32::try_from(self.0) {
                Ok(narrow) => (narrow, self.1).serialize(serializer),
                Err(_) => (self.0, self.1).serialize(serializer),
            }
        }
    }
    let items = [Loose(u64::MAX, Some(1)), Loose(1 << 40, None), Loose(7, Some(3)), Loose(1 << 50, None)];
    let bytes = written(&items);
    assert_eq!((bytes[0], bytes[1 + 2 * 8 + 2 + 8]), (5, 4), "two items in columns, then two in rows");
    assert_eq!(read::<Loose>(4, &bytes).as_deref(), Ok(&items[..]));
    // More parts than the type has are too many for columns, whatever they are.
    let bytes = written(&[Odd(1), Odd(4), Odd(3)]);
    assert_eq!(bytes, [3, 1, 4, 1, 4, 4, 3]);
}

#[test]
fn a_panic_of_user_code_is_an_error_and_those_before_it_are_read() {
    let mut run = Run::new(&TypeDescription::of::<Odd>(), 100);
    let pushed = catching(|| [1, 3, 8].iter().try_for_each(|n| run.push(&Odd(*n))));
    assert_eq!(pushed, Err(EncodeError::Panicked { message: "not eight".to_owned() }));
    let mut read = Vec::new();
    let decode = TypedItems::<Odd>::untrusted();
    let decoded = catching(|| decode.decode_some(&[9, 1, 3, 7, 9], 4, |item: Odd| read.push(item)));
    assert_eq!(decoded, Err(DecodeError::Panicked { message: "seven".to_owned() }));
    assert_eq!(read, [Odd(1), Odd(3)]);
}

#[test]
fn what_is_no_run_is_refused() {
    let invalid = |what: &str| Err(DecodeError::Invalid(what.to_owned()));
    for head in [&[0][..], &[1], &[0x80, 0], &[0x83, 0x80, 0], &[0xff, 0xff, 0xff], &[0xff; 9]] {
        assert_eq!(read::<u8>(1, head), invalid("a block without a head").map(|_: ()| vec![]), "{head:?}");
    }
    for cut in [&[][..], &[0x83], &[0x83, 0x80], &[5, 1], &[4, 1]] {
        assert_eq!(read::<u8>(2, cut), Err(DecodeError::Truncated), "{cut:?}");
    }
    assert_eq!(read::<u8>(1, &[5, 1, 2]), invalid("a block of more items than the run has").map(|_: ()| vec![]));
    assert_eq!(read::<u8>(1, &[3, 1, 2]), Err(DecodeError::TrailingBytes { count: 1 }));
    assert_eq!(read::<bool>(1, &[3, 2]), invalid("a truth value that is neither 0 nor 1").map(|_: ()| vec![]));
    assert_eq!(read::<char>(1, &[3, 0, 0xd8, 0, 0]), invalid("a character that is none").map(|_: ()| vec![]));
    assert_eq!(read::<Option<u8>>(1, &[3, 2]), invalid("an option that is neither 0 nor 1").map(|_: ()| vec![]));
    let text = |bytes: &[u8]| read::<String>(2, &[&[5][..], bytes].concat());
    let not_a_text = invalid("a text that is not UTF-8").map(|_: ()| vec![]);
    assert_eq!(text(&[1, 0, 0, 0, 0, 0, 0, 0, 0xff]), not_a_text);
    // A character that is cut in two is none, although the whole is a text.
    assert_eq!(text(&[1, 0, 0, 0, 1, 0, 0, 0, 0xc3, 0xa4]), not_a_text);
    assert_eq!(text(&[0xff; 8]), Err(DecodeError::Truncated));
}

#[test]
fn what_a_block_claims_gets_no_room() {
    let claims = [&[0x81, 0x80, 0x08][..], &[0xff; 100]].concat();
    let held = |decode: &dyn Fn() -> Option<DecodeError>| {
        let mut error = None;
        let allocated = allocation_counter::measure(|| error = decode());
        assert_eq!(error, Some(DecodeError::Truncated));
        allocated.bytes_max
    };
    let _ = (read::<(u64, [String; 4])>(1, &[]), read::<u128>(1, &[]));
    assert!(held(&|| read::<u128>(1 << 16, &claims).err()) < 2_000);
    assert!(held(&|| read::<(u64, [String; 4])>(1 << 16, &claims).err()) < 2_000);
    let lengths = [&[5][..], &[0xff; 20]].concat();
    let _ = read::<String>(1, &[]);
    assert!(held(&|| read::<String>(2, &lengths).err()) < 2_000);
}

/// Whether the items come back as they were written, in columns and in rows; and what cuts and flips of their bytes come to.
fn comes_back<T>(items: &[T]) -> Result<(), TestCaseError>
where
    T: Serialize + DeserializeOwned + Clone + PartialEq + Debug + 'static,
{
    // A list whose length was changed may get a mebibyte before its elements are looked for; only columns do without.
    let for_lists = if TypeDescription::of::<T>().columns().is_some() { 0 } else { 4 << 20 };
    for bytes in [written(items), run_of(items, 1)] {
        let read_back = [read::<T>(items.len(), &bytes), read_by(&TypedItems::trusted(), items.len(), &bytes)];
        prop_assert_eq!(read_back.each_ref().map(|read| read.as_deref()), [Ok(items), Ok(items)]);
        for cut in 0..bytes.len() {
            prop_assert!(read::<T>(items.len(), &bytes[..cut]).is_err());
        }
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                let mut read_back = None;
                let allocated = allocation_counter::measure(|| read_back = Some(read::<T>(items.len(), &flipped)));
                prop_assert!(allocated.bytes_max < for_lists + 64 * (bytes.len() as u64 + 64), "{:?}", allocated);
                // What is still a run is one of as many items.
                let _ = read_back.is_some_and(|read_back| read_back.is_ok_and(|read| read.len() != items.len()));
            }
        }
    }
    // As the format of single values has it.
    let mut bytes = Vec::new();
    items.iter().try_for_each(|item| encode_into(item, &mut bytes)).expect("they can be encoded");
    let mut rest = &bytes[..];
    for item in items {
        let (read, used) = decode_prefix::<T>(rest).expect("it was just written");
        prop_assert_eq!(&read, item);
        rest = &rest[used..];
    }
    Ok(())
}

fn note() -> impl Strategy<Value = Option<(char, Option<String>)>> {
    prop::option::of((any::<char>(), prop::option::of(".{0,3}")))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn items_come_back_whatever_their_type(
        numbers in prop::collection::vec(any::<u64>(), 0..12),
        pairs in prop::collection::vec(any::<(i16, u32)>(), 0..12),
        texts in prop::collection::vec(".{0,6}", 0..12),
        readings in prop::collection::vec((any::<(i32, u128, bool)>(), note(), -9i8..9), 0..10),
        options in prop::collection::vec(any::<Option<Option<(bool, i128)>>>(), 0..12),
        lists in prop::collection::vec(any::<Vec<(u8, u64)>>(), 0..3),
    ) {
        comes_back(&numbers)?;
        comes_back(&pairs)?;
        comes_back(&texts)?;
        let reading = |((x, y, on), note, level)| Reading { at: (x, y), note, level: f32::from(level), unit: (), on };
        comes_back(&readings.into_iter().map(reading).collect::<Vec<_>>())?;
        comes_back(&options)?;
        comes_back(&lists)?;
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in any::<Vec<u8>>(), items in 0usize..100) {
        let _ = read::<u64>(items, &bytes);
        let _ = read::<String>(items, &bytes);
        let _ = read::<Reading>(items, &bytes);
        let _ = read::<Option<(char, bool)>>(items, &bytes);
    }

    #[cfg(feature = "cli")]
    #[test]
    fn items_are_shown_as_their_own_code_would_show_them(
        readings in prop::collection::vec((any::<(i32, bool)>(), note(), -9i8..9), 1..10),
    ) {
        let reading = |((x, on), note, level)| Reading { at: (x, 5), note, level: f32::from(level), unit: (), on };
        let readings: Vec<_> = readings.into_iter().map(reading).collect();
        let mut shown = Vec::new();
        let description = TypeDescription::of::<Reading>();
        ShownItems(&description)
            .decode_some(&written(&readings), readings.len() as u64, |item| shown.push(item))
            .expect("it was just written");
        for (shown, reading) in shown.iter().zip(&readings) {
            prop_assert_eq!(&shown["note"], &serde_json::to_value(&reading.note).expect("it is plain"));
            prop_assert_eq!(&shown["on"], &serde_json::Value::from(reading.on));
        }
        prop_assert_eq!(shown.len(), readings.len());
    }
}
