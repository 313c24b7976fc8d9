//! What a token says.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Deserializer, Serialize};

use crate::{AgentGrants, InferenceGrants, ObservabilityGrants, SipGrants, VideoGrants};

/// The claims of an access token.
///
/// `iss`, `iat`, `nbf` and `exp` are set by [`crate::KeyRing::sign`]; what they hold before does not matter.
/// Claims that this version does not know are kept in `other`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Claims {
    /// The API key that signed (`iss`).
    #[serde(rename = "iss", deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub issuer: String,
    /// Who the token is for (`sub`). After [`crate::KeyRing::verify`] it is never emptier than `jti`.
    #[serde(rename = "sub", deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub identity: String,
    /// The token's own id (`jti`); older SDKs put the identity here and leave `sub` out.
    #[serde(rename = "jti", deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// When it was signed (`iat`). Not checked.
    #[serde(rename = "iat", deserialize_with = "numeric_date", skip_serializing_if = "Option::is_none")]
    pub issued_at_s: Option<u64>,
    /// From when on it is valid (`nbf`).
    #[serde(rename = "nbf", deserialize_with = "numeric_date", skip_serializing_if = "Option::is_none")]
    pub not_before_s: Option<u64>,
    /// Until when it is valid (`exp`).
    #[serde(rename = "exp", deserialize_with = "numeric_date", skip_serializing_if = "Option::is_none")]
    pub expires_at_s: Option<u64>,
    /// Name to show to others.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// `standard`, `ingress`, `egress`, `sip`, `agent`, `connector` or `bridge`; empty means standard.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Details of `kind`.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub kind_details: Vec<String>,
    /// The participant's metadata at its join.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub metadata: String,
    /// The participant's attributes at its join.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
    /// Room permissions.
    #[serde(deserialize_with = "null_as_default")]
    pub video: VideoGrants,
    /// Telephony permissions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sip: Option<SipGrants>,
    /// Permissions on agents.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentGrants>,
    /// Permissions on inference.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inference: Option<InferenceGrants>,
    /// Permissions on observability data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observability: Option<ObservabilityGrants>,
    /// How to create the room if this participant is its first: proto3 JSON of `livekit.RoomConfiguration`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub room_config: Option<serde_json::Value>,
    /// A named room configuration.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub room_preset: String,
    /// Standard base64 of a body's SHA-256, in the tokens of webhooks.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub sha256: String,
    /// Claims that this version does not know, kept as they are.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

impl Claims {
    /// Claims of a participant, without any grant yet.
    pub fn for_identity(identity: impl Into<String>) -> Self {
        Self { identity: identity.into(), ..Self::default() }
    }

    /// When the token ends; none if it does not say.
    pub fn expires_at(&self) -> Option<SystemTime> {
        self.expires_at_s.and_then(|at| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(at)))
    }

    /// What is left of the token's life at `now`, 0 when it is over.
    pub fn remaining_life(&self, now: SystemTime) -> Duration {
        self.expires_at().and_then(|end| end.duration_since(now).ok()).unwrap_or_default()
    }
}

/// Go's encoder, and some SDKs, write `null` for what is unset.
pub(crate) fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// A NumericDate (RFC 7519, section 2) in whole seconds: fractions are allowed, and cut off. Dates before
/// 1970 are taken as 1970.
fn numeric_date<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let date = Option::<serde_json::Number>::deserialize(deserializer)?;
    Ok(match date {
        None => None,
        Some(number) => match (number.as_u64(), number.as_f64()) {
            (Some(seconds), _) => Some(seconds),
            // A cast from a float saturates, so that negative dates become 0 and huge ones the maximum.
            (None, Some(seconds)) => Some(seconds as u64),
            (None, None) => None,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_may_have_fractions_and_nulls() {
        let claims: Claims = serde_json::from_str(r#"{"exp":12.9,"nbf":-3,"iat":null}"#).unwrap();
        assert_eq!((claims.expires_at_s, claims.not_before_s, claims.issued_at_s), (Some(12), Some(0), None));
        assert!(serde_json::from_str::<Claims>(r#"{"exp":"tomorrow"}"#).is_err());
    }

    #[test]
    fn names_are_those_of_the_wire() {
        let mut claims = Claims::for_identity("alice");
        claims.room_preset = "p".into();
        claims.kind_details = vec!["a".into()];
        claims.video = VideoGrants::join("r");
        let value = serde_json::to_value(&claims).unwrap();
        assert_eq!(
            value,
            serde_json::json!({"sub": "alice", "roomPreset": "p", "kindDetails": ["a"],
                "video": {"roomJoin": true, "room": "r"}})
        );
    }

    #[test]
    fn unknown_claims_survive_a_round_trip() {
        let text = r#"{"sub":"a","video":{},"futureClaim":{"deep":[1,2]}}"#;
        let claims: Claims = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&claims).unwrap(), text);
    }
}
