//! A UDP socket with segmentation offload.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
    time::{Duration, Instant},
};

use mio::{Interest, Registry, Token, event::Source, unix::SourceFd};
use quinn_udp::UdpSocketState;
use socket2::{Domain, Protocol, Socket, Type};

/// How long sends stay unsegmented after segmentation was given up. The refusal may concern some destinations only
/// (those behind IPsec, or an interface without checksum offload), so it is not final.
const UNSEGMENTED_DURATION: Duration = Duration::from_secs(10);

/// What to ask of the kernel for a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketOptions {
    /// Bytes of receive buffer (`SO_RCVBUF`). The kernel caps it at `net.core.rmem_max` unless
    /// the process has `CAP_NET_ADMIN`.
    pub recv_buffer_bytes: usize,
    /// Bytes of send buffer (`SO_SNDBUF`). The kernel caps it at `net.core.wmem_max` unless
    /// the process has `CAP_NET_ADMIN`.
    pub send_buffer_bytes: usize,
    /// Whether other sockets of this process may be bound to the same address (`SO_REUSEPORT`): the kernel spreads
    /// senders over them.
    pub reuse_port: bool,
}

impl Default for SocketOptions {
    fn default() -> Self {
        Self { recv_buffer_bytes: 4 * 1024 * 1024, send_buffer_bytes: 4 * 1024 * 1024, reuse_port: false }
    }
}

/// A socket cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The kernel has no socket for us, or refuses an option that everything here rests on.
    #[error("cannot make a UDP socket: {0}")]
    Socket(#[source] io::Error),
    /// The address is taken, or not one of this machine. The operator's configuration.
    #[error("cannot bind UDP {address}: {source}")]
    Bind {
        /// What was asked for.
        address: SocketAddr,
        /// What the kernel says.
        source: io::Error,
    },
}

/// A non-blocking UDP socket. Give it to [`RecvBatch::recv`](crate::RecvBatch::recv) and
/// [`SendBatch::flush`](crate::SendBatch::flush); register it with mio as it is.
///
/// Register for [`Interest::WRITABLE`] only while [`SendBatch::is_blocked`](crate::SendBatch::is_blocked):
/// Linux wakes a poll that waits for writability at every datagram that leaves.
#[derive(Debug)]
pub struct UdpSocket {
    io: Socket,
    state: UdpSocketState,
    local_addr: SocketAddr,
    /// Datagrams that one send may carry by what the kernel said when the socket was made.
    ///
    /// [`quinn_udp`] has an opinion of its own, which is not asked: it takes any EIO or EINVAL for a refusal of
    /// segmentation, though a source address or the path to one destination may be the cause, and never takes it back.
    /// Sends obey their segment size whatever it thinks. All else that it leaves out after such an error is the
    /// congestion mark of IPv4, and none is ever set here.
    segments_possible: usize,
    /// Until when sends carry one datagram each.
    unsegmented_until: Option<Instant>,
}

impl UdpSocket {
    /// Binds `address`. An unspecified IPv6 address takes IPv4 as well.
    pub fn bind(address: SocketAddr, options: SocketOptions) -> Result<Self, BindError> {
        let io = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))
            .map_err(BindError::Socket)?;
        if address.is_ipv6() {
            io.set_only_v6(false).map_err(BindError::Socket)?;
        }
        if options.reuse_port {
            io.set_reuse_port(true).map_err(BindError::Socket)?;
        }
        let state = UdpSocketState::new((&io).into()).map_err(BindError::Socket)?;
        enlarge_buffers(&io, options);
        io.bind(&address.into()).map_err(|source| BindError::Bind { address, source })?;
        let local_addr = io
            .local_addr()
            .map_err(BindError::Socket)?
            .as_socket()
            .ok_or_else(|| BindError::Socket(io::Error::from(io::ErrorKind::AddrNotAvailable)))?;
        let segments_possible = state.max_gso_segments();
        Ok(Self { io, state, local_addr, segments_possible, unsegmented_until: None })
    }

    /// The address it is bound to, with the port that the kernel chose.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Bytes of receive buffer that the kernel granted. Linux counts its own overhead: it grants double.
    pub fn recv_buffer_bytes(&self) -> io::Result<usize> {
        self.state.recv_buffer_size((&self.io).into())
    }

    /// Bytes of send buffer that the kernel granted. Linux counts its own overhead: it grants double.
    pub fn send_buffer_bytes(&self) -> io::Result<usize> {
        self.state.send_buffer_size((&self.io).into())
    }

    /// Datagrams that one send may carry now; 1 without segmentation offload.
    pub fn segments_max(&self) -> usize {
        if self.unsegmented_until.is_some() { 1 } else { self.segments_possible }
    }

    /// Whether datagrams that are larger than the path takes are sent in pieces. They are not unless this is called;
    /// what has no way to find out how much a path takes needs it.
    #[cfg(target_os = "linux")]
    pub fn set_fragmentation(&self, allowed: bool) -> io::Result<()> {
        use rustix::net::sockopt::{self, Ipv4PathMtuDiscovery as V4, Ipv6PathMtuDiscovery as V6};
        let v4 = if allowed { V4::DONT } else { V4::PROBE };
        let v6 = if allowed { V6::DONT } else { V6::PROBE };
        match self.local_addr.is_ipv4() {
            true => Ok(sockopt::set_ip_mtu_discover(&self.io, v4)?),
            false => Ok(sockopt::set_ipv6_mtu_discover(&self.io, v6)?),
        }
    }

    pub(crate) fn recv(
        &self,
        buffers: &mut [io::IoSliceMut<'_>],
        metas: &mut [quinn_udp::RecvMeta],
    ) -> io::Result<usize> {
        self.state.recv((&self.io).into(), buffers, metas)
    }

    /// Sends one datagram or one run of segments.
    pub(crate) fn send(&self, transmit: &quinn_udp::Transmit<'_>) -> io::Result<()> {
        // What needs no control message goes without one: that is cheaper.
        if let quinn_udp::Transmit { destination, ecn: None, contents, segment_size: None, src_ip: None } =
            transmit
        {
            return self.io.send_to(contents, &(*destination).into()).map(drop);
        }
        self.state.try_send((&self.io).into(), transmit)
    }

    /// Lets every send carry one datagram, for [`UNSEGMENTED_DURATION`].
    pub(crate) fn give_up_segmentation(&mut self, now: Instant) {
        self.unsegmented_until = Some(now + UNSEGMENTED_DURATION);
    }

    /// Takes segmentation up again when its time has come.
    pub(crate) fn restore(&mut self, now: Instant) {
        if self.unsegmented_until.is_some_and(|until| until <= now) {
            self.unsegmented_until = None;
        }
    }

    /// Believes in so many segments, whatever the kernel said.
    #[cfg(test)]
    pub(crate) fn suppose_segments(&mut self, segments: usize) {
        self.segments_possible = segments;
    }
}

/// Asks for the buffers; insists where the process may (`CAP_NET_ADMIN`, which root in most containers lacks).
/// Too small a buffer is no reason to stay down: the caller compares and tells the operator.
fn enlarge_buffers(io: &Socket, options: SocketOptions) {
    let SocketOptions { recv_buffer_bytes: recv, send_buffer_bytes: send, .. } = options;
    let _ = io.set_recv_buffer_size(recv);
    let _ = io.set_send_buffer_size(send);
    #[cfg(target_os = "linux")]
    {
        use rustix::net::sockopt;
        // What Linux grants is double what was asked for.
        if io.recv_buffer_size().is_ok_and(|granted| granted / 2 < recv) {
            let _ = sockopt::set_socket_recv_buffer_size_force(io, recv);
        }
        if io.send_buffer_size().is_ok_and(|granted| granted / 2 < send) {
            let _ = sockopt::set_socket_send_buffer_size_force(io, send);
        }
    }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.io.as_fd()
    }
}

impl AsRawFd for UdpSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.io.as_raw_fd()
    }
}

impl Source for UdpSocket {
    fn register(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        SourceFd(&self.as_raw_fd()).register(registry, token, interests)
    }

    fn reregister(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        SourceFd(&self.as_raw_fd()).reregister(registry, token, interests)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        SourceFd(&self.as_raw_fd()).deregister(registry)
    }
}
