//! What one end has to say, in order, and how it is said.

use std::{
    collections::VecDeque,
    task::{Context, Poll, Waker},
};

use parking_lot::Mutex;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    codec,
    peer::{Offered, Sender},
    worker::relay::pieces::Pieces,
};

/// Bytes of a message or a reply at most, as over any connection.
pub(super) const MESSAGE_BYTES_MAX: usize = 16 << 20;

pub(super) struct Outbox {
    sender: Sender,
    queue: Mutex<VecDeque<Said>>,
    /// Half said. Used in turns only.
    going: Mutex<Option<Pieces>>,
    unsaid: Mutex<Unsaid>,
}

#[derive(Default)]
struct Unsaid {
    /// What was pushed and not said to its end.
    count: usize,
    closed: bool,
    /// Woken once all is said.
    waiting: Vec<Waker>,
}

/// Something to say, and the call that it makes, if it makes one.
struct Said {
    call: Option<u64>,
    bytes: Vec<u8>,
}

/// How far it was said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// The waker is woken when there is room for more.
    SoFar,
    /// Nothing more will be said.
    Closed,
}

impl Outbox {
    pub fn new(sender: Sender) -> Self {
        Self { sender, queue: Mutex::default(), going: Mutex::default(), unsaid: Mutex::default() }
    }

    pub fn sender(&self) -> &Sender {
        &self.sender
    }

    /// To be said in a later turn.
    pub fn push(&self, call: Option<u64>, bytes: Vec<u8>) {
        self.unsaid.lock().count += 1;
        self.queue.lock().push_back(Said { call, bytes });
    }

    /// Says what there is room for. Not to be called twice at a time.
    pub fn turn(&self, cx: &Context<'_>) -> Told {
        let mut going = self.going.lock();
        loop {
            let pieces = match &mut *going {
                Some(pieces) => pieces,
                none => match self.queue.lock().pop_front() {
                    Some(said) => none.insert(Pieces::new(1, said.bytes)),
                    None => return Told::SoFar,
                },
            };
            match pieces.offer(&self.sender, cx) {
                Offered::Taken => {
                    *going = None;
                    self.settle(|unsaid| unsaid.count -= 1);
                }
                Offered::Full => return Told::SoFar,
                Offered::Closed => {
                    self.settle(|unsaid| unsaid.closed = true);
                    return Told::Closed;
                }
            }
        }
    }

    fn settle(&self, change: impl FnOnce(&mut Unsaid)) {
        let mut unsaid = self.unsaid.lock();
        change(&mut unsaid);
        let waiting = if unsaid.is_over() { std::mem::take(&mut unsaid.waiting) } else { Vec::new() };
        drop(unsaid);
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Ready once everything was said, or nothing more will be.
    pub fn poll_said(&self, cx: &Context<'_>) -> Poll<()> {
        let mut unsaid = self.unsaid.lock();
        if unsaid.is_over() {
            return Poll::Ready(());
        }
        if !unsaid.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            unsaid.waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// The calls of which nothing was said, which nothing will be any more.
    pub fn unsaid(&self) -> Vec<u64> {
        let queue = std::mem::take(&mut *self.queue.lock());
        self.settle(|unsaid| unsaid.closed = true);
        queue.into_iter().filter_map(|said| said.call).collect()
    }
}

impl Unsaid {
    fn is_over(&self) -> bool {
        self.count == 0 || self.closed
    }
}

/// What is said, behind its length, and what follows it.
pub(super) fn joined(head: &impl Serialize, rest: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; LENGTH_BYTES];
    codec::encode_into(head, &mut bytes).expect("it is short and plain");
    let length = u32::try_from(bytes.len() - LENGTH_BYTES).expect("it is short");
    bytes[..LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(rest);
    bytes
}

const LENGTH_BYTES: usize = size_of::<u32>();

/// What [`joined`] has joined.
pub(super) fn split<H: DeserializeOwned>(bytes: &[u8]) -> Result<(H, &[u8]), String> {
    let split = bytes.split_first_chunk().and_then(|(length, rest)| {
        let length = u32::from_le_bytes(*length);
        rest.split_at_checked(length as usize)
    });
    let (head, rest) = split.ok_or("a message without its beginning")?;
    Ok((codec::decode(head).map_err(|error| error.to_string())?, rest))
}
