//! What a probe of ours tells, and how it is kept from being taken for congestion.
//!
//! ```text
//!   sent      m   p p m p p p   m    m        m media, p probe
//!   arrived   m   p  p  m  p  p  p   m   m    all of it within the probe counts: it shares the path
//!   delay     _   _  -  -  ‾  ‾  ‾   -   _    the queue that the probe made: hidden from the algorithm
//! ```
//! libwebrtc probes while little is sent. Ours go while the path is half full, and the queue that they make for a moment
//! would be an overuse to the trend of delays each time.

use std::time::{Duration, Instant};

use crate::media::{bitrate::Bitrate, pacer::ProbeCluster, twcc::PacketReport};

/// A queue that is still there so long after the probe is none that it made.
const DRAIN_MAX: Duration = Duration::from_millis(120);
/// A path that delivers less than this share of what was sent is full (libwebrtc, `probe_bitrate_estimator.cc`), in percent …
const UNSATURATED_PERCENT: u64 = 90;
/// … and this share of what it delivers is a good rate.
const UTILISATION_PERCENT: u64 = 95;
/// Deliveries faster than this, in percent of the sending, are no measurement.
const RATIO_PERCENT_MAX: u64 = 200;
/// As many of a probe's packets and bytes must have come to tell anything, in percent.
const RECEIVED_PERCENT_MIN: u64 = 80;

/// A probe that is under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct ProbeMeter {
    cluster: ProbeCluster,
    /// How long the way took just before, on two clocks.
    transit_us: i64,
    first: Option<Packet>,
    last: Option<Packet>,
    /// Of the probe itself.
    packets: u64,
    probe_bytes: u64,
    /// Of everything from the first to the last packet, and what came since.
    bytes: u64,
    bytes_since: u64,
    /// More of it has come since the last result.
    changed: bool,
}

#[derive(Clone, Copy, Debug)]
struct Packet {
    sent_at: Instant,
    received_us: i64,
    size: u16,
}

impl ProbeMeter {
    /// The probe has been asked for; the way took `transit_us` lately.
    pub(super) fn new(cluster: ProbeCluster, transit_us: i64) -> Self {
        Self {
            cluster,
            transit_us,
            first: None,
            last: None,
            packets: 0,
            probe_bytes: 0,
            bytes: 0,
            bytes_since: 0,
            changed: false,
        }
    }

    /// Takes a report, in the order of sending.
    pub(super) fn on_report(&mut self, report: &PacketReport) {
        let Some(received_us) = report.received_us else { return };
        let size = u64::from(report.size);
        let packet = Packet { sent_at: report.sent_at, received_us, size: report.size };
        if report.probe == Some(self.cluster.id) {
            self.first.get_or_insert(packet);
            self.last = Some(packet);
            self.changed = true;
            self.packets += 1;
            self.probe_bytes += size;
            self.bytes += std::mem::take(&mut self.bytes_since) + size;
        } else if self.first.is_some() {
            self.bytes_since += size;
        }
    }

    /// The transit time to tell the algorithm of a packet, in place of the true one.
    pub(super) fn hide_queue(&self, sent_at: Instant, transit_us: i64) -> i64 {
        let Some((first, last)) = self.first.zip(self.last) else { return transit_us };
        let within = sent_at >= first.sent_at && sent_at <= last.sent_at + DRAIN_MAX;
        if within { transit_us.min(self.transit_us) } else { transit_us }
    }

    /// Whether nothing that comes at `now` is of it any more.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.last.is_some_and(|last| now.saturating_duration_since(last.sent_at) > Duration::from_secs(1))
    }

    /// The rate that the path carries, as far as the probe tells; once for each packet of it.
    pub(super) fn take_result(&mut self) -> Option<Bitrate> {
        std::mem::take(&mut self.changed).then(|| self.result()).flatten()
    }

    fn result(&self) -> Option<Bitrate> {
        let (first, last) = (self.first?, self.last?);
        let enough = |got: u64, wanted: u64| got * 100 >= wanted * RECEIVED_PERCENT_MIN;
        if !enough(self.packets, self.cluster.packets_min.into())
            || !enough(self.probe_bytes, self.cluster.bytes_min.into())
        {
            return None;
        }
        let rate = |bytes: u64, us: u64| Some(Bitrate::bps(bytes.checked_mul(8_000_000)?.checked_div(us)?));
        let send_us =
            u64::try_from(last.sent_at.saturating_duration_since(first.sent_at).as_micros()).ok()?;
        let receive_us = u64::try_from(last.received_us.checked_sub(first.received_us)?).ok()?;
        let sent = rate(self.bytes.saturating_sub(last.size.into()), send_us)?;
        let received = rate(self.bytes.saturating_sub(first.size.into()), receive_us)?;
        if received > sent.percent(RATIO_PERCENT_MAX) {
            return None;
        }
        let saturated = received < sent.percent(UNSATURATED_PERCENT);
        Some(if saturated { received.percent(UTILISATION_PERCENT) } else { sent.min(received) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::twcc::ProbeClusterId;

    const PROBE: ProbeCluster =
        ProbeCluster { id: ProbeClusterId(7), rate: Bitrate::kbps(4000), bytes_min: 7500, packets_min: 5 };

    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn start() -> Instant {
        Instant::now()
    }

    /// A probe of 4 Mbit/s beside 2 Mbit/s of media, over a path that carries so much.
    fn probed(path_kbps: u64) -> (ProbeMeter, Instant) {
        let start = start();
        let mut meter = ProbeMeter::new(PROBE, 20_000);
        let mut free_us = 0;
        for index in 0..16_u64 {
            let sent_us = index * 1_000;
            for (size, probe) in [(500, Some(PROBE.id)), (250, None)] {
                free_us = sent_us.max(free_us) + size * 8_000 / path_kbps;
                meter.on_report(&PacketReport {
                    seq: index,
                    sent_at: start + Duration::from_micros(sent_us),
                    size: u16::try_from(size).unwrap(),
                    probe,
                    received_us: Some(i64::try_from(free_us).unwrap() + 20_000),
                });
            }
        }
        (meter, start)
    }

    #[test]
    fn all_that_shares_the_path_counts() {
        let kbps = |path| probed(path).0.result().unwrap().as_bps() / 1000;
        assert!((5_700..=6_100).contains(&kbps(20_000)), "all that was sent: {}", kbps(20_000));
        assert!((3_700..=3_900).contains(&kbps(4_000)), "95 % of what there is: {}", kbps(4_000));
    }

    #[test]
    fn few_packets_tell_nothing() {
        let mut meter = ProbeMeter::new(PROBE, 0);
        assert_eq!(meter.result(), None);
        let report = PacketReport {
            seq: 0,
            sent_at: start(),
            size: 7500,
            probe: Some(PROBE.id),
            received_us: Some(1),
        };
        for _ in 0..3 {
            meter.on_report(&report);
        }
        assert_eq!(meter.result(), None);
        for _ in 0..9 {
            meter.on_report(&report);
        }
        assert_eq!(meter.result(), None, "all at once");
    }

    #[test]
    fn the_queue_of_a_probe_is_hidden_for_a_while() {
        let (meter, start) = probed(4_000);
        let hidden = |ms: u64, transit_ms: i64| {
            meter.hide_queue(start + Duration::from_millis(ms), transit_ms * 1000) / 1000
        };
        assert_eq!([hidden(10, 28), hidden(10, 15), hidden(100, 28), hidden(200, 28)], [20, 15, 20, 28]);
        let unsent = ProbeMeter::new(PROBE, 20_000);
        assert_eq!(unsent.hide_queue(start, 28_000), 28_000);
    }
}
