//! Clients that misbehave towards a node, each beside one that does not.

use std::{
    io::{ErrorKind, Write},
    net::TcpStream,
    time::Duration,
};

use proscenium::{Environment, JobHandle, Limits, Node, Outcome, RemoteEnvironment};

use super::{
    SILENCE, Talkative, came_to_rest,
    wire::{
        ANSWER, CALL, CALLS, CHUNK, CONTROL, ClientHello, DATA, GOODBYE, ITEMS, MESSAGE, MORE, PING, PONG, Peer, TELL,
        frame, job_number, key, long_message, seal, text,
    },
};
use crate::{
    leaks::child::{Holdings, holdings_of, is_long, mebibytes, resident_of},
    support::{Answer, Counter, Echo, Increment, Journal, NodeProcess, block_on, deadline, ended, read},
};

/// One who goes about their business at the node, and has to notice nothing.
struct Bystander {
    env: RemoteEnvironment,
    job: JobHandle,
    calls: u64,
    journal: Journal,
}

impl Bystander {
    async fn of(node: &NodeProcess) -> Self {
        let (env, journal) = (node.connect().await.unwrap(), Journal::new());
        let job = env.submit(Talkative { pen: journal.pen() }).autostop(true).await.unwrap();
        Self { env, job, calls: 0, journal }
    }

    async fn goes_on(&mut self) {
        self.calls += 1;
        let counter = self.job.service::<Counter>("counter");
        assert_eq!(deadline("a bystander's call", counter.call(Increment)).await.unwrap(), self.calls);
        deadline("a bystander's item", self.job.input("numbers").send(self.calls)).await.unwrap();
        assert!(deadline("a bystander's question", self.env.health()).await.unwrap().accepting);
    }

    async fn finish(self) {
        self.job.input::<u64>("numbers").finish().await.unwrap();
        let live = deadline("the live output", self.job.output::<u64>("live")).await.unwrap();
        assert!(live.into_iter().eq((1..=self.calls).map(|n| n * 2)), "each once, in order");
        assert_eq!(ended(&self.job).await, Outcome::Completed);
        assert_eq!(read::<u64>(&self.job, "doubles").await.len() as u64, self.calls);
        assert_eq!(self.journal.count(&format!("counter stopped after {}", self.calls)), 1);
        assert_eq!(self.env.jobs().await.unwrap().len(), 1);
        self.env.close().await;
    }
}

fn holdings(node: &NodeProcess) -> Holdings {
    holdings_of(&node.id().to_string())
}

fn resident(node: &NodeProcess) -> u64 {
    resident_of(&node.id().to_string())
}

/// What breaks a rule once the hello is over, and how the rule is named.
fn broken_rules() -> Vec<(&'static str, Vec<u8>)> {
    let message = |payload: &[u8]| frame(MESSAGE, CONTROL, 1, payload);
    let changed = |at: usize, to: u8| {
        let mut bytes = frame(PING, CONTROL, 1, &[]);
        bytes[at] = to;
        seal(&mut bytes);
        bytes
    };
    let health = [0, 2];
    let damaged = |at: usize| {
        let mut bytes = frame(PING, CONTROL, 1, &[]);
        bytes[at] ^= 1;
        bytes
    };
    vec![
        ("unknown kind", changed(4, 77)),
        ("header of a frame was damaged", b"GET / HTTP/1.1\r\nHost: node\r\n\r\n".to_vec()),
        ("flags", changed(5, 0b1000)),
        ("lane", changed(5, CALLS)),
        ("header of a frame was damaged", damaged(7)),
        ("a frame was damaged", damaged(17)),
        // A length that nobody has room for.
        ("long", changed(3, 0xff)),
        ("empty", frame(MESSAGE, CONTROL | MORE, 1, &[])),
        ("inside a message", [frame(MESSAGE, CONTROL | MORE, 1, &[0]), frame(MESSAGE, CONTROL, 2, &health)].concat()),
        ("no such value", message(&[0xfa; 40])),
        ("end before", message(&[])),
        ("end before", message(&[0])),
        ("1 bytes follow", message(&[0, 2, 0])),
        // A text that claims to be longer than all memory.
        ("", message(&[&[10, 7, 253][..], &[0xff; 8]].concat())),
        ("", frame(GOODBYE, CONTROL, 0, &[99])),
        ("Answer", frame(ANSWER, CALLS, 1, b"answer")),
        ("Chunk", frame(CHUNK, DATA, 1, &[0; 16])),
        ("names no route", frame(CALL, CALLS, 1, &[0; 7])),
        ("not open", frame(CALL, CALLS, 1, &[0; 8])),
        ("not open", frame(TELL, CALLS, 1, b"told")),
        ("without head", frame(ITEMS, DATA, 1, &[0; 15])),
    ]
}

#[test]
fn a_client_that_breaks_a_rule_is_told_which_and_cut_off_and_nobody_else_notices() {
    let node = NodeProcess::start(&Limits::default());
    block_on(async {
        let mut bystander = Bystander::of(&node).await;
        bystander.goes_on().await;
        let before = holdings(&node);
        for (rule, bytes) in broken_rules() {
            let mut client = Peer::client(node.address());
            client.say(&bytes);
            let told = client.farewell();
            assert!(told.as_ref().is_some_and(|told| told.contains(rule)), "{rule}: {told:?}");
            bystander.goes_on().await;
        }
        came_to_rest(&node, before);
        bystander.finish().await;
    });
    node.end();
}

#[test]
fn a_client_that_is_gone_in_the_middle_of_a_message_leaves_nothing() {
    let node = NodeProcess::start(&Limits::default());
    block_on(async {
        let mut bystander = Bystander::of(&node).await;
        bystander.goes_on().await;
        let before = holdings(&node);
        let whole = frame(MESSAGE, CONTROL, 1, &[0, 2]);
        for cut in 0..whole.len() {
            let mut client = Peer::client(node.address());
            client.say(&whole[..cut]);
            if cut % 2 == 0 {
                client.stream.shutdown(std::net::Shutdown::Write).unwrap();
                assert_eq!(client.farewell(), None);
            }
        }
        came_to_rest(&node, before);
        bystander.goes_on().await;
        bystander.finish().await;
    });
    node.end();
}

#[test]
fn a_message_that_is_larger_than_its_lane_allows_takes_no_more_memory_than_that() {
    let node = NodeProcess::start(&Limits::default());
    block_on(async {
        let mut bystander = Bystander::of(&node).await;
        bystander.goes_on().await;
        let before = holdings(&node);
        // Items may be the largest, and take their time.
        let data = is_long().then_some((ITEMS, DATA, 128usize));
        for (kind, lane, limit) in [(CALL, CALLS, 16), (MESSAGE, CONTROL, 64)].into_iter().chain(data) {
            let resident_before = resident(&node);
            let mut client = Peer::client(node.address());
            for frame in long_message(kind, lane, 1, (limit << 20) + (512 << 10)) {
                if !client.try_to_say(&frame) {
                    break;
                }
            }
            let told = client.farewell();
            assert!(told.as_ref().is_some_and(|told| told.contains("long")), "{told:?}");
            let grown = resident(&node).saturating_sub(resident_before);
            // A buffer that grows is there twice for a moment.
            assert!(grown <= (2 * limit as u64 + 16) << 20, "{:.1} MiB", mebibytes(grown));
            bystander.goes_on().await;
        }
        came_to_rest(&node, before);
        bystander.finish().await;
    });
    node.end();
}

#[test]
fn a_peer_that_falls_silent_at_any_step_is_cut_off_within_the_limit_for_it() {
    let node = Node::builder().jobs(crate::jobs()).address("127.0.0.1:0").key(key());
    let node = node.hello_limit(Duration::from_millis(500)).heartbeat(SILENCE / 10, SILENCE).open().unwrap();
    let address = node.address().unwrap().to_string();
    let env = RemoteEnvironment::connect("test", address.as_str()).key(key()).blocking().unwrap();
    let mut silent = Vec::new();
    for said in [0, 1, 8, 63, 64, 79, 80] {
        let mut peer = Peer::stranger(&address);
        peer.say(&ClientHello::new().first()[..said]);
        silent.push((format!("{said} bytes of the hello"), peer));
    }
    for said in [0, 1, 31] {
        let (mut peer, hello) = (Peer::stranger(&address), ClientHello::new());
        peer.say(hello.first());
        let answer = peer.answer();
        peer.say(&hello.proof(&answer)[..said]);
        silent.push((format!("{said} bytes of the proof"), peer));
    }
    let message = frame(MESSAGE, CONTROL, 1, &[0; 100]);
    for said in [0, 5, 16, 60] {
        let mut peer = Peer::client(&address);
        peer.say(&message[..said]);
        silent.push((format!("{said} bytes of a message"), peer));
    }
    for (what, mut peer) in silent {
        // Signs of life are not answered either.
        while let Some(frame) = peer.any() {
            assert_eq!(frame.kind, PING, "{what}: {frame:?}");
        }
    }
    assert!(env.blocking().health().unwrap().accepting);
    env.blocking().close();
    drop(node);
}

/// Says `bytes` again and again, until the other side has taken nothing for a while. How many were taken.
fn flood(stream: &mut TcpStream, bytes: &[u8], max: usize) -> usize {
    stream.set_write_timeout(Some(Duration::from_millis(700))).unwrap();
    let mut taken = 0;
    while taken < max {
        match stream.write(&bytes[taken % bytes.len()..]) {
            Ok(count) => taken += count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return taken,
            Err(error) => panic!("after {taken} bytes: {error}"),
        }
    }
    panic!("the flood of {max} bytes was taken")
}

#[test]
fn a_client_that_floods_and_does_not_listen_makes_only_itself_wait() {
    let node = NodeProcess::start(&Limits::default());
    block_on(async {
        let mut bystander = Bystander::of(&node).await;
        bystander.goes_on().await;
        let (before, resident_before) = (holdings(&node), resident(&node));
        let mut client = Peer::client(node.address());
        let pings: Vec<u8> = (0..1_000).flat_map(|id| frame(PING, CONTROL, id, &[])).collect();
        let taken = flood(&mut client.stream, &pings, 256 << 20);
        let grown = resident(&node).saturating_sub(resident_before);
        assert!(grown < 24 << 20, "{:.1} MiB for {taken} bytes", mebibytes(grown));
        bystander.goes_on().await;
        // It listens after all, and nothing of what it was owed is lost.
        for n in 0..taken / 20 {
            let frame = loop {
                let frame = client.any().expect("the connection lasts");
                if frame.kind != PING {
                    break frame;
                }
            };
            assert_eq!((frame.kind, frame.id), (PONG, n as u64 % 1_000));
        }
        drop(client);
        came_to_rest(&node, before);
        bystander.goes_on().await;
        bystander.finish().await;
    });
    node.end();
}

/// Asks, without listening, for what is answered late or never; `ids` says under which numbers.
fn asked(node: &NodeProcess, message: &[u8], ids: impl Iterator<Item = u64>) -> String {
    let mut client = Peer::client(node.address());
    let mut bytes = Vec::new();
    for id in ids {
        bytes.extend(frame(MESSAGE, CONTROL, id, message));
        if bytes.len() > 64 << 10 && !client.try_to_say(&std::mem::take(&mut bytes)) {
            break;
        }
    }
    client.try_to_say(&bytes);
    client.farewell().expect("a reason is given")
}

#[test]
fn a_client_has_so_much_under_way_and_not_more_whatever_numbers_it_uses() {
    let node = NodeProcess::start(&Limits::default());
    block_on(async {
        let mut bystander = Bystander::of(&node).await;
        bystander.goes_on().await;
        let before = holdings(&node);
        let job = job_number(bystander.job.id());
        let wait = [&[0, 0][..], &job, &[3]].concat();
        let output = [&[7][..], &job, &text("live"), &[0, 0]].concat();
        let input = [&[10][..], &job, &text("numbers"), &[0, 9]].concat();
        let route = [&[4][..], &job, &text("echo"), &text("Echo"), &text("answer"), &[0, 0]].concat();
        for (message, what) in [(&wait, "16384 questions"), (&output, "65536 streams"), (&input, "65536 streams")] {
            let told = asked(&node, message, 1..70_000);
            assert!(told.contains(what), "{told}");
            bystander.goes_on().await;
        }
        for message in [&wait, &output, &input, &route] {
            let told = asked(&node, message, [5, 5].into_iter());
            assert!(told.contains("used twice"), "{message:?}: {told}");
            bystander.goes_on().await;
        }
        assert_eq!(bystander.job.service::<Echo>("echo").call(Answer(3)).await.unwrap(), 3);
        came_to_rest(&node, before);
        bystander.finish().await;
    });
    node.end();
}

#[cfg(feature = "tls")]
#[test]
fn nobody_ends_the_session_of_another_key_by_its_number() {
    let node = Node::builder().address("127.0.0.1:0").key(key()).open().unwrap();
    let address = node.address().unwrap().to_string();
    let env = RemoteEnvironment::connect("test", address.as_str()).key(key()).blocking().unwrap();
    let other = block_on(env.add_key("other", proscenium::KeyRole::Reader)).unwrap();
    env.blocking().close();
    let digits = other.reveal().split(':').nth(2).unwrap().to_owned();
    let secret: Vec<u8> = (0..32).map(|n| u8::from_str_radix(&digits[2 * n..2 * n + 2], 16).unwrap()).collect();
    let is_served = |peer: &mut Peer| {
        // How the node is.
        peer.tell(1, &[0, 2]);
        peer.next().is_some_and(|reply| reply.kind == MESSAGE && reply.id == 1)
    };
    let mut first = Peer::client_with(&address, &[0x5a; 32], [7; 16]);
    let mut second = Peer::client_with(&address, &secret, [7; 16]);
    assert!(is_served(&mut first) && is_served(&mut second), "two keys, two sessions");
    // Of the same key a newer connection takes over, as one does whose older one is lost.
    let mut third = Peer::client_with(&address, &secret, [7; 16]);
    assert!(is_served(&mut third) && is_served(&mut first));
    assert_eq!(second.farewell(), None);
    drop(node);
}
