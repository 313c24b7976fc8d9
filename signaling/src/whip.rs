//! WHIP (RFC 9725): publishing with one HTTP request; and what WHEP has in common with it.
//!
//! | request | answer |
//! |---|---|
//! | `POST /whip/{room}`, `/whip/v1` (the token's room) | 201, the SDP answer; `Location`, `ETag`, `Link` |
//! | `PATCH` of the location, `If-Match: "etag"` | 204, candidates taken |
//! | `PATCH` of the location, `If-Match: *` | 200, ICE restarted; `ETag`, a fragment |
//! | `DELETE` of the location | 200, the session has ended |
//!
//! Errors are problems (RFC 9457): a status, and JSON with a `code` for programs and a `detail` for people.

use std::time::SystemTime;

use axum::{
    body::Body,
    extract::{Path, Query, Request, State, rejection::QueryRejection},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
    routing::{MethodRouter, get},
};
use serde::Deserialize;
use zynk_auth::Claims;
use zynk_protocol::{
    MediaKind, SDP_BYTES_MAX, TrackSource,
    livekit::{self, SessionDescription},
};

use crate::{
    http::{ApiState, PeerAddress, bearer_token, media_type, read_body},
    join::{ConnectionMode, JoinParams},
    relays::ClientPlace,
    sdp_fragment::SdpFragment,
    whip_offer::{Offer, SendingSection},
    whip_problem::Problem,
    whip_session::{FIRST_OFFER_ID, IfMatch, Patched, Started, StreamSession},
};

const SDP: &str = "application/sdp";
const SDP_FRAGMENT: &str = "application/trickle-ice-sdpfrag";

/// Headers that say which types are taken, in lower case.
const ACCEPT_POST: &str = "accept-post";
const ACCEPT_PATCH: &str = "accept-patch";

/// The version of LiveKit's signal protocol that sessions here understand.
const SIGNAL_PROTOCOL: i32 = 17;

/// Largest fragment. A larger one is answered with 413.
const FRAGMENT_BYTES_MAX: usize = 64 * 1024;

/// What a client may add to the URL.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct StreamQuery {
    /// Names the session, for holders of a token with `roomAdmin`.
    identity: Option<String>,
    /// WHEP: whose tracks to play, instead of everybody's.
    pub(crate) participant: Option<String>,
    /// The region whose relays the client wants.
    region: Option<String>,
}

impl StreamQuery {
    /// Where the client is, as far as is known.
    pub(crate) fn place(&self, PeerAddress(address): PeerAddress) -> ClientPlace {
        ClientPlace { address, region: self.region.clone() }
    }
}

/// A query that cannot be read is answered as other faults are.
pub(crate) type QueryResult = Result<Query<StreamQuery>, QueryRejection>;

/// `POST /whip/{room}`
pub(crate) async fn publish(
    State(state): State<ApiState>,
    Path(room): Path<String>,
    address: PeerAddress,
    query: QueryResult,
    headers: HeaderMap,
    body: Body,
) -> Response {
    respond(start_publishing(&state, Some(&room), address, query, &headers, body).await)
}

/// `POST /whip/v1`
pub(crate) async fn publish_to_token_room(
    State(state): State<ApiState>,
    address: PeerAddress,
    query: QueryResult,
    headers: HeaderMap,
    body: Body,
) -> Response {
    respond(start_publishing(&state, None, address, query, &headers, body).await)
}

/// `GET` of anything here: there is nothing to see.
pub(crate) async fn no_content() -> StatusCode {
    StatusCode::NO_CONTENT
}

/// The methods of a session's resource.
pub(crate) fn resource_methods() -> MethodRouter<ApiState> {
    get(no_content).patch(patch).delete(delete)
}

/// Adds what a `POST` and a `PATCH` here must look like (RFC 9725, section 4.6) to the answers to OPTIONS.
pub(crate) async fn announce_formats(request: Request, next: Next) -> Response {
    let asked = request.method() == Method::OPTIONS;
    let mut response = next.run(request).await;
    if asked {
        let headers = response.headers_mut();
        headers.insert(header::HeaderName::from_static(ACCEPT_POST), HeaderValue::from_static(SDP));
        headers.insert(header::HeaderName::from_static(ACCEPT_PATCH), HeaderValue::from_static(SDP_FRAGMENT));
    }
    response
}

async fn start_publishing(
    state: &ApiState,
    room: Option<&str>,
    address: PeerAddress,
    query: QueryResult,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let Query(query) = query?;
    let claims = authorize_join(state, room, &query, headers)?;
    if !claims.video.can_publish() {
        return Err(Problem::forbidden("cannot_publish", "the token does not allow to publish (canPublish)"));
    }
    let (sdp, offer) = read_offer(headers, body).await?;
    let tracks = tracks_to_publish(&claims, &offer)?;
    let place = query.place(address);
    let params = JoinParams { add_tracks: tracks, ..join_params(state, claims, place, &sdp)? };
    let started = state.streams.start(&state.directory, params, sdp).await?;
    created("/whip/v1/", started)
}

/// One audio and one video track: all that a client's single stream may have (RFC 9725, section 4.4.2).
fn tracks_to_publish(claims: &Claims, offer: &Offer) -> Result<Vec<livekit::AddTrackRequest>, Problem> {
    let count = |kind| offer.sending.iter().filter(|section| section.kind == kind).count();
    if offer.sending.is_empty() {
        let detail = "the offer has no audio or video section in which the client would send";
        return Err(Problem::unprocessable("nothing_to_publish", detail));
    }
    if count(MediaKind::Audio) > 1 || count(MediaKind::Video) > 1 {
        let detail = "at most one audio and one video section may send";
        return Err(Problem::unprocessable("too_many_tracks", detail));
    }
    for section in &offer.sending {
        let (source, name) = match section.kind {
            MediaKind::Audio => (TrackSource::Microphone, "microphone"),
            MediaKind::Video => (TrackSource::Camera, "camera"),
        };
        if !claims.video.can_publish_source(source) {
            let detail = format!("the token does not allow to publish from {name} (canPublishSources)");
            return Err(Problem::forbidden("source_not_allowed", detail));
        }
    }
    Ok(offer.sending.iter().map(SendingSection::add_track).collect())
}

/// The claims to join with: those of the token, if it is for this room, under the identity that it names or,
/// with `roomAdmin`, the one that the query names.
pub(crate) fn authorize_join(
    state: &ApiState,
    room: Option<&str>,
    query: &StreamQuery,
    headers: &HeaderMap,
) -> Result<Claims, Problem> {
    let mut claims = authenticate(state, headers)?;
    let cannot_join = || {
        let detail = "the token does not allow to join the room (roomJoin)";
        Problem::forbidden("cannot_join", detail)
    };
    // A token without grants names no room either: the grants are what is wrong with it.
    if !claims.video.room_join && !claims.video.room_admin {
        return Err(cannot_join());
    }
    if room.is_some_and(|room| room != claims.video.room) {
        return Err(Problem::forbidden("wrong_room", "the token is for another room"));
    }
    if claims.video.room.is_empty() {
        return Err(Problem::bad_request("room_missing", "the token names no room"));
    }
    match &query.identity {
        Some(_) if !claims.video.room_admin => {
            let detail = "the token does not allow to name the session (roomAdmin)";
            return Err(Problem::forbidden("not_admin", detail));
        }
        Some(identity) => {
            claims.identity.clone_from(identity);
            // Who moderates the room may let somebody in.
            claims.video.room_join = true;
        }
        None => {}
    }
    if !claims.video.room_join {
        return Err(cannot_join());
    }
    Ok(claims)
}

fn authenticate(state: &ApiState, headers: &HeaderMap) -> Result<Claims, Problem> {
    let token = bearer_token(headers)?;
    Ok(state.directory.keys().verify(token, SystemTime::now())?)
}

/// How a client of WHIP or WHEP joins: one connection, no second chance for its signaling.
pub(crate) fn join_params(
    state: &ApiState,
    claims: Claims,
    place: ClientPlace,
    offer: &str,
) -> Result<JoinParams, Problem> {
    let description = SessionDescription {
        r#type: "offer".into(),
        sdp: offer.to_owned(),
        id: FIRST_OFFER_ID,
        ..Default::default()
    };
    Ok(JoinParams {
        client: livekit::ClientInfo { protocol: SIGNAL_PROTOCOL, ..Default::default() },
        place,
        connection: ConnectionMode::Single,
        resumable: false,
        follows_room: false,
        offer: Some(description),
        ..JoinParams::from_claims(claims, &state.directory.config().limits)?
    })
}

/// The body of a POST, as text and as read.
pub(crate) async fn read_offer(headers: &HeaderMap, body: Body) -> Result<(String, Offer), Problem> {
    if media_type(headers).as_deref() != Some(SDP) {
        return Err(Problem::media_type(ACCEPT_POST, SDP));
    }
    if !accepts_sdp(headers) {
        let detail = "the answer is of type application/sdp, which the header Accept does not allow";
        return Err(Problem::new(StatusCode::NOT_ACCEPTABLE, "not_acceptable", detail));
    }
    let body = read_body(body, SDP_BYTES_MAX).await?;
    let text = std::str::from_utf8(&body)
        .map_err(|_| Problem::bad_request("sdp_invalid", "the offer is not UTF-8"))?;
    let offer = Offer::parse(text)?;
    Ok((text.to_owned(), offer))
}

/// Whether `Accept` (RFC 9110, section 12.5.1) is absent or has room for SDP.
fn accepts_sdp(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(header::ACCEPT).iter().peekable();
    if values.peek().is_none() {
        return true;
    }
    values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).any(|range| {
        let kind = range.split(';').next().unwrap_or_default().trim();
        ["*/*", "application/*", SDP].iter().any(|accepted| kind.eq_ignore_ascii_case(accepted))
    })
}

/// 201 with everything that the client must know of its session.
pub(crate) fn created(prefix: &str, started: Started) -> Result<Response, Problem> {
    let mut response = (StatusCode::CREATED, started.answer).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(SDP));
    headers.insert(header::LOCATION, header_value(format!("{prefix}{}", started.resource))?);
    headers.insert(header::ETAG, header_value(format!("\"{}\"", started.etag))?);
    for server in &started.ice_servers {
        for url in &server.urls {
            headers.append(header::LINK, header_value(ice_server_link(url, server))?);
        }
    }
    Ok(response)
}

/// RFC 9725, section 4.5.
fn ice_server_link(url: &str, server: &livekit::IceServer) -> String {
    let mut link = format!("<{url}>; rel=\"ice-server\"");
    if !server.username.is_empty() {
        link.push_str(&format!(
            "; username=\"{}\"; credential=\"{}\"; credential-type=\"password\"",
            quoted(&server.username),
            quoted(&server.credential)
        ));
    }
    link
}

/// The inside of a quoted string (RFC 9110, section 5.6.4).
fn quoted(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}

fn header_value(text: String) -> Result<HeaderValue, Problem> {
    HeaderValue::try_from(text).map_err(|_| {
        let detail = "a header of the answer cannot be written; the server's ice_servers may be at fault";
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "header_invalid", detail)
    })
}

/// The session behind a resource, if the token is that of its participant, or of an admin of its room.
fn find_session(state: &ApiState, resource: &str, headers: &HeaderMap) -> Result<StreamSession, Problem> {
    let claims = authenticate(state, headers)?;
    let session = state.streams.find(resource).ok_or_else(Problem::no_session)?;
    let is_own = claims.video.room_join
        && claims.video.room == session.room.as_str()
        && claims.identity == session.identity.as_str();
    if is_own || claims.video.is_admin_of(session.room.as_str()) {
        Ok(session)
    } else {
        Err(Problem::forbidden("not_your_session", "the token is not that of the session's participant"))
    }
}

async fn patch(
    State(state): State<ApiState>,
    Path(resource): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    respond(patch_session(&state, &resource, &headers, body).await)
}

async fn patch_session(
    state: &ApiState,
    resource: &str,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let session = find_session(state, resource, headers)?;
    if media_type(headers).as_deref() != Some(SDP_FRAGMENT) {
        return Err(Problem::media_type(ACCEPT_PATCH, SDP_FRAGMENT));
    }
    let condition = if_match(headers)?;
    let body = read_body(body, FRAGMENT_BYTES_MAX).await?;
    let text = std::str::from_utf8(&body)
        .map_err(|_| Problem::bad_request("fragment_invalid", "the fragment is not UTF-8"))?;
    let fragment = SdpFragment::parse(text)
        .map_err(|error| Problem::bad_request("fragment_invalid", error.to_string()))?;
    match session.patch(condition, fragment).await? {
        Patched::Trickled => Ok(StatusCode::NO_CONTENT.into_response()),
        Patched::Restarted { etag, fragment } => {
            let mut response = (StatusCode::OK, fragment).into_response();
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(SDP_FRAGMENT));
            headers.insert(header::ETAG, header_value(format!("\"{etag}\""))?);
            Ok(response)
        }
    }
}

/// RFC 9725, section 4.3: a PATCH without a condition is not taken.
fn if_match(headers: &HeaderMap) -> Result<IfMatch, Problem> {
    let mut tags = Vec::new();
    for value in headers.get_all(header::IF_MATCH) {
        let value = value
            .to_str()
            .map_err(|_| Problem::bad_request("if_match_invalid", "the header If-Match is malformed"))?;
        if value.trim() == "*" {
            return Ok(IfMatch::Any);
        }
        // Weak tags (`W/"…"`) keep their prefix and so never match, as RFC 9110, section 13.1.1 wants it.
        tags.extend(value.split(',').map(|tag| tag.trim().trim_matches('"').to_owned()));
    }
    if tags.is_empty() {
        return Err(Problem::new(
            StatusCode::PRECONDITION_REQUIRED,
            "if_match_missing",
            "a PATCH needs the header If-Match: the ETag for candidates, * for an ICE restart",
        ));
    }
    Ok(IfMatch::Tags(tags))
}

async fn delete(State(state): State<ApiState>, Path(resource): Path<String>, headers: HeaderMap) -> Response {
    respond(delete_session(&state, &resource, &headers).await)
}

async fn delete_session(state: &ApiState, resource: &str, headers: &HeaderMap) -> Result<Response, Problem> {
    find_session(state, resource, headers)?.leave().await?;
    Ok(StatusCode::OK.into_response())
}

pub(crate) fn respond(result: Result<Response, Problem>) -> Response {
    result.unwrap_or_else(IntoResponse::into_response)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: header::HeaderName, values: &[&'static str]) -> HeaderMap {
        values.iter().map(|value| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn conditions_are_read() {
        let condition = |values: &[&'static str]| if_match(&headers(header::IF_MATCH, values));
        assert_eq!(condition(&["*"]).unwrap(), IfMatch::Any);
        assert_eq!(condition(&["\"a\""]).unwrap(), IfMatch::Tags(vec!["a".into()]));
        assert_eq!(condition(&["a, W/\"b\""]).unwrap(), IfMatch::Tags(vec!["a".into(), "W/\"b".into()]));
        assert_eq!(condition(&[]).unwrap_err().into_response().status(), StatusCode::PRECONDITION_REQUIRED);
    }

    #[test]
    fn accept_admits_sdp_or_not() {
        for (values, admitted) in [
            (&[][..], true),
            (&["*/*"], true),
            (&["text/html, application/*;q=0.5"], true),
            (&["text/html", "Application/SDP"], true),
            (&["application/json"], false),
        ] {
            assert_eq!(accepts_sdp(&headers(header::ACCEPT, values)), admitted, "{values:?}");
        }
    }

    #[test]
    fn ice_servers_become_links() {
        let mut server = livekit::IceServer::default();
        assert_eq!(ice_server_link("stun:s.example", &server), "<stun:s.example>; rel=\"ice-server\"");
        server.username = "u\"x".into();
        server.credential = "p\\".into();
        assert_eq!(
            ice_server_link("turn:t.example?transport=udp", &server),
            "<turn:t.example?transport=udp>; rel=\"ice-server\"; username=\"u\\\"x\"; credential=\"p\\\\\"; \
             credential-type=\"password\""
        );
    }
}
