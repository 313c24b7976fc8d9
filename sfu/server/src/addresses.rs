//! Which of our addresses clients know, and how they relate to those that the kernel knows.
//!
//! ```text
//!   client ──► 203.0.113.5:7882 ──(1:1 NAT)──► 10.0.0.5:7882      what the kernel says a datagram was sent to
//!              what the candidate says: the core works with this one
//! ```

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The announced addresses of one socket.
#[derive(Clone, Debug)]
pub(crate) struct AddressMap {
    /// Never empty.
    announced: Vec<IpAddr>,
    port: u16,
    /// Whether the socket is bound to all addresses, so that a source must be chosen when sending.
    wildcard: bool,
    /// For an announced address, the local one at which datagrams for it arrive. One entry an announced
    /// address at most.
    seen: Vec<(IpAddr, IpAddr)>,
}

impl AddressMap {
    /// `announced` must not be empty; `bound` is the socket's own address.
    pub(crate) fn new(announced: Vec<IpAddr>, bound: SocketAddr) -> Self {
        debug_assert!(!announced.is_empty());
        Self { announced, port: bound.port(), wildcard: bound.ip().is_unspecified(), seen: Vec::new() }
    }

    /// All candidates' addresses.
    pub(crate) fn candidates(&self) -> Vec<SocketAddr> {
        self.announced.iter().map(|ip| SocketAddr::new(*ip, self.port)).collect()
    }

    /// The announced address that a client used whose bytes arrived at `local` (none if the kernel did not
    /// say). Remembers the pair for [`AddressMap::source_ip`].
    pub(crate) fn announced(&mut self, local: Option<IpAddr>) -> SocketAddr {
        let ip = match local {
            Some(local) => {
                let announced = self.announced_for(local);
                match self.seen.iter_mut().find(|(known, _)| *known == announced) {
                    // An announced address that is our own never comes to stand for another.
                    Some((known, seen)) if *known != *seen => *seen = local,
                    Some(_) => {}
                    None => self.seen.push((announced, local)),
                }
                announced
            }
            None => self.first(|_| true),
        };
        SocketAddr::new(ip, self.port)
    }

    /// The local address from which to send what the core sends from `announced`. None lets the kernel choose.
    pub(crate) fn source_ip(&self, announced: IpAddr) -> Option<IpAddr> {
        if !self.wildcard {
            return None;
        }
        self.seen.iter().find(|(known, _)| *known == announced).map(|(_, local)| *local)
    }

    fn announced_for(&self, local: IpAddr) -> IpAddr {
        if self.announced.contains(&local) {
            return local;
        }
        self.first(|ip| ip.is_ipv4() == local.is_ipv4() && ip.is_loopback() == local.is_loopback())
    }

    /// The first announced address that fits, or else the first.
    fn first(&self, fits: impl Fn(&IpAddr) -> bool) -> IpAddr {
        let fitting = self.announced.iter().find(|ip| fits(ip)).or(self.announced.first());
        fitting.copied().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn map(announced: &[&str], bound: &str) -> AddressMap {
        AddressMap::new(announced.iter().map(|text| ip(text)).collect(), bound.parse().unwrap())
    }

    #[test]
    fn an_announced_address_stands_for_itself() {
        let mut map = map(&["127.0.0.1", "198.51.100.7"], "0.0.0.0:7882");
        assert_eq!(map.announced(Some(ip("198.51.100.7"))), "198.51.100.7:7882".parse().unwrap());
        assert_eq!(map.source_ip(ip("198.51.100.7")), Some(ip("198.51.100.7")));
        assert_eq!(map.source_ip(ip("127.0.0.1")), None, "nothing has arrived there yet");
        assert_eq!(map.candidates().len(), 2);
    }

    #[test]
    fn behind_a_nat_the_local_address_stands_for_the_announced_one() {
        let mut map = map(&["127.0.0.1", "203.0.113.5"], "0.0.0.0:7882");
        assert_eq!(map.announced(Some(ip("10.0.0.5"))), "203.0.113.5:7882".parse().unwrap());
        assert_eq!(map.source_ip(ip("203.0.113.5")), Some(ip("10.0.0.5")));
        assert_eq!(map.announced(Some(ip("10.0.0.6"))).ip(), ip("203.0.113.5"));
        assert_eq!(map.source_ip(ip("203.0.113.5")), Some(ip("10.0.0.6")), "the address moved");
        assert_eq!(map.seen.len(), 1);
    }

    #[test]
    fn families_are_kept_apart() {
        let mut map = map(&["203.0.113.5", "2001:db8::5"], "[::]:7882");
        assert_eq!(map.announced(Some(ip("fd00::1"))).ip(), ip("2001:db8::5"));
        assert_eq!(map.announced(None).ip(), ip("203.0.113.5"));
    }

    #[test]
    fn a_socket_bound_to_one_address_needs_no_source() {
        let mut map = map(&["203.0.113.5"], "10.0.0.5:7882");
        map.announced(Some(ip("10.0.0.5")));
        assert_eq!(map.source_ip(ip("203.0.113.5")), None);
    }
}
