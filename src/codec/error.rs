//! Why values do not become bytes, or bytes values.

/// Encoded bytes of one value at most.
pub(crate) const VALUE_BYTES_MAX: usize = 128 << 20;

/// Why a value could not be encoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum EncodeError {
    #[error("the value encodes to more than {limit_bytes} bytes")]
    TooLarge { limit_bytes: usize },
    #[error("the value contains a sequence of unknown length, which cannot be encoded")]
    UnknownLength,
    /// The type's `Serialize` refused, in its own words.
    #[error("{0}")]
    Refused(String),
    #[error("the type's `Serialize` panicked: {message}")]
    Panicked { message: String },
}

/// Why bytes could not be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum DecodeError {
    #[error("the bytes end before the value does")]
    Truncated,
    #[error("{count} bytes follow the value")]
    TrailingBytes { count: usize },
    #[error("the value is larger than the limit of {limit_bytes} bytes")]
    TooLarge { limit_bytes: usize },
    #[error("the type decodes itself by `{method}`, for which the bytes carry no description")]
    NotSelfDescribing { method: &'static str },
    #[error("the value is nested deeper than {depth_max} levels")]
    TooDeep { depth_max: usize },
    #[error("the value claims more elements than so few bytes can mean")]
    TooManyElements,
    #[error("the type's `Deserialize` panicked: {message}")]
    Panicked { message: String },
    #[error("the bytes are no such value: {0}")]
    Invalid(String),
}
