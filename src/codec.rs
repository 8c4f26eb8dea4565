//! Values to bytes and back. The only file that names bincode, so that it can be replaced.
//!
//! The format of a value is bincode 2 in its standard configuration: little endian, variable-length integers, fields by
//! position, enum variants by index. Runs of items of one type lie in columns where the type allows it ([`columns`]). Neither
//! describes itself, so both sides must agree on the type beforehand; see [`crate::schema`]. Pure: no I/O, no clock.

mod columns;
mod error;
#[cfg(any(test, fuzzing))]
#[allow(clippy::missing_panics_doc, reason = "to panic is how a target fails")]
pub(crate) mod fuzz;
mod guard;

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
};

use serde::{
    Serialize,
    de::{DeserializeOwned, DeserializeSeed},
};

#[cfg(feature = "cli")]
pub(crate) use self::columns::ShownItems;
#[cfg(all(test, feature = "cli"))]
pub(crate) use self::guard::decode_shown;
pub(crate) use self::{
    columns::{DecodeItems, Run, TypedItems},
    error::{DecodeError, EncodeError, VALUE_BYTES_MAX},
    guard::{DecodePrefix, decode_untrusted, decode_whole, untrusted},
};

/// What the decoder may claim for one value. It counts integers by their decoded width, and the widest one (16 bytes)
/// can stand in a single encoded byte; so this is the smallest limit that never refuses what `encode_into` accepted.
const DECODED_BYTES_MAX: usize = 16 * VALUE_BYTES_MAX;

const CONFIG: bincode::config::Configuration<
    bincode::config::LittleEndian,
    bincode::config::Varint,
    bincode::config::Limit<DECODED_BYTES_MAX>,
> = bincode::config::standard().with_limit::<DECODED_BYTES_MAX>();

/// What [`catching`] caught.
pub(crate) struct Panicked {
    message: String,
}

impl From<Panicked> for EncodeError {
    fn from(Panicked { message }: Panicked) -> Self {
        Self::Panicked { message }
    }
}

impl From<Panicked> for DecodeError {
    fn from(Panicked { message }: Panicked) -> Self {
        Self::Panicked { message }
    }
}

/// Runs `code`, which encodes or decodes values of users' types; a panic of theirs is an error like any other.
///
/// Around a whole batch rather than each item, so that items cost nothing more. Values that are not kept are best dropped
/// in here too, because `Drop` is user code as well.
pub(crate) fn catching<R, E: From<Panicked>>(code: impl FnOnce() -> Result<R, E>) -> Result<R, E> {
    // What is left half-way when user code panics is dropped while unwinding; what callers keep outside is as far as it
    // had come, item by item.
    catch_unwind(AssertUnwindSafe(code)).unwrap_or_else(|panic| Err(Panicked { message: panic_text(&*panic) }.into()))
}

/// Bytes that are encoded and decoded in one piece, for `#[serde(with)]`. They lie on the wire as a list of `u8` does.
pub(crate) mod bytes {
    use std::fmt;

    use serde::{Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        struct Visitor;

        impl serde::de::Visitor<'_> for Visitor {
            type Value = Vec<u8>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }

            fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
                Ok(bytes)
            }
        }

        deserializer.deserialize_byte_buf(Visitor)
    }
}

/// The text of a caught panic.
fn panic_text(panic: &(dyn Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text.clone()
    } else {
        "a value that is not text".to_owned()
    }
}

/// As [`encode_into`]; a panic of the type's `Serialize` is an error.
pub(crate) fn encode_caught<T: Serialize + ?Sized>(value: &T, into: &mut Vec<u8>) -> Result<(), EncodeError> {
    let start = into.len();
    let encoded = catching(|| encode_into(value, into));
    if encoded.is_err() {
        into.truncate(start);
    }
    encoded
}

/// Appends the encoding of `value`. If that fails, `into` is as it was before; a panic of the type's `Serialize` leaves it
/// as far as it had come.
pub(crate) fn encode_into<T: Serialize + ?Sized>(value: &T, into: &mut Vec<u8>) -> Result<(), EncodeError> {
    let start = into.len();
    let mut tail = Tail { into, end: start.saturating_add(VALUE_BYTES_MAX), full: false };
    let encoded = bincode::serde::encode_into_writer(value, &mut tail, CONFIG);
    let full = tail.full;
    encoded.map_err(|error| {
        into.truncate(start);
        if full { EncodeError::TooLarge { limit_bytes: VALUE_BYTES_MAX } } else { encode_error(error) }
    })
}

/// Decodes one value that takes up all of `bytes`.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    let (value, used) = guard::decode_sparing(bytes)?;
    match bytes.len() - used {
        0 => Ok(value),
        count => Err(DecodeError::TrailingBytes { count }),
    }
}

/// Decodes the value at the beginning of `bytes`, and says how many bytes it took: possibly none, for a type such as
/// `()`. So a run of values cannot be told from its bytes alone; their number must travel beside them. For bytes that were
/// encoded here: others may have it take as much room as a length in them claims.
pub(crate) fn decode_prefix<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, usize), DecodeError> {
    bincode::serde::decode_from_slice(bytes, CONFIG).map_err(decode_error)
}

/// As [`decode_prefix`], by a seed, which sees the deserializer.
fn decode_by<'de, S: DeserializeSeed<'de>>(seed: S, bytes: &'de [u8]) -> Result<(S::Value, usize), DecodeError> {
    bincode::serde::seed_decode_from_slice(seed, bytes, CONFIG).map_err(decode_error)
}

/// The end of a vector, which takes bytes up to a limit: a value that is too large is found while it is written, not
/// when it has already filled the memory.
struct Tail<'a> {
    into: &'a mut Vec<u8>,
    end: usize,
    full: bool,
}

impl bincode::enc::write::Writer for Tail<'_> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> Result<(), bincode::error::EncodeError> {
        if bytes.len() > self.end - self.into.len() {
            self.full = true;
            return Err(bincode::error::EncodeError::UnexpectedEnd);
        }
        self.into.extend_from_slice(bytes);
        Ok(())
    }
}

fn encode_error(error: bincode::error::EncodeError) -> EncodeError {
    use bincode::{error::EncodeError as E, serde::EncodeError as S};
    match error {
        E::Serde(S::SequenceMustHaveLength) => EncodeError::UnknownLength,
        E::Other(message) => EncodeError::Refused(message.to_owned()),
        E::OtherString(message) => EncodeError::Refused(message),
        other => EncodeError::Refused(other.to_string()),
    }
}

fn decode_error(error: bincode::error::DecodeError) -> DecodeError {
    use bincode::{error::DecodeError as E, serde::DecodeError as S};
    match error {
        E::UnexpectedEnd { .. } => DecodeError::Truncated,
        E::LimitExceeded => DecodeError::TooLarge { limit_bytes: DECODED_BYTES_MAX },
        E::Serde(S::AnyNotSupported) => DecodeError::NotSelfDescribing { method: "deserialize_any" },
        E::Serde(S::IdentifierNotSupported) => DecodeError::NotSelfDescribing { method: "deserialize_identifier" },
        E::Serde(S::IgnoredAnyNotSupported) => DecodeError::NotSelfDescribing { method: "deserialize_ignored_any" },
        E::Other(message) => DecodeError::Invalid(message.to_owned()),
        E::OtherString(message) => DecodeError::Invalid(message),
        other => DecodeError::Invalid(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    enum Shape {
        Point,
        Circle(f64),
        Named { name: String, sides: Option<u8>, notes: BTreeMap<String, Vec<i128>> },
    }

    fn encoded<T: Serialize>(value: &T) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode_into(value, &mut bytes).expect("the value can be encoded");
        bytes
    }

    #[test]
    fn the_format_does_not_change() {
        assert_eq!(encoded(&(1u8, 300u64, "ab", Some(true))), [1, 251, 44, 1, 2, b'a', b'b', 1, 1]);
        assert_eq!(encoded(&Shape::Circle(1.0)), [1, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f]);
    }

    #[test]
    fn trailing_and_missing_bytes_are_errors() {
        let mut bytes = encoded(&(7u32, "seven"));
        assert_eq!(decode::<(u32, String)>(&bytes), Ok((7, "seven".to_owned())));
        bytes.push(0);
        assert_eq!(decode::<(u32, String)>(&bytes), Err(DecodeError::TrailingBytes { count: 1 }));
        bytes.truncate(4);
        assert_eq!(decode::<(u32, String)>(&bytes), Err(DecodeError::Truncated));
    }

    #[test]
    fn a_run_of_values_is_decoded_one_by_one() {
        let mut bytes = Vec::new();
        for n in 0..1000u64 {
            encode_into(&n, &mut bytes).expect("a number can be encoded");
        }
        let mut rest = &bytes[..];
        for n in 0..1000u64 {
            let (value, used) = decode_prefix::<u64>(rest).expect("a number follows");
            assert_eq!(value, n);
            rest = &rest[used..];
        }
        assert!(rest.is_empty());
    }

    #[test]
    fn a_claimed_length_beyond_the_limit_is_refused() {
        assert!(matches!(decode::<String>(&encoded(&u64::MAX)), Err(DecodeError::TooLarge { .. })));
        assert_eq!(decode::<String>(&encoded(&1_000_000u64)), Err(DecodeError::Truncated));
    }

    #[test]
    fn a_failed_encode_leaves_the_buffer_as_it_was() {
        struct HalfWritten;
        impl Serialize for HalfWritten {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                use serde::ser::{Error, SerializeTuple};
                let mut tuple = serializer.serialize_tuple(2)?;
                tuple.serialize_element(&1u64)?;
                Err(S::Error::custom("not today"))
            }
        }
        let mut bytes = vec![9];
        assert_eq!(encode_into(&HalfWritten, &mut bytes), Err(EncodeError::Refused("not today".to_owned())));
        assert_eq!(bytes, [9]);
        let large = "x".repeat(VALUE_BYTES_MAX);
        let error = encode_into(&large, &mut bytes);
        assert_eq!(error, Err(EncodeError::TooLarge { limit_bytes: VALUE_BYTES_MAX }));
        assert_eq!(bytes, [9]);
    }

    #[test]
    fn the_narrowest_encoding_of_the_widest_integers_is_within_the_limit() {
        let numbers = vec![1u128; 1 << 16];
        assert_eq!(decode::<Vec<u128>>(&encoded(&numbers)).as_ref().map(Vec::len), Ok(1 << 16));
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(
            name in ".{0,8}",
            sides in any::<Option<u8>>(),
            notes in prop::collection::btree_map(".{0,4}", prop::collection::vec(any::<i128>(), 0..3), 0..4),
            radius in any::<i32>(),
        ) {
            for shape in [Shape::Point, Shape::Circle(f64::from(radius)), Shape::Named { name, sides, notes }] {
                prop_assert_eq!(decode::<Shape>(&encoded(&shape)), Ok(shape.clone()));
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in any::<Vec<u8>>()) {
            let _ = decode::<Shape>(&bytes);
            let _ = decode::<(String, Vec<u8>, Option<char>, u128)>(&bytes);
        }
    }
}
