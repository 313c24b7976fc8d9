//! Which stored packet went out under which sequence number.

use std::num::NonZeroU8;

use crate::media::store::PacketHandle;

/// Most packets that a map remembers.
pub const SEQUENCE_MAP_PACKETS_MAX: usize = 4096;

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

/// A ring by sequence number: a newer packet takes the place of the one a ring's length before it.
#[derive(Debug)]
pub struct SequenceMap {
    /// Allocated with the first packet.
    entries: Vec<Option<Entry>>,
    packets: usize,
}

impl SequenceMap {
    /// A map of so many packets, rounded up to a power of two; 0 makes one that forgets everything.
    pub fn new(packets: usize) -> Self {
        let packets = match packets {
            0 => 0,
            packets => packets.min(SEQUENCE_MAP_PACKETS_MAX).next_power_of_two(),
        };
        Self { entries: Vec::new(), packets }
    }

    /// Remembers a packet.
    #[inline]
    pub fn insert(&mut self, sequence: u64, handle: PacketHandle, tag: u16) {
        if self.packets == 0 {
            return;
        }
        if self.entries.is_empty() {
            self.entries = vec![None; self.packets];
        }
        let sequence = sequence as u16;
        let at = usize::from(sequence) & (self.packets - 1);
        if let Some(slot) = self.entries.get_mut(at) {
            *slot = Some(Entry { handle, sequence, tag, resent_ms: 0, sends: NonZeroU8::MIN });
        }
    }

    /// What was sent under a sequence number.
    pub fn get(&self, sequence: u16) -> Option<SentPacket> {
        let at = usize::from(sequence) & self.packets.checked_sub(1)?;
        self.entries
            .get(at)
            .copied()
            .flatten()
            .filter(|entry| entry.sequence == sequence)
            .map(|entry| entry.packet())
    }

    pub(super) fn get_mut(&mut self, sequence: u16) -> Option<&mut Entry> {
        let at = usize::from(sequence) & self.packets.checked_sub(1)?;
        self.entries.get_mut(at)?.as_mut().filter(|entry| entry.sequence == sequence)
    }
}
