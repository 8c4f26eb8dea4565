//! Items into columns, by their own `Serialize`, as long as it writes the parts that the columns are for.

use std::{fmt, sync::Arc};

use serde::{
    Serialize, Serializer,
    ser::{Impossible, SerializeStruct, SerializeTuple, SerializeTupleStruct},
};

use crate::{
    codec::error::{EncodeError, VALUE_BYTES_MAX},
    schema::{Column, Fixed},
};

/// The place of the next part once one did not fit: no item is taken after that, also if its `Serialize` passes over the
/// error.
const SPOILT: usize = usize::MAX / 2;

/// The columns of a block in the making.
pub(super) struct Columns {
    columns: Vec<Buffer>,
    items: usize,
    /// Of all columns.
    bytes: usize,
    /// The column that the next part of the item goes to.
    at: usize,
    /// How many bytes there may be once the present item is written.
    bytes_max: usize,
}

struct Buffer {
    column: Column,
    /// Values, or the lengths of texts.
    values: Vec<u8>,
    texts: Vec<u8>,
}

/// Why an item was not written.
pub(super) enum Refusal {
    /// It is not made of the parts that the columns are for.
    Misfit,
    Error(EncodeError),
}

/// Small, since it is part of the result of every part.
#[derive(Debug)]
pub(super) struct Fault(Box<Option<EncodeError>>);

impl Columns {
    pub(super) fn new(columns: &Arc<[Column]>, expected: usize) -> Self {
        // More is made room for as it comes.
        let expected = expected.min(1024);
        let buffer = |column: &Column| {
            let width = match column {
                Column::Fixed(fixed) => fixed.width(),
                Column::Option { .. } => 1,
                Column::Text | Column::Bytes => 4,
            };
            Buffer { column: *column, values: Vec::with_capacity(expected * width), texts: Vec::new() }
        };
        Self { columns: columns.iter().map(buffer).collect(), items: 0, bytes: 0, at: 0, bytes_max: 0 }
    }

    pub(super) fn items(&self) -> usize {
        self.items
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.bytes
    }

    /// Appends an item, and says how many there are. If that fails, the columns are as they were before.
    #[inline]
    pub(super) fn push<T: Serialize>(&mut self, item: &T) -> Result<usize, Refusal> {
        self.at = 0;
        self.bytes_max = self.bytes.saturating_add(VALUE_BYTES_MAX);
        match item.serialize(&mut *self) {
            Ok(()) if self.at == self.columns.len() => {
                self.items += 1;
                Ok(self.items)
            }
            Ok(()) => Err(self.undo(None)),
            Err(Fault(error)) => Err(self.undo(*error)),
        }
    }

    /// Moves the columns, one behind the other, to the end of `into`.
    pub(super) fn take_into(&mut self, into: &mut Vec<u8>) {
        for Buffer { values, texts, .. } in &mut self.columns {
            into.extend_from_slice(values);
            into.extend_from_slice(texts);
            values.clear();
            texts.clear();
        }
        (self.items, self.bytes) = (0, 0);
    }

    /// Takes away what was written of an item that is not to be.
    #[cold]
    fn undo(&mut self, error: Option<EncodeError>) -> Refusal {
        self.bytes = keep(&mut self.columns, self.items);
        error.map_or(Refusal::Misfit, Refusal::Error)
    }

    #[inline]
    fn buffer(&mut self, column: Column) -> Result<&mut Buffer, Fault> {
        let at = self.at;
        self.at += 1;
        let Some(buffer) = self.columns.get_mut(at).filter(|buffer| buffer.column == column) else {
            self.at = SPOILT;
            return Err(misfit());
        };
        Ok(buffer)
    }

    #[inline]
    fn fixed<const N: usize>(&mut self, fixed: Fixed, value: [u8; N]) -> Result<(), Fault> {
        self.buffer(Column::Fixed(fixed))?.values.extend_from_slice(&value);
        self.bytes += N;
        Ok(())
    }

    #[inline]
    fn text(&mut self, column: Column, text: &[u8]) -> Result<(), Fault> {
        let bytes = self.bytes.saturating_add(4).saturating_add(text.len());
        if bytes > self.bytes_max {
            self.at = SPOILT;
            return Err(Fault(Box::new(Some(EncodeError::TooLarge { limit_bytes: VALUE_BYTES_MAX }))));
        }
        let buffer = self.buffer(column)?;
        let length = u32::try_from(text.len()).map_err(|_| misfit())?;
        buffer.values.extend_from_slice(&length.to_le_bytes());
        buffer.texts.extend_from_slice(text);
        self.bytes = bytes;
        Ok(())
    }

    /// Whether there is a value; if not, its columns are passed over.
    #[inline]
    fn option(&mut self, is_some: bool) -> Result<(), Fault> {
        let at = self.at;
        let Some(Buffer { column: Column::Option { columns }, values, .. }) = self.columns.get_mut(at) else {
            self.at = SPOILT;
            return Err(misfit());
        };
        values.push(u8::from(is_some));
        self.at += if is_some { 1 } else { 1 + usize::from(*columns) };
        self.bytes += 1;
        Ok(())
    }
}

/// Cuts columns down to those of so many items, and says how many bytes are left.
fn keep(columns: &mut [Buffer], items: usize) -> usize {
    let (mut left, mut bytes) = (columns, 0);
    while let Some((buffer, after)) = left.split_first_mut() {
        left = after;
        match buffer.column {
            Column::Fixed(fixed) => buffer.values.truncate(items * fixed.width()),
            Column::Text | Column::Bytes => {
                buffer.values.truncate(items * 4);
                let (lengths, _) = buffer.values.as_chunks::<4>();
                let texts = lengths.iter().map(|length| u32::from_le_bytes(*length) as usize).sum();
                buffer.texts.truncate(texts);
                bytes += texts;
            }
            Column::Option { columns } => {
                buffer.values.truncate(items);
                let present = buffer.values.iter().filter(|present| **present == 1).count();
                let (inner, after) = left.split_at_mut(usize::from(columns));
                bytes += keep(inner, present);
                left = after;
            }
        }
        bytes += buffer.values.len();
    }
    bytes
}

#[cold]
fn misfit() -> Fault {
    Fault(Box::new(None))
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Some(error) => error.fmt(f),
            None => f.write_str("the value is not made of the parts that its type says it reads"),
        }
    }
}

impl std::error::Error for Fault {}

impl serde::ser::Error for Fault {
    fn custom<M: fmt::Display>(message: M) -> Self {
        Self(Box::new(Some(EncodeError::Refused(message.to_string()))))
    }
}

macro_rules! fixed {
    ($($method:ident: $type:ty as $fixed:ident;)*) => {
        $(#[inline]
        fn $method(self, value: $type) -> Result<(), Fault> {
            self.fixed(Fixed::$fixed, value.to_le_bytes())
        })*
    };
}

impl Serializer for &mut Columns {
    type Ok = ();
    type Error = Fault;
    type SerializeSeq = Impossible<(), Fault>;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Impossible<(), Fault>;
    type SerializeMap = Impossible<(), Fault>;
    type SerializeStruct = Self;
    type SerializeStructVariant = Impossible<(), Fault>;

    fixed! {
        serialize_i8: i8 as I8;
        serialize_i16: i16 as I16;
        serialize_i32: i32 as I32;
        serialize_i64: i64 as I64;
        serialize_i128: i128 as I128;
        serialize_u8: u8 as U8;
        serialize_u16: u16 as U16;
        serialize_u32: u32 as U32;
        serialize_u64: u64 as U64;
        serialize_u128: u128 as U128;
        serialize_f32: f32 as F32;
        serialize_f64: f64 as F64;
    }

    #[inline]
    fn serialize_bool(self, value: bool) -> Result<(), Fault> {
        self.fixed(Fixed::Bool, [u8::from(value)])
    }

    #[inline]
    fn serialize_char(self, value: char) -> Result<(), Fault> {
        self.fixed(Fixed::Char, u32::from(value).to_le_bytes())
    }

    #[inline]
    fn serialize_str(self, value: &str) -> Result<(), Fault> {
        self.text(Column::Text, value.as_bytes())
    }

    #[inline]
    fn serialize_bytes(self, value: &[u8]) -> Result<(), Fault> {
        self.text(Column::Bytes, value)
    }

    #[inline]
    fn serialize_none(self) -> Result<(), Fault> {
        self.option(false)
    }

    #[inline]
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Fault> {
        self.option(true)?;
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), Fault> {
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Fault> {
        Ok(())
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, _: &'static str) -> Result<(), Fault> {
        Err(misfit())
    }

    #[inline]
    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<(), Fault> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<(), Fault> {
        Err(misfit())
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Self::SerializeSeq, Fault> {
        Err(misfit())
    }

    #[inline]
    fn serialize_tuple(self, _: usize) -> Result<Self, Fault> {
        Ok(self)
    }

    #[inline]
    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self, Fault> {
        Ok(self)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleVariant, Fault> {
        Err(misfit())
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap, Fault> {
        Err(misfit())
    }

    #[inline]
    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self, Fault> {
        Ok(self)
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant, Fault> {
        Err(misfit())
    }

    fn is_human_readable(&self) -> bool {
        false
    }
}

impl SerializeTuple for &mut Columns {
    type Ok = ();
    type Error = Fault;

    #[inline]
    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Fault> {
        value.serialize(&mut **self)
    }

    #[inline]
    fn end(self) -> Result<(), Fault> {
        Ok(())
    }
}

impl SerializeTupleStruct for &mut Columns {
    type Ok = ();
    type Error = Fault;

    #[inline]
    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Fault> {
        value.serialize(&mut **self)
    }

    #[inline]
    fn end(self) -> Result<(), Fault> {
        Ok(())
    }
}

impl SerializeStruct for &mut Columns {
    type Ok = ();
    type Error = Fault;

    #[inline]
    fn serialize_field<T: Serialize + ?Sized>(&mut self, _: &'static str, value: &T) -> Result<(), Fault> {
        value.serialize(&mut **self)
    }

    #[inline]
    fn end(self) -> Result<(), Fault> {
        Ok(())
    }
}
