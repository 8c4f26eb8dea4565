//! Nodes that have the key and misbehave, and what their clients make of it.

use std::{io::Write, net::TcpListener, thread, time::Duration};

use proscenium::{Connect, ConnectError, Environment, JobId, OutputError, QueryError, RemoteEnvironment};

use super::{
    SILENCE,
    wire::{
        CALLS, CHUNK, CONTROL, DATA, Frame, GOODBYE, ITEMS, MESSAGE, MORE, PING, Peer, TELL, WELCOME, frame, key,
        long_message, seal, text,
    },
};
use crate::{
    leaks::child::{descriptors, holdings, in_child, settled},
    support::{DEADLINE, block_on, deadline, on_a_thread},
};

/// *Clean up* as a client asks it.
const CLEANUP: &[u8] = &[0, 4];

/// That so many jobs were cleaned up.
fn removed(jobs: u8) -> Vec<u8> {
    vec![1, 0, 10, jobs]
}

/// A node that does what `course` says, on a thread of its own.
struct Fake {
    address: String,
    thread: thread::JoinHandle<()>,
}

impl Fake {
    fn new(course: impl FnOnce(&TcpListener) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        Self { address, thread: thread::spawn(move || course(&listener)) }
    }

    fn connect(&self) -> Connect {
        RemoteEnvironment::connect("test", self.address.as_str()).key(key())
    }

    /// It did all it was to do, and saw what it was to see.
    fn finish(self) {
        on_a_thread("the end of the fake node", move || self.thread.join()).unwrap();
    }
}

/// A node's side of the next connection, which is welcomed.
fn welcoming(listener: &TcpListener) -> Peer {
    let mut peer = Peer::node(listener);
    peer.tell(0, WELCOME);
    peer
}

/// The next question, which has to be `message`.
fn asked(peer: &mut Peer, message: &[u8]) -> u64 {
    let question = peer.next().expect("something is asked");
    assert_eq!((question.kind, question.payload.as_slice()), (MESSAGE, message), "{question:?}");
    question.id
}

/// The client closes its environment.
fn dismissed(mut peer: Peer) {
    let last = std::iter::from_fn(|| peer.next()).last();
    assert!(last.as_ref().is_some_and(|last| last.kind == GOODBYE && last.payload == [0]), "{last:?}");
}

#[test]
fn a_node_that_never_says_welcome_is_given_up_within_the_limit_for_connecting() {
    let fake = Fake::new(|listener| {
        let mut first = Peer::node(listener);
        // It gives signs of life, and nothing else.
        while first.next().is_some() {}
        let mut second = welcoming(listener);
        let id = asked(&mut second, CLEANUP);
        second.tell(id, &removed(1));
        drop(second);
        let mut third = Peer::node(listener);
        while third.next().is_some() {}
        let mut fourth = welcoming(listener);
        let id = asked(&mut fourth, CLEANUP);
        fourth.tell(id, &removed(2));
        dismissed(fourth);
    });
    block_on(async {
        let connect = || fake.connect().connect_limit(Duration::from_millis(500));
        let connect = || connect().heartbeat(Duration::from_millis(50), Duration::from_secs(60));
        let error = deadline("giving up", connect()).await.unwrap_err();
        let ConnectError::Unreachable { message, .. } = &error else { panic!("{error:?}") };
        assert!(message.contains("did not answer"), "{message}");
        let env = deadline("connecting", connect()).await.unwrap();
        assert_eq!(deadline("the answer", env.cleanup()).await, Ok(1));
        assert_eq!(deadline("the answer of the fourth", env.cleanup()).await, Ok(2));
        env.close().await;
    });
    fake.finish();
}

/// What breaks a rule, said where the question `id` waits for its answer; and how the rule is named.
fn broken_rules(id: u64) -> Vec<(&'static str, Vec<u8>)> {
    let message = |payload: &[u8]| frame(MESSAGE, CONTROL, id, payload);
    let changed = |at: usize, to: u8| {
        let mut bytes = frame(PING, CONTROL, 1, &[]);
        bytes[at] = to;
        seal(&mut bytes);
        bytes
    };
    let damaged = |at: usize| {
        let mut bytes = frame(PING, CONTROL, 1, &[]);
        bytes[at] ^= 1;
        bytes
    };
    vec![
        ("unknown kind", changed(4, 77)),
        ("header of a frame was damaged", b"HTTP/1.1 200 OK\r\n\r\n".to_vec()),
        ("flags", changed(5, 0b1000)),
        ("lane", changed(5, CALLS)),
        ("header of a frame was damaged", damaged(7)),
        ("a frame was damaged", damaged(17)),
        ("long", changed(3, 0xff)),
        ("empty", frame(MESSAGE, CONTROL | MORE, id, &[])),
        ("inside a message", [frame(MESSAGE, MORE, id, &[1]), frame(MESSAGE, CONTROL, 2, &removed(9))].concat()),
        ("no such value", message(&[0xfa; 40])),
        ("end before", message(&removed(9)[..3])),
        ("1 bytes follow", message(&[removed(9), vec![0]].concat())),
        // A list that claims to be longer than all memory.
        ("", message(&[&[1, 0, 7, 253][..], &[0xff; 8]].concat())),
        ("does not answer a question", message(&[5, 0, 0])),
        ("none is expected", frame(CHUNK, DATA, id, &[0; 16])),
        ("none is expected", frame(ITEMS, DATA, id, &[0; 16])),
        ("none is expected", frame(TELL, CALLS, id, b"told")),
        ("", frame(GOODBYE, CONTROL, 0, &[99])),
    ]
}

#[test]
fn a_node_that_breaks_a_rule_is_told_which_and_what_was_asked_is_asked_again() {
    let rules = broken_rules(1).len();
    let fake = Fake::new(move |listener| {
        let mut peer = welcoming(listener);
        for n in 0..rules {
            let id = asked(&mut peer, CLEANUP);
            let (rule, bytes) = broken_rules(id).swap_remove(n);
            // It may be cut off before all is said.
            peer.try_to_say(&bytes);
            let told = peer.farewell();
            assert!(told.as_ref().is_some_and(|told| told.contains(rule)), "{rule}: {told:?}");
            drop(peer);
            peer = welcoming(listener);
            assert_eq!(asked(&mut peer, CLEANUP), id, "it is the same question");
            peer.tell(id, &removed(3));
        }
        dismissed(peer);
    });
    block_on(async {
        let env = fake.connect().await.unwrap();
        for n in 0..rules {
            assert_eq!(deadline("the answer", env.cleanup()).await, Ok(3), "{}", broken_rules(1)[n].0);
        }
        env.close().await;
    });
    fake.finish();
}

#[test]
fn a_node_that_says_more_than_a_message_may_hold_is_told_so_and_asked_again() {
    let fake = Fake::new(|listener| {
        let mut peer = welcoming(listener);
        let id = asked(&mut peer, CLEANUP);
        for frame in long_message(MESSAGE, CONTROL, id, 65 << 20) {
            if !peer.try_to_say(&frame) {
                break;
            }
        }
        let told = peer.farewell();
        assert!(told.as_ref().is_some_and(|told| told.contains("long")), "{told:?}");
        drop(peer);
        let mut peer = welcoming(listener);
        assert_eq!(asked(&mut peer, CLEANUP), id, "it is the same question");
        peer.tell(id, &removed(3));
        dismissed(peer);
    });
    block_on(async {
        let env = fake.connect().await.unwrap();
        assert_eq!(deadline("the answer", env.cleanup()).await, Ok(3));
        env.close().await;
    });
    fake.finish();
}

#[test]
fn an_answer_to_something_else_is_an_error_and_one_that_comes_twice_or_unasked_is_none() {
    let fake = Fake::new(|listener| {
        let mut peer = welcoming(listener);
        let id = asked(&mut peer, CLEANUP);
        // *Done*, which does not say how many.
        peer.tell(id, &[1, 0, 0]);
        let id = asked(&mut peer, CLEANUP);
        for jobs in [3, 4, 5] {
            peer.tell(id, &removed(jobs));
        }
        peer.tell(id + 1_000, &removed(6));
        let id = asked(&mut peer, CLEANUP);
        peer.tell(id, &removed(7));
        dismissed(peer);
    });
    block_on(async {
        let env = fake.connect().await.unwrap();
        let error = deadline("the answer", env.cleanup()).await.unwrap_err();
        assert!(matches!(&error, QueryError::Internal(what) if what.contains("does not answer")), "{error:?}");
        assert_eq!(deadline("the answer", env.cleanup()).await, Ok(3));
        assert_eq!(deadline("the answer", env.cleanup()).await, Ok(7));
        env.close().await;
    });
    fake.finish();
}

#[test]
fn a_node_that_falls_silent_is_left_and_asked_again_over_another_connection() {
    let fake = Fake::new(|listener| {
        let mut silent = welcoming(listener);
        asked(&mut silent, CLEANUP);
        let mut peer = welcoming(listener);
        let id = asked(&mut peer, CLEANUP);
        peer.tell(id, &removed(3));
        dismissed(peer);
        // What it says now reaches nobody.
        silent.try_to_say(&frame(MESSAGE, CONTROL, id, &removed(9)));
    });
    block_on(async {
        let env = fake.connect().heartbeat(SILENCE / 10, SILENCE).await.unwrap();
        assert_eq!(deadline("the answer", env.cleanup()).await, Ok(3));
        env.close().await;
    });
    fake.finish();
}

/// The node's side of a client that reads the output `out`, once it is to be sent.
fn reading(listener: &TcpListener) -> (Peer, u64) {
    let mut peer = welcoming(listener);
    let Frame { id, .. } = peer.next().expect("the job is asked for");
    peer.tell(id, &[&[1, 0, 1][..], &text("job")].concat());
    let opened = peer.next().expect("the output is opened");
    assert_eq!(opened.payload.first(), Some(&7), "{opened:?}");
    peer.tell(opened.id, &[5, 0, 0]);
    (peer, opened.id)
}

/// A chunk that claims so many items, and has rows of one byte, in blocks of 32,768 at most.
fn chunk(output: u64, first: u64, items: u64, bytes: usize) -> Vec<u8> {
    let mut payload = [first.to_le_bytes(), items.to_le_bytes()].concat();
    for block in vec![0; bytes].chunks(1 << 15) {
        let mut head = 2 * block.len();
        while head >= 0x80 {
            payload.push((head & 0x7f) as u8 | 0x80);
            head >>= 7;
        }
        payload.push(head as u8);
        payload.extend(block);
    }
    let frames = payload.chunks(64 << 10).count();
    let flags = |n| if n + 1 < frames { DATA | MORE } else { DATA };
    payload.chunks(64 << 10).enumerate().flat_map(|(n, part)| frame(CHUNK, flags(n), output, part)).collect()
}

#[test]
fn a_node_that_sends_beyond_its_credit_is_cut_off() {
    let fake = Fake::new(|listener| {
        let (mut peer, output) = reading(listener);
        for n in 0..6 {
            peer.try_to_say(&chunk(output, n << 20, 1 << 20, 1 << 20));
        }
        let told = peer.farewell();
        assert!(told.as_ref().is_some_and(|told| told.contains("beyond its credit")), "{told:?}");
    });
    block_on(async {
        let env = fake.connect().await.unwrap();
        let job = env.job(JobId::random()).await.unwrap();
        let mut out = job.output::<u64>("out");
        assert_eq!(deadline("an item", out.next()).await, Ok(Some(0)));
        let fake = tokio::task::spawn_blocking(move || fake.finish());
        deadline("the fake node being told", fake).await.unwrap();
        env.close().await;
    });
}

#[test]
fn items_that_are_not_what_the_chunk_says_are_an_error_and_never_a_part_that_looks_whole() {
    for (items, bytes) in [(5, 2), (2, 5), (u64::MAX, 3)] {
        let fake = Fake::new(move |listener| {
            let (mut peer, output) = reading(listener);
            peer.try_to_say(&chunk(output, 0, items, bytes));
            // And that was all of it.
            peer.try_to_say(&frame(MESSAGE, DATA, output, &[6, 0]));
            while peer.next().is_some() {}
        });
        block_on(async {
            let env = fake.connect().reconnect_limit(Duration::from_millis(100)).await.unwrap();
            let job = env.job(JobId::random()).await.unwrap();
            let error = deadline("the error", job.output::<u64>("out")).await.unwrap_err();
            assert!(matches!(error, OutputError::Decode { .. }), "{items} items in {bytes} bytes: {error:?}");
            env.close().await;
        });
        fake.finish();
    }
}

#[test]
fn clients_of_nodes_that_misbehave_leave_no_thread_and_no_descriptor() {
    let name = "faults::fakes::clients_of_nodes_that_misbehave_leave_no_thread_and_no_descriptor";
    in_child(name, 4 * DEADLINE, || {
        let meet = |number: u32| {
            let fake = Fake::new(move |listener| match number % 5 {
                0 => drop(listener.accept().unwrap()),
                1 => listener.accept().unwrap().0.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap(),
                2 => drop(Peer::node(listener)),
                3 => drop(welcoming(listener)),
                _ => {
                    let mut peer = welcoming(listener);
                    let id = asked(&mut peer, CLEANUP);
                    peer.try_to_say(&frame(MESSAGE, CONTROL, id, &[0xfa; 40]));
                    peer.farewell();
                }
            });
            let env = fake.connect().reconnect_limit(Duration::ZERO).connect_limit(SILENCE).blocking();
            assert_eq!(env.is_ok(), number % 5 > 2, "{env:?}");
            if let Ok(env) = env {
                if number % 5 == 4 {
                    assert!(matches!(env.blocking().cleanup(), Err(QueryError::Unreachable { .. })));
                }
                if number.is_multiple_of(2) {
                    env.blocking().close();
                }
            }
            fake.finish();
        };
        (0..20).for_each(meet);
        let before = holdings();
        (0..100).for_each(meet);
        assert_eq!(settled(before), before, "{:?}", descriptors());
    });
}
