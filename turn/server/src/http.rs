//! What operators ask over HTTP: the allocations, and the end of one.
//!
//! | request | token's grant | answer |
//! |---|---|---|
//! | `GET /api/v1/turn/allocations` | `roomList` | 200, [`AllocationEntry`] for each |
//! | `DELETE /api/v1/turn/allocations/{id}` | `roomCreate` | 204, or 404 |

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use zynk_auth::{KeyRing, VideoGrants};
use zynk_turn_core::{AllocationId, AllocationReport};

use crate::server::TurnControl;

/// One allocation, as operators see it.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct AllocationEntry {
    /// Its name, for ending it.
    pub id: String,
    /// Whose: the user name without the time of credentials.
    pub user: String,
    /// The client's address.
    pub client: String,
    /// How it comes: `udp`, `tcp`, `tls` or `dtls`.
    pub transport: String,
    /// What it speaks to peers: `udp` or `tcp`.
    pub protocol: String,
    /// Its relayed addresses.
    pub relayed: Vec<String>,
    /// How long it exists, in seconds.
    pub age_s: u64,
    /// When it ends unless it is refreshed, in seconds from now.
    pub expires_in_s: u64,
    /// Peers' addresses that it has permissions for.
    pub permissions: usize,
    /// Channels that it has.
    pub channels: usize,
    /// Packets relayed to peers.
    pub to_peers_packets: u64,
    /// Their bytes.
    pub to_peers_bytes: u64,
    /// Packets relayed to the client.
    pub to_client_packets: u64,
    /// Their bytes.
    pub to_client_bytes: u64,
}

impl AllocationEntry {
    fn new(report: &AllocationReport, now: Instant) -> Self {
        Self {
            id: report.id.to_string(),
            user: report.user.to_string(),
            client: report.five_tuple.client.to_string(),
            transport: format!("{:?}", report.five_tuple.transport).to_lowercase(),
            protocol: format!("{:?}", report.protocol).to_lowercase(),
            relayed: report.relayed.iter().map(ToString::to_string).collect(),
            age_s: now.saturating_duration_since(report.created_at).as_secs(),
            expires_in_s: report.expires_at.saturating_duration_since(now).as_secs(),
            permissions: report.permissions,
            channels: report.channels,
            to_peers_packets: report.traffic.to_peers_packets,
            to_peers_bytes: report.traffic.to_peers_bytes,
            to_client_packets: report.traffic.to_client_packets,
            to_client_bytes: report.traffic.to_client_bytes,
        }
    }
}

#[derive(Clone)]
struct Api {
    control: TurnControl,
    keys: Arc<KeyRing>,
}

/// The routes. Tokens are those of the server API.
pub fn router(control: TurnControl, keys: Arc<KeyRing>) -> Router {
    Router::new()
        .route("/api/v1/turn/allocations", get(list))
        .route("/api/v1/turn/allocations/{id}", delete(kick))
        .with_state(Api { control, keys })
}

async fn list(State(api): State<Api>, headers: HeaderMap) -> Response {
    if let Err(refusal) = authorize(&api.keys, &headers, |grants| grants.room_list, "roomList") {
        return refusal;
    }
    match api.control.list().await {
        Ok(reports) => {
            let now = Instant::now();
            Json(reports.iter().map(|report| AllocationEntry::new(report, now)).collect::<Vec<_>>())
                .into_response()
        }
        Err(error) => problem(StatusCode::SERVICE_UNAVAILABLE, "unavailable", &error.to_string()),
    }
}

async fn kick(State(api): State<Api>, Path(id): Path<String>, headers: HeaderMap) -> Response {
    if let Err(refusal) = authorize(&api.keys, &headers, |grants| grants.room_create, "roomCreate") {
        return refusal;
    }
    let unknown = || problem(StatusCode::NOT_FOUND, "not_found", "there is no such allocation");
    let parsed = u64::from_str_radix(&id, 16).ok().filter(|_| id.len() == 16);
    let Some(id) = parsed.map(AllocationId) else { return unknown() };
    let known = match api.control.list().await {
        Ok(reports) => reports.iter().any(|report| report.id == id),
        Err(error) => return problem(StatusCode::SERVICE_UNAVAILABLE, "unavailable", &error.to_string()),
    };
    if !known {
        return unknown();
    }
    match api.control.kick(id) {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => problem(StatusCode::SERVICE_UNAVAILABLE, "unavailable", &error.to_string()),
    }
}

#[expect(clippy::result_large_err, reason = "the error is the answer")]
fn authorize(
    keys: &KeyRing,
    headers: &HeaderMap,
    permits: impl FnOnce(&VideoGrants) -> bool,
    grant: &str,
) -> Result<(), Response> {
    let token = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim());
    let Some(token) = token else {
        return Err(problem(StatusCode::UNAUTHORIZED, "unauthenticated", "a bearer token is needed"));
    };
    let claims = keys
        .verify(token, SystemTime::now())
        .map_err(|error| problem(StatusCode::UNAUTHORIZED, "unauthenticated", &error.to_string()))?;
    match permits(&claims.video) {
        true => Ok(()),
        false => {
            let missing = format!("the token lacks {grant}");
            Err(problem(StatusCode::FORBIDDEN, "permission_denied", &missing))
        }
    }
}

/// An error in the form of the server API.
fn problem(status: StatusCode, code: &str, msg: &str) -> Response {
    (status, Json(serde_json::json!({ "code": code, "msg": msg }))).into_response()
}
