//! Feedback: streams whose items come from further down the same flow.

use std::{cell::RefCell, fmt, rc::Rc, sync::Arc};

use crate::{
    dataplane::chain::BoxStage,
    flow::{
        Flow,
        graph::Blueprint,
        operator::Pass,
        stream::{Exchange, Stream},
    },
    job::{BuildRefusal, Parallelism},
};

/// The end of a stream that is yet to be found: what [`Flow::from_future`] hands out beside the stream, and
/// [`Stream::fill_future`] fills.
pub struct FutureStream<T> {
    name: Arc<str>,
    blueprint: Rc<RefCell<Blueprint>>,
    /// Among the blueprint's futures.
    index: usize,
    exchange: RefCell<Exchange<T>>,
}

impl<T> fmt::Debug for FutureStream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FutureStream").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Flow {
    /// A stream whose items come from a stream that does not exist yet, and the end of it, which is to be filled by
    /// [`fill_future`](Stream::fill_future). One instance; [`from_future_with`](Self::from_future_with) has more.
    ///
    /// A stream that fills a future it came from closes a *loop*. [`iterate`](Stream::iterate) is the usual way to make one.
    ///
    /// * *Order:* what goes round keeps its order on each way. What is in a loop already goes before what has yet to enter it:
    ///   into one that is never empty nothing more enters.
    /// * *End:* a loop ends by itself, once nothing more can enter it, no item is under way in it, and no call or timer of
    ///   its tasks is pending. This is counted, not timed: it ends at that moment, and never before. What an operator of the
    ///   loop gives out only at its end (`fold`, `count`) can leave the loop, but not go round again: the job fails, and says so.
    ///   A loop of which nobody wants anything any more, as behind a `take`, ends then; one that nothing ever leaves goes round
    ///   until it is quiet.
    /// * *State:* items that wait to go round are kept in memory. More than `Limits::loop_items_max` of them fail the job with
    ///   [`LoopTooLarge`](crate::FailureCause::LoopTooLarge): making them wait would be to wait in a circle.
    /// * *Stop:* `stop` ends what enters, and lets the loop go quiet. One that has not after `Limits::loop_drain_deadline` is
    ///   cut: what would go round again is refused, and the job reads `Stopped`. `cancel` ends it at once.
    /// * *Cost:* a channel, and a task of its own for the future's instances.
    ///
    /// A future that is never filled, filled twice, or whose name is taken refuses the flow.
    ///
    /// ```
    /// use proscenium::{LocalEnvironment, job_fn};
    ///
    /// let env = LocalEnvironment::new("doc");
    /// let job = env.submit(job_fn("halves", |flow| {
    ///     let (again, future) = flow.from_future::<u32>("again");
    ///     let (numbers, out) = flow.from_batch([12u32, 7]).union(again).tee();
    ///     numbers.filter(|n| n % 2 == 0).map(|n| n / 2).fill_future(&future);
    ///     out.collect("seen");
    ///     Ok(())
    /// }));
    /// let job = job.autostop(true).blocking()?;
    /// let mut seen: Vec<u32> = job.output("seen").blocking()?;
    /// seen.sort_unstable();
    /// assert_eq!(seen, [3, 6, 7, 12]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use = "a stream that nothing consumes, and a future that is never filled, refuse the flow"]
    pub fn from_future<T: Send + 'static>(&mut self, name: &str) -> (Stream<T>, FutureStream<T>) {
        self.from_future_with(name, 1)
    }

    /// As [`from_future`](Self::from_future), with that many instances. Each is filled by the instance of the same number if what
    /// fills it has as many, else its items are dealt out in turn.
    #[must_use = "a stream that nothing consumes, and a future that is never filled, refuse the flow"]
    pub fn from_future_with<T: Send + 'static>(
        &mut self,
        name: &str,
        parallelism: usize,
    ) -> (Stream<T>, FutureStream<T>) {
        let future = FutureStream::open(&self.blueprint, name, Parallelism::Fixed(parallelism));
        if parallelism == 0 {
            let refusal = BuildRefusal::ZeroParallelism { operator: "from_future".to_owned() };
            self.blueprint.borrow_mut().refuse(refusal);
        }
        (future.stream("from_future"), future)
    }
}

impl<T: Send + 'static> FutureStream<T> {
    fn open(blueprint: &Rc<RefCell<Blueprint>>, name: &str, parallelism: Parallelism) -> Self {
        let exchange = Exchange::begin(blueprint, parallelism);
        let name: Arc<str> = name.into();
        let index = blueprint.borrow_mut().add_future(&name, exchange.chain());
        Self { name, blueprint: Rc::clone(blueprint), index, exchange: RefCell::new(exchange) }
    }

    fn stream(&self, kind: &'static str) -> Stream<T> {
        let stream = self.exchange.borrow().finish();
        stream.then(kind, |_| Box::new(|meter, next| Box::new(Pass::new(meter, next)) as BoxStage<T>))
    }
}

impl<T: Send + 'static> Stream<T> {
    /// Sends this stream's items to where [`from_future`](Flow::from_future) took its stream from: each instance to that of
    /// the same number if there are as many, else item by item in turn, within the process. See there for what becomes of a loop
    /// that this closes.
    ///
    /// A future of another flow, and one that is filled already, refuse the flow.
    pub fn fill_future(self, future: &FutureStream<T>) {
        self.fill(future, "fill_future");
    }

    fn fill(self, future: &FutureStream<T>, kind: &'static str) {
        let shared = Rc::clone(self.blueprint());
        let operator = kind.to_owned();
        if !Rc::ptr_eq(&shared, &future.blueprint) {
            shared.borrow_mut().refuse(BuildRefusal::ForeignStream { operator });
            return;
        }
        let first = shared.borrow().channels.len();
        future.exchange.borrow_mut().add_balanced(self, kind);
        let mut blueprint = shared.borrow_mut();
        let last = blueprint.channels.len();
        if blueprint.futures[future.index].filled {
            blueprint.refuse(BuildRefusal::FutureFilledTwice { future: future.name.to_string() });
        }
        let entry = &mut blueprint.futures[future.index];
        entry.filled = true;
        entry.filled_by = first..last;
    }

    /// Sends items round again and again: `body` is given a stream of this stream's items and of those that come round, and
    /// returns those to go round (again), and those to leave the loop.
    ///
    /// It ends by itself once this stream has ended and nothing goes round any more; all that [`from_future`](Flow::from_future)
    /// says of loops holds. `name` names the loop in errors, and must be its own. The body begins with as many instances as this
    /// stream has; what comes round in others is dealt out to them in turn. It costs a channel for each of the two ways in; a body of one
    /// chain runs in one task for each instance, and a trip round is then a queue's push and pop.
    ///
    /// ```
    /// use proscenium::{LocalEnvironment, job_fn};
    ///
    /// let env = LocalEnvironment::new("doc");
    /// let job = env.submit(job_fn("collatz", |flow| {
    ///     flow.from_batch(1..=6u64)
    ///         .map(|n| (n, n, 0u32))
    ///         .iterate("collatz", |numbers| {
    ///             let (done, going) = numbers.split(|(_, n, _)| *n == 1);
    ///             let again = going.map(|(start, n, steps)| (start, if n % 2 == 0 { n / 2 } else { 3 * n + 1 }, steps + 1));
    ///             (again, done)
    ///         })
    ///         .map(|(start, _, steps)| (start, steps))
    ///         .collect("steps");
    ///     Ok(())
    /// }));
    /// let job = job.autostop(true).blocking()?;
    /// let mut steps: Vec<(u64, u32)> = job.output("steps").blocking()?;
    /// steps.sort_unstable();
    /// assert_eq!(steps, [(1, 0), (2, 1), (3, 7), (4, 2), (5, 5), (6, 8)]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn iterate<U, F>(self, name: &str, body: F) -> Stream<U>
    where
        U: Send + 'static,
        F: FnOnce(Stream<T>) -> (Stream<T>, Stream<U>),
    {
        let future = FutureStream::open(self.blueprint(), name, self.said());
        future.exchange.borrow_mut().add_balanced(self, "enter");
        let (again, out) = body(future.stream("iterate"));
        again.fill(&future, "iterate");
        out
    }
}
