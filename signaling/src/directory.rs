//! The rooms that are open on this server, by name.

use std::sync::Arc;

use tokio::sync::mpsc;
use zynk_auth::KeyRing;
use zynk_protocol::{ParticipantSid, RoomName, livekit};

use crate::admin::{AdminError, AdminRequest, AdminResponse};
use crate::config::SignalingConfig;
use crate::join::{JoinError, JoinParams};

/// Where rooms put their webhook events. `id`, `created_at` and `room` are set already; when the channel is
/// full the event is dropped, and the next one that fits counts it in `num_dropped`.
pub type WebhookSender = mpsc::Sender<livekit::WebhookEvent>;

/// Every open room. Cheap to clone; all clones are the same directory.
#[derive(Clone, Debug)]
pub struct Directory {
    config: Arc<SignalingConfig>,
    keys: Arc<KeyRing>,
    webhooks: WebhookSender,
}

/// A session that has begun.
///
/// The session ends when `responses` ends; dropping the handle (or `requests`) is the loss of the signal
/// connection. WebSocket sessions may then be resumed; sessions that are not resumable leave at once.
#[derive(Debug)]
pub struct SessionHandle {
    /// What the client is to be sent first: Join, or Reconnect or Leave after a resume.
    pub first: livekit::SignalResponse,
    /// Requests of the client. A full channel blocks the sender: the client is read more slowly.
    pub requests: mpsc::Sender<livekit::SignalRequest>,
    /// Responses to the client. When it is full, the room ends the session: slow clients do not slow others.
    pub responses: mpsc::Receiver<livekit::SignalResponse>,
    /// Who it is. Empty-handed (none) when the first response is a Leave.
    pub participant: Option<ParticipantSid>,
}

impl Directory {
    /// A directory without rooms.
    pub fn new(config: Arc<SignalingConfig>, keys: Arc<KeyRing>, webhooks: WebhookSender) -> Self {
        Self { config, keys, webhooks }
    }

    /// The configuration.
    pub fn config(&self) -> &SignalingConfig {
        &self.config
    }

    /// The API keys.
    pub fn keys(&self) -> &KeyRing {
        &self.keys
    }

    /// Opens a room, or takes over the set fields if it is open.
    pub async fn create_room(
        &self,
        _request: livekit::CreateRoomRequest,
    ) -> Result<livekit::Room, AdminError> {
        let _ = &self.webhooks;
        Err(AdminError::Unavailable("no media node"))
    }

    /// The open rooms, or those of `names` that are open.
    pub async fn list_rooms(&self, _names: &[String]) -> Vec<livekit::Room> {
        Vec::new()
    }

    /// Ends a room.
    pub async fn delete_room(&self, name: &RoomName) -> Result<(), AdminError> {
        self.admin(name, AdminRequest::DeleteRoom).await.map(|_| ())
    }

    /// Asks an open room something.
    pub async fn admin(&self, _room: &RoomName, _request: AdminRequest) -> Result<AdminResponse, AdminError> {
        Err(AdminError::NotFound("requested room does not exist"))
    }

    /// Whether [`Directory::join`] would succeed as far as can be told beforehand.
    pub async fn check_join(&self, _params: &JoinParams) -> Result<(), JoinError> {
        Ok(())
    }

    /// Starts or resumes a session.
    pub async fn join(&self, _params: JoinParams) -> Result<SessionHandle, JoinError> {
        Err(JoinError::Unavailable("no media node"))
    }

    /// Sends everybody a Leave and ends all rooms. New joins are refused from now on.
    pub async fn shutdown(&self) {}
}
