//! Times in logarithmic buckets: a percentile is right to 2 %, an entry costs some nanoseconds.

use std::time::Duration;

/// Buckets of one power of two.
const PER_OCTAVE_BITS: u32 = 6;
const BUCKETS: usize = (64 - PER_OCTAVE_BITS as usize + 1) << PER_OCTAVE_BITS;

/// Counts of times.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max_ns: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0, max_ns: 0 }
    }
}

/// What is printed of a histogram, in milliseconds.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Percentiles {
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
    pub max: f64,
}

impl Histogram {
    /// Counts one time.
    pub fn record(&mut self, time: Duration) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        if let Some(count) = self.counts.get_mut(bucket(ns)) {
            *count += 1;
        }
        self.total += 1;
        self.max_ns = self.max_ns.max(ns);
    }

    /// How many were counted.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.counts.fill(0);
        (self.total, self.max_ns) = (0, 0);
    }

    /// The usual ones.
    pub fn percentiles(&self) -> Percentiles {
        let ms = |ns: u64| ns as f64 / 1e6;
        let at = |part: f64| ms(self.at(part).min(self.max_ns));
        Percentiles { p50: at(0.5), p95: at(0.95), p99: at(0.99), max: ms(self.max_ns) }
    }

    fn at(&self, part: f64) -> u64 {
        let wanted = (self.total as f64 * part).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return upper(bucket);
            }
        }
        0
    }
}

fn bucket(ns: u64) -> usize {
    let exponent = (64 - ns.leading_zeros()).saturating_sub(PER_OCTAVE_BITS + 1);
    ((u64::from(exponent) << PER_OCTAVE_BITS) + (ns >> exponent)) as usize
}

/// The largest time of a bucket.
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
    fn percentiles_are_right_to_two_percent() {
        let mut histogram = Histogram::default();
        for us in 1..=100_000 {
            histogram.record(Duration::from_micros(us));
        }
        let found = histogram.percentiles();
        for (found, exact) in [(found.p50, 50.0), (found.p95, 95.0), (found.p99, 99.0), (found.max, 100.0)] {
            assert!((found / exact - 1.0).abs() < 0.02, "{found} for {exact}");
        }
    }

    #[test]
    fn every_time_has_a_bucket_whose_top_is_not_below_it() {
        for ns in (0..64).flat_map(|bit| [(1u64 << bit) - 1, 1 << bit, (1 << bit) + 1]).chain([u64::MAX]) {
            let bucket = bucket(ns);
            assert!(
                bucket < BUCKETS && upper(bucket) >= ns,
                "{ns} in {bucket}, which ends at {}",
                upper(bucket)
            );
        }
    }
}
