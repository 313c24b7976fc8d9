//! Leaving, and the end of the room.

use zynk_protocol::livekit::leave_request::Action;
use zynk_protocol::livekit::{
    self, DisconnectReason, RoomEndReason, participant_info::State, signal_response,
};
use zynk_protocol::{NodeAction, ParticipantSid};

use super::participant::Participant;
use super::{Room, RoomOutput, SessionId};

/// What a client is told when its session ends.
pub(crate) fn leave_message(reason: DisconnectReason, action: Action) -> signal_response::Message {
    signal_response::Message::Leave(livekit::LeaveRequest {
        can_reconnect: action != Action::Disconnect,
        reason: reason.into(),
        action: action.into(),
        regions: None,
    })
}

impl Room {
    /// The client says that it leaves.
    pub(super) fn handle_leave(&mut self, sid: &ParticipantSid, request: &livekit::LeaveRequest) {
        let reason = match request.reason() {
            reason @ (DisconnectReason::UserUnavailable
            | DisconnectReason::UserRejected
            | DisconnectReason::AgentError) => reason,
            _ => DisconnectReason::ClientInitiated,
        };
        self.remove_participant(sid, reason, Some(Action::Disconnect));
    }

    pub(super) fn handle_session_closed(&mut self, session: SessionId) {
        let Some(sid) = self.sessions.remove(&session) else { return };
        let Some(participant) = self.participants.get_mut(&sid) else { return };
        if participant.session != Some(session) {
            return;
        }
        participant.session = None;
        if !participant.resumable {
            self.remove_participant(&sid, DisconnectReason::ClientInitiated, None);
        } else if !participant.is_active() {
            self.remove_participant(&sid, DisconnectReason::SignalClose, None);
        }
    }

    pub(super) fn handle_session_faulted(&mut self, session: SessionId) {
        if let Some(sid) = self.sessions.get(&session).cloned() {
            self.remove_participant(&sid, DisconnectReason::StateMismatch, Some(Action::Disconnect));
        }
    }

    /// Ends a participant's stay. With `leave` its client is told to do that, otherwise its session just ends.
    pub(super) fn remove_participant(
        &mut self,
        sid: &ParticipantSid,
        reason: DisconnectReason,
        leave: Option<Action>,
    ) {
        if let Some(participant) = self.take_participant(sid, reason, leave) {
            self.participant_gone(&participant);
            self.after_removal(&participant);
        }
    }

    /// Ends a stay because its identity joins anew.
    pub(super) fn replace_participant(&mut self, sid: &ParticipantSid) {
        let reason = DisconnectReason::DuplicateIdentity;
        if let Some(participant) = self.take_participant(sid, reason, Some(Action::Disconnect)) {
            self.participant_replaced(&participant);
            self.after_removal(&participant);
        }
    }

    fn take_participant(
        &mut self,
        sid: &ParticipantSid,
        reason: DisconnectReason,
        leave: Option<Action>,
    ) -> Option<Participant> {
        if let Some(action) = leave {
            self.tell(sid, leave_message(reason, action));
        }
        let tracks: Vec<_> = self.participants.get(sid)?.tracks.iter().map(|t| t.sid.clone()).collect();
        for track in tracks {
            self.drop_track(sid, &track);
        }
        self.drop_data_tracks_of(sid);
        let mut participant = self.participants.remove(sid)?;
        // A newer stay of the same identity keeps its place.
        if self.identities.get(&participant.identity) == Some(sid) {
            self.identities.remove(&participant.identity);
        }
        if let Some(session) = participant.session.take() {
            self.sessions.remove(&session);
            self.outputs.push_back(RoomOutput::CloseSession { session });
        }
        for connection in [Some(participant.publisher), participant.subscriber].into_iter().flatten() {
            self.connections.remove(&connection.id);
            // Of one that has failed the node still remembers where it was.
            self.command(NodeAction::CloseConnection { connection: connection.id });
        }
        self.keep_texts(&participant);
        participant.disconnect_reason = reason;
        participant.version = participant.version.saturating_add(1);
        participant.was_active = participant.is_active();
        participant.state = State::Disconnected;
        Some(*participant)
    }

    pub(super) fn after_removal(&mut self, participant: &Participant) {
        for other in self.participants.values_mut() {
            other.quality_told.remove(&participant.sid);
        }
        self.rehearsals.forget(&participant.sid);
        self.fail_rpcs_to(&participant.identity);
        for track in participant.subscriptions.keys() {
            self.demand_changed(track);
        }
        let event = match participant.was_active {
            true => "participant_left",
            false => "participant_connection_aborted",
        };
        self.webhook_participant(event, participant.info());
        self.occupancy_changed();
    }

    /// Ends those whose time is over.
    pub(super) fn expire_participants(&mut self) {
        let now = self.now;
        let is_due = |deadline: Option<std::time::Instant>| deadline.is_some_and(|at| at <= now);
        let due: Vec<(ParticipantSid, bool, bool)> = self
            .participants
            .values()
            .filter(|p| is_due(p.active_deadline) || is_due(p.close_deadline) || is_due(p.refresh_deadline))
            .map(|p| (p.sid.clone(), is_due(p.active_deadline), is_due(p.close_deadline)))
            .collect();
        for (sid, never_active, failed) in due {
            if never_active {
                self.remove_participant(&sid, DisconnectReason::JoinFailure, Some(Action::Disconnect));
            } else if failed {
                self.remove_participant(&sid, DisconnectReason::ConnectionTimeout, None);
            } else {
                self.refresh_token(&sid);
            }
        }
    }

    pub(super) fn handle_shutdown(&mut self) {
        self.end(RoomEndReason::RoomEndServerShutdown, DisconnectReason::ServerShutdown, Action::Reconnect);
    }

    /// Media is gone; clients that join again find the room on another node.
    pub(super) fn handle_node_lost(&mut self) {
        self.end(RoomEndReason::RoomEndSuperseded, DisconnectReason::MediaFailure, Action::Reconnect);
    }

    /// Ends the room for good.
    pub(super) fn finish(&mut self, end: RoomEndReason, reason: DisconnectReason) {
        self.end(end, reason, Action::Disconnect);
    }

    fn end(&mut self, end: RoomEndReason, reason: DisconnectReason, action: Action) {
        let everybody: Vec<ParticipantSid> = self.participants.keys().cloned().collect();
        for sid in everybody {
            if let Some(participant) = self.take_participant(&sid, reason, Some(action)) {
                self.after_removal(&participant);
            }
        }
        self.command(NodeAction::CloseRoom);
        self.webhook_room("room_finished", Some(end));
        let forget = end != RoomEndReason::RoomEndServerShutdown;
        self.outputs.push_back(RoomOutput::Finished { forget });
        self.finished = true;
    }
}
