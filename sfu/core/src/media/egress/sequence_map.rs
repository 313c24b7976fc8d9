//! Which stored packet went out under which sequence number.

use std::num::NonZeroU8;

use crate::media::{extensions::SendTime, store::PacketHandle};

/// Most packets that a map remembers.
pub const SEQUENCE_MAP_PACKETS_MAX: usize = 4096;
/// What a map begins with.
const PACKETS_MIN: usize = 64;
/// So long a packet is remembered at least while the map may grow: as long as stores send packets again
/// ([`StoreConfig::age_max`](crate::media::store::StoreConfig)). A second, in units of [`SendTime`].
const REMEMBERED: u32 = 1 << 18;

/// What was sent under a sequence number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SentPacket {
    /// Low 16 bits of the sequence number.
    pub sequence: u16,
    /// What its store calls it.
    pub handle: PacketHandle,
    /// What the caller gave along.
    pub tag: u16,
}

/// An entry of the ring: 12 octets, an empty one as well.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    handle: PacketHandle,
    sequence: u16,
    tag: u16,
    /// When it was last sent again, in milliseconds of the stream's own clock.
    pub(super) resent_ms: u16,
    /// How often it was sent, the first time included.
    pub(super) sends: NonZeroU8,
}

impl Entry {
    pub(super) fn packet(&self) -> SentPacket {
        SentPacket { sequence: self.sequence, handle: self.handle, tag: self.tag }
    }
}

/// A ring by sequence number: a newer packet takes the place of the one a ring's length before it. It doubles when it
/// was filled within a second, up to a bound.
#[derive(Debug)]
pub struct SequenceMap {
    /// Allocated with the first packet.
    entries: Vec<Option<Entry>>,
    packets_max: usize,
    /// Packets since `lap_began`; a lap is as many as there are entries.
    lap: usize,
    lap_began: SendTime,
}

impl SequenceMap {
    /// A map of at most so many packets, rounded up to a power of two; 0 makes one that forgets everything.
    pub fn new(packets_max: usize) -> Self {
        let packets_max = match packets_max {
            0 => 0,
            packets => packets.min(SEQUENCE_MAP_PACKETS_MAX).next_power_of_two(),
        };
        Self { entries: Vec::new(), packets_max, lap: 0, lap_began: SendTime(0) }
    }

    /// Remembers a packet that leaves at `send_time`.
    #[inline]
    pub fn insert(&mut self, sequence: u64, handle: PacketHandle, tag: u16, send_time: SendTime) {
        if self.lap == self.entries.len() {
            self.begin_lap(send_time);
        }
        self.lap += 1;
        let sequence = sequence as u16;
        let entry = Entry { handle, sequence, tag, resent_ms: 0, sends: NonZeroU8::MIN };
        // One that waited gives way to a later one that found no room to wait, and can be had only from here.
        let is_later = |known: Entry| (1..1 << 15).contains(&known.sequence.wrapping_sub(sequence));
        if let Some(slot) = self.place(sequence)
            && !slot.is_some_and(is_later)
        {
            *slot = Some(entry);
        }
    }

    /// All entries were filled: before any is lost that may be asked for, there are twice as many.
    #[cold]
    fn begin_lap(&mut self, now: SendTime) {
        let len = self.entries.len();
        let elapsed = now.0.wrapping_sub(self.lap_began.0) & SendTime::MASK;
        if len < self.packets_max && (len == 0 || elapsed < REMEMBERED) {
            let longer = vec![None; (len * 2).max(PACKETS_MIN).min(self.packets_max)];
            for entry in std::mem::replace(&mut self.entries, longer).into_iter().flatten() {
                if let Some(slot) = self.place(entry.sequence) {
                    *slot = Some(entry);
                }
            }
            if len > 0 {
                return; // the lap goes on
            }
        }
        self.lap = 0;
        self.lap_began = now;
    }

    fn place(&mut self, sequence: u16) -> Option<&mut Option<Entry>> {
        let at = usize::from(sequence) & self.entries.len().checked_sub(1)?;
        self.entries.get_mut(at)
    }

    /// What was sent under a sequence number.
    pub fn get(&self, sequence: u16) -> Option<SentPacket> {
        let at = usize::from(sequence) & self.entries.len().checked_sub(1)?;
        self.entries
            .get(at)
            .copied()
            .flatten()
            .filter(|entry| entry.sequence == sequence)
            .map(|entry| entry.packet())
    }

    pub(super) fn get_mut(&mut self, sequence: u16) -> Option<&mut Entry> {
        self.place(sequence)?.as_mut().filter(|entry| entry.sequence == sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u32 = 1 << 18;

    /// Packets at so many a second, with their numbers for tags.
    fn fill(map: &mut SequenceMap, numbers: std::ops::Range<u64>, per_second: u64) {
        for number in numbers {
            let at = (number * u64::from(SECOND) / per_second) as u32 & SendTime::MASK;
            map.insert(number, PacketHandle::default(), number as u16, SendTime(at));
        }
    }

    #[test]
    fn it_grows_until_it_covers_a_second() {
        for (per_second, expected) in [(20, 64), (100, 128), (200, 256), (2_000, 512)] {
            let mut map = SequenceMap::new(512);
            assert_eq!(map.entries.len(), 0);
            fill(&mut map, 0..20 * per_second, per_second);
            assert_eq!(map.entries.len(), expected, "{per_second} a second");
        }
    }

    #[test]
    fn nothing_of_the_last_second_is_forgotten_while_it_grows() {
        let mut map = SequenceMap::new(512);
        for number in 65_000..66_500_u64 {
            fill(&mut map, number..number + 1, 300);
            for back in 0..300.min(number - 65_000) {
                let sequence = (number - back) as u16;
                assert_eq!(map.get(sequence).map(|sent| sent.tag), Some(sequence), "{back} before {number}");
            }
        }
    }

    #[test]
    fn a_map_of_nothing_takes_no_memory() {
        let mut map = SequenceMap::new(0);
        fill(&mut map, 0..1_000, 100);
        assert_eq!((map.entries.capacity(), map.get(999)), (0, None));
    }
}
