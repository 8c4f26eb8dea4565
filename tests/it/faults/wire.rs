//! A peer that knows the key and the protocol, and says whatever it is told to, byte for byte.

use std::{
    io::{ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use proscenium::{JobId, Key};
use sha2::Sha256;

use crate::support::DEADLINE;

/// The secret of all nodes in here.
const SECRET: [u8; 32] = [0x5a; 32];

pub const CONTROL: u8 = 0b000;
pub const CALLS: u8 = 0b010;
pub const DATA: u8 = 0b100;
/// The message goes on in the next frame.
pub const MORE: u8 = 0b001;

pub const PING: u8 = 1;
pub const PONG: u8 = 2;
pub const GOODBYE: u8 = 3;
pub const MESSAGE: u8 = 4;
pub const CALL: u8 = 5;
pub const TELL: u8 = 6;
pub const ANSWER: u8 = 7;
pub const CHUNK: u8 = 9;
pub const ITEMS: u8 = 10;

const FRAME_PAYLOAD_MAX: usize = 64 << 10;

pub fn key() -> Key {
    Key::from_bytes(&SECRET).expect("it is long enough")
}

pub fn frame(kind: u8, flags: u8, id: u64, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("frames are short");
    let mut frame = [&length.to_le_bytes()[..], &[kind, flags, 0, 0], &id.to_le_bytes(), payload, &[0; 4]].concat();
    seal(&mut frame);
    frame
}

/// Gives a frame the sums that go with what is in it.
pub fn seal(frame: &mut [u8]) {
    frame[6..8].fill(0);
    let check = crc32fast::hash(&frame[..16]);
    frame[6..8].copy_from_slice(&u16::try_from((check >> 16) ^ (check & 0xffff)).expect("it is folded").to_le_bytes());
    let end = frame.len() - 4;
    let sum = crc32fast::hash(&frame[..end]);
    frame[end..].copy_from_slice(&sum.to_le_bytes());
}

/// A message of so many zeros, in as many frames as it takes.
pub fn long_message(kind: u8, lane: u8, id: u64, length: usize) -> impl Iterator<Item = Vec<u8>> {
    let frames = length.div_ceil(FRAME_PAYLOAD_MAX);
    (0..frames).map(move |n| {
        let (more, length) =
            if n + 1 < frames { (MORE, FRAME_PAYLOAD_MAX) } else { (0, length - n * FRAME_PAYLOAD_MAX) };
        frame(kind, lane | more, id, &vec![0; length])
    })
}

/// As the codec writes a long number, such as the one of a job.
pub fn number(number: u128) -> Vec<u8> {
    match u8::try_from(number) {
        Ok(small) if small < 251 => vec![small],
        _ => [&[254][..], &number.to_le_bytes()].concat(),
    }
}

pub fn job_number(id: JobId) -> Vec<u8> {
    let text = id.to_string();
    let digits = text.strip_prefix("job-").expect("ids of jobs begin so");
    number(u128::from_str_radix(digits, 16).expect("an id is a number"))
}

pub fn text(text: &str) -> Vec<u8> {
    [&[u8::try_from(text.len()).expect("it is short")], text.as_bytes()].concat()
}

/// What a node says first.
pub const WELCOME: &[u8] = &[0, 1, b'n', 10, 0];

/// One side of a connection.
#[derive(Debug)]
pub struct Peer {
    pub stream: TcpStream,
    heard: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub id: u64,
    pub payload: Vec<u8>,
}

/// The proof of a side, over both hellos.
fn proof(role: &[u8], hellos: &[u8]) -> [u8; 32] {
    proof_with(&SECRET, role, hellos)
}

fn proof_with(secret: &[u8], role: &[u8], hellos: &[u8]) -> [u8; 32] {
    let mut role_key = [0; 32];
    Hkdf::<Sha256>::new(None, secret).expand(role, &mut role_key).expect("it is not too long");
    let mut mac = Hmac::<Sha256>::new_from_slice(&role_key).expect("keys may have any length");
    mac.update(hellos);
    // No channel binding.
    mac.update(&0u64.to_le_bytes());
    mac.finalize().into_bytes().into()
}

fn hello() -> [u8; 64] {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let mut hello = [0; 64];
    hello[..12].copy_from_slice(b"PROSCNM\n\x05\x00\x01\x00");
    hello[16..24].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_le_bytes());
    hello[24..28].copy_from_slice(&std::process::id().to_le_bytes());
    hello[32..40].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_le_bytes());
    hello
}

/// What a client says in the hello, once it knows what the node said.
pub struct ClientHello {
    hello: [u8; 80],
}

impl ClientHello {
    pub fn new() -> Self {
        let mut all = [0; 80];
        all[..64].copy_from_slice(&hello());
        Hkdf::<Sha256>::new(None, &SECRET).expand(b"proscenium key id", &mut all[64..]).expect("it is not too long");
        Self { hello: all }
    }

    pub fn first(&self) -> &[u8] {
        &self.hello
    }

    pub fn proof(&self, node: &[u8; 64]) -> [u8; 32] {
        proof(b"proscenium client", &[&self.hello[..], node].concat())
    }
}

impl Peer {
    fn over(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("it is a socket");
        stream.set_read_timeout(Some(DEADLINE)).expect("it is a socket");
        stream.set_write_timeout(Some(DEADLINE)).expect("it is a socket");
        Self { stream, heard: Vec::new() }
    }

    /// Somebody who has said nothing yet.
    pub fn stranger(address: &str) -> Self {
        Self::over(TcpStream::connect(address).expect("the node listens"))
    }

    /// A client of the node, welcomed.
    pub fn client(address: &str) -> Self {
        let mut peer = Self::stranger(address);
        let hello = ClientHello::new();
        peer.say(hello.first());
        let node = peer.answer();
        peer.say(&hello.proof(&node));
        peer.read::<33>();
        let welcome = peer.next().expect("a client is welcomed");
        assert_eq!((welcome.kind, welcome.payload.first()), (MESSAGE, Some(&0)), "{welcome:?}");
        peer
    }

    /// A client that has this secret, and uses this number.
    pub fn client_with(address: &str, secret: &[u8], number: [u8; 16]) -> Self {
        let mut peer = Self::stranger(address);
        let mut said = ClientHello::new().hello;
        said[16..32].copy_from_slice(&number);
        Hkdf::<Sha256>::new(None, secret).expand(b"proscenium key id", &mut said[64..]).expect("it is not too long");
        peer.say(&said);
        let node = peer.answer();
        peer.say(&proof_with(secret, b"proscenium client", &[&said[..], &node].concat()));
        peer.read::<33>();
        let welcome = peer.next().expect("a client is welcomed");
        assert_eq!((welcome.kind, welcome.payload.first()), (MESSAGE, Some(&0)), "{welcome:?}");
        peer
    }

    /// What a node answers to a hello.
    pub fn answer(&mut self) -> [u8; 64] {
        let answer = self.read::<65>();
        answer[1..].try_into().expect("so long it is")
    }

    /// A node's side of the next connection. The client knows that it has the key, and has not been welcomed.
    pub fn node(listener: &TcpListener) -> Self {
        let (stream, _) = listener.accept().expect("the client comes");
        let mut peer = Self::over(stream);
        let (client, node) = (peer.read::<80>(), hello());
        peer.say(&[&[1], &node[..]].concat());
        peer.read::<32>();
        peer.say(&[&[1], &proof(b"proscenium node", &[&client[..], &node].concat())[..]].concat());
        peer
    }

    fn read<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes).expect("the other side goes on with the hello");
        bytes
    }

    pub fn say(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the other side takes it");
    }

    /// As [`say`](Self::say), to one who may have gone. Whether it has not.
    pub fn try_to_say(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// Says what an exchange is about.
    pub fn tell(&mut self, id: u64, message: &[u8]) {
        self.say(&frame(MESSAGE, CONTROL, id, message));
    }

    /// The next frame that is no sign of life, or nothing if the other side closes.
    pub fn next(&mut self) -> Option<Frame> {
        let begun = Instant::now();
        loop {
            assert!(begun.elapsed() < DEADLINE, "the other side gives signs of life and nothing else");
            let frame = self.any()?;
            match frame.kind {
                PING => drop(self.try_to_say(&self::frame(PONG, CONTROL, frame.id, &[]))),
                PONG => {}
                _ => return Some(frame),
            }
        }
    }

    /// The next frame, or nothing if the other side closes.
    pub fn any(&mut self) -> Option<Frame> {
        let mut bytes = vec![0; 64 << 10];
        loop {
            if let Some(frame) = self.take() {
                return Some(frame);
            }
            match self.stream.read(&mut bytes) {
                Ok(0) => return None,
                Ok(count) => self.heard.extend_from_slice(&bytes[..count]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    panic!("the other side neither says anything nor closes")
                }
                Err(_) => return None,
            }
        }
    }

    fn take(&mut self) -> Option<Frame> {
        let (length, _) = self.heard.split_first_chunk::<4>()?;
        let end = 16 + u32::from_le_bytes(*length) as usize + 4;
        if self.heard.len() < end {
            return None;
        }
        let bytes: Vec<u8> = self.heard.drain(..end).collect();
        let mut sealed = bytes.clone();
        seal(&mut sealed);
        assert_eq!(bytes, sealed, "every frame carries its sums");
        let id = u64::from_le_bytes(bytes[8..16].try_into().expect("so long it is"));
        Some(Frame { kind: bytes[4], flags: bytes[5], id, payload: bytes[16..end - 4].to_vec() })
    }

    /// Waits until the other side closes. The rule that it says was broken, if it says so.
    pub fn farewell(&mut self) -> Option<String> {
        let mut last = None;
        while let Some(frame) = self.next() {
            last = Some(frame);
        }
        let goodbye = last.filter(|frame| frame.kind == GOODBYE && frame.payload.first() == Some(&3))?;
        Some(String::from_utf8_lossy(&goodbye.payload[1..]).into_owned())
    }
}
