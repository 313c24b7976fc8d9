//! The way of a client's requests to its room, and how it changes when the participant moves to another.
//!
//! ```text
//!   room: switch ─► requests stop, RequestsStopped to the room ─► a new route ─► requests go on, to the other room
//! ```

use tokio::sync::{mpsc, oneshot};
use zynk_protocol::livekit;

use crate::directory::SessionPermit;
use crate::room::SessionId;
use crate::room_task::RoomMessage;

/// A room, and what it calls a session.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) mailbox: mpsc::WeakSender<RoomMessage>,
    pub(crate) session: SessionId,
}

/// Where a stopped session's requests go next; if nobody says so, where they went before.
pub(crate) type NextRoute = oneshot::Receiver<Route>;

/// Room for the one switch that may be under way.
pub(crate) const SWITCHES_MAX: usize = 1;

impl Route {
    /// Whether there still is a room.
    async fn send(&self, message: impl FnOnce(SessionId) -> RoomMessage) -> bool {
        let Some(mailbox) = self.mailbox.upgrade() else { return false };
        mailbox.send(message(self.session)).await.is_ok()
    }
}

/// Brings a client's requests to its room until either side is gone.
pub(crate) async fn forward(
    mut route: Route,
    mut requests: mpsc::Receiver<Box<livekit::SignalRequest>>,
    mut switches: mpsc::Receiver<NextRoute>,
    _permit: SessionPermit,
) {
    loop {
        tokio::select! {
            biased;
            Some(next) = switches.recv() => {
                if !route.send(|session| RoomMessage::RequestsStopped { session }).await {
                    return;
                }
                if let Ok(next) = next.await {
                    route = next;
                }
            }
            request = requests.recv() => {
                let Some(request) = request else { break };
                if !route.send(|session| RoomMessage::Signal { session, request }).await {
                    return;
                }
            }
        }
    }
    route.send(|session| RoomMessage::SessionClosed { session }).await;
}
