//! What the tasks of one attempt share, by number.
//!
//! A plan names channels, loops, outputs and inputs by their numbers; a task that is made finds the live object there.
//! Outputs and inputs live as long as the job, channels, loops and the ports of pipeline services as long as the attempt.
//! The gates of services live as long as the job, and are not here: tasks find services by their names.

use std::{
    any::Any,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use crate::{
    dataplane::loops::LoopWatch,
    job::{ServiceId, TaskNode},
    port::{AnyInput, OutputEnd, OutputStore},
    protocol::{LoopId, Wait},
    service::{AnyRequests, RequestPort},
};

/// The number of an exchange in its plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EdgeId(pub usize);

/// The number of an output in its plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OutputId(pub usize);

/// The number of an input in its plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InputId(pub usize);

/// The outputs and inputs of a job, which live as long as it does.
pub(crate) struct Streams {
    pub outputs: Vec<(String, Arc<OutputStore>)>,
    pub inputs: Vec<(String, Arc<dyn AnyInput>)>,
}

impl Streams {
    /// Says of a task that waits for its input how many senders there are. They are at home, wherever the task is.
    pub fn count_senders(&self, task: &TaskNode, wait: &mut Wait) {
        if let (Wait::Port { senders }, Some(input)) = (wait, &task.input) {
            let port = self.inputs.iter().find(|(name, _)| name == input);
            *senders = port.map_or(0, |(_, port)| port.senders());
        }
    }
}

/// The live objects of one attempt.
pub(crate) struct Wiring {
    /// Each an [`Edge`](super::edge::Edge) of the type of its items.
    edges: Vec<Box<dyn Any + Send + Sync>>,
    loops: Vec<Arc<LoopWatch>>,
    /// By service: of those that tasks answer for.
    requests: Vec<Option<Arc<dyn AnyRequests>>>,
    streams: Arc<Streams>,
    /// By which the attempt writes its outputs.
    outputs: Vec<OutputEnd>,
}

impl Wiring {
    pub fn new(
        edges: Vec<Box<dyn Any + Send + Sync>>,
        loops: Vec<Arc<LoopWatch>>,
        requests: Vec<Option<Arc<dyn AnyRequests>>>,
        streams: Arc<Streams>,
    ) -> Self {
        let outputs = streams.outputs.iter().map(|(_, store)| store.end()).collect();
        Self { edges, loops, requests, streams, outputs }
    }

    pub fn all_requests(&self) -> &[Option<Arc<dyn AnyRequests>>] {
        &self.requests
    }

    /// The port of a pipeline service.
    ///
    /// # Panics
    ///
    /// Panics if the service has none, or one of another type.
    pub fn requests<Q: Send + 'static>(&self, service: ServiceId) -> Arc<RequestPort<Q>> {
        let port = self.requests.get(service.index()).and_then(Clone::clone);
        let port = port.and_then(|port| port.into_any().downcast().ok());
        port.unwrap_or_else(|| panic!("{service:?} has no such port"))
    }

    /// A task that answers for the service has ended, or never will be: nobody is to wait for it.
    pub fn close_requests(&self, service: ServiceId) {
        if let Some(Some(port)) = self.requests.get(service.index()) {
            port.close();
        }
    }

    pub fn edge(&self, id: EdgeId) -> Option<&(dyn Any + Send + Sync)> {
        self.edges.get(id.0).map(|edge| &**edge)
    }

    /// # Panics
    ///
    /// Panics if the plan has no such loop.
    pub fn loop_watch(&self, id: LoopId) -> Arc<LoopWatch> {
        Arc::clone(&self.loops[id.index()])
    }

    /// # Panics
    ///
    /// Panics if the plan has no such output.
    pub fn output(&self, id: OutputId) -> OutputEnd {
        self.outputs[id.0].clone()
    }

    /// # Panics
    ///
    /// Panics if the plan has no such input, or one of another type.
    pub fn input<I: AnyInput>(&self, id: InputId) -> Arc<I> {
        let input = Arc::clone(&self.streams.inputs[id.0].1).into_any().downcast();
        input.unwrap_or_else(|_| panic!("input {} is of another type", id.0))
    }
}

impl Drop for Wiring {
    fn drop(&mut self) {
        let (edges, requests) = (std::mem::take(&mut self.edges), std::mem::take(&mut self.requests));
        // In front of tasks that were never made, values of the user's may be left, whose `Drop` may panic.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(edges)));
        let _ = catch_unwind(AssertUnwindSafe(|| requests.iter().flatten().for_each(|port| port.close())));
    }
}

impl fmt::Debug for Wiring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wiring").field("edges", &self.edges.len()).field("loops", &self.loops).finish_non_exhaustive()
    }
}
