//! How signaling and media nodes reach each other.
//!
//! ```text
//!   signaling ── command(node, NodeCommand) ──► the node's queue ──► media node
//!   signaling ◄── a room's queue ◄── notify(NodeNotice) ──────────── media node
//! ```
//!
//! ```
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! use zynk_protocol::{NodeAction, NodeCommand, NodeId, NodeInfo, RoomSid};
//!
//! let bus = zynk_bus::connect("local:").await?;
//! let node = NodeId::from_random(1);
//! let info = NodeInfo { node: node.clone(), region: String::new(), rooms: 0, connections: 0, load: 0.0 };
//! let mut commands = bus.register_node(info).await?;
//! let room = RoomSid::from_random(2);
//! bus.command(&node, NodeCommand { room: room.clone(), action: NodeAction::CloseRoom }).await?;
//! assert_eq!(commands.recv().await.unwrap().room, room);
//! # Ok::<(), zynk_bus::BusError>(())
//! # }).unwrap();
//! ```
//!
//! - [`Bus`]: the verbs; [`connect`] picks the backend by the URL's scheme.
//! - [`bus_conformance!`]: the tests that every backend passes.

mod bus;
mod conformance;
mod local;

pub use bus::{
    Bus, BusError, COMMAND_QUEUE_MAX, COMMAND_TIMEOUT, NODES_MAX, NOTICE_QUEUE_MAX, NOTICE_TIMEOUT,
    check_url, connect,
};
pub use local::LocalBus;
