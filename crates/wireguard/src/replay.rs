//! The window in which counters may arrive out of order, each once (the bitmap of RFC 6479).

const WORDS: usize = 129;
/// One word is always being reused.
pub(crate) const SIZE: u64 = (WORDS as u64 - 1) * 64;

/// Which counters of a session have come.
pub(crate) struct Window {
    /// The first counter after the greatest that came.
    next: u64,
    words: [u64; WORDS],
}

impl Window {
    pub(crate) const fn new() -> Self {
        Self {
            next: 0,
            words: [0; WORDS],
        }
    }

    /// Whether a counter may still be accepted. The packet need not be authenticated for this question.
    #[inline]
    pub(crate) fn is_fresh(&self, counter: u64) -> bool {
        counter >= self.next
            || (self.next - counter <= SIZE && self.words[place(counter)] & bit(counter) == 0)
    }

    /// Remembers the counter of an authenticated packet; false if it had come before, or is too old to tell.
    #[inline]
    pub(crate) fn accept(&mut self, counter: u64) -> bool {
        if counter == u64::MAX || !self.is_fresh(counter) {
            return false;
        }
        if counter >= self.next {
            let last = self.next.saturating_sub(1) / 64;
            let first_cleared = match self.next {
                0 => 0,
                _ => last + 1,
            };
            let cleared = (counter / 64 + 1).saturating_sub(first_cleared);
            for step in 0..cleared.min(WORDS as u64) {
                self.words[word(counter / 64 - step)] = 0;
            }
            self.next = counter + 1;
        }
        self.words[place(counter)] |= bit(counter);
        true
    }
}

#[inline]
fn place(counter: u64) -> usize {
    word(counter / 64)
}

#[inline]
fn word(number: u64) -> usize {
    // The remainder is below 129.
    (number % WORDS as u64) as usize
}

#[inline]
const fn bit(counter: u64) -> u64 {
    1 << (counter % 64)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_whole_window_may_arrive_backwards_and_only_once() {
        let mut window = Window::new();
        assert!(window.accept(SIZE - 1));
        for counter in (0..SIZE - 1).rev() {
            assert!(window.accept(counter), "{counter}");
        }
        for counter in 0..SIZE {
            assert!(!window.accept(counter), "{counter}");
        }
    }

    proptest! {
        #[test]
        fn it_equals_a_set_of_all_that_came(steps in proptest::collection::vec((0_u8..4, 0_u64..20_000), 1..400)) {
            let mut window = Window::new();
            let mut came = BTreeSet::new();
            for (kind, amount) in steps {
                let greatest: Option<u64> = came.last().copied();
                let counter = match (kind, greatest) {
                    (0, Some(greatest)) => greatest + 1,
                    (1, Some(greatest)) => greatest.saturating_sub(amount),
                    (2, Some(greatest)) => greatest + amount,
                    _ => amount,
                };
                let old = greatest.is_some_and(|greatest| counter + SIZE <= greatest);
                let expected = !old && !came.contains(&counter);
                prop_assert_eq!(window.is_fresh(counter), expected);
                prop_assert_eq!(window.accept(counter), expected);
                if expected {
                    came.insert(counter);
                }
            }
        }
    }
}
