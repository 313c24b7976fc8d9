//! One direction of a virtual network path.

use std::{net::SocketAddr, time::Instant};

use zynk_netlab::{FlowLink, LinkConfig};

/// A datagram under way.
#[derive(Clone, Debug)]
pub(crate) struct Datagram {
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    pub(crate) payload: Vec<u8>,
}

/// What a datagram belongs to.
///
/// Each flow draws random numbers of its own: the n-th packet of a flow fares alike behind both forwarders, whatever
/// either of them sends in between. Flows are told apart by payload type, because SSRCs are drawn by the forwarder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Flow {
    Rtcp,
    Rtp {
        payload_type: u8,
    },
    /// ICE and DTLS, which are not under test: never lost.
    Setup,
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

pub(crate) struct Link(FlowLink<Flow, Datagram>);

impl Link {
    pub(crate) fn new(config: &LinkConfig, seed: u64, now: Instant) -> Self {
        Self(FlowLink::new(config, seed, now, |flow| flow == Flow::Setup))
    }

    pub(crate) fn send(&mut self, now: Instant, datagram: Datagram) {
        self.0.send(now, Flow::of(&datagram.payload), datagram.payload.len(), datagram);
    }

    /// When the next datagram arrives, or earlier.
    pub(crate) fn next_arrival(&self) -> Option<Instant> {
        self.0.next_at()
    }

    /// A datagram that has arrived by `now`.
    pub(crate) fn receive(&mut self, now: Instant) -> Option<Datagram> {
        self.0.poll(now).map(|delivery| delivery.payload)
    }
}
