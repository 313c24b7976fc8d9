//! Credentials for TURN that need no database: the user name says until when, the password proves who made it.
//!
//! The scheme is the one that TURN servers and their callers agree on (draft-uberti-behave-turn-rest-00, section
//! 2.2), so that anything that makes credentials for coturn's `use-auth-secret` makes them for us:
//! ```text
//!   username   = seconds since 1970, colon, any name of the user
//!   credential = base64( HMAC-SHA-1( secret, username ) )
//! ```

use std::fmt;
use std::time::{Duration, SystemTime};

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret, SecretString};

use crate::KeyRing;
use crate::keys::unix_seconds;

/// What an API key's secret is mixed with to make its TURN secret.
const DERIVATION_LABEL: &[u8] = b"zynk turn credentials";

/// What a relay and whoever hands out its credentials share.
#[derive(Clone)]
pub struct TurnSecret(SecretString);

/// What a client needs to use a relay.
#[derive(Clone)]
pub struct TurnCredentials {
    /// The user name, which says when the credentials end.
    pub username: String,
    /// The password.
    pub credential: SecretString,
    /// When they end: no new allocation is made with them after that.
    pub expires_at: SystemTime,
}

impl TurnSecret {
    /// A secret as it is, for instance one that coturn has as `static-auth-secret`.
    pub fn new(secret: impl Into<SecretString>) -> Self {
        Self(secret.into())
    }

    /// Makes credentials for `user` (any text; logs and quotas of the relay know the user by it), which last for
    /// `ttl` from `now`.
    pub fn credentials(&self, user: &str, ttl: Duration, now: SystemTime) -> TurnCredentials {
        let expires_at_s = unix_seconds(now).saturating_add(ttl.as_secs());
        let username = format!("{expires_at_s}:{user}");
        let expires_at = SystemTime::UNIX_EPOCH + Duration::from_secs(expires_at_s);
        TurnCredentials { credential: self.credential(&username), username, expires_at }
    }

    /// The password that goes with a user name. Whether its time is over is [`turn_expiry`]'s to say.
    pub fn credential(&self, username: &str) -> SecretString {
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, self.0.expose_secret().as_bytes());
        STANDARD.encode(hmac::sign(&key, username.as_bytes())).into()
    }

    /// The secret itself, for the configuration of a relay elsewhere.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

/// Shows nothing.
impl fmt::Debug for TurnSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TurnSecret")
    }
}

/// Shows the user name alone.
impl fmt::Debug for TurnCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TurnCredentials").field("username", &self.username).finish_non_exhaustive()
    }
}

/// When the credentials of this user name end: the number of seconds since 1970 before its first colon, or all of
/// it. None if there is no such number, and so no such credentials.
pub fn turn_expiry(username: &str) -> Option<SystemTime> {
    let digits = username.split_once(':').map_or(username, |(digits, _)| digits);
    // A sign is no digit, which `parse` would take for one.
    if !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(digits.parse().ok()?))
}

impl KeyRing {
    /// The secrets for TURN that follow from the API keys', in their order. Who has one can make credentials for
    /// relays and nothing else: a relay elsewhere is given this, not the API key.
    pub fn turn_secrets(&self) -> Vec<TurnSecret> {
        self.secrets()
            .map(|secret| {
                let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose_secret().as_bytes());
                TurnSecret::new(STANDARD.encode(hmac::sign(&key, DERIVATION_LABEL)))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn credentials_are_those_of_the_rest_draft() {
        // printf '1500000600:alice' | openssl dgst -sha1 -hmac north -binary | base64
        let made = TurnSecret::new("north").credentials("alice", Duration::from_secs(600), at(1_500_000_000));
        assert_eq!(made.username, "1500000600:alice");
        assert_eq!(made.credential.expose_secret(), "nXi5pwdrcqNp2F6GN8BxVHmuOTI=");
        assert_eq!(made.expires_at, at(1_500_000_600));
        assert_eq!(turn_expiry(&made.username), Some(at(1_500_000_600)));
    }

    #[test]
    fn user_names_without_a_time_have_no_end() {
        for username in ["", "alice", ":alice", "+5:alice", "-5:alice", "5 :alice", "99999999999999999999:a"]
        {
            assert_eq!(turn_expiry(username), None, "{username}");
        }
        assert_eq!(turn_expiry("5"), Some(at(5)));
        assert_eq!(turn_expiry("5:"), Some(at(5)));
        assert_eq!(turn_expiry("18446744073709551615:a"), None, "no such time");
    }

    #[test]
    fn every_api_key_has_a_secret_of_its_own_for_turn() {
        let ring = KeyRing::new([("a".into(), "one".into()), ("b".into(), "two".into())]);
        let secrets = ring.turn_secrets();
        let exposed: Vec<_> = secrets.iter().map(TurnSecret::expose).collect();
        assert_eq!(exposed.len(), 2);
        assert_ne!(exposed[0], exposed[1]);
        assert!(exposed.iter().all(|secret| secret.len() == 44 && !secret.contains("one")));
    }

    #[test]
    fn secrets_are_not_shown() {
        let secret = TurnSecret::new("north");
        let made = secret.credentials("alice", Duration::ZERO, at(0));
        let shown = format!("{secret:?} {made:?}");
        assert!(!shown.contains("north") && !shown.contains(made.credential.expose_secret()), "{shown}");
    }
}
