//! A published track: its encodings, who receives it and when its publisher was last asked for a keyframe.

use std::time::{Duration, Instant};

use zynk_protocol::{BackupUse, MediaKind, MimeType, TrackSid};

use crate::{
    connection::{Mid, Rid},
    layers::StreamLayers,
    shard::{EndpointKey, SubscriptionKey, TrackKey},
};

/// An encoding counts as stopped when nothing came for so long. Shorter than a viewer's patience, longer than
/// the pause between frames of any camera; simulcast of a screen share below one frame a second changes layers
/// needlessly.
const ENCODING_IDLE: Duration = Duration::from_millis(1500);
/// At most one keyframe request per encoding in this time, however many subscribers ask: a keyframe costs
/// the publisher several times a normal frame.
const KEYFRAME_INTERVAL_MIN: Duration = Duration::from_millis(500);

/// A packet that comes so much too late is none of the running stream's (RFC 3550, appendix A.1:
/// MAX_DROPOUT).
const SEQUENCE_STEP_BACK_MAX: u64 = 3000;
/// How often an unanswered keyframe request is repeated at the shortest interval; later the interval doubles
/// each time.
const KEYFRAME_EAGER_REPEATS: u32 = 4;
/// The longest such interval is the shortest, doubled so often.
const KEYFRAME_DOUBLINGS_MAX: u32 = 4;

/// A track whose section has been negotiated.
#[derive(Debug)]
pub(crate) struct Track {
    pub(crate) sid: TrackSid,
    pub(crate) publisher: EndpointKey,
    pub(crate) mid: Mid,
    pub(crate) kind: MediaKind,
    /// Lowest first; one for a track without simulcast.
    pub(crate) encodings: Vec<Encoding>,
    pub(crate) subscribers: Vec<SubscriptionKey>,
    pub(crate) muted: bool,
    /// The codec that the publisher was asked for.
    pub(crate) codec: Option<MimeType>,
    /// The same track in another codec.
    pub(crate) backup: Option<TrackKey>,
    /// Set if this is such another codec.
    pub(crate) usage: Option<BackupUse>,
}

/// One stream of a track.
#[derive(Debug)]
pub(crate) struct Encoding {
    pub(crate) rid: Option<Rid>,
    pub(crate) layers: StreamLayers,
    /// Who sends it, and the highest number that came.
    source: Option<(u32, u64)>,
    last_packet_at: Option<Instant>,
    keyframes: KeyframeRequests,
}

/// Whose packet came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The first of an encoding, or the same source's as before.
    Known,
    /// That of a source that begins anew, in place of this one.
    Replaced(u32),
}

impl Encoding {
    pub(crate) fn new(rid: Option<Rid>) -> Self {
        Self {
            rid,
            layers: StreamLayers::default(),
            source: None,
            last_packet_at: None,
            keyframes: KeyframeRequests::default(),
        }
    }

    /// Notes a packet.
    pub(crate) fn observe(&mut self, now: Instant, keyframe: bool) {
        self.last_packet_at = Some(now);
        if keyframe {
            self.keyframes.satisfied();
        }
    }

    /// Follows the encoding from source to source: a publisher's restart changes its SSRC or takes its
    /// sequence numbers back.
    pub(crate) fn follow(&mut self, source: u32, sequence: u64) -> Source {
        match self.source {
            Some((known, highest))
                if known != source || sequence.saturating_add(SEQUENCE_STEP_BACK_MAX) < highest =>
            {
                self.source = Some((source, sequence));
                Source::Replaced(known)
            }
            known => {
                let highest = known.map_or(sequence, |(_, highest)| highest.max(sequence));
                self.source = Some((source, highest));
                Source::Known
            }
        }
    }

    fn is_active(&self, now: Instant) -> bool {
        self.last_packet_at.is_some_and(|at| now.saturating_duration_since(at) < ENCODING_IDLE)
    }
}

impl Track {
    /// Which encodings are being sent. A track with a single one is always taken for active.
    pub(crate) fn active(&self, now: Instant) -> Vec<bool> {
        let single = self.encodings.len() == 1;
        self.encodings.iter().map(|encoding| single || encoding.is_active(now)).collect()
    }

    /// Whether any media of it has come.
    pub(crate) fn has_begun(&self) -> bool {
        self.encodings.iter().any(|encoding| encoding.last_packet_at.is_some())
    }

    /// The number of the encoding that carries `rid`.
    pub(crate) fn encoding_index(&self, rid: Option<Rid>) -> Option<usize> {
        match rid {
            None if self.encodings.len() == 1 => Some(0),
            None => None,
            Some(_) => self.encodings.iter().position(|encoding| encoding.rid == rid),
        }
    }

    /// Notes that somebody needs a keyframe of an encoding. True if the publisher is to be asked now.
    pub(crate) fn want_keyframe(&mut self, now: Instant, index: usize) -> bool {
        self.kind == MediaKind::Video
            && self.encodings.get_mut(index).is_some_and(|encoding| encoding.keyframes.want(now))
    }

    /// Encodings whose keyframe is overdue, to be asked for again: none where nobody would see it.
    pub(crate) fn overdue_keyframes(&mut self, now: Instant) -> Vec<Option<Rid>> {
        if self.muted || self.subscribers.is_empty() {
            self.encodings.iter_mut().for_each(|encoding| encoding.keyframes.satisfied());
            return Vec::new();
        }
        let due = |encoding: &mut Encoding| encoding.keyframes.retry(now).then_some(encoding.rid);
        self.encodings.iter_mut().filter_map(due).collect()
    }
}

/// Limits how often an encoding's publisher is asked, and repeats requests that got lost.
#[derive(Clone, Copy, Debug, Default)]
struct KeyframeRequests {
    asked_at: Option<Instant>,
    wanted: bool,
    /// Requests since the last keyframe.
    asked: u32,
}

impl KeyframeRequests {
    fn want(&mut self, now: Instant) -> bool {
        self.wanted = true;
        self.retry(now)
    }

    fn retry(&mut self, now: Instant) -> bool {
        let doublings = self.asked.saturating_sub(KEYFRAME_EAGER_REPEATS).min(KEYFRAME_DOUBLINGS_MAX);
        let interval = KEYFRAME_INTERVAL_MIN * (1 << doublings);
        let rested = self.asked_at.is_none_or(|at| now.saturating_duration_since(at) >= interval);
        let ask = self.wanted && rested;
        if ask {
            self.asked_at = Some(now);
            self.asked = self.asked.saturating_add(1);
        }
        ask
    }

    fn satisfied(&mut self) {
        self.wanted = false;
        self.asked = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_wishes_make_one_request_and_lost_ones_are_repeated() {
        #[expect(clippy::disallowed_methods, reason = "any instant will do")]
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut requests = KeyframeRequests::default();
        assert!(requests.want(at(0)));
        assert!(!requests.want(at(1)));
        assert!(!requests.retry(at(499)));
        assert!(requests.retry(at(500)), "no keyframe came: ask again");
        requests.satisfied();
        assert!(!requests.retry(at(2000)));
        assert!(requests.want(at(2000)));
    }

    #[test]
    fn requests_that_nobody_answers_become_rare() {
        #[expect(clippy::disallowed_methods, reason = "any instant will do")]
        let start = Instant::now();
        let mut requests = KeyframeRequests::default();
        let asked = (0..60_000).filter(|ms| requests.want(start + Duration::from_millis(*ms))).count();
        assert!((8..=15).contains(&asked), "{asked} in a minute");
    }

    #[test]
    fn a_source_that_begins_anew_is_noticed() {
        let mut encoding = Encoding::new(None);
        assert_eq!(encoding.follow(1, 70_000), Source::Known);
        assert_eq!(encoding.follow(1, 70_500), Source::Known);
        assert_eq!(encoding.follow(1, 69_900), Source::Known, "late, of the same stream");
        assert_eq!(encoding.follow(2, 70_501), Source::Replaced(1));
        assert_eq!(encoding.follow(2, 50), Source::Replaced(2), "the same SSRC from the start");
        assert_eq!(encoding.follow(2, 51), Source::Known);
    }
}
