//! WHEP (draft-ietf-wish-whep, the form in which the client offers): playing with one HTTP request.
//!
//! Routes, statuses and headers are those of [WHIP](crate::whip). The tracks of the room, or of the one
//! publisher that `?participant=` names, fill the offer's receiving sections in the order in which they were
//! published; tracks that are published later fill those that remain.

use axum::{
    body::Body,
    extract::{Path, Query, State},
    http::HeaderMap,
    response::Response,
};
use zynk_protocol::Identity;

use crate::{
    http::{ApiState, PeerAddress},
    join::{JoinParams, SubscribeScope},
    whip::{QueryResult, authorize_join, created, join_params, read_offer, respond},
    whip_problem::Problem,
};

/// `POST /whep/{room}`
pub(crate) async fn play(
    State(state): State<ApiState>,
    Path(room): Path<String>,
    address: PeerAddress,
    query: QueryResult,
    headers: HeaderMap,
    body: Body,
) -> Response {
    respond(start_playing(&state, Some(&room), address, query, &headers, body).await)
}

/// `POST /whep/v1`
pub(crate) async fn play_token_room(
    State(state): State<ApiState>,
    address: PeerAddress,
    query: QueryResult,
    headers: HeaderMap,
    body: Body,
) -> Response {
    respond(start_playing(&state, None, address, query, &headers, body).await)
}

async fn start_playing(
    state: &ApiState,
    room: Option<&str>,
    address: PeerAddress,
    query: QueryResult,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let Query(query) = query?;
    let claims = authorize_join(state, room, &query, headers)?;
    if !claims.video.can_subscribe() {
        let detail = "the token does not allow to subscribe (canSubscribe)";
        return Err(Problem::forbidden("cannot_subscribe", detail));
    }
    let (sdp, offer) = read_offer(headers, body).await?;
    if offer.receiving == 0 {
        let detail = "the offer has no audio or video section in which the client would receive";
        return Err(Problem::unprocessable("nothing_to_play", detail));
    }
    let place = query.place(address);
    let subscribe = match &query.participant {
        Some(publisher) => SubscribeScope::Participant(Identity::new(publisher)),
        None => SubscribeScope::Auto,
    };
    let params = JoinParams { late_binding: true, subscribe, ..join_params(state, claims, place, &sdp)? };
    let started = state.streams.start(&state.directory, params, sdp).await?;
    created("/whep/v1/", started)
}
