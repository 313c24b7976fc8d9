//! What happens by itself: connections' own timers, due negotiations, repeated keyframe requests, speakers.

use std::time::{Duration, Instant};

use zynk_protocol::{
    Bitrate, ConnectionState, ConnectionStats, FlowDirection, FlowStats, MediaKind, NegotiationFailure,
    NodeEvent, RoomSid,
};

use super::{EndpointKey, Shard, TrackKey};
use crate::endpoint::{CONNECT_MAX, DISCONNECTED_MAX, Endpoint};

/// How often slow duties are looked at.
const TICK: Duration = Duration::from_millis(100);
/// A client that does not answer an offer in this time has to join again.
const ANSWER_MAX: Duration = Duration::from_secs(15);

/// How long figures are gathered before they are told.
const STATS_INTERVAL: Duration = Duration::from_secs(5);

impl Shard {
    pub(super) fn next_wake(&self) -> Instant {
        let connections = self.timers.first().map(|(at, _)| *at);
        let tick = (!self.endpoints.is_empty()).then_some(self.next_tick);
        let negotiation = self.negotiations.first().map(|(at, _)| *at);
        let media = self.media_timers.next_timeout();
        let put_off = !(self.put_off.is_empty() && self.media_put_off.is_empty());
        let next_turn = put_off.then_some(self.now);
        let earliest = [connections, media, tick, negotiation, next_turn].into_iter().flatten().min();
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
        self.dirty.append(&mut self.put_off);
        self.media_dirty.append(&mut self.media_put_off);
        while let Some((at, key)) = self.timers.first().copied()
            && at <= self.now
        {
            self.timers.remove(&(at, key));
            if let Some(endpoint) = self.endpoints.get_mut(key.0) {
                endpoint.wake_at = None;
            }
            self.mark_dirty(key);
        }
        while let Some(slot) = self.media_timers.expire(self.now) {
            self.mark_media(EndpointKey(slot as usize));
        }
        let now = self.now;
        let mut due = Vec::new();
        while let Some((at, key)) = self.negotiations.first().copied()
            && at <= now
        {
            self.negotiations.remove(&(at, key));
            // It may have happened meanwhile, or be another connection's by now.
            let is_due = |endpoint: &Endpoint| endpoint.negotiation.due_at.is_some_and(|at| at <= now);
            if self.endpoints.get(key.0).is_some_and(is_due) {
                due.push(key);
            }
        }
        for key in due {
            self.negotiate(key);
        }
    }

    /// Slow duties, once everything that came has been delivered. False if it is not time for them.
    pub(super) fn tick(&mut self) -> bool {
        let due = self.next_tick <= self.now;
        if due {
            self.next_tick = self.now + TICK;
            self.expire();
            self.judge_silence();
            self.repeat_keyframe_requests();
            self.move_to_backups();
            self.judge_speakers();
            self.allocate_where_due();
            self.tell_stats();
            self.expire_stores();
            self.outbox.shrink();
            self.deliveries.shrink();
        }
        due
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

    /// Tells whose path seems to be gone, and who is there again.
    fn judge_silence(&mut self) {
        let now = self.now;
        let mut changed = Vec::new();
        for (index, endpoint) in &mut self.endpoints {
            let tracks = endpoint.sections.iter().filter_map(|section| self.tracks.get(section.track?.0));
            // Who is told that nobody watches sends no video.
            let publishes = tracks
                .into_iter()
                .any(|track| !track.muted && (track.kind == MediaKind::Audio || track.is_received()));
            if let Some(silent) = endpoint.silence.judge(now, publishes) {
                changed.push((EndpointKey(index), silent));
            }
        }
        for (key, silent) in changed {
            let Some(endpoint) = self.endpoints.get_mut(key.0) else { continue };
            if silent {
                endpoint.media.loosen_path();
            }
            // Otherwise ICE has told it, or will.
            if endpoint.connected_once && endpoint.disconnected_at.is_none() {
                let connection = endpoint.id;
                let state = if silent { ConnectionState::Disconnected } else { ConnectionState::Connected };
                self.emit(key, NodeEvent::ConnectionState { connection, state });
            }
            if !silent {
                self.catch_up(key);
            }
        }
    }

    /// What was lost while a client was away is too old to be repeated: all that it sends and receives goes on with a
    /// keyframe.
    fn catch_up(&mut self, key: EndpointKey) {
        let Some(endpoint) = self.endpoints.get(key.0) else { return };
        let published = endpoint.sections.iter().filter_map(|section| self.tracks.get(section.track?.0));
        let sent = published.flat_map(|track| &track.subscribers);
        let subscriptions: Vec<_> = sent.chain(&endpoint.order).copied().collect();
        for subscription in subscriptions {
            self.want_keyframe_for(subscription);
        }
    }

    fn repeat_keyframe_requests(&mut self) {
        let now = self.now;
        let mut due = Vec::new();
        for (index, track) in &mut self.tracks {
            due.extend(track.overdue_keyframes(now).into_iter().map(|encoding| (TrackKey(index), encoding)));
        }
        for (track, encoding) in due {
            self.request_keyframe(track, encoding, Duration::ZERO);
        }
    }

    fn judge_speakers(&mut self) {
        let now = self.now;
        let mut reports: Vec<(RoomSid, NodeEvent)> = Vec::new();
        for (sid, room) in &mut self.rooms {
            let levels = room.speakers.judge(now);
            let overheard = room.overheard.judge(now);
            for level in levels.iter().chain(&overheard) {
                match level.active {
                    true => room.speaking.insert(level.participant.clone()),
                    false => room.speaking.remove(&level.participant),
                };
            }
            if !(levels.is_empty() && overheard.is_empty()) {
                for key in &room.endpoints {
                    if let Some(endpoint) = self.endpoints.get_mut(key.0) {
                        endpoint.allocation.outdated = true;
                    }
                }
            }
            if !levels.is_empty() {
                reports.push((sid.clone(), NodeEvent::Speakers { levels }));
            }
        }
        reports.sort_by(|(a, _), (b, _)| a.cmp(b));
        self.events.extend(reports);
    }

    /// Figures of each connection's interval.
    fn tell_stats(&mut self) {
        let now = self.now;
        let mut due = Vec::new();
        for (index, endpoint) in &mut self.endpoints {
            if endpoint.connected_once && now.saturating_duration_since(endpoint.stats_at) >= STATS_INTERVAL {
                endpoint.stats_at = now;
                if !endpoint.order.is_empty() {
                    self.measurements.estimate(now, &endpoint.media.downstream);
                }
                due.push(EndpointKey(index));
            }
        }
        for key in due {
            let flows = self.take_flows(key);
            let Some(endpoint) = self.endpoints.get_mut(key.0) else { continue };
            let stats = connection_stats(endpoint, flows);
            self.emit(key, NodeEvent::Stats { connections: vec![stats] });
        }
    }

    /// Gives back the memory of streams that have stopped.
    fn expire_stores(&mut self) {
        for (_, track) in &mut self.tracks {
            track.encodings.iter_mut().for_each(|encoding| encoding.store.expire(self.now));
        }
    }
}

fn connection_stats(endpoint: &mut Endpoint, flows: Vec<FlowStats>) -> ConnectionStats {
    let traffic = std::mem::take(&mut endpoint.traffic);
    let received = flows.iter().filter(|flow| flow.direction == FlowDirection::Upstream);
    let (upstream_expected, upstream_lost) =
        received.fold((0, 0), |sum, flow| (sum.0 + flow.packets, sum.1 + flow.lost));
    let reported = endpoint.media.downstream.take_loss();
    let bitrate = |bytes: u64| Bitrate::from_bps(bytes.saturating_mul(8) / STATS_INTERVAL.as_secs());
    // The client reports on what had come a round trip ago: its share of losses is that of what was sent.
    let lost = (traffic.packets_sent * reported.lost).checked_div(reported.expected).unwrap_or(0);
    ConnectionStats {
        connection: endpoint.id,
        upstream: (upstream_expected.max(traffic.packets_received), upstream_lost),
        downstream: (traffic.packets_sent, lost.min(traffic.packets_sent)),
        rtt_ms: endpoint.media.rtt().map(|rtt| rtt.as_secs_f32() * 1000.0),
        upstream_bitrate: bitrate(traffic.bytes_received),
        downstream_bitrate: bitrate(traffic.bytes_sent),
        flows,
    }
}
