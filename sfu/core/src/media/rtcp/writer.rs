//! Writing RTCP.

use thiserror::Error;

use super::{
    CNAME_BYTES_MAX, COUNT_MAX, FORMAT_APPLICATION, FORMAT_FULL_INTRA, FORMAT_NACK, FORMAT_PICTURE_LOSS,
    GOODBYE, ITEM_CNAME, PAYLOAD_FEEDBACK, RECEIVER_REPORT, REMB_NAME, SENDER_REPORT, SOURCE_DESCRIPTION,
    TRANSPORT_FEEDBACK,
};
use crate::media::egress::SenderInfo;
use crate::media::nack::NackPair;
use crate::media::receiver::ReportBlock;

/// Why a packet was not written; nothing of it was, and what was written before stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RtcpWriteError {
    /// The buffer is too small: this packet belongs into the next datagram.
    #[error("the packet does not fit into its buffer")]
    Bounds,
    /// A list or a name is longer than its count can say; the caller's fault.
    #[error("too many elements")]
    TooMany,
}

/// Writes packets one after the other into a caller's buffer, which then holds a compound packet (or a
/// reduced-size one, if it does not begin with a report; RFC 5506).
#[derive(Debug)]
pub struct RtcpWriter<'a> {
    buffer: &'a mut [u8],
    bytes: usize,
}

impl<'a> RtcpWriter<'a> {
    /// From the buffer's front. Leave room behind for what protection adds.
    pub fn new(buffer: &'a mut [u8]) -> Self {
        Self { buffer, bytes: 0 }
    }

    /// Octets written so far.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// SR (RFC 3550, section 6.4.1) with up to [`COUNT_MAX`] report blocks.
    ///
    /// # Errors
    /// [`RtcpWriteError`], as for all the others.
    pub fn sender_report(
        &mut self,
        ssrc: u32,
        info: &SenderInfo,
        blocks: &[ReportBlock],
    ) -> Result<(), RtcpWriteError> {
        let mut packet = self.begin(SENDER_REPORT, count(blocks.len())?)?;
        packet.word(ssrc)?;
        packet.octets(&info.ntp.0.to_be_bytes())?;
        packet.word(info.rtp)?;
        packet.word(info.packets)?;
        packet.word(info.octets)?;
        packet.blocks(blocks)?;
        packet.end()
    }

    /// RR (RFC 3550, section 6.4.2) with up to [`COUNT_MAX`] report blocks.
    ///
    /// # Errors
    /// [`RtcpWriteError`].
    pub fn receiver_report(&mut self, ssrc: u32, blocks: &[ReportBlock]) -> Result<(), RtcpWriteError> {
        let mut packet = self.begin(RECEIVER_REPORT, count(blocks.len())?)?;
        packet.word(ssrc)?;
        packet.blocks(blocks)?;
        packet.end()
    }

    /// SDES with one source's canonical name (RFC 3550, section 6.5.1).
    ///
    /// # Errors
    /// [`RtcpWriteError`]; a name has up to [`CNAME_BYTES_MAX`] octets.
    pub fn cname(&mut self, ssrc: u32, cname: &str) -> Result<(), RtcpWriteError> {
        if cname.len() > CNAME_BYTES_MAX {
            return Err(RtcpWriteError::TooMany);
        }
        let mut packet = self.begin(SOURCE_DESCRIPTION, 1)?;
        packet.word(ssrc)?;
        packet.octets(&[ITEM_CNAME, cname.len() as u8])?;
        packet.octets(cname.as_bytes())?;
        // At least one zero ends the items.
        packet.octets(&[0])?;
        packet.end()
    }

    /// BYE of up to [`COUNT_MAX`] sources (RFC 3550, section 6.6).
    ///
    /// # Errors
    /// [`RtcpWriteError`].
    pub fn goodbye(&mut self, ssrcs: &[u32]) -> Result<(), RtcpWriteError> {
        let mut packet = self.begin(GOODBYE, count(ssrcs.len())?)?;
        packet.words(ssrcs)?;
        packet.end()
    }

    /// Generic NACK (RFC 4585, section 6.2.1).
    ///
    /// # Errors
    /// [`RtcpWriteError`].
    pub fn nack(&mut self, sender: u32, media: u32, pairs: &[NackPair]) -> Result<(), RtcpWriteError> {
        let mut packet = self.begin(TRANSPORT_FEEDBACK, FORMAT_NACK)?;
        packet.words(&[sender, media])?;
        for pair in pairs {
            packet.word(u32::from(pair.pid) << 16 | u32::from(pair.blp))?;
        }
        packet.end()
    }

    /// A packet that is whole already, as transport-wide feedback is written.
    ///
    /// # Errors
    /// [`RtcpWriteError`]; [`RtcpWriteError::Bounds`] as well if it is not made of whole words.
    pub fn packet(&mut self, packet: &[u8]) -> Result<(), RtcpWriteError> {
        let end = self.bytes + packet.len();
        if !packet.len().is_multiple_of(4) {
            return Err(RtcpWriteError::Bounds);
        }
        self.buffer.get_mut(self.bytes..end).ok_or(RtcpWriteError::Bounds)?.copy_from_slice(packet);
        self.bytes = end;
        Ok(())
    }

    /// PLI (RFC 4585, section 6.3.1).
    ///
    /// # Errors
    /// [`RtcpWriteError`].
    pub fn picture_loss(&mut self, sender: u32, media: u32) -> Result<(), RtcpWriteError> {
        let mut packet = self.begin(PAYLOAD_FEEDBACK, FORMAT_PICTURE_LOSS)?;
        packet.words(&[sender, media])?;
        packet.end()
    }

    /// FIR of one source (RFC 5104, section 4.3.1); `sequence` goes up with each new request, and stays with
    /// each repetition.
    ///
    /// # Errors
    /// [`RtcpWriteError`].
    pub fn full_intra_request(&mut self, sender: u32, ssrc: u32, sequence: u8) -> Result<(), RtcpWriteError> {
        let mut packet = self.begin(PAYLOAD_FEEDBACK, FORMAT_FULL_INTRA)?;
        // The media source of the header is not used (section 4.3.1.2).
        packet.words(&[sender, 0, ssrc, u32::from(sequence) << 24])?;
        packet.end()
    }

    /// REMB for up to [`super::REMB_SSRCS_MAX`] sources; the bitrate is rounded down to what 18 bits and an exponent
    /// can say.
    ///
    /// # Errors
    /// [`RtcpWriteError`].
    pub fn remb(&mut self, sender: u32, bitrate_bps: u64, ssrcs: &[u32]) -> Result<(), RtcpWriteError> {
        let sources = u8::try_from(ssrcs.len()).map_err(|_| RtcpWriteError::TooMany)?;
        let exponent = (64 - bitrate_bps.leading_zeros()).saturating_sub(18);
        let mantissa = (bitrate_bps >> exponent) as u32;
        let mut packet = self.begin(PAYLOAD_FEEDBACK, FORMAT_APPLICATION)?;
        packet.words(&[sender, 0])?;
        packet.octets(&REMB_NAME)?;
        packet.word(u32::from(sources) << 24 | exponent << 18 | mantissa)?;
        packet.words(ssrcs)?;
        packet.end()
    }

    fn begin(&mut self, packet_type: u8, count: u8) -> Result<Draft<'_, 'a>, RtcpWriteError> {
        let at = self.bytes;
        let mut draft = Draft { start: at, at, writer: self };
        draft.octets(&[0x80 | count, packet_type, 0, 0])?;
        Ok(draft)
    }
}

fn count(elements: usize) -> Result<u8, RtcpWriteError> {
    if elements > COUNT_MAX { Err(RtcpWriteError::TooMany) } else { Ok(elements as u8) }
}

/// A packet that counts only once it is whole.
struct Draft<'w, 'a> {
    writer: &'w mut RtcpWriter<'a>,
    start: usize,
    at: usize,
}

impl Draft<'_, '_> {
    fn octets(&mut self, octets: &[u8]) -> Result<(), RtcpWriteError> {
        let end = self.at + octets.len();
        let space = self.writer.buffer.get_mut(self.at..end).ok_or(RtcpWriteError::Bounds)?;
        space.copy_from_slice(octets);
        self.at = end;
        Ok(())
    }

    fn word(&mut self, word: u32) -> Result<(), RtcpWriteError> {
        self.octets(&word.to_be_bytes())
    }

    fn words(&mut self, words: &[u32]) -> Result<(), RtcpWriteError> {
        words.iter().try_for_each(|word| self.word(*word))
    }

    fn blocks(&mut self, blocks: &[ReportBlock]) -> Result<(), RtcpWriteError> {
        for block in blocks {
            let lost = block.cumulative_lost.clamp(-0x80_0000, 0x7f_ffff) as u32 & 0xff_ffff;
            self.words(&[
                block.ssrc,
                u32::from(block.fraction_lost) << 24 | lost,
                block.highest_seq,
                block.jitter,
                block.last_sr,
                block.delay_since_last_sr,
            ])?;
        }
        Ok(())
    }

    /// Pads with zeros to whole words and fills in the length.
    fn end(mut self) -> Result<(), RtcpWriteError> {
        while !(self.at - self.start).is_multiple_of(4) {
            self.octets(&[0])?;
        }
        let words = (self.at - self.start) / 4 - 1;
        let words = u16::try_from(words).map_err(|_| RtcpWriteError::TooMany)?;
        let end = self.at;
        self.at = self.start + 2;
        self.octets(&words.to_be_bytes())?;
        self.writer.bytes = end;
        Ok(())
    }
}
