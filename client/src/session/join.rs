//! How a session says, with its join, what it is and what it wants.

use std::io::Write as _;

use base64::Engine as _;
use flate2::{Compression, write::GzEncoder};
use prost::Message as _;
use zynk_protocol::livekit::{self, client_info, wrapped_join_request};

use super::{PeerConnections, SessionConfig};

/// The version of LiveKit's signal protocol that the session speaks.
const PROTOCOL: i32 = 16;

/// Everything a join carries.
pub(super) fn join_request(
    config: &SessionConfig,
    offer: Option<livekit::SessionDescription>,
) -> livekit::JoinRequest {
    livekit::JoinRequest {
        client_info: Some(livekit::ClientInfo {
            sdk: i32::from(client_info::Sdk::Rust),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            protocol: PROTOCOL,
            ..livekit::ClientInfo::default()
        }),
        connection_settings: Some(livekit::ConnectionSettings {
            auto_subscribe: config.auto_subscribe,
            adaptive_stream: config.adaptive_stream,
            ..livekit::ConnectionSettings::default()
        }),
        publisher_offer: offer,
        ..livekit::JoinRequest::default()
    }
}

/// Path and query of the WebSocket, relative to the server's base URL. The token is not in it: it belongs
/// into the header `Authorization`, where logs do not see it.
pub(super) fn signal_path(config: &SessionConfig, request: &livekit::JoinRequest) -> String {
    match config.connections {
        PeerConnections::Single => format!("rtc/v1?join_request={}", wrap(request)),
        PeerConnections::Dual => format!(
            "rtc?sdk=rust&version={}&protocol={PROTOCOL}&auto_subscribe={}&adaptive_stream={}",
            env!("CARGO_PKG_VERSION"),
            u8::from(config.auto_subscribe),
            u8::from(config.adaptive_stream),
        ),
    }
}

fn wrap(request: &livekit::JoinRequest) -> String {
    let plain = request.encode_to_vec();
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    let zipped = encoder.write_all(&plain).and_then(|()| encoder.finish()).ok();
    let wrapped = match zipped {
        Some(zipped) if zipped.len() < plain.len() => livekit::WrappedJoinRequest {
            compression: i32::from(wrapped_join_request::Compression::Gzip),
            join_request: zipped,
        },
        _ => livekit::WrappedJoinRequest {
            compression: i32::from(wrapped_join_request::Compression::None),
            join_request: plain,
        },
    };
    base64::engine::general_purpose::URL_SAFE.encode(wrapped.encode_to_vec())
}
