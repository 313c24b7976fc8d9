//! The way of media through the shard, and of keyframe requests back.

use std::time::{Duration, Instant};

use zynk_protocol::{ConnectionState, MediaKind};

use super::{EndpointKey, Shard, SubscriptionKey, TrackKey, deliveries::Arrived};
use crate::{
    connection::{MediaPacket, Mid, Rid},
    endpoint::Endpoint,
    keyframe_cache::CachedPacket,
    media::store::{FrameInfo, PacketInfo},
    track::{OVERHEAD_BYTES_ASSUMED, Origin, Source},
};

/// How often one connection may change the SSRC of what it publishes; each change costs others a keyframe.
const SOURCES_REPLACED_MAX: u32 = 256;

impl Shard {
    /// Takes a publisher's packet, which came on section `section`, and hands it to everyone who receives its track.
    pub(super) fn forward(&mut self, from: EndpointKey, section: usize, mut packet: MediaPacket<'_>) {
        let Some(publisher) = self.endpoints.get_mut(from.0) else { return };
        #[cfg(test)]
        publisher.connection.fail_if_faulty();
        let bytes = u64::try_from(packet.payload.len()).unwrap_or(0);
        publisher.traffic.packets_received += 1;
        publisher.traffic.bytes_received += bytes;
        let Some(key) = publisher.sections.get(section).and_then(|section| section.track) else { return };
        let Some(track) = self.tracks.get_mut(key.0) else { return };
        let Some(index) = track.encoding_index(packet.rid) else { return };
        let Some(encoding) = track.encodings.get_mut(index) else { return };
        let source = encoding.follow(packet.source, packet.sequence);
        encoding.layers.describe(&mut packet);
        self.stats.rtp_packets_received += 1;
        self.stats.rtp_bytes_received += bytes;
        if let Some(level) = packet.extensions.audio_level
            && let Some(room) = self.rooms.get_mut(&publisher.room)
        {
            let level = if track.muted { u8::MAX } else { level.attenuation };
            room.speakers.observe(&track.sid, &publisher.participant, level);
        }
        if let Source::Replaced(replaced) = source
            && replaced != packet.source
            && !track.muted
        {
            publisher.media.upstream.forget_source(replaced);
            publisher.sources_replaced += 1;
            if publisher.sources_replaced > SOURCES_REPLACED_MAX {
                tracing::debug!("a connection that changes its sources without end");
                self.close(from, Some(ConnectionState::Failed));
                return;
            }
        }
        if !track.relays.is_empty() && !track.muted {
            self.relay.push(key, track, index, &packet);
            self.stats.relay_packets_sent += track.relays.len() as u64;
        }
        self.forward_track(key, index, source, &packet);
    }

    /// Queues a packet of encoding `index` of a track for everyone here who receives it.
    pub(super) fn forward_track(
        &mut self,
        key: TrackKey,
        index: usize,
        source: Source,
        packet: &MediaPacket<'_>,
    ) {
        let now = self.now;
        let Some(track) = self.tracks.get_mut(key.0) else { return };
        let Some(encoding) = track.encodings.get_mut(index) else { return };
        encoding.layers.observe(now, packet);
        let highest_layer = encoding.layers.highest(now);
        track.observe(now, index, packet);
        if track.muted {
            return;
        }
        if track.kind == MediaKind::Audio && self.withholds(key, index, packet) {
            return;
        }
        if matches!(source, Source::Replaced(_)) {
            // What came of it before still goes out as its own.
            self.deliver_all();
            self.begin_anew(key, index);
        }
        self.queue(key, index, packet, highest_layer);
    }

    /// An encoding comes from another source from now on.
    fn begin_anew(&mut self, key: TrackKey, encoding: usize) {
        let Some(track) = self.tracks.get_mut(key.0) else { return };
        if let Some(encoding) = track.encodings.get_mut(encoding) {
            encoding.last_video.clear();
        }
        for key in &track.subscribers {
            if let Some(subscription) = self.subscriptions.get_mut(key.0) {
                subscription.follow_encoding(encoding);
            }
        }
    }

    /// Keeps a packet in its track's store and has it delivered to all who receive the track.
    fn queue(&mut self, key: TrackKey, index: usize, packet: &MediaPacket<'_>, highest_layer: u8) {
        let Some(track) = self.tracks.get_mut(key.0) else { return };
        let descriptor = packet.extensions.dependency_descriptor.unwrap_or_default();
        let Some(encoding) = track.encodings.get_mut(index) else { return };
        let info = packet_info(self.now, packet);
        let Ok(handle) = encoding.store.insert(info, descriptor, &packet.payload) else { return };
        if let Some(targets) = packet.targets {
            encoding.targets.push(handle, targets);
        }
        let bytes = packet.payload.len() + OVERHEAD_BYTES_ASSUMED;
        let cached = CachedPacket { handle, head: packet.head(), bytes };
        match track.kind {
            MediaKind::Audio if !packet.payload.is_empty() => {
                encoding.last_audio = Some((handle, cached.head));
            }
            MediaKind::Audio => {}
            MediaKind::Video => encoding.last_video.push(self.now, cached),
        }
        let protectable = track.is_protectable(&self.config);
        let arrived = Arrived { highest_layer, protectable, ..Arrived::new(key, track, index, cached) };
        let (subscriptions, endpoints) = (&self.subscriptions, &self.endpoints);
        let receivers = track.subscribers.iter().filter_map(|key| {
            let subscription = subscriptions.get(key.0).filter(|subscription| subscription.is_flowing())?;
            let receiver = endpoints.get(subscription.subscriber.0)?;
            receiver.media.protection.is_some().then_some((subscription.subscriber, *key))
        });
        self.deliveries.push(arrived, receivers);
    }

    /// A subscriber asks for a keyframe: of what it receives, or of what it is about to receive.
    pub(super) fn handle_keyframe_request(&mut self, from: EndpointKey, mid: Mid) {
        self.stats.keyframe_requests_received += 1;
        let Some(endpoint) = self.endpoints.get_mut(from.0) else { return };
        let sent_before = endpoint.media.downstream.rtt().unwrap_or_default() / 2;
        let Some(key) = endpoint.section(mid).and_then(|section| section.subscription) else { return };
        let Some((source, target)) = self.keyframe_target(key) else { return };
        self.want_keyframe(source, target, sent_before);
    }

    /// Asks the publisher for a keyframe of what a subscription should receive, if what the settings ask for needs one:
    /// less quality in one stream does not.
    pub(super) fn want_keyframe_for_settings(&mut self, key: SubscriptionKey) {
        let needed = || {
            let subscription = self.subscriptions.get(key.0)?;
            let track = self.tracks.get(subscription.source?.0)?;
            let highest = match track.encodings.as_slice() {
                [single] => single.layers.highest(self.now),
                _ => 0,
            };
            Some(subscription.wants_keyframe(&track.active(), highest))
        };
        if needed().unwrap_or(false) {
            self.want_keyframe_for(key);
        }
    }

    /// Has a subscription get a keyframe of the encoding that it should receive: one that came lately, or one that the
    /// publisher is asked for.
    pub(super) fn want_keyframe_for(&mut self, key: SubscriptionKey) {
        if let Some((source, target)) = self.keyframe_target(key)
            && !self.begin_from_cache(key, target)
        {
            self.want_keyframe(source, target, Duration::ZERO);
        }
    }

    /// The track and the encoding of which a subscription needs keyframes, if it can receive any.
    fn keyframe_target(&self, key: SubscriptionKey) -> Option<(TrackKey, usize)> {
        let subscription = self.subscriptions.get(key.0)?;
        let source = subscription.source.filter(|_| subscription.is_flowing())?;
        // A keyframe that comes before the connection does is lost, and holds up the next request.
        let receives = |endpoint: &Endpoint| endpoint.connection.is_connected();
        self.endpoints.get(subscription.subscriber.0).filter(|endpoint| receives(endpoint))?;
        let active = self.tracks.get(source.0)?.active();
        Some((source, subscription.target_encoding(&active)?))
    }

    /// Asks for a keyframe of an encoding, for a wish that was uttered so long ago.
    pub(super) fn want_keyframe(&mut self, key: TrackKey, encoding: usize, sent_before: Duration) {
        let now = self.now;
        let Some(track) = self.tracks.get_mut(key.0) else { return };
        let publisher = track.publisher().and_then(|publisher| self.endpoints.get(publisher.0));
        let rtt = publisher.and_then(|publisher| publisher.media.rtt());
        if track.want_keyframe(now, encoding, rtt, sent_before) {
            self.request_keyframe(key, encoding, sent_before);
        }
    }

    /// Passes a wish on: to the publisher, or to the shard that has it.
    pub(super) fn request_keyframe(&mut self, key: TrackKey, encoding: usize, sent_before: Duration) {
        let Some(track) = self.tracks.get(key.0) else { return };
        match &track.origin {
            Origin::Publisher { endpoint, mid } => {
                let rid = track.encodings.get(encoding).and_then(|encoding| encoding.rid);
                let (publisher, mid) = (*endpoint, *mid);
                self.send_keyframe_request(publisher, mid, rid);
            }
            Origin::Relay(origin) => self.relay.want_keyframe(origin, encoding, sent_before),
        }
    }

    /// Losses of what a publisher sends in a section are such that only a keyframe makes them good.
    pub(super) fn want_keyframe_from(&mut self, publisher: EndpointKey, section: usize, rid: Option<Rid>) {
        let track =
            self.endpoints.get(publisher.0).and_then(|endpoint| endpoint.sections.get(section)?.track);
        let Some(key) = track else { return };
        let Some(track) = self.tracks.get(key.0).filter(|track| !track.muted && track.is_received()) else {
            return;
        };
        if let Some(index) = track.encoding_index(rid) {
            self.want_keyframe(key, index, Duration::ZERO);
        }
    }

    fn send_keyframe_request(&mut self, publisher: EndpointKey, mid: Mid, rid: Option<Rid>) {
        let Some(endpoint) = self.endpoints.get_mut(publisher.0) else { return };
        let section = endpoint.sections.iter().position(|section| section.mid == mid);
        let Some(source) = section.and_then(|section| endpoint.media.upstream.source_of(section, rid)) else {
            return;
        };
        if !endpoint.media.keyframes_wanted.contains(&source) {
            endpoint.media.keyframes_wanted.push(source);
            self.stats.keyframe_requests_sent += 1;
            self.mark_media(publisher);
        }
    }
}

/// What is kept of a packet.
fn packet_info(now: Instant, packet: &MediaPacket<'_>) -> PacketInfo {
    PacketInfo {
        sequence: packet.sequence,
        timestamp: packet.timestamp,
        marker: packet.marker,
        frame: FrameInfo {
            keyframe: packet.keyframe,
            first: packet.keyframe,
            spatial: packet.layer.map_or(0, |layer| layer.spatial),
            temporal: 0,
        },
        arrived: now,
        audio_level: packet.extensions.audio_level,
        orientation: packet.extensions.orientation,
        playout_delay: packet.extensions.playout_delay,
        capture_time: packet.extensions.capture_time,
    }
}
