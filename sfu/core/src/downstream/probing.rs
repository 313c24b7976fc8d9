//! When to try whether a client's path carries more than is thought: while it lacks something.

use std::time::{Duration, Instant};

use crate::media::bitrate::Bitrate;

/// After a probe that told of more, the next comes this soon.
const INTERVAL_MIN: Duration = Duration::from_millis(400);
/// After others, each interval is twice the last, up to this.
const INTERVAL_MAX: Duration = Duration::from_millis(2500);
/// A path that just carried less than was thought is left alone for so long.
const REST_AFTER_FALL: Duration = Duration::from_millis(1000);
/// What is asked for, of what is thought to be carried; after each probe that told nothing less far beyond it, since what a
/// path does not carry fills its queue.
const STEPS_PERCENT: [u64; 3] = [200, 150, 125];
/// Nothing beyond what would be sent is looked for, but for some room.
const BEYOND_WANTED_PERCENT: u64 = 125;
/// A probe told of more if so much of what it looked for is believed then.
const SUCCESS_PERCENT: u64 = 60;

/// The probes of one path.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probing {
    next_at: Option<Instant>,
    interval: Duration,
    /// What the last probe is to lead to, unless it has.
    hoped_for: Option<Bitrate>,
    /// Probes in a row that told nothing.
    vain: usize,
    /// What was thought to be carried the last time.
    estimate: Bitrate,
}

impl Default for Probing {
    fn default() -> Self {
        Self { next_at: None, interval: INTERVAL_MIN, hoped_for: None, vain: 0, estimate: Bitrate::ZERO }
    }
}

impl Probing {
    /// The rate to try now; none if it is not time for it. `wanted` is what all that is asked for would take.
    pub(super) fn poll(&mut self, now: Instant, estimate: Bitrate, wanted: Bitrate) -> Option<Bitrate> {
        let before = std::mem::replace(&mut self.estimate, estimate);
        if estimate < before.percent(98) {
            let rested = now + REST_AFTER_FALL;
            self.next_at = Some(self.next_at.map_or(rested, |at| at.max(rested)));
        }
        if self.hoped_for.is_some_and(|hoped_for| estimate >= hoped_for) {
            self.hoped_for = None;
            self.vain = 0;
            self.interval = INTERVAL_MIN;
            self.next_at = self.next_at.map(|at| at.min(now + INTERVAL_MIN));
        }
        let next_at = *self.next_at.get_or_insert(now + INTERVAL_MIN);
        if now < next_at {
            return None;
        }
        let step = STEPS_PERCENT.get(self.vain).or(STEPS_PERCENT.last()).copied().unwrap_or(100);
        let rate = estimate.percent(step).min(wanted.percent(BEYOND_WANTED_PERCENT));
        if rate <= estimate {
            return None;
        }
        let beyond = rate.saturating_sub(estimate).percent(SUCCESS_PERCENT);
        self.hoped_for = Some(estimate.saturating_add(beyond));
        self.vain += 1;
        self.next_at = Some(now + self.interval);
        self.interval = (self.interval * 2).min(INTERVAL_MAX);
        Some(rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Polls every 100 ms for so many seconds; returns when probes were sent, in milliseconds, with their rates in kbit/s.
    fn run(seconds: u64, wanted: u64, estimate: impl Fn(u64) -> u64) -> Vec<(u64, u64)> {
        #[expect(clippy::disallowed_methods, reason = "any instant will do")]
        let start = Instant::now();
        let mut probing = Probing::default();
        let mut probes = Vec::new();
        for ms in (0..seconds * 1000).step_by(100) {
            let now = start + Duration::from_millis(ms);
            if let Some(rate) = probing.poll(now, Bitrate::kbps(estimate(ms)), Bitrate::kbps(wanted)) {
                probes.push((ms, rate.as_bps() / 1000));
            }
        }
        probes
    }

    #[test]
    fn probes_that_tell_nothing_become_rare() {
        let probes = run(12, 5000, |_| 400);
        let times: Vec<u64> = probes.iter().map(|(ms, _)| *ms).collect();
        assert_eq!(times, [400, 800, 1600, 3200, 5700, 8200, 10_700]);
        let rates: Vec<u64> = probes.iter().map(|(_, kbps)| *kbps).collect();
        assert_eq!(rates, [800, 600, 500, 500, 500, 500, 500]);
    }

    #[test]
    fn success_is_followed_up_at_once() {
        // The path has carried more from 6 s on; each probe is believed 200 ms later.
        let estimate = |ms| match ms {
            0..=8_399 => 400,
            8_400..=8_999 => 500,
            9_000..=9_399 => 1000,
            9_400..=9_999 => 2000,
            _ => 4000,
        };
        let probes: Vec<_> = run(12, 3000, estimate).into_iter().filter(|(ms, _)| *ms >= 8200).collect();
        assert_eq!(&probes[..3], [(8200, 500), (8800, 1000), (9200, 2000)]);
        assert!(probes.iter().all(|(ms, kbps)| *ms < 10_000 && *kbps <= 3750), "{probes:?}");
    }

    #[test]
    fn a_path_that_fell_is_left_alone() {
        let probes = run(6, 5000, |ms| if ms < 3000 { 4000 } else { 1000 });
        assert!(!probes.iter().any(|(ms, _)| (3000..4000).contains(ms)), "{probes:?}");
        assert!(probes.iter().any(|(ms, _)| *ms >= 4000));
    }

    #[test]
    fn nothing_is_probed_where_there_is_room() {
        assert_eq!(run(5, 1000, |_| 1300), []);
    }
}
