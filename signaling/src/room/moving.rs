//! Participants that change rooms with their session and their media (`MoveParticipant`).
//!
//! ```text
//!   room that it leaves                     shell                 room that it comes to
//!      Depart ─► Departed { Traveller }  ───────────────────────►  Arrive ─► AdoptConnection to the node, RoomMoved
//!      node events of before ─► PassOn   ───────────────────────►  Late      what the node tells meanwhile is held
//!      ConnectionMoved ─► PassedAll      ───────────────────────►  Settled ─► what was held
//! ```
//! Its ids stay what they are, and so do its connections: the node only counts them to another room.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use zynk_protocol::livekit::leave_request::Action;
use zynk_protocol::livekit::participant_info::{Kind, State};
use zynk_protocol::livekit::{self, DisconnectReason, signal_response};
use zynk_protocol::{
    ConnectionId, Identity, NodeAction, NodeEvent, NodeId, ParticipantSid, RoomName, RoomSid, TrackSid,
};

use super::participant::Participant;
use super::publish::Track;
use super::{Room, RoomOutput, SessionId, connection_of};
use crate::admin::{AdminError, AdminResponse};

/// From this protocol number on, clients understand that they are in another room.
const MOVE_PROTOCOL: i32 = 16;

/// Events of one connection that are held until those of before have come. With more, the participant has to start over.
const HELD_EVENTS_MAX: usize = 1_024;

const NO_PARTICIPANT: AdminError = AdminError::NotFound("participant does not exist");

/// One move, numbered by the shell of the room that the participant leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MoveId(pub u64);

/// A participant between two rooms.
#[derive(Debug)]
pub struct Traveller {
    participant: Box<Participant>,
    from: RoomSid,
    node: NodeId,
}

/// A participant is between two rooms once.
impl PartialEq for Traveller {
    fn eq(&self, other: &Self) -> bool {
        self.participant.sid == other.participant.sid && self.from == other.from
    }
}

impl Traveller {
    /// Its connections on the node.
    pub fn connections(&self) -> Vec<ConnectionId> {
        connections_of(&self.participant).collect()
    }

    /// The node that has them.
    pub fn node(&self) -> &NodeId {
        &self.node
    }
}

/// Who is on the way.
#[derive(Debug, Default)]
pub(super) struct Moves {
    /// Connections that were here until the node says so. Bounded by what the node has: it answers, or is lost.
    leaving: HashMap<ConnectionId, MoveId>,
    /// Their tracks.
    leaving_tracks: HashMap<TrackSid, ConnectionId>,
    /// What the node has told of connections of which it has told the other room more before; at most
    /// [`HELD_EVENTS_MAX`] each.
    held: HashMap<ConnectionId, VecDeque<NodeEvent>>,
}

fn connections_of(participant: &Participant) -> impl Iterator<Item = ConnectionId> {
    let connections = [Some(participant.publisher), participant.subscriber];
    connections.into_iter().flatten().map(|connection| connection.id)
}

impl Room {
    /// The session of somebody who could move to another room now.
    pub fn check_departure(&self, identity: &Identity) -> Result<SessionId, AdminError> {
        let participant = self.by_identity(identity).ok_or(NO_PARTICIPANT)?;
        if matches!(participant.kind, Kind::Egress | Kind::Agent) {
            return Err(AdminError::FailedPrecondition("agents and egress cannot be moved"));
        }
        if !participant.follows_room || participant.protocol() < MOVE_PROTOCOL {
            return Err(AdminError::FailedPrecondition("the participant's client cannot be moved"));
        }
        if !participant.is_active() {
            return Err(AdminError::FailedPrecondition("the participant is not connected yet"));
        }
        if connections_of(participant).any(|connection| self.moves.held.contains_key(&connection)) {
            return Err(AdminError::FailedPrecondition("the participant is being moved"));
        }
        participant.session.ok_or(AdminError::Unavailable("the participant is reconnecting"))
    }

    /// Whether somebody counts against a room's limit.
    pub fn needs_place(&self, identity: &Identity) -> bool {
        self.by_identity(identity).is_some_and(Participant::counts)
    }

    /// Whether somebody could come from another room now, and the node that it has to be on for that.
    pub fn check_arrival(&self, identity: &Identity, counts: bool) -> Result<NodeId, AdminError> {
        match self.finished {
            true => Err(AdminError::Unavailable("the room has ended")),
            false if !self.has_place_for(identity, counts) => {
                Err(AdminError::FailedPrecondition("the destination room is full"))
            }
            false => Ok(self.settings.node.clone()),
        }
    }

    pub(super) fn depart(&mut self, session: SessionId, number: MoveId, destination: RoomName) {
        let result = self.take_traveller(session, number, &destination).map(Box::new);
        self.outputs.push_back(RoomOutput::Departed { number, result });
    }

    fn take_traveller(
        &mut self,
        session: SessionId,
        number: MoveId,
        destination: &RoomName,
    ) -> Result<Traveller, AdminError> {
        let sid = self.sessions.get(&session).cloned().ok_or(NO_PARTICIPANT)?;
        let identity = self.participants.get(&sid).map(|participant| participant.identity.clone());
        self.check_departure(&identity.ok_or(NO_PARTICIPANT)?)?;
        tracing::debug!(participant = %sid, "a participant moves to another room");
        self.unsubscribe_from_all(&sid);
        self.unsubscribe_from_data_tracks(&sid);
        let tracks = self.withdraw_tracks(&sid);
        let mut participant = self.participants.remove(&sid).ok_or(NO_PARTICIPANT)?;
        self.identities.remove(&participant.identity);
        self.sessions.remove(&session);
        for connection in connections_of(&participant) {
            self.connections.remove(&connection);
            self.moves.leaving.insert(connection, number);
        }
        participant.version = participant.version.saturating_add(1);
        participant.disconnect_reason = DisconnectReason::Migration;
        participant.was_active = true;
        participant.state = State::Disconnected;
        let data_tracks = std::mem::take(&mut participant.data_tracks);
        self.participant_gone(&participant);
        self.after_removal(&participant);
        participant.version = participant.version.saturating_add(1);
        participant.disconnect_reason = DisconnectReason::UnknownReason;
        participant.was_active = false;
        participant.state = State::Active;
        participant.data_tracks = data_tracks;
        participant.tracks = tracks;
        participant.claim_room(destination);
        let from = self.settings.record.sid.clone();
        Ok(Traveller { participant, from, node: self.settings.node.clone() })
    }

    /// Takes somebody's tracks out of the room: nobody receives them here any more.
    fn withdraw_tracks(&mut self, sid: &ParticipantSid) -> Vec<Track> {
        let Some(participant) = self.participants.get_mut(sid) else { return Vec::new() };
        let brief = participant.brief();
        let publisher = participant.publisher.id;
        let data_tracks = participant.data_tracks.infos();
        let tracks = std::mem::take(&mut participant.tracks);
        for track in &tracks {
            self.tracks.remove(&track.sid);
            self.moves.leaving_tracks.insert(track.sid.clone(), publisher);
            let mut ended = Vec::new();
            for other in self.participants.values_mut() {
                other.unwanted.remove(&track.sid);
                other.kept_settings.remove(&track.sid);
                let had = other.subscriptions.remove(&track.sid).is_some_and(|wish| wish.allowed);
                ended.extend(other.downstream().filter(|_| had));
            }
            for connection in ended {
                self.command(NodeAction::Unsubscribe { connection, track: track.sid.clone() });
            }
            if track.is_published() {
                self.webhook_track("track_unpublished", brief.clone(), track.info.clone());
            }
        }
        for track in data_tracks {
            self.end_data_subscriptions(&track.sid);
        }
        tracks
    }

    pub(super) fn arrive(&mut self, session: SessionId, traveller: Traveller) {
        let Traveller { mut participant, from, .. } = traveller;
        if let Some(old) = self.identities.get(&participant.identity).cloned() {
            self.replace_participant(&old);
        }
        let sid = participant.sid.clone();
        let connections: Vec<ConnectionId> = connections_of(&participant).collect();
        participant.session = Some(session);
        participant.joined_at = self.now;
        participant.joined_at_ms = self.unix_ms;
        participant.region.clone_from(&self.settings.config.region);
        participant.replay_from = Some(self.data.next_number());
        participant.forget_room();
        let tracks = self.take_in_tracks(&mut participant);
        for connection in &connections {
            self.connections.insert(*connection, sid.clone());
            self.moves.held.insert(*connection, VecDeque::new());
            self.command(NodeAction::AdoptConnection { connection: *connection, from: from.clone() });
        }
        self.limit_audio();
        self.identities.insert(participant.identity.clone(), sid.clone());
        self.sessions.insert(session, sid.clone());
        self.participants.insert(sid.clone(), participant);
        self.ever_joined = true;
        self.tell_moved(&sid);
        if let Some(participant) = self.participants.get(&sid) {
            let (info, brief) = (participant.info(), participant.brief());
            self.webhook_participant("participant_joined", info);
            for (_, info) in &tracks {
                self.webhook_track("track_published", brief.clone(), info.clone());
            }
        }
        // Receivers drop media of somebody they were not told of.
        self.participant_changed(&sid, false);
        self.subscribe_to_existing(&sid);
        self.subscribe_to_existing_data_tracks(&sid);
        for (track, _) in tracks {
            self.subscribe_others_to(&sid, &track);
            self.demand_changed(&track);
        }
        self.subscribe_others_to_data_tracks_of(&sid);
        self.start_live_data(&sid);
        self.occupancy_changed();
    }

    /// Gives tracks their place among those of the room. Returns those that are published, in order.
    fn take_in_tracks(&mut self, participant: &mut Participant) -> Vec<(TrackSid, livekit::TrackInfo)> {
        participant.tracks.sort_by_key(|track| track.order);
        let mut published = Vec::new();
        for track in &mut participant.tracks {
            self.tracks.insert(track.sid.clone(), participant.sid.clone());
            track.subscriber_told = false;
            track.dynacast = Default::default();
            if track.is_published() {
                self.publications += 1;
                track.order = self.publications;
                published.push((track.sid.clone(), track.info.clone()));
            }
        }
        published
    }

    fn tell_moved(&mut self, sid: &ParticipantSid) {
        let token = self.fresh_token(sid).unwrap_or_default();
        let others = self.participants.values().filter(|other| other.sid != *sid && !other.hidden());
        let moved = livekit::RoomMovedResponse {
            room: Some(self.room_info()),
            token,
            participant: self.participants.get(sid).map(|participant| participant.info()),
            other_participants: others.map(|other| other.info()).collect(),
        };
        self.tell(sid, signal_response::Message::RoomMoved(moved));
    }

    /// What is not for now: events of those who have left are passed on, and some of those who have come wait.
    pub(super) fn divert(&mut self, event: NodeEvent) -> Option<NodeEvent> {
        if self.moves.leaving.is_empty() && self.moves.held.is_empty() {
            return Some(event);
        }
        let Some(connection) = self.subject_of(&event) else { return Some(event) };
        if let Some(number) = self.moves.leaving.get(&connection).copied() {
            match event {
                NodeEvent::ConnectionMoved { .. } => self.forget_leaving(connection, number),
                event => self.outputs.push_back(RoomOutput::PassOn { number, event }),
            }
            return None;
        }
        let Some(held) = self.moves.held.get_mut(&connection) else { return Some(event) };
        if held.len() < HELD_EVENTS_MAX {
            held.push_back(event);
        } else if let Some(sid) = self.connections.get(&connection).cloned() {
            self.remove_participant(&sid, DisconnectReason::StateMismatch, Some(Action::Reconnect));
        }
        None
    }

    /// The connection that an event is about, also where it names a track alone.
    fn subject_of(&self, event: &NodeEvent) -> Option<ConnectionId> {
        match event {
            NodeEvent::TrackStarted(started) => Some(started.connection),
            NodeEvent::TrackStopped { track, .. } => {
                let leaving = self.moves.leaving_tracks.get(track).copied();
                let here = || self.participants.get(self.tracks.get(track)?).map(|found| found.publisher.id);
                leaving.or_else(here)
            }
            event => connection_of(event),
        }
    }

    fn forget_leaving(&mut self, connection: ConnectionId, number: MoveId) {
        self.moves.leaving.remove(&connection);
        self.moves.leaving_tracks.retain(|_, publisher| *publisher != connection);
        if !self.moves.leaving.values().any(|other| *other == number) {
            self.outputs.push_back(RoomOutput::PassedAll { number });
        }
    }

    /// Nothing of before comes any more: what was held is next.
    pub(super) fn settle(&mut self, connections: &[ConnectionId]) {
        for connection in connections {
            for event in self.moves.held.remove(connection).unwrap_or_default() {
                self.handle_node(event);
            }
        }
    }

    /// No room has taken these over: they are still this one's.
    pub(super) fn close_stranded(&mut self, connections: &[ConnectionId]) {
        for connection in connections {
            if let Some(number) = self.moves.leaving.get(connection).copied() {
                self.command(NodeAction::CloseConnection { connection: *connection });
                self.forget_leaving(*connection, number);
            }
        }
    }

    /// Sends somebody to a room that another node has: its client joins that as if it came anew.
    pub(super) fn admin_send_elsewhere(
        &mut self,
        identity: &Identity,
        destination: &RoomName,
    ) -> Result<AdminResponse, AdminError> {
        self.check_departure(identity)?;
        let sid = self.identities.get(identity).cloned().ok_or(NO_PARTICIPANT)?;
        self.participants.get_mut(&sid).ok_or(NO_PARTICIPANT)?.claim_room(destination);
        self.refresh_token(&sid);
        self.remove_participant(&sid, DisconnectReason::Migration, Some(Action::Reconnect));
        Ok(AdminResponse::Done)
    }
}

impl Participant {
    /// Fresh tokens are for that room from now on.
    fn claim_room(&mut self, room: &RoomName) {
        if let Some(claims) = &mut self.claims {
            room.as_str().clone_into(&mut Arc::make_mut(claims).video.room);
        }
    }

    /// Leaves behind what it wanted and was told of the others in a room.
    fn forget_room(&mut self) {
        self.subscriptions.clear();
        self.unwanted.clear();
        self.missing.clear();
        self.kept_settings.clear();
        self.quality_told.clear();
    }
}
