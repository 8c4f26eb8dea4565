//! Operators whose closures are asynchronous.

use std::rc::Rc;

use crate::{
    dataplane::{chain::BoxStage, context::TaskContext, error::TaskError},
    flow::{
        asynchronous::{Asynchronous, Order},
        sink::ForEach,
        stream::Stream,
    },
    job::BuildRefusal,
};

impl<T: Send + 'static> Stream<T> {
    /// Each item made into another by an asynchronous closure, at most `limit` at a time in each instance, results in
    /// the order of the items. A `limit` of 0 refuses the flow.
    ///
    /// A result that waits for an earlier one still counts against the limit, so one slow call can hold up the start of
    /// new ones. The closure's futures run on the task's thread and need not be `Send`.
    pub fn map_async<U, F>(self, limit: usize, f: F) -> Stream<U>
    where
        U: Send + 'static,
        F: AsyncFn(&TaskContext, T) -> Result<U, TaskError> + Clone + Send + 'static,
    {
        self.map_async_in(Order::Kept, "map_async", limit, f)
    }

    /// Like [`map_async`](Self::map_async), with results in the order in which they are done.
    pub fn map_async_unordered<U, F>(self, limit: usize, f: F) -> Stream<U>
    where
        U: Send + 'static,
        F: AsyncFn(&TaskContext, T) -> Result<U, TaskError> + Clone + Send + 'static,
    {
        self.map_async_in(Order::AsDone, "map_async_unordered", limit, f)
    }

    fn map_async_in<U, F>(self, order: Order, kind: &'static str, limit: usize, f: F) -> Stream<U>
    where
        U: Send + 'static,
        F: AsyncFn(&TaskContext, T) -> Result<U, TaskError> + Clone + Send + 'static,
    {
        self.check_concurrency(kind, limit);
        self.then(kind, move |_| {
            let f = f.clone();
            Box::new(move |meter, next| {
                let (f, context) = (Rc::new(f), Rc::clone(&meter.task.context));
                let call = move |item: T| {
                    let (f, context) = (Rc::clone(&f), Rc::clone(&context));
                    async move { f(&context, item).await.map(Some) }
                };
                Box::new(Asynchronous::new(meter, limit, order, call, next))
            })
        })
    }

    /// The items that an asynchronous closure says yes to, in order, at most `limit` closures at a time in each
    /// instance. A `limit` of 0 refuses the flow.
    pub fn filter_async<F>(self, limit: usize, f: F) -> Stream<T>
    where
        F: AsyncFn(&TaskContext, &T) -> Result<bool, TaskError> + Clone + Send + 'static,
    {
        self.check_concurrency("filter_async", limit);
        self.then("filter_async", move |_| {
            let f = f.clone();
            Box::new(move |meter, next| {
                let (f, context) = (Rc::new(f), Rc::clone(&meter.task.context));
                let call = move |item: T| {
                    let (f, context) = (Rc::clone(&f), Rc::clone(&context));
                    async move { Ok(f(&context, &item).await?.then_some(item)) }
                };
                Box::new(Asynchronous::new(meter, limit, Order::Kept, call, next))
            })
        })
    }

    /// Gives every item to an asynchronous closure, at most `limit` at a time in each instance, started in order. A
    /// `limit` of 0 refuses the flow.
    pub fn for_each_async<F>(self, limit: usize, f: F)
    where
        F: AsyncFn(&TaskContext, T) -> Result<(), TaskError> + Clone + Send + 'static,
    {
        self.check_concurrency("for_each_async", limit);
        let done = self.then("for_each_async", move |_| {
            let f = f.clone();
            Box::new(move |meter, next: BoxStage<()>| {
                let (f, context) = (Rc::new(f), Rc::clone(&meter.task.context));
                let call = move |item: T| {
                    let (f, context) = (Rc::clone(&f), Rc::clone(&context));
                    async move { f(&context, item).await.map(|()| None) }
                };
                Box::new(Asynchronous::new(meter, limit, Order::Kept, call, next)) as BoxStage<T>
            })
        });
        done.end("end", |_| Box::new(|meter| Box::new(ForEach::new(meter, |()| Ok(())))));
    }

    fn check_concurrency(&self, operator: &str, limit: usize) {
        if limit == 0 {
            self.blueprint.borrow_mut().refuse(BuildRefusal::ZeroConcurrency { operator: operator.to_owned() });
        }
    }
}
