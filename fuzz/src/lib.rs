//! Fuzz targets: everything of the SFU and the relay that takes octets from the network, one function a target.
//! libFuzzer calls them through `fuzz_targets/`; `tests/replay.rs` runs the corpora through them in every build.
//!
//! ```
//! zynk_fuzz::rtp(&[0x80, 111, 0, 1]);
//! ```
//!
//! A target fails by panicking: that is how libFuzzer is told.
#![allow(clippy::panic)]

mod payload_descriptors;
mod rtcp;
mod rtp;
mod shard_client;
mod shard_operations;
mod shard_rig;
mod shard_sdp;
mod srtp;
mod stun;
mod turn_message;
mod turn_rig;
mod turn_server;

pub use payload_descriptors::payload_descriptors;
pub use rtcp::rtcp;
pub use rtp::rtp;
pub use shard_operations::{ShardReach, shard_operations, shard_reach};
pub use srtp::srtp;
pub use stun::stun;
pub use turn_message::turn_message;
pub use turn_server::{TurnReach, turn_reach, turn_server};
