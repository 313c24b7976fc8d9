//! The SFU's core, sans-IO: datagrams and commands in, datagrams and events out.
//!
//! ```
//! use std::time::{Duration, Instant};
//! use zynk_sfu_core::{Certificate, Input, Output, Shard, ShardConfig, ShardIndex};
//!
//! let now = Instant::now();
//! let config = ShardConfig {
//!     index: ShardIndex(0),
//!     udp: vec!["127.0.0.1:7882".parse().unwrap()],
//!     tcp: vec![],
//!     certificate: Certificate::generate().unwrap(),
//!     unix_time: Duration::from_secs(1_750_000_000),
//!     protect_audio: false,
//!     seed: 1,
//! };
//! let mut shard = Shard::new(config, now).unwrap();
//! shard.handle_input(now, Input::Timeout);
//! while let Output::Transmit(_) | Output::Event { .. } = shard.poll_output() {}
//! ```

mod allocator;
mod config;
mod connection;
mod demux;
mod dependency_descriptor;
mod downstream;
mod endpoint;
mod forwarder;
#[doc(hidden)]
pub mod fuzzing;
mod io;
mod keyframe_cache;
mod ladder;
mod layer_rates;
mod layers;
mod loudest;
pub mod media;
mod media_session;
mod red;
mod relay;
mod rewriter;
mod sdp;
mod selector;
mod shard;
mod silence;
mod speakers;
mod temporal;
mod track;
mod upstream;
mod vp8;
mod vp9;

pub use config::{Certificate, ShardConfig, ShardError, ShardIndex};
pub use demux::shard_of;
pub use io::{Input, Output, Transmit, Transport};
pub use relay::RelayBatch;
pub use shard::{Measurement, Shard, ShardStats};
