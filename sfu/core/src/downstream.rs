//! What one client is sent: when each packet leaves, how much may leave, what is sent again.
//!
//! ```text
//!   subscription ─► Queued ─► pacer ─► number for the transport ─► header, payload, seal ─► datagram
//!   NACK ─► sequence map ─► Queued ─┘        │
//!   feedback, REMB, reports ─► estimator ─► pacer's rates, probes
//! ```

mod belief;
mod probing;
mod reception;
mod redundancy;
mod resend_budget;
mod standing_queue;

use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use belief::Belief;
use probing::Probing;
use reception::Taken;
use redundancy::{Redundancy, Room, Witness};
use resend_budget::ResendBudget;
use standing_queue::StandingQueue;

use crate::{
    media::{
        bitrate::Bitrate,
        estimator::{Estimator, EstimatorConfig, EstimatorOutput, Rates},
        pacer::{Pacer, PacketClass, Release, SPREAD_MAX},
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

/// How often it is measured what audio takes.
const DEMAND_INTERVAL: Duration = Duration::from_secs(1);

/// The first estimates are guesses: for so long after the first feedback nothing pauses for them.
const SETTLED_AFTER: Duration = Duration::from_secs(1);
/// A client that has agreed to send feedback and has sent none for so long never will.
const SILENT_AFTER: Duration = Duration::from_secs(2);
/// Only congestion makes so much loss, in percent: GoogCC lowers its estimate for it.
const LOSS_PERCENT_CONGESTED: u64 = 10;
/// So long after a queue stood in the way, losses are its.
const COPIES_AFTER: Duration = Duration::from_secs(3);
/// Paths that lose more than so many percent lose much, or very much.
const LOSSY_PERCENT: u64 = 3;
const VERY_LOSSY_PERCENT: u64 = 7;
/// Where the client's path is the limit, bursts are spread as libwebrtc spreads them, over so long at most: a keyframe that
/// fills the queue there is taken for congestion.
const SPREAD_LIMITED: Duration = Duration::from_millis(150);

/// How much of what is asked for a client can be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Capacity {
    /// All of it: the client says nothing about its path.
    Unlimited,
    /// So much, perhaps more: the estimate has just begun.
    AtLeast(Bitrate),
    Measured(Bitrate),
}

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
    jitter: u32,
    /// When losses were last taken.
    taken: Taken,
}

/// What audio takes.
#[derive(Clone, Copy, Debug, Default)]
struct Demand {
    rate: Bitrate,
    since: Option<Instant>,
    /// What has been pushed since then.
    bytes: u64,
}

impl Demand {
    /// Measures the rate anew when it is time for it. It rises at once and falls by an eighth at a time: what pauses comes
    /// back.
    fn measure(&mut self, now: Instant) {
        let Some(since) = self.since else {
            self.since = (self.bytes > 0).then_some(now);
            return;
        };
        let elapsed = now.saturating_duration_since(since);
        if elapsed < DEMAND_INTERVAL {
            return;
        }
        let ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        let measured = Bitrate::bps(self.bytes.saturating_mul(8_000) / ms.max(1));
        let before = self.rate.as_bps();
        let rate = measured.max(Bitrate::bps(before - before / 8));
        *self = Self { rate, since: Some(now), bytes: 0 };
    }
}

/// Everything that one client is sent.
#[derive(Debug)]
pub(crate) struct Downstream {
    pacer: Pacer<Queued>,
    estimator: Estimator,
    /// What audio takes.
    audio: Demand,
    /// The client is sent less than it asks for: its path is the limit.
    limited: bool,
    probing: Probing,
    queue: StandingQueue,
    /// When a queue last stood in the way.
    queued_at: Option<Instant>,
    belief: Belief,
    redundancy: Redundancy,
    resends: ResendBudget,
    /// When the first packet was sent, and the first feedback came.
    sent_first_at: Option<Instant>,
    feedback_first_at: Option<Instant>,
    /// The client has said what it takes (REMB).
    remb: bool,
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
            audio: Demand::default(),
            limited: false,
            probing: Probing::default(),
            queue: StandingQueue::default(),
            queued_at: None,
            belief: Belief::default(),
            redundancy: Redundancy::default(),
            resends: ResendBudget::default(),
            sent_first_at: None,
            feedback_first_at: None,
            remb: false,
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
            self.probing = Probing::default();
            self.sent_first_at = None;
            self.feedback_first_at = None;
        }
    }

    /// Whether a packet may go at once: nothing waits, and the rate allows it. It then counts as sent.
    pub(crate) fn passes(&mut self, now: Instant, class: PacketClass, bytes: usize) -> bool {
        let bytes = u16::try_from(bytes).unwrap_or(u16::MAX);
        let passes = self.pacer.pass(now, class, bytes);
        if passes && class == PacketClass::Audio {
            self.audio.bytes += u64::from(bytes);
        }
        passes
    }

    /// Lets a packet wait for its turn. False if there is no room.
    pub(crate) fn push(&mut self, now: Instant, class: PacketClass, bytes: usize, queued: Queued) -> bool {
        let bytes = u16::try_from(bytes).unwrap_or(u16::MAX);
        if class == PacketClass::Audio {
            self.audio.bytes += u64::from(bytes);
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
        let begins = self.estimator.on_sent(now, size);
        if begins {
            self.sent_first_at.get_or_insert(now);
        }
        begins
    }

    /// Whether nothing waits to be sent.
    pub(crate) fn is_idle(&self) -> bool {
        self.pacer.is_idle()
    }

    /// Takes transport-wide feedback; malformed feedback changes nothing. `reports` is working memory.
    pub(crate) fn on_feedback(&mut self, now: Instant, fci: &[u8], reports: &mut Vec<PacketReport>) {
        let Ok(feedback) = Feedback::parse(fci) else { return };
        self.feedback_first_at.get_or_insert(now);
        reports.clear();
        self.history.on_feedback(&feedback, reports);
        self.queue.on_feedback(now, reports);
        self.belief.on_feedback(reports);
        self.estimator.on_feedback(now, reports, self.history.in_flight_bytes());
        self.belief.update(now, self.estimate(), self.queue_delay());
        if self.queue_delay() > Duration::ZERO {
            self.queued_at = Some(now);
        }
        let lost = reports.iter().filter(|report| report.received_us.is_none()).count();
        self.note_loss(now, Witness::Feedback, (reports.len() as u64, lost as u64));
        if self.limited {
            self.set_pace(self.estimator.rates());
        }
    }

    /// Takes a receiver-estimated bitrate. Who sends transport-wide feedback has no say: it would bound the estimate for
    /// good.
    pub(crate) fn on_remb(&mut self, now: Instant, bitrate_bps: u64) {
        if !self.twcc {
            self.remb = true;
            self.estimator.on_remb(now, Bitrate::bps(bitrate_bps));
        }
    }

    /// Takes a report on one of our streams, which came at the NTP time `now_ntp`.
    pub(crate) fn on_report(&mut self, now: Instant, now_ntp: u64, block: &ReportBlock) {
        if let Some(rtt) = round_trip_time(now_ntp, block.last_sr, block.delay_since_last_sr) {
            self.rtt.update(rtt);
            self.estimator.on_rtt(now, rtt);
        }
        let ReportBlock { highest_seq, cumulative_lost, jitter, .. } = *block;
        let before = self.reported.get(&block.ssrc);
        let taken = before.map_or(Taken { highest_seq, cumulative_lost, sent: None }, |before| before.taken);
        let reported = Reported { highest_seq, cumulative_lost, jitter, taken };
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
            self.note_loss(now, Witness::Reports, (expected.into(), lost.into()));
        }
    }

    /// Of so many packets so many were lost, as somebody tells.
    fn note_loss(&mut self, now: Instant, witness: Witness, packets: (u64, u64)) {
        let room = match self.queued_lately(now) {
            true if self.queue_delay() > Duration::ZERO => Room::Full {
                percent: self.audio.rate.as_bps().saturating_mul(100) / self.believed().as_bps().max(1),
            },
            true => Room::Queued,
            false => Room::Free,
        };
        self.redundancy.on_packets(now, witness, packets, room);
    }

    /// Whether a queue stood in the client's way so lately that losses are its.
    fn queued_lately(&self, now: Instant) -> bool {
        self.queued_at.is_some_and(|at| now.saturating_duration_since(at) < COPIES_AFTER)
    }

    /// How many earlier payloads each packet of audio is to carry, for those that are lost.
    pub(crate) fn earlier_payloads(&self) -> u8 {
        self.redundancy.earlier_payloads()
    }

    /// Lets the estimate look at the time, and the pacer follow it.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.audio.measure(now);
        self.estimator.handle_timeout(now);
        self.belief.update(now, self.estimate(), self.queue_delay());
        while let Some(output) = self.estimator.poll_output() {
            match output {
                EstimatorOutput::Rates(rates) => self.set_pace(rates),
                EstimatorOutput::Probe(cluster) => self.pacer.probe(now, cluster),
            }
        }
    }

    fn set_pace(&mut self, Rates { pacing, padding, .. }: Rates) {
        let (pacing, spread) = match self.limited {
            // What would only lengthen a queue waits here.
            true if self.is_congested() => (self.believed(), SPREAD_LIMITED),
            true => (pacing, SPREAD_LIMITED),
            false => (pacing.max(PACING_MIN), SPREAD_MAX),
        };
        self.pacer.set_rates(pacing, padding, spread);
    }

    /// How much of what is asked for can be sent.
    pub(crate) fn capacity(&self, now: Instant) -> Capacity {
        let since = |at: Option<Instant>| at.map(|at| now.saturating_duration_since(at));
        let estimate = if self.twcc { self.believed() } else { self.estimate() };
        match (self.twcc, since(self.feedback_first_at)) {
            (true, Some(age)) if age >= SETTLED_AFTER => Capacity::Measured(estimate),
            (true, None) if since(self.sent_first_at).is_some_and(|age| age >= SILENT_AFTER) => {
                Capacity::Unlimited
            }
            (true, _) => Capacity::AtLeast(estimate),
            (false, _) if self.remb => Capacity::Measured(estimate),
            (false, _) => Capacity::Unlimited,
        }
    }

    /// What a client's path is taken to carry. It falls less readily than the estimate.
    pub(crate) fn believed(&self) -> Bitrate {
        self.belief.rate()
    }

    /// Whether a lost packet may be sent again: where a queue stands in the way, what is lost was too much, and would be so
    /// once more.
    pub(crate) fn may_resend(&mut self, now: Instant) -> bool {
        let rate = self.is_congested().then(|| self.believed());
        self.resends.takes(now, rate)
    }

    /// Whether a queue has stood in the client's way, or it has lost much, within a time before now.
    pub(crate) fn was_congested(&self, now: Instant, within: Duration) -> bool {
        let queued = self.queued_at.is_some_and(|at| now.saturating_duration_since(at) < within);
        queued || self.belief.loses(LOSS_PERCENT_CONGESTED)
    }

    /// How often what is lost is sent again at once: on a path that loses much without being full more than once. The second
    /// loss of a packet costs two round trips more.
    pub(crate) fn resend_copies(&self, now: Instant) -> u8 {
        match !self.queued_lately(now) {
            true if self.belief.loses(VERY_LOSSY_PERCENT) => 3,
            true if self.belief.loses(LOSSY_PERCENT) => 2,
            _ => 1,
        }
    }

    /// Whether the client's path is full: a queue stands in it.
    pub(crate) fn is_congested(&self) -> bool {
        self.limited && self.queue_delay() > Duration::ZERO
    }

    /// What audio takes.
    pub(crate) fn audio_rate(&self) -> Bitrate {
        self.audio.rate
    }

    /// How long a packet waits in the queue on the way to the client.
    pub(crate) fn queue_delay(&self) -> Duration {
        self.queue.delay(self.believed())
    }

    /// Tells what everything that is asked for would take, and whether all of it is sent. As long as it is not, it is
    /// tried now and then whether there is room for more: true if that is to be done now.
    pub(crate) fn set_wanted(&mut self, now: Instant, wanted: Bitrate, complete: bool) -> bool {
        if self.limited == complete {
            self.limited = !complete;
            self.set_pace(self.estimator.rates());
        }
        let probe = match self.twcc && !complete && self.queue_delay() == Duration::ZERO {
            true => self.probing.poll(now, self.believed(), wanted),
            false => None,
        };
        if let Some(rate) = probe {
            self.estimator.probe(now, rate);
        }
        probe.is_some()
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
            let measured = matches!(downstream.capacity(now), Capacity::Measured(_));
            assert_eq!(measured, bounded, "{twcc}");
        }
    }

    #[test]
    fn what_is_needed_rises_at_once_and_falls_slowly() {
        #[expect(clippy::disallowed_methods, reason = "any instant will do")]
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut demand = Demand::default();
        demand.measure(at(0));
        demand.bytes = 1;
        demand.measure(at(5_000));
        assert_eq!(demand.rate, Bitrate::ZERO, "it begins with the first packet");
        let mut rates = Vec::new();
        for (second, bytes) in [124_999, 125_000, 250_000, 0, 0].into_iter().enumerate() {
            demand.bytes += bytes;
            let end = 6_000 + 1_000 * second as u64;
            demand.measure(at(end - 1));
            assert_eq!(demand.bytes > 0, bytes > 0, "not yet");
            demand.measure(at(end));
            rates.push(demand.rate.as_bps());
        }
        assert_eq!(rates, [1_000_000, 1_000_000, 2_000_000, 1_750_000, 1_531_250]);
    }
}
