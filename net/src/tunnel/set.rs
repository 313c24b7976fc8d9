//! The tunnels of one loop, and which of them leads where.

use std::net::SocketAddr;

use rustc_hash::FxHashMap;

use super::{Parcel, TunnelEnd, TunnelStats};

/// Ends of tunnels, by their indices in the order in which they came, and the addresses that are reached through them.
#[derive(Debug, Default)]
pub struct TunnelSet {
    ends: Vec<TunnelEnd>,
    ways: FxHashMap<SocketAddr, usize>,
}

impl TunnelSet {
    /// Adds a tunnel, and returns its index.
    pub fn add(&mut self, end: TunnelEnd) -> usize {
        self.ends.push(end);
        self.ends.len() - 1
    }

    /// How many tunnels there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// From now on an address is reached through a tunnel. With as many as `ways_max` addresses known, those are forgotten.
    pub fn lead(&mut self, address: SocketAddr, tunnel: usize, ways_max: usize) {
        if self.ways.get(&address) == Some(&tunnel) {
            return;
        }
        if self.ways.len() >= ways_max {
            self.ways.clear();
        }
        self.ways.insert(address, tunnel);
    }

    /// The tunnel through which an address is reached.
    pub fn to(&mut self, address: SocketAddr) -> Option<&mut TunnelEnd> {
        if self.ways.is_empty() {
            return None;
        }
        self.ways.get(&address).and_then(|tunnel| self.ends.get_mut(*tunnel))
    }

    /// The next parcel of a tunnel, see [`TunnelEnd::recv`].
    pub fn recv(&mut self, tunnel: usize) -> Option<Parcel> {
        self.ends.get_mut(tunnel)?.recv()
    }

    /// Gives a parcel back to its tunnel, see [`TunnelEnd::recycle`].
    pub fn recycle(&mut self, tunnel: usize, parcel: Parcel) {
        if let Some(end) = self.ends.get_mut(tunnel) {
            end.recycle(parcel);
        }
    }

    /// Lets leave what was pushed into any of them.
    pub fn flush(&mut self) {
        self.ends.iter_mut().for_each(TunnelEnd::flush);
    }

    /// What became of what was sent through all of them.
    pub fn stats(&self) -> TunnelStats {
        self.ends.iter().map(TunnelEnd::stats).fold(TunnelStats::default(), |sum, stats| TunnelStats {
            datagrams_sent: sum.datagrams_sent + stats.datagrams_sent,
            dropped: sum.dropped + stats.dropped,
        })
    }
}
