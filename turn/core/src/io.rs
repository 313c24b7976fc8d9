//! What goes into a [`TurnServer`](crate::TurnServer) and what comes out.

use std::net::SocketAddr;
use std::time::Instant;

use crate::config::ServerConfig;

/// How a client reaches the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// UDP.
    Udp,
    /// TCP.
    Tcp,
    /// TLS over TCP.
    Tls,
    /// DTLS over UDP.
    Dtls,
}

impl Transport {
    /// Whether messages come as one stream of bytes.
    pub fn is_stream(self) -> bool {
        matches!(self, Self::Tcp | Self::Tls)
    }
}

/// What identifies a client (RFC 8656, section 2: the 5-tuple).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FiveTuple {
    /// How it comes.
    pub transport: Transport,
    /// Our address that it sends to.
    pub server: SocketAddr,
    /// Its address as we see it.
    pub client: SocketAddr,
}

/// A relayed transport address of ours; the shell keeps its socket under this name until it is told to close it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RelayKey(pub u32);

/// A TCP connection to or from a peer (RFC 6062).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerConnectionKey(pub u32);

impl PeerConnectionKey {
    /// The bit that keys of accepted connections have, which the shell draws; the server draws the others.
    pub const ACCEPTED: u32 = 1 << 31;
}

/// What a relay speaks to peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RelayProtocol {
    /// UDP (RFC 8656).
    Udp,
    /// TCP (RFC 6062).
    Tcp,
}

/// Something for the server to work on.
#[derive(Debug)]
#[non_exhaustive]
pub enum Input<'a> {
    /// A datagram of a client, or a frame of its stream.
    Client {
        /// Whose.
        five_tuple: FiveTuple,
        /// One STUN or ChannelData message.
        payload: &'a [u8],
    },
    /// A datagram of a peer at a relay's socket.
    Peer {
        /// Where it came.
        relay: RelayKey,
        /// From whom.
        peer: SocketAddr,
        /// The data.
        payload: &'a [u8],
    },
    /// A client's stream or DTLS association ended.
    ClientClosed {
        /// Whose.
        five_tuple: FiveTuple,
    },
    /// The socket that [`Event::OpenRelay`] asked for is open.
    RelayOpened {
        /// Which.
        relay: RelayKey,
    },
    /// It cannot be: the port is somebody else's, or there are no descriptors left.
    RelayRefused {
        /// Which.
        relay: RelayKey,
    },
    /// A peer connected to a relay's socket (RFC 6062). If the answer is [`Event::ClosePeer`], nobody wants it.
    PeerAccepted {
        /// Which relay's.
        relay: RelayKey,
        /// The peer's address.
        peer: SocketAddr,
        /// What the shell calls it from now on.
        connection: PeerConnectionKey,
    },
    /// The connection that [`Event::ConnectPeer`] asked for is there.
    PeerConnected {
        /// Which.
        connection: PeerConnectionKey,
    },
    /// A connection to a peer ended, or could not be made.
    PeerClosed {
        /// Which.
        connection: PeerConnectionKey,
    },
    /// The operator ends an allocation.
    Kick {
        /// Which.
        allocation: AllocationId,
    },
    /// From now on no new allocations are made; clients are sent elsewhere.
    Drain,
    /// A new configuration. What it does not allow any more ends: permissions for peers that are now denied.
    Configure(Box<ServerConfig>),
    /// The time has come that [`Output::Timeout`] named, or later.
    Timeout,
}

/// What the operator calls an allocation: drawn at random, never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AllocationId(pub u64);

impl std::fmt::Display for AllocationId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What the shell is to do.
#[derive(Debug)]
#[non_exhaustive]
pub enum Output<'a> {
    /// Send to a client.
    ToClient {
        /// Whom.
        five_tuple: FiveTuple,
        /// Datagrams one after the other; over a stream, whole frames.
        payload: &'a [u8],
        /// Bytes of each datagram but the last, which may be shorter; 0 for one empty datagram. Means nothing over a
        /// stream.
        segment_bytes: usize,
        /// Whether it is a response or indication that must not be lost before data is.
        is_control: bool,
    },
    /// Send from a relay's socket to a peer.
    ToPeer {
        /// From where.
        relay: RelayKey,
        /// The address that the client has there, as peers know it.
        relayed: SocketAddr,
        /// Whom.
        peer: SocketAddr,
        /// Datagrams one after the other.
        payload: &'a [u8],
        /// Bytes of each datagram but the last, which may be shorter; 0 for one empty datagram.
        segment_bytes: usize,
        /// Whether the client asked for datagrams that are rather lost than sent in pieces (RFC 8656, section 15).
        dont_fragment: bool,
    },
    /// Something else to do, or to know.
    Event(Event),
    /// Nothing more now; come again at this time at the latest, with [`Input::Timeout`].
    Timeout(Instant),
}

/// Something to do or to know.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Open a relay's socket at this very address and answer [`Input::RelayOpened`] or [`Input::RelayRefused`].
    OpenRelay {
        /// What it is called.
        relay: RelayKey,
        /// Where.
        address: SocketAddr,
        /// For what.
        protocol: RelayProtocol,
    },
    /// Close it.
    CloseRelay {
        /// Which.
        relay: RelayKey,
    },
    /// Connect from a relay's address to a peer and answer [`Input::PeerConnected`] or [`Input::PeerClosed`].
    ConnectPeer {
        /// What it is called.
        connection: PeerConnectionKey,
        /// From where.
        relay: RelayKey,
        /// Whom.
        peer: SocketAddr,
    },
    /// From now on the client's stream and the peer's connection are one: bytes go through as they are, once what was
    /// written to the client before has left.
    Splice {
        /// The client's stream.
        five_tuple: FiveTuple,
        /// The peer's connection.
        connection: PeerConnectionKey,
    },
    /// Close a peer's connection.
    ClosePeer {
        /// Which.
        connection: PeerConnectionKey,
    },
    /// Close a client's stream or DTLS association: it has no right to be here any more.
    CloseClient {
        /// Whose.
        five_tuple: FiveTuple,
    },
    /// An allocation was made.
    Allocated {
        /// Which.
        allocation: AllocationId,
        /// Whose.
        user: Box<str>,
        /// By whom.
        five_tuple: FiveTuple,
    },
    /// An allocation's client came back from another address (RFC 8016).
    Moved {
        /// Which.
        allocation: AllocationId,
        /// From where it came before.
        from: FiveTuple,
        /// From where it comes now.
        to: FiveTuple,
    },
    /// An allocation ended.
    Deallocated {
        /// Which.
        allocation: AllocationId,
        /// By whom.
        five_tuple: FiveTuple,
        /// Why.
        reason: EndReason,
    },
    /// A request was refused for a reason that its sender is not told in full.
    Refused {
        /// Who asked, if that is proven.
        user: Option<Box<str>>,
        /// From where.
        five_tuple: FiveTuple,
        /// Why.
        reason: RefusalReason,
    },
}

/// Why an allocation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndReason {
    /// The client gave it back.
    Released,
    /// The client did not refresh it in time.
    Expired,
    /// The client's stream ended.
    Disconnected,
    /// The operator ended it.
    Kicked,
    /// Its socket could not be opened.
    NoPort,
}

impl EndReason {
    /// One word for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Released => "released",
            Self::Expired => "expired",
            Self::Disconnected => "disconnected",
            Self::Kicked => "kicked",
            Self::NoPort => "no_port",
        }
    }
}

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusalReason {
    /// There is no such user, or the credentials name none.
    UnknownUser,
    /// The time of the credentials is over.
    CredentialsExpired,
    /// The message was not signed with the user's password.
    WrongPassword,
    /// The allocation is another user's.
    WrongUser,
    /// The user has as many allocations as anybody may have.
    UserQuota,
    /// The server has as many allocations as it may have.
    TotalQuota,
    /// The server is about to stop.
    Draining,
    /// No port is left.
    NoPort,
    /// The peer is one that nobody may reach.
    PeerDenied,
    /// The allocation has as many permissions or channels as one may have.
    PeerQuota,
}

impl RefusalReason {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::UnknownUser,
        Self::CredentialsExpired,
        Self::WrongPassword,
        Self::WrongUser,
        Self::UserQuota,
        Self::TotalQuota,
        Self::Draining,
        Self::NoPort,
        Self::PeerDenied,
        Self::PeerQuota,
    ];

    /// Words for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnknownUser => "unknown_user",
            Self::CredentialsExpired => "credentials_expired",
            Self::WrongPassword => "wrong_password",
            Self::WrongUser => "wrong_user",
            Self::UserQuota => "user_quota",
            Self::TotalQuota => "total_quota",
            Self::Draining => "draining",
            Self::NoPort => "no_port",
            Self::PeerDenied => "peer_denied",
            Self::PeerQuota => "peer_quota",
        }
    }
}
