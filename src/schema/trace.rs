//! Finding a type's structure by repeated runs of its `Deserialize`.
//!
//! A run makes one value of the type and records what was asked for. Wherever there is a choice (an enum's variant,
//! whether an option or a list holds something), the run takes a branch with something unknown behind it; so every
//! successful run learns something until nothing is unknown. Inside a definition that is already being read further
//! out, a run takes the shortest way out instead (*minimal*): no content, and a variant known to come to an end.
//!
//! Everything is bounded: runs, calls, and depth. The code that is run is the user's.

use std::{
    any::type_name,
    collections::{HashMap, HashSet},
    panic::{AssertUnwindSafe, catch_unwind},
};

use serde::de::DeserializeOwned;

use super::{
    recorder::Recorder,
    structure::{Body, Definition, Form, Node, NodeId, Schema, Variant},
};

const RUNS_MAX: usize = 10_000;
const STEPS_MAX: usize = 2_000_000;
pub(super) const DEPTH_MAX: usize = 100;

/// The values that a run offers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    pub integer: u8,
    pub text: &'static str,
    pub bytes: &'static [u8],
    /// Options and lists hold something even when nothing is left to learn from it.
    pub filled: bool,
}

/// Tried in turn, for types that check what they read: numbers that may not be zero, texts that may not be empty.
const SAMPLES: [Sample; 3] = [
    Sample { integer: 1, text: "", bytes: &[], filled: false },
    Sample { integer: 1, text: "a", bytes: &[0; 16], filled: true },
    Sample { integer: 0, text: "0", bytes: &[0; 32], filled: true },
];

/// The structure of `T`, or why it cannot be found out (with the first of the samples).
pub(super) fn trace<T: DeserializeOwned>() -> Result<Schema, String> {
    let mut first_refusal = None;
    for sample in SAMPLES {
        match Tracer::new(sample).trace::<T>() {
            Ok(schema) => return Ok(schema),
            Err(Failure::Final(why)) => return Err(first_refusal.unwrap_or(why)),
            Err(Failure::Refused(why)) => _ = first_refusal.get_or_insert(why),
        }
    }
    Err(first_refusal.unwrap_or_default())
}

enum Failure {
    /// No sample would help.
    Final(String),
    /// The type's own code refused a value.
    Refused(String),
}

/// What a run returns instead of a value. Why is kept in [`Tracer::fault`] unless it was the user's code.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct TraceError(pub(super) String);

impl serde::de::Error for TraceError {
    fn custom<M: std::fmt::Display>(message: M) -> Self {
        Self(message.to_string())
    }
}

/// What tells definitions apart: two types of the same serde name, and two instances of a generic type, differ in the
/// Rust name of what is made of them.
#[derive(PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub value: &'static str,
    pub name: &'static str,
    pub names: &'static [&'static str],
    pub kind: &'static str,
}

/// A definition that is being read right now.
struct Frame {
    definition: usize,
    variant: Option<usize>,
    minimal: bool,
}

/// What is known of a definition besides its structure.
#[derive(Default)]
struct Knowledge {
    /// Variants in the order in which they are tried.
    order: Vec<usize>,
    /// A variant that has been read to its end, so reading it again in the minimal way comes to an end too. Never
    /// changed once set: what it relies on was set before, so there is no circle.
    finite: Option<usize>,
}

pub(super) struct Tracer {
    pub sample: Sample,
    schema: Schema,
    by_key: HashMap<Key, usize>,
    knowledge: Vec<Knowledge>,
    stack: Vec<Frame>,
    /// Nodes behind which nothing is unknown.
    complete: HashSet<NodeId>,
    learned: bool,
    /// The run was broken off by the tracer, and another may succeed.
    again: bool,
    fault: Option<String>,
    steps_left: usize,
}

impl Tracer {
    fn new(sample: Sample) -> Self {
        Self {
            sample,
            schema: Schema { nodes: vec![Node::Unknown], definitions: Vec::new() },
            by_key: HashMap::new(),
            knowledge: Vec::new(),
            stack: Vec::new(),
            complete: HashSet::new(),
            learned: false,
            again: false,
            fault: None,
            steps_left: STEPS_MAX,
        }
    }

    fn trace<T: DeserializeOwned>(mut self) -> Result<Schema, Failure> {
        for _ in 0..RUNS_MAX {
            self.learned = false;
            self.again = false;
            // The tracer is not used after a panic, and the value is dropped inside because its drop is user code too.
            let run = AssertUnwindSafe(|| T::deserialize(Recorder::new(&mut self)).map(drop));
            let result = catch_unwind(run).map_err(|payload| {
                // The payload's own drop could panic; it is a string in nearly every case.
                std::mem::forget(payload);
                // The panic hook has printed it, and its reader would look for the value among those that were sent. The hook
                // itself is the program's, and is left alone.
                tracing::warn!(
                    "type" = type_name::<T>(),
                    "a `Deserialize` panicked on a value that was made up to learn the type's structure; no data is concerned"
                );
                Failure::Final("its `Deserialize` panicked on a made-up value".to_owned())
            })?;
            if let Some(why) = self.fault {
                return Err(Failure::Final(why));
            }
            match result {
                Err(_) if self.again => {}
                Err(TraceError(why)) => return Err(Failure::Refused(why)),
                Ok(()) if !self.learned || !self.unknown_behind(0) => return Ok(self.finish()),
                Ok(()) => {}
            }
            self.stack.clear();
        }
        Err(Failure::Final(format!("it took more than {RUNS_MAX} runs")))
    }

    /// Removes what only looked like a part of the type: the names of aliases.
    fn finish(self) -> Schema {
        let Schema { nodes, mut definitions } = self.schema;
        let prune = |body: &mut Body| {
            if let Body::Fields(fields) = body {
                fields.retain(|(_, node)| nodes[*node] != Node::Unread);
            }
        };
        for definition in &mut definitions {
            match &mut definition.form {
                Form::Struct(body) => prune(body),
                Form::Enum(variants) => {
                    variants.retain(|variant| variant.body != Body::Absent);
                    variants.iter_mut().for_each(|variant| prune(&mut variant.body));
                }
            }
        }
        Schema { nodes, definitions }
    }

    pub(super) fn fail(&mut self, why: impl Into<String>) -> TraceError {
        let why = why.into();
        self.fault.get_or_insert_with(|| why.clone());
        TraceError(why)
    }

    /// Counts one call of the type's code.
    pub(super) fn step(&mut self, depth: usize) -> Result<(), TraceError> {
        if depth > DEPTH_MAX {
            return Err(self.fail(format!("it is nested deeper than {DEPTH_MAX}, or has no finite value")));
        }
        self.steps_left = self.steps_left.saturating_sub(1);
        if self.steps_left == 0 {
            return Err(self.fail(format!("it took more than {STEPS_MAX} steps")));
        }
        Ok(())
    }

    fn allocate(&mut self) -> NodeId {
        self.schema.nodes.push(Node::Unknown);
        self.schema.nodes.len() - 1
    }

    pub(super) fn allocate_many(&mut self, count: usize) -> Result<Vec<NodeId>, TraceError> {
        // An array of the type's code may be of any length; nodes are bounded like steps.
        if count > self.steps_left {
            return Err(self.fail(format!("it has more than {STEPS_MAX} parts")));
        }
        self.steps_left -= count;
        Ok((0..count).map(|_| self.allocate()).collect())
    }

    fn inconsistent(&mut self) -> TraceError {
        self.fail("its `Deserialize` reads different things from run to run")
    }

    /// Records what stands at `node`; `parts` is how many nodes it refers to, which `make` receives.
    ///
    /// Returns these nodes, which are the same in every run.
    pub(super) fn record(
        &mut self,
        node: NodeId,
        parts: usize,
        make: impl FnOnce(&[NodeId]) -> Node,
    ) -> Result<Vec<NodeId>, TraceError> {
        let known = match &self.schema.nodes[node] {
            Node::Unknown | Node::Unread => {
                let parts = self.allocate_many(parts)?;
                self.schema.nodes[node] = make(&parts);
                self.learned = true;
                return Ok(parts);
            }
            Node::Plain(_) | Node::Defined(_) => Vec::new(),
            Node::Option(part) | Node::List(part) => vec![*part],
            Node::Map(key, value) => vec![*key, *value],
            Node::Tuple(parts) => parts.clone(),
        };
        if known.len() == parts && self.schema.nodes[node] == make(&known) {
            return Ok(known);
        }
        Err(self.inconsistent())
    }

    /// Parts that were offered and not read will not be read by another run either.
    pub(super) fn settle(&mut self, parts: &[NodeId]) {
        for part in parts {
            if self.schema.nodes[*part] == Node::Unknown {
                self.schema.nodes[*part] = Node::Unread;
                self.learned = true;
            }
        }
    }

    /// Finds or makes the definition that stands at `node`.
    pub(super) fn define(&mut self, node: NodeId, key: Key, variants: Option<usize>) -> Result<usize, TraceError> {
        let (name, names) = (key.name, key.names);
        let next = self.schema.definitions.len();
        let definition = *self.by_key.entry(key).or_insert(next);
        if definition == next {
            let form = variants.map_or(Form::Struct(Body::Unknown), |_| {
                Form::Enum(names.iter().map(|name| Variant { name: (*name).into(), body: Body::Unknown }).collect())
            });
            self.schema.definitions.push(Definition { name: name.into(), form });
            self.knowledge.push(Knowledge { order: (0..variants.unwrap_or(0)).collect(), finite: None });
        }
        self.record(node, 0, |_| Node::Defined(definition))?;
        Ok(definition)
    }

    fn body(&mut self, definition: usize, variant: Option<usize>) -> &mut Body {
        match (&mut self.schema.definitions[definition].form, variant) {
            (Form::Struct(body), _) => body,
            (Form::Enum(variants), variant) => &mut variants[variant.unwrap_or(0)].body,
        }
    }

    /// Like [`record`](Self::record), for the body of a definition.
    pub(super) fn record_body(
        &mut self,
        (definition, variant): (usize, Option<usize>),
        parts: usize,
        make: impl FnOnce(&[NodeId]) -> Body,
    ) -> Result<Vec<NodeId>, TraceError> {
        if *self.body(definition, variant) == Body::Unknown {
            let parts = self.allocate_many(parts)?;
            *self.body(definition, variant) = make(&parts);
            self.learned = true;
            return Ok(parts);
        }
        let known: Vec<NodeId> = self.body(definition, variant).parts().collect();
        if known.len() == parts && *self.body(definition, variant) == make(&known) {
            return Ok(known);
        }
        Err(self.inconsistent())
    }

    /// The type has fewer variants than names, because some names are aliases.
    pub(super) fn refuse_variant(&mut self, definition: usize, variant: usize) {
        let body = self.body(definition, Some(variant));
        if *body == Body::Unknown {
            *body = Body::Absent;
            self.again = true;
        }
    }

    pub(super) fn is_open(&self, definition: usize) -> bool {
        self.stack.iter().any(|frame| frame.definition == definition)
    }

    pub(super) fn enter(&mut self, definition: usize, variant: Option<usize>, minimal: bool) {
        self.stack.push(Frame { definition, variant, minimal });
    }

    pub(super) fn leave(&mut self, definition: usize, variant: Option<usize>, read_to_the_end: bool) {
        self.stack.pop();
        if read_to_the_end && let Some(variant) = variant {
            self.knowledge[definition].finite.get_or_insert(variant);
        }
    }

    /// Whether something unknown can be reached from `node` without passing through an open definition, which is being
    /// explored already further out.
    pub(super) fn unknown_behind(&mut self, node: NodeId) -> bool {
        self.search([node].into_iter().collect())
    }

    fn search(&mut self, mut nodes: Vec<NodeId>) -> bool {
        let mut seen = HashSet::new();
        let mut seen_definitions = HashSet::new();
        let mut met_open = false;
        while let Some(node) = nodes.pop() {
            if self.complete.contains(&node) || !seen.insert(node) {
                continue;
            }
            self.steps_left = self.steps_left.saturating_sub(1);
            match &self.schema.nodes[node] {
                Node::Unknown => return true,
                Node::Unread | Node::Plain(_) => {}
                Node::Option(part) | Node::List(part) => nodes.push(*part),
                Node::Map(key, value) => nodes.extend([*key, *value]),
                Node::Tuple(parts) => nodes.extend(parts),
                Node::Defined(definition) if self.is_open(*definition) => met_open = true,
                Node::Defined(definition) if !seen_definitions.insert(*definition) => {}
                Node::Defined(definition) => match &self.schema.definitions[*definition].form {
                    Form::Struct(Body::Unknown) => return true,
                    Form::Struct(body) => nodes.extend(body.parts()),
                    Form::Enum(variants) => {
                        if variants.iter().any(|variant| variant.body == Body::Unknown) {
                            return true;
                        }
                        nodes.extend(variants.iter().flat_map(|variant| variant.body.parts()));
                    }
                },
            }
        }
        if !met_open {
            self.complete.extend(seen);
        }
        false
    }

    fn unknown_in_variant(&mut self, definition: usize, variant: usize) -> bool {
        match self.body(definition, Some(variant)) {
            Body::Unknown => true,
            Body::Absent => false,
            body => {
                let parts = body.parts().collect();
                self.search(parts)
            }
        }
    }

    /// The variant that this run reads.
    pub(super) fn choose(&mut self, definition: usize, minimal: bool) -> Result<usize, TraceError> {
        let absent = |tracer: &mut Self, variant| *tracer.body(definition, Some(variant)) == Body::Absent;
        let mut candidates = self.knowledge[definition].order.clone();
        candidates.retain(|variant| !absent(self, *variant));
        if !minimal {
            // Opened for the search only: what lies behind the enum itself is no reason to prefer a variant.
            self.enter(definition, None, false);
            let unknown = candidates.iter().find(|variant| self.unknown_in_variant(definition, **variant)).copied();
            self.stack.pop();
            if let Some(variant) = unknown {
                return Ok(variant);
            }
        }
        if let Some(variant) = self.knowledge[definition].finite {
            return Ok(variant);
        }
        let open = |variant: usize, minimal_only: bool| {
            let mut frames = self.stack.iter().filter(|frame| frame.definition == definition);
            frames.any(|frame| frame.variant == Some(variant) && (frame.minimal || !minimal_only))
        };
        let unopened = candidates.iter().find(|variant| !open(**variant, false));
        // A variant that was entered while exploring is another matter in the minimal way; one entered minimally would
        // go round in circles.
        let choice = unopened.or_else(|| candidates.iter().find(|variant| !open(**variant, true)));
        if let Some(variant) = choice {
            return Ok(*variant);
        }
        Err(self.go_round(definition))
    }

    /// Every variant of `definition` leads back to it on the path that this run took. The next run takes another: the
    /// innermost other enum that still has a choice tries its present variant last.
    fn go_round(&mut self, definition: usize) -> TraceError {
        let choosing = self.stack.iter().rev().find_map(|frame| {
            let knowledge = &self.knowledge[frame.definition];
            let has_choice = knowledge.order.len() > 1 && knowledge.finite.is_none();
            (frame.definition != definition && has_choice).then_some((frame.definition, frame.variant?))
        });
        let Some((other, variant)) = choosing else {
            let name = &self.schema.definitions[definition].name;
            return self.fail(format!("enum `{name}` has no finite value"));
        };
        let order = &mut self.knowledge[other].order;
        order.retain(|v| *v != variant);
        order.push(variant);
        self.again = true;
        TraceError("another way is tried".to_owned())
    }
}

/// The key of the definition that `V` makes a value of.
pub(super) fn key_of<V>(kind: &'static str, name: &'static str, names: &'static [&'static str]) -> Key {
    Key { value: type_name::<V>(), name, names, kind }
}
