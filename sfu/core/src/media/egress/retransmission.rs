//! What retransmissions may cost.

use std::time::{Duration, Instant};

use super::sequence_map::Entry;

/// Shortest time between two retransmissions of one packet, where the round trip is shorter.
const RESEND_INTERVAL_MIN: Duration = Duration::from_millis(10);
/// Longest such time, however long a receiver claims its round trip is.
const RESEND_INTERVAL_MAX: Duration = Duration::from_secs(1);

/// Thousandths of octets that are taken for a retransmission when it is granted; the difference is made up for when it
/// is written. A storm of requests would be granted whole otherwise, before the first of them costs anything.
const GRANTED: i64 = 1200 * 1000;

/// Limits of a stream's retransmissions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RtxConfig {
    /// Sent packets that are remembered; older ones cannot be asked for.
    pub packets_max: usize,
    /// Octets of retransmissions for a thousand octets sent.
    pub per_mille: u32,
    /// Octets that may be saved up for a burst of losses.
    pub burst_bytes: u32,
    /// How often one packet is sent again.
    pub resends_max: u8,
}

impl Default for RtxConfig {
    /// 256 packets (3 KiB a stream), a quarter of what is sent, bursts of 48 large packets.
    fn default() -> Self {
        Self { packets_max: 256, per_mille: 250, burst_bytes: 57_600, resends_max: 8 }
    }
}

/// A bucket that fills with what is sent and empties with what is sent again: a receiver that asks for
/// everything again and again costs a fixed share, and nothing when nothing is sent.
#[derive(Debug)]
pub struct RtxLimit {
    config: RtxConfig,
    /// Thousandths of octets.
    credit: i64,
    /// Origin of the stream's clock of milliseconds.
    origin: Option<Instant>,
}

impl RtxLimit {
    /// A full bucket.
    pub fn new(config: RtxConfig) -> Self {
        Self { config, credit: i64::from(config.burst_bytes) * 1000, origin: None }
    }

    /// Counts a packet that was sent for the first time.
    #[inline]
    pub fn on_media(&mut self, bytes: usize) {
        let earned = bytes as i64 * i64::from(self.config.per_mille);
        self.credit = (self.credit + earned).min(i64::from(self.config.burst_bytes) * 1000);
    }

    /// Counts a packet that was granted and has been sent again; of no octets if it was not.
    pub fn on_resent(&mut self, bytes: usize) {
        self.credit += GRANTED - bytes as i64 * 1000;
    }

    /// Whether one more copy of what was just granted may go.
    pub(super) fn may_copy(&mut self) -> bool {
        let may = self.credit > 0;
        if may {
            self.credit -= GRANTED;
        }
        may
    }

    /// Whether a packet may be sent again now; if so, that is noted.
    pub(super) fn may_resend(&mut self, now: Instant, rtt: Duration, entry: &mut Entry) -> bool {
        if self.credit <= 0 || entry.sends.get() > self.config.resends_max {
            return false;
        }
        let origin = *self.origin.get_or_insert(now);
        // Wraps after 65 s, in which the packet is long gone.
        let now_ms = now.saturating_duration_since(origin).as_millis() as u16;
        let interval = rtt.clamp(RESEND_INTERVAL_MIN, RESEND_INTERVAL_MAX);
        let since = Duration::from_millis(u64::from(now_ms.wrapping_sub(entry.resent_ms)));
        if entry.sends.get() > 1 && since < interval {
            return false;
        }
        self.credit -= GRANTED;
        entry.resent_ms = now_ms;
        entry.sends = entry.sends.saturating_add(1);
        true
    }
}
