//! How much is sent again on a path that is full.

use std::time::Instant;

use crate::media::bitrate::Bitrate;

/// The share of the path, in percent.
const SHARE_PERCENT: u64 = 15;
/// What may be sent again at once, in bytes.
const BURST: u64 = 6_000;
/// Taken for a packet.
const PACKET_BYTES: u64 = 1_000;

/// A bucket that fills with the path's rate.
#[derive(Clone, Copy, Debug)]
pub(super) struct ResendBudget {
    bytes: u64,
    filled_at: Option<Instant>,
}

impl Default for ResendBudget {
    fn default() -> Self {
        Self { bytes: BURST, filled_at: None }
    }
}

impl ResendBudget {
    /// Takes a packet's worth, on a path that is full at `rate`. Others have no limit here.
    pub(super) fn takes(&mut self, now: Instant, rate: Option<Bitrate>) -> bool {
        let Some(rate) = rate else {
            *self = Self::default();
            return true;
        };
        let filled_at = self.filled_at.replace(now).unwrap_or(now);
        let filled = rate.percent(SHARE_PERCENT).bytes_in(now.saturating_duration_since(filled_at));
        self.bytes = self.bytes.saturating_add(filled).min(BURST);
        let left = self.bytes.checked_sub(PACKET_BYTES);
        self.bytes = left.unwrap_or(self.bytes);
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_full_path_is_spared() {
        #[expect(clippy::disallowed_methods, reason = "any instant will do")]
        let start = Instant::now();
        let mut budget = ResendBudget::default();
        let mut taken = |rate: Option<Bitrate>| {
            let asked = (0..1000).map(|ms| budget.takes(start + Duration::from_millis(ms), rate));
            asked.filter(|taken| *taken).count()
        };
        assert_eq!(taken(None), 1000);
        // 15 % of 800 kbit/s are 15 packets a second.
        assert!((20..=21).contains(&taken(Some(Bitrate::kbps(800)))), "and six at once");
        assert_eq!(taken(None), 1000);
    }
}
