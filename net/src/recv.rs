//! Receiving into a reused arena.

use std::{
    io::{self, IoSliceMut},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use quinn_udp::{BATCH_SIZE, EcnCodepoint, RecvMeta};

use crate::UdpSocket;

/// Bytes of one receive buffer: the largest datagram, and the largest train of datagrams that Linux' GRO
/// makes of equal datagrams from one sender.
const SLOT_BYTES: usize = 65_536;

/// One datagram, in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// Who sent it. An IPv4 sender is an IPv4 address on every socket.
    pub source: SocketAddr,
    /// Which of this machine's addresses it was sent to, where the kernel tells (Linux does).
    pub destination_ip: Option<IpAddr>,
    /// Its congestion mark (RFC 3168), if it has one.
    pub ecn: Option<EcnCodepoint>,
    /// The bytes.
    pub payload: &'a [u8],
}

/// What one system call received. The arena is 2 MiB of address space, made once and reused; pages that no
/// datagram ever reached cost no memory.
#[derive(Debug)]
pub struct RecvBatch {
    arena: Vec<u8>,
    metas: [RecvMeta; BATCH_SIZE],
    messages: usize,
    messages_max: usize,
}

impl RecvBatch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::with_trains(BATCH_SIZE)
    }

    /// An empty batch that takes so many trains of datagrams at once, at most 32: a socket to which one sender sends has
    /// no use for many.
    pub fn with_trains(trains_max: usize) -> Self {
        let messages_max = trains_max.clamp(1, BATCH_SIZE);
        Self {
            arena: vec![0; SLOT_BYTES * messages_max],
            metas: [RecvMeta::default(); BATCH_SIZE],
            messages: 0,
            messages_max,
        }
    }

    /// Replaces the batch by what waits in the socket now, as many trains of datagrams as it takes, and returns the
    /// number of datagrams. Fails with [`io::ErrorKind::WouldBlock`] when nothing waits.
    pub fn recv(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        self.messages = 0;
        let mut slots = self.arena.chunks_exact_mut(SLOT_BYTES);
        let mut buffers: [IoSliceMut<'_>; BATCH_SIZE] =
            std::array::from_fn(|_| IoSliceMut::new(slots.next().unwrap_or_default()));
        let buffers = buffers.get_mut(..self.messages_max).unwrap_or_default();
        self.messages = socket.recv(buffers, &mut self.metas)?;
        Ok(self.datagrams().count())
    }

    /// Whether the last call took all that waited: there was room for more.
    pub fn is_drained(&self) -> bool {
        self.messages < self.messages_max
    }

    /// The datagrams in order of arrival. Empty ones are left out: nothing here speaks a protocol that has
    /// them.
    pub fn datagrams(&self) -> impl Iterator<Item = Datagram<'_>> {
        let slots = self.arena.chunks_exact(SLOT_BYTES);
        self.metas.iter().take(self.messages).zip(slots).flat_map(|(meta, slot)| {
            let source = SocketAddr::new(meta.addr.ip().to_canonical(), meta.addr.port());
            let destination_ip = meta.dst_ip.map(|ip| ip.to_canonical());
            let ecn = meta.ecn;
            let train = slot.get(..meta.len).unwrap_or_default();
            train.chunks(meta.stride.max(1)).map(move |payload| Datagram {
                source,
                destination_ip,
                ecn,
                payload,
            })
        })
    }

    /// As [`RecvBatch::datagrams`], to be decrypted in place.
    pub fn datagrams_mut(&mut self) -> impl Iterator<Item = DatagramMut<'_>> {
        let slots = self.arena.chunks_exact_mut(SLOT_BYTES);
        self.metas.iter().take(self.messages).zip(slots).flat_map(|(meta, slot)| {
            let source = SocketAddr::new(meta.addr.ip().to_canonical(), meta.addr.port());
            let destination_ip = meta.dst_ip.map(|ip| ip.to_canonical());
            let arrived = meta.timestamp;
            let train = slot.get_mut(..meta.len).unwrap_or_default();
            train.chunks_mut(meta.stride.max(1)).map(move |payload| DatagramMut {
                source,
                destination_ip,
                arrived,
                payload,
            })
        })
    }
}

/// One datagram that may be changed in place.
#[derive(Debug, PartialEq, Eq)]
pub struct DatagramMut<'a> {
    /// See [`Datagram::source`].
    pub source: SocketAddr,
    /// See [`Datagram::destination_ip`].
    pub destination_ip: Option<IpAddr>,
    /// When the kernel took it, since Unix's epoch, where the kernel tells (Linux does).
    pub arrived: Option<Duration>,
    /// The bytes.
    pub payload: &'a mut [u8],
}

impl Default for RecvBatch {
    fn default() -> Self {
        Self::new()
    }
}
