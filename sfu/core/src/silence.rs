//! Tells when a client that was heard all the time suddenly is not: its path is gone, although ICE takes much longer to
//! say so. A client that speaks seldom is left to ICE.

use std::time::{Duration, Instant};

/// Who was heard all the time and is not for so long is silent. Of a picture that stands still browsers send one frame
/// a second.
const SILENT_AFTER: Duration = Duration::from_millis(1_200);
/// Who is heard at least so often is heard all the time.
const STEADY_GAP_MAX: Duration = Duration::from_millis(400);
/// What arrives within this time counts once: packets come in bursts.
const BURST: Duration = Duration::from_millis(20);
/// So many packets sent to a client make it report on them.
const REPORTED_PACKETS: u64 = 10;

/// How a client was heard.
#[derive(Debug)]
pub(crate) struct Silence {
    heard_at: Instant,
    /// The longest time between bursts of late: each burst makes it an eighth shorter.
    usual_gap: Duration,
    sent_since_heard: u64,
    silent: bool,
}

impl Silence {
    pub(crate) fn new(now: Instant) -> Self {
        Self { heard_at: now, usual_gap: SILENT_AFTER, sent_since_heard: 0, silent: false }
    }

    /// Something authentic came.
    pub(crate) fn hear(&mut self, now: Instant) {
        self.sent_since_heard = 0;
        let gap = now.saturating_duration_since(self.heard_at);
        if gap >= BURST {
            self.usual_gap = gap.max(self.usual_gap / 8 * 7);
            self.heard_at = now;
        }
    }

    /// Packets were sent to it.
    pub(crate) fn send(&mut self, packets: u64) {
        self.sent_since_heard = self.sent_since_heard.saturating_add(packets);
    }

    pub(crate) fn is_silent(&self) -> bool {
        self.silent
    }

    /// Whether it is silent, if that changed. `publishes`: media is to come from it.
    pub(crate) fn judge(&mut self, now: Instant, publishes: bool) -> Option<bool> {
        let quiet = now.saturating_duration_since(self.heard_at) >= SILENT_AFTER;
        let expected = publishes || self.sent_since_heard >= REPORTED_PACKETS;
        let silent = quiet && (self.silent || (expected && self.usual_gap <= STEADY_GAP_MAX));
        (std::mem::replace(&mut self.silent, silent) != silent).then_some(silent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Somebody who was heard for five seconds, every `gap`, and when that was last.
    fn heard(gap: Duration) -> (Silence, Instant) {
        #[expect(clippy::disallowed_methods, reason = "any instant will do")]
        let mut now = Instant::now();
        let mut silence = Silence::new(now);
        let end = now + 5 * SECOND;
        while now < end {
            now += gap;
            silence.hear(now);
            assert_eq!(silence.judge(now, true), None);
        }
        (silence, now)
    }

    #[test]
    fn a_publisher_that_was_heard_all_the_time_is_silent_until_it_is_heard_again() {
        let (mut silence, now) = heard(Duration::from_millis(20));
        assert_eq!(silence.judge(now + SECOND, true), None);
        assert_eq!(silence.judge(now + 2 * SECOND, true), Some(true));
        assert_eq!(silence.judge(now + 3 * SECOND, true), None, "told once");
        silence.hear(now + 4 * SECOND);
        assert_eq!(silence.judge(now + 4 * SECOND, true), Some(false));
    }

    #[test]
    fn a_viewer_is_silent_only_while_it_is_sent_something() {
        let (mut silence, now) = heard(Duration::from_millis(100));
        silence.send(9);
        assert_eq!(silence.judge(now + 2 * SECOND, false), None, "its publisher left");
        silence.send(1);
        assert_eq!(silence.judge(now + 2 * SECOND, false), Some(true));
    }

    #[test]
    fn who_is_heard_seldom_or_in_bursts_is_never_silent() {
        let (mut seldom, now) = heard(Duration::from_millis(1_200));
        assert_eq!(seldom.judge(now + 10 * SECOND, true), None);
        let (mut bursts, mut now) = heard(Duration::from_millis(1_200));
        for _ in 0..100 {
            now += Duration::from_millis(1);
            bursts.hear(now);
        }
        assert_eq!(bursts.judge(now + 10 * SECOND, true), None);
    }
}
