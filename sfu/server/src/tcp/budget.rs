//! How many connections there may be, in total and from one source.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
};

use crossbeam_channel::{Receiver, Sender};

/// Counts connections. Owned by the acceptor; permits come home through a channel when they are dropped on
/// a worker's thread. The channel needs no bound of its own: it never holds more than there were permits.
#[derive(Debug)]
pub(crate) struct ConnectionBudget {
    total_max: usize,
    per_source_max: usize,
    total: usize,
    per_source: HashMap<IpAddr, usize>,
    returned: Receiver<IpAddr>,
    home: Sender<IpAddr>,
}

/// The right to one connection.
#[derive(Debug)]
pub(crate) struct ConnectionPermit {
    source: IpAddr,
    home: Sender<IpAddr>,
}

/// What connections are counted by: an IPv4 address, or an IPv6 /64 network, which is what one subscriber
/// gets (RFC 6177).
pub(crate) fn source_key(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        ip => ip,
    }
}

impl ConnectionBudget {
    pub(crate) fn new(total_max: usize, per_source_max: usize) -> Self {
        let (home, returned) = crossbeam_channel::unbounded();
        Self { total_max, per_source_max, total: 0, per_source: HashMap::new(), returned, home }
    }

    /// A permit, unless all are taken.
    pub(crate) fn take(&mut self, ip: IpAddr) -> Option<ConnectionPermit> {
        self.collect();
        let source = source_key(ip);
        let taken = self.per_source.get(&source).copied().unwrap_or_default();
        if self.total >= self.total_max || taken >= self.per_source_max {
            return None;
        }
        self.total += 1;
        self.per_source.insert(source, taken + 1);
        Some(ConnectionPermit { source, home: self.home.clone() })
    }

    fn collect(&mut self) {
        while let Ok(source) = self.returned.try_recv() {
            self.total = self.total.saturating_sub(1);
            if let Some(taken) = self.per_source.get_mut(&source) {
                *taken = taken.saturating_sub(1);
                if *taken == 0 {
                    self.per_source.remove(&source);
                }
            }
        }
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        // Fails only when the acceptor has ended, and then nobody counts any more.
        let _ = self.home.send(self.source);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn permits_are_bounded_and_come_back() {
        let mut budget = ConnectionBudget::new(3, 2);
        let first = budget.take(ip("192.0.2.1")).unwrap();
        let _second = budget.take(ip("::ffff:192.0.2.1")).unwrap();
        assert!(budget.take(ip("192.0.2.1")).is_none(), "two from one source");
        let _third = budget.take(ip("192.0.2.2")).unwrap();
        assert!(budget.take(ip("192.0.2.3")).is_none(), "three in all");
        drop(first);
        let fourth = budget.take(ip("192.0.2.1")).unwrap();
        drop((_second, _third, fourth));
        budget.collect();
        assert_eq!((budget.total, budget.per_source.len()), (0, 0), "nothing is held for sources that left");
    }

    #[test]
    fn an_ipv6_network_is_one_source() {
        let mut budget = ConnectionBudget::new(10, 1);
        let _held = budget.take(ip("2001:db8:0:1::1")).unwrap();
        assert!(budget.take(ip("2001:db8:0:1:ffff::2")).is_none());
        assert!(budget.take(ip("2001:db8:0:2::1")).is_some());
    }
}
