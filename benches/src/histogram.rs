//! Times of which percentiles are printed.

use std::time::Duration;

use zynk_netlab::DelayHistogram;

/// Counts of times, see [`DelayHistogram`].
#[derive(Clone, Debug, Default)]
pub struct Histogram(DelayHistogram);

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
        self.0.record(time);
    }

    /// How many were counted.
    pub fn total(&self) -> u64 {
        self.0.total()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// The usual ones.
    pub fn percentiles(&self) -> Percentiles {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let at = |share: f64| ms(self.0.quantile(share));
        Percentiles { p50: at(0.5), p95: at(0.95), p99: at(0.99), max: ms(self.0.max()) }
    }
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
}
