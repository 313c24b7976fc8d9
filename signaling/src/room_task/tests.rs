//! Rooms as tasks: what holds between sessions, with the store, and with the node.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use zynk_auth::{Claims, KeyRing, VideoGrants};
use zynk_bus::{Bus, LocalBus};
use zynk_protocol::livekit::leave_request::Action;
use zynk_protocol::livekit::participant_info::State;
use zynk_protocol::livekit::{self, SignalRequest, signal_request, signal_response};
use zynk_protocol::{
    ConnectionState, Identity, NodeAction, NodeCommand, NodeEvent, NodeId, NodeInfo, NodeNotice,
    OpenConnection, RoomName,
};
use zynk_store::{MemoryStore, Store};

use crate::admin::{AdminError, AdminRequest, AdminResponse};
use crate::config::SignalingConfig;
use crate::directory::{Directory, SessionHandle};
use crate::join::{JoinError, JoinParams};
use crate::responses::{RESPONSE_BYTES_MAX, RESPONSES_MAX};
use crate::room::RoomInput;

/// How long a condition may take to come true.
const DEADLINE: Duration = Duration::from_secs(10);

/// A track of this name stands for a defect in the handling of its announcement.
const DEFECT: &str = "a defect";

pub(super) fn fail_if_asked_to(input: &RoomInput) {
    if let RoomInput::Admin { request, .. } = input
        && let AdminRequest::UpdateRoomMetadata { metadata } = request.as_ref()
    {
        assert_ne!(metadata, DEFECT);
    }
    if let RoomInput::Signal { request, .. } = input
        && let Some(signal_request::Message::AddTrack(track)) = &request.message
    {
        assert_ne!(track.name, DEFECT);
    }
}

struct Rig {
    directory: Directory,
    store: Arc<MemoryStore>,
    node: Option<tokio::task::JoinHandle<()>>,
    _webhooks: mpsc::Receiver<livekit::WebhookEvent>,
}

impl Rig {
    async fn start() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(set_up: impl FnOnce(&mut SignalingConfig)) -> Self {
        let mut rig = Self::without_node(set_up).await;
        rig.1.node = Some(register(rig.0.as_ref()).await);
        rig.1
    }

    async fn without_node(set_up: impl FnOnce(&mut SignalingConfig)) -> (Arc<LocalBus>, Self) {
        let mut config = SignalingConfig::default();
        set_up(&mut config);
        let keys = Arc::new(KeyRing::single("devkey", "secret"));
        let bus = Arc::new(LocalBus::new());
        let store = Arc::new(MemoryStore::new());
        let (sender, webhooks) = mpsc::channel(100);
        let directory = Directory::new(
            Arc::new(config),
            keys,
            Arc::default(),
            Arc::clone(&store) as Arc<dyn Store>,
            Arc::clone(&bus) as Arc<dyn Bus>,
            sender,
        );
        (bus, Self { directory, store, node: None, _webhooks: webhooks })
    }

    fn params(&self, identity: &str) -> JoinParams {
        let claims = Claims { video: VideoGrants::join("lobby"), ..Claims::for_identity(identity) };
        JoinParams::from_claims(claims, &self.directory.config().limits).unwrap()
    }

    async fn join(&self, identity: &str) -> SessionHandle {
        self.directory.join(self.params(identity)).await.unwrap()
    }
}

/// A node that takes commands and does nothing.
async fn register(bus: &LocalBus) -> tokio::task::JoinHandle<()> {
    let node = NodeId::from_random(1);
    let info = NodeInfo { node, region: String::new(), rooms: 0, connections: 0, load: 0.0 };
    let mut commands: mpsc::Receiver<NodeCommand> = bus.register_node(info).await.unwrap();
    tokio::spawn(async move { while commands.recv().await.is_some() {} })
}

/// A node whose connections are up at once, and change rooms when they are told to.
async fn register_lively(bus: Arc<LocalBus>, id: u128) -> tokio::task::JoinHandle<()> {
    let node = NodeId::from_random(id);
    let info = NodeInfo { node: node.clone(), region: String::new(), rooms: 0, connections: 0, load: 0.0 };
    let mut commands: mpsc::Receiver<NodeCommand> = bus.register_node(info).await.unwrap();
    tokio::spawn(async move {
        while let Some(NodeCommand { room, action }) = commands.recv().await {
            let (room, event) = match action {
                NodeAction::OpenConnection(OpenConnection { connection, .. }) => {
                    let state = ConnectionState::Connected;
                    (room, NodeEvent::ConnectionState { connection, state })
                }
                NodeAction::AdoptConnection { connection, from } => {
                    (from, NodeEvent::ConnectionMoved { connection })
                }
                _ => continue,
            };
            bus.notify(NodeNotice { node: node.clone(), room, event }).await.unwrap();
        }
    })
}

/// A session in the room `from` whose participant is connected.
async fn join_active(rig: &Rig, identity: &str) -> SessionHandle {
    let mut params = rig.params(identity);
    params.client.protocol = 17;
    params.permission.can_update_metadata = true;
    let session = rig.directory.join(params).await.unwrap();
    let question = || AdminRequest::GetParticipant(Identity::new(identity));
    let active = async {
        loop {
            match rig.directory.admin(&RoomName::new("lobby"), question()).await {
                Ok(AdminResponse::Participant(info)) if info.state() == State::Active => break,
                _ => tokio::task::yield_now().await,
            }
        }
    };
    tokio::time::timeout(DEADLINE, active).await.expect("it does not become active");
    session
}

async fn announce(session: &SessionHandle, cid: &str, name: &str) {
    let track = livekit::AddTrackRequest { cid: cid.into(), name: name.into(), ..Default::default() };
    let message = Some(signal_request::Message::AddTrack(track));
    session.requests.send(Box::new(SignalRequest { message })).await.unwrap();
}

/// All that comes until the session ends.
async fn rest(session: &mut SessionHandle) -> Vec<signal_response::Message> {
    let all = async {
        let mut messages = Vec::new();
        while let Some(response) = session.responses.recv().await {
            messages.extend(response.message);
        }
        messages
    };
    tokio::time::timeout(DEADLINE, all).await.expect("the session does not end")
}

async fn assert_alive(session: &mut SessionHandle, cid: &str) {
    announce(session, cid, "").await;
    let confirmed = async {
        while let Some(response) = session.responses.recv().await {
            if matches!(&response.message, Some(signal_response::Message::TrackPublished(p)) if p.cid == cid)
            {
                return true;
            }
        }
        false
    };
    assert!(tokio::time::timeout(DEADLINE, confirmed).await.expect("nothing came"), "the session has ended");
}

fn room_sid(session: &SessionHandle) -> String {
    match &session.first.message {
        Some(signal_response::Message::Join(join)) => join.room.as_ref().unwrap().sid.clone(),
        other => panic!("{other:?}"),
    }
}

fn left(messages: &[signal_response::Message]) -> Action {
    match messages.last() {
        Some(signal_response::Message::Leave(leave)) => leave.action(),
        _ => panic!("{messages:?}"),
    }
}

#[tokio::test]
async fn a_session_whose_handling_fails_is_lost_alone() {
    let rig = Rig::start().await;
    let mut alice = rig.join("alice").await;
    let mut bob = rig.join("bob").await;
    announce(&alice, "cam", DEFECT).await;
    assert_eq!(left(&rest(&mut alice).await), Action::Disconnect);
    assert_alive(&mut bob, "cam").await;
    assert_eq!(rig.directory.list_rooms(&[]).await[0].num_participants, 1);
    assert_eq!(room_sid(&rig.join("alice").await), room_sid(&bob));
}

#[tokio::test]
async fn a_call_of_the_server_api_that_fails_costs_its_caller_alone() {
    let rig = Rig::start().await;
    let mut bob = rig.join("bob").await;
    let update = |metadata: &str| AdminRequest::UpdateRoomMetadata { metadata: metadata.to_owned() };
    let lobby = RoomName::new("lobby");
    assert!(rig.directory.admin(&lobby, update(DEFECT)).await.is_err());
    assert!(rig.directory.admin(&lobby, update("fine")).await.is_ok());
    assert_alive(&mut bob, "cam").await;
}

#[tokio::test]
async fn a_client_that_takes_nothing_loses_its_session_alone() {
    let rig = Rig::start().await;
    let mut slow = rig.join("slow").await;
    let mut bob = rig.join("bob").await;
    for number in 0..=RESPONSES_MAX {
        let metadata = number.to_string();
        let request = AdminRequest::UpdateRoomMetadata { metadata };
        rig.directory.admin(&RoomName::new("lobby"), request).await.unwrap();
        while bob.responses.try_recv().is_some() {}
    }
    // It gets what was waiting, and then the end.
    assert!(rest(&mut slow).await.len() <= RESPONSES_MAX);
    assert_alive(&mut bob, "cam").await;
}

#[tokio::test]
async fn a_client_that_takes_nothing_costs_a_bounded_number_of_bytes() {
    const METADATA_BYTES: usize = 500_000;
    let rig = Rig::start().await;
    let mut slow = rig.join("slow").await;
    let mut bob = rig.join("bob").await;
    for number in 0..20_u8 {
        let metadata = char::from(b'a' + number).to_string().repeat(METADATA_BYTES);
        let request = AdminRequest::UpdateRoomMetadata { metadata };
        rig.directory.admin(&RoomName::new("lobby"), request).await.unwrap();
        while bob.responses.try_recv().is_some() {}
    }
    let waiting = rest(&mut slow).await;
    let bytes: usize = waiting
        .into_iter()
        .map(|message| prost::Message::encoded_len(&livekit::SignalResponse { message: Some(message) }))
        .sum();
    assert!(bytes < RESPONSE_BYTES_MAX + METADATA_BYTES + 10_000, "{bytes} bytes");
    assert_alive(&mut bob, "cam").await;
}

#[tokio::test]
async fn a_room_whose_node_is_gone_sends_everybody_to_join_again() {
    let mut rig = Rig::start().await;
    let mut alice = rig.join("alice").await;
    let node = rig.node.take().unwrap();
    node.abort();
    drop(node.await);
    announce(&alice, "cam", "").await;
    assert_eq!(left(&rest(&mut alice).await), Action::Reconnect);
}

#[tokio::test]
async fn without_a_node_nobody_joins() {
    let (bus, rig) = Rig::without_node(|_| {}).await;
    let refused = rig.directory.join(rig.params("alice")).await.unwrap_err();
    assert_eq!(refused, JoinError::Unavailable("no media node"));
    // The failure does not stick.
    let _node = register(&bus).await;
    rig.join("alice").await;
}

#[tokio::test]
async fn a_deleted_room_can_be_opened_at_once() {
    let rig = Rig::start().await;
    let name = RoomName::new("lobby");
    let mut alice = rig.join("alice").await;
    assert!(rig.store.room(&name).await.unwrap().is_some());
    let first = room_sid(&alice);
    rig.directory.delete_room(&name).await.unwrap();
    assert_ne!(room_sid(&rig.join("bob").await), first);
    assert_eq!(left(&rest(&mut alice).await), Action::Disconnect);
    assert_eq!(rig.store.room(&name).await.unwrap().unwrap().name, name);
}

#[tokio::test]
async fn a_stored_room_goes_on_where_it_was() {
    let rig = Rig::start().await;
    let request =
        livekit::CreateRoomRequest { name: "lobby".into(), metadata: "m".into(), ..Default::default() };
    let created = rig.directory.create_room(request).await.unwrap();
    rig.directory.shutdown().await;
    let (bus, mut next) = Rig::without_node(|_| {}).await;
    next.node = Some(register(&bus).await);
    next.store.put_room(&rig.store.room(&RoomName::new("lobby")).await.unwrap().unwrap()).await.unwrap();
    let alice = next.join("alice").await;
    let Some(signal_response::Message::Join(join)) = alice.first.message else { panic!() };
    let room = join.room.unwrap();
    assert_eq!((room.sid, room.metadata), (created.sid, "m".into()));
}

#[tokio::test]
async fn rooms_are_bounded() {
    let rig = Rig::with(|config| config.limits.rooms_max = 1).await;
    rig.join("alice").await;
    let request = livekit::CreateRoomRequest { name: "second".into(), ..Default::default() };
    assert!(rig.directory.create_room(request).await.is_err());
    rig.join("bob").await;
}

/// L120: what a client asks for while it is moved is answered once and in order, by the one room or the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l120_no_request_is_lost_when_a_participant_moves() {
    const REQUESTS: u32 = 200;
    let (bus, mut rig) = Rig::without_node(|_| {}).await;
    rig.node = Some(register_lively(bus, 1).await);
    let mut alice = join_active(&rig, "alice").await;
    let requests = alice.requests.clone();
    let asking = tokio::spawn(async move {
        for request_id in 1..=REQUESTS {
            let name = format!("alice {request_id}");
            let update = livekit::UpdateParticipantMetadata { name, request_id, ..Default::default() };
            let message = Some(signal_request::Message::UpdateMetadata(update));
            requests.send(Box::new(SignalRequest { message })).await.unwrap();
        }
    });
    let rooms = ["lobby", "stage"].map(RoomName::new);
    let there_and_back = async {
        for turn in 0..4 {
            let (from, to) = (&rooms[turn % 2], &rooms[(turn + 1) % 2]);
            // Between two moves the node has its say.
            loop {
                match rig.directory.move_participant(from, Identity::new("alice"), to.clone()).await {
                    Err(AdminError::FailedPrecondition("the participant is being moved")) => {
                        tokio::task::yield_now().await;
                    }
                    outcome => break outcome.unwrap(),
                }
            }
        }
    };
    tokio::time::timeout(DEADLINE, there_and_back).await.expect("the moves do not end");
    asking.await.unwrap();
    let answers = async {
        let (mut answered, mut moved) = (Vec::new(), Vec::new());
        while answered.len() < REQUESTS as usize || moved.len() < 4 {
            match alice.responses.recv().await.expect("the session has ended").message {
                Some(signal_response::Message::RequestResponse(response)) => {
                    answered.push(response.request_id)
                }
                Some(signal_response::Message::RoomMoved(to)) => moved.push(to.room.unwrap().name),
                _ => {}
            }
        }
        (answered, moved)
    };
    let (answered, moved) = tokio::time::timeout(DEADLINE, answers).await.expect("an answer is lost");
    assert_eq!(answered, (1..=REQUESTS).collect::<Vec<_>>());
    assert_eq!(moved, ["stage", "lobby", "stage", "lobby"]);
    let left = rig.directory.admin(&rooms[1], AdminRequest::ListParticipants).await;
    assert_eq!(left, Ok(AdminResponse::Participants(Vec::new())));
}

/// L120: where the other room is on another node, the client goes there by itself.
#[tokio::test]
async fn l120_a_participant_joins_a_room_of_another_node_anew() {
    let (bus, mut rig) = Rig::without_node(|config| config.region = "here".into()).await;
    let first = register_lively(Arc::clone(&bus), 1).await;
    let mut alice = join_active(&rig, "alice").await;
    // The least loaded node of the region gets new rooms.
    rig.node = Some(register_lively(Arc::clone(&bus), 2).await);
    let node = NodeId::from_random(2);
    let info = NodeInfo { node, region: "here".into(), rooms: 0, connections: 0, load: 0.0 };
    bus.update_node(info).await.unwrap();
    let (lobby, stage) = (RoomName::new("lobby"), RoomName::new("stage"));
    rig.directory.move_participant(&lobby, Identity::new("alice"), stage).await.unwrap();
    assert_eq!(left(&rest(&mut alice).await), Action::Reconnect);
    first.abort();
}

#[tokio::test]
async fn l120_where_nobody_can_be_moved_to_everybody_stays() {
    let (bus, mut rig) = Rig::without_node(|config| config.room.auto_create = false).await;
    rig.node = Some(register_lively(bus, 1).await);
    let request = livekit::CreateRoomRequest { name: "lobby".into(), ..Default::default() };
    rig.directory.create_room(request).await.unwrap();
    let mut alice = join_active(&rig, "alice").await;
    let (lobby, stage) = (RoomName::new("lobby"), RoomName::new("stage"));
    let refused = rig.directory.move_participant(&lobby, Identity::new("alice"), stage.clone()).await;
    assert!(matches!(refused, Err(AdminError::NotFound(_))), "{refused:?}");
    let request =
        livekit::CreateRoomRequest { name: "stage".into(), max_participants: 1, ..Default::default() };
    rig.directory.create_room(request).await.unwrap();
    let mut params = rig.params("bob");
    params.room = stage.clone();
    let _bob = rig.directory.join(params).await.unwrap();
    let refused = rig.directory.move_participant(&lobby, Identity::new("alice"), stage).await;
    assert!(matches!(refused, Err(AdminError::FailedPrecondition(_))), "{refused:?}");
    assert_alive(&mut alice, "cam").await;
}
