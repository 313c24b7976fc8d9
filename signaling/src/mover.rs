//! `MoveParticipant`: from one open room to another.
//!
//! ```text
//!   destination: is there a place, on which node?
//!     ├─ the same node ─► source: Depart ─► parcel ─► destination: Arrive ─► late events ─► Settled
//!     └─ another one   ─► source: a token for the destination, and Leave RECONNECT
//! ```
//! Tasks of rooms never wait for each other: what goes between them is carried by a task of its own.

use tokio::sync::{mpsc, oneshot};
use zynk_protocol::{ConnectionId, Identity, NodeEvent, NodeId, RoomName, livekit};

use crate::admin::{AdminError, AdminRequest};
use crate::directory::{Directory, NO_ROOM, ask};
use crate::room_task::RoomMessage;

const NOT_ARRIVED: AdminError = AdminError::Unavailable("the destination room did not take the participant");

impl Directory {
    /// Moves a participant with its session and its tracks. The destination is opened if it is not, where rooms may be
    /// created by joining.
    pub async fn move_participant(
        &self,
        room: &RoomName,
        identity: Identity,
        destination: RoomName,
    ) -> Result<(), AdminError> {
        let source = self.room(room).ok_or(NO_ROOM)?;
        // First, so that no room is opened for nothing.
        let (reply, answer) = oneshot::channel();
        let check = RoomMessage::CheckDeparture { identity: identity.clone(), reply };
        let counts = put(&source, check, answer).await.unwrap_or(Err(NO_ROOM))?;
        let target = self.destination(&destination)?;
        let (reply, answer) = oneshot::channel();
        let check = RoomMessage::CheckArrival { identity: identity.clone(), counts, reply };
        let node = put(&target, check, answer).await.unwrap_or(Err(NOT_ARRIVED))?;
        // Carried on also if the caller goes.
        let (done, outcome) = oneshot::channel();
        tokio::spawn(carry(source, target, node, identity, destination, done));
        outcome.await.unwrap_or(Err(NOT_ARRIVED))
    }

    fn destination(&self, name: &RoomName) -> Result<mpsc::Sender<RoomMessage>, AdminError> {
        if let Some(mailbox) = self.room(name) {
            return Ok(mailbox);
        }
        if !self.config().room.auto_create {
            return Err(AdminError::NotFound("the destination room does not exist"));
        }
        let limits = &self.config().limits;
        if name.as_str().len() > limits.room_name_bytes_max || name.as_str().chars().any(char::is_control) {
            return Err(AdminError::InvalidArgument(
                "the name of the destination room cannot be used".into(),
            ));
        }
        self.open(name, &livekit::CreateRoomRequest::default()).map_err(AdminError::Unavailable)
    }
}

async fn carry(
    source: mpsc::Sender<RoomMessage>,
    target: mpsc::Sender<RoomMessage>,
    node: NodeId,
    identity: Identity,
    destination: RoomName,
    done: oneshot::Sender<Result<(), AdminError>>,
) {
    let (reply, answer) = oneshot::channel();
    let depart =
        RoomMessage::Depart { identity: identity.clone(), destination: destination.clone(), node, reply };
    let mut parcel = match put(&source, depart, answer).await.unwrap_or(Err(NO_ROOM)) {
        Ok(Some(parcel)) => Box::new(parcel),
        Ok(None) => {
            let elsewhere = AdminRequest::SendElsewhere { identity, destination };
            let outcome = ask(&source, elsewhere).await.unwrap_or(Err(NO_ROOM));
            return drop(done.send(outcome.map(|_| ())));
        }
        Err(error) => return drop(done.send(Err(error))),
    };
    let connections = parcel.connections();
    let late = parcel.take_late();
    let (reply, answer) = oneshot::channel();
    match put(&target, RoomMessage::Arrive { parcel, reply }, answer).await {
        Some(Ok(())) => {
            drop(done.send(Ok(())));
            pass_on(&target, late, connections).await;
        }
        // The room has ended meanwhile. The session ends with its parcel, and its client joins anew.
        Some(Err(_)) | None => {
            drop(source.send(RoomMessage::Stranded { connections }).await);
            drop(done.send(Err(NOT_ARRIVED)));
        }
    }
}

/// What the node still tells the room that the participant has left.
async fn pass_on(
    target: &mpsc::Sender<RoomMessage>,
    mut late: mpsc::Receiver<NodeEvent>,
    connections: Vec<ConnectionId>,
) {
    while let Some(event) = late.recv().await {
        if target.send(RoomMessage::Late(event)).await.is_err() {
            return;
        }
    }
    drop(target.send(RoomMessage::Settled { connections }).await);
}

/// Asks a room; none if it has ended.
async fn put<T>(
    mailbox: &mpsc::Sender<RoomMessage>,
    message: RoomMessage,
    answer: oneshot::Receiver<T>,
) -> Option<T> {
    mailbox.send(message).await.ok()?;
    answer.await.ok()
}
