//! Where two schemas differ first, as a sentence.

use std::collections::HashSet;

use super::{
    structure::{Body, Definition, Form, Node, NodeId, Schema},
    text::brief,
};

/// The first difference in reading order; `None` if there is none.
pub(super) fn between(here: &Schema, there: &Schema) -> Option<String> {
    Comparison { here, there, compared: HashSet::new(), depth: 0 }.nodes(0, 0, "")
}

struct Comparison<'a> {
    here: &'a Schema,
    there: &'a Schema,
    /// Pairs of definitions taken as equal because their comparison is done or under way; so recursion ends.
    compared: HashSet<(usize, usize)>,
    /// How many definitions the comparison is in.
    depth: usize,
}

/// Two types that are alike to this depth are said to be alike. One of them may be a peer's, made to be walked in a
/// circle of any length beside the other.
const DEPTH_MAX: usize = 128;

impl Comparison<'_> {
    fn nodes(&mut self, here: NodeId, there: NodeId, place: &str) -> Option<String> {
        match (&self.here.nodes[here], &self.there.nodes[there]) {
            (Node::Option(a), Node::Option(b)) => self.nodes(*a, *b, &within("the content", place, "the option")),
            (Node::List(a), Node::List(b)) => self.nodes(*a, *b, &within("the element", place, "the list")),
            (Node::Map(a_key, a_value), Node::Map(b_key, b_value)) => self
                .nodes(*a_key, *b_key, &within("the key", place, "the map"))
                .or_else(|| self.nodes(*a_value, *b_value, &within("the value", place, "the map"))),
            (Node::Tuple(a), Node::Tuple(b)) => self.items(a, b, if place.is_empty() { "the tuple" } else { place }),
            (Node::Defined(a), Node::Defined(b)) => self.definitions(*a, *b, place),
            (a, b) if readable(a) == readable(b) => None,
            _ => {
                let place = if place.is_empty() { "the type" } else { place };
                Some(is_here_and_there(place, &brief(self.here, here), &brief(self.there, there)))
            }
        }
    }

    fn items(&mut self, here: &[NodeId], there: &[NodeId], place: &str) -> Option<String> {
        if here.len() != there.len() {
            return Some(format!("{place} has {} items here and {} there", here.len(), there.len()));
        }
        let mut pairs = here.iter().zip(there).enumerate();
        pairs.find_map(|(i, (a, b))| self.nodes(*a, *b, &format!("field `{i}` of {place}")))
    }

    fn definitions(&mut self, here: usize, there: usize, place: &str) -> Option<String> {
        if self.depth == DEPTH_MAX || !self.compared.insert((here, there)) {
            return None;
        }
        self.depth += 1;
        let difference = self.contents(here, there, place);
        self.depth -= 1;
        difference
    }

    fn contents(&mut self, here: usize, there: usize, place: &str) -> Option<String> {
        let (a, b) = (&self.here.definitions[here], &self.there.definitions[there]);
        if a.name != b.name || kind(a) != kind(b) {
            let place = if place.is_empty() { "the type" } else { place };
            let text = |definition: &Definition| format!("{} `{}`", kind(definition), definition.name);
            return Some(is_here_and_there(place, &text(a), &text(b)));
        }
        let place = format!("`{}`", a.name);
        match (&a.form, &b.form) {
            (Form::Struct(a), Form::Struct(b)) => self.bodies(a, b, &place),
            (Form::Enum(a), Form::Enum(b)) => {
                let names: [Vec<&str>; 2] = [a, b].map(|variants| variants.iter().map(|v| &*v.name).collect());
                names_differ("variant", &names[0], &names[1], &place).or_else(|| {
                    let mut pairs = a.iter().zip(b);
                    pairs.find_map(|(a, b)| self.bodies(&a.body, &b.body, &format!("variant `{}` of {place}", a.name)))
                })
            }
            _ => None,
        }
    }

    fn bodies(&mut self, here: &Body, there: &Body, place: &str) -> Option<String> {
        match (here, there) {
            (Body::Newtype(a), Body::Newtype(b)) => self.nodes(*a, *b, &format!("field `0` of {place}")),
            (Body::Tuple(a), Body::Tuple(b)) => self.items(a, b, place),
            (Body::Fields(a), Body::Fields(b)) => {
                let names: [Vec<&str>; 2] = [a, b].map(|fields| fields.iter().map(|(name, _)| &**name).collect());
                names_differ("field", &names[0], &names[1], place).or_else(|| {
                    let mut pairs = a.iter().zip(b);
                    pairs.find_map(|((name, a), (_, b))| self.nodes(*a, *b, &format!("field `{name}` of {place}")))
                })
            }
            (a, b) if body_kind(a) == body_kind(b) => None,
            (a, b) => Some(format!("{place} has {} here and {} there", body_kind(a), body_kind(b))),
        }
    }
}

fn is_here_and_there(place: &str, here: &str, there: &str) -> String {
    format!("{place} is {here} here and {there} there")
}

fn within(part: &str, place: &str, otherwise: &str) -> String {
    format!("{part} of {}", if place.is_empty() { otherwise } else { place })
}

/// The two ways not to know a node are one to the reader.
fn readable(node: &Node) -> &Node {
    if *node == Node::Unread { &Node::Unknown } else { node }
}

fn kind(definition: &Definition) -> &'static str {
    match definition.form {
        Form::Struct(_) => "struct",
        Form::Enum(_) => "enum",
    }
}

fn body_kind(body: &Body) -> &'static str {
    match body {
        Body::Unknown | Body::Absent | Body::Unit => "no fields",
        Body::Newtype(_) => "one unnamed field",
        Body::Tuple(_) => "unnamed fields",
        Body::Fields(_) => "named fields",
    }
}

fn names_differ(what: &str, here: &[&str], there: &[&str], place: &str) -> Option<String> {
    if here == there {
        return None;
    }
    if let Some(name) = here.iter().find(|name| !there.contains(name)) {
        return Some(format!("{what} `{name}` of {place} exists here and not there"));
    }
    if let Some(name) = there.iter().find(|name| !here.contains(name)) {
        return Some(format!("{what} `{name}` of {place} exists there and not here"));
    }
    Some(format!("the {what}s of {place} are in the order {} here and {} there", here.join(", "), there.join(", ")))
}
