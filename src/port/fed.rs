//! Inputs whose senders are in another process than the source.
//!
//! Items are encoded where they were sent, and lie encoded in the source's own port until it takes them.

use std::{collections::VecDeque, mem, sync::Arc};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::writer::decoded;
use crate::{
    codec::{EncodeError, Run, TypedItems, catching},
    schema::TypeDescription,
};

/// Items that are taken from a port to be encoded together at most.
pub(super) const RUN_ITEMS_MAX: usize = 1024;

/// Bytes of a run, but for the item that exceeds them.
const RUN_BYTES: usize = 64 << 10;

/// The way back to where the senders are.
pub(crate) trait Feed: Send + Sync {
    /// The source is there and wants items. Nothing comes before.
    fn begin(&self);
    /// Senders are to be refused from now on. What they sent before comes, and then the end.
    fn stop(&self);
    /// The source is gone: nothing more is to come.
    fn close(&self);
    /// So many bytes of what came are used up.
    fn used(&self, bytes: u64);
    /// The source has taken so many items: there is room for as many where they were sent.
    fn taken(&self, items: u64);
}

/// Runs what it is given, once.
pub(crate) type Within = Box<dyn Fn(&mut dyn FnMut()) + Send + Sync>;

/// What a port gives to a source in another process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Given {
    Run { items: u64, bytes: Vec<u8> },
    End(InputEnd),
}

/// How an input ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum InputEnd {
    /// By `finish`.
    Finished,
    /// By `stop`, or because the job is over.
    Stopped,
    /// An item could not be encoded.
    NotCarried(String),
}

/// Encodes items from the front of `items`, of which the rest is left.
pub(super) fn encoded<T: Serialize>(description: &TypeDescription, items: &mut VecDeque<T>) -> Given {
    let mut run = Run::new(description, items.len());
    let encoded = catching(|| -> Result<(), EncodeError> {
        while run.len() < RUN_BYTES
            && let Some(item) = items.pop_front()
        {
            run.push(&item)?;
        }
        Ok(())
    });
    match encoded {
        Ok(()) => {
            let (items, bytes) = run.take();
            Given::Run { items, bytes }
        }
        Err(error) => Given::End(InputEnd::NotCarried(format!("cannot encode the item: {error}"))),
    }
}

/// What has come for a source and is not decoded.
pub(super) struct Fed<T> {
    feed: Arc<dyn Feed>,
    decode: Decode<T>,
    begun: bool,
    runs: VecDeque<FedRun>,
    end: Option<InputEnd>,
}

pub(super) struct FedRun {
    pub items: u64,
    pub bytes: Vec<u8>,
    /// Bytes to be given back once it is used up.
    pub owed: u64,
}

/// Decodes so many items.
type Decode<T> = Arc<dyn Fn(u64, &[u8]) -> Result<VecDeque<T>, String> + Send + Sync>;

pub(super) enum Next {
    /// Say that the source is there.
    Begin,
    Run(FedRun),
    End(InputEnd),
    Nothing,
}

impl<T: DeserializeOwned + Send + 'static> Fed<T> {
    pub(super) fn new(feed: Arc<dyn Feed>, within: Within) -> Self {
        let items = TypedItems::<T>::untrusted();
        let decode = move |count, bytes: &[u8]| {
            let mut found = Ok(VecDeque::new());
            within(&mut || found = decoded(&items, 0, 0, count, bytes));
            found.map_err(|message| format!("cannot decode the item: {message}"))
        };
        Self { feed, decode: Arc::new(decode), begun: false, runs: VecDeque::new(), end: None }
    }
}

impl<T> Fed<T> {
    pub(super) fn feed(&self) -> Arc<dyn Feed> {
        Arc::clone(&self.feed)
    }

    pub(super) fn decode(&self) -> Decode<T> {
        Arc::clone(&self.decode)
    }

    pub(super) fn push(&mut self, given: Given, owed: u64) {
        match given {
            Given::Run { items, bytes } => self.runs.push_back(FedRun { items, bytes, owed }),
            Given::End(end) => self.end = Some(end),
        }
    }

    pub(super) fn next(&mut self) -> Next {
        if !mem::replace(&mut self.begun, true) {
            return Next::Begin;
        }
        if let Some(run) = self.runs.pop_front() {
            return Next::Run(run);
        }
        self.end.clone().map_or(Next::Nothing, Next::End)
    }

    /// Throws away what was not decoded, and says how many items that was.
    pub(super) fn close(&mut self) -> u64 {
        mem::take(&mut self.runs).into_iter().map(|run| run.items).sum()
    }
}
