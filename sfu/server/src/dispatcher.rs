//! From the bus to the workers: every command goes to the worker that has its room.

use std::{sync::Arc, time::Duration};

use mio::Waker;
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;
use zynk_bus::Bus;
use zynk_protocol::{ConnectionState, NodeAction, NodeCommand, NodeEvent, NodeId, NodeInfo, NodeNotice};
use zynk_sfu_core::ShardIndex;

use crate::{
    metrics::WorkerMetrics,
    placement::{Placement, WorkerLoad},
};

/// Commands that wait for one worker. When it is full, the dispatcher waits, and so, in the end, do those
/// who send commands.
pub(crate) const COMMANDS_MAX: usize = 1_024;

/// How often the bus is told how the node does.
const REPORT_INTERVAL: Duration = Duration::from_secs(2);

/// Pause before a node that fell off the bus registers again.
const REGISTER_PAUSE: Duration = Duration::from_secs(1);

/// A worker's door for commands.
#[derive(Debug)]
pub(crate) struct CommandSender {
    pub(crate) commands: mpsc::Sender<NodeCommand>,
    pub(crate) waker: Arc<Waker>,
    pub(crate) metrics: Arc<WorkerMetrics>,
}

/// Places rooms and passes commands on.
pub(crate) struct Dispatcher {
    bus: Arc<dyn Bus>,
    node: NodeId,
    region: String,
    workers: Vec<CommandSender>,
    placement: Placement,
}

impl Dispatcher {
    pub(crate) fn new(bus: Arc<dyn Bus>, node: NodeId, region: String, workers: Vec<CommandSender>) -> Self {
        let placement = Placement::new(workers.len());
        Self { bus, node, region, workers, placement }
    }

    /// What the bus is told of the node.
    pub(crate) fn info(&self) -> NodeInfo {
        let sum = |value: fn(&WorkerMetrics) -> u64| {
            let sum: u64 = self.workers.iter().map(|worker| value(&worker.metrics)).sum();
            u32::try_from(sum).unwrap_or(u32::MAX)
        };
        NodeInfo {
            node: self.node.clone(),
            region: self.region.clone(),
            rooms: sum(WorkerMetrics::rooms),
            connections: sum(WorkerMetrics::connections),
            load: self.loads().iter().map(|load| load.busy).fold(0.0, f32::max),
        }
    }

    /// Runs until `shutdown`, then leaves the bus, closes all rooms and lets the workers' channels end.
    pub(crate) async fn run(
        mut self,
        mut commands: mpsc::Receiver<NodeCommand>,
        shutdown: CancellationToken,
    ) {
        loop {
            if shutdown.run_until_cancelled(self.serve(&mut commands)).await.is_none() {
                break;
            }
            tracing::error!("this node fell off the bus");
            match shutdown.run_until_cancelled(self.register()).await {
                Some(registered) => commands = registered,
                None => break,
            }
        }
        if let Err(error) = self.bus.deregister_node(&self.node).await {
            tracing::warn!(%error, "cannot leave the bus");
        }
        for (room, worker) in self.placement.close_all() {
            self.pass(worker, NodeCommand { room, action: NodeAction::CloseRoom }).await;
        }
        // A worker ends when its channel has ended, and sees that when it is woken.
        for CommandSender { commands, waker, .. } in self.workers {
            drop(commands);
            let _ = waker.wake();
        }
    }

    /// Passes commands on until there are no more.
    async fn serve(&mut self, commands: &mut mpsc::Receiver<NodeCommand>) {
        let mut report = interval(REPORT_INTERVAL);
        report.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.dispatch(command).await,
                    None => return,
                },
                _ = report.tick() => {
                    if let Err(error) = self.bus.update_node(self.info()).await {
                        tracing::warn!(%error, "cannot report to the bus");
                    }
                }
            }
        }
    }

    async fn register(&self) -> mpsc::Receiver<NodeCommand> {
        loop {
            sleep(REGISTER_PAUSE).await;
            match self.bus.register_node(self.info()).await {
                Ok(commands) => return commands,
                Err(error) => tracing::error!(%error, "cannot register on the bus"),
            }
        }
    }

    async fn dispatch(&mut self, command: NodeCommand) {
        let worker = match &command.action {
            NodeAction::CloseRoom => self.placement.close(&command.room),
            // Only a connection makes a room: late commands for a closed room must not bring it back.
            NodeAction::OpenConnection(_) => match self.placement.place(&command.room, &self.loads()) {
                Ok(worker) => Some(worker),
                Err(error) => {
                    tracing::error!(?error, "cannot place a room");
                    None
                }
            },
            _ => self.placement.find(&command.room),
        };
        match worker {
            Some(worker) => self.pass(worker, command).await,
            None => self.refuse(command).await,
        }
    }

    async fn pass(&self, worker: ShardIndex, command: NodeCommand) {
        let Some(door) = self.workers.get(usize::from(worker.0)) else { return };
        match door.commands.send(command).await {
            Ok(()) => {
                if let Err(error) = door.waker.wake() {
                    tracing::error!(%error, worker = worker.0, "cannot wake a worker");
                }
            }
            Err(mpsc::error::SendError(command)) => self.refuse(command).await,
        }
    }

    /// Answers a command that nobody obeys: a connection that was to be opened has failed. All others are
    /// about connections that do not exist, which their sender has been told.
    async fn refuse(&self, command: NodeCommand) {
        let NodeAction::OpenConnection(open) = command.action else { return };
        let event =
            NodeEvent::ConnectionState { connection: open.connection, state: ConnectionState::Failed };
        let notice = NodeNotice { node: self.node.clone(), room: command.room, event };
        if let Err(error) = self.bus.notify(notice).await {
            tracing::warn!(%error, "a notice was not delivered");
        }
    }

    fn loads(&self) -> Vec<WorkerLoad> {
        self.workers.iter().map(|worker| worker.metrics.load()).collect()
    }
}

#[cfg(test)]
mod tests;
