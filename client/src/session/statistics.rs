//! What arrived of a track, and what did not.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
    time::{Duration, Instant},
};

use crate::media::SyntheticHeader;

/// Holes in the sequence that are remembered. Beyond it the oldest are given up: they stay counted as lost
/// even if their packet still comes.
const HOLES_MAX: usize = 8_192;
/// Frames that are remembered. Beyond it the oldest are forgotten: if incomplete, they stay counted as
/// missing, and further packets of theirs count as duplicates.
const FRAMES_MAX: usize = 8_192;
/// A jump of this many sequence numbers or more is a new sequence, not a loss.
const SEQUENCE_JUMP_MIN: u64 = 16_384;
/// Packets that a synthetic frame may have; more are not looked at.
const FRAME_PACKETS_MAX: u16 = 1_024;

/// Figures of a received track.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReceiveStats {
    /// RTP packets received.
    pub packets: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
    /// Holes in the RTP sequence that nothing has filled yet.
    pub lost: u64,
    /// Packets that came late and filled a hole: reordered or retransmitted.
    pub recovered: u64,
    /// Packets whose sequence number had come before.
    pub duplicates: u64,
    /// Figures of synthetic frames; all zero for real media.
    pub frames: FrameStats,
}

/// Figures of the synthetic frames of a track.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FrameStats {
    /// Lowest frame number seen, once there is one.
    pub first: Option<u32>,
    /// Highest frame number seen.
    pub last: Option<u32>,
    /// Frames of which every packet came.
    pub complete: u64,
    /// Frames between the first and the last of which packets are missing.
    pub missing: u64,
    /// Packets that had come before, under whatever sequence number.
    pub duplicate_packets: u64,
    /// Longest time between two frames becoming complete.
    pub longest_gap: Duration,
    /// Longest time from a packet's making to its arrival, by the two sides' media clocks.
    pub latency_max: Duration,
    /// Sum of the same times over all packets.
    pub latency_sum: Duration,
    /// Packets in `latency_sum`.
    pub packets: u64,
}

/// Follows one RTP sequence.
#[derive(Debug, Default)]
pub(super) struct SequenceLog {
    range: Option<(u64, u64)>,
    holes: BTreeSet<u64>,
    given_up: u64,
    recovered: u64,
    duplicates: u64,
}

impl SequenceLog {
    pub(super) fn receive(&mut self, seq: u64) {
        let Some((first, last)) = self.range else {
            self.range = Some((seq, seq));
            return;
        };
        if seq > last.saturating_add(SEQUENCE_JUMP_MIN) || seq.saturating_add(SEQUENCE_JUMP_MIN) < first {
            self.range = Some((seq, seq));
            self.given_up = self.lost();
            self.holes.clear();
        } else if seq > last {
            self.add_holes(last + 1..seq);
            self.range = Some((first, seq));
        } else if seq < first {
            self.add_holes(seq + 1..first);
            self.range = Some((seq, last));
        } else if self.holes.remove(&seq) {
            self.recovered += 1;
        } else {
            self.duplicates += 1;
        }
    }

    fn add_holes(&mut self, holes: std::ops::Range<u64>) {
        for seq in holes {
            self.holes.insert(seq);
            if self.holes.len() > HOLES_MAX {
                self.holes.pop_first();
                self.given_up += 1;
            }
        }
    }

    fn lost(&self) -> u64 {
        self.given_up + u64::try_from(self.holes.len()).unwrap_or(u64::MAX)
    }

    pub(super) fn add_to(&self, stats: &mut ReceiveStats) {
        stats.lost += self.lost();
        stats.recovered += self.recovered;
        stats.duplicates += self.duplicates;
    }
}

/// Follows the frames of one synthetic track.
#[derive(Debug, Default)]
pub(super) struct FrameLog {
    frames: BTreeMap<u32, Frame>,
    forgotten_below: u32,
    last_complete: Option<Instant>,
    stats: FrameStats,
}

#[derive(Debug)]
struct Frame {
    seen: Vec<bool>,
    left: u16,
}

impl FrameLog {
    /// Takes a packet's header, at `now` and `clock_us` of the receiver's media clock.
    pub(super) fn receive(&mut self, now: Instant, clock_us: u64, header: SyntheticHeader) {
        if header.count == 0 || header.count > FRAME_PACKETS_MAX || header.index >= header.count {
            return;
        }
        if header.frame < self.forgotten_below {
            self.stats.duplicate_packets += 1;
            return;
        }
        let frame = self
            .frames
            .entry(header.frame)
            .or_insert_with(|| Frame { seen: vec![false; usize::from(header.count)], left: header.count });
        match frame.seen.get_mut(usize::from(header.index)) {
            Some(seen) if !*seen => *seen = true,
            _ => {
                self.stats.duplicate_packets += 1;
                return;
            }
        }
        frame.left = frame.left.saturating_sub(1);
        let complete = frame.left == 0;

        let latency = Duration::from_micros(clock_us.saturating_sub(header.sent_us));
        self.stats.latency_max = self.stats.latency_max.max(latency);
        self.stats.latency_sum += latency;
        self.stats.packets += 1;
        self.stats.first = Some(self.stats.first.map_or(header.frame, |first| first.min(header.frame)));
        self.stats.last = Some(self.stats.last.map_or(header.frame, |last| last.max(header.frame)));
        if complete {
            self.stats.complete += 1;
            if let Some(last) = self.last_complete.replace(now) {
                self.stats.longest_gap = self.stats.longest_gap.max(now.saturating_duration_since(last));
            }
        }
        while self.frames.len() > FRAMES_MAX {
            if let Some((frame, _)) = self.frames.pop_first() {
                self.forgotten_below = self.forgotten_below.max(frame.saturating_add(1));
            }
        }
    }

    /// Frames of a range that are not complete; of those that are forgotten nothing is said.
    pub(super) fn incomplete(&self, frames: RangeInclusive<u32>) -> Vec<u32> {
        let known = (*frames.start()).max(self.forgotten_below)..=*frames.end();
        known.filter(|frame| self.frames.get(frame).is_none_or(|frame| frame.left > 0)).collect()
    }

    pub(super) fn stats(&self) -> FrameStats {
        let mut stats = self.stats;
        if let (Some(first), Some(last)) = (stats.first, stats.last) {
            stats.missing = (u64::from(last - first) + 1).saturating_sub(stats.complete);
        }
        stats
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test begins its virtual time anywhere")]
mod tests {
    use super::*;

    fn figures(log: &SequenceLog) -> (u64, u64, u64) {
        let mut stats = ReceiveStats::default();
        log.add_to(&mut stats);
        (stats.lost, stats.recovered, stats.duplicates)
    }

    #[test]
    fn holes_are_lost_until_filled() {
        let mut log = SequenceLog::default();
        for seq in [10, 11, 14, 15] {
            log.receive(seq);
        }
        assert_eq!(figures(&log), (2, 0, 0));
        log.receive(13);
        assert_eq!(figures(&log), (1, 1, 0));
        log.receive(13);
        assert_eq!(figures(&log), (1, 1, 1));
    }

    #[test]
    fn packets_before_the_first_widen_the_range() {
        let mut log = SequenceLog::default();
        log.receive(10);
        log.receive(8);
        assert_eq!(figures(&log), (1, 0, 0));
        log.receive(9);
        assert_eq!(figures(&log), (0, 1, 0));
    }

    #[test]
    fn a_jump_starts_a_new_sequence() {
        let mut log = SequenceLog::default();
        log.receive(10);
        log.receive(10 + SEQUENCE_JUMP_MIN + 1);
        assert_eq!(figures(&log), (0, 0, 0));
    }

    #[test]
    fn remembered_holes_are_bounded() {
        let mut log = SequenceLog::default();
        log.receive(0);
        log.receive(HOLES_MAX as u64 + 100);
        assert_eq!(log.holes.len(), HOLES_MAX);
        assert_eq!(figures(&log).0, HOLES_MAX as u64 + 99);
    }

    fn packet(frame: u32, index: u16, count: u16) -> SyntheticHeader {
        SyntheticHeader { stream: 1, frame, index, count, sent_us: 1_000 }
    }

    #[test]
    fn frames_are_complete_when_every_packet_came() {
        let start = Instant::now();
        let mut log = FrameLog::default();
        log.receive(start, 2_000, packet(5, 0, 2));
        log.receive(start, 4_000, packet(6, 0, 1));
        assert_eq!((log.stats().complete, log.stats().missing), (1, 1));
        assert_eq!(log.incomplete(5..=7), [5, 7]);
        log.receive(start + Duration::from_millis(30), 3_000, packet(5, 1, 2));
        log.receive(start, 3_000, packet(5, 1, 2));
        let stats = log.stats();
        assert_eq!((stats.complete, stats.missing, stats.duplicate_packets), (2, 0, 1));
        assert_eq!((stats.first, stats.last), (Some(5), Some(6)));
        assert_eq!(stats.latency_max, Duration::from_millis(3));
        assert_eq!(stats.longest_gap, Duration::from_millis(30));
    }

    #[test]
    fn remembered_frames_are_bounded() {
        let now = Instant::now();
        let mut log = FrameLog::default();
        for frame in 0..10_000 {
            log.receive(now, 1_000, packet(frame, 0, 1));
        }
        assert_eq!(log.frames.len(), FRAMES_MAX);
        assert_eq!((log.stats().complete, log.stats().missing), (10_000, 0));
        log.receive(now, 1_000, packet(3, 0, 1));
        assert_eq!(log.stats().duplicate_packets, 1);
    }
}
