//! The user's end of a named input.

use std::{
    collections::VecDeque,
    fmt,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use serde::{Serialize, de::DeserializeOwned};

use super::{
    FoundInput, InputError, InputPort, InputResolver, NotTaken, RemoteInput, SendError, queue::Supply, writer::in_batch,
};
use crate::{
    blocking::block_on,
    codec::{EncodeError, Run, catching},
    job::JobId,
    schema::TypeDescription,
};

/// Items that `send_all` takes from its iterator at once.
const SEND_ALL_ITEMS: usize = 256;

/// A named input of a job, made by `from_channel`, into which items are pushed.
///
/// The input is bounded: a send waits while it is full. Items of one handle are processed in the order in which their
/// sends completed. That a send completed means that the job has the item, not that it was processed: `stop` still
/// processes it (unless it comes while the job's services are still starting), `cancel` and a failure throw it away.
///
/// An input ends by [`finish`](Self::finish) or by the job's end, and never because handles were dropped, for a sender
/// that crashed would then look like one that was done.
///
/// The job and the name are looked up at the first use. Clones push into the same input. Nothing is kept alive in the
/// environment by an `Input`. Its futures need no particular runtime.
pub struct Input<T> {
    job: JobId,
    name: Arc<str>,
    resolver: Arc<dyn InputResolver>,
    bound: OnceLock<Bound<T>>,
}

/// An input that was looked up.
enum Bound<T> {
    Port(Sender<T>),
    Remote(Arc<dyn RemoteInput>),
}

impl<T> Clone for Bound<T> {
    fn clone(&self) -> Self {
        match self {
            Self::Port(sender) => Self::Port(sender.clone()),
            Self::Remote(input) => Self::Remote(input.another()),
        }
    }
}

impl<T> Input<T> {
    pub(crate) fn new(resolver: Arc<dyn InputResolver>, job: JobId, name: &str) -> Self {
        Self { job, name: name.into(), resolver, bound: OnceLock::new() }
    }

    /// The input's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl<T: Serialize + DeserializeOwned + Send + 'static> Input<T> {
    /// Pushes one item; waits while the input is full. Room that comes free goes to those who have waited longest.
    ///
    /// # Errors
    ///
    /// The item was not sent and comes back in the [`SendError`].
    ///
    /// # Cancel safety
    ///
    /// A dropped future did not send; the item is dropped with it. In a remote environment it may have sent.
    pub async fn send(&self, item: T) -> Result<(), SendError<T>> {
        let sender = match self.bound().await {
            Ok(Bound::Port(sender)) => sender,
            Ok(Bound::Remote(input)) => {
                let sent = match self.encode(std::slice::from_ref(&item)) {
                    Ok(bytes) => input.send(1, bytes).await.map_err(|refused| refused.error),
                    Err(error) => Err(error),
                };
                return sent.map_err(|error| SendError::new(item, error));
            }
            Err(error) => return Err(SendError::new(item, error)),
        };
        let mut item = Some(item);
        match (sender.push(&mut item).await, item) {
            (Err(error), Some(item)) => Err(SendError::new(item, error)),
            _ => Ok(()),
        }
    }

    /// Pushes all items of an iterator, in order; waits while the input is full.
    ///
    /// It may take some items from the iterator ahead of pushing them. Pass `&mut iterator` to keep what it did not
    /// take.
    ///
    /// # Errors
    ///
    /// The [`SendError`] holds the items that were taken from the iterator and not sent. All before them were sent.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: a dropped future may have sent some items, and drops those it had taken ahead.
    pub async fn send_all<I>(&self, items: I) -> Result<(), SendError<Vec<T>>>
    where
        I: IntoIterator<Item = T>,
    {
        let sender = match self.bound().await {
            Ok(Bound::Port(sender)) => sender,
            Ok(Bound::Remote(input)) => return self.send_all_over(&**input, items.into_iter()).await,
            Err(error) => return Err(SendError::new(Vec::new(), error)),
        };
        let mut items = items.into_iter();
        loop {
            let mut some: VecDeque<T> = items.by_ref().take(SEND_ALL_ITEMS).collect();
            if some.is_empty() {
                return Ok(());
            }
            if let Err(error) = sender.push(&mut some).await {
                return Err(SendError::new(some.into(), error));
            }
        }
    }

    /// Ends the input: no handle can send any more, and the job's source ends once it has taken what was sent before.
    /// Sends that are waiting for room are refused. Finishing again is no error.
    ///
    /// # Errors
    ///
    /// See [`InputError`]; [`InputError::Closed`] if the job ended the input before.
    ///
    /// # Cancel safety
    ///
    /// A dropped future may or may not have finished the input; finishing again is safe.
    pub async fn finish(&self) -> Result<(), InputError> {
        match self.bound().await? {
            Bound::Port(sender) => sender.0.finish(),
            Bound::Remote(input) => input.finish().await,
        }
    }

    async fn send_all_over(
        &self,
        input: &dyn RemoteInput,
        mut items: impl Iterator<Item = T>,
    ) -> Result<(), SendError<Vec<T>>> {
        loop {
            let mut some: Vec<T> = items.by_ref().take(SEND_ALL_ITEMS).collect();
            if some.is_empty() {
                return Ok(());
            }
            let sent = match self.encode(&some) {
                Ok(bytes) => input.send(some.len() as u64, bytes).await,
                Err(error) => Err(NotTaken { taken: 0, error }),
            };
            if let Err(NotTaken { taken, error }) = sent {
                some.drain(..usize::try_from(taken).unwrap_or(usize::MAX).min(some.len()));
                return Err(SendError::new(some, error));
            }
        }
    }

    fn encode(&self, items: &[T]) -> Result<Vec<u8>, InputError> {
        let mut at = 0;
        let encoded = catching(|| {
            let mut run = Run::new(&TypeDescription::of::<T>(), items.len());
            for item in items {
                at += 1;
                run.push(item)?;
            }
            Ok::<_, EncodeError>(run.take().1)
        });
        encoded.map_err(|error| {
            let message = in_batch(at, items.len() as u64, &error);
            InputError::NotCarried { input: self.name.to_string(), message }
        })
    }

    /// [`send`](Self::send) for threads without an executor.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub fn blocking_send(&self, item: T) -> Result<(), SendError<T>> {
        block_on(self.send(item))
    }

    /// [`send_all`](Self::send_all) for threads without an executor.
    ///
    /// # Errors
    ///
    /// As [`send_all`](Self::send_all).
    pub fn blocking_send_all(&self, items: impl IntoIterator<Item = T>) -> Result<(), SendError<Vec<T>>> {
        block_on(self.send_all(items))
    }

    /// [`finish`](Self::finish) for threads without an executor.
    ///
    /// # Errors
    ///
    /// As [`finish`](Self::finish).
    pub fn blocking_finish(&self) -> Result<(), InputError> {
        block_on(self.finish())
    }

    /// The port, looked up at the first use. Of two that look it up at once, the first to be done counts.
    async fn bound(&self) -> Result<&Bound<T>, InputError> {
        if let Some(bound) = self.bound.get() {
            return Ok(bound);
        }
        let wanted = TypeDescription::of::<T>();
        let input = match self.resolver.input(self.job, &self.name, Arc::clone(&wanted)).await? {
            FoundInput::Port(input) => input,
            FoundInput::Remote(input) => return Ok(self.bound.get_or_init(|| Bound::Remote(input))),
        };
        let description = Arc::clone(input.description());
        match input.into_any().downcast::<InputPort<T>>() {
            Ok(port) => Ok(self.bound.get_or_init(|| Bound::Port(Sender::new(port)))),
            Err(_) => Err(InputError::wrong_type(&self.name, &description, &wanted)),
        }
    }
}

/// The clone counts as a sender of its own, from its first use on if the original was not used yet.
impl<T> Clone for Input<T> {
    fn clone(&self) -> Self {
        Self {
            job: self.job,
            name: Arc::clone(&self.name),
            resolver: Arc::clone(&self.resolver),
            bound: self.bound.clone(),
        }
    }
}

impl<T> fmt::Debug for Input<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Input").field("job", &self.job).field("name", &self.name).finish_non_exhaustive()
    }
}

/// A share of a port, counted there: `explain` tells whether anyone is left who could send.
struct Sender<T>(Arc<InputPort<T>>);

impl<T> Sender<T> {
    fn new(port: Arc<InputPort<T>>) -> Self {
        port.count_senders(|senders| senders.saturating_add(1));
        Self(port)
    }

    fn push<'a, S: Supply<T>>(&'a self, supply: &'a mut S) -> Push<'a, T, S> {
        Push { port: &self.0, ticket: None, supply }
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.0))
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.count_senders(|senders| senders.saturating_sub(1));
    }
}

/// Pushes until `supply` is used up. Dropped earlier, it gives its place in the line to those behind it.
struct Push<'a, T, S> {
    port: &'a InputPort<T>,
    ticket: Option<u64>,
    supply: &'a mut S,
}

impl<T, S: Supply<T>> Future for Push<'_, T, S> {
    type Output = Result<(), InputError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let push = self.get_mut();
        push.port.poll_push(cx, &mut push.ticket, push.supply)
    }
}

impl<T, S> Drop for Push<'_, T, S> {
    fn drop(&mut self) {
        self.port.give_up(&mut self.ticket);
    }
}
