//! How good everybody's connection is, told to those who receive them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use zynk_protocol::livekit::{self, ConnectionQuality, signal_response};
use zynk_protocol::{ConnectionState, ConnectionStats, ParticipantSid};

use super::Room;
use super::participant::Participant;

/// How often changes are told.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);

/// From this protocol number on, clients know the quality LOST.
const LOST_PROTOCOL: i32 = 11;

/// The latest rating of each participant, at most one each.
#[derive(Debug, Default)]
pub(super) struct QualityState {
    ratings: BTreeMap<ParticipantSid, f32>,
    due: Option<Instant>,
}

impl QualityState {
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.due
    }
}

impl Room {
    pub(super) fn stats_arrived(&mut self, stats: &[ConnectionStats]) {
        let mut worst: BTreeMap<ParticipantSid, f32> = BTreeMap::new();
        for connection in stats {
            let Some(sid) = self.connections.get(&connection.connection) else { continue };
            let rating = rating(connection);
            let entry = worst.entry(sid.clone()).or_insert(rating);
            *entry = entry.min(rating);
        }
        self.quality.ratings.extend(worst);
        self.quality.due.get_or_insert(self.now + REPORT_INTERVAL);
    }

    pub(super) fn report_quality(&mut self) {
        if self.quality.due.is_none_or(|due| due > self.now) {
            return;
        }
        // The next figures start the next interval; without figures there is nothing to tell.
        self.quality.due = None;
        self.quality.ratings.retain(|sid, _| self.participants.contains_key(sid));
        let receivers: Vec<ParticipantSid> = self.participants.keys().cloned().collect();
        for receiver in receivers {
            let updates = self.quality_changes(&receiver);
            if !updates.is_empty() {
                let update = livekit::ConnectionQualityUpdate { updates };
                self.tell(&receiver, signal_response::Message::ConnectionQuality(update));
            }
        }
    }

    /// How good a participant's connection is, and its mean opinion score.
    pub(super) fn quality_of(&self, sid: &ParticipantSid) -> Option<(ConnectionQuality, f32)> {
        let rating = *self.quality.ratings.get(sid)?;
        Some((quality(self.participants.get(sid).map(Box::as_ref), rating), opinion_score(rating)))
    }

    /// What changed for a receiver of itself and those whose tracks it has, noted as told.
    fn quality_changes(&mut self, receiver: &ParticipantSid) -> Vec<livekit::ConnectionQualityInfo> {
        let Some(participant) = self.participants.get(receiver) else { return Vec::new() };
        let knows_lost = participant.protocol() >= LOST_PROTOCOL;
        let mut about: BTreeSet<&ParticipantSid> =
            participant.subscriptions.keys().filter_map(|track| self.tracks.get(track)).collect();
        about.insert(receiver);
        let mut changes = Vec::new();
        for sid in about {
            let Some(rating) = self.quality.ratings.get(sid) else { continue };
            let mut quality = quality(self.participants.get(sid).map(Box::as_ref), *rating);
            if quality == ConnectionQuality::Lost && !knows_lost {
                quality = ConnectionQuality::Poor;
            }
            if participant.quality_told.get(sid) != Some(&quality) {
                changes.push((sid.clone(), quality, opinion_score(*rating)));
            }
        }
        let Some(participant) = self.participants.get_mut(receiver) else { return Vec::new() };
        changes
            .into_iter()
            .map(|(sid, quality, score)| {
                participant.quality_told.insert(sid.clone(), quality);
                let participant_sid = sid.into_string();
                livekit::ConnectionQualityInfo { participant_sid, quality: quality.into(), score }
            })
            .collect()
    }
}

fn quality(participant: Option<&Participant>, rating: f32) -> ConnectionQuality {
    let state = participant.and_then(|participant| participant.primary().state);
    match state {
        Some(ConnectionState::Disconnected | ConnectionState::Failed) => ConnectionQuality::Lost,
        _ if rating > 80.0 => ConnectionQuality::Excellent,
        _ if rating > 40.0 => ConnectionQuality::Good,
        _ => ConnectionQuality::Poor,
    }
}

/// The E-model's rating factor R, 0 to 93 (ITU-T G.107, simplified: delay and loss alone).
fn rating(stats: &ConnectionStats) -> f32 {
    let loss = loss_percent(stats.upstream).max(loss_percent(stats.downstream));
    // One way, and the receiver's jitter buffer.
    let delay_ms = stats.rtt_ms.unwrap_or_default() / 2.0 + 40.0;
    let delay_penalty = match delay_ms < 160.0 {
        true => delay_ms / 40.0,
        false => (delay_ms - 120.0) / 10.0,
    };
    (93.2 - delay_penalty - 2.5 * loss).clamp(0.0, 93.2)
}

fn loss_percent((packets, lost): (u64, u64)) -> f32 {
    if packets == 0 {
        return 0.0;
    }
    let percent = lost.min(packets) as f64 / packets as f64 * 100.0;
    percent as f32
}

/// The mean opinion score of a rating, 1 to 4.5 (ITU-T G.107, annex B).
fn opinion_score(rating: f32) -> f32 {
    1.0 + 0.035 * rating + 7e-6 * rating * (rating - 60.0) * (100.0 - rating)
}

#[cfg(test)]
mod tests {
    use super::*;
    use zynk_protocol::{Bitrate, ConnectionId};

    fn stats(lost_of_100: u64, rtt_ms: f32) -> ConnectionStats {
        ConnectionStats {
            connection: ConnectionId(1),
            upstream: (100, lost_of_100),
            downstream: (0, 0),
            rtt_ms: Some(rtt_ms),
            upstream_bitrate: Bitrate::default(),
            downstream_bitrate: Bitrate::default(),
        }
    }

    #[test]
    fn loss_and_delay_lower_the_quality() {
        let of = |lost, rtt| quality(None, rating(&stats(lost, rtt)));
        assert_eq!(of(0, 30.0), ConnectionQuality::Excellent);
        assert_eq!(of(0, 600.0), ConnectionQuality::Good);
        assert_eq!(of(8, 30.0), ConnectionQuality::Good);
        assert_eq!(of(30, 30.0), ConnectionQuality::Poor);
        assert!(opinion_score(rating(&stats(0, 30.0))) > 4.3);
        assert!(opinion_score(0.0) >= 1.0);
    }
}
