//! Who sent a request (RFC 8489, section 9.2.4). Until that is proven, nothing is remembered.

use super::TurnServer;
use super::answer::{Proven, Request};
use crate::credentials::{AuthenticationError, user_of};
use crate::io::RefusalReason;
use crate::nonce::NonceVerdict;
use crate::stun::attribute::{NONCE, PASSWORD_ALGORITHM, PASSWORD_ALGORITHMS, REALM, USERNAME};
use crate::stun::{ErrorCode, Method, PasswordAlgorithm};

impl TurnServer {
    /// Proves who sent a request, or answers it with what is missing.
    pub(super) fn authenticate<'a>(&mut self, request: Request<'a>, method: Method) -> Option<Proven<'a>> {
        let Request { message, five_tuple, now } = request;
        let Some(integrity) = message.integrity_kind() else {
            self.challenge(&request, ErrorCode::Unauthorized);
            return None;
        };
        let fields = (message.text(USERNAME), message.has(REALM), message.attribute(NONCE));
        let (Some(username), true, Some(nonce)) = fields else {
            self.refuse_unproven(&request, ErrorCode::BadRequest);
            return None;
        };
        // An allocation's own key is enough: it must outlive credentials that end during a call. (Refresh moves an
        // allocation, and ConnectionBind is another stream's, so they may come from an address without one.)
        let known = self.allocation_of_request(&request, method);
        let owner_key = known.and_then(|key| self.allocations.get(key)).and_then(|allocation| {
            let is_owner = *allocation.username == *username && message.is_signed_with(&allocation.key);
            is_owner.then(|| allocation.key.clone())
        });
        if self.nonces.check(nonce, self.unix_s(now), five_tuple.client) == NonceVerdict::Stale {
            // Whoever has an allocation must not lose it because others ask too much from the same address, or seem to.
            match owner_key.is_some() {
                true => self.send_challenge(&request, ErrorCode::StaleNonce),
                false => self.challenge(&request, ErrorCode::StaleNonce),
            }
            return None;
        }
        let Some(algorithm) = algorithm_of(&request) else {
            self.refuse_unproven(&request, ErrorCode::BadRequest);
            return None;
        };
        let result = match owner_key {
            Some(key) => Ok(key),
            None => {
                let realm = &self.config.realm;
                let time_of_day = self.time_of_day(now);
                self.config.credentials.authenticate(&message, username, realm, algorithm, time_of_day)
            }
        };
        let known = known.and_then(|key| self.allocations.get(key));
        let other_user = known.is_some_and(|allocation| *allocation.username != *username);
        let key = match result {
            Ok(key) => key,
            Err(error) => {
                let reason = match error {
                    AuthenticationError::UnknownUser => RefusalReason::UnknownUser,
                    AuthenticationError::WrongPassword => RefusalReason::WrongPassword,
                    AuthenticationError::Expired => RefusalReason::CredentialsExpired,
                };
                self.refused(five_tuple, None, reason);
                self.challenge(&request, ErrorCode::Unauthorized);
                return None;
            }
        };
        let proven = Proven { request, username, key, integrity };
        // Whose an allocation is stays (RFC 8656, section 5): nobody takes it over, whatever credentials he has.
        // Allocate gets 437 below, and ConnectionBind 400, as if there were no such connection.
        if other_user && !matches!(method, Method::Allocate | Method::ConnectionBind) {
            self.refused(five_tuple, Some(user_of(username)), RefusalReason::WrongUser);
            self.refuse(&proven, ErrorCode::WrongCredentials);
            return None;
        }
        if self.refuse_unknown(&request, Some((&proven.key, integrity))) {
            return None;
        }
        Some(proven)
    }
}

/// How the sender made its key; none if it does not agree with what it was offered (RFC 8489, section 9.2.4).
fn algorithm_of(request: &Request<'_>) -> Option<PasswordAlgorithm> {
    let message = &request.message;
    match (message.attribute(PASSWORD_ALGORITHMS), message.attribute(PASSWORD_ALGORITHM)) {
        (None, None) => Some(PasswordAlgorithm::Md5),
        (Some(offered), Some(chosen)) if offered == super::answer::ALGORITHMS => match chosen {
            [0, 1, 0, 0] => Some(PasswordAlgorithm::Md5),
            [0, 2, 0, 0] => Some(PasswordAlgorithm::Sha256),
            _ => None,
        },
        _ => None,
    }
}
