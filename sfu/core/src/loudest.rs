//! Whose audio is forwarded in a large room: that of the loudest, by the levels in the packets' headers (RFC 6464), which
//! end-to-end encryption leaves readable.
//!
//! ```text
//!   loudness   rises with half of the difference in 20 ms, falls by 30 dB a second
//!   heard      louder than the quietest of the N: at once
//!              not among the N for two seconds: not any more
//! ```
//! Who is outdone is thus heard to the end of a word, or of a sentence, and for so long there are more than N.

use std::time::{Duration, Instant};

use crate::shard::TrackKey;

/// Places that a room may have. More are taken for so many: browsers mix no more.
const PLACES_MAX: usize = 64;

/// Who is not among the loudest is heard for so long.
const LINGER: Duration = Duration::from_secs(2);

/// So many times the places may be heard at once. With more, who was outdone first is not heard any more.
const HEARD_PER_PLACE: usize = 2;

/// In this time the loudness goes half of the way to a louder packet's level: one packet is no speech yet, and after five of
/// 20 ms it is there but for 3%.
const ATTACK_HALF: Duration = Duration::from_millis(20);

/// How fast it falls, in decibels a second: pauses between words take nobody's place.
const RELEASE_DB_PER_S: f32 = 30.0;

/// The level of silence, in −dBov (RFC 6464, section 3).
const SILENCE: u8 = 127;

/// How loud a track is, smoothed: in decibels above [`SILENCE`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Loudness {
    decibels: f32,
    at: Instant,
}

impl Loudness {
    /// Of a track whose first packet has this level, in −dBov: it begins in silence.
    fn new(now: Instant, level: u8) -> Self {
        let at = now.checked_sub(ATTACK_HALF).unwrap_or(now);
        Self { decibels: 0.0, at }.with(now, level)
    }

    /// With one packet more. A track that stops sending in silence (DTX) falls all the same.
    fn with(self, now: Instant, level: u8) -> Self {
        let level = f32::from(SILENCE.saturating_sub(level));
        let fallen = self.now(now);
        let halves = now.saturating_duration_since(self.at).as_secs_f32() / ATTACK_HALF.as_secs_f32();
        let decibels = match level > fallen {
            true => level - (level - fallen) * 0.5_f32.powf(halves),
            false => fallen.max(level),
        };
        Self { decibels, at: now }
    }

    fn now(self, now: Instant) -> f32 {
        let since = now.saturating_duration_since(self.at).as_secs_f32();
        (self.decibels - RELEASE_DB_PER_S * since).max(0.0)
    }

    /// Takes the level of a packet of a track, in −dBov, whose loudness so far was `before`.
    pub(crate) fn follow(before: Option<Self>, now: Instant, level: u8) -> Self {
        before.map_or_else(|| Self::new(now, level), |before| before.with(now, level))
    }
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hearing {
    /// It is forwarded, as the one before was.
    Heard,
    /// It is the first that is forwarded, or the first again.
    Begins,
    /// It is not.
    Withheld,
}

/// Who is heard in a room.
#[derive(Debug, Default)]
pub(crate) struct Loudest {
    /// None: everybody is heard.
    places: usize,
    /// At most [`HEARD_PER_PLACE`] for each place.
    voices: Vec<Voice>,
}

/// A track that is heard.
#[derive(Clone, Copy, Debug)]
struct Voice {
    track: TrackKey,
    loudness: Loudness,
    /// Since when there have been as many others who are louder as there are places.
    outdone_since: Option<Instant>,
}

impl Loudest {
    /// How many are heard; 0: all.
    pub(crate) fn set_places(&mut self, places: u32) {
        self.places = usize::try_from(places).unwrap_or(PLACES_MAX).min(PLACES_MAX);
        if self.places == 0 {
            self.voices = Vec::new();
        }
    }

    /// Whether not everybody is heard.
    pub(crate) fn is_limited(&self) -> bool {
        self.places > 0
    }

    /// A packet of a track has come, which is this loud with it.
    pub(crate) fn hear(&mut self, now: Instant, track: TrackKey, loudness: Loudness) -> Hearing {
        self.rank(now);
        self.voices.retain(|voice| {
            voice.outdone_since.is_none_or(|since| now.saturating_duration_since(since) < LINGER)
        });
        if let Some(voice) = self.voices.iter_mut().find(|voice| voice.track == track) {
            voice.loudness = loudness;
            return Hearing::Heard;
        }
        if !self.voices.iter().filter(|voice| voice.outdone_since.is_none()).count().lt(&self.places)
            && !self.quietest(now).is_some_and(|quietest| loudness.now(now) > quietest)
        {
            return Hearing::Withheld;
        }
        if self.voices.len() >= self.places * HEARD_PER_PLACE {
            let outdone = self.voices.iter().enumerate().filter(|(_, voice)| voice.outdone_since.is_some());
            if let Some((first, _)) = outdone.min_by_key(|(_, voice)| voice.outdone_since) {
                self.voices.swap_remove(first);
            }
        }
        self.voices.push(Voice { track, loudness, outdone_since: None });
        self.rank(now);
        Hearing::Begins
    }

    /// The track has ended, or gone to another room.
    pub(crate) fn forget(&mut self, track: TrackKey) {
        self.voices.retain(|voice| voice.track != track);
    }

    /// How loud the quietest of the N is.
    fn quietest(&self, now: Instant) -> Option<f32> {
        let best = self.voices.iter().filter(|voice| voice.outdone_since.is_none());
        best.map(|voice| voice.loudness.now(now)).min_by(f32::total_cmp)
    }

    /// Finds who is outdone. Of those who are equally loud, whoever was not keeps the place.
    fn rank(&mut self, now: Instant) {
        let places = self.places;
        self.voices.sort_by(|a, b| {
            let louder = b.loudness.now(now).total_cmp(&a.loudness.now(now));
            louder.then(a.outdone_since.is_some().cmp(&b.outdone_since.is_some()))
        });
        for (index, voice) in self.voices.iter_mut().enumerate() {
            voice.outdone_since = match index < places {
                true => None,
                false => Some(voice.outdone_since.unwrap_or(now)),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const PACKET: Duration = Duration::from_millis(20);
    const QUIET: u8 = 90;

    /// People who talk, each with a level, in virtual time.
    struct Talk {
        now: Instant,
        loudest: Loudest,
        loudness: BTreeMap<usize, Loudness>,
    }

    impl Talk {
        fn new(places: u32) -> Self {
            #[expect(clippy::disallowed_methods, reason = "any instant will do")]
            let now = Instant::now();
            let mut loudest = Loudest::default();
            loudest.set_places(places);
            Self { now, loudest, loudness: BTreeMap::new() }
        }

        /// A packet of each comes, 20 ms after the last; who of them is heard.
        fn packet(&mut self, levels: &[(usize, u8)]) -> Vec<usize> {
            self.now += PACKET;
            let now = self.now;
            let mut heard = Vec::new();
            for (who, level) in levels {
                let loudness = Loudness::follow(self.loudness.get(who).copied(), now, *level);
                self.loudness.insert(*who, loudness);
                if self.loudest.hear(now, TrackKey(*who), loudness) != Hearing::Withheld {
                    heard.push(*who);
                }
            }
            heard
        }

        /// Same for a while; who was heard at its end.
        fn packets(&mut self, time: Duration, levels: &[(usize, u8)]) -> Vec<usize> {
            let packets = time.as_millis() / PACKET.as_millis();
            (0..packets).map(|_| self.packet(levels)).last().unwrap_or_default()
        }
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn of_n_and_three_talkers_the_loudest_n_are_heard() {
        let mut talk = Talk::new(3);
        // From the quietest to the loudest, so that each has to take a place.
        let levels: Vec<(usize, u8)> = (0..6).map(|who| (who, 45 - 5 * who as u8)).collect();
        assert_eq!(talk.packets(3 * SECOND, &levels), [3, 4, 5]);
        // Turned round, the others are.
        let levels: Vec<(usize, u8)> = (0..6).map(|who| (who, 20 + 5 * who as u8)).collect();
        assert_eq!(talk.packets(4 * SECOND, &levels), [0, 1, 2]);
    }

    #[test]
    fn a_newcomer_who_speaks_is_heard_within_a_tenth_of_a_second() {
        let mut talk = Talk::new(3);
        let mut levels: Vec<(usize, u8)> = (0..3).map(|who| (who, 30)).collect();
        levels.extend((3..20).map(|who| (who, QUIET)));
        assert_eq!(talk.packets(3 * SECOND, &levels), [0, 1, 2]);
        levels[10].1 = 25;
        let packets_until_heard = (1..).find(|_| talk.packet(&levels).contains(&10)).unwrap();
        assert!(packets_until_heard <= 5, "{packets_until_heard} packets of 20 ms");
        assert!(packets_until_heard > 1, "a single packet is no speech");
    }

    #[test]
    fn who_is_outdone_is_heard_for_two_seconds_more() {
        let mut talk = Talk::new(2);
        talk.packets(SECOND, &[(0, 30), (1, 40)]);
        let all = [(0, 30), (1, 40), (2, 20)];
        assert!(talk.packets(SECOND, &all).contains(&1), "it is not cut in mid-word");
        assert!(talk.packets(SECOND - PACKET * 10, &all).contains(&1));
        assert_eq!(talk.packets(PACKET * 15, &all), [0, 2]);
    }

    #[test]
    fn pauses_between_words_cost_no_place() {
        let mut talk = Talk::new(1);
        talk.packets(SECOND, &[(0, 25), (1, QUIET)]);
        for _ in 0..10 {
            let heard = talk.packets(Duration::from_millis(300), &[(0, QUIET), (1, 70)]);
            assert!(heard.contains(&0), "{heard:?}");
            assert!(talk.packets(Duration::from_millis(200), &[(0, 25), (1, 70)]).contains(&0));
        }
    }

    /// Who sends nothing in silence falls like one who sends silence.
    #[test]
    fn a_place_of_one_who_stopped_sending_is_taken() {
        let mut talk = Talk::new(1);
        talk.packets(SECOND, &[(0, 20)]);
        assert_eq!(talk.packets(SECOND, &[(1, 70)]), [0; 0], "it may only be a pause");
        assert_eq!(talk.packets(3 * SECOND, &[(1, 70)]), [1]);
        assert_eq!(talk.packet(&[(0, 127), (1, 70)]), [1], "its comfort noise is not heard");
    }

    #[test]
    fn however_many_come_twice_the_places_are_heard_at_most() {
        let mut talk = Talk::new(2);
        let mut levels: Vec<(usize, u8)> = Vec::new();
        for who in 0..30 {
            levels.push((who, 100 - 3 * who as u8));
            talk.packets(PACKET * 5, &levels);
            assert!(talk.loudest.voices.len() <= 4);
        }
        assert_eq!(talk.packets(3 * SECOND, &levels), [28, 29]);
        talk.loudest.forget(TrackKey(29));
        assert!(talk.packet(&levels[..28]).contains(&27), "its place is free at once");
    }

    #[test]
    fn places_are_bounded() {
        let mut loudest = Loudest::default();
        assert!(!loudest.is_limited());
        loudest.set_places(u32::MAX);
        assert_eq!(loudest.places, PLACES_MAX);
        loudest.set_places(0);
        assert!(!loudest.is_limited());
    }
}
