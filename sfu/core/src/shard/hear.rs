//! Whose audio is forwarded in a room where not everybody's is: see [`crate::loudest`].
//!
//! It is withheld where it enters the shard that has the subscribers: all that these could receive comes there, with its
//! levels, so that each shard knows for itself who of them is the loudest. In the publisher's shard it is not known who is
//! heard elsewhere.

use slab::Slab;
use zynk_protocol::{RoomSid, TrackSource};

use super::{Shard, TrackKey};
use crate::{
    connection::MediaPacket,
    endpoint::Endpoint,
    loudest::{Hearing, Loudness},
    track::{Origin, Track},
};

impl Shard {
    /// Whether a packet of audio, of encoding `index` of a track, goes to nobody. Who has no levels is always heard, and so is
    /// what a screen plays.
    pub(super) fn withholds(&mut self, key: TrackKey, index: usize, packet: &MediaPacket<'_>) -> bool {
        let now = self.now;
        let Some(room_sid) = room_of(&self.tracks, &self.endpoints, key) else { return false };
        let Some(room) = self.rooms.get_mut(room_sid).filter(|room| room.loudest.is_limited()) else {
            return false;
        };
        let Some(track) = self.tracks.get_mut(key.0) else { return false };
        if track.source == TrackSource::ScreenShareAudio {
            return false;
        }
        if let Some(level) = packet.extensions.audio_level {
            track.loudness = Some(Loudness::follow(track.loudness, now, level.attenuation));
        }
        let Some(loudness) = track.loudness else { return false };
        match room.loudest.hear(now, key, loudness) {
            Hearing::Heard => false,
            Hearing::Begins => {
                self.begin_to_hear(key, index, packet.sequence);
                false
            }
            Hearing::Withheld => {
                // Who begins to receive it begins with what is heard.
                if let Some(encoding) = track.encodings.get_mut(index) {
                    encoding.last_audio = None;
                }
                self.stats.rtp_packets_withheld += u64::try_from(track.subscribers.len()).unwrap_or(0);
                true
            }
        }
    }

    /// Those who receive a track get packet `sequence` of it as the next one after the last that they got.
    fn begin_to_hear(&mut self, key: TrackKey, index: usize, sequence: u64) {
        let Some(track) = self.tracks.get(key.0) else { return };
        let subscribers = track.subscribers.clone();
        // What came of it before goes out with the numbers that it has.
        self.deliver_all();
        for subscriber in subscribers {
            if let Some(subscription) = self.subscriptions.get_mut(subscriber.0) {
                subscription.go_on_with(index, sequence);
            }
            self.expect_first_media(subscriber);
        }
    }

    /// A track is not to be heard any more, or begins anew.
    pub(super) fn forget_voice(&mut self, key: TrackKey) {
        if let Some(room_sid) = room_of(&self.tracks, &self.endpoints, key)
            && let Some(room) = self.rooms.get_mut(room_sid)
        {
            room.loudest.forget(key);
        }
    }
}

/// The room of a track, wherever its publisher is.
fn room_of<'a>(tracks: &'a Slab<Track>, endpoints: &'a Slab<Endpoint>, key: TrackKey) -> Option<&'a RoomSid> {
    match &tracks.get(key.0)?.origin {
        Origin::Publisher { endpoint, .. } => Some(&endpoints.get(endpoint.0)?.room),
        Origin::Relay(relay) => Some(&relay.room),
    }
}
