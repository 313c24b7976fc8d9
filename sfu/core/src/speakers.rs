//! Who speaks: audio levels of RTP packets (RFC 6464), judged over short intervals.

use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;
use zynk_protocol::{ParticipantSid, SpeakerLevel, TrackSid};

/// How often levels are judged.
pub(crate) const INTERVAL: Duration = Duration::from_millis(400);
/// Packets quieter than this, in −dBov, are background.
const ACTIVE_LEVEL: u8 = 35;
/// Share of an interval that must be loud for speech, percent.
const ACTIVE_PERCENT: u32 = 40;
/// Audio packets of an interval (20 ms each), the measure for [`ACTIVE_PERCENT`].
const PACKETS_PER_INTERVAL: u32 = 20;
/// Levels are reported in steps of one eighth.
const STEPS: f32 = 8.0;

/// The audio tracks of a room.
#[derive(Debug, Default)]
pub(crate) struct Speakers {
    tracks: FxHashMap<TrackSid, Voice>,
    next_at: Option<Instant>,
}

#[derive(Debug)]
struct Voice {
    participant: ParticipantSid,
    loud_packets: u32,
    loudest: u8,
    reported: Option<(f32, bool)>,
}

impl Speakers {
    /// Notes the level of a packet, in −dBov: 0 is the loudest, 127 silence.
    pub(crate) fn observe(&mut self, track: &TrackSid, participant: &ParticipantSid, level: u8) {
        if !self.tracks.contains_key(track) {
            let voice =
                Voice { participant: participant.clone(), loud_packets: 0, loudest: u8::MAX, reported: None };
            self.tracks.insert(track.clone(), voice);
        }
        if let Some(voice) = self.tracks.get_mut(track)
            && level <= ACTIVE_LEVEL
        {
            voice.loud_packets += 1;
            voice.loudest = voice.loudest.min(level);
        }
    }

    /// Forgets a track. Returns its last word if it was taken for a speaker.
    pub(crate) fn remove(&mut self, track: &TrackSid) -> Option<SpeakerLevel> {
        let voice = self.tracks.remove(track)?;
        voice.reported.filter(|(_, active)| *active).map(|_| SpeakerLevel {
            track: track.clone(),
            participant: voice.participant,
            level: 0.0,
            active: false,
        })
    }

    /// Ends the interval if it is over, and lists tracks that began, changed or stopped.
    pub(crate) fn judge(&mut self, now: Instant) -> Vec<SpeakerLevel> {
        if self.next_at.is_some_and(|at| now < at) {
            return Vec::new();
        }
        self.next_at = Some(now + INTERVAL);
        let mut changed = Vec::new();
        for (track, voice) in &mut self.tracks {
            let active = voice.loud_packets * 100 >= PACKETS_PER_INTERVAL * ACTIVE_PERCENT;
            let level = if active { level_of(voice.loudest) } else { 0.0 };
            voice.loud_packets = 0;
            voice.loudest = u8::MAX;
            if voice.reported.unwrap_or((0.0, false)) != (level, active) {
                voice.reported = Some((level, active));
                let participant = voice.participant.clone();
                changed.push(SpeakerLevel { track: track.clone(), participant, level, active });
            }
        }
        changed.sort_by(|a, b| a.track.cmp(&b.track));
        changed
    }
}

/// Linear level, 0 to 1, rounded up to the next step.
fn level_of(level: u8) -> f32 {
    (10_f32.powf(-f32::from(level) / 20.0) * STEPS).ceil() / STEPS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speech_begins_and_ends_with_one_report_each() {
        #[expect(clippy::disallowed_methods, reason = "any instant will do")]
        let start = Instant::now();
        let track = TrackSid::from_random(1);
        let participant = ParticipantSid::from_random(1);
        let mut speakers = Speakers::default();
        let mut reports = Vec::new();
        for interval in 0..6_u32 {
            for _ in 0..PACKETS_PER_INTERVAL {
                speakers.observe(&track, &participant, if (2..4).contains(&interval) { 20 } else { 90 });
            }
            for report in speakers.judge(start + INTERVAL * (interval + 1)) {
                reports.push((interval, report.level, report.active));
            }
        }
        assert_eq!(reports, [(2, 0.125, true), (4, 0.0, false)]);
    }

    #[test]
    fn short_noises_are_not_speech() {
        #[expect(clippy::disallowed_methods, reason = "any instant will do")]
        let start = Instant::now();
        let mut speakers = Speakers::default();
        for _ in 0..5 {
            speakers.observe(&TrackSid::from_random(1), &ParticipantSid::from_random(1), 5);
        }
        assert!(speakers.judge(start).is_empty());
    }

    #[test]
    fn a_speaker_that_leaves_is_reported_silent() {
        #[expect(clippy::disallowed_methods, reason = "any instant will do")]
        let start = Instant::now();
        let track = TrackSid::from_random(1);
        let mut speakers = Speakers::default();
        for _ in 0..PACKETS_PER_INTERVAL {
            speakers.observe(&track, &ParticipantSid::from_random(1), 5);
        }
        assert!(speakers.judge(start)[0].active);
        assert!(speakers.remove(&track).is_some_and(|last| !last.active));
    }
}
