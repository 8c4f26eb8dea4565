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

/// Appends the first `count` of `items`, in a loop that is compiled as a part of what calls this. `Vec::extend` does the same, but
/// is a call where the compiler has put it into another unit than the caller, and then not compiled for newer processors: which
/// functions meet in a unit changes with any change to the program. After a panic of `items`, what it yielded before is there.
#[inline]
pub(crate) fn append<T>(into: &mut Vec<T>, count: usize, items: impl Iterator<Item = T>) {
    /// So many of the places of the vector hold an item.
    struct Filled<'a, T> {
        vec: &'a mut Vec<T>,
        len: usize,
    }
    impl<T> Drop for Filled<'_, T> {
        #[inline]
        fn drop(&mut self) {
            // SAFETY: the vector had its items up to where `len` began, which was at its end, and `len` rose by one for each
            // item that was written behind them, of which there were no more than were reserved.
            #[expect(unsafe_code, reason = "a chain of map, filter, map and fold takes a fifth less time")]
            unsafe {
                self.vec.set_len(self.len);
            }
        }
    }
    into.reserve(count);
    let (start, len) = (into.as_mut_ptr(), into.len());
    let mut filled = Filled { vec: into, len };
    items.take(count).for_each(|item| {
        // SAFETY: there are `count` free places behind the first `len`, and this is done at most `count` times, each time for the
        // place behind the one before. Nothing else touches the vector meanwhile, so its memory stays where it is.
        #[expect(unsafe_code, reason = "as above")]
        unsafe {
            start.add(filled.len).write(item);
        }
        filled.len += 1;
    });
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, rc::Rc};

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

    #[test]
    fn what_is_appended_stands_behind_what_was_there_and_no_more_than_was_said() {
        let mut numbers = vec![7_u64];
        append(&mut numbers, 4, 1..=3);
        append(&mut numbers, 2, 10..);
        append(&mut numbers, 0, 99..);
        assert_eq!(numbers, [7, 1, 2, 3, 10, 11]);
        let mut nothing = vec![(); 2];
        append(&mut nothing, 3, std::iter::repeat(()));
        assert_eq!(nothing.len(), 5);
    }

    /// Counts how many of it were dropped.
    struct Counted(Rc<Cell<u32>>);

    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.set(self.0.get() + 1);
        }
    }

    #[test]
    fn after_a_panic_what_was_yielded_before_is_there_and_dropped_once() {
        let dropped = Rc::new(Cell::new(0));
        let mut items = vec![Counted(Rc::clone(&dropped))];
        let yielded = (0..5).map(|number| {
            assert!(number < 3, "enough");
            Counted(Rc::clone(&dropped))
        });
        let panic = crate::dataplane::chain::catch(|| append(&mut items, 5, yielded));
        assert_eq!((panic, items.len(), dropped.get()), (Err("enough".to_owned()), 4, 0));
        drop(items);
        assert_eq!(dropped.get(), 4);
    }
}
