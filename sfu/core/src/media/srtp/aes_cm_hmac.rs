//! AES-128 in counter mode with HMAC-SHA1, tag of 80 bits (RFC 3711, sections 4.1.1 and 4.2.1).
//!
//! The AES schedule and the HMAC's inner and outer states are computed once; a packet copies the HMAC state
//! (flat, no allocation) and starts the cipher with its own counter block.

use aws_lc_rs::cipher::{AES_128, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac::{Context, HMAC_SHA1_FOR_LEGACY_USE_ONLY, Key, Tag};
use aws_lc_rs::iv::FixedLength;
use zeroize::Zeroize;

use super::{KeyError, OpenError, RTCP_CLEAR_BYTES, SRTCP_ENCRYPTED, SealError};

/// Octets of the truncated tag.
pub(super) const TAG_BYTES: usize = 10;
/// Octets of the SRTCP word before the tag.
const INDEX_BYTES: usize = 4;

/// One direction's keys and salt.
pub(super) struct AesCmHmac {
    cipher: EncryptingKey,
    auth: Key,
    /// The 112-bit salt above 16 zero bits, as in the counter block.
    salt: u128,
}

impl Drop for AesCmHmac {
    fn drop(&mut self) {
        self.salt.zeroize();
    }
}

impl AesCmHmac {
    /// From a session key of 16 octets, a session salt of 14 and an authentication key of 20.
    pub(super) fn new(key: &[u8], salt: &[u8], auth: &[u8]) -> Result<Self, KeyError> {
        let salt = salt.iter().fold(0u128, |salt, octet| salt << 8 | u128::from(*octet)) << 16;
        Ok(Self {
            cipher: EncryptingKey::ctr(UnboundCipherKey::new(&AES_128, key)?)?,
            auth: Key::new(HMAC_SHA1_FOR_LEGACY_USE_ONLY, auth),
            salt,
        })
    }

    /// Xors the key stream of (ssrc, index) over the data: both directions are the same.
    #[inline]
    pub(super) fn apply_key_stream(&self, ssrc: u32, index: u64, data: &mut [u8]) -> Result<(), KeyError> {
        let block = self.salt ^ u128::from(ssrc) << 64 ^ u128::from(index) << 16;
        let context = EncryptionContext::Iv128(FixedLength::from(block.to_be_bytes()));
        self.cipher.less_safe_encrypt(data, context)?;
        Ok(())
    }

    /// HMAC over the packet and, for RTP, the rollover counter behind it.
    #[inline]
    fn tag(&self, authenticated: &[u8], rollover: &[u8]) -> Tag {
        let mut context = Context::with_key(&self.auth);
        context.update(authenticated);
        context.update(rollover);
        context.sign()
    }

    fn verify(&self, authenticated: &[u8], rollover: &[u8], tag: &[u8]) -> Result<(), OpenError> {
        let expected = self.tag(authenticated, rollover);
        let expected = expected.as_ref().get(..TAG_BYTES).ok_or(OpenError::Authentication)?;
        verify_slices_are_equal(expected, tag).map_err(|_| OpenError::Authentication)
    }

    #[inline]
    pub(super) fn open_rtp(
        &self,
        packet: &mut [u8],
        header_bytes: usize,
        ssrc: u32,
        index: u64,
    ) -> Result<usize, OpenError> {
        let end = packet.len().checked_sub(TAG_BYTES).ok_or(OpenError::TooShort)?;
        let (cipher, tag) = packet.split_at_mut_checked(end).ok_or(OpenError::TooShort)?;
        if header_bytes > cipher.len() {
            return Err(OpenError::TooShort);
        }
        self.verify(cipher, &rollover(index), tag)?;
        let body = cipher.get_mut(header_bytes..).ok_or(OpenError::TooShort)?;
        self.apply_key_stream(ssrc, index, body).map_err(|_| OpenError::Authentication)?;
        Ok(end)
    }

    #[inline]
    pub(super) fn seal_rtp(
        &self,
        buffer: &mut [u8],
        header_bytes: usize,
        end: usize,
        ssrc: u32,
        index: u64,
    ) -> Result<usize, SealError> {
        let (plain, rest) = buffer.split_at_mut_checked(end).ok_or(SealError::Bounds)?;
        let tag_field = rest.get_mut(..TAG_BYTES).ok_or(SealError::Bounds)?;
        let body = plain.get_mut(header_bytes..).ok_or(SealError::Bounds)?;
        self.apply_key_stream(ssrc, index, body).map_err(|_| SealError::Refused)?;
        let tag = self.tag(plain, &rollover(index));
        tag_field.copy_from_slice(tag.as_ref().get(..TAG_BYTES).ok_or(SealError::Refused)?);
        Ok(end + TAG_BYTES)
    }

    pub(super) fn open_rtcp(&self, packet: &mut [u8], ssrc: u32, word: u32) -> Result<usize, OpenError> {
        let tag_at = packet.len().checked_sub(TAG_BYTES).ok_or(OpenError::TooShort)?;
        let end = tag_at.checked_sub(INDEX_BYTES).ok_or(OpenError::TooShort)?;
        let (authenticated, tag) = packet.split_at_mut_checked(tag_at).ok_or(OpenError::TooShort)?;
        self.verify(authenticated, &[], tag)?;
        let body = authenticated.get_mut(RTCP_CLEAR_BYTES..end).ok_or(OpenError::TooShort)?;
        self.apply_key_stream(ssrc, u64::from(word & !SRTCP_ENCRYPTED), body)
            .map_err(|_| OpenError::Authentication)?;
        Ok(end)
    }

    pub(super) fn seal_rtcp(
        &self,
        buffer: &mut [u8],
        end: usize,
        ssrc: u32,
        index: u32,
    ) -> Result<usize, SealError> {
        let tag_at = end.checked_add(INDEX_BYTES).ok_or(SealError::Bounds)?;
        let (authenticated, rest) = buffer.split_at_mut_checked(tag_at).ok_or(SealError::Bounds)?;
        let tag_field = rest.get_mut(..TAG_BYTES).ok_or(SealError::Bounds)?;
        let (plain, index_field) = authenticated.split_at_mut_checked(end).ok_or(SealError::Bounds)?;
        let body = plain.get_mut(RTCP_CLEAR_BYTES..).ok_or(SealError::Bounds)?;
        self.apply_key_stream(ssrc, u64::from(index), body).map_err(|_| SealError::Refused)?;
        index_field.copy_from_slice(&(index | SRTCP_ENCRYPTED).to_be_bytes());
        let tag = self.tag(authenticated, &[]);
        tag_field.copy_from_slice(tag.as_ref().get(..TAG_BYTES).ok_or(SealError::Refused)?);
        Ok(tag_at + TAG_BYTES)
    }
}

/// The rollover counter as it is authenticated (RFC 3711, section 4.2).
fn rollover(index: u64) -> [u8; 4] {
    let [_, _, a, b, c, d, _, _] = index.to_be_bytes();
    [a, b, c, d]
}
