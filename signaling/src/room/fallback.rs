//! Clients whose media does not come through any more while their signal connection does: a firewall that drops UDP.
//! Asked to resume, they look for another path, and find TCP.
//!
//! ```text
//!   node: Disconnected ─► probe ─► the client answers at once ─► Leave RESUME ─► resume, ICE restart
//!                               └► it does not: the whole network is away, and may come back by itself
//! ```
//!
//! If it is a relay that is gone, another one comes first in what the client is told when it resumes. Told in the same order,
//! browsers would find the other one as soon, and yet keep to the dead one for seconds: libwebrtc goes by priorities, which
//! follow this order, until it has heard nothing for 2.5 s and another second (`CompareConnections` of
//! `p2p/base/basic_ice_controller.cc`); of equals it takes the younger.

use std::time::{Duration, Instant};

use zynk_protocol::livekit::DisconnectReason;
use zynk_protocol::livekit::leave_request::Action;
use zynk_protocol::{ConnectionState, ParticipantSid};

use super::{Room, RoomOutput, SessionId, leave_message};

/// A signal connection that answers within this time is as good as ever.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// A client that was asked to resume is not asked again before that.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(30);

/// What is known of a participant's way to its media.
#[derive(Debug, Default)]
pub(super) struct PathWatch {
    probed_at: Option<Instant>,
    asked_at: Option<Instant>,
    /// How often the client was asked to look for another path.
    asked: usize,
}

impl PathWatch {
    /// Puts another relay first each time that the client's path was gone.
    pub(super) fn reorder<T>(&self, relays: &mut [T]) {
        let first = self.asked.checked_rem(relays.len()).unwrap_or(0);
        relays.rotate_left(first);
    }
}

impl Room {
    /// Nothing comes from a participant any more.
    pub(super) fn media_silent(&mut self, sid: &ParticipantSid) {
        let now = self.now;
        let Some(participant) = self.participants.get_mut(sid) else { return };
        let was_asked = |at: Instant| now.saturating_duration_since(at) < ASK_AGAIN_AFTER;
        if !participant.resumable || participant.path_watch.asked_at.is_some_and(was_asked) {
            return;
        }
        if let Some(session) = participant.session {
            participant.path_watch.probed_at = Some(now);
            self.outputs.push_back(RoomOutput::ProbeSession { session });
        }
    }

    /// A client answers a probe.
    pub(super) fn handle_session_alive(&mut self, session: SessionId) {
        let now = self.now;
        let Some(sid) = self.sessions.get(&session).cloned() else { return };
        let Some(participant) = self.participants.get_mut(&sid) else { return };
        let Some(probed_at) = participant.path_watch.probed_at.take() else { return };
        let connections = [Some(participant.publisher), participant.subscriber];
        let is_silent = |state| state == Some(ConnectionState::Disconnected);
        if !connections.into_iter().flatten().any(|connection| is_silent(connection.state)) {
            return;
        }
        if now.saturating_duration_since(probed_at) > ANSWER_WITHIN {
            return self.media_silent(&sid);
        }
        participant.path_watch.asked_at = Some(now);
        participant.path_watch.asked = participant.path_watch.asked.wrapping_add(1);
        // Its session goes on: a client that does not resume keeps what it has.
        self.tell(&sid, leave_message(DisconnectReason::ConnectionTimeout, Action::Resume));
    }
}
