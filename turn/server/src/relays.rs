//! The sockets of relayed addresses.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use mio::{Interest, Registry};
use socket2::{Domain, Protocol, Socket, Type};
use zynk_net::{SendBatch, SendStats, SocketOptions, UdpSocket};
use zynk_turn_core::{RelayKey, RelayProtocol};

use crate::tokens::{self, Kind};

/// Buffers of a relay's socket: half a second of video.
const SOCKET_BUFFER_BYTES: usize = 512 * 1024;

/// Connections that wait at a relay for being accepted.
const LISTEN_BACKLOG: i32 = 16;

/// All relays of one worker, by their keys.
#[derive(Debug, Default)]
pub(crate) struct Relays {
    entries: Vec<Option<Relay>>,
    /// Relays with something to read.
    readable: Vec<RelayKey>,
    /// Relays whose sends wait for the kernel.
    blocked: Vec<RelayKey>,
    /// What relays that are closed have sent.
    past: SendStats,
}

#[derive(Debug)]
pub(crate) struct Relay {
    pub(crate) socket: RelaySocket,
    is_readable: bool,
}

#[derive(Debug)]
pub(crate) enum RelaySocket {
    Udp(Box<UdpRelay>),
    Tcp { listener: mio::net::TcpListener, address: SocketAddr },
}

#[derive(Debug)]
pub(crate) struct UdpRelay {
    pub(crate) socket: UdpSocket,
    sending: SendBatch,
    /// How the socket sends what is larger than the path takes.
    fragments: bool,
}

impl Relays {
    /// Opens a relay's socket.
    pub(crate) fn open(
        &mut self,
        registry: &Registry,
        key: RelayKey,
        address: SocketAddr,
        protocol: RelayProtocol,
    ) -> io::Result<()> {
        let token = tokens::token(Kind::Relay, key.0 as usize);
        let socket = match protocol {
            RelayProtocol::Udp => {
                let options = SocketOptions {
                    recv_buffer_bytes: SOCKET_BUFFER_BYTES,
                    send_buffer_bytes: SOCKET_BUFFER_BYTES,
                    reuse_port: false,
                };
                let mut socket = UdpSocket::bind(address, options).map_err(io::Error::other)?;
                // Peers get what clients send, in pieces if it must be.
                let fragments = socket.set_fragmentation(true).is_ok();
                registry.register(&mut socket, token, Interest::READABLE)?;
                RelaySocket::Udp(Box::new(UdpRelay { socket, sending: SendBatch::new(), fragments }))
            }
            RelayProtocol::Tcp => {
                let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
                // Connections to peers leave from the same address.
                socket.set_reuse_address(true)?;
                socket.set_reuse_port(true)?;
                socket.set_nonblocking(true)?;
                socket.bind(&address.into())?;
                socket.listen(LISTEN_BACKLOG)?;
                let mut listener = mio::net::TcpListener::from_std(socket.into());
                registry.register(&mut listener, token, Interest::READABLE)?;
                RelaySocket::Tcp { listener, address }
            }
        };
        let at = key.0 as usize;
        if self.entries.len() <= at {
            self.entries.resize_with(at + 1, || None);
        }
        if let Some(entry) = self.entries.get_mut(at) {
            *entry = Some(Relay { socket, is_readable: false });
        }
        // What came between the bind and the registration is not reported.
        self.mark_readable(key);
        Ok(())
    }

    /// Closes a relay's socket.
    pub(crate) fn close(&mut self, key: RelayKey) {
        let Some(entry) = self.entries.get_mut(key.0 as usize) else { return };
        if let Some(Relay { socket: RelaySocket::Udp(relay), .. }) = entry.take() {
            add(&mut self.past, &relay.sending.stats());
        }
        self.readable.retain(|known| *known != key);
        self.blocked.retain(|known| *known != key);
    }

    pub(crate) fn get(&self, key: RelayKey) -> Option<&Relay> {
        self.entries.get(key.0 as usize)?.as_ref()
    }

    pub(crate) fn mark_readable(&mut self, key: RelayKey) {
        if let Some(Some(relay)) = self.entries.get_mut(key.0 as usize)
            && !relay.is_readable
        {
            relay.is_readable = true;
            self.readable.push(key);
        }
    }

    /// Whether a turn left something to read.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.readable.is_empty()
    }

    /// The relays with something to read; who reads not all marks them again.
    pub(crate) fn take_readable(&mut self) -> Vec<RelayKey> {
        let keys = std::mem::take(&mut self.readable);
        for key in &keys {
            if let Some(Some(relay)) = self.entries.get_mut(key.0 as usize) {
                relay.is_readable = false;
            }
        }
        keys
    }

    /// Gives back the list that [`Relays::take_readable`] gave, to be used again.
    pub(crate) fn recycle(&mut self, mut keys: Vec<RelayKey>) {
        if self.readable.is_empty() {
            keys.clear();
            self.readable = keys;
        }
    }

    /// Sends a run of datagrams from a relay.
    pub(crate) fn send(
        &mut self,
        registry: &Registry,
        key: RelayKey,
        peer: SocketAddr,
        run: (&[u8], usize),
        dont_fragment: bool,
        now: Instant,
    ) {
        let Some(Some(relay)) = self.entries.get_mut(key.0 as usize) else { return };
        let RelaySocket::Udp(relay) = &mut relay.socket else { return };
        let was_blocked = relay.sending.is_blocked();
        if relay.fragments == dont_fragment && relay.socket.set_fragmentation(!dont_fragment).is_ok() {
            relay.fragments = !dont_fragment;
        }
        relay.sending.send(&mut relay.socket, peer, None, run, now);
        if relay.sending.is_blocked() && !was_blocked {
            self.blocked.push(key);
            let token = tokens::token(Kind::Relay, key.0 as usize);
            let _ = registry.reregister(&mut relay.socket, token, Interest::READABLE | Interest::WRITABLE);
        }
    }

    /// Sends what waited for the kernel.
    pub(crate) fn flush(&mut self, registry: &Registry, now: Instant) {
        if self.blocked.is_empty() {
            return;
        }
        let entries = &mut self.entries;
        self.blocked.retain(|key| {
            let Some(Some(Relay { socket: RelaySocket::Udp(relay), .. })) = entries.get_mut(key.0 as usize)
            else {
                return false;
            };
            relay.sending.flush(&mut relay.socket, now);
            if !relay.sending.is_blocked() {
                let token = tokens::token(Kind::Relay, key.0 as usize);
                let _ = registry.reregister(&mut relay.socket, token, Interest::READABLE);
            }
            relay.sending.is_blocked()
        });
    }

    /// What became of datagrams to peers. Not cheap: once in a while.
    pub(crate) fn stats(&self) -> SendStats {
        let mut sum = self.past;
        for relay in self.entries.iter().flatten() {
            if let RelaySocket::Udp(relay) = &relay.socket {
                add(&mut sum, &relay.sending.stats());
            }
        }
        sum
    }
}

fn add(sum: &mut SendStats, stats: &SendStats) {
    sum.datagrams_sent += stats.datagrams_sent;
    sum.bytes_sent += stats.bytes_sent;
    sum.sends += stats.sends;
    sum.dropped_full += stats.dropped_full;
    sum.dropped_stale += stats.dropped_stale;
    sum.dropped_too_big += stats.dropped_too_big;
    sum.dropped_unreachable += stats.dropped_unreachable;
    sum.dropped_failed += stats.dropped_failed;
    sum.segmentation_refused += stats.segmentation_refused;
}
