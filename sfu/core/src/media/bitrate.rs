//! Bits per second.

use std::time::Duration;

/// A rate in bits per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bitrate(u64);

impl Bitrate {
    /// No bits at all.
    pub const ZERO: Self = Self(0);

    /// So many bits per second.
    #[must_use]
    pub const fn bps(bps: u64) -> Self {
        Self(bps)
    }

    /// So many thousand bits per second, saturating.
    #[must_use]
    pub const fn kbps(kbps: u64) -> Self {
        Self(kbps.saturating_mul(1000))
    }

    /// Bits per second.
    #[must_use]
    pub const fn as_bps(self) -> u64 {
        self.0
    }

    /// The sum, saturating.
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// What is left without `other`; nothing if that is more.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// So many percent of it, saturating.
    #[must_use]
    pub const fn percent(self, percent: u64) -> Self {
        Self(self.0.saturating_mul(percent) / 100)
    }

    /// How long sending `bytes` takes, in whole nanoseconds; an hour at rate zero.
    #[must_use]
    pub fn time_of(self, bytes: u16) -> Duration {
        (u64::from(bytes) * 8 * 1_000_000_000)
            .checked_div(self.0)
            .map_or(Duration::from_secs(3600), Duration::from_nanos)
    }

    /// How many whole bytes are sent in `time`, saturating.
    #[must_use]
    pub fn bytes_in(self, time: Duration) -> u64 {
        u64::try_from(u128::from(self.0).saturating_mul(time.as_nanos()) / 8_000_000_000).unwrap_or(u64::MAX)
    }
}

impl std::fmt::Display for Bitrate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} kbit/s", self.0 / 1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_bytes() {
        assert_eq!(Bitrate::kbps(800).time_of(1000), Duration::from_millis(10));
        assert_eq!(Bitrate::kbps(800).bytes_in(Duration::from_millis(10)), 1000);
        assert_eq!(Bitrate::ZERO.time_of(1), Duration::from_secs(3600));
        assert_eq!(Bitrate::bps(u64::MAX).bytes_in(Duration::MAX), u64::MAX);
        assert_eq!(Bitrate::kbps(u64::MAX).time_of(u16::MAX), Duration::ZERO);
        assert_eq!(Bitrate::kbps(200).percent(150), Bitrate::kbps(300));
        assert_eq!(Bitrate::kbps(1).saturating_sub(Bitrate::kbps(2)), Bitrate::ZERO);
        assert_eq!(Bitrate::kbps(2500).to_string(), "2500 kbit/s");
    }
}
