//! What one receiver gets of one track: header and payload written into the worker's send arena, and sealed.
//!
//! ```text
//!   StoredPacket + Outgoing (the rewriter's numbers)
//!        │
//!        ├─ header template ─► fixed header, extensions of the session, extensions of the packet
//!        ├─ payload ─────────► encrypted from the store straight into the arena (patched: copied first)
//!        └─ sequence map ────► out sequence ─► PacketHandle, for the NACK that may come
//! ```
//!
//! Nothing here allocates per packet, and nothing is shared between receivers but the store.

mod header;
mod payload;
mod retransmission;
mod sender_clock;
mod sequence_map;

use std::time::{Duration, Instant};

use thiserror::Error;

pub use header::{HeaderTemplate, TEMPLATE_BYTES_MAX};
pub use payload::{PATCH_BYTES_MAX, PayloadPatch};
pub use retransmission::{RtxConfig, RtxLimit};
pub use sender_clock::{NtpTime, RtpClock, SenderInfo};
pub use sequence_map::{SEQUENCE_MAP_PACKETS_MAX, SentPacket, SequenceMap};

use self::header::HeaderValues;
use super::extensions::{ExtensionMap, SendTime};
use super::srtp::{RTP_OVERHEAD_BYTES_MAX, SealError, SealStream, Sealer};
use super::store::{PacketHandle, StoredPacket};

/// Octets of the original sequence number before a retransmitted payload (RFC 4588, section 4).
const OSN_BYTES: usize = 2;
/// Longest padding of a packet: what its last octet can count (RFC 3550, section 5.1).
pub const PADDING_BYTES_MAX: usize = 255;

/// Why a packet was not written; nothing is sent then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EgressError {
    /// The buffer is too small for the packet.
    #[error("the packet does not fit into its buffer")]
    Bounds,
    /// The patch reaches beyond the payload; the rewriter's fault.
    #[error("a patch beyond the payload")]
    Patch,
    /// The stream, or the packet's format, was negotiated without retransmissions.
    #[error("no retransmissions were negotiated")]
    NoRtx,
    /// It was not sealed, see there. [`SealError::IndexUsed`] here means: forwarded before.
    #[error(transparent)]
    Seal(#[from] SealError),
}

/// The numbers under which a packet goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outgoing<'a> {
    /// The receiver's payload type.
    pub payload_type: u8,
    /// That of its retransmissions, if the receiver has one.
    pub rtx_payload_type: Option<u8>,
    /// Extended sequence number; the first of a stream is below 2^16.
    pub sequence: u64,
    /// RTP timestamp.
    pub timestamp: u32,
    /// The marker bit.
    pub marker: bool,
    /// What changes in the payload.
    pub patch: Option<PayloadPatch>,
    /// The dependency descriptor in place of the packet's own.
    pub descriptor: Option<&'a [u8]>,
    /// The transport-wide sequence number; 0 where none was negotiated.
    pub transport_sequence: u16,
    /// When it leaves, for abs-send-time.
    pub send_time: SendTime,
}

/// What a stream sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EgressStats {
    /// Packets, without retransmissions and padding.
    pub packets: u64,
    /// Octets of their payloads (RFC 3550, section 6.4.1: without header and padding).
    pub octets: u64,
    /// Retransmitted packets.
    pub rtx_packets: u64,
    /// Octets of their payloads, without the original sequence number.
    pub rtx_octets: u64,
    /// Octets of padding.
    pub padding_octets: u64,
    /// Requests for a packet that is gone or never was.
    pub rtx_unknown: u64,
    /// Requests that the limits refused.
    pub rtx_refused: u64,
}

/// How a stream was negotiated.
#[derive(Debug)]
pub struct EgressConfig<'a> {
    /// The receiver's m-line.
    pub mid: &'a str,
    /// The receiver's header extensions.
    pub extensions: &'a ExtensionMap,
    /// Whether one- and two-byte forms may alternate (`a=extmap-allow-mixed`, RFC 8285, section 6). Without it a
    /// dependency descriptor that needs the two-byte form is left out.
    pub mixed_forms: bool,
    /// The stream's SSRC.
    pub ssrc: u32,
    /// The SSRC of its retransmissions and the first sequence number there (below 2^15, random), if any were
    /// negotiated.
    pub rtx: Option<(u32, u16)>,
    /// What retransmissions may cost.
    pub rtx_config: RtxConfig,
}

#[derive(Debug)]
struct RtxStream {
    seal: SealStream,
    header: HeaderTemplate,
    /// Of the packet sent last: padding needs one, and any will do.
    payload_type: Option<u8>,
    next_sequence: u64,
    limit: RtxLimit,
}

impl RtxStream {
    /// Seals under the next sequence number, which stays the next one if the packet does not fit.
    fn seal(
        &mut self,
        sealer: &Sealer,
        buffer: &mut [u8],
        header_bytes: usize,
        end: usize,
    ) -> Result<usize, SealError> {
        let sealed = sealer.seal_rtp(&mut self.seal, buffer, header_bytes, end, self.next_sequence);
        if sealed != Err(SealError::Bounds) {
            self.next_sequence += 1;
        }
        sealed
    }
}

/// One receiver's stream of one track.
#[derive(Debug)]
pub struct EgressStream {
    seal: SealStream,
    header: HeaderTemplate,
    sent: SequenceMap,
    rtx: Option<RtxStream>,
    stats: EgressStats,
}

impl EgressStream {
    /// A stream of a session; its SSRCs are taken from the session's sealer.
    ///
    /// # Errors
    /// [`SealError::SsrcTaken`], [`SealError::TooManyStreams`]; [`EgressError::Bounds`] if `mid` is longer than
    /// [`super::extensions::STREAM_ID_BYTES_MAX`].
    pub fn new(sealer: &mut Sealer, config: EgressConfig<'_>) -> Result<Self, EgressError> {
        let header = |ssrc| {
            HeaderTemplate::new(ssrc, config.mid, config.extensions, config.mixed_forms)
                .ok_or(EgressError::Bounds)
        };
        let main_header = header(config.ssrc)?;
        let rtx = match config.rtx {
            None => None,
            Some((ssrc, first)) => Some((header(ssrc)?, ssrc, first)),
        };
        let seal = sealer.stream(config.ssrc)?;
        let rtx = match rtx {
            None => None,
            Some((header, ssrc, first)) => Some(RtxStream {
                seal: sealer.stream(ssrc)?,
                header,
                payload_type: None,
                next_sequence: u64::from(first),
                limit: RtxLimit::new(config.rtx_config),
            }),
        };
        let packets = if rtx.is_some() { config.rtx_config.packets_max } else { 0 };
        Ok(Self {
            seal,
            header: main_header,
            sent: SequenceMap::new(packets),
            rtx,
            stats: EgressStats::default(),
        })
    }

    /// The stream's SSRC.
    pub fn ssrc(&self) -> u32 {
        self.seal.ssrc()
    }

    /// The SSRC of its retransmissions.
    pub fn rtx_ssrc(&self) -> Option<u32> {
        self.rtx.as_ref().map(|rtx| rtx.seal.ssrc())
    }

    /// What was sent.
    pub fn stats(&self) -> EgressStats {
        self.stats
    }

    /// Writes and seals a packet at the front of `buffer`; returns its length.
    ///
    /// `handle` is what the packet's store calls it, `tag` whatever the caller needs to find the store and the
    /// numbers again; both come back from [`Self::resend`].
    ///
    /// # Errors
    /// [`EgressError`]. A buffer of 1500 octets suffices for what came in one of 1400.
    #[inline]
    pub fn write(
        &mut self,
        sealer: &Sealer,
        buffer: &mut [u8],
        packet: &StoredPacket<'_>,
        handle: PacketHandle,
        tag: u16,
        out: &Outgoing<'_>,
    ) -> Result<usize, EgressError> {
        let values =
            HeaderValues { payload_type: out.payload_type, sequence: out.sequence as u16, padded: false };
        let header_bytes = self.header.write(buffer, &values, out, Some(packet))?;
        let bytes = match &out.patch {
            None => {
                sealer.seal_rtp_from(&mut self.seal, buffer, header_bytes, packet.payload, out.sequence)?
            }
            Some(patch) => {
                let end = header_bytes + packet.payload.len();
                let payload = buffer.get_mut(header_bytes..end).ok_or(EgressError::Bounds)?;
                payload.copy_from_slice(packet.payload);
                patch.apply(payload)?;
                sealer.seal_rtp(&mut self.seal, buffer, header_bytes, end, out.sequence)?
            }
        };
        self.sent.insert(out.sequence, handle, tag, out.send_time);
        self.stats.packets += 1;
        self.stats.octets += packet.payload.len() as u64;
        if let Some(rtx) = &mut self.rtx {
            rtx.payload_type = out.rtx_payload_type.or(rtx.payload_type);
            rtx.limit.on_media(bytes);
        }
        Ok(bytes)
    }

    /// Remembers a packet under its number though it is not sent: a receiver that asks for it gets it then.
    pub fn leave_unsent(&mut self, sequence: u64, handle: PacketHandle, tag: u16, now: SendTime) {
        self.sent.insert(sequence, handle, tag, now);
    }

    /// Looks up a packet that the receiver asks for. `None` if it is gone, was sent again a moment ago, or the
    /// limits are reached; [`Self::stats`] tells them apart.
    ///
    /// `rtt` is the receiver's round trip time: what was sent again within it may still be on its way.
    pub fn resend(&mut self, now: Instant, sequence: u16, rtt: Duration) -> Option<SentPacket> {
        let Some(rtx) = &mut self.rtx else {
            self.stats.rtx_unknown += 1;
            return None;
        };
        let Some(entry) = self.sent.get_mut(sequence) else {
            self.stats.rtx_unknown += 1;
            return None;
        };
        if !rtx.limit.may_resend(now, rtt, entry) {
            self.stats.rtx_refused += 1;
            return None;
        }
        Some(entry.packet())
    }

    /// Whether one more copy of what [`Self::resend`] granted may be sent.
    pub fn copy_resend(&mut self) -> bool {
        self.rtx.as_mut().is_some_and(|rtx| rtx.limit.may_copy())
    }

    /// The tag of a packet that was sent, as far as that is remembered.
    #[must_use]
    pub fn sent_tag(&mut self, sequence: u16) -> Option<u16> {
        self.sent.get_mut(sequence).map(|entry| entry.packet().tag)
    }

    /// What [`Self::resend`] granted is not sent after all.
    pub fn forgo_resend(&mut self) {
        if let Some(rtx) = &mut self.rtx {
            rtx.limit.on_resent(0);
        }
    }

    /// Writes and seals a retransmission at the front of `buffer` (RFC 4588: own SSRC, payload type and sequence
    /// numbers, the original sequence number before the payload); returns its length. `out` holds the numbers
    /// that the packet went out with the first time, `out.sequence` among them.
    ///
    /// # Errors
    /// [`EgressError`].
    pub fn write_rtx(
        &mut self,
        sealer: &Sealer,
        buffer: &mut [u8],
        packet: &StoredPacket<'_>,
        out: &Outgoing<'_>,
    ) -> Result<usize, EgressError> {
        let rtx = self.rtx.as_mut().ok_or(EgressError::NoRtx)?;
        let values = HeaderValues {
            payload_type: out.rtx_payload_type.ok_or(EgressError::NoRtx)?,
            sequence: rtx.next_sequence as u16,
            padded: false,
        };
        let header_bytes = rtx.header.write(buffer, &values, out, Some(packet))?;
        let payload_at = header_bytes + OSN_BYTES;
        let end = payload_at + packet.payload.len();
        let osn = buffer.get_mut(header_bytes..payload_at).ok_or(EgressError::Bounds)?;
        osn.copy_from_slice(&(out.sequence as u16).to_be_bytes());
        let payload = buffer.get_mut(payload_at..end).ok_or(EgressError::Bounds)?;
        payload.copy_from_slice(packet.payload);
        if let Some(patch) = &out.patch {
            patch.apply(payload)?;
        }
        let bytes = rtx.seal(sealer, buffer, header_bytes, end)?;
        rtx.limit.on_resent(bytes);
        self.stats.rtx_packets += 1;
        self.stats.rtx_octets += packet.payload.len() as u64;
        Ok(bytes)
    }

    /// Writes and seals a packet of nothing but padding, on the retransmission stream, where receivers expect
    /// probes; returns its length. `padding` is brought to 1 to [`PADDING_BYTES_MAX`] octets.
    ///
    /// # Errors
    /// [`EgressError`].
    pub fn write_padding(
        &mut self,
        sealer: &Sealer,
        buffer: &mut [u8],
        padding: usize,
        timestamp: u32,
        transport_sequence: u16,
        send_time: SendTime,
    ) -> Result<usize, EgressError> {
        let rtx = self.rtx.as_mut().ok_or(EgressError::NoRtx)?;
        let payload_type = rtx.payload_type.ok_or(EgressError::NoRtx)?;
        let padding = padding.clamp(1, PADDING_BYTES_MAX);
        let values = HeaderValues { payload_type, sequence: rtx.next_sequence as u16, padded: true };
        let out = Outgoing {
            payload_type,
            rtx_payload_type: None,
            sequence: rtx.next_sequence,
            timestamp,
            marker: false,
            patch: None,
            descriptor: None,
            transport_sequence,
            send_time,
        };
        let header_bytes = rtx.header.write(buffer, &values, &out, None)?;
        let end = header_bytes + padding;
        let octets = buffer.get_mut(header_bytes..end).ok_or(EgressError::Bounds)?;
        octets.fill(0);
        if let Some(last) = octets.last_mut() {
            *last = padding as u8;
        }
        let bytes = rtx.seal(sealer, buffer, header_bytes, end)?;
        self.stats.padding_octets += padding as u64;
        Ok(bytes)
    }

    /// What a sender report says at a time (RFC 3550, section 6.4.1), by the clock of what is being forwarded.
    pub fn sender_info(&self, clock: &RtpClock, now: NtpTime) -> SenderInfo {
        SenderInfo {
            ntp: now,
            rtp: clock.rtp_at(now),
            // Both counters wrap by definition.
            packets: self.stats.packets as u32,
            octets: self.stats.octets as u32,
        }
    }
}

/// Octets of a buffer that always suffice for a payload: header, extensions, original sequence number and tag.
pub const fn buffer_bytes(payload: usize) -> usize {
    payload + OSN_BYTES + header::HEADER_BYTES_MAX + RTP_OVERHEAD_BYTES_MAX
}

#[cfg(test)]
mod tests;
