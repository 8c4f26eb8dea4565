//! How items lie in a channel between two workers.

use std::sync::Arc;

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    codec::{DecodeError, DecodeItems, EncodeError, Run, TypedItems, catching},
    peer::BATCH_BYTES_MAX,
    schema::TypeDescription,
};

/// A batch goes in pieces of about this size, so that no channel is far beyond its credit.
const PIECE_BYTES: usize = 64 << 10;

/// What the head of a run's last block may take beyond what the run says of itself.
const HEAD_BYTES_MAX: usize = 3;

/// A run of encoded items.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Encoded {
    pub items: u64,
    pub bytes: Vec<u8>,
}

/// Encodes and decodes the items of an exchange. A panic of their type's code is an error.
pub(crate) trait Carry<T>: Send + Sync {
    /// Encodes all of `items`, in one piece or in several.
    fn encode(&self, items: &[T]) -> Result<Vec<Encoded>, EncodeError>;

    /// Decodes a run, or several of them one behind the other, into the empty `into`. If that fails, `into` is empty.
    fn decode(&self, encoded: &Encoded, into: &mut Vec<T>) -> Result<(), DecodeError>;
}

/// For a type that can be encoded. To be made once for many batches.
pub(crate) fn carry<T: Serialize + DeserializeOwned + 'static>() -> Arc<dyn Carry<T>> {
    // The bytes come from a worker that runs the same program, and has proven that it is of the attempt.
    Arc::new(Runs { description: TypeDescription::of::<T>(), items: TypedItems::trusted() })
}

struct Runs<T> {
    description: Arc<TypeDescription>,
    items: TypedItems<T>,
}

impl<T: Serialize> Runs<T> {
    fn encode_into(&self, items: &[T], pieces: &mut Vec<Encoded>) -> Result<(), EncodeError> {
        let is_too_large = |run: &Run| run.len() > BATCH_BYTES_MAX - HEAD_BYTES_MAX;
        let mut run = Run::new(&self.description, items.len());
        let mut first = 0;
        for (at, item) in items.iter().enumerate() {
            run.push(item)?;
            if run.len() < PIECE_BYTES && at + 1 < items.len() {
                continue;
            }
            if is_too_large(&run) && at > first {
                // Without those before it, a very large item may fit.
                self.encode_into(&items[first..at], pieces)?;
                run = Run::new(&self.description, 1);
                run.push(item)?;
            }
            if is_too_large(&run) {
                return Err(EncodeError::TooLarge { limit_bytes: BATCH_BYTES_MAX });
            }
            let (items, bytes) = run.take();
            pieces.push(Encoded { items, bytes });
            first = at + 1;
        }
        Ok(())
    }
}

impl<T: Serialize + DeserializeOwned + 'static> Carry<T> for Runs<T> {
    fn encode(&self, items: &[T]) -> Result<Vec<Encoded>, EncodeError> {
        catching(|| {
            let mut pieces = Vec::new();
            self.encode_into(items, &mut pieces)?;
            Ok(pieces)
        })
    }

    fn decode(&self, encoded: &Encoded, into: &mut Vec<T>) -> Result<(), DecodeError> {
        let (mut rest, mut left) = (&encoded.bytes[..], encoded.items);
        // A claim gets no more room than its bytes can mean, but for items that take none.
        into.reserve(rest.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
        let decoded = catching(|| {
            while left > 0 {
                let before = into.len();
                let used = self.items.decode_some(rest, left, |item| into.push(item))?;
                left -= (into.len() - before) as u64;
                rest = &rest[used..];
            }
            match rest.len() {
                0 => Ok(()),
                count => Err(DecodeError::TrailingBytes { count }),
            }
        });
        if decoded.is_err() {
            // Their `Drop` is the user's code too; what it says does not matter any more.
            let _ = catching(|| {
                into.clear();
                Ok::<_, DecodeError>(())
            });
        }
        decoded
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn round<T: Serialize + DeserializeOwned + 'static>(items: &[T]) -> (usize, Vec<T>) {
        let carry = carry::<T>();
        let pieces = carry.encode(items).expect("it can be encoded");
        let mut decoded = Vec::new();
        for piece in &pieces {
            assert!(piece.bytes.len() <= BATCH_BYTES_MAX);
            let mut some = Vec::new();
            carry.decode(piece, &mut some).expect("it can be decoded");
            assert_eq!(some.len() as u64, piece.items);
            decoded.append(&mut some);
        }
        // A channel joins runs that are short.
        let mut joined = Encoded { items: 0, bytes: Vec::new() };
        for piece in &pieces {
            joined.items += piece.items;
            joined.bytes.extend_from_slice(&piece.bytes);
        }
        let mut all = Vec::new();
        carry.decode(&joined, &mut all).expect("runs can be joined");
        assert_eq!(all.len(), decoded.len());
        (pieces.len(), decoded)
    }

    proptest! {
        #[test]
        fn items_come_back(numbers: Vec<u64>, texts: Vec<(u8, String)>, lists: Vec<Vec<u8>>) {
            prop_assert_eq!(round(&numbers).1, numbers);
            prop_assert_eq!(round(&texts).1, texts);
            prop_assert_eq!(round(&lists).1, lists);
        }
    }

    #[test]
    fn large_batches_go_in_pieces_and_a_very_large_item_alone() {
        let text = |bytes: usize| "x".repeat(bytes);
        let (pieces, texts) = round(&vec![text(1_000); 1_000]);
        assert_eq!(texts, vec![text(1_000); 1_000]);
        assert!((10..=20).contains(&pieces), "{pieces} pieces");
        let large = BATCH_BYTES_MAX - 100;
        let items = [text(50_000), text(large), text(3)];
        let (pieces, texts) = round(&items);
        assert_eq!((pieces, texts == items), (3, true));
        let error = carry::<String>().encode(&[text(3), text(BATCH_BYTES_MAX)]);
        assert_eq!(error, Err(EncodeError::TooLarge { limit_bytes: BATCH_BYTES_MAX }));
    }

    #[test]
    fn items_without_bytes_are_counted() {
        assert_eq!(round(&[(); 3_000]).1.len(), 3_000);
    }

    #[test]
    fn what_cannot_be_decoded_leaves_nothing() {
        let mut into = Vec::new();
        let text = Encoded { items: 2, bytes: vec![1, b'a', 7] };
        assert!(carry::<String>().decode(&text, &mut into).is_err());
        assert!(into.is_empty());
        let number = Encoded { items: 1, bytes: vec![2, 7, 7] };
        assert_eq!(carry::<u8>().decode(&number, &mut Vec::new()), Err(DecodeError::TrailingBytes { count: 1 }));
    }
}
