//! SRTP and SRTCP (RFC 3711, RFC 7714) for one DTLS-SRTP session (RFC 5764): in place, no allocation per
//! packet, no key schedule per packet.
//!
//! ```text
//!   DTLS exporter ─► KeyingMaterial ─► session(role) ─► Opener  (what the peer protects)
//!                                                   └─► Sealer  (what we protect) ─► SealStream per SSRC
//! ```
//!
//! # Nonces
//! Both transforms are broken by two packets under one key with the same SSRC and index: AES-CM then repeats a
//! key stream, GCM also gives away its authentication key. Three rules keep that from happening:
//! - a session's [`Sealer`] hands out one [`SealStream`] per SSRC and never a second one;
//! - a [`SealStream`] remembers what was sealed and refuses to seal an index twice, however the packets came to
//!   be numbered ([`SealError::IndexUsed`]);
//! - SRTCP has one counter per session, which starts above what another writer of the same session may use
//!   ([`SRTCP_INDEX_SHARED`]) and ends with [`SealError::IndexExhausted`].
//!
//! # Wiping
//! Keying material and derived keys are zeroed when dropped. aws-lc zeroes its own: GCM contexts live in its
//! heap, whose `OPENSSL_free` cleanses; the AES schedules and HMAC states of aws-lc-rs are cleansed on drop.
//! Copies that a compiler leaves on the stack or in registers while a key is set up cannot be reached from here.

mod aes_cm_hmac;
mod gcm;
mod keys;
mod opener;
mod replay;
mod sealer;
mod sources;
mod transform;

#[cfg(test)]
mod tests;

pub use keys::{DtlsRole, KeyError, KeyingMaterial, Profile};
pub use opener::{OpenError, OpenedRtcp, OpenedRtp, Opener};
pub use replay::ReplayWindow;
pub use sealer::{SRTCP_INDEX_SHARED, STREAMS_MAX, SealError, SealStream, Sealer};
pub use sources::{RETIRED_SOURCES_MAX, SOURCES_MAX};

/// The highest SRTP packet index: 48 bits, rollover counter and sequence number (RFC 3711, section 3.3.1).
pub const RTP_INDEX_MAX: u64 = (1 << 48) - 1;
/// The highest SRTCP index: 31 bits (RFC 3711, section 3.4).
pub const SRTCP_INDEX_MAX: u32 = (1 << 31) - 1;
/// Most octets that any profile adds to an RTP packet.
pub const RTP_OVERHEAD_BYTES_MAX: usize = 16;
/// Most octets that any profile adds to an RTCP packet.
pub const RTCP_OVERHEAD_BYTES_MAX: usize = 20;

/// The flag before the SRTCP index that says the packet is encrypted (RFC 3711, section 3.4).
const SRTCP_ENCRYPTED: u32 = 1 << 31;
/// Octets of an RTCP packet that stay in the clear: the first header and its SSRC.
const RTCP_CLEAR_BYTES: usize = 8;
