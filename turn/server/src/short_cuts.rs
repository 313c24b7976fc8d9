//! Ways to services of this process that clients reach without a socket: the media of our own SFU.

use std::net::SocketAddr;
use std::sync::Arc;

use mio::Waker;
use rustc_hash::FxHashMap;
use zynk_net::{Parcel, TunnelEnd};

/// A service of this process: where clients believe it to be, and the way there.
#[derive(Debug)]
pub struct ShortCut {
    /// The addresses that it goes to.
    pub addresses: Vec<SocketAddr>,
    /// The way.
    pub tunnel: TunnelEnd,
}

/// Makes the short cuts of one worker, which the waker wakes.
pub type ConnectServices<'a> = dyn Fn(Arc<Waker>) -> Vec<ShortCut> + 'a;

/// The short cuts of one worker.
#[derive(Debug, Default)]
pub(crate) struct ShortCuts {
    tunnels: Vec<TunnelEnd>,
    by_address: FxHashMap<SocketAddr, usize>,
}

impl ShortCuts {
    pub(crate) fn new(made: Vec<ShortCut>) -> Self {
        let mut short_cuts = Self::default();
        for ShortCut { addresses, tunnel } in made {
            let index = short_cuts.tunnels.len();
            short_cuts.by_address.extend(addresses.into_iter().map(|address| (address, index)));
            short_cuts.tunnels.push(tunnel);
        }
        short_cuts
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.tunnels.len()
    }

    /// The way to a peer, if it is a service of this process.
    pub(crate) fn to(&mut self, peer: SocketAddr) -> Option<&mut TunnelEnd> {
        self.by_address.get(&peer).and_then(|index| self.tunnels.get_mut(*index))
    }

    /// The next parcel of a service.
    pub(crate) fn recv(&mut self, index: usize) -> Option<Parcel> {
        self.tunnels.get_mut(index)?.recv()
    }

    /// Gives a parcel back.
    pub(crate) fn recycle(&mut self, index: usize, parcel: Parcel) {
        if let Some(tunnel) = self.tunnels.get_mut(index) {
            tunnel.recycle(parcel);
        }
    }

    /// Lets what was pushed leave.
    pub(crate) fn flush(&mut self) {
        self.tunnels.iter_mut().for_each(TunnelEnd::flush);
    }

    /// Datagrams that were handed to services, and those that were dropped.
    pub(crate) fn stats(&self) -> (u64, u64) {
        self.tunnels
            .iter()
            .map(TunnelEnd::stats)
            .fold((0, 0), |(sent, dropped), stats| (sent + stats.datagrams_sent, dropped + stats.dropped))
    }
}
