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

/// How long sends stay unsegmented after the kernel refused one. The refusal may concern one destination only
/// (a tunnel with a small MTU, an interface without checksum offload), so it is not final.
const FALLBACK_DURATION: Duration = Duration::from_secs(10);

/// What to ask of the kernel for a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketOptions {
    /// Bytes of receive buffer (`SO_RCVBUF`). The kernel caps it at `net.core.rmem_max` unless
    /// the process has `CAP_NET_ADMIN`.
    pub recv_buffer_bytes: usize,
    /// Bytes of send buffer (`SO_SNDBUF`). The kernel caps it at `net.core.wmem_max` unless
    /// the process has `CAP_NET_ADMIN`.
    pub send_buffer_bytes: usize,
}

impl Default for SocketOptions {
    fn default() -> Self {
        Self { recv_buffer_bytes: 4 * 1024 * 1024, send_buffer_bytes: 4 * 1024 * 1024 }
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
    /// Until when `state` stays in its fallback mode: without segmentation, without ECN bits.
    fallback_until: Option<Instant>,
}

impl UdpSocket {
    /// Binds `address`. An unspecified IPv6 address takes IPv4 as well.
    pub fn bind(address: SocketAddr, options: SocketOptions) -> Result<Self, BindError> {
        let io = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))
            .map_err(BindError::Socket)?;
        if address.is_ipv6() {
            io.set_only_v6(false).map_err(BindError::Socket)?;
        }
        let state = UdpSocketState::new((&io).into()).map_err(BindError::Socket)?;
        enlarge_buffers(&io, options);
        io.bind(&address.into()).map_err(|source| BindError::Bind { address, source })?;
        let local_addr = io
            .local_addr()
            .map_err(BindError::Socket)?
            .as_socket()
            .ok_or_else(|| BindError::Socket(io::Error::from(io::ErrorKind::AddrNotAvailable)))?;
        Ok(Self { io, state, local_addr, fallback_until: None })
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
        self.state.max_gso_segments()
    }

    pub(crate) fn recv(
        &self,
        buffers: &mut [io::IoSliceMut<'_>],
        metas: &mut [quinn_udp::RecvMeta],
    ) -> io::Result<usize> {
        self.state.recv((&self.io).into(), buffers, metas)
    }

    /// Sends one datagram or one run of segments.
    ///
    /// [`quinn_udp`] gives segmentation and ECN up for good at the first refusal of the kernel (EIO, EINVAL),
    /// because it cannot know whether the socket, the interface or the destination is the cause. The refusal
    /// of one destination must not slow all others down for ever, so its state is made anew after
    /// [`FALLBACK_DURATION`].
    pub(crate) fn send(&mut self, transmit: &quinn_udp::Transmit<'_>, now: Instant) -> io::Result<()> {
        // What needs no control message goes without one: that is cheaper.
        if let quinn_udp::Transmit { destination, ecn: None, contents, segment_size: None, src_ip: None } =
            transmit
        {
            return self.io.send_to(contents, &(*destination).into()).map(drop);
        }
        let result = self.state.try_send((&self.io).into(), transmit);
        if self.fallback_until.is_none()
            && let Err(error) = &result
            && error.kind() != io::ErrorKind::WouldBlock
        {
            self.fallback_until = Some(now + FALLBACK_DURATION);
        }
        result
    }

    /// Leaves the fallback mode when its time is over.
    pub(crate) fn restore(&mut self, now: Instant) {
        if self.fallback_until.is_some_and(|until| until <= now) {
            self.fallback_until = None;
            if let Ok(state) = UdpSocketState::new((&self.io).into()) {
                self.state = state;
            }
        }
    }
}

/// Asks for the buffers; insists where the process may (`CAP_NET_ADMIN`, which root in most containers lacks).
/// Too small a buffer is no reason to stay down: the caller compares and tells the operator.
fn enlarge_buffers(io: &Socket, options: SocketOptions) {
    let SocketOptions { recv_buffer_bytes: recv, send_buffer_bytes: send } = options;
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
