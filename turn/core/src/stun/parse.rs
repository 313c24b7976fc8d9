//! Reading a message in place. No alignment is assumed, and nothing is copied.

use std::net::SocketAddr;

use super::attribute::{
    self, FINGERPRINT, MESSAGE_INTEGRITY, MESSAGE_INTEGRITY_SHA256, is_comprehension_required,
};
use super::{Class, HEADER_BYTES, MAGIC_COOKIE, Method, TransactionId, split_type};

/// What the CRC of a fingerprint is mixed with (RFC 8489, section 14.7).
pub(super) const FINGERPRINT_MASK: u32 = 0x5354_554e;

/// A message whose form is right: all of its attributes lie within it, and its fingerprint, if it has one, is good.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    bytes: &'a [u8],
    class: Class,
    method: u16,
    transaction: &'a TransactionId,
    /// Where the first attribute of integrity begins; the message's end if there is none.
    covered: usize,
    /// The values of MESSAGE-INTEGRITY and MESSAGE-INTEGRITY-SHA256 with the places where they begin.
    pub(super) integrity: Option<(usize, &'a [u8])>,
    pub(super) integrity_sha256: Option<(usize, &'a [u8])>,
    has_fingerprint: bool,
}

/// Bytes are no STUN message. The sender's fault, or they are of another protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// There are fewer bytes than a header has, or than it announces, or more.
    #[error("the message's length is not what its header says")]
    Length,
    /// It does not begin with two zero bits and the magic cookie: no STUN since RFC 5389.
    #[error("no STUN message")]
    NotStun,
    /// An attribute reaches beyond the message.
    #[error("an attribute reaches beyond the message")]
    Attribute,
    /// Its fingerprint is wrong, or not its last attribute.
    #[error("the fingerprint is wrong")]
    Fingerprint,
}

impl<'a> Message<'a> {
    /// Reads a message that takes up all of `bytes`.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let [type_high, type_low, length_high, length_low, rest @ ..] = bytes else {
            return Err(ParseError::Length);
        };
        let (cookie, rest) = rest.split_first_chunk().ok_or(ParseError::Length)?;
        let (transaction, _) = rest.split_first_chunk().ok_or(ParseError::Length)?;
        if type_high & 0xc0 != 0 || u32::from_be_bytes(*cookie) != MAGIC_COOKIE {
            return Err(ParseError::NotStun);
        }
        let length = usize::from(u16::from_be_bytes([*length_high, *length_low]));
        if !length.is_multiple_of(4) || bytes.len() != HEADER_BYTES + length {
            return Err(ParseError::Length);
        }
        let (class, method) = split_type(u16::from_be_bytes([*type_high, *type_low]));
        let mut message = Self {
            bytes,
            class,
            method,
            transaction,
            covered: bytes.len(),
            integrity: None,
            integrity_sha256: None,
            has_fingerprint: false,
        };
        message.read_attributes()?;
        Ok(message)
    }

    /// Walks over all attributes once, and notes where the integrity is.
    fn read_attributes(&mut self) -> Result<(), ParseError> {
        let mut at = HEADER_BYTES;
        while at < self.bytes.len() {
            let (kind, value, after) = self.attribute_at(at).ok_or(ParseError::Attribute)?;
            match kind {
                MESSAGE_INTEGRITY if self.integrity.is_none() && self.integrity_sha256.is_none() => {
                    self.integrity = Some((at, value));
                    self.covered = self.covered.min(at);
                }
                MESSAGE_INTEGRITY_SHA256 if self.integrity_sha256.is_none() => {
                    self.integrity_sha256 = Some((at, value));
                    self.covered = self.covered.min(at);
                }
                FINGERPRINT => {
                    let (before, _) = self.bytes.split_at(at);
                    let wanted = crc32fast::hash(before) ^ FINGERPRINT_MASK;
                    if after != self.bytes.len() || value != wanted.to_be_bytes() {
                        return Err(ParseError::Fingerprint);
                    }
                    self.covered = self.covered.min(at);
                    self.has_fingerprint = true;
                }
                _ => {}
            }
            at = after;
        }
        Ok(())
    }

    /// The attribute that begins at a place: its kind, its value, and where the next begins.
    fn attribute_at(&self, at: usize) -> Option<(u16, &'a [u8], usize)> {
        let bytes: &'a [u8] = self.bytes;
        let [kind_high, kind_low, length_high, length_low, rest @ ..] = bytes.get(at..)? else {
            return None;
        };
        let length = usize::from(u16::from_be_bytes([*length_high, *length_low]));
        let padded = length.next_multiple_of(4);
        (padded <= rest.len()).then_some(())?;
        Some((u16::from_be_bytes([*kind_high, *kind_low]), rest.get(..length)?, at + 4 + padded))
    }

    /// What kind of message it is.
    pub fn class(&self) -> Class {
        self.class
    }

    /// What it is about; none if that is nothing that a relay knows.
    pub fn method(&self) -> Option<Method> {
        Method::from_number(self.method)
    }

    /// The method's number.
    pub(super) fn method_number(&self) -> u16 {
        self.method
    }

    /// What pairs request and response.
    pub fn transaction(&self) -> &'a TransactionId {
        self.transaction
    }

    /// Whether it has a fingerprint, which [`Message::parse`] has checked.
    pub fn has_fingerprint(&self) -> bool {
        self.has_fingerprint
    }

    pub(super) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Its attributes in order: all before the integrity, which covers them. What comes after counts for nothing
    /// (RFC 8489, section 14.5).
    pub fn attributes(&self) -> impl Iterator<Item = (u16, &'a [u8])> + use<'a> {
        let message = *self;
        let mut at = HEADER_BYTES;
        std::iter::from_fn(move || {
            if at >= message.covered {
                return None;
            }
            let (kind, value, after) = message.attribute_at(at)?;
            at = after;
            Some((kind, value))
        })
    }

    /// The value of an attribute. If it comes more than once, the first counts (RFC 8489, section 14).
    pub fn attribute(&self, kind: u16) -> Option<&'a [u8]> {
        self.attributes().find(|(known, _)| *known == kind).map(|(_, value)| value)
    }

    /// Whether an attribute is there.
    pub fn has(&self, kind: u16) -> bool {
        self.attribute(kind).is_some()
    }

    /// An attribute that is text.
    pub fn text(&self, kind: u16) -> Option<&'a str> {
        std::str::from_utf8(self.attribute(kind)?).ok()
    }

    /// An attribute that is a 32-bit number.
    pub fn number(&self, kind: u16) -> Option<u32> {
        Some(u32::from_be_bytes(self.attribute(kind)?.try_into().ok()?))
    }

    /// The addresses of all attributes of a kind; an entry is none where the value is no address.
    pub fn xor_addresses(&self, kind: u16) -> impl Iterator<Item = Option<SocketAddr>> + use<'a> {
        let transaction = self.transaction;
        self.attributes()
            .filter(move |(known, _)| *known == kind)
            .map(move |(_, value)| attribute::read_xor_address(value, transaction))
    }

    /// The address of the first attribute of a kind.
    pub fn xor_address(&self, kind: u16) -> Option<SocketAddr> {
        self.xor_addresses(kind).next().flatten()
    }

    /// The attributes that must be understood and are none of `known`.
    pub fn unknown<'k>(&self, known: &'k [u16]) -> impl Iterator<Item = u16> + use<'a, 'k> {
        self.attributes()
            .map(|(kind, _)| kind)
            .filter(|kind| is_comprehension_required(*kind) && !known.contains(kind))
    }
}
