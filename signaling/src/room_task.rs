//! The task that runs one room: it waits, hands in what happened, and carries out what comes back.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{mpsc, oneshot};
use zynk_bus::BusError;
use zynk_protocol::{
    ConnectionId, Identity, NodeAction, NodeCommand, NodeEvent, NodeId, NodeNotice, ParticipantSid, RoomName,
    RoomSid, livekit,
};
use zynk_store::RoomRecord;

use crate::admin::{AdminError, AdminRequest, AdminResponse};
use crate::directory::{Inner, SessionHandle, SessionPermit};
use crate::join::{JoinError, JoinParams};
use crate::placement;
use crate::responses::{self, RESPONSES_MAX, ResponseRefused, ResponseSender};
use crate::room::{Blame, ReplyId, Room, RoomInput, RoomOutput, RoomSettings, SessionId};
use crate::route::{self, NextRoute, Route};

mod moves;

use moves::Moves;
pub(crate) use moves::Parcel;

/// Messages that wait for a room. When the mailbox is full, whoever sends to it waits.
pub(crate) const MAILBOX_MAX: usize = 1_024;

/// Requests of one client that wait for the room. When it is full, the client is read more slowly.
const REQUESTS_MAX: usize = 16;

/// How long a room waits at most when nothing is due.
const IDLE: Duration = Duration::from_secs(3_600);

/// What a room is told by this process.
pub(crate) enum RoomMessage {
    Join {
        params: Box<JoinParams>,
        permit: SessionPermit,
        reply: oneshot::Sender<Result<SessionHandle, JoinError>>,
    },
    CheckJoin {
        params: Box<JoinParams>,
        reply: oneshot::Sender<Result<(), JoinError>>,
    },
    Signal {
        session: SessionId,
        request: Box<livekit::SignalRequest>,
    },
    SessionClosed {
        session: SessionId,
    },
    /// A session's requests have all come; see [`crate::route`].
    RequestsStopped {
        session: SessionId,
    },
    /// Answered with whether the participant counts against a room's limit.
    CheckDeparture {
        identity: Identity,
        reply: oneshot::Sender<Result<bool, AdminError>>,
    },
    CheckArrival {
        identity: Identity,
        counts: bool,
        reply: oneshot::Sender<Result<NodeId, AdminError>>,
    },
    /// Answered with none where the other room's node is another than this one's.
    Depart {
        identity: Identity,
        destination: RoomName,
        node: NodeId,
        reply: oneshot::Sender<Result<Option<Parcel>, AdminError>>,
    },
    /// Answered with what cannot be taken in.
    Arrive {
        parcel: Box<Parcel>,
        reply: oneshot::Sender<Result<(), Box<Parcel>>>,
    },
    Late(NodeEvent),
    Settled {
        connections: Vec<ConnectionId>,
    },
    Stranded {
        connections: Vec<ConnectionId>,
    },
    Admin {
        request: Box<AdminRequest>,
        reply: oneshot::Sender<Result<AdminResponse, AdminError>>,
    },
    Shutdown,
}

/// Runs a room from its placement to its end.
pub(crate) async fn run(
    inner: Arc<Inner>,
    name: RoomName,
    request: livekit::CreateRoomRequest,
    mailbox: mpsc::Receiver<RoomMessage>,
    sender: mpsc::WeakSender<RoomMessage>,
) {
    // Looks whether the mailbox is closed, so that it has to outlive it; also when a panic ends the task.
    let _entry = Entry { inner: Arc::clone(&inner), name: name.clone() };
    let mut mailbox = mailbox;
    match RoomTask::open(Arc::clone(&inner), name, &request, sender).await {
        Ok(mut task) => {
            inner.metrics.rooms.inc();
            task.run(&mut mailbox).await;
        }
        Err(reason) => {
            tracing::warn!(reason, "a room cannot be opened");
            refuse(&mut mailbox, reason);
        }
    }
}

/// A room's place in the directory.
struct Entry {
    inner: Arc<Inner>,
    name: RoomName,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.inner.forget_room(&self.name);
    }
}

/// Answers everybody who waits for a room that cannot be opened.
fn refuse(mailbox: &mut mpsc::Receiver<RoomMessage>, reason: &'static str) {
    mailbox.close();
    while let Ok(message) = mailbox.try_recv() {
        match message {
            RoomMessage::Join { reply, .. } => drop(reply.send(Err(JoinError::Unavailable(reason)))),
            RoomMessage::CheckJoin { reply, .. } => drop(reply.send(Err(JoinError::Unavailable(reason)))),
            RoomMessage::Admin { reply, .. } => drop(reply.send(Err(AdminError::Unavailable(reason)))),
            RoomMessage::CheckDeparture { reply, .. } => {
                drop(reply.send(Err(AdminError::Unavailable(reason))));
            }
            RoomMessage::CheckArrival { reply, .. } => drop(reply.send(Err(AdminError::Unavailable(reason)))),
            RoomMessage::Depart { reply, .. } => drop(reply.send(Err(AdminError::Unavailable(reason)))),
            RoomMessage::Arrive { parcel, reply } => drop(reply.send(Err(parcel))),
            RoomMessage::Signal { .. }
            | RoomMessage::SessionClosed { .. }
            | RoomMessage::RequestsStopped { .. }
            | RoomMessage::Late(_)
            | RoomMessage::Settled { .. }
            | RoomMessage::Stranded { .. }
            | RoomMessage::Shutdown => {}
        }
    }
}

/// The room's ends of a session.
#[derive(Debug)]
struct Door {
    responses: ResponseSender,
    switches: mpsc::Sender<NextRoute>,
}

struct RoomTask {
    inner: Arc<Inner>,
    room: Room,
    sid: RoomSid,
    node: NodeId,
    notices: mpsc::Receiver<NodeNotice>,
    mailbox: mpsc::WeakSender<RoomMessage>,
    sessions: HashMap<SessionId, Door>,
    next_session: u64,
    moves: Moves,
    replies: HashMap<ReplyId, oneshot::Sender<Result<AdminResponse, AdminError>>>,
    next_reply: u64,
    participants: i64,
    /// The outcome of the join that is being handled.
    joining: Option<Result<ParticipantSid, JoinError>>,
    /// The session that is being begun: what it is answered does not count against its bytes.
    beginning: Option<SessionId>,
    node_lost: bool,
    finished: bool,
}

impl RoomTask {
    async fn open(
        inner: Arc<Inner>,
        name: RoomName,
        request: &livekit::CreateRoomRequest,
        mailbox: mpsc::WeakSender<RoomMessage>,
    ) -> Result<Self, &'static str> {
        let nodes = inner.bus.nodes().await.map_err(|_| "the bus is not available")?;
        let node = placement::pick_node(&nodes, &inner.config.region).ok_or("no media node")?;
        let record = open_record(&inner, name, request).await?;
        let sid = record.sid.clone();
        // Before the first command, so that no notice is missed.
        let notices = inner.bus.subscribe_room(&sid).await.map_err(|_| "the bus is not available")?;
        let settings = RoomSettings {
            config: Arc::clone(&inner.config),
            keys: Arc::clone(&inner.keys),
            relays: Arc::clone(&inner.relays),
            node: node.clone(),
            record,
            seed: rand::random(),
        };
        let room = Room::new(Instant::now(), unix_ms(), settings);
        Ok(Self {
            inner,
            room,
            sid,
            node,
            notices,
            mailbox,
            sessions: HashMap::new(),
            next_session: 1,
            moves: Moves::default(),
            replies: HashMap::new(),
            next_reply: 1,
            participants: 0,
            joining: None,
            beginning: None,
            node_lost: false,
            finished: false,
        })
    }

    async fn run(&mut self, mailbox: &mut mpsc::Receiver<RoomMessage>) {
        self.flush().await;
        while !self.finished {
            let timeout = self.room.poll_timeout().unwrap_or_else(|| Instant::now() + IDLE);
            // Wait.
            let input = tokio::select! {
                message = mailbox.recv() => match message {
                    Some(message) => self.input_of(message).await,
                    // The directory is gone, and with it everybody who could ask for the room.
                    None => Some(RoomInput::Shutdown),
                },
                notice = self.notices.recv() => match notice {
                    Some(notice) => Some(RoomInput::Node(notice.event)),
                    None => Some(RoomInput::NodeLost),
                },
                () = tokio::time::sleep_until(timeout.into()) => Some(RoomInput::Timeout),
            };
            // Input, flush.
            if let Some(input) = input {
                self.handle(input);
                self.flush().await;
            }
        }
        // Those who still wait get no answer; they look for the room again, and make a new one.
        mailbox.close();
    }

    /// Turns a message into an input; joins are handled at once, as their outcome has to be told.
    async fn input_of(&mut self, message: RoomMessage) -> Option<RoomInput> {
        match message {
            RoomMessage::Join { params, permit, reply } => {
                self.join(params, permit, reply).await;
                None
            }
            RoomMessage::CheckJoin { params, reply } => {
                drop(reply.send(self.room.check_join(&params)));
                None
            }
            RoomMessage::Signal { session, request } => {
                self.inner.metrics.requests.inc();
                // An empty request is the answer to an empty response; what clients send is not empty.
                Some(match request.message {
                    None => RoomInput::SessionAlive { session },
                    Some(_) => RoomInput::Signal { session, request },
                })
            }
            RoomMessage::SessionClosed { session } => {
                self.sessions.remove(&session);
                Some(RoomInput::SessionClosed { session })
            }
            RoomMessage::Admin { request, reply } => {
                let id = ReplyId(self.next_reply);
                self.next_reply += 1;
                self.replies.insert(id, reply);
                Some(RoomInput::Admin { reply: id, request })
            }
            RoomMessage::CheckDeparture { identity, reply } => {
                let counts = self.room.check_departure(&identity).map(|_| self.room.needs_place(&identity));
                drop(reply.send(counts));
                None
            }
            RoomMessage::CheckArrival { identity, counts, reply } => {
                drop(reply.send(self.room.check_arrival(&identity, counts)));
                None
            }
            RoomMessage::Depart { identity, destination, node, reply } => {
                self.begin_move(&identity, destination, &node, reply);
                None
            }
            RoomMessage::RequestsStopped { session } => {
                self.depart(session).await;
                None
            }
            RoomMessage::Arrive { parcel, reply } => {
                self.arrive(parcel, reply).await;
                None
            }
            RoomMessage::Late(event) => Some(RoomInput::Late(event)),
            RoomMessage::Settled { connections } => Some(RoomInput::Settled { connections }),
            RoomMessage::Stranded { connections } => Some(RoomInput::Stranded { connections }),
            RoomMessage::Shutdown => Some(RoomInput::Shutdown),
        }
    }

    async fn join(
        &mut self,
        params: Box<JoinParams>,
        permit: SessionPermit,
        reply: oneshot::Sender<Result<SessionHandle, JoinError>>,
    ) {
        let session = SessionId(self.next_session);
        self.next_session += 1;
        let (responses_in, mut responses) = responses::channel(RESPONSES_MAX);
        let (switches, switches_out) = mpsc::channel(route::SWITCHES_MAX);
        self.sessions.insert(session, Door { responses: responses_in, switches });
        self.joining = None;
        self.handle(RoomInput::Join { session, params });
        self.beginning = Some(session);
        self.flush().await;
        self.beginning = None;
        let participant = match self.joining.take() {
            Some(Ok(participant)) => Some(participant),
            Some(Err(error)) => {
                self.sessions.remove(&session);
                return drop(reply.send(Err(error)));
            }
            None => None,
        };
        let Some(first) = responses.try_recv() else {
            self.sessions.remove(&session);
            return drop(reply.send(Err(JoinError::Unavailable("the room did not answer"))));
        };
        let (requests, requests_out) = mpsc::channel(REQUESTS_MAX);
        let route = Route { mailbox: self.mailbox.clone(), session };
        tokio::spawn(route::forward(route, requests_out, switches_out, permit));
        // If nobody waits any more, the handle is dropped here, and the session ends by that.
        drop(reply.send(Ok(SessionHandle { first: *first, requests, responses, participant })));
    }

    fn handle(&mut self, input: RoomInput) {
        let (now, unix_ms) = (Instant::now(), unix_ms());
        let blamed = self.room.blame_for(&input);
        // One participant's messages may cost only that participant.
        let room = &mut self.room;
        let handling = AssertUnwindSafe(|| {
            #[cfg(test)]
            tests::fail_if_asked_to(&input);
            room.handle_input(now, unix_ms, input);
        });
        if catch_unwind(handling).is_ok() {
            return;
        }
        self.inner.metrics.session_faults.inc();
        let ending = match blamed {
            Blame::Session(session) => {
                tracing::error!(session = session.0, "handling a session failed; it is ended");
                RoomInput::SessionFaulted { session }
            }
            Blame::Caller(reply) => {
                tracing::error!("a call of the server API failed");
                // Dropped: the caller is told that the room did not answer.
                return drop(self.replies.remove(&reply));
            }
            Blame::Nobody => return tracing::error!("an event of the media node failed"),
            Blame::Room => {
                tracing::error!("a room failed; it is ended");
                RoomInput::Shutdown
            }
        };
        self.room.handle_input(now, unix_ms, ending);
    }

    /// Carries out what the room wants.
    async fn flush(&mut self) {
        while let Some(output) = self.room.poll_output() {
            match output {
                RoomOutput::ToClient { session, response } => self.tell(session, response),
                // An empty response is no client's to see: it makes the session ping.
                RoomOutput::ProbeSession { session } => self.tell(session, Box::default()),
                RoomOutput::CloseSession { session } => drop(self.sessions.remove(&session)),
                RoomOutput::JoinAccepted { participant, .. } => self.joining = Some(Ok(participant)),
                RoomOutput::JoinRefused { error, .. } => self.joining = Some(Err(error)),
                RoomOutput::ParticipantConnected { waited } => {
                    self.inner.metrics.join_seconds.observe(waited)
                }
                RoomOutput::ToNode(action) => self.command(action).await,
                RoomOutput::Departed { number, result } => self.moves.departed = Some((number, result)),
                RoomOutput::PassOn { number, event } => self.moves.pass_on(number, event),
                RoomOutput::PassedAll { number } => self.moves.passed_all(number),
                RoomOutput::AdminReply { reply, result } => {
                    if let Some(reply) = self.replies.remove(&reply) {
                        drop(reply.send(result));
                    }
                }
                RoomOutput::Webhook(event) => {
                    if self.inner.webhooks.try_send(*event).is_err() {
                        self.inner.metrics.webhooks_dropped.inc();
                        self.room.webhook_dropped();
                    }
                }
                RoomOutput::Persist(record) => {
                    if let Err(error) = self.inner.store.put_room(&record).await {
                        tracing::warn!(%error, "a room is not stored");
                    }
                }
                RoomOutput::Finished { forget } => {
                    self.finished = true;
                    if forget && let Err(error) = self.inner.store.delete_room(self.room.name()).await {
                        tracing::warn!(%error, "a room's record is not deleted");
                    }
                }
            }
        }
        self.count_participants();
    }

    fn tell(&mut self, session: SessionId, response: Box<livekit::SignalResponse>) {
        let Some(door) = self.sessions.get(&session) else { return };
        self.inner.metrics.responses.inc();
        let counted = self.beginning != Some(session);
        if door.responses.try_send(response, counted) == Err(ResponseRefused::Full) {
            self.inner.metrics.slow_sessions.inc();
            self.sessions.remove(&session);
            self.room.handle_input(Instant::now(), unix_ms(), RoomInput::SessionClosed { session });
        }
    }

    async fn command(&mut self, action: NodeAction) {
        if self.node_lost {
            return;
        }
        let may_be_lost = matches!(action, NodeAction::SendData { .. } | NodeAction::ReportRoom { .. });
        let command = NodeCommand { room: self.sid.clone(), action };
        let Err(error) = self.inner.bus.command(&self.node, command).await else { return };
        // The node's queue is full of what it is to do. Data and questions may be lost then; another command
        // that is lost would leave node and room of different minds.
        if may_be_lost && matches!(error, BusError::Overloaded { .. }) {
            tracing::warn!(%error, "data or a question is dropped");
        } else {
            tracing::warn!(%error, "the room's media node is lost");
            self.node_lost = true;
            self.room.handle_input(Instant::now(), unix_ms(), RoomInput::NodeLost);
        }
    }

    fn count_participants(&mut self) {
        let now = i64::try_from(self.room.participant_count()).unwrap_or(i64::MAX);
        self.inner.metrics.participants.inc_by(now - self.participants);
        self.participants = now;
    }
}

impl Drop for RoomTask {
    fn drop(&mut self) {
        self.inner.metrics.rooms.dec();
        self.inner.metrics.participants.dec_by(self.participants);
    }
}

/// The stored room of this name, or a new one, with what the request sets.
async fn open_record(
    inner: &Inner,
    name: RoomName,
    request: &livekit::CreateRoomRequest,
) -> Result<RoomRecord, &'static str> {
    let stored = inner.store.room(&name).await.map_err(|_| "the store is not available")?;
    let mut record = stored.unwrap_or_else(|| {
        let mut record = RoomRecord::new(name, RoomSid::from_random(rand::random()), unix_ms());
        placement::apply_defaults(&mut record, &inner.config.room);
        record
    });
    placement::apply_create_request(&mut record, request);
    Ok(record)
}

/// Milliseconds since 1970; 0 for a clock that is set before.
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
