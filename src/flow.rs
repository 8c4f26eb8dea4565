//! The builder that a job's `build` receives, and the typed streams it hands out.

mod aggregate;
mod asynchronous;
mod collections;
pub(crate) mod colocation;
mod connect;
mod feedback;
mod files;
mod filter;
#[cfg(any(test, fuzzing))]
#[allow(clippy::missing_panics_doc, reason = "to panic is how a target fails")]
pub(crate) mod fuzz;
pub(crate) mod graph;
pub(crate) mod job;
mod join;
mod keyed;
mod loops;
mod operator;
mod process;
mod registry;
mod replay;
mod requests;
mod sink;
mod source;
pub(crate) mod splits;
mod stream;
mod text;
mod zip;

use std::{cell::RefCell, fmt, rc::Rc, sync::Arc};

use serde::{Serialize, de::DeserializeOwned};

pub use self::collections::{ItemsPart, ParallelItems, ParallelRange, RangePart};
pub use self::connect::{Connected2, Connected3, Connected4};
pub use self::feedback::FutureStream;
#[cfg(feature = "files")]
pub use self::files::{Csv, CsvSink, JsonLinesSink};
pub use self::files::{FilePosition, FileSplit, Files};
use self::graph::{Blueprint, InputPlan, Origin};
pub use self::job::{IntoJob, Job, JobFn, JobPayload, job_fn};
pub use self::keyed::KeyedStream;
pub use self::operator::Either;
pub use self::process::{Process, ProcessContext, SideOutputError};
#[cfg(feature = "cli")]
pub(crate) use self::registry::Described;
pub use self::registry::JobRegistry;
pub(crate) use self::registry::Opening;
pub use self::replay::ReplayableSource;
pub use self::requests::RequestStream;
pub use self::sink::Sink;
pub use self::source::{
    BatchSource, IntoBatchSource, Iterable, IteratorPart, Partitioned, Replayable, Splittable, partitioned,
};
pub use self::stream::Stream;
pub use self::text::{LineSink, TextFile, TextFiles, TextPart};
use crate::{
    dataplane::{
        chain::{Meter, Recipe, StageFactory, TaskState},
        head::{PartHead, PortHead, SourceHead},
        source::{Part, Source},
        task::{ChainTask, Head, Task},
        wiring::InputId,
    },
    job::{BuildRefusal, Limits, Parallelism},
    port::{AnyInput, InputPort},
    schema::TypeDescription,
    service::{Service, ServiceContext, service_plan},
};

/// What [`Job::build`] lays a job out on: sources, and through their streams everything else.
///
/// Methods do not fail: what is wrong with a flow is recorded, and `submit` is refused with the first thing recorded.
pub struct Flow {
    blueprint: Rc<RefCell<Blueprint>>,
}

impl fmt::Debug for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flow").field("tasks", &self.blueprint.borrow().tasks).finish_non_exhaustive()
    }
}

impl Flow {
    pub(crate) fn on(blueprint: &Rc<RefCell<Blueprint>>) -> Self {
        Self { blueprint: Rc::clone(blueprint) }
    }

    /// The job's parallelism: what splittable sources get, and what `key_by` takes where none is named.
    #[must_use]
    pub fn parallelism(&self) -> usize {
        self.blueprint.borrow().options.parallelism
    }

    /// Registers a service under `name`. `factory` makes its actor, at the start and at each restart.
    ///
    /// Services start in order of registration, before any task, and stop in reverse order, after all tasks. Two
    /// services of one name refuse the flow.
    pub fn register_service<S, F>(&mut self, name: &str, factory: F)
    where
        S: Service,
        F: Fn() -> S + Send + Sync + 'static,
    {
        self.register_service_with(name, move |_| factory());
    }

    /// Like [`register_service`](Self::register_service), for an actor that calls other services of the job: the
    /// factory gets a [`ServiceContext`] to find them with.
    pub fn register_service_with<S, F>(&mut self, name: &str, factory: F)
    where
        S: Service,
        F: Fn(&ServiceContext) -> S + Send + Sync + 'static,
    {
        let mut blueprint = self.blueprint.borrow_mut();
        if !blueprint.name_service(name) {
            return;
        }
        let plan = service_plan(name, factory, &blueprint.options.limits);
        blueprint.services.push(plan);
    }

    /// A bounded source: anything iterable, read by one instance, or what can be split, read by as many instances as the
    /// job's parallelism. That is a [`ReplayableSource`], such as [`TextFile`], [`ParallelRange`] and [`ParallelItems`], or a
    /// [`BatchSource`], which cannot be read again, such as [`partitioned`].
    ///
    /// Order: each instance keeps that of its part. The end of the source ends the stream.
    pub fn from_batch<S, Kind>(&mut self, source: S) -> Stream<S::Item>
    where
        S: IntoBatchSource<Kind>,
        S::Item: Send + 'static,
    {
        source.begin(self)
    }

    /// A source that may never end: see [`Source`]. One instance.
    ///
    /// `build` may be called again, so it makes the source anew each time and cannot give away something there is only
    /// one of, such as the receiver of a channel. Items that come from elsewhere in the program are what
    /// [`from_channel`](Self::from_channel) is for.
    pub fn from_source<S>(&mut self, source: S) -> Stream<S::Item>
    where
        S: Source,
        S::Item: Send + 'static,
    {
        let mut source = Some(source);
        self.source("from_source", Parallelism::Fixed(1), Origin::Once, move |_| {
            let source = source.take();
            Box::new(move |meter| match source {
                Some(source) => Box::new(SourceHead::new(meter, source)),
                // Each instance is made once, and there is one.
                None => Box::new(PartHead::new(meter, None::<IteratorPart<std::iter::Empty<S::Item>>>)),
            })
        })
    }

    /// A source that is pushed into from outside, through [`JobHandle::input`](crate::JobHandle::input). One instance.
    ///
    /// It ends by [`Input::finish`](crate::Input::finish) or by stopping the job, and by nothing else: that a sender
    /// or a client vanishes says nothing about whether it was done. At most `Limits::port_items` items wait; then
    /// senders wait. Those on their way to a source in a worker process are among them.
    ///
    /// `T`'s `Deserialize` is run on made-up values while the flow is laid out, to learn
    /// [the type's structure](crate::Job#when-are-two-types-the-same).
    pub fn from_channel<T>(&mut self, name: &str) -> Stream<T>
    where
        T: Serialize + DeserializeOwned + Send + 'static,
    {
        let id = {
            let mut blueprint = self.blueprint.borrow_mut();
            if blueprint.inputs.iter().any(|input| input.name == name) {
                blueprint.refuse(BuildRefusal::DuplicateInput { input: name.to_owned() });
            }
            let id = InputId(blueprint.inputs.len());
            let open = |name: &str, limits: &Limits| -> Arc<dyn AnyInput> {
                InputPort::<T>::new(name, TypeDescription::of::<T>(), limits)
            };
            blueprint.inputs.push(InputPlan { name: name.to_owned(), open });
            id
        };
        self.source("from_channel", Parallelism::Fixed(1), Origin::Input(name.to_owned()), move |_| {
            Box::new(move |meter| {
                let port = meter.task.wiring.input::<InputPort<T>>(id);
                Box::new(PortHead::new(meter, port))
            })
        })
    }

    /// A bounded source with a part for each of its first instances.
    fn parts<P>(
        &mut self,
        kind: &'static str,
        parallelism: Parallelism,
        origin: Origin,
        parts: Vec<P>,
    ) -> Stream<P::Item>
    where
        P: Part<Item: Send + 'static>,
    {
        let mut parts: Vec<Option<P>> = parts.into_iter().map(Some).collect();
        self.source(kind, parallelism, origin, move |instance| {
            let part = parts.get_mut(instance).and_then(Option::take);
            Box::new(move |meter| Box::new(PartHead::new(meter, part)))
        })
    }

    fn refuse_source(&mut self, name: &str, message: String) {
        self.blueprint.borrow_mut().refuse(BuildRefusal::Source { source_name: name.to_owned(), message });
    }

    fn source<T, M>(&mut self, kind: &'static str, parallelism: Parallelism, origin: Origin, mut make: M) -> Stream<T>
    where
        T: Send + 'static,
        M: FnMut(usize) -> MakeHead<T> + 'static,
    {
        let chain = {
            let mut blueprint = self.blueprint.borrow_mut();
            let chain = blueprint.add_chain(parallelism, origin);
            blueprint.add_operator(chain, kind);
            chain
        };
        new_chain(&self.blueprint, chain, move |instance| {
            let make = make(instance);
            Box::new(move |task| make(Meter::new(task, 0)))
        })
    }
}

/// Makes a source's head in its task.
type MakeHead<T> = Box<dyn FnOnce(Meter) -> Box<dyn Head<T>> + Send>;

/// The stream at the beginning of a chain whose heads `make` makes.
fn new_chain<T, M>(blueprint: &Rc<RefCell<Blueprint>>, chain: usize, mut make: M) -> Stream<T>
where
    T: Send + 'static,
    M: FnMut(usize) -> Recipe<Box<dyn Head<T>>> + 'static,
{
    let shared = Rc::downgrade(blueprint);
    let attach = Box::new(move |next: StageFactory<T>| {
        let Some(blueprint) = shared.upgrade() else { return };
        blueprint.borrow_mut().chains[chain].factory = Some(Box::new(move |instance| {
            let (head, next) = (make(instance), next(instance));
            Box::new(move |task: &Rc<TaskState>| -> Box<dyn Task> {
                Box::new(ChainTask::new(task, head(task), next(task)))
            })
        }));
    });
    Stream::begin(blueprint, chain, attach)
}

#[cfg(test)]
mod tests;
