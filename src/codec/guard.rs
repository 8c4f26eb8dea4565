//! Decoding what a peer sent: as far as it is a value of the type, and no further than the process can bear.
//!
//! The format itself bounds neither how deep values are nested, where a stack overflow would end the process, nor the
//! number of elements that take no bytes, which would keep it busy for ever. Most types can have neither, as their
//! structure tells; for the others the deserializer counts. None of them gets room for a text or for bytes on the word of
//! a length alone: the format's own deserializer would take as much as the limit of a value allows, before it looks how
//! many bytes there are.

use std::{cell::Cell, fmt};

use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor,
};

use super::{catching, decode_by, error::DecodeError};
use crate::schema::TypeDescription;

/// How deep a value of a recursive type may be nested.
const DEPTH_MAX: usize = 128;

/// Elements of lists and maps that a value may have beyond one for each of its bytes.
const WEIGHTLESS_MAX: usize = 65_536;

/// Elements that a list of a value that may be nested gets room for before they are there.
const ROOM_MAX: usize = 64;

/// Decodes the value at the beginning of bytes of which nothing is known, and says how many it took. Of the two ways to do
/// that, it is the one that the type needs.
pub(crate) type DecodePrefix<T> = fn(&[u8]) -> Result<(T, usize), DecodeError>;

/// How values of `T` are decoded from bytes of which nothing is known; to be looked up once for many. A panic of the
/// type's `Deserialize` is not caught; see [`catching`].
pub(crate) fn untrusted<T: DeserializeOwned + 'static>() -> DecodePrefix<T> {
    let hazards = TypeDescription::of::<T>().hazards();
    if hazards.recursive || hazards.weightless { decode_guarded::<T> } else { decode_sparing::<T> }
}

/// As [`decode`](super::decode), for bytes of which nothing is known.
pub(crate) fn decode_untrusted<T: DeserializeOwned + 'static>(bytes: &[u8]) -> Result<T, DecodeError> {
    decode_whole(untrusted::<T>(), bytes)
}

/// Decodes one value that takes up all of `bytes`; a panic of its `Deserialize` is an error.
pub(crate) fn decode_whole<T>(decode: DecodePrefix<T>, bytes: &[u8]) -> Result<T, DecodeError> {
    catching(|| {
        let (value, used) = decode(bytes)?;
        match bytes.len() - used {
            0 => Ok(value),
            count => Err(DecodeError::TrailingBytes { count }),
        }
    })
}

/// As [`decode_prefix`](super::decode_prefix), for bytes of which nothing is known, and types that are known to be
/// harmless.
pub(super) fn decode_sparing<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, usize), DecodeError> {
    decode_by(Guarded { inner: std::marker::PhantomData::<T>, guard: &Unwatched }, bytes)
}

fn decode_guarded<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, usize), DecodeError> {
    decode_guarded_by(std::marker::PhantomData::<T>, bytes)
}

/// Decodes a value of a type that is only known by its description.
#[cfg(feature = "cli")]
pub(crate) fn decode_shown(
    schema: &crate::schema::Schema,
    bytes: &[u8],
) -> Result<(serde_json::Value, usize), DecodeError> {
    let budget = crate::schema::Budget::for_bytes(bytes.len());
    decode_guarded_by(crate::schema::Shown::new(schema, &budget), bytes)
}

fn decode_guarded_by<'de, S: DeserializeSeed<'de>>(
    seed: S,
    bytes: &'de [u8],
) -> Result<(S::Value, usize), DecodeError> {
    let guard = Guard {
        depth: Cell::new(0),
        elements_left: Cell::new(bytes.len().saturating_add(WEIGHTLESS_MAX)),
        fault: Cell::new(None),
    };
    let seed = Guarded { inner: seed, guard: &guard };
    decode_by(seed, bytes).map_err(|error| guard.fault.take().unwrap_or(error))
}

/// What is asked on the way through a value.
trait Watch {
    /// Runs `decode` one level further down.
    fn within<R, E: serde::de::Error>(&self, decode: impl FnOnce() -> Result<R, E>) -> Result<R, E>;

    /// One more element of a list or map.
    fn element<E: serde::de::Error>(&self) -> Result<(), E>;

    /// For how many elements a list or map that claims to have so many may get room beforehand. Whoever makes it takes no
    /// more than a mebibyte, but that for each list inside another.
    fn room(&self, claimed: usize) -> usize;
}

/// For types whose values can do no harm.
struct Unwatched;

impl Watch for Unwatched {
    #[inline]
    fn within<R, E: serde::de::Error>(&self, decode: impl FnOnce() -> Result<R, E>) -> Result<R, E> {
        decode()
    }

    #[inline]
    fn element<E: serde::de::Error>(&self) -> Result<(), E> {
        Ok(())
    }

    /// Lists are inside others only as often as the type says.
    #[inline]
    fn room(&self, claimed: usize) -> usize {
        claimed
    }
}

struct Guard {
    depth: Cell<usize>,
    elements_left: Cell<usize>,
    /// What was found, which the format's own errors cannot tell.
    fault: Cell<Option<DecodeError>>,
}

impl Guard {
    fn fail<E: serde::de::Error>(&self, fault: DecodeError) -> E {
        let error = E::custom(&fault);
        self.fault.set(Some(fault));
        error
    }
}

impl Watch for Guard {
    fn within<R, E: serde::de::Error>(&self, decode: impl FnOnce() -> Result<R, E>) -> Result<R, E> {
        if self.depth.get() == DEPTH_MAX {
            return Err(self.fail(DecodeError::TooDeep { depth_max: DEPTH_MAX }));
        }
        self.depth.set(self.depth.get() + 1);
        let decoded = decode();
        self.depth.set(self.depth.get() - 1);
        decoded
    }

    fn element<E: serde::de::Error>(&self) -> Result<(), E> {
        match self.elements_left.get().checked_sub(1) {
            Some(left) => {
                self.elements_left.set(left);
                Ok(())
            }
            None => Err(self.fail(DecodeError::TooManyElements)),
        }
    }

    fn room(&self, claimed: usize) -> usize {
        claimed.min(ROOM_MAX)
    }
}

/// A part of serde's machinery, watched.
struct Guarded<'g, I, G> {
    inner: I,
    guard: &'g G,
}

impl<'g, I, G> Guarded<'g, I, G> {
    fn wrap<J>(&self, inner: J) -> Guarded<'g, J, G> {
        Guarded { inner, guard: self.guard }
    }
}

/// A watched visitor, which tells whether the elements that it is shown are those of a list or map.
struct Watched<'g, V, G> {
    visitor: V,
    guard: &'g G,
    counts: bool,
}

macro_rules! forward {
    ($($method:ident($($argument:ident: $type:ty),*) counts $counts:literal;)*) => {
        $(fn $method<V: Visitor<'de>>(self, $($argument: $type,)* visitor: V) -> Result<V::Value, D::Error> {
            let Self { inner, guard } = self;
            guard.within(|| inner.$method($($argument,)* Watched { visitor, guard, counts: $counts }))
        })*
    };
}

impl<'de, D: Deserializer<'de>, G: Watch> Deserializer<'de> for Guarded<'_, D, G> {
    type Error = D::Error;

    forward! {
        deserialize_any() counts true;
        deserialize_bool() counts false;
        deserialize_i8() counts false;
        deserialize_i16() counts false;
        deserialize_i32() counts false;
        deserialize_i64() counts false;
        deserialize_i128() counts false;
        deserialize_u8() counts false;
        deserialize_u16() counts false;
        deserialize_u32() counts false;
        deserialize_u64() counts false;
        deserialize_u128() counts false;
        deserialize_f32() counts false;
        deserialize_f64() counts false;
        deserialize_char() counts false;
        deserialize_str() counts false;
        deserialize_bytes() counts false;
        deserialize_option() counts false;
        deserialize_unit() counts false;
        deserialize_unit_struct(name: &'static str) counts false;
        deserialize_newtype_struct(name: &'static str) counts false;
        deserialize_seq() counts true;
        deserialize_tuple(length: usize) counts false;
        deserialize_tuple_struct(name: &'static str, length: usize) counts false;
        deserialize_map() counts true;
        deserialize_struct(name: &'static str, fields: &'static [&'static str]) counts false;
        deserialize_enum(name: &'static str, variants: &'static [&'static str]) counts false;
        deserialize_identifier() counts false;
        deserialize_ignored_any() counts true;
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        let Self { inner, guard } = self;
        guard.within(|| inner.deserialize_str(Owning(visitor)))
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        let Self { inner, guard } = self;
        guard.within(|| inner.deserialize_bytes(Owning(visitor)))
    }

    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

/// A visitor that asked for a text or bytes of its own. It gets a copy of those that are there.
struct Owning<V>(V);

impl<'de, V: Visitor<'de>> Visitor<'de> for Owning<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(f)
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<V::Value, E> {
        self.0.visit_string(value.to_owned())
    }

    fn visit_bytes<E: serde::de::Error>(self, value: &[u8]) -> Result<V::Value, E> {
        self.0.visit_byte_buf(value.to_owned())
    }
}

macro_rules! visit {
    ($($method:ident: $type:ty,)*) => {
        $(fn $method<E: serde::de::Error>(self, value: $type) -> Result<V::Value, E> {
            self.visitor.$method(value)
        })*
    };
}

impl<'de, V: Visitor<'de>, G: Watch> Visitor<'de> for Watched<'_, V, G> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.expecting(f)
    }

    visit! {
        visit_bool: bool,
        visit_i8: i8,
        visit_i16: i16,
        visit_i32: i32,
        visit_i64: i64,
        visit_i128: i128,
        visit_u8: u8,
        visit_u16: u16,
        visit_u32: u32,
        visit_u64: u64,
        visit_u128: u128,
        visit_f32: f32,
        visit_f64: f64,
        visit_char: char,
        visit_str: &str,
        visit_borrowed_str: &'de str,
        visit_string: String,
        visit_bytes: &[u8],
        visit_borrowed_bytes: &'de [u8],
        visit_byte_buf: Vec<u8>,
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_unit()
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_none()
    }

    fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        self.visitor.visit_some(Guarded { inner, guard: self.guard })
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        self.visitor.visit_newtype_struct(Guarded { inner, guard: self.guard })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        let elements = Elements { inner, guard: self.guard, counts: self.counts };
        self.visitor.visit_seq(elements)
    }

    fn visit_map<A: MapAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        let elements = Elements { inner, guard: self.guard, counts: self.counts };
        self.visitor.visit_map(elements)
    }

    fn visit_enum<A: EnumAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_enum(Guarded { inner, guard: self.guard })
    }
}

/// The parts of a list, a map, a tuple or a struct.
struct Elements<'g, A, G> {
    inner: A,
    guard: &'g G,
    counts: bool,
}

impl<'de, A: SeqAccess<'de>, G: Watch> SeqAccess<'de> for Elements<'_, A, G> {
    type Error = A::Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, A::Error> {
        if self.counts {
            self.guard.element()?;
        }
        self.inner.next_element_seed(Guarded { inner: seed, guard: self.guard })
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint().map(|claimed| self.guard.room(claimed))
    }
}

impl<'de, A: MapAccess<'de>, G: Watch> MapAccess<'de> for Elements<'_, A, G> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        if self.counts {
            self.guard.element()?;
        }
        self.inner.next_key_seed(Guarded { inner: seed, guard: self.guard })
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, A::Error> {
        self.inner.next_value_seed(Guarded { inner: seed, guard: self.guard })
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint().map(|claimed| self.guard.room(claimed))
    }
}

impl<'de, S: DeserializeSeed<'de>, G: Watch> DeserializeSeed<'de> for Guarded<'_, S, G> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        let watched = self.wrap(deserializer);
        self.inner.deserialize(watched)
    }
}

impl<'g, 'de, A: EnumAccess<'de>, G: Watch> EnumAccess<'de> for Guarded<'g, A, G> {
    type Error = A::Error;
    type Variant = Guarded<'g, A::Variant, G>;

    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, Self::Variant), A::Error> {
        let Self { inner, guard } = self;
        let (value, variant) = inner.variant_seed(Guarded { inner: seed, guard })?;
        Ok((value, Guarded { inner: variant, guard }))
    }
}

impl<'de, A: VariantAccess<'de>, G: Watch> VariantAccess<'de> for Guarded<'_, A, G> {
    type Error = A::Error;

    fn unit_variant(self) -> Result<(), A::Error> {
        self.inner.unit_variant()
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, A::Error> {
        let Self { inner, guard } = self;
        inner.newtype_variant_seed(Guarded { inner: seed, guard })
    }

    fn tuple_variant<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, A::Error> {
        let Self { inner, guard } = self;
        guard.within(|| inner.tuple_variant(length, Watched { visitor, guard, counts: false }))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        let Self { inner, guard } = self;
        guard.within(|| inner.struct_variant(fields, Watched { visitor, guard, counts: false }))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;
    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::codec::encode_into;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Chain {
        End,
        Link(Box<Chain>),
    }

    #[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
    struct Nothing {
        unit: (),
        nothing: [u8; 0],
    }

    #[derive(Debug)]
    struct Panics;

    impl<'de> Deserialize<'de> for Panics {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            match u8::deserialize(deserializer)? {
                7 => panic!("seven"),
                _ => Ok(Self),
            }
        }
    }

    fn encoded<T: Serialize>(value: &T) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode_into(value, &mut bytes).expect("the value can be encoded");
        bytes
    }

    #[test]
    fn nesting_without_end_is_refused() {
        let mut bytes = vec![1; 1 << 20];
        bytes.push(0);
        assert_eq!(decode_untrusted::<Chain>(&bytes), Err(DecodeError::TooDeep { depth_max: DEPTH_MAX }));
        let chain = (0..20).fold(Chain::End, |chain, _| Chain::Link(Box::new(chain)));
        assert_eq!(decode_untrusted(&encoded(&chain)), Ok(chain));
    }

    #[test]
    fn elements_that_take_no_bytes_are_counted() {
        let many = encoded(&u64::MAX);
        assert_eq!(decode_untrusted::<Vec<()>>(&many), Err(DecodeError::TooManyElements));
        assert_eq!(decode_untrusted::<Vec<Nothing>>(&many), Err(DecodeError::TooManyElements));
        assert_eq!(decode_untrusted::<BTreeSet<Nothing>>(&many), Err(DecodeError::TooManyElements));
        assert_eq!(decode_untrusted::<BTreeMap<(), ()>>(&many), Err(DecodeError::TooManyElements));
        assert_eq!(decode_untrusted::<Vec<()>>(&encoded(&1000u64)).map(|units| units.len()), Ok(1000));
    }

    #[test]
    fn a_length_alone_gets_no_room() {
        let claims = [encoded(&(1u64 << 30)), b"short".to_vec()].concat();
        let held = |decode: &dyn Fn(&[u8]) -> DecodeError| {
            let mut error = None;
            let allocated = allocation_counter::measure(|| error = Some(decode(&claims)));
            assert_eq!(error, Some(DecodeError::Truncated));
            allocated.bytes_max
        };
        // What is looked up about a type once is not counted.
        let _ = decode_untrusted::<(String, Vec<()>)>(&[]);
        let _ = decode_untrusted::<String>(&[]);
        assert!(held(&|bytes| decode_untrusted::<String>(bytes).unwrap_err()) < 1_000);
        assert!(held(&|bytes| crate::codec::decode::<String>(bytes).unwrap_err()) < 1_000);
        assert!(held(&|bytes| decode_untrusted::<(String, Vec<()>)>(bytes).unwrap_err()) < 1_000);
        assert_eq!(decode_untrusted(&encoded(&"text")), Ok("text".to_owned()));
    }

    #[test]
    fn nested_lists_that_claim_many_elements_get_no_room_for_them() {
        #[derive(Debug, PartialEq, Deserialize)]
        struct Tree(u64, Vec<Tree>);
        // Each has one element so far, which is again one, and says that there are many more.
        let claims = [&[1][..], &encoded(&(1u64 << 30))].concat().repeat(100);
        let _ = decode_untrusted::<Tree>(&[]);
        let mut error = None;
        let allocated = allocation_counter::measure(|| error = decode_untrusted::<Tree>(&claims).err());
        assert!(matches!(error, Some(DecodeError::Truncated | DecodeError::TooDeep { .. })), "{error:?}");
        assert!(allocated.bytes_max < 1 << 20, "{allocated:?}");
    }

    #[test]
    fn only_types_that_need_it_are_watched() {
        let hazards = |description: std::sync::Arc<TypeDescription>| {
            let hazards = description.hazards();
            (hazards.recursive, hazards.weightless)
        };
        assert_eq!(hazards(TypeDescription::of::<Vec<(u8, String)>>()), (false, false));
        assert_eq!(hazards(TypeDescription::of::<Nothing>()), (false, false));
        assert_eq!(hazards(TypeDescription::of::<Vec<Vec<Nothing>>>()), (false, true));
        assert_eq!(hazards(TypeDescription::of::<Chain>()), (true, false));
    }

    #[test]
    fn a_panic_of_user_code_is_an_error() {
        let panicked = DecodeError::Panicked { message: "seven".to_owned() };
        assert_eq!(decode_untrusted::<Panics>(&[7]).unwrap_err(), panicked);
        assert!(decode_untrusted::<Panics>(&[8]).is_ok());
        assert_eq!(decode_untrusted::<u8>(&[1, 2]), Err(DecodeError::TrailingBytes { count: 1 }));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in any::<Vec<u8>>()) {
            let _ = decode_untrusted::<Chain>(&bytes);
            let _ = decode_untrusted::<BTreeMap<u8, Vec<Option<Chain>>>>(&bytes);
            if let Ok(description) = decode_untrusted::<TypeDescription>(&bytes) {
                description.difference(&TypeDescription::of::<Chain>());
            }
        }
    }
}
