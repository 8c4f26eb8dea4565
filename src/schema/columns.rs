//! Which columns many values of a type lie in.
//!
//! A type has columns if it is a number, a truth value, a character, a text, bytes, or made of such by `Option`, tuples and
//! structs. Lists, maps and enums have none, because their values differ in how many parts they have. What decides is the
//! structure alone, so both ends of a port come to the same columns.

use std::sync::Arc;

use super::structure::{Body, Form, Node, NodeId, Schema};

/// Columns of a type at most. One with more has none: each column has a price for each batch.
const COLUMNS_MAX: usize = 16;

/// Parts of a type that are looked at, at most: some have many parts and no columns.
const PARTS_MAX: usize = 64;

/// One column. Those of a type stand in the order in which its parts are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Column {
    Fixed(Fixed),
    Text,
    Bytes,
    /// Whether there is a value; it lies in so many of the columns that follow.
    Option {
        columns: u8,
    },
}

/// Values that all take the same number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fixed {
    Bool,
    Char,
    U8,
    U16,
    U32,
    U64,
    U128,
    I8,
    I16,
    I32,
    I64,
    I128,
    F32,
    F64,
}

impl Fixed {
    /// Bytes of one value.
    pub(crate) fn width(self) -> usize {
        match self {
            Self::Bool | Self::U8 | Self::I8 => 1,
            Self::U16 | Self::I16 => 2,
            Self::Char | Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
            Self::U128 | Self::I128 => 16,
        }
    }
}

/// The columns of a type, of which there is one at least.
pub(super) fn of(schema: &Schema) -> Option<Arc<[Column]>> {
    let mut walk = Walk { schema, columns: Vec::new(), parts_left: PARTS_MAX };
    walk.node(0)?;
    (!walk.columns.is_empty()).then(|| walk.columns.into())
}

struct Walk<'a> {
    schema: &'a Schema,
    columns: Vec<Column>,
    parts_left: usize,
}

impl Walk<'_> {
    /// `None`: the type has no columns. It recurses as often as there are parts left at most.
    fn node(&mut self, node: NodeId) -> Option<()> {
        self.parts_left = self.parts_left.checked_sub(1)?;
        let schema = self.schema;
        match schema.nodes.get(node)? {
            Node::Plain(label) if label == "()" => Some(()),
            Node::Plain(label) => self.push(plain(label)?),
            Node::Option(some) => {
                let at = self.columns.len();
                self.push(Column::Option { columns: 0 })?;
                self.node(*some)?;
                let columns = u8::try_from(self.columns.len() - at - 1).ok()?;
                self.columns[at] = Column::Option { columns };
                Some(())
            }
            Node::Tuple(parts) => parts.iter().try_for_each(|part| self.node(*part)),
            Node::Defined(definition) => match &schema.definitions.get(*definition)?.form {
                Form::Struct(Body::Unknown | Body::Absent) | Form::Enum(_) => None,
                Form::Struct(body) => body.parts().try_for_each(|part| self.node(part)),
            },
            Node::Unknown | Node::Unread | Node::List(_) | Node::Map(..) => None,
        }
    }

    fn push(&mut self, column: Column) -> Option<()> {
        self.columns.push(column);
        (self.columns.len() <= COLUMNS_MAX).then_some(())
    }
}

fn plain(label: &str) -> Option<Column> {
    Some(Column::Fixed(match label {
        "string" => return Some(Column::Text),
        "bytes" => return Some(Column::Bytes),
        "bool" => Fixed::Bool,
        "char" => Fixed::Char,
        "u8" => Fixed::U8,
        "u16" => Fixed::U16,
        "u32" => Fixed::U32,
        "u64" => Fixed::U64,
        "u128" => Fixed::U128,
        "i8" => Fixed::I8,
        "i16" => Fixed::I16,
        "i32" => Fixed::I32,
        "i64" => Fixed::I64,
        "i128" => Fixed::I128,
        "f32" => Fixed::F32,
        "f64" => Fixed::F64,
        _ => return None,
    }))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::{Deserialize, de::DeserializeOwned};

    use super::*;
    use crate::schema::TypeDescription;

    fn columns<T: DeserializeOwned + 'static>() -> Option<Vec<Column>> {
        TypeDescription::of::<T>().columns().map(|columns| columns.to_vec())
    }

    #[test]
    fn what_always_has_the_same_parts_has_columns() {
        #[derive(Deserialize)]
        struct Meters(#[expect(dead_code)] u64);
        #[derive(Deserialize)]
        struct Reading {
            #[expect(dead_code)]
            at: (i32, Meters),
            #[expect(dead_code)]
            note: Option<(char, String)>,
            #[expect(dead_code)]
            unit: (),
        }
        let fixed = Column::Fixed;
        assert_eq!(columns::<u64>(), Some(vec![fixed(Fixed::U64)]));
        let reading =
            vec![fixed(Fixed::I32), fixed(Fixed::U64), Column::Option { columns: 2 }, fixed(Fixed::Char), Column::Text];
        assert_eq!(columns::<Reading>(), Some(reading));
        assert_eq!(columns::<Option<()>>(), Some(vec![Column::Option { columns: 0 }]));
        assert_eq!(columns::<[u8; 16]>().map(|columns| columns.len()), Some(16));
    }

    #[test]
    fn what_has_many_or_varying_parts_or_none_has_no_columns() {
        #[derive(Deserialize)]
        enum Either {
            #[expect(dead_code)]
            This(u8),
        }
        #[derive(Deserialize)]
        struct Chain(#[expect(dead_code)] Option<Box<Chain>>);
        assert_eq!(columns::<()>(), None);
        assert_eq!(columns::<Vec<u64>>(), None);
        assert_eq!(columns::<(u8, BTreeMap<u8, u8>)>(), None);
        assert_eq!(columns::<Either>(), None);
        assert_eq!(columns::<Chain>(), None);
        assert_eq!(columns::<[u8; 17]>(), None);
    }

    #[test]
    fn a_description_of_very_many_parts_without_columns_is_left_early() {
        // Of two of the next, and so on, a hundred times, down to nothing.
        let nodes: Vec<Node> =
            (1..=100).map(|next| Node::Tuple(vec![next; 2])).chain([Node::Plain("()".into())]).collect();
        assert_eq!(of(&Schema { nodes, definitions: Vec::new() }), None);
    }
}
