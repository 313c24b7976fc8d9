//! What a [`TurnServer`](crate::TurnServer) is told when it is made.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::credentials::Credentials;
use crate::policy::PeerPolicy;

/// Set-up of one worker's server.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// The realm of long-term credentials. It goes into each 401: short is good.
    pub realm: String,
    /// Who may use the relay.
    pub credentials: Credentials,
    /// What nonces are signed with; the same for all workers.
    pub nonce_key: [u8; 32],
    /// How long a nonce lasts.
    pub nonce_life: Duration,
    /// Which peers may be reached.
    pub peers: PeerPolicy,
    /// Where relayed addresses are; the first of each family counts.
    pub relay_addresses: Vec<RelayAddress>,
    /// The first port of relayed addresses.
    pub port_first: u16,
    /// The last port of relayed addresses.
    pub port_last: u16,
    /// Which worker this is, from 0.
    pub worker: u8,
    /// How many there are.
    pub workers: u8,
    /// How long an allocation lasts that asks for nothing else (RFC 8656, section 7.2, says 10 minutes).
    pub lifetime: Duration,
    /// How long an allocation may last without a refresh.
    pub lifetime_max: Duration,
    /// How much there may be.
    pub quotas: Quotas,
    /// Where clients are sent that this relay does not take while it drains.
    pub alternate_servers: Vec<SocketAddr>,
    /// Whether TCP connections are relayed (RFC 6062).
    pub tcp_relays: bool,
    /// Whether clients may move to other addresses (RFC 8016).
    pub mobility: bool,
}

/// An address at which relayed addresses are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayAddress {
    /// This machine's address.
    pub bind: IpAddr,
    /// What clients and peers are told: another one where a NAT stands between.
    pub announce: IpAddr,
}

/// How much there may be, in this worker. None means any amount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quotas {
    /// Allocations at a time.
    pub allocations: Option<u32>,
    /// Allocations of one user at a time.
    pub user_allocations: Option<u32>,
    /// What all allocations may relay in a second, both ways together.
    pub rate: Rate,
    /// What one user's allocations may relay in a second, both ways together.
    pub user_rate: Rate,
    /// Answers in a second that one address gets which has not proven who it is; what is over it is not answered.
    pub unauthenticated_answers: Option<u32>,
    /// The same for all such addresses together. While there are more, who is answered is chance; clients ask again.
    pub all_unauthenticated_answers: Option<u32>,
}

/// How much may be relayed in a second. None means any amount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    /// Bytes of data in a second; data that is over it is dropped.
    pub bytes: Option<u64>,
    /// Packets in a second.
    pub packets: Option<u64>,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            realm: "zynk".into(),
            credentials: Credentials::default(),
            nonce_key: [0; 32],
            nonce_life: Duration::from_secs(3600),
            peers: PeerPolicy::default(),
            relay_addresses: Vec::new(),
            port_first: 49_152,
            port_last: 65_535,
            worker: 0,
            workers: 1,
            lifetime: Duration::from_secs(600),
            lifetime_max: Duration::from_secs(3600),
            quotas: Quotas::default(),
            alternate_servers: Vec::new(),
            tcp_relays: true,
            mobility: true,
        }
    }
}
