//! Services as data: what a flow says of them, before anything of them lives.

use std::{any::Any, sync::Arc};

use crate::{
    job::Limits,
    service::{
        AnyGate, Elsewhere, ErasedService, Service, ServiceContext, gate::Gate, instance::host, stand_in::stand_in,
    },
};

/// A service as its flow has it, of a type that is not known. Its gate lives as long as the job, because callers hold it;
/// its port to tasks and what makes instances live as long as the attempt.
pub(crate) trait ServicePlan: Send {
    fn name(&self) -> &str;
    fn open_gate(&self) -> Arc<dyn AnyGate>;
    /// Where its requests wait for tasks, if it is tasks that answer for it.
    fn open_requests(&self) -> Option<Arc<dyn AnyRequests>>;
    /// The service behind this gate, whose requests go to this port.
    ///
    /// # Panics
    ///
    /// Panics if these were not made by a plan of the same service.
    fn host(
        self: Box<Self>,
        gate: &Arc<dyn AnyGate>,
        requests: Option<&Arc<dyn AnyRequests>>,
    ) -> Box<dyn ErasedService>;
    /// What stands behind this gate if the service's instances are in another process.
    ///
    /// # Panics
    ///
    /// As [`host`](Self::host).
    fn stand_in(&self, gate: &Arc<dyn AnyGate>, there: Arc<dyn Elsewhere>) -> Box<dyn ErasedService>;
}

/// A [`RequestPort`](super::RequestPort) of a type that is not known.
pub(crate) trait AnyRequests: Any + Send + Sync {
    /// Nothing more is taken in or given out; callers whose requests still waited are told.
    fn close(&self);
    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
}

/// A service whose instances are made by `factory`.
pub(crate) fn service_plan<S: Service>(
    name: &str,
    factory: impl Fn(&ServiceContext) -> S + Send + 'static,
    limits: &Limits,
) -> Box<dyn ServicePlan> {
    Box::new(Registered { name: name.to_owned(), capacity: limits.service_queue, factory })
}

struct Registered<F> {
    name: String,
    capacity: usize,
    factory: F,
}

impl<S, F> ServicePlan for Registered<F>
where
    S: Service,
    F: Fn(&ServiceContext) -> S + Send + 'static,
{
    fn name(&self) -> &str {
        &self.name
    }

    fn open_gate(&self) -> Arc<dyn AnyGate> {
        Arc::new(Gate::<S>::new(&self.name, self.capacity))
    }

    fn open_requests(&self) -> Option<Arc<dyn AnyRequests>> {
        None
    }

    fn host(self: Box<Self>, gate: &Arc<dyn AnyGate>, _: Option<&Arc<dyn AnyRequests>>) -> Box<dyn ErasedService> {
        host(gate, self.factory)
    }

    fn stand_in(&self, gate: &Arc<dyn AnyGate>, there: Arc<dyn Elsewhere>) -> Box<dyn ErasedService> {
        stand_in::<S>(gate, there)
    }
}
