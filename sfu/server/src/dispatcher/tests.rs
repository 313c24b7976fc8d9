use mio::{Poll, Token};
use zynk_bus::LocalBus;
use zynk_protocol::{CandidatePolicy, ConnectionId, ConnectionRole, OpenConnection, ParticipantSid, RoomSid};
use zynk_sfu_core::ShardStats;

use super::*;

struct Rig {
    bus: Arc<dyn Bus>,
    node: NodeId,
    workers: Vec<mpsc::Receiver<NodeCommand>>,
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
        let dispatcher = Dispatcher::new(bus.clone(), node.clone(), "here".to_owned(), senders);
        let commands = bus.register_node(dispatcher.info()).await.unwrap();
        let task = tokio::spawn(dispatcher.run(commands, shutdown.clone()));
        Self { bus, node, workers: receivers, metrics, shutdown, task, _polls: polls }
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
            assert_eq!(rig.workers[worker].recv().await.unwrap().action, action);
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
    let worker = &mut rig.workers[0];
    assert_eq!(worker.recv().await.unwrap().action, open(1));
    assert_eq!(worker.recv().await.unwrap().action, NodeAction::CloseRoom);
    assert_eq!(worker.recv().await.unwrap().action, open(2));
}

#[tokio::test]
async fn the_end_closes_rooms_and_channels_and_leaves_the_bus() {
    let mut rig = Rig::new(2).await;
    rig.command(1, open(1)).await;
    rig.command(2, open(2)).await;
    for worker in &mut rig.workers {
        assert!(matches!(worker.recv().await.unwrap().action, NodeAction::OpenConnection(_)));
    }
    rig.shutdown.cancel();
    for worker in &mut rig.workers {
        assert_eq!(worker.recv().await.unwrap().action, NodeAction::CloseRoom);
        assert_eq!(worker.recv().await, None);
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
        assert_eq!(rig.workers[0].recv().await.unwrap().action, open(1));
    }
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
