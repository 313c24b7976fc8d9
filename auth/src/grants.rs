//! What a token's holder may do.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use zynk_protocol::TrackSource;

use crate::claims::null_as_default;

/// Room permissions, the claim `video`.
///
/// Fields that are `None` were absent. Absent is not the same as false: the methods of the same name give
/// what counts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VideoGrants {
    /// May create and delete rooms.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "is_false")]
    pub room_create: bool,
    /// May list rooms.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "is_false")]
    pub room_list: bool,
    /// May start and stop recordings.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "is_false")]
    pub room_record: bool,
    /// May moderate `room`.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "is_false")]
    pub room_admin: bool,
    /// May join `room`.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "is_false")]
    pub room_join: bool,
    /// The room that `room_join` and `room_admin` are about.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub room: String,
    /// See [`VideoGrants::can_publish`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub can_publish: Option<bool>,
    /// See [`VideoGrants::can_subscribe`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub can_subscribe: Option<bool>,
    /// See [`VideoGrants::can_publish_data`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub can_publish_data: Option<bool>,
    /// Sources that may be published (`camera`, `microphone`, `screen_share`, `screen_share_audio`); all when
    /// empty. See [`VideoGrants::can_publish_source`].
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub can_publish_sources: Vec<String>,
    /// See [`VideoGrants::can_update_own_metadata`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub can_update_own_metadata: Option<bool>,
    /// May manage ingress.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "is_false")]
    pub ingress_admin: bool,
    /// Others do not see this participant.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "is_false")]
    pub hidden: bool,
    /// The participant records the room.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "is_false")]
    pub recorder: bool,
    /// The participant is an agent.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "is_false")]
    pub agent: bool,
    /// See [`VideoGrants::can_subscribe_metrics`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub can_subscribe_metrics: Option<bool>,
    /// May manage agent sessions; false when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub can_manage_agent_session: Option<bool>,
    /// The room to which `room_admin` may move participants.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub destination_room: String,
    /// Grants that this version does not know, kept as they are.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

impl VideoGrants {
    /// What an ordinary participant of `room` needs.
    pub fn join(room: impl Into<String>) -> Self {
        Self { room_join: true, room: room.into(), ..Self::default() }
    }

    /// Whether any track may be published: true when absent.
    pub fn can_publish(&self) -> bool {
        self.can_publish.unwrap_or(true)
    }

    /// Whether others' tracks may be received: true when absent.
    pub fn can_subscribe(&self) -> bool {
        self.can_subscribe.unwrap_or(true)
    }

    /// Whether data packets may be sent: as [`VideoGrants::can_publish`] when absent.
    pub fn can_publish_data(&self) -> bool {
        self.can_publish_data.unwrap_or_else(|| self.can_publish())
    }

    /// Whether a track from `source` may be published. A list of sources allows those alone; without one,
    /// every source is allowed. Nothing is, when publishing as such is not.
    pub fn can_publish_source(&self, source: TrackSource) -> bool {
        self.can_publish()
            && (self.can_publish_sources.is_empty()
                || self.can_publish_sources.iter().any(|allowed| names(allowed, source)))
    }

    /// Whether the participant may change its own name, metadata and attributes: false when absent.
    pub fn can_update_own_metadata(&self) -> bool {
        self.can_update_own_metadata.unwrap_or(false)
    }

    /// Whether the participant receives others' metrics: false when absent.
    pub fn can_subscribe_metrics(&self) -> bool {
        self.can_subscribe_metrics.unwrap_or(false)
    }

    /// Whether the participant may manage agent sessions: false when absent.
    pub fn can_manage_agent_session(&self) -> bool {
        self.can_manage_agent_session.unwrap_or(false)
    }

    /// Whether `room` may be moderated: only the very room that the token names.
    pub fn is_admin_of(&self, room: &str) -> bool {
        self.room_admin && !room.is_empty() && self.room == room
    }
}

/// SDKs write sources in lower case, some in the upper case of the protobuf enum.
fn names(allowed: &str, source: TrackSource) -> bool {
    let name = match source {
        TrackSource::Camera => "camera",
        TrackSource::Microphone => "microphone",
        TrackSource::ScreenShare => "screen_share",
        TrackSource::ScreenShareAudio => "screen_share_audio",
        TrackSource::Unknown => "unknown",
    };
    allowed.eq_ignore_ascii_case(name)
}

/// Telephony permissions, the claim `sip`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SipGrants {
    /// May manage trunks and dispatch rules.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "is_false")]
    pub admin: bool,
    /// May make calls.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "is_false")]
    pub call: bool,
    /// Grants that this version does not know.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

/// Permissions on agents, the claim `agent`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AgentGrants {
    /// May manage agents.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "is_false")]
    pub admin: bool,
    /// Grants that this version does not know.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

/// Permissions on inference, the claim `inference`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct InferenceGrants {
    /// May run inference.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "is_false")]
    pub perform: bool,
    /// Grants that this version does not know.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

/// Permissions on observability data, the claim `observability`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ObservabilityGrants {
    /// May write observability data.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "is_false")]
    pub write: bool,
    /// Grants that this version does not know.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

fn is_false(value: &bool) -> bool {
    !*value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_permissions_have_their_defaults() {
        let grants = VideoGrants::join("r");
        assert!(grants.can_publish() && grants.can_subscribe() && grants.can_publish_data());
        assert!(!grants.can_update_own_metadata() && !grants.can_subscribe_metrics());
    }

    #[test]
    fn data_follows_publish_unless_said_otherwise() {
        let mut grants = VideoGrants { can_publish: Some(false), ..VideoGrants::join("r") };
        assert!(!grants.can_publish_data());
        grants.can_publish_data = Some(true);
        assert!(grants.can_publish_data());
    }

    #[test]
    fn sources_restrict_and_publish_rules_all() {
        let mut grants = VideoGrants {
            can_publish_sources: vec!["camera".into(), "SCREEN_SHARE".into()],
            ..VideoGrants::join("r")
        };
        assert!(grants.can_publish_source(TrackSource::Camera));
        assert!(grants.can_publish_source(TrackSource::ScreenShare));
        assert!(!grants.can_publish_source(TrackSource::Microphone));
        assert!(!grants.can_publish_source(TrackSource::Unknown));
        grants.can_publish = Some(false);
        assert!(!grants.can_publish_source(TrackSource::Camera));
    }

    #[test]
    fn admin_is_of_one_room() {
        let grants = VideoGrants { room_admin: true, ..VideoGrants::join("a") };
        assert!(grants.is_admin_of("a"));
        assert!(!grants.is_admin_of("b"));
        assert!(!VideoGrants { room_admin: true, ..VideoGrants::default() }.is_admin_of(""));
    }

    #[test]
    fn unknown_and_null_grants_are_tolerated() {
        let grants: VideoGrants =
            serde_json::from_str(r#"{"roomJoin":true,"room":null,"canPublish":null,"agentThread":{"x":1}}"#)
                .unwrap();
        assert!(grants.room_join && grants.room.is_empty() && grants.can_publish());
        assert!(grants.other.contains_key("agentThread"));
        let text = serde_json::to_string(&grants).unwrap();
        assert_eq!(text, r#"{"roomJoin":true,"agentThread":{"x":1}}"#);
    }
}
