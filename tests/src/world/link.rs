//! A client's network link.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use zynk_netlab::{FlowLink, LinkStats, Loss};

/// How bad a link is; what changes over time counts from when the client joins. Signaling loses nothing, and is delayed
/// in both directions as the uplink delays at first.
#[derive(Clone, Debug, PartialEq)]
pub struct LinkConfig {
    /// From the client to the server.
    pub uplink: zynk_netlab::LinkConfig,
    /// From the server to the client.
    pub downlink: zynk_netlab::LinkConfig,
}

impl LinkConfig {
    /// Loses nothing and takes a millisecond.
    pub fn ideal() -> Self {
        Self::symmetric(zynk_netlab::LinkConfig::delayed(Duration::from_millis(1)))
    }

    /// Loses a share of the datagrams and takes some time, in each direction.
    pub fn lossy(loss: f64, delay: Duration) -> Self {
        let loss = Loss::uniform(loss);
        Self::symmetric(zynk_netlab::LinkConfig { loss, ..zynk_netlab::LinkConfig::delayed(delay) })
    }

    /// The same in both directions.
    pub fn symmetric(link: zynk_netlab::LinkConfig) -> Self {
        Self { uplink: link.clone(), downlink: link }
    }
}

/// A datagram under way.
#[derive(Clone, Debug)]
pub(super) struct Datagram {
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    pub(super) payload: Vec<u8>,
}

/// What a datagram belongs to.
///
/// Each flow draws random numbers of its own. What happens to a flow then does not depend on the order in which
/// datagrams of different flows leave at the same instant, which str0m's hash maps leave open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Flow {
    Stun,
    /// DTLS records of the handshake. They are never lost: retransmission is timed by a generator of the
    /// DTLS library that no seed reaches, and two runs would differ.
    Handshake,
    /// DTLS records of the data channels.
    Data,
    Rtcp,
    Rtp {
        ssrc: u32,
    },
}

impl Flow {
    /// By the first bytes (RFC 7983; RFC 5761, section 4; RFC 6347, section 4.1).
    fn of(datagram: &[u8]) -> Self {
        match (datagram[0], datagram.get(1)) {
            (0..=3, _) => Self::Stun,
            (128..=191, Some(192..=223)) => Self::Rtcp,
            (128..=191, _) => Self::Rtp { ssrc: u32::from_be_bytes(datagram[8..12].try_into().unwrap()) },
            (23, _) => Self::Data,
            _ => Self::Handshake,
        }
    }
}

/// One direction.
pub(super) struct Link(FlowLink<(SocketAddr, Flow), Datagram>);

impl Link {
    pub(super) fn new(config: &zynk_netlab::LinkConfig, seed: u64, now: Instant) -> Self {
        Self(FlowLink::new(config, seed, now, |(_, flow)| flow == Flow::Handshake))
    }

    pub(super) fn send(&mut self, now: Instant, datagram: Datagram) {
        let flow = (datagram.destination, Flow::of(&datagram.payload));
        self.0.send(now, flow, datagram.payload.len(), datagram);
    }

    pub(super) fn stats(&self) -> LinkStats {
        self.0.stats()
    }

    /// When the next datagram arrives, or earlier.
    pub(super) fn next_arrival(&self) -> Option<Instant> {
        self.0.next_at()
    }

    /// A datagram that has arrived by `now`.
    pub(super) fn receive(&mut self, now: Instant) -> Option<Datagram> {
        self.0.poll(now).map(|delivery| delivery.payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram(seq: u8, ssrc: u8) -> Datagram {
        let payload = vec![0x80, 96, 0, seq, 0, 0, 0, 0, 0, 0, 0, ssrc];
        let address = "10.0.0.1:1".parse().unwrap();
        Datagram { source: address, destination: address, payload }
    }

    fn survivors(link: &mut Link, start: Instant, order: &[(u8, u8)]) -> Vec<Vec<u8>> {
        for (seq, ssrc) in order {
            link.send(start, datagram(*seq, *ssrc));
        }
        let late = start + Duration::from_secs(1);
        let mut survivors: Vec<_> =
            std::iter::from_fn(|| link.receive(late)).map(|datagram| datagram.payload).collect();
        survivors.sort();
        survivors
    }

    #[test]
    fn datagrams_take_their_time() {
        let start = Instant::now();
        let config = zynk_netlab::LinkConfig::delayed(Duration::from_millis(50));
        let mut link = Link::new(&config, 1, start);
        link.send(start, datagram(1, 1));
        assert_eq!(link.next_arrival(), Some(start + Duration::from_millis(50)));
        assert!(link.receive(start + Duration::from_millis(49)).is_none());
        assert!(link.receive(start + Duration::from_millis(50)).is_some());
        assert_eq!(link.next_arrival(), None);
    }

    #[test]
    fn the_order_of_flows_does_not_change_what_is_lost() {
        let start = Instant::now();
        let config = LinkConfig::lossy(0.3, Duration::from_millis(5)).uplink;
        let by_flow: Vec<_> = (1..=2).flat_map(|ssrc| (0..100).map(move |seq| (seq, ssrc))).collect();
        let by_time: Vec<_> = (0..100).flat_map(|seq| (1..=2).map(move |ssrc| (seq, ssrc))).collect();
        let first = survivors(&mut Link::new(&config, 9, start), start, &by_flow);
        assert_eq!(first, survivors(&mut Link::new(&config, 9, start), start, &by_time));
        assert_ne!(first, survivors(&mut Link::new(&config, 10, start), start, &by_flow));
        assert!((100..180).contains(&first.len()), "{}", first.len());
    }
}
