//! One participant's UDP socket, and the arena that all of them are drained into.

use std::{
    io::{self, IoSliceMut},
    net::{IpAddr, SocketAddr, UdpSocket},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::Result;
use quinn_udp::{RecvMeta, UdpSocketState};

use super::relay::{RelayAccess, RelayedWay};

/// Octets of the receive buffer. A participant of a large meeting gets some 2,000 packets/s, each of which the
/// kernel charges with 2.3 kB, and is looked at every 10 ms; the rest is for when the thread has to wait.
const RECV_BUFFER_BYTES: usize = 4 << 20;
/// Messages of one read.
const MESSAGES: usize = 16;
/// What a train of datagrams may take.
const SLOT_BYTES: usize = 65_536;

/// A socket that the kernel marks arrivals for with their time.
#[derive(Debug)]
pub struct Socket {
    io: UdpSocket,
    state: UdpSocketState,
    local: SocketAddr,
    relay: Option<RelayedWay>,
}

impl Socket {
    /// On a free port of one of this machine's addresses; with a relay, all goes through that.
    ///
    /// # Errors
    /// When the kernel has none (there may be too many open files), or the relay refuses.
    pub fn bind(address: IpAddr, relay: Option<&RelayAccess>) -> Result<Self> {
        let io = UdpSocket::bind((address, 0))?;
        let options = socket2::SockRef::from(&io);
        let _ = options.set_recv_buffer_size(RECV_BUFFER_BYTES);
        if options.recv_buffer_size()? < RECV_BUFFER_BYTES {
            let _ = rustix::net::sockopt::set_socket_recv_buffer_size_force(&io, RECV_BUFFER_BYTES);
        }
        let relay = relay.map(|access| RelayedWay::open(&io, access)).transpose()?;
        let state = UdpSocketState::new((&io).into())?;
        let local = io.local_addr()?;
        Ok(Self { io, state, local, relay })
    }

    /// Its own address.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// The address that others know it by.
    pub fn known_as(&self) -> SocketAddr {
        self.relay.as_ref().map_or(self.local, |relay| relay.relayed)
    }

    /// Sends one datagram. What the kernel does not take is lost, as on a network.
    pub fn send(&self, destination: SocketAddr, datagram: &[u8]) {
        let relayed =
            self.relay.as_ref().and_then(|relay| Some((relay, relay.header(destination, datagram.len())?)));
        let _ = match relayed {
            Some((relay, header)) => self.io.send_to(&[&header, datagram].concat(), relay.server),
            None => self.io.send_to(datagram, destination),
        };
    }

    /// A second handle to the same socket, for another thread.
    ///
    /// # Errors
    /// When there are too many open files.
    pub fn duplicate(&self) -> io::Result<UdpSocket> {
        self.io.try_clone()
    }
}

/// What one read brought.
pub struct Arena {
    octets: Vec<u8>,
    metas: [RecvMeta; MESSAGES],
    clock: Clock,
}

impl Arena {
    /// An empty one.
    pub fn new(clock: Clock) -> Self {
        Self { octets: vec![0; SLOT_BYTES * MESSAGES], metas: [RecvMeta::default(); MESSAGES], clock }
    }

    /// Reads what waits in the socket and hands each datagram to `handle`, with its source and when the kernel
    /// had it. Says whether more may wait.
    pub fn recv(&mut self, socket: &Socket, mut handle: impl FnMut(Received<'_>)) -> bool {
        let mut slots = self.octets.chunks_exact_mut(SLOT_BYTES);
        let mut buffers: [IoSliceMut<'_>; MESSAGES] =
            std::array::from_fn(|_| IoSliceMut::new(slots.next().unwrap_or_default()));
        // Errors of earlier sends (ECONNREFUSED) come here too; there is nothing to be done about them.
        let Ok(messages) = socket.state.recv((&socket.io).into(), &mut buffers, &mut self.metas) else {
            return false;
        };
        let slots = self.octets.chunks_exact_mut(SLOT_BYTES);
        for (meta, slot) in self.metas.iter().take(messages).zip(slots) {
            let unix = meta.timestamp.unwrap_or_else(unix_now);
            let at = self.clock.instant(unix);
            let Some(train) = slot.get_mut(..meta.len) else { continue };
            for datagram in train.chunks_mut(meta.stride.max(1)) {
                match socket.relay.as_ref().filter(|relay| relay.server == meta.addr) {
                    None => handle(Received { source: meta.addr, unix, at, datagram }),
                    Some(relay) => {
                        if let Some((source, datagram)) = relay.open_message(datagram) {
                            handle(Received { source, unix, at, datagram });
                        }
                    }
                }
            }
        }
        messages == MESSAGES
    }
}

/// One datagram.
#[derive(Debug)]
pub struct Received<'a> {
    /// Who sent it.
    pub source: SocketAddr,
    /// When the kernel had it, since Unix's epoch.
    pub unix: Duration,
    /// The same moment on the monotonic clock.
    pub at: Instant,
    /// What it says, to be decrypted in place.
    pub datagram: &'a mut [u8],
}

/// Ties the kernel's timestamps to the monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    instant: Instant,
    unix: Duration,
}

impl Clock {
    /// Both clocks, now.
    pub fn now() -> Self {
        Self { instant: Instant::now(), unix: unix_now() }
    }

    fn instant(&self, unix: Duration) -> Instant {
        match unix.checked_sub(self.unix) {
            Some(later) => self.instant + later,
            None => self.instant,
        }
    }
}

/// Time since Unix's epoch.
pub fn unix_now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
