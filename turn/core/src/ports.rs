//! The ports of relayed addresses. Each worker has ports of its own, so that workers need not ask each other: pairs of
//! an even port and the next go round among them.

use rand::{Rng, RngExt};

/// How many ports are looked at for a free one before there is none: with as many in use as that leaves likely, the
/// relay is full for all purposes.
const TRIES: u32 = 4096;

/// What a client asks of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parity {
    Any,
    /// EVEN-PORT (RFC 8656, section 18.7).
    Even,
    /// EVEN-PORT with its bit set: the next port is kept as well.
    Pair,
}

/// Ports that one worker may use on one address.
#[derive(Debug)]
pub(crate) struct Ports {
    first: u16,
    /// Pairs from the first port on.
    pairs: u32,
    /// One bit for each port from the first on.
    used: Vec<u64>,
    worker: u32,
    workers: u32,
}

impl Ports {
    /// Ports from `first` to `last`; of their pairs, those that are `worker` modulo `workers`.
    pub(crate) fn new(first: u16, last: u16, worker: u32, workers: u32) -> Self {
        // Pairs begin at even ports.
        let first = first.saturating_add(first & 1);
        let pairs = (u32::from(last) + 1).saturating_sub(u32::from(first)) / 2;
        let words = (pairs as usize * 2).div_ceil(64);
        Self { first, pairs, used: vec![0; words], worker, workers: workers.max(1) }
    }

    /// Takes a port.
    pub(crate) fn take(&mut self, parity: Parity, random: &mut impl Rng) -> Option<u16> {
        // Pairs of this worker.
        let own = (self.pairs + self.workers - 1).saturating_sub(self.worker) / self.workers;
        if own == 0 {
            return None;
        }
        for _ in 0..TRIES {
            let pair = random.random_range(0..own) * self.workers + self.worker;
            let even = pair * 2;
            let odd = even + 1;
            let taken = match parity {
                Parity::Any => {
                    let either = if random.random() { [even, odd] } else { [odd, even] };
                    either.into_iter().find(|at| !self.is_used(*at))
                }
                Parity::Even => Some(even).filter(|at| !self.is_used(*at)),
                Parity::Pair => Some(even).filter(|at| !self.is_used(*at) && !self.is_used(odd)),
            };
            let Some(at) = taken else { continue };
            self.set(at, true);
            if parity == Parity::Pair {
                self.set(odd, true);
            }
            return u16::try_from(u32::from(self.first) + at).ok();
        }
        None
    }

    /// Gives a port back.
    pub(crate) fn give_back(&mut self, port: u16) {
        if let Some(at) = port.checked_sub(self.first) {
            self.set(u32::from(at), false);
        }
    }

    /// How many ports are taken.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn taken(&self) -> usize {
        self.used.iter().map(|word| word.count_ones() as usize).sum()
    }

    fn is_used(&self, at: u32) -> bool {
        // What is out of range is nobody's to take.
        self.used.get(at as usize / 64).is_none_or(|word| word >> (at % 64) & 1 == 1)
    }

    fn set(&mut self, at: u32, used: bool) {
        if let Some(word) = self.used.get_mut(at as usize / 64) {
            *word = *word & !(1 << (at % 64)) | u64::from(used) << (at % 64);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::SeedableRng;
    use rand_pcg::Pcg64Mcg;

    use super::*;

    #[test]
    fn workers_share_all_ports_and_never_one() {
        let mut random = Pcg64Mcg::seed_from_u64(1);
        let mut seen = BTreeSet::new();
        for worker in 0..3 {
            let mut ports = Ports::new(1001, 1100, worker, 3);
            while let Some(port) = ports.take(Parity::Any, &mut random) {
                assert!(seen.insert(port), "{port} twice");
            }
        }
        // 1001 has no even partner, 1100 no odd one.
        assert_eq!(seen, (1002..=1099).collect());
    }

    #[test]
    fn even_ports_are_even_and_pairs_are_kept() {
        let mut random = Pcg64Mcg::seed_from_u64(2);
        let mut ports = Ports::new(2000, 2019, 0, 1);
        let pairs: BTreeSet<_> = std::iter::from_fn(|| ports.take(Parity::Pair, &mut random)).collect();
        assert_eq!(pairs, (2000..=2018).step_by(2).collect());
        assert_eq!(ports.take(Parity::Any, &mut random), None);
        ports.give_back(2001);
        assert_eq!(ports.take(Parity::Even, &mut random), None);
        assert_eq!(ports.take(Parity::Any, &mut random), Some(2001));
        ports.give_back(2004);
        assert_eq!(ports.take(Parity::Pair, &mut random), None, "2005 is in use");
        assert_eq!(ports.take(Parity::Even, &mut random), Some(2004));
    }

    #[test]
    fn the_whole_range_and_none_at_all() {
        let mut random = Pcg64Mcg::seed_from_u64(3);
        assert!(Ports::new(1024, 65_535, 0, 1).take(Parity::Pair, &mut random).is_some());
        assert_eq!(Ports::new(5000, 5000, 0, 1).take(Parity::Any, &mut random), None);
        assert_eq!(Ports::new(5000, 4000, 0, 1).take(Parity::Any, &mut random), None);
        assert_eq!(Ports::new(65_535, 65_535, 0, 1).take(Parity::Any, &mut random), None);
        assert_eq!(Ports::new(5000, 5001, 1, 2).take(Parity::Any, &mut random), None, "the other worker's");
    }
}
