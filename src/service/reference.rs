//! `ServiceRef`: the way to a service, from wherever one stands.

use std::{
    any::type_name,
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use actix::Handler;
use futures::future::BoxFuture;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{
    host::Host,
    job::JobId,
    service::{
        AnyGate, Call, CallError, FoundService, Origin, RemoteService, Service, ServiceMessage, ServiceResolver, Tell,
        binding, gate::Gate, remote_end::RemoteEnd,
    },
};

/// A reference to a named service of a job.
///
/// It is cheap to clone, can be sent to any thread, and can travel inside messages: serialized, it is the job's id and
/// the service's name. One that comes in a message or a reply, over the connection of a remote environment, is bound to
/// where it came from. Decoded elsewhere, it is not bound to an environment, and every use fails with
/// [`CallError::Unbound`] until it is bound to one.
///
/// A reference keeps nothing alive: not the service, not its job, not the environment. It outlives restarts of the
/// service. One from a job's handle is resolved at its first use, so making it never fails.
///
/// # Order and delivery
///
/// Messages are handled in the order in which they were accepted, so those of one sender which awaits each of them are
/// handled in order. Every message is handled at most once; none is ever sent again by itself.
///
/// # In a remote environment
///
/// The same holds for a service on a node, for messages of all references that come from one environment. A message or
/// a reply may have up to 16 MiB. Before the first message of a type is sent, both sides compare
///
/// * the name of the actor type, without its module and its type parameters: the client may have an actor of its own for
///   `S`, if it is called the same ([`WrongService`](CallError::WrongService));
/// * the name of the message in the [`MessageTable`](crate::MessageTable), of which the client's need only have the messages that it sends
///   ([`NotAccepted`](CallError::NotAccepted));
/// * the structure of the message and of its reply: see [when two types are the
///   same](crate::Job#when-are-two-types-the-same) ([`TypeDiffers`](CallError::TypeDiffers)).
///
/// When the connection is lost, calls that were sent fail with
/// [`CallError::FateUnknown`]; later ones wait, until their deadline, for it to be back.
///
/// # In a worker process
///
/// The services of a job are in one process, and tasks in others use them over a connection, with the same order, errors and
/// waiting as in that one. A message or a reply may have up to 16 MiB, and a told message that the service could not decode is
/// told of by the next one, as in a remote environment. What a worker has sent to one service and is not answered is at most
/// 4 MiB; then its tasks wait. If the connection is lost, calls fail with `FateUnknown`, and the job with them. A reference in
/// an item that comes from another worker leads to its service if that is of the same job, and else is not bound.
pub struct ServiceRef<S> {
    target: Target<S>,
}

enum Target<S> {
    Local { gate: Arc<Gate<S>>, origin: Origin },
    Lazy(Arc<Lazy<S>>),
    Unbound { job: JobId, name: Arc<str> },
}

/// A service that is looked up at the first use, once for all clones.
struct Lazy<S> {
    resolver: Arc<dyn ServiceResolver>,
    job: JobId,
    name: String,
    found: OnceLock<Found<S>>,
}

enum Found<S> {
    Gate(Arc<Gate<S>>),
    Remote(RemoteEnd<S>),
}

impl<S> ServiceRef<S> {
    pub(crate) fn local(gate: Arc<Gate<S>>, origin: Origin) -> Self {
        Self { target: Target::Local { gate, origin } }
    }

    /// A reference from outside the job, resolved at its first use.
    pub(crate) fn lazy(resolver: Arc<dyn ServiceResolver>, job: JobId, name: impl Into<String>) -> Self {
        Self { target: Target::Lazy(Arc::new(Lazy { resolver, job, name: name.into(), found: OnceLock::new() })) }
    }

    /// A reference to a service that is known to be in another process.
    pub(crate) fn elsewhere(resolver: Arc<dyn ServiceResolver>, job: JobId, service: Arc<dyn RemoteService>) -> Self
    where
        S: Service,
    {
        let name = service.name().to_owned();
        let found = OnceLock::from(Found::Remote(RemoteEnd::new(service)));
        Self { target: Target::Lazy(Arc::new(Lazy { resolver, job, name, found })) }
    }

    /// The same service, reached through `resolver`, whatever this reference was bound to.
    pub(crate) fn bind_to(&self, resolver: Arc<dyn ServiceResolver>) -> Self {
        Self::lazy(resolver, self.job(), self.name())
    }

    /// The name that the service was registered under.
    #[must_use]
    pub fn name(&self) -> &str {
        match &self.target {
            Target::Local { gate, .. } => gate.name(),
            Target::Lazy(lazy) => &lazy.name,
            Target::Unbound { name, .. } => name,
        }
    }

    /// The job that the service belongs to.
    #[must_use]
    pub fn job(&self) -> JobId {
        match &self.target {
            Target::Local { gate, .. } => gate.home().job,
            Target::Lazy(lazy) => lazy.job,
            Target::Unbound { job, .. } => *job,
        }
    }

    /// The gate and from where it is used, if it is known by now.
    pub(super) fn gate(&self) -> Option<(&Gate<S>, Origin)> {
        match &self.target {
            Target::Local { gate, origin } => Some((gate, *origin)),
            Target::Lazy(lazy) => match lazy.found.get() {
                Some(Found::Gate(gate)) => Some((&**gate, lazy.resolver.origin())),
                Some(Found::Remote(_)) | None => None,
            },
            Target::Unbound { .. } => None,
        }
    }

    /// What looks services up where this one is; for a reference that is not of this process only.
    pub(super) fn resolver(&self) -> Option<Arc<dyn ServiceResolver>> {
        match &self.target {
            Target::Lazy(lazy) => Some(Arc::clone(&lazy.resolver)),
            Target::Local { .. } | Target::Unbound { .. } => None,
        }
    }

    /// The service on the other side of a connection, if it is known by now that this is where it is.
    pub(super) fn remote(&self) -> Option<&RemoteEnd<S>> {
        match &self.target {
            Target::Lazy(lazy) => match lazy.found.get() {
                Some(Found::Remote(end)) => Some(end),
                Some(Found::Gate(_)) | None => None,
            },
            Target::Local { .. } | Target::Unbound { .. } => None,
        }
    }

    /// The clock and the deadline of calls that name none. `None` if unbound.
    pub(super) fn timing(&self) -> Option<(&Host, Duration)> {
        match &self.target {
            Target::Local { gate, .. } => Some((&gate.home().host, gate.home().call_deadline)),
            Target::Lazy(lazy) => Some((lazy.resolver.host(), lazy.resolver.call_deadline())),
            Target::Unbound { .. } => None,
        }
    }
}

impl<S: Service> ServiceRef<S> {
    /// Sends `message` and waits for the reply.
    ///
    /// The returned [`Call`] does nothing until it is awaited (or [`blocking`](Call::blocking)), and takes a
    /// [`deadline`](Call::deadline). It needs no particular async runtime.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use actix::{Actor, Context, Handler, Message};
    /// use proscenium::{LocalEnvironment, MessageTable, Service, job_fn};
    /// use serde::{Deserialize, Serialize};
    ///
    /// struct Doubler;
    ///
    /// #[derive(Serialize, Deserialize, Message)]
    /// #[rtype(result = "u64")]
    /// struct Double(u64);
    ///
    /// # impl Actor for Doubler {
    /// #     type Context = Context<Self>;
    /// # }
    /// impl Handler<Double> for Doubler {
    ///     type Result = u64;
    ///     fn handle(&mut self, Double(n): Double, _: &mut Self::Context) -> u64 {
    ///         n * 2
    ///     }
    /// }
    ///
    /// impl Service for Doubler {
    ///     fn messages(table: &mut MessageTable<Self>) {
    ///         table.accept::<Double>("double");
    ///     }
    /// }
    ///
    /// let env = LocalEnvironment::new("doc");
    /// let job = job_fn("doubling", |flow| Ok(flow.register_service("doubler", || Doubler)));
    /// let job = env.submit(job).blocking()?;
    /// let doubler = job.service::<Doubler>("doubler");
    /// assert_eq!(doubler.call(Double(21)).deadline(Duration::from_secs(5)).blocking()?, 42);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn call<M>(&self, message: M) -> Call<S, M>
    where
        S: Handler<M>,
        M: ServiceMessage,
    {
        Call::new(self.clone(), message)
    }

    /// Sends `message` without waiting for a reply; waits for room in the service's queue.
    ///
    /// The returned [`Tell`] does nothing until it is awaited (or [`blocking`](Tell::blocking)).
    pub fn tell<M>(&self, message: M) -> Tell<S, M>
    where
        S: Handler<M>,
        M: ServiceMessage,
    {
        Tell::new(self.clone(), message)
    }

    /// Looks the service up. Ends at once if it is known.
    pub(super) fn resolve(&self) -> BoxFuture<'static, Result<(), CallError>> {
        match &self.target {
            Target::Local { .. } => Box::pin(std::future::ready(Ok(()))),
            Target::Lazy(lazy) => {
                let lazy = Arc::clone(lazy);
                Box::pin(async move {
                    let found = match lazy.resolver.service(lazy.job, &lazy.name).await? {
                        FoundService::Gate(gate) => Found::Gate(typed(gate)?),
                        FoundService::Remote(service) => Found::Remote(RemoteEnd::new(service)),
                    };
                    // Of two first uses the later one finds the cell filled, with the same service.
                    lazy.found.get_or_init(|| found);
                    Ok(())
                })
            }
            Target::Unbound { job, name } => {
                let error = CallError::Unbound { job: *job, service: name.to_string() };
                Box::pin(std::future::ready(Err(error)))
            }
        }
    }
}

/// The gate as that of `S`.
pub(super) fn typed<S: Service>(gate: Arc<dyn AnyGate>) -> Result<Arc<Gate<S>>, CallError> {
    let wrong = (gate.actor(), Arc::clone(&gate));
    gate.into_any().downcast().map_err(|_| CallError::WrongService {
        service: wrong.1.name().to_owned(),
        asked: type_name::<S>().to_owned(),
        registered: wrong.0.to_owned(),
    })
}

impl<S> Clone for ServiceRef<S> {
    fn clone(&self) -> Self {
        let target = match &self.target {
            Target::Local { gate, origin } => Target::Local { gate: Arc::clone(gate), origin: *origin },
            Target::Lazy(lazy) => Target::Lazy(Arc::clone(lazy)),
            Target::Unbound { job, name } => Target::Unbound { job: *job, name: Arc::clone(name) },
        };
        Self { target }
    }
}

impl<S> fmt::Debug for ServiceRef<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bound = !matches!(self.target, Target::Unbound { .. });
        f.debug_struct("ServiceRef")
            .field("job", &self.job())
            .field("name", &self.name())
            .field("bound", &bound)
            .finish()
    }
}

impl<S> Serialize for ServiceRef<S> {
    fn serialize<Z: Serializer>(&self, serializer: Z) -> Result<Z::Ok, Z::Error> {
        (self.job(), self.name()).serialize(serializer)
    }
}

impl<'de, S> Deserialize<'de> for ServiceRef<S> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (job, name) = <(JobId, String)>::deserialize(deserializer)?;
        if let Some(resolver) = binding::resolver() {
            return Ok(Self::lazy(resolver, job, name));
        }
        Ok(Self { target: Target::Unbound { job, name: name.into() } })
    }
}
