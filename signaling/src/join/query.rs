//! The query parameters of `/rtc`.

use std::collections::HashMap;

use base64::Engine;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;
use zynk_protocol::livekit::{self, client_info::Capability, client_info::Sdk};

use super::{ConnectionMode, JoinError, JoinParams, Resume, SubscribeScope, user_agent};
use crate::config::LimitsConfig;

/// SDKs differ on padding.
pub(super) const BASE64URL: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What `/rtc` and `/rtc/v1` are asked with. Unknown parameters are ignored.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RtcQuery {
    pub(crate) access_token: Option<String>,
    pub(crate) join_request: Option<String>,
    auto_subscribe: Option<String>,
    auto_subscribe_data_track: Option<String>,
    adaptive_stream: Option<String>,
    reconnect: Option<String>,
    sid: Option<String>,
    reconnect_reason: Option<String>,
    publish: Option<String>,
    attributes: Option<String>,
    sdk: Option<String>,
    version: Option<String>,
    protocol: Option<String>,
    client_protocol: Option<String>,
    os: Option<String>,
    os_version: Option<String>,
    browser: Option<String>,
    browser_version: Option<String>,
    device_model: Option<String>,
    network: Option<String>,
    capabilities: Option<String>,
    /// Ours: the region whose relays the client wants. SDKs keep what the URL has that they are given.
    pub(crate) region: Option<String>,
}

impl RtcQuery {
    /// Whether one of LiveKit's SDKs asks: they name themselves, here or in the join request.
    pub(crate) fn is_by_sdk(&self) -> bool {
        self.sdk.is_some() || self.join_request.is_some()
    }

    /// Fills in what the parameters of `/rtc` say. `strict` refuses attributes that cannot be read; they
    /// are otherwise ignored, as LiveKit does where a session is to begin.
    pub(crate) fn apply(
        &self,
        params: &mut JoinParams,
        limits: &LimitsConfig,
        user_agent: &str,
        strict: bool,
    ) -> Result<(), JoinError> {
        params.client = self.client_info(user_agent);
        params.connection = ConnectionMode::Dual;
        params.subscribe = match self.auto_subscribe.as_deref().is_none_or(is_true) {
            true => SubscribeScope::Auto,
            false => SubscribeScope::None,
        };
        params.auto_subscribe_data_tracks = flag(&self.auto_subscribe_data_track);
        params.adaptive_stream = flag(&self.adaptive_stream);
        if flag(&self.reconnect) {
            let reason = self.reconnect_reason.as_deref().and_then(|reason| reason.parse().ok());
            params.resume = Some(Resume {
                participant: self.sid.clone().unwrap_or_default(),
                reason: reason.unwrap_or_default(),
            });
        }
        if let Some(name) = self.publish.as_deref().filter(|name| !name.is_empty()) {
            // The second connection of very old clients: it publishes alone.
            params.identity = zynk_protocol::Identity::new(format!("{}#{name}", params.identity));
            params.permission.can_subscribe = false;
            params.check_identity(limits)?;
        }
        self.apply_attributes(params, strict)
    }

    fn apply_attributes(&self, params: &mut JoinParams, strict: bool) -> Result<(), JoinError> {
        let Some(encoded) = self.attributes.as_deref().filter(|encoded| !encoded.is_empty()) else {
            return Ok(());
        };
        let decoded = BASE64URL
            .decode(encoded)
            .ok()
            .and_then(|json| serde_json::from_slice::<HashMap<String, String>>(&json).ok());
        match decoded {
            Some(attributes) if params.permission.can_update_metadata => {
                params.attributes.extend(attributes);
                Ok(())
            }
            Some(_) => Err(JoinError::unauthorized("attributes_not_allowed", "may not set own attributes")),
            None if strict => Err(JoinError::bad_request("attributes_malformed", "cannot decode attributes")),
            None => Ok(()),
        }
    }

    fn client_info(&self, user_agent: &str) -> livekit::ClientInfo {
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let number = |field: &Option<String>| field.as_deref().and_then(|n| n.parse().ok()).unwrap_or(0);
        let capabilities = text(&self.capabilities)
            .split(',')
            .filter_map(|name| Capability::from_str_name(name.trim()))
            .map(i32::from)
            .collect();
        let mut client = livekit::ClientInfo {
            sdk: sdk(self.sdk.as_deref().unwrap_or_default()).into(),
            version: text(&self.version),
            protocol: number(&self.protocol),
            os: text(&self.os),
            os_version: text(&self.os_version),
            device_model: text(&self.device_model),
            browser: text(&self.browser),
            browser_version: text(&self.browser_version),
            network: text(&self.network),
            client_protocol: number(&self.client_protocol),
            capabilities,
            ..Default::default()
        };
        complete_browser(&mut client, user_agent);
        client
    }
}

/// Only SDKs that run in browsers have a `User-Agent` that tells something.
pub(super) fn complete_browser(client: &mut livekit::ClientInfo, user_agent: &str) {
    if matches!(client.sdk(), Sdk::Js | Sdk::ReactNative | Sdk::UnityWeb | Sdk::Flutter | Sdk::Unknown) {
        user_agent::complete(client, user_agent);
    }
}

fn sdk(name: &str) -> Sdk {
    match name {
        "js" => Sdk::Js,
        "ios" | "swift" => Sdk::Swift,
        "android" => Sdk::Android,
        "flutter" => Sdk::Flutter,
        "go" => Sdk::Go,
        "unity" => Sdk::Unity,
        "reactnative" => Sdk::ReactNative,
        "rust" => Sdk::Rust,
        "python" => Sdk::Python,
        "cpp" => Sdk::Cpp,
        "unityweb" => Sdk::UnityWeb,
        "node" => Sdk::Node,
        "esp32" => Sdk::Esp32,
        _ => Sdk::Unknown,
    }
}

fn flag(field: &Option<String>) -> bool {
    field.as_deref().is_some_and(is_true)
}

fn is_true(value: &str) -> bool {
    matches!(value, "1" | "true")
}
