//! Which services a job has, and the context that a service's factory gets.

use std::{
    fmt,
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use futures::future::BoxFuture;

use crate::{
    host::{Fence, Host},
    job::JobId,
    service::{
        CallError, FoundService, Origin, RemoteService, Service, ServiceRef, ServiceResolver,
        any_gate::{AnyGate, Home},
        reference::typed,
    },
};

/// The gates of one job, by name.
pub(crate) struct ServiceDirectory {
    home: Home,
    gates: Vec<Arc<dyn AnyGate>>,
    /// Where the services are, if that is another process. The gates are then not used, but tell names and types.
    elsewhere: OnceLock<Arc<dyn ServiceHome>>,
}

/// The process that has a job's services, as another one sees it.
pub(crate) trait ServiceHome: Send + Sync {
    /// The service of that name, used from `origin`.
    fn service(&self, name: &str, origin: Origin) -> Arc<dyn RemoteService>;
    /// Finds there what references name that come from there.
    fn resolver(&self) -> Arc<dyn ServiceResolver>;
}

impl ServiceDirectory {
    /// Makes the gates those of `job`.
    pub(crate) fn new(job: JobId, gates: Vec<Arc<dyn AnyGate>>, host: Host, call_deadline: Duration) -> Arc<Self> {
        let home = Home { job, host, call_deadline };
        for gate in &gates {
            gate.attach(home.clone());
        }
        Arc::new(Self { home, gates, elsewhere: OnceLock::new() })
    }

    /// The services are in another process: messages go there. Before any reference is made; only the first time counts.
    pub(crate) fn move_to(&self, home: Arc<dyn ServiceHome>) {
        // Of two, the later one leads to the same process.
        let _ = self.elsewhere.set(home);
    }

    /// A reference to the service, for use from `origin`.
    ///
    /// # Errors
    ///
    /// `NoSuchService` or `WrongService`. Whether the service still takes messages shows at the first one.
    pub(crate) fn get<S: Service>(&self, name: &str, origin: Origin) -> Result<ServiceRef<S>, CallError> {
        let gate = typed(self.gate(name)?)?;
        Ok(match self.elsewhere.get() {
            None => ServiceRef::local(gate, origin),
            Some(home) => ServiceRef::elsewhere(home.resolver(), self.home.job, home.service(name, origin)),
        })
    }

    /// To what references are to be bound that come to this process encoded, in items of the job: its services are found
    /// wherever they are, and are used as by a task. Those of other jobs are not found.
    pub(crate) fn resolver(self: &Arc<Self>) -> Arc<dyn ServiceResolver> {
        match self.elsewhere.get() {
            Some(home) => home.resolver(),
            None => Arc::new(OwnServices { directory: Arc::downgrade(self), home: self.home.clone() }),
        }
    }

    /// The gate of that name.
    ///
    /// # Errors
    ///
    /// `NoSuchService`.
    pub(crate) fn gate(&self, name: &str) -> Result<Arc<dyn AnyGate>, CallError> {
        self.gates.iter().find(|gate| gate.name() == name).cloned().ok_or_else(|| CallError::NoSuchService {
            service: name.to_owned(),
            existing: self.gates.iter().map(|gate| gate.name().to_owned()).collect(),
        })
    }

    pub(crate) fn job(&self) -> JobId {
        self.home.job
    }

    pub(crate) fn host(&self) -> &Host {
        &self.home.host
    }

    pub(crate) fn call_deadline(&self) -> Duration {
        self.home.call_deadline
    }
}

/// Finds the services of one job, in its own process.
struct OwnServices {
    /// Messages that wait in front of services have it.
    directory: Weak<ServiceDirectory>,
    home: Home,
}

impl ServiceResolver for OwnServices {
    fn service(&self, job: JobId, name: &str) -> BoxFuture<'static, Result<FoundService, CallError>> {
        let found = match self.directory.upgrade() {
            _ if job != self.home.job => Err(CallError::Unbound { job, service: name.to_owned() }),
            None => Err(CallError::JobEnded { job }),
            Some(directory) => directory.gate(name).map(FoundService::Gate),
        };
        Box::pin(std::future::ready(found))
    }

    fn host(&self) -> &Host {
        &self.home.host
    }

    fn call_deadline(&self) -> Duration {
        self.home.call_deadline
    }

    fn origin(&self) -> Origin {
        Origin::Task
    }
}

impl fmt::Debug for ServiceDirectory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceDirectory")
            .field("job", &self.home.job)
            .field("services", &self.gates.iter().map(|gate| gate.name()).collect::<Vec<_>>())
            .finish()
    }
}

/// What a service's factory gets: who it is, and the way to the other services of its job.
///
/// A reference made from it may be kept by the service. It is answered also while the job stops, until the service it
/// refers to is stopped; services stop in reverse order of registration, so a service can rely on those registered
/// before it.
#[derive(Clone)]
pub struct ServiceContext {
    directory: Arc<ServiceDirectory>,
    name: Arc<str>,
    /// Passed whenever code of the service runs.
    fence: Fence,
}

impl ServiceContext {
    pub(crate) fn new(directory: Arc<ServiceDirectory>, name: &str) -> Self {
        Self { directory, name: name.into(), fence: Fence::default() }
    }

    pub(crate) fn behind(self, fence: Fence) -> Self {
        Self { fence, ..self }
    }

    pub(super) fn fence(&self) -> &Fence {
        &self.fence
    }

    /// The name that the service was registered under.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The job that the service belongs to.
    #[must_use]
    pub fn job(&self) -> JobId {
        self.directory.job()
    }

    /// A reference to a service of the same job, which may be registered later and need not have started.
    ///
    /// # Errors
    ///
    /// [`CallError::NoSuchService`] if the job has none of that name, [`CallError::WrongService`] if it is not an `S`.
    pub fn service<S: Service>(&self, name: &str) -> Result<ServiceRef<S>, CallError> {
        self.directory.get(name, Origin::Service)
    }
}

impl fmt::Debug for ServiceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceContext").field("job", &self.job()).field("name", &self.name).finish_non_exhaustive()
    }
}
