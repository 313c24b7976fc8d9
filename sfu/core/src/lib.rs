//! The SFU's core, sans-IO: datagrams and commands in, datagrams and events out.

mod config;
mod io;
mod shard;

pub use config::{Certificate, ShardConfig, ShardError, ShardIndex};
pub use io::{Input, Output, Transmit, Transport};
pub use shard::{Shard, ShardStats, shard_of};
