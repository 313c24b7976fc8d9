//! The receiving side: arrivals in, feedback packets out.

use std::time::{Duration, Instant};

use super::{REFERENCE_US, Unwrapper, feedback};

/// How many transport numbers back arrivals are remembered, those not received included. A jump beyond
/// forgets what lies before.
pub const WINDOW_MAX: u64 = 1024;
/// Feedback is not sent more often than this …
const INTERVAL_MIN: Duration = Duration::from_millis(50);
/// … nor later than this after the first packet it reports on.
const INTERVAL_MAX: Duration = Duration::from_millis(100);
/// With so many packets waiting, [`INTERVAL_MIN`] is kept instead of [`INTERVAL_MAX`].
const BUSY_PACKETS: u32 = 10;
/// With so many packets waiting feedback is sent at once.
const FULL_PACKETS: u32 = 128;
/// Room for one feedback packet inside a datagram that also carries other reports.
const LEN_MAX: usize = 1000;

/// Arrivals of one transport's packets. 8 KiB from the first packet on, 112 bytes before.
#[derive(Debug)]
pub struct ArrivalRecorder {
    unwrapper: Unwrapper,
    /// Arrival of number `n` at `n % WINDOW_MAX`, in µs since `epoch`; 0 if it has not come.
    arrivals: Vec<u64>,
    /// Set by the first packet such that its arrival is not near 0.
    epoch: Option<Instant>,
    /// The next number to report on.
    next: u64,
    /// One more than the highest number seen.
    end: u64,
    /// Packets that came since the last feedback.
    waiting: u32,
    first_waiting_at: Option<Instant>,
    sent_at: Option<Instant>,
    count: u8,
}

impl Default for ArrivalRecorder {
    fn default() -> Self {
        Self::new()
    }
}

impl ArrivalRecorder {
    /// A recorder that has seen no packet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            unwrapper: Unwrapper::default(),
            arrivals: Vec::new(),
            epoch: None,
            next: 0,
            end: 0,
            waiting: 0,
            first_waiting_at: None,
            sent_at: None,
            count: 0,
        }
    }

    /// Notes the arrival of the packet with this transport number. Duplicates and packets too old to be
    /// remembered are ignored.
    pub fn on_packet(&mut self, now: Instant, seq: u16) {
        // An hour of 64 ms units before the first arrival: no time is near 0, none is negative.
        let epoch = *self.epoch.get_or_insert(now);
        let us = 56_250 * REFERENCE_US + now.saturating_duration_since(epoch).as_micros() as u64;
        let seq = self.unwrapper.unwrap(seq);
        if self.arrivals.is_empty() {
            self.arrivals.resize(WINDOW_MAX as usize, 0);
            (self.next, self.end) = (seq, seq);
        }
        if seq + WINDOW_MAX < self.end {
            return;
        }
        if seq >= self.end {
            if seq - self.end >= WINDOW_MAX {
                self.arrivals.fill(0);
            } else {
                for skipped in self.end..seq {
                    self.set(skipped, 0);
                }
            }
            self.set(seq, 0);
            self.end = seq + 1;
            self.next = self.next.max(self.end.saturating_sub(WINDOW_MAX));
        }
        if self.get(seq) != 0 {
            return;
        }
        self.set(seq, us);
        // One that comes after it has been reported as not received is reported again, with what follows.
        self.next = self.next.min(seq);
        self.waiting += 1;
        self.first_waiting_at.get_or_insert(now);
    }

    /// When feedback is due, if any packet waits for it.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        let first = self.first_waiting_at?;
        if self.waiting >= FULL_PACKETS {
            return Some(first);
        }
        let rested = |interval| self.sent_at.map_or(first, |at| at + interval);
        Some(if self.waiting >= BUSY_PACKETS {
            rested(INTERVAL_MIN).max(first)
        } else {
            rested(INTERVAL_MAX).max(first + INTERVAL_MIN)
        })
    }

    /// Appends a feedback packet (whole RTCP packet of at most 1,000 bytes, header included) to `out` if one
    /// is due, and says whether it did. `scratch` is reused working memory. Call until false: what has been
    /// waiting may need several packets.
    pub fn poll(
        &mut self,
        now: Instant,
        sender_ssrc: u32,
        media_ssrc: u32,
        scratch: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> bool {
        if self.next_timeout().is_none_or(|at| at > now) {
            return false;
        }
        debug_assert!(self.end - self.next <= WINDOW_MAX);
        let window = &self.arrivals;
        let arrivals = (self.next..self.end)
            .map(|seq| window.get((seq % WINDOW_MAX) as usize).copied().filter(|us| *us != 0));
        let ids = (self.next as u16, self.count);
        let reported = feedback::write(out, scratch, (sender_ssrc, media_ssrc), ids, LEN_MAX, arrivals);
        if reported == 0 {
            // A first arrival always fits, so nothing is left to report.
            self.finish(now);
            return false;
        }
        self.count = self.count.wrapping_add(1);
        self.next += reported as u64;
        if (self.next..self.end).all(|seq| self.get(seq) == 0) {
            self.finish(now);
        }
        true
    }

    fn finish(&mut self, now: Instant) {
        self.waiting = 0;
        self.first_waiting_at = None;
        self.sent_at = Some(now);
    }

    fn get(&self, seq: u64) -> u64 {
        self.arrivals.get((seq % WINDOW_MAX) as usize).copied().unwrap_or(0)
    }

    fn set(&mut self, seq: u64, us: u64) {
        if let Some(arrival) = self.arrivals.get_mut((seq % WINDOW_MAX) as usize) {
            *arrival = us;
        }
    }
}
