//! What all connections with one named key have together, and may have.

use std::sync::{
    Arc, Weak,
    atomic::{AtomicUsize, Ordering},
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{
    bridge::{
        frame::{CALL_BYTES_MAX, PARAMETERS_BYTES_MAX},
        keyring::Identity,
        message::CALLS_MAX,
        outbound::Outbound,
    },
    link::KeyRole,
    service::CallError,
};

/// Connections of one named key.
const KEY_CONNECTIONS_MAX: usize = 64;

/// Of a worker's key: one key may well do for all workers of a node.
const KEY_WORKERS_MAX: usize = 1_024;

/// Connections of one named key of this role.
pub(super) fn connections_max_of(role: KeyRole) -> usize {
    if role == KeyRole::Worker { KEY_WORKERS_MAX } else { KEY_CONNECTIONS_MAX }
}

/// Calls of one named key that wait for their answer.
const KEY_CALLS_MAX: usize = CALLS_MAX;

/// While a client has not read more than this, no message of it is taken up, and no answer to it begun: one that asks and
/// does not read the answers makes itself wait.
const UNREAD_MAX: usize = 4 << 20;

/// Bytes that a client may have left unread, beyond which replies are not kept for it: two of the largest. It is told
/// that the call's reply was dropped. Further calls were not taken up long before.
const UNREAD_REPLIES_MAX: usize = 2 * CALL_BYTES_MAX;

/// What all clients with one named key have not read. Beyond it each has but its share, so that one that does not read
/// holds up itself, and those that do read not at all.
const KEY_UNREAD_MAX: usize = 64 << 20;
const KEY_UNREAD_SHARE: usize = KEY_UNREAD_MAX / KEY_CONNECTIONS_MAX;

/// Bytes of the parameters of jobs that are being submitted: of one connection, and of all with one named key. While there
/// are more, nothing more is read.
const SUBMITS_BYTES_MAX: usize = PARAMETERS_BYTES_MAX;

/// What one named key's connections have together. The node's own key has no limits but those of each connection: each of
/// its connections has a tally of its own.
pub(super) struct Tally {
    /// None: the node's own key.
    key: Option<Arc<str>>,
    calls: AtomicUsize,
    /// Bytes of the parameters of jobs that are being submitted.
    submits: AtomicUsize,
    /// Told when they are fewer, or something else of what is pending is.
    pub fewer: Notify,
    connections: Mutex<Vec<Weak<Outbound>>>,
}

impl Tally {
    pub(super) fn new(identity: &Identity) -> Arc<Self> {
        Arc::new(Self {
            key: (identity.role != KeyRole::Admin).then(|| Arc::clone(&identity.name)),
            calls: AtomicUsize::new(0),
            submits: AtomicUsize::new(0),
            fewer: Notify::new(),
            connections: Mutex::default(),
        })
    }

    /// This connection counts from now on.
    pub(super) fn join(&self, outbound: &Arc<Outbound>) {
        let mut connections = self.connections.lock();
        connections.retain(|connection| connection.strong_count() > 0);
        connections.push(Arc::downgrade(outbound));
    }

    /// Whether the answers that all connections have not read are too many together, `more` bytes included.
    fn is_over(&self, more: usize) -> bool {
        if self.key.is_none() {
            return false;
        }
        let connections = self.connections.lock();
        let unread = connections.iter().filter_map(Weak::upgrade).map(|connection| connection.backlog());
        unread.sum::<usize>() + more > KEY_UNREAD_MAX
    }

    /// How much a connection may leave unread before nothing more is read from it; it has left `own` bytes.
    pub(super) fn unread_max(&self, own: usize) -> usize {
        if own > KEY_UNREAD_SHARE && self.is_over(0) { KEY_UNREAD_SHARE } else { UNREAD_MAX }
    }

    /// Why a reply of so many bytes is not kept for a connection that has left `own` bytes unread.
    pub(super) fn keeps_no_reply(&self, own: usize, bytes: usize) -> Option<String> {
        if own + bytes > UNREAD_REPLIES_MAX {
            return Some(format!(
                "the client has {own} bytes of answers to read, and no more than {UNREAD_REPLIES_MAX} are kept for it"
            ));
        }
        if own + bytes > KEY_UNREAD_SHARE && self.is_over(bytes) {
            let key = self.key.as_deref().unwrap_or_default();
            return Some(format!(
                "the clients with the key `{key}` have too much to read: no more than {KEY_UNREAD_MAX} bytes are kept for \
                 them"
            ));
        }
        None
    }

    /// # Errors
    ///
    /// The key's connections have too many under way together.
    pub(super) fn begin_call(&self) -> Result<(), CallError> {
        let before = self.calls.fetch_add(1, Ordering::SeqCst);
        match &self.key {
            Some(key) if before >= KEY_CALLS_MAX => {
                self.end_calls(1);
                Err(CallError::TooManyCalls { key: key.to_string(), limit: KEY_CALLS_MAX })
            }
            _ => Ok(()),
        }
    }

    pub(super) fn end_calls(&self, count: usize) {
        self.calls.fetch_sub(count, Ordering::SeqCst);
    }

    pub(super) fn begin_submit(&self, bytes: usize) {
        self.submits.fetch_add(bytes, Ordering::SeqCst);
    }

    pub(super) fn end_submit(&self, bytes: usize) {
        self.submits.fetch_sub(bytes, Ordering::SeqCst);
    }

    /// Whether another job may be taken up.
    pub(super) fn takes_submits(&self) -> bool {
        self.submits.load(Ordering::SeqCst) <= SUBMITS_BYTES_MAX
    }
}

#[cfg(test)]
mod tests;
