//! Loops over batches with the widest instructions that the processor has.

/// Runs `code` compiled for the vector instructions of newer processors, where this is one.
///
/// A program is built for the oldest processor it may run on: on x86-64 a loop then takes two `u64` at a time. What is
/// inlined into `code` is compiled a second time here, to take four. Meant for the loop over a whole batch: asking the processor
/// costs a few instructions, and each use makes the program larger.
#[inline]
pub(crate) fn widely<R>(code: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: all that is asked of the caller of a function with target features is that the processor has them, which
        // was just found out. (`with_avx2` does nothing else that is unsafe.)
        #[expect(unsafe_code, reason = "a chain of map, filter, map and fold takes a quarter less time")]
        return unsafe { with_avx2(code) };
    }
    code()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn with_avx2<R>(code: impl FnOnce() -> R) -> R {
    code()
}

#[cfg(test)]
mod tests {
    use super::*;

    // Also run under valgrind, for the sake of the code that is `unsafe`.
    #[test]
    fn what_comes_out_is_the_same_and_a_panic_passes_through() {
        let numbers: Vec<u64> = (0..1_000).collect();
        let twice = |numbers: &[u64]| numbers.iter().map(|n| n * 2 + 1).collect::<Vec<u64>>();
        assert_eq!(widely(|| twice(&numbers)), twice(&numbers));
        let panic: Result<(), String> = crate::dataplane::chain::catch(|| widely(|| panic!("passes")));
        assert_eq!(panic, Err("passes".to_owned()));
    }
}
