//! The receiving half of a session.

use std::ops::Range;

use thiserror::Error;

use super::{
    Profile, RTCP_CLEAR_BYTES, SRTCP_ENCRYPTED, keys::SessionKeys, sources::Sources, transform::Transform,
};
use crate::media::rtp::{RtpError, RtpHeader};

/// Why a packet was not opened. Whatever the reason, it leaves no trace in the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Not an RTP packet: whoever sent it is at fault.
    #[error("no RTP packet: {0}")]
    Rtp(#[from] RtpError),
    /// Too short for what the profile adds.
    #[error("shorter than a protected packet can be")]
    TooShort,
    /// The tag is wrong: forged, corrupted, or protected with other keys.
    #[error("authentication failed")]
    Authentication,
    /// Its index was seen before or is older than the window.
    #[error("replayed or too old")]
    Replayed,
    /// The SRTCP packet says that it is not encrypted, which no DTLS-SRTP profile of ours allows.
    #[error("not encrypted")]
    NotEncrypted,
    /// The peer uses more SSRCs than [`super::SOURCES_MAX`] and [`super::RETIRED_SOURCES_MAX`] together.
    #[error("too many sources")]
    TooManySources,
}

/// An RTP packet in the clear; offsets count from the start of the datagram it was opened in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenedRtp {
    /// The fixed header and where its parts are.
    pub header: RtpHeader,
    /// The sequence number, extended by the rollover counter: 48 bits.
    pub index: u64,
    /// The payload without padding; empty for packets that only pad.
    pub payload: Range<usize>,
}

/// An RTCP packet in the clear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenedRtcp {
    /// The SRTCP index: 31 bits.
    pub index: u32,
    /// Octets of the datagram that are the compound packet.
    pub bytes: usize,
}

/// Opens what the peer protects.
///
/// Keeps a window of 1024 indices per RTP source (late retransmissions on the original SSRC are seconds old at
/// most: 1024 packets at 10 Mbit/s are one) and of 128 per RTCP source. Sources are bounded by
/// [`super::SOURCES_MAX`] and [`super::RETIRED_SOURCES_MAX`]: ten are 2 KiB, all of them 80 KiB.
pub struct Opener {
    profile: Profile,
    rtp: Transform,
    rtcp: Transform,
    rtp_sources: Sources<16>,
    rtcp_sources: Sources<2>,
}

impl std::fmt::Debug for Opener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opener").field("profile", &self.profile).finish_non_exhaustive()
    }
}

impl Opener {
    pub(super) fn new(profile: Profile, keys: SessionKeys) -> Self {
        Self {
            profile,
            rtp: keys.rtp,
            rtcp: keys.rtcp,
            rtp_sources: Sources::new(),
            rtcp_sources: Sources::new(),
        }
    }

    /// The negotiated profile.
    pub fn profile(&self) -> Profile {
        self.profile
    }

    /// Authenticates and decrypts an SRTP packet in place. The packet's octets are undefined after an error.
    ///
    /// # Errors
    /// See [`OpenError`]. Wrong padding inside a packet that authenticated counts as [`OpenError::Rtp`].
    #[inline]
    pub fn open_rtp(&mut self, packet: &mut [u8]) -> Result<OpenedRtp, OpenError> {
        let header = RtpHeader::parse(packet)?;
        let (found, index) = self.rtp_sources.check_sequence(header.ssrc, header.sequence)?;
        let end = self.rtp.open_rtp(packet, header.bytes(), header.ssrc, index)?;
        self.rtp_sources.record(found, header.ssrc, index);
        let payload = header.payload(packet.get(..end).ok_or(OpenError::TooShort)?)?;
        Ok(OpenedRtp { header, index, payload })
    }

    /// Authenticates and decrypts an SRTCP packet in place. The packet's octets are undefined after an error.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open_rtcp(&mut self, packet: &mut [u8]) -> Result<OpenedRtcp, OpenError> {
        let word = self.rtcp.srtcp_word(packet)?;
        if word & SRTCP_ENCRYPTED == 0 {
            return Err(OpenError::NotEncrypted);
        }
        let clear: &[u8; RTCP_CLEAR_BYTES] = packet.first_chunk().ok_or(OpenError::TooShort)?;
        let [_, _, _, _, ssrc @ ..] = *clear;
        let (ssrc, index) = (u32::from_be_bytes(ssrc), word & !SRTCP_ENCRYPTED);
        let found = self.rtcp_sources.check_index(ssrc, u64::from(index))?;
        let bytes = self.rtcp.open_rtcp(packet, ssrc, word)?;
        self.rtcp_sources.record(found, ssrc, u64::from(index));
        Ok(OpenedRtcp { index, bytes })
    }
}
