//! What the layers of an encoding take, measured as they come.

use std::time::{Duration, Instant};

use crate::media::bitrate::Bitrate;

/// Layers told apart; higher ones count as the last.
const SPATIAL_MAX: usize = 4;
const TEMPORAL_MAX: usize = 4;
/// Bytes are summed over so long: a few frames of the slowest layer in use, at 7.5 frames a second.
const WINDOW: Duration = Duration::from_millis(500);
/// The middle one of so many windows counts. A keyframe is many times as large as what follows and falls into one; two
/// can be outliers without moving the figure.
const WINDOWS: usize = 5;
/// The first window tells something once it is this old.
const FIRST_MIN: Duration = Duration::from_millis(200);

/// The bit and frame rates of one encoding's layers. 480 bytes.
#[derive(Debug, Default)]
pub(crate) struct LayerRates {
    started_at: Option<Instant>,
    seen_at: Option<Instant>,
    running: Sums,
    /// Complete windows, in no order; `next` is replaced next.
    windows: [Sums; WINDOWS],
    complete: usize,
    next: usize,
}

/// Of one window.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    bytes: [[u32; TEMPORAL_MAX]; SPATIAL_MAX],
    frames: [u16; TEMPORAL_MAX],
}

impl Sums {
    fn bytes_up_to(&self, spatial: usize, temporal: usize) -> u64 {
        let layers = self.bytes.iter().take(spatial + 1);
        layers.flat_map(|layer| layer.iter().take(temporal + 1)).map(|bytes| u64::from(*bytes)).sum()
    }

    fn frames_up_to(&self, temporal: usize) -> u64 {
        self.frames.iter().take(temporal + 1).map(|frames| u64::from(*frames)).sum()
    }
}

impl LayerRates {
    /// Notes a packet; `begins_frame` if it is the first of a picture.
    pub(crate) fn on_packet(
        &mut self,
        now: Instant,
        (spatial, temporal): (u8, u8),
        bytes: usize,
        begins_frame: bool,
    ) {
        self.roll(now);
        let temporal = usize::from(temporal).min(TEMPORAL_MAX - 1);
        let layer = self.running.bytes.get_mut(usize::from(spatial).min(SPATIAL_MAX - 1));
        if let Some(sum) = layer.and_then(|layer| layer.get_mut(temporal)) {
            *sum = sum.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
        }
        if let Some(frames) = self.running.frames.get_mut(temporal).filter(|_| begins_frame) {
            *frames = frames.saturating_add(1);
        }
        self.seen_at = Some(now);
    }

    /// Ends the window if it is over. What paused for longer than all windows begins anew.
    fn roll(&mut self, now: Instant) {
        let Some(started_at) = self.started_at else {
            self.started_at = Some(now);
            return;
        };
        let age = now.saturating_duration_since(started_at);
        if age < WINDOW {
            return;
        }
        if age > WINDOW * WINDOWS as u32 {
            *self = Self { started_at: Some(now), ..Self::default() };
            return;
        }
        if let Some(window) = self.windows.get_mut(self.next) {
            *window = std::mem::take(&mut self.running);
        }
        self.next = (self.next + 1) % WINDOWS;
        self.complete = (self.complete + 1).min(WINDOWS);
        self.started_at = Some(started_at + WINDOW);
        // A window in which nothing came.
        self.roll(now);
    }

    /// What the layers up to these take together; none before anything is known.
    pub(crate) fn rate(&self, spatial: u8, temporal: u8) -> Option<Bitrate> {
        let (spatial, temporal) = (usize::from(spatial), usize::from(temporal));
        self.per_second(|sums| sums.bytes_up_to(spatial, temporal)).map(|bytes| Bitrate::bps(bytes * 8))
    }

    /// Frames a second of the temporal layers up to this one.
    pub(crate) fn frame_rate(&self, temporal: u8) -> Option<u64> {
        self.per_second(|sums| sums.frames_up_to(temporal.into()))
    }

    /// The highest temporal layer of which anything came lately.
    pub(crate) fn highest_temporal(&self) -> u8 {
        let windows = self.windows.iter().take(self.complete).chain([&self.running]);
        let highest =
            windows.filter_map(|sums| sums.frames.iter().rposition(|frames| *frames > 0)).max().unwrap_or(0);
        u8::try_from(highest).unwrap_or(0)
    }

    fn per_second(&self, of: impl Fn(&Sums) -> u64) -> Option<u64> {
        if self.complete == 0 {
            let age = self.seen_at?.saturating_duration_since(self.started_at?);
            let ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
            return (age >= FIRST_MIN).then(|| of(&self.running).saturating_mul(1000) / ms.max(1));
        }
        let mut sums = [0; WINDOWS];
        for (sum, window) in sums.iter_mut().zip(self.windows.iter().take(self.complete)) {
            *sum = of(window);
        }
        let known = sums.get_mut(..self.complete)?;
        known.sort_unstable();
        let middle = *known.get((self.complete - 1) / 2)?;
        Some(middle * 1000 / WINDOW.as_millis() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn clock() -> impl Fn(u64) -> Instant {
        let start = Instant::now();
        move |ms| start + Duration::from_millis(ms)
    }

    /// A second of 32 frames: layers 0, 2, 1, 2, …, with so many bytes a frame.
    fn second(rates: &mut LayerRates, at: impl Fn(u64) -> Instant, from: u64, bytes: usize) {
        for frame in 0..32_u64 {
            let temporal = [0, 2, 1, 2][usize::try_from(frame % 4).unwrap()];
            let now = at(from + frame * 125 / 4);
            rates.on_packet(now, (0, temporal), bytes / 2, true);
            rates.on_packet(now, (0, temporal), bytes / 2, false);
        }
    }

    #[test]
    fn layers_are_summed_from_the_lowest() {
        let at = clock();
        let mut rates = LayerRates::default();
        assert_eq!(rates.rate(0, 7), None);
        for seconds in 0..4 {
            second(&mut rates, &at, seconds * 1000, 1000);
        }
        let kbps = [0, 1, 2, 7].map(|temporal| rates.rate(0, temporal).unwrap().as_bps() / 1000);
        assert_eq!(kbps, [64, 128, 256, 256]);
        assert_eq!([0, 1, 2].map(|temporal| rates.frame_rate(temporal).unwrap()), [8, 16, 32]);
        assert_eq!(rates.highest_temporal(), 2);
    }

    #[test]
    fn spatial_layers_stand_on_each_other() {
        let at = clock();
        let mut rates = LayerRates::default();
        for ms in (0..3000).step_by(50) {
            for spatial in 0..3 {
                rates.on_packet(at(ms), (spatial, 0), 100 << spatial, spatial == 0);
            }
        }
        let bps = [0, 1, 2, 7].map(|spatial| rates.rate(spatial, 0).unwrap().as_bps());
        assert_eq!(bps, [16_000, 48_000, 112_000, 112_000]);
    }

    #[test]
    fn a_keyframe_does_not_count() {
        let at = clock();
        let mut rates = LayerRates::default();
        for seconds in 0..3 {
            second(&mut rates, &at, seconds * 1000, 1000);
        }
        let before = rates.rate(0, 7);
        rates.on_packet(at(3000), (0, 0), 100_000, true);
        second(&mut rates, &at, 3001, 1000);
        assert_eq!(rates.rate(0, 7), before);
        for seconds in 4..7 {
            second(&mut rates, &at, seconds * 1000 + 2, 2000);
        }
        assert_eq!(rates.rate(0, 7), Some(Bitrate::kbps(512)), "lasting changes do");
    }

    #[test]
    fn the_first_frames_tell_something_and_pauses_are_forgotten() {
        let at = clock();
        let mut rates = LayerRates::default();
        for ms in (0..=200).step_by(40) {
            rates.on_packet(at(ms), (0, 0), 1000, true);
        }
        assert_eq!(rates.rate(0, 0), Some(Bitrate::kbps(240)));
        rates.on_packet(at(60_000), (0, 0), 10, true);
        assert_eq!(rates.rate(0, 0), None);
    }
}
