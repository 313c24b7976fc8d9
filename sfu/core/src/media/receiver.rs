//! What arrives of one source: sequence numbers, loss, jitter and the report block made of them.
//!
//! Per SSRC, RFC 3550 appendix A.1 (sequence numbers), A.3 (loss) and A.8 (jitter). SRTP has authenticated
//! the packets, so a source needs no probation; what is left of it is that a wild jump of the sequence
//! numbers is believed only when a second packet confirms it.
//!
//! Which encodings of a track are being sent is [`LayerActivity`]'s question.

mod activity;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

pub use activity::{LAYERS_MAX, LayerActivity, LayerChange};

/// A forward jump of at least this many sequence numbers is a restart, RFC 3550 A.1 `MAX_DROPOUT`.
pub const DROPOUT_MAX: u16 = 3000;
/// A packet this far behind the newest is a restart rather than late, RFC 3550 A.1 `MAX_MISORDER` widened
/// for retransmissions, which come a round trip late: at 1,000 packets/s this is half a second.
pub const MISORDER_MAX: u16 = 512;
/// Extended sequence numbers begin here, so that one below the first never underflows.
const CYCLE: u64 = 1 << 16;
/// A step of the transit time of more than 5 s at 90 kHz is a clock set anew, not jitter (libwebrtc,
/// `receive_statistics_impl.cc`).
const JITTER_STEP_MAX: u32 = 450_000;

/// What a packet is in its source's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// The newest so far; carries its extended sequence number and how many numbers it skipped.
    Newest {
        /// Extended sequence number: 65,536 × cycles + the 16 bits of the header, beginning at one cycle.
        seq: u64,
        /// Numbers between it and the newest before, 0 in order.
        skipped: u16,
    },
    /// Older than the newest: reordered or sent again. May be a duplicate.
    Late {
        /// Extended sequence number.
        seq: u64,
    },
    /// The source began anew elsewhere: whatever was known of older numbers is void.
    Restarted {
        /// Extended sequence number; higher than all before.
        seq: u64,
    },
    /// A jump nobody has confirmed: to be dropped, and forgotten.
    Suspicious,
}

/// One report block of a receiver or sender report, RFC 3550 section 6.4.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReportBlock {
    /// The source reported on.
    pub ssrc: u32,
    /// Part of the packets lost since the last report, in 1/256.
    pub fraction_lost: u8,
    /// Packets lost since the beginning, −8,388,608 to 8,388,607; negative when duplicates outnumber losses.
    pub cumulative_lost: i32,
    /// Extended highest sequence number received.
    pub highest_seq: u32,
    /// Interarrival jitter in units of the RTP timestamp.
    pub jitter: u32,
    /// Middle 32 bits of the NTP time of the last sender report; 0 if none came.
    pub last_sr: u32,
    /// Time since that report came, in 1/65,536 s; 0 if none came.
    pub delay_since_last_sr: u32,
}

/// Receive statistics of one source. 112 bytes, no allocation.
#[derive(Clone, Debug)]
pub struct ReceiveStats {
    clock_rate_hz: u32,
    started: bool,
    /// Extended number of the first packet (of this run).
    base: u64,
    highest: u64,
    /// Packets of this run, duplicates and late ones included, as RFC 3550 counts.
    received: u64,
    expected_prior: u64,
    received_prior: u64,
    /// The number that would confirm a jump.
    confirm: Option<u16>,
    /// Jitter × 16, RFC 3550 A.8.
    jitter_q4: u32,
    /// Arrival and timestamp of the newest frame's first packet.
    frame: Option<(Instant, u32)>,
    sender_report: Option<(Instant, u32)>,
    restarts: u32,
}

impl ReceiveStats {
    /// Statistics for a source whose RTP timestamps count at `clock_rate_hz` (clamped to 1 Hz to 1 MHz).
    #[must_use]
    pub fn new(clock_rate_hz: u32) -> Self {
        Self {
            clock_rate_hz: clock_rate_hz.clamp(1, 1_000_000),
            started: false,
            base: 0,
            highest: 0,
            received: 0,
            expected_prior: 0,
            received_prior: 0,
            confirm: None,
            jitter_q4: 0,
            frame: None,
            sender_report: None,
            restarts: 0,
        }
    }

    /// Notes an authenticated packet with its header's sequence number and timestamp.
    pub fn on_packet(&mut self, now: Instant, seq: u16, timestamp: u32) -> Arrival {
        let arrival = self.place(seq);
        match arrival {
            Arrival::Suspicious => return arrival,
            Arrival::Late { .. } => {}
            Arrival::Newest { .. } => self.note_timestamp(now, timestamp),
            Arrival::Restarted { .. } => self.frame = Some((now, timestamp)),
        }
        self.received += 1;
        arrival
    }

    fn place(&mut self, seq: u16) -> Arrival {
        if !self.started {
            self.started = true;
            self.base = CYCLE + u64::from(seq);
            self.highest = self.base;
            return Arrival::Newest { seq: self.base, skipped: 0 };
        }
        let ahead = seq.wrapping_sub(self.highest as u16);
        let behind = (self.highest as u16).wrapping_sub(seq);
        if (1..DROPOUT_MAX).contains(&ahead) {
            self.highest += u64::from(ahead);
            self.confirm = None;
            return Arrival::Newest { seq: self.highest, skipped: ahead - 1 };
        }
        if behind < MISORDER_MAX {
            // `highest` is at least one cycle and `behind` less than one: no underflow.
            return Arrival::Late { seq: self.highest - u64::from(behind) };
        }
        if self.confirm == Some(seq) {
            let next_cycle = (self.highest | (CYCLE - 1)) + 1 + u64::from(seq);
            (self.base, self.highest) = (next_cycle, next_cycle);
            (self.received, self.expected_prior, self.received_prior) = (0, 0, 0);
            self.confirm = None;
            self.restarts = self.restarts.saturating_add(1);
            return Arrival::Restarted { seq: next_cycle };
        }
        self.confirm = Some(seq.wrapping_add(1));
        Arrival::Suspicious
    }

    /// RFC 3550 A.8 over the first packets of frames: the packets of one frame share a timestamp, their
    /// spacing is the sender's pacing and not jitter (as libwebrtc counts).
    fn note_timestamp(&mut self, now: Instant, timestamp: u32) {
        let Some((at, previous)) = self.frame else {
            self.frame = Some((now, timestamp));
            return;
        };
        let step = timestamp.wrapping_sub(previous);
        if step == 0 {
            return;
        }
        self.frame = Some((now, timestamp));
        // At most 2^40 µs × 10^6 Hz: no overflow.
        let elapsed_us = now.saturating_duration_since(at).as_micros().min(1 << 40) as u64;
        let elapsed = (elapsed_us * u64::from(self.clock_rate_hz) / 1_000_000) as u32;
        let distance = (elapsed.wrapping_sub(step) as i32).unsigned_abs();
        if distance < JITTER_STEP_MAX {
            // J += (|D| - J) / 16, kept × 16 and rounded as in RFC 3550 A.8.
            self.jitter_q4 = self.jitter_q4 - ((self.jitter_q4 + 8) >> 4) + distance;
        }
    }

    /// Notes a sender report of this source with its 64-bit NTP timestamp, RFC 3550 section 6.4.1.
    pub fn on_sender_report(&mut self, now: Instant, ntp: u64) {
        self.sender_report = Some((now, (ntp >> 16) as u32));
    }

    /// The report on this source, or `None` before its first packet. The next report's `fraction_lost`
    /// counts from here.
    pub fn report(&mut self, now: Instant, ssrc: u32) -> Option<ReportBlock> {
        if !self.started {
            return None;
        }
        let expected = self.expected();
        let expected_interval = expected - self.expected_prior;
        let received_interval = self.received - self.received_prior;
        (self.expected_prior, self.received_prior) = (expected, self.received);
        let lost_interval = expected_interval.saturating_sub(received_interval);
        let fraction_lost = (lost_interval * 256).checked_div(expected_interval).unwrap_or(0).min(255) as u8;
        let (last_sr, delay_since_last_sr) = self.sender_report.map_or((0, 0), |(at, ntp)| {
            let delay = now.saturating_duration_since(at).as_micros() * 65_536 / 1_000_000;
            (ntp, u32::try_from(delay).unwrap_or(u32::MAX))
        });
        Some(ReportBlock {
            ssrc,
            fraction_lost,
            cumulative_lost: self.lost(),
            highest_seq: (self.highest - CYCLE) as u32,
            jitter: self.jitter(),
            last_sr,
            delay_since_last_sr,
        })
    }

    /// Packets lost so far, clamped to 24 bits; negative when duplicates outnumber losses.
    #[must_use]
    pub fn lost(&self) -> i32 {
        let lost = self.expected() as i64 - self.received as i64;
        lost.clamp(-0x80_0000, 0x7f_ffff) as i32
    }

    /// Packets that should have come since the beginning or the last restart.
    #[must_use]
    pub fn expected(&self) -> u64 {
        if self.started { self.highest - self.base + 1 } else { 0 }
    }

    /// When the newest packet of another frame than the one before came.
    #[must_use]
    pub fn last_frame_at(&self) -> Option<Instant> {
        self.frame.map(|(at, _)| at)
    }

    /// Whether packets came since the last [`report`](Self::report).
    #[must_use]
    pub fn sent_since_report(&self) -> bool {
        self.received != self.received_prior
    }

    /// Packets received since the beginning or the last restart.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Interarrival jitter in units of the RTP timestamp.
    #[must_use]
    pub fn jitter(&self) -> u32 {
        self.jitter_q4 >> 4
    }

    /// Interarrival jitter as a time.
    #[must_use]
    pub fn jitter_time(&self) -> Duration {
        Duration::from_micros(u64::from(self.jitter()) * 1_000_000 / u64::from(self.clock_rate_hz))
    }

    /// The highest extended sequence number, if any packet came.
    #[must_use]
    pub fn highest(&self) -> Option<u64> {
        self.started.then_some(self.highest)
    }

    /// The extended form of a 16-bit sequence number near the newest one, such as the original number of a
    /// retransmission (RFC 4588); `None` before the first packet.
    #[must_use]
    pub fn extend(&self, seq: u16) -> Option<u64> {
        let offset = i64::from(seq.wrapping_sub(self.highest as u16) as i16);
        self.started.then(|| self.highest.saturating_add_signed(offset))
    }

    /// How often the source began anew.
    #[must_use]
    pub fn restarts(&self) -> u32 {
        self.restarts
    }
}

/// The round-trip time told by a report block about something we send, RFC 3550 section 6.4.1:
/// arrival − LSR − DLSR. `now_ntp` is the NTP time of the report's arrival (64 bits), by the clock the
/// sender reports were stamped with. `None` when no sender report had reached the peer, or when the figures
/// make no sense (negative or above a minute: a lie or a clock set anew).
#[must_use]
pub fn round_trip_time(now_ntp: u64, last_sr: u32, delay_since_last_sr: u32) -> Option<Duration> {
    if last_sr == 0 {
        return None;
    }
    let elapsed = ((now_ntp >> 16) as u32).wrapping_sub(last_sr);
    let rtt = elapsed.checked_sub(delay_since_last_sr)?;
    let rtt = Duration::from_micros(u64::from(rtt) * 1_000_000 / 65_536);
    (rtt <= Duration::from_secs(60)).then_some(rtt)
}

/// A smoothed round-trip time: 7/8 of the past and 1/8 of the new, as RFC 6298 does. 8 bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct RoundTripTime {
    smoothed_us: Option<u32>,
}

impl RoundTripTime {
    /// Takes a sample; more than a minute counts as a minute.
    pub fn update(&mut self, sample: Duration) {
        let sample = sample.min(Duration::from_secs(60)).as_micros() as u32;
        self.smoothed_us = Some(match self.smoothed_us {
            None => sample,
            Some(past) => past - past / 8 + sample / 8,
        });
    }

    /// The smoothed time, if there has been a sample.
    #[must_use]
    pub fn get(&self) -> Option<Duration> {
        self.smoothed_us.map(|us| Duration::from_micros(u64::from(us)))
    }
}
