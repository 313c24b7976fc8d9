//! Twirp (protocol version 7), the RPC over HTTP of LiveKit's server API.
//!
//! A call is `POST /twirp/livekit.<Service>/<Method>`, its body JSON or protobuf as the content type says,
//! and the answer has the same type. Errors are JSON always: `{"code":…,"msg":…,"meta":{…}}`, with the HTTP
//! status that belongs to the code.

use std::{collections::BTreeMap, time::SystemTime};

use axum::{
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use prost::Message;
use serde::{Serialize, de::DeserializeOwned};
use zynk_auth::Claims;

use crate::{
    admin::AdminError,
    http::{ApiState, BodyError, bearer_token, media_type, read_body},
    other_services, room_service,
};

/// Largest request body; a larger one is answered with 413 and not read to its end.
pub const API_BODY_BYTES_MAX: usize = 10 * 1024 * 1024;

/// Twirp's error codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TwirpCode {
    /// The caller gave up.
    Canceled,
    /// Nothing more is known.
    Unknown,
    /// A field has a value that can never work.
    InvalidArgument,
    /// The body is not JSON or protobuf of the request's type.
    Malformed,
    /// It took too long.
    DeadlineExceeded,
    /// The thing asked for does not exist.
    NotFound,
    /// No such method, or not a POST, or an unknown content type.
    BadRoute,
    /// The thing to be made exists.
    AlreadyExists,
    /// Known, but not allowed. LiveKit says [`TwirpCode::Unauthenticated`] instead.
    PermissionDenied,
    /// No token, a bad one, or one without the grant.
    Unauthenticated,
    /// Too much, or too often.
    ResourceExhausted,
    /// Not in this state.
    FailedPrecondition,
    /// Overtaken by something else.
    Aborted,
    /// Past the end.
    OutOfRange,
    /// Known, but not offered.
    Unimplemented,
    /// A fault of the server.
    Internal,
    /// Not now; may be tried again.
    Unavailable,
    /// Data is lost.
    Dataloss,
}

impl TwirpCode {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::Canceled,
        Self::Unknown,
        Self::InvalidArgument,
        Self::Malformed,
        Self::DeadlineExceeded,
        Self::NotFound,
        Self::BadRoute,
        Self::AlreadyExists,
        Self::PermissionDenied,
        Self::Unauthenticated,
        Self::ResourceExhausted,
        Self::FailedPrecondition,
        Self::Aborted,
        Self::OutOfRange,
        Self::Unimplemented,
        Self::Internal,
        Self::Unavailable,
        Self::Dataloss,
    ];

    /// As the error body spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Canceled => "canceled",
            Self::Unknown => "unknown",
            Self::InvalidArgument => "invalid_argument",
            Self::Malformed => "malformed",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::NotFound => "not_found",
            Self::BadRoute => "bad_route",
            Self::AlreadyExists => "already_exists",
            Self::PermissionDenied => "permission_denied",
            Self::Unauthenticated => "unauthenticated",
            Self::ResourceExhausted => "resource_exhausted",
            Self::FailedPrecondition => "failed_precondition",
            Self::Aborted => "aborted",
            Self::OutOfRange => "out_of_range",
            Self::Unimplemented => "unimplemented",
            Self::Internal => "internal",
            Self::Unavailable => "unavailable",
            Self::Dataloss => "dataloss",
        }
    }

    /// The HTTP status that goes with it (Twirp specification, "Error Codes").
    pub const fn status(self) -> StatusCode {
        match self {
            Self::Canceled | Self::DeadlineExceeded => StatusCode::REQUEST_TIMEOUT,
            Self::InvalidArgument | Self::Malformed | Self::OutOfRange => StatusCode::BAD_REQUEST,
            Self::NotFound | Self::BadRoute => StatusCode::NOT_FOUND,
            Self::AlreadyExists | Self::Aborted => StatusCode::CONFLICT,
            Self::PermissionDenied => StatusCode::FORBIDDEN,
            Self::Unauthenticated => StatusCode::UNAUTHORIZED,
            Self::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
            Self::FailedPrecondition => StatusCode::PRECONDITION_FAILED,
            Self::Unimplemented => StatusCode::NOT_IMPLEMENTED,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Unknown | Self::Internal | Self::Dataloss => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// A failed call, as the caller gets to see it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", code.as_str())]
pub struct TwirpError {
    /// What kind of failure.
    pub code: TwirpCode,
    /// For people.
    pub message: String,
    /// Further facts for programs.
    pub meta: BTreeMap<&'static str, String>,
    /// Set where the HTTP status is not the code's own.
    status: Option<StatusCode>,
}

impl TwirpError {
    /// An error without further facts.
    pub fn new(code: TwirpCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), meta: BTreeMap::new(), status: None }
    }

    fn with_status(mut self, status: StatusCode) -> Self {
        self.status = Some(status);
        self
    }

    fn with_meta(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.meta.insert(key, value.into());
        self
    }
}

impl IntoResponse for TwirpError {
    fn into_response(self) -> Response {
        #[derive(Serialize)]
        struct ErrorBody<'a> {
            code: &'a str,
            msg: &'a str,
            #[serde(skip_serializing_if = "BTreeMap::is_empty")]
            meta: &'a BTreeMap<&'static str, String>,
        }
        let body = ErrorBody { code: self.code.as_str(), msg: &self.message, meta: &self.meta };
        let body = serde_json::to_vec(&body).unwrap_or_default();
        // Exactly this: LiveKit's Node SDK compares the whole header before it reads code and message.
        let content_type = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
        (self.status.unwrap_or(self.code.status()), content_type, body).into_response()
    }
}

impl From<AdminError> for TwirpError {
    fn from(error: AdminError) -> Self {
        let message = error.to_string();
        let code = match error {
            AdminError::NotFound(_) => TwirpCode::NotFound,
            AdminError::InvalidArgument(_) => TwirpCode::InvalidArgument,
            AdminError::FailedPrecondition(_) => TwirpCode::FailedPrecondition,
            AdminError::Unimplemented(_) => TwirpCode::Unimplemented,
            AdminError::DeadlineExceeded(_) => TwirpCode::DeadlineExceeded,
            AdminError::ResourceExhausted(_) => TwirpCode::ResourceExhausted,
            AdminError::Unavailable(_) => TwirpCode::Unavailable,
            AdminError::Rpc { code, data, .. } => return rpc_error(code, message, data),
        };
        Self::new(code, message)
    }
}

/// An error of LiveKit's participant-to-participant RPC; the numbers are those of the SDKs' `RpcError`.
fn rpc_error(rpc_code: u32, message: String, data: String) -> TwirpError {
    let code = match rpc_code {
        // Method, server or version not supported by the called side.
        1400 | 1403 | 1404 => TwirpCode::Unimplemented,
        // Recipient not found.
        1401 => TwirpCode::NotFound,
        // Request too large.
        1402 => TwirpCode::InvalidArgument,
        // Connection or response timed out.
        1501 | 1502 => TwirpCode::DeadlineExceeded,
        // Recipient gone.
        1503 => TwirpCode::Unavailable,
        // Response too large.
        1504 => TwirpCode::OutOfRange,
        // Sending failed.
        1505 => TwirpCode::Internal,
        // The application's own, 1500 among them.
        _ => TwirpCode::Unknown,
    };
    let error = TwirpError::new(code, message).with_meta("rpc_code", rpc_code.to_string());
    if data.is_empty() { error } else { error.with_meta("rpc_data", data) }
}

/// How request and answer are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// proto3 JSON: both spellings of field names are read, camelCase is written.
    Json,
    /// Protobuf.
    Protobuf,
}

impl Encoding {
    /// By the media type; its parameters (`charset`) do not count.
    fn from_headers(headers: &HeaderMap) -> Result<Self, TwirpError> {
        match media_type(headers).as_deref() {
            Some("application/json") => Ok(Self::Json),
            Some("application/protobuf") => Ok(Self::Protobuf),
            other => Err(TwirpError::new(
                TwirpCode::BadRoute,
                format!(
                    "unexpected Content-Type {:?}: it must be application/json or application/protobuf",
                    other.unwrap_or_default()
                ),
            )),
        }
    }

    /// Reads a request. The error says where in the body it went wrong.
    pub(crate) fn decode<M: Message + Default + DeserializeOwned>(
        self,
        body: &[u8],
    ) -> Result<M, TwirpError> {
        match self {
            Self::Json => serde_json::from_slice(body).map_err(|error| {
                TwirpError::new(
                    TwirpCode::Malformed,
                    format!("the JSON request could not be decoded: {error}"),
                )
            }),
            Self::Protobuf => M::decode(body).map_err(|error| {
                TwirpError::new(
                    TwirpCode::Malformed,
                    format!("the protobuf request could not be decoded: {error}"),
                )
            }),
        }
    }

    /// Writes an answer.
    pub(crate) fn encode<M: Message + Serialize>(self, message: &M) -> Result<Response, TwirpError> {
        let (content_type, body) = match self {
            Self::Json => (
                "application/json",
                serde_json::to_vec(message).map_err(|error| {
                    TwirpError::new(TwirpCode::Internal, format!("the answer could not be encoded: {error}"))
                })?,
            ),
            Self::Protobuf => ("application/protobuf", message.encode_to_vec()),
        };
        Ok(([(header::CONTENT_TYPE, HeaderValue::from_static(content_type))], body).into_response())
    }
}

/// Error of a call whose token lacks a grant. LiveKit never says 403 here.
pub(crate) fn permission_denied(needed: &str) -> TwirpError {
    TwirpError::new(TwirpCode::Unauthenticated, format!("permissions denied: the token needs {needed}"))
}

/// `/twirp/{service}/{method}`, whatever the HTTP method.
pub(crate) async fn handle(
    State(state): State<ApiState>,
    Path((service, rpc)): Path<(String, String)>,
    method: Method,
    headers: HeaderMap,
    body: Body,
) -> Response {
    match call(&state, &service, &rpc, &method, &headers, body).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    }
}

/// Cheap checks come first: nothing of the body is read before the caller is known.
async fn call(
    state: &ApiState,
    service: &str,
    rpc: &str,
    method: &Method,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, TwirpError> {
    if method != Method::POST {
        return Err(bad_route(format!("unsupported method {method}: only POST is allowed")));
    }
    let known = room_service::METHODS.contains(&rpc) && service == room_service::SERVICE
        || other_services::grant(service, rpc).is_some();
    if !known {
        return Err(bad_route(format!("no handler for path {:?}", format!("/twirp/{service}/{rpc}"))));
    }
    let claims = authenticate(state, headers)?;
    let encoding = Encoding::from_headers(headers)?;
    let body = read_body(body, API_BODY_BYTES_MAX).await.map_err(|error| match error {
        BodyError::TooLarge { .. } => TwirpError::new(TwirpCode::ResourceExhausted, error.to_string())
            .with_status(StatusCode::PAYLOAD_TOO_LARGE),
        BodyError::Timeout => TwirpError::new(TwirpCode::DeadlineExceeded, error.to_string()),
        BodyError::Broken => TwirpError::new(TwirpCode::Canceled, error.to_string()),
    })?;
    if service == room_service::SERVICE {
        room_service::call(&state.directory, &claims, rpc, encoding, &body).await
    } else {
        Err(other_services::call(&claims, service, rpc))
    }
}

fn bad_route(message: String) -> TwirpError {
    TwirpError::new(TwirpCode::BadRoute, message)
}

/// Whose token the header carries.
pub(crate) fn authenticate(state: &ApiState, headers: &HeaderMap) -> Result<Claims, TwirpError> {
    let unauthenticated = |message: String| TwirpError::new(TwirpCode::Unauthenticated, message);
    let token = bearer_token(headers).map_err(|error| unauthenticated(error.to_string()))?;
    state
        .directory
        .keys()
        .verify(token, SystemTime::now())
        .map_err(|error| unauthenticated(error.to_string()))
}

#[cfg(test)]
mod tests;
