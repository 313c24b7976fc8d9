//! The rooms that are open on this server, by name.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use prometheus_client::registry::Registry;
use tokio::sync::{Notify, mpsc, oneshot};
use zynk_auth::KeyRing;
use zynk_bus::Bus;
use zynk_protocol::livekit::leave_request::Action;
use zynk_protocol::livekit::{self, DisconnectReason};
use zynk_protocol::{ParticipantSid, RoomName};
use zynk_store::Store;

use crate::admin::{AdminError, AdminRequest, AdminResponse};
use crate::config::SignalingConfig;
use crate::join::{JoinError, JoinParams};
use crate::metrics::Metrics;
use crate::placement;
use crate::relays::Relays;
use crate::responses::{self, ResponseReceiver};
use crate::room::leave_message;
use crate::room_task::{self, MAILBOX_MAX, RoomMessage};

/// Where rooms put their webhook events. `id`, `created_at` and `room` are set already; when the channel is
/// full the event is dropped, and the next one that fits counts it in `num_dropped`.
pub type WebhookSender = mpsc::Sender<livekit::WebhookEvent>;

/// How often a room that ends at this very moment is tried again.
const OPEN_ATTEMPTS: u32 = 3;

/// How long [`Directory::shutdown`] waits for clients to take their Leave.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);

pub(crate) const NO_ROOM: AdminError = AdminError::NotFound("requested room does not exist");

/// Every open room. Cheap to clone; all clones are the same directory.
#[derive(Clone)]
pub struct Directory {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) config: Arc<SignalingConfig>,
    pub(crate) keys: Arc<KeyRing>,
    pub(crate) relays: Arc<Relays>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) webhooks: WebhookSender,
    pub(crate) metrics: Metrics,
    /// At most `limits.rooms_max`; further rooms are refused.
    rooms: Mutex<HashMap<RoomName, mpsc::Sender<RoomMessage>>>,
    closing: AtomicBool,
    sessions: AtomicUsize,
    session_ended: Notify,
}

/// A session's place among `limits.sessions_max`.
pub(crate) struct SessionPermit {
    inner: Arc<Inner>,
}

/// A session that has begun.
///
/// The session ends when `responses` ends; dropping the handle (or `requests`) is the loss of the signal
/// connection. WebSocket sessions may then be resumed; sessions that are not resumable leave at once.
///
/// Messages are boxed: channels set room for 32 of them aside, and most sessions are idle.
#[derive(Debug)]
pub struct SessionHandle {
    /// What the client is to be sent first: Join, or Reconnect or Leave after a resume.
    pub first: livekit::SignalResponse,
    /// Requests of the client. A full channel blocks the sender: the client is read more slowly.
    pub requests: mpsc::Sender<Box<livekit::SignalRequest>>,
    /// Responses to the client. When it is full, the room ends the session: slow clients do not slow others.
    pub responses: ResponseReceiver,
    /// Who it is; none when the first response is a Leave.
    pub participant: Option<ParticipantSid>,
}

impl Directory {
    /// A directory without rooms. Its methods need a tokio runtime.
    pub fn new(
        config: Arc<SignalingConfig>,
        keys: Arc<KeyRing>,
        relays: Arc<Relays>,
        store: Arc<dyn Store>,
        bus: Arc<dyn Bus>,
        webhooks: WebhookSender,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                config,
                keys,
                relays,
                store,
                bus,
                webhooks,
                metrics: Metrics::default(),
                rooms: Mutex::new(HashMap::new()),
                closing: AtomicBool::new(false),
                sessions: AtomicUsize::new(0),
                session_ended: Notify::new(),
            }),
        }
    }

    /// Makes the role's instruments known to `registry`, under `zynk_signaling_`.
    pub fn register_metrics(&self, registry: &mut Registry) {
        self.inner.metrics.register(registry);
    }

    /// The configuration.
    pub fn config(&self) -> &SignalingConfig {
        &self.inner.config
    }

    /// The API keys.
    pub fn keys(&self) -> &KeyRing {
        &self.inner.keys
    }

    /// The relays that clients are told.
    pub(crate) fn relays(&self) -> &Relays {
        &self.inner.relays
    }

    /// Opens a room, or takes over the set fields if it is open.
    pub async fn create_room(
        &self,
        request: livekit::CreateRoomRequest,
    ) -> Result<livekit::Room, AdminError> {
        let limits = &self.inner.config.limits;
        if request.name.is_empty() || request.name.len() > limits.room_name_bytes_max {
            return Err(AdminError::InvalidArgument("room name must have 1 to 256 bytes".into()));
        }
        if request.metadata.len() > limits.metadata_bytes_max {
            return Err(AdminError::InvalidArgument("exceeds metadata size limit".into()));
        }
        if request.name.chars().any(char::is_control) {
            return Err(AdminError::InvalidArgument("room name must have no control characters".into()));
        }
        let name = RoomName::new(request.name.clone());
        for _ in 0..OPEN_ATTEMPTS {
            let mailbox = self.open(&name, &request).map_err(AdminError::Unavailable)?;
            match ask(&mailbox, AdminRequest::UpdateRoom(request.clone())).await {
                Some(Ok(AdminResponse::Room(room))) => return Ok(room),
                Some(Err(error)) if error != NO_ROOM => return Err(error),
                _ => {}
            }
        }
        Err(AdminError::Unavailable("the room ends as often as it is opened"))
    }

    /// The open rooms, or those of `names` that are open, by name.
    pub async fn list_rooms(&self, names: &[String]) -> Vec<livekit::Room> {
        let mailboxes: Vec<_> = {
            let rooms = self.inner.rooms();
            let wanted = |name: &RoomName| names.is_empty() || names.iter().any(|n| n == name.as_str());
            rooms.iter().filter(|(name, _)| wanted(name)).map(|(_, mailbox)| mailbox.clone()).collect()
        };
        let answers = mailboxes.iter().map(|mailbox| ask(mailbox, AdminRequest::Describe));
        let mut rooms: Vec<livekit::Room> = join_all(answers)
            .await
            .into_iter()
            .filter_map(|answer| match answer {
                Some(Ok(AdminResponse::Room(room))) => Some(room),
                _ => None,
            })
            .collect();
        rooms.sort_by(|a, b| a.name.cmp(&b.name));
        rooms
    }

    /// Ends a room.
    pub async fn delete_room(&self, name: &RoomName) -> Result<(), AdminError> {
        self.admin(name, AdminRequest::DeleteRoom).await.map(|_| ())
    }

    /// Asks an open room something.
    pub async fn admin(&self, room: &RoomName, request: AdminRequest) -> Result<AdminResponse, AdminError> {
        let mailbox = self.inner.room(room).ok_or(NO_ROOM)?;
        ask(&mailbox, request).await.unwrap_or(Err(NO_ROOM))
    }

    /// Whether [`Directory::join`] would succeed as far as can be told beforehand.
    pub async fn check_join(&self, params: &JoinParams) -> Result<(), JoinError> {
        params.check_limits(&self.inner.config.limits)?;
        self.may_open(params)?;
        let Some(mailbox) = self.inner.room(&params.room) else { return Ok(()) };
        let (reply, answer) = oneshot::channel();
        let message = RoomMessage::CheckJoin { params: Box::new(params.clone()), reply };
        if mailbox.send(message).await.is_err() {
            return Ok(());
        }
        answer.await.unwrap_or(Ok(()))
    }

    /// Starts or resumes a session.
    pub async fn join(&self, params: JoinParams) -> Result<SessionHandle, JoinError> {
        let result = self.try_join(params).await;
        self.inner.metrics.count_join(&result);
        result
    }

    async fn try_join(&self, params: JoinParams) -> Result<SessionHandle, JoinError> {
        params.check_limits(&self.inner.config.limits)?;
        if params.resume.is_some() {
            return self.resume(params).await;
        }
        for _ in 0..OPEN_ATTEMPTS {
            self.may_open(&params)?;
            let request = params.room_config.as_ref().map(placement::request_of).unwrap_or_default();
            let mailbox = self.open(&params.room, &request).map_err(JoinError::Unavailable)?;
            if let Some(answer) = self.ask_to_join(&mailbox, params.clone()).await? {
                return answer;
            }
        }
        Err(JoinError::Unavailable("the room ends as often as it is opened"))
    }

    async fn resume(&self, params: JoinParams) -> Result<SessionHandle, JoinError> {
        if let Some(mailbox) = self.inner.room(&params.room)
            && let Some(answer) = self.ask_to_join(&mailbox, params).await?
        {
            return answer;
        }
        // The room is over: the client is told to join anew.
        let first = livekit::SignalResponse {
            message: Some(leave_message(DisconnectReason::StateMismatch, Action::Reconnect)),
        };
        let (requests, _) = mpsc::channel(1);
        let (_, responses) = responses::channel(1);
        Ok(SessionHandle { first, requests, responses, participant: None })
    }

    /// None if the room ended before it answered.
    async fn ask_to_join(
        &self,
        mailbox: &mpsc::Sender<RoomMessage>,
        params: JoinParams,
    ) -> Result<Option<Result<SessionHandle, JoinError>>, JoinError> {
        let permit = self.inner.permit().ok_or(JoinError::Unavailable("too many sessions"))?;
        let (reply, answer) = oneshot::channel();
        let message = RoomMessage::Join { params: Box::new(params), permit, reply };
        if mailbox.send(message).await.is_err() {
            return Ok(None);
        }
        Ok(answer.await.ok())
    }

    /// Sends everybody a Leave, ends all rooms and waits until the clients have taken it. New joins are
    /// refused from now on.
    pub async fn shutdown(&self) {
        self.inner.closing.store(true, Ordering::SeqCst);
        let mailboxes: Vec<_> = self.inner.rooms().values().cloned().collect();
        let end_all = join_all(mailboxes.iter().map(|mailbox| async move {
            drop(mailbox.send(RoomMessage::Shutdown).await);
            mailbox.closed().await;
        }));
        let drain = async {
            end_all.await;
            loop {
                let ended = self.inner.session_ended.notified();
                if self.inner.sessions.load(Ordering::SeqCst) == 0 {
                    break;
                }
                ended.await;
            }
        };
        if tokio::time::timeout(DRAIN_TIMEOUT, drain).await.is_err() {
            tracing::warn!("some clients did not take their Leave in time");
        }
    }

    /// The open room of this name.
    pub(crate) fn room(&self, name: &RoomName) -> Option<mpsc::Sender<RoomMessage>> {
        self.inner.room(name)
    }

    /// Refuses what may not open a room that is not open.
    fn may_open(&self, params: &JoinParams) -> Result<(), JoinError> {
        let may_create = self.inner.config.room.auto_create || params.may_create_room;
        if may_create || self.inner.room(&params.room).is_some() {
            Ok(())
        } else {
            Err(JoinError::NoSuchRoom)
        }
    }

    /// The room of this name, opened if it is not.
    ///
    /// All under one lock, and the room's task places it later: two who come at once get the same room.
    pub(crate) fn open(
        &self,
        name: &RoomName,
        request: &livekit::CreateRoomRequest,
    ) -> Result<mpsc::Sender<RoomMessage>, &'static str> {
        let mut rooms = self.inner.rooms();
        if self.inner.closing.load(Ordering::SeqCst) {
            return Err("the server is stopping");
        }
        if let Some(mailbox) = rooms.get(name).filter(|mailbox| !mailbox.is_closed()) {
            return Ok(mailbox.clone());
        }
        if rooms.len() >= self.inner.config.limits.rooms_max {
            return Err("too many rooms");
        }
        let (sender, mailbox) = mpsc::channel(MAILBOX_MAX);
        rooms.insert(name.clone(), sender.clone());
        let weak = sender.downgrade();
        let inner = Arc::clone(&self.inner);
        tokio::spawn(room_task::run(inner, name.clone(), request.clone(), mailbox, weak));
        Ok(sender)
    }
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Directory").field("rooms", &self.inner.rooms().len()).finish_non_exhaustive()
    }
}

impl Inner {
    /// Nothing panics while it holds the lock, so that a poisoned one is as good as any.
    fn rooms(&self) -> MutexGuard<'_, HashMap<RoomName, mpsc::Sender<RoomMessage>>> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn room(&self, name: &RoomName) -> Option<mpsc::Sender<RoomMessage>> {
        self.rooms().get(name).filter(|mailbox| !mailbox.is_closed()).cloned()
    }

    /// Takes a room out of the directory whose mailbox is closed, unless a newer one has its name already.
    pub(crate) fn forget_room(&self, name: &RoomName) {
        let mut rooms = self.rooms();
        if rooms.get(name).is_some_and(mpsc::Sender::is_closed) {
            rooms.remove(name);
        }
    }

    fn permit(self: &Arc<Self>) -> Option<SessionPermit> {
        let max = self.config.limits.sessions_max;
        let taken = self
            .sessions
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |count| (count < max).then_some(count + 1));
        taken.ok()?;
        self.metrics.sessions.inc();
        Some(SessionPermit { inner: Arc::clone(self) })
    }
}

impl Drop for SessionPermit {
    fn drop(&mut self) {
        self.inner.sessions.fetch_sub(1, Ordering::SeqCst);
        self.inner.metrics.sessions.dec();
        self.inner.session_ended.notify_waiters();
    }
}

/// None if the room ended before it answered.
pub(crate) async fn ask(
    mailbox: &mpsc::Sender<RoomMessage>,
    request: AdminRequest,
) -> Option<Result<AdminResponse, AdminError>> {
    let (reply, answer) = oneshot::channel();
    mailbox.send(RoomMessage::Admin { request: Box::new(request), reply }).await.ok()?;
    answer.await.ok()
}
