//! What one end has to say, in order.

use std::{collections::VecDeque, task::Context};

use parking_lot::Mutex;

use crate::{
    peer::{Offered, Sender},
    worker::relay::pieces::Pieces,
};

pub(super) struct Outbox {
    sender: Sender,
    queue: Mutex<VecDeque<Said>>,
    /// Half said. Used in turns only.
    going: Mutex<Option<Pieces>>,
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
        Self { sender, queue: Mutex::default(), going: Mutex::default() }
    }

    pub fn sender(&self) -> &Sender {
        &self.sender
    }

    /// To be said in a later turn.
    pub fn push(&self, call: Option<u64>, bytes: Vec<u8>) {
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
                Offered::Taken => *going = None,
                Offered::Full => return Told::SoFar,
                Offered::Closed => return Told::Closed,
            }
        }
    }

    /// The calls of which nothing was said, which nothing will be any more.
    pub fn unsaid(&self) -> Vec<u64> {
        let queue = std::mem::take(&mut *self.queue.lock());
        queue.into_iter().filter_map(|said| said.call).collect()
    }
}
