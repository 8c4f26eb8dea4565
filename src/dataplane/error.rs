//! What user code in operators returns.

use std::fmt;

use crate::job::BoxError;

/// What user code of an operator, source or sink returns when it cannot process an item. Takes any error by `?`.
///
/// Under [`ErrorPolicy::Fail`](crate::ErrorPolicy::Fail) it fails the job; under
/// [`ErrorPolicy::Skip`](crate::ErrorPolicy::Skip) it becomes the cause of a dead letter. It is not an
/// [`Error`](std::error::Error) itself, so that the conversion from every error type can exist.
pub struct TaskError(BoxError);

impl TaskError {
    /// An error that says `message`.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into().into())
    }

    pub(crate) fn as_error(&self) -> &(dyn std::error::Error + 'static) {
        &*self.0
    }
}

impl<E: Into<BoxError>> From<E> for TaskError {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl fmt::Debug for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}
