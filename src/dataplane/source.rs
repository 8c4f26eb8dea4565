//! What a task at the head of a flow reads from.

use std::{
    future::Future,
    task::{Context, Poll},
    time::Duration,
};

use crate::dataplane::{context::TaskContext, error::TaskError};

/// One part of a [`ReplayableSource`](crate::ReplayableSource) or of a [`BatchSource`](crate::BatchSource).
pub trait Part: Send + 'static {
    /// What is read.
    type Item;

    /// Appends up to `max` items to `into`. Runs on a thread that other tasks share, so it must not block for long. One
    /// that appends nothing and has more is asked again at once, as behind a stretch of a file without an item; others
    /// of the thread have their turn every millisecond.
    ///
    /// # Errors
    ///
    /// An error fails the job after the items appended before it were passed on.
    fn read(&mut self, into: &mut Vec<Self::Item>, max: usize) -> Result<More, TaskError>;

    /// Like [`read`](Self::read), for a part that can wait without blocking: when pending it has arranged for the
    /// waker of `cx` to be woken. By default it calls `read`, and is never pending.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        ctx: &TaskContext,
        into: &mut Vec<Self::Item>,
        max: usize,
    ) -> Poll<Result<More, TaskError>> {
        let _ = (cx, ctx);
        Poll::Ready(self.read(into, max))
    }
}

/// What is read piece by piece, and knows how far it has come.
///
/// ```
/// use proscenium::{ParallelRange, Part, Positioned, ReplayableSource};
///
/// let mut source = ParallelRange::new(0..10);
/// let split = source.splits(1)?.remove(0);
/// let mut part = source.open(split.clone(), 0)?;
/// part.read(&mut Vec::new(), 4)?;
/// let mut again = source.open(split, part.position())?;
/// let mut rest = Vec::new();
/// again.read(&mut rest, 100)?;
/// assert_eq!(rest, [4, 5, 6, 7, 8, 9]);
/// # Ok::<(), proscenium::TaskError>(())
/// ```
pub trait Positioned {
    /// How far it has come, as plain data.
    type Position;

    /// Where the item comes that would be read next: behind all items of the calls of [`Part::read`] and
    /// [`Part::poll_read`] so far, whatever was read ahead of them. Asked between two calls, so that items need not be
    /// counted one by one. It must not block.
    fn position(&self) -> Self::Position;
}

/// Whether a [`Part`] has more to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum More {
    /// It may have.
    Yes,
    /// It has been read to its end.
    No,
}

/// An unbounded source: asked again and again until it says [`Next::End`] or the job is stopped.
pub trait Source: Send + 'static {
    /// What is emitted.
    type Item;

    /// What comes next. May await as long as it likes; it must not block its thread. One that always has something is
    /// asked again for about a millisecond, then others of the thread have their turn.
    ///
    /// # Errors
    ///
    /// An error fails the job after the items emitted before it were passed on.
    ///
    /// # Cancel safety
    ///
    /// `stop` and `cancel` drop the future while it waits, and it is not asked again: an item it had taken from
    /// elsewhere but not returned is lost. Use cancel-safe operations, or take the item in the last step.
    fn next(&mut self, ctx: &TaskContext) -> impl Future<Output = Result<Next<Self::Item>, TaskError>>;
}

/// What a [`Source`] has.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Next<T> {
    /// One item.
    Item(T),
    /// Several items, in order: what a poll that does not wait has drained, say. An empty one means nothing yet: others
    /// of the thread have their turn, and the source is asked again. A source that has nothing 16 times in a row is
    /// asked less often, at the least once a millisecond (as far as timers are so exact), until it has items again. So
    /// it costs about 1,000 polls a second while idle, and an item may be found a millisecond late. A source that can
    /// wait should do so in `next`.
    Items(Vec<T>),
    /// Nothing yet; ask again after this time. No thread waits meanwhile. No time at all means as much as no items.
    Later(Duration),
    /// Nothing more, ever.
    End,
}
