//! A published track: its encodings, who receives it and when its publisher was last asked for a keyframe.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use zynk_protocol::{BackupUse, MediaKind, MimeType, ParticipantSid, RoomSid, TrackSid, TrackSource};

use crate::{
    ShardConfig, ShardIndex,
    connection::{MediaPacket, Mid, PacketHead, PayloadFormat, Rid},
    dependency_descriptor::DecodeTargets,
    keyframe_cache::KeyframeCache,
    layer_rates::LayerRates,
    layers::StreamLayers,
    loudest::Loudness,
    media::{
        egress::NtpTime,
        keyframes::KeyframeRequests,
        receiver::{LAYERS_MAX, LayerActivity},
        store::{PacketHandle, PacketStore, StoreConfig},
    },
    relay::TrackLink,
    shard::{EndpointKey, SubscriptionKey, TrackKey},
};

/// A packet that comes so much too late is none of the running stream's (RFC 3550, appendix A.1:
/// MAX_DROPOUT).
const SEQUENCE_STEP_BACK_MAX: u64 = 3000;

/// With more subscribers of a track, somebody needs a keyframe at any time.
const SUBSCRIBERS_MANY: usize = 20;

/// Taken for what header, extensions and tag add to a payload.
pub(crate) const OVERHEAD_BYTES_ASSUMED: usize = 40;

/// A track whose section has been negotiated.
#[derive(Debug)]
pub(crate) struct Track {
    pub(crate) sid: TrackSid,
    /// Tells the track from another that got its key later.
    pub(crate) serial: u32,
    pub(crate) origin: Origin,
    pub(crate) kind: MediaKind,
    pub(crate) source: TrackSource,
    /// Whose it is.
    pub(crate) participant: ParticipantSid,
    /// Lowest first, at most [`LAYERS_MAX`]; one for a track without simulcast.
    pub(crate) encodings: Vec<Encoding>,
    /// Which of them are being sent.
    pub(crate) activity: LayerActivity,
    pub(crate) subscribers: Vec<SubscriptionKey>,
    /// Other shards that have subscribers, of a track that has its publisher here.
    pub(crate) relays: Vec<ShardIndex>,
    pub(crate) muted: bool,
    /// How loud it is; none as long as nothing says so.
    pub(crate) loudness: Option<Loudness>,
    /// From end to end.
    pub(crate) encrypted: bool,
    /// The codec that the publisher was asked for.
    pub(crate) codec: Option<MimeType>,
    /// The same track in another codec.
    pub(crate) backup: Option<TrackKey>,
    /// Set if this is such another codec.
    pub(crate) usage: Option<BackupUse>,
}

/// Where a track's packets come from.
#[derive(Debug)]
pub(crate) enum Origin {
    /// A connection of this shard, in one of its sections.
    Publisher { endpoint: EndpointKey, mid: Mid },
    /// The shard that has the publisher.
    Relay(RelayOrigin),
}

/// See [`Origin::Relay`].
#[derive(Debug)]
pub(crate) struct RelayOrigin {
    pub(crate) shard: ShardIndex,
    /// What it calls the track.
    pub(crate) link: TrackLink,
    pub(crate) room: RoomSid,
    /// The format that the publisher is going to send.
    pub(crate) format: Option<PayloadFormat>,
    /// It has been told to send packets.
    pub(crate) flowing: bool,
}

/// One stream of a track.
#[derive(Debug)]
pub(crate) struct Encoding {
    pub(crate) rid: Option<Rid>,
    pub(crate) layers: StreamLayers,
    /// What its layers take, of video.
    pub(crate) rates: Option<Box<LayerRates>>,
    /// Its packets, once for all who receive them.
    pub(crate) store: PacketStore,
    /// What came last, of audio: who begins to receive it begins with that.
    pub(crate) last_audio: Option<(PacketHandle, PacketHead)>,
    /// What came last, of video: same, if that is a keyframe or lately was one.
    pub(crate) last_video: KeyframeCache,
    /// What their dependency descriptors say of decode targets.
    pub(crate) targets: TargetHistory,
    /// What the last report of the running source said of its clock.
    clock: Option<PublisherClock>,
    /// Who sends it, and the highest number that came.
    source: Option<(u32, u64)>,
    /// Of the newest frame.
    timestamp: Option<u32>,
    keyframes: KeyframeRequests,
}

/// What a publisher's clock of timestamps read at a time: its sender report (RFC 3550, section 6.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PublisherClock {
    /// The SSRC that it is of.
    pub(crate) source: u32,
    /// On our clock.
    pub(crate) ntp: NtpTime,
    pub(crate) rtp: u32,
}

/// Which encodings of a track are being sent, lowest first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ActiveEncodings {
    flags: [bool; LAYERS_MAX],
    count: usize,
}

impl std::ops::Deref for ActiveEncodings {
    type Target = [bool];

    fn deref(&self) -> &[bool] {
        self.flags.get(..self.count).unwrap_or(&self.flags)
    }
}

/// Descriptors whose decode targets are known; older ones go out as they came. As many packets as a subscriber
/// may ask for again.
const TARGETS_MAX: usize = 512;

/// The decode targets of the last packets that had any.
#[derive(Debug, Default)]
pub(crate) struct TargetHistory(VecDeque<(PacketHandle, DecodeTargets)>);

impl TargetHistory {
    pub(crate) fn push(&mut self, handle: PacketHandle, targets: DecodeTargets) {
        if self.0.len() >= TARGETS_MAX {
            self.0.pop_front();
        }
        self.0.push_back((handle, targets));
    }

    /// Those of a packet; the newest are found first.
    pub(crate) fn get(&self, handle: PacketHandle) -> Option<DecodeTargets> {
        self.0.iter().rev().find(|(known, _)| *known == handle).map(|(_, targets)| *targets)
    }
}

/// Whose packet came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The first of an encoding, or the same source's as before.
    Known,
    /// That of a source that begins anew, in place of this one.
    Replaced(u32),
}

impl Encoding {
    pub(crate) fn new(kind: MediaKind, rid: Option<Rid>) -> Self {
        let store = match kind {
            MediaKind::Audio => StoreConfig::AUDIO,
            MediaKind::Video => StoreConfig::VIDEO,
        };
        Self {
            rid,
            layers: StreamLayers::default(),
            rates: (kind == MediaKind::Video).then(Box::default),
            store: PacketStore::new(store),
            last_audio: None,
            last_video: KeyframeCache::default(),
            targets: TargetHistory::default(),
            clock: None,
            source: None,
            timestamp: None,
            keyframes: KeyframeRequests::default(),
        }
    }

    /// Follows the encoding from source to source: a publisher's restart changes its SSRC or takes its
    /// sequence numbers back.
    pub(crate) fn follow(&mut self, source: u32, sequence: u64) -> Source {
        match self.source {
            Some((known, highest))
                if known != source || sequence.saturating_add(SEQUENCE_STEP_BACK_MAX) < highest =>
            {
                self.source = Some((source, sequence));
                self.clock = None;
                Source::Replaced(known)
            }
            known => {
                let highest = known.map_or(sequence, |(_, highest)| highest.max(sequence));
                self.source = Some((source, highest));
                Source::Known
            }
        }
    }

    /// What the running source's last report said of its clock.
    pub(crate) fn clock(&self) -> Option<PublisherClock> {
        self.clock.filter(|clock| self.source.is_none_or(|(source, _)| source == clock.source))
    }

    /// A report told a source's clock. False if another source runs.
    pub(crate) fn set_clock(&mut self, clock: PublisherClock) -> bool {
        let runs = self.source.is_none_or(|(source, _)| source == clock.source);
        if runs {
            self.clock = Some(clock);
        }
        runs
    }
}

impl Track {
    /// A packet of encoding `index` came: notes what it says of which encodings are being sent. While one of them is,
    /// its packets tell when others have stopped; when none is, there is nothing to change to.
    pub(crate) fn observe(&mut self, now: Instant, index: usize, packet: &MediaPacket<'_>) {
        let Some(encoding) = self.encodings.get_mut(index) else { return };
        if packet.keyframe {
            encoding.keyframes.on_keyframe(now);
        }
        let begins_frame = encoding.timestamp != Some(packet.timestamp);
        if let Some(rates) = &mut encoding.rates {
            let layers =
                (packet.layer.map_or(0, |layer| layer.spatial), packet.temporal.map_or(0, |layer| layer.id));
            rates.on_packet(now, layers, packet.payload.len() + OVERHEAD_BYTES_ASSUMED, begins_frame);
        }
        // Padding has no payload and is no frame.
        if packet.payload.is_empty() || !begins_frame {
            return;
        }
        encoding.timestamp = Some(packet.timestamp);
        self.activity.on_frame(now, index);
        while self.activity.poll(now).is_some() {}
    }

    /// Which encodings are being sent. A track with a single one is always taken for active.
    pub(crate) fn active(&self) -> ActiveEncodings {
        let single = self.encodings.len() == 1;
        let flags = std::array::from_fn(|index| single || self.activity.is_active(index));
        ActiveEncodings { flags, count: self.encodings.len() }
    }

    /// Whether its packets may go out with earlier payloads. Not those that are encrypted from end to end: receivers decrypt a
    /// payload as a whole, before they look for those in it.
    pub(crate) fn is_protectable(&self, config: &ShardConfig) -> bool {
        config.protect_audio && self.kind == MediaKind::Audio && !self.encrypted
    }

    /// The connection that publishes it, if that is one of this shard.
    pub(crate) fn publisher(&self) -> Option<EndpointKey> {
        match &self.origin {
            Origin::Publisher { endpoint, .. } => Some(*endpoint),
            Origin::Relay(_) => None,
        }
    }

    /// Whether anybody receives it, here or in another shard.
    pub(crate) fn is_received(&self) -> bool {
        !self.subscribers.is_empty() || !self.relays.is_empty()
    }

    /// Whether any media of it has come.
    pub(crate) fn has_begun(&self) -> bool {
        self.encodings.iter().any(|encoding| encoding.timestamp.is_some())
    }

    /// The number of the encoding that carries `rid`.
    pub(crate) fn encoding_index(&self, rid: Option<Rid>) -> Option<usize> {
        match rid {
            None if self.encodings.len() == 1 => Some(0),
            None => None,
            Some(_) => self.encodings.iter().position(|encoding| encoding.rid == rid),
        }
    }

    /// Notes that somebody needs a keyframe of an encoding; see [`KeyframeRequests::want`]. True if the publisher is to
    /// be asked now.
    pub(crate) fn want_keyframe(
        &mut self,
        now: Instant,
        index: usize,
        publisher_rtt: Option<Duration>,
        sent_before: Duration,
    ) -> bool {
        let Some(encoding) = self.encodings.get_mut(index).filter(|_| self.kind == MediaKind::Video) else {
            return false;
        };
        if let Some(rtt) = publisher_rtt {
            encoding.keyframes.set_rtt(rtt);
        }
        // Of those in another shard, each sums up many.
        let receivers = self.subscribers.len() + self.relays.len() * SUBSCRIBERS_MANY;
        encoding.keyframes.set_many(receivers > SUBSCRIBERS_MANY);
        encoding.keyframes.want(now, sent_before)
    }

    /// Encodings whose keyframe is overdue, to be asked for again: none where nobody would see it.
    pub(crate) fn overdue_keyframes(&mut self, now: Instant) -> Vec<usize> {
        if self.muted || !self.is_received() {
            self.encodings.iter_mut().for_each(|encoding| encoding.keyframes.forget());
            return Vec::new();
        }
        let overdue = self
            .encodings
            .iter_mut()
            .enumerate()
            .filter_map(|(index, encoding)| encoding.keyframes.poll(now).then_some(index));
        overdue.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_begins_anew_is_noticed() {
        let mut encoding = Encoding::new(MediaKind::Video, None);
        assert_eq!(encoding.follow(1, 70_000), Source::Known);
        assert_eq!(encoding.follow(1, 70_500), Source::Known);
        assert_eq!(encoding.follow(1, 69_900), Source::Known, "late, of the same stream");
        assert_eq!(encoding.follow(2, 70_501), Source::Replaced(1));
        assert_eq!(encoding.follow(2, 50), Source::Replaced(2), "the same SSRC from the start");
        assert_eq!(encoding.follow(2, 51), Source::Known);
    }

    #[test]
    fn a_clock_counts_as_long_as_its_source_runs() {
        let mut encoding = Encoding::new(MediaKind::Video, None);
        let clock = |source| PublisherClock { source, ntp: NtpTime(1), rtp: 1 };
        assert!(encoding.set_clock(clock(1)), "told by another shard before the first packet");
        encoding.follow(1, 100);
        assert_eq!(encoding.clock(), Some(clock(1)));
        assert!(!encoding.set_clock(clock(2)), "of another source");
        encoding.follow(2, 100);
        assert_eq!(encoding.clock(), None);
        assert!(!encoding.set_clock(clock(1)), "a report that comes late");
        assert!(encoding.set_clock(clock(2)));
        assert_eq!(encoding.clock(), Some(clock(2)));
    }
}
