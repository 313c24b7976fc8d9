//! How much stands in the queue on the way to a client, by the times at which its packets left and came.

use std::time::{Duration, Instant};

use crate::media::{bitrate::Bitrate, twcc::PacketReport};

/// The quickest packet of so long, twice, tells how long the way takes without a queue.
const BASE_WINDOW: Duration = Duration::from_secs(5);

/// The quickest packet of so long, twice, tells how long the queue is: bursts come and go, and so do keyframes …
const QUEUE_WINDOW: Duration = Duration::from_millis(250);
/// … but not such long ones, of which the quickest packet of so long, twice, tells.
const LONG_QUEUE: Duration = Duration::from_millis(80);
const LONG_QUEUE_WINDOW: Duration = Duration::from_millis(40);
/// A queue of so many bytes is none: a few packets of different streams that came together.
const BYTES_IGNORED: u16 = 2400;
/// Nor is one so short: feedback is coarse, and other traffic comes and goes.
const DELAY_IGNORED: Duration = Duration::from_millis(20);

/// The queue of one path.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct StandingQueue {
    /// Zero of our times.
    epoch: Option<Instant>,
    /// Least transit times, on two clocks, so that only differences mean anything: of a long time and of now.
    base: Least,
    queue: Least,
    lately: Least,
}

/// The least of two windows, the running one and the one before.
#[derive(Clone, Copy, Debug, Default)]
struct Least {
    since: Option<Instant>,
    running: Option<i64>,
    before: Option<i64>,
}

impl Least {
    fn add(&mut self, now: Instant, window: Duration, value: i64) {
        if now.saturating_duration_since(*self.since.get_or_insert(now)) >= window {
            self.since = Some(now);
            self.before = self.running.take();
        }
        self.running = Some(self.running.map_or(value, |least| least.min(value)));
    }

    fn get(&self) -> Option<i64> {
        self.running.into_iter().chain(self.before).min()
    }
}

impl StandingQueue {
    /// Takes what one feedback says.
    pub(super) fn on_feedback(&mut self, now: Instant, reports: &[PacketReport]) {
        let us = |time: Duration| i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
        let now_us = us(now.saturating_duration_since(*self.epoch.get_or_insert(now)));
        let transit = |report: &PacketReport| {
            let sent_us = now_us.checked_sub(us(now.saturating_duration_since(report.sent_at)))?;
            report.received_us?.checked_sub(sent_us)
        };
        let Some(quickest) = reports.iter().filter_map(transit).min() else { return };
        self.base.add(now, BASE_WINDOW, quickest);
        self.queue.add(now, QUEUE_WINDOW, quickest);
        self.lately.add(now, LONG_QUEUE_WINDOW, quickest);
    }

    /// How long a packet waits there, on a path that carries so much; zero if that is not worth speaking of.
    pub(super) fn delay(&self, rate: Bitrate) -> Duration {
        let Some(base) = self.base.get() else { return Duration::ZERO };
        let beyond = |least: &Least, ignored: Duration| {
            let delay = least.get().unwrap_or(base).saturating_sub(base);
            Duration::from_micros(u64::try_from(delay).unwrap_or(0)).saturating_sub(ignored)
        };
        let ignored = DELAY_IGNORED.max(rate.time_of(BYTES_IGNORED));
        beyond(&self.queue, ignored).max(beyond(&self.lately, ignored.max(LONG_QUEUE)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_the_queue_is_seen_whatever_the_clocks() {
        #[expect(clippy::disallowed_methods, reason = "any instant will do")]
        let start = Instant::now();
        let report = |sent_ms: u64, transit_ms: u64| PacketReport {
            seq: 0,
            sent_at: start + Duration::from_millis(sent_ms),
            size: 1200,
            probe: None,
            received_us: Some(i64::try_from((sent_ms + transit_ms) * 1000).unwrap() - 777_000_000),
        };
        let mut queue = StandingQueue::default();
        let mut after = |ms: u64, transits: &[u64]| {
            let reports: Vec<_> = transits.iter().map(|transit| report(ms, *transit)).collect();
            queue.on_feedback(start + Duration::from_millis(ms + 150), &reports);
            queue.delay(Bitrate::kbps(5000)).as_millis()
        };
        assert_eq!(after(100, &[20, 25, 40]), 0, "a burst of ours");
        for ms in [200, 300, 400, 500, 600] {
            assert_eq!(after(ms, &[90, 95]), 0, "a keyframe");
        }
        assert_eq!(after(700, &[90]), 50, "it stays");
        assert_eq!(after(800, &[20]), 0);
        assert_eq!(after(880, &[200]), 0);
        assert_eq!(after(960, &[200]), 100, "a long one");
        for ms in (1_000..6_000).step_by(100) {
            after(ms, &[60]);
        }
        assert_eq!(after(6_000, &[60]), 20);
        assert_eq!(after(11_200, &[60]), 0, "a longer way, by now");
        let lost = PacketReport { received_us: None, ..report(0, 0) };
        queue.on_feedback(start, &[lost]);
        assert_eq!(queue.delay(Bitrate::ZERO), Duration::ZERO);
    }
}
