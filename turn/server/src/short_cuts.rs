//! Ways to services of this process that clients reach without a socket: the media of our own SFU.

use std::net::SocketAddr;
use std::sync::Arc;

use mio::Waker;
use zynk_net::{TunnelEnd, TunnelSet};

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

/// The tunnels of one worker, by the services' addresses.
pub(crate) fn tunnels(short_cuts: Vec<ShortCut>) -> TunnelSet {
    let mut tunnels = TunnelSet::default();
    for ShortCut { addresses, tunnel } in short_cuts {
        let index = tunnels.add(tunnel);
        addresses.into_iter().for_each(|address| tunnels.lead(address, index, usize::MAX));
    }
    tunnels
}
