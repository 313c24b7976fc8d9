//! Which indices of a source were seen.

/// A sliding window of `WORDS` × 64 indices below the highest one seen (RFC 3711, section 3.3.2), which is at
/// least 64 as the RFC asks.
///
/// An index newer than the window moves it; one inside is known to the bit; one below is taken for seen.
#[derive(Clone, Debug)]
pub struct ReplayWindow<const WORDS: usize> {
    highest: u64,
    /// Bit `index % (WORDS × 64)`: no shifting when the window moves, only clearing what it moves over.
    seen: [u64; WORDS],
}

impl<const WORDS: usize> ReplayWindow<WORDS> {
    /// Indices that the window covers.
    pub const INDICES: u64 = WORDS as u64 * 64;

    /// A window that has seen one index, and everything below it that it does not cover.
    pub fn new(first: u64) -> Self {
        let mut window = Self { highest: first, seen: [0; WORDS] };
        window.set(first);
        window
    }

    /// The highest index seen.
    #[inline]
    pub fn highest(&self) -> u64 {
        self.highest
    }

    /// Whether an index was neither seen nor is too old to know.
    #[inline]
    pub fn is_new(&self, index: u64) -> bool {
        if index > self.highest {
            return true;
        }
        if self.highest - index >= Self::INDICES {
            return false;
        }
        let (word, bit) = Self::position(index);
        self.seen.get(word).is_some_and(|seen| seen & bit == 0)
    }

    /// Marks an index as seen. What is older than the window is left alone.
    #[inline]
    pub fn record(&mut self, index: u64) {
        if index > self.highest {
            let moved = index - self.highest;
            if moved == 1 {
                self.clear(index);
            } else if moved >= Self::INDICES {
                self.seen = [0; WORDS];
            } else {
                for passed in self.highest + 1..=index {
                    self.clear(passed);
                }
            }
            self.highest = index;
        } else if self.highest - index >= Self::INDICES {
            return;
        }
        self.set(index);
    }

    fn position(index: u64) -> (usize, u64) {
        ((index / 64) as usize % WORDS, 1 << (index % 64))
    }

    fn set(&mut self, index: u64) {
        let (word, bit) = Self::position(index);
        if let Some(seen) = self.seen.get_mut(word) {
            *seen |= bit;
        }
    }

    fn clear(&mut self, index: u64) {
        let (word, bit) = Self::position(index);
        if let Some(seen) = self.seen.get_mut(word) {
            *seen &= !bit;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_packet_is_new_once() {
        let mut window = ReplayWindow::<2>::new(10);
        assert!(!window.is_new(10));
        assert!(window.is_new(9) && window.is_new(11));
        window.record(11);
        window.record(9);
        assert!(!window.is_new(9) && !window.is_new(11) && window.is_new(0));
    }

    #[test]
    fn what_the_window_left_behind_is_not_new() {
        let mut window = ReplayWindow::<2>::new(0);
        window.record(128);
        assert!(!window.is_new(0), "128 below the highest");
        assert!(window.is_new(1), "127 below");
        window.record(1_000_000);
        assert!(!window.is_new(128) && window.is_new(1_000_000 - 127));
    }

    proptest! {
        #[test]
        fn as_a_set_would(steps in prop::collection::vec((0u64..400, any::<bool>()), 1..300)) {
            let mut window = ReplayWindow::<2>::new(1000);
            let mut seen = BTreeSet::from([1000u64]);
            for (offset, forwards) in steps {
                let highest = window.highest();
                let index = if forwards { highest + offset } else { highest.saturating_sub(offset) };
                let new = !seen.contains(&index) && (index > highest || highest - index < 128);
                prop_assert_eq!(window.is_new(index), new, "{} below {}", index, highest);
                window.record(index);
                seen.insert(index);
                prop_assert_eq!(window.highest(), highest.max(index));
            }
        }
    }
}
