//! `GET /settings/regions`: where clients may connect to, nearest first, in the words of LiveKit's SDKs. They ask it of
//! LiveKit's cloud alone; of this server, who wants to choose a region asks it by itself.

use std::time::SystemTime;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::directory::Directory;
use crate::http::{PeerAddress, bearer_token};
use crate::relays::ClientPlace;

/// How long clients may remember the list: the configuration does not change while the process runs, clients move little.
const CACHE_CONTROL: &str = "private, max-age=3600";

/// 404 where no region has a `signal_url`, as of a LiveKit server that is self-hosted.
pub(crate) async fn serve(
    State(directory): State<Directory>,
    PeerAddress(address): PeerAddress,
    headers: HeaderMap,
) -> Response {
    let place = ClientPlace { address, region: None };
    let settings = directory.relays().settings(&place);
    if settings.regions.is_empty() {
        return StatusCode::NOT_FOUND.into_response();
    }
    let refused = match bearer_token(&headers) {
        Ok(token) => directory.keys().verify(token, SystemTime::now()).err().map(|error| error.to_string()),
        Err(error) => Some(error.to_string()),
    };
    match refused {
        Some(reason) => (StatusCode::UNAUTHORIZED, reason).into_response(),
        None => ([(header::CACHE_CONTROL, CACHE_CONTROL)], Json(settings)).into_response(),
    }
}
