//! Services: named, long-lived actors of a job, and the references by which they are called.

mod any_gate;
mod binding;
mod call;
mod directory;
mod elsewhere;
mod encoded;
mod entrance;
mod envelope;
mod error;
mod gate;
mod instance;
mod origin;
mod parcel;
mod pipeline;
mod plan;
mod pump;
mod queue;
mod reference;
mod remote;
mod remote_end;
mod stand_in;
mod table;
mod tell;
#[cfg(test)]
pub(crate) mod tests;
mod told;

use std::sync::Arc;

use serde::{Serialize, de::DeserializeOwned};

pub(crate) use self::{
    any_gate::{AnyGate, Feeder},
    binding::{FoundService, ServiceResolver, bound_to},
    directory::{ServiceDirectory, ServiceHome},
    elsewhere::{Caller, Elsewhere, Parcel, Sender, Stage, Standing},
    entrance::{Answers, CallWay, Entrance, Receipt, Tells, Watcher, Withdraw},
    instance::{ErasedService, Launch},
    origin::Origin,
    pipeline::{RequestPort, Tagged, pipeline_plan},
    plan::{AnyRequests, ServicePlan, service_plan},
    remote::{Attempt, MessageKind, RemoteCall, RemoteRoute, RemoteService, Withdrawal},
};
pub use self::{
    call::Call,
    directory::ServiceContext,
    error::{CallError, Fate},
    pipeline::{NoReply, PipelineService},
    reference::ServiceRef,
    table::MessageTable,
    tell::Tell,
};
use crate::{job::Incarnation, protocol::ServiceEvent};

/// Where a service's instances report to. Called on the service's thread, or on that of whoever orders a stop.
pub(crate) type EventSink = Arc<dyn Fn(Incarnation, ServiceEvent) + Send + Sync>;

/// A named, long-lived actor of a job.
///
/// It is an actix actor that lists the messages it accepts. A job makes it from a factory when the job starts, and
/// again when it failed. Messages come through a [`ServiceRef`] and stand in a queue of their own, which outlives the
/// instance; the actor's mailbox is not used.
///
/// # Life
///
/// The instance is *starting* until its `started` hook has returned, and what that `wait`s for has ended; then it
/// handles messages. Once told to stop, it still handles what was accepted, finishes the asynchronous replies in
/// flight, and then runs its `stopping` and `stopped` hooks. The `stopped` hook runs once for each instance, however it
/// ended; the exceptions are a service whose code never returns, and one that fails while its `stopping` hook says
/// `Continue` or panics, time and again.
///
/// | cause | callers in progress | queued messages | the service |
/// |---|---|---|---|
/// | a handler, hook or spawned actor future panics | [`ServiceFailed`](CallError::ServiceFailed) | kept | is made anew from its factory |
/// | the actor stops itself | [`ServiceFailed`](CallError::ServiceFailed) | kept | is made anew from its factory |
/// | a `ResponseFuture` panics | [`ServiceFailed`](CallError::ServiceFailed) for that one | kept | lives on |
/// | the job stops | answered | answered | stops |
/// | the job gives the service up | [`ServiceFailed`](CallError::ServiceFailed) | [`Stopping`](CallError::Stopping) | ends if it can |
/// | the [worker](crate::Workers) that runs it is lost | [`FateUnknown`](CallError::FateUnknown) or [`ServiceFailed`](CallError::ServiceFailed), also for up to a batch of those queued | [`Stopping`](CallError::Stopping) | is gone, and its job fails |
///
/// In a job over workers, messages and replies are encoded on their way between the queue and the instance, also those from the instance's own process.
///
/// A call whose caller no longer waits, because its deadline passed or it was dropped, is skipped when its turn comes.
/// A service handles for about a millisecond before other services of its thread get a turn.
///
/// ```
/// use actix::{Actor, Context, Handler, Message};
/// use proscenium::{MessageTable, Service};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Default)]
/// struct Counter(u64);
///
/// #[derive(Serialize, Deserialize)]
/// struct Add(u64);
///
/// impl Message for Add {
///     type Result = u64;
/// }
///
/// impl Actor for Counter {
///     type Context = Context<Self>;
/// }
///
/// impl Handler<Add> for Counter {
///     type Result = u64;
///
///     fn handle(&mut self, Add(n): Add, _: &mut Self::Context) -> u64 {
///         self.0 += n;
///         self.0
///     }
/// }
///
/// impl Service for Counter {
///     fn messages(table: &mut MessageTable<Self>) {
///         table.accept::<Add>("add");
///     }
/// }
/// ```
pub trait Service: actix::Actor<Context = actix::Context<Self>> {
    /// Lists the messages that can be sent to the service; no other can.
    fn messages(table: &mut MessageTable<Self>);
}

/// A message that can be sent to a service, in this process or another one: it and its result are serializable.
///
/// Implemented for every such actix message. In a remote environment both sides compare what message and result are made of
/// before the first one is sent, for which their `Deserialize` is run on made-up values: see
/// [when two types are the same](crate::Job#when-are-two-types-the-same).
pub trait ServiceMessage:
    actix::Message<Result: Serialize + DeserializeOwned + Send + 'static> + Serialize + DeserializeOwned + Send + 'static
{
}

impl<M> ServiceMessage for M where
    M: actix::Message<Result: Serialize + DeserializeOwned + Send + 'static>
        + Serialize
        + DeserializeOwned
        + Send
        + 'static
{
}
