//! A service whose answers are made by tasks: what stands between its actor and the pipeline's first and last task.

use std::{
    any::Any,
    collections::VecDeque,
    fmt,
    future::{Future, poll_fn},
    marker::PhantomData,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use actix::{Actor, AsyncContext, Handler, Message, ResponseFuture, WrapFuture};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::{
    job::Limits,
    service::{
        AnyGate, AnyRequests, Elsewhere, ErasedService, MessageTable, Service, ServiceContext, ServiceMessage,
        ServicePlan, gate::Gate, instance::host, stand_in::stand_in,
    },
};

/// A pipeline had no reply to a request: it was filtered out, it was set aside as a dead letter, or the job was cancelled or
/// failed while it was under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
#[error("the pipeline gave no reply to the request")]
pub struct NoReply;

/// The service that [`Flow::pipeline_service`](crate::Flow::pipeline_service) registers for requests of type `Q`: what a
/// [`ServiceRef`](crate::ServiceRef) to it is of. It accepts `Q`, and is made by the flow alone.
pub struct PipelineService<Q> {
    port: Arc<RequestPort<Q>>,
}

impl<Q> fmt::Debug for PipelineService<Q> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PipelineService").finish_non_exhaustive()
    }
}

impl<Q: 'static> Actor for PipelineService<Q> {
    type Context = actix::Context<Self>;
}

impl<Q, R> Service for PipelineService<Q>
where
    Q: Message<Result = Result<R, NoReply>> + ServiceMessage,
    R: Send + 'static,
{
    fn messages(table: &mut MessageTable<Self>) {
        table.accept::<Q>("request");
    }
}

impl<Q, R> Handler<Q> for PipelineService<Q>
where
    Q: Message<Result = Result<R, NoReply>> + Send + 'static,
    R: Send + 'static,
{
    type Result = ResponseFuture<Result<R, NoReply>>;

    fn handle(&mut self, request: Q, ctx: &mut Self::Context) -> Self::Result {
        let reply = self.port.push(request);
        if !self.port.flight.has_room() {
            // Nothing more is taken off the service's queue, whose bound then holds callers back.
            let flight = Arc::clone(&self.port.flight);
            ctx.wait(poll_fn(move |cx| flight.poll_room(cx)).into_actor(self));
        }
        Box::pin(reply)
    }
}

/// Requests on their way from the service's actor to the pipeline's first task.
pub(crate) struct RequestPort<Q> {
    state: Mutex<PortState<Q>>,
    flight: Arc<Flight>,
}

struct PortState<Q> {
    queue: VecDeque<Tagged<Q>>,
    finished: bool,
    consumer: Option<Waker>,
}

/// A request, or what has become of it so far, with the tag by which its caller is found again.
pub(crate) struct Tagged<T> {
    pub item: T,
    pub tag: Tag,
}

impl<T> Tagged<T> {
    pub fn with<U>(self, f: impl FnOnce(T) -> U) -> Tagged<U> {
        let Self { item, tag } = self;
        Tagged { item: f(item), tag }
    }
}

/// Stands for a caller. Dropping it without an answer tells the caller that there is none.
pub(crate) struct Tag {
    /// A `oneshot::Sender` of the reply, whose type only the last stage knows.
    reply: Option<Box<dyn Any + Send>>,
    flight: Arc<Flight>,
}

impl Tag {
    pub fn answer<R: Send + 'static>(mut self, reply: R) {
        if let Some(sender) = self.reply.take()
            && let Ok(sender) = sender.downcast::<oneshot::Sender<R>>()
        {
            // The caller may have gone.
            let _ = sender.send(reply);
        }
    }
}

impl Drop for Tag {
    fn drop(&mut self) {
        drop(self.reply.take());
        self.flight.land();
    }
}

/// How many requests are under way.
struct Flight {
    limit: usize,
    state: Mutex<(usize, Option<Waker>)>,
}

impl Flight {
    fn has_room(&self) -> bool {
        self.state.lock().0 < self.limit
    }

    fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        if state.0 < self.limit {
            return Poll::Ready(());
        }
        state.1 = Some(cx.waker().clone());
        Poll::Pending
    }

    fn take_off(&self) {
        self.state.lock().0 += 1;
    }

    fn land(&self) {
        let mut state = self.state.lock();
        state.0 -= 1;
        let waker = if state.0 < self.limit { state.1.take() } else { None };
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<Q: Send + 'static> RequestPort<Q> {
    /// At most `limit` requests are under way at a time.
    pub fn new(limit: usize) -> Arc<Self> {
        let state = PortState { queue: VecDeque::new(), finished: false, consumer: None };
        let flight = Flight { limit: limit.max(1), state: Mutex::new((0, None)) };
        Arc::new(Self { state: Mutex::new(state), flight: Arc::new(flight) })
    }

    fn push<R: Send + 'static>(&self, request: Q) -> impl Future<Output = Result<R, NoReply>> + use<Q, R> {
        let (sender, reply) = oneshot::channel::<R>();
        self.flight.take_off();
        let tag = Tag { reply: Some(Box::new(sender)), flight: Arc::clone(&self.flight) };
        let tagged = Tagged { item: request, tag };
        let mut state = self.state.lock();
        if state.finished {
            // The pipeline has ended. That its tag is dropped is the answer.
            drop(state);
            drop(tagged);
        } else {
            state.queue.push_back(tagged);
            let consumer = state.consumer.take();
            drop(state);
            if let Some(consumer) = consumer {
                consumer.wake();
            }
        }
        async move { reply.await.map_err(|_| NoReply) }
    }

    /// Moves up to `max` requests into `into`. Ready with nothing once no more will come.
    pub fn poll_take(&self, cx: &Context<'_>, into: &mut Vec<Tagged<Q>>, max: usize) -> Poll<()> {
        let mut state = self.state.lock();
        if state.queue.is_empty() && !state.finished {
            if !state.consumer.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                state.consumer = Some(cx.waker().clone());
            }
            return Poll::Pending;
        }
        let count = state.queue.len().min(max);
        into.extend(state.queue.drain(..count));
        Poll::Ready(())
    }

    /// No more will come. What was taken in is still given out.
    pub fn finish(&self) {
        self.state.lock().finished = true;
    }

    /// Nothing more is taken in or given out; callers whose requests still waited are told.
    pub fn close(&self) {
        let mut state = self.state.lock();
        state.finished = true;
        let queue = std::mem::take(&mut state.queue);
        drop(state);
        drop(queue);
    }

    pub fn queued(&self) -> usize {
        self.state.lock().queue.len()
    }
}

impl<Q: Send + 'static> AnyRequests for RequestPort<Q> {
    fn close(&self) {
        Self::close(self);
    }

    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

/// A service whose requests of type `Q` are answered with `R` by tasks.
pub(crate) fn pipeline_plan<Q, R>(name: &str, limits: &Limits) -> Box<dyn ServicePlan>
where
    Q: Message<Result = Result<R, NoReply>> + ServiceMessage,
    R: Send + 'static,
{
    Box::new(PipelinePlan::<Q, R> { name: name.to_owned(), capacity: limits.service_queue, answers: PhantomData })
}

struct PipelinePlan<Q, R> {
    name: String,
    capacity: usize,
    answers: PhantomData<fn(Q) -> R>,
}

impl<Q, R> ServicePlan for PipelinePlan<Q, R>
where
    Q: Message<Result = Result<R, NoReply>> + ServiceMessage,
    R: Send + 'static,
{
    fn name(&self) -> &str {
        &self.name
    }

    fn open_gate(&self) -> Arc<dyn AnyGate> {
        Arc::new(Gate::<PipelineService<Q>>::new(&self.name, self.capacity))
    }

    fn open_requests(&self) -> Option<Arc<dyn AnyRequests>> {
        Some(RequestPort::<Q>::new(self.capacity))
    }

    fn host(
        self: Box<Self>,
        gate: &Arc<dyn AnyGate>,
        requests: Option<&Arc<dyn AnyRequests>>,
    ) -> Box<dyn ErasedService> {
        let port = requests.and_then(|requests| Arc::clone(requests).into_any().downcast::<RequestPort<Q>>().ok());
        let port = port.expect("the port is of the same pipeline service");
        host(gate, move |_: &ServiceContext| PipelineService { port: Arc::clone(&port) })
    }

    fn stand_in(&self, gate: &Arc<dyn AnyGate>, there: Arc<dyn Elsewhere>) -> Box<dyn ErasedService> {
        stand_in::<PipelineService<Q>>(gate, there)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn take(port: &RequestPort<u32>, max: usize) -> Option<Vec<Tagged<u32>>> {
        let mut taken = Vec::new();
        let polled = port.poll_take(&Context::from_waker(Waker::noop()), &mut taken, max);
        polled.is_ready().then_some(taken)
    }

    #[test]
    fn an_answer_goes_to_the_one_who_asked() {
        let port = RequestPort::new(8);
        let (a, b) = (port.push::<String>(1), port.push::<String>(2));
        for tagged in take(&port, 8).expect("two requests wait").into_iter().rev() {
            let Tagged { item, tag } = tagged.with(|n| format!("{n}!"));
            tag.answer(item);
        }
        assert_eq!(a.now_or_never(), Some(Ok("1!".to_owned())));
        assert_eq!(b.now_or_never(), Some(Ok("2!".to_owned())));
        assert!(take(&port, 8).is_none());
    }

    #[test]
    fn what_is_dropped_answers_that_there_is_no_reply() {
        let port = RequestPort::new(8);
        let reply = port.push::<u32>(1);
        drop(take(&port, 1));
        assert_eq!(reply.now_or_never(), Some(Err(NoReply)));
        let waiting = port.push::<u32>(2);
        port.close();
        assert_eq!(waiting.now_or_never(), Some(Err(NoReply)));
        assert_eq!(port.push::<u32>(3).now_or_never(), Some(Err(NoReply)));
        assert_eq!(take(&port, 1).map(|taken| taken.len()), Some(0));
    }

    #[test]
    fn room_comes_back_with_each_answer() {
        let port = RequestPort::new(2);
        let replies = [port.push::<u32>(1), port.push::<u32>(2)];
        assert!(!port.flight.has_room());
        for Tagged { item, tag } in take(&port, 1).expect("two requests wait") {
            tag.answer(item);
        }
        assert!(port.flight.has_room());
        drop(replies);
    }
}
