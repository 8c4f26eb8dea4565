//! Where items leave a flow: sinks, closures, outputs.

use std::{
    cell::{Cell, RefCell},
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use serde::Serialize;

use crate::{
    dataplane::{
        chain::{Ending, Failure, Lull, Meter, Reach, Stage, catch},
        context::TaskContext,
        error::TaskError,
        mark::Mark,
    },
    job::FailureCause,
    port::{OutputEnd, WriteError, WriteFailure},
    protocol::Wait,
};

/// A place items are written to.
///
/// `open` runs once in each instance before any item, `close` once after the last, when the input has ended: also
/// for an instance that got no item. A sink of a job that was cancelled or failed is dropped without `close`, so that
/// it can tell the two apart. In a job that fails and [begins anew](crate::Restart), new sinks are opened and are given items again
/// that those of the last attempt have written: each item is written at least once. All methods run on the task's thread, which other tasks share: they may await, but
/// must not block for long.
pub trait Sink: 'static {
    /// What is written.
    type Item;

    /// Makes the sink ready. By default nothing.
    ///
    /// # Errors
    ///
    /// An error fails the job, whatever the error policy.
    fn open(&mut self, ctx: &TaskContext) -> impl Future<Output = Result<(), TaskError>> {
        let _ = ctx;
        std::future::ready(Ok(()))
    }

    /// Writes one item.
    ///
    /// # Errors
    ///
    /// An error fails the job, or under the policy *skip* makes the item a dead letter.
    fn write(&mut self, item: Self::Item) -> impl Future<Output = Result<(), TaskError>>;

    /// Makes what was written visible. Called when the task has no further input for now, when the job is paused, and
    /// before `close`. By default nothing.
    ///
    /// # Errors
    ///
    /// An error fails the job, whatever the error policy.
    fn flush(&mut self) -> impl Future<Output = Result<(), TaskError>> {
        std::future::ready(Ok(()))
    }

    /// Ends the sink after its last item. By default nothing.
    ///
    /// # Errors
    ///
    /// An error fails the job, whatever the error policy.
    fn close(&mut self) -> impl Future<Output = Result<(), TaskError>> {
        std::future::ready(Ok(()))
    }
}

/// Writes every item to a closure.
pub(crate) struct ForEach<F> {
    meter: Meter,
    f: F,
}

impl<F> ForEach<F> {
    pub fn new(meter: Meter, f: F) -> Self {
        Self { meter, f }
    }
}

impl<T, F: FnMut(T) -> Result<(), TaskError>> Stage<T> for ForEach<F> {
    fn batch(&mut self, items: &mut Vec<T>) -> Result<(), Failure> {
        let mut cursor = self.meter.receive(items.len());
        self.meter.task.put_out(items.len());
        let f = &mut self.f;
        for item in items.drain(..) {
            cursor.advance();
            if self.meter.skips {
                self.meter.attempt(cursor.position, || f(item));
            } else {
                f(item).map_err(|error| self.meter.failed(cursor.position, &error))?;
                self.meter.account.processed += 1;
            }
        }
        Ok(())
    }

    fn mark(&mut self, _mark: Mark) -> Result<(), Failure> {
        Ok(())
    }

    fn poll(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn flush(&mut self, _lull: Lull) -> Result<(), Failure> {
        Ok(())
    }

    fn wants_more(&self, _reach: Reach) -> bool {
        true
    }

    fn owes(&self) -> bool {
        false
    }

    fn settle(&mut self, ending: Ending) {
        self.meter.settle(ending);
    }
}

/// What the sink is to do next.
enum Work<T> {
    Open,
    Write(Vec<T>),
    Flush,
    Close,
}

/// What the sink's own future and its stage share.
struct Progress {
    /// Position of the item being written.
    position: Cell<u64>,
    processed: Cell<u64>,
    dead: RefCell<Vec<(u64, String)>>,
}

type Working<S> = Pin<Box<dyn Future<Output = (S, Result<(), TaskError>)>>>;

/// Drives a user's [`Sink`]: one piece of work at a time, during which the task takes no further input.
pub(crate) struct SinkStage<S: Sink> {
    meter: Meter,
    progress: Rc<Progress>,
    idle: Option<S>,
    /// Items that came while the sink was at work: an operator in front may make several batches of one.
    waiting: Vec<S::Item>,
    working: Option<Working<S>>,
    mark: Option<Mark>,
    closing: bool,
    /// Something was written since the last flush.
    unflushed: bool,
}

impl<S: Sink> SinkStage<S> {
    pub fn new(meter: Meter, sink: S) -> Self {
        let progress = Rc::new(Progress { position: Cell::new(0), processed: Cell::new(0), dead: RefCell::default() });
        let mut stage = Self {
            meter,
            progress,
            idle: Some(sink),
            waiting: Vec::new(),
            working: None,
            mark: None,
            closing: false,
            unflushed: false,
        };
        stage.start(Work::Open);
        stage
    }

    fn start(&mut self, work: Work<S::Item>) {
        let Some(mut sink) = self.idle.take() else { return };
        let (context, progress) = (Rc::clone(&self.meter.task.context), Rc::clone(&self.progress));
        let skips = self.meter.skips;
        self.working = Some(Box::pin(async move {
            let result = match work {
                Work::Open => sink.open(&context).await,
                Work::Write(items) => write_all(&mut sink, items, skips, &progress).await,
                Work::Flush => sink.flush().await,
                Work::Close => match sink.flush().await {
                    Ok(()) => sink.close().await,
                    Err(error) => Err(error),
                },
            };
            (sink, result)
        }));
    }
}

async fn write_all<S: Sink>(
    sink: &mut S,
    items: Vec<S::Item>,
    skips: bool,
    progress: &Progress,
) -> Result<(), TaskError> {
    for item in items {
        progress.position.set(progress.position.get() + 1);
        if !skips {
            sink.write(item).await?;
        } else if let Err(cause) = caught(async { sink.write(item).await }).await {
            progress.dead.borrow_mut().push((progress.position.get(), cause));
            continue;
        }
        progress.processed.set(progress.processed.get() + 1);
    }
    Ok(())
}

/// Awaits `work`; an error or a panic becomes its message.
async fn caught(work: impl Future<Output = Result<(), TaskError>>) -> Result<(), String> {
    use futures::FutureExt as _;
    match std::panic::AssertUnwindSafe(work).catch_unwind().await {
        Ok(result) => result.map_err(|error| error.message()),
        Err(payload) => Err(crate::dataplane::chain::panic_message(&*payload)),
    }
}

impl<S: Sink> Stage<S::Item> for SinkStage<S> {
    fn batch(&mut self, items: &mut Vec<S::Item>) -> Result<(), Failure> {
        drop(self.meter.receive(items.len()));
        self.meter.task.put_out(items.len());
        self.waiting.append(items);
        Ok(())
    }

    fn mark(&mut self, mark: Mark) -> Result<(), Failure> {
        self.mark = Some(mark);
        Ok(())
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        loop {
            if let Some(working) = &mut self.working {
                // Caught here, because the item being written is known only once the panic is over.
                let polled = catch(|| working.as_mut().poll(cx));
                self.meter.account.processed = self.progress.processed.get();
                for (position, cause) in self.progress.dead.take() {
                    self.meter.bury(position, cause);
                }
                let (sink, result) = match polled {
                    Ok(Poll::Ready(done)) => done,
                    Ok(Poll::Pending) => {
                        self.meter.task.wait.set(Wait::Calls);
                        return Poll::Pending;
                    }
                    Err(panic) => {
                        return Poll::Ready(Err(self.meter.panicked(self.progress.position.get(), panic)));
                    }
                };
                self.working = None;
                self.idle = Some(sink);
                if let Err(error) = result {
                    return Poll::Ready(Err(self.meter.failed(self.progress.position.get(), &error)));
                }
                if self.closing {
                    self.idle = None;
                }
            }
            if !self.waiting.is_empty() {
                self.unflushed = true;
                let items = std::mem::take(&mut self.waiting);
                self.start(Work::Write(items));
                continue;
            }
            match self.mark.take() {
                Some(Mark::End) => {
                    self.closing = true;
                    self.start(Work::Close);
                }
                Some(Mark::Hold(_)) => self.start(Work::Flush),
                None => return Poll::Ready(Ok(())),
            }
        }
    }

    fn flush(&mut self, lull: Lull) -> Result<(), Failure> {
        if lull == Lull::Idle && self.unflushed && self.waiting.is_empty() && self.idle.is_some() {
            self.unflushed = false;
            self.start(Work::Flush);
        }
        Ok(())
    }

    fn wants_more(&self, _reach: Reach) -> bool {
        true
    }

    fn owes(&self) -> bool {
        self.working.is_some() || !self.waiting.is_empty()
    }

    fn settle(&mut self, ending: Ending) {
        self.meter.settle(ending);
    }
}

/// Encodes items into a named output of the job.
pub(crate) struct OutputStage {
    meter: Meter,
    output: OutputEnd,
}

impl OutputStage {
    pub fn new(meter: Meter, output: OutputEnd) -> Self {
        Self { meter, output }
    }
}

impl<T: Serialize> Stage<T> for OutputStage {
    fn batch(&mut self, items: &mut Vec<T>) -> Result<(), Failure> {
        let count = items.len();
        let before = self.meter.account.received;
        let mut cursor = self.meter.receive(count);
        let written = self.output.write(items.iter().inspect(|_| cursor.advance()));
        drop(cursor);
        items.clear();
        match written {
            Ok(()) => {
                self.meter.account.processed += count as u64;
                self.meter.task.put_out(count);
                Ok(())
            }
            Err(WriteError { failure: WriteFailure::Append(error), .. }) => Err(FailureCause::from(error).into()),
            Err(WriteError { index, failure: WriteFailure::Encode(error) }) => {
                Err(self.meter.failed_with(before + index + 1, format!("cannot encode the item: {error}")))
            }
        }
    }

    fn mark(&mut self, _mark: Mark) -> Result<(), Failure> {
        Ok(())
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        match self.output.poll_room(cx) {
            Poll::Ready(()) => Poll::Ready(Ok(())),
            Poll::Pending => {
                self.meter.task.wait.set(Wait::Reader);
                Poll::Pending
            }
        }
    }

    fn flush(&mut self, _lull: Lull) -> Result<(), Failure> {
        Ok(())
    }

    fn wants_more(&self, _reach: Reach) -> bool {
        true
    }

    fn owes(&self) -> bool {
        false
    }

    fn settle(&mut self, ending: Ending) {
        self.meter.settle(ending);
    }
}
