//! What a stream of items runs between.

use std::sync::Arc;

use super::access::Access;
use crate::{bridge::outbound::Outbound, link::Host};

/// Between which a stream of items runs.
pub(super) struct Ends {
    pub host: Arc<dyn Host>,
    pub outbound: Arc<Outbound>,
    pub access: Access,
}
