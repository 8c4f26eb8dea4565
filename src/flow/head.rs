//! The heads of chains that begin with a source.

use std::{
    cell::{Cell, RefCell},
    future::Future,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use crate::{
    flow::{
        chain::{Ending, Failure, Meter, catch},
        error::TaskError,
        source::{More, Next, Part, Source},
        task::{Course, Head, Input},
    },
    port::{InputPort, PortEvent},
    protocol::{TaskCommand, Wait},
};

/// How a source broke off. Kept back until the items in front of it have gone on.
enum Broken {
    Failed(TaskError),
    Panicked(String),
}

impl Broken {
    fn report(self, meter: &Meter) -> Failure {
        let position = meter.account.received + 1;
        match self {
            Self::Failed(error) => meter.failed(position, &error),
            Self::Panicked(message) => meter.panicked(position, message),
        }
    }
}

/// The head of a chain that reads a [`Part`].
pub(crate) struct PartHead<P> {
    meter: Meter,
    course: Course,
    part: Option<P>,
    broken: Option<Broken>,
}

impl<P> PartHead<P> {
    pub fn new(meter: Meter, part: Option<P>) -> Self {
        Self { meter, course: Course::default(), part, broken: None }
    }
}

impl<P: Part> Head<P::Item> for PartHead<P> {
    fn poll_batch(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut Vec<P::Item>,
        max: usize,
    ) -> Poll<Result<Input, Failure>> {
        // First, so that a stop that comes now does not hide it.
        if let Some(broken) = self.broken.take() {
            return Poll::Ready(Err(broken.report(&self.meter)));
        }
        // A source that has nothing left has not been cut short by a stop that comes now.
        if self.part.is_none() {
            self.course.close();
        }
        if let Some(input) = self.course.next(&self.meter.task) {
            return input.map(Ok);
        }
        let Some(part) = &mut self.part else { return Poll::Ready(Ok(self.course.end())) };
        let context = Rc::clone(&self.meter.task.context);
        let read = match catch(|| part.poll_read(cx, &context, into, max)) {
            Ok(Poll::Ready(read)) => read.map_err(Broken::Failed),
            Ok(Poll::Pending) => {
                self.meter.task.wait.set(Wait::Source);
                return Poll::Pending;
            }
            Err(panic) => Err(Broken::Panicked(panic)),
        };
        let count = into.len() as u64;
        self.meter.account.received += count;
        self.meter.account.processed += count;
        match read {
            Ok(More::Yes) => {}
            Ok(More::No) => self.part = None,
            Err(broken) => {
                self.part = None;
                self.broken = Some(broken);
            }
        }
        Poll::Ready(Ok(Input::Items))
    }

    fn command(&mut self, command: TaskCommand) {
        self.course.command(command);
    }

    fn close(&mut self) {
        self.course.close();
    }

    fn settle(&mut self, ending: Ending) {
        self.meter.settle(ending);
    }
}

/// What the source's own future and its head share.
struct Shelf<T> {
    items: RefCell<Vec<T>>,
    demand: Cell<usize>,
}

type Driving = Pin<Box<dyn Future<Output = Result<(), TaskError>>>>;

/// The head of a chain that a [`Source`] feeds. One future drives the source for its whole life; it fills the shelf
/// up to the demand and then rests.
pub(crate) struct SourceHead<T> {
    meter: Meter,
    course: Course,
    driving: Option<Driving>,
    shelf: Rc<Shelf<T>>,
    broken: Option<Broken>,
}

impl<T: 'static> SourceHead<T> {
    pub fn new<S: Source<Item = T>>(meter: Meter, mut source: S) -> Self {
        let shelf = Rc::new(Shelf { items: RefCell::default(), demand: Cell::new(0) });
        let (context, shared) = (Rc::clone(&meter.task.context), Rc::clone(&shelf));
        let driving = Box::pin(async move {
            loop {
                std::future::poll_fn(|_| if shared.demand.get() > 0 { Poll::Ready(()) } else { Poll::Pending }).await;
                match source.next(&context).await? {
                    Next::Item(item) => {
                        shared.items.borrow_mut().push(item);
                        shared.demand.set(shared.demand.get().saturating_sub(1));
                    }
                    Next::Items(items) => {
                        shared.demand.set(shared.demand.get().saturating_sub(items.len()));
                        shared.items.borrow_mut().extend(items);
                    }
                    Next::Later(pause) => match Instant::now().checked_add(pause) {
                        Some(instant) => context.timer.sleep_until(instant).await,
                        // Later than any clock reaches.
                        None => std::future::pending().await,
                    },
                    Next::End => return Ok(()),
                }
            }
        });
        Self { meter, course: Course::default(), driving: Some(driving), shelf, broken: None }
    }
}

impl<T> Head<T> for SourceHead<T> {
    fn poll_batch(&mut self, cx: &mut Context<'_>, into: &mut Vec<T>, max: usize) -> Poll<Result<Input, Failure>> {
        // First, so that a stop that comes now does not hide it.
        if let Some(broken) = self.broken.take() {
            return Poll::Ready(Err(broken.report(&self.meter)));
        }
        if self.driving.is_none() {
            self.course.close();
        }
        if let Some(input) = self.course.next(&self.meter.task) {
            if input.is_ready() && self.course.is_stopped() {
                self.driving = None;
            }
            return input.map(Ok);
        }
        self.shelf.demand.set(max);
        if let Some(driving) = &mut self.driving {
            self.broken = match catch(|| driving.as_mut().poll(cx)) {
                Ok(Poll::Pending) => None,
                Ok(Poll::Ready(Ok(()))) => {
                    self.driving = None;
                    None
                }
                Ok(Poll::Ready(Err(error))) => Some(Broken::Failed(error)),
                Err(panic) => Some(Broken::Panicked(panic)),
            };
            if self.broken.is_some() {
                self.driving = None;
            }
        }
        std::mem::swap(into, &mut *self.shelf.items.borrow_mut());
        if into.is_empty() && self.driving.is_some() {
            self.meter.task.wait.set(Wait::Source);
            return Poll::Pending;
        }
        self.meter.account.received += into.len() as u64;
        self.meter.account.processed += into.len() as u64;
        Poll::Ready(Ok(Input::Items))
    }

    fn command(&mut self, command: TaskCommand) {
        self.course.command(command);
    }

    fn close(&mut self) {
        self.driving = None;
        self.course.close();
    }

    fn settle(&mut self, ending: Ending) {
        self.meter.settle(ending);
    }
}

/// The head of a chain whose items are pushed from outside.
pub(crate) struct PortHead<T> {
    meter: Meter,
    course: Course,
    port: Arc<InputPort<T>>,
    /// `stop` came: senders are refused, what they got in before is still delivered.
    draining: bool,
    finished: bool,
}

impl<T: Send + 'static> PortHead<T> {
    pub fn new(meter: Meter, port: Arc<InputPort<T>>) -> Self {
        Self { meter, course: Course::default(), port, draining: false, finished: false }
    }
}

impl<T: Send + 'static> Head<T> for PortHead<T> {
    fn poll_batch(&mut self, cx: &mut Context<'_>, into: &mut Vec<T>, max: usize) -> Poll<Result<Input, Failure>> {
        if self.finished {
            self.course.close();
        }
        if let Some(input) = self.course.next(&self.meter.task) {
            return input.map(Ok);
        }
        match self.port.poll_batch(cx, into, max) {
            Poll::Pending => {
                self.meter.task.wait.set(Wait::Port { senders: 0 });
                Poll::Pending
            }
            Poll::Ready(PortEvent::Items) => {
                self.meter.account.received += into.len() as u64;
                self.meter.account.processed += into.len() as u64;
                Poll::Ready(Ok(Input::Items))
            }
            Poll::Ready(PortEvent::Finished) => {
                self.finished = true;
                if self.draining {
                    self.meter.task.cut_short();
                }
                Poll::Ready(Ok(self.course.end()))
            }
        }
    }

    fn command(&mut self, command: TaskCommand) {
        match command {
            TaskCommand::Stop => {
                // Not handed to the course at once: what senders were told is accepted must still come out.
                self.draining = !self.port.is_finished();
                self.port.close_to_senders();
                self.course.command(TaskCommand::Resume);
            }
            other => self.course.command(other),
        }
    }

    fn close(&mut self) {
        self.port.close();
        self.course.close();
    }

    fn settle(&mut self, ending: Ending) {
        // Items still queued never entered the flow; their senders' job has ended and says how.
        self.port.close();
        self.meter.settle(ending);
    }
}
