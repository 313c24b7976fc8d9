//! What goes into a [`Shard`](crate::Shard) and what comes out.

use std::{net::SocketAddr, time::Instant};

use zynk_protocol::{NodeAction, NodeEvent, RoomSid};

use crate::{RelayBatch, ShardIndex};

/// How a datagram travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// One UDP datagram.
    Udp,
    /// One frame of an ICE-TCP connection, without its two length bytes (RFC 4571).
    Tcp,
}

/// Something for a shard to work on.
#[derive(Debug)]
pub enum Input<'a> {
    /// Bytes from the network.
    Datagram {
        /// How they came.
        transport: Transport,
        /// The sender.
        source: SocketAddr,
        /// Our address that they were sent to, as announced in a candidate.
        destination: SocketAddr,
        /// When they came, if that is known better than when they are handed over; publishers estimate their paths by
        /// it.
        arrived: Instant,
        /// The datagram or frame; media is decrypted in place.
        payload: &'a mut [u8],
    },
    /// An ICE-TCP connection ended.
    TcpClosed {
        /// The client's end of it.
        source: SocketAddr,
    },
    /// An order from signaling.
    Command {
        /// The room it concerns.
        room: RoomSid,
        /// What to do.
        action: NodeAction,
    },
    /// Which other shards have a share of a room, all of them each time; none if it is this shard's alone (again).
    Siblings {
        /// The room.
        room: RoomSid,
        /// The others.
        shards: Vec<ShardIndex>,
    },
    /// What another shard had to say: its [`Output::Relay`] for this one. In the order of leaving there.
    Relay {
        /// Who.
        from: ShardIndex,
        /// What.
        batch: RelayBatch,
    },
    /// The time that [`Output::Timeout`] named has come (or any other time: it does no harm).
    Timeout,
}

/// Something for the shell to do.
#[derive(Debug)]
pub enum Output<'a> {
    /// Send bytes.
    Transmit(Transmit<'a>),
    /// Tell signaling.
    Event {
        /// The room in which it happened.
        room: RoomSid,
        /// What happened.
        event: NodeEvent,
    },
    /// Hand this to another shard of the node.
    Relay {
        /// Which.
        to: ShardIndex,
        /// What.
        batch: RelayBatch,
    },
    /// Nothing more to do before this time, unless input arrives.
    Timeout(Instant),
}

/// Bytes to send.
#[derive(Clone, Copy, Debug)]
pub struct Transmit<'a> {
    /// How.
    pub transport: Transport,
    /// From which of our addresses.
    pub source: SocketAddr,
    /// To whom.
    pub destination: SocketAddr,
    /// Datagrams or frames (without RFC 4571's length bytes), one after the other: what leaves for one receiver in one
    /// turn, as far as it can go to the kernel as one segmented send.
    pub payload: &'a [u8],
    /// Octets of each of them; the last may be shorter.
    pub segment_bytes: usize,
}

impl<'a> Transmit<'a> {
    /// The datagrams one by one.
    pub fn datagrams(&self) -> std::slice::Chunks<'a, u8> {
        self.payload.chunks(self.segment_bytes.max(1))
    }
}
