//! One direction of a virtual network path.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    net::SocketAddr,
    time::Instant,
};

use zynk_netlab::{LinkConfig, Loss};

/// A datagram under way.
#[derive(Clone, Debug)]
pub(crate) struct Datagram {
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    pub(crate) payload: Vec<u8>,
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
    flows: BTreeMap<Flow, zynk_netlab::Link<Datagram>>,
}

impl Link {
    pub(crate) fn new(config: LinkConfig, seed: u64) -> Self {
        assert!(!config.rate.is_limited() || config.loss == Loss::NONE, "losses are drawn for each flow");
        Self { config, seed, flows: BTreeMap::new() }
    }

    pub(crate) fn send(&mut self, now: Instant, datagram: Datagram) {
        let flow = if self.config.rate.is_limited() { Flow::All } else { Flow::of(&datagram.payload) };
        let link = self.flows.entry(flow).or_insert_with(|| {
            let mut hasher = DefaultHasher::new();
            (self.seed, flow).hash(&mut hasher);
            let mut config = self.config.clone();
            if flow == Flow::Setup {
                config.loss = Loss::NONE;
            }
            zynk_netlab::Link::new(config, hasher.finish(), now)
        });
        link.send(now, datagram.payload.len(), datagram);
    }

    /// When the next datagram arrives, or earlier.
    pub(crate) fn next_arrival(&self) -> Option<Instant> {
        self.flows.values().filter_map(zynk_netlab::Link::next_at).min()
    }

    /// A datagram that has arrived by `now`.
    pub(crate) fn receive(&mut self, now: Instant) -> Option<Datagram> {
        self.flows.values_mut().find_map(|link| link.poll(now)).map(|delivery| delivery.payload)
    }
}
