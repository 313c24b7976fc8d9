//! Headless participant of a room: joins, publishes, subscribes and measures.
//!
//! The core is [`Session`], sans-IO: signal messages and datagrams in, signal messages and datagrams out. The
//! feature `driver` adds `Client`, which gives it a WebSocket and UDP sockets.
//!
//! ```
//! use std::time::Instant;
//! use zynk_client::{Command, Input, Output, PublishTrack, Session, SessionConfig};
//!
//! let now = Instant::now();
//! let config = SessionConfig::new("10.0.0.7:4000".parse().unwrap(), "10.0.0.7:4001".parse().unwrap());
//! let mut session = Session::new(config, now).unwrap();
//! assert!(session.signal_path().starts_with("rtc/v1?join_request="));
//!
//! session.handle_input(now, Input::Command(Command::Publish(PublishTrack::microphone("mic"))));
//! let Output::Signal(request) = session.poll_output() else { panic!("asks the server for the track") };
//! # let _ = request;
//! ```
//!
//! - [`Session`]: joining, negotiating, publishing, receiving, and figures of what was received.
//! - [`media`]: synthetic frames whose loss, order and latency a receiver can measure.

mod codec;
#[cfg(feature = "driver")]
mod driver;
pub mod media;
mod session;

pub use codec::Codec;
#[cfg(feature = "driver")]
pub use driver::{Client, ClientError, ClientOptions};
pub use media::{RtpPayload, SyntheticAudio, SyntheticHeader, SyntheticVideo};
pub use session::{
    Command, EarlierPayload, Event, FrameStats, Input, MediaPacket, Output, PeerConnections, PublishTrack,
    ReceiveStats, Session, SessionConfig, SessionError, Transmit,
};
