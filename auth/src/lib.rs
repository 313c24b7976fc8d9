//! Access tokens, room grants and TURN credentials. Pure functions: no IO, and the time is handed in.
//!
//! Tokens are LiveKit's: JSON Web Tokens (RFC 7519), signed with HMAC-SHA-256 under an API key's secret, with
//! the grants in the claim `video`. Any LiveKit server SDK makes tokens that this crate accepts.
//!
//! ```
//! use std::time::{Duration, SystemTime};
//! use zynk_auth::{Claims, KeyRing, VideoGrants};
//!
//! let keys = KeyRing::single("devkey", "secret");
//! let mut claims = Claims::for_identity("alice");
//! claims.video = VideoGrants::join("lobby");
//! let now = SystemTime::now();
//! let token = keys.sign(&claims, Duration::from_secs(600), now).unwrap();
//! assert!(keys.verify(&token, now).unwrap().video.can_publish());
//! assert!(KeyRing::single("devkey", "other").verify(&token, now).is_err());
//! ```
//!
//! - [`Claims`], [`VideoGrants`]: what a token says.
//! - [`KeyRing`]: the API keys, and the only code that signs and verifies.
//! - [`TurnSecret`], [`TurnCredentials`]: what lets a client use a relay.

mod claims;
mod grants;
mod keys;
mod turn;

pub use claims::Claims;
pub use grants::{AgentGrants, InferenceGrants, ObservabilityGrants, SipGrants, VideoGrants};
pub use keys::{
    KeyRing, MAX_TOKEN_BYTES, REFRESHED_TTL_MIN, SignError, TIME_LEEWAY, TokenError, WEBHOOK_TTL,
};
pub use turn::{TurnCredentials, TurnSecret, turn_expiry};
