//! A job as it came from another process.

use std::sync::Arc;

use parking_lot::Mutex;

use super::Entry;
use crate::{
    flow::{
        Flow, JobPayload,
        job::{ErasedJob, Unbuilt},
    },
    job::{EncodedJob, NotSendable},
    schema::TypeDescription,
    service::{ServiceResolver, bound_to},
};

/// What the decoding of a job needs, and what is held for as long as it has not been decoded.
pub(crate) struct Opening {
    /// To which the references in the parameters are bound.
    pub resolver: Arc<dyn ServiceResolver>,
    pub held: Box<dyn Send>,
}

/// Its parameters may be large and their `Deserialize` is code of the user's, so they are decoded only where the flow is
/// built, which is such code too: on a thread that may block, and by one way to another thread instead of two.
pub(super) struct Sealed {
    entry: Entry,
    job: EncodedJob,
    resolver: Arc<dyn ServiceResolver>,
    held: Mutex<Option<Box<dyn Send>>>,
}

impl Sealed {
    pub(super) fn new(entry: Entry, job: EncodedJob, opening: Opening) -> Self {
        let Opening { resolver, held } = opening;
        Self { entry, job, resolver, held: Mutex::new(Some(held)) }
    }
}

impl ErasedJob for Sealed {
    fn name(&self) -> &str {
        &self.job.name
    }

    fn build(&self, flow: &mut Flow) -> Result<(), Unbuilt> {
        let opened = bound_to(Arc::clone(&self.resolver), || self.entry.open(&self.job));
        // `build` may take as long as it likes.
        drop(self.held.lock().take());
        opened.map_err(Unbuilt::Job)?.0.build(flow)
    }

    fn encode(&self) -> Result<EncodedJob, NotSendable> {
        Ok(self.job.clone())
    }

    fn again(&self) -> Result<JobPayload, NotSendable> {
        let (job, resolver) = (self.job.clone(), Arc::clone(&self.resolver));
        let opening = Opening { resolver, held: Box::new(()) };
        Ok(JobPayload(Box::new(Self::new(self.entry, job, opening))))
    }

    fn describe(&self) -> Option<Arc<TypeDescription>> {
        Some((self.entry.describe)())
    }
}
