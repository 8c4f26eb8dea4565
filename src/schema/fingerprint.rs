//! Fingerprints: a fixed hash over a canonical walk, the same in every process and on every platform.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::structure::{Body, Form, Node, NodeId, Schema};

/// A hash of what a type looks like on the wire. Types with different fingerprints are never read as one another.
///
/// It guards against mistakes, not against an adversary, who could construct two types of equal fingerprint.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Fingerprint(u128);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// FNV-1a with 128 bits. `std`'s hashers promise no value from one release to the next.
struct Fnv(u128);

impl Fnv {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;

    fn byte(&mut self, byte: u8) {
        self.0 = (self.0 ^ u128::from(byte)).wrapping_mul(Self::PRIME);
    }

    fn number(&mut self, number: usize) {
        (number as u64).to_le_bytes().into_iter().for_each(|byte| self.byte(byte));
    }

    /// The length goes first, so that neighbours cannot be mistaken for one another.
    fn text(&mut self, text: &str) {
        self.number(text.len());
        text.bytes().for_each(|byte| self.byte(byte));
    }
}

pub(super) fn of_type_name(name: &str) -> Fingerprint {
    let mut hash = Fnv(Fnv::OFFSET);
    hash.text("type name");
    hash.text(name);
    Fingerprint(hash.0)
}

pub(super) fn of_schema(schema: &Schema) -> Fingerprint {
    let mut walk = Walk { schema, hash: Fnv(Fnv::OFFSET), met: vec![None; schema.definitions.len()], next: 0 };
    walk.hash.text("schema");
    walk.node(0);
    Fingerprint(walk.hash.0)
}

/// Definitions are numbered in the order the walk meets them, and hashed at the first meeting; so the result depends
/// on the structure alone and not on the order in which the recorder found things.
struct Walk<'a> {
    schema: &'a Schema,
    hash: Fnv,
    met: Vec<Option<usize>>,
    next: usize,
}

impl Walk<'_> {
    fn node(&mut self, node: NodeId) {
        match &self.schema.nodes[node] {
            Node::Unknown | Node::Unread => self.hash.byte(0),
            Node::Plain(label) => {
                self.hash.byte(1);
                self.hash.text(label);
            }
            Node::Option(some) => {
                self.hash.byte(2);
                self.node(*some);
            }
            Node::List(element) => {
                self.hash.byte(3);
                self.node(*element);
            }
            Node::Map(key, value) => {
                self.hash.byte(4);
                self.node(*key);
                self.node(*value);
            }
            Node::Tuple(items) => {
                self.hash.byte(5);
                self.hash.number(items.len());
                items.iter().for_each(|item| self.node(*item));
            }
            Node::Defined(definition) => self.definition(*definition),
        }
    }

    fn definition(&mut self, definition: usize) {
        if let Some(number) = self.met[definition] {
            self.hash.byte(6);
            self.hash.number(number);
            return;
        }
        self.met[definition] = Some(self.next);
        self.next += 1;
        let definition = &self.schema.definitions[definition];
        match &definition.form {
            Form::Struct(body) => {
                self.hash.byte(7);
                self.hash.text(&definition.name);
                self.body(body);
            }
            Form::Enum(variants) => {
                self.hash.byte(8);
                self.hash.text(&definition.name);
                self.hash.number(variants.len());
                for variant in variants {
                    self.hash.text(&variant.name);
                    self.body(&variant.body);
                }
            }
        }
    }

    fn body(&mut self, body: &Body) {
        match body {
            Body::Unknown | Body::Absent => self.hash.byte(0),
            Body::Unit => self.hash.byte(1),
            Body::Newtype(inner) => {
                self.hash.byte(2);
                self.node(*inner);
            }
            Body::Tuple(items) => {
                self.hash.byte(3);
                self.hash.number(items.len());
                items.iter().for_each(|item| self.node(*item));
            }
            Body::Fields(fields) => {
                self.hash.byte(4);
                self.hash.number(fields.len());
                for (name, node) in fields {
                    self.hash.text(name);
                    self.node(*node);
                }
            }
        }
    }
}
