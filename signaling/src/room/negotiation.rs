//! Descriptions and candidates between client and node, and what becomes of the connections.

use std::collections::HashMap;
use std::time::Duration;

use serde::Deserialize;
use zynk_protocol::livekit::leave_request::Action;
use zynk_protocol::livekit::participant_info::State;
use zynk_protocol::livekit::request_response::{Reason, Request};
use zynk_protocol::livekit::{self, DisconnectReason, signal_response};
use zynk_protocol::{
    ConnectionId, ConnectionState, MidTrack, NegotiationFailure, NodeAction, ParticipantSid, SDP_BYTES_MAX,
    SectionCount,
};

use super::leave::leave_message;
use super::{Room, RoomOutput};
use crate::join::ConnectionMode;

/// How long a participant stays after its transport failed, in case that it comes back.
const FAILED_TIMEOUT: Duration = Duration::from_secs(5);

/// The part of `RTCIceCandidateInit` that matters: all media is on one transport.
#[derive(Deserialize)]
struct CandidateInit {
    #[serde(default)]
    candidate: String,
}

/// Candidates of a client for a connection between two descriptions. Further ones are ignored.
pub(super) const CANDIDATES_MAX: usize = 128;

/// Longest candidate, in bytes. A longer one is ignored.
const CANDIDATE_BYTES_MAX: usize = 1024;

/// What is under way on a participant's connections, so that the node is asked one thing at a time.
#[derive(Debug, Default)]
pub(super) struct Negotiation {
    /// The node has not answered the client's last offer yet.
    offered: bool,
    /// The client's newest offer, while the node answers an earlier one. One that waited before is replaced:
    /// its client has taken it back.
    waiting: Option<livekit::SessionDescription>,
    /// The node's offer that the client has not answered yet.
    to_answer: Option<u32>,
    /// Candidates since the last description, at most [`CANDIDATES_MAX`] for each connection.
    candidates: HashMap<ConnectionId, usize>,
}

impl Negotiation {
    /// Whether one more candidate may go to the node.
    fn take_candidate(&mut self, connection: ConnectionId) -> bool {
        let taken = self.candidates.entry(connection).or_default();
        *taken += 1;
        *taken <= CANDIDATES_MAX
    }
}

impl Room {
    pub(super) fn handle_offer(&mut self, sid: &ParticipantSid, offer: livekit::SessionDescription) {
        if offer.sdp.len() > SDP_BYTES_MAX {
            return self.refuse_description(sid);
        }
        let Some(participant) = self.participants.get_mut(sid) else { return };
        let (connection, negotiation) = (participant.publisher.id, &mut participant.negotiation);
        if negotiation.offered {
            negotiation.waiting = Some(offer);
            return;
        }
        negotiation.offered = true;
        negotiation.candidates.remove(&connection);
        self.command(NodeAction::RemoteOffer { connection, offer_id: offer.id, sdp: offer.sdp });
    }

    /// The node is done with the client's offer: the next one may come.
    fn offer_done(&mut self, sid: &ParticipantSid) {
        let Some(participant) = self.participants.get_mut(sid) else { return };
        participant.negotiation.offered = false;
        if let Some(offer) = participant.negotiation.waiting.take() {
            self.handle_offer(sid, offer);
        }
    }

    pub(super) fn handle_answer(&mut self, sid: &ParticipantSid, answer: livekit::SessionDescription) {
        if answer.sdp.len() > SDP_BYTES_MAX {
            return self.refuse_description(sid);
        }
        // Only downstream connections of dual mode have offers to answer.
        let Some(participant) = self.participants.get_mut(sid) else { return };
        let Some(connection) = participant.subscriber else { return };
        let (connection, offer_id) = (connection.id, answer.id);
        // One answer for each offer; clients that do not count say 0.
        if participant.negotiation.to_answer.take_if(|id| offer_id == 0 || *id == offer_id).is_some() {
            self.command(NodeAction::RemoteAnswer { connection, offer_id, sdp: answer.sdp });
        }
    }

    /// Ends the session of a client whose description is too large: it would only offer the same again.
    fn refuse_description(&mut self, sid: &ParticipantSid) {
        let message = format!("the description is too large: at most {SDP_BYTES_MAX} bytes");
        self.respond(sid, 0, Reason::InvalidRequest, &message, None);
        self.remove_participant(sid, DisconnectReason::MediaFailure, Some(Action::Disconnect));
    }

    pub(super) fn handle_trickle(&mut self, sid: &ParticipantSid, trickle: livekit::TrickleRequest) {
        let Some(participant) = self.participants.get_mut(sid) else { return };
        let connection = match (trickle.target(), participant.subscriber) {
            (livekit::SignalTarget::Subscriber, Some(subscriber)) => subscriber.id,
            (livekit::SignalTarget::Subscriber, None) if participant.mode == ConnectionMode::Dual => return,
            _ => participant.publisher.id,
        };
        let Ok(init) = serde_json::from_str::<CandidateInit>(&trickle.candidate_init) else {
            let message = "candidateInit is not the JSON of a candidate";
            let echo = Some(Request::Trickle(trickle));
            return self.respond(sid, 0, Reason::UnclassifiedError, message, echo);
        };
        // An empty candidate ends the list; names of mDNS cannot be resolved here.
        let is_usable = !init.candidate.is_empty()
            && init.candidate.len() <= CANDIDATE_BYTES_MAX
            && !init.candidate.contains(".local ");
        if is_usable && participant.negotiation.take_candidate(connection) {
            self.command(NodeAction::RemoteCandidate { connection, candidate: init.candidate });
        }
    }

    pub(super) fn node_answered(
        &mut self,
        connection: ConnectionId,
        offer_id: u32,
        sdp: String,
        mid_tracks: Vec<MidTrack>,
        missing: SectionCount,
    ) {
        let Some(sid) = self.connections.get(&connection).cloned() else { return };
        let answer = description("answer", offer_id, sdp, mid_tracks);
        self.tell(&sid, signal_response::Message::Answer(answer));
        if missing != SectionCount::default() {
            self.require_sections(&sid, missing);
        }
        self.offer_done(&sid);
    }

    pub(super) fn node_offered(
        &mut self,
        connection: ConnectionId,
        offer_id: u32,
        sdp: String,
        mid_tracks: Vec<MidTrack>,
    ) {
        let Some(sid) = self.connections.get(&connection).cloned() else { return };
        if let Some(participant) = self.participants.get_mut(&sid) {
            participant.negotiation.to_answer = Some(offer_id);
            participant.negotiation.candidates.remove(&connection);
        }
        let offer = description("offer", offer_id, sdp, mid_tracks);
        self.tell(&sid, signal_response::Message::Offer(offer));
    }

    pub(super) fn node_needs_negotiation(&mut self, connection: ConnectionId, missing: SectionCount) {
        if let Some(sid) = self.connections.get(&connection).cloned() {
            self.require_sections(&sid, missing);
        }
    }

    /// Asks a client that makes the offers to add sections; 0 of each just asks for an offer.
    fn require_sections(&mut self, sid: &ParticipantSid, missing: SectionCount) {
        let is_single = self.participants.get(sid).is_some_and(|p| p.mode == ConnectionMode::Single);
        if is_single {
            let requirement =
                livekit::MediaSectionsRequirement { num_audios: missing.audio, num_videos: missing.video };
            self.tell(sid, signal_response::Message::MediaSectionsRequirement(requirement));
        }
    }

    pub(super) fn node_negotiation_failed(&mut self, connection: ConnectionId, failure: &NegotiationFailure) {
        let Some(sid) = self.connections.get(&connection).cloned() else { return };
        tracing::info!(participant = %sid, %failure, "negotiation failed");
        match failure {
            NegotiationFailure::Closed => self.offer_done(&sid),
            NegotiationFailure::Timeout { .. } => {
                self.remove_participant(&sid, DisconnectReason::StateMismatch, Some(Action::Reconnect));
            }
            // Offering the same again would fail again: the client is told why, and not to come back.
            _ => {
                self.respond(&sid, 0, Reason::InvalidRequest, &failure.to_string(), None);
                self.remove_participant(&sid, DisconnectReason::MediaFailure, Some(Action::Disconnect));
            }
        }
    }

    pub(super) fn connection_changed(&mut self, id: ConnectionId, state: ConnectionState) {
        let Some(sid) = self.connections.get(&id).cloned() else { return };
        let Some(participant) = self.participants.get_mut(&sid) else { return };
        let Some(connection) = participant.connection_mut(id) else { return };
        let before = connection.state.replace(state);
        let is_primary = participant.primary().id == id;
        match state {
            ConnectionState::Connected => {
                if is_primary {
                    participant.close_deadline = None;
                    self.became_active(&sid);
                }
            }
            ConnectionState::Disconnected => self.media_silent(&sid),
            // A connection that was never used fails when the client does not need it.
            ConnectionState::Failed | ConnectionState::Closed if !is_primary && before.is_none() => {}
            ConnectionState::Failed => self.transport_failed(&sid),
            ConnectionState::Closed => self.transport_closed(&sid),
        }
    }

    fn became_active(&mut self, sid: &ParticipantSid) {
        if !self.raise_state(sid, State::Active) {
            return;
        }
        let Some(participant) = self.participants.get_mut(sid) else { return };
        participant.active_deadline = None;
        let waited = self.now.saturating_duration_since(participant.joined_at);
        self.outputs.push_back(RoomOutput::ParticipantConnected { waited });
        self.participant_changed(sid, false);
        if let Some(info) = self.participants.get(sid).map(|participant| participant.info()) {
            self.webhook_participant("participant_joined", info);
        }
        self.subscribe_to_existing(sid);
        self.start_live_data(sid);
    }

    fn transport_failed(&mut self, sid: &ParticipantSid) {
        let Some(participant) = self.participants.get_mut(sid) else { return };
        if !participant.resumable {
            return self.remove_participant(
                sid,
                DisconnectReason::ConnectionTimeout,
                Some(Action::Disconnect),
            );
        }
        participant.close_deadline.get_or_insert(self.now + FAILED_TIMEOUT);
        let session = participant.session;
        self.tell(sid, leave_message(DisconnectReason::ConnectionTimeout, Action::Resume));
        if let Some(session) = session {
            self.sessions.remove(&session);
            self.outputs.push_back(RoomOutput::CloseSession { session });
        }
        if let Some(participant) = self.participants.get_mut(sid) {
            participant.session = None;
        }
    }

    /// The client closed the connection: its Leave is on the way, or it is gone.
    fn transport_closed(&mut self, sid: &ParticipantSid) {
        let Some(participant) = self.participants.get_mut(sid) else { return };
        if participant.resumable {
            participant.close_deadline.get_or_insert(self.now + FAILED_TIMEOUT);
        } else {
            self.remove_participant(sid, DisconnectReason::ClientInitiated, Some(Action::Disconnect));
        }
    }
}

fn description(kind: &str, id: u32, sdp: String, mid_tracks: Vec<MidTrack>) -> livekit::SessionDescription {
    let mid_to_track_id: HashMap<String, String> =
        mid_tracks.into_iter().map(|entry| (entry.mid, entry.track.into_string())).collect();
    livekit::SessionDescription { r#type: kind.to_owned(), sdp, id, mid_to_track_id }
}
