//! Values of a type that this program does not have, by its description.

use std::{cell::Cell, fmt};

use serde::de::{DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, VariantAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::{
    TypeDescription,
    structure::{Body, Form, Node, NodeId, Schema},
};

/// Levels of nesting at most, as for types that this program has.
const DEPTH_MAX: usize = 128;

/// Parts of a value at most, for each of its bytes, and to begin with: a description can be of a type whose values have
/// many parts and no bytes.
const PARTS_PER_BYTE: usize = 64;
const PARTS_FREE: usize = 1 << 16;

impl TypeDescription {
    /// The structure, by which a value of the type can be decoded into what `serde_json` would make of it.
    ///
    /// # Errors
    ///
    /// Why nothing can be known of the type's values.
    pub(crate) fn known(&self) -> Result<&Schema, String> {
        self.schema.as_ref().map_err(ToString::to_string)
    }
}

/// How many parts a value may still have.
pub(crate) struct Budget(Cell<usize>);

impl Budget {
    pub(crate) fn for_bytes(bytes: usize) -> Self {
        Self(Cell::new(bytes.saturating_mul(PARTS_PER_BYTE).saturating_add(PARTS_FREE)))
    }

    fn charge<E: Error>(&self) -> Result<(), E> {
        let left = self.0.get().checked_sub(1).ok_or_else(|| E::custom("it has more parts than so few bytes can mean"));
        left.map(|left| self.0.set(left))
    }
}

/// Decodes a value of the described type as JSON: structs and maps with text for keys as objects, other maps as lists of
/// pairs, variants by their name, integers beyond 64 bits and numbers that are none as text.
#[derive(Clone, Copy)]
pub(crate) struct Shown<'a> {
    schema: &'a Schema,
    node: NodeId,
    depth: usize,
    budget: &'a Budget,
}

impl<'a> Shown<'a> {
    pub(crate) fn new(schema: &'a Schema, budget: &'a Budget) -> Self {
        Self { schema, node: 0, depth: 0, budget }
    }

    fn at(self, node: NodeId) -> Self {
        Self { node, depth: self.depth + 1, ..self }
    }

    fn body<'de, D: Deserializer<'de>>(self, body: &'a Body, deserializer: D) -> Result<Value, D::Error> {
        match body {
            Body::Unit => deserializer.deserialize_unit(Plain),
            Body::Newtype(inner) => self.at(*inner).deserialize(deserializer),
            Body::Tuple(items) => deserializer.deserialize_tuple(items.len(), Parts { shown: self, items }),
            Body::Fields(fields) => deserializer.deserialize_tuple(fields.len(), Fields { shown: self, fields }),
            Body::Unknown | Body::Absent => Err(D::Error::custom("the description of its type is not complete")),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Shown<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        // The description may be of a peer's making: a type can be made of itself, and of nothing else.
        if self.depth > DEPTH_MAX {
            return Err(D::Error::custom(format_args!("it is nested deeper than {DEPTH_MAX} levels")));
        }
        self.budget.charge()?;
        match &self.schema.nodes[self.node] {
            Node::Unknown | Node::Unread => Err(D::Error::custom("the description of its type is not complete")),
            Node::Plain(label) => plain(label, deserializer),
            Node::Option(some) => deserializer.deserialize_option(Optional(self.at(*some))),
            Node::List(element) => deserializer.deserialize_seq(List(self.at(*element))),
            Node::Map(key, value) => deserializer.deserialize_map(Pairs { key: self.at(*key), value: self.at(*value) }),
            Node::Tuple(items) => deserializer.deserialize_tuple(items.len(), Parts { shown: self, items }),
            Node::Defined(definition) => match &self.schema.definitions[*definition].form {
                Form::Struct(body) => self.body(body, deserializer),
                Form::Enum(variants) => deserializer.deserialize_enum("", &[], Choice { shown: self, variants }),
            },
        }
    }
}

fn plain<'de, D: Deserializer<'de>>(label: &str, deserializer: D) -> Result<Value, D::Error> {
    match label {
        "bool" => deserializer.deserialize_bool(Plain),
        "char" => deserializer.deserialize_char(Plain),
        "string" => deserializer.deserialize_string(Plain),
        "bytes" => deserializer.deserialize_byte_buf(Plain),
        "()" => deserializer.deserialize_unit(Plain),
        "u8" => deserializer.deserialize_u8(Plain),
        "u16" => deserializer.deserialize_u16(Plain),
        "u32" => deserializer.deserialize_u32(Plain),
        "u64" => deserializer.deserialize_u64(Plain),
        "u128" => deserializer.deserialize_u128(Plain),
        "i8" => deserializer.deserialize_i8(Plain),
        "i16" => deserializer.deserialize_i16(Plain),
        "i32" => deserializer.deserialize_i32(Plain),
        "i64" => deserializer.deserialize_i64(Plain),
        "i128" => deserializer.deserialize_i128(Plain),
        "f32" => deserializer.deserialize_f32(Plain),
        "f64" => deserializer.deserialize_f64(Plain),
        other => Err(D::Error::custom(format_args!("its type has a part `{other}`, which only its own code can read"))),
    }
}

struct Plain;

impl<'de> Visitor<'de> for Plain {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value without parts")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
        Ok(i64::try_from(value).map_or_else(|_| value.to_string().into(), Value::from))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Value, E> {
        Ok(u64::try_from(value).map_or_else(|_| value.to_string().into(), Value::from))
    }

    fn visit_f32<E>(self, value: f32) -> Result<Value, E> {
        // By its shortest text, which has not the digits that a wider number would show.
        let number = value.to_string().parse().ok().and_then(Number::from_f64);
        Ok(number.map_or_else(|| value.to_string().into(), Value::Number))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or_else(|| value.to_string().into(), Value::Number))
    }

    fn visit_char<E>(self, value: char) -> Result<Value, E> {
        Ok(value.to_string().into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_bytes<E>(self, value: &[u8]) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
}

struct Optional<'a>(Shown<'a>);

impl<'de> Visitor<'de> for Optional<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an optional value")
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.0.deserialize(deserializer)
    }
}

struct List<'a>(Shown<'a>);

impl<'de> Visitor<'de> for List<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element_seed(self.0)? {
            values.push(value);
        }
        Ok(values.into())
    }
}

struct Pairs<'a> {
    key: Shown<'a>,
    value: Shown<'a>,
}

impl<'de> Visitor<'de> for Pairs<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut pairs = Vec::new();
        while let Some(key) = map.next_key_seed(self.key)? {
            pairs.push((key, map.next_value_seed(self.value)?));
        }
        if pairs.iter().all(|(key, _)| key.is_string()) {
            let named = |(key, value): (Value, Value)| (key.as_str().unwrap_or_default().to_owned(), value);
            return Ok(Value::Object(pairs.into_iter().map(named).collect()));
        }
        Ok(pairs.into_iter().map(|(key, value)| Value::from(vec![key, value])).collect::<Vec<_>>().into())
    }
}

struct Parts<'a> {
    shown: Shown<'a>,
    items: &'a [NodeId],
}

impl<'de> Visitor<'de> for Parts<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a tuple")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Value, A::Error> {
        let mut values = Vec::with_capacity(self.items.len());
        for item in self.items {
            values.push(next(&mut parts, self.shown.at(*item))?);
        }
        Ok(values.into())
    }
}

struct Fields<'a> {
    shown: Shown<'a>,
    fields: &'a [(super::structure::Name, NodeId)],
}

impl<'de> Visitor<'de> for Fields<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a struct")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        for (name, node) in self.fields {
            object.insert(name.clone().into_owned(), next(&mut parts, self.shown.at(*node))?);
        }
        Ok(Value::Object(object))
    }
}

fn next<'de, A: SeqAccess<'de>>(parts: &mut A, shown: Shown<'_>) -> Result<Value, A::Error> {
    parts.next_element_seed(shown)?.ok_or_else(|| A::Error::custom("a part is missing"))
}

struct Choice<'a> {
    shown: Shown<'a>,
    variants: &'a [super::structure::Variant],
}

impl<'de> Visitor<'de> for Choice<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a variant")
    }

    fn visit_enum<A: EnumAccess<'de>>(self, choice: A) -> Result<Value, A::Error> {
        let (index, content) = choice.variant_seed(Index)?;
        let variant = usize::try_from(index).ok().and_then(|index| self.variants.get(index));
        let variant = variant.ok_or_else(|| A::Error::custom(format_args!("there is no variant {index}")))?;
        let shown = self.shown;
        let value = match &variant.body {
            Body::Unit => {
                content.unit_variant()?;
                return Ok(variant.name.clone().into_owned().into());
            }
            Body::Newtype(inner) => content.newtype_variant_seed(shown.at(*inner))?,
            Body::Tuple(items) => content.tuple_variant(items.len(), Parts { shown, items })?,
            Body::Fields(fields) => content.tuple_variant(fields.len(), Fields { shown, fields })?,
            Body::Unknown | Body::Absent => {
                return Err(A::Error::custom("the description of its type is not complete"));
            }
        };
        Ok(Value::Object(Map::from_iter([(variant.name.clone().into_owned(), value)])))
    }
}

struct Index;

impl<'de> DeserializeSeed<'de> for Index {
    type Value = u32;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<u32, D::Error> {
        deserializer.deserialize_u32(self)
    }
}

impl<'de> Visitor<'de> for Index {
    type Value = u32;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the number of a variant")
    }

    fn visit_u32<E>(self, index: u32) -> Result<u32, E> {
        Ok(index)
    }

    fn visit_u64<E: Error>(self, index: u64) -> Result<u32, E> {
        u32::try_from(index).map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde::{Deserialize, Serialize, de::DeserializeOwned};

    use super::*;
    use crate::{
        codec::{self, decode_shown},
        schema::structure::Definition,
    };

    #[derive(Debug, Clone, Serialize, Deserialize)]
    enum Shape {
        Point,
        Circle(f64),
        Line(i8, u16),
        Named { name: String, sides: Option<u8>, notes: BTreeMap<String, Vec<i64>> },
    }

    #[derive(Debug, Clone, Serialize, Deserialize)]
    struct Tree {
        label: char,
        below: Vec<Tree>,
    }

    fn shown<T: Serialize + DeserializeOwned + 'static>(value: &T) -> Value {
        let mut bytes = Vec::new();
        codec::encode_into(value, &mut bytes).expect("it can be encoded");
        let description = TypeDescription::of::<T>();
        let (shown, used) =
            decode_shown(description.known().expect("it is described"), &bytes).expect("it is such a value");
        assert_eq!(used, bytes.len());
        shown
    }

    #[test]
    fn a_value_is_shown_as_its_own_code_would_show_it() {
        let tree = Tree { label: 'a', below: vec![Tree { label: 'b', below: Vec::new() }] };
        assert_eq!(shown(&tree), serde_json::to_value(&tree).expect("it is plain"));
        let parts = ((), true, -7i64, 2.5f32, "text".to_owned(), Some(Some(3u32)), [1u8; 3]);
        assert_eq!(shown(&parts), serde_json::to_value(&parts).expect("it is plain"));
    }

    #[test]
    fn what_json_has_no_form_for_is_shown_as_text_or_pairs() {
        assert_eq!(shown(&u128::MAX), Value::from(u128::MAX.to_string()));
        assert_eq!(shown(&f64::INFINITY), Value::from("inf"));
        assert_eq!(shown(&BTreeMap::from([(1u8, 'x')])), serde_json::json!([[1, "x"]]));
    }

    fn described(nodes: Vec<Node>, forms: Vec<Form>) -> Schema {
        let definitions = forms.into_iter().map(|form| Definition { name: "T".into(), form }).collect();
        Schema { nodes, definitions }
    }

    #[test]
    fn a_description_of_endless_values_is_refused_where_it_is_used() {
        // A struct of itself.
        let schema = described(vec![Node::Defined(0)], vec![Form::Struct(Body::Newtype(0))]);
        let error = decode_shown(&schema, &[]).unwrap_err().to_string();
        assert!(error.contains("nested deeper"), "{error}");
        // Of two of the next, and so on, a hundred times, down to nothing.
        let nodes: Vec<Node> = (0..100).map(Node::Defined).chain([Node::Plain("()".into())]).collect();
        let forms = (0..100).map(|level| Form::Struct(Body::Tuple(vec![level + 1; 2]))).collect();
        let error = decode_shown(&described(nodes, forms), &[]).unwrap_err().to_string();
        assert!(error.contains("more parts"), "{error}");
    }

    proptest! {
        #[test]
        fn any_value_is_shown_as_its_own_code_would_show_it(
            name in ".{0,8}",
            sides in any::<Option<u8>>(),
            notes in prop::collection::btree_map(".{0,4}", prop::collection::vec(any::<i64>(), 0..3), 0..4),
            (x, y, radius) in any::<(i8, u16, i32)>(),
        ) {
            let shapes =
                vec![Shape::Point, Shape::Circle(f64::from(radius)), Shape::Line(x, y), Shape::Named { name, sides, notes }];
            prop_assert_eq!(shown(&shapes), serde_json::to_value(&shapes).expect("it is plain"));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in any::<Vec<u8>>()) {
            for description in [TypeDescription::of::<Shape>(), TypeDescription::of::<Vec<Tree>>()] {
                let _ = decode_shown(description.known().expect("it is described"), &bytes);
            }
        }
    }
}
