//! Pipelines as services: requests that flow through operators, and whose results go back to who asked.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use actix::Message;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    dataplane::{
        chain::{Ending, Failure, Meter},
        context::TaskContext,
        edge::Pairing,
        error::TaskError,
        exchange::InTurn,
        mark::Mark,
        task::{Head, Input},
    },
    flow::{
        Flow,
        graph::Origin,
        sink::ForEach,
        stream::{Exchange, Stream},
    },
    job::{ErrorPolicy, Parallelism, ServiceId},
    protocol::{TaskCommand, Wait},
    service::{NoReply, RequestPort, ServiceMessage, Tagged, pipeline_plan},
};

/// The requests of a pipeline that is a service, and what becomes of them: see [`Flow::pipeline_service`].
///
/// Each item belongs to a caller who waits for it. So the operators offered are those that make one item, or none, of each:
/// where one is dropped, its caller is answered [`NoReply`]. An item that an operator sets aside under *skip* is dropped, too.
///
/// What is said of the operators of [`Stream`] holds for those of the same name here: they keep no state, pass results on as they
/// are made, and run in as many instances as the one before them.
#[must_use = "a pipeline has to return the stream of its replies"]
pub struct RequestStream<T> {
    stream: Stream<Tagged<T>>,
}

impl<T> fmt::Debug for RequestStream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestStream").finish_non_exhaustive()
    }
}

impl Flow {
    /// Registers a service under `name` whose calls are answered by a pipeline of operators: `pipeline` is given the stream of
    /// requests, and returns that of the replies.
    ///
    /// It is called like any service, as a [`PipelineService<Q>`](crate::PipelineService) with messages of type `Q`: by tasks and
    /// services of the job and from outside, with a deadline for each call. Replies go to who asked, in whatever order they
    /// come; at most `Limits::service_queue` requests are under way, and as many more wait in front of them.
    ///
    /// Its tasks belong to the service, not to the work of the job: a job does not wait for them to end, but ends them. They
    /// start with the other tasks, go on while the job is paused, idle or being stopped, and end in their turn among the
    /// services, once everything accepted has been answered. They count as services where they call others, so these have to
    /// be registered before. `cancel` and a failure end them with all other tasks, and who waits is answered [`NoReply`]. An
    /// operator that fails, fails the job, unless its policy is *skip*.
    ///
    /// ```
    /// use actix::Message;
    /// use proscenium::{LocalEnvironment, NoReply, PipelineService, job_fn};
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Serialize, Deserialize, Message)]
    /// #[rtype(result = "Result<u64, NoReply>")]
    /// struct Half(u64);
    ///
    /// let env = LocalEnvironment::new("doc");
    /// let job = env.submit(job_fn("halves", |flow| {
    ///     flow.pipeline_service("half", |requests| {
    ///         requests.filter(|Half(n)| n % 2 == 0).map(|Half(n)| n / 2)
    ///     });
    ///     Ok(())
    /// }));
    /// let job = job.blocking()?;
    /// let half = job.service::<PipelineService<Half>>("half");
    /// assert_eq!(half.call(Half(42)).blocking()?, Ok(21));
    /// assert_eq!(half.call(Half(7)).blocking()?, Err(NoReply));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn pipeline_service<Q, R, F>(&mut self, name: &str, pipeline: F)
    where
        Q: Message<Result = Result<R, NoReply>> + ServiceMessage,
        R: Send + 'static,
        F: FnOnce(RequestStream<Q>) -> RequestStream<R>,
    {
        let service = {
            let mut blueprint = self.blueprint.borrow_mut();
            if !blueprint.name_service(name) {
                return;
            }
            let plan = pipeline_plan::<Q, R>(name, &blueprint.options.limits);
            let service = ServiceId(u32::try_from(blueprint.services.len()).unwrap_or(u32::MAX));
            blueprint.services.push(plan);
            service
        };
        let stream = self.source("requests", Parallelism::Fixed(1), Origin::Requests, move |_| {
            Box::new(move |meter| {
                let port = meter.task.wiring.requests::<Q>(service);
                Box::new(RequestHead::new(meter, service, port))
            })
        });
        self.blueprint.borrow_mut().chains[stream.chain()].service = Some(service);
        let replies = pipeline(RequestStream { stream }).stream;
        replies.end("reply", |_| {
            Box::new(|meter| {
                let answer = |Tagged { item, tag }: Tagged<R>| {
                    tag.answer(item);
                    Ok(())
                };
                Box::new(ForEach::new(meter, answer))
            })
        });
    }
}

impl<T: Send + 'static> RequestStream<T> {
    /// Each item made into another.
    pub fn map<U, F>(self, mut f: F) -> RequestStream<U>
    where
        U: Send + 'static,
        F: FnMut(T) -> U + Clone + Send + 'static,
    {
        RequestStream { stream: self.stream.map(move |tagged| tagged.with(&mut f)) }
    }

    /// Each item made into another, by a closure that may fail.
    pub fn try_map<U, F>(self, mut f: F) -> RequestStream<U>
    where
        U: Send + 'static,
        F: FnMut(T) -> Result<U, TaskError> + Clone + Send + 'static,
    {
        let stream = self.stream.try_map(move |Tagged { item, tag }| Ok(Tagged { item: f(item)?, tag }));
        RequestStream { stream }
    }

    /// The items that `f` says yes to; the callers of the others are answered [`NoReply`].
    pub fn filter<F>(self, mut f: F) -> Self
    where
        F: FnMut(&T) -> bool + Clone + Send + 'static,
    {
        Self { stream: self.stream.filter(move |tagged| f(&tagged.item)) }
    }

    /// Each item made into another, or dropped, upon which its caller is answered [`NoReply`].
    pub fn filter_map<U, F>(self, mut f: F) -> RequestStream<U>
    where
        U: Send + 'static,
        F: FnMut(T) -> Option<U> + Clone + Send + 'static,
    {
        let stream = self.stream.filter_map(move |Tagged { item, tag }| Some(Tagged { item: f(item)?, tag }));
        RequestStream { stream }
    }

    /// Shows every item to a closure and passes it on.
    pub fn inspect<F>(self, mut f: F) -> Self
    where
        F: FnMut(&T) + Clone + Send + 'static,
    {
        Self { stream: self.stream.inspect(move |tagged| f(&tagged.item)) }
    }

    /// Each item made into another by an asynchronous closure, at most `limit` at a time in each instance. Whichever is done
    /// first goes on first: the tag knows whose it is. A `limit` of 0 refuses the flow.
    pub fn map_async<U, F>(self, limit: usize, f: F) -> RequestStream<U>
    where
        U: Send + 'static,
        F: AsyncFn(&TaskContext, T) -> Result<U, TaskError> + Clone + Send + 'static,
    {
        let stream = self.stream.map_async_unordered(limit, async move |ctx: &TaskContext, tagged: Tagged<T>| {
            let Tagged { item, tag } = tagged;
            Ok(Tagged { item: f(ctx, item).await?, tag })
        });
        RequestStream { stream }
    }

    /// The items that an asynchronous closure says yes to, at most `limit` closures at a time in each instance; the callers of
    /// the others are answered [`NoReply`]. A `limit` of 0 refuses the flow.
    pub fn filter_async<F>(self, limit: usize, f: F) -> Self
    where
        F: AsyncFn(&TaskContext, &T) -> Result<bool, TaskError> + Clone + Send + 'static,
    {
        let stream = self
            .stream
            .filter_async(limit, async move |ctx: &TaskContext, tagged: &Tagged<T>| f(ctx, &tagged.item).await);
        Self { stream }
    }

    /// Deals the items out to `parallelism` instances in turn. A parallelism of 0 refuses the flow.
    pub fn rebalance(self, parallelism: usize) -> Self
    where
        T: Serialize + DeserializeOwned,
    {
        let mut exchange = Exchange::begin(self.stream.blueprint(), Parallelism::Fixed(parallelism));
        exchange.add(self.stream, "rebalance", Pairing::AllToAll, move |instance, lanes| InTurn(instance % lanes));
        Self { stream: exchange.finish() }
    }

    /// How many parallel instances the operator behind this stream has.
    #[must_use]
    pub fn parallelism(&self) -> usize {
        self.stream.parallelism()
    }

    /// Names the operator behind this stream; see [`Stream::uid`].
    pub fn uid(self, uid: &str) -> Self {
        Self { stream: self.stream.uid(uid) }
    }

    /// What the operator behind this stream does with an item its user code cannot process; see [`Stream::on_error`].
    pub fn on_error(self, policy: ErrorPolicy) -> Self {
        Self { stream: self.stream.on_error(policy) }
    }
}

/// The head of the chain that takes a pipeline's requests. Neither `stop` nor `pause` concerns it: it ends with its service.
struct RequestHead<Q: Send + 'static> {
    meter: Meter,
    service: ServiceId,
    port: Arc<RequestPort<Q>>,
    closed: bool,
    ended: bool,
}

impl<Q: Send + 'static> RequestHead<Q> {
    fn new(meter: Meter, service: ServiceId, port: Arc<RequestPort<Q>>) -> Self {
        Self { meter, service, port, closed: false, ended: false }
    }
}

impl<Q: Send + 'static> Head<Tagged<Q>> for RequestHead<Q> {
    fn poll_batch(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut Vec<Tagged<Q>>,
        max: usize,
    ) -> Poll<Result<Input, Failure>> {
        if self.ended {
            return Poll::Pending;
        }
        if !self.closed && self.port.poll_take(cx, into, max).is_pending() {
            self.meter.task.wait.set(Wait::Requests);
            return Poll::Pending;
        }
        if into.is_empty() {
            self.ended = true;
            return Poll::Ready(Ok(Input::Mark(Mark::End)));
        }
        self.meter.account.received += into.len() as u64;
        self.meter.account.processed += into.len() as u64;
        Poll::Ready(Ok(Input::Items))
    }

    fn command(&mut self, command: TaskCommand) {
        if command == (TaskCommand::EndRequests { service: self.service }) {
            self.port.finish();
        }
    }

    fn close(&mut self) {
        self.closed = true;
        self.port.close();
    }

    fn settle(&mut self, ending: Ending) {
        // Requests still queued never entered the flow; their callers are told by their tags.
        self.port.close();
        self.meter.settle(ending);
    }

    fn queued(&self) -> usize {
        self.port.queued()
    }
}
