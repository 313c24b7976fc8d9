//! The API keys, and signing and verifying with them.

use std::fmt;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::Claims;

/// Longest token that is looked at; a longer one is refused unread. HTTP headers are not longer either.
pub const MAX_TOKEN_BYTES: usize = 64 * 1024;

/// By how much clocks may differ: a token is accepted that much after its end and before its beginning.
pub const TIME_LEEWAY: Duration = Duration::from_secs(60);

/// Shortest life of a refreshed token.
pub const REFRESHED_TTL_MIN: Duration = Duration::from_secs(600);

/// Life of a webhook's token.
pub const WEBHOOK_TTL: Duration = Duration::from_secs(300);

/// API keys and their secrets. The first key signs what the server itself issues; all of them verify.
#[derive(Clone, Default)]
pub struct KeyRing {
    keys: Vec<(String, SecretString)>,
}

impl KeyRing {
    /// A ring of these keys, the first one first. A key that comes again replaces the earlier secret.
    pub fn new(keys: impl IntoIterator<Item = (String, SecretString)>) -> Self {
        let mut ring: Vec<(String, SecretString)> = Vec::new();
        for (key, secret) in keys {
            match ring.iter_mut().find(|(known, _)| *known == key) {
                Some(entry) => entry.1 = secret,
                None => ring.push((key, secret)),
            }
        }
        Self { keys: ring }
    }

    /// A ring of one key.
    pub fn single(key: impl Into<String>, secret: impl Into<String>) -> Self {
        Self { keys: vec![(key.into(), SecretString::from(secret.into()))] }
    }

    /// Whether there is no key at all; such a ring verifies nothing.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The API keys, without their secrets.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().map(|(key, _)| key.as_str())
    }

    /// Signs `claims` with the first key, valid from `now` for `ttl`.
    pub fn sign(&self, claims: &Claims, ttl: Duration, now: SystemTime) -> Result<String, SignError> {
        let (key, secret) = self.keys.first().ok_or(SignError::NoKey)?;
        let now_s = unix_seconds(now);
        let mut claims = claims.clone();
        claims.issuer = key.clone();
        claims.issued_at_s = Some(now_s);
        claims.not_before_s = Some(now_s);
        claims.expires_at_s = Some(now_s.saturating_add(ttl.as_secs()));
        let secret = EncodingKey::from_secret(secret.expose_secret().as_bytes());
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &secret)
            .map_err(|error| SignError::Encode(error.to_string()))
    }

    /// A new token with the same claims for a client that is in a session: valid for what is left of the
    /// old one's life, and at least [`REFRESHED_TTL_MIN`].
    pub fn refresh(&self, claims: &Claims, now: SystemTime) -> Result<String, SignError> {
        self.sign(claims, claims.remaining_life(now).max(REFRESHED_TTL_MIN), now)
    }

    /// The token that goes with a webhook whose body is `body`, for its header `Authorization` (without
    /// the word `Bearer`).
    pub fn sign_webhook(&self, body: &[u8], now: SystemTime) -> Result<String, SignError> {
        let claims = Claims { sha256: body_sha256(body), ..Claims::default() };
        self.sign(&claims, WEBHOOK_TTL, now)
    }

    /// Checks a token: its algorithm, key, signature and times. The claims' `identity` is filled from `jti`
    /// if `sub` is empty. What the claims permit is the caller's to check.
    pub fn verify(&self, token: &str, now: SystemTime) -> Result<Claims, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::TooLong { bytes: token.len() });
        }
        let (header, payload) = split(token)?;
        let header: RawHeader = decode_json(header)?;
        if header.alg.as_deref() != Some("HS256") {
            return Err(TokenError::Algorithm);
        }
        // RFC 7515, section 4.1.11: extensions that are not understood make the token invalid.
        if header.crit.is_some() {
            return Err(TokenError::Malformed("unknown critical header"));
        }
        // The key is looked up by what the token says of itself; nothing else of it is used before the
        // signature has been checked.
        let issuer: RawIssuer = decode_json(payload)?;
        let secret = self.secret(&issuer.iss).ok_or(TokenError::UnknownKey)?;
        let key = DecodingKey::from_secret(secret.expose_secret().as_bytes());
        let mut claims = jsonwebtoken::decode::<Claims>(token, &key, &signature_only())
            .map_err(|error| token_error(&error))?
            .claims;
        check_times(&claims, now)?;
        if claims.identity.is_empty() {
            claims.identity.clone_from(&claims.id);
        }
        // The private claim of that name does not count; left in, it would be copied into refreshed tokens.
        claims.other.remove("identity");
        Ok(claims)
    }

    /// Checks a webhook's token against the exact bytes of its body.
    pub fn verify_webhook(&self, token: &str, body: &[u8], now: SystemTime) -> Result<Claims, TokenError> {
        let claims = self.verify(token, now)?;
        if bool::from(claims.sha256.as_bytes().ct_eq(body_sha256(body).as_bytes())) {
            Ok(claims)
        } else {
            Err(TokenError::BodyMismatch)
        }
    }

    /// The keys' secrets, in the ring's order.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = &SecretString> {
        self.keys.iter().map(|(_, secret)| secret)
    }

    fn secret(&self, key: &str) -> Option<&SecretString> {
        self.keys.iter().find(|(known, _)| known == key).map(|(_, secret)| secret)
    }
}

/// Shows the keys' names alone.
impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

/// A token cannot be signed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignError {
    /// The ring is empty. The operator's fault.
    #[error("there is no API key to sign with")]
    NoKey,
    /// The claims cannot be encoded.
    #[error("cannot encode the token: {0}")]
    Encode(String),
}

/// A token is refused. Each is the fault of whoever made or sent the token, and is answered with HTTP 401.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// It is longer than [`MAX_TOKEN_BYTES`].
    #[error("invalid token: too long ({bytes} bytes, at most {MAX_TOKEN_BYTES})")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// It is not a JSON Web Token, or a claim has the wrong type.
    #[error("invalid token: {0}")]
    Malformed(&'static str),
    /// It is not signed with HMAC-SHA-256; unsigned tokens (`alg: none`) among them.
    #[error("invalid token: only the algorithm HS256 is accepted")]
    Algorithm,
    /// Its issuer is none of the API keys.
    #[error("invalid API key")]
    UnknownKey,
    /// It was not signed with the API key's secret, or was altered since.
    #[error("invalid token: signature does not match")]
    Signature,
    /// It does not say when it ends.
    #[error("invalid token: expiration (exp) is missing")]
    NoExpiration,
    /// Its time is over.
    #[error("invalid token: token is expired (exp)")]
    Expired,
    /// Its time has not come.
    #[error("invalid token: token is not valid yet (nbf)")]
    NotYetValid,
    /// It belongs to another webhook body.
    #[error("invalid token: the body's sha256 does not match")]
    BodyMismatch,
}

#[derive(Deserialize)]
struct RawHeader {
    alg: Option<String>,
    crit: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct RawIssuer {
    #[serde(default, deserialize_with = "crate::claims::null_as_default")]
    iss: String,
}

/// Header and payload of a compact token (RFC 7515, section 7.1): three parts between two dots.
fn split(token: &str) -> Result<(&str, &str), TokenError> {
    let mut parts = token.split('.');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(header), Some(payload), Some(_signature), None) => Ok((header, payload)),
        _ => Err(TokenError::Malformed("not three parts separated by dots")),
    }
}

fn decode_json<T: serde::de::DeserializeOwned>(part: &str) -> Result<T, TokenError> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Malformed("not base64url"))?;
    serde_json::from_slice(&bytes).map_err(|_| TokenError::Malformed("not the JSON of a token"))
}

/// The library checks the signature alone: it would read the clock, and knows no audience of ours.
fn signature_only() -> Validation {
    let mut validation = Validation::new(Algorithm::HS256);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation
}

fn token_error(error: &jsonwebtoken::errors::Error) -> TokenError {
    use jsonwebtoken::errors::ErrorKind;
    match error.kind() {
        ErrorKind::InvalidSignature => TokenError::Signature,
        ErrorKind::InvalidAlgorithm | ErrorKind::UnsupportedAlgorithm | ErrorKind::MissingAlgorithm => {
            TokenError::Algorithm
        }
        ErrorKind::Json(_) => TokenError::Malformed("a claim has the wrong type"),
        ErrorKind::Base64(_) => TokenError::Malformed("not base64url"),
        _ => TokenError::Malformed("cannot be read"),
    }
}

fn check_times(claims: &Claims, now: SystemTime) -> Result<(), TokenError> {
    let now_s = unix_seconds(now);
    let leeway_s = TIME_LEEWAY.as_secs();
    let expires_at_s = claims.expires_at_s.ok_or(TokenError::NoExpiration)?;
    if now_s > expires_at_s.saturating_add(leeway_s) {
        return Err(TokenError::Expired);
    }
    if claims.not_before_s.is_some_and(|from| from > now_s.saturating_add(leeway_s)) {
        return Err(TokenError::NotYetValid);
    }
    Ok(())
}

fn body_sha256(body: &[u8]) -> String {
    STANDARD.encode(Sha256::digest(body))
}

/// Seconds since 1970; 0 for a clock that is set before.
pub(crate) fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests;
