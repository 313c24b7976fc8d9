//! Who may use the relay: users with a password each, and whoever has credentials made with a secret (see
//! [`zynk_auth::TurnSecret`]).

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use secrecy::{ExposeSecret, SecretString};
use zynk_auth::{TurnSecret, turn_expiry};

use crate::stun::{IntegrityKey, Message, PasswordAlgorithm};

/// Longest user name that is looked at, in bytes (RFC 8489, section 14.3).
const USERNAME_BYTES_MAX: usize = 509;

/// By how much the clock of whoever made credentials may be ahead of ours.
const CLOCK_LEEWAY: Duration = Duration::from_secs(60);

/// The users and secrets of a relay.
#[derive(Clone, Default)]
pub struct Credentials {
    users: HashMap<String, SecretString>,
    secrets: Vec<TurnSecret>,
}

impl Credentials {
    /// Those of `users`, and those that one of `secrets` has made. Each secret is tried for a user name with a time, so
    /// there should be few.
    pub fn new(
        users: impl IntoIterator<Item = (String, SecretString)>,
        secrets: impl IntoIterator<Item = TurnSecret>,
    ) -> Self {
        Self { users: users.into_iter().collect(), secrets: secrets.into_iter().collect() }
    }

    /// Whether nobody at all may use it.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty() && self.secrets.is_empty()
    }

    /// Finds the key that a message is signed with, for a new allocation.
    pub(crate) fn authenticate(
        &self,
        message: &Message<'_>,
        username: &str,
        realm: &str,
        algorithm: PasswordAlgorithm,
        now: SystemTime,
    ) -> Result<IntegrityKey, AuthenticationError> {
        if username.len() > USERNAME_BYTES_MAX {
            return Err(AuthenticationError::UnknownUser);
        }
        let signed = |password: &SecretString| {
            let key = IntegrityKey::long_term(algorithm, username, realm, password.expose_secret());
            message.is_signed_with(&key).then_some(key)
        };
        if let Some(password) = self.users.get(username) {
            return signed(password).ok_or(AuthenticationError::WrongPassword);
        }
        let Some(expires_at) = turn_expiry(username) else { return Err(AuthenticationError::UnknownUser) };
        if self.secrets.is_empty() {
            return Err(AuthenticationError::UnknownUser);
        }
        let key = self.secrets.iter().find_map(|secret| signed(&secret.credential(username)));
        let key = key.ok_or(AuthenticationError::WrongPassword)?;
        // Only who has the password learns that its time is over.
        match now > expires_at + CLOCK_LEEWAY {
            true => Err(AuthenticationError::Expired),
            false => Ok(key),
        }
    }
}

/// Shows how many there are.
impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials({} users, {} secrets)", self.users.len(), self.secrets.len())
    }
}

/// Whom quotas count a user name for: what follows the time of credentials that have one, so that new credentials of
/// the same user are the same user's.
pub(crate) fn user_of(username: &str) -> &str {
    match username.split_once(':') {
        Some((_, user)) if !user.is_empty() && turn_expiry(username).is_some() => user,
        _ => username,
    }
}

/// Credentials are refused; the client gets 401 for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AuthenticationError {
    UnknownUser,
    WrongPassword,
    Expired,
}
