//! What a shard is built from.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use crate::connection::CertificateInner;

/// A worker's number on its node. ICE user fragments carry it, so that a TCP connection or a stray datagram
/// can be handed to the right worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShardIndex(pub u8);

/// Configuration of one shard.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// Its number.
    pub index: ShardIndex,
    /// UDP addresses announced to clients, as host candidates.
    pub udp: Vec<SocketAddr>,
    /// ICE-TCP addresses announced to clients, as passive candidates. Empty turns ICE-TCP off.
    pub tcp: Vec<SocketAddr>,
    /// The DTLS certificate, shared by all shards of a node.
    pub certificate: Certificate,
    /// Time since Unix's epoch when the shard is made: what its sender reports count from.
    pub unix_time: Duration,
    /// Whether subscribers on paths that lose packets are sent Opus with redundancy, where they take it.
    pub protect_audio: bool,
    /// Seed of the shard's random numbers.
    pub seed: u64,
}

/// A self-signed DTLS certificate.
#[derive(Clone, Debug)]
pub struct Certificate(pub(crate) Arc<CertificateInner>);

/// A shard cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShardError {
    /// The cryptographic library refused to make a certificate.
    #[error("cannot make a DTLS certificate: {0}")]
    Certificate(String),
    /// There is no address to announce.
    #[error("no media address to announce")]
    NoAddress,
}
