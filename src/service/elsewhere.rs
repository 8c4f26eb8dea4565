//! A service whose instances run in another process, as its gate has to do with it.

use std::{sync::Arc, task::Waker};

use crate::service::{CallError, Receipt, Withdrawal};

/// Where the instances of a service are. Messages are handed over in order, each under a number, from 0; a call is withdrawn by
/// the same number.
pub(crate) trait Elsewhere: Withdrawal {
    /// How the instances stand; the waker is woken when that changes.
    fn standing(&self, waker: &Waker) -> Standing;
    /// Hands over a message of the kind at this place of the service's table.
    fn hand_over(&self, number: u64, kind: u32, parcel: Parcel);
    /// What was handed over is to be sent now.
    fn flush(&self);
    /// All that the service has accepted was handed over, and nothing more comes.
    fn drained(&self);
}

/// How the instances of a service stand that run in another process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    pub stage: Stage,
    /// Messages that were taken up.
    pub done: u64,
    /// Of these, the ones that were not handled.
    pub skipped: u64,
    /// Bytes of those that were handed over and not taken up.
    pub bytes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// No instance has come for messages yet.
    Starting,
    Up,
    /// The process cannot be reached any more.
    Lost,
}

/// An encoded message, and who is told what becomes of it.
pub(crate) struct Parcel {
    pub bytes: Vec<u8>,
    pub sender: Sender,
}

pub(crate) enum Sender {
    Teller(Option<Arc<dyn Receipt>>),
    Caller(Box<dyn Caller>),
}

/// Waits for the answer to a call. Dropped, it is told that the service failed.
pub(crate) trait Caller: Send + Sync {
    fn answer(self: Box<Self>, reply: Result<Vec<u8>, CallError>);
}
