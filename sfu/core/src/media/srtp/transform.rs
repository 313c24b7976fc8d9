//! The two families of transforms behind one interface.

use super::{OpenError, SealError, aes_cm_hmac::AesCmHmac, gcm::Gcm};

/// Protects packets of one direction and kind (RTP or RTCP).
pub(super) enum Transform {
    Gcm(Gcm),
    AesCmHmac(Box<AesCmHmac>),
}

impl Transform {
    /// Opens in place; returns where the plaintext ends. The packet is overwritten even if it is refused.
    #[inline]
    pub(super) fn open_rtp(
        &self,
        packet: &mut [u8],
        header_bytes: usize,
        ssrc: u32,
        index: u64,
    ) -> Result<usize, OpenError> {
        match self {
            Self::Gcm(gcm) => gcm.open_rtp(packet, header_bytes, ssrc, index),
            Self::AesCmHmac(cm) => cm.open_rtp(packet, header_bytes, ssrc, index),
        }
    }

    /// Seals `buffer[..end]` in place; returns where the protected packet ends.
    #[inline]
    pub(super) fn seal_rtp(
        &self,
        buffer: &mut [u8],
        header_bytes: usize,
        end: usize,
        ssrc: u32,
        index: u64,
    ) -> Result<usize, SealError> {
        match self {
            Self::Gcm(gcm) => gcm.seal_rtp(buffer, header_bytes, end, ssrc, index),
            Self::AesCmHmac(cm) => cm.seal_rtp(buffer, header_bytes, end, ssrc, index),
        }
    }

    /// Seals a payload that lies elsewhere: `buffer` holds the header, the payload is encrypted into it.
    #[inline]
    pub(super) fn seal_rtp_from(
        &self,
        buffer: &mut [u8],
        header_bytes: usize,
        payload: &[u8],
        ssrc: u32,
        index: u64,
    ) -> Result<usize, SealError> {
        match self {
            Self::Gcm(gcm) => gcm.seal_rtp_from(buffer, header_bytes, payload, ssrc, index),
            Self::AesCmHmac(cm) => {
                let end = header_bytes.checked_add(payload.len()).ok_or(SealError::Bounds)?;
                buffer.get_mut(header_bytes..end).ok_or(SealError::Bounds)?.copy_from_slice(payload);
                cm.seal_rtp(buffer, header_bytes, end, ssrc, index)
            }
        }
    }

    /// The word with the encryption flag and the SRTCP index.
    pub(super) fn srtcp_word(&self, packet: &[u8]) -> Result<u32, OpenError> {
        let from_end = match self {
            Self::Gcm(_) => 4,
            Self::AesCmHmac(_) => 4 + super::aes_cm_hmac::TAG_BYTES,
        };
        let at = packet.len().checked_sub(from_end).ok_or(OpenError::TooShort)?;
        let word = packet.get(at..).and_then(|rest| rest.first_chunk()).ok_or(OpenError::TooShort)?;
        Ok(u32::from_be_bytes(*word))
    }

    /// Opens in place; returns where the plaintext ends. The packet is overwritten even if it is refused.
    pub(super) fn open_rtcp(&self, packet: &mut [u8], ssrc: u32, word: u32) -> Result<usize, OpenError> {
        match self {
            Self::Gcm(gcm) => gcm.open_rtcp(packet, ssrc, word),
            Self::AesCmHmac(cm) => cm.open_rtcp(packet, ssrc, word),
        }
    }

    /// Seals `buffer[..end]` in place; returns where the protected packet ends.
    pub(super) fn seal_rtcp(
        &self,
        buffer: &mut [u8],
        end: usize,
        ssrc: u32,
        index: u32,
    ) -> Result<usize, SealError> {
        match self {
            Self::Gcm(gcm) => gcm.seal_rtcp(buffer, end, ssrc, index),
            Self::AesCmHmac(cm) => cm.seal_rtcp(buffer, end, ssrc, index),
        }
    }
}
