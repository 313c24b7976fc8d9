//! Every HTTP route of the signaling role, and what they share: bodies with limits, bearer tokens, CORS.

use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, FromRequestParts, Request},
    http::{HeaderMap, Method, StatusCode, Uri, header, request::Parts},
    middleware::from_fn,
    routing::{any, get, post},
};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use tower::ServiceExt;
use tower_http::cors::{AllowHeaders, Any, CorsLayer, ExposeHeaders};

use crate::{
    directory::Directory,
    guest::{self, GuestAccess, GuestConfig},
    room_stats, twirp, whep, whip,
    whip_session::StreamSessions,
};

/// How long a client may take to send a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// How long browsers may remember a preflight's answer.
const CORS_MAX_AGE: Duration = Duration::from_secs(86_400);

/// What the handlers share. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct ApiState {
    pub(crate) directory: Directory,
    pub(crate) streams: Arc<StreamSessions>,
    pub(crate) guests: Arc<GuestAccess>,
}

/// The routes of LiveKit's server API, WHIP, WHEP and the product API. It has no fallback, so that other
/// routers can be merged with it; whoever serves the whole wraps it in [`collapse_slashes`].
pub fn api_router(directory: Directory, guests: GuestConfig) -> Router {
    let streams = Arc::new(StreamSessions::default());
    let state = ApiState { directory, streams, guests: Arc::new(GuestAccess::new(guests)) };
    let twirp = Router::new().route("/twirp/{service}/{method}", any(twirp::handle)).layer(cors());
    let streams = Router::new()
        .route("/whip/v1", post(whip::publish_to_token_room).get(whip::no_content))
        .route("/whip/{room}", post(whip::publish).get(whip::no_content))
        .route("/whip/v1/{resource}", whip::resource_methods())
        .route("/whep/v1", post(whep::play_token_room).get(whip::no_content))
        .route("/whep/{room}", post(whep::play).get(whip::no_content))
        .route("/whep/v1/{resource}", whip::resource_methods())
        .layer(cors())
        // Outside of CORS, which answers OPTIONS alone.
        .layer(from_fn(whip::announce_formats));
    // No CORS here: these are for pages that this server itself served.
    let product = Router::new()
        .route("/api/v1/info", get(guest::info))
        .route("/api/v1/guest-tokens", post(guest::issue_token))
        .route("/api/v1/rooms/{room}/stats", get(room_stats::serve));
    twirp.merge(streams).merge(product).with_state(state)
}

/// As LiveKit has it: any origin, any header, and all of the answer's headers readable.
pub(crate) fn cors() -> CorsLayer {
    CorsLayer::new()
        .allow_origin(Any)
        .allow_methods([
            Method::OPTIONS,
            Method::HEAD,
            Method::GET,
            Method::POST,
            Method::PATCH,
            Method::DELETE,
        ])
        // Mirrored, because `*` does not include Authorization (Fetch standard, "CORS protocol").
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(ExposeHeaders::any())
        .max_age(CORS_MAX_AGE)
}

/// A router that takes `//rtc` for `/rtc`: SDKs append their path to a URL that may end in a slash.
///
/// It routes by itself, so nothing can be merged with it any more.
pub fn collapse_slashes(router: Router) -> Router {
    Router::new().fallback(move |mut request: Request<Body>| async move {
        if let Some(uri) = without_double_slash(request.uri()) {
            *request.uri_mut() = uri;
        }
        router.oneshot(request).await
    })
}

fn without_double_slash(uri: &Uri) -> Option<Uri> {
    let path = uri.path_and_query()?.as_str();
    let path = path.strip_prefix("//")?.trim_start_matches('/');
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(format!("/{path}").parse().ok()?);
    Uri::from_parts(parts).ok()
}

/// The address that a request comes from, by which its client is counted and placed. Behind a proxy that is the proxy's:
/// headers that tell another one could say anything.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PeerAddress(pub(crate) Option<IpAddr>);

impl<S: Sync> FromRequestParts<S> for PeerAddress {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Infallible> {
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        Ok(Self(peer.map(|ConnectInfo(peer)| peer.ip().to_canonical())))
    }
}

/// The media type of a body in lower case, without its parameters.
pub(crate) fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    value.split(';').next().map(|kind| kind.trim().to_ascii_lowercase())
}

/// Why a request carries no usable token. 401.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BearerError {
    #[error("no token: send the header Authorization: Bearer <token>")]
    Missing,
    #[error("the header Authorization does not begin with Bearer")]
    NotBearer,
    #[error("there is more than one header Authorization")]
    Ambiguous,
}

impl BearerError {
    /// A stable word for programs.
    pub(crate) const fn code(self) -> &'static str {
        match self {
            Self::Missing => "token_missing",
            Self::NotBearer | Self::Ambiguous => "authorization_malformed",
        }
    }
}

/// The token of the header `Authorization` (RFC 6750, section 2.1).
pub(crate) fn bearer_token(headers: &HeaderMap) -> Result<&str, BearerError> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next().ok_or(BearerError::Missing)?;
    // Two could mean two things to two programs that look at one each.
    if values.next().is_some() {
        return Err(BearerError::Ambiguous);
    }
    let value = value.to_str().map_err(|_| BearerError::NotBearer)?;
    match value.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(token.trim()),
        _ => Err(BearerError::NotBearer),
    }
}

/// Why a body could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("the body is larger than {bytes_max} bytes")]
    TooLarge { bytes_max: usize },
    #[error("the body did not arrive in time")]
    Timeout,
    #[error("the body broke off")]
    Broken,
}

impl BodyError {
    pub(crate) const fn status(self) -> StatusCode {
        match self {
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Timeout => StatusCode::REQUEST_TIMEOUT,
            Self::Broken => StatusCode::BAD_REQUEST,
        }
    }

    /// A stable word for programs.
    pub(crate) const fn code(self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "body_too_large",
            Self::Timeout => "body_timeout",
            Self::Broken => "body_broken",
        }
    }
}

/// Reads a body of at most `bytes_max` bytes.
pub(crate) async fn read_body(body: Body, bytes_max: usize) -> Result<Bytes, BodyError> {
    let read = async {
        let mut stream = body.into_data_stream();
        let mut bytes = BytesMut::new();
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|_| BodyError::Broken)?;
            if bytes.len().saturating_add(chunk.len()) > bytes_max {
                return Err(BodyError::TooLarge { bytes_max });
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.freeze())
    };
    tokio::time::timeout(BODY_TIMEOUT, read).await.unwrap_or(Err(BodyError::Timeout))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(values: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::AUTHORIZATION, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn one_bearer_token_is_taken() {
        assert_eq!(bearer_token(&headers(&["Bearer abc"])), Ok("abc"));
        assert_eq!(bearer_token(&headers(&["bearer  abc "])), Ok("abc"));
        assert_eq!(bearer_token(&headers(&[])), Err(BearerError::Missing));
        assert_eq!(bearer_token(&headers(&["abc"])), Err(BearerError::NotBearer));
        assert_eq!(bearer_token(&headers(&["Basic abc"])), Err(BearerError::NotBearer));
        assert_eq!(bearer_token(&headers(&["Bearer a", "Bearer b"])), Err(BearerError::Ambiguous));
    }

    #[test]
    fn leading_slashes_become_one() {
        for (uri, expected) in [
            ("//rtc?a=//b", Some("/rtc?a=//b")),
            ("///rtc/validate", Some("/rtc/validate")),
            ("//", Some("/")),
            ("/rtc//v1", None),
        ] {
            // `//host/path` would be read as an authority; HTTP/1.1 request lines are paths.
            let uri = Uri::builder().path_and_query(uri).build().unwrap();
            let collapsed = without_double_slash(&uri);
            assert_eq!(collapsed.map(|uri| uri.to_string()).as_deref(), expected);
        }
    }

    #[tokio::test]
    async fn bodies_are_bounded() {
        assert_eq!(read_body(Body::from("12345"), 5).await.unwrap(), "12345");
        let error = read_body(Body::from("123456"), 5).await.unwrap_err();
        assert_eq!(error, BodyError::TooLarge { bytes_max: 5 });
    }

    #[test]
    fn media_types_are_compared_without_parameters() {
        let mut headers = HeaderMap::new();
        assert_eq!(media_type(&headers), None);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("Application/JSON; charset=UTF-8"));
        assert_eq!(media_type(&headers).as_deref(), Some("application/json"));
    }
}
