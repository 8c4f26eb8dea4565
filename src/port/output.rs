//! The user's end of a named output.

use std::{
    fmt,
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures::{Stream, future::BoxFuture};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;

use super::{ChunkSource, OutputError, OutputResolver, source::Items};
use crate::{blocking::block_on, codec::TypedItems, job::JobId, schema::TypeDescription};

/// A named output of a job, to be read as items of type `T`.
///
/// Awaiting it reads the whole (what [`next`](Self::next) has not taken yet) into a `Vec`; `next`, or the
/// [`Stream`] that it also is, reads item by item, with about 256 KiB of it in memory whatever its size.
///
/// * An output made by `collect` is whole or nothing: a read waits until the job's tasks have finished, and fails if
///   they did not. It may be read any number of times, also at the same time, until the job is deleted; each read
///   needs an `Output` of its own.
/// * An output made by `stream_out` hands each item out once, while the job runs, to one reader at a time. When an
///   `Output` that read it is dropped, another goes on with the next item. Awaited as a whole it takes everything up to
///   the end. Of a job that fails and [begins anew](crate::Restart) it comes from the beginning again, which the reader is told by
///   [`OutputError::BegunAnew`]; awaited as a whole it yields the items of the last attempt alone.
///
/// The job and the name are looked up at the first read. Nothing is kept alive in the environment by an `Output`. Its
/// futures need no particular runtime.
///
/// `T` and the type of the output are the same if [their structure is](crate::Job#when-are-two-types-the-same): items of
/// `struct Meters(u64)` are not to be read as `u64`. To find that out, `T`'s `Deserialize` is run on made-up values.
///
/// In a remote environment the node sends ahead up to 4 MiB, and reading goes on over a new connection where it was on a
/// lost one. Of a streamed output, what a reader had taken and not confirmed when it vanished goes to the next one, which
/// may so get items that the vanished one had handed out.
#[must_use = "an output does nothing until it is awaited or read"]
pub struct Output<T> {
    job: JobId,
    name: String,
    resolver: Arc<dyn OutputResolver>,
    /// In a mutex only so that `Output` is `Sync`; it is never locked.
    state: Mutex<State<T>>,
    /// As a stream: the end or an error was handed out.
    ended: bool,
}

enum State<T> {
    Unresolved,
    Resolving(BoxFuture<'static, Result<Box<dyn ChunkSource>, OutputError>>),
    Reading(Items<T>, TypedItems<T>),
}

impl<T> Output<T> {
    pub(crate) fn new(resolver: Arc<dyn OutputResolver>, job: JobId, name: &str) -> Self {
        let state = Mutex::new(State::Unresolved);
        Self { job, name: name.to_owned(), resolver, state, ended: false }
    }

    /// The output's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl<T: DeserializeOwned + Send + 'static> Output<T> {
    /// The next item, or `None` at the end of the output.
    ///
    /// # Errors
    ///
    /// See [`OutputError`]. An error is repeated by the next call as long as its cause lasts; it never turns into the
    /// end. Only [`OutputError::BegunAnew`] is told once.
    ///
    /// # Cancel safety
    ///
    /// A dropped future took no item.
    pub async fn next(&mut self) -> Result<Option<T>, OutputError> {
        poll_fn(|cx| self.poll_item(cx)).await
    }

    /// [`next`](Self::next) for threads without an executor.
    ///
    /// # Errors
    ///
    /// As [`next`](Self::next).
    pub fn blocking_next(&mut self) -> Result<Option<T>, OutputError> {
        block_on(self.next())
    }

    /// The whole, as awaiting does, for threads without an executor.
    ///
    /// # Errors
    ///
    /// See [`OutputError`].
    pub fn blocking(self) -> Result<Vec<T>, OutputError> {
        block_on(self.read_whole())
    }

    async fn read_whole(mut self) -> Result<Vec<T>, OutputError> {
        let mut items = Vec::new();
        let mut poll_some = |cx: &mut Context<'_>, items: &mut Vec<T>| {
            let (reader, decode) = ready!(self.poll_reader(cx))?;
            let polled = ready!(reader.poll_items(cx, decode, items));
            self.look_again_if_begun_anew(&polled);
            Poll::Ready(polled)
        };
        loop {
            match poll_fn(|cx| poll_some(cx, &mut items)).await {
                Ok(true) => yield_now().await,
                Ok(false) => return Ok(items),
                Err(OutputError::BegunAnew { .. }) => items.clear(),
                Err(error) => return Err(error),
            }
        }
    }

    fn poll_item(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<T>, OutputError>> {
        let (reader, decode) = ready!(self.poll_reader(cx))?;
        let polled = ready!(reader.poll_item(cx, decode));
        self.look_again_if_begun_anew(&polled);
        Poll::Ready(polled)
    }

    /// The output has begun anew, and so does its reader.
    fn look_again_if_begun_anew<I>(&mut self, polled: &Result<I, OutputError>) {
        if let Err(OutputError::BegunAnew { .. }) = polled {
            *self.state.get_mut() = State::Unresolved;
        }
    }

    fn poll_reader(&mut self, cx: &mut Context<'_>) -> Poll<Result<Reading<'_, T>, OutputError>> {
        let state = self.state.get_mut();
        if let State::Unresolved = state {
            *state = State::Resolving(self.resolver.output(self.job, &self.name, TypeDescription::of::<T>()));
        }
        if let State::Resolving(resolving) = state {
            let resolved = ready!(resolving.as_mut().poll(cx));
            // Whatever went wrong, the next read looks again.
            *state = State::Unresolved;
            let items = Items::new(&self.name, resolved?);
            let decode = if items.is_trusted() { TypedItems::trusted() } else { TypedItems::untrusted() };
            *state = State::Reading(items, decode);
        }
        match state {
            State::Reading(items, decode) => Poll::Ready(Ok((items, decode))),
            State::Unresolved | State::Resolving(_) => Poll::Pending,
        }
    }
}

/// What an output is read by, and how its items are decoded.
type Reading<'a, T> = (&'a mut Items<T>, &'a TypedItems<T>);

/// Nothing in it is pinned.
impl<T> Unpin for Output<T> {}

/// Between chunks, so that reading a large output does not hold up the other futures of its thread.
async fn yield_now() {
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

impl<T: DeserializeOwned + Send + 'static> IntoFuture for Output<T> {
    type Output = Result<Vec<T>, OutputError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.read_whole())
    }
}

/// Ends after the last item or the first error, [`OutputError::BegunAnew`] excepted.
impl<T: DeserializeOwned + Send + 'static> Stream for Output<T> {
    type Item = Result<T, OutputError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let output = self.get_mut();
        if output.ended {
            return Poll::Ready(None);
        }
        let item = ready!(output.poll_item(cx));
        output.ended = !matches!(item, Ok(Some(_)) | Err(OutputError::BegunAnew { .. }));
        Poll::Ready(item.transpose())
    }
}

impl<T> fmt::Debug for Output<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output").field("job", &self.job).field("name", &self.name).finish_non_exhaustive()
    }
}
