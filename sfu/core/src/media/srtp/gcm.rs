//! AES in Galois/counter mode (RFC 7714).
//!
//! The key is expanded once, into aws-lc's AEAD context; a packet costs no schedule and no allocation.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use zeroize::Zeroize;

use super::{KeyError, OpenError, RTCP_CLEAR_BYTES, SRTCP_ENCRYPTED, SealError};

/// Octets of the authentication tag.
const TAG_BYTES: usize = 16;
/// Octets of the SRTCP trailer behind the tag.
const INDEX_BYTES: usize = 4;

/// One direction's key and salt.
pub(super) struct Gcm {
    key: LessSafeKey,
    /// The 96-bit salt in the low bits.
    salt: u128,
}

impl Drop for Gcm {
    fn drop(&mut self) {
        self.salt.zeroize();
    }
}

impl Gcm {
    /// From a session key of 16 or 32 octets and a session salt of 12.
    pub(super) fn new(key: &[u8], salt: &[u8]) -> Result<Self, KeyError> {
        let algorithm = if key.len() == 32 { &AES_256_GCM } else { &AES_128_GCM };
        let salt = salt.iter().fold(0u128, |salt, octet| salt << 8 | u128::from(*octet));
        Ok(Self { key: LessSafeKey::new(UnboundKey::new(algorithm, key)?), salt })
    }

    /// RFC 7714, sections 8.1 and 9.1: two zero octets, SSRC, 48 bits of index; xor salt. For SRTCP the upper 16
    /// bits of the index are zero.
    #[inline]
    fn nonce(&self, ssrc: u32, index: u64) -> Nonce {
        let block = (u128::from(ssrc) << 48 | u128::from(index)) ^ self.salt;
        let [_, _, _, _, nonce @ ..] = block.to_be_bytes();
        Nonce::assume_unique_for_key(nonce)
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
        let (plain, tag) = packet.split_at_mut_checked(end).ok_or(OpenError::TooShort)?;
        let (header, body) = plain.split_at_mut_checked(header_bytes).ok_or(OpenError::TooShort)?;
        self.key
            .open_in_place_separate_tag(self.nonce(ssrc, index), Aad::from(&*header), tag, body)
            .map_err(|_| OpenError::Authentication)?;
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
        let (header, body) = plain.split_at_mut_checked(header_bytes).ok_or(SealError::Bounds)?;
        let tag = rest.get_mut(..TAG_BYTES).ok_or(SealError::Bounds)?;
        self.key
            .seal_in_place_scatter(self.nonce(ssrc, index), Aad::from(&*header), body, &[], tag)
            .map_err(|_| SealError::Refused)?;
        Ok(end + TAG_BYTES)
    }

    #[inline]
    pub(super) fn seal_rtp_from(
        &self,
        buffer: &mut [u8],
        header_bytes: usize,
        payload: &[u8],
        ssrc: u32,
        index: u64,
    ) -> Result<usize, SealError> {
        let (header, rest) = buffer.split_at_mut_checked(header_bytes).ok_or(SealError::Bounds)?;
        let (body, rest) = rest.split_at_mut_checked(payload.len()).ok_or(SealError::Bounds)?;
        let tag = rest.get_mut(..TAG_BYTES).ok_or(SealError::Bounds)?;
        self.key
            .seal_out_of_place_scatter(self.nonce(ssrc, index), Aad::from(&*header), payload, body, &[], tag)
            .map_err(|_| SealError::Refused)?;
        Ok(header_bytes + payload.len() + TAG_BYTES)
    }

    pub(super) fn open_rtcp(&self, packet: &mut [u8], ssrc: u32, word: u32) -> Result<usize, OpenError> {
        let end = packet.len().checked_sub(TAG_BYTES + INDEX_BYTES).ok_or(OpenError::TooShort)?;
        let (plain, trailer) = packet.split_at_mut_checked(end).ok_or(OpenError::TooShort)?;
        let tag = trailer.get(..TAG_BYTES).ok_or(OpenError::TooShort)?;
        let (aad, body) = rtcp_parts(plain, word).ok_or(OpenError::TooShort)?;
        self.key
            .open_in_place_separate_tag(
                self.nonce(ssrc, u64::from(word & !SRTCP_ENCRYPTED)),
                Aad::from(aad),
                tag,
                body,
            )
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
        let word = index | SRTCP_ENCRYPTED;
        let (plain, rest) = buffer.split_at_mut_checked(end).ok_or(SealError::Bounds)?;
        let trailer = rest.get_mut(..TAG_BYTES + INDEX_BYTES).ok_or(SealError::Bounds)?;
        let (tag, index_field) = trailer.split_at_mut_checked(TAG_BYTES).ok_or(SealError::Bounds)?;
        let (aad, body) = rtcp_parts(plain, word).ok_or(SealError::Bounds)?;
        self.key
            .seal_in_place_scatter(self.nonce(ssrc, u64::from(index)), Aad::from(aad), body, &[], tag)
            .map_err(|_| SealError::Refused)?;
        index_field.copy_from_slice(&word.to_be_bytes());
        Ok(end + TAG_BYTES + INDEX_BYTES)
    }
}

/// The associated data of an encrypted SRTCP packet (first header, SSRC, word with the index; RFC 7714, section
/// 9.2) and what is encrypted.
fn rtcp_parts(plain: &mut [u8], word: u32) -> Option<([u8; RTCP_CLEAR_BYTES + INDEX_BYTES], &mut [u8])> {
    let (clear, body) = plain.split_at_mut_checked(RTCP_CLEAR_BYTES)?;
    let mut aad = [0u8; RTCP_CLEAR_BYTES + INDEX_BYTES];
    for (to, from) in aad.iter_mut().zip(clear.iter().copied().chain(word.to_be_bytes())) {
        *to = from;
    }
    Some((aad, body))
}
