//! Descriptions of a peer's types, which are believed only as far as they can be walked safely.

use serde::Deserialize;

use super::{
    Fingerprint, Hazards, TypeDescription, Untraceable, columns, fingerprint,
    structure::{Body, Form, Name, Node, NodeId, Schema},
};

const NODES_MAX: usize = 8192;
const DEFINITIONS_MAX: usize = 1024;
const TEXT_BYTES_MAX: usize = 256 << 10;

/// Steps from the type to its innermost part, each definition entered where it is first met: every walk over a schema
/// recurses by them.
const DEPTH_MAX: usize = 256;

/// As it was decoded.
#[derive(Deserialize)]
pub(super) struct Received {
    type_name: Name,
    fingerprint: Fingerprint,
    schema: Result<Schema, Untraceable>,
}

/// What is wrong with a received description.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a type's description {0}")]
pub(super) struct Invalid(&'static str);

impl TryFrom<Received> for TypeDescription {
    type Error = Invalid;

    fn try_from(Received { type_name, fingerprint, schema }: Received) -> Result<Self, Invalid> {
        let expected = match &schema {
            Ok(schema) => {
                check(schema)?;
                fingerprint::of_schema(schema)
            }
            Err(untraceable) => fingerprint::of_type_name(&untraceable.type_name),
        };
        if expected != fingerprint {
            return Err(Invalid("does not have the fingerprint it says"));
        }
        let hazards = Hazards { recursive: true, weightless: true };
        let columns = schema.as_ref().ok().and_then(columns::of);
        Ok(Self { type_name, fingerprint, schema, hazards, columns })
    }
}

fn check(schema: &Schema) -> Result<(), Invalid> {
    if schema.nodes.is_empty() || schema.nodes.len() > NODES_MAX || schema.definitions.len() > DEFINITIONS_MAX {
        return Err(Invalid("has too many parts, or none"));
    }
    if text_bytes(schema) > TEXT_BYTES_MAX {
        return Err(Invalid("has too long names"));
    }
    // Every node is part of one other at most, so walks are as long as there are nodes, and end.
    let mut met = vec![false; schema.nodes.len()];
    let mut entered = vec![false; schema.definitions.len()];
    let mut left: Vec<(NodeId, usize)> = vec![(0, 0)];
    while let Some((node, depth)) = left.pop() {
        let met = met.get_mut(node).ok_or(Invalid("refers to a part that it does not have"))?;
        if std::mem::replace(met, true) {
            return Err(Invalid("has a part that is in two places"));
        }
        if depth > DEPTH_MAX {
            return Err(Invalid("is nested too deep"));
        }
        let mut push = |node: &NodeId| left.push((*node, depth + 1));
        match &schema.nodes[node] {
            Node::Unknown | Node::Unread | Node::Plain(_) => {}
            Node::Option(part) | Node::List(part) => push(part),
            Node::Map(key, value) => [key, value].into_iter().for_each(push),
            Node::Tuple(parts) => parts.iter().for_each(push),
            Node::Defined(definition) => {
                let entered = entered.get_mut(*definition).ok_or(Invalid("refers to a part that it does not have"))?;
                if !std::mem::replace(entered, true) {
                    for body in bodies(&schema.definitions[*definition].form) {
                        body.parts().for_each(|part| push(&part));
                    }
                }
            }
        }
    }
    Ok(())
}

fn bodies(form: &Form) -> impl Iterator<Item = &Body> {
    let (one, many) = match form {
        Form::Struct(body) => (Some(body), &[][..]),
        Form::Enum(variants) => (None, &variants[..]),
    };
    one.into_iter().chain(many.iter().map(|variant| &variant.body))
}

fn text_bytes(schema: &Schema) -> usize {
    let labels = schema.nodes.iter().map(|node| if let Node::Plain(label) = node { label.len() } else { 0 });
    let names = schema.definitions.iter().map(|definition| {
        let variants = match &definition.form {
            Form::Struct(_) => 0,
            Form::Enum(variants) => variants.iter().map(|variant| variant.name.len()).sum(),
        };
        let fields = bodies(&definition.form).flat_map(|body| match body {
            Body::Fields(fields) => &fields[..],
            _ => &[],
        });
        definition.name.len() + variants + fields.map(|(name, _)| name.len()).sum::<usize>()
    });
    labels.chain(names).sum()
}

impl Hazards {
    /// Those of a type of this process.
    pub(super) fn of(schema: &Result<Schema, Untraceable>) -> Self {
        let Ok(schema) = schema else { return Self { recursive: true, weightless: true } };
        let mut search = Search { schema, path: vec![false; schema.definitions.len()], found: Self::default() };
        search.is_weightless(0);
        search.found
    }
}

struct Search<'a> {
    schema: &'a Schema,
    /// The definitions that the search is in.
    path: Vec<bool>,
    found: Hazards,
}

impl Search<'_> {
    /// Whether a value that stands at `node` may take no bytes.
    fn is_weightless(&mut self, node: NodeId) -> bool {
        match &self.schema.nodes[node] {
            Node::Unknown | Node::Unread => true,
            Node::Plain(label) => label == "()",
            Node::Option(part) => {
                self.is_weightless(*part);
                false
            }
            Node::List(part) => {
                self.found.weightless |= self.is_weightless(*part);
                false
            }
            Node::Map(key, value) => {
                self.found.weightless |= self.is_weightless(*key) & self.is_weightless(*value);
                false
            }
            Node::Tuple(parts) => parts.iter().fold(true, |all, part| all & self.is_weightless(*part)),
            Node::Defined(definition) => {
                if std::mem::replace(&mut self.path[*definition], true) {
                    self.found.recursive = true;
                    // Somewhere on the way round there is a choice, which takes a byte.
                    return false;
                }
                let form = &self.schema.definitions[*definition].form;
                let all = bodies(form).flat_map(Body::parts).fold(true, |all, part| all & self.is_weightless(part));
                self.path[*definition] = false;
                all && matches!(form, Form::Struct(_))
            }
        }
    }
}
