//! What an operator can set.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use schemars::JsonSchema;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use zynk_auth::{KeyRing, TurnSecret};
use zynk_turn_core::{Credentials, PeerPolicy, Quotas, Rate, RelayAddress, ServerConfig};

use crate::streams::StreamSettings;
use crate::{TurnAddresses, TurnError};

/// Most workers of one relay.
pub const WORKERS_MAX: u8 = 64;

/// Longest time that datagrams may wait, in microseconds.
const HOLD_BACK_US_MAX: u64 = 10_000;

/// Longest life of allocations and nonces: a week, in seconds.
const LIFETIME_S_MAX: u64 = 604_800;

/// Longest realm, in bytes (RFC 8489, section 14.9, has 128 characters).
const REALM_BYTES_MAX: usize = 127;

/// Configuration of the relay.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TurnConfig {
    /// The name that clients find this relay by, such as `relay.example.org`; the certificate is for it. With a name, clients
    /// of this process' signaling are told of the relay; without one they are not, unless `tell_addresses` is set.
    pub domain: String,
    /// Whether clients of this process' signaling are told of the relay by its addresses if it has no name: those of
    /// `announce`, or those that this machine has. Over UDP and TCP alone, since no certificate is for them. `zynk dev`
    /// has it on.
    pub tell_addresses: bool,
    /// The addresses that clients come to. `0.0.0.0` is every IPv4 address of this machine, `::` every address.
    pub bind: Vec<IpAddr>,
    /// The port for UDP and TCP. 0 takes a free one.
    pub port: u16,
    /// Whether clients may come over UDP.
    pub udp: bool,
    /// Whether clients may come over TCP.
    pub tcp: bool,
    /// Ports for TLS over TCP (`turns:` addresses): 5349, or 443, which most firewalls let through.
    pub tls_ports: Vec<u16>,
    /// Ports for DTLS over UDP.
    pub dtls_ports: Vec<u16>,
    /// The certificate chain for TLS and DTLS, in PEM. Without one that of `[tls]` is shown; without that either, one is made
    /// that no browser trusts.
    pub certificate_file: Option<PathBuf>,
    /// The certificate's private key, in PEM. DTLS needs one for ECDSA.
    pub private_key_file: Option<PathBuf>,
    /// The addresses that relayed addresses are made at, at most one of each family. Empty takes the addresses that this
    /// machine has towards others; if it has none, loopback.
    pub relay_bind: Vec<IpAddr>,
    /// What clients and peers are told instead of `relay_bind`: the public addresses of a 1:1 NAT in front of this
    /// machine, at most one of each family.
    pub announce: Vec<IpAddr>,
    /// The first port of relayed addresses.
    pub relay_port_first: u16,
    /// The last port of relayed addresses.
    pub relay_port_last: u16,
    /// Worker threads. With more than one, TCP connections are not relayed (RFC 6062), clients cannot move to other
    /// addresses (RFC 8016), a reserved port is found only by who comes to the same worker, and quotas hold for each worker.
    pub workers: u8,
    /// How long datagrams may wait at a worker that is busy for 70 % of its time or more, so that more of them leave at
    /// once, in microseconds. One that is busy for less than 30 % lets none wait. 0 to 10,000.
    pub hold_back_us_max: u64,
    /// The realm of credentials. Short is good: it is in answers to addresses that may be forged.
    pub realm: String,
    /// Secrets of whoever makes credentials for this relay; those of coturn's `static-auth-secret` are good too. Empty
    /// takes the secrets that follow from `keys`.
    #[serde(skip_serializing)]
    #[schemars(with = "Vec<String>")]
    pub auth_secrets: Vec<SecretString>,
    /// Users with passwords of their own: `name = "password"`.
    #[serde(skip_serializing)]
    #[schemars(with = "BTreeMap<String, String>")]
    pub users: BTreeMap<String, SecretString>,
    /// Networks that nobody may reach through the relay, besides those that are nobody's business anyway: private,
    /// loopback, link-local and so on.
    #[schemars(with = "Vec<String>")]
    pub deny_peers: Vec<IpNet>,
    /// Networks that may be reached although they are private, loopback, link-local and so on. This machine's own
    /// addresses are not among them unless they are listed one by one.
    #[schemars(with = "Vec<String>")]
    pub allow_peers: Vec<IpNet>,
    /// How long an allocation lasts whose client does not ask for more, in seconds.
    pub lifetime_s: u64,
    /// How long an allocation may last without a refresh, in seconds.
    pub lifetime_s_max: u64,
    /// How long a nonce lasts, in seconds.
    pub nonce_lifetime_s: u64,
    /// Where clients are sent while this relay drains or is full; at most one of each family is used.
    pub alternate_servers: Vec<SocketAddr>,
    /// Networks of balancers that begin each TCP or TLS connection with a PROXY header (version 1 or 2), which says whose it
    /// is. A connection from there without one is closed; one from elsewhere is taken as it is. Datagrams have no such header.
    #[schemars(with = "Vec<String>")]
    pub proxy_protocol_from: Vec<IpNet>,
    /// Limits.
    pub limits: TurnLimits,
}

/// How much there may be. 0 means any amount, unless something else is said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TurnLimits {
    /// Allocations at a time.
    pub allocations_max: u32,
    /// Allocations of one user at a time. Credentials of one user name, whatever their time, are one user.
    pub user_allocations_max: u32,
    /// What all allocations may relay, both ways together, in kilobits a second. With this or one of the next three set, TCP
    /// connections are not relayed (RFC 6062): what goes through them is not counted.
    pub kbps_max: u64,
    /// What one user's allocations may relay, both ways together, in kilobits a second.
    pub user_kbps_max: u64,
    /// Packets that all allocations may relay in a second, both ways together.
    pub packets_per_s_max: u64,
    /// Packets that one user's allocations may relay in a second, both ways together.
    pub user_packets_per_s_max: u64,
    /// Answers in a second to one address that has not proven who it is, over UDP; ten seconds' worth may come at once.
    /// What is over it is not answered: an answer is longer than a request, and the request's source may be forged.
    pub unauthenticated_answers_per_s_max: u32,
    /// Such answers in a second to all addresses together: a flood from very many addresses must not keep the relay busy
    /// with answers. Clients that get none ask again.
    pub all_unauthenticated_answers_per_s_max: u32,
    /// TCP, TLS and DTLS connections of clients at a time. At least 1.
    pub connections_max: usize,
    /// Such connections from one IPv4 address or IPv6 /64 network. At least 1.
    pub connections_per_source_max: usize,
}

impl Default for TurnConfig {
    fn default() -> Self {
        Self {
            domain: String::new(),
            tell_addresses: false,
            bind: vec![Ipv4Addr::UNSPECIFIED.into()],
            port: 3478,
            udp: true,
            tcp: true,
            tls_ports: Vec::new(),
            dtls_ports: Vec::new(),
            certificate_file: None,
            private_key_file: None,
            relay_bind: Vec::new(),
            announce: Vec::new(),
            relay_port_first: 49_152,
            relay_port_last: 65_535,
            workers: 1,
            hold_back_us_max: 1000,
            realm: "zynk".into(),
            auth_secrets: Vec::new(),
            users: BTreeMap::new(),
            deny_peers: Vec::new(),
            allow_peers: Vec::new(),
            lifetime_s: 600,
            lifetime_s_max: 3600,
            nonce_lifetime_s: 3600,
            alternate_servers: Vec::new(),
            proxy_protocol_from: Vec::new(),
            limits: TurnLimits::default(),
        }
    }
}

impl Default for TurnLimits {
    fn default() -> Self {
        Self {
            allocations_max: 0,
            user_allocations_max: 64,
            kbps_max: 0,
            user_kbps_max: 0,
            packets_per_s_max: 0,
            user_packets_per_s_max: 0,
            unauthenticated_answers_per_s_max: 50,
            all_unauthenticated_answers_per_s_max: 20_000,
            connections_max: 10_000,
            connections_per_source_max: 500,
        }
    }
}

impl TurnLimits {
    /// Whether there are limits on what is relayed in a second.
    fn has_rates(&self) -> bool {
        [self.kbps_max, self.user_kbps_max, self.packets_per_s_max, self.user_packets_per_s_max] != [0; 4]
    }
}

impl TurnConfig {
    /// Whether it can be done. Opens nothing.
    pub fn check(&self) -> Result<(), TurnError> {
        let invalid =
            |key: &'static str, problem: &str| Err(TurnError::Config { key, problem: problem.to_owned() });
        let one_of_each = |addresses: &[IpAddr]| {
            [true, false].iter().all(|v4| addresses.iter().filter(|ip| ip.is_ipv4() == *v4).count() <= 1)
        };
        match () {
            () if self.bind.is_empty() => invalid("bind", "at least one address is needed"),
            () if self.workers == 0 || self.workers > WORKERS_MAX => {
                invalid("workers", &format!("must be 1 to {WORKERS_MAX}"))
            }
            () if !self.udp && !self.tcp && self.tls_ports.is_empty() && self.dtls_ports.is_empty() => {
                invalid("udp", "clients have no way in: UDP, TCP, TLS and DTLS are all off")
            }
            () if self.hold_back_us_max > HOLD_BACK_US_MAX => {
                invalid("hold_back_us_max", &format!("must be at most {HOLD_BACK_US_MAX}"))
            }
            () if self.port == 0 && self.workers > 1 => {
                invalid("port", "several workers need a port, not any free one")
            }
            () if self.certificate_file.is_some() != self.private_key_file.is_some() => {
                invalid("certificate_file", "a certificate and its private key go together")
            }
            () if !one_of_each(&self.relay_bind) => {
                invalid("relay_bind", "at most one address of each family is used")
            }
            () if self.relay_bind.iter().any(|ip| ip.is_unspecified() || ip.is_multicast()) => {
                invalid("relay_bind", "must be an address of this machine, not all of them")
            }
            () if !one_of_each(&self.announce) => {
                invalid("announce", "at most one address of each family is used")
            }
            () if self.relay_port_first < 1024
                || self.relay_port_last.saturating_sub(self.relay_port_first) < 2 =>
            {
                invalid("relay_port_first", "relayed addresses need a range of ports from 1024 on")
            }
            () if self.realm.is_empty()
                || self.realm.len() > REALM_BYTES_MAX
                || self.realm.contains(['"', '\\']) =>
            {
                invalid("realm", "must have 1 to 127 bytes and no quotes")
            }
            () if self.lifetime_s == 0 || self.lifetime_s_max < self.lifetime_s => {
                invalid("lifetime_s", "must be at least 1 and at most lifetime_s_max")
            }
            () if self.lifetime_s_max > LIFETIME_S_MAX => {
                invalid("lifetime_s_max", &format!("must be at most {LIFETIME_S_MAX}"))
            }
            () if !(60..=LIFETIME_S_MAX).contains(&self.nonce_lifetime_s) => {
                invalid("nonce_lifetime_s", &format!("must be 60 to {LIFETIME_S_MAX}"))
            }
            () if self.limits.connections_max == 0 || self.limits.connections_per_source_max == 0 => {
                invalid("limits.connections_max", "must be at least 1")
            }
            () if self.auth_secrets.iter().any(|secret| secret.expose_secret().is_empty()) => {
                invalid("auth_secrets", "a secret must not be empty")
            }
            () => Ok(()),
        }
    }

    /// Where clients find a relay with these addresses, as `turn:` and `turns:` URLs (RFC 7065): by the domain, or by
    /// the announced addresses if they are to be told; none otherwise.
    pub fn urls(&self, addresses: &TurnAddresses) -> Vec<String> {
        let mut schemes = vec![("turn", "udp", &addresses.udp), ("turn", "tcp", &addresses.tcp)];
        let hosts = match self.domain.is_empty() {
            false => {
                schemes.push(("turns", "tcp", &addresses.tls));
                vec![self.domain.clone()]
            }
            true if self.tell_addresses => addresses.announced.iter().map(|ip| url_host(*ip)).collect(),
            true => return Vec::new(),
        };
        let mut urls = Vec::new();
        for (scheme, transport, known) in schemes {
            for (host, address) in hosts.iter().flat_map(|host| known.iter().map(move |at| (host, at))) {
                let url = format!("{scheme}:{host}:{}?transport={transport}", address.port());
                if !urls.contains(&url) {
                    urls.push(url);
                }
            }
        }
        urls
    }

    /// The addresses that clients can use for the relay: those of `announce`, or those that this machine has.
    pub fn announced(&self) -> Vec<IpAddr> {
        match self.announce.is_empty() {
            true => self.bind.iter().flat_map(|bind| zynk_net::reachable_addresses(*bind)).collect(),
            false => self.announce.clone(),
        }
    }

    /// What this relay's credentials are made with, for whoever hands them out in this process.
    pub fn secret(&self, keys: &KeyRing) -> Option<TurnSecret> {
        let own = self.auth_secrets.first().map(|secret| TurnSecret::new(secret.clone()));
        own.or_else(|| keys.turn_secrets().into_iter().next())
    }

    /// Who may use the relay: whoever has credentials of a secret, or a password.
    pub fn credentials(&self, keys: &KeyRing) -> Credentials {
        let secrets = match self.auth_secrets.is_empty() {
            true => keys.turn_secrets(),
            false => self.auth_secrets.iter().map(|secret| TurnSecret::new(secret.clone())).collect(),
        };
        Credentials::new(self.users.clone(), secrets)
    }

    /// The addresses of relays, with what others are told.
    pub(crate) fn relay_addresses(&self) -> Vec<RelayAddress> {
        let mut binds = self.relay_bind.clone();
        if binds.is_empty() {
            for bind in &self.bind {
                // The last is the one towards others, if there is one.
                let reachable = zynk_net::reachable_addresses(*bind);
                for v4 in [true, false] {
                    let known = binds.iter().any(|ip| ip.is_ipv4() == v4);
                    if let Some(ip) = reachable.iter().rfind(|ip| ip.is_ipv4() == v4)
                        && !known
                    {
                        binds.push(*ip);
                    }
                }
            }
        }
        let announced =
            |bind: &IpAddr| self.announce.iter().find(|ip| ip.is_ipv4() == bind.is_ipv4()).copied();
        binds
            .iter()
            .map(|bind| RelayAddress { bind: *bind, announce: announced(bind).unwrap_or(*bind) })
            .collect()
    }

    /// What streams of clients are told.
    pub(crate) fn streams(&self) -> StreamSettings {
        StreamSettings {
            connections_max: self.limits.connections_max,
            connections_per_source_max: self.limits.connections_per_source_max,
            balancers: self.proxy_protocol_from.clone(),
        }
    }

    /// What the core is told. `services` are addresses of this machine that clients may reach.
    pub(crate) fn server(
        &self,
        credentials: Credentials,
        services: &[SocketAddr],
        nonce_key: [u8; 32],
        worker: u8,
    ) -> ServerConfig {
        let some = |limit: u64| (limit > 0).then_some(limit);
        let some_u32 = |limit: u32| (limit > 0).then_some(limit);
        let limits = &self.limits;
        let rate = |kbps: u64, packets: u64| Rate { bytes: some(kbps * 1000 / 8), packets: some(packets) };
        let relay_addresses = self.relay_addresses();
        let own = relay_addresses.iter().flat_map(|address| [address.bind, address.announce]).collect();
        ServerConfig {
            realm: self.realm.clone(),
            credentials,
            nonce_key,
            nonce_life: Duration::from_secs(self.nonce_lifetime_s),
            peers: PeerPolicy {
                deny: self.deny_peers.clone(),
                allow: self.allow_peers.clone(),
                own,
                machine: zynk_net::interface_addresses(),
                services: services.to_vec(),
            },
            relay_addresses,
            port_first: self.relay_port_first,
            port_last: self.relay_port_last,
            worker,
            workers: self.workers,
            lifetime: Duration::from_secs(self.lifetime_s),
            lifetime_max: Duration::from_secs(self.lifetime_s_max),
            quotas: Quotas {
                allocations: some_u32(limits.allocations_max),
                user_allocations: some_u32(limits.user_allocations_max),
                rate: rate(limits.kbps_max, limits.packets_per_s_max),
                user_rate: rate(limits.user_kbps_max, limits.user_packets_per_s_max),
                unauthenticated_answers: some_u32(limits.unauthenticated_answers_per_s_max),
                all_unauthenticated_answers: some_u32(limits.all_unauthenticated_answers_per_s_max),
            },
            alternate_servers: self.alternate_servers.clone(),
            // What goes through relayed connections is not counted.
            tcp_relays: self.workers == 1 && !limits.has_rates(),
            mobility: self.workers == 1,
        }
    }
}

/// An address as URLs have it (RFC 3986, section 3.2.2).
fn url_host(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses() -> TurnAddresses {
        let at = |port| vec![SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port)];
        TurnAddresses {
            udp: at(3478),
            tcp: at(3478),
            tls: at(443),
            announced: vec!["198.51.100.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
            ..TurnAddresses::default()
        }
    }

    #[test]
    fn a_relay_with_a_domain_is_told_by_it_alone() {
        let config =
            TurnConfig { domain: "call.example.org".into(), tell_addresses: true, ..TurnConfig::default() };
        let expected = [
            "turn:call.example.org:3478?transport=udp",
            "turn:call.example.org:3478?transport=tcp",
            "turns:call.example.org:443?transport=tcp",
        ];
        assert_eq!(config.urls(&addresses()), expected);
    }

    #[test]
    fn a_relay_without_a_domain_is_told_by_its_addresses_if_asked() {
        assert!(TurnConfig::default().urls(&addresses()).is_empty());
        let config = TurnConfig { tell_addresses: true, ..TurnConfig::default() };
        let expected = [
            "turn:198.51.100.1:3478?transport=udp",
            "turn:[2001:db8::1]:3478?transport=udp",
            "turn:198.51.100.1:3478?transport=tcp",
            "turn:[2001:db8::1]:3478?transport=tcp",
        ];
        assert_eq!(config.urls(&addresses()), expected, "no browser trusts a certificate for an address");
    }
}
