//! RTP's fixed header (RFC 3550, section 5.1), parsed once per datagram.
//!
//! Written here and not taken from `rtp-types`: its packet borrows the datagram, which is then opened in place,
//! and it looks at the padding first, which is encrypted. The tests compare the two.

use std::ops::Range;

use thiserror::Error;

use super::extensions::{ExtensionBlock, ExtensionForm};

/// Octets of a header without CSRCs and extensions.
pub const FIXED_HEADER_BYTES: usize = 12;
/// Longest packet: what a UDP datagram can hold.
pub const PACKET_BYTES_MAX: usize = 65_535;

/// Why octets are not an RTP packet; the sender's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RtpError {
    /// The header, CSRCs or extensions reach beyond the packet.
    #[error("the packet ends within its header")]
    Truncated,
    /// More than [`PACKET_BYTES_MAX`].
    #[error("longer than a datagram")]
    TooLong,
    /// The version is not 2.
    #[error("version {0}")]
    Version(u8),
    /// The padding's length is zero or more than the payload's (RFC 3550, section 5.1).
    #[error("padding of {padding} octets in a payload of {payload}")]
    Padding {
        /// What the last octet says.
        padding: u8,
        /// Octets between header and end.
        payload: usize,
    },
}

/// A parsed header, by value: the datagram may be changed behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RtpHeader {
    /// What the payload is, 7 bits.
    pub payload_type: u8,
    /// For video, the last packet of a picture.
    pub marker: bool,
    /// Low 16 bits of the packet's index.
    pub sequence: u16,
    /// Sampling time in the payload's clock rate.
    pub timestamp: u32,
    /// The source.
    pub ssrc: u32,
    csrcs: u8,
    padded: bool,
    /// What follows the CSRCs, if the extension bit is set.
    extension: Option<ExtensionForm>,
    /// Where the extension's elements begin; equal to `bytes` without any.
    extension_at: u16,
    bytes: u16,
}

impl RtpHeader {
    /// Parses the header of a packet, protected or not; the payload is not looked at.
    ///
    /// # Errors
    /// [`RtpError`], except for the padding.
    #[inline]
    pub fn parse(packet: &[u8]) -> Result<Self, RtpError> {
        if packet.len() > PACKET_BYTES_MAX {
            return Err(RtpError::TooLong);
        }
        let fixed: &[u8; FIXED_HEADER_BYTES] = packet.first_chunk().ok_or(RtpError::Truncated)?;
        let [b0, b1, s0, s1, t0, t1, t2, t3, c0, c1, c2, c3] = *fixed;
        if b0 >> 6 != 2 {
            return Err(RtpError::Version(b0 >> 6));
        }
        let csrcs = b0 & 0x0f;
        let mut bytes = FIXED_HEADER_BYTES + usize::from(csrcs) * 4;
        let mut extension_at = bytes;
        let mut extension = None;
        if b0 & 0x10 != 0 {
            let prefix: &[u8; 4] =
                packet.get(bytes..).and_then(|rest| rest.first_chunk()).ok_or(RtpError::Truncated)?;
            let [p0, p1, w0, w1] = *prefix;
            extension = Some(ExtensionForm::from_profile(u16::from_be_bytes([p0, p1])));
            extension_at = bytes + 4;
            bytes = extension_at + usize::from(u16::from_be_bytes([w0, w1])) * 4;
        }
        if bytes > packet.len() {
            return Err(RtpError::Truncated);
        }
        Ok(Self {
            payload_type: b1 & 0x7f,
            marker: b1 & 0x80 != 0,
            sequence: u16::from_be_bytes([s0, s1]),
            timestamp: u32::from_be_bytes([t0, t1, t2, t3]),
            ssrc: u32::from_be_bytes([c0, c1, c2, c3]),
            csrcs,
            padded: b0 & 0x20 != 0,
            extension,
            // Both are at most the packet's length, which fits.
            extension_at: extension_at as u16,
            bytes: bytes as u16,
        })
    }

    /// Octets of the header, CSRCs and extensions included.
    #[inline]
    pub fn bytes(&self) -> usize {
        usize::from(self.bytes)
    }

    /// Whether the last octet of the payload counts octets of padding.
    pub fn is_padded(&self) -> bool {
        self.padded
    }

    /// The contributing sources of the packet that this header was parsed from.
    pub fn csrcs<'a>(&self, packet: &'a [u8]) -> impl Iterator<Item = u32> + 'a {
        let end = FIXED_HEADER_BYTES + usize::from(self.csrcs) * 4;
        let (csrcs, _) = packet.get(FIXED_HEADER_BYTES..end).unwrap_or_default().as_chunks::<4>();
        csrcs.iter().map(|csrc| u32::from_be_bytes(*csrc))
    }

    /// The extension block of the packet that this header was parsed from.
    #[inline]
    pub fn extensions<'a>(&self, packet: &'a [u8]) -> ExtensionBlock<'a> {
        let form = self.extension.unwrap_or(ExtensionForm::Other(0));
        let data = packet.get(usize::from(self.extension_at)..self.bytes()).unwrap_or_default();
        ExtensionBlock::new(form, data)
    }

    /// Where the payload of a packet in the clear is, without padding.
    ///
    /// # Errors
    /// [`RtpError::Padding`]; [`RtpError::Truncated`] if this is not the packet that was parsed.
    #[inline]
    pub fn payload(&self, packet: &[u8]) -> Result<Range<usize>, RtpError> {
        let body = packet.get(self.bytes()..).ok_or(RtpError::Truncated)?;
        let padding = match body.last() {
            _ if !self.padded => 0,
            Some(padding) if *padding != 0 && usize::from(*padding) <= body.len() => usize::from(*padding),
            last => {
                return Err(RtpError::Padding {
                    padding: last.copied().unwrap_or_default(),
                    payload: body.len(),
                });
            }
        };
        Ok(self.bytes()..packet.len() - padding)
    }
}

/// What stands in a fixed header that we write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderFields {
    /// What the payload is; the upper bit is ignored.
    pub payload_type: u8,
    /// For video, the last packet of a picture.
    pub marker: bool,
    /// Low 16 bits of the packet's index.
    pub sequence: u16,
    /// Sampling time in the payload's clock rate.
    pub timestamp: u32,
    /// The source.
    pub ssrc: u32,
    /// Whether an extension block follows.
    pub extended: bool,
    /// Whether the payload ends with padding.
    pub padded: bool,
}

impl HeaderFields {
    /// The header's octets, without CSRCs: an SFU forwards, it does not mix.
    #[inline]
    pub fn to_octets(&self) -> [u8; FIXED_HEADER_BYTES] {
        let [s0, s1] = self.sequence.to_be_bytes();
        let [t0, t1, t2, t3] = self.timestamp.to_be_bytes();
        let [c0, c1, c2, c3] = self.ssrc.to_be_bytes();
        let b0 = 0x80 | u8::from(self.padded) << 5 | u8::from(self.extended) << 4;
        let b1 = u8::from(self.marker) << 7 | self.payload_type & 0x7f;
        [b0, b1, s0, s1, t0, t1, t2, t3, c0, c1, c2, c3]
    }
}

#[cfg(test)]
mod tests;
