//! From the bus to the workers: every command goes to the worker that has the connection it names, or to all workers of its
//! room.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use mio::Waker;
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;
use zynk_bus::Bus;
use zynk_protocol::{
    ConnectionId, ConnectionState, NodeAction, NodeCommand, NodeEvent, NodeId, NodeInfo, NodeNotice,
    OpenConnection, Recipients, RoomReport, RoomSid,
};
use zynk_sfu_core::ShardIndex;

use crate::{
    metrics::WorkerMetrics,
    placement::{Budget, Lost, Placed, Placement, WorkerLoad},
};

/// Commands that wait for one worker. When it is full, the dispatcher waits, and so, in the end, do those
/// who send commands.
pub(crate) const COMMANDS_MAX: usize = 1_024;

/// How often the bus is told how the node does.
const REPORT_INTERVAL: Duration = Duration::from_secs(2);

/// Pause before a node that fell off the bus registers again.
const REGISTER_PAUSE: Duration = Duration::from_secs(1);

/// What a worker is told, in order.
#[derive(Debug)]
pub(crate) enum WorkerCommand {
    /// An order from signaling.
    Node(NodeCommand),
    /// All workers that have a share of a room.
    Siblings { room: RoomSid, shards: Vec<ShardIndex> },
}

/// A worker's door for commands.
#[derive(Debug)]
pub(crate) struct CommandSender {
    pub(crate) commands: mpsc::Sender<WorkerCommand>,
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
    /// Workers that turned out to be dead and still have rooms.
    died: Vec<ShardIndex>,
}

impl Dispatcher {
    pub(crate) fn new(
        bus: Arc<dyn Bus>,
        node: NodeId,
        region: String,
        workers: Vec<CommandSender>,
        budget: Budget,
    ) -> Self {
        let placement = Placement::new(workers.len(), budget);
        Self { bus, node, region, workers, placement, died: Vec::new() }
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
        for (room, workers) in self.placement.close_all() {
            self.pass_all(&workers, NodeCommand { room, action: NodeAction::CloseRoom }).await;
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
                    self.bury_the_dead().await;
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
        let NodeCommand { room, action } = command;
        match action {
            NodeAction::OpenConnection(open) => self.open(room, open).await,
            NodeAction::AdoptConnection { connection, from } => self.adopt(room, connection, from).await,
            NodeAction::CloseRoom => {
                let workers = self.placement.close(&room);
                self.pass_all(&workers, NodeCommand { room, action }).await;
            }
            // Of a track, only the worker that has it acts on it; the others ignore it.
            NodeAction::RemoveTrack { .. } | NodeAction::MuteTrack { .. } | NodeAction::LimitAudio { .. } => {
                let workers = self.placement.workers(&room).to_vec();
                self.pass_all(&workers, NodeCommand { room, action }).await;
            }
            NodeAction::SendData { to: Recipients::Connections(connections), kind, payload } => {
                for (worker, connections) in self.split(&room, connections) {
                    let to = Recipients::Connections(connections);
                    let action = NodeAction::SendData { to, kind, payload: payload.clone() };
                    self.pass(worker, WorkerCommand::Node(NodeCommand { room: room.clone(), action })).await;
                }
            }
            NodeAction::CloseConnection { connection } => {
                let worker = self.placement.find(&room, connection);
                self.placement.forget(&room, connection);
                self.pass_to(worker, NodeCommand { room, action }).await;
            }
            NodeAction::RemoteOffer { connection, .. }
            | NodeAction::RemoteAnswer { connection, .. }
            | NodeAction::RemoteCandidate { connection, .. }
            | NodeAction::RestartIce { connection }
            | NodeAction::Unsubscribe { connection, .. }
            | NodeAction::ConfigureSubscription { connection, .. } => {
                let worker = self.placement.find(&room, connection);
                self.pass_to(worker, NodeCommand { room, action }).await;
            }
            NodeAction::ReportRoom { request, .. } => self.report_room(room, request).await,
            NodeAction::ExpectTrack(ref track) => {
                let worker = self.placement.find(&room, track.connection);
                self.pass_to(worker, NodeCommand { room, action }).await;
            }
            NodeAction::Subscribe(ref subscribe) => {
                let worker = self.placement.find(&room, subscribe.connection);
                self.pass_to(worker, NodeCommand { room, action }).await;
            }
        }
        if !self.died.is_empty() {
            self.bury_the_dead().await;
        }
    }

    /// Only a connection makes a room: late commands for a closed room must not bring it back.
    async fn open(&mut self, room: RoomSid, open: OpenConnection) {
        self.bury_the_dead().await;
        let loads = self.loads();
        match self.placement.place(&room, open.connection, &loads) {
            Ok(Placed { worker, joined }) => {
                if joined {
                    self.tell_siblings(&room).await;
                }
                let action = NodeAction::OpenConnection(open);
                self.pass(worker, WorkerCommand::Node(NodeCommand { room, action })).await;
            }
            Err(error) => {
                tracing::error!(?error, "cannot place a connection");
                self.report_failed(room, open.connection).await;
            }
        }
    }

    /// A connection stays on its worker when it changes rooms: if the room has others, it is spread from then on.
    async fn adopt(&mut self, room: RoomSid, connection: ConnectionId, from: RoomSid) {
        let Some(Placed { worker, joined }) = self.placement.adopt(&from, &room, connection) else {
            self.notify(from, NodeEvent::ConnectionMoved { connection }).await;
            return self.report_failed(room, connection).await;
        };
        if joined {
            self.tell_siblings(&room).await;
        }
        let action = NodeAction::AdoptConnection { connection, from };
        self.pass(worker, WorkerCommand::Node(NodeCommand { room, action })).await;
    }

    /// Receivers by their worker.
    fn split(
        &self,
        room: &RoomSid,
        connections: Vec<ConnectionId>,
    ) -> BTreeMap<ShardIndex, Vec<ConnectionId>> {
        let mut split: BTreeMap<ShardIndex, Vec<ConnectionId>> = BTreeMap::new();
        for connection in connections {
            if let Some(worker) = self.placement.find(room, connection) {
                split.entry(worker).or_default().push(connection);
            }
        }
        split
    }

    /// Tells the workers of a room of each other: before anything else that depends on it.
    async fn tell_siblings(&mut self, room: &RoomSid) {
        let shards = self.placement.workers(room).to_vec();
        for worker in &shards {
            let (room, shards) = (room.clone(), shards.clone());
            self.pass(*worker, WorkerCommand::Siblings { room, shards }).await;
        }
    }

    /// Parts rooms from workers that have died: their connections have failed, and the other workers go on.
    async fn bury_the_dead(&mut self) {
        let loads = self.loads();
        let workers = (0u8..=u8::MAX).map(ShardIndex).zip(&loads);
        let dead = workers.filter(|(worker, load)| !load.alive && self.placement.has_rooms(*worker));
        self.died.extend(dead.map(|(worker, _)| worker));
        while let Some(worker) = self.died.pop() {
            for Lost { room, connections, left } in self.placement.bury(worker) {
                if !left.is_empty() {
                    self.tell_siblings(&room).await;
                }
                for connection in connections {
                    self.report_failed(room.clone(), connection).await;
                }
            }
        }
    }

    async fn pass_to(&mut self, worker: Option<ShardIndex>, command: NodeCommand) {
        // Of a room that does not exist, which its sender has been told.
        if let Some(worker) = worker {
            self.pass(worker, WorkerCommand::Node(command)).await;
        }
    }

    async fn pass_all(&mut self, workers: &[ShardIndex], command: NodeCommand) {
        for worker in workers {
            self.pass(*worker, WorkerCommand::Node(command.clone())).await;
        }
    }

    async fn pass(&mut self, worker: ShardIndex, command: WorkerCommand) {
        let Some(door) = self.workers.get(usize::from(worker.0)) else { return };
        match door.commands.send(command).await {
            Ok(()) => {
                if let Err(error) = door.waker.wake() {
                    tracing::error!(%error, worker = worker.0, "cannot wake a worker");
                }
            }
            // Its connections are reported when it is buried, the one that was to be opened among them.
            Err(_) => self.died.push(worker),
        }
    }

    /// Each worker of a room tells what it has. Of a room that has no connections there is nothing to tell.
    async fn report_room(&mut self, room: RoomSid, request: u64) {
        let workers = self.placement.workers(&room).to_vec();
        let shares = u32::try_from(workers.len()).unwrap_or(u32::MAX);
        if workers.is_empty() {
            let report = RoomReport { request, shares: 1, ..RoomReport::default() };
            return self.notify(room, NodeEvent::RoomReport(Box::new(report))).await;
        }
        self.pass_all(&workers, NodeCommand { room, action: NodeAction::ReportRoom { request, shares } })
            .await;
    }

    async fn report_failed(&self, room: RoomSid, connection: ConnectionId) {
        self.notify(room, NodeEvent::ConnectionState { connection, state: ConnectionState::Failed }).await;
    }

    async fn notify(&self, room: RoomSid, event: NodeEvent) {
        let notice = NodeNotice { node: self.node.clone(), room, event };
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
