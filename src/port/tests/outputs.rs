use futures::StreamExt;
use serde::{Serialize, de::DeserializeOwned};
use tokio::runtime::{Builder, Runtime};

use super::*;
use crate::{
    codec::EncodeError,
    host::Host,
    job::{Attempt, FailureCause, Limits},
    port::{Chunk, Output, OutputKind, OutputReader, WriteError, WriteFailure, store::AppendError},
    schema::TypeDescription,
};

/// Only its blocking pool is used.
fn pool() -> Runtime {
    Builder::new_current_thread().build().expect("a runtime can be made")
}

fn store<T: DeserializeOwned + 'static>(kind: OutputKind, limits: &Limits, pool: &Runtime) -> Arc<OutputStore> {
    OutputStore::new(
        "numbers",
        kind,
        TypeDescription::of::<T>(),
        limits,
        Host::shared_by_tests().with_pool(pool.handle()),
    )
}

fn output<T>(store: &Arc<OutputStore>) -> Output<T> {
    Output::new(Arc::new(Fixed(Arc::clone(store))), JobId::random(), "numbers")
}

/// Reads the output up to its end.
fn whole<T: DeserializeOwned + Send + 'static>(store: &Arc<OutputStore>) -> Result<Vec<T>, OutputError> {
    let output = output::<T>(store);
    start("the whole output", move || output.blocking()).end()
}

fn write<T: Serialize>(store: &Arc<OutputStore>, items: impl IntoIterator<Item = T>) {
    let items: Vec<T> = items.into_iter().collect();
    store.end().write(&items).expect("the output takes the items");
}

fn small_memory() -> Limits {
    Limits { output_memory_bytes: 512 << 10, ..Limits::default() }
}

/// Writes `0..count` as a task does, in batches and waiting for room.
fn write_numbers(store: &Arc<OutputStore>, count: u64) {
    let store = Arc::clone(store);
    let writing = start("the writer", move || {
        for start in (0..count).step_by(1000) {
            wait_for_room(&store);
            write(&store, start..count.min(start + 1000));
        }
    });
    writing.end();
}

#[test]
fn a_collected_output_is_read_any_number_of_times() {
    let pool = pool();
    let store = store::<u64>(OutputKind::Collected, &Limits::default(), &pool);
    write_numbers(&store, 100_000);
    store.seal(true, "");
    let expected: Vec<u64> = (0..100_000).collect();
    for _ in 0..2 {
        assert_eq!(whole::<u64>(&store).as_ref(), Ok(&expected));
    }
    assert_eq!((store.items(), store.reader_present()), (100_000, false));
}

#[test]
fn a_read_of_a_collected_output_waits_for_the_seal() {
    let pool = pool();
    let store = store::<u64>(OutputKind::Collected, &Limits::default(), &pool);
    let (bell, waker) = bell();
    let mut reader = output::<u64>(&store);
    write_numbers(&store, 3);
    assert!(poll(pin!(reader.next()), &waker).is_pending());
    assert!(store.reader_present());
    let whole = start("the whole output", {
        let output = output::<u64>(&store);
        move || output.blocking()
    });
    store.seal(true, "");
    assert_eq!(bell.rung(), 1);
    assert_eq!(now("the first item", reader.next()), Ok(Some(0)));
    assert_eq!(whole.end(), Ok(vec![0, 1, 2]));
}

#[test]
fn an_output_that_was_not_finished_is_an_error_and_not_a_short_one() {
    let pool = pool();
    let store = store::<u64>(OutputKind::Collected, &Limits::default(), &pool);
    write_numbers(&store, 10);
    store.seal(false, "operator `map` failed");
    store.seal(true, "");
    write_numbers(&store, 10);
    let incomplete = OutputError::Incomplete { output: "numbers".to_owned(), why: "operator `map` failed".to_owned() };
    let mut reader = output::<u64>(&store);
    assert_eq!(now("an item", reader.next()), Err(incomplete.clone()));
    assert_eq!(now("an item", reader.next()), Err(incomplete.clone()));
    assert_eq!(whole::<u64>(&store), Err(incomplete));
    assert_eq!(store.with_collected(|collected| collected.memory()), 0);
}

#[test]
fn an_output_read_as_another_type_is_an_error_that_names_the_difference() {
    let pool = pool();
    let store = store::<(String, u64)>(OutputKind::Collected, &Limits::default(), &pool);
    store.seal(true, "");
    let error = whole::<(String, u32)>(&store).expect_err("the types differ");
    let text = "output `numbers` was read as `(string, u32)` and holds `(string, u64)`: \
                field `1` of the tuple is u32 here and u64 there";
    assert_eq!(error.to_string(), text);
    assert!(!store.reader_present());
}

#[test]
fn a_large_output_spills_to_disk_and_is_read_by_several_at_once() {
    const COUNT: u64 = 500_000;
    let pool = pool();
    let store = store::<u64>(OutputKind::Collected, &small_memory(), &pool);
    let writing = start("writing", {
        let store = Arc::clone(&store);
        move || {
            let mut most = 0;
            for start in (0..COUNT).step_by(1000) {
                wait_for_room(&store);
                write(&store, start..start + 1000);
                most = most.max(store.with_collected(|collected| collected.memory()));
            }
            most
        }
    });
    let most = writing.end();
    assert!(most < (512 << 10) + 10_000, "{most} bytes were in memory");
    store.seal(true, "");
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let output = output::<u64>(&store);
            start("a reader", move || output.blocking())
        })
        .collect();
    for reader in readers {
        assert!(reader.end().expect("the output is whole").into_iter().eq(0..COUNT));
    }
    assert!(store.with_collected(|collected| collected.entries_in_file()) > 3);
    assert!(store.bytes() > 2 << 20);
}

#[test]
fn several_writers_are_released_when_a_spill_has_been_written() {
    let pool = pool();
    let store = store::<u64>(OutputKind::Collected, &small_memory(), &pool);
    let writers: Vec<_> = (0..3)
        .map(|_| {
            let store = Arc::clone(&store);
            start("a writer", move || write_numbers(&store, 150_000))
        })
        .collect();
    writers.into_iter().for_each(Running::end);
    store.seal(true, "");
    let mut items = whole::<u64>(&store).expect("the output is whole");
    items.sort_unstable();
    assert!(items.into_iter().eq((0..150_000).flat_map(|n| [n; 3])));
}

#[test]
fn an_output_beyond_its_limit_is_refused() {
    let pool = pool();
    let limits = Limits { output_bytes_max: 100, ..Limits::default() };
    let store = store::<u8>(OutputKind::Collected, &limits, &pool);
    write(&store, [7u8; 60]);
    let full = AppendError::Full { output: "numbers".to_owned(), limit_bytes: 100 };
    let refused = store.end().write(&[7u8; 41]).expect_err("the output is full");
    assert_eq!(refused, WriteError { index: 0, failure: WriteFailure::Append(full.clone()) });
    assert!(matches!(FailureCause::from(full), FailureCause::OutputTooLarge { limit_bytes: 100, .. }));
    // Each of the two has a head of a byte.
    write(&store, [7u8; 38]);
    assert_eq!(store.bytes(), 100);
}

#[test]
fn an_item_that_cannot_be_encoded_is_named_and_those_before_it_are_written() {
    struct Odd(u8);
    impl Serialize for Odd {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            if self.0.is_multiple_of(2) {
                Err(serde::ser::Error::custom("it is even"))
            } else {
                self.0.serialize(serializer)
            }
        }
    }
    let pool = pool();
    let store = store::<u8>(OutputKind::Collected, &Limits::default(), &pool);
    let failure = WriteFailure::Encode(EncodeError::Refused("it is even".to_owned()));
    assert_eq!(store.end().write(&[Odd(1), Odd(3), Odd(4), Odd(5)]), Err(WriteError { index: 2, failure }));
    store.seal(true, "");
    assert_eq!(whole::<u8>(&store), Ok(vec![1, 3]));
}

#[test]
fn items_larger_than_a_chunk_and_items_without_bytes_are_kept() {
    let pool = pool();
    let large = store::<String>(OutputKind::Collected, &Limits::default(), &pool);
    let texts: Vec<String> = [600_000, 0, 300_000].map(|len| "x".repeat(len)).into();
    write(&large, texts.clone());
    large.seal(true, "");
    assert_eq!(whole::<String>(&large), Ok(texts));

    let units = store::<()>(OutputKind::Collected, &Limits::default(), &pool);
    for _ in 0..100 {
        write(&units, [(); 1000]);
    }
    units.seal(true, "");
    assert_eq!(whole::<()>(&units).map(|units| units.len()), Ok(100_000));
    assert_eq!((units.items(), units.bytes()), (100_000, 0));
}

#[test]
fn a_disk_that_cannot_be_written_frees_the_writers_and_refuses_more() {
    let pool = pool();
    let store = store::<u64>(OutputKind::Collected, &small_memory(), &pool);
    // The pool is gone: what would be written to disk never will be.
    pool.shutdown_background();
    let writing = start("writing", {
        let store = Arc::clone(&store);
        move || {
            loop {
                wait_for_room(&store);
                if let Err(error) = store.end().write(&[u64::MAX; 1000]) {
                    return error;
                }
            }
        }
    });
    let WriteError { failure: WriteFailure::Append(error), .. } = writing.end() else { panic!("no append error") };
    assert!(matches!(&error, AppendError::Disk { .. }), "{error}");
    assert!(matches!(FailureCause::from(error), FailureCause::OutputUnwritable { .. }));
}

#[test]
fn what_was_spilled_cannot_be_read_once_the_environment_is_closed() {
    let pool = pool();
    let store = store::<u64>(OutputKind::Collected, &small_memory(), &pool);
    write_numbers(&store, 500_000);
    store.seal(true, "");
    pool.shutdown_background();
    assert_eq!(whole::<u64>(&store), Err(OutputError::EnvironmentClosed));
}

#[test]
fn a_streamed_output_holds_its_writers_until_it_is_read() {
    let pool = pool();
    let limits = Limits { port_items: 100, ..Limits::default() };
    let store = store::<u64>(OutputKind::Streamed, &limits, &pool);
    let (bells, wakers): (Vec<_>, Vec<_>) = (0..3).map(|_| bell()).unzip();
    // One batch that alone is larger than the bound is admitted.
    assert!(has_room(&store, &wakers[0]));
    write(&store, 0..150u64);
    assert!(wakers.iter().all(|waker| !has_room(&store, waker)));
    assert!(!store.reader_present());
    let mut reader = output::<u64>(&store);
    assert_eq!(now("an item", reader.next()), Ok(Some(0)));
    assert!(store.reader_present());
    assert!(bells.iter().all(|bell| bell.rung() == 1));
    assert!(has_room(&store, &wakers[0]));
}

#[test]
fn a_streamed_output_is_flat_in_memory_and_loses_nothing() {
    let pool = pool();
    let limits = Limits { port_items: 2000, ..Limits::default() };
    let store = store::<u64>(OutputKind::Streamed, &limits, &pool);
    let writing = start("writing", {
        let store = Arc::clone(&store);
        move || {
            write_numbers(&store, 100_000);
            store.seal(true, "");
        }
    });
    let stream = output::<u64>(&store);
    let reading = start("reading", move || block_on(stream.map(|item| item.expect("an item")).collect::<Vec<u64>>()));
    writing.end();
    assert!(reading.end().into_iter().eq(0..100_000));
}

#[test]
fn a_streamed_output_has_one_reader_and_the_next_goes_on_where_it_stopped() {
    let pool = pool();
    let store = store::<String>(OutputKind::Streamed, &Limits::default(), &pool);
    write(&store, ["a", "b", "c"]);
    let mut first = output::<String>(&store);
    let mut second = output::<String>(&store);
    assert_eq!(now("an item", first.next()), Ok(Some("a".to_owned())));
    assert_eq!(now("an item", second.next()), Err(OutputError::ReaderTaken { output: "numbers".to_owned() }));
    drop(first);
    assert_eq!(now("an item", second.next()), Ok(Some("b".to_owned())));
    drop(second);
    write(&store, ["d"]);
    store.seal(true, "");
    assert_eq!(whole::<String>(&store), Ok(vec!["c".to_owned(), "d".to_owned()]));
    assert_eq!(whole::<String>(&store), Ok(vec![]));
}

#[test]
fn a_streamed_output_that_was_cut_short_delivers_what_is_there_and_then_says_so() {
    let pool = pool();
    let store = store::<u8>(OutputKind::Streamed, &Limits { port_items: 1, ..Limits::default() }, &pool);
    write(&store, [1u8, 2]);
    let (bell, waker) = bell();
    assert!(!has_room(&store, &waker));
    store.seal(false, "the job was cancelled");
    assert_eq!(bell.rung(), 1);
    assert!(has_room(&store, &waker));
    let mut stream = output::<u8>(&store);
    assert_eq!(now("two items", stream.by_ref().take(2).collect::<Vec<_>>()), [Ok(1), Ok(2)]);
    assert!(matches!(now("the end", stream.next()), Err(OutputError::Incomplete { .. })));
    assert!(matches!(now("the end", StreamExt::next(&mut stream)), Some(Err(OutputError::Incomplete { .. }))));
    assert_eq!(now("the end", StreamExt::next(&mut stream)), None);
}

#[test]
fn a_reader_that_waits_is_woken_by_the_next_item() {
    let pool = pool();
    let store = store::<u8>(OutputKind::Streamed, &Limits::default(), &pool);
    let (bell, waker) = bell();
    let mut reader = output::<u8>(&store);
    assert!(poll(pin!(reader.next()), &waker).is_pending());
    write(&store, [5u8]);
    assert_eq!(bell.rung(), 1);
    assert_eq!(now("the item", reader.next()), Ok(Some(5)));
}

#[test]
fn an_item_that_cannot_be_decoded_is_named_and_is_not_skipped() {
    let pool = pool();
    let store = store::<bool>(OutputKind::Streamed, &Limits::default(), &pool);
    // A block of three items in columns.
    store.end().append(3, vec![7, 1, 9, 0]).expect("the output takes the bytes");
    let mut reader = output::<bool>(&store);
    assert_eq!(now("an item", reader.next()), Ok(Some(true)));
    assert!(matches!(now("an item", reader.next()), Err(OutputError::Decode { position: 2, .. })));
    assert!(matches!(now("an item", reader.next()), Err(OutputError::Decode { position: 2, .. })));
    drop(reader);
    assert!(matches!(whole::<bool>(&store), Err(OutputError::Decode { position: 2, .. })));
}

#[test]
fn handles_and_errors_can_be_shared_between_threads() {
    fn shared<T: Send + Sync + 'static>() {}
    shared::<Output<std::cell::Cell<u8>>>();
    shared::<OutputError>();
    shared::<InputError>();
    shared::<crate::port::Input<std::cell::Cell<u8>>>();
    shared::<crate::port::SendError<u8>>();
}

fn next_chunk(reader: &mut OutputReader) -> Chunk {
    match reader.poll_chunk(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Ok(Some(chunk))) => chunk,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_a_reader_elsewhere_did_not_confirm_is_given_back_in_order_and_the_next_one_begins_there() {
    let pool = pool();
    let store = store::<u64>(OutputKind::Streamed, &Limits::default(), &pool);
    let mut reader = store.reader_from(0).expect("nobody reads");
    write(&store, 0..10u64);
    let chunk = next_chunk(&mut reader);
    assert_eq!((chunk.first, chunk.items), (0, 10));
    write(&store, 10..20u64);
    let chunk = next_chunk(&mut reader);
    assert_eq!((chunk.first, chunk.items), (10, 10));
    reader.consumed(4);
    drop(reader);
    let mut reader = store.reader_from(0).expect("nobody reads");
    let rest = next_chunk(&mut reader);
    assert_eq!((rest.first, rest.items, rest.bytes.len()), (0, 20, 2 * 81), "whole, joined with what follows");
    assert_eq!(reader.start(), 4);
    drop(reader);
    // One in this process passes over what was handed out before.
    assert_eq!(now("an item", output::<u64>(&store).next()), Ok(Some(4)));
    // Nobody can have come further than what was given to readers.
    assert_eq!(store.reader_from(u64::MAX).expect("nobody reads").from(), 20);
    // One that goes on at a position gets the chunk that it is in.
    let mut reader = store.reader_from(9).expect("nobody reads");
    assert_eq!((next_chunk(&mut reader).first, reader.start()), (0, 5));
    reader.consumed(20);
    drop(reader);
    store.seal(true, "");
    assert_eq!(now("the end", output::<u64>(&store).next()), Ok(None));
}

#[test]
fn an_output_that_begins_anew_has_nothing_of_what_an_earlier_attempt_writes() {
    let pool = pool();
    for kind in [OutputKind::Collected, OutputKind::Streamed] {
        let store = store::<u64>(kind, &Limits::default(), &pool);
        let earlier = store.end();
        earlier.write(&[1u64, 2, 3]).expect("the output takes the items");
        store.begin_attempt(Attempt(2));
        earlier.write(&[4u64, 5]).expect("what is dropped is no error");
        assert!(earlier.poll_room(&mut Context::from_waker(Waker::noop())).is_ready());
        write(&store, [6u64, 7]);
        store.seal(true, "");
        assert_eq!(whole::<u64>(&store), Ok(vec![6, 7]));
        store.begin_attempt(Attempt(3));
        write(&store, [8u64]);
        let left = if kind == OutputKind::Collected { vec![6, 7] } else { Vec::new() };
        assert_eq!(whole::<u64>(&store), Ok(left), "what is sealed stays");
    }
}

#[test]
fn what_is_being_spilled_when_an_output_begins_anew_is_no_part_of_it() {
    let pool = pool();
    let store = store::<u64>(OutputKind::Collected, &small_memory(), &pool);
    for attempt in 2..20 {
        // More than fits into memory, so that some of it is on its way to the disk.
        write(&store, 0..100_000 + attempt);
        store.begin_attempt(Attempt(attempt as u32));
    }
    write_numbers(&store, 300_000);
    store.seal(true, "");
    assert_eq!(whole::<u64>(&store), Ok((0..300_000).collect()));
}

#[test]
fn the_reader_of_a_streamed_output_is_told_once_that_it_begins_anew_if_it_has_had_items() {
    let pool = pool();
    let store = store::<u64>(OutputKind::Streamed, &Limits::default(), &pool);
    let told = |attempt| Err(OutputError::BegunAnew { output: "numbers".to_owned(), attempt });
    let mut reader = output::<u64>(&store);
    // Nobody has had anything yet.
    write(&store, [1u64]);
    store.begin_attempt(Attempt(2));
    write(&store, [2u64, 3]);
    assert_eq!(now("the first item", reader.next()), Ok(Some(2)));
    store.begin_attempt(Attempt(3));
    write(&store, [4u64, 5]);
    // What it had in hand of the attempt before may still come.
    assert_eq!(now("the rest of the chunk", reader.next()), Ok(Some(3)));
    assert_eq!(now("the word", reader.next()), told(3));
    assert_eq!(now("the first item again", reader.next()), Ok(Some(4)));
    drop(reader);
    store.begin_attempt(Attempt(4));
    write(&store, [6u64]);
    let mut reader = output::<u64>(&store);
    assert_eq!(now("the word, by another reader", reader.next()), told(4));
    assert_eq!(now("an item", reader.next()), Ok(Some(6)));
    store.begin_attempt(Attempt(5));
    store.begin_attempt(Attempt(6));
    write(&store, [7u64]);
    store.seal(true, "");
    assert_eq!(now("the word, once", reader.next()), told(6));
    assert_eq!(now("the last item", reader.next()), Ok(Some(7)));
    assert_eq!(now("the end", reader.next()), Ok(None));
    drop(reader);
}
