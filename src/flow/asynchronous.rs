//! Operators whose user code is asynchronous: bounded concurrency, in order by default.

use std::{
    collections::VecDeque,
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    task::{Context, Poll},
};

use futures::stream::{FuturesOrdered, FuturesUnordered, Stream as _};
use pin_project_lite::pin_project;

use crate::{
    dataplane::{
        chain::{BoxStage, Ending, Failure, Lull, Meter, Reach, Stage, panic_message},
        error::TaskError,
        mark::Mark,
    },
    protocol::Wait,
};

/// Whether results keep the order of their items.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Kept,
    AsDone,
}

pin_project! {
    /// A call in flight, with the position of its item. A panic inside is caught where it happens.
    #[project = InFlightProjection]
    pub(crate) struct InFlight<F> {
        position: u64,
        #[pin]
        call: F,
    }
}

/// What a call came to.
type Done<R> = (u64, Result<Result<R, TaskError>, String>);

impl<R, F: Future<Output = Result<R, TaskError>>> Future for InFlight<F> {
    type Output = Done<R>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Done<R>> {
        let InFlightProjection { position, call } = self.project();
        let position = *position;
        match std::panic::catch_unwind(AssertUnwindSafe(|| call.poll(cx))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(result)) => Poll::Ready((position, Ok(result))),
            Err(payload) => Poll::Ready((position, Err(panic_message(&*payload)))),
        }
    }
}

enum Calls<F: Future> {
    Ordered(FuturesOrdered<F>),
    Unordered(FuturesUnordered<F>),
}

impl<F: Future> Calls<F> {
    fn len(&self) -> usize {
        match self {
            Self::Ordered(calls) => calls.len(),
            Self::Unordered(calls) => calls.len(),
        }
    }

    fn push(&mut self, call: F) {
        match self {
            Self::Ordered(calls) => calls.push_back(call),
            Self::Unordered(calls) => calls.push(call),
        }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<F::Output>> {
        match self {
            Self::Ordered(calls) => Pin::new(calls).poll_next(cx),
            Self::Unordered(calls) => Pin::new(calls).poll_next(cx),
        }
    }
}

/// Runs one asynchronous call for each item, at most `limit` at a time, and passes on what it returns, if anything.
///
/// Calls live across batches. At most `limit` are in flight, and at most one batch of items waits for its turn.
pub(crate) struct Asynchronous<T, U, M, F: Future<Output = Result<Option<U>, TaskError>>> {
    meter: Meter,
    make: M,
    limit: usize,
    waiting: VecDeque<T>,
    /// Position of the item made into a call last.
    made: u64,
    calls: Calls<InFlight<F>>,
    mark: Option<Mark>,
    out: Vec<U>,
    next: BoxStage<U>,
}

impl<T, U, M, F> Asynchronous<T, U, M, F>
where
    M: FnMut(T) -> F,
    F: Future<Output = Result<Option<U>, TaskError>>,
{
    pub fn new(meter: Meter, limit: usize, order: Order, make: M, next: BoxStage<U>) -> Self {
        let calls = match order {
            Order::Kept => Calls::Ordered(FuturesOrdered::new()),
            Order::AsDone => Calls::Unordered(FuturesUnordered::new()),
        };
        Self { meter, make, limit, waiting: VecDeque::new(), made: 0, calls, mark: None, out: Vec::new(), next }
    }

    fn start_calls(&mut self) {
        while self.calls.len() < self.limit
            && let Some(item) = self.waiting.pop_front()
        {
            self.made += 1;
            self.calls.push(InFlight { position: self.made, call: (self.make)(item) });
        }
    }

    fn done(&mut self, (position, result): Done<Option<U>>) -> Result<(), Failure> {
        match result {
            Ok(Ok(result)) => {
                self.meter.account.processed += 1;
                self.out.extend(result);
                return Ok(());
            }
            Ok(Err(error)) if self.meter.skips => self.meter.bury(position, error.message()),
            Err(panic) if self.meter.skips => self.meter.bury(position, panic),
            failed => {
                self.pass_results()?;
                return Err(match failed {
                    Ok(Err(error)) => self.meter.failed(position, &error),
                    Err(panic) => self.meter.panicked(position, panic),
                    Ok(Ok(_)) => return Ok(()),
                });
            }
        }
        Ok(())
    }

    fn pass_results(&mut self) -> Result<(), Failure> {
        if self.out.is_empty() { Ok(()) } else { self.next.batch(&mut self.out) }
    }
}

impl<T, U, M, F> Stage<T> for Asynchronous<T, U, M, F>
where
    M: FnMut(T) -> F,
    F: Future<Output = Result<Option<U>, TaskError>>,
{
    fn batch(&mut self, items: &mut Vec<T>) -> Result<(), Failure> {
        drop(self.meter.receive(items.len()));
        self.waiting.extend(items.drain(..));
        Ok(())
    }

    fn mark(&mut self, mark: Mark) -> Result<(), Failure> {
        self.mark = Some(mark);
        Ok(())
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        loop {
            // While downstream is full nothing is polled: results stay in their calls, at most `limit` of them.
            std::task::ready!(self.next.poll(cx))?;
            self.start_calls();
            let batch_items = self.meter.task.limits.batch_items;
            while self.out.len() < batch_items
                && let Poll::Ready(Some(done)) = self.calls.poll_next(cx)
            {
                self.done(done)?;
                self.start_calls();
            }
            if !self.out.is_empty() {
                self.pass_results()?;
                continue;
            }
            if self.calls.len() == 0 {
                // No call in flight means that none waits either.
                match self.mark.take() {
                    Some(mark) => self.next.mark(mark)?,
                    None => return Poll::Ready(Ok(())),
                }
                continue;
            }
            if self.waiting.is_empty() && self.calls.len() < self.limit && self.mark.is_none() {
                return Poll::Ready(Ok(()));
            }
            self.meter.task.wait.set(Wait::Calls);
            return Poll::Pending;
        }
    }

    fn flush(&mut self, lull: Lull) -> Result<(), Failure> {
        self.next.flush(lull)
    }

    fn wants_more(&self, reach: Reach) -> bool {
        self.next.wants_more(reach)
    }

    fn owes(&self) -> bool {
        self.calls.len() > 0 || !self.waiting.is_empty() || self.next.owes()
    }

    fn settle(&mut self, ending: Ending) {
        self.meter.settle(ending);
        self.next.settle(ending);
    }
}
