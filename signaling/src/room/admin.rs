//! Requests of the server API.

use std::collections::HashMap;

use prost::Message as _;
use zynk_protocol::livekit::data_packet::Value;
use zynk_protocol::livekit::leave_request::Action;
use zynk_protocol::livekit::{self, DisconnectReason, RoomEndReason, signal_response};
use zynk_protocol::{DataKind, Identity, ParticipantSid};

use super::data::{Audience, MESSAGE_BYTES_MAX};
use super::metadata::check_limits;
use super::{ReplyId, Room, RoomOutput};
use crate::admin::{AdminError, AdminRequest, AdminResponse};

/// Length of a nonce.
const NONCE_BYTES: usize = 16;

const NO_PARTICIPANT: AdminError = AdminError::NotFound("participant does not exist");

impl Room {
    pub(super) fn handle_admin(&mut self, reply: ReplyId, request: AdminRequest) {
        let result = match request {
            AdminRequest::ListParticipants => Ok(AdminResponse::Participants(
                self.participants.values().map(|participant| participant.info()).collect(),
            )),
            AdminRequest::GetParticipant(identity) => {
                let info = self.by_identity(&identity).map(|participant| participant.info());
                info.map(AdminResponse::Participant).ok_or(NO_PARTICIPANT)
            }
            AdminRequest::RemoveParticipant(identity) => self.admin_remove(&identity),
            AdminRequest::MutePublishedTrack { identity, track, muted } => {
                self.admin_mute(&identity, &track, muted)
            }
            AdminRequest::UpdateParticipant(request) => self.admin_update_participant(request),
            AdminRequest::UpdateSubscriptions(request) => self.admin_update_subscriptions(request),
            AdminRequest::SendData(request) => self.admin_send_data(request),
            AdminRequest::UpdateRoomMetadata { metadata } => self.admin_room_metadata(metadata),
            AdminRequest::SendElsewhere { identity, destination } => {
                self.admin_send_elsewhere(&identity, &destination)
            }
            AdminRequest::PerformRpc(request) => return self.perform_rpc(reply, request),
            AdminRequest::Stats => return self.collect_stats(reply),
            AdminRequest::UpdateRoom(request) => self.admin_update_room(request),
            AdminRequest::Describe => Ok(AdminResponse::Room(self.room_info())),
            AdminRequest::DeleteRoom => {
                let result = Ok(AdminResponse::Done);
                self.outputs.push_back(RoomOutput::AdminReply { reply, result });
                return self.finish(RoomEndReason::RoomEndApiDelete, DisconnectReason::RoomDeleted);
            }
        };
        self.outputs.push_back(RoomOutput::AdminReply { reply, result });
    }

    fn sid_of(&self, identity: &Identity) -> Result<ParticipantSid, AdminError> {
        self.identities.get(identity).cloned().ok_or(NO_PARTICIPANT)
    }

    fn admin_remove(&mut self, identity: &Identity) -> Result<AdminResponse, AdminError> {
        let sid = self.sid_of(identity)?;
        self.remove_participant(&sid, DisconnectReason::ParticipantRemoved, Some(Action::Disconnect));
        Ok(AdminResponse::Done)
    }

    fn admin_mute(
        &mut self,
        identity: &Identity,
        track: &str,
        muted: bool,
    ) -> Result<AdminResponse, AdminError> {
        let sid = self.sid_of(identity)?;
        if !muted && !self.settings.config.room.enable_remote_unmute {
            return Err(AdminError::FailedPrecondition("remote unmute not enabled"));
        }
        let info = self.set_muted(&sid, track, muted);
        if info.is_some() {
            let request = livekit::MuteTrackRequest { sid: track.to_owned(), muted };
            self.tell(&sid, signal_response::Message::Mute(request));
        }
        Ok(AdminResponse::Track(info))
    }

    fn admin_update_participant(
        &mut self,
        request: livekit::UpdateParticipantRequest,
    ) -> Result<AdminResponse, AdminError> {
        let sid = self.sid_of(&Identity::new(request.identity))?;
        let limits = &self.settings.config.limits;
        check_limits(limits, &request.name, &request.metadata, &HashMap::new())
            .map_err(|limit| AdminError::InvalidArgument(limit.to_owned()))?;
        self.check_attributes(&sid, &request.attributes)?;
        if let Some(permission) = request.permission {
            self.replace_permission(&sid, permission);
        }
        self.update_metadata(&sid, &request.name, &request.metadata, &request.attributes)
            .map_err(|limit| AdminError::InvalidArgument(limit.to_owned()))?;
        let info = self.participants.get(&sid).map(|participant| participant.info());
        info.map(AdminResponse::Participant).ok_or(NO_PARTICIPANT)
    }

    /// Checks the limit before anything is changed.
    fn check_attributes(
        &self,
        sid: &ParticipantSid,
        changes: &HashMap<String, String>,
    ) -> Result<(), AdminError> {
        let Some(participant) = self.participants.get(sid) else { return Err(NO_PARTICIPANT) };
        let mut merged = participant.attributes.clone();
        merged.extend(changes.iter().map(|(key, value)| (key.clone(), value.clone())));
        merged.retain(|_, value| !value.is_empty());
        check_limits(&self.settings.config.limits, "", "", &merged)
            .map_err(|limit| AdminError::InvalidArgument(limit.to_owned()))
    }

    fn admin_update_subscriptions(
        &mut self,
        request: livekit::UpdateSubscriptionsRequest,
    ) -> Result<AdminResponse, AdminError> {
        let sid = self.sid_of(&Identity::new(request.identity))?;
        let update = livekit::UpdateSubscription {
            track_sids: request.track_sids,
            subscribe: request.subscribe,
            participant_tracks: request.participant_tracks,
        };
        self.handle_subscription(&sid, &update);
        Ok(AdminResponse::Done)
    }

    fn admin_send_data(&mut self, request: livekit::SendDataRequest) -> Result<AdminResponse, AdminError> {
        if !request.nonce.is_empty() && request.nonce.len() != NONCE_BYTES {
            return Err(AdminError::InvalidArgument("nonce must have 16 bytes".into()));
        }
        let kind = match request.kind() {
            livekit::data_packet::Kind::Reliable => DataKind::Reliable,
            livekit::data_packet::Kind::Lossy => DataKind::Lossy,
        };
        let audience = Audience {
            identities: request.destination_identities.clone(),
            sids: request.destination_sids.clone(),
            ..Default::default()
        };
        let packet = livekit::DataPacket {
            kind: request.kind,
            destination_identities: request.destination_identities.clone(),
            value: Some(Value::User(livekit::UserPacket {
                payload: request.data,
                destination_sids: request.destination_sids,
                destination_identities: request.destination_identities,
                topic: request.topic,
                nonce: request.nonce,
                ..Default::default()
            })),
            ..Default::default()
        };
        if packet.encoded_len() > MESSAGE_BYTES_MAX {
            let message = format!("data exceeds {MESSAGE_BYTES_MAX} bytes with its headers");
            return Err(AdminError::InvalidArgument(message));
        }
        self.send_packet(kind, audience, &packet);
        Ok(AdminResponse::Done)
    }

    fn admin_room_metadata(&mut self, metadata: String) -> Result<AdminResponse, AdminError> {
        if metadata.len() > self.settings.config.limits.metadata_bytes_max {
            return Err(AdminError::InvalidArgument("exceeds metadata size limit".into()));
        }
        self.settings.record.metadata = metadata;
        self.persist();
        self.send_room_update();
        Ok(AdminResponse::Room(self.room_info()))
    }

    /// Takes over what is set, as a second CreateRoom does.
    fn admin_update_room(
        &mut self,
        request: livekit::CreateRoomRequest,
    ) -> Result<AdminResponse, AdminError> {
        if request.metadata.len() > self.settings.config.limits.metadata_bytes_max {
            return Err(AdminError::InvalidArgument("exceeds metadata size limit".into()));
        }
        let before = self.settings.record.clone();
        crate::placement::apply_create_request(&mut self.settings.record, &request);
        if before != self.settings.record {
            self.persist();
            self.send_room_update();
        }
        Ok(AdminResponse::Room(self.room_info()))
    }
}
