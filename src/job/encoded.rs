//! A job on its way to another process.

use serde::{Deserialize, Serialize};

use crate::{codec, schema::Fingerprint};

/// A job on its way to another process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EncodedJob {
    pub name: String,
    pub version: u32,
    pub fingerprint: Fingerprint,
    /// Moved as one piece, because there may be many megabytes of them.
    #[serde(with = "codec::bytes")]
    pub parameters: Vec<u8>,
}
