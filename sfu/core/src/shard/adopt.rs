//! A connection that goes to another room with all that it publishes.

use zynk_protocol::{ConnectionId, NodeEvent, RoomSid};

use super::{EndpointKey, Shard, TrackKey};

impl Shard {
    /// Takes a connection of room `from` over into `room`. Nobody receives its tracks then, nor does it receive any: signaling
    /// has ended that. Shards of `from` that have not heard so yet are told that the tracks have ended; those of `room` are
    /// told of them if they asked already.
    pub(super) fn adopt_connection(&mut self, room: &RoomSid, connection: ConnectionId, from: RoomSid) {
        let key = self.endpoint_of(connection);
        let key = key.filter(|key| self.endpoints.get(key.0).is_some_and(|endpoint| endpoint.room == from));
        if let Some(key) = key {
            let published = self.published_by(key);
            // What is wanted is known by the first codec, so that this is the last to part.
            for track in published.iter().rev() {
                self.part_track_from_room(*track, &from);
            }
            if let Some(endpoint) = self.endpoints.get_mut(key.0) {
                endpoint.room = room.clone();
                endpoint.early_settings.clear();
                endpoint.allocation.outdated = true;
            }
            self.leave_room(key, &from);
            self.rooms.entry(room.clone()).or_default().endpoints.push(key);
            for track in published {
                self.tell_started(track);
            }
        }
        self.events.push_back((from, NodeEvent::ConnectionMoved { connection }));
    }

    /// Tracks of a connection, the first codec of each before the second.
    fn published_by(&self, key: EndpointKey) -> Vec<TrackKey> {
        let tracks = self.tracks.iter().filter(|(_, track)| track.publisher() == Some(key));
        let mut tracks: Vec<_> = tracks.map(|(index, track)| (track.usage.is_some(), index)).collect();
        tracks.sort_unstable();
        tracks.into_iter().map(|(_, index)| TrackKey(index)).collect()
    }

    /// What a room knows of a track that leaves it.
    fn part_track_from_room(&mut self, key: TrackKey, from: &RoomSid) {
        self.tell_moved(key, from);
        self.forget_voice(key);
        let Some(track) = self.tracks.get(key.0) else { return };
        let last_word = self.rooms.get_mut(from).and_then(|room| {
            room.speaking.remove(&track.participant);
            room.speakers.remove(&track.sid)
        });
        if let Some(level) = last_word {
            self.events.push_back((from.clone(), NodeEvent::Speakers { levels: vec![level] }));
        }
    }

    /// A room without connections is forgotten.
    pub(super) fn leave_room(&mut self, key: EndpointKey, room_sid: &RoomSid) {
        if let Some(room) = self.rooms.get_mut(room_sid) {
            room.endpoints.retain(|other| *other != key);
            if room.endpoints.is_empty() {
                self.rooms.remove(room_sid);
            }
        }
    }
}
