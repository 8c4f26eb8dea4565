//! A service on the other side of a connection, as references in this process use it.

use std::{
    any::{TypeId, type_name},
    sync::Arc,
};

use futures::future::BoxFuture;
use parking_lot::RwLock;
use tokio::sync::oneshot;

use crate::{
    codec,
    schema::TypeDescription,
    service::{CallError, MessageKind, MessageTable, RemoteCall, RemoteRoute, RemoteService, Service, ServiceMessage},
};

/// A remote service, with what this process knows of its messages.
pub(super) struct RemoteEnd<S> {
    service: Arc<dyn RemoteService>,
    table: MessageTable<S>,
    /// Those that were opened, by the type of the message. Few, so they are searched one by one.
    routes: Arc<RwLock<Routes>>,
}

type Routes = Vec<(TypeId, Arc<dyn RemoteRoute>)>;

impl<S: Service> RemoteEnd<S> {
    pub(super) fn new(service: Arc<dyn RemoteService>) -> Self {
        Self { service, table: MessageTable::new(), routes: Arc::default() }
    }

    /// The message's name and its encoding, which is appended to `into`.
    pub(super) fn encode<M: ServiceMessage>(&self, message: &M, into: &mut Vec<u8>) -> Result<(), CallError> {
        let name = self.name_of::<M>()?;
        codec::encode_caught(message, into).map_err(|error| CallError::NotCarried {
            service: self.service.name().to_owned(),
            message: name.to_owned(),
            why: error.to_string(),
        })
    }

    fn name_of<M: 'static>(&self) -> Result<&'static str, CallError> {
        self.table.name_of::<M>().ok_or_else(|| CallError::NotAccepted {
            service: self.service.name().to_owned(),
            message: type_name::<M>().to_owned(),
            accepted: self.table.names().into_iter().map(str::to_owned).collect(),
        })
    }

    /// The route for `M`, if it is open already.
    pub(super) fn known_route<M: 'static>(&self) -> Option<Arc<dyn RemoteRoute>> {
        let id = TypeId::of::<M>();
        self.routes.read().iter().find(|(message, _)| *message == id).map(|(_, route)| Arc::clone(route))
    }

    fn route<M: ServiceMessage>(&self) -> BoxFuture<'static, Result<Arc<dyn RemoteRoute>, CallError>> {
        if let Some(route) = self.known_route::<M>() {
            return Box::pin(std::future::ready(Ok(route)));
        }
        let name = match self.name_of::<M>() {
            Ok(name) => name,
            Err(error) => return Box::pin(std::future::ready(Err(error))),
        };
        let kind = MessageKind {
            actor: type_name::<S>(),
            name,
            message: TypeDescription::of::<M>(),
            reply: TypeDescription::of::<M::Result>(),
        };
        let (opening, routes) = (self.service.route(kind), Arc::clone(&self.routes));
        Box::pin(async move {
            let route = opening.await?;
            let mut routes = routes.write();
            let id = TypeId::of::<M>();
            // Of two that opened one at the same time, the first is kept, so that all messages take the same way.
            match routes.iter().find(|(message, _)| *message == id) {
                Some((_, known)) => Ok(Arc::clone(known)),
                None => {
                    routes.push((id, Arc::clone(&route)));
                    Ok(route)
                }
            }
        })
    }

    pub(super) fn tell<M: ServiceMessage>(&self, bytes: Vec<u8>) -> BoxFuture<'static, Result<(), CallError>> {
        let route = self.route::<M>();
        Box::pin(async move { route.await?.tell(bytes).await })
    }

    pub(super) fn call<M: ServiceMessage>(&self, bytes: Vec<u8>) -> BoxFuture<'static, Result<RemoteCall, CallError>> {
        let route = self.route::<M>();
        Box::pin(async move { route.await?.call(bytes).await })
    }

    /// The reply of a call that is over.
    pub(super) fn conclude<M: ServiceMessage>(
        &self,
        reply: Result<Result<Vec<u8>, CallError>, oneshot::error::RecvError>,
    ) -> Result<M::Result, CallError> {
        let service = self.service.name().to_owned();
        let message = self.name_of::<M>()?.to_owned();
        // Without a verdict, the client was closed under the call.
        let bytes = reply
            .unwrap_or_else(|_| Err(CallError::FateUnknown { service: service.clone(), message: message.clone() }))?;
        codec::decode_untrusted(&bytes).map_err(|error| CallError::ReplyNotCarried {
            service,
            message,
            why: error.to_string(),
        })
    }
}
