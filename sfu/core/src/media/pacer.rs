//! When the packets of one receiver go out.
//!
//! A keyframe, a burst of retransmissions or several streams at once would leave in one piece and fill the
//! queue of the receiver's bottleneck. The pacer spreads such a burst over at most 5 ms, in portions of 1 ms:
//! what belongs to one portion leaves together, so that it can go to the kernel as one GSO send.
//!
//! ```text
//!   retransmissions ─┐                          portion every 1 ms: as much as the rate allows,
//!   video ───────────┼─► queues by priority ──► more when something would wait longer than 5 ms
//!   audio ───────────┤   in each round, and last: a short packet ends a GSO send, and the round is one instant
//!   probes, padding ─┘   only where nothing else waits
//! ```
//! What comes while nothing waits goes at once, as long as the rate allows.
//! A portion is at least an equal share of what waits among the portions left, so that the rate decides how
//! early a packet goes and never how late. Arithmetic is in whole nanoseconds of sending time and whole bytes.

mod probes;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

pub use probes::{PROBES_MAX, ProbeCluster};

use super::{bitrate::Bitrate, twcc::ProbeClusterId};
use probes::Prober;

/// How long a packet waits at most, unless set: the remainder of a burst is sent, whatever the rate.
pub const SPREAD_MAX: Duration = Duration::from_millis(5);
/// Portions are this far apart.
pub const PORTION_INTERVAL: Duration = Duration::from_millis(1);
/// Bytes that may wait. When it is full, padding and probes are not asked for, retransmissions and video are
/// refused, and audio replaces the oldest audio.
pub const QUEUE_BYTES_MAX: usize = 512 * 1024;
/// Packets that may wait; treated as [`QUEUE_BYTES_MAX`].
pub const QUEUE_PACKETS_MAX: usize = 1024;
/// The largest padding packet without a payload: 255 bytes of RTP padding.
const PADDING_BYTES: u16 = 255;
/// Padding that nobody could send is asked for again after this.
const PADDING_RETRY: Duration = Duration::from_millis(100);
/// Classes that wait for portions, the first goes first.
const PACED: [PacketClass; 2] = [PacketClass::Retransmission, PacketClass::Video];
/// The order in a probe, which takes what there is.
const ALL: [PacketClass; 3] = [PacketClass::Audio, PacketClass::Retransmission, PacketClass::Video];
const PORTION_NS: u64 = PORTION_INTERVAL.as_nanos() as u64;
const SPREAD_NS: u64 = SPREAD_MAX.as_nanos() as u64;

/// What kind of packet waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PacketClass {
    /// Audio never waits for a portion: it ends each round.
    Audio,
    /// Answers to NACKs.
    Retransmission,
    /// Everything else.
    Video,
}

const CLASSES: usize = 3;

/// What to send now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release<T> {
    /// A packet that waited.
    Packet {
        /// As pushed.
        item: T,
        /// As pushed.
        class: PacketClass,
        /// The probe it is part of, to be noted with its transport number.
        probe: Option<ProbeClusterId>,
    },
    /// So many bytes of padding, best as a retransmission of something recent: RTX padding that is of use if
    /// the original was lost. Tell what was made of it with [`Pacer::on_padding`].
    Padding {
        /// Bytes wanted; more is fine.
        bytes: u16,
        /// The probe it is part of.
        probe: Option<ProbeClusterId>,
    },
}

/// Why a packet was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PushError {
    /// [`QUEUE_BYTES_MAX`] or [`QUEUE_PACKETS_MAX`] is reached: the receiver's path is overloaded, or the
    /// pacer is not polled.
    #[error("the pacer's queue is full")]
    Full,
}

#[derive(Clone, Copy, Debug)]
struct Queued<T> {
    item: T,
    bytes: u16,
    at: Instant,
}

/// The packets of one receiver that wait, as tokens of the owner's choice.
///
/// Memory: 496 bytes, and what the longest queue so far took; it does not allocate once that is reached.
#[derive(Debug)]
pub struct Pacer<T> {
    queues: [VecDeque<Queued<T>>; CLASSES],
    queued_bytes: usize,
    padding_rate: Bitrate,
    /// How long a packet waits at most, in nanoseconds.
    spread_ns: u64,
    /// Nanoseconds that a byte takes at the rate set, 24.8 fixed point.
    byte_time: u64,
    /// How long what has been sent still takes at the rate set, in nanoseconds, as of `debt_at`.
    debt_ns: u64,
    debt_at: Option<Instant>,
    padded_until: Option<Instant>,
    /// Packets wait for the next portion. Until they are gone, those that come after them wait as well.
    left_over: bool,
    /// The running or latest portion's time.
    portion_at: Option<Instant>,
    /// Packets that are still to go in the running portion, whatever the rate.
    portion_share: usize,
    /// Padding has been asked for and not been answered.
    asked: bool,
    prober: Prober,
    refused: u64,
}

impl<T: Copy> Pacer<T> {
    /// A pacer that sends at `rate` (at least 1 kbit/s) where it can.
    #[must_use]
    pub fn new(rate: Bitrate) -> Self {
        Self {
            queues: Default::default(),
            queued_bytes: 0,
            padding_rate: Bitrate::ZERO,
            spread_ns: SPREAD_NS,
            byte_time: byte_time(rate),
            debt_ns: 0,
            debt_at: None,
            padded_until: None,
            left_over: false,
            portion_at: None,
            portion_share: 0,
            asked: false,
            prober: Prober::default(),
            refused: 0,
        }
    }

    /// Sets the rate of sending (at least 1 kbit/s), that of padding up to which idle time is filled, zero for none, and
    /// how long a packet waits at most.
    pub fn set_rates(&mut self, rate: Bitrate, padding_rate: Bitrate, spread: Duration) {
        self.byte_time = byte_time(rate);
        self.spread_ns = u64::try_from(spread.as_nanos()).unwrap_or(u64::MAX);
        self.padding_rate = padding_rate;
        if padding_rate == Bitrate::ZERO {
            self.padded_until = None;
        }
    }

    /// Queues a probe: packets, and padding where there are none, go out at its rate. At most
    /// [`PROBES_MAX`] wait; a further one replaces the oldest that has not begun.
    pub fn probe(&mut self, now: Instant, cluster: ProbeCluster) {
        self.prober.push(now, cluster);
    }

    /// Queues a packet of `bytes` (as it counts for the estimate).
    ///
    /// # Errors
    /// [`PushError::Full`]: it is not taken, or, if it is audio, has taken the oldest audio's place.
    pub fn push(&mut self, now: Instant, class: PacketClass, bytes: u16, item: T) -> Result<(), PushError> {
        let full = self.queued_bytes + usize::from(bytes) > QUEUE_BYTES_MAX
            || self.queues.iter().map(VecDeque::len).sum::<usize>() >= QUEUE_PACKETS_MAX;
        let Some(queue) = self.queues.get_mut(class as usize) else { return Err(PushError::Full) };
        if full {
            self.refused += 1;
            let oldest = if class == PacketClass::Audio { queue.pop_front() } else { None };
            let Some(oldest) = oldest else { return Err(PushError::Full) };
            self.queued_bytes -= usize::from(oldest.bytes);
        }
        self.queued_bytes += usize::from(bytes);
        queue.push_back(Queued { item, bytes, at: now });
        if full { Err(PushError::Full) } else { Ok(()) }
    }

    /// Forgets the packets that wait.
    pub fn clear(&mut self) {
        self.queues.iter_mut().for_each(VecDeque::clear);
        self.queued_bytes = 0;
    }

    /// Whether a packet of `bytes` may go at once, without being pushed: nothing waits, no probe is under way and the
    /// rate allows it. It then counts as sent.
    pub fn pass(&mut self, now: Instant, class: PacketClass, bytes: u16) -> bool {
        if self.queued_bytes > 0 || !self.prober.is_idle() {
            return false;
        }
        if self.debt_at != Some(now) {
            self.begin_round(now);
        }
        let passes = class == PacketClass::Audio || self.debt_ns < PORTION_NS;
        if passes {
            self.charge(now, bytes, None);
        }
        passes
    }

    /// The next thing to send. Call until `None`; what comes out of one such round belongs into one send.
    pub fn poll(&mut self, now: Instant) -> Option<Release<T>> {
        if self.debt_at != Some(now) {
            self.begin_round(now);
        }
        if self.portion_at != Some(now) {
            self.open_portion(now);
        }
        if !self.prober.is_idle()
            && let Some(probe) = self.prober.due(now)
        {
            let packet = ALL.into_iter().find_map(|class| self.pop(now, class, Some(probe)));
            let bytes = self.prober.packet_bytes().max(PADDING_BYTES);
            return packet.or_else(|| self.ask(bytes, Some(probe)));
        }
        // What goes in between waits for nothing, so it has not the probe's pace and is no part of it: a frame would
        // end the probe at once, and tell nothing.
        let in_portion = self.portion_at == Some(now);
        let goes = in_portion && self.portion_share > 0
            || (in_portion || !self.left_over) && self.debt_ns < PORTION_NS;
        if goes {
            let packet = PACED.into_iter().find_map(|class| self.pop(now, class, None));
            if packet.is_some() {
                self.portion_share = self.portion_share.saturating_sub(1);
                return packet;
            }
        }
        if let Some(packet) = self.pop(now, PacketClass::Audio, None) {
            return Some(packet);
        }
        let pads = in_portion
            && !self.prober.is_running()
            && self.padding_rate > Bitrate::ZERO
            && self.padded_until.is_none_or(|until| until <= now);
        if pads { self.ask(PADDING_BYTES, None) } else { None }
    }

    /// Time has passed since the last round: the debt shrinks.
    fn begin_round(&mut self, now: Instant) {
        let passed = self.debt_at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.debt_ns = self.debt_ns.saturating_sub(u64::try_from(passed.as_nanos()).unwrap_or(u64::MAX));
        self.left_over = self.debt_at.is_some_and(|at| self.waits_since(at));
        self.debt_at = Some(now);
    }

    /// Whether a paced packet has been waiting since a round that ended without it.
    fn waits_since(&self, round: Instant) -> bool {
        self.oldest().is_some_and(|(_, at)| at <= round)
    }

    fn open_portion(&mut self, now: Instant) {
        let rested = self.portion_at.is_none_or(|at| now.saturating_duration_since(at) >= PORTION_INTERVAL);
        let oldest = self.oldest();
        let pads = self.padding_rate > Bitrate::ZERO;
        if !rested || oldest.is_none() && !pads {
            return;
        }
        self.portion_at = Some(now);
        // What has just come, and little of it: no need to reckon how long the rest would wait.
        let waiting: usize =
            PACED.iter().filter_map(|class| self.queues.get(*class as usize)).map(VecDeque::len).sum();
        self.portion_share = match oldest {
            Some((_, at)) if waiting > 1 => {
                let waited = u64::try_from(now.saturating_duration_since(at).as_nanos()).unwrap_or(u64::MAX);
                let left = self.spread_ns.saturating_sub(waited) / PORTION_NS;
                let left = usize::try_from(left).unwrap_or(usize::MAX).max(1);
                // As long as there are more portions than packets, the rate alone decides.
                if waiting < left { 0 } else { waiting.div_ceil(left) }
            }
            _ => waiting,
        };
    }

    /// The packet that has waited longest for a portion.
    fn oldest(&self) -> Option<(PacketClass, Instant)> {
        let front =
            |class: PacketClass| self.queues.get(class as usize)?.front().map(|packet| (class, packet.at));
        PACED.into_iter().filter_map(front).min_by_key(|(_, at)| *at)
    }

    fn ask(&mut self, bytes: u16, probe: Option<ProbeClusterId>) -> Option<Release<T>> {
        (!std::mem::replace(&mut self.asked, true)).then_some(Release::Padding { bytes, probe })
    }

    fn pop(&mut self, now: Instant, class: PacketClass, probe: Option<ProbeClusterId>) -> Option<Release<T>> {
        let packet = self.queues.get_mut(class as usize)?.pop_front()?;
        self.queued_bytes -= usize::from(packet.bytes);
        self.charge(now, packet.bytes, probe);
        Some(Release::Packet { item: packet.item, class, probe })
    }

    fn charge(&mut self, now: Instant, bytes: u16, probe: Option<ProbeClusterId>) {
        // More debt would delay what comes after a burst that is already out.
        self.debt_ns = (self.debt_ns + ((u64::from(bytes) * self.byte_time) >> 8)).min(self.spread_ns);
        if self.padding_rate > Bitrate::ZERO {
            // A portion's worth of lateness is made up for: that is how often it is asked for.
            let earliest = now.checked_sub(PORTION_INTERVAL).unwrap_or(now);
            let from = self.padded_until.map_or(now, |until| until.max(earliest));
            self.padded_until = Some((from + self.padding_rate.time_of(bytes)).min(now + PADDING_RETRY));
        }
        if probe.is_some() {
            self.prober.on_sent(bytes);
        }
    }

    /// Notes what was sent in answer to [`Release::Padding`], in bytes as they count for the estimate; must
    /// be called before the next is asked for. 0 if nothing could be sent (no stream to pad): a probe that
    /// has begun is then abandoned, others and padding are tried again later.
    pub fn on_padding(&mut self, now: Instant, bytes: u16, probe: Option<ProbeClusterId>) {
        self.asked = false;
        if bytes > 0 {
            self.charge(now, bytes, probe);
        } else if probe.is_some() {
            self.prober.starve(now);
        } else {
            self.padded_until = Some(now + PADDING_RETRY);
        }
    }

    /// When to poll next, if anything waits or is to be filled.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        let audio = self.queues.first().and_then(|queue| queue.front()).map(|packet| packet.at);
        let oldest = self.oldest().map(|(_, at)| at);
        let portion = self.portion_at.map(|at| at + PORTION_INTERVAL);
        let paced = if oldest.is_none() && self.padding_rate > Bitrate::ZERO && !self.asked {
            // Nothing is filled up before the first packet.
            portion.map(|portion| self.padded_until.map_or(portion, |until| until.max(portion)))
        } else {
            let spread = self.debt_ns >= PORTION_NS || self.debt_at.is_some_and(|at| self.waits_since(at));
            oldest.map(|at| portion.filter(|_| spread).map_or(at, |portion| portion.max(at)))
        };
        let probe = self.prober.next_at().filter(|_| !self.asked);
        [audio, paced, probe].into_iter().flatten().min()
    }

    /// Whether nothing waits and nothing is to be filled.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.queued_bytes == 0 && self.padding_rate == Bitrate::ZERO && self.prober.is_idle()
    }

    /// Bytes that wait.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Packets refused or dropped because the queue was full.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused
    }
}

/// See [`Pacer::byte_time`].
fn byte_time(rate: Bitrate) -> u64 {
    8_000_000_000 * 256 / rate.max(Bitrate::kbps(1)).as_bps()
}
