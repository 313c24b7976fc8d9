//! Asking a publisher for lost packets: generic NACK (RFC 4585 section 6.2.1), paced by the round trip.
//!
//! Behaviour follows libwebrtc's `modules/video_coding/nack_requester.cc` (milestone 119): a gap is asked for
//! when it is seen, again once per round trip, ten times at most; the list of missing packets is bounded and
//! falls back to a keyframe. Two things are added, since this end has neither a decoder nor a jitter buffer
//! that would tell: how long packets of this source are merely late (asking then would fetch them twice), and
//! a round-trip time measured at the answers.
//!
//! ```text
//!   gap seen ── reorder wait ──► asked ── rtt ──► asked again … ×10 ──► given up: keyframe
//!      └── came late: the wait grows   └── came: answered, round trip measured
//! ```

#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::receiver::RoundTripTime;

/// How many packets may be missing at a time, libwebrtc's `kMaxNackPackets`. A gap that would make it more
/// empties the list and asks for a keyframe instead.
pub const MISSING_MAX: usize = 1000;
/// How often one packet is asked for, libwebrtc's `kMaxNackRetries`.
pub const REQUESTS_MAX: u8 = 10;
/// How often a packet is asked for that a later keyframe makes dispensable.
const REQUESTS_BEFORE_KEYFRAME_MAX: u8 = 2;
/// Missing packets this far behind the newest are given up, libwebrtc's `kMaxPacketAge`.
const AGE_MAX: u64 = 10_000;
/// How many pairs one [`NackGenerator::poll`] makes at most: 1,000 bytes of feedback. The rest is due at once.
pub const PAIRS_MAX: usize = 250;
/// Taken for the round trip until it is known, libwebrtc's `kDefaultRtt`.
const RTT_DEFAULT: Duration = Duration::from_millis(100);
/// Requests for one packet are no closer than this (libwebrtc looks every 20 ms), and no further apart than
/// [`RETRY_INTERVAL_MAX`], whatever the round trip claims to be.
const RETRY_INTERVAL_MIN: Duration = Duration::from_millis(20);
const RETRY_INTERVAL_MAX: Duration = Duration::from_millis(500);
/// The longest wait for a late packet before asking.
const REORDER_WAIT_MAX: Duration = Duration::from_millis(25);

/// One entry of a generic NACK, RFC 4585 section 6.2.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NackPair {
    /// A lost packet's sequence number.
    pub pid: u16,
    /// Bit `i` set: the packet `pid + i + 1` is lost as well.
    pub blp: u16,
}

impl NackPair {
    /// The sequence numbers it names, `pid` first; 1 to 17 of them.
    pub fn seqs(self) -> impl Iterator<Item = u16> {
        let following = (0..16).filter(move |bit| self.blp >> bit & 1 == 1);
        std::iter::once(self.pid).chain(following.map(move |bit| self.pid.wrapping_add(bit + 1)))
    }
}

/// What a generator has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NackStats {
    /// Packets asked for, repetitions included.
    pub requested: u64,
    /// Packets that came after they had been asked for.
    pub answered: u64,
    /// Packets that came late by themselves.
    pub reordered: u64,
    /// Packets given up.
    pub abandoned: u64,
}

#[derive(Clone, Copy, Debug)]
struct Missing {
    seq: u64,
    noticed_at: Instant,
    asked_at: Instant,
    requests: u8,
}

impl Missing {
    /// When it is to be asked for (again).
    fn due_at(&self, reorder_wait: Duration, retry_interval: Duration) -> Instant {
        if self.requests == 0 { self.noticed_at + reorder_wait } else { self.asked_at + retry_interval }
    }
}

/// The missing packets of one source, on extended sequence numbers.
///
/// An idle one takes 136 bytes; each missing packet 48, at most [`MISSING_MAX`].
#[derive(Debug, Default)]
pub struct NackGenerator {
    /// Ascending.
    missing: VecDeque<Missing>,
    newest: Option<u64>,
    /// The newest keyframe's first packet.
    keyframe_seq: u64,
    rtt: RoundTripTime,
    reorder_wait: Duration,
    next_due_at: Option<Instant>,
    wants_keyframe: bool,
    stats: NackStats,
}

impl NackGenerator {
    /// A generator that knows of no packet yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the round-trip time to the publisher, where it is known from elsewhere.
    pub fn update_rtt(&mut self, sample: Duration) {
        self.rtt.update(sample);
    }

    /// The round trip as measured at the answers, or as set.
    #[must_use]
    pub fn rtt(&self) -> Option<Duration> {
        self.rtt.get()
    }

    /// Notes a packet of the source with its extended number, whether it is the first of a keyframe, and
    /// whether it came as a retransmission (on the RTX stream). Returns how often it had been asked for.
    pub fn on_packet(&mut self, now: Instant, seq: u64, keyframe: bool, retransmitted: bool) -> u8 {
        if keyframe && seq > self.keyframe_seq {
            self.keyframe_seq = seq;
        }
        let Some(newest) = self.newest else {
            self.newest = Some(seq);
            return 0;
        };
        if seq > newest {
            self.newest = Some(seq);
            self.note_gap(now, newest + 1, seq);
            return 0;
        }
        let Ok(index) = self.missing.binary_search_by_key(&seq, |missing| missing.seq) else { return 0 };
        self.missing.remove(index).map_or(0, |missing| self.note_found(now, missing, retransmitted))
    }

    /// Forgets everything but the round trip: the source began anew or is no longer wanted.
    pub fn reset(&mut self) {
        self.missing.clear();
        (self.newest, self.next_due_at, self.keyframe_seq) = (None, None, 0);
        self.wants_keyframe = false;
    }

    fn note_gap(&mut self, now: Instant, from: u64, to: u64) {
        let oldest = to.saturating_sub(AGE_MAX);
        self.abandon_while(|missing| missing.seq < oldest);
        let gap = usize::try_from(to - from).unwrap_or(usize::MAX);
        if gap == 0 {
            return;
        }
        if self.missing.len().saturating_add(gap) > MISSING_MAX {
            let keyframe_seq = self.keyframe_seq;
            self.abandon_while(|missing| missing.seq < keyframe_seq);
        }
        if self.missing.len().saturating_add(gap) > MISSING_MAX {
            let abandoned = self.missing.len().saturating_add(gap) as u64;
            self.stats.abandoned = self.stats.abandoned.saturating_add(abandoned);
            self.missing.clear();
            self.next_due_at = None;
            // A keyframe that begins right here mends what is lost by itself.
            self.wants_keyframe |= self.keyframe_seq != to;
            return;
        }
        let due_at = now + self.reorder_wait;
        self.missing.extend((from..to).map(|seq| Missing {
            seq,
            noticed_at: now,
            asked_at: now,
            requests: 0,
        }));
        self.next_due_at = Some(self.next_due_at.map_or(due_at, |next| next.min(due_at)));
    }

    fn abandon_while(&mut self, mut old: impl FnMut(&Missing) -> bool) {
        while self.missing.front().is_some_and(&mut old) {
            self.missing.pop_front();
            self.stats.abandoned = self.stats.abandoned.saturating_add(1);
        }
    }

    fn note_found(&mut self, now: Instant, missing: Missing, retransmitted: bool) -> u8 {
        let asked_ago = now.saturating_duration_since(missing.asked_at);
        let late_by = now.saturating_duration_since(missing.noticed_at);
        let too_soon_for_an_answer = asked_ago < self.rtt.get().unwrap_or(RTT_DEFAULT) / 2;
        if !retransmitted && (missing.requests == 0 || missing.requests == 1 && too_soon_for_an_answer) {
            self.stats.reordered += 1;
            self.reorder_wait = self.reorder_wait.max((late_by + late_by / 4).min(REORDER_WAIT_MAX));
        } else if missing.requests > 0 {
            self.stats.answered += 1;
            // Karn's rule: only an answer to a single request tells the round trip.
            if missing.requests == 1 {
                self.rtt.update(asked_ago);
            }
        }
        missing.requests
    }

    /// Collects what is due into `pairs` (cleared first; at most [`PAIRS_MAX`], ready to be sent as one
    /// generic NACK).
    pub fn poll(&mut self, now: Instant, pairs: &mut Vec<NackPair>) {
        pairs.clear();
        if self.next_due_at.is_none_or(|at| at > now) {
            return;
        }
        let (keyframe_seq, wait, interval) = (self.keyframe_seq, self.reorder_wait, self.retry_interval());
        let (mut next_due_at, mut requested, mut abandoned, mut lost) = (None::<Instant>, 0, 0, false);
        self.missing.retain_mut(|missing| {
            let dispensable = missing.seq < keyframe_seq;
            if missing.due_at(wait, interval) <= now {
                let requests_max = if dispensable { REQUESTS_BEFORE_KEYFRAME_MAX } else { REQUESTS_MAX };
                if missing.requests >= requests_max {
                    abandoned += 1;
                    lost |= !dispensable;
                    return false;
                }
                if append(pairs, missing.seq as u16) {
                    missing.requests += 1;
                    missing.asked_at = now;
                    requested += 1;
                }
            }
            let due_at = missing.due_at(wait, interval);
            next_due_at = Some(next_due_at.map_or(due_at, |next| next.min(due_at)));
            true
        });
        self.next_due_at = next_due_at;
        self.stats.requested += requested;
        self.stats.abandoned = self.stats.abandoned.saturating_add(abandoned);
        self.wants_keyframe |= lost;
        if requested > 0 || abandoned > 0 {
            // What was late once is forgotten slowly.
            self.reorder_wait -= self.reorder_wait / 32;
        }
    }

    /// When [`poll`](Self::poll) has something to ask or to give up.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        self.next_due_at
    }

    /// Whether packets were given up that only a keyframe makes good; asking clears it.
    pub fn take_wants_keyframe(&mut self) -> bool {
        std::mem::take(&mut self.wants_keyframe)
    }

    /// How many packets are missing.
    #[must_use]
    pub fn missing(&self) -> usize {
        self.missing.len()
    }

    /// What it has done so far.
    #[must_use]
    pub fn stats(&self) -> NackStats {
        self.stats
    }

    fn retry_interval(&self) -> Duration {
        self.rtt.get().unwrap_or(RTT_DEFAULT).clamp(RETRY_INTERVAL_MIN, RETRY_INTERVAL_MAX)
    }
}

/// Adds a number to the last pair if it fits there, else as a new pair. False if there is no place left.
fn append(pairs: &mut Vec<NackPair>, seq: u16) -> bool {
    if let Some(last) = pairs.last_mut() {
        let ahead = seq.wrapping_sub(last.pid);
        if (1..=16).contains(&ahead) {
            last.blp |= 1 << (ahead - 1);
            return true;
        }
    }
    let room = pairs.len() < PAIRS_MAX;
    if room {
        pairs.push(NackPair { pid: seq, blp: 0 });
    }
    room
}

/// Splits the payload of a retransmission, RFC 4588 section 4, into the original sequence number and the
/// original payload. `None` for one that carries no packet: padding, or a truncated one.
#[must_use]
pub fn split_rtx(payload: &[u8]) -> Option<(u16, &[u8])> {
    let (seq, original) = payload.split_first_chunk::<2>()?;
    (!original.is_empty()).then(|| (u16::from_be_bytes(*seq), original))
}
