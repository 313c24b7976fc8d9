//! Batched UDP sockets for loops that own their thread: many datagrams a system call in (recvmmsg, GRO), many
//! datagrams a system call out (GSO), destination address and ECN bits of what arrives, source address of what
//! leaves. Built on [`quinn_udp`].
//!
//! One UDP send costs the Linux kernel 2 to 5 µs however it is issued; only fewer, larger sends help. So a turn
//! of the loop collects what it has to send in a [`SendBatch`], which groups it by destination and equal size.
//!
//! ```
//! use zynk_net::{RecvBatch, SendBatch, SocketOptions, UdpSocket};
//!
//! let mut a = UdpSocket::bind("127.0.0.1:0".parse()?, SocketOptions::default())?;
//! let b = UdpSocket::bind("127.0.0.1:0".parse()?, SocketOptions::default())?;
//! let mut out = SendBatch::new();
//! out.push(b.local_addr(), None, b"hello");
//! out.push(b.local_addr(), None, b"world");
//! out.flush(&mut a, std::time::Instant::now()); // one system call
//! let mut arrived = RecvBatch::new();
//! while arrived.recv(&b).is_err() {} // a real loop waits with mio
//! assert_eq!(arrived.datagrams().next().map(|datagram| datagram.payload), Some(&b"hello"[..]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! - [`UdpSocket`]: the socket, a [`mio::event::Source`].
//! - [`RecvBatch`]: a reused arena for what arrives.
//! - [`SendBatch`]: a reused arena for what leaves, with the drop rules.
//! - [`tunnel`]: the same between loops of one process, without a socket.
//! - [`HoldBack`]: how long to wait for more, by the load.
//! - [`reachable_addresses`]: where others can reach a socket.
//! - [`ProxyHeaderReader`]: whose a connection is that a balancer makes.

mod addresses;
mod hold_back;
mod proxy_protocol;
mod recv;
mod send;
mod socket;
mod tunnel;

pub use addresses::{interface_addresses, reachable_addresses};
pub use hold_back::HoldBack;
pub use proxy_protocol::{ProxyHeaderError, ProxyHeaderReader, is_trusted_balancer};
pub use quinn_udp::EcnCodepoint;
pub use recv::{Datagram, DatagramMut, RecvBatch};
pub use send::{SendBatch, SendStats};
pub use socket::{BindError, SocketOptions, UdpSocket};
pub use tunnel::{Parcel, TunnelEnd, TunnelSet, TunnelStats, Tunnelled, tunnel};
