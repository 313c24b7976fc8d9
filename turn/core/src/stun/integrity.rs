//! Keys from passwords, and proving who wrote a message with them (RFC 8489, sections 9.2.2, 14.5 and 14.6).

use aws_lc_rs::{digest, hmac};
use md5::{Digest as _, Md5};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::Message;

/// How a password becomes a key (RFC 8489, section 18.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PasswordAlgorithm {
    /// What all clients can do.
    Md5 = 1,
    /// What RFC 8489 adds.
    Sha256 = 2,
}

/// A user's key in a realm.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct IntegrityKey {
    bytes: [u8; 32],
    length: u8,
}

impl IntegrityKey {
    /// The key of long-term credentials. Username and password are taken as they are: whoever makes them has
    /// prepared them (OpaqueString, RFC 8265).
    pub fn long_term(algorithm: PasswordAlgorithm, username: &str, realm: &str, password: &str) -> Self {
        let mut bytes = [0; 32];
        let parts = [username, ":", realm, ":", password];
        let length = match algorithm {
            PasswordAlgorithm::Md5 => {
                let mut hash = Md5::new();
                parts.iter().for_each(|part| hash.update(part));
                let (at, _) = bytes.split_at_mut(16);
                at.copy_from_slice(&hash.finalize());
                16
            }
            PasswordAlgorithm::Sha256 => {
                let mut hash = digest::Context::new(&digest::SHA256);
                parts.iter().for_each(|part| hash.update(part.as_bytes()));
                bytes.copy_from_slice(hash.finish().as_ref());
                32
            }
        };
        Self { bytes, length }
    }

    /// The key of short-term credentials (RFC 8489, section 9.1.1), which ICE has; a relay has no use for it. None for a
    /// password of more than 32 bytes.
    pub fn short_term(password: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        bytes.get_mut(..password.len())?.copy_from_slice(password.as_bytes());
        Some(Self { bytes, length: u8::try_from(password.len()).ok()? })
    }

    fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or_default()
    }

    /// The integrity of a message whose first bytes are `before`, as if it ended `length` bytes after its header.
    pub(super) fn sign(&self, kind: IntegrityKind, before: &[u8], length: usize) -> hmac::Tag {
        mac(kind, self.as_bytes(), before, length)
    }
}

/// Shows nothing of it.
impl std::fmt::Debug for IntegrityKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("IntegrityKey")
    }
}

/// Which attribute proves who wrote a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IntegrityKind {
    /// MESSAGE-INTEGRITY: HMAC-SHA-1.
    Sha1,
    /// MESSAGE-INTEGRITY-SHA256.
    Sha256,
}

impl IntegrityKind {
    /// Bytes of the value. A shorter HMAC-SHA-256 is allowed only to usages that say so, and TURN does not.
    pub(super) const fn bytes(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
        }
    }

    fn algorithm(self) -> hmac::Algorithm {
        match self {
            Self::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => hmac::HMAC_SHA256,
        }
    }
}

impl Message<'_> {
    /// Which integrity counts: the stronger if there are both.
    pub(crate) fn integrity_kind(&self) -> Option<IntegrityKind> {
        match (self.integrity_sha256, self.integrity) {
            (Some(_), _) => Some(IntegrityKind::Sha256),
            (None, Some(_)) => Some(IntegrityKind::Sha1),
            (None, None) => None,
        }
    }

    /// Whether the integrity that counts was made with this key.
    pub fn is_signed_with(&self, key: &IntegrityKey) -> bool {
        self.is_signed_with_bytes(key.as_bytes())
    }

    /// As [`Message::is_signed_with`], with a short-term credential's password (RFC 8489, section 9.1.1).
    pub fn is_signed_with_bytes(&self, key: &[u8]) -> bool {
        let Some(kind) = self.integrity_kind() else { return false };
        let found = match kind {
            IntegrityKind::Sha1 => self.integrity,
            IntegrityKind::Sha256 => self.integrity_sha256,
        };
        let Some((at, value)) = found else { return false };
        if value.len() != kind.bytes() {
            return false;
        }
        let before = self.bytes().get(..at).unwrap_or_default();
        let end = at + 4 + kind.bytes() - super::HEADER_BYTES;
        let tag = mac(kind, key, before, end);
        bool::from(subtle::ConstantTimeEq::ct_eq(tag.as_ref(), value))
    }
}

fn mac(kind: IntegrityKind, key: &[u8], before: &[u8], length: usize) -> hmac::Tag {
    let mut context = hmac::Context::with_key(&hmac::Key::new(kind.algorithm(), key));
    let (kind_of_message, rest) = before.split_at(before.len().min(2));
    context.update(kind_of_message);
    // The length that the message has with this attribute as its last; what follows it is not covered.
    context.update(&u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes());
    context.update(rest.get(2..).unwrap_or_default());
    context.sign()
}
