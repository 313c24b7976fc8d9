//! Reading RTCP.

use super::{
    COUNT_MAX, FIR_ENTRIES_MAX, FORMAT_APPLICATION, FORMAT_FULL_INTRA, FORMAT_NACK, FORMAT_PICTURE_LOSS,
    FORMAT_TRANSPORT_CC, GOODBYE, ITEM_CNAME, NACK_PAIRS_MAX, PACKETS_MAX, PAYLOAD_FEEDBACK, RECEIVER_REPORT,
    REMB_NAME, RtcpError, SENDER_REPORT, SOURCE_DESCRIPTION, TRANSPORT_FEEDBACK,
};
use crate::media::egress::{NtpTime, SenderInfo};
use crate::media::nack::NackPair;
use crate::media::receiver::ReportBlock;

/// One packet of a compound.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Packet<'a> {
    /// SR: what a source sent, and how it receives (RFC 3550, section 6.4.1).
    SenderReport {
        /// The reporting source.
        ssrc: u32,
        /// What it sent.
        info: SenderInfo,
        /// How it receives.
        blocks: ReportBlocks<'a>,
    },
    /// RR: how a participant receives (RFC 3550, section 6.4.2).
    ReceiverReport {
        /// The reporting participant.
        ssrc: u32,
        /// How it receives.
        blocks: ReportBlocks<'a>,
    },
    /// SDES: names of sources (RFC 3550, section 6.5).
    SourceDescription(SourceDescriptions<'a>),
    /// BYE: these sources send no more (RFC 3550, section 6.6).
    Goodbye(Ssrcs<'a>),
    /// Generic NACK: packets that are missing (RFC 4585, section 6.2.1).
    Nack {
        /// Who misses them.
        sender: u32,
        /// The source they are of.
        media: u32,
        /// Which.
        pairs: NackPairs<'a>,
    },
    /// Transport-wide feedback (draft-holmer-rmcat-transport-wide-cc-extensions-01).
    TransportFeedback {
        /// Who reports.
        sender: u32,
        /// Some source of the transport.
        media: u32,
        /// The report, raw.
        fci: &'a [u8],
    },
    /// PLI: pictures are lost, a keyframe is needed (RFC 4585, section 6.3.1).
    PictureLoss {
        /// Who asks.
        sender: u32,
        /// The source that is asked.
        media: u32,
    },
    /// FIR: keyframes are needed (RFC 5104, section 4.3.1).
    FullIntraRequest {
        /// Who asks.
        sender: u32,
        /// The sources that are asked.
        entries: FirEntries<'a>,
    },
    /// REMB: what a receiver believes that it can receive (draft-alvestrand-rmcat-remb-03).
    Remb {
        /// Who says so.
        sender: u32,
        /// Bits per second, all sources together; saturates.
        bitrate_bps: u64,
        /// The sources it holds for.
        ssrcs: Ssrcs<'a>,
    },
    /// Anything else, APP and XR among it: to be ignored.
    Other {
        /// The packet type.
        packet_type: u8,
        /// The count, or the feedback's format.
        count: u8,
    },
}

/// The packets of a compound, or of a reduced-size one: any types in any order. Ends after the first error.
#[derive(Clone, Debug)]
pub struct Packets<'a> {
    rest: &'a [u8],
    read: usize,
}

impl<'a> Packets<'a> {
    /// Over a datagram in the clear.
    pub fn new(datagram: &'a [u8]) -> Self {
        Self { rest: datagram, read: 0 }
    }

    fn parse(&mut self) -> Result<Packet<'a>, RtcpError> {
        if self.read >= PACKETS_MAX {
            return Err(RtcpError::TooMany);
        }
        self.read += 1;
        let truncated = RtcpError::Truncated { expected: 4, actual: self.rest.len() };
        let [b0, packet_type, l0, l1] = *self.rest.first_chunk::<4>().ok_or(truncated)?;
        if b0 >> 6 != 2 {
            return Err(RtcpError::Version(b0 >> 6));
        }
        let expected = (usize::from(u16::from_be_bytes([l0, l1])) + 1) * 4;
        let truncated = RtcpError::Truncated { expected, actual: self.rest.len() };
        let (packet, rest) = self.rest.split_at_checked(expected).ok_or(truncated)?;
        let mut body = packet.get(4..).unwrap_or_default();
        if b0 & 0x20 != 0 {
            // RFC 3550, section 6.4.1, pads the last packet of a compound alone, and by whole words. Transport-wide
            // feedback of libwebrtc and str0m stands anywhere and pads its own odd length, by 1 to 3 octets.
            let padding = usize::from(body.last().copied().unwrap_or_default());
            if padding == 0 || padding > body.len() {
                return Err(RtcpError::Padding);
            }
            body = body.get(..body.len() - padding).unwrap_or_default();
        }
        self.rest = rest;
        let count = b0 & 0x1f;
        read(packet_type, count, body).ok_or(RtcpError::Length { packet_type, count, bytes: body.len() })
    }
}

impl<'a> Iterator for Packets<'a> {
    type Item = Result<Packet<'a>, RtcpError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let packet = self.parse();
        if packet.is_err() {
            self.rest = &[];
        }
        Some(packet)
    }
}

/// A packet's contents; `None` if they are too short.
fn read(packet_type: u8, count: u8, body: &[u8]) -> Option<Packet<'_>> {
    Some(match (packet_type, count) {
        (SENDER_REPORT, _) => {
            let (fixed, rest) = body.split_first_chunk::<24>()?;
            let ([ssrc, ntp_high, ntp_low, rtp, packets, octets], []) = words(fixed)? else {
                return None;
            };
            let ntp = NtpTime(u64::from(ntp_high) << 32 | u64::from(ntp_low));
            let info = SenderInfo { ntp, rtp, packets, octets };
            Packet::SenderReport { ssrc, info, blocks: ReportBlocks::new(rest, count)? }
        }
        (RECEIVER_REPORT, _) => {
            let (ssrc, rest) = word(body)?;
            Packet::ReceiverReport { ssrc, blocks: ReportBlocks::new(rest, count)? }
        }
        (SOURCE_DESCRIPTION, _) => {
            Packet::SourceDescription(SourceDescriptions { rest: body, left: usize::from(count) })
        }
        (GOODBYE, _) => Packet::Goodbye(Ssrcs::new(body.get(..usize::from(count) * 4)?)),
        (TRANSPORT_FEEDBACK, FORMAT_NACK) => {
            let (sender, media, fci) = feedback(body)?;
            let (pairs, _) = fci.as_chunks::<4>();
            Packet::Nack { sender, media, pairs: NackPairs(pairs.iter().take(NACK_PAIRS_MAX)) }
        }
        (TRANSPORT_FEEDBACK, FORMAT_TRANSPORT_CC) => {
            let (sender, media, fci) = feedback(body)?;
            Packet::TransportFeedback { sender, media, fci }
        }
        (PAYLOAD_FEEDBACK, FORMAT_PICTURE_LOSS) => {
            let (sender, media, _) = feedback(body)?;
            Packet::PictureLoss { sender, media }
        }
        (PAYLOAD_FEEDBACK, FORMAT_FULL_INTRA) => {
            let (sender, _, fci) = feedback(body)?;
            let (entries, _) = fci.as_chunks::<8>();
            Packet::FullIntraRequest { sender, entries: FirEntries(entries.iter().take(FIR_ENTRIES_MAX)) }
        }
        (PAYLOAD_FEEDBACK, FORMAT_APPLICATION) => {
            let (sender, _, fci) = feedback(body)?;
            let Some(([r, e, m, b, ssrcs, exponent, m1, m2], rest)) = fci.split_first_chunk::<8>() else {
                return Some(Packet::Other { packet_type, count });
            };
            if [*r, *e, *m, *b] != REMB_NAME {
                return Some(Packet::Other { packet_type, count });
            }
            let mantissa = u128::from(u32::from_be_bytes([0, exponent & 0x03, *m1, *m2]));
            let bitrate_bps = u64::try_from(mantissa << (exponent >> 2)).unwrap_or(u64::MAX);
            let ssrcs = Ssrcs::new(rest.get(..usize::from(*ssrcs) * 4)?);
            Packet::Remb { sender, bitrate_bps, ssrcs }
        }
        _ => Packet::Other { packet_type, count },
    })
}

/// The two SSRCs of feedback, and what follows.
fn feedback(body: &[u8]) -> Option<(u32, u32, &[u8])> {
    let (sender, rest) = word(body)?;
    let (media, fci) = word(rest)?;
    Some((sender, media, fci))
}

fn word(octets: &[u8]) -> Option<(u32, &[u8])> {
    let (word, rest) = octets.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*word), rest))
}

fn words<const N: usize>(octets: &[u8]) -> Option<([u32; N], &[u8])> {
    let mut words = [0; N];
    let mut rest = octets;
    for slot in &mut words {
        (*slot, rest) = word(rest)?;
    }
    Some((words, rest))
}

/// Report blocks; at most [`COUNT_MAX`].
#[derive(Clone, Debug)]
pub struct ReportBlocks<'a>(std::slice::Iter<'a, [u8; 24]>);

impl<'a> ReportBlocks<'a> {
    fn new(octets: &'a [u8], count: u8) -> Option<Self> {
        let (blocks, _) = octets.as_chunks::<24>();
        Some(Self(blocks.get(..usize::from(count).min(COUNT_MAX))?.iter()))
    }
}

impl Iterator for ReportBlocks<'_> {
    type Item = ReportBlock;

    fn next(&mut self) -> Option<ReportBlock> {
        let ([ssrc, lost, highest_seq, jitter, last_sr, delay_since_last_sr], _) = words(self.0.next()?)?;
        Some(ReportBlock {
            ssrc,
            fraction_lost: (lost >> 24) as u8,
            // 24 bits with a sign.
            cumulative_lost: (lost << 8) as i32 >> 8,
            highest_seq,
            jitter,
            last_sr,
            delay_since_last_sr,
        })
    }
}

/// Pairs of a NACK; at most [`NACK_PAIRS_MAX`].
#[derive(Clone, Debug)]
pub struct NackPairs<'a>(std::iter::Take<std::slice::Iter<'a, [u8; 4]>>);

impl Iterator for NackPairs<'_> {
    type Item = NackPair;

    fn next(&mut self) -> Option<NackPair> {
        let [p0, p1, b0, b1] = *self.0.next()?;
        Some(NackPair { pid: u16::from_be_bytes([p0, p1]), blp: u16::from_be_bytes([b0, b1]) })
    }
}

/// Sources of a full intra request, each with its command's sequence number; at most [`FIR_ENTRIES_MAX`].
#[derive(Clone, Debug)]
pub struct FirEntries<'a>(std::iter::Take<std::slice::Iter<'a, [u8; 8]>>);

impl Iterator for FirEntries<'_> {
    type Item = (u32, u8);

    fn next(&mut self) -> Option<(u32, u8)> {
        let [s0, s1, s2, s3, sequence, ..] = *self.0.next()?;
        Some((u32::from_be_bytes([s0, s1, s2, s3]), sequence))
    }
}

/// SSRCs of a packet.
#[derive(Clone, Debug)]
pub struct Ssrcs<'a>(std::slice::Iter<'a, [u8; 4]>);

impl<'a> Ssrcs<'a> {
    fn new(octets: &'a [u8]) -> Self {
        let (ssrcs, _) = octets.as_chunks::<4>();
        Self(ssrcs.iter())
    }
}

impl Iterator for Ssrcs<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        self.0.next().map(|ssrc| u32::from_be_bytes(*ssrc))
    }
}

/// Sources and their canonical names; those without one are left out. Ends at a malformed chunk.
#[derive(Clone, Debug)]
pub struct SourceDescriptions<'a> {
    rest: &'a [u8],
    left: usize,
}

impl<'a> Iterator for SourceDescriptions<'a> {
    type Item = (u32, &'a [u8]);

    fn next(&mut self) -> Option<(u32, &'a [u8])> {
        while self.left > 0 {
            self.left -= 1;
            let chunk = self.rest;
            let (ssrc, mut items) = word(chunk)?;
            let mut cname = None;
            loop {
                let (kind, after) = items.split_first()?;
                if *kind == 0 {
                    break;
                }
                let (length, after) = after.split_first()?;
                let (value, after) = after.split_at_checked(usize::from(*length))?;
                if *kind == ITEM_CNAME {
                    cname = cname.or(Some(value));
                }
                items = after;
            }
            // The zero that ends the list is followed by zeros up to the next multiple of four.
            let read = chunk.len() - items.len() + 1;
            self.rest = chunk.get(read.next_multiple_of(4)..).unwrap_or_default();
            if let Some(cname) = cname {
                return Some((ssrc, cname));
            }
        }
        None
    }
}
