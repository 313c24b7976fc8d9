//! One direction of a virtual network path.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    net::SocketAddr,
    time::{Duration, Instant},
};

use str0m_netem::{Bitrate, DataSize, Input, Netem, NetemConfig, Output, Probability, RandomLoss};

/// What a path does to datagrams.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LinkConfig {
    /// Share of datagrams that are lost, 0 to 1.
    pub(crate) loss: f32,
    /// One-way delay.
    pub(crate) delay: Duration,
    /// Largest deviation from it.
    pub(crate) jitter: Duration,
    pub(crate) bottleneck: Option<Bottleneck>,
}

/// Where datagrams wait for each other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bottleneck {
    pub(crate) kbps: u64,
    /// Octets that may wait; what comes when so many do is lost.
    pub(crate) queue_bytes: usize,
}

/// A datagram under way.
#[derive(Clone, Debug)]
pub(crate) struct Datagram {
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    pub(crate) payload: Vec<u8>,
}

impl AsRef<[u8]> for Datagram {
    fn as_ref(&self) -> &[u8] {
        &self.payload
    }
}

/// What a datagram belongs to.
///
/// Each flow has a generator of its own: the n-th packet of a flow fares alike behind both forwarders, whatever
/// either of them sends in between. Flows are told apart by payload type, because SSRCs are drawn by the forwarder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Flow {
    Rtcp,
    Rtp {
        payload_type: u8,
    },
    /// ICE and DTLS, which are not under test: never lost.
    Setup,
    /// Everything: before a bottleneck all wait in one queue.
    All,
}

impl Flow {
    /// By the first octets (RFC 7983; RFC 5761, section 4).
    fn of(datagram: &[u8]) -> Self {
        match (datagram[0], datagram[1]) {
            (128..=191, 192..=223) => Self::Rtcp,
            (128..=191, second) => Self::Rtp { payload_type: second & 0x7f },
            _ => Self::Setup,
        }
    }
}

pub(crate) struct Link {
    config: LinkConfig,
    seed: u64,
    flows: BTreeMap<Flow, Netem<Datagram>>,
}

impl Link {
    pub(crate) fn new(config: LinkConfig, seed: u64) -> Self {
        assert!(config.bottleneck.is_none() || config.loss == 0.0, "losses are drawn for each flow");
        Self { config, seed, flows: BTreeMap::new() }
    }

    pub(crate) fn send(&mut self, now: Instant, datagram: Datagram) {
        let LinkConfig { loss, delay, jitter, bottleneck } = self.config;
        let flow = if bottleneck.is_some() { Flow::All } else { Flow::of(&datagram.payload) };
        let netem = self.flows.entry(flow).or_insert_with(|| {
            let mut hasher = DefaultHasher::new();
            (self.seed, flow).hash(&mut hasher);
            let loss = if flow == Flow::Setup { 0.0 } else { loss };
            let mut config = NetemConfig::new()
                .latency(delay)
                .jitter(jitter)
                .loss(RandomLoss::new(Probability::new(loss)))
                .seed(hasher.finish());
            if let Some(Bottleneck { kbps, queue_bytes }) = bottleneck {
                config = config.link(Bitrate::kbps(kbps), DataSize::from(queue_bytes));
            }
            Netem::new(config)
        });
        netem.handle_input(Input::Packet(now, datagram));
    }

    /// When the next datagram arrives.
    pub(crate) fn next_arrival(&self) -> Option<Instant> {
        self.flows.values().filter(|netem| !netem.is_empty()).map(Netem::poll_timeout).min()
    }

    /// A datagram that has arrived by `now`.
    pub(crate) fn receive(&mut self, now: Instant) -> Option<Datagram> {
        for netem in self.flows.values_mut() {
            if netem.is_empty() || netem.poll_timeout() > now {
                continue;
            }
            netem.handle_input(Input::Timeout(now));
            while let Some(output) = netem.poll_output() {
                if let Output::Packet(datagram) = output {
                    return Some(datagram);
                }
            }
        }
        None
    }
}
