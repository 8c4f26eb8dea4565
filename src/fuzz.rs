//! What is fuzzed: everything that reads bytes of strangers, peers and users. Each target takes any bytes, must not panic,
//! and checks what has to hold whatever they are. `tests/fuzz` drives them with libFuzzer; the unit tests run them on the
//! inputs that were found of interest and on mutations of these.

pub use crate::bridge::fuzz::{frames, hello, messages};
pub use crate::codec::fuzz::runs;
#[cfg(feature = "cli")]
pub use crate::flow::fuzz::json;
pub use crate::flow::fuzz::parameters;

#[cfg(test)]
mod tests {
    use std::{
        fs,
        panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
        path::{Path, PathBuf},
    };

    use super::*;

    /// Mutations of each kept input.
    const MUTATIONS: u64 = 40;

    fn corpus(target: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target)
    }

    fn inputs(target: &str) -> Vec<Vec<u8>> {
        let mut paths: Vec<PathBuf> = fs::read_dir(corpus(target))
            .expect("the corpus is kept")
            .map(|entry| entry.expect("it is read").path())
            .collect();
        paths.sort();
        paths.iter().map(|path| fs::read(path).expect("it is a file")).collect()
    }

    /// A sequence of numbers that is the same in every run (SplitMix64; Steele, Lea and Flood 2014).
    struct Numbers(u64);

    impl Numbers {
        fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }

        fn below(&mut self, bound: usize) -> usize {
            usize::try_from(self.next() % bound.max(1) as u64).expect("it is below a length")
        }
    }

    fn mutated(input: &[u8], numbers: &mut Numbers) -> Vec<u8> {
        let mut bytes = input.to_vec();
        for _ in 0..=numbers.below(4) {
            let at = numbers.below(bytes.len());
            match numbers.below(6) {
                0 if !bytes.is_empty() => bytes[at] ^= 1 << numbers.below(8),
                1 if !bytes.is_empty() => {
                    bytes[at] = [0, 1, 0x7f, 0x80, 0xfb, 0xfc, 0xfd, 0xfe, 0xff][numbers.below(9)]
                }
                2 => bytes.truncate(at),
                3 => bytes.insert(at, numbers.next().to_le_bytes()[0]),
                4 if !bytes.is_empty() => drop(bytes.remove(at)),
                _ => {
                    let again = bytes[at..].to_vec();
                    bytes.extend(again);
                }
            }
        }
        bytes
    }

    /// Runs the target on all that was kept for it, and on mutations. What breaks it is printed, to be kept.
    fn replay(name: &str, target: fn(&[u8])) {
        let inputs = inputs(name);
        assert!(inputs.len() >= 8, "only {} inputs are kept for `{name}`", inputs.len());
        let mut numbers = Numbers(1);
        for input in &inputs {
            let mutations: Vec<Vec<u8>> = (0..MUTATIONS).map(|_| mutated(input, &mut numbers)).collect();
            for bytes in std::iter::once(input).chain(&mutations) {
                if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(bytes))) {
                    eprintln!("`{name}` does not bear {bytes:?}");
                    resume_unwind(panic);
                }
            }
        }
    }

    #[test]
    fn frames_bear_anything() {
        replay("frames", frames);
    }

    #[test]
    fn a_hello_bears_anything() {
        replay("hello", hello);
    }

    #[test]
    fn messages_bear_anything() {
        replay("messages", messages);
    }

    #[test]
    fn parameters_bear_anything() {
        replay("parameters", parameters);
    }

    #[test]
    fn runs_of_items_bear_anything() {
        replay("runs", runs);
    }

    #[cfg(feature = "cli")]
    #[test]
    fn json_bears_anything() {
        replay("json", json);
    }
}
