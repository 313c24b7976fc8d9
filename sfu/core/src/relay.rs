//! What shards of one node say to each other about a room that is spread over several of them.
//!
//! ```text
//!   shard that has subscribers               shard that has the publisher
//!      Want { track }          ─────────────►  kept until the track is there
//!                              ◄─────────────  Started { link, … }, Muted, Clock, Stopped
//!      Flow { link, on }       ─────────────►
//!                              ◄─────────────  packets, each once, however many receive them
//!      Keyframe { link, … }    ─────────────►
//! ```
//! A batch keeps the order of what was put into it, and batches of one shard to another come in the order in which they
//! left. Packets may get lost on the way, and so may words that are repeated anyway; others may not, or the two sides
//! would disagree for good.

use std::time::Duration;

use rustc_hash::FxHashSet;
use zynk_protocol::{BackupUse, MediaKind, MimeType, ParticipantSid, RoomSid, TrackSid, TrackSource};

use crate::{
    connection::{MediaPacket, PayloadFormat, PictureIds, Rid},
    dependency_descriptor::DecodeTargets,
    layers::Layer,
    media::extensions::{AudioLevel, CaptureTime, Extensions, PlayoutDelay, VideoOrientation},
    temporal::TemporalLayer,
    track::PublisherClock,
};

/// Names a track to those whom the shard that has it told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TrackLink {
    /// Its index in that shard.
    pub(crate) index: u32,
    /// Tells it from another that had the index before; see [`crate::track::Track::serial`].
    pub(crate) serial: u32,
}

/// Something that is not media.
#[derive(Clone, Debug)]
pub(crate) enum RelayWord {
    /// The sender takes part in the room from here on: it is to be told what is wanted of it.
    Joined { room: RoomSid },
    /// The sender has subscriptions to a track that it does not have.
    Want { room: RoomSid, track: TrackSid },
    /// It has none any more. Nothing flows after that.
    Unwant { room: RoomSid, track: TrackSid },
    /// A track that is wanted is there.
    Started(Box<RelayedTrack>),
    /// It has ended.
    Stopped { link: TrackLink },
    /// Its publisher muted or unmuted it.
    Muted { link: TrackLink, muted: bool },
    /// What the publisher's report said of the clock of one encoding.
    Clock { link: TrackLink, encoding: u8, clock: PublisherClock },
    /// Packets of the track are to be sent to the one who says so, or not any more.
    Flow { link: TrackLink, on: bool },
    /// Somebody needs a keyframe of an encoding, and said so that long ago.
    Keyframe { link: TrackLink, encoding: u8, sent_before: Duration },
}

impl RelayWord {
    /// Whether it is repeated by itself: clocks with the next report, wishes for keyframes until there is one.
    fn is_repeated(&self) -> bool {
        matches!(self, Self::Clock { .. } | Self::Keyframe { .. })
    }

    /// What it speaks of. A later word about the same takes the place of an earlier one.
    fn subject(&self) -> Subject {
        match self {
            Self::Joined { room } => Subject::Room(room.clone()),
            Self::Want { track, .. } | Self::Unwant { track, .. } => Subject::Wish(track.clone()),
            Self::Started(track) => Subject::Life(track.link),
            Self::Stopped { link } => Subject::Life(*link),
            Self::Muted { link, .. } => Subject::Mute(*link),
            Self::Flow { link, .. } => Subject::Flow(*link),
            Self::Clock { link, encoding, .. } => Subject::Clock(*link, *encoding),
            Self::Keyframe { link, encoding, .. } => Subject::Keyframe(*link, *encoding),
        }
    }

    /// Octets of memory that it takes.
    fn bytes(&self) -> usize {
        size_of::<RelayEntry>() + if matches!(self, Self::Started(_)) { size_of::<RelayedTrack>() } else { 0 }
    }
}

/// See [`RelayWord::subject`].
#[derive(Debug, PartialEq, Eq, Hash)]
enum Subject {
    Room(RoomSid),
    Wish(TrackSid),
    Life(TrackLink),
    Mute(TrackLink),
    Flow(TrackLink),
    Clock(TrackLink, u8),
    Keyframe(TrackLink, u8),
}

/// A track of another shard.
#[derive(Clone, Debug)]
pub(crate) struct RelayedTrack {
    pub(crate) room: RoomSid,
    pub(crate) sid: TrackSid,
    pub(crate) link: TrackLink,
    pub(crate) kind: MediaKind,
    pub(crate) source: TrackSource,
    /// Whose it is.
    pub(crate) participant: ParticipantSid,
    /// Of its encodings, lowest first; a single one has none.
    pub(crate) rids: Vec<Option<Rid>>,
    /// The codec that the publisher was asked for.
    pub(crate) codec: Option<MimeType>,
    /// The format that the publisher is going to send.
    pub(crate) format: Option<PayloadFormat>,
    pub(crate) muted: bool,
    /// From end to end.
    pub(crate) encrypted: bool,
    /// Set if this is the second codec of the track of that id.
    pub(crate) usage: Option<BackupUse>,
}

/// A publisher's packet, without the octets: those are in the batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RelayedPacket {
    pub(crate) link: TrackLink,
    pub(crate) encoding: u8,
    format: PayloadFormat,
    source: u32,
    sequence: u64,
    timestamp: u32,
    marker: bool,
    keyframe: bool,
    ids: Option<PictureIds>,
    layer: Option<Layer>,
    temporal: Option<TemporalLayer>,
    layers: Option<u8>,
    targets: Option<DecodeTargets>,
    audio_level: Option<AudioLevel>,
    orientation: Option<VideoOrientation>,
    playout_delay: Option<PlayoutDelay>,
    capture_time: Option<CaptureTime>,
    /// Where in the arena: the descriptor, then the payload.
    at: u32,
    descriptor_bytes: u16,
    payload_bytes: u16,
}

/// One thing that a batch says.
#[derive(Clone, Debug)]
pub(crate) enum RelayEntry {
    Word(RelayWord),
    Packet(RelayedPacket),
}

/// Words and packets from one shard to another, in order.
///
/// A shell that cannot deliver a batch calls [`RelayBatch::drop_media`], and puts what is left in front of the next with
/// [`RelayBatch::append`].
#[derive(Clone, Debug, Default)]
pub struct RelayBatch {
    entries: Vec<RelayEntry>,
    arena: Vec<u8>,
    packets: usize,
    bytes: usize,
}

/// When so many words are kept, those that later ones replace are left out: what remains is bounded by the rooms, tracks
/// and subscriptions that there are.
const WORDS_MAX: usize = 1024;

impl RelayBatch {
    /// Octets of memory that it takes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Packets in it.
    pub fn packets(&self) -> usize {
        self.packets
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Leaves out the packets, and the words that are repeated anyway. Returns how many packets there were.
    pub fn drop_media(&mut self) -> usize {
        self.entries.retain(|entry| matches!(entry, RelayEntry::Word(word) if !word.is_repeated()));
        self.arena = Vec::new();
        self.bytes = self.words().map(RelayWord::bytes).sum();
        if self.entries.len() > WORDS_MAX {
            self.forget_replaced();
        }
        std::mem::take(&mut self.packets)
    }

    /// Adds what another batch of the same shard to the same shard says after this one.
    pub fn append(&mut self, mut later: Self) {
        let moved = u32::try_from(self.arena.len()).unwrap_or(u32::MAX);
        for entry in &mut later.entries {
            if let RelayEntry::Packet(packet) = entry {
                packet.at = packet.at.saturating_add(moved);
            }
        }
        self.entries.append(&mut later.entries);
        self.arena.append(&mut later.arena);
        self.packets += later.packets;
        self.bytes += later.bytes;
    }

    /// Leaves out words that later ones about the same replace.
    fn forget_replaced(&mut self) {
        let mut said = FxHashSet::default();
        let is_last = |entry: &RelayEntry| match entry {
            RelayEntry::Word(word) => said.insert(word.subject()),
            RelayEntry::Packet(_) => true,
        };
        let mut kept: Vec<RelayEntry> = self.entries.drain(..).rev().filter(is_last).collect();
        kept.reverse();
        self.entries = kept;
        self.bytes = self.words().map(RelayWord::bytes).sum();
    }

    fn words(&self) -> impl Iterator<Item = &RelayWord> {
        self.entries.iter().filter_map(|entry| match entry {
            RelayEntry::Word(word) => Some(word),
            RelayEntry::Packet(_) => None,
        })
    }

    pub(crate) fn say(&mut self, word: RelayWord) {
        self.bytes += word.bytes();
        self.entries.push(RelayEntry::Word(word));
    }

    /// Adds a packet of encoding `encoding` of a track, with all that was read from it.
    pub(crate) fn push(&mut self, link: TrackLink, encoding: u8, packet: &MediaPacket<'_>) {
        let descriptor = packet.extensions.dependency_descriptor.unwrap_or_default();
        let lengths = (u16::try_from(descriptor.len()), u16::try_from(packet.payload.len()));
        let (Ok(descriptor_bytes), Ok(payload_bytes)) = lengths else { return };
        let Ok(at) = u32::try_from(self.arena.len()) else { return };
        self.arena.extend_from_slice(descriptor);
        self.arena.extend_from_slice(&packet.payload);
        self.packets += 1;
        self.bytes += size_of::<RelayEntry>() + descriptor.len() + packet.payload.len();
        self.entries.push(RelayEntry::Packet(RelayedPacket {
            link,
            encoding,
            format: packet.format,
            source: packet.source,
            sequence: packet.sequence,
            timestamp: packet.timestamp,
            marker: packet.marker,
            keyframe: packet.keyframe,
            ids: packet.ids,
            layer: packet.layer,
            temporal: packet.temporal,
            layers: packet.layers,
            targets: packet.targets,
            audio_level: packet.extensions.audio_level,
            orientation: packet.extensions.orientation,
            playout_delay: packet.extensions.playout_delay,
            capture_time: packet.extensions.capture_time,
            at,
            descriptor_bytes,
            payload_bytes,
        }));
    }

    /// What it says, in order.
    pub(crate) fn entries(&self) -> &[RelayEntry] {
        &self.entries
    }

    /// The packet of an entry.
    pub(crate) fn media(&self, packet: &RelayedPacket) -> Option<MediaPacket<'_>> {
        let octets = self.arena.get(packet.at as usize..)?;
        let (descriptor, rest) = octets.split_at_checked(usize::from(packet.descriptor_bytes))?;
        let payload = rest.get(..usize::from(packet.payload_bytes))?;
        let extensions = Extensions {
            capture_time: packet.capture_time,
            audio_level: packet.audio_level,
            orientation: packet.orientation,
            playout_delay: packet.playout_delay,
            dependency_descriptor: Some(descriptor).filter(|descriptor| !descriptor.is_empty()),
            ..Extensions::default()
        };
        Some(MediaPacket {
            rid: None,
            format: packet.format,
            source: packet.source,
            sequence: packet.sequence,
            timestamp: packet.timestamp,
            marker: packet.marker,
            payload: payload.into(),
            extensions,
            keyframe: packet.keyframe,
            ids: packet.ids,
            layer: packet.layer,
            temporal: packet.temporal,
            layers: packet.layers,
            targets: packet.targets,
        })
    }
}

#[cfg(test)]
mod tests;
