//! One direction of a client's network link.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    net::SocketAddr,
    time::{Duration, Instant},
};

use str0m_netem::{Input, Netem, NetemConfig, Output, Probability, RandomLoss};

/// How bad a link is, in each direction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinkConfig {
    /// Share of datagrams that are lost, 0 to 1. Signaling does not lose anything.
    pub loss: f32,
    /// One-way delay.
    pub delay: Duration,
    /// Largest deviation from the delay.
    pub jitter: Duration,
}

impl LinkConfig {
    /// Loses nothing and takes a millisecond.
    pub fn ideal() -> Self {
        Self { loss: 0.0, delay: Duration::from_millis(1), jitter: Duration::ZERO }
    }

    /// Loses a share of the datagrams and takes some time.
    pub fn lossy(loss: f32, delay: Duration) -> Self {
        Self { loss, delay, jitter: Duration::ZERO }
    }
}

/// A datagram under way.
#[derive(Clone, Debug)]
pub(super) struct Datagram {
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    pub(super) payload: Vec<u8>,
}

impl AsRef<[u8]> for Datagram {
    fn as_ref(&self) -> &[u8] {
        &self.payload
    }
}

/// What a datagram belongs to.
///
/// Each flow has an emulator of its own. What happens to a flow then does not depend on the order in which
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

pub(super) struct Link {
    config: LinkConfig,
    seed: u64,
    flows: BTreeMap<(SocketAddr, Flow), Netem<Datagram>>,
}

impl Link {
    pub(super) fn new(config: LinkConfig, seed: u64) -> Self {
        Self { config, seed, flows: BTreeMap::new() }
    }

    pub(super) fn send(&mut self, now: Instant, datagram: Datagram) {
        let flow = (datagram.destination, Flow::of(&datagram.payload));
        let netem = self.flows.entry(flow).or_insert_with(|| {
            let mut hasher = DefaultHasher::new();
            (self.seed, flow).hash(&mut hasher);
            let loss = if flow.1 == Flow::Handshake { 0.0 } else { self.config.loss };
            let config = NetemConfig::new()
                .latency(self.config.delay)
                .jitter(self.config.jitter)
                .loss(RandomLoss::new(Probability::new(loss)))
                .seed(hasher.finish());
            Netem::new(config)
        });
        netem.handle_input(Input::Packet(now, datagram));
    }

    /// When the next datagram arrives.
    pub(super) fn next_arrival(&self) -> Option<Instant> {
        let busy = self.flows.values().filter(|netem| !netem.is_empty());
        busy.map(Netem::poll_timeout).min()
    }

    /// A datagram that has arrived by `now`.
    pub(super) fn receive(&mut self, now: Instant) -> Option<Datagram> {
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
        let mut link = Link::new(LinkConfig::lossy(0.0, Duration::from_millis(50)), 1);
        link.send(start, datagram(1, 1));
        assert_eq!(link.next_arrival(), Some(start + Duration::from_millis(50)));
        assert!(link.receive(start + Duration::from_millis(49)).is_none());
        assert!(link.receive(start + Duration::from_millis(50)).is_some());
        assert_eq!(link.next_arrival(), None);
    }

    #[test]
    fn the_order_of_flows_does_not_change_what_is_lost() {
        let start = Instant::now();
        let config = LinkConfig::lossy(0.3, Duration::from_millis(5));
        let by_flow: Vec<_> = (1..=2).flat_map(|ssrc| (0..100).map(move |seq| (seq, ssrc))).collect();
        let by_time: Vec<_> = (0..100).flat_map(|seq| (1..=2).map(move |ssrc| (seq, ssrc))).collect();
        let first = survivors(&mut Link::new(config, 9), start, &by_flow);
        assert_eq!(first, survivors(&mut Link::new(config, 9), start, &by_time));
        assert_ne!(first, survivors(&mut Link::new(config, 10), start, &by_flow));
        assert!((100..180).contains(&first.len()), "{}", first.len());
    }
}
