//! Who speaks, told to those who hear it.

use std::collections::BTreeMap;

use zynk_protocol::livekit::{self, signal_response};
use zynk_protocol::{ParticipantSid, SpeakerLevel, TrackSid};

use super::Room;

impl Room {
    /// Passes on what changed: to the speaker itself and to those subscribed to the track it was heard on.
    pub(super) fn speakers_changed(&mut self, levels: Vec<SpeakerLevel>) {
        let mut speakers: BTreeMap<ParticipantSid, (livekit::SpeakerInfo, Vec<TrackSid>)> = BTreeMap::new();
        for heard in levels {
            let visible = self.participants.get(&heard.participant).is_some_and(|p| !p.hidden());
            if !visible {
                continue;
            }
            let (speaker, tracks) = speakers.entry(heard.participant.clone()).or_default();
            speaker.sid = heard.participant.into_string();
            speaker.level = speaker.level.max(if heard.active { heard.level } else { 0.0 });
            speaker.active |= heard.active;
            tracks.push(heard.track);
        }
        let mut messages = Vec::new();
        for receiver in self.participants.values() {
            let hears = |sid: &ParticipantSid, tracks: &[TrackSid]| {
                receiver.sid == *sid
                    || tracks.iter().any(|track| {
                        receiver.subscriptions.get(track).is_some_and(|subscription| subscription.allowed)
                    })
            };
            let heard: Vec<livekit::SpeakerInfo> = speakers
                .iter()
                .filter(|(sid, (_, tracks))| hears(sid, tracks))
                .map(|(_, (speaker, _))| speaker.clone())
                .collect();
            if !heard.is_empty() {
                messages.push((receiver.sid.clone(), heard));
            }
        }
        for (receiver, speakers) in messages {
            let changed = livekit::SpeakersChanged { speakers };
            self.tell(&receiver, signal_response::Message::SpeakersChanged(changed));
        }
    }
}
