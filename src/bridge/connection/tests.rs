use std::cell::RefCell;

use futures::future::join;
use tokio::io::{AsyncWriteExt, DuplexStream, duplex, split};

use super::*;
use crate::bridge::{
    frame::{Integrity, write_message},
    outbound::DataMessage,
};

const CALM: Heartbeat = Heartbeat { interval: Duration::from_secs(60), timeout: Duration::from_secs(120) };

/// Writes down what it is given, and finds fault with tells.
#[derive(Default)]
struct Notes(RefCell<Vec<(Kind, u64, usize)>>);

impl Handler for Notes {
    fn handle(&mut self, message: &Message<'_>) -> Result<(), Violation> {
        self.0.borrow_mut().push((message.kind, message.id, message.payload.len()));
        if message.kind == Kind::Tell { Err(Violation::new("tells are not told here")) } else { Ok(()) }
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let limit = Duration::from_secs(20);
    runtime.block_on(async { tokio::time::timeout(limit, future).await.expect("it ends") })
}

/// Runs one side over a pipe while the test is the other.
async fn run_against<T>(
    heartbeat: Heartbeat,
    pipe_bytes: usize,
    other: impl AsyncFnOnce(DuplexStream, Arc<Outbound>) -> T,
) -> (End, Vec<(Kind, u64, usize)>, T) {
    let (here, there) = duplex(pipe_bytes);
    let (reader, writer) = split(here);
    let outbound = Outbound::new(writer, Integrity::Cipher);
    let mut notes = Notes::default();
    let running = run(reader, &outbound, FrameLimits::default(), heartbeat, Host::shared_by_tests(), &mut notes);
    let (end, result) = join(running, other(there, Arc::clone(&outbound))).await;
    (end, notes.0.take(), result)
}

/// Everything the other side says until it closes.
async fn heard(mut stream: DuplexStream) -> Vec<(Kind, u64, Vec<u8>)> {
    let mut decoder = Decoder::new(FrameLimits::default(), Integrity::Cipher);
    let mut messages = Vec::new();
    loop {
        while let Some(message) = decoder.next().expect("they are frames") {
            messages.push((message.kind, message.id, message.payload.to_vec()));
        }
        match poll_fn(|cx| poll_fill(&mut stream, &mut decoder, cx)).await {
            Ok(count) if count > 0 => {}
            _ => return messages,
        }
    }
}

fn frames(messages: &[(Kind, Lane, u64, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (kind, lane, id, payload) in messages {
        write_message(&mut bytes, Integrity::Cipher, *kind, *lane, *id, &[payload]);
    }
    bytes
}

#[test]
fn messages_are_handled_in_order_and_pings_answered() {
    let said = frames(&[
        (Kind::Message, Lane::Control, 1, b"a"),
        (Kind::Ping, Lane::Control, 9, b""),
        (Kind::Call, Lane::Calls, 2, b"bc"),
    ]);
    let (end, handled, answers) = block_on(run_against(CALM, 1 << 16, async |mut stream, _| {
        stream.write_all(&said).await.expect("there is room");
        stream.shutdown().await.expect("it can be shut down");
        heard(stream).await
    }));
    assert_eq!(end, End::Closed);
    assert_eq!(handled, [(Kind::Message, 1, 1), (Kind::Call, 2, 2)]);
    // The answer may be overtaken by the end of the stream; nothing else is said.
    assert!(answers.iter().all(|answer| *answer == (Kind::Pong, 9, Vec::new())), "{answers:?}");
}

#[test]
fn whoever_breaks_a_rule_is_told_which_before_the_connection_is_closed() {
    let tell = frames(&[(Kind::Tell, Lane::Calls, 1, b"")]);
    let mut garbage = frames(&[(Kind::Ping, Lane::Control, 1, b"")]);
    garbage[4] = 77;
    let cases = [(tell, "tells are not told here"), (garbage, "a frame is of the unknown kind 77")];
    for (said, what) in cases {
        let (end, _, answers) = block_on(run_against(CALM, 1 << 16, async |mut stream, _| {
            stream.write_all(&said).await.expect("there is room");
            heard(stream).await
        }));
        assert_eq!(end, End::Violation(what.to_owned()));
        let [(Kind::Goodbye, 0, payload)] = &answers[..] else { panic!("{answers:?}") };
        assert_eq!(codec::decode::<Goodbye>(payload), Ok(Goodbye::Violation(what.to_owned())));
    }
}

#[test]
fn a_goodbye_ends_the_connection_with_its_reason_and_an_unreadable_one_all_the_same() {
    let mut payload = Vec::new();
    codec::encode_into(&Goodbye::NodeStopped, &mut payload).expect("it is short and plain");
    for (payload, is_it) in [(&payload[..], true), (&[99][..], false)] {
        let said = frames(&[(Kind::Goodbye, Lane::Control, 0, payload)]);
        let (end, ..) = block_on(run_against(CALM, 1 << 16, async |mut stream, _| {
            stream.write_all(&said).await.expect("there is room");
            heard(stream).await
        }));
        assert_eq!(end == End::Goodbye(Goodbye::NodeStopped), is_it, "{end}");
    }
}

#[test]
fn a_silent_peer_is_given_up_and_one_that_gives_signs_of_life_is_not() {
    let heartbeat = Heartbeat { interval: Duration::from_millis(5), timeout: Duration::from_millis(60) };
    let (end, _, pings) = block_on(run_against(heartbeat, 1 << 16, async |stream, _| heard(stream).await));
    assert!(matches!(end, End::Silent(silent) if silent >= heartbeat.timeout), "{end}");
    assert!(pings.len() > 1 && pings.iter().all(|(kind, ..)| *kind == Kind::Ping), "{pings:?}");
    // Answered pings are signs of life: the other side of this pipe does nothing else.
    let (here, there) = duplex(1 << 16);
    let sides = [here, there].map(|side| {
        let (reader, writer) = split(side);
        (reader, Outbound::new(writer, Integrity::Cipher))
    });
    block_on(async {
        let [(one_reader, one), (other_reader, other)] = sides;
        let (mut notes, mut other_notes) = (Notes::default(), Notes::default());
        let limits = FrameLimits::default();
        let running = run(one_reader, &one, limits, heartbeat, Host::shared_by_tests(), &mut notes);
        let other_running = run(other_reader, &other, limits, heartbeat, Host::shared_by_tests(), &mut other_notes);
        let both = async { join(running, other_running).await };
        let longer = heartbeat.timeout * 4;
        assert!(tokio::time::timeout(longer, both).await.is_err(), "neither side gives the other up");
    });
}

#[test]
fn orders_overtake_items_however_many_wait() {
    // A pipe that is much smaller than what is on its way.
    let (end, _, messages) = block_on(run_against(CALM, 4096, async |stream, outbound| {
        for id in 0..8 {
            let bytes = Arc::new(vec![7; 300_000]);
            outbound.push_data(DataMessage { kind: Kind::Chunk, id, head: None, bytes, room: None });
        }
        // The first of them is being written by now.
        tokio::task::yield_now().await;
        outbound.push(Kind::Call, Lane::Calls, 100, &[b"a call"]);
        outbound.push(Kind::Message, Lane::Control, 101, &[b"an order"]);
        say_goodbye(&outbound, &Goodbye::Closed);
        heard(stream).await
    }));
    assert_eq!(end, End::Finished);
    let order: Vec<u64> = messages.iter().map(|(_, id, _)| *id).collect();
    let place = |id| order.iter().position(|other| *other == id).expect("it was sent");
    assert!(place(101) <= 2 && place(100) <= 3, "{order:?}");
    assert!(place(101) < place(100), "{order:?}");
}

#[test]
fn a_connection_that_is_cut_ends_whatever_was_under_way() {
    let said = frames(&[(Kind::Call, Lane::Calls, 1, &[1; 100_000])]);
    for cut in [0, 1, 15, 16, 17, 60_000, said.len() - 1] {
        let (end, handled, _) = block_on(run_against(CALM, 1 << 20, async |mut stream, _| {
            stream.write_all(&said[..cut]).await.expect("there is room");
        }));
        assert_eq!((end, handled.len()), (End::Closed, 0), "cut at {cut}");
    }
}

#[test]
fn pings_of_a_peer_that_does_not_listen_do_not_pile_up_answers() {
    let pings: Vec<u8> = (0..4_096).flat_map(|id| frames(&[(Kind::Ping, Lane::Control, id, b"")])).collect();
    let (end, _, backlog) = block_on(run_against(CALM, 1 << 16, async |mut stream, outbound| {
        for _ in 0..(32 << 20) / pings.len() {
            stream.write_all(&pings).await.expect("it is read");
        }
        outbound.backlog()
    }));
    assert_eq!(end, End::Closed);
    assert!((UNHEARD_MAX / 2..=UNHEARD_MAX + READ_SLACK).contains(&backlog), "{backlog} bytes");
}

/// What one read may add.
const READ_SLACK: usize = 256 << 10;
