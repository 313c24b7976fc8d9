//! Writing a message at the end of a buffer.

use std::net::SocketAddr;

use super::attribute::{self, ERROR_CODE, FINGERPRINT, MESSAGE_INTEGRITY, MESSAGE_INTEGRITY_SHA256};
use super::integrity::{IntegrityKey, IntegrityKind};
use super::parse::FINGERPRINT_MASK;
use super::{Class, ErrorCode, HEADER_BYTES, MAGIC_COOKIE, Message, Method, TransactionId, join_type};

/// A message in the making. Its length is right after every step, so that it may be left as it is.
#[derive(Debug)]
pub struct Writer<'b> {
    buffer: &'b mut Vec<u8>,
    start: usize,
    transaction: TransactionId,
}

impl<'b> Writer<'b> {
    /// Begins a message at the end of `buffer`.
    pub fn new(buffer: &'b mut Vec<u8>, class: Class, method: Method, transaction: &TransactionId) -> Self {
        Self::with_type(buffer, join_type(class, method), transaction)
    }

    /// Begins the answer to a request, whatever its method.
    pub(crate) fn response(buffer: &'b mut Vec<u8>, class: Class, request: &Message<'_>) -> Self {
        // The methods' bits are where they are in the request; only the class differs.
        let class = join_type(class, Method::Binding) & 0x0110;
        let number = request.method_number();
        let method = (number & 0x000f) | (number & 0x0070) << 1 | (number & 0x0f80) << 2;
        Self::with_type(buffer, class | method, request.transaction())
    }

    /// Goes on with a message that begins at a place in `buffer`.
    #[cfg(test)]
    pub(super) fn resume_for_tests(
        buffer: &'b mut Vec<u8>,
        start: usize,
        transaction: &TransactionId,
    ) -> Self {
        Self { buffer, start, transaction: *transaction }
    }

    fn with_type(buffer: &'b mut Vec<u8>, bits: u16, transaction: &TransactionId) -> Self {
        let start = buffer.len();
        buffer.extend_from_slice(&bits.to_be_bytes());
        buffer.extend_from_slice(&[0, 0]);
        buffer.extend_from_slice(&MAGIC_COOKIE.to_be_bytes());
        buffer.extend_from_slice(transaction);
        Self { buffer, start, transaction: *transaction }
    }

    /// Adds an attribute. A value that does not fit into a message (65,515 bytes in all) is left out.
    pub fn attribute(self, kind: u16, value: &[u8]) -> Self {
        let padded = value.len().next_multiple_of(4);
        let after = self.length() + 4 + padded;
        let (Ok(length), Ok(_)) = (u16::try_from(value.len()), u16::try_from(after)) else { return self };
        self.buffer.extend_from_slice(&kind.to_be_bytes());
        self.buffer.extend_from_slice(&length.to_be_bytes());
        self.buffer.extend_from_slice(value);
        self.buffer.resize(self.buffer.len() + padded - value.len(), 0);
        self.set_length(after)
    }

    /// Adds a 32-bit number.
    pub fn number(self, kind: u16, value: u32) -> Self {
        self.attribute(kind, &value.to_be_bytes())
    }

    /// Adds an address, mixed with the message's beginning (RFC 8489, section 14.2).
    pub fn xor_address(self, kind: u16, address: SocketAddr) -> Self {
        let (value, length) = attribute::write_xor_address(address, &self.transaction);
        self.attribute(kind, value.get(..length).unwrap_or_default())
    }

    /// Adds an address in the clear.
    pub(crate) fn address(self, kind: u16, address: SocketAddr) -> Self {
        let (value, length) = attribute::write_address(address);
        self.attribute(kind, value.get(..length).unwrap_or_default())
    }

    /// Adds ERROR-CODE. It has no words: they would only make the answer to a forged source longer.
    pub fn error(self, code: ErrorCode) -> Self {
        let number = code as u16;
        let [hundreds, rest] = [(number / 100) as u8, (number % 100) as u8];
        self.attribute(ERROR_CODE, &[0, 0, hundreds, rest])
    }

    /// Adds the integrity of all that was written so far.
    pub(crate) fn sign(self, kind: IntegrityKind, key: &IntegrityKey) -> Self {
        let length = self.length() + 4 + kind.bytes();
        let tag = key.sign(kind, self.buffer.get(self.start..).unwrap_or_default(), length);
        let attribute = match kind {
            IntegrityKind::Sha1 => MESSAGE_INTEGRITY,
            IntegrityKind::Sha256 => MESSAGE_INTEGRITY_SHA256,
        };
        self.attribute(attribute, tag.as_ref())
    }

    /// Adds MESSAGE-INTEGRITY.
    pub fn sign_sha1(self, key: &IntegrityKey) -> Self {
        self.sign(IntegrityKind::Sha1, key)
    }

    /// Adds MESSAGE-INTEGRITY-SHA256.
    pub fn sign_sha256(self, key: &IntegrityKey) -> Self {
        self.sign(IntegrityKind::Sha256, key)
    }

    /// Adds the fingerprint, which must be the last.
    pub fn fingerprint(self) -> Self {
        let length = self.length();
        let this = self.set_length(length + 8);
        let crc = crc32fast::hash(this.buffer.get(this.start..).unwrap_or_default()) ^ FINGERPRINT_MASK;
        this.set_length(length).number(FINGERPRINT, crc)
    }

    /// Bytes after the header.
    fn length(&self) -> usize {
        self.buffer.len().saturating_sub(self.start + HEADER_BYTES)
    }

    fn set_length(self, length: usize) -> Self {
        if let Some(at) = self.buffer.get_mut(self.start + 2..self.start + 4) {
            at.copy_from_slice(&u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes());
        }
        self
    }
}
