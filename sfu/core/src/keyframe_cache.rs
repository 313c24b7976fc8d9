//! The newest keyframe of an encoding and what came since, as long as that is little: who begins to receive the encoding
//! meanwhile begins with it, and the publisher need not make another keyframe.
//!
//! ```text
//!   keyframe ─ frame ─ frame ─ frame ─ … newest frame, perhaps not complete yet
//!   └ caught up with, its timestamps close together ┘└ goes on as it comes
//! ```

use std::time::{Duration, Instant};

use crate::{connection::PacketHead, media::store::PacketHandle};

/// What is older is not kept: there would be more to catch up with than a new keyframe takes. It may have to be sent again
/// after a round trip, and a packet store has it for a second.
const AGE_MAX: Duration = Duration::from_millis(750);
/// Packets that are kept; at 2.5 Mbit/s a second's.
const PACKETS_MAX: usize = 256;

/// A packet of the cache; its octets are in the encoding's store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CachedPacket {
    pub(crate) handle: PacketHandle,
    pub(crate) head: PacketHead,
    /// As far as the pacer needs to know.
    pub(crate) bytes: usize,
}

/// See the module. Owns no memory but for a moment after each keyframe.
#[derive(Debug, Default)]
pub(crate) struct KeyframeCache {
    /// All of one format: the keyframe's first packet, then in the order in which they came.
    packets: Vec<CachedPacket>,
    began: Option<Instant>,
    highest: u64,
    /// The timestamp of a keyframe that was forgotten: what comes of it still is no beginning.
    given_up: Option<u32>,
}

/// What somebody who begins is sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CatchUp<'a> {
    pub(crate) packets: &'a [CachedPacket],
    /// The newest frame's timestamp: those before it are to be caught up with.
    pub(crate) live_from: u32,
    /// What is sent of it: the lowest temporal layer.
    pub(crate) bytes: usize,
}

impl KeyframeCache {
    /// A packet of the encoding came.
    pub(crate) fn push(&mut self, now: Instant, packet: CachedPacket) {
        let head = &packet.head;
        let Some(first) = self.packets.first().map(|packet| packet.head) else {
            if head.keyframe && self.given_up != Some(head.timestamp) {
                self.begin(now, packet);
            }
            return;
        };
        if head.keyframe && is_newer(head.timestamp, first.timestamp) {
            self.packets.clear();
            self.begin(now, packet);
        } else if head.sequence < first.sequence {
            // A keyframe's packets may change places on their way.
            if head.keyframe && head.timestamp == first.timestamp && self.packets.len() < PACKETS_MAX {
                self.packets.insert(0, packet);
            }
        } else if self.is_old(now)
            || self.packets.len() >= PACKETS_MAX
            || head.format.number != first.format.number
        {
            self.clear();
            self.given_up = Some(first.timestamp);
        } else {
            self.highest = self.highest.max(head.sequence);
            self.packets.push(packet);
        }
    }

    fn begin(&mut self, now: Instant, packet: CachedPacket) {
        self.began = Some(now);
        self.highest = packet.head.sequence;
        self.given_up = None;
        self.packets.push(packet);
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// What there is to begin with: none if the last keyframe came too long ago, or a packet since is missing.
    pub(crate) fn catch_up(&self, now: Instant) -> Option<CatchUp<'_>> {
        let first = self.packets.first().filter(|_| !self.is_old(now))?;
        let span = self.highest.checked_sub(first.head.sequence)?.checked_add(1)?;
        if usize::try_from(span) != Ok(self.packets.len()) {
            return None;
        }
        let newest = self.packets.iter().rfind(|packet| packet.head.sequence == self.highest)?;
        let lowest =
            self.packets.iter().filter(|packet| packet.head.temporal.is_none_or(|layer| layer.id == 0));
        let bytes = lowest.map(|packet| packet.bytes).sum();
        Some(CatchUp { packets: &self.packets, live_from: newest.head.timestamp, bytes })
    }

    fn is_old(&self, now: Instant) -> bool {
        self.began.is_none_or(|began| now.saturating_duration_since(began) > AGE_MAX)
    }
}

fn is_newer(timestamp: u32, than: u32) -> bool {
    (1..1 << 31).contains(&timestamp.wrapping_sub(than))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::{Codec, MediaPacket};

    fn cached(sequence: u64, timestamp: u32, keyframe: bool) -> CachedPacket {
        let head = MediaPacket::unreceived(Codec::Vp8, sequence, timestamp, &[0; 4]).head();
        CachedPacket { handle: PacketHandle::default(), head: PacketHead { keyframe, ..head }, bytes: 100 }
    }

    fn at(ms: u64) -> Instant {
        use std::sync::OnceLock;
        static START: OnceLock<Instant> = OnceLock::new();
        #[expect(clippy::disallowed_methods, reason = "any instant will do")]
        let start = *START.get_or_init(Instant::now);
        start + Duration::from_millis(ms)
    }

    fn sequences(cache: &KeyframeCache, now: Instant) -> Option<Vec<u64>> {
        let catch_up = cache.catch_up(now)?;
        Some(catch_up.packets.iter().map(|packet| packet.head.sequence).collect())
    }

    #[test]
    fn begins_with_the_newest_keyframe_and_keeps_what_came_since() {
        let mut cache = KeyframeCache::default();
        cache.push(at(0), cached(7, 0, false));
        assert_eq!(sequences(&cache, at(0)), None, "no keyframe yet");
        cache.push(at(10), cached(8, 3000, true));
        cache.push(at(10), cached(9, 3000, false));
        cache.push(at(43), cached(10, 6000, false));
        assert_eq!(sequences(&cache, at(50)), Some(vec![8, 9, 10]));
        assert_eq!(cache.catch_up(at(50)).map(|all| (all.live_from, all.bytes)), Some((6000, 300)));
        cache.push(at(60), cached(7, 0, false));
        assert_eq!(sequences(&cache, at(60)), Some(vec![8, 9, 10]), "what came late is of before");
        cache.push(at(76), cached(11, 9000, true));
        cache.push(at(76), cached(12, 9000, true));
        assert_eq!(sequences(&cache, at(80)), Some(vec![11, 12]));
    }

    #[test]
    fn a_keyframes_first_packet_may_come_late() {
        let mut cache = KeyframeCache::default();
        cache.push(at(0), cached(2, 0, true));
        cache.push(at(0), cached(3, 0, false));
        cache.push(at(5), cached(1, 0, true));
        assert_eq!(sequences(&cache, at(5)), Some(vec![1, 2, 3]));
    }

    #[test]
    fn another_format_is_none_of_the_same_pictures() {
        let mut cache = KeyframeCache::default();
        cache.push(at(0), cached(1, 0, true));
        let head =
            PacketHead { keyframe: false, ..MediaPacket::unreceived(Codec::Vp9, 2, 3000, &[0; 4]).head() };
        cache.push(at(33), CachedPacket { head, ..cached(2, 3000, false) });
        assert!(cache.catch_up(at(33)).is_none());
    }

    #[test]
    fn a_gap_is_waited_for() {
        let mut cache = KeyframeCache::default();
        cache.push(at(0), cached(1, 0, true));
        cache.push(at(33), cached(3, 3000, false));
        assert_eq!(sequences(&cache, at(40)), None);
        cache.push(at(50), cached(2, 0, false));
        assert_eq!(sequences(&cache, at(50)), Some(vec![1, 3, 2]));
        assert_eq!(cache.catch_up(at(50)).map(|all| all.live_from), Some(3000));
    }

    #[test]
    fn is_kept_for_a_time_and_a_number_of_packets() {
        let mut cache = KeyframeCache::default();
        cache.push(at(0), cached(1, 0, true));
        assert!(cache.catch_up(at(750)).is_some());
        assert!(cache.catch_up(at(751)).is_none());
        cache.push(at(751), cached(2, 67_590, false));
        assert_eq!(cache.packets.capacity(), 0, "it takes no memory then");
        cache.push(at(2000), cached(3, 180_000, true));
        for sequence in 4..=PACKETS_MAX as u64 + 2 {
            cache.push(at(2000), cached(sequence, 180_000, false));
        }
        assert!(cache.catch_up(at(2000)).is_some());
        cache.push(at(2000), cached(PACKETS_MAX as u64 + 3, 180_000, false));
        assert!(cache.catch_up(at(2000)).is_none());
        assert_eq!(cache.packets.capacity(), 0);
        cache.push(at(2001), cached(PACKETS_MAX as u64 + 4, 180_000, true));
        assert!(cache.catch_up(at(2001)).is_none(), "in the middle of the keyframe");
    }

    #[test]
    fn timestamps_may_wrap() {
        let mut cache = KeyframeCache::default();
        cache.push(at(0), cached(1, u32::MAX - 10, true));
        cache.push(at(33), cached(2, 2990, true));
        assert_eq!(sequences(&cache, at(33)), Some(vec![2]));
    }
}
