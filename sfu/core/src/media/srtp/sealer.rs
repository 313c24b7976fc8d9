//! The sending half of a session.

use thiserror::Error;

use super::{
    Profile, RTCP_CLEAR_BYTES, RTP_INDEX_MAX, SRTCP_INDEX_MAX, keys::SessionKeys, replay::ReplayWindow,
    transform::Transform,
};

/// Where our SRTCP index begins when another writer of the session counts from zero. It leaves each of them 2^30
/// packets: at ten a second, three years.
pub const SRTCP_INDEX_SHARED: u32 = 1 << 30;
/// SSRCs that one session may ever send with. Beyond it [`Sealer::stream`] refuses: a session that long-lived
/// negotiates anew.
pub const STREAMS_MAX: usize = 65_536;

/// Why a packet was not sealed. No index is spent, except by [`SealError::Refused`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SealError {
    /// The lengths do not fit into the buffer, its tag included; the caller's fault.
    #[error("the packet does not fit into its buffer")]
    Bounds,
    /// This index was sealed before, or is too old to tell. Sealing it would repeat a nonce.
    #[error("this index was used before")]
    IndexUsed,
    /// No index is left under these keys (RFC 3711, section 9.2: 2^48 RTP packets, 2^31 RTCP packets).
    #[error("the session's packets are used up")]
    IndexExhausted,
    /// The SSRC already has its stream in this session.
    #[error("this SSRC has a writer")]
    SsrcTaken,
    /// The session has had [`STREAMS_MAX`] SSRCs.
    #[error("too many streams")]
    TooManyStreams,
    /// The cryptography library refused; no input causes that.
    #[error("the cryptography library refused")]
    Refused,
}

/// The right to send with one SSRC of one session; there is one per SSRC, so no nonce can repeat.
///
/// Indices may be sealed out of order within the last 1024 (a packet that reaches us late is forwarded late),
/// each of them once.
#[derive(Debug)]
pub struct SealStream {
    ssrc: u32,
    used: Option<ReplayWindow<16>>,
}

impl SealStream {
    /// The stream's SSRC.
    pub fn ssrc(&self) -> u32 {
        self.ssrc
    }

    /// Whether the index can still be sealed.
    #[inline]
    pub fn is_free(&self, index: u64) -> bool {
        index <= RTP_INDEX_MAX && self.used.as_ref().is_none_or(|used| used.is_new(index))
    }

    /// The same SSRC with nothing sealed yet: tests compare two ways of sealing one packet.
    #[cfg(test)]
    pub(super) fn clone_for_test(stream: &Self) -> Self {
        Self { ssrc: stream.ssrc, used: None }
    }

    /// Takes the index.
    #[inline]
    fn take(&mut self, index: u64) -> Result<(), SealError> {
        if index > RTP_INDEX_MAX {
            return Err(SealError::IndexExhausted);
        }
        match &mut self.used {
            None => self.used = Some(ReplayWindow::new(index)),
            Some(used) if used.is_new(index) => used.record(index),
            Some(_) => return Err(SealError::IndexUsed),
        }
        Ok(())
    }
}

/// Protects what we send.
pub struct Sealer {
    profile: Profile,
    rtp: Transform,
    rtcp: Transform,
    srtcp_index_next: u32,
    /// SSRCs that have had a stream, ordered.
    taken: Vec<u32>,
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealer").field("profile", &self.profile).finish_non_exhaustive()
    }
}

impl Sealer {
    pub(super) fn new(profile: Profile, keys: SessionKeys, srtcp_index_first: u32) -> Self {
        Self {
            profile,
            rtp: keys.rtp,
            rtcp: keys.rtcp,
            srtcp_index_next: srtcp_index_first,
            taken: Vec::new(),
        }
    }

    /// The negotiated profile.
    pub fn profile(&self) -> Profile {
        self.profile
    }

    /// The right to send with an SSRC. It belongs to this session alone; an SSRC whose stream was dropped is not
    /// given out again.
    ///
    /// # Errors
    /// [`SealError::SsrcTaken`], [`SealError::TooManyStreams`].
    pub fn stream(&mut self, ssrc: u32) -> Result<SealStream, SealError> {
        match self.taken.binary_search(&ssrc) {
            Ok(_) => Err(SealError::SsrcTaken),
            Err(_) if self.taken.len() >= STREAMS_MAX => Err(SealError::TooManyStreams),
            Err(at) => {
                self.taken.insert(at, ssrc);
                Ok(SealStream { ssrc, used: None })
            }
        }
    }

    /// Seals `buffer[..end]` in place: a header of `header_bytes` (extensions included), then the payload.
    /// Returns the length of the protected packet, [`Profile::rtp_overhead_bytes`] more than `end`.
    ///
    /// `index` is the extended sequence number; its low 16 bits stand in the header already. A receiver takes
    /// the first packet of an SSRC for one of rollover counter 0, so a stream begins below 2^16, better below
    /// 2^15 (RFC 3711, section 3.3.1).
    ///
    /// # Errors
    /// [`SealError::Bounds`], [`SealError::IndexUsed`], [`SealError::IndexExhausted`].
    #[inline]
    pub fn seal_rtp(
        &self,
        stream: &mut SealStream,
        buffer: &mut [u8],
        header_bytes: usize,
        end: usize,
        index: u64,
    ) -> Result<usize, SealError> {
        self.check_bounds(buffer, header_bytes, end)?;
        stream.take(index)?;
        self.rtp.seal_rtp(buffer, header_bytes, end, stream.ssrc, index)
    }

    /// As [`Self::seal_rtp`], with a payload that lies elsewhere: it is encrypted on its way into the buffer,
    /// without a copy of its own.
    ///
    /// # Errors
    /// As [`Self::seal_rtp`].
    #[inline]
    pub fn seal_rtp_from(
        &self,
        stream: &mut SealStream,
        buffer: &mut [u8],
        header_bytes: usize,
        payload: &[u8],
        index: u64,
    ) -> Result<usize, SealError> {
        self.check_bounds(buffer, header_bytes, header_bytes.saturating_add(payload.len()))?;
        stream.take(index)?;
        self.rtp.seal_rtp_from(buffer, header_bytes, payload, stream.ssrc, index)
    }

    /// Before an index is taken: a packet that does not fit costs none.
    #[inline]
    fn check_bounds(&self, buffer: &[u8], header_bytes: usize, end: usize) -> Result<(), SealError> {
        let room = buffer.len().checked_sub(self.profile.rtp_overhead_bytes());
        if header_bytes > end || room.is_none_or(|room| end > room) {
            return Err(SealError::Bounds);
        }
        Ok(())
    }

    /// Seals the compound packet `buffer[..end]` in place under the session's next SRTCP index. Returns the
    /// length of the protected packet, [`Profile::rtcp_overhead_bytes`] more than `end`.
    ///
    /// # Errors
    /// [`SealError::Bounds`], [`SealError::IndexExhausted`].
    pub fn seal_rtcp(&mut self, buffer: &mut [u8], end: usize) -> Result<usize, SealError> {
        let index = self.srtcp_index_next;
        if index > SRTCP_INDEX_MAX {
            return Err(SealError::IndexExhausted);
        }
        let clear: &[u8; RTCP_CLEAR_BYTES] =
            buffer.get(..end).and_then(|packet| packet.first_chunk()).ok_or(SealError::Bounds)?;
        let [_, _, _, _, ssrc @ ..] = *clear;
        self.srtcp_index_next = index + 1;
        self.rtcp.seal_rtcp(buffer, end, u32::from_be_bytes(ssrc), index)
    }
}
