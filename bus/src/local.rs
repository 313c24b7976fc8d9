//! A bus inside one process.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::sync::mpsc::{self, error::SendTimeoutError};
use zynk_protocol::{NodeCommand, NodeId, NodeInfo, NodeNotice, RoomSid};

use crate::{Bus, BusError, COMMAND_QUEUE_MAX, COMMAND_TIMEOUT, NODES_MAX, NOTICE_QUEUE_MAX, NOTICE_TIMEOUT};

/// Rooms below which dropped subscriptions are not looked for.
const SWEEP_ROOMS_MIN: usize = 64;

/// Queues between tasks of this process.
#[derive(Debug, Default)]
pub struct LocalBus {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Bounded by [`NODES_MAX`].
    nodes: BTreeMap<NodeId, Node>,
    /// Rooms somebody subscribed to, at most twice as many as are subscribed to now: dropped subscriptions
    /// are swept out whenever the map has doubled.
    rooms: HashMap<RoomSid, Vec<mpsc::Sender<NodeNotice>>>,
    /// Size of `rooms` at which the next sweep is due.
    sweep_at: usize,
}

#[derive(Debug)]
struct Node {
    info: NodeInfo,
    commands: mpsc::Sender<NodeCommand>,
}

impl LocalBus {
    /// A bus without nodes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Nothing panics while it holds the lock, so that a poisoned one is as good as any.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn commands_of(&self, node: &NodeId) -> Option<mpsc::Sender<NodeCommand>> {
        self.lock().nodes.get(node).map(|node| node.commands.clone())
    }

    fn subscribers_of(&self, room: &RoomSid) -> Vec<mpsc::Sender<NodeNotice>> {
        self.lock().rooms.get(room).cloned().unwrap_or_default()
    }

    fn remove_subscriber(&self, room: &RoomSid, gone: &mpsc::Sender<NodeNotice>) {
        let mut state = self.lock();
        if let Some(subscribers) = state.rooms.get_mut(room) {
            subscribers.retain(|subscriber| !subscriber.same_channel(gone));
            if subscribers.is_empty() {
                state.rooms.remove(room);
            }
        }
    }
}

#[async_trait]
impl Bus for LocalBus {
    async fn register_node(&self, info: NodeInfo) -> Result<mpsc::Receiver<NodeCommand>, BusError> {
        let mut state = self.lock();
        state.nodes.retain(|_, node| !node.commands.is_closed());
        if state.nodes.len() >= NODES_MAX && !state.nodes.contains_key(&info.node) {
            return Err(BusError::Full);
        }
        let (commands, receiver) = mpsc::channel(COMMAND_QUEUE_MAX);
        state.nodes.insert(info.node.clone(), Node { info, commands });
        Ok(receiver)
    }

    async fn update_node(&self, info: NodeInfo) -> Result<(), BusError> {
        let mut state = self.lock();
        match state.nodes.get_mut(&info.node) {
            Some(node) if !node.commands.is_closed() => {
                node.info = info;
                Ok(())
            }
            _ => Err(BusError::UnknownNode { node: info.node }),
        }
    }

    async fn deregister_node(&self, node: &NodeId) -> Result<(), BusError> {
        self.lock().nodes.remove(node);
        Ok(())
    }

    async fn nodes(&self) -> Result<Vec<NodeInfo>, BusError> {
        let mut state = self.lock();
        state.nodes.retain(|_, node| !node.commands.is_closed());
        Ok(state.nodes.values().map(|node| node.info.clone()).collect())
    }

    async fn command(&self, node: &NodeId, command: NodeCommand) -> Result<(), BusError> {
        let unknown = || BusError::UnknownNode { node: node.clone() };
        let commands = self.commands_of(node).ok_or_else(unknown)?;
        commands.send_timeout(command, COMMAND_TIMEOUT).await.map_err(|error| match error {
            SendTimeoutError::Timeout(_) => BusError::Overloaded { node: node.clone() },
            SendTimeoutError::Closed(_) => unknown(),
        })
    }

    async fn notify(&self, notice: NodeNotice) -> Result<(), BusError> {
        for subscriber in self.subscribers_of(&notice.room) {
            if subscriber.send_timeout(notice.clone(), NOTICE_TIMEOUT).await.is_err() {
                self.remove_subscriber(&notice.room, &subscriber);
            }
        }
        Ok(())
    }

    async fn subscribe_room(&self, room: &RoomSid) -> Result<mpsc::Receiver<NodeNotice>, BusError> {
        let (sender, receiver) = mpsc::channel(NOTICE_QUEUE_MAX);
        let mut state = self.lock();
        if state.rooms.len() >= state.sweep_at.max(SWEEP_ROOMS_MIN) {
            state.rooms.retain(|_, subscribers| {
                subscribers.retain(|subscriber| !subscriber.is_closed());
                !subscribers.is_empty()
            });
            state.sweep_at = state.rooms.len().saturating_mul(2);
        }
        let subscribers = state.rooms.entry(room.clone()).or_default();
        subscribers.retain(|subscriber| !subscriber.is_closed());
        subscribers.push(sender);
        Ok(receiver)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::bus_conformance!(local, async { (LocalBus::new(), ()) });

    #[tokio::test]
    async fn dropped_subscriptions_do_not_pile_up() {
        let bus = LocalBus::new();
        for i in 0..10_000 {
            drop(bus.subscribe_room(&RoomSid::from_random(i)).await.unwrap());
            assert!(bus.lock().rooms.len() <= SWEEP_ROOMS_MIN);
        }
    }

    #[tokio::test]
    async fn a_full_bus_refuses_further_nodes() {
        let bus = LocalBus::new();
        let info = |i: usize| NodeInfo {
            node: NodeId::from_random(i as u128),
            region: String::new(),
            rooms: 0,
            connections: 0,
            load: 0.0,
        };
        let mut receivers = Vec::new();
        for i in 0..NODES_MAX {
            receivers.push(bus.register_node(info(i)).await.unwrap());
        }
        assert_eq!(bus.register_node(info(NODES_MAX)).await.unwrap_err(), BusError::Full);
        receivers.pop();
        assert!(bus.register_node(info(NODES_MAX)).await.is_ok());
    }
}
