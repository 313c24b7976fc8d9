//! What one client is sent: when each packet leaves, how much may leave, what is sent again.
//!
//! ```text
//!   subscription ─► Queued ─► pacer ─► number for the transport ─► header, payload, seal ─► datagram
//!   NACK ─► sequence map ─► Queued ─┘        │
//!   feedback, REMB, reports ─► estimator ─► pacer's rates, probes
//! ```

use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use crate::{
    media::{
        bitrate::Bitrate,
        estimator::{Estimator, EstimatorConfig, EstimatorOutput, Rates},
        pacer::{Pacer, PacketClass, Release},
        receiver::{ReportBlock, RoundTripTime, round_trip_time},
        store::PacketHandle,
        twcc::{Feedback, PacketReport, ProbeClusterId, SendHistory},
    },
    shard::SubscriptionKey,
};

/// Taken for the round trip time until a report tells it.
const RTT_DEFAULT: Duration = Duration::from_millis(100);

/// The slowest pace: 20 full packets each millisecond, which leave as one GSO send. What is forwarded has been paced
/// by its publisher already; only what comes in larger bursts (keyframes, several streams at once) is spread, and
/// over 5 ms at most, whatever the pace.
const PACING_MIN: Bitrate = Bitrate::kbps(200_000);

/// How often it is measured what all streams take.
const DEMAND_INTERVAL: Duration = Duration::from_secs(1);

/// A packet that waits for its turn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Queued {
    pub(crate) subscription: SubscriptionKey,
    /// See [`crate::forwarder::Subscription::serial`].
    pub(crate) serial: u32,
    pub(crate) handle: PacketHandle,
    /// Outgoing number with rollovers; its low 16 bits for a retransmission.
    pub(crate) sequence: u64,
    /// See [`crate::forwarder::Treatment`].
    pub(crate) tag: u16,
}

/// Loss that the client has reported since the last time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ReportedLoss {
    pub(crate) expected: u64,
    pub(crate) lost: u64,
}

/// What the last report on a stream said.
#[derive(Clone, Copy, Debug)]
struct Reported {
    highest_seq: u32,
    cumulative_lost: i32,
}

/// What all streams together take. Without it the path would be probed for much more than is ever sent on it.
#[derive(Clone, Copy, Debug, Default)]
struct Demand {
    rate: Bitrate,
    since: Option<Instant>,
    /// What has been pushed since then, retransmissions aside.
    bytes: u64,
}

impl Demand {
    /// The rate, when it has been measured anew. It rises at once and falls by an eighth at a time: what pauses comes
    /// back.
    fn measure(&mut self, now: Instant) -> Option<Bitrate> {
        let Some(since) = self.since else {
            self.since = (self.bytes > 0).then_some(now);
            return None;
        };
        let elapsed = now.saturating_duration_since(since);
        if elapsed < DEMAND_INTERVAL {
            return None;
        }
        let ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        let measured = Bitrate::bps(self.bytes.saturating_mul(8_000) / ms.max(1));
        let before = self.rate.as_bps();
        let rate = measured.max(Bitrate::bps(before - before / 8));
        *self = Self { rate, since: Some(now), bytes: 0 };
        Some(rate)
    }
}

/// Everything that one client is sent.
#[derive(Debug)]
pub(crate) struct Downstream {
    pacer: Pacer<Queued>,
    estimator: Estimator,
    demand: Demand,
    history: SendHistory,
    /// Whether the client says when packets came.
    twcc: bool,
    rtt: RoundTripTime,
    /// By SSRC; those of our streams alone.
    reported: FxHashMap<u32, Reported>,
    loss: ReportedLoss,
}

impl Default for Downstream {
    fn default() -> Self {
        Self::new(false)
    }
}

impl Downstream {
    /// `twcc`: whether the client sends transport-wide feedback.
    fn new(twcc: bool) -> Self {
        let estimator = Estimator::new(EstimatorConfig { twcc, ..EstimatorConfig::default() });
        Self {
            pacer: Pacer::new(PACING_MIN),
            estimator,
            demand: Demand::default(),
            history: SendHistory::new(),
            twcc,
            rtt: RoundTripTime::default(),
            reported: FxHashMap::default(),
            loss: ReportedLoss::default(),
        }
    }

    /// Takes over whether the client sends transport-wide feedback. A change begins the estimate anew.
    pub(crate) fn set_twcc(&mut self, twcc: bool) {
        if twcc != self.twcc {
            self.twcc = twcc;
            self.estimator = Estimator::new(EstimatorConfig { twcc, ..EstimatorConfig::default() });
            self.demand = Demand::default();
        }
    }

    /// Whether a packet may go at once: nothing waits, and the rate allows it. It then counts as sent.
    pub(crate) fn passes(&mut self, now: Instant, class: PacketClass, bytes: usize) -> bool {
        let bytes = u16::try_from(bytes).unwrap_or(u16::MAX);
        let passes = self.pacer.pass(now, class, bytes);
        if passes {
            self.demand.bytes += u64::from(bytes);
        }
        passes
    }

    /// Lets a packet wait for its turn. False if there is no room.
    pub(crate) fn push(&mut self, now: Instant, class: PacketClass, bytes: usize, queued: Queued) -> bool {
        let bytes = u16::try_from(bytes).unwrap_or(u16::MAX);
        if class != PacketClass::Retransmission {
            self.demand.bytes += u64::from(bytes);
        }
        self.pacer.push(now, class, bytes, queued).is_ok()
    }

    /// Nothing of what waits is to be sent any more.
    pub(crate) fn forget_queued(&mut self) {
        self.pacer.clear();
    }

    /// The next packet to write now.
    pub(crate) fn poll(&mut self, now: Instant) -> Option<Release<Queued>> {
        self.pacer.poll(now)
    }

    /// Says what was sent when padding was asked for.
    pub(crate) fn on_padding(&mut self, now: Instant, bytes: usize, probe: Option<ProbeClusterId>) {
        self.pacer.on_padding(now, u16::try_from(bytes).unwrap_or(u16::MAX), probe);
    }

    /// The transport number of the packet that is written next.
    pub(crate) fn next_number(&self) -> u16 {
        self.history.next_number()
    }

    /// Notes that it was written, with so many bytes. True if [`next_timeout`](Self::next_timeout) changed for another
    /// reason than packets that wait.
    pub(crate) fn register(&mut self, now: Instant, bytes: usize, probe: Option<ProbeClusterId>) -> bool {
        let size = u16::try_from(bytes).unwrap_or(u16::MAX);
        if self.twcc {
            self.history.register(now, size, probe);
        }
        self.estimator.on_sent(now, size)
    }

    /// Whether nothing waits to be sent.
    pub(crate) fn is_idle(&self) -> bool {
        self.pacer.is_idle()
    }

    /// Takes transport-wide feedback; malformed feedback changes nothing. `reports` is working memory.
    pub(crate) fn on_feedback(&mut self, now: Instant, fci: &[u8], reports: &mut Vec<PacketReport>) {
        let Ok(feedback) = Feedback::parse(fci) else { return };
        reports.clear();
        self.history.on_feedback(&feedback, reports);
        self.estimator.on_feedback(now, reports, self.history.in_flight_bytes());
    }

    /// Takes a receiver-estimated bitrate. Who sends transport-wide feedback has no say: it would bound the estimate for
    /// good.
    pub(crate) fn on_remb(&mut self, now: Instant, bitrate_bps: u64) {
        if !self.twcc {
            self.estimator.on_remb(now, Bitrate::bps(bitrate_bps));
        }
    }

    /// Takes a report on one of our streams, which came at the NTP time `now_ntp`.
    pub(crate) fn on_report(&mut self, now: Instant, now_ntp: u64, block: &ReportBlock) {
        if let Some(rtt) = round_trip_time(now_ntp, block.last_sr, block.delay_since_last_sr) {
            self.rtt.update(rtt);
            self.estimator.on_rtt(now, rtt);
        }
        let reported = Reported { highest_seq: block.highest_seq, cumulative_lost: block.cumulative_lost };
        if let Some(before) = self.reported.insert(block.ssrc, reported) {
            let expected = block.highest_seq.wrapping_sub(before.highest_seq);
            // Numbers that go back belong to an old report, or to a lie.
            let expected = if expected < 1 << 20 { expected } else { 0 };
            let lost = block
                .cumulative_lost
                .saturating_sub(before.cumulative_lost)
                .max(0)
                .cast_unsigned()
                .min(expected);
            self.loss.expected += u64::from(expected);
            self.loss.lost += u64::from(lost);
            self.estimator.on_loss(now, lost, expected - lost);
        }
    }

    /// Lets the estimate look at the time, and the pacer follow it.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if let Some(demand) = self.demand.measure(now) {
            self.estimator.set_desired(now, demand);
        }
        self.estimator.handle_timeout(now);
        while let Some(output) = self.estimator.poll_output() {
            match output {
                EstimatorOutput::Rates(Rates { pacing, padding, .. }) => {
                    self.pacer.set_rates(pacing.max(PACING_MIN), padding);
                }
                EstimatorOutput::Probe(cluster) => self.pacer.probe(now, cluster),
            }
        }
    }

    /// What is thought to reach the client.
    pub(crate) fn estimate(&self) -> Bitrate {
        self.estimator.rates().target
    }

    /// When something is to be sent.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        self.pacer.next_timeout()
    }

    /// When the estimate looks at the time.
    pub(crate) fn estimate_at(&self) -> Option<Instant> {
        self.estimator.next_timeout()
    }

    /// The smoothed round trip time, if a report has told it.
    pub(crate) fn rtt(&self) -> Option<Duration> {
        self.rtt.get()
    }

    /// The round trip time to reckon with.
    pub(crate) fn rtt_or_default(&self) -> Duration {
        self.rtt.get().unwrap_or(RTT_DEFAULT)
    }

    /// What the client reported lost since the last time.
    pub(crate) fn take_loss(&mut self) -> ReportedLoss {
        std::mem::take(&mut self.loss)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remb_counts_where_there_is_no_transport_wide_feedback() {
        #[expect(clippy::disallowed_methods, reason = "any instant will do")]
        let now = Instant::now();
        for (twcc, bounded) in [(true, false), (false, true)] {
            let mut downstream = Downstream::new(twcc);
            downstream.on_remb(now, 50_000);
            assert_eq!(downstream.estimate() <= Bitrate::bps(50_000), bounded, "{twcc}");
        }
    }

    #[test]
    fn what_is_needed_rises_at_once_and_falls_slowly() {
        #[expect(clippy::disallowed_methods, reason = "any instant will do")]
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut demand = Demand::default();
        assert_eq!(demand.measure(at(0)), None);
        demand.bytes = 1;
        assert_eq!(demand.measure(at(5_000)), None, "it begins with the first packet");
        let mut rates = Vec::new();
        for (second, bytes) in [124_999, 125_000, 250_000, 0, 0].into_iter().enumerate() {
            demand.bytes += bytes;
            let end = 6_000 + 1_000 * second as u64;
            assert_eq!(demand.measure(at(end - 1)), None);
            rates.extend(demand.measure(at(end)).map(Bitrate::as_bps));
        }
        assert_eq!(rates, [1_000_000, 1_000_000, 2_000_000, 1_750_000, 1_531_250]);
    }
}
