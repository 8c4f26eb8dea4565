//! A flow as it runs: tasks, the chains of stages in them, and the channels between them.

mod carry;
pub(crate) mod chain;
pub(crate) mod channel;
pub(crate) mod context;
pub(crate) mod counters;
pub(crate) mod edge;
pub(crate) mod error;
pub(crate) mod exchange;
pub(crate) mod hash;
pub(crate) mod head;
mod lane;
pub(crate) mod loops;
pub(crate) mod mark;
pub(crate) mod source;
pub(crate) mod task;
pub(crate) mod wide;
pub(crate) mod wiring;
