//! What the tasks of one attempt share, by number.
//!
//! A plan names channels, loops, outputs and inputs by their numbers; a task that is made finds the live object there.
//! Outputs and inputs live as long as the job, channels and loops as long as the attempt. The gates of services, and the
//! queues of pipeline services, are not here: their recipes hold them.

use std::{
    any::Any,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use crate::{
    dataplane::loops::LoopWatch,
    port::{AnyInput, OutputStore},
    protocol::LoopId,
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

/// The live objects of one attempt.
pub(crate) struct Wiring {
    /// Each an [`Edge`](super::edge::Edge) of the type of its items.
    edges: Vec<Box<dyn Any + Send + Sync>>,
    loops: Vec<Arc<LoopWatch>>,
    streams: Arc<Streams>,
}

impl Wiring {
    pub fn new(edges: Vec<Box<dyn Any + Send + Sync>>, loops: Vec<Arc<LoopWatch>>, streams: Arc<Streams>) -> Self {
        Self { edges, loops, streams }
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
    pub fn output(&self, id: OutputId) -> Arc<OutputStore> {
        Arc::clone(&self.streams.outputs[id.0].1)
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
        let edges = std::mem::take(&mut self.edges);
        // In channels of tasks that were never made, values of the user's may be left, whose `Drop` may panic.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(edges)));
    }
}

impl fmt::Debug for Wiring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wiring").field("edges", &self.edges.len()).field("loops", &self.loops).finish_non_exhaustive()
    }
}
