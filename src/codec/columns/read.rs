//! Items out of columns, by their own `Deserialize`.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, SeqAccess, Visitor};

use crate::{
    codec::error::DecodeError,
    schema::{Column, Fixed},
};

/// The place of the next part once one did not fit: no item is taken after that, also if its `Deserialize` passes over the
/// error.
const SPOILT: usize = usize::MAX / 2;

/// Decodes so many items that lie in columns at the beginning of `bytes`, and says how many bytes these take.
pub(super) fn decode<'de, S: DeserializeSeed<'de> + Copy>(
    columns: &[Column],
    items: usize,
    seed: S,
    bytes: &'de [u8],
    mut into: impl FnMut(S::Value),
) -> Result<usize, DecodeError> {
    let (mut rest, mut cursors) = (bytes, Vec::with_capacity(columns.len()));
    split(columns, items, &mut rest, &mut cursors)?;
    let mut reader = Reader { columns: cursors, at: 0 };
    for _ in 0..items {
        reader.at = 0;
        let item = seed.deserialize(&mut reader).map_err(|Fault(error)| *error)?;
        if reader.at != reader.columns.len() {
            return Err(*misfit().0);
        }
        into(item);
    }
    Ok(bytes.len() - rest.len())
}

/// What is left of a column.
struct Cursor<'de> {
    column: Column,
    /// Values, or the lengths of texts.
    values: &'de [u8],
    text: &'de str,
    bytes: &'de [u8],
}

/// Finds the columns of so many items: nothing is read that is not there.
fn split<'de>(
    columns: &[Column],
    items: usize,
    rest: &mut &'de [u8],
    cursors: &mut Vec<Cursor<'de>>,
) -> Result<(), DecodeError> {
    let mut left = columns;
    while let Some((column, after)) = left.split_first() {
        left = after;
        let column = *column;
        let width = match column {
            Column::Fixed(fixed) => fixed.width(),
            Column::Option { .. } => 1,
            Column::Text | Column::Bytes => 4,
        };
        // At most 65,536 times 16.
        let values = take(rest, items * width)?;
        let (mut text, mut bytes) = ("", &[][..]);
        match column {
            Column::Text => {
                text = std::str::from_utf8(take(rest, lengths(values)?)?)
                    .map_err(|_| DecodeError::Invalid("a text that is not UTF-8".to_owned()))?;
            }
            Column::Bytes => bytes = take(rest, lengths(values)?)?,
            Column::Fixed(_) | Column::Option { .. } => {}
        }
        cursors.push(Cursor { column, values, text, bytes });
        if let Column::Option { columns } = column {
            let present = values.iter().filter(|present| **present == 1).count();
            let (inner, after) = left.split_at(usize::from(columns));
            split(inner, present, rest, cursors)?;
            left = after;
        }
    }
    Ok(())
}

fn take<'de>(rest: &mut &'de [u8], length: usize) -> Result<&'de [u8], DecodeError> {
    let (taken, left) = rest.split_at_checked(length).ok_or(DecodeError::Truncated)?;
    *rest = left;
    Ok(taken)
}

/// The sum of the lengths. One that is beyond all numbers is beyond the bytes too.
fn lengths(values: &[u8]) -> Result<usize, DecodeError> {
    let (lengths, _) = values.as_chunks::<4>();
    let sum: u64 = lengths.iter().map(|length| u64::from(u32::from_le_bytes(*length))).sum();
    usize::try_from(sum).map_err(|_| DecodeError::Truncated)
}

struct Reader<'de> {
    columns: Vec<Cursor<'de>>,
    /// The column that the next part of the item lies in.
    at: usize,
}

/// Small, since it is part of the result of every part.
#[derive(Debug)]
struct Fault(Box<DecodeError>);

#[cold]
fn invalid(what: &str) -> Fault {
    Fault(Box::new(DecodeError::Invalid(what.to_owned())))
}

#[cold]
fn misfit() -> Fault {
    invalid("the type does not read the parts that it says it has")
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Fault {}

impl serde::de::Error for Fault {
    fn custom<M: fmt::Display>(message: M) -> Self {
        Self(Box::new(DecodeError::Invalid(message.to_string())))
    }
}

impl<'de> Reader<'de> {
    #[inline]
    fn cursor(&mut self, column: Column) -> Result<&mut Cursor<'de>, Fault> {
        let at = self.at;
        self.at += 1;
        let Some(cursor) = self.columns.get_mut(at).filter(|cursor| cursor.column == column) else {
            self.at = SPOILT;
            return Err(misfit());
        };
        Ok(cursor)
    }

    #[inline]
    fn fixed<const N: usize>(&mut self, fixed: Fixed) -> Result<[u8; N], Fault> {
        self.cursor(Column::Fixed(fixed))?.value()
    }

    #[inline]
    fn text(&mut self) -> Result<&'de str, Fault> {
        let cursor = self.cursor(Column::Text)?;
        let length = cursor.length()?;
        let parts = cursor.text.split_at_checked(length);
        let (text, rest) = parts.ok_or_else(|| invalid("a text that is not UTF-8"))?;
        cursor.text = rest;
        Ok(text)
    }

    #[inline]
    fn bytes(&mut self) -> Result<&'de [u8], Fault> {
        let cursor = self.cursor(Column::Bytes)?;
        let length = cursor.length()?;
        let (bytes, rest) = cursor.bytes.split_at_checked(length).ok_or_else(misfit)?;
        cursor.bytes = rest;
        Ok(bytes)
    }
}

impl Cursor<'_> {
    #[inline]
    fn value<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let (value, rest) = self.values.split_first_chunk::<N>().ok_or_else(misfit)?;
        self.values = rest;
        Ok(*value)
    }

    #[inline]
    fn length(&mut self) -> Result<usize, Fault> {
        self.value().map(|length| u32::from_le_bytes(length) as usize)
    }
}

macro_rules! fixed {
    ($($method:ident: $type:ty as $fixed:ident, $visit:ident;)*) => {
        $(#[inline]
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            visitor.$visit(<$type>::from_le_bytes(self.fixed(Fixed::$fixed)?))
        })*
    };
}

macro_rules! none {
    ($($method:ident($($argument:ty),*);)*) => {
        $(fn $method<V: Visitor<'de>>(self, $(_: $argument,)* _: V) -> Result<V::Value, Fault> {
            Err(misfit())
        })*
    };
}

impl<'de> Deserializer<'de> for &mut Reader<'de> {
    type Error = Fault;

    fixed! {
        deserialize_i8: i8 as I8, visit_i8;
        deserialize_i16: i16 as I16, visit_i16;
        deserialize_i32: i32 as I32, visit_i32;
        deserialize_i64: i64 as I64, visit_i64;
        deserialize_i128: i128 as I128, visit_i128;
        deserialize_u8: u8 as U8, visit_u8;
        deserialize_u16: u16 as U16, visit_u16;
        deserialize_u32: u32 as U32, visit_u32;
        deserialize_u64: u64 as U64, visit_u64;
        deserialize_u128: u128 as U128, visit_u128;
        deserialize_f32: f32 as F32, visit_f32;
        deserialize_f64: f64 as F64, visit_f64;
    }

    none! {
        deserialize_any();
        deserialize_seq();
        deserialize_map();
        deserialize_enum(&'static str, &'static [&'static str]);
        deserialize_identifier();
        deserialize_ignored_any();
    }

    #[inline]
    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.fixed(Fixed::Bool)? {
            [0] => visitor.visit_bool(false),
            [1] => visitor.visit_bool(true),
            _ => Err(invalid("a truth value that is neither 0 nor 1")),
        }
    }

    #[inline]
    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let scalar = u32::from_le_bytes(self.fixed(Fixed::Char)?);
        visitor.visit_char(char::from_u32(scalar).ok_or_else(|| invalid("a character that is none"))?)
    }

    #[inline]
    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_borrowed_str(self.text()?)
    }

    // Not every visitor that asks for a text or bytes of its own takes those of others.
    #[inline]
    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_string(self.text()?.to_owned())
    }

    #[inline]
    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_borrowed_bytes(self.bytes()?)
    }

    #[inline]
    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_byte_buf(self.bytes()?.to_vec())
    }

    #[inline]
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let at = self.at;
        let Some(cursor) = self.columns.get_mut(at).filter(|cursor| matches!(cursor.column, Column::Option { .. }))
        else {
            self.at = SPOILT;
            return Err(misfit());
        };
        let Column::Option { columns } = cursor.column else { return Err(misfit()) };
        match cursor.value()? {
            [0] => {
                self.at += 1 + usize::from(columns);
                visitor.visit_none()
            }
            [1] => {
                self.at += 1;
                visitor.visit_some(self)
            }
            _ => Err(invalid("an option that is neither 0 nor 1")),
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_unit()
    }

    #[inline]
    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    #[inline]
    fn deserialize_tuple<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_seq(Parts { reader: self, left: length })
    }

    #[inline]
    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.deserialize_tuple(length, visitor)
    }

    #[inline]
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.deserialize_tuple(fields.len(), visitor)
    }

    fn is_human_readable(&self) -> bool {
        false
    }
}

/// The parts of a tuple or a struct.
struct Parts<'a, 'de> {
    reader: &'a mut Reader<'de>,
    left: usize,
}

impl<'de> SeqAccess<'de> for Parts<'_, 'de> {
    type Error = Fault;

    #[inline]
    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        let Some(left) = self.left.checked_sub(1) else { return Ok(None) };
        self.left = left;
        seed.deserialize(&mut *self.reader).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.left)
    }
}
