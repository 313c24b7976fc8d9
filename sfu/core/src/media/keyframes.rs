//! Keyframe requests on their way upstream: one request per need, however many receivers ask.
//!
//! ```text
//!   PLI/FIR of a subscriber ─► KeyframeAllowance ─► KeyframeRequests of the encoding ─► PLI to the publisher
//!                              (one subscriber's      (all subscribers' wishes become
//!                               storm stops here)      one request, repeated until answered)
//! ```
//! A keyframe costs the publisher several times a normal frame, so a request has to be rare; a viewer in
//! front of a frozen picture waits for it, so it has to be fast. The first wish is passed on at once; what
//! follows waits for the answer as long as a round trip allows.

use std::time::{Duration, Instant};

/// The shortest time between two requests for one encoding: a publisher needs a frame's time to answer.
pub const REQUEST_INTERVAL_MIN: Duration = Duration::from_millis(200);
/// The shortest time between two requests when the first was answered, however many subscribers ask: a keyframe costs
/// the publisher several times a normal frame.
pub const NEED_INTERVAL_MIN: Duration = Duration::from_millis(500);
/// Same, of an encoding that many receive. Who begins meanwhile may begin with the last keyframe.
pub const NEED_INTERVAL_MANY: Duration = Duration::from_secs(1);
/// The longest time an unanswered request waits to be repeated, whatever the round-trip time claims to be.
pub const REQUEST_INTERVAL_MAX: Duration = Duration::from_millis(1000);
/// Added to the round trip before a request counts as lost: encoding and pacing of a keyframe take so long.
const ANSWER_TIME: Duration = Duration::from_millis(150);
/// Unanswered requests after which the encoding counts as not answering and is asked once a second only.
const UNANSWERED_MAX: u8 = 10;
/// Keyframe wishes one subscriber may have in a row.
pub const ALLOWANCE_BURST: u8 = 3;
/// After [`ALLOWANCE_BURST`] a subscriber has one more wish per this time.
pub const ALLOWANCE_INTERVAL: Duration = Duration::from_secs(2);

/// One encoding's open keyframe request. 56 bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct KeyframeRequests {
    asked_at: Option<Instant>,
    keyframe_at: Option<Instant>,
    wanted: bool,
    many: bool,
    unanswered: u8,
    /// The publisher's round-trip time in milliseconds; 0 if not known.
    rtt_ms: u16,
}

impl KeyframeRequests {
    /// Sets the round-trip time to the publisher. Times above [`REQUEST_INTERVAL_MAX`] count as that.
    pub fn set_rtt(&mut self, rtt: Duration) {
        self.rtt_ms = rtt.min(REQUEST_INTERVAL_MAX).as_millis() as u16;
    }

    /// Whether many receive the encoding.
    pub fn set_many(&mut self, many: bool) {
        self.many = many;
    }

    /// Notes that somebody needs a keyframe. `sent_before` is how long ago the wish was uttered: half the
    /// subscriber's round-trip time, zero for a wish of our own. A wish uttered before the latest keyframe
    /// could have reached the subscriber is already answered. True if the publisher is to be asked now.
    pub fn want(&mut self, now: Instant, sent_before: Duration) -> bool {
        // The keyframe needed as long to get there as the wish needed to come.
        let on_its_way = sent_before.min(REQUEST_INTERVAL_MAX) * 2;
        if self.keyframe_at.is_some_and(|at| now.saturating_duration_since(at) < on_its_way) {
            return false;
        }
        self.wanted = true;
        self.poll(now)
    }

    /// True if the publisher is to be asked (again) now: a wish is open and the last request is as old as
    /// an answer may take.
    pub fn poll(&mut self, now: Instant) -> bool {
        let ask = self.next_timeout().is_some_and(|at| at <= now) || self.wanted && self.asked_at.is_none();
        if ask {
            self.asked_at = Some(now);
            self.unanswered = self.unanswered.saturating_add(1);
        }
        ask
    }

    /// When [`poll`](Self::poll) will ask again, if a wish is open.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        self.asked_at.filter(|_| self.wanted).map(|at| at + self.interval())
    }

    /// Notes the first packet of a keyframe: all wishes up to now are answered.
    pub fn on_keyframe(&mut self, now: Instant) {
        self.wanted = false;
        self.unanswered = 0;
        self.keyframe_at = Some(now);
    }

    /// Drops the open wish, if any: nobody watches this encoding any more.
    pub fn forget(&mut self) {
        self.wanted = false;
    }

    /// Whether a wish is open.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.wanted
    }

    fn interval(&self) -> Duration {
        match self.unanswered {
            // The last request was answered: the next need is a new one.
            0 => {
                let need = if self.many { NEED_INTERVAL_MANY } else { NEED_INTERVAL_MIN };
                need.max(Duration::from_millis(u64::from(self.rtt_ms)))
            }
            1..UNANSWERED_MAX => {
                let rtt = if self.rtt_ms == 0 { 100 } else { self.rtt_ms };
                (Duration::from_millis(u64::from(rtt)) + ANSWER_TIME)
                    .clamp(REQUEST_INTERVAL_MIN, REQUEST_INTERVAL_MAX)
            }
            _ => REQUEST_INTERVAL_MAX,
        }
    }
}

/// How many keyframes one subscriber may still wish for, and which of its FIRs have been seen. 24 bytes.
///
/// A bucket of [`ALLOWANCE_BURST`] wishes, refilled by one per [`ALLOWANCE_INTERVAL`]: a storm of one
/// subscriber raises the publisher's keyframe rate to at most one per interval, and takes nothing from the
/// wishes of others.
#[derive(Clone, Copy, Debug)]
pub struct KeyframeAllowance {
    refilled_at: Option<Instant>,
    left: u8,
    fir_seq: Option<u8>,
}

impl Default for KeyframeAllowance {
    fn default() -> Self {
        Self { refilled_at: None, left: ALLOWANCE_BURST, fir_seq: None }
    }
}

impl KeyframeAllowance {
    /// A PLI (RFC 4585 section 6.3.1) came. True if it may be passed to [`KeyframeRequests::want`]; when the
    /// allowance is used up the request is dropped.
    pub fn on_pli(&mut self, now: Instant) -> bool {
        self.take(now)
    }

    /// An FIR entry (RFC 5104 section 4.3.1) came with this command sequence number. Repetitions of a
    /// command carry its number and are dropped; a new command is treated as a PLI.
    pub fn on_fir(&mut self, now: Instant, seq: u8) -> bool {
        if self.fir_seq == Some(seq) {
            return false;
        }
        let taken = self.take(now);
        if taken {
            // A dropped command stays unseen: its repetition is looked at again.
            self.fir_seq = Some(seq);
        }
        taken
    }

    fn take(&mut self, now: Instant) -> bool {
        let refilled_at = *self.refilled_at.get_or_insert(now);
        let refill = now.saturating_duration_since(refilled_at).as_nanos() / ALLOWANCE_INTERVAL.as_nanos();
        if refill > 0 {
            let left = u128::from(self.left) + refill;
            self.refilled_at = Some(if left >= u128::from(ALLOWANCE_BURST) {
                now
            } else {
                refilled_at + ALLOWANCE_INTERVAL * refill as u32
            });
            self.left = left.min(u128::from(ALLOWANCE_BURST)) as u8;
        } else if self.left == ALLOWANCE_BURST {
            self.refilled_at = Some(now);
        }
        let taken = self.left > 0;
        self.left = self.left.saturating_sub(1);
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn clock() -> impl Fn(u64) -> Instant {
        let start = Instant::now();
        move |ms| start + Duration::from_millis(ms)
    }

    #[test]
    fn many_wishes_make_one_request() {
        let at = clock();
        let mut requests = KeyframeRequests::default();
        let asked = (0..200).filter(|ms| requests.want(at(*ms), Duration::ZERO)).count();
        assert_eq!(asked, 1);
        assert!(requests.is_wanted());
        requests.on_keyframe(at(200));
        assert!(!requests.poll(at(5000)), "answered");
        assert!(requests.want(at(5000), Duration::ZERO));
    }

    #[test]
    fn a_lost_request_is_repeated_after_a_round_trip() {
        let at = clock();
        let mut requests = KeyframeRequests::default();
        requests.set_rtt(Duration::from_millis(300));
        assert!(requests.want(at(0), Duration::ZERO));
        assert_eq!(requests.next_timeout(), Some(at(450)));
        assert!(!requests.poll(at(449)));
        assert!(requests.poll(at(450)));
        requests.set_rtt(Duration::from_secs(3600));
        assert_eq!(requests.next_timeout(), Some(at(1450)), "an absurd round trip is bounded");
        requests.set_rtt(Duration::ZERO);
        assert_eq!(requests.next_timeout(), Some(at(700)), "not known: 100 ms and the time to answer");
    }

    #[test]
    fn a_publisher_that_never_answers_is_asked_once_a_second() {
        let at = clock();
        let mut requests = KeyframeRequests::default();
        requests.set_rtt(Duration::from_millis(1));
        let asked = (0..60_000).filter(|ms| requests.want(at(*ms), Duration::ZERO)).count();
        assert!((60..=70).contains(&asked), "{asked}");
    }

    #[test]
    fn a_wish_that_crossed_the_keyframe_is_answered() {
        let at = clock();
        let mut requests = KeyframeRequests::default();
        assert!(requests.want(at(0), Duration::ZERO));
        requests.on_keyframe(at(300));
        let half_rtt = Duration::from_millis(50);
        assert!(!requests.want(at(399), half_rtt), "the keyframe arrived there after this was sent");
        assert!(requests.want(at(501), half_rtt));
    }

    #[test]
    fn quick_needs_after_an_answer_wait_a_little() {
        let at = clock();
        let mut requests = KeyframeRequests::default();
        assert!(requests.want(at(0), Duration::ZERO));
        requests.on_keyframe(at(40));
        assert!(!requests.want(at(50), Duration::ZERO));
        assert!(!requests.poll(at(499)));
        assert!(requests.poll(at(500)), "not forgotten");
    }

    #[test]
    fn many_who_lose_packets_make_one_request_a_second() {
        let at = clock();
        let mut requests = KeyframeRequests::default();
        requests.set_many(true);
        let mut asked = 0;
        for ms in 0..10_000 {
            if requests.want(at(ms), Duration::ZERO) {
                asked += 1;
                requests.on_keyframe(at(ms + 30));
            }
        }
        assert_eq!(asked, 10);
    }

    #[test]
    fn t38_a_pli_storm_is_one_keyframe_per_interval() {
        let at = clock();
        let (mut requests, mut allowance) = (KeyframeRequests::default(), KeyframeAllowance::default());
        let mut asked = 0;
        for ms in 0..20_000 {
            if allowance.on_pli(at(ms)) && requests.want(at(ms), Duration::ZERO) || requests.poll(at(ms)) {
                asked += 1;
                requests.on_keyframe(at(ms));
            }
        }
        assert!((9..=13).contains(&asked), "{asked} keyframes in 20 s");
        let mut other = KeyframeAllowance::default();
        assert!(other.on_pli(at(20_000)) && requests.want(at(20_300), Duration::ZERO), "others go on");
    }

    #[test]
    fn a_repeated_fir_is_one_command() {
        let at = clock();
        let mut allowance = KeyframeAllowance::default();
        assert!(allowance.on_fir(at(0), 7));
        assert!(!allowance.on_fir(at(10), 7));
        assert!(!allowance.on_fir(at(9000), 7));
        assert!(allowance.on_fir(at(9000), 8));
    }

    #[test]
    fn an_allowance_fills_up_again_but_not_over() {
        let at = clock();
        let mut allowance = KeyframeAllowance::default();
        let burst =
            |allowance: &mut KeyframeAllowance, now| (0..10).filter(|_| allowance.on_pli(now)).count();
        assert_eq!(burst(&mut allowance, at(0)), 3);
        assert_eq!(burst(&mut allowance, at(1999)), 0);
        assert_eq!(burst(&mut allowance, at(2000)), 1);
        assert_eq!(burst(&mut allowance, at(3_600_000)), 3);
        assert_eq!(burst(&mut allowance, at(3_601_999)), 0);
    }

    #[test]
    fn the_state_is_small() {
        assert!(size_of::<KeyframeRequests>() <= 56);
        assert!(size_of::<KeyframeAllowance>() <= 24);
    }
}
