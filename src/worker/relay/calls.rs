//! Calls of services at home, and messages told to them, by tasks elsewhere.
//!
//! All of a worker's calls go over one stream, and their answers come back over it. Each message carries from where the reference is
//! used, so that a service that is closed to others still answers those whom it would answer at home. A told message is
//! acknowledged once it is in the service's queue: [`Tell`](crate::Tell) ends then, as it does within a process, so nothing that was
//! told is on its way when its task ends. What waits for an answer is bounded for each worker and service ([`WINDOW_BYTES`]).
//!
//! | from the worker | answered by |
//! |---|---|
//! | `Open`, `Close`: a route, for one kind of message of one reference | - |
//! | `Call` | `Reply`, `Failed` |
//! | `Tell` | `Queued`, `Failed`; and later perhaps `Lost`, if it could not be decoded |
//! | `Withdraw`: nobody waits for this answer any more | - |

mod away;
mod home;

use serde::{Deserialize, Serialize};

pub(crate) use self::{away::CallsAtWorker, home::CallsAtHome};
use crate::{
    job::JobId,
    service::{CallError, Origin},
};

/// Bytes on the way; the reader gives them back at once.
const CREDIT_BYTES: u64 = 1 << 20;

/// What the messages that a worker has sent to one service and that are not answered may cost together. One that alone costs
/// more is sent alone.
const WINDOW_BYTES: usize = 4 << 20;

/// What a message costs besides its bytes.
const MESSAGE_OVERHEAD: usize = 64;

fn cost_of(bytes: usize) -> u32 {
    u32::try_from((bytes + MESSAGE_OVERHEAD).min(WINDOW_BYTES)).unwrap_or(u32::MAX)
}

/// What a worker says to the home. Calls and told messages are numbered together; the message follows.
#[derive(Debug, Serialize, Deserialize)]
enum FromWorker {
    Open { route: u64, job: JobId, service: String, actor: String, message: String, origin: Origin },
    Close { route: u64 },
    Call { route: u64, id: u64 },
    Tell { route: u64, id: u64 },
    Withdraw { id: u64 },
}

#[derive(Debug, Serialize, Deserialize)]
enum FromHome {
    /// The reply follows.
    Reply {
        id: u64,
    },
    Failed {
        id: u64,
        error: CallError,
    },
    /// A told message is in the service's queue.
    Queued {
        id: u64,
    },
    /// A told message of the route that was queued could not be decoded.
    Lost {
        route: u64,
        error: CallError,
    },
}
