//! The promises of services, tested without a job around them.

mod attempts;
mod instances;
mod queue;
mod references;
mod stopping;
pub(crate) mod support;
