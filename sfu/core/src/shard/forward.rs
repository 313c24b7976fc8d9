//! The way of media through the shard, and of keyframe requests back.

use std::panic::{AssertUnwindSafe, catch_unwind};

use zynk_protocol::ConnectionState;

use super::{EndpointKey, Shard, SubscriptionKey, TrackKey};
use crate::{
    connection::{MediaPacket, Mid, Rid},
    endpoint::Endpoint,
    forwarder::Arrival,
    selector::Selector,
    track::Source,
};

/// How often one connection may change the SSRC of what it publishes; each change costs others a keyframe.
const SOURCES_REPLACED_MAX: u32 = 256;

impl Shard {
    /// Sends a publisher's packet to everyone who receives its track.
    pub(super) fn forward(&mut self, from: EndpointKey, mut packet: MediaPacket) {
        let now = self.now;
        let Some(publisher) = self.endpoints.get_mut(from.0) else { return };
        let bytes = u64::try_from(packet.payload.len()).unwrap_or(0);
        publisher.traffic.packets_received += 1;
        publisher.traffic.bytes_received += bytes;
        let Some(key) = publisher.section(packet.mid).and_then(|section| section.track) else { return };
        let Some(track) = self.tracks.get_mut(key.0) else { return };
        let Some(index) = track.encoding_index(packet.rid) else { return };
        let Some(encoding) = track.encodings.get_mut(index) else { return };
        let source = encoding.follow(packet.source, packet.sequence);
        encoding.observe(now, packet.keyframe);
        encoding.layers.observe(now, &mut packet);
        let highest_layer = encoding.layers.highest(now);
        self.stats.rtp_packets_received += 1;
        self.stats.rtp_bytes_received += bytes;
        if let Some(level) = packet.extensions.audio_level()
            && let Some(room) = self.rooms.get_mut(&publisher.room)
        {
            let level = if track.muted { u8::MAX } else { level };
            room.speakers.observe(&track.sid, &publisher.participant, level);
        }
        if track.muted {
            return;
        }
        if let Source::Replaced(replaced) = source {
            if replaced != packet.source {
                publisher.connection.forget_source(replaced);
                publisher.sources_replaced += 1;
            }
            for key in &track.subscribers {
                if let Some(subscription) = self.subscriptions.get_mut(key.0) {
                    subscription.follow_encoding(index);
                }
            }
        }
        if publisher.sources_replaced > SOURCES_REPLACED_MAX {
            tracing::debug!("a connection that changes its sources without end");
            self.close(from, Some(ConnectionState::Failed));
            return;
        }
        let active = track.active(now);
        let arrival =
            Arrival { kind: track.kind, packet: &packet, encoding: index, active: &active, highest_layer };
        let mut keyframes = Vec::new();
        let mut unsupported = Vec::new();
        let mut faulty = Vec::new();
        for subscription_key in &track.subscribers {
            let Some(subscription) = self.subscriptions.get_mut(subscription_key.0) else { continue };
            if !subscription.is_flowing() {
                continue;
            }
            let receiver_key = subscription.subscriber;
            let Some(receiver) = self.endpoints.get_mut(receiver_key.0) else { continue };
            if !receiver.connection.is_connected() {
                continue;
            }
            let forward = || subscription.forward(now, arrival, &mut receiver.connection);
            let Ok(outcome) = catch_unwind(AssertUnwindSafe(forward)) else {
                faulty.push(receiver_key);
                continue;
            };
            if let Some(encoding) = outcome.keyframe
                && !keyframes.contains(&encoding)
            {
                keyframes.push(encoding);
            }
            if outcome.unsupported {
                unsupported.push(*subscription_key);
            }
            let Some(sent_bytes) = outcome.sent_bytes else { continue };
            let sent_bytes = u64::try_from(sent_bytes).unwrap_or(0);
            receiver.traffic.packets_sent += 1;
            receiver.traffic.bytes_sent += sent_bytes;
            self.stats.rtp_packets_sent += 1;
            self.stats.rtp_bytes_sent += sent_bytes;
            if !receiver.dirty {
                receiver.dirty = true;
                self.dirty.push(receiver_key);
            }
        }
        for receiver in faulty {
            self.end_faulty(receiver);
        }
        for encoding in keyframes {
            self.want_keyframe(key, encoding);
        }
        for subscription in unsupported {
            self.replace_source(subscription);
        }
    }

    /// A subscriber asks for a keyframe: of what it receives, or of what it is about to receive.
    pub(super) fn handle_keyframe_request(&mut self, from: EndpointKey, mid: Mid) {
        self.stats.keyframe_requests_received += 1;
        let Some(subscription) =
            self.endpoints.get_mut(from.0).and_then(|endpoint| endpoint.section(mid)?.subscription)
        else {
            return;
        };
        self.want_keyframe_for(subscription);
    }

    /// Asks for keyframes of everything a connection receives: it has just come up.
    pub(super) fn request_missing_keyframes(&mut self, key: EndpointKey) {
        let Some(endpoint) = self.endpoints.get(key.0) else { return };
        for subscription in endpoint.order.clone() {
            self.want_keyframe_for(subscription);
        }
    }

    /// Same, if what the settings ask for needs one: less quality in one stream does not.
    pub(super) fn want_keyframe_for_settings(&mut self, key: SubscriptionKey) {
        let needed = || {
            let subscription = self.subscriptions.get(key.0)?;
            let track = self.tracks.get(subscription.source?.0)?;
            let highest = match track.encodings.as_slice() {
                [single] => single.layers.highest(self.now),
                _ => 0,
            };
            Some(subscription.wants_keyframe(&track.active(self.now), highest))
        };
        if needed().unwrap_or(false) {
            self.want_keyframe_for(key);
        }
    }

    /// Asks the publisher for a keyframe of the encoding that a subscription should receive.
    pub(super) fn want_keyframe_for(&mut self, key: SubscriptionKey) {
        let Some(subscription) = self.subscriptions.get(key.0) else { return };
        let Some(source) = subscription.source.filter(|_| subscription.is_flowing()) else { return };
        // A keyframe that comes before the connection does is lost, and holds up the next request.
        let receives = |endpoint: &Endpoint| endpoint.connection.is_connected();
        if !self.endpoints.get(subscription.subscriber.0).is_some_and(receives) {
            return;
        }
        let Some(track) = self.tracks.get(source.0) else { return };
        let active = track.active(self.now);
        if let Some(target) = Selector::target(&active, subscription.settings.quality) {
            self.want_keyframe(source, target);
        }
    }

    fn want_keyframe(&mut self, key: TrackKey, encoding: usize) {
        let now = self.now;
        let Some(track) = self.tracks.get_mut(key.0) else { return };
        if track.want_keyframe(now, encoding) {
            let rid = track.encodings.get(encoding).and_then(|encoding| encoding.rid);
            let (publisher, mid) = (track.publisher, track.mid);
            self.send_keyframe_request(publisher, mid, rid);
        }
    }

    pub(super) fn send_keyframe_request(&mut self, publisher: EndpointKey, mid: Mid, rid: Option<Rid>) {
        let asked = self.guard(publisher, |endpoint| endpoint.connection.request_keyframe(mid, rid));
        if asked == Some(true) {
            self.stats.keyframe_requests_sent += 1;
            self.mark_dirty(publisher);
        }
    }
}
