//! How a type is made up.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// The structure of a type. Node 0 is the type itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Schema {
    pub(super) nodes: Vec<Node>,
    /// Each struct and enum once, however often it occurs: that is how recursion is finite here.
    pub(super) definitions: Vec<Definition>,
}

/// A name in a type. Those of this program are part of it, those of a peer were received.
pub(super) type Name = Cow<'static, str>;

/// An index into `Schema::nodes`.
pub(super) type NodeId = usize;

/// One place in a type where a value stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Node {
    /// Not reached by any run so far.
    Unknown,
    /// Offered to the type's `Deserialize`, which did not read it.
    Unread,
    /// A value without parts; the label is its whole identity.
    Plain(Name),
    Option(NodeId),
    List(NodeId),
    Map(NodeId, NodeId),
    Tuple(Vec<NodeId>),
    /// An index into `Schema::definitions`.
    Defined(usize),
}

/// A struct or an enum.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Definition {
    pub(super) name: Name,
    pub(super) form: Form,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Form {
    Struct(Body),
    Enum(Vec<Variant>),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Variant {
    pub(super) name: Name,
    pub(super) body: Body,
}

/// The parts of a struct or of a variant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Body {
    /// Not reached by any run so far.
    Unknown,
    /// The type refuses this variant's index: aliases lengthen the list of names that serde hands out.
    Absent,
    Unit,
    Newtype(NodeId),
    Tuple(Vec<NodeId>),
    Fields(Vec<(Name, NodeId)>),
}

impl Body {
    pub(super) fn parts(&self) -> impl Iterator<Item = NodeId> + '_ {
        let (one, many, named): (Option<NodeId>, &[NodeId], &[(Name, NodeId)]) = match self {
            Self::Unknown | Self::Absent | Self::Unit => (None, &[], &[]),
            Self::Newtype(node) => (Some(*node), &[], &[]),
            Self::Tuple(nodes) => (None, nodes, &[]),
            Self::Fields(fields) => (None, &[], fields),
        };
        one.into_iter().chain(many.iter().copied()).chain(named.iter().map(|(_, node)| *node))
    }
}
