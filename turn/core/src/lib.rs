//! The TURN relay's core (RFC 8656, with RFC 8489, RFC 6062 and RFC 8016), sans-IO: it is handed what comes from
//! clients and peers with the time, and says what to send, which sockets to open, and when to call again.
//!
//! ```
//! use std::time::{Instant, SystemTime};
//! use zynk_turn_core::{FiveTuple, Input, Output, ServerConfig, Transport, TurnServer};
//! use zynk_turn_core::stun::{Class, Method, Writer};
//!
//! let now = Instant::now();
//! let mut server = TurnServer::new(ServerConfig::default(), [0; 32], now, SystemTime::now());
//! let mut request = Vec::new();
//! Writer::new(&mut request, Class::Request, Method::Binding, &[7; 12]);
//! let (server_address, client) = ("192.0.2.1:3478".parse()?, "192.0.2.2:5000".parse()?);
//! let five_tuple = FiveTuple { transport: Transport::Udp, server: server_address, client };
//! server.handle_input(now, Input::Client { five_tuple, payload: &request });
//! assert!(matches!(server.poll_output(), Output::ToClient { payload, .. } if payload.len() == 32));
//! assert!(matches!(server.poll_output(), Output::Timeout(_)));
//! # Ok::<(), std::net::AddrParseError>(())
//! ```
//!
//! - [`TurnServer`]: the relay; [`Input`] and [`Output`] are all that it has to do with the world.
//! - [`ServerConfig`], [`Credentials`], [`PeerPolicy`]: who may use it, and for what.
//! - [`stun`]: messages; [`next_frame`]: where they end in a stream; [`parse_channel_data`]: the short form of data.
//!
//! Third-party authorization (RFC 7635) is left out on purpose: docs/adr/0012 says why.

mod allocation;
mod channel_data;
mod config;
mod credentials;
mod framing;
mod io;
mod nonce;
mod outbox;
mod policy;
mod ports;
mod quota;
mod server;
mod stats;
pub mod stun;

pub use allocation::Traffic;
pub use channel_data::{CHANNEL_HEADER_BYTES, ChannelNumber, parse_channel_data};
pub use config::{Quotas, Rate, RelayAddress, ServerConfig};
pub use credentials::Credentials;
pub use framing::{FRAME_BYTES_MAX, Frame, next_frame};
pub use io::{
    AllocationId, EndReason, Event, FiveTuple, Input, Output, PeerConnectionKey, RefusalReason, RelayKey,
    RelayProtocol, Transport,
};
pub use policy::PeerPolicy;
pub use server::{AllocationReport, TurnServer};
pub use stats::ServerStats;
