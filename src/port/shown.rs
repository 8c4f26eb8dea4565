//! An output whose items' type this program does not have.

use std::{future::poll_fn, sync::Arc};

use serde_json::Value;

use super::{OutputError, OutputResolver, source::Items};
use crate::{codec::ShownItems, job::JobId, schema::TypeDescription};

/// Reads an output by the description of its items' type.
pub(crate) struct ShownOutput {
    items: Items<Value>,
    description: Arc<TypeDescription>,
}

impl ShownOutput {
    /// # Errors
    ///
    /// As for an output of a known type.
    pub(crate) async fn open(
        resolver: Arc<dyn OutputResolver>,
        job: JobId,
        name: &str,
        description: TypeDescription,
    ) -> Result<Self, OutputError> {
        let description = Arc::new(description);
        let source = resolver.output(job, name, Arc::clone(&description)).await?;
        Ok(Self { items: Items::new(name, source), description })
    }

    /// The next item, or `None` at the end of the output.
    ///
    /// # Errors
    ///
    /// As for an output of a known type.
    pub(crate) async fn next(&mut self) -> Result<Option<Value>, OutputError> {
        let Self { items, description } = self;
        poll_fn(|cx| items.poll_item(cx, &ShownItems(description))).await
    }
}
