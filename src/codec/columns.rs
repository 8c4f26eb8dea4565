//! Runs of items of one type: what an output or an input carries in one piece.
//!
//! How many items a run has travels beside it. What it is made of depends on the [columns](crate::schema::Column) of the
//! type, which follow from its structure alone:
//!
//! * A type without columns: the items one behind the other, each as [`encode_into`] leaves it.
//! * A type with columns: *blocks*, one behind the other, each of 1 to 65,536 items. Runs of such a type can therefore be
//!   joined by joining their bytes.
//!
//! A block, all numbers little endian:
//!
//! ```text
//! | head: 1 to 3 bytes                    | body                                                          |
//! | 2 * items + form, 7 bits a byte, the  | form 0, rows: the items one behind the other, as above        |
//! | lowest first, bit 7: another follows  | form 1, columns: one behind the other, as the type's parts do |
//! ```
//!
//! A column of `n` values:
//!
//! ```text
//! | integers, floats  | n times 1, 2, 4, 8 or 16 bytes                                                       |
//! | bool, char        | n times 1 byte, 0 or 1; n times 4 bytes, a scalar value                              |
//! | text, bytes       | n times 4 bytes, the lengths; then the texts (UTF-8) or bytes without anything between |
//! | Option            | n times 1 byte, 0 or 1; then the columns of what is in it, for those values only     |
//! | tuple, struct     | nothing of its own: the columns of its parts                                         |
//! ```
//!
//! The writer chooses rows or columns for each block and says so in its head; the reader only follows. It writes rows
//! where there are few items, and from the first item on whose `Serialize` does not write the parts that the type's
//! `Deserialize` says it reads (a number as a wider one, say, which single values allow).
//!
//! Bytes of unknown origin: a block gets room for no more items than its bytes can mean, since every item takes a byte at
//! least in one of the columns; a length is believed only as far as there are bytes; and a truth value, character or text
//! that is none, an item that its type does not read to its end, and bytes that are left over are errors.

mod read;
mod write;

use std::{marker::PhantomData, sync::Arc};

use serde::{
    Serialize,
    de::{DeserializeOwned, DeserializeSeed},
};

use self::write::{Columns, Refusal};
#[cfg(feature = "cli")]
use super::guard::decode_shown;
use super::{
    decode_prefix, encode_into,
    error::{DecodeError, EncodeError},
    guard::{DecodePrefix, untrusted},
};
use crate::schema::{Column, TypeDescription};

/// Items of a block at most.
const BLOCK_ITEMS_MAX: usize = 1 << 16;

/// Columns have a price for each block; fewer items than this are cheaper as rows.
const COLUMN_ITEMS_MIN: usize = 8;

const ROWS: u32 = 0;
const COLUMNS: u32 = 1;

/// A run of items in the making.
pub(crate) struct Run {
    /// What is finished: whole blocks; or the items of a type without columns.
    bytes: Vec<u8>,
    items: u64,
    block: Block,
}

/// The block in the making.
enum Block {
    /// The type has no columns, and its runs have no blocks.
    None,
    Rows {
        items: usize,
        bytes: Vec<u8>,
    },
    Columns(Columns),
}

impl Run {
    /// A run of items of the described type, of which about so many will come.
    pub(crate) fn new(description: &TypeDescription, expected: usize) -> Self {
        let block = match description.columns() {
            None => Block::None,
            Some(columns) if expected >= COLUMN_ITEMS_MIN => Block::Columns(Columns::new(columns, expected)),
            Some(_) => Block::rows(),
        };
        Self { bytes: Vec::new(), items: 0, block }
    }

    /// Appends an item. If that fails, the run is as it was before; a panic of the type's `Serialize` spoils it.
    #[inline]
    pub(crate) fn push<T: Serialize>(&mut self, item: &T) -> Result<(), EncodeError> {
        let items = match &mut self.block {
            Block::None => {
                encode_into(item, &mut self.bytes)?;
                0
            }
            Block::Rows { items, bytes } => {
                encode_into(item, bytes)?;
                *items += 1;
                *items
            }
            Block::Columns(columns) => match columns.push(item) {
                Ok(items) => items,
                Err(Refusal::Error(error)) => return Err(error),
                Err(Refusal::Misfit) => return self.push_misfit(item),
            },
        };
        self.items += 1;
        if items == BLOCK_ITEMS_MAX {
            self.seal();
        }
        Ok(())
    }

    #[cold]
    fn push_misfit<T: Serialize>(&mut self, item: &T) -> Result<(), EncodeError> {
        self.seal();
        self.block = Block::rows();
        self.push(item)
    }

    /// Bytes so far, but for the head of the last block.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        let of_block = match &self.block {
            Block::None => 0,
            Block::Rows { bytes, .. } => bytes.len(),
            Block::Columns(columns) => columns.len(),
        };
        self.bytes.len() + of_block
    }

    /// Takes what was written so far out: how many items, and their bytes. What follows is another run.
    pub(crate) fn take(&mut self) -> (u64, Vec<u8>) {
        self.seal();
        (std::mem::take(&mut self.items), std::mem::take(&mut self.bytes))
    }

    /// Ends the present block and begins one of the same form.
    fn seal(&mut self) {
        let Self { bytes, block, .. } = self;
        match block {
            Block::None => {}
            Block::Rows { items: 0, .. } => {}
            Block::Rows { items, bytes: rows } => {
                put_head(*items, ROWS, bytes);
                bytes.append(rows);
                *items = 0;
            }
            Block::Columns(written) => {
                if written.items() > 0 {
                    bytes.reserve_exact(written.len() + 3);
                    put_head(written.items(), COLUMNS, bytes);
                    written.take_into(bytes);
                }
            }
        }
    }
}

impl Block {
    fn rows() -> Self {
        Self::Rows { items: 0, bytes: Vec::new() }
    }
}

fn put_head(items: usize, form: u32, into: &mut Vec<u8>) {
    let mut left = u32::try_from(items).expect("a block has few items") * 2 + form;
    while left >= 0x80 {
        into.push(left.to_le_bytes()[0] | 0x80);
        left >>= 7;
    }
    into.push(left.to_le_bytes()[0]);
}

/// The items and the form of the block, and how many bytes say so.
fn head_of(bytes: &[u8]) -> Result<(usize, u32, usize), DecodeError> {
    let mut head = 0;
    for (at, byte) in bytes.iter().take(3).enumerate() {
        head |= u32::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            let items = (head / 2) as usize;
            if items == 0 || items > BLOCK_ITEMS_MAX || (at > 0 && *byte == 0) {
                break;
            }
            return Ok((items, head % 2, at + 1));
        }
    }
    if bytes.len() < 3 && bytes.iter().all(|byte| byte & 0x80 != 0) {
        return Err(DecodeError::Truncated);
    }
    Err(DecodeError::Invalid("a block without a head".to_owned()))
}

/// Decodes runs of items.
pub(crate) trait DecodeItems<T> {
    /// Decodes the first items of a run that has so many `left`: one of them at least, and a block of them at most. They go
    /// to `into`, also those before one that cannot be decoded. Returns how many bytes they took. A panic of user code is
    /// not caught.
    fn decode_some(&self, bytes: &[u8], left: u64, into: impl FnMut(T)) -> Result<usize, DecodeError>;
}

/// Decodes items of a type that this program has. To be made once for many.
pub(crate) struct TypedItems<T> {
    one: DecodePrefix<T>,
    columns: Option<Arc<[Column]>>,
}

impl<T> Clone for TypedItems<T> {
    fn clone(&self) -> Self {
        Self { one: self.one, columns: self.columns.clone() }
    }
}

impl<T: DeserializeOwned + 'static> TypedItems<T> {
    /// For bytes of which nothing is known.
    pub(crate) fn untrusted() -> Self {
        Self { one: untrusted::<T>(), columns: TypeDescription::of::<T>().columns().cloned() }
    }

    /// For bytes that were written in this process.
    pub(crate) fn trusted() -> Self {
        Self { one: decode_prefix::<T>, columns: TypeDescription::of::<T>().columns().cloned() }
    }
}

impl<T: DeserializeOwned> DecodeItems<T> for TypedItems<T> {
    fn decode_some(&self, bytes: &[u8], left: u64, into: impl FnMut(T)) -> Result<usize, DecodeError> {
        decode_some(self.columns.as_deref(), self.one, PhantomData::<T>, bytes, left, into)
    }
}

/// Items of a run beyond one for each of its bytes: those of a type without columns may take none.
#[cfg(any(test, fuzzing))]
const WEIGHTLESS_MAX: u64 = 65_536;

/// Decodes a whole run of so many items; a panic of the type's `Deserialize` is an error.
#[cfg(any(test, fuzzing))]
pub(crate) fn decode_run<T: DeserializeOwned>(
    decode: &TypedItems<T>,
    bytes: &[u8],
    items: u64,
) -> Result<Vec<T>, DecodeError> {
    if items > bytes.len() as u64 + WEIGHTLESS_MAX {
        return Err(DecodeError::TooManyElements);
    }
    super::catching(|| {
        let (mut rest, mut left, mut decoded) = (bytes, items, Vec::new());
        while left > 0 {
            let before = decoded.len();
            let used = decode.decode_some(rest, left, |item| decoded.push(item))?;
            left -= (decoded.len() - before) as u64;
            rest = &rest[used..];
        }
        match rest.len() {
            0 => Ok(decoded),
            count => Err(DecodeError::TrailingBytes { count }),
        }
    })
}

/// Decodes items of a type that is only known by its description, as JSON.
#[cfg(feature = "cli")]
pub(crate) struct ShownItems<'a>(pub(crate) &'a TypeDescription);

#[cfg(feature = "cli")]
impl DecodeItems<serde_json::Value> for ShownItems<'_> {
    fn decode_some(&self, bytes: &[u8], left: u64, into: impl FnMut(serde_json::Value)) -> Result<usize, DecodeError> {
        let schema = self.0.known().map_err(DecodeError::Invalid)?;
        let budget = crate::schema::Budget::for_bytes(bytes.len());
        let shown = crate::schema::Shown::new(schema, &budget);
        let columns = self.0.columns().map(|columns| &**columns);
        decode_some(columns, |bytes| decode_shown(schema, bytes), shown, bytes, left, into)
    }
}

fn decode_some<'de, S: DeserializeSeed<'de> + Copy>(
    columns: Option<&[Column]>,
    one: impl Fn(&'de [u8]) -> Result<(S::Value, usize), DecodeError>,
    seed: S,
    bytes: &'de [u8],
    left: u64,
    mut into: impl FnMut(S::Value),
) -> Result<usize, DecodeError> {
    let Some(columns) = columns else {
        let (item, used) = one(bytes)?;
        into(item);
        return Ok(used);
    };
    let (items, form, mut used) = head_of(bytes)?;
    if items as u64 > left {
        return Err(DecodeError::Invalid("a block of more items than the run has".to_owned()));
    }
    if form == COLUMNS {
        return Ok(used + read::decode(columns, items, seed, &bytes[used..], into)?);
    }
    for _ in 0..items {
        let (item, taken) = one(&bytes[used..])?;
        into(item);
        used += taken;
    }
    Ok(used)
}

#[cfg(test)]
mod tests;
