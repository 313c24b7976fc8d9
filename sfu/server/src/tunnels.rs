//! Ways to relays of this process: what clients send through them comes here without a socket, and goes back so.

use std::net::SocketAddr;

use crossbeam_channel::{Receiver, Sender};
use zynk_net::{TunnelEnd, TunnelSet};

/// Tunnels that wait to be taken: one for each worker of a relay.
pub(crate) const TUNNELS_MAX: usize = 64;

/// Clients behind tunnels that are remembered. When there are more, all are forgotten: who is sent something before it has
/// sent something again gets it through its relay's socket.
const CLIENTS_MAX: usize = 65_536;

/// A worker's door for tunnels.
pub(crate) type TunnelSender = Sender<TunnelEnd>;

/// The tunnels of one worker.
#[derive(Debug)]
pub(crate) struct Tunnels {
    new: Receiver<TunnelEnd>,
    /// With clients by their relayed addresses.
    pub(crate) set: TunnelSet,
}

impl Tunnels {
    pub(crate) fn new(new: Receiver<TunnelEnd>) -> Self {
        Self { new, set: TunnelSet::default() }
    }

    /// Takes tunnels that were made since the last call.
    pub(crate) fn adopt(&mut self) {
        for end in self.new.try_iter() {
            self.set.add(end);
        }
    }

    /// A client has sent something through a tunnel.
    pub(crate) fn heard(&mut self, client: SocketAddr, tunnel: usize) {
        self.set.lead(client, tunnel, CLIENTS_MAX);
    }
}
