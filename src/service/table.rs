//! Which messages a service accepts.

use std::{
    any::{TypeId, type_name},
    fmt,
    marker::PhantomData,
    sync::Arc,
};

use actix::Handler;

use crate::service::{Entrance, Service, ServiceMessage, encoded::entrance, gate::Gate};

/// The messages that a service accepts, each under a name; filled by [`Service::messages`].
///
/// The name is what errors speak of, and what says in a remote environment which message is meant. It stays when the
/// message's Rust type is renamed; but the structure of the message and of its reply is compared too, and a struct's or
/// enum's name is a part of that, unless `#[serde(rename = "..")]` keeps the old one: see [when two types are the
/// same](crate::Job#when-are-two-types-the-same).
pub struct MessageTable<S> {
    entries: Vec<Entry<S>>,
    service: PhantomData<fn(&mut S)>,
}

struct Entry<S> {
    message: TypeId,
    name: &'static str,
    /// The way in for encoded messages of this type.
    entrance: fn(Arc<Gate<S>>, &'static str) -> Arc<dyn Entrance>,
}

impl<S: Service> MessageTable<S> {
    pub(super) fn new() -> Self {
        let mut table = Self { entries: Vec::new(), service: PhantomData };
        S::messages(&mut table);
        table
    }

    /// Accepts messages of type `M` under `name`.
    ///
    /// # Panics
    ///
    /// Panics if the type or the name was accepted before. Tables are filled while a flow is built, so the submit fails
    /// with that message.
    pub fn accept<M>(&mut self, name: &'static str) -> &mut Self
    where
        S: Handler<M>,
        M: ServiceMessage,
    {
        let message = TypeId::of::<M>();
        for entry in &self.entries {
            assert!(entry.name != name, "service {} accepts two messages named `{name}`", type_name::<S>());
            assert!(
                entry.message != message,
                "service {} accepts {} twice, as `{}` and as `{name}`",
                type_name::<S>(),
                type_name::<M>(),
                entry.name
            );
        }
        self.entries.push(Entry { message, name, entrance: entrance::<S, M> });
        self
    }
}

impl<S> MessageTable<S> {
    // A scan: tables are short, and this is faster than a hash for each message sent.
    pub(super) fn name_of<M: 'static>(&self) -> Option<&'static str> {
        let message = TypeId::of::<M>();
        self.entries.iter().find(|entry| entry.message == message).map(|entry| entry.name)
    }

    /// Where the message of this type stands.
    pub(super) fn place_of(&self, message: TypeId) -> Option<u32> {
        let place = self.entries.iter().position(|entry| entry.message == message)?;
        u32::try_from(place).ok()
    }

    /// The way through `gate`, whose table this is, for encoded messages of that name.
    pub(super) fn entrance(&self, gate: &Arc<Gate<S>>, name: &str) -> Option<Arc<dyn Entrance>> {
        let entry = self.entries.iter().find(|entry| entry.name == name)?;
        Some((entry.entrance)(Arc::clone(gate), entry.name))
    }

    pub(super) fn names(&self) -> Vec<&'static str> {
        self.entries.iter().map(|entry| entry.name).collect()
    }
}

impl<S> fmt::Debug for MessageTable<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.entries.iter().map(|entry| entry.name)).finish()
    }
}
