//! The TURN relay: one OS thread a worker, each with its sockets and a [`zynk_turn_core::TurnServer`].
//!
//! ```
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! use zynk_auth::KeyRing;
//! use zynk_turn_server::TurnConfig;
//!
//! let keys = KeyRing::single("devkey", "secret");
//! let config = TurnConfig { bind: vec!["127.0.0.1".parse()?], port: 0, ..TurnConfig::default() };
//! let mut registry = prometheus_client::registry::Registry::default();
//! let relay = zynk_turn_server::start(&config, &keys, Vec::new(), None, &|_| Vec::new(), &mut registry)?;
//! assert_eq!(relay.addresses().udp.len(), 1);
//! assert!(relay.control().list().await?.is_empty());
//! relay.join().await;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # }).unwrap();
//! ```
//!
//! - [`TurnConfig`]: what an operator can set.
//! - [`start`]: binds and runs; [`TurnHandle`], [`TurnControl`], [`TurnHealth`]: steering what runs.
//! - [`TlsDoor`], [`is_turn`]: sharing a port with HTTPS.
//! - [`router`]: the operator's API.

mod commands;
mod config;
mod dtls;
mod handover;
mod http;
mod metrics;
mod refusals;
mod relays;
mod server;
mod short_cuts;
mod streams;
mod tls;
mod tokens;
mod worker;

pub use config::{TurnConfig, TurnLimits, WORKERS_MAX};
pub use handover::{TURN_ALPN, TlsClient, TlsDoor, is_turn};
pub use http::{AllocationEntry, router};
pub use server::{TurnAddresses, TurnControl, TurnError, TurnHandle, TurnHealth, start};
pub use short_cuts::{ConnectServices, ShortCut};
pub use tls::TurnCertificate;
pub use zynk_turn_core::{AllocationId, AllocationReport, Transport};
