//! What WHIP and WHEP clients are told when something is wrong: a status, and a problem body (RFC 9457).

use axum::{
    extract::rejection::QueryRejection,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use zynk_auth::TokenError;
use zynk_protocol::NegotiationFailure;

use crate::{
    http::{BearerError, BodyError},
    join::JoinError,
};

/// `application/problem+json` with a stable word for programs in `code`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {detail}")]
pub(crate) struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: String,
    header: Option<(HeaderName, &'static str)>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into(), header: None }
    }

    pub(crate) fn unauthorized(code: &'static str, detail: impl Into<String>) -> Self {
        let challenge = (header::WWW_AUTHENTICATE, "Bearer");
        Self { header: Some(challenge), ..Self::new(StatusCode::UNAUTHORIZED, code, detail) }
    }

    pub(crate) fn forbidden(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, code, detail)
    }

    pub(crate) fn bad_request(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, detail)
    }

    pub(crate) fn unprocessable(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, detail)
    }

    pub(crate) fn no_session() -> Self {
        Self::new(StatusCode::NOT_FOUND, "session_not_found", "there is no such session, or it has ended")
    }

    /// The body has another type than the one that is taken here; `accept` is the header that says which
    /// (`accept-post` or `accept-patch`).
    pub(crate) fn media_type(accept: &'static str, expected: &'static str) -> Self {
        let detail = format!("the content type must be {expected}");
        let header = Some((HeaderName::from_static(accept), expected));
        Self { header, ..Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail) }
    }

    /// May be tried again.
    pub(crate) fn unavailable(code: &'static str, detail: impl Into<String>) -> Self {
        let wait = (header::RETRY_AFTER, "1");
        Self { header: Some(wait), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail) }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        #[derive(Serialize)]
        struct ProblemBody<'a> {
            r#type: &'static str,
            title: &'a str,
            status: u16,
            code: &'static str,
            detail: &'a str,
        }
        let body = ProblemBody {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or_default(),
            status: self.status.as_u16(),
            code: self.code,
            detail: &self.detail,
        };
        let body = serde_json::to_vec(&body).unwrap_or_default();
        let content_type = [(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"))];
        let mut response = (self.status, content_type, body).into_response();
        if let Some((name, value)) = self.header {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response
    }
}

impl From<BearerError> for Problem {
    fn from(error: BearerError) -> Self {
        Self::unauthorized(error.code(), error.to_string())
    }
}

impl From<TokenError> for Problem {
    fn from(error: TokenError) -> Self {
        let code = match error {
            TokenError::Algorithm => "token_algorithm",
            TokenError::UnknownKey => "token_unknown_key",
            TokenError::Signature => "token_signature",
            TokenError::NoExpiration => "token_without_expiration",
            TokenError::Expired => "token_expired",
            TokenError::NotYetValid => "token_not_yet_valid",
            _ => "token_malformed",
        };
        Self::unauthorized(code, error.to_string())
    }
}

impl From<QueryRejection> for Problem {
    fn from(error: QueryRejection) -> Self {
        Self::bad_request("query_malformed", error.body_text())
    }
}

impl From<BodyError> for Problem {
    fn from(error: BodyError) -> Self {
        Self::new(error.status(), error.code(), error.to_string())
    }
}

impl From<JoinError> for Problem {
    fn from(error: JoinError) -> Self {
        let (code, detail) = (error.code(), error.to_string());
        match StatusCode::from_u16(error.status()) {
            Ok(StatusCode::UNAUTHORIZED) => Self::unauthorized(code, detail),
            Ok(StatusCode::SERVICE_UNAVAILABLE) => Self::unavailable(code, detail),
            Ok(status) => Self::new(status, code, detail),
            Err(_) => Self::new(StatusCode::INTERNAL_SERVER_ERROR, code, detail),
        }
    }
}

impl From<NegotiationFailure> for Problem {
    fn from(failure: NegotiationFailure) -> Self {
        let code = match failure {
            NegotiationFailure::NoIce => "sdp_without_ice",
            NegotiationFailure::NoFingerprint => "sdp_without_fingerprint",
            NegotiationFailure::PlainRtp => "sdp_plain_rtp",
            NegotiationFailure::TooManySections { .. } => "sdp_too_many_sections",
            _ => "sdp_invalid",
        };
        Self::bad_request(code, failure.to_string())
    }
}
