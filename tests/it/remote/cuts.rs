//! Connections that are cut, at any byte.

use std::time::Duration;

use futures::future::join;
use proscenium::{
    CallError, ConnectError, Environment, Input, JobRegistry, JobState, Limits, Outcome, QueryError, RemoteEnvironment,
    ServiceRef,
};

use super::{Everything, connect, node};
use crate::support::{
    Answer, Counter, Cut, Door, Doorway, Echo, Flip, Increment, Journal, LateAnswer, Proxy, Total, block_on, deadline,
    ended, job, reached, read,
};

const ITEMS: u64 = 20;

job!(
    /// ManyNumbers in both kinds of output, many of them.
    ManyNumbers { items: u64, door: Doorway }, |job, flow| {
        let (kept, streamed) = flow.from_batch(0..job.items).tee();
        kept.collect("kept");
        streamed.stream_out("live");
        flow.register_service("echo", || Echo);
    }
);

pub fn jobs() -> JobRegistry {
    proscenium::jobs![ManyNumbers]
}

/// A little of everything, over a connection that may be lost at any time. What has to hold all the same is checked.
async fn session(env: &RemoteEnvironment, journal: &Journal) {
    let job = deadline("submit", env.submit(Everything { pen: journal.pen() }).autostop(true)).await.unwrap();
    let counter: ServiceRef<Counter> = job.service("counter");
    let called = deadline("the call", counter.call(Increment)).await;
    let told = deadline("the tell", counter.tell(Increment)).await;
    let total = deadline("the other call", counter.call(Total)).await;
    for (what, failed) in
        [("call", called.as_ref().err()), ("total", total.as_ref().err()), ("tell", told.as_ref().err())]
    {
        let documented = failed.is_none_or(|error| matches!(error, CallError::FateUnknown { .. }));
        assert!(documented, "{what}: {failed:?}");
    }
    let numbers: Input<u64> = job.input("numbers");
    let sending = async {
        deadline("the items", numbers.send_all(0..ITEMS)).await.unwrap();
        deadline("the end of the items", numbers.finish()).await.unwrap();
    };
    let live = async { deadline("the live output", job.output::<u64>("live")).await.unwrap() };
    let ((), live) = join(sending, live).await;
    let expected: Vec<u64> = (0..ITEMS).map(|n| n * 2).collect();
    assert_eq!(live, expected, "each item of a streamed output comes once");
    assert_eq!(ended(&job).await, Outcome::Completed);
    assert_eq!(read::<u64>(&job, "doubles").await, expected, "each item that was sent arrived once");
    // A message that was answered was handled; none was handled twice.
    let counts: Vec<u64> = (0..=2).filter(|n| journal.count(&format!("counter stopped after {n}")) == 1).collect();
    let [count] = counts[..] else { panic!("{:?}", journal.lines()) };
    let at_least = if total.is_ok() { u64::from(called.is_ok()) } else { called.unwrap_or(0) };
    assert!(count >= at_least, "{count} messages were handled, of which {at_least} were answered");
    assert_eq!(env.jobs().await.unwrap().len(), 1, "a submit that is repeated is the same job");
}

/// Runs the session once, over connections of which the first is cut so. How many bytes went each way.
fn cut_at(cut: Cut) -> [u64; 2] {
    let (node, address, key) = node(Limits::default());
    let (proxy, journal) = (Proxy::to(address), Journal::new());
    proxy.cut_next([cut]);
    block_on(async {
        let connect = || RemoteEnvironment::connect("test", proxy.address()).key(key.clone());
        let env = match deadline("connecting", connect()).await {
            Ok(env) => env,
            // It was cut before it stood.
            Err(ConnectError::Unreachable { .. }) => deadline("connecting again", connect()).await.unwrap(),
            // What each said was changed on the way, which neither believes.
            Err(ConnectError::Refused { .. }) if cut.flip.is_some() => {
                deadline("connecting again", connect()).await.unwrap()
            }
            Err(error) => panic!("{cut:?}: {error}"),
        };
        session(&env, &journal).await;
        deadline("closing", env.close()).await;
    });
    drop(node);
    proxy.forwarded()
}

#[test]
fn a_session_that_is_cut_at_any_byte_goes_on_or_ends_in_a_documented_error() {
    let whole = cut_at(Cut::default());
    let long = std::env::var_os("PROSCENIUM_LONG").is_some();
    for (way, bytes) in whole.into_iter().enumerate() {
        // All of the beginning, where both sides get to know each other; and of the rest a sample that moves on with
        // each step, unless there is time.
        let mut at = 0;
        while at < bytes {
            let cut = if way == 0 {
                Cut { to_node: Some(at), ..Cut::default() }
            } else {
                Cut { to_client: Some(at), ..Cut::default() }
            };
            cut_at(cut);
            at += if long { 1 } else { 1 + bytes / 120 };
        }
    }
}

#[test]
fn a_bit_that_is_changed_on_the_way_ends_the_connection_and_no_wrong_value_is_seen() {
    let whole = cut_at(Cut::default());
    let long = std::env::var_os("PROSCENIUM_LONG").is_some();
    for (way, bytes) in whole.into_iter().enumerate() {
        let mut at = 0;
        while at < bytes {
            for bit in if long { 0..8 } else { (at % 8) as u8..(at % 8) as u8 + 1 } {
                cut_at(Cut { flip: Some(Flip { way, at, bit }), ..Cut::default() });
            }
            at += if long { 1 } else { 1 + bytes / 150 };
        }
    }
}

#[test]
fn a_connection_that_is_cut_time_and_again_delays_what_it_does_not_change() {
    let (node, address, key) = node(Limits { port_items: 64, ..Limits::default() });
    let proxy = Proxy::to(address);
    block_on(async {
        let door = Door::new().await;
        let env = connect(proxy.address(), &key);
        let job = env.submit(ManyNumbers { items: 200_000, door: door.way() }).await.unwrap();
        proxy.cut_next((1..40).map(|n| Cut { to_client: Some(20_000 + n * 1_001), ..Cut::default() }));
        proxy.cut();
        let live = deadline("the live output", job.output::<u64>("live")).await.unwrap();
        assert!(live.into_iter().eq(0..200_000), "each once, in order");
        assert!(proxy.connections() > 5, "it was cut: {} connections", proxy.connections());
        assert!(read::<u64>(&job, "kept").await.into_iter().eq(0..200_000), "the whole of it");
        proxy.cut();
        let waiting = tokio::spawn(job.wait());
        reached(&job, JobState::Idle).await;
        proxy.cut();
        job.stop().await.unwrap();
        proxy.cut();
        assert_eq!(deadline("the end", waiting).await.unwrap().unwrap(), Outcome::Completed);
        env.close().await;
    });
    drop(node);
}

#[test]
fn a_call_in_progress_when_the_connection_is_lost_has_an_unknown_fate_and_is_not_repeated() {
    let (node, address, key) = node(Limits::default());
    let proxy = Proxy::to(address);
    block_on(async {
        let door = Door::new().await;
        let env = connect(proxy.address(), &key);
        let job = env.submit(ManyNumbers { items: 0, door: door.way() }).await.unwrap();
        let echo: ServiceRef<Echo> = job.service("echo");
        let call = tokio::spawn(echo.call(LateAnswer(7, door.way())));
        let visitor = door.arrival_of("7").await;
        proxy.cut();
        let error = deadline("the loss being told", call).await.unwrap().unwrap_err();
        assert!(matches!(&error, CallError::FateUnknown { service, .. } if service == "echo"), "{error}");
        assert_eq!(error.fate(), proscenium::Fate::Unknown);
        visitor.admit();
        // The same reference works over the next connection, whose first visitor is the next message.
        assert_eq!(deadline("another call", echo.call(Answer(8))).await.unwrap(), 8);
        let next = tokio::spawn(echo.call(LateAnswer(9, door.way())));
        door.arrival_of("9").await.admit();
        assert_eq!(deadline("the next call", next).await.unwrap().unwrap(), 9);
        let status = job.status().await.unwrap();
        assert_eq!(status.services[0].handled, 3);
        env.close().await;
    });
    drop(node);
}

#[test]
fn a_call_that_was_not_sent_waits_for_the_connection_but_not_beyond_its_deadline() {
    let (node, address, key) = node(Limits::default());
    let proxy = Proxy::to(address);
    block_on(async {
        let door = Door::new().await;
        let env = connect(proxy.address(), &key);
        let job = env.submit(ManyNumbers { items: 0, door: door.way() }).await.unwrap();
        let echo: ServiceRef<Echo> = job.service("echo");
        assert_eq!(echo.call(Answer(1)).await.unwrap(), 1);
        // Nobody answers for a while: each connection is cut at once.
        proxy.cut_next((0..1000).map(|_| Cut { to_node: Some(0), to_client: Some(0), flip: None }));
        proxy.cut();
        let limit = Duration::from_millis(80);
        let before = std::time::Instant::now();
        let error = loop {
            // Until the client has noticed, a call may still be sent into the void.
            match deadline("the call", echo.call(Answer(2)).deadline(limit)).await.unwrap_err() {
                CallError::FateUnknown { .. } => {}
                error => break error,
            }
        };
        assert_eq!(error, CallError::Timeout { service: "echo".to_owned(), deadline: limit });
        assert!(before.elapsed() >= limit, "{:?}", before.elapsed());
        env.close().await;
    });
    drop(node);
}

/// What may answer in a node's place for a while.
fn odd_answers() -> Vec<Vec<u8>> {
    let refusal = b"not today";
    let other_version = [&b"\x01PROSCNM\n\x63\x00\x01\x00"[..], &[0; 52]].concat();
    vec![
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n".to_vec(),
        [&[2, refusal.len() as u8, 0][..], refusal].concat(),
        other_version,
        vec![0xfa; 300],
        // An alert of TLS.
        vec![21, 3, 3, 0, 2, 2, 40],
        Vec::new(),
    ]
}

/// What goes on over a connection while others answer in the node's place, `answer` by `answer`.
async fn survives(env: &RemoteEnvironment, proxy: &Proxy, answers: Vec<Vec<u8>>) {
    let journal = Journal::new();
    let job = deadline("submit", env.submit(Everything { pen: journal.pen() }).autostop(true)).await.unwrap();
    let numbers: Input<u64> = job.input("numbers");
    let mut live = job.output::<u64>("live");
    let echo: ServiceRef<Echo> = job.service("echo");
    let waiting = tokio::spawn({
        let job = job.clone();
        async move { job.wait().await }
    });
    numbers.send(0).await.unwrap();
    assert_eq!(deadline("the first item", live.next()).await, Ok(Some(0)));
    let mut next = 1;
    for answer in answers {
        proxy.answer_next([answer.clone(), answer]);
        proxy.cut();
        // Begun while there is no connection.
        deadline("the item's being sent", numbers.send(next)).await.unwrap();
        assert_eq!(proxy.answers_left(), 0, "the odd answers were met");
        assert_eq!(deadline("the next item", live.next()).await, Ok(Some(2 * next)));
        assert_eq!(deadline("the call", echo.call(Answer(next))).await, Ok(next));
        next += 1;
    }
    numbers.finish().await.unwrap();
    assert_eq!(deadline("the end of the output", live.next()).await, Ok(None));
    assert_eq!(deadline("the end of the job", waiting).await.unwrap(), Ok(Outcome::Completed));
    assert_eq!(read::<u64>(&job, "doubles").await, (0..next).map(|n| 2 * n).collect::<Vec<_>>());
}

#[test]
fn whatever_answers_in_the_nodes_place_for_a_while_ends_nothing_that_was_begun() {
    let (node, address, key) = node(Limits::default());
    let proxy = Proxy::to(address);
    block_on(async {
        let connect = RemoteEnvironment::connect("test", proxy.address()).key(key.clone());
        let env = connect.heartbeat(Duration::from_millis(500), Duration::from_secs(5)).await.unwrap();
        survives(&env, &proxy, odd_answers()).await;
        env.close().await;
    });
    drop(node);
}

#[cfg(feature = "tls")]
#[test]
fn whatever_answers_where_tls_is_spoken_for_a_while_ends_nothing_that_was_begun() {
    let (certificate, key) = (super::tls::Certificate::of("localhost"), proscenium::Key::generate());
    let (node, port) = super::tls::node(&certificate, &key);
    let proxy = Proxy::to(([127, 0, 0, 1], port).into());
    block_on(async {
        let connect = RemoteEnvironment::connect("test", proxy.address()).key(key.clone()).tls(certificate.pinned());
        let env = deadline("connecting", connect).await.unwrap();
        survives(&env, &proxy, odd_answers()).await;
        env.close().await;
    });
    drop(node);
}

#[test]
fn a_node_of_another_key_in_between_ends_nothing_that_was_begun() {
    let (node, address, key) = node(Limits::default());
    let (other, other_address, _) = super::node(Limits::default());
    let proxy = Proxy::to(address);
    block_on(async {
        let env = RemoteEnvironment::connect("test", proxy.address()).key(key.clone()).await.unwrap();
        let journal = Journal::new();
        let job = deadline("submit", env.submit(Everything { pen: journal.pen() })).await.unwrap();
        let echo: ServiceRef<Echo> = job.service("echo");
        assert_eq!(deadline("the call", echo.call(Answer(1))).await, Ok(1));
        proxy.lead_to(other_address);
        let before = proxy.connections();
        proxy.cut();
        while proxy.connections() < before + 3 {
            tokio::task::yield_now().await;
        }
        proxy.lead_to(address);
        assert_eq!(deadline("the call", echo.call(Answer(2))).await, Ok(2));
        job.cancel().await.unwrap();
        env.close().await;
    });
    drop((node, other));
}

#[test]
fn when_the_limit_has_passed_the_error_names_what_was_seen_last() {
    let (node, address, key) = node(Limits::default());
    let proxy = Proxy::to(address);
    block_on(async {
        let connect = RemoteEnvironment::connect("test", proxy.address()).key(key.clone());
        let env = connect.reconnect_limit(Duration::from_millis(300)).await.unwrap();
        proxy.answer_next(std::iter::repeat_n(odd_answers().swap_remove(0), 1_000));
        proxy.cut();
        let error = deadline("giving up", env.health()).await.unwrap_err();
        let QueryError::Unreachable { message } = &error else { panic!("{error:?}") };
        assert!(message.contains("does not speak proscenium's protocol"), "{message}");
        assert!(proxy.answers_left() < 998, "it was tried again");
        env.close().await;
    });
    drop(node);
}
