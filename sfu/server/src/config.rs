//! What an operator can set.

use std::{
    net::{IpAddr, Ipv4Addr},
    num::NonZeroUsize,
    thread,
};

use serde::{Deserialize, Serialize};

use crate::SfuError;

/// Most workers of one node: user fragments carry the worker's number in a byte.
pub const WORKERS_MAX: usize = 256;

/// The longest time that datagrams may be held back: more would be heard.
pub const HOLD_BACK_MS_MAX: u64 = 20;

/// When audio towards subscribers is protected against loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AudioProtection {
    /// Never: it is sent as its publisher sends it.
    #[default]
    Off,
    /// On paths that lose packets.
    Lossy,
}

/// Configuration of the media node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SfuConfig {
    /// Worker threads, each with a UDP port and its share of the rooms, 1 to 256.
    /// Default: one less than there are cores, at least 1.
    pub workers: usize,
    /// Whether each worker stays on one core.
    pub pin_workers: bool,
    /// The address that the UDP and ICE-TCP sockets are bound to.
    pub bind: IpAddr,
    /// The first worker's UDP port; the others take the ports that follow. 0 takes free ports.
    pub udp_port_first: u16,
    /// Whether clients may connect by ICE-TCP, for networks that drop UDP.
    pub ice_tcp: bool,
    /// The ICE-TCP port. 0 takes a free one.
    pub ice_tcp_port: u16,
    /// The addresses told to clients; those of a 1:1 NAT in front of this machine, for example. Empty takes
    /// `bind`, or, if that is unspecified, loopback and the address this machine uses towards others.
    pub announce: Vec<IpAddr>,
    /// Receive buffer of each UDP socket. The kernel caps it at `net.core.rmem_max` unless the
    /// process has CAP_NET_ADMIN.
    pub udp_recv_buffer_bytes: usize,
    /// Send buffer of each UDP socket. The kernel caps it at `net.core.wmem_max` unless the
    /// process has CAP_NET_ADMIN.
    pub udp_send_buffer_bytes: usize,
    /// How long a worker lets datagrams wait at least, to send more of them at once. At most 20 ms.
    pub hold_back_ms_min: u64,
    /// How long a worker that is busy for 70 % of its time or more lets datagrams wait, to send more of them at
    /// once. One that is busy for less than 30 % waits `hold_back_ms_min`. At most 20 ms.
    pub hold_back_ms_max: u64,
    /// A room whose workers are all busy for this share of their time or more, in percent, is spread: connections that
    /// come then go to another worker that is clearly less busy. 1 to 100.
    pub spread_busy_percent: u8,
    /// A room that has so many connections on each of its workers is spread likewise. At least 1.
    pub spread_connections: usize,
    /// `lossy`: towards a subscriber whose path loses more than 2 % of the packets, audio carries the packet before it once
    /// more, from 8 % on the two before it: two or three times the bandwidth of that subscriber's audio. `off`: never. It
    /// takes a client that accepts Opus with redundancy (RFC 2198), as Chromium does, and is never done to tracks that are
    /// encrypted from end to end.
    pub audio_protection: AudioProtection,
    /// Most ICE-TCP connections. Further ones are refused.
    pub tcp_connections_max: usize,
    /// Most ICE-TCP connections from one IPv4 address or IPv6 /64 network. Further ones are refused.
    pub tcp_connections_per_source_max: usize,
    /// The operator's name for where this node is.
    pub region: String,
}

impl Default for SfuConfig {
    fn default() -> Self {
        let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self {
            workers: cores.saturating_sub(1).clamp(1, WORKERS_MAX),
            pin_workers: false,
            bind: Ipv4Addr::UNSPECIFIED.into(),
            udp_port_first: 7882,
            ice_tcp: true,
            ice_tcp_port: 7881,
            announce: Vec::new(),
            udp_recv_buffer_bytes: 4 * 1024 * 1024,
            udp_send_buffer_bytes: 4 * 1024 * 1024,
            hold_back_ms_min: 0,
            hold_back_ms_max: 5,
            spread_busy_percent: 60,
            spread_connections: 1_000,
            audio_protection: AudioProtection::Off,
            tcp_connections_max: 10_000,
            tcp_connections_per_source_max: 500,
            region: String::new(),
        }
    }
}

impl SfuConfig {
    /// Whether the numbers go together. Opens nothing.
    pub fn check(&self) -> Result<(), SfuError> {
        let Self { workers, udp_port_first: first, .. } = *self;
        if workers == 0 || workers > WORKERS_MAX {
            return Err(SfuError::Workers { workers });
        }
        if usize::from(first) + workers - 1 > usize::from(u16::MAX) {
            return Err(SfuError::Ports { first, workers });
        }
        if let Some(ms) =
            [self.hold_back_ms_min, self.hold_back_ms_max].into_iter().find(|ms| *ms > HOLD_BACK_MS_MAX)
        {
            return Err(SfuError::HoldBack { ms });
        }
        let (percent, connections) = (self.spread_busy_percent, self.spread_connections);
        if !(1..=100).contains(&percent) || connections == 0 {
            return Err(SfuError::Spread { percent, connections });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_fill_what_is_left_out() {
        let config: SfuConfig = toml::from_str("udp_port_first = 9000\nannounce = ['192.0.2.1']").unwrap();
        assert_eq!(config.udp_port_first, 9000);
        assert_eq!(config.announce, ["192.0.2.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(config.ice_tcp_port, 7881);
        assert_eq!(config.audio_protection, AudioProtection::Off);
    }

    #[test]
    fn audio_is_protected_where_that_is_said() {
        let config: SfuConfig = toml::from_str("audio_protection = 'lossy'").unwrap();
        assert_eq!(config.audio_protection, AudioProtection::Lossy);
        assert!(toml::from_str::<SfuConfig>("audio_protection = 'always'").is_err());
    }

    #[test]
    fn a_room_that_is_always_above_its_budget_is_refused() {
        for (spread_busy_percent, spread_connections) in [(0, 1), (101, 1), (60, 0)] {
            let config = SfuConfig { spread_busy_percent, spread_connections, ..SfuConfig::default() };
            let error = config.check().unwrap_err();
            assert!(matches!(error, SfuError::Spread { .. }), "{error}");
        }
        assert!(SfuConfig { spread_busy_percent: 100, ..SfuConfig::default() }.check().is_ok());
    }

    #[test]
    fn unknown_keys_are_errors() {
        let error = toml::from_str::<SfuConfig>("worker = 3").unwrap_err();
        assert!(error.to_string().contains("worker"), "{error}");
    }
}
