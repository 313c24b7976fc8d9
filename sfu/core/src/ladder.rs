//! The ways to send a track to a subscriber, from the least to the best that it wants.

use std::time::Instant;

use zynk_protocol::{SubscriptionSettings, TrackQuality};

use crate::{
    allocator::{Layers, Rung},
    layers::{TOP_LAYER, wanted_layer},
    media::bitrate::Bitrate,
    temporal::TOP_TEMPORAL,
    track::Track,
};

/// Frame rates are taken for what was asked for if they are a twentieth more: clocks differ.
const FRAME_RATE_SLACK: u64 = 20;

/// The highest encoding that a subscriber wants of so many.
pub(crate) fn wanted_encoding(encodings: usize, quality: TrackQuality) -> usize {
    let highest = encodings.saturating_sub(1);
    match quality {
        TrackQuality::Low => 0,
        TrackQuality::Medium => highest.min(1),
        TrackQuality::High => highest,
    }
}

/// The highest spatial layer to forward: all of them where the quality chooses among encodings.
pub(crate) fn wanted_spatial(encodings: usize, quality: TrackQuality) -> u8 {
    if encodings == 1 { wanted_layer(quality) } else { TOP_LAYER }
}

/// Appends the rungs of a video track, of which something is being sent. Rates rise from rung to rung: what is better
/// and takes less is left out for that. A track whose rates are not known yet has a single rung that takes nothing.
pub(crate) fn add_rungs(track: &Track, now: Instant, settings: SubscriptionSettings, rungs: &mut Vec<Rung>) {
    let start = rungs.len();
    let active = track.active();
    let wanted = wanted_encoding(active.len(), settings.quality);
    let is_sent = |index: &usize| active.get(*index) == Some(&true);
    let lowest = (0..active.len()).find(is_sent);
    // Better than nothing.
    let highest = (0..=wanted).rev().find(is_sent).or(lowest);
    let (Some(lowest), Some(highest)) = (lowest, highest) else { return };
    for index in (lowest..=highest).filter(is_sent) {
        let (Some(encoding), Ok(number)) = (track.encodings.get(index), u8::try_from(index)) else {
            continue;
        };
        let Some(rates) = encoding.rates.as_deref() else { continue };
        let top_spatial = encoding.layers.highest(now);
        let spatial_max = wanted_spatial(active.len(), settings.quality).min(top_spatial);
        let top_temporal = rates.highest_temporal();
        for spatial in 0..=spatial_max {
            // The smallest picture comes at any frame rate, others at half of theirs at least.
            let least = if index == lowest && spatial == 0 { 0 } else { top_temporal.saturating_sub(1) };
            for temporal in least..=top_temporal {
                let fps = rates.frame_rate(temporal).unwrap_or(0);
                let too_fast = settings.fps > 0 && fps > frame_rate_limit(settings.fps);
                if too_fast && temporal > least {
                    break;
                }
                let Some(rate) = rates.rate(spatial, temporal) else { continue };
                let spatial = if spatial == top_spatial { TOP_LAYER } else { spatial };
                let temporal = if temporal == top_temporal { TOP_TEMPORAL } else { temporal };
                push(rungs, start, Rung { layers: Layers { encoding: number, spatial, temporal }, rate });
            }
        }
    }
    if rungs.len() == start {
        let encoding = u8::try_from(highest).unwrap_or(0);
        let layers = Layers { encoding, spatial: TOP_LAYER, temporal: TOP_TEMPORAL };
        rungs.push(Rung { layers, rate: Bitrate::ZERO });
    }
}

fn frame_rate_limit(fps: u32) -> u64 {
    let fps = u64::from(fps);
    fps + fps / FRAME_RATE_SLACK + 1
}

/// Adds the next better rung of the ladder that begins at `start`.
fn push(rungs: &mut Vec<Rung>, start: usize, rung: Rung) {
    while rungs.len() > start && rungs.last().is_some_and(|last| last.rate >= rung.rate) {
        rungs.pop();
    }
    rungs.push(rung);
}
