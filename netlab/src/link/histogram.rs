//! Delays in logarithmic buckets: a percentile is too high by 1.6 % at most.

use std::time::Duration;

/// Buckets of one power of two.
const PER_OCTAVE_BITS: u32 = 6;

/// Counts of delays. It takes no more memory than the longest delay needs, and 30 KiB at most.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DelayHistogram {
    /// Up to the bucket of the longest.
    counts: Vec<u64>,
    total: u64,
    max_ns: u64,
}

impl DelayHistogram {
    /// Counts a delay.
    pub fn record(&mut self, delay: Duration) {
        let ns = u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX);
        let bucket = bucket(ns);
        if self.counts.len() <= bucket {
            self.counts.resize(bucket + 1, 0);
        }
        if let Some(count) = self.counts.get_mut(bucket) {
            *count += 1;
        }
        self.total += 1;
        self.max_ns = self.max_ns.max(ns);
    }

    /// Adds what another one counted.
    pub fn merge(&mut self, other: &Self) {
        if self.counts.len() < other.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.total += other.total;
        self.max_ns = self.max_ns.max(other.max_ns);
    }

    /// How many were counted.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The longest, exactly; zero if none was counted.
    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.max_ns)
    }

    /// The delay that a share of them, 0 to 1, does not exceed; zero if none was counted.
    pub fn quantile(&self, share: f64) -> Duration {
        let wanted = (self.total as f64 * share).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return Duration::from_nanos(upper(bucket).min(self.max_ns));
            }
        }
        self.max()
    }
}

fn bucket(ns: u64) -> usize {
    let exponent = (64 - ns.leading_zeros()).saturating_sub(PER_OCTAVE_BITS + 1);
    ((u64::from(exponent) << PER_OCTAVE_BITS) + (ns >> exponent)) as usize
}

/// The longest delay of a bucket, in nanoseconds.
fn upper(bucket: usize) -> u64 {
    let per_octave = 1 << PER_OCTAVE_BITS;
    if bucket < 2 * per_octave {
        return bucket as u64;
    }
    let exponent = bucket / per_octave - 1;
    let mantissa = (bucket - exponent * per_octave) as u64;
    (mantissa << exponent) | ((1 << exponent) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_at_most_two_percent_too_high() {
        let (mut evens, mut odds) = (DelayHistogram::default(), DelayHistogram::default());
        for us in 1..=100_000 {
            let histogram = if us % 2 == 0 { &mut evens } else { &mut odds };
            histogram.record(Duration::from_micros(us));
        }
        evens.merge(&odds);
        for (share, exact) in [(0.5, 50.0), (0.95, 95.0), (0.99, 99.0), (1.0, 100.0)] {
            let found = evens.quantile(share).as_secs_f64() * 1e3;
            assert!((1.0..1.02).contains(&(found / exact)), "{found} for {exact}");
        }
        assert_eq!((evens.total(), evens.max()), (100_000, Duration::from_millis(100)));
    }

    #[test]
    fn every_delay_has_a_bucket_whose_top_is_not_below_it() {
        for ns in (0..64).flat_map(|bit| [(1u64 << bit) - 1, 1 << bit, (1 << bit) + 1]).chain([u64::MAX]) {
            assert!(upper(bucket(ns)) >= ns, "{ns}");
            assert!((bucket(ns) + 1) * 8 <= 30 * 1024, "{ns}");
        }
        let mut histogram = DelayHistogram::default();
        assert_eq!(histogram.quantile(0.5), Duration::ZERO);
        histogram.record(Duration::MAX);
        assert_eq!(histogram.quantile(0.5), Duration::from_nanos(u64::MAX));
    }
}
