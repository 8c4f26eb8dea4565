//! What goes between a worker and the home of its job: outputs, inputs, calls of services, and what services are asked.
//!
//! A job's outputs, inputs and gates are in one process, its *home*: that of worker 0. Tasks in other workers have stores and
//! ports of their own, which a relay empties and fills over the worker's [`Link`](crate::peer::Link); services there have gates
//! of their own, which home fills. All of it is driven by wakers ([`turning`]): no relay has a thread, and what runs on the
//! thread of a connection neither blocks nor runs code of the user's.

mod calls;
mod inputs;
mod instances;
mod outbox;
mod outputs;
mod pieces;
#[cfg(test)]
mod tests;
mod turning;

pub(crate) use self::{
    calls::{CallsAtHome, CallsAtWorker},
    inputs::{InputsAtHome, InputsAtWorker},
    instances::{InstancesAtHome, InstancesAtWorker},
    outputs::{OutputsAtHome, OutputsAtWorker},
};
