//! Which connection a datagram belongs to.
//!
//! ```text
//!   datagram ── first byte (RFC 7983) ─┬─ STUN ─► ufrag ─► connection ─► integrity holds? ─► learn address
//!                                      └─ DTLS, RTP, RTCP ─► learned address ─► connection
//! ```
//!
//! An address is learned only from a STUN message that proves knowledge of the ICE password. That proves who
//! wrote the message, not from where: source addresses can be forged. So an address in use stays with its
//! connection, whatever other connections claim.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use rand::{Rng, RngExt};
use rustc_hash::FxHashMap;

use crate::{ShardIndex, Transport, connection::Credentials};

/// Addresses that one connection may be reached at; the oldest is forgotten when a client shows more.
const ADDRESSES_PER_CONNECTION_MAX: usize = 16;
/// How long an address stays with its connection after the last authenticated STUN message from there: as
/// long as consent to send lasts (RFC 7675, section 5.1).
pub(crate) const ADDRESS_HELD: Duration = Duration::from_secs(30);
/// Length of our user fragments: shard (2), then a random part that is hard to guess.
const UFRAG_CHARS: usize = 18;
/// Length of our ICE passwords; RFC 8445 wants at least 128 bits, here 24 × log2(62) = 142.
const PASSWORD_CHARS: usize = 24;
/// STUN magic cookie (RFC 8489, section 5).
const MAGIC_COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
/// STUN attribute USERNAME (RFC 8489, section 14.3).
const USERNAME: u16 = 0x0006;
/// STUN attribute MESSAGE-INTEGRITY (RFC 8489, section 14.5).
const MESSAGE_INTEGRITY: u16 = 0x0008;
/// STUN attribute PRIORITY (RFC 8445, section 7.1.1).
const PRIORITY: u16 = 0x0024;
/// STUN attribute USE-CANDIDATE (RFC 8445, section 7.1.2).
const USE_CANDIDATE: u16 = 0x0025;

/// Kinds of datagrams on a media port, told apart by their first byte (RFC 7983).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DatagramKind {
    Stun,
    Dtls,
    /// RTP or RTCP.
    Media,
    /// Nothing that belongs here.
    Unknown,
}

impl DatagramKind {
    pub(crate) fn of(datagram: &[u8]) -> Self {
        match datagram.first() {
            Some(0..=3) => Self::Stun,
            Some(20..=63) => Self::Dtls,
            Some(128..=191) => Self::Media,
            _ => Self::Unknown,
        }
    }
}

/// Draws ICE credentials whose user fragment names the shard.
pub(crate) fn draw_credentials(random: &mut impl Rng, shard: ShardIndex) -> Credentials {
    const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut text = |length: usize| -> String {
        (0..length)
            .map(|_| {
                let digit = random.random_range(0..ALPHABET.len());
                char::from(ALPHABET.get(digit).copied().unwrap_or(b'0'))
            })
            .collect()
    };
    Credentials { ufrag: format!("{:02x}{}", shard.0, text(UFRAG_CHARS - 2)), password: text(PASSWORD_CHARS) }
}

/// Which shard of this node a first datagram belongs to: the number in the user fragment of an ICE binding
/// request (RFC 8445, section 7.2.2). Nothing is authenticated here; the shard does that.
pub fn shard_of(datagram: &[u8]) -> Option<ShardIndex> {
    let ufrag = local_ufrag(datagram)?;
    u8::from_str_radix(ufrag.get(..2)?, 16).ok().map(ShardIndex)
}

/// The part of a STUN message's USERNAME before the colon: the user fragment of whom it is for.
pub(crate) fn local_ufrag(datagram: &[u8]) -> Option<&str> {
    let (_, value) = attributes(datagram)?.find(|(kind, _)| *kind == USERNAME)?;
    std::str::from_utf8(value).ok()?.split_once(':').map(|(local, _)| local)
}

/// The priority of the path that a binding request nominates (RFC 8445, section 7.1); none if it nominates none.
pub(crate) fn nomination(datagram: &[u8]) -> Option<u32> {
    let mut nominates = false;
    let mut priority = 0;
    for (kind, value) in attributes(datagram)? {
        match kind {
            USE_CANDIDATE => nominates = true,
            PRIORITY => priority = u32::from_be_bytes(*value.first_chunk()?),
            _ => {}
        }
    }
    nominates.then_some(priority)
}

/// The attributes of a STUN message that its integrity covers (RFC 8489, section 14.5: others are to be ignored);
/// ends at the first that reaches beyond the message.
fn attributes(datagram: &[u8]) -> Option<impl Iterator<Item = (u16, &[u8])>> {
    let header = datagram.get(..20)?;
    if header.get(4..8)? != MAGIC_COOKIE {
        return None;
    }
    let length = usize::from(u16::from_be_bytes([*header.get(2)?, *header.get(3)?]));
    let mut rest = datagram.get(20..20 + length)?;
    Some(std::iter::from_fn(move || {
        let [kind_high, kind_low, length_high, length_low, after @ ..] = rest else { return None };
        let length = usize::from(u16::from_be_bytes([*length_high, *length_low]));
        let value = after.get(..length)?;
        rest = after.get(length.next_multiple_of(4)..).unwrap_or_default();
        let kind = u16::from_be_bytes([*kind_high, *kind_low]);
        (kind != MESSAGE_INTEGRITY).then_some((kind, value))
    }))
}

/// Routes of all connections of a shard. `K` names a connection.
#[derive(Debug)]
pub(crate) struct Demux<K> {
    ufrags: FxHashMap<String, K>,
    addresses: FxHashMap<(Transport, SocketAddr), Owner<K>>,
    by_key: FxHashMap<K, Routes>,
}

/// Whose an address is, and when authenticated STUN last came from it.
#[derive(Clone, Copy, Debug)]
struct Owner<K> {
    key: K,
    heard_at: Instant,
}

#[derive(Debug, Default)]
struct Routes {
    ufrags: Vec<String>,
    addresses: Vec<(Transport, SocketAddr)>,
}

impl<K: Copy + Eq + std::hash::Hash> Demux<K> {
    pub(crate) fn new() -> Self {
        Self { ufrags: FxHashMap::default(), addresses: FxHashMap::default(), by_key: FxHashMap::default() }
    }

    /// Lets STUN messages for `ufrag` reach a connection. A restart of ICE adds one; the last two are kept.
    pub(crate) fn add_ufrag(&mut self, ufrag: &str, key: K) {
        let routes = self.by_key.entry(key).or_default();
        if routes.ufrags.iter().any(|known| known == ufrag) {
            return;
        }
        if routes.ufrags.len() == 2 {
            let oldest = routes.ufrags.remove(0);
            self.ufrags.remove(&oldest);
        }
        routes.ufrags.push(ufrag.to_owned());
        self.ufrags.insert(ufrag.to_owned(), key);
    }

    /// Learns an address from which somebody who knows the connection's password wrote, or notes that it is
    /// still in use. False if it stays with another connection: `holds` tells whether one of those is up.
    pub(crate) fn add_address(
        &mut self,
        now: Instant,
        transport: Transport,
        address: SocketAddr,
        key: K,
        holds: impl FnOnce(K) -> bool,
    ) -> bool {
        if let Some(owner) = self.addresses.get(&(transport, address))
            && owner.key != key
            && now.saturating_duration_since(owner.heard_at) < ADDRESS_HELD
            && holds(owner.key)
        {
            return false;
        }
        match self.addresses.insert((transport, address), Owner { key, heard_at: now }) {
            Some(previous) if previous.key == key => return true,
            Some(previous) => {
                if let Some(routes) = self.by_key.get_mut(&previous.key) {
                    routes.addresses.retain(|known| *known != (transport, address));
                }
            }
            None => {}
        }
        let routes = self.by_key.entry(key).or_default();
        routes.addresses.push((transport, address));
        if routes.addresses.len() > ADDRESSES_PER_CONNECTION_MAX {
            let oldest = routes.addresses.remove(0);
            self.addresses.remove(&oldest);
        }
        true
    }

    pub(crate) fn by_address(&self, transport: Transport, address: SocketAddr) -> Option<K> {
        self.addresses.get(&(transport, address)).map(|owner| owner.key)
    }

    pub(crate) fn by_ufrag(&self, ufrag: &str) -> Option<K> {
        self.ufrags.get(ufrag).copied()
    }

    pub(crate) fn remove_address(&mut self, transport: Transport, address: SocketAddr) {
        if let Some(owner) = self.addresses.remove(&(transport, address))
            && let Some(routes) = self.by_key.get_mut(&owner.key)
        {
            routes.addresses.retain(|known| *known != (transport, address));
        }
    }

    #[cfg(feature = "test-keys")]
    pub(crate) fn is_empty(&self) -> bool {
        self.ufrags.is_empty() && self.addresses.is_empty() && self.by_key.is_empty()
    }

    /// Forgets a connection.
    pub(crate) fn remove(&mut self, key: K) {
        let Some(routes) = self.by_key.remove(&key) else { return };
        for ufrag in routes.ufrags {
            self.ufrags.remove(&ufrag);
        }
        for address in routes.addresses {
            self.addresses.remove(&address);
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_pcg::Pcg64Mcg;

    use super::*;

    fn binding_request(username: &str) -> Vec<u8> {
        let mut message = vec![0, 1, 0, 0];
        message.extend_from_slice(&MAGIC_COOKIE);
        message.extend_from_slice(&[7; 12]);
        // An attribute before it, with padding.
        message.extend_from_slice(&[0x80, 0x22, 0, 3, b'a', b'b', b'c', 0]);
        message.extend_from_slice(&USERNAME.to_be_bytes());
        message.extend_from_slice(&u16::try_from(username.len()).unwrap().to_be_bytes());
        message.extend_from_slice(username.as_bytes());
        message.resize(message.len().next_multiple_of(4), 0);
        let length = u16::try_from(message.len() - 20).unwrap().to_be_bytes();
        message[2..4].copy_from_slice(&length);
        message
    }

    #[test]
    fn user_fragments_name_their_shard() {
        let mut random = Pcg64Mcg::seed_from_u64(1);
        let credentials = draw_credentials(&mut random, ShardIndex(0xab));
        let request = binding_request(&format!("{}:remote", credentials.ufrag));
        assert_eq!(shard_of(&request), Some(ShardIndex(0xab)));
        assert_eq!(local_ufrag(&request), Some(credentials.ufrag.as_str()));
        assert!(credentials.password.len() >= 22);
    }

    #[test]
    fn malformed_stun_names_nobody() {
        let request = binding_request("00abc:def");
        for length in 0..request.len() {
            assert_eq!(shard_of(&request[..length]), None, "cut to {length} bytes");
        }
        let mut long = request.clone();
        long[30] = 0xff; // the attribute's length now reaches beyond the message
        long[31] = 0xff;
        assert_eq!(shard_of(&long), None);
    }

    fn start() -> Instant {
        #[expect(clippy::disallowed_methods, reason = "any instant will do")]
        Instant::now()
    }

    #[test]
    fn an_address_in_use_stays_with_its_connection() {
        let mut demux = Demux::new();
        let address = SocketAddr::from(([127, 0, 0, 1], 5000));
        let mut now = start();
        let owner = |demux: &Demux<u32>| demux.by_address(Transport::Udp, address);
        assert!(demux.add_address(now, Transport::Udp, address, 1, |_| true));
        for _ in 0..10 {
            now += ADDRESS_HELD / 2;
            assert!(!demux.add_address(now, Transport::Udp, address, 2, |key| key == 1), "1 is up and heard");
            assert!(demux.add_address(now, Transport::Udp, address, 1, |_| true));
            assert_eq!(owner(&demux), Some(1));
        }
        assert!(demux.add_address(now, Transport::Udp, address, 2, |_| false), "1 has gone down");
        assert_eq!(owner(&demux), Some(2));
        now += ADDRESS_HELD;
        assert!(
            demux.add_address(now, Transport::Udp, address, 3, |_| true),
            "2 has not been heard for long"
        );
        assert_eq!(owner(&demux), Some(3));
    }

    #[test]
    fn addresses_of_a_connection_are_bounded_and_forgotten_with_it() {
        let mut demux = Demux::new();
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let now = start();
        demux.add_ufrag("u", 1_u32);
        for port in 1..=100 {
            assert!(demux.add_address(now, Transport::Udp, address(port), 1, |_| true));
        }
        assert_eq!(demux.addresses.len(), ADDRESSES_PER_CONNECTION_MAX);
        assert_eq!(demux.by_address(Transport::Udp, address(100)), Some(1));
        assert_eq!(demux.by_address(Transport::Udp, address(1)), None);
        assert_eq!(demux.by_address(Transport::Tcp, address(100)), None);
        assert!(demux.add_address(now, Transport::Udp, address(100), 2, |_| false));
        assert_eq!(demux.by_address(Transport::Udp, address(100)), Some(2));
        demux.remove(1);
        assert_eq!(demux.by_ufrag("u"), None);
        assert_eq!(demux.addresses.len(), 1);
    }
}
