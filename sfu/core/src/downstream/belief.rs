//! What a client's path is believed to carry: the estimate, but for falls that nothing else bears out.
//!
//! The estimate falls with the trend of delays. A probe, a keyframe or several cameras in step make one where there is no
//! congestion. If a path carries less than before, a queue stands in it, or packets are lost; as long as there is neither,
//! the belief follows the estimate slowly, and what is sent stays as it is. And where a queue stands, the path is full: it
//! carries what it delivers, which is known at once.

use std::time::{Duration, Instant};

use crate::media::{bitrate::Bitrate, twcc::PacketReport};

/// More loss bears out a fall, in percent: GoogCC's limit above which it lowers its estimate.
const LOSS_PERCENT_MIN: u64 = 10;
/// Loss is taken over about so many packets.
const LOSS_PACKETS: u64 = 64;
/// Deliveries are measured over so long.
const DELIVERY_WINDOW_US: i64 = 150_000;
/// A path with a queue carries what it delivers, less this, in percent: the algorithm takes a second to find that.
const DELIVERED_PERCENT: u64 = 95;
/// … nor does it carry so much less, however low the estimate falls.
const DELIVERED_LEAST_PERCENT: u64 = 80;
/// That holds for so long after the queue is gone: the algorithm may still be on its way down.
const CEILING_HOLDS: Duration = Duration::from_secs(2);
/// Without either, the belief falls by so much a second, in percent.
const FALL_PERCENT: u64 = 4;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Belief {
    rate: Bitrate,
    at: Option<Instant>,
    /// Lost packets among the last [`LOSS_PACKETS`], in 1/256.
    lost: u64,
    /// What came since then, on the client's clock.
    window: Option<(i64, u64)>,
    /// In the last whole window.
    delivered: Option<Bitrate>,
    /// What was delivered while there was a queue, and when it was last seen.
    ceiling: Option<(Instant, Bitrate)>,
}

impl Belief {
    /// Takes what one feedback says.
    pub(super) fn on_feedback(&mut self, reports: &[PacketReport]) {
        for report in reports {
            let lost = if report.received_us.is_none() { 256 } else { 0 };
            self.lost = self.lost - self.lost / LOSS_PACKETS + lost;
            if let Some(us) = report.received_us {
                self.deliver(us, report.size.into());
            }
        }
    }

    fn deliver(&mut self, us: i64, bytes: u64) {
        let Some((since, sum)) = &mut self.window else {
            self.window = Some((us, 0));
            return;
        };
        *sum += bytes;
        let elapsed = us.saturating_sub(*since);
        if elapsed >= DELIVERY_WINDOW_US {
            let elapsed = u64::try_from(elapsed).unwrap_or(u64::MAX);
            self.delivered = Some(Bitrate::bps(sum.saturating_mul(8_000_000) / elapsed.max(1)));
            self.window = Some((us, 0));
        } else if elapsed < 0 {
            self.window = None;
        }
    }

    /// Takes the estimate, and how long a packet waits in the queue on its way: any bears out a fall.
    pub(super) fn update(&mut self, now: Instant, estimate: Bitrate, queue: Duration) {
        let elapsed = self.at.replace(now).map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let loses = self.loses(LOSS_PERCENT_MIN);
        if queue > Duration::ZERO {
            let delivered = self.delivered.map_or(estimate, |rate| rate.percent(DELIVERED_PERCENT));
            self.ceiling = Some((now, delivered));
            self.rate = estimate.clamp(delivered.percent(DELIVERED_LEAST_PERCENT), delivered);
            return;
        }
        self.ceiling = self.ceiling.filter(|(at, _)| now.saturating_duration_since(*at) < CEILING_HOLDS);
        let estimate = self.ceiling.map_or(estimate, |(_, ceiling)| estimate.min(ceiling));
        if estimate >= self.rate || loses {
            self.rate = estimate;
            return;
        }
        let us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        let fall = self.rate.percent(FALL_PERCENT).as_bps().saturating_mul(us) / 1_000_000;
        self.rate = self.rate.saturating_sub(Bitrate::bps(fall)).max(estimate);
    }

    /// Whether more than so many percent of the packets are lost lately.
    pub(super) fn loses(&self, percent: u64) -> bool {
        self.lost * 100 > percent * LOSS_PACKETS * 256
    }

    pub(super) fn rate(&self) -> Bitrate {
        self.rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(falls_to: u64, queue_ms: u64, lost: usize) -> u64 {
        #[expect(clippy::disallowed_methods, reason = "any instant will do")]
        let start = Instant::now();
        let mut belief = Belief::default();
        belief.update(start, Bitrate::kbps(1000), Duration::ZERO);
        let report = |index: usize| PacketReport {
            seq: index as u64,
            sent_at: start,
            size: 1200,
            probe: None,
            received_us: (index >= lost).then_some(0),
        };
        belief.on_feedback(&(0..64).map(report).collect::<Vec<_>>());
        for ms in (0..=1000).step_by(50) {
            let now = start + Duration::from_millis(ms);
            belief.update(now, Bitrate::kbps(falls_to), Duration::from_millis(queue_ms));
        }
        belief.rate().as_bps() / 1000
    }

    #[test]
    fn a_fall_is_believed_where_there_is_a_queue_or_loss() {
        assert_eq!(after(500, 0, 0), 960);
        assert_eq!(after(500, 0, 4), 960);
        assert_eq!(after(980, 0, 0), 980);
        assert_eq!(after(500, 1, 0), 500);
        assert_eq!(after(500, 0, 20), 500);
        assert_eq!(after(1500, 0, 20), 1500, "a rise is");
    }

    #[test]
    fn with_a_queue_what_is_delivered_is_believed() {
        #[expect(clippy::disallowed_methods, reason = "any instant will do")]
        let start = Instant::now();
        let mut belief = Belief::default();
        let reports: Vec<_> = (0..60)
            .map(|index| PacketReport {
                seq: index,
                sent_at: start,
                size: 1250,
                probe: None,
                received_us: Some(i64::try_from(index).unwrap() * 10_000),
            })
            .collect();
        belief.on_feedback(&reports);
        belief.update(start, Bitrate::kbps(4000), Duration::ZERO);
        assert_eq!(belief.rate(), Bitrate::kbps(4000));
        belief.update(start, Bitrate::kbps(3000), Duration::from_millis(100));
        assert_eq!(belief.rate(), Bitrate::kbps(950));
        belief.update(start, Bitrate::kbps(200), Duration::from_millis(100));
        assert_eq!(belief.rate(), Bitrate::kbps(760), "nor much less: the path is full of it");
        belief.update(start + CEILING_HOLDS / 2, Bitrate::kbps(2000), Duration::ZERO);
        assert_eq!(belief.rate(), Bitrate::kbps(950), "the queue has just gone");
        belief.update(start + CEILING_HOLDS, Bitrate::kbps(2000), Duration::ZERO);
        assert_eq!(belief.rate(), Bitrate::kbps(2000));
    }
}
