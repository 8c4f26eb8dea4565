//! Zips: the i-th item of one stream with the i-th of another.

mod backlog;

use std::{
    future::Future,
    io,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
};

use serde::{Serialize, de::DeserializeOwned};

use self::backlog::{Backlog, Next};
use crate::{
    dataplane::{
        chain::{BoxStage, Ending, Failure, Lull, Meter, Reach, Stage},
        edge::Pairing,
        exchange::Single,
        mark::Mark,
    },
    flow::{
        connect::check,
        stream::{Exchange, Stream},
    },
    host::Blocking,
    job::{BuildRefusal, FailureCause},
    port::SpillFile,
    protocol::Wait,
};

impl<A: Serialize + DeserializeOwned + Send + 'static> Stream<A> {
    /// The i-th item of this stream with the i-th of `other`, instance by instance.
    ///
    /// Order: that of the two streams, in each instance; [`gather`](Self::gather) both for one order over all. A pair comes
    /// out as soon as both its items are there. It ends when the shorter stream of an instance has ended and found its
    /// partners, and then ends both upstreams, also unbounded ones; items without a partner are dropped. Streams of
    /// different flows refuse the flow, and so do those that are not of equal parallelism whatever that of the job is: which
    /// items make a pair must not depend on how many cores there are. Say, an iterator with a source that is split.
    ///
    /// What one stream is ahead of the other is kept: a few batches as they are, then encoded in memory up to
    /// `Limits::output_memory_bytes` for each instance, then in a temporary file; beyond `Limits::zip_bytes_max` encoded
    /// bytes the job fails. It costs a channel for each stream and instance, and for what waits long an encoding and a
    /// decoding.
    ///
    /// ```
    /// use proscenium::{LocalEnvironment, job_fn};
    ///
    /// let env = LocalEnvironment::new("doc");
    /// let job = env.submit(job_fn("numbered", |flow| {
    ///     let words = flow.from_batch(["one", "two", "three"].map(str::to_owned));
    ///     flow.from_batch(1u32..).zip(words).collect("out");
    ///     Ok(())
    /// }));
    /// let job = job.autostop(true).blocking()?;
    /// let out = job.output::<(u32, String)>("out").blocking()?;
    /// assert_eq!(out, [(1, "one".to_owned()), (2, "two".to_owned()), (3, "three".to_owned())]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn zip<B: Serialize + DeserializeOwned + Send + 'static>(self, other: Stream<B>) -> Stream<(A, B)> {
        let blueprint = Rc::clone(self.blueprint());
        check("zip", &blueprint, &other);
        let (left, right) = (self.said(), other.said());
        if left != right {
            let operator = "zip".to_owned();
            blueprint.borrow_mut().refuse(BuildRefusal::UnequalParallelism { operator, left, right });
        }
        let mut exchange = Exchange::begin(&blueprint, left);
        feed::<_, Half<A, B>>(&mut exchange, self, |item| item.map_or(Half::LeftEnd, Half::Left));
        feed::<_, Half<A, B>>(&mut exchange, other, |item| item.map_or(Half::RightEnd, Half::Right));
        exchange
            .finish()
            .then("zip", |_| Box::new(|meter, next| Box::new(Zip::new(meter, next)) as BoxStage<Half<A, B>>))
    }
}

/// An item of one of two streams, or the end of one: the exchange tells only when all its inputs have ended.
enum Half<A, B> {
    Left(A),
    LeftEnd,
    Right(B),
    RightEnd,
}

/// Ends a stream in the exchange, with an item behind its last one that says so.
fn feed<T, H>(exchange: &mut Exchange<H>, stream: Stream<T>, wrap: fn(Option<T>) -> H)
where
    T: Send + 'static,
    H: Send + 'static,
{
    let stream = stream.then("side", move |_| {
        Box::new(move |meter, next| Box::new(Announce { meter, wrap, out: Vec::new(), next }) as BoxStage<T>)
    });
    exchange.add(stream, "exchange", Pairing::OneToOne, |_, _| Single);
}

/// Notes of each item which side it is of, and announces the end.
struct Announce<T, H> {
    meter: Meter,
    wrap: fn(Option<T>) -> H,
    out: Vec<H>,
    next: BoxStage<H>,
}

impl<T, H> Stage<T> for Announce<T, H> {
    fn batch(&mut self, items: &mut Vec<T>) -> Result<(), Failure> {
        drop(self.meter.receive(items.len()));
        self.meter.account.processed += items.len() as u64;
        self.out.extend(items.drain(..).map(|item| (self.wrap)(Some(item))));
        self.next.batch(&mut self.out)
    }

    fn mark(&mut self, mark: Mark) -> Result<(), Failure> {
        if mark == Mark::End {
            self.next.batch(&mut vec![(self.wrap)(None)])?;
        }
        self.next.mark(mark)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        self.next.poll(cx)
    }

    crate::flow::operator::pass_on_rest!();
}

/// Batches of a side that are kept as they are: about what a channel may hold.
const FRONT_BATCHES: usize = 4;

/// One of the two sides.
#[derive(Debug, Clone, Copy)]
enum Which {
    Left,
    Right,
}

/// Work of the blocking pool, during which the stage takes and gives nothing.
enum Transfer {
    /// What is written begins at this offset.
    Write(Which, u64, Blocking<io::Result<Arc<SpillFile>>>),
    Read(Which, Blocking<io::Result<Vec<u8>>>),
}

/// Why no further pair is made.
enum Halt {
    Full,
    OnDisk(Which),
    /// One of the sides has nothing.
    Waits,
}

struct Zip<A, B> {
    meter: Meter,
    left: Backlog<A>,
    right: Backlog<B>,
    left_ended: bool,
    right_ended: bool,
    file: Option<Arc<SpillFile>>,
    /// Where the file ends.
    file_end: u64,
    transfer: Option<Transfer>,
    mark: Option<Mark>,
    out: Vec<(A, B)>,
    next: BoxStage<(A, B)>,
}

impl<A, B> Zip<A, B> {
    fn new(meter: Meter, next: BoxStage<(A, B)>) -> Self {
        let limits = &meter.task.limits;
        let (front, memory) = (limits.batch_items.saturating_mul(FRONT_BATCHES), limits.output_memory_bytes);
        Self {
            left: Backlog::new(front, memory),
            right: Backlog::new(front, memory),
            meter,
            left_ended: false,
            right_ended: false,
            file: None,
            file_end: 0,
            transfer: None,
            mark: None,
            out: Vec::new(),
            next,
        }
    }

    /// Whether one side has ended and what there is of it has found its partners.
    fn is_over(&self) -> bool {
        (self.left_ended && self.left.is_empty()) || (self.right_ended && self.right.is_empty())
    }

    fn unwritable(&self, error: impl ToString) -> Failure {
        let (operator, message) = (self.meter.name().to_owned(), error.to_string());
        FailureCause::BacklogUnwritable { operator, message }.into()
    }

    /// Reads the chunk that one side needs.
    fn start_read(&mut self, which: Which) {
        let needed = match which {
            Which::Left => self.left.to_read(),
            Which::Right => self.right.to_read(),
        };
        if let (Some((offset, len)), Some(file)) = (needed, self.file.clone()) {
            let host = &self.meter.task.context.host;
            self.transfer = Some(Transfer::Read(which, host.blocking(move || file.read(offset, len))));
        }
    }

    /// Writes what is in memory beyond the limit, if anything.
    fn start_write(&mut self) {
        let (left, right) = (self.left.memory(), self.right.memory());
        if left + right <= self.meter.task.limits.output_memory_bytes {
            return;
        }
        let which = if left > right { Which::Left } else { Which::Right };
        let chunks = match which {
            Which::Left => self.left.to_write(),
            Which::Right => self.right.to_write(),
        };
        if chunks.is_empty() {
            return;
        }
        if !self.left.is_on_disk() && !self.right.is_on_disk() {
            self.file_end = 0;
        }
        let (file, offset) = (self.file.clone(), self.file_end);
        self.file_end += chunks.iter().map(|chunk| chunk.len() as u64).sum::<u64>();
        let host = self.meter.task.context.host.clone();
        let closer = host.clone();
        let write = host.blocking(move || {
            let file = file.map_or_else(|| SpillFile::create(closer).map(Arc::new), Ok)?;
            file.write(offset, &chunks)?;
            Ok(file)
        });
        self.transfer = Some(Transfer::Write(which, offset, write));
    }

    fn poll_transfer(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        match &mut self.transfer {
            None => return Poll::Ready(Ok(())),
            Some(Transfer::Write(which, offset, write)) => {
                let (which, offset) = (*which, *offset);
                match ready!(Pin::new(write).poll(cx)).map_err(io::Error::other).flatten() {
                    Ok(file) => self.file = Some(file),
                    Err(error) => return Poll::Ready(Err(self.unwritable(error))),
                }
                match which {
                    Which::Left => self.left.has_written(offset),
                    Which::Right => self.right.has_written(offset),
                }
            }
            Some(Transfer::Read(which, read)) => {
                let which = *which;
                match ready!(Pin::new(read).poll(cx)).map_err(io::Error::other).flatten() {
                    Ok(bytes) => match which {
                        Which::Left => self.left.has_read(bytes),
                        Which::Right => self.right.has_read(bytes),
                    },
                    Err(error) => return Poll::Ready(Err(self.unwritable(error))),
                }
            }
        }
        self.transfer = None;
        // It may be this poll alone that learns of it: the task is to look at its input, and to flush, once more.
        cx.waker().wake_by_ref();
        Poll::Ready(Ok(()))
    }
}

impl<A, B> Zip<A, B>
where
    A: Serialize + DeserializeOwned,
    B: Serialize + DeserializeOwned,
{
    fn failed(&self, message: String) -> Failure {
        self.meter.failed_with(0, message)
    }

    fn take(&mut self, half: Half<A, B>) -> Result<(), Failure> {
        // What comes when the end is certain finds no partner.
        let is_over = self.is_over();
        let pushed = match half {
            Half::LeftEnd => {
                self.left_ended = true;
                Ok(())
            }
            Half::RightEnd => {
                self.right_ended = true;
                Ok(())
            }
            Half::Left(_) | Half::Right(_) if is_over => Ok(()),
            Half::Left(item) => self.left.push(item),
            Half::Right(item) => self.right.push(item),
        };
        pushed.map_err(|message| self.failed(message))?;
        let limit_bytes = self.meter.task.limits.zip_bytes_max;
        if self.left.weight() + self.right.weight() > limit_bytes {
            let (operator, instance) = (self.meter.name().to_owned(), self.meter.task.context.instance());
            return Err(FailureCause::BacklogTooLarge { operator, instance, limit_bytes }.into());
        }
        Ok(())
    }

    /// Makes pairs, as many as a batch has.
    fn pair_up(&mut self) -> Result<Halt, Failure> {
        let batch_items = self.meter.task.limits.batch_items;
        while self.out.len() < batch_items {
            if self.left.is_empty() || self.right.is_empty() {
                return Ok(Halt::Waits);
            }
            for which in [Which::Left, Which::Right] {
                let next = match which {
                    Which::Left => self.left.next(),
                    Which::Right => self.right.next(),
                };
                if next.map_err(|message| self.failed(message))? == Next::OnDisk {
                    return Ok(Halt::OnDisk(which));
                }
            }
            self.out.extend(self.left.pop().zip(self.right.pop()));
        }
        Ok(Halt::Full)
    }
}

impl<A, B> Stage<Half<A, B>> for Zip<A, B>
where
    A: Serialize + DeserializeOwned,
    B: Serialize + DeserializeOwned,
{
    fn batch(&mut self, items: &mut Vec<Half<A, B>>) -> Result<(), Failure> {
        let mut cursor = self.meter.receive(items.len());
        for half in items.drain(..) {
            cursor.advance();
            self.take(half)?;
            self.meter.account.processed += 1;
        }
        drop(cursor);
        loop {
            self.pair_up()?;
            if self.out.is_empty() {
                break;
            }
            self.next.batch(&mut self.out)?;
        }
        if self.is_over() {
            self.left.clear();
            self.right.clear();
        }
        Ok(())
    }

    fn mark(&mut self, mark: Mark) -> Result<(), Failure> {
        self.mark = Some(mark);
        Ok(())
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        loop {
            ready!(self.next.poll(cx))?;
            if !self.next.wants_more(Reach::Anywhere) {
                self.left.clear();
                self.right.clear();
            }
            self.meter.task.wait.set(Wait::Nothing);
            ready!(self.poll_transfer(cx))?;
            self.meter.enter();
            let halt = self.pair_up()?;
            if !self.out.is_empty() {
                self.next.batch(&mut self.out)?;
                continue;
            }
            match halt {
                Halt::OnDisk(which) => self.start_read(which),
                Halt::Full | Halt::Waits => self.start_write(),
            }
            if self.transfer.is_some() {
                continue;
            }
            if self.is_over() {
                self.left.clear();
                self.right.clear();
            }
            match self.mark.take() {
                Some(mark) => self.next.mark(mark)?,
                None => return Poll::Ready(Ok(())),
            }
        }
    }

    fn flush(&mut self, lull: Lull) -> Result<(), Failure> {
        self.next.flush(lull)
    }

    fn wants_more(&self, reach: Reach) -> bool {
        !self.is_over() && self.next.wants_more(reach)
    }

    fn owes(&self) -> bool {
        self.transfer.is_some() || self.next.owes()
    }

    fn settle(&mut self, ending: Ending) {
        self.meter.settle(ending);
        self.next.settle(ending);
    }
}
