//! What the workers of one attempt say to each other.
//!
//! Two workers have one connection for each attempt that both are part of: a [`Link`]. Over it go *streams*, one for each
//! channel between tasks, and for each output and input: batches of encoded items, and marks, in order. A stream has credit
//! in bytes, which its receiver gives back as it uses up what came: everything that is written has room at the other end,
//! so the reader of a connection never waits for a consumer, and no stream holds up another.
//!
//! What a worker reports of a task is told only once all that the task sent has arrived: see [`Link::settle`]. A link that
//! broke is broken for good, and with it the attempt.

mod frame;
mod link;

use std::{fmt, sync::Arc};

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

pub(crate) use self::{
    frame::FRAME_BYTES_MAX,
    link::{BATCH_BYTES_MAX, Link, Receiver, Sender, Standing},
};
use crate::job::{JobId, Term};

/// A stream of a link, as both ends name it. There is one in each direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum StreamId {
    /// A channel between tasks, by its number in the graph.
    Channel(u32),
    /// What a worker's tasks write to an output, by its number in the plan.
    Output(u32),
    /// What an input has for its source.
    Input(u32),
    /// Calls and messages to services, and what comes back.
    Calls,
    /// The same, from the gates of services to where their instances run.
    Instances,
}

/// Something in a stream that is no batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum StreamMark {
    /// Nothing follows.
    End,
    /// The sources are held; what they emitted before is in front.
    Hold(u32),
}

/// Takes in what comes on one stream. It is called by the reader of the connection, so it neither blocks nor runs code of
/// the user's. Nothing is called any more once the stream was [closed](Receiver::close),
/// but for a call that is under way.
pub(crate) trait Sink: Send + Sync {
    /// So many encoded items. Their credit is out until it is [given back](Receiver::grant).
    fn batch(&self, items: u64, bytes: Vec<u8>);
    fn mark(&self, mark: StreamMark);
    /// The link broke: nothing more comes.
    fn broken(&self, why: &Broken);
}

/// What became of a batch that was offered to a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offered {
    Taken,
    /// There is no credit, or too much waits to be written; a waker that was [registered](Sender::register) is woken.
    Full,
    /// The other end wants no more, or the link broke.
    Closed,
}

/// Why a link broke.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the connection to worker {peer} broke: {message}")]
pub(crate) struct Broken {
    pub peer: u32,
    pub message: String,
}

/// The links of one worker in one attempt, by the number of the other worker.
pub(crate) struct Peers {
    links: Vec<Option<Arc<Link>>>,
}

impl Peers {
    /// There is none to the worker itself.
    pub fn new(links: Vec<Option<Arc<Link>>>) -> Arc<Self> {
        Arc::new(Self { links })
    }

    /// # Panics
    ///
    /// Panics if the attempt has no such other worker.
    pub fn link(&self, worker: u32) -> &Arc<Link> {
        let link = self.links.get(worker as usize).and_then(Option::as_ref);
        link.unwrap_or_else(|| panic!("there is no link to worker {worker}"))
    }

    /// All of them, with the number of the other worker.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Arc<Link>)> {
        (0..).zip(&self.links).filter_map(|(worker, link)| Some((worker, link.as_ref()?)))
    }
}

/// How a worker meets the others of an attempt, at most once for each attempt.
pub(crate) trait Meeting: Send + Sync {
    /// Where other workers reach this one, `host:port`.
    fn address(&self) -> String;

    /// Ready once there is a link to each of the others, both ends of which have proven that they know the attempt's key.
    /// The worker of the lower number of two dials; the other one waits for it.
    ///
    /// # Errors
    ///
    /// The peer that was not met, and why. The links to others are gone then.
    fn meet(&self, meet: Meet) -> BoxFuture<'static, Result<Arc<Peers>, Broken>>;
}

/// Whom a worker is to meet.
#[derive(Debug, Clone)]
pub(crate) struct Meet {
    pub job: JobId,
    pub term: Term,
    /// Its own number among those of the attempt.
    pub here: u32,
    /// Of all of them, by number: where each listens, `host:port`.
    pub addresses: Vec<String>,
    /// The secret of the attempt.
    pub key: [u8; 32],
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(|(worker, _)| worker)).finish()
    }
}
