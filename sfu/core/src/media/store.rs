//! The packets of one encoding, kept once for all who receive it: to be forwarded, and to be sent again.
//!
//! ```text
//!   insert ─► slot ring (what forwarding needs)  serial & mask      ┐ both bounded; the oldest give way
//!          └► chunk ring (descriptor, payload)   bump-allocated     ┘
//!   PacketHandle ─► slot, if its serial is still there ─► octets, if their chunk is
//! ```
//!
//! Chunks are allocated as the stream's rate asks for them, at most up to a bound, and used again in the order
//! they were filled: once a second's worth of them is there, a packet allocates nothing.

mod recent;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use thiserror::Error;

pub use recent::Recent;

use super::extensions::{AudioLevel, CaptureTime, PlayoutDelay, VideoOrientation};

/// How much a store keeps. Whatever bound is met first makes the oldest packets give way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreConfig {
    /// Packets, rounded up to a power of two.
    pub packets_max: usize,
    /// Octets of payloads and descriptors, rounded up to whole chunks.
    pub bytes_max: usize,
    /// Octets of one chunk; at least as many as the largest packet has.
    pub chunk_bytes: usize,
    /// Packets older than this are not sent again, and their chunks are free for others.
    pub age_max: Duration,
}

impl StoreConfig {
    /// A second of video: at 10 Mbit/s 1.25 MB, 1100 packets.
    pub const VIDEO: Self = Self {
        packets_max: 1024,
        bytes_max: 2 << 20,
        chunk_bytes: 64 << 10,
        age_max: Duration::from_secs(1),
    };
    /// A second of audio fits many times; of stereo at 510 kbit/s as well.
    pub const AUDIO: Self = Self {
        packets_max: 512,
        bytes_max: 128 << 10,
        chunk_bytes: 8 << 10,
        age_max: Duration::from_secs(1),
    };
}

/// Why a packet was not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// It has more octets than a chunk; its sender's fault.
    #[error("a packet of {bytes} octets where {max} fit")]
    TooLarge {
        /// Payload and descriptor.
        bytes: usize,
        /// What a chunk holds.
        max: usize,
    },
}

/// Names a packet of one store, for as long as it is there. 2^32 packets later the name is given again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(test, derive(Default))]
pub struct PacketHandle(u32);

/// What a packet is to its frame and its stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameInfo {
    /// It belongs to a frame that needs no other.
    pub keyframe: bool,
    /// It is its frame's first.
    pub first: bool,
    /// Spatial layer, 0 the lowest.
    pub spatial: u8,
    /// Temporal layer, 0 the lowest.
    pub temporal: u8,
}

/// What forwarding needs to know of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketInfo {
    /// Extended sequence number, as the publisher counts.
    pub sequence: u64,
    /// RTP timestamp, as the publisher counts.
    pub timestamp: u32,
    /// The marker bit.
    pub marker: bool,
    /// Its part in a frame.
    pub frame: FrameInfo,
    /// When it came.
    pub arrived: Instant,
    /// How loud it is.
    pub audio_level: Option<AudioLevel>,
    /// How the picture is turned.
    pub orientation: Option<VideoOrientation>,
    /// Bounds of the receiver's jitter buffer.
    pub playout_delay: Option<PlayoutDelay>,
    /// When the frame was captured.
    pub capture_time: Option<CaptureTime>,
}

/// A packet of a store.
#[derive(Clone, Copy, Debug)]
pub struct StoredPacket<'a> {
    /// What forwarding needs to know.
    pub info: &'a PacketInfo,
    /// The dependency descriptor, raw; empty without one.
    pub descriptor: &'a [u8],
    /// The payload, without padding.
    pub payload: &'a [u8],
}

#[derive(Debug)]
struct Slot {
    serial: u32,
    chunk: u32,
    at: u32,
    descriptor_bytes: u8,
    payload_bytes: u16,
    info: PacketInfo,
}

#[derive(Debug)]
struct Chunk {
    octets: Box<[u8]>,
    used: usize,
    /// When its last packet came.
    newest: Instant,
    /// The serial of its last packet.
    last_serial: u32,
}

/// The packets of one encoding.
#[derive(Debug)]
pub struct PacketStore {
    config: StoreConfig,
    slots: Vec<Slot>,
    mask: u32,
    next_serial: u32,
    /// Oldest first.
    chunks: VecDeque<Chunk>,
    /// Number of the oldest chunk; they count up.
    first_chunk: u32,
    chunks_max: usize,
}

impl PacketStore {
    /// An empty store, which owns no memory yet.
    pub fn new(config: StoreConfig) -> Self {
        let packets = config.packets_max.clamp(1, 1 << 16).next_power_of_two();
        Self {
            config,
            slots: Vec::new(),
            mask: (packets - 1) as u32,
            next_serial: 0,
            chunks: VecDeque::new(),
            first_chunk: 0,
            // Of two chunks one is always full of what came last.
            chunks_max: config.bytes_max.div_ceil(config.chunk_bytes.max(1)).max(2),
        }
    }

    /// Keeps a packet; the copy it makes is the only one. `descriptor` is empty or up to 255 octets.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`].
    pub fn insert(
        &mut self,
        info: PacketInfo,
        descriptor: &[u8],
        payload: &[u8],
    ) -> Result<PacketHandle, StoreError> {
        let bytes = descriptor.len() + payload.len();
        let too_large = StoreError::TooLarge { bytes, max: self.config.chunk_bytes };
        let descriptor_bytes = u8::try_from(descriptor.len()).map_err(|_| too_large)?;
        let payload_bytes = u16::try_from(payload.len()).map_err(|_| too_large)?;
        if bytes > self.config.chunk_bytes {
            return Err(too_large);
        }
        let room = self.chunks.back().is_some_and(|chunk| chunk.octets.len() - chunk.used >= bytes);
        if !room {
            self.next_chunk(info.arrived);
        }
        let chunk_number = self.first_chunk.wrapping_add(self.chunks.len() as u32).wrapping_sub(1);
        let Some(chunk) = self.chunks.back_mut() else {
            return Err(too_large);
        };
        let at = chunk.used;
        let space = chunk.octets.get_mut(at..at + bytes).ok_or(too_large)?;
        let (to_descriptor, to_payload) = space.split_at_mut_checked(descriptor.len()).ok_or(too_large)?;
        to_descriptor.copy_from_slice(descriptor);
        to_payload.copy_from_slice(payload);
        chunk.used = at + bytes;
        chunk.newest = chunk.newest.max(info.arrived);

        let serial = self.next_serial;
        chunk.last_serial = serial;
        self.next_serial = serial.wrapping_add(1);
        let slot = Slot { serial, chunk: chunk_number, at: at as u32, descriptor_bytes, payload_bytes, info };
        match self.slots.get_mut((serial & self.mask) as usize) {
            Some(old) => *old = slot,
            None => self.slots.push(slot),
        }
        Ok(PacketHandle(serial))
    }

    /// A packet, if it is still there.
    #[inline]
    pub fn get(&self, handle: PacketHandle) -> Option<StoredPacket<'_>> {
        let slot = self.slots.get((handle.0 & self.mask) as usize).filter(|slot| slot.serial == handle.0)?;
        let chunk = self.chunks.get(slot.chunk.wrapping_sub(self.first_chunk) as usize)?;
        let octets = chunk.octets.get(slot.at as usize..)?;
        let (descriptor, rest) = octets.split_at_checked(usize::from(slot.descriptor_bytes))?;
        Some(StoredPacket {
            info: &slot.info,
            descriptor,
            payload: rest.get(..usize::from(slot.payload_bytes))?,
        })
    }

    /// The packet of a publisher's number, among the `searched` that were kept last before `handle`.
    pub fn find_before(&self, handle: PacketHandle, number: u64, searched: u32) -> Option<StoredPacket<'_>> {
        let before = (1..=searched).map(|back| PacketHandle(handle.0.wrapping_sub(back)));
        before.filter_map(|handle| self.get(handle)).find(|packet| packet.info.sequence == number)
    }

    /// A packet, if it is still there and young enough to be sent again.
    pub fn get_recent(&self, handle: PacketHandle, now: Instant) -> Option<StoredPacket<'_>> {
        self.get(handle)
            .filter(|packet| now.saturating_duration_since(packet.info.arrived) <= self.config.age_max)
    }

    /// Gives back the memory of packets that are too old: for a stream that stopped or slowed down.
    pub fn expire(&mut self, now: Instant) {
        while let Some(chunk) = self.chunks.front()
            && self.is_old(chunk, now)
        {
            self.chunks.pop_front();
            self.first_chunk = self.first_chunk.wrapping_add(1);
        }
        if self.chunks.is_empty() {
            self.slots = Vec::new();
            // Serials go on, at a multiple of the ring, because slots are filled from the front.
            self.next_serial = self.next_serial.wrapping_add(self.mask) & !self.mask;
        }
    }

    /// Octets that the store owns.
    pub fn memory_bytes(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.octets.len()).sum::<usize>()
            + self.slots.capacity() * size_of::<Slot>()
            + self.chunks.capacity() * size_of::<Chunk>()
    }

    fn is_old(&self, chunk: &Chunk, now: Instant) -> bool {
        now.saturating_duration_since(chunk.newest) > self.config.age_max
    }

    /// Makes an empty chunk the last one: the oldest if nobody can ask for it any more or none may be added, else
    /// a new one.
    fn next_chunk(&mut self, now: Instant) {
        // Nobody can where the slot of its last packet is the next to be taken.
        let oldest_is_free = self.chunks.front().is_some_and(|chunk| {
            self.is_old(chunk, now) || self.next_serial.wrapping_sub(chunk.last_serial) > self.mask
        });
        if (oldest_is_free || self.chunks.len() >= self.chunks_max)
            && let Some(mut chunk) = self.chunks.pop_front()
        {
            self.first_chunk = self.first_chunk.wrapping_add(1);
            chunk.used = 0;
            chunk.newest = now;
            chunk.last_serial = self.next_serial;
            self.chunks.push_back(chunk);
            return;
        }
        let octets = vec![0; self.config.chunk_bytes].into_boxed_slice();
        self.chunks.push_back(Chunk { octets, used: 0, newest: now, last_serial: self.next_serial });
    }
}

#[cfg(test)]
mod tests;
