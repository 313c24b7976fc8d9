//! Names, metadata, attributes and permissions, and the tokens that carry them.

use std::collections::HashMap;
use std::sync::Arc;

use zynk_auth::Claims;
use zynk_protocol::ParticipantSid;
use zynk_protocol::livekit::request_response::{Reason, Request};
use zynk_protocol::livekit::{self, signal_response};

use super::Room;
use super::join::TOKEN_REFRESH_INTERVAL;
use super::participant::Participant;
use crate::config::LimitsConfig;
use crate::join::JoinParams;

/// From this protocol number on, clients expect an answer to what went well, too.
const ANSWER_PROTOCOL: i32 = 15;

/// Longest fresh token. Clients put it in the query, next to a description: what makes it longer is left out.
const FRESH_TOKEN_BYTES_MAX: usize = 16 * 1024;

/// The private claim of a fresh token without metadata and attributes: the room keeps them.
const KEPT_CLAIM: &str = "zynkTextsKept";

/// Who is sent no fresh tokens has no use for claims, but for the one that the room keeps texts.
pub(super) fn claims_to_keep(claims: Option<Arc<Claims>>, is_refreshed: bool) -> Option<Arc<Claims>> {
    claims.filter(|claims| is_refreshed || claims.other.contains_key(KEPT_CLAIM))
}

impl Room {
    /// Gives somebody who joins with a fresh token back what did not fit into it.
    pub(super) fn restore_texts(&self, params: &mut JoinParams) {
        if !params.claims.as_ref().is_some_and(|claims| claims.other.contains_key(KEPT_CLAIM)) {
            return;
        }
        let present = self.by_identity(&params.identity).map(|old| (&old.metadata, &old.attributes));
        let Some((metadata, attributes)) = present.or_else(|| self.departed.texts(&params.identity)) else {
            return;
        };
        if params.metadata.is_empty() {
            params.metadata.clone_from(metadata);
        }
        for (key, value) in attributes {
            params.attributes.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }

    /// Keeps what somebody who leaves cannot bring back by its token.
    pub(super) fn keep_texts(&mut self, participant: &Participant) {
        if participant.claims.as_ref().is_some_and(|claims| claims.other.contains_key(KEPT_CLAIM)) {
            let identity = participant.identity.clone();
            let texts = (participant.metadata.clone(), participant.attributes.clone());
            self.departed.keep_texts(identity, texts);
        }
    }

    pub(super) fn handle_update_metadata(
        &mut self,
        sid: &ParticipantSid,
        request: livekit::UpdateParticipantMetadata,
    ) {
        let Some(participant) = self.participants.get(sid) else { return };
        let (allowed, protocol) = (participant.permission.can_update_metadata, participant.protocol());
        let result = match allowed {
            true => self
                .update_metadata(sid, &request.name, &request.metadata, &request.attributes)
                .map_err(|message| (Reason::LimitExceeded, message)),
            false => Err((Reason::NotAllowed, "may not update own metadata")),
        };
        let (reason, message) = match result {
            Ok(()) if protocol < ANSWER_PROTOCOL => return,
            Ok(()) => (Reason::Ok, ""),
            Err(refusal) => refusal,
        };
        let request_id = request.request_id;
        self.respond(sid, request_id, reason, message, Some(Request::UpdateMetadata(request)));
    }

    /// Changes what is not empty; an attribute of empty value is deleted. The error says which limit is
    /// exceeded; then nothing has changed.
    pub(super) fn update_metadata(
        &mut self,
        sid: &ParticipantSid,
        name: &str,
        metadata: &str,
        attributes: &HashMap<String, String>,
    ) -> Result<(), &'static str> {
        let Some(participant) = self.participants.get_mut(sid) else { return Ok(()) };
        let mut merged = participant.attributes.clone();
        for (key, value) in attributes {
            match value.is_empty() {
                true => merged.remove(key),
                false => merged.insert(key.clone(), value.clone()),
            };
        }
        check_limits(&self.settings.config.limits, name, metadata, &merged)?;
        if !name.is_empty() {
            name.clone_into(&mut participant.name);
        }
        if !metadata.is_empty() {
            metadata.clone_into(&mut participant.metadata);
        }
        participant.attributes = merged;
        self.participant_changed(sid, true);
        self.refresh_token(sid);
        Ok(())
    }

    /// Replaces the whole permission. Does not tell anybody yet.
    pub(super) fn replace_permission(
        &mut self,
        sid: &ParticipantSid,
        permission: livekit::ParticipantPermission,
    ) {
        let Some(participant) = self.participants.get_mut(sid) else { return };
        let could_subscribe = participant.permission.can_subscribe;
        let can_subscribe = permission.can_subscribe;
        let can_publish_data = permission.can_publish_data;
        participant.permission = permission;
        self.revoke_tracks(sid);
        if !can_publish_data {
            self.drop_data_tracks_of(sid);
        }
        match (could_subscribe, can_subscribe) {
            (true, false) => {
                self.unsubscribe_from_all(sid);
                self.unsubscribe_from_data_tracks(sid);
            }
            (false, true) => self.subscribe_to_existing(sid),
            _ => {}
        }
    }

    /// Sends a fresh token that says what holds now, so that the client can come back after its first one
    /// has expired.
    pub(super) fn refresh_token(&mut self, sid: &ParticipantSid) {
        if let Some(token) = self.fresh_token(sid) {
            self.tell(sid, signal_response::Message::RefreshToken(token));
        }
    }

    /// Such a token, which is to be sent now.
    pub(super) fn fresh_token(&mut self, sid: &ParticipantSid) -> Option<String> {
        let at = self.system_time();
        let due = self.now + TOKEN_REFRESH_INTERVAL;
        let participant = self.participants.get_mut(sid)?;
        participant.refresh_deadline = None;
        let claims = participant.claims.as_ref().filter(|_| participant.follows_room)?;
        participant.refresh_deadline = Some(due);
        let mut claims = Claims::clone(claims);
        claims.other.remove(KEPT_CLAIM);
        claims.name.clone_from(&participant.name);
        claims.metadata.clone_from(&participant.metadata);
        claims.attributes =
            participant.attributes.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        set_grants(&mut claims.video, &participant.permission);
        let mut token = self.settings.keys.refresh(&claims, at);
        if token.as_ref().is_ok_and(|token| token.len() > FRESH_TOKEN_BYTES_MAX) {
            // The room knows them, and gives them back when the participant joins anew.
            claims.metadata.clear();
            claims.attributes.clear();
            claims.other.insert(KEPT_CLAIM.to_owned(), true.into());
            token = self.settings.keys.refresh(&claims, at);
        }
        match token {
            Ok(token) => {
                participant.claims = Some(Arc::new(claims));
                Some(token)
            }
            Err(error) => {
                tracing::warn!(%error, "no token for a participant");
                None
            }
        }
    }
}

/// Checks sizes; the error is what LiveKit's clients are told.
pub(crate) fn check_limits(
    limits: &LimitsConfig,
    name: &str,
    metadata: &str,
    attributes: &HashMap<String, String>,
) -> Result<(), &'static str> {
    let attributes_bytes: usize = attributes.iter().map(|(key, value)| key.len() + value.len()).sum();
    if name.len() > limits.identity_bytes_max {
        Err("exceeds name length limit")
    } else if metadata.len() > limits.metadata_bytes_max {
        Err("exceeds metadata size limit")
    } else if attributes_bytes > limits.attributes_bytes_max {
        Err("exceeds attributes size limit")
    } else {
        Ok(())
    }
}

fn set_grants(grants: &mut zynk_auth::VideoGrants, permission: &livekit::ParticipantPermission) {
    grants.can_publish = Some(permission.can_publish);
    grants.can_subscribe = Some(permission.can_subscribe);
    grants.can_publish_data = Some(permission.can_publish_data);
    grants.can_update_own_metadata = Some(permission.can_update_metadata);
    grants.can_subscribe_metrics = Some(permission.can_subscribe_metrics);
    grants.hidden = permission.hidden;
    grants.recorder = permission.recorder;
    grants.agent = permission.agent;
    grants.can_publish_sources = permission
        .can_publish_sources
        .iter()
        .map(|source| livekit::TrackSource::try_from(*source).unwrap_or(livekit::TrackSource::Unknown))
        .map(|source| source.as_str_name().to_ascii_lowercase())
        .collect();
}
