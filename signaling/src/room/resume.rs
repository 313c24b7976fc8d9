//! Sessions that come back after their WebSocket broke.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use zynk_protocol::livekit::leave_request::Action;
use zynk_protocol::livekit::{self, DisconnectReason, signal_response};
use zynk_protocol::{Identity, NodeAction, ParticipantSid};

use super::leave::leave_message;
use super::{Room, RoomOutput, SessionId};
use crate::join::JoinParams;

/// How long those who left are remembered for clients that were away.
const DEPARTED_MEMORY: Duration = Duration::from_secs(120);

/// Metadata and attributes that are kept of those who left, in bytes; the oldest are forgotten first.
const TEXT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// How many are remembered; the oldest are forgotten first.
const DEPARTED_MAX: usize = 1_000;

/// Those who left lately.
#[derive(Debug, Default)]
pub(super) struct Departed {
    infos: VecDeque<(Instant, livekit::ParticipantInfo)>,
    /// Metadata and attributes that did not fit into tokens, at most [`TEXT_BYTES_MAX`].
    texts: VecDeque<(Identity, Texts)>,
}

/// Metadata and attributes.
pub(super) type Texts = (String, HashMap<String, String>);

fn bytes_of((metadata, attributes): &Texts) -> usize {
    metadata.len() + attributes.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>()
}

impl Departed {
    pub(super) fn keep_texts(&mut self, identity: Identity, texts: Texts) {
        self.texts.retain(|(other, _)| *other != identity);
        self.texts.push_back((identity, texts));
        while self.texts.iter().map(|(_, texts)| bytes_of(texts)).sum::<usize>() > TEXT_BYTES_MAX {
            self.texts.pop_front();
        }
    }

    pub(super) fn texts(&self, identity: &Identity) -> Option<(&String, &HashMap<String, String>)> {
        let (_, (metadata, attributes)) = self.texts.iter().find(|(other, _)| other == identity)?;
        Some((metadata, attributes))
    }

    /// Remembers somebody, without what may be large: clients look at the id and the state alone.
    pub(super) fn push(&mut self, now: Instant, info: livekit::ParticipantInfo) {
        let info = livekit::ParticipantInfo {
            metadata: String::new(),
            attributes: Default::default(),
            tracks: Vec::new(),
            data_tracks: Vec::new(),
            ..info
        };
        let is_old = |(at, _): &(Instant, _)| now.saturating_duration_since(*at) > DEPARTED_MEMORY;
        while self.infos.len() >= DEPARTED_MAX || self.infos.front().is_some_and(is_old) {
            self.infos.pop_front();
        }
        self.infos.push_back((now, info));
    }
}

impl Room {
    pub(super) fn handle_resume(&mut self, session: SessionId, params: JoinParams) {
        let Some(sid) = self.identities.get(&params.identity).cloned() else {
            return self.refuse_resume(session);
        };
        let Some(participant) = self.participants.get_mut(&sid) else {
            return self.refuse_resume(session);
        };
        let connections = [Some(participant.publisher), participant.subscriber];
        if participant.mode != params.connection || connections.into_iter().flatten().any(|c| c.is_dead()) {
            // The media has to be set up anew: the client joins again, and the old stay ends.
            self.refuse_resume(session);
            return self.remove_participant(&sid, DisconnectReason::StateMismatch, Some(Action::Reconnect));
        }
        if self.refuses_rehearsed_resume(&sid, session) {
            return;
        }
        let Some(participant) = self.participants.get_mut(&sid) else { return };
        let old = participant.session.replace(session);
        participant.close_deadline = None;
        let last_message_seq = participant.last_sequence;
        let client_configuration = self.participants.get(&sid).and_then(|p| self.client_configuration(p));
        if let Some(old) = old {
            self.sessions.remove(&old);
            self.outputs.push_back(RoomOutput::CloseSession { session: old });
        }
        self.sessions.insert(session, sid.clone());
        self.outputs.push_back(RoomOutput::JoinAccepted { session, participant: sid.clone() });
        let reconnect = livekit::ReconnectResponse {
            ice_servers: self.ice_servers(&sid, &params.place),
            client_configuration,
            server_info: Some(self.server_info()),
            last_message_seq,
        };
        self.tell(&sid, signal_response::Message::Reconnect(reconnect));
        self.tell_what_was_missed(&sid);
        self.send_room_update_to(&sid);
        self.tell_stream_states(&sid, |_, subscription| subscription.starved);
        if let Some(connection) = self.participants.get(&sid).and_then(|p| p.subscriber) {
            self.command(NodeAction::RestartIce { connection: connection.id });
        }
        self.refresh_token(&sid);
        if let Some(state) = params.sync_state {
            self.handle_sync_state(&sid, state);
        }
        if let Some(offer) = params.offer {
            self.handle_offer(&sid, offer);
        }
        self.drop_rehearsed_resume(&sid);
    }

    fn refuse_resume(&mut self, session: SessionId) {
        self.tell_session(session, leave_message(DisconnectReason::StateMismatch, Action::Reconnect));
        self.outputs.push_back(RoomOutput::CloseSession { session });
    }

    /// Those who left, and then everybody who is there: some clients take the list as the whole truth.
    fn tell_what_was_missed(&mut self, sid: &ParticipantSid) {
        let is_gone = |info: &&livekit::ParticipantInfo| {
            !self.identities.contains_key(&Identity::new(info.identity.clone()))
        };
        let left: Vec<_> =
            self.departed.infos.iter().map(|(_, info)| info).filter(is_gone).cloned().collect();
        let present = self.participants.values().filter(|other| other.sid == *sid || !other.hidden());
        let present: Vec<_> = present.map(|other| other.info()).collect();
        self.send_update(sid, left);
        self.send_update(sid, present);
    }

    fn send_room_update_to(&mut self, sid: &ParticipantSid) {
        let update = livekit::RoomUpdate { room: Some(self.room_info()) };
        self.tell(sid, signal_response::Message::RoomUpdate(update));
    }
}
