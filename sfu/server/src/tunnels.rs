//! Ways to relays of this process: what clients send through them comes here without a socket, and goes back so.

use std::net::SocketAddr;

use crossbeam_channel::{Receiver, Sender};
use rustc_hash::FxHashMap;
use zynk_net::{Parcel, TunnelEnd};

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
    ends: Vec<TunnelEnd>,
    /// Clients by their relayed addresses, and which tunnel they are behind.
    clients: FxHashMap<SocketAddr, usize>,
}

impl Tunnels {
    pub(crate) fn new(new: Receiver<TunnelEnd>) -> Self {
        Self { new, ends: Vec::new(), clients: FxHashMap::default() }
    }

    /// Takes tunnels that were made since the last call.
    pub(crate) fn adopt(&mut self) {
        self.ends.extend(self.new.try_iter());
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The next parcel of a tunnel.
    pub(crate) fn recv(&mut self, tunnel: usize) -> Option<Parcel> {
        self.ends.get_mut(tunnel)?.recv()
    }

    /// Gives a parcel back.
    pub(crate) fn recycle(&mut self, tunnel: usize, parcel: Parcel) {
        if let Some(end) = self.ends.get_mut(tunnel) {
            end.recycle(parcel);
        }
    }

    /// A client has sent something through a tunnel.
    pub(crate) fn heard(&mut self, client: SocketAddr, tunnel: usize) {
        if self.clients.get(&client) == Some(&tunnel) {
            return;
        }
        if self.clients.len() >= CLIENTS_MAX {
            self.clients.clear();
        }
        self.clients.insert(client, tunnel);
    }

    /// The tunnel that a client is behind.
    pub(crate) fn to(&mut self, client: SocketAddr) -> Option<&mut TunnelEnd> {
        if self.clients.is_empty() {
            return None;
        }
        self.clients.get(&client).and_then(|tunnel| self.ends.get_mut(*tunnel))
    }

    /// Lets what was pushed leave.
    pub(crate) fn flush(&mut self) {
        self.ends.iter_mut().for_each(TunnelEnd::flush);
    }
}
