//! Who is told about changes of participants and of the room, and when.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use prost::Message as _;
use zynk_protocol::livekit::{self, participant_info::State, signal_response};
use zynk_protocol::{Identity, ParticipantSid};

use super::Room;
use super::participant::Participant;

/// Size from which on a participant update is split.
const UPDATE_BYTES: usize = 128 * 1024;

/// How long changes of the room's counts are collected.
const ROOM_UPDATE_INTERVAL: Duration = Duration::from_secs(5);

/// From this protocol number on, clients take a new id of a known identity as the same person coming back.
const REJOIN_PROTOCOL: i32 = 12;

/// Changes of participants that publish nothing, the newest of each identity. They are told together, as
/// in a room of thousands of listeners each of them would cost thousands of messages. Bounded by the
/// participants that the room has or had in one interval.
#[derive(Debug, Default)]
pub(super) struct UpdateQueue {
    infos: BTreeMap<Identity, (ParticipantSid, livekit::ParticipantInfo)>,
    due: Option<Instant>,
}

impl UpdateQueue {
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.due
    }
}

/// Whether the room's counts changed since they were last told.
#[derive(Debug, Default)]
pub(super) struct RoomUpdateState {
    due: Option<Instant>,
    told: (u32, u32),
}

impl RoomUpdateState {
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.due
    }
}

impl Room {
    /// Counts a change of a participant and tells it to whom it concerns; to itself only if `tell_self`,
    /// except that changes of publishers reach everybody.
    pub(super) fn participant_changed(&mut self, sid: &ParticipantSid, tell_self: bool) {
        let Some(participant) = self.participants.get_mut(sid) else { return };
        participant.version = participant.version.saturating_add(1);
        let info = participant.info();
        let identity = participant.identity.clone();
        let (hidden, is_publisher) = (participant.hidden(), participant.is_publisher);
        if tell_self {
            self.send_update(sid, vec![info.clone()]);
        }
        if hidden {
            return;
        }
        if is_publisher {
            self.updates.infos.remove(&identity);
            self.broadcast_update(sid, &info);
        } else {
            self.queue_update(identity, sid.clone(), info);
        }
    }

    /// Tells the others that a participant is gone. Its place in the maps is free already.
    pub(super) fn participant_gone(&mut self, participant: &Participant) {
        if participant.hidden() {
            return;
        }
        self.departed.push(self.now, participant.info());
        if participant.is_publisher {
            self.updates.infos.remove(&participant.identity);
            self.broadcast_update(&participant.sid, &participant.info());
        } else {
            self.queue_update(participant.identity.clone(), participant.sid.clone(), participant.info());
        }
    }

    /// Tells old clients that a participant is gone whose identity has joined anew. Newer ones understand
    /// the new id by itself, and would show the person leaving.
    pub(super) fn participant_replaced(&mut self, participant: &Participant) {
        self.updates.infos.remove(&participant.identity);
        if participant.hidden() {
            return;
        }
        let old_clients: Vec<ParticipantSid> = self
            .participants
            .values()
            .filter(|other| other.protocol() < REJOIN_PROTOCOL)
            .map(|other| other.sid.clone())
            .collect();
        for sid in old_clients {
            self.send_update(&sid, vec![participant.info()]);
        }
    }

    fn queue_update(&mut self, identity: Identity, sid: ParticipantSid, info: livekit::ParticipantInfo) {
        let interval = Duration::from_millis(self.settings.config.room.subscriber_update_interval_ms);
        self.updates.infos.insert(identity, (sid, info));
        self.updates.due.get_or_insert(self.now + interval);
    }

    fn broadcast_update(&mut self, about: &ParticipantSid, info: &livekit::ParticipantInfo) {
        for sid in self.followers().filter(|sid| sid != about).collect::<Vec<_>>() {
            self.send_update(&sid, vec![info.clone()]);
        }
    }

    /// Who is told of changes.
    fn followers(&self) -> impl Iterator<Item = ParticipantSid> {
        let followers = self.participants.values().filter(|participant| participant.follows_room);
        followers.map(|participant| participant.sid.clone())
    }

    pub(super) fn others(&self, sid: &ParticipantSid) -> Vec<ParticipantSid> {
        self.participants.keys().filter(|other| *other != sid).cloned().collect()
    }

    pub(super) fn flush_updates(&mut self) {
        if self.updates.due.is_none_or(|due| due > self.now) {
            return;
        }
        self.updates.due = None;
        let queued: Vec<_> = std::mem::take(&mut self.updates.infos).into_values().collect();
        for receiver in self.followers().collect::<Vec<_>>() {
            let infos = queued.iter().filter(|(about, _)| *about != receiver);
            self.send_update(&receiver, infos.map(|(_, info)| info.clone()).collect());
        }
    }

    /// Sends infos to one participant, in several messages if they are large.
    pub(super) fn send_update(&mut self, to: &ParticipantSid, infos: Vec<livekit::ParticipantInfo>) {
        let mut chunk = Vec::new();
        let mut chunk_bytes = 0;
        for info in infos {
            let bytes = info.encoded_len();
            if !chunk.is_empty() && chunk_bytes + bytes > UPDATE_BYTES {
                self.send_chunk(to, std::mem::take(&mut chunk));
                chunk_bytes = 0;
            }
            chunk_bytes += bytes;
            chunk.push(info);
        }
        if !chunk.is_empty() {
            self.send_chunk(to, chunk);
        }
    }

    fn send_chunk(&mut self, to: &ParticipantSid, participants: Vec<livekit::ParticipantInfo>) {
        self.tell(to, signal_response::Message::Update(livekit::ParticipantUpdate { participants }));
    }

    /// The room as clients and the server API see it.
    pub(super) fn room_info(&self) -> livekit::Room {
        let record = &self.settings.record;
        let codecs = self.settings.config.room.enabled_codecs.iter();
        let visible = self.participants.values().filter(|participant| participant.counts());
        let (participants, publishers) = visible.fold((0_u32, 0_u32), |(all, publishing), participant| {
            (all.saturating_add(1), publishing.saturating_add(participant.is_publisher.into()))
        });
        livekit::Room {
            sid: record.sid.as_str().to_owned(),
            name: record.name.as_str().to_owned(),
            empty_timeout: record.empty_timeout_s,
            departure_timeout: record.departure_timeout_s,
            max_participants: record.max_participants,
            creation_time: i64::try_from(record.created_at_ms / 1000).unwrap_or_default(),
            creation_time_ms: i64::try_from(record.created_at_ms).unwrap_or_default(),
            enabled_codecs: codecs
                .map(|mime| livekit::Codec { mime: mime.clone(), fmtp_line: String::new() })
                .collect(),
            metadata: record.metadata.clone(),
            num_participants: participants,
            num_publishers: publishers,
            active_recording: self.participants.values().any(|other| other.permission.recorder),
            ..Default::default()
        }
    }

    /// Tells everybody about the room now.
    pub(super) fn send_room_update(&mut self) {
        self.room_update.due = None;
        let info = self.room_info();
        self.room_update.told = (info.num_participants, info.num_publishers);
        let receivers: Vec<ParticipantSid> = self.participants.keys().cloned().collect();
        for receiver in receivers {
            let update = livekit::RoomUpdate { room: Some(info.clone()) };
            self.tell(&receiver, signal_response::Message::RoomUpdate(update));
        }
    }

    /// Somebody came, went or began to publish.
    pub(super) fn occupancy_changed(&mut self) {
        let occupied = self.participants.values().any(|participant| participant.counts());
        match occupied {
            true => self.empty_since = None,
            false if self.empty_since.is_none() => self.empty_since = Some(self.now),
            false => {}
        }
        let info = self.room_info();
        if self.room_update.told != (info.num_participants, info.num_publishers) {
            self.room_update.due.get_or_insert(self.now + ROOM_UPDATE_INTERVAL);
        }
    }

    pub(super) fn flush_room_update(&mut self) {
        if self.room_update.due.is_some_and(|due| due <= self.now) {
            self.send_room_update();
        }
    }

    /// Raises a participant's state; states never fall.
    pub(super) fn raise_state(&mut self, sid: &ParticipantSid, state: State) -> bool {
        let Some(participant) = self.participants.get_mut(sid) else { return false };
        if participant.state >= state {
            return false;
        }
        participant.state = state;
        true
    }
}
