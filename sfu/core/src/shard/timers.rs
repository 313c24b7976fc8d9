//! What happens by itself: connections' own timers, due negotiations, repeated keyframe requests, speakers.

use std::time::{Duration, Instant};

use zynk_protocol::{ConnectionState, NegotiationFailure, NodeEvent, RoomSid};

use super::{EndpointKey, Shard};
use crate::{
    Output,
    endpoint::{CONNECT_MAX, DISCONNECTED_MAX},
};

/// How often slow duties are looked at.
const TICK: Duration = Duration::from_millis(100);
/// A client that does not answer an offer in this time has to join again.
const ANSWER_MAX: Duration = Duration::from_secs(15);

impl Shard {
    pub(super) fn next_wake(&self) -> Instant {
        let connections = self.timers.first().map(|(at, _)| *at);
        let tick = (!self.endpoints.is_empty()).then_some(self.next_tick);
        let negotiation = self.endpoints.iter().filter_map(|(_, endpoint)| endpoint.negotiation.due_at).min();
        let earliest = [connections, tick, negotiation].into_iter().flatten().min();
        earliest.unwrap_or_else(|| self.now + Duration::from_secs(3600)).max(self.now)
    }

    pub(super) fn set_timer(&mut self, key: EndpointKey, at: Instant) {
        let Some(endpoint) = self.endpoints.get_mut(key.0) else { return };
        if let Some(previous) = endpoint.wake_at.replace(at) {
            self.timers.remove(&(previous, key));
        }
        self.timers.insert((at, key));
    }

    pub(super) fn handle_timers(&mut self) {
        while let Some((at, key)) = self.timers.first().copied()
            && at <= self.now
        {
            self.timers.remove(&(at, key));
            if let Some(endpoint) = self.endpoints.get_mut(key.0) {
                endpoint.wake_at = None;
            }
            self.mark_dirty(key);
        }
        let due: Vec<EndpointKey> = self
            .endpoints
            .iter()
            .filter(|(_, endpoint)| endpoint.negotiation.due_at.is_some_and(|at| at <= self.now))
            .map(|(index, _)| EndpointKey(index))
            .collect();
        for key in due {
            self.negotiate(key);
        }
        if self.next_tick <= self.now {
            self.next_tick = self.now + TICK;
            self.expire();
            self.repeat_keyframe_requests();
            self.move_to_backups();
            self.judge_speakers();
        }
    }

    /// Ends connections that lost their path, never found one, or do not answer.
    fn expire(&mut self) {
        let now = self.now;
        let since = |at: Instant| now.saturating_duration_since(at);
        let mut failed = Vec::new();
        let mut silent = Vec::new();
        for (index, endpoint) in &self.endpoints {
            let lost = endpoint.disconnected_at.is_some_and(|at| since(at) >= DISCONNECTED_MAX);
            let never = !endpoint.connected_once && since(endpoint.opened_at) >= CONNECT_MAX;
            if lost || never {
                failed.push(EndpointKey(index));
            } else if endpoint.negotiation.outstanding.is_some_and(|(_, at)| since(at) >= ANSWER_MAX) {
                silent.push(EndpointKey(index));
            }
        }
        for key in failed {
            self.close(key, Some(ConnectionState::Failed));
        }
        for key in silent {
            let Some(endpoint) = self.endpoints.get_mut(key.0) else { continue };
            let connection = endpoint.id;
            if let Some((offer_id, _)) = endpoint.negotiation.outstanding.take() {
                let failure = NegotiationFailure::Timeout { seconds: ANSWER_MAX.as_secs() };
                self.emit(key, NodeEvent::NegotiationFailed { connection, offer_id, failure });
            }
        }
    }

    fn repeat_keyframe_requests(&mut self) {
        let now = self.now;
        let mut due = Vec::new();
        for (_, track) in &mut self.tracks {
            for rid in track.overdue_keyframes(now) {
                due.push((track.publisher, track.mid, rid));
            }
        }
        for (publisher, mid, rid) in due {
            self.send_keyframe_request(publisher, mid, rid);
        }
    }

    fn judge_speakers(&mut self) {
        let now = self.now;
        let mut reports: Vec<(RoomSid, NodeEvent)> = Vec::new();
        for (sid, room) in &mut self.rooms {
            let levels = room.speakers.judge(now);
            if !levels.is_empty() {
                reports.push((sid.clone(), NodeEvent::Speakers { levels }));
            }
        }
        reports.sort_by(|(a, _), (b, _)| a.cmp(b));
        self.outputs.extend(reports.into_iter().map(|(room, event)| Output::Event { room, event }));
    }
}
