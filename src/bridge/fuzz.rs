//! What a peer may send, for the fuzz targets.

use std::fmt::Debug;

use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{Join, Sink, join, sink};

use super::{
    encryption::{ClientEncryption, NodeEncryption},
    frame::{Decoder, FrameLimits, Integrity, Kind, Message},
    handshake::{ClientSide, NodeSide},
    hello::{HELLO_BYTES, Hello},
    key::Key,
    keyring::KeyRing,
    message::{FromClient, FromNode, Goodbye},
    stream::{Dialled, Reach, ReadHalf, Stream, WriteHalf},
};
use crate::{blocking::block_on, codec, host::Host, service::CallError};

/// Small, so that they are met.
const LIMITS: FrameLimits = FrameLimits { control_bytes_max: 4096, call_bytes_max: 2048, data_bytes_max: 1 << 20 };

/// Messages, and why there are no more of them.
type Decoded = (Vec<(Kind, u64, Vec<u8>)>, Option<String>);

/// The messages in these bytes, which come in parts of so many, and why there are no more of them.
fn decoded(integrity: Integrity, bytes: &[u8], part: usize) -> Decoded {
    let mut decoder = Decoder::new(LIMITS, integrity);
    let mut messages = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let room = decoder.room();
        assert!(!room.is_empty());
        let (now, later) = rest.split_at(part.max(1).min(rest.len()).min(room.len()));
        room[..now.len()].copy_from_slice(now);
        decoder.filled(now.len());
        rest = later;
        loop {
            match decoder.next() {
                Ok(Some(Message { kind, id, payload, .. })) => messages.push((kind, id, payload.to_vec())),
                Ok(None) => break,
                Err(error) => return (messages, Some(error.to_string())),
            }
        }
        // Memory is taken for what has come, never for what is claimed; a vector that grows may double.
        let held = decoder.bytes_held();
        assert!(held <= 2 * bytes.len() + (256 << 10), "{held} bytes are held for {}", bytes.len());
    }
    (messages, None)
}

/// Any cut of a stream yields the same messages and the same error, within the limits.
pub fn frames(data: &[u8]) {
    let Some((first, bytes)) = data.split_first() else { return };
    // With sums, little gets as far as the rules behind them.
    let integrity = if first % 2 == 0 { Integrity::Sums } else { Integrity::Cipher };
    let (messages, error) = decoded(integrity, bytes, 64 << 10);
    let again = decoded(integrity, bytes, usize::from(*first));
    assert_eq!(again, (messages.clone(), error), "it depends on how the stream is cut");
    for (kind, _, payload) in messages {
        let limit = LIMITS.data_bytes_max;
        assert!(payload.len() <= limit, "a {kind:?} of {} bytes", payload.len());
    }
}

/// Bytes that come, whatever is said.
type Said = Join<std::io::Cursor<Vec<u8>>, Sink>;

impl Stream for Said {
    fn halves(self: Box<Self>) -> (ReadHalf, WriteHalf) {
        let (read, write) = self.into_inner();
        (Box::new(read), Box::new(write))
    }
}

/// A stranger's first bytes, read by either side, never authenticate it.
pub fn hello(data: &[u8]) {
    if let Some(hello) = data.first_chunk::<HELLO_BYTES>()
        && let Ok(read) = Hello::from_bytes(hello)
    {
        assert_eq!(read.to_bytes()[8..12], hello[8..12]);
    }
    let key = Key::from_bytes(&[7; 32]).expect("32 bytes are enough");
    let dialled = || {
        let stream: Said = join(std::io::Cursor::new(data.to_vec()), sink());
        Dialled { stream: Box::new(stream), reach: Reach::Machine, from: None }
    };
    let (encryption, keys) = (NodeEncryption::of_tests(), KeyRing::of_tests(key.clone()));
    let as_node = NodeSide { keys: &keys, incarnation: 1, encryption: &encryption, host: Host::shared_by_tests() };
    assert!(block_on(as_node.accept(dialled())).is_err(), "bytes of no one with the key were believed");
    let encryption = ClientEncryption::default();
    let as_client = ClientSide { key: &key, client: 2, encryption: &encryption, host: Host::shared_by_tests() };
    assert!(block_on(as_client.connect(dialled())).is_err(), "bytes of no one with the key were believed");
}

/// A peer's message is refused or read; what was read is written and read again as the same.
pub fn messages(data: &[u8]) {
    fn read<T: Serialize + DeserializeOwned + Debug>(bytes: &[u8]) {
        let Ok(message) = codec::decode::<T>(bytes) else { return };
        let mut written = Vec::new();
        codec::encode_into(&message, &mut written).expect("what was read can be written");
        let again = codec::decode::<T>(&written).expect("what was written can be read");
        assert_eq!(format!("{message:?}"), format!("{again:?}"));
    }
    let Some((which, bytes)) = data.split_first() else { return };
    match which % 4 {
        0 => read::<FromClient>(bytes),
        1 => read::<FromNode>(bytes),
        2 => read::<Goodbye>(bytes),
        _ => read::<CallError>(bytes),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path, time::Duration};

    use super::*;
    use crate::{
        bridge::{frame::Lane, frame::write_message, message::OpenRoute},
        job::{EncodedJob, JobId, JobOptions, JobState},
        link::{Control, JobRequest, NodeStop, Refusal, Reply, Request},
        port::OutputError,
        schema::TypeDescription,
    };

    fn id() -> JobId {
        format!("job-{}", "5a".repeat(16)).parse().expect("it is an id")
    }

    fn encoded<T: Serialize>(which: u8, message: &T) -> Vec<u8> {
        let mut bytes = vec![which];
        codec::encode_into(message, &mut bytes).expect("it can be encoded");
        bytes
    }

    /// Messages of many kinds, as the sides of a connection write them.
    fn messages_written() -> Vec<Vec<u8>> {
        let description = TypeDescription::of::<(String, Option<Vec<u64>>)>();
        let item_type = description.fingerprint();
        let job = EncodedJob { name: "a".to_owned(), version: 1, fingerprint: item_type, parameters: vec![1, 2] };
        let route = OpenRoute {
            job: id(),
            service: "s".to_owned(),
            actor: "A".to_owned(),
            message: "m".to_owned(),
            message_type: item_type,
            reply_type: item_type,
        };
        let ask = |request| encoded(0, &FromClient::Ask(Request::Job { job: id(), request }));
        let refusal = Refusal::Conflict { operation: "pause".to_owned(), state: JobState::Ended };
        let types = vec![("out".to_owned(), Some((*description).clone())), ("gone".to_owned(), None)];
        vec![
            encoded(0, &FromClient::Ask(Request::ListJobs)),
            ask(JobRequest::WatchJob { after: Some(7) }),
            ask(JobRequest::Control(Control::Pause)),
            ask(JobRequest::DeleteJob { force: true }),
            encoded(0, &FromClient::Submit { id: id(), options: JobOptions::default(), job }),
            encoded(0, &FromClient::StopNode(NodeStop::Drain)),
            encoded(0, &FromClient::OpenRoute(route)),
            encoded(0, &FromClient::OpenOutput { job: id(), output: "o".to_owned(), item_type, from: 3 }),
            encoded(0, &FromClient::OpenInput { job: id(), input: "i".to_owned(), item_type, writer: 9 }),
            encoded(
                1,
                &FromNode::Welcome { environment: "node".to_owned(), call_deadline: Duration::from_millis(1500) },
            ),
            encoded(1, &FromNode::Reply(Ok(Reply::Counted(3)))),
            encoded(1, &FromNode::Reply(Ok(Reply::OutputTypes(types)))),
            encoded(1, &FromNode::Reply(Err(refusal))),
            encoded(1, &FromNode::OutputEnded(Err(OutputError::NoSuchJob { id: id() }))),
            encoded(2, &Goodbye::NodeStopped),
            encoded(3, &CallError::JobEnded { job: id() }),
        ]
    }

    fn frames_written() -> Vec<Vec<u8>> {
        let long = vec![7; 70_000];
        let kinds: [(Kind, Lane, &[u8]); 10] = [
            (Kind::Ping, Lane::Control, b""),
            (Kind::Pong, Lane::Control, b""),
            (Kind::Goodbye, Lane::Control, b"\x01"),
            (Kind::Message, Lane::Control, b"question"),
            (Kind::Message, Lane::Data, b"behind the items"),
            (Kind::Call, Lane::Calls, b"12345678message"),
            (Kind::Tell, Lane::Calls, b"message"),
            (Kind::Answer, Lane::Calls, b"reply"),
            (Kind::Chunk, Lane::Data, &long),
            (Kind::Items, Lane::Data, b"0123456789abcdefitems"),
        ];
        let mut seeds = Vec::new();
        let mut all = vec![5];
        for (number, (kind, lane, payload)) in (1..).zip(kinds) {
            let mut seed = vec![number];
            let integrity = if number % 2 == 0 { Integrity::Sums } else { Integrity::Cipher };
            write_message(&mut seed, integrity, kind, lane, u64::from(number), &[payload]);
            let mut seed_of_all = Vec::new();
            write_message(&mut seed_of_all, Integrity::Cipher, kind, lane, u64::from(number), &[payload]);
            all.extend_from_slice(&seed_of_all);
            seeds.push(seed);
        }
        all.truncate(1 << 12);
        seeds.push(all);
        seeds
    }

    /// Where the seeds are to be written, if they are: `PROSCENIUM_SEEDS=tests/fuzz/corpus cargo test seeds`.
    fn keep(target: &str, seeds: &[Vec<u8>]) {
        let Some(corpus) = std::env::var_os("PROSCENIUM_SEEDS") else { return };
        let folder = Path::new(&corpus).join(target);
        fs::create_dir_all(&folder).expect("the folder can be made");
        for (number, seed) in seeds.iter().enumerate() {
            fs::write(folder.join(format!("seed-{number:02}")), seed).expect("the seed can be written");
        }
    }

    #[test]
    fn the_seeds_are_what_the_targets_are_about() {
        let written = messages_written();
        for seed in &written {
            let bytes = &seed[1..];
            let is_read = match seed[0] {
                0 => codec::decode::<FromClient>(bytes).is_ok(),
                1 => codec::decode::<FromNode>(bytes).is_ok(),
                2 => codec::decode::<Goodbye>(bytes).is_ok(),
                _ => codec::decode::<CallError>(bytes).is_ok(),
            };
            assert!(is_read, "{seed:?}");
            messages(seed);
        }
        keep("messages", &written);
        let written = frames_written();
        for seed in &written[..10] {
            let integrity = if seed[0] % 2 == 0 { Integrity::Sums } else { Integrity::Cipher };
            let (messages, error) = decoded(integrity, &seed[1..], 64 << 10);
            assert!(messages.len() == 1 && error.is_none(), "{error:?}");
        }
        written.iter().for_each(|seed| frames(seed));
        keep("frames", &written);
        let hello_bytes = Hello::new(1, [3; 32]).to_bytes();
        let sealed = Hello::new(1, [3; 32]).needing_encryption(true);
        let mut wrong = hello_bytes;
        wrong[8] = 9;
        let seeds: Vec<Vec<u8>> = vec![
            hello_bytes.to_vec(),
            [&hello_bytes[..], &[0; 32]].concat(),
            [&[1][..], &hello_bytes].concat(),
            [&[1][..], &hello_bytes, &[1], &[0; 32]].concat(),
            [&[2, 5, 0][..], b"go on"].concat(),
            [&[2, 255, 255][..], &[0x1b; 600]].concat(),
            wrong.to_vec(),
            [
                &sealed.with_key(Key::from_bytes(&[7; 32]).expect("it is one").id())[..],
                &[0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0],
            ]
            .concat(),
            [&[1][..], &sealed.to_bytes(), &[0x16, 3, 3, 0, 4, 2, 0, 0, 0]].concat(),
            [0x16, 3, 1, 2, 0].to_vec(),
            [0x15, 3, 3, 0, 2, 2, 70].to_vec(),
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            b"PROSCNM\n".to_vec(),
        ];
        seeds.iter().for_each(|seed| hello(seed));
        keep("hello", &seeds);
    }
}
