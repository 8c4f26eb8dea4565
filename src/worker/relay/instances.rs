//! Services whose instances run in another process than their gates.
//!
//! The gate of a service is at home for as long as the job lives: there its callers wait, and there it is decided who is still
//! answered. The instances run where the service was placed, behind a gate of their own that home alone puts messages into, in
//! the order of the queue. Answers carry the counts, so that an answer is counted before its caller sees it.
//!
//! | from home | answered by |
//! |---|---|
//! | `Call` | `Reply`, `Failed` |
//! | `Tell`: messages of one kind, in order | `Refused`, if one of them is none |
//! | `Withdraw`: nobody waits for this answer any more | - |
//! | `Drained`: nothing more comes | - |
//! | | `Took`: an instance has come for messages; those it took before are taken up |

mod away;
mod home;

use serde::{Deserialize, Serialize};

pub(crate) use self::{away::InstancesAtWorker, home::InstancesAtHome};
use crate::service::CallError;

/// Bytes on the way; the reader gives them back at once.
const CREDIT_BYTES: u64 = 4 << 20;

/// Services by their numbers in the graph, kinds of messages by their places in the service's table: both ends are the same
/// program. Messages of a service have numbers, from 0; the message follows.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum ToInstance {
    Call {
        service: u32,
        kind: u32,
        id: u64,
    },
    /// The first has this number.
    Tell {
        service: u32,
        kind: u32,
        id: u64,
    },
    Withdraw {
        service: u32,
        id: u64,
    },
    Drained {
        service: u32,
    },
}

#[derive(Debug, Serialize, Deserialize)]
enum FromInstance {
    Took {
        service: u32,
        counted: Counted,
    },
    /// The reply follows.
    Reply {
        service: u32,
        id: u64,
        counted: Counted,
    },
    Failed {
        service: u32,
        id: u64,
        counted: Counted,
        error: CallError,
    },
    /// Of the messages that were told together, the first under this number, one is none.
    Refused {
        service: u32,
        id: u64,
        error: CallError,
    },
}

/// Messages that were taken up, and of these the ones that were not handled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Counted {
    done: u64,
    skipped: u64,
}
