//! What a stream of items runs between.

use std::sync::Arc;

use super::access::Access;
use crate::{bridge::outbound::Outbound, link::NearLink};

/// Between which a stream of items runs.
pub(super) struct Ends {
    pub link: Arc<dyn NearLink>,
    pub outbound: Arc<Outbound>,
    pub access: Access,
}
