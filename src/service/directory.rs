//! Which services a job has, and the context that a service's factory gets.

use std::{fmt, sync::Arc, time::Duration};

use crate::{
    host::Host,
    job::JobId,
    service::{
        CallError, Origin, Service, ServiceRef,
        any_gate::{AnyGate, Home},
        reference::typed,
    },
};

/// The gates of one job, by name.
pub(crate) struct ServiceDirectory {
    home: Home,
    gates: Vec<Arc<dyn AnyGate>>,
}

impl ServiceDirectory {
    /// Makes the gates those of `job`.
    pub(crate) fn new(job: JobId, gates: Vec<Arc<dyn AnyGate>>, host: Host, call_deadline: Duration) -> Arc<Self> {
        let home = Home { job, host, call_deadline };
        for gate in &gates {
            gate.attach(home.clone());
        }
        Arc::new(Self { home, gates })
    }

    /// A reference to the service, for use from `origin`.
    ///
    /// # Errors
    ///
    /// `NoSuchService` or `WrongService`. Whether the service still takes messages shows at the first one.
    pub(crate) fn get<S: Service>(&self, name: &str, origin: Origin) -> Result<ServiceRef<S>, CallError> {
        Ok(ServiceRef::local(typed(self.gate(name)?)?, origin))
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
}

impl ServiceContext {
    pub(crate) fn new(directory: Arc<ServiceDirectory>, name: &str) -> Self {
        Self { directory, name: name.into() }
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
