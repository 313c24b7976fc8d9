//! What the whole-system tests are made of.
//!
//! ```
//! use std::time::Duration;
//! use zynk_client::Codec;
//! use zynk_tests::{LinkConfig, World};
//!
//! let mut world = World::new(7);
//! let alice = world.join("alice", LinkConfig::ideal());
//! let bob = world.join("bob", LinkConfig::ideal());
//! world.publish_camera(alice, Codec::Vp8);
//! let seen = world.run_until(Duration::from_secs(10), |world| world.frames_received(bob, alice) >= 30);
//! assert!(seen);
//! ```
//!
//! - [`World`]: a room in virtual time, without sockets: client sessions, a media shard, a signaling room and
//!   the links between them. One seed decides what happens.
//! - [`LiveServer`]: the real binary, on real sockets.
//! - [`traffic`]: clients that publish in real time.

// Whatever goes wrong in here is a failed test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod live_server;
mod ports;
pub mod traffic;
mod world;

pub use live_server::{LiveServer, token};
pub use ports::free_ports;
pub use world::{ClientKey, Decoded, LinkConfig, Listener, Viewer, World};
