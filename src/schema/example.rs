//! A value of a type, as somebody would write it in JSON, by its description.

use serde_json::{Map, Value, json};

use super::{
    TypeDescription,
    structure::{Body, Form, Node, NodeId, Schema},
};

/// Levels of nesting at most: an example is to be read at a glance.
const DEPTH_MAX: usize = 8;

impl TypeDescription {
    /// A value of the type. None if its structure is not known, or too deep. Whether the type's own code takes it has to be
    /// tried: it may accept some texts only, say.
    pub(crate) fn example(&self) -> Option<Value> {
        Example(self.schema.as_ref().ok()?).node(0, 0)
    }
}

struct Example<'a>(&'a Schema);

impl Example<'_> {
    fn node(&self, node: NodeId, depth: usize) -> Option<Value> {
        if depth > DEPTH_MAX {
            return None;
        }
        match &self.0.nodes[node] {
            Node::Unknown | Node::Unread => None,
            Node::Plain(label) => plain(label),
            Node::Option(some) => Some(self.node(*some, depth + 1).unwrap_or(Value::Null)),
            Node::List(element) => Some(self.node(*element, depth + 1).into_iter().collect()),
            Node::Map(key, value) => {
                let key = self.node(*key, depth + 1).and_then(|key| key.as_str().map(str::to_owned));
                let entry = key.and_then(|key| Some((key, self.node(*value, depth + 1)?)));
                Some(Value::Object(entry.into_iter().collect()))
            }
            Node::Tuple(items) => self.list(items, depth),
            Node::Defined(definition) => match &self.0.definitions[*definition].form {
                Form::Struct(body) => self.body(body, depth),
                Form::Enum(variants) => variants.iter().find_map(|variant| match &variant.body {
                    Body::Unit => Some(json!(variant.name)),
                    body => Some(json!({ &*variant.name: self.body(body, depth)? })),
                }),
            },
        }
    }

    fn body(&self, body: &Body, depth: usize) -> Option<Value> {
        match body {
            Body::Unknown | Body::Absent => None,
            Body::Unit => Some(Value::Null),
            Body::Newtype(inner) => self.node(*inner, depth + 1),
            Body::Tuple(items) => self.list(items, depth),
            Body::Fields(fields) => {
                let fields =
                    fields.iter().map(|(name, node)| Some((name.clone().into_owned(), self.node(*node, depth + 1)?)));
                Some(Value::Object(fields.collect::<Option<Map<_, _>>>()?))
            }
        }
    }

    fn list(&self, items: &[NodeId], depth: usize) -> Option<Value> {
        items.iter().map(|item| self.node(*item, depth + 1)).collect::<Option<Vec<_>>>().map(Value::Array)
    }
}

fn plain(label: &str) -> Option<Value> {
    Some(match label {
        "bool" => json!(true),
        "char" => json!("c"),
        "string" => json!("text"),
        "bytes" => json!([0]),
        "()" => Value::Null,
        "f32" | "f64" => json!(1.5),
        "u8" | "u16" | "u32" | "u64" | "u128" | "i8" | "i16" | "i32" | "i64" | "i128" => json!(1),
        _ => return None,
    })
}
