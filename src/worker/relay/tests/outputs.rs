//! Outputs that are written elsewhere.

use std::{sync::Arc, task::Waker};

use proptest::prelude::*;

use super::*;
use crate::{
    codec::{DecodeItems as _, TypedItems},
    job::FailureCause,
    port::{AppendError, OutputReader, WriteFailure},
    worker::relay::{OutputsAtHome, OutputsAtWorker},
};

/// A worker that writes pairs of its number and a counter.
struct Writer {
    streams: Streams,
    relays: OutputsAtWorker,
    number: u32,
    written: u32,
}

impl Writer {
    fn new(wire: &Wire, number: u32, kind: OutputKind) -> Self {
        Self::within(&Limits::default(), wire, number, kind)
    }

    fn within(limits: &Limits, wire: &Wire, number: u32, kind: OutputKind) -> Self {
        let streams = output::<(u32, u32, String)>(kind, limits);
        let relays = OutputsAtWorker::new(&wire.away, &streams);
        Self { streams, relays, number, written: 0 }
    }

    fn store(&self) -> &Arc<OutputStore> {
        &self.streams.outputs[0].1
    }

    fn has_room(&self) -> bool {
        self.store().end().poll_room(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    fn write(&mut self, items: u32, bytes: usize) -> Result<(), WriteFailure> {
        let of = self.written..self.written + items;
        let items: Vec<_> = of.map(|n| (self.number, n, "x".repeat(bytes))).collect();
        self.written += items.len() as u32;
        self.store().end().write(&items).map_err(|error| error.failure)
    }
}

fn read(reader: &mut OutputReader, into: &mut Vec<(u32, u32, String)>) -> bool {
    let Poll::Ready(chunk) = reader.poll_chunk(&mut Context::from_waker(Waker::noop())) else { return false };
    let Some(chunk) = chunk.expect("the output is not cut off") else { return false };
    let (decode, before) = (TypedItems::untrusted(), into.len() as u64);
    let mut rest = &chunk.bytes[..];
    while !rest.is_empty() {
        let left = chunk.items - (into.len() as u64 - before);
        let used = decode.decode_some(rest, left, |item| into.push(item)).expect("they are items");
        rest = &rest[used..];
    }
    assert_eq!(into.len() as u64 - before, chunk.items);
    reader.consumed(chunk.first + chunk.items);
    true
}

#[derive(Debug, Clone)]
enum Act {
    Write { worker: usize, items: u32, bytes: usize },
    CarryHome(usize),
    CarryAway(usize),
    Read,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        3 => (0..2usize, 1..40u32, prop_oneof![Just(0), 0..200usize, Just(30_000)])
            .prop_map(|(worker, items, bytes)| Act::Write { worker, items, bytes }),
        2 => (0..2usize).prop_map(Act::CarryHome),
        2 => (0..2usize).prop_map(Act::CarryAway),
        1 => Just(Act::Read),
    ];
    prop::collection::vec(act, 0..120)
}

proptest! {
    #[test]
    fn whatever_the_order_all_items_come_home_each_workers_in_order_and_few_wait(acts in acts()) {
        let limits = Limits { port_items: 50, ..Limits::default() };
        let home = output::<(u32, u32, String)>(OutputKind::Streamed, &limits);
        let wires = [Wire::to(1), Wire::to(2)];
        let _relays = OutputsAtHome::new(&peers(&wires), &home);
        let mut writers = [1, 2].map(|number| {
            Writer::within(&limits, &wires[number as usize - 1], number, OutputKind::Streamed)
        });
        let store = Arc::clone(&home.outputs[0].1);
        let mut reader = store.reader_from(0).expect("there is no other");
        let mut items = Vec::new();
        for act in acts {
            match act {
                Act::Write { worker, items, bytes } => {
                    if writers[worker].has_room() {
                        prop_assert_eq!(writers[worker].write(items, bytes), Ok(()));
                    }
                }
                Act::CarryHome(worker) => drop(wires[worker].carry_home()),
                Act::CarryAway(worker) => drop(wires[worker].carry_away()),
                Act::Read => drop(read(&mut reader, &mut items)),
            }
            // What may wait at home, and as much at each worker, but for a batch.
            let written = writers.iter().map(|writer| writer.written as usize).sum::<usize>();
            prop_assert!(written <= items.len() + 49 + 2 * (49 + 39), "{written} were written, {} read", items.len());
        }
        for (writer, wire) in writers.iter().zip(&wires) {
            let names = ["out".to_owned()];
            let mut flushed = pin!(writer.relays.flushed(&names));
            while poll(flushed.as_mut()).is_pending() {
                wire.carry();
                while read(&mut reader, &mut items) {}
            }
            let mut settle = pin!(wire.away.settle(&[]));
            prop_assert!(poll(settle.as_mut()).is_pending());
            wire.carry();
            prop_assert_eq!(poll(settle.as_mut()), Poll::Ready(Ok(Vec::new())));
            while read(&mut reader, &mut items) {}
        }
        for writer in &writers {
            let of_worker = items.iter().filter(|item| item.0 == writer.number).map(|item| item.1);
            prop_assert!(of_worker.eq(0..writer.written));
        }
        prop_assert_eq!(items.len() as u32, writers[0].written + writers[1].written);
    }

    #[test]
    fn an_output_that_grows_too_large_refuses_its_writers_before_they_are_settled(
        writes in prop::collection::vec((1..30u32, 0..300usize), 1..40),
    ) {
        let limits = Limits { output_bytes_max: 8_000, ..Limits::default() };
        let home = output::<(u32, u32, String)>(OutputKind::Collected, &limits);
        let wires = [Wire::to(1)];
        let _relays = OutputsAtHome::new(&peers(&wires), &home);
        let mut writer = Writer::new(&wires[0], 1, OutputKind::Collected);
        let full = AppendError::Full { output: "out".to_owned(), limit_bytes: 8_000 };
        let mut refused = false;
        for (items, bytes) in writes {
            match writer.write(items, bytes) {
                Ok(()) => {}
                Err(error) => {
                    prop_assert_eq!(error, WriteFailure::Append(full.clone()));
                    refused = true;
                }
            }
            if items % 3 == 0 {
                wires[0].carry();
            }
        }
        let flushed = now(writer.relays.flushed(&["out".to_owned()]));
        let mut settle = pin!(wires[0].away.settle(&[]));
        wires[0].carry();
        prop_assert_eq!(poll(settle.as_mut()), Poll::Ready(Ok(Vec::new())));
        // Locally such a sequence of runs is refused at the first that does not fit, and so it is here.
        let is_whole = home.outputs[0].1.items() == u64::from(writer.written);
        prop_assert_eq!(writer.relays.failure(&["out".to_owned()]).is_none(), is_whole);
        if refused || flushed.is_err() {
            prop_assert_eq!(writer.relays.failure(&["out".to_owned()]), Some(FailureCause::from(full.clone())));
        }
        if !is_whole {
            prop_assert_eq!(writer.write(1, 0), Err(WriteFailure::Append(full)));
            prop_assert!(writer.has_room(), "a writer that is refused comes to be told");
        }
    }
}

#[test]
fn an_item_larger_than_a_batch_comes_in_pieces() {
    let home = output::<(u32, u32, String)>(OutputKind::Streamed, &Limits::default());
    let wires = [Wire::to(1)];
    let _relays = OutputsAtHome::new(&peers(&wires), &home);
    let mut writer = Writer::new(&wires[0], 1, OutputKind::Streamed);
    assert_eq!(writer.write(2, 20 << 20), Ok(()));
    assert!(!writer.has_room());
    let mut reader = home.outputs[0].1.reader_from(0).expect("there is no other");
    let mut items = Vec::new();
    while items.len() < 2 {
        assert!(wires[0].carry_home() | wires[0].carry_away() | read(&mut reader, &mut items), "it goes on");
    }
    assert!(items.iter().all(|(_, _, text)| text.len() == 20 << 20));
    assert!(writer.has_room());
    assert_eq!(now(writer.relays.flushed(&["out".to_owned()])), Ok(()));
}

#[test]
fn writers_of_an_output_wait_for_ever_once_the_link_is_broken_and_settling_says_so() {
    let wires = [Wire::to(1)];
    let mut writer = Writer::new(&wires[0], 1, OutputKind::Streamed);
    while writer.has_room() {
        assert_eq!(writer.write(10, 50_000), Ok(()));
    }
    wires[0].away.break_off("cut");
    assert!(!writer.has_room());
    assert_eq!(now(writer.relays.flushed(&["out".to_owned()])), Ok(()));
    assert!(now(wires[0].away.settle(&[])).is_err());
    assert_eq!(writer.relays.failure(&["out".to_owned()]), None);
}

#[test]
fn what_comes_after_the_seal_is_thrown_away_and_nobody_waits() {
    let limits = Limits { port_items: 1, ..Limits::default() };
    let home = output::<(u32, u32, String)>(OutputKind::Streamed, &limits);
    let wires = [Wire::to(1)];
    let _relays = OutputsAtHome::new(&peers(&wires), &home);
    let mut writer = Writer::new(&wires[0], 1, OutputKind::Streamed);
    while writer.has_room() {
        assert_eq!(writer.write(10, 50_000), Ok(()));
        wires[0].carry();
    }
    let before = home.outputs[0].1.items();
    home.outputs[0].1.seal(false, "it was cancelled");
    wires[0].carry();
    assert!(writer.has_room());
    assert_eq!(now(writer.relays.flushed(&["out".to_owned()])), Ok(()));
    assert_eq!(home.outputs[0].1.items(), before);
}
