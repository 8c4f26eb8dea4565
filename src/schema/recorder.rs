//! The deserializer that records what is asked of it and answers with sample values.

use serde::{
    Deserializer,
    de::{
        DeserializeSeed, EnumAccess, IntoDeserializer, MapAccess, SeqAccess, VariantAccess, Visitor,
        value::U32Deserializer,
    },
};

use super::{
    structure::{Body, Node, NodeId},
    trace::{TraceError, Tracer, key_of},
};

/// Reads one value, which stands at `node`.
pub(super) struct Recorder<'t> {
    tracer: &'t mut Tracer,
    node: NodeId,
    depth: usize,
    /// Take the shortest way to a value.
    minimal: bool,
}

impl<'t> Recorder<'t> {
    pub(super) fn new(tracer: &'t mut Tracer) -> Self {
        Self { tracer, node: 0, depth: 0, minimal: false }
    }

    fn at(tracer: &'t mut Tracer, node: NodeId, depth: usize, minimal: bool) -> Self {
        Self { tracer, node, depth: depth + 1, minimal }
    }

    fn plain(&mut self, label: &'static str) -> Result<(), TraceError> {
        self.tracer.step(self.depth)?;
        self.tracer.record(self.node, 0, |_| Node::Plain(label.into())).map(drop)
    }

    fn refuse<T>(self, what: &str) -> Result<T, TraceError> {
        Err(self.tracer.fail(format!("its `Deserialize` calls `{what}`, which needs a format that describes itself")))
    }

    /// Whether an option or a list at this place should hold something.
    fn filled(&mut self, parts: &[NodeId]) -> bool {
        let tracer = &mut *self.tracer;
        !self.minimal && (tracer.sample.filled || parts.iter().any(|part| tracer.unknown_behind(*part)))
    }

    /// Reads a struct of any form: records its body and lets `visit` read the parts.
    fn structure<'de, V: Visitor<'de>>(
        self,
        visitor: V,
        (kind, name, names): (&'static str, &'static str, &'static [&'static str]),
        (parts, make): (usize, impl FnOnce(&[NodeId]) -> Body),
        visit: impl FnOnce(V, Elements<'_>) -> Result<V::Value, TraceError>,
    ) -> Result<V::Value, TraceError> {
        let Self { tracer, node, depth, minimal } = self;
        tracer.step(depth)?;
        let definition = tracer.define(node, key_of::<V::Value>(kind, name, names), None)?;
        let minimal = minimal || tracer.is_open(definition);
        let parts = tracer.record_body((definition, None), parts, make)?;
        tracer.enter(definition, None, minimal);
        let result = visit(visitor, Elements { tracer, nodes: &parts, depth, minimal });
        tracer.leave(definition, None, result.is_ok());
        if result.is_ok() {
            tracer.settle(&parts);
        }
        result
    }
}

macro_rules! integers {
    ($($method:ident $visit:ident $label:literal)*) => {$(
        fn $method<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, TraceError> {
            self.plain($label)?;
            visitor.$visit(self.tracer.sample.integer.into())
        }
    )*};
}

impl<'de> Deserializer<'de> for Recorder<'_> {
    type Error = TraceError;

    integers! {
        deserialize_u8 visit_u8 "u8"
        deserialize_u16 visit_u16 "u16"
        deserialize_u32 visit_u32 "u32"
        deserialize_u64 visit_u64 "u64"
        deserialize_u128 visit_u128 "u128"
        deserialize_i16 visit_i16 "i16"
        deserialize_i32 visit_i32 "i32"
        deserialize_i64 visit_i64 "i64"
        deserialize_i128 visit_i128 "i128"
        deserialize_f32 visit_f32 "f32"
        deserialize_f64 visit_f64 "f64"
    }

    fn deserialize_i8<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, TraceError> {
        self.plain("i8")?;
        visitor.visit_i8(i8::from(self.tracer.sample.integer != 0))
    }

    fn deserialize_bool<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, TraceError> {
        self.plain("bool")?;
        visitor.visit_bool(false)
    }

    fn deserialize_char<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, TraceError> {
        self.plain("char")?;
        visitor.visit_char('a')
    }

    fn deserialize_str<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, TraceError> {
        self.plain("string")?;
        visitor.visit_borrowed_str(self.tracer.sample.text)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TraceError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bytes<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, TraceError> {
        self.plain("bytes")?;
        visitor.visit_borrowed_bytes(self.tracer.sample.bytes)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TraceError> {
        self.deserialize_bytes(visitor)
    }

    fn deserialize_unit<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, TraceError> {
        self.plain("()")?;
        visitor.visit_unit()
    }

    fn deserialize_option<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, TraceError> {
        self.tracer.step(self.depth)?;
        let parts = self.tracer.record(self.node, 1, |parts| Node::Option(parts[0]))?;
        if !self.filled(&parts) {
            return visitor.visit_none();
        }
        let Self { tracer, depth, minimal, .. } = self;
        let value = visitor.visit_some(Recorder::at(tracer, parts[0], depth, minimal))?;
        tracer.settle(&parts);
        Ok(value)
    }

    fn deserialize_seq<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, TraceError> {
        self.tracer.step(self.depth)?;
        let parts = self.tracer.record(self.node, 1, |parts| Node::List(parts[0]))?;
        let offered: &[NodeId] = if self.filled(&parts) { &parts } else { &[] };
        let Self { tracer, depth, minimal, .. } = self;
        let value = visitor.visit_seq(Elements { tracer, nodes: offered, depth, minimal })?;
        tracer.settle(offered);
        Ok(value)
    }

    fn deserialize_map<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, TraceError> {
        self.tracer.step(self.depth)?;
        let parts = self.tracer.record(self.node, 2, |parts| Node::Map(parts[0], parts[1]))?;
        let offered: &[NodeId] = if self.filled(&parts) { &parts } else { &[] };
        let Self { tracer, depth, minimal, .. } = self;
        let value = visitor.visit_map(Elements { tracer, nodes: offered, depth, minimal })?;
        tracer.settle(offered);
        Ok(value)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, TraceError> {
        let Self { tracer, node, depth, minimal } = self;
        tracer.step(depth)?;
        let parts = tracer.record(node, len, |parts| Node::Tuple(parts.to_vec()))?;
        let value = visitor.visit_seq(Elements { tracer, nodes: &parts, depth, minimal })?;
        tracer.settle(&parts);
        Ok(value)
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, TraceError> {
        self.structure(visitor, ("unit struct", name, &[]), (0, |_: &[NodeId]| Body::Unit), |v, _| v.visit_unit())
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, TraceError> {
        let body = (1, |parts: &[NodeId]| Body::Newtype(parts[0]));
        self.structure(visitor, ("newtype", name, &[]), body, |visitor, parts| {
            let Elements { tracer, nodes, depth, minimal } = parts;
            visitor.visit_newtype_struct(Recorder::at(tracer, nodes[0], depth, minimal))
        })
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, TraceError> {
        let body = (len, |parts: &[NodeId]| Body::Tuple(parts.to_vec()));
        self.structure(visitor, ("tuple struct", name, &[]), body, |visitor, parts| visitor.visit_seq(parts))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, TraceError> {
        let body = (fields.len(), |parts: &[NodeId]| named(fields, parts));
        self.structure(visitor, ("struct", name, fields), body, |visitor, parts| visitor.visit_seq(parts))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, TraceError> {
        let Self { tracer, node, depth, minimal } = self;
        tracer.step(depth)?;
        let key = key_of::<V::Value>("enum", name, variants);
        let definition = tracer.define(node, key, Some(variants.len()))?;
        let minimal = minimal || tracer.is_open(definition);
        let variant = tracer.choose(definition, minimal)?;
        tracer.enter(definition, Some(variant), minimal);
        let result = visitor.visit_enum(Chosen { tracer, definition, variant, depth, minimal });
        tracer.leave(definition, Some(variant), result.is_ok());
        result
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, TraceError> {
        self.refuse("deserialize_any")
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, _: V) -> Result<V::Value, TraceError> {
        self.refuse("deserialize_identifier")
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, TraceError> {
        self.refuse("deserialize_ignored_any")
    }

    /// As the codec says of itself; types such as IP addresses differ by it.
    fn is_human_readable(&self) -> bool {
        false
    }
}

fn named(names: &'static [&'static str], parts: &[NodeId]) -> Body {
    Body::Fields(names.iter().map(|name| (*name).into()).zip(parts.iter().copied()).collect())
}

/// Parts that are read one after the other: by position, or alternately as keys and values.
struct Elements<'t> {
    tracer: &'t mut Tracer,
    nodes: &'t [NodeId],
    depth: usize,
    minimal: bool,
}

impl Elements<'_> {
    fn read<'de, S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, TraceError> {
        // Counted also when nothing is left: a visitor may ask for ever.
        self.tracer.step(self.depth)?;
        let Some((node, rest)) = self.nodes.split_first() else { return Ok(None) };
        self.nodes = rest;
        seed.deserialize(Recorder::at(self.tracer, *node, self.depth, self.minimal)).map(Some)
    }
}

impl<'de> SeqAccess<'de> for Elements<'_> {
    type Error = TraceError;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, TraceError> {
        self.read(seed)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.nodes.len())
    }
}

impl<'de> MapAccess<'de> for Elements<'_> {
    type Error = TraceError;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, TraceError> {
        self.read(seed)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, TraceError> {
        match self.read(seed)? {
            Some(value) => Ok(value),
            None => Err(self.tracer.fail("its `Deserialize` asks for a value without a key")),
        }
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.nodes.len() / 2)
    }
}

/// The variant that a run reads.
struct Chosen<'t> {
    tracer: &'t mut Tracer,
    definition: usize,
    variant: usize,
    depth: usize,
    minimal: bool,
}

impl Chosen<'_> {
    fn elements<'de, V: Visitor<'de>>(
        self,
        visitor: V,
        parts: usize,
        make: impl FnOnce(&[NodeId]) -> Body,
    ) -> Result<V::Value, TraceError> {
        let Self { tracer, definition, variant, depth, minimal } = self;
        let parts = tracer.record_body((definition, Some(variant)), parts, make)?;
        let value = visitor.visit_seq(Elements { tracer, nodes: &parts, depth, minimal })?;
        tracer.settle(&parts);
        Ok(value)
    }
}

impl<'de> EnumAccess<'de> for Chosen<'_> {
    type Error = TraceError;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self), TraceError> {
        let index = u32::try_from(self.variant).unwrap_or(u32::MAX);
        let index: U32Deserializer<TraceError> = index.into_deserializer();
        match seed.deserialize(index) {
            Ok(value) => Ok((value, self)),
            Err(error) => {
                self.tracer.refuse_variant(self.definition, self.variant);
                Err(error)
            }
        }
    }
}

impl<'de> VariantAccess<'de> for Chosen<'_> {
    type Error = TraceError;

    fn unit_variant(self) -> Result<(), TraceError> {
        self.tracer.record_body((self.definition, Some(self.variant)), 0, |_| Body::Unit).map(drop)
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, TraceError> {
        let Self { tracer, definition, variant, depth, minimal } = self;
        let parts = tracer.record_body((definition, Some(variant)), 1, |parts| Body::Newtype(parts[0]))?;
        let value = seed.deserialize(Recorder::at(tracer, parts[0], depth, minimal))?;
        tracer.settle(&parts);
        Ok(value)
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, TraceError> {
        self.elements(visitor, len, |parts| Body::Tuple(parts.to_vec()))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, TraceError> {
        self.elements(visitor, fields.len(), |parts| named(fields, parts))
    }
}
