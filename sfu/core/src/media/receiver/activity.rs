//! Which encodings of a track are being sent.
//!
//! A publisher stops an encoding without a word (no bandwidth, no CPU, nobody watches) and a subscriber's
//! picture stands still until another is chosen. Silence alone does not tell: a still screen share sends one
//! frame a second or less. But all encodings of a track show the same picture, so while one of them goes on,
//! another that keeps silent has stopped:
//!
//! ```text
//!   high  | | | | | | . . . .         stopped: `low` has had frames since, and the silence
//!   low   | | | | | | | | | |         is long for a stream of this pace
//!
//!   high  |         |         .       going on: nobody has had a frame since
//!   low   |         |         .
//! ```
//! Alone, or when all keep silent, an encoding counts as stopped after four of its own usual intervals; a
//! slow one is given seconds, since there is nothing better to switch to anyway.

use std::time::{Duration, Instant};

/// How many encodings of one track are told apart. Packets of further ones are ignored here.
pub const LAYERS_MAX: usize = 4;
/// Silence shorter than this is never a stop: encoders drop a few frames after a burst.
const SILENCE_MIN: Duration = Duration::from_millis(300);
/// The shortest silence that counts without a sibling's testimony. With the timer's resolution a camera's
/// stop is noticed within 500 ms.
const SILENCE_ALONE_MIN: Duration = Duration::from_millis(450);
/// The same for a stream with fewer than ten frames a second in its recent past.
const SILENCE_SLOW_MIN: Duration = Duration::from_millis(2_500);
/// After this silence everything has stopped.
const SILENCE_MAX: Duration = Duration::from_secs(6);
/// Longer intervals make a stream a slow one, in milliseconds.
const SLOW_INTERVAL_MS: u16 = 110;
/// Frames a sibling must have had since, to testify.
const MISSED_MIN: u8 = 2;

/// One encoding that started or stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerChange {
    /// Its number, below [`LAYERS_MAX`].
    pub layer: usize,
    /// Whether it is being sent now.
    pub active: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Layer {
    /// When the newest frame began; `None` while stopped.
    frame_at: Option<Instant>,
    /// The longest of the recent intervals between frames; shrinks by 1/32 with each shorter one. Survives
    /// a stop.
    interval_ms: u16,
    /// The most frames one sibling has had since this layer's newest.
    missed: [u8; LAYERS_MAX],
}

/// The encodings of one track, by the arrival of their frames. 96 bytes, no allocation.
#[derive(Clone, Debug, Default)]
pub struct LayerActivity {
    layers: [Layer; LAYERS_MAX],
}

impl LayerActivity {
    /// Notes the first packet of a frame (a new RTP timestamp with payload; padding is no frame) of `layer`.
    /// Returns true if the layer has just started.
    pub fn on_frame(&mut self, now: Instant, layer: usize) -> bool {
        for (index, other) in self.layers.iter_mut().enumerate() {
            if index != layer
                && let Some(missed) = other.missed.get_mut(layer)
            {
                *missed = missed.saturating_add(1);
            }
        }
        let Some(layer) = self.layers.get_mut(layer) else { return false };
        layer.missed = [0; LAYERS_MAX];
        let Some(previous) = layer.frame_at.replace(now) else { return true };
        let interval = now.saturating_duration_since(previous).as_millis().min(u128::from(u16::MAX)) as u16;
        let decayed = layer.interval_ms - layer.interval_ms.div_ceil(32);
        layer.interval_ms = interval.max(decayed);
        false
    }

    /// Whether `layer` is being sent, as of the last [`poll`](Self::poll).
    #[must_use]
    pub fn is_active(&self, layer: usize) -> bool {
        self.layers.get(layer).is_some_and(|layer| layer.frame_at.is_some())
    }

    /// The next layer that has stopped, once. Call until `None`, whenever [`next_timeout`](Self::next_timeout)
    /// has come.
    pub fn poll(&mut self, now: Instant) -> Option<LayerChange> {
        let (layer, entry) = self
            .layers
            .iter_mut()
            .enumerate()
            .find(|(_, layer)| layer.stops_at().is_some_and(|stops_at| stops_at <= now))?;
        // The silence until it starts again is no interval between frames.
        entry.frame_at = None;
        Some(LayerChange { layer, active: false })
    }

    /// When a layer may next have stopped, if no frame comes before.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        self.layers.iter().filter_map(Layer::stops_at).min()
    }
}

impl Layer {
    fn stops_at(&self) -> Option<Instant> {
        let interval = Duration::from_millis(u64::from(self.interval_ms));
        let silence = if self.missed.iter().any(|missed| *missed >= MISSED_MIN) {
            (interval * 9 / 4).max(SILENCE_MIN)
        } else if self.interval_ms > SLOW_INTERVAL_MS || self.interval_ms == 0 {
            (interval * 4).max(SILENCE_SLOW_MIN)
        } else {
            SILENCE_ALONE_MIN
        };
        self.frame_at.map(|at| at + silence.min(SILENCE_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn start() -> Instant {
        Instant::now()
    }

    /// Runs `schedule`, (milliseconds, layer), polling each millisecond; returns what changed and when.
    fn run(schedule: &[(u64, usize)], until_ms: u64) -> Vec<(u64, LayerChange)> {
        let (start, mut activity, mut changes) = (start(), LayerActivity::default(), Vec::new());
        for ms in 0..=until_ms {
            let now = start + Duration::from_millis(ms);
            for (_, layer) in schedule.iter().filter(|(at, _)| *at == ms) {
                if activity.on_frame(now, *layer) {
                    changes.push((ms, LayerChange { layer: *layer, active: true }));
                }
            }
            while let Some(change) = activity.poll(now) {
                changes.push((ms, change));
            }
        }
        changes
    }

    fn frames(layer: usize, from_ms: u64, to_ms: u64, interval_ms: u64) -> Vec<(u64, usize)> {
        (from_ms..to_ms).step_by(interval_ms as usize).map(|ms| (ms, layer)).collect()
    }

    fn stops(changes: &[(u64, LayerChange)]) -> Vec<(u64, usize)> {
        changes.iter().filter(|(_, change)| !change.active).map(|(at, change)| (*at, change.layer)).collect()
    }

    #[test]
    fn a_cameras_layer_that_stops_is_noticed_within_half_a_second() {
        for fps in [12, 15, 24, 30, 60] {
            let interval = 1000 / fps;
            let schedule = [frames(0, 0, 6000, interval), frames(1, 2, 3000, interval)].concat();
            let stops = stops(&run(&schedule, 5900));
            assert_eq!(stops.len(), 1, "{fps} fps: {stops:?}");
            let (at, layer) = stops[0];
            assert_eq!(layer, 1);
            let last = schedule.iter().filter(|(_, layer)| *layer == 1).map(|(at, _)| *at).max().unwrap();
            assert!((last + 300..=last + 500).contains(&at), "{fps} fps: {at} after {last}");
        }
    }

    #[test]
    fn a_single_cameras_stop_and_start_are_noticed_within_half_a_second() {
        let changes = run(&[frames(0, 0, 3000, 33), frames(0, 5000, 6000, 33)].concat(), 5990);
        let kinds: Vec<_> = changes.iter().map(|(_, change)| change.active).collect();
        assert_eq!(kinds, [true, false, true]);
        assert!(changes[1].0 <= 3000 + 450);
        assert_eq!(changes[2].0, 5000, "a start is noticed with its first frame");
    }

    #[test]
    fn a_slow_screen_share_does_not_flap() {
        for interval in [200, 333, 500, 1000] {
            let schedule = [
                frames(0, 0, 30_000, interval),
                frames(1, 5, 30_000, interval),
                frames(2, 9, 30_000, interval),
            ];
            assert_eq!(stops(&run(&schedule.concat(), 30_000)), [], "{interval} ms");
            assert_eq!(stops(&run(&frames(0, 0, 30_000, interval), 30_000)), [], "{interval} ms, alone");
        }
    }

    #[test]
    fn a_screen_share_whose_layers_differ_in_pace_does_not_flap() {
        let schedule = [frames(0, 0, 30_000, 200), frames(1, 3, 30_000, 33)].concat();
        assert_eq!(stops(&run(&schedule, 30_000)), []);
    }

    #[test]
    fn scrolling_and_standing_still_by_turns_does_not_flap_once_known() {
        // Ten seconds of one frame a second, two of 30, …
        let mut schedule = Vec::new();
        for turn in 0..5 {
            let from = turn * 12_000;
            schedule.extend(frames(0, from, from + 10_000, 1000));
            schedule.extend(frames(0, from + 10_000, from + 12_000, 33));
        }
        assert_eq!(stops(&run(&schedule, 60_000)), []);
    }

    #[test]
    fn a_slow_layer_beside_a_going_one_is_noticed_after_two_intervals_and_a_bit() {
        let schedule = [frames(0, 0, 10_000, 200), frames(1, 3, 5_000, 200)].concat();
        let stops = stops(&run(&schedule, 9_900));
        assert_eq!(stops, [(4803 + 450, 1)]);
    }

    #[test]
    fn an_outage_of_the_whole_track_stops_all_but_slow_ones_later() {
        let schedule = [frames(0, 0, 3000, 33), frames(1, 4, 3000, 33)].concat();
        assert_eq!(stops(&run(&schedule, 4000)).len(), 2);
        let slow = [frames(0, 0, 3000, 500), frames(1, 4, 3000, 500)].concat();
        assert_eq!(stops(&run(&slow, 4900)), []);
        assert_eq!(stops(&run(&slow, 9000)).len(), 2, "in the end they have");
    }

    #[test]
    fn unknown_layers_are_ignored() {
        let mut activity = LayerActivity::default();
        assert!(!activity.on_frame(start(), LAYERS_MAX));
        assert!(!activity.is_active(LAYERS_MAX));
        assert_eq!(activity.next_timeout(), None);
        assert!(size_of::<LayerActivity>() <= 96);
    }
}
