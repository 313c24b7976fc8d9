//! The feedback packet's FCI (draft section 3.1), parsed without allocation and written in place.
//!
//! ```text
//!    0                   1                   2                   3
//!   |      base sequence number     |      packet status count      |
//!   |                 reference time                | fb pkt. count |
//!   |          packet chunk         |         packet chunk          | …
//!   |   recv delta  |   recv delta  | …           zero padding      |
//! ```

use thiserror::Error;

use super::{DELTA_US, FEEDBACK_FORMAT, FEEDBACK_PACKET_TYPE, REFERENCE_US};

/// Length of the FCI before the chunks.
const FIXED_LEN: usize = 8;
/// Length of RTCP header and the two SSRCs before the FCI.
const HEADER_LEN: usize = 12;
/// The longest run of a run-length chunk, 13 bits.
const RUN_MAX: usize = 0x1fff;

pub(super) const LOST: u8 = 0;
pub(super) const SMALL: u8 = 1;
pub(super) const LARGE: u8 = 2;

/// Why a feedback packet is not taken. All are the peer's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FeedbackError {
    /// It ends inside its fixed part, its chunks or its deltas.
    #[error("the feedback is cut short")]
    Truncated,
    /// It reports on no packet, which the draft does not provide for.
    #[error("the feedback reports on no packet")]
    Empty,
    /// It uses the reserved status symbol 3.
    #[error("the feedback uses a reserved symbol")]
    ReservedSymbol,
}

/// A feedback's content: chunks and deltas have been checked to be there.
#[derive(Clone, Copy, Debug)]
pub struct Feedback<'a> {
    /// Number of the first packet reported on.
    pub base_seq: u16,
    /// How many packets are reported on, 1 to 65,535.
    pub status_count: u16,
    /// Reference time in units of 64 ms, 24 bits, wraps.
    pub reference: u32,
    /// Counts the feedback packets, wraps.
    pub count: u8,
    chunks: &'a [u8],
    deltas: &'a [u8],
}

/// Consecutive packets of one status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusRun {
    /// So many packets have not been received (yet). May be 1 several times in a row.
    Lost(u16),
    /// One packet was received, so many 250 µs units after the one received before it (in order of their
    /// numbers), the first after the reference time.
    Received {
        /// May be negative when packets were reordered.
        delta: i16,
    },
}

impl<'a> Feedback<'a> {
    /// Parses an FCI: an RTCP packet with type 205 and format 15, after its first 12 bytes and without RTCP
    /// padding.
    ///
    /// # Errors
    /// See [`FeedbackError`]. Time is bounded by the input's length, memory is not taken.
    pub fn parse(fci: &'a [u8]) -> Result<Self, FeedbackError> {
        let (fixed, rest) = fci.split_first_chunk::<FIXED_LEN>().ok_or(FeedbackError::Truncated)?;
        let [b0, b1, c0, c1, r0, r1, r2, count] = *fixed;
        let status_count = u16::from_be_bytes([c0, c1]);
        if status_count == 0 {
            return Err(FeedbackError::Empty);
        }
        let (mut left, mut chunks_len, mut deltas_len) = (usize::from(status_count), 0, 0);
        while left > 0 {
            let chunk = rest.get(chunks_len..chunks_len + 2).ok_or(FeedbackError::Truncated)?;
            chunks_len += 2;
            let mut symbols = Chunk::read(chunk);
            while left > 0
                && let Some((symbol, run)) = symbols.next()
            {
                let run = run.min(left);
                left -= run;
                if symbol > LARGE {
                    return Err(FeedbackError::ReservedSymbol);
                }
                deltas_len += run * usize::from(symbol);
            }
        }
        let (chunks, rest) = rest.split_at(chunks_len);
        let deltas = rest.get(..deltas_len).ok_or(FeedbackError::Truncated)?;
        Ok(Self {
            base_seq: u16::from_be_bytes([b0, b1]),
            status_count,
            reference: u32::from_be_bytes([0, r0, r1, r2]),
            count,
            chunks,
            deltas,
        })
    }

    /// The reported packets in order of their numbers, `status_count` in all; packets not received come as
    /// runs where the packet tells them so.
    pub fn runs(&self) -> impl Iterator<Item = StatusRun> + 'a {
        let (mut chunks, mut deltas) = (self.chunks.chunks_exact(2), self.deltas);
        let mut left = usize::from(self.status_count);
        let mut symbols = Chunk::default();
        let mut received = (0_u8, 0_usize);
        std::iter::from_fn(move || {
            if received.1 == 0 {
                if left == 0 {
                    return None;
                }
                let (symbol, run) = loop {
                    match symbols.next() {
                        Some(next) => break next,
                        None => symbols = Chunk::read(chunks.next()?),
                    }
                };
                let run = run.min(left);
                left -= run;
                if symbol == LOST {
                    return Some(StatusRun::Lost(run as u16));
                }
                received = (symbol, run);
            }
            received.1 -= 1;
            let delta = if received.0 == SMALL {
                let (delta, rest) = deltas.split_first()?;
                deltas = rest;
                i16::from(*delta)
            } else {
                let (delta, rest) = deltas.split_first_chunk::<2>()?;
                deltas = rest;
                i16::from_be_bytes(*delta)
            };
            Some(StatusRun::Received { delta })
        })
    }
}

/// What is left of one packet chunk, draft sections 3.1.3 and 3.1.4.
#[derive(Default)]
struct Chunk {
    bits: u16,
    /// Symbols left in a vector; runs are handed out whole.
    left: u8,
    kind: ChunkKind,
}

#[derive(Default)]
enum ChunkKind {
    #[default]
    Run,
    OneBit,
    TwoBit,
}

impl Chunk {
    fn read(bytes: &[u8]) -> Self {
        let bits = bytes.first_chunk::<2>().map_or(0, |bytes| u16::from_be_bytes(*bytes));
        let (left, kind) = match bits >> 14 {
            0 | 1 => (1, ChunkKind::Run),
            2 => (14, ChunkKind::OneBit),
            _ => (7, ChunkKind::TwoBit),
        };
        Self { bits, left, kind }
    }

    /// The next symbol and how often it comes; a run of length 0 is no run.
    fn next(&mut self) -> Option<(u8, usize)> {
        self.left = self.left.checked_sub(1)?;
        let symbol = match self.kind {
            ChunkKind::Run => {
                let run = usize::from(self.bits) & RUN_MAX;
                return (run > 0).then_some(((self.bits >> 13 & 3) as u8, run));
            }
            ChunkKind::OneBit => self.bits >> self.left & 1,
            ChunkKind::TwoBit => self.bits >> (2 * self.left) & 3,
        };
        Some((symbol as u8, 1))
    }
}

/// Writes one feedback packet. `arrivals` are the packets from `base_seq` on, each with its arrival in µs or
/// `None` if it has not come. The packet ends before `len_max` bytes are exceeded, or at an arrival whose
/// delta does not fit 16 bits; returns how many packets it reports on (0: nothing was written).
pub(super) fn write(
    out: &mut Vec<u8>,
    scratch: &mut Vec<u8>,
    (sender_ssrc, media_ssrc): (u32, u32),
    (base_seq, count): (u16, u8),
    len_max: usize,
    arrivals: impl Iterator<Item = Option<u64>> + Clone,
) -> usize {
    let Some(first_us) = arrivals.clone().flatten().next() else { return 0 };
    let reference = first_us / REFERENCE_US;
    // Symbols first: they decide how far the packet reaches.
    scratch.clear();
    let mut previous = reference * (REFERENCE_US / DELTA_US);
    let (mut deltas_len, mut reach) = (0, 0);
    for arrival in arrivals.clone() {
        let symbol = match arrival {
            None => LOST,
            Some(us) => {
                let ticks = us / DELTA_US;
                let delta = ticks as i64 - previous as i64;
                previous = ticks;
                match delta {
                    0..=255 => SMALL,
                    -32_768..=32_767 => LARGE,
                    _ => break,
                }
            }
        };
        deltas_len += usize::from(symbol);
        scratch.push(symbol);
        // Seven symbols a chunk is the worst case.
        let len = HEADER_LEN + FIXED_LEN + scratch.len().div_ceil(7) * 2 + deltas_len;
        if len.next_multiple_of(4) > len_max {
            scratch.pop();
            break;
        }
        if symbol != LOST {
            reach = scratch.len();
        }
    }
    // Packets not received at the end are left to the next feedback: they may still come.
    scratch.truncate(reach);
    if reach == 0 {
        return 0;
    }
    let start = out.len();
    out.extend_from_slice(&[0x80 | FEEDBACK_FORMAT, FEEDBACK_PACKET_TYPE, 0, 0]);
    out.extend_from_slice(&sender_ssrc.to_be_bytes());
    out.extend_from_slice(&media_ssrc.to_be_bytes());
    out.extend_from_slice(&base_seq.to_be_bytes());
    out.extend_from_slice(&(reach as u16).to_be_bytes());
    out.extend_from_slice(&((reference as u32) << 8 | u32::from(count)).to_be_bytes());
    write_chunks(out, scratch);
    let mut previous = reference * (REFERENCE_US / DELTA_US);
    for (symbol, arrival) in scratch.iter().zip(arrivals) {
        let ticks = arrival.map_or(previous, |us| us / DELTA_US);
        let delta = (ticks as i64 - previous as i64) as i16;
        previous = ticks;
        match *symbol {
            SMALL => out.push(delta as u8),
            LARGE => out.extend_from_slice(&delta.to_be_bytes()),
            _ => {}
        }
    }
    out.resize(start + (out.len() - start).next_multiple_of(4), 0);
    let words = ((out.len() - start) / 4 - 1) as u16;
    if let Some(length) = out.get_mut(start + 2..start + 4) {
        length.copy_from_slice(&words.to_be_bytes());
    }
    reach
}

/// Run-length chunks where they are no longer than vectors, one-bit vectors where no delta is large.
fn write_chunks(out: &mut Vec<u8>, mut symbols: &[u8]) {
    while let Some(first) = symbols.first().copied() {
        let run = symbols.iter().take(RUN_MAX).take_while(|symbol| **symbol == first).count();
        let small = symbols.iter().take(14).take_while(|symbol| **symbol != LARGE).count();
        let vector = if small == symbols.len().min(14) { 14 } else { 7 };
        let (chunk, taken) = if run >= vector || run == symbols.len() {
            (u16::from(first) << 13 | run as u16, run)
        } else {
            let taken = symbols.len().min(vector);
            let width = 14 / vector;
            let bits =
                symbols.iter().take(taken).fold(0_u16, |bits, symbol| bits << width | u16::from(*symbol));
            let kind = if vector == 14 { 2 << 14 } else { 3 << 14 };
            (kind | bits << (width * (vector - taken)), taken)
        };
        out.extend_from_slice(&chunk.to_be_bytes());
        symbols = symbols.get(taken..).unwrap_or_default();
    }
}
