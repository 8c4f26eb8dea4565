//! The splits of a job's sources as data: made once, where the job is accepted, and used wherever its flow is built.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    codec::{self, DecodeError, EncodeError},
    dataplane::chain::OperatorInfo,
    job::BuildRefusal,
};

/// The splits of the replayable sources of a flow, in order of their chains.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Splits(pub Vec<SourceSplits>);

/// What the instances of one source read, each one split.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SourceSplits {
    /// The name of the source's operator.
    pub source: String,
    pub splits: Vec<EncodedSplit>,
}

/// One split, whose type the source alone knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EncodedSplit(#[serde(with = "codec::bytes")] Vec<u8>);

impl EncodedSplit {
    pub fn of<T: Serialize>(split: &T) -> Result<Self, EncodeError> {
        let mut bytes = Vec::new();
        codec::encode_caught(split, &mut bytes)?;
        Ok(Self(bytes))
    }

    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, DecodeError> {
        codec::catching(|| codec::decode(&self.0))
    }
}

impl Splits {
    /// Whether these are the splits of the flow's replayable sources: another flow's may well decode, too.
    ///
    /// # Errors
    ///
    /// Names the first source for which there are none, or that the flow does not have.
    pub fn check(&self, sources: &[&OperatorInfo]) -> Result<(), BuildRefusal> {
        for (place, source) in sources.iter().enumerate() {
            if self.0.get(place).is_none_or(|of| of.source != source.name) {
                return Err(BuildRefusal::SplitsMissing { source_name: source.name.clone() });
            }
        }
        match self.0.get(sources.len()) {
            Some(of) => Err(BuildRefusal::SplitsUnclaimed { source_name: of.source.clone() }),
            None => Ok(()),
        }
    }
}
