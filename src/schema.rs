//! What a type looks like on the wire: structure, fingerprint, and how two structures differ.
//!
//! Encoded values do not describe themselves, so both ends of a port must have the same type. They compare
//! fingerprints of the types' *structure*: names of structs, fields and variants, their order, and what they are made
//! of. The structure is found by running the type's own `Deserialize` against a recorder ([`trace`]), so it is what
//! that code reads, whatever attributes or hand-written code it comes from.

mod columns;
mod difference;
#[cfg(feature = "cli")]
mod example;
mod fingerprint;
mod received;
mod recorder;
mod structure;
mod text;
mod trace;
#[cfg(feature = "cli")]
mod value;

use std::{
    any::{TypeId, type_name},
    collections::HashMap,
    sync::{Arc, LazyLock},
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use self::structure::Name;
#[cfg(feature = "cli")]
use self::structure::{Body, Form};
#[cfg(feature = "cli")]
pub(crate) use self::value::{Budget, Shown};
pub(crate) use self::{
    columns::{Column, Fixed},
    fingerprint::Fingerprint,
    structure::Schema,
};

impl Schema {
    /// Finds the structure of `T`.
    ///
    /// # Errors
    ///
    /// [`Untraceable`] if `T` reads formats that describe themselves (`untagged`, `flatten`), refuses the sample values
    /// it was offered, has no finite value, is beyond the recorder's bounds, or panics.
    pub(crate) fn of<T: DeserializeOwned>() -> Result<Self, Untraceable> {
        trace::trace::<T>().map_err(|why| Untraceable { type_name: type_name::<T>().into(), why })
    }

    /// How `self` ("here") and `other` ("there") differ, in one sentence without full stop.
    pub(crate) fn difference(&self, other: &Self) -> String {
        difference::between(self, other).unwrap_or_else(|| "the two types have the same structure".to_owned())
    }

    /// The hash of the structure.
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        fingerprint::of_schema(self)
    }
}

/// The structure of a type could not be found out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("the structure of `{type_name}` cannot be found out: {why}")]
pub(crate) struct Untraceable {
    pub type_name: Name,
    pub why: String,
}

/// All that is known of a type whose values travel. One that was received is made sure of while it is decoded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "received::Received")]
pub(crate) struct TypeDescription {
    type_name: Name,
    fingerprint: Fingerprint,
    schema: Result<Schema, Untraceable>,
    /// What has to be watched when values of unknown origin are decoded. Not told to others, who see for themselves.
    #[serde(skip)]
    hazards: Hazards,
    /// The columns that many values of the type lie in, if they do. They are not sent: the receiver of a description works
    /// them out from the structure.
    #[serde(skip)]
    columns: Option<Arc<[Column]>>,
}

/// What values of a type could do to a decoder that believes them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Hazards {
    /// They can be nested without end.
    pub recursive: bool,
    /// They can claim any number of elements that take no bytes.
    pub weightless: bool,
}

/// One description for each type of the program that was asked for, so it is bounded by the program's text.
static DESCRIPTIONS: LazyLock<Mutex<HashMap<TypeId, Arc<TypeDescription>, foldhash::fast::RandomState>>> =
    LazyLock::new(Mutex::default);

impl TypeDescription {
    /// Describes `T`. A type that cannot be traced is known by its Rust name, which is the same only in processes
    /// built by the same compiler.
    ///
    /// The first call for a type takes tens of microseconds, later ones look it up.
    pub(crate) fn of<T: DeserializeOwned + 'static>() -> Arc<Self> {
        let id = TypeId::of::<T>();
        if let Some(known) = DESCRIPTIONS.lock().get(&id) {
            return Arc::clone(known);
        }
        // Traced without the lock: a `Deserialize` is user code and may itself ask for a description.
        let schema = Schema::of::<T>();
        let fingerprint = match &schema {
            Ok(schema) => schema.fingerprint(),
            Err(untraceable) => {
                tracing::debug!(%untraceable, "a type is known by its name only");
                fingerprint::of_type_name(&untraceable.type_name)
            }
        };
        let (hazards, columns) = (Hazards::of(&schema), schema.as_ref().ok().and_then(columns::of));
        let description = Arc::new(Self { type_name: type_name::<T>().into(), fingerprint, schema, hazards, columns });
        Arc::clone(DESCRIPTIONS.lock().entry(id).or_insert(description))
    }

    pub(crate) fn type_name(&self) -> &str {
        &self.type_name
    }

    pub(crate) fn hazards(&self) -> Hazards {
        self.hazards
    }

    /// The columns of many values of the type, or none if they are encoded one by one. The same wherever the fingerprint is.
    pub(crate) fn columns(&self) -> Option<&Arc<[Column]>> {
        self.columns.as_ref()
    }

    pub(crate) fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The type in words: its structure, or its Rust name where that is unknown or long.
    pub(crate) fn text(&self) -> String {
        const TEXT_BYTES_MAX: usize = 200;
        let text = self.schema.as_ref().ok().map(ToString::to_string);
        text.filter(|text| text.len() <= TEXT_BYTES_MAX).unwrap_or_else(|| self.type_name.clone().into_owned())
    }

    /// The names of all fields, of its parts too.
    #[cfg(feature = "cli")]
    pub(crate) fn field_names(&self) -> impl Iterator<Item = &str> {
        let definitions = self.schema.iter().flat_map(|schema| &schema.definitions);
        let bodies = definitions.flat_map(|definition| -> Vec<&Body> {
            match &definition.form {
                Form::Struct(body) => vec![body],
                Form::Enum(variants) => variants.iter().map(|variant| &variant.body).collect(),
            }
        });
        bodies.flat_map(|body| if let Body::Fields(fields) = body { &fields[..] } else { &[] }).map(|(name, _)| &**name)
    }

    /// How `self` ("here") and `other` ("there") differ, in one sentence without full stop.
    pub(crate) fn difference(&self, other: &Self) -> String {
        match (&self.schema, &other.schema) {
            (Ok(here), Ok(there)) => here.difference(there),
            (Err(untraceable), _) | (_, Err(untraceable)) => untraceable.to_string(),
        }
    }
}

#[cfg(test)]
mod tests;
