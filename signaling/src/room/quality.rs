//! How good everybody's connection is, told to those who receive them.

mod e_model;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use zynk_protocol::livekit::{self, ConnectionQuality, signal_response};
use zynk_protocol::{ConnectionState, ConnectionStats, FlowStats, MediaKind, ParticipantSid};

use super::Room;
use super::participant::Participant;
use e_model::opinion_score;

/// How often changes are told.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);

/// Packets of one kind of media in an interval, one way, at least: two seconds of audio.
const PACKETS_MIN: u64 = 100;

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
        // LiveKit's thresholds (`pkg/sfu/connectionquality/scorer.go`).
        _ if rating > 80.0 => ConnectionQuality::Excellent,
        _ if rating > 40.0 => ConnectionQuality::Good,
        _ => ConnectionQuality::Poor,
    }
}

/// The rating factor of the worst that a participant sends or receives over a connection.
fn rating(stats: &ConnectionStats) -> f32 {
    let rtt_ms = stats.rtt_ms.unwrap_or_default();
    // All kinds together: what is known of them where they are not told apart.
    let all = [stats.upstream, stats.downstream].map(|packets| {
        e_model::rating(e_model::delay_ms(rtt_ms, 0.0), e_model::LOSS_ROBUSTNESS_OPUS, loss_percent(packets))
    });
    let flows = stats.flows.iter().map(|flow| flow_rating(rtt_ms, flow));
    flows.chain(all).fold(e_model::R_MAX, f32::min)
}

fn flow_rating(rtt_ms: f32, flow: &FlowStats) -> f32 {
    let robustness = match flow.kind {
        MediaKind::Audio => e_model::LOSS_ROBUSTNESS_OPUS,
        MediaKind::Video => e_model::LOSS_ROBUSTNESS_VIDEO,
    };
    let delay_ms = e_model::delay_ms(rtt_ms, flow.jitter_ms);
    let transport = e_model::rating(delay_ms, robustness, loss_percent((flow.packets, flow.lost)));
    transport.min(e_model::picture_rating(flow.layers_missing, flow.rate_percent))
}

/// Of so few packets that a stream of audio is silent, the loss is not heard: it counts as of [`PACKETS_MIN`].
fn loss_percent((packets, lost): (u64, u64)) -> f32 {
    let share = lost.min(packets) as f64 / packets.max(PACKETS_MIN) as f64;
    (share * 100.0) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use zynk_protocol::{Bitrate, ConnectionId, FlowDirection};

    fn stats(lost_of_100: u64, rtt_ms: f32) -> ConnectionStats {
        ConnectionStats {
            connection: ConnectionId(1),
            upstream: (100, lost_of_100),
            downstream: (0, 0),
            rtt_ms: Some(rtt_ms),
            upstream_bitrate: Bitrate::default(),
            downstream_bitrate: Bitrate::default(),
            flows: Vec::new(),
        }
    }

    fn flow(kind: MediaKind, lost_of_1000: u64) -> FlowStats {
        FlowStats {
            kind,
            direction: FlowDirection::Downstream,
            packets: 1000,
            lost: lost_of_1000,
            jitter_ms: 0.0,
            layers_missing: 0,
            rate_percent: 100,
        }
    }

    /// Over a path without loss of its own.
    fn of_flows(flows: &[FlowStats]) -> ConnectionQuality {
        quality(None, rating(&ConnectionStats { flows: flows.to_vec(), ..stats(0, 30.0) }))
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

    #[test]
    fn the_worst_flow_counts() {
        use ConnectionQuality::{Excellent, Good, Poor};
        let (audio, video) = (MediaKind::Audio, MediaKind::Video);
        assert_eq!(of_flows(&[flow(audio, 20), flow(video, 15)]), Excellent);
        assert_eq!(of_flows(&[flow(audio, 40), flow(video, 0)]), Good);
        assert_eq!(of_flows(&[flow(audio, 0), flow(video, 40)]), Good);
        assert_eq!(of_flows(&[flow(audio, 250), flow(video, 0)]), Poor);
        assert_eq!(of_flows(&[flow(audio, 0), flow(video, 250)]), Poor);
        assert_eq!(of_flows(&[FlowStats { jitter_ms: 300.0, ..flow(audio, 0) }]), Poor);
    }

    #[test]
    fn pictures_that_lack_layers_or_rate_lower_the_quality() {
        use ConnectionQuality::{Excellent, Good, Poor};
        let lacking = |layers_missing, rate_percent| {
            of_flows(&[FlowStats { layers_missing, rate_percent, ..flow(MediaKind::Video, 0) }])
        };
        assert_eq!((lacking(0, 50), lacking(0, 30)), (Excellent, Good));
        assert_eq!((lacking(1, 100), lacking(2, 100)), (Good, Poor));
    }

    #[test]
    fn what_is_lost_of_silence_is_not_heard() {
        let silence = FlowStats { packets: 10, lost: 3, ..flow(MediaKind::Audio, 0) };
        assert_eq!(of_flows(&[silence]), ConnectionQuality::Good);
        assert_eq!(loss_percent((10, 3)), 3.0);
        assert_eq!((loss_percent((0, 0)), loss_percent((100, 200))), (0.0, 100.0));
    }
}
