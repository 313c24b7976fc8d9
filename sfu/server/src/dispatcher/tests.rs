use std::collections::BTreeSet;

use mio::{Poll, Token};
use zynk_bus::LocalBus;
use zynk_protocol::{CandidatePolicy, ConnectionRole, DataKind, ParticipantSid, TrackSid};
use zynk_sfu_core::ShardStats;

use super::*;

const BUDGET: Budget = Budget { busy: 0.6, connections: 2 };

struct Rig {
    bus: Arc<dyn Bus>,
    node: NodeId,
    workers: Vec<mpsc::Receiver<WorkerCommand>>,
    metrics: Vec<Arc<WorkerMetrics>>,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<()>,
    _polls: Vec<Poll>,
}

impl Rig {
    async fn new(workers: usize) -> Self {
        let bus: Arc<dyn Bus> = Arc::new(LocalBus::new());
        let node = NodeId::from_random(1);
        let shutdown = CancellationToken::new();
        let (mut senders, mut receivers, mut metrics, mut polls) = (vec![], vec![], vec![], vec![]);
        for _ in 0..workers {
            let poll = Poll::new().unwrap();
            let waker = Arc::new(Waker::new(poll.registry(), Token(0)).unwrap());
            polls.push(poll);
            let (sender, receiver) = mpsc::channel(8);
            let figures = Arc::new(WorkerMetrics::new(std::time::Instant::now()));
            senders.push(CommandSender { commands: sender, waker, metrics: figures.clone() });
            receivers.push(receiver);
            metrics.push(figures);
        }
        let dispatcher = Dispatcher::new(bus.clone(), node.clone(), "here".to_owned(), senders, BUDGET);
        let commands = bus.register_node(dispatcher.info()).await.unwrap();
        let task = tokio::spawn(dispatcher.run(commands, shutdown.clone()));
        Self { bus, node, workers: receivers, metrics, shutdown, task, _polls: polls }
    }

    /// The next thing that a worker is told.
    async fn told(&mut self, worker: usize) -> WorkerCommand {
        self.workers[worker].recv().await.unwrap()
    }

    async fn action(&mut self, worker: usize) -> NodeAction {
        match self.told(worker).await {
            WorkerCommand::Node(command) => command.action,
            siblings @ WorkerCommand::Siblings { .. } => panic!("{siblings:?}"),
        }
    }

    async fn siblings(&mut self, worker: usize) -> Vec<u8> {
        match self.told(worker).await {
            WorkerCommand::Siblings { shards, .. } => shards.iter().map(|shard| shard.0).collect(),
            command @ WorkerCommand::Node(_) => panic!("{command:?}"),
        }
    }

    async fn command(&self, room: u128, action: NodeAction) {
        let room = RoomSid::from_random(room);
        self.bus.command(&self.node, NodeCommand { room, action }).await.unwrap();
    }
}

fn open(connection: u64) -> NodeAction {
    NodeAction::OpenConnection(OpenConnection {
        connection: ConnectionId(connection),
        participant: ParticipantSid::from_random(connection.into()),
        role: ConnectionRole::Publisher,
        late_binding: false,
        candidates: CandidatePolicy::All,
    })
}

fn close(connection: u64) -> NodeAction {
    NodeAction::CloseConnection { connection: ConnectionId(connection) }
}

#[tokio::test]
async fn commands_follow_their_room_in_order() {
    let mut rig = Rig::new(2).await;
    rig.command(1, open(1)).await;
    rig.command(2, open(2)).await;
    rig.command(1, close(1)).await;
    rig.command(2, close(2)).await;
    rig.command(1, open(3)).await;
    for (worker, expected) in [(0, vec![open(1), close(1), open(3)]), (1, vec![open(2), close(2)])] {
        for action in expected {
            assert_eq!(rig.action(worker).await, action);
        }
    }
}

#[tokio::test]
async fn a_closed_room_is_not_brought_back_by_late_commands() {
    let mut rig = Rig::new(1).await;
    rig.command(1, open(1)).await;
    rig.command(1, NodeAction::CloseRoom).await;
    rig.command(1, close(1)).await;
    rig.command(2, open(2)).await;
    for action in [open(1), NodeAction::CloseRoom, open(2)] {
        assert_eq!(rig.action(0).await, action);
    }
}

#[tokio::test]
async fn the_end_closes_rooms_and_channels_and_leaves_the_bus() {
    let mut rig = Rig::new(2).await;
    rig.command(1, open(1)).await;
    rig.command(2, open(2)).await;
    for worker in 0..2 {
        assert!(matches!(rig.action(worker).await, NodeAction::OpenConnection(_)));
    }
    rig.shutdown.cancel();
    for worker in 0..2 {
        assert_eq!(rig.action(worker).await, NodeAction::CloseRoom);
        assert!(rig.workers[worker].recv().await.is_none());
    }
    rig.task.await.unwrap();
    assert!(rig.bus.nodes().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_dead_worker_answers_with_failure_and_gets_no_more_rooms() {
    let mut rig = Rig::new(2).await;
    let room = RoomSid::from_random(1);
    let mut notices = rig.bus.subscribe_room(&room).await.unwrap();
    rig.workers.remove(0);
    rig.command(1, open(1)).await;
    let notice = notices.recv().await.unwrap();
    assert_eq!(
        notice.event,
        NodeEvent::ConnectionState { connection: ConnectionId(1), state: ConnectionState::Failed }
    );
    rig.metrics[0].ended();
    for room in 2..6 {
        rig.command(room, open(1)).await;
        assert_eq!(rig.action(0).await, open(1));
    }
}

/// Two connections on the first worker, one on the second.
async fn spread() -> Rig {
    let mut rig = Rig::new(2).await;
    for id in 1..=3 {
        rig.command(1, open(id)).await;
    }
    for id in 1..=2 {
        assert_eq!(rig.action(0).await, open(id));
    }
    assert_eq!(rig.siblings(0).await, [0, 1]);
    assert_eq!(rig.siblings(1).await, [0, 1], "before the connection");
    assert_eq!(rig.action(1).await, open(3));
    rig
}

#[tokio::test]
async fn commands_of_a_spread_room_go_where_the_connection_is() {
    let mut rig = spread().await;
    let track: TrackSid = "TR_x".parse().unwrap();
    let unsubscribe = |id| NodeAction::Unsubscribe { connection: ConnectionId(id), track: track.clone() };
    for id in [3, 1, 99] {
        rig.command(1, unsubscribe(id)).await;
    }
    assert_eq!(rig.action(1).await, unsubscribe(3));
    assert_eq!(rig.action(0).await, unsubscribe(1));
    assert_eq!(rig.action(0).await, unsubscribe(99), "the first worker says that it is unknown");
    let mute = NodeAction::MuteTrack { track: track.clone(), muted: true };
    let remove = NodeAction::RemoveTrack { track: track.clone() };
    for action in [mute, remove] {
        rig.command(1, action.clone()).await;
        for worker in 0..2 {
            assert_eq!(rig.action(worker).await, action);
        }
    }
    let data = |ids: &[u64]| NodeAction::SendData {
        to: Recipients::Connections(ids.iter().map(|id| ConnectionId(*id)).collect()),
        kind: DataKind::Reliable,
        payload: "hello".into(),
    };
    rig.command(1, data(&[1, 3, 2])).await;
    assert_eq!(rig.action(0).await, data(&[1, 2]));
    assert_eq!(rig.action(1).await, data(&[3]));
    rig.command(1, close(3)).await;
    assert_eq!(rig.action(1).await, close(3));
    rig.command(1, close(1)).await;
    rig.command(1, open(4)).await;
    assert_eq!(rig.action(0).await, close(1));
    rig.command(1, NodeAction::CloseRoom).await;
    assert_eq!(rig.action(1).await, open(4), "the emptier of the room's workers");
    for worker in 0..2 {
        assert_eq!(rig.action(worker).await, NodeAction::CloseRoom);
    }
}

#[tokio::test]
async fn every_worker_of_a_room_tells_its_share() {
    let mut rig = spread().await;
    let ask = |shares| NodeAction::ReportRoom { request: 7, shares };
    rig.command(1, ask(1)).await;
    for worker in 0..2 {
        assert_eq!(rig.action(worker).await, ask(2));
    }
    let mut notices = rig.bus.subscribe_room(&RoomSid::from_random(2)).await.unwrap();
    rig.command(2, ask(1)).await;
    let empty = RoomReport { request: 7, shares: 1, ..RoomReport::default() };
    assert_eq!(
        notices.recv().await.unwrap().event,
        NodeEvent::RoomReport(Box::new(empty)),
        "nobody is there"
    );
}

#[tokio::test]
async fn a_worker_that_dies_takes_its_connections_and_the_others_of_the_room_go_on() {
    let mut rig = spread().await;
    let mut notices = rig.bus.subscribe_room(&RoomSid::from_random(1)).await.unwrap();
    rig.metrics[0].ended();
    rig.workers[0].close();
    rig.command(1, open(4)).await;
    let mut failed = BTreeSet::new();
    for _ in 0..2 {
        match notices.recv().await.unwrap().event {
            NodeEvent::ConnectionState { connection, state: ConnectionState::Failed } => {
                failed.insert(connection.0);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(failed, BTreeSet::from([1, 2]));
    assert_eq!(rig.siblings(1).await, [1]);
    assert_eq!(rig.action(1).await, open(4));
    rig.command(1, NodeAction::CloseRoom).await;
    assert_eq!(rig.action(1).await, NodeAction::CloseRoom);
    assert!(rig.workers[0].try_recv().is_err(), "nothing is said to the dead");
}

#[tokio::test(start_paused = true)]
async fn the_bus_learns_how_the_node_does() {
    let rig = Rig::new(2).await;
    let mut stats = ShardStats::default();
    stats.rooms = 3;
    stats.connections = 7;
    rig.metrics[0].publish_shard(&stats);
    rig.metrics[1].publish_shard(&stats);
    rig.metrics[1].publish_busy(Duration::from_millis(500), Duration::from_secs(1));
    tokio::time::sleep(REPORT_INTERVAL + Duration::from_millis(1)).await;
    let nodes = rig.bus.nodes().await.unwrap();
    let expected =
        NodeInfo { node: rig.node.clone(), region: "here".to_owned(), rooms: 6, connections: 14, load: 0.5 };
    assert_eq!(nodes, [expected]);
}

#[tokio::test]
async fn a_connection_goes_to_another_room_on_its_worker() {
    let mut rig = Rig::new(2).await;
    rig.command(1, open(1)).await;
    rig.command(2, open(2)).await;
    let adopt = NodeAction::AdoptConnection { connection: ConnectionId(1), from: RoomSid::from_random(1) };
    rig.command(2, adopt.clone()).await;
    rig.command(2, close(1)).await;
    // Both are told of each other before.
    assert_eq!(rig.action(0).await, open(1));
    assert_eq!(rig.siblings(0).await, [1, 0]);
    assert_eq!(rig.action(0).await, adopt);
    assert_eq!(rig.action(0).await, close(1));
    assert_eq!(rig.action(1).await, open(2));
    assert_eq!(rig.siblings(1).await, [1, 0]);
}

#[tokio::test]
async fn a_connection_that_is_gone_cannot_change_rooms() {
    let rig = Rig::new(1).await;
    let [from, to] = [1, 2].map(RoomSid::from_random);
    let mut left = rig.bus.subscribe_room(&from).await.unwrap();
    let mut entered = rig.bus.subscribe_room(&to).await.unwrap();
    let connection = ConnectionId(1);
    rig.command(2, NodeAction::AdoptConnection { connection, from }).await;
    assert_eq!(left.recv().await.unwrap().event, NodeEvent::ConnectionMoved { connection });
    let failed = NodeEvent::ConnectionState { connection, state: ConnectionState::Failed };
    assert_eq!(entered.recv().await.unwrap().event, failed);
}
