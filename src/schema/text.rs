//! A schema as one line of text.

use std::fmt::{self, Formatter, Write as _};

use super::structure::{Body, Form, Node, NodeId, Schema};

/// `WordCount { file: string, counts: [(string, u64)] }`. A definition is written out where it is first met, and named
/// where it is met again.
impl fmt::Display for Schema {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        Writer { schema: self, written: vec![false; self.definitions.len()] }.node(f, 0)
    }
}

/// The node at a glance: definitions by name only.
pub(super) fn brief(schema: &Schema, node: NodeId) -> String {
    struct Brief<'a>(&'a Schema, NodeId);
    impl fmt::Display for Brief<'_> {
        fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
            Writer { schema: self.0, written: vec![true; self.0.definitions.len()] }.node(f, self.1)
        }
    }
    Brief(schema, node).to_string()
}

struct Writer<'a> {
    schema: &'a Schema,
    written: Vec<bool>,
}

impl Writer<'_> {
    fn node(&mut self, f: &mut Formatter<'_>, node: NodeId) -> fmt::Result {
        match &self.schema.nodes[node] {
            Node::Unknown | Node::Unread => f.write_char('_'),
            Node::Plain(label) => f.write_str(label),
            Node::Option(some) => {
                f.write_str("option<")?;
                self.node(f, *some)?;
                f.write_char('>')
            }
            Node::List(element) => {
                f.write_char('[')?;
                self.node(f, *element)?;
                f.write_char(']')
            }
            Node::Map(key, value) => {
                f.write_char('{')?;
                self.node(f, *key)?;
                f.write_str(": ")?;
                self.node(f, *value)?;
                f.write_char('}')
            }
            Node::Tuple(items) => match self.repeated(items) {
                Some(label) => write!(f, "[{label}; {}]", items.len()),
                None => self.tuple(f, items),
            },
            Node::Defined(definition) => self.definition(f, *definition),
        }
    }

    /// The label of a tuple of equal plain items that is long enough to be an array.
    fn repeated(&self, items: &[NodeId]) -> Option<&str> {
        let Node::Plain(label) = &self.schema.nodes[*items.first()?] else { return None };
        let all = items.iter().all(|item| matches!(&self.schema.nodes[*item], Node::Plain(other) if other == label));
        (all && items.len() > 3).then_some(label)
    }

    fn tuple(&mut self, f: &mut Formatter<'_>, items: &[NodeId]) -> fmt::Result {
        f.write_char('(')?;
        for (i, item) in items.iter().enumerate() {
            f.write_str(if i == 0 { "" } else { ", " })?;
            self.node(f, *item)?;
        }
        f.write_str(if items.len() == 1 { ",)" } else { ")" })
    }

    fn definition(&mut self, f: &mut Formatter<'_>, definition: usize) -> fmt::Result {
        let schema = self.schema;
        let known = std::mem::replace(&mut self.written[definition], true);
        let definition = &schema.definitions[definition];
        match &definition.form {
            _ if known => f.write_str(&definition.name),
            Form::Struct(body) => {
                f.write_str(&definition.name)?;
                self.body(f, body)
            }
            Form::Enum(variants) => {
                write!(f, "enum {} {{ ", definition.name)?;
                for (i, variant) in variants.iter().enumerate() {
                    write!(f, "{}{}", if i == 0 { "" } else { ", " }, variant.name)?;
                    self.body(f, &variant.body)?;
                }
                f.write_str(" }")
            }
        }
    }

    fn body(&mut self, f: &mut Formatter<'_>, body: &Body) -> fmt::Result {
        match body {
            Body::Unknown | Body::Absent | Body::Unit => Ok(()),
            Body::Newtype(inner) => {
                f.write_char('(')?;
                self.node(f, *inner)?;
                f.write_char(')')
            }
            Body::Tuple(items) => self.tuple(f, items),
            Body::Fields(fields) => {
                f.write_str(" { ")?;
                for (i, (name, node)) in fields.iter().enumerate() {
                    write!(f, "{}{name}: ", if i == 0 { "" } else { ", " })?;
                    self.node(f, *node)?;
                }
                f.write_str(" }")
            }
        }
    }
}
