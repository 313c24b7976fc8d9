//! What a subscription begins with: what came last, so that nobody need wait for more.

use std::{
    iter,
    time::{Duration, Instant},
};

use super::{EndpointKey, Shard, SubscriptionKey, TrackKey, deliveries::Arrived};
use crate::{
    downstream::Capacity,
    endpoint::Endpoint,
    forwarder::Subscription,
    keyframe_cache::{CachedPacket, CatchUp},
    media::bitrate::Bitrate,
    track::{OVERHEAD_BYTES_ASSUMED, Track},
};

/// Older audio is not what a subscription begins with: it would take the receiver's jitter buffer for that much longer.
/// The longest packets in use (ptime) are of 60 ms.
const LAST_AUDIO_AGE_MAX: Duration = Duration::from_millis(60);

/// What keyframe caches hold is sent if it takes the receiver's path no longer than this, with what it was sent of them within
/// as much time.
const CATCH_UP_TIME_MAX: Duration = Duration::from_millis(500);
/// Taken for what a path carries about which its client says nothing.
const UNKNOWN_PATH: Bitrate = Bitrate::kbps(5000);

/// What a connection was lately sent from keyframe caches.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CaughtUp {
    since: Option<Instant>,
    bytes: u32,
}

impl CaughtUp {
    fn bytes(self, now: Instant) -> usize {
        let recent = self.since.is_some_and(|since| now.saturating_duration_since(since) < CATCH_UP_TIME_MAX);
        if recent { self.bytes as usize } else { 0 }
    }

    fn add(&mut self, now: Instant, bytes: usize) {
        let before = self.bytes(now);
        if before == 0 {
            self.since = Some(now);
        }
        self.bytes = u32::try_from(before.saturating_add(bytes)).unwrap_or(u32::MAX);
    }
}

/// A subscription that can receive its track.
struct Beginning<'a> {
    subscription: &'a Subscription,
    track_key: TrackKey,
    track: &'a Track,
    receiver: &'a Endpoint,
}

impl Shard {
    /// A subscription can be served from now on.
    pub(super) fn start(&mut self, key: SubscriptionKey) {
        self.expect_first_media(key);
        if let Some(subscription) = self.subscriptions.get(key.0) {
            self.allocate(subscription.subscriber);
        }
        self.begin_media(key);
    }

    /// Audio begins with what came last, so that the receiver need not wait for the publisher's next packet; video begins
    /// with a keyframe that came lately, or one that is asked for.
    fn begin_media(&mut self, key: SubscriptionKey) {
        if let Some((arrived, receiver)) = self.last_audio_for(key) {
            self.deliveries.push(arrived, iter::once((receiver, key)));
        }
        self.want_keyframe_for(key);
    }

    fn last_audio_for(&self, key: SubscriptionKey) -> Option<(Arrived, EndpointKey)> {
        let Beginning { subscription, track_key, track, .. } = self.beginning(key)?;
        let (encoding, (handle, head)) =
            track.encodings.iter().enumerate().find_map(|(index, e)| Some((index, e.last_audio?)))?;
        let stored = track.encodings.get(encoding)?.store.get(handle)?;
        if self.now.saturating_duration_since(stored.info.arrived) > LAST_AUDIO_AGE_MAX {
            return None;
        }
        let packet = CachedPacket { handle, head, bytes: stored.payload.len() + OVERHEAD_BYTES_ASSUMED };
        let protectable = track.is_protectable(&self.config);
        let arrived = Arrived { protectable, ..Arrived::new(track_key, track, encoding, packet) };
        Some((arrived, subscription.subscriber))
    }

    /// What a subscription receives, and where to, if it can.
    fn beginning(&self, key: SubscriptionKey) -> Option<Beginning<'_>> {
        let subscription = self.subscriptions.get(key.0).filter(|subscription| subscription.is_flowing())?;
        let track_key = subscription.source?;
        let track = self.tracks.get(track_key.0).filter(|track| !track.muted)?;
        let receiver = self.endpoints.get(subscription.subscriber.0)?;
        receiver.media.protection.as_ref()?;
        Some(Beginning { subscription, track_key, track, receiver })
    }

    /// Starts everything that a connection receives: it has just come up.
    pub(super) fn start_all(&mut self, key: EndpointKey) {
        self.expect_first_media_of(key);
        self.allocate(key);
        let Some(endpoint) = self.endpoints.get(key.0) else { return };
        for subscription in endpoint.order.clone() {
            self.begin_media(subscription);
        }
    }

    /// A subscription that receives nothing yet begins with what the keyframe cache of an encoding holds. False if that is
    /// nothing, or too much. One that changes to another picture has something to show until a new keyframe comes: what came
    /// since the last one would only take the room of what comes next.
    pub(super) fn begin_from_cache(&mut self, key: SubscriptionKey, encoding: usize) -> bool {
        if self.cached(key, encoding).is_none() {
            return false;
        }
        // What waits to be delivered is in the cache as well.
        self.deliver_all();
        let Some((arrived, bytes, receiver)) = self.cached(key, encoding) else {
            // It has begun with what was delivered.
            let begun = |known: &Subscription| known.current_encoding() == Some(encoding);
            return self.subscriptions.get(key.0).is_some_and(begun);
        };
        if let Some(endpoint) = self.endpoints.get_mut(receiver.0) {
            endpoint.caught_up.add(self.now, bytes);
        }
        for arrived in arrived {
            self.deliveries.push(arrived, iter::once((receiver, key)));
        }
        self.stats.keyframes_cached += 1;
        true
    }

    fn cached(&self, key: SubscriptionKey, encoding: usize) -> Option<(Vec<Arrived>, usize, EndpointKey)> {
        let Beginning { subscription, track_key, track, receiver } = self.beginning(key)?;
        let downstream = &receiver.media.downstream;
        if subscription.current_encoding().is_some() || downstream.is_congested() {
            return None;
        }
        let encoded = track.encodings.get(encoding)?;
        let CatchUp { packets, live_from, bytes } = encoded.last_video.catch_up(self.now)?;
        // All of them are of one format.
        let head = &packets.first()?.head;
        receiver.connection.payload_types(subscription.mid?, &head.format).ok()?;
        let rate = match downstream.capacity(self.now) {
            Capacity::AtLeast(rate) | Capacity::Measured(rate) => rate,
            Capacity::Unlimited => UNKNOWN_PATH,
        };
        let bytes_max = usize::try_from(rate.bytes_in(CATCH_UP_TIME_MAX)).unwrap_or(usize::MAX);
        if receiver.caught_up.bytes(self.now).saturating_add(bytes) > bytes_max {
            return None;
        }
        let (highest_layer, live_from) = (encoded.layers.highest(self.now), Some(live_from));
        let arrived = packets.iter().map(|packet| {
            let arrived = Arrived::new(track_key, track, encoding, *packet);
            Arrived { highest_layer, live_from, ..arrived }
        });
        Some((arrived.collect(), bytes, subscription.subscriber))
    }
}
