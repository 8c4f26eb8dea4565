//! Clients that want more than is theirs: of the node's memory, and of what is other clients'.

use std::{
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use actix::{Actor, Context, Handler, Message};
use futures::{StreamExt, stream::FuturesUnordered};
use proscenium::{
    BuildRefusal, CallError, Environment, JobHandle, Limits, MessageTable, RemoteEnvironment, Service, SubmitError,
};
use serde::{Deserialize, Serialize};

use super::{
    Talkative,
    wire::{CHUNK, CONTROL, DATA, ITEMS, MESSAGE, Peer, frame, job_number, key, number, text},
};
use crate::{
    leaks::child::{is_long, mebibytes, resident_of},
    support::{Answer, Echo, Journal, NodeProcess, Proxy, block_on, deadline, each_environment, job, on_a_thread},
};

/// Answers with a text of so many mebibytes.
#[derive(Debug, Message, Serialize, Deserialize)]
#[rtype(result = "String")]
pub struct Mebibytes(usize);

struct Wordy;

impl Actor for Wordy {
    type Context = Context<Self>;
}

impl Service for Wordy {
    fn messages(table: &mut MessageTable<Self>) {
        table.accept::<Mebibytes>("mebibytes");
    }
}

impl Handler<Mebibytes> for Wordy {
    type Result = String;

    fn handle(&mut self, Mebibytes(count): Mebibytes, _: &mut Self::Context) -> String {
        "x".repeat(count << 20)
    }
}

job!(
    /// Has everything that one can want too much of.
    Plentiful {}, |this, flow| {
        flow.register_service("wordy", || Wordy);
        flow.register_service("echo", || Echo);
        flow.from_batch(0u64..).stream_out("endless");
        flow.from_channel::<u64>("numbers").collect("out");
    }
);

job!(WithNames { service: String, output: String, input: String }, |this, flow| {
    flow.register_service(&this.service, || Echo);
    flow.from_channel::<u64>(&this.input).collect(&this.output);
});

/// As the codec writes the fingerprint of a `u64`, found out from a client that opens an output of such.
fn fingerprint_of_numbers() -> Vec<u8> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let fake = thread::spawn(move || {
        let mut peer = Peer::node(&listener);
        peer.tell(0, super::wire::WELCOME);
        let asked = peer.next().expect("the job is asked for");
        peer.tell(asked.id, &[&[1, 0, 1][..], &text("job")].concat());
        let opened = peer.next().expect("the output is opened");
        let name = text("out");
        let named = opened.payload.windows(name.len()).position(|bytes| bytes == name).expect("the output is named");
        let before = named + name.len();
        opened.payload[before..opened.payload.len() - 1].to_vec()
    });
    block_on(async {
        let env = RemoteEnvironment::connect("test", address.as_str()).key(key()).reconnect_limit(Duration::ZERO);
        let env = env.await.unwrap();
        let job = env.job(proscenium::JobId::random()).await.unwrap();
        let mut out = job.output::<u64>("out");
        let _ = deadline("the end of the fake node", out.next()).await;
        let fingerprint = on_a_thread("the fake node", move || fake.join());
        env.close().await;
        fingerprint.unwrap()
    })
}

fn open_output(job: &JobHandle, output: &str, fingerprint: &[u8]) -> Vec<u8> {
    [&[7][..], &job_number(job.id()), &text(output), fingerprint, &[0]].concat()
}

fn open_input(job: &JobHandle, input: &str, fingerprint: &[u8], writer: u128) -> Vec<u8> {
    [&[10][..], &job_number(job.id()), &text(input), fingerprint, &number(writer)].concat()
}

/// Position and number of a chunk's items.
fn head(payload: &[u8]) -> (u64, u64) {
    let number = |at: usize| u64::from_le_bytes(payload[at..at + 8].try_into().unwrap());
    (number(0), number(8))
}

#[test]
fn what_a_client_says_of_its_own_reading_spoils_nothing_for_the_next_reader() {
    let fingerprint = fingerprint_of_numbers();
    let node = NodeProcess::start(&Limits::default());
    block_on(async {
        let (env, journal) = (node.connect().await.unwrap(), Journal::new());
        let job = env.submit(Talkative { pen: journal.pen() }).autostop(true).await.unwrap();
        let input = job.input("numbers");
        for item in 1..=10u64 {
            input.send(item).await.unwrap();
        }
        // One that reads all and says that it handed out three items, and that one byte is left of the rest: under version 1
        // the node believed the latter.
        let mut liar = Peer::client(node.address());
        liar.tell(5, &open_output(&job, "live", &fingerprint));
        let mut seen = 0;
        while seen < 10 {
            let frame = liar.next().expect("items come");
            if frame.kind == CHUNK {
                let (first, items) = head(&frame.payload);
                seen = first + items;
            }
        }
        liar.tell(5, &[9, 3]);
        // Another that claims to have handed out what it never got.
        let mut boaster = Peer::client(node.address());
        boaster.tell(6, &open_output(&job, "live", &fingerprint));
        boaster.tell(6, &[9, 200]);
        let told = boaster.farewell();
        assert!(told.as_ref().is_some_and(|told| told.contains("more was consumed")), "{told:?}");
        input.finish().await.unwrap();
        let rest = deadline("the rest", job.output::<u64>("live")).await.unwrap();
        assert_eq!(rest, (4..=10).map(|n| n * 2).collect::<Vec<_>>());
        drop(liar);
        env.close().await;
    });
    node.end();
}

#[test]
fn senders_that_clients_left_behind_keep_no_other_out() {
    let fingerprint = fingerprint_of_numbers();
    let node = NodeProcess::start(&Limits::default());
    block_on(async {
        let (env, journal) = (node.connect().await.unwrap(), Journal::new());
        let job = env.submit(Talkative { pen: journal.pen() }).autostop(true).await.unwrap();
        let input = job.input("numbers");
        deadline("the first item", input.send(0u64)).await.unwrap();
        // More than a node of version 1 remembered.
        for n in 0..5u128 {
            let mut client = Peer::client(node.address());
            for id in 1..=4_000u64 {
                // Version 1 knew senders by their numbers alone.
                let writer = n << 64 | u128::from(id);
                client.tell(id, &open_input(&job, "numbers", &fingerprint, writer));
            }
            for _ in 1..=4_000u64 {
                let opened = client.next().expect("it is opened");
                assert_eq!(opened.payload, [7, 0, 0]);
            }
        }
        let honest = node.connect().await.unwrap();
        let late = honest.job(job.id()).await.unwrap().input("numbers");
        deadline("an honest item", late.send(1u64)).await.unwrap();
        input.finish().await.unwrap();
        assert_eq!(deadline("the output", job.output::<u64>("live")).await.unwrap(), [0, 2]);
        honest.close().await;
        env.close().await;
    });
    node.end();
}

#[test]
fn batches_of_nothing_are_refused() {
    let fingerprint = fingerprint_of_numbers();
    let node = NodeProcess::start(&Limits::default());
    block_on(async {
        let (env, journal) = (node.connect().await.unwrap(), Journal::new());
        let job = env.submit(Talkative { pen: journal.pen() }).autostop(true).await.unwrap();
        let mut client = Peer::client(node.address());
        client.tell(5, &open_input(&job, "numbers", &fingerprint, 9));
        client.say(&frame(ITEMS, DATA, 5, &[0; 16]));
        let told = client.farewell();
        assert!(told.as_ref().is_some_and(|told| told.contains("no items")), "{told:?}");
        env.close().await;
    });
    node.end();
}

#[test]
fn names_have_a_limit_in_every_environment() {
    each_environment(async |env| {
        let name = |bytes: usize| "n".repeat(bytes);
        let named = |service: usize, output: usize, input: usize| WithNames {
            service: name(service),
            output: format!("o{}", name(output - 1)),
            input: format!("i{}", name(input - 1)),
        };
        let fits = env.submit(named(256, 256, 256)).name(name(256)).autostop(true).await.unwrap();
        assert_eq!(fits.service::<Echo>(&name(256)).call(Answer(3)).await, Ok(3));
        let refused = async |what: &str, submit: proscenium::Submit| {
            let error = submit.await.unwrap_err();
            let expected = BuildRefusal::NameTooLong { what: what.to_owned(), bytes: 257, limit: 256 };
            assert!(matches!(&error, SubmitError::Build(refusal) if *refusal == expected), "{error:?}");
        };
        refused("the job", env.submit(named(1, 1, 1)).name(name(257))).await;
        refused("a service", env.submit(named(257, 1, 1))).await;
        refused("an output", env.submit(named(1, 257, 1))).await;
        refused("an input", env.submit(named(1, 1, 257))).await;
        // What is too long to be a name is the name of nothing.
        let error = fits.service::<Echo>(&name(100_000)).call(Answer(3)).await.unwrap_err();
        assert!(matches!(error, CallError::NoSuchService { .. }), "{error:?}");
        fits.cancel().await.unwrap();
    });
}

/// Reads what comes, and confirms nothing. How many bytes of items came until nothing more did.
fn gulp(peer: &mut Peer) -> usize {
    peer.stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let mut bytes = vec![0; 64 << 10];
    let mut count = 0;
    loop {
        match std::io::Read::read(&mut peer.stream, &mut bytes) {
            Ok(0) | Err(_) => return count,
            Ok(more) => count += more,
        }
        if count > 256 << 20 {
            return count;
        }
    }
}

/// A client whose connection takes no bytes from the node, and which asks for many large replies.
async fn unread_replies(node: &NodeProcess, job: &JobHandle, over: &AtomicBool) -> (usize, usize) {
    let proxy = Proxy::to(node.address().parse().unwrap());
    let env = RemoteEnvironment::connect("deaf", proxy.address()).key(key()).await.unwrap();
    let job = env.job(job.id()).await.unwrap();
    let wordy = job.service::<Wordy>("wordy");
    let warm = deadline("a reply", wordy.call(Mebibytes(1))).await.unwrap();
    assert_eq!(warm.len(), 1 << 20);
    proxy.stall(true);
    let mut calls: FuturesUnordered<_> = (0..100).map(|_| wordy.call(Mebibytes(4)).into_future()).collect();
    let mut results = Vec::new();
    while !over.load(Ordering::Acquire) {
        if let Ok(Some(result)) = tokio::time::timeout(Duration::from_millis(50), calls.next()).await {
            results.push(result);
        }
    }
    proxy.stall(false);
    while let Some(result) = deadline("the rest", calls.next()).await {
        results.push(result);
    }
    let carried = results.iter().filter(|result| result.as_ref().is_ok_and(|reply| reply.len() == 4 << 20)).count();
    let dropped = results
        .iter()
        .filter(|result| {
            matches!(result, Err(CallError::ReplyNotCarried { service, why, .. })
                if service == "wordy" && why.contains("to read"))
        })
        .count();
    assert_eq!(carried + dropped, results.len(), "{:?}", results.iter().find(|result| result.is_err()));
    env.close().await;
    (carried, dropped)
}

/// The mean time of a call, over so long.
async fn calls_take(job: &JobHandle, time: Duration) -> Duration {
    let (begun, mut calls) = (Instant::now(), 0);
    let echo = job.service::<Echo>("echo");
    while begun.elapsed() < time {
        assert_eq!(deadline("a bystander's call", echo.call(Answer(3))).await, Ok(3));
        calls += 1;
    }
    begun.elapsed() / calls
}

/// Three clients, each of which takes what it can get in its own way.
struct Crowd {
    asks: thread::JoinHandle<(Peer, u64)>,
    sends: thread::JoinHandle<(Peer, u64)>,
    reads: thread::JoinHandle<(Peer, usize)>,
}

impl Crowd {
    fn of(node: &NodeProcess, job: &JobHandle, fingerprint: &[u8]) -> Self {
        // One asks again and again for all jobs.
        let address = node.address().to_owned();
        let asks = thread::spawn(move || {
            let mut client = Peer::client(&address);
            client.stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
            let mut asked = 0;
            while asked < 100_000 && client.try_to_say(&frame(MESSAGE, CONTROL, asked, &[0, 1])) {
                asked += 1;
            }
            (client, asked)
        });
        // One sends batches of nothing.
        let (address, opening) = (node.address().to_owned(), open_input(job, "numbers", fingerprint, 9));
        let sends = thread::spawn(move || {
            let mut client = Peer::client(&address);
            client.tell(5, &opening);
            let mut sent = 0;
            while sent < 1_000_000 && client.try_to_say(&frame(ITEMS, DATA, 5, &[0; 16])) {
                sent += 1;
            }
            (client, sent)
        });
        // One reads an output and confirms nothing.
        let (address, opening) = (node.address().to_owned(), open_output(job, "endless", fingerprint));
        let reads = thread::spawn(move || {
            let mut client = Peer::client(&address);
            client.tell(5, &opening);
            let got = gulp(&mut client);
            (client, got)
        });
        Self { asks, sends, reads }
    }

    /// How often it asked, how many batches it sent, how many bytes it read.
    fn disperse(self) -> (u64, u64, usize) {
        let Self { asks, sends, reads } = self;
        on_a_thread("the greedy clients", move || {
            (asks.join().unwrap().1, sends.join().unwrap().1, reads.join().unwrap().1)
        })
    }
}

/// The most memory that the process has until `over`.
fn watch_memory(process: &str, over: &Arc<AtomicBool>) -> thread::JoinHandle<u64> {
    let (process, over) = (process.to_owned(), Arc::clone(over));
    thread::spawn(move || {
        let mut most = 0;
        while !over.load(Ordering::Acquire) {
            most = resident_of(&process).max(most);
            thread::yield_now();
        }
        most
    })
}

#[test]
fn four_clients_that_do_not_read_take_no_more_memory_than_a_quarter_of_a_gibibyte() {
    let fingerprint = fingerprint_of_numbers();
    let node = NodeProcess::start(&Limits::default());
    let process = node.id().to_string();
    // Less than the deadline of a call.
    let seconds = if is_long() { 6 } else { 3 };
    block_on(async {
        let env = node.connect().await.unwrap();
        let job = env.submit(Plentiful {}).await.unwrap();
        // For the list of jobs to be long.
        for _ in 0..50 {
            env.submit(Plentiful {}).name("n".repeat(256)).await.unwrap().cancel().await.unwrap();
        }
        let alone = calls_take(&job, Duration::from_secs(seconds)).await;
        let (before, over) = (resident_of(&process), Arc::new(AtomicBool::new(false)));

        let crowd = Crowd::of(&node, &job, &fingerprint);
        // And one calls for large replies.
        let watcher = watch_memory(&process, &over);
        let crowded = async {
            let crowded = calls_take(&job, Duration::from_secs(seconds)).await;
            over.store(true, Ordering::Release);
            crowded
        };
        let (crowded, (carried, dropped)) = futures::join!(crowded, unread_replies(&node, &job, &over));
        let (asked, sent, got) = crowd.disperse();
        let grown = watcher.join().unwrap().saturating_sub(before);
        println!(
            "asked {asked} times, sent {sent} batches of nothing, read {got} bytes unconfirmed, {carried} large replies \
             carried and {dropped} dropped: resident memory grew by {:.1} MiB; a call of another client {crowded:.1?}, \
             alone {alone:.1?}",
            mebibytes(grown),
        );
        assert!(grown < 256 << 20, "{:.1} MiB", mebibytes(grown));
        assert!(got < 6 << 20, "{got} bytes ahead of what was consumed");
        assert!(carried > 0 && dropped > 0, "{carried} and {dropped}");
        env.close().await;
    });
    node.end();
}
