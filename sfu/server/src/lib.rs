//! The media node: threads, sockets and metrics around the SFU's core ([`zynk_sfu_core`]).
//!
//! ```no_run
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! use prometheus_client::registry::Registry;
//! use tokio_util::sync::CancellationToken;
//! use zynk_sfu_server::SfuConfig;
//!
//! let bus = zynk_bus::connect("local:").await?;
//! let (mut registry, shutdown) = (Registry::default(), CancellationToken::new());
//! let sfu = zynk_sfu_server::start(SfuConfig::default(), bus, &mut registry, shutdown.clone()).await?;
//! println!("media on UDP {:?}, ICE-TCP {:?}", sfu.udp_ports(), sfu.tcp_port());
//! shutdown.cancel();
//! sfu.join().await;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # }).unwrap();
//! ```
//!
//! ```text
//!  bus ─NodeCommand─► dispatcher.rs (tokio) ─► worker.rs, one thread each ◄─► UDP port, one each
//!  bus ◄─NodeNotice── notices.rs (tokio) ◄──────┘ ▲  └── relay.rs ──► the other workers
//!                                                 └── tcp/acceptor.rs, one thread ◄── ICE-TCP port
//! ```
//!
//! - [`SfuConfig`]: what an operator can set.
//! - [`start`], [`SfuHandle`], [`SfuHealth`]: the running node.

mod addresses;
mod arrival_clock;
mod config;
mod dispatcher;
mod metrics;
mod notices;
mod placement;
mod relay;
mod server;
mod tcp;
mod tunnels;
mod worker;

pub use config::{AudioProtection, HOLD_BACK_MS_MAX, SfuConfig, WORKERS_MAX};
pub use server::{SfuError, SfuHandle, SfuHealth, start};
