//! The hash that routes keys: the same in every process and on every 64-bit or 32-bit platform.

use std::hash::{Hash, Hasher};

/// Keys fall into this many groups, and groups are dealt out to instances in contiguous runs. A job's parallelism
/// behind `key_by` is therefore at most this.
pub(crate) const KEY_GROUPS: usize = 128;

/// The instance, of `instances`, that owns `key`.
///
/// The assignment of groups to instances is Flink's: contiguous ranges, `group * instances / groups`.
#[inline]
pub(crate) fn instance_of(hash: u64, instances: usize) -> usize {
    let group = (hash >> 57) as usize;
    group * instances / KEY_GROUPS
}

#[inline]
pub(crate) fn hash_of<K: Hash + ?Sized>(key: &K) -> u64 {
    let mut hasher = StableHasher { state: SEED };
    key.hash(&mut hasher);
    hasher.finish()
}

const SEED: u64 = 0x243f_6a88_85a3_08d3;
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// A folded-multiply hash (the mixing step of wyhash by Wang Yi) over the values a `Hash` implementation feeds it.
///
/// It has no random seed and treats `usize` as 64 bits, so it depends neither on the process nor on the word size.
/// Slices of multi-byte integers reach a hasher as bytes in memory order, so keys that contain such slices route
/// differently on big-endian machines. It does not resist keys chosen to collide; the tables behind it do.
struct StableHasher {
    state: u64,
}

#[inline(always)]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ (product >> 64) as u64
}

impl Hasher for StableHasher {
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.write_u64(u64::from_le_bytes(*word));
        }
        if !rest.is_empty() {
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            self.write_u64(u64::from_le_bytes(last));
        }
        // The length keeps `[0]` and `[0, 0]` apart.
        self.state ^= bytes.len() as u64;
    }

    #[inline]
    fn write_u8(&mut self, value: u8) {
        self.write_u64(value.into());
    }

    #[inline]
    fn write_u16(&mut self, value: u16) {
        self.write_u64(value.into());
    }

    #[inline]
    fn write_u32(&mut self, value: u32) {
        self.write_u64(value.into());
    }

    #[inline]
    fn write_u64(&mut self, value: u64) {
        self.state = fold(self.state ^ value, MULTIPLIER);
    }

    #[inline]
    fn write_u128(&mut self, value: u128) {
        self.write_u64(value as u64);
        self.write_u64((value >> 64) as u64);
    }

    #[inline]
    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }

    #[inline]
    fn write_isize(&mut self, value: isize) {
        self.write_u64(value as i64 as u64);
    }

    #[inline]
    fn finish(&self) -> u64 {
        fold(self.state ^ SEED, MULTIPLIER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pins the function: a change of it would route the keys of a running cluster differently.
    #[test]
    fn hashes_are_the_same_in_every_process() {
        assert_eq!(hash_of(&0_u64), 0x6fd7_0948_974e_a073);
        assert_eq!(hash_of("word"), 0x4bb1_902f_58a3_b2ef);
        assert_eq!(hash_of(&(7_usize, false)), 0x4e89_0e03_9177_d777);
    }

    #[test]
    fn keys_spread_over_all_instances() {
        for instances in 1..=8 {
            let mut counts = vec![0; instances];
            for key in 0_u64..8_000 {
                counts[instance_of(hash_of(&key), instances)] += 1;
            }
            let fair = 8_000 / instances;
            assert!(counts.iter().all(|count| *count > fair / 2 && *count < fair * 2), "{instances}: {counts:?}");
        }
    }
}
