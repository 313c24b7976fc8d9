//! The parameter `join_request` of `/rtc/v1`.

use std::io::Read;

use base64::Engine;
use flate2::read::GzDecoder;
use prost::Message;
use zynk_protocol::livekit::{JoinRequest, WrappedJoinRequest, wrapped_join_request::Compression};

use super::query::{BASE64URL, complete_browser};
use super::{ConnectionMode, JoinError, JoinParams, Resume, SubscribeScope};

/// Decodes a wrapped request of at most `max` bytes after inflation.
pub(crate) fn decode(encoded: &str, max: usize) -> Result<JoinRequest, JoinError> {
    let malformed = |what: &str| JoinError::bad_request("join_request_malformed", what);
    let bytes = BASE64URL.decode(encoded).map_err(|_| malformed("cannot decode join request (base64)"))?;
    let wrapped =
        WrappedJoinRequest::decode(&bytes[..]).map_err(|_| malformed("cannot decode join request"))?;
    let inner = match wrapped.compression() {
        Compression::None => wrapped.join_request,
        Compression::Gzip => inflate(&wrapped.join_request, max)?,
    };
    if inner.len() > max {
        return Err(too_large());
    }
    JoinRequest::decode(&inner[..]).map_err(|_| malformed("cannot decode join request"))
}

fn inflate(compressed: &[u8], max: usize) -> Result<Vec<u8>, JoinError> {
    let mut inflated = Vec::new();
    let limit = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    GzDecoder::new(compressed)
        .take(limit)
        .read_to_end(&mut inflated)
        .map_err(|_| JoinError::bad_request("join_request_malformed", "cannot decode join request (gzip)"))?;
    if inflated.len() > max {
        return Err(too_large());
    }
    Ok(inflated)
}

fn too_large() -> JoinError {
    JoinError::bad_request("join_request_too_large", "join request too large")
}

/// Fills in what a request says.
pub(crate) fn apply(
    request: JoinRequest,
    params: &mut JoinParams,
    user_agent: &str,
) -> Result<(), JoinError> {
    let sets_own = !request.metadata.is_empty() || !request.participant_attributes.is_empty();
    if sets_own && !params.permission.can_update_metadata {
        let message = "may not set own metadata or attributes";
        return Err(JoinError::unauthorized("metadata_not_allowed", message));
    }
    if !request.metadata.is_empty() {
        params.metadata = request.metadata;
    }
    params.attributes.extend(request.participant_attributes);
    params.client = request.client_info.unwrap_or_default();
    complete_browser(&mut params.client, user_agent);
    params.connection = ConnectionMode::Single;
    let settings = request.connection_settings.unwrap_or_default();
    params.subscribe = match settings.auto_subscribe {
        true => SubscribeScope::Auto,
        false => SubscribeScope::None,
    };
    params.auto_subscribe_data_tracks = settings.auto_subscribe_data_track.unwrap_or_default();
    params.adaptive_stream = settings.adaptive_stream;
    params.add_tracks = request.add_track_requests;
    params.offer = request.publisher_offer;
    params.sync_state = request.sync_state;
    let resume = Resume { participant: request.participant_sid, reason: request.reconnect_reason };
    params.resume = request.reconnect.then_some(resume);
    Ok(())
}
