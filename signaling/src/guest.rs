//! The first piece of the product API: what this server is, and tokens for guests.
//!
//! Guests are people without an account, on servers whose operator allows that. They choose a name; their
//! identity is this server's choice, so that nobody takes another's place in a room.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Mutex,
    time::{Duration, Instant, SystemTime},
};

use axum::{
    Json,
    body::Body,
    extract::{ConnectInfo, Request, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use zynk_auth::{Claims, VideoGrants};
use zynk_protocol::random_suffix;

use crate::http::{ApiState, BodyError, media_type, read_body};

/// Life of a guest's token. Short, because a session gets fresh ones while it lasts.
pub const GUEST_TOKEN_TTL: Duration = Duration::from_secs(600);

/// Longest room name and display name.
const NAME_BYTES_MAX: usize = 256;

/// Largest request.
const BODY_BYTES_MAX: usize = 16 * 1024;

/// Tokens that one source may take at once.
const BURST_TOKENS: u32 = 60;

/// How fast a source earns further tokens.
const REFILL_PER_TOKEN: Duration = Duration::from_secs(1);

/// Sources that are counted apart. When that many are known, all others share one allowance.
const SOURCES_MAX: usize = 10_000;

/// Whether guests are let in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GuestConfig {
    /// Whether anybody who reaches this server gets a token for any room. Meant for trying things out.
    pub access: bool,
}

/// Hands out tokens, not too many to one source.
#[derive(Debug)]
pub(crate) struct GuestAccess {
    config: GuestConfig,
    limiter: Mutex<RateLimiter>,
}

impl GuestAccess {
    pub(crate) fn new(config: GuestConfig) -> Self {
        Self { config, limiter: Mutex::new(RateLimiter::default()) }
    }

    fn admit(&self, source: Option<IpAddr>) -> bool {
        // A poisoned lock holds counters at worst one off.
        let mut limiter = self.limiter.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        limiter.admit(source, Instant::now())
    }
}

#[derive(Debug, Serialize)]
struct Info {
    name: &'static str,
    version: &'static str,
    guest_access: bool,
}

/// `GET /api/v1/info`
pub(crate) async fn info(State(state): State<ApiState>) -> Response {
    let guest_access = state.guests.config.access;
    Json(Info { name: "zynk", version: env!("CARGO_PKG_VERSION"), guest_access }).into_response()
}

#[derive(Debug, Deserialize)]
struct TokenRequest {
    room: String,
    name: String,
}

#[derive(Debug, Serialize)]
struct TokenResponse {
    token: String,
    identity: String,
    room: String,
}

/// `POST /api/v1/guest-tokens`
pub(crate) async fn issue_token(State(state): State<ApiState>, request: Request<Body>) -> Response {
    match token(&state, request).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    }
}

async fn token(state: &ApiState, request: Request<Body>) -> Result<Response, ApiError> {
    if !state.guests.config.access {
        return Err(ApiError::GuestAccessDisabled);
    }
    // Behind a proxy that is the proxy's address: guests then share one allowance, which is safe, where
    // believing a header would not be.
    let source = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip());
    if !state.guests.admit(source) {
        return Err(ApiError::TooManyRequests);
    }
    // A page of another origin cannot send this type without asking first, and is not allowed to.
    if media_type(request.headers()).as_deref() != Some("application/json") {
        return Err(ApiError::ContentType);
    }
    let body = read_body(request.into_body(), BODY_BYTES_MAX).await?;
    let wanted: TokenRequest =
        serde_json::from_slice(&body).map_err(|error| ApiError::Malformed(error.to_string()))?;
    let room = checked("room", &wanted.room)?;
    let name = checked("name", &wanted.name)?;

    let identity = format!("{}-{}", slug(name), random_suffix(rand::random()));
    let mut claims = Claims::for_identity(identity.clone());
    name.clone_into(&mut claims.name);
    claims.video = VideoGrants { can_update_own_metadata: Some(true), ..VideoGrants::join(room) };
    let token = state
        .directory
        .keys()
        .sign(&claims, GUEST_TOKEN_TTL, SystemTime::now())
        .map_err(|_| ApiError::NoKey)?;
    let body = TokenResponse { token, identity, room: room.to_owned() };
    Ok(([(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))], Json(body)).into_response())
}

/// The text without blanks at its ends, if it is a usable name.
fn checked<'a>(field: &'static str, text: &'a str) -> Result<&'a str, ApiError> {
    let text = text.trim();
    if text.is_empty() {
        return Err(ApiError::Empty { field });
    }
    if text.len() > NAME_BYTES_MAX {
        return Err(ApiError::TooLong { field, bytes: text.len() });
    }
    if text.chars().any(char::is_control) {
        return Err(ApiError::ControlCharacter { field });
    }
    Ok(text)
}

/// Letters and digits of a name in lower case, joined by hyphens; `guest` when nothing remains.
fn slug(name: &str) -> String {
    const CHARACTERS_MAX: usize = 24;
    let mut slug = String::new();
    for character in name.chars().flat_map(char::to_lowercase) {
        if slug.len() >= CHARACTERS_MAX {
            break;
        }
        if character.is_ascii_alphanumeric() {
            slug.push(character);
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
    }
    let slug = slug.trim_end_matches('-');
    if slug.is_empty() { "guest".to_owned() } else { slug.to_owned() }
}

/// Why no token was issued.
#[derive(Debug, thiserror::Error)]
enum ApiError {
    #[error("this server admits no guests: ask for a link or a token")]
    GuestAccessDisabled,
    #[error("too many tokens were asked for from this address: try again in a minute")]
    TooManyRequests,
    #[error("the content type must be application/json")]
    ContentType,
    #[error("{0}")]
    Body(#[from] BodyError),
    #[error("the body is not what is expected: {0}")]
    Malformed(String),
    #[error("{field} is empty")]
    Empty { field: &'static str },
    #[error("{field} has {bytes} bytes, at most {NAME_BYTES_MAX} are allowed")]
    TooLong { field: &'static str, bytes: usize },
    #[error("{field} has a control character")]
    ControlCharacter { field: &'static str },
    #[error("this server has no API key")]
    NoKey,
}

impl ApiError {
    fn status_and_code(&self) -> (StatusCode, &'static str) {
        match self {
            Self::GuestAccessDisabled => (StatusCode::FORBIDDEN, "guest_access_disabled"),
            Self::TooManyRequests => (StatusCode::TOO_MANY_REQUESTS, "too_many_requests"),
            Self::ContentType => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type"),
            Self::Body(error) => (error.status(), error.code()),
            Self::Malformed(_) => (StatusCode::BAD_REQUEST, "malformed_body"),
            Self::Empty { .. } => (StatusCode::BAD_REQUEST, "empty_field"),
            Self::TooLong { .. } => (StatusCode::BAD_REQUEST, "field_too_long"),
            Self::ControlCharacter { .. } => (StatusCode::BAD_REQUEST, "control_character"),
            Self::NoKey => (StatusCode::SERVICE_UNAVAILABLE, "no_api_key"),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        #[derive(Serialize)]
        struct Envelope {
            error: ErrorBody,
        }
        #[derive(Serialize)]
        struct ErrorBody {
            code: &'static str,
            message: String,
        }
        let (status, code) = self.status_and_code();
        (status, Json(Envelope { error: ErrorBody { code, message: self.to_string() } })).into_response()
    }
}

/// A token bucket for each source, in bounded memory.
#[derive(Debug, Default)]
struct RateLimiter {
    /// At most [`SOURCES_MAX`].
    sources: HashMap<IpAddr, Bucket>,
    /// Of sources that found no place.
    others: Bucket,
}

/// When the bucket will be full again; in the past, it is full.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    full_at: Option<Instant>,
}

impl RateLimiter {
    fn admit(&mut self, source: Option<IpAddr>, now: Instant) -> bool {
        let Some(source) = source.map(subscriber) else { return self.others.take(now) };
        if !self.sources.contains_key(&source) && self.sources.len() >= SOURCES_MAX {
            self.sources.retain(|_, bucket| !bucket.is_full(now));
            if self.sources.len() >= SOURCES_MAX {
                return self.others.take(now);
            }
        }
        self.sources.entry(source).or_default().take(now)
    }
}

impl Bucket {
    fn is_full(&self, now: Instant) -> bool {
        self.full_at.is_none_or(|at| at <= now)
    }

    /// Takes one token, if one is there.
    fn take(&mut self, now: Instant) -> bool {
        let full_at = self.full_at.map_or(now, |at| at.max(now));
        let Some(next) = full_at.checked_add(REFILL_PER_TOKEN) else { return false };
        if next.duration_since(now) > REFILL_PER_TOKEN * BURST_TOKENS {
            return false;
        }
        self.full_at = Some(next);
        true
    }
}

/// Who is counted as one: an IPv4 address, or the /64 that an IPv6 subscriber owns.
fn subscriber(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs_are_plain() {
        for (name, expected) in [
            ("Ada Lovelace", "ada-lovelace"),
            ("  --x--  ", "x"),
            ("Ελένη", "guest"),
            ("a@@b", "a-b"),
            ("abcdefghijklmnopqrstuvwxyz", "abcdefghijklmnopqrstuvwx"),
        ] {
            assert_eq!(slug(name), expected);
        }
    }

    #[test]
    fn a_source_is_limited_and_recovers() {
        let mut limiter = RateLimiter::default();
        let now = Instant::now();
        let address = Some("192.0.2.1".parse().unwrap());
        assert!((0..BURST_TOKENS).all(|_| limiter.admit(address, now)));
        assert!(!limiter.admit(address, now));
        assert!(limiter.admit(Some("192.0.2.2".parse().unwrap()), now));
        let later = now + REFILL_PER_TOKEN;
        assert!(limiter.admit(address, later));
        assert!(!limiter.admit(address, later));
    }

    #[test]
    fn the_table_is_bounded() {
        let mut limiter = RateLimiter::default();
        let now = Instant::now();
        let address = |n: usize| Some(IpAddr::V4(std::net::Ipv4Addr::from_bits(u32::try_from(n).unwrap())));
        for n in 0..SOURCES_MAX {
            assert!(limiter.admit(address(n), now));
        }
        let admitted = (0..1_000).filter(|n| limiter.admit(address(SOURCES_MAX + n), now)).count();
        assert_eq!(admitted, usize::try_from(BURST_TOKENS).unwrap());
        assert_eq!(limiter.sources.len(), SOURCES_MAX);
        assert!(limiter.admit(address(SOURCES_MAX + 1), now + Duration::from_secs(2)));
        assert_eq!(limiter.sources.len(), 1);
    }

    #[test]
    fn ipv6_neighbours_count_as_one() {
        let one = subscriber("2001:db8::1".parse().unwrap());
        assert_eq!(one, subscriber("2001:db8::ffff".parse().unwrap()));
        assert_ne!(one, subscriber("2001:db8:0:1::1".parse().unwrap()));
        assert_eq!(subscriber("::ffff:192.0.2.1".parse().unwrap()), subscriber("192.0.2.1".parse().unwrap()));
    }
}
