//! The trait and the choice of its backend.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;
use zynk_protocol::{NodeCommand, NodeId, NodeInfo, NodeNotice, RoomSid};

use crate::LocalBus;

/// Commands that wait for a node. When its queue is full, [`Bus::command`] waits, up to [`COMMAND_TIMEOUT`].
pub const COMMAND_QUEUE_MAX: usize = 4_096;

/// How long a command waits for room in its node's queue before it fails with [`BusError::Overloaded`].
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(5);

/// Notices that wait for one subscriber. When its queue is full, [`Bus::notify`] waits, up to
/// [`NOTICE_TIMEOUT`].
pub const NOTICE_QUEUE_MAX: usize = 1_024;

/// How long a notice waits for a subscriber. A subscriber that took nothing for so long is cut off: it gets
/// what is in its queue, and then the end.
pub const NOTICE_TIMEOUT: Duration = Duration::from_secs(5);

/// Most nodes on a bus; further ones are refused.
pub const NODES_MAX: usize = 1_024;

/// Messages between signaling and media nodes.
///
/// Commands to one node from one task arrive in the order in which they were sent, and so do the notices of
/// one room from one task to each of its subscribers.
#[async_trait]
pub trait Bus: Send + Sync + 'static {
    /// Makes a node known and gives it its commands. A node that was known under the same id is replaced,
    /// and its commands end. The node counts as gone once the receiver is dropped.
    async fn register_node(&self, info: NodeInfo) -> Result<mpsc::Receiver<NodeCommand>, BusError>;

    /// Replaces what is known of a node.
    async fn update_node(&self, info: NodeInfo) -> Result<(), BusError>;

    /// Makes a node unknown. Its commands end after those in the queue. Unknown nodes are ignored.
    async fn deregister_node(&self, node: &NodeId) -> Result<(), BusError>;

    /// All nodes, in the order of their ids.
    async fn nodes(&self) -> Result<Vec<NodeInfo>, BusError>;

    /// Sends a command to a node, waiting while its queue is full.
    async fn command(&self, node: &NodeId, command: NodeCommand) -> Result<(), BusError>;

    /// Sends a notice to everyone who subscribed to its room, waiting while a queue is full. Nobody is
    /// enough: the notice is then dropped.
    async fn notify(&self, notice: NodeNotice) -> Result<(), BusError>;

    /// All notices of a room from now on. Dropping the receiver ends it.
    async fn subscribe_room(&self, room: &RoomSid) -> Result<mpsc::Receiver<NodeNotice>, BusError>;
}

/// A message was not delivered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BusError {
    /// No backend of that scheme. The operator's fault.
    #[error("bus URL must begin with `local:`, not {scheme:?}")]
    UnknownScheme {
        /// The URL up to its first colon.
        scheme: String,
    },
    /// There is no such node, or it is gone.
    #[error("node {node} is not on the bus")]
    UnknownNode {
        /// Which.
        node: NodeId,
    },
    /// The node did not take commands for [`COMMAND_TIMEOUT`].
    #[error("node {node} does not keep up with its commands")]
    Overloaded {
        /// Which.
        node: NodeId,
    },
    /// [`NODES_MAX`] nodes are on the bus.
    #[error("the bus is full: {NODES_MAX} nodes")]
    Full,
    /// The backend has stopped.
    #[error("the bus is closed")]
    Closed,
}

/// Whether [`connect`] knows what `url` names. Connects to nothing.
pub fn check_url(url: &str) -> Result<(), BusError> {
    match url.split_once(':').unwrap_or((url, "")) {
        ("local", _) => Ok(()),
        (scheme, _) => Err(BusError::UnknownScheme { scheme: scheme.to_owned() }),
    }
}

/// Connects to the bus that `url` names: `local:`, this process alone.
pub async fn connect(url: &str) -> Result<Arc<dyn Bus>, BusError> {
    check_url(url)?;
    Ok(Arc::new(LocalBus::new()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_scheme_selects_the_backend() {
        assert!(connect("local:").await.is_ok());
        let error = connect("amqp://host").await.err().unwrap();
        assert_eq!(error.to_string(), "bus URL must begin with `local:`, not \"amqp\"");
    }
}
