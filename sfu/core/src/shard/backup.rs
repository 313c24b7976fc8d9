//! Second codecs of tracks: who receives a track in which.
//!
//! ```text
//!  publisher ─► section a (VP9) ─► track ──────► subscriptions that decode VP9
//!            └► section b (VP8) ─► its backup ─► those that do not, or all
//! ```

use zynk_protocol::{BackupUse, MediaKind, NodeEvent, SubscriptionFailure};

use super::{EndpointKey, Shard, SubscriptionKey, TrackKey};
use crate::{
    connection::{Connection, PayloadFormat},
    track::{Origin, Track},
};

impl Shard {
    /// Makes `backup` the second codec of the track of the same id.
    pub(super) fn add_backup(&mut self, primary: TrackKey, backup: TrackKey) {
        if let Some(previous) = self.tracks.get_mut(primary.0).and_then(|track| track.backup.replace(backup))
        {
            for subscription in self.forget_backup(previous) {
                self.change_source(subscription, primary);
            }
        }
    }

    /// Takes a second codec out of the shard's tables. Returns who received it.
    pub(super) fn forget_backup(&mut self, key: TrackKey) -> Vec<SubscriptionKey> {
        self.take_track(key).map(|backup| backup.subscribers).unwrap_or_default()
    }

    /// The second codec of a track ended: who received it goes back to the first, or waits.
    pub(super) fn stop_backup(&mut self, key: TrackKey, primary: TrackKey) {
        if let Some(track) = self.tracks.get_mut(primary.0) {
            track.backup = None;
        }
        for subscription in self.forget_backup(key) {
            self.change_source(subscription, primary);
        }
        self.settle_waiting(primary);
    }

    /// Subscriptions of a track that could not be served try again.
    pub(super) fn settle_waiting(&mut self, primary: TrackKey) {
        let Some(track) = self.tracks.get(primary.0) else { return };
        let waits = |key: &SubscriptionKey| {
            let subscription = self.subscriptions.get(key.0)?;
            (!subscription.negotiated && subscription.mid.is_some()).then_some(subscription.subscriber)
        };
        let mut waiting: Vec<EndpointKey> = track.subscribers.iter().filter_map(waits).collect();
        waiting.sort_unstable();
        waiting.dedup();
        for key in waiting {
            // Sections that are being negotiated are settled with the answer.
            if self.endpoints.get(key.0).is_some_and(|endpoint| endpoint.negotiation.outstanding.is_none()) {
                self.confirm_sections(key);
            }
        }
    }

    /// A subscription's section is agreed on: it begins with the first of its track's codecs that the
    /// subscriber decodes, or waits for another.
    pub(super) fn begin(&mut self, key: SubscriptionKey) {
        match self.sources(key).into_iter().find(|source| self.is_decodable(key, *source)) {
            Some(source) => self.serve(key, source),
            None => self.refuse_codec(key),
        }
    }

    /// The publisher sends something that the subscriber did not negotiate: it takes another codec of the
    /// track, or waits for one.
    pub(super) fn replace_source(&mut self, key: SubscriptionKey) {
        let current = self.subscriptions.get(key.0).and_then(|subscription| subscription.source);
        let other = |source: &TrackKey| Some(*source) != current && self.is_decodable(key, *source);
        match self.sources(key).into_iter().find(other) {
            Some(source) => self.serve(key, source),
            None => self.refuse_codec(key),
        }
    }

    /// Moves subscriptions to the second codec of their track where everybody is to receive it. Not before it
    /// has come: the picture would stand still meanwhile.
    pub(super) fn move_to_backups(&mut self) {
        let mut moves = Vec::new();
        for (_, track) in &self.tracks {
            let Some(backup) = track.backup.filter(|backup| self.is_for_all(*backup)) else { continue };
            let flows = |key: &&SubscriptionKey| self.subscriptions.get(key.0).is_some_and(|s| s.negotiated);
            let decodable = |key: &&SubscriptionKey| self.is_decodable(**key, backup);
            let keys = track.subscribers.iter().filter(flows).filter(decodable);
            moves.extend(keys.map(|key| (*key, backup)));
        }
        for (key, backup) in moves {
            self.serve(key, backup);
        }
    }

    fn is_for_all(&self, backup: TrackKey) -> bool {
        let for_all = |track: &Track| track.usage == Some(BackupUse::Everywhere);
        self.tracks.get(backup.0).is_some_and(|track| for_all(track) && track.has_begun())
    }

    /// The codecs in which a subscription's track is sent, best first.
    fn sources(&self, key: SubscriptionKey) -> Vec<TrackKey> {
        let find = || {
            let subscription = self.subscriptions.get(key.0)?;
            let primary = *self.by_sid.get(&subscription.track)?;
            Some((primary, self.tracks.get(primary.0)?.backup))
        };
        match find() {
            Some((primary, Some(backup))) if self.is_for_all(backup) => vec![backup, primary],
            Some((primary, Some(backup))) => vec![primary, backup],
            Some((primary, None)) => vec![primary],
            None => Vec::new(),
        }
    }

    fn serve(&mut self, key: SubscriptionKey, source: TrackKey) {
        self.change_source(key, source);
        let backup = self.tracks.get(source.0).is_some_and(|track| track.usage.is_some());
        let Some(subscription) = self.subscriptions.get_mut(key.0) else { return };
        subscription.negotiated = true;
        let (subscriber, track) = (subscription.subscriber, subscription.track.clone());
        let Some(connection) = self.endpoints.get(subscriber.0).map(|endpoint| endpoint.id) else { return };
        self.emit(subscriber, NodeEvent::Subscribed { connection, track, backup });
        self.start(key);
    }

    /// Connects a subscription with another codec of its track. It goes on in its section once that is
    /// confirmed, with the section's numbers.
    fn change_source(&mut self, key: SubscriptionKey, source: TrackKey) {
        let Some(subscription) = self.subscriptions.get_mut(key.0) else { return };
        let previous = subscription.source.replace(source);
        if previous == Some(source) {
            return;
        }
        subscription.unsettle();
        if let Some(previous) = previous
            && let Some(track) = self.tracks.get_mut(previous.0)
        {
            track.subscribers.retain(|other| *other != key);
            self.receivers_changed(previous);
        }
        if let Some(track) = self.tracks.get_mut(source.0) {
            track.subscribers.push(key);
            self.receivers_changed(source);
        }
    }

    /// Whether the subscriber accepts the codec that the publisher is going to send.
    fn is_decodable(&self, key: SubscriptionKey, source: TrackKey) -> bool {
        let check = || {
            let subscription = self.subscriptions.get(key.0)?;
            let track = self.tracks.get(source.0)?;
            let format = self.format_of(track)?;
            let receiver = &self.endpoints.get(subscription.subscriber.0)?.connection;
            let mid = subscription.mid?;
            let plain = Connection::without_red(&format);
            let direct = receiver.payload_types(mid, &format).is_ok();
            Some(direct || (track.kind == MediaKind::Audio && receiver.payload_types(mid, &plain).is_ok()))
        };
        check().unwrap_or(true)
    }

    /// The format that a track's publisher is going to send.
    pub(super) fn format_of(&self, track: &Track) -> Option<PayloadFormat> {
        match &track.origin {
            Origin::Publisher { endpoint, mid } => {
                let connection = &self.endpoints.get(endpoint.0)?.connection;
                connection.preferred_format(*mid, track.codec.as_ref())
            }
            Origin::Relay(origin) => origin.format,
        }
    }

    /// Tells signaling that a subscriber cannot decode a track, and stops sending it.
    pub(super) fn refuse_codec(&mut self, key: SubscriptionKey) {
        let Some(subscription) = self.subscriptions.get_mut(key.0) else { return };
        subscription.negotiated = false;
        let (subscriber, track) = (subscription.subscriber, subscription.track.clone());
        let Some(endpoint) = self.endpoints.get(subscriber.0) else { return };
        let connection = endpoint.id;
        let reason = SubscriptionFailure::CodecUnsupported;
        self.emit(subscriber, NodeEvent::SubscriptionFailed { connection, track, reason });
    }
}
