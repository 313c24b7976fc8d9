//! RTCP: compound and reduced-size packets (RFC 3550, section 6; RFC 5506), feedback (RFC 4585, RFC 5104,
//! draft-alvestrand-rmcat-remb-03).
//!
//! Parsing borrows and allocates nothing: a compound is an iterator of packets, a packet's lists are iterators
//! over its octets. Writing goes into the caller's buffer.
//!
//! Written here and not taken from `rtcp-types`: its builders allocate and are dynamic, it has no REMB, and a
//! list's elements are bounded nowhere. The tests read what it writes, and it reads what we write.

mod packet;
mod writer;

use thiserror::Error;

pub use packet::{FirEntries, NackPairs, Packet, Packets, ReportBlocks, SourceDescriptions, Ssrcs};
pub use writer::{RtcpWriteError, RtcpWriter};

/// Packets of a compound that are read; the rest is ignored ([`RtcpError::TooMany`]). Browsers send up to a
/// handful, one per source at worst.
pub const PACKETS_MAX: usize = 64;
/// Pairs of a NACK that are read: they name up to 4352 packets, more than any store keeps. The rest is ignored.
pub const NACK_PAIRS_MAX: usize = 256;
/// Entries of a full intra request that are read. The rest is ignored.
pub const FIR_ENTRIES_MAX: usize = 32;
/// Report blocks, SDES chunks and BYE sources of one packet: what its count field can say.
pub const COUNT_MAX: usize = 31;
/// SSRCs of a REMB: what its count field can say.
pub const REMB_SSRCS_MAX: usize = 255;
/// Longest CNAME: what its length field can say.
pub const CNAME_BYTES_MAX: usize = 255;

/// Why octets are not RTCP; the sender's fault. What was read before them stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RtcpError {
    /// A packet reaches beyond the datagram.
    #[error("a packet of {expected} octets where {actual} are left")]
    Truncated {
        /// What the packet's length says.
        expected: usize,
        /// What is there.
        actual: usize,
    },
    /// The version is not 2.
    #[error("version {0}")]
    Version(u8),
    /// A packet is too short for its type or its count.
    #[error("packet type {packet_type} with {bytes} octets and a count of {count}")]
    Length {
        /// The packet type.
        packet_type: u8,
        /// The count, or the feedback's format.
        count: u8,
        /// Octets behind the first four.
        bytes: usize,
    },
    /// The padding's length is zero or more than the packet's.
    #[error("padding")]
    Padding,
    /// More than [`PACKETS_MAX`] packets.
    #[error("too many packets")]
    TooMany,
}

const SENDER_REPORT: u8 = 200;
const RECEIVER_REPORT: u8 = 201;
const SOURCE_DESCRIPTION: u8 = 202;
const GOODBYE: u8 = 203;
const TRANSPORT_FEEDBACK: u8 = 205;
const PAYLOAD_FEEDBACK: u8 = 206;

const FORMAT_NACK: u8 = 1;
const FORMAT_TRANSPORT_CC: u8 = 15;
const FORMAT_PICTURE_LOSS: u8 = 1;
const FORMAT_FULL_INTRA: u8 = 4;
const FORMAT_APPLICATION: u8 = 15;

/// SDES item: the canonical name.
const ITEM_CNAME: u8 = 1;
/// What distinguishes REMB among application layer feedback.
const REMB_NAME: [u8; 4] = *b"REMB";

#[cfg(test)]
mod tests;
