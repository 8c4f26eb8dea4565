//! Senders on the other side of a connection, on the job's side.

use std::{
    sync::Arc,
    task::{Context, Poll, Waker},
};

use crate::{
    codec::Run,
    job::Limits,
    port::{AnyInput, ClientId, EncodedWriter, InputError, InputPort, WriterId},
    schema::TypeDescription,
};

fn port(items_max: usize) -> Arc<InputPort<u64>> {
    let limits = Limits { port_items: items_max, ..Limits::default() };
    InputPort::new("numbers", TypeDescription::of::<u64>(), &limits)
}

fn writer(port: &Arc<InputPort<u64>>, number: u128) -> Box<dyn EncodedWriter> {
    writer_of(port, 7, number).expect("there is room for a writer")
}

fn writer_of(port: &Arc<InputPort<u64>>, client: u128, number: u128) -> Result<Box<dyn EncodedWriter>, InputError> {
    (Arc::clone(port) as Arc<dyn AnyInput>)
        .writer(WriterId { client: ClientId { key: Default::default(), number: client }, number })
}

fn offer(writer: &mut dyn EncodedWriter, first: u64, items: u64, bytes: &[u8]) -> Result<(), InputError> {
    writer.decoding(first, items, bytes.to_vec())().map(|decoded| writer.offer(decoded))
}

fn encoded(items: impl IntoIterator<Item = u64>) -> Vec<u8> {
    let mut run = Run::new(&TypeDescription::of::<u64>(), 0);
    for item in items {
        run.push(&item).expect("a number can be encoded");
    }
    run.take().1
}

fn push(writer: &mut dyn EncodedWriter) -> Poll<Result<(), InputError>> {
    writer.poll_push(&mut Context::from_waker(Waker::noop()))
}

fn taken(port: &InputPort<u64>) -> Vec<u64> {
    let mut items = Vec::new();
    let _ = port.poll_batch(&mut Context::from_waker(Waker::noop()), &mut items, usize::MAX);
    items
}

#[test]
fn what_comes_again_is_dropped_and_a_gap_is_refused() {
    let port = port(100);
    let mut first = writer(&port, 1);
    offer(&mut *first, 0, 3, &encoded(0..3)).expect("they are the first");
    assert_eq!(push(&mut *first), Poll::Ready(Ok(())));
    assert_eq!(first.next(), 3);
    offer(&mut *first, 1, 4, &encoded(1..5)).expect("some of them are new");
    assert_eq!(push(&mut *first), Poll::Ready(Ok(())));
    assert!(matches!(offer(&mut *first, 7, 1, &encoded([7])), Err(InputError::NotCarried { .. })));
    // Another connection of the same sender goes on where it was, and another sender begins anew.
    drop(first);
    let (mut again, mut other) = (writer(&port, 1), writer(&port, 2));
    assert_eq!((again.next(), other.next()), (5, 0));
    offer(&mut *again, 4, 2, &encoded([4, 5])).expect("one of them is new");
    offer(&mut *other, 0, 1, &encoded([100])).expect("it is the first");
    assert_eq!((push(&mut *again), push(&mut *other)), (Poll::Ready(Ok(())), Poll::Ready(Ok(()))));
    assert_eq!(taken(&port), [0, 1, 2, 3, 4, 5, 100]);
    again.forget();
    assert_eq!(writer(&port, 1).next(), 0);
}

#[test]
fn what_had_no_room_when_the_connection_was_lost_comes_again_and_nothing_else() {
    let port = port(2);
    let mut first = writer(&port, 1);
    offer(&mut *first, 0, 5, &encoded(0..5)).expect("they are the first");
    assert_eq!(push(&mut *first), Poll::Pending);
    assert_eq!(first.next(), 2);
    assert_eq!(port.senders(), 1);
    drop(first);
    assert_eq!((taken(&port), port.senders()), (vec![0, 1], 0));
    let mut again = writer(&port, 1);
    offer(&mut *again, 0, 5, &encoded(0..5)).expect("they are sent again");
    assert_eq!(push(&mut *again), Poll::Pending);
    assert_eq!(taken(&port), [2, 3]);
    assert_eq!(push(&mut *again), Poll::Ready(Ok(())));
    assert_eq!((taken(&port), again.next()), (vec![4], 5));
}

#[test]
fn items_that_are_none_are_refused_as_a_whole() {
    let port = port(100);
    let mut writer = writer(&port, 1);
    let mut long = encoded(0..3);
    long.push(0);
    for (items, bytes) in [(3, &encoded(0..2)[..]), (3, &long), (u64::MAX, &[]), (1 << 40, &encoded(0..3))] {
        assert!(
            matches!(offer(&mut *writer, 0, items, bytes), Err(InputError::NotCarried { .. })),
            "{items} in {bytes:?}"
        );
    }
    assert_eq!((push(&mut *writer), writer.next()), (Poll::Ready(Ok(())), 0));
}

#[test]
fn a_port_that_is_closed_refuses_the_rest_and_says_how_far_it_came() {
    let port = port(2);
    let mut writer = writer(&port, 1);
    offer(&mut *writer, 0, 5, &encoded(0..5)).expect("they are the first");
    assert_eq!(push(&mut *writer), Poll::Pending);
    writer.finish().expect("it is open");
    let finished = InputError::Finished { input: "numbers".to_owned() };
    assert_eq!((push(&mut *writer), writer.next()), (Poll::Ready(Err(finished)), 2));
}

fn too_many(limit: usize) -> Option<InputError> {
    Some(InputError::TooManySenders { input: "numbers".to_owned(), limit })
}

#[test]
fn senders_of_clients_that_are_gone_make_room_and_those_of_one_client_keep_no_other_out() {
    let port = port(1);
    // Of sixteen clients, one of which is gone.
    let mut connected = Vec::new();
    for client in 0..16 {
        let of_client = (0..4_096).map(|number| writer_of(&port, client, number).expect("there is room"));
        connected.push(of_client.collect::<Vec<_>>());
        assert_eq!(writer_of(&port, client, 4_096).err(), too_many(4_096), "of client {client}");
    }
    assert_eq!(writer_of(&port, 99, 0).err(), too_many(65_536), "all are connected");
    drop(connected.swap_remove(3));
    let honest = writer_of(&port, 99, 0).expect("one that is gone is forgotten");
    let again = writer_of(&port, 3, 1).expect("the second of those that went is not");
    drop((honest, again));
}

#[test]
fn a_sender_of_another_client_with_the_same_number_is_another_one() {
    let port = port(10);
    let mut mine = writer_of(&port, 1, 5).expect("there is room");
    offer(&mut *mine, 0, 2, &encoded(0..2)).expect("they are the first");
    assert_eq!(push(&mut *mine), Poll::Ready(Ok(())));
    assert_eq!((mine.next(), writer_of(&port, 2, 5).expect("there is room").next()), (2, 0));
}

#[test]
fn a_sender_that_is_connected_twice_is_counted_once_and_gone_when_both_are() {
    let port = port(10);
    let (mut first, second) = (writer(&port, 1), writer(&port, 1));
    offer(&mut *first, 0, 2, &encoded(0..2)).expect("they are the first");
    assert_eq!(push(&mut *first), Poll::Ready(Ok(())));
    drop(second);
    // More senders than are remembered of a client go: the one that is still connected is not forgotten for them.
    for number in 2..5_000 {
        drop(writer(&port, number));
    }
    assert_eq!(first.next(), 2);
    drop(first);
    writer(&port, 1).forget();
    // And nothing is left of it that would be forgotten in place of others.
    let connected: Vec<_> = (0..4_096).map(|number| writer(&port, 10_000 + number)).collect();
    assert_eq!(writer_of(&port, 7, 20_000).err(), too_many(4_096));
    drop(connected);
}
