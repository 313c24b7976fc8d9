//! How each kind of media fared over an interval, each way: what connection quality is made of.

use zynk_protocol::{FlowDirection, FlowStats, MediaKind};

use super::{EndpointKey, Shard, SubscriptionKey};
use crate::{
    downstream::ReportedLoss,
    endpoint::Endpoint,
    forwarder::{Allotment, Subscription},
    ladder::{self, wanted_encoding, wanted_spatial},
    selector::Selector,
    track::Track,
};

/// A picture that is not sent at all lacks so many layers at least: that is worse than the smallest one.
const PAUSED_LAYERS: u8 = 2;

/// What of the wanted pictures is not there: of the one that lacks most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lack {
    /// Encodings or spatial layers.
    layers: u8,
    /// What there is of the wanted rate.
    rate_percent: u8,
}

impl Lack {
    pub(crate) const NONE: Self = Self { layers: 0, rate_percent: 100 };

    fn worst(self, other: Self) -> Self {
        let rate_percent = self.rate_percent.min(other.rate_percent);
        Self { layers: self.layers.max(other.layers), rate_percent }
    }

    fn least(self, other: Self) -> Self {
        let rate_percent = self.rate_percent.max(other.rate_percent);
        Self { layers: self.layers.min(other.layers), rate_percent }
    }
}

/// What was lacking when figures were last told, upstream and downstream. Only what still is counts: layers come and go,
/// and take a moment to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lacked {
    upstream: Lack,
    downstream: Lack,
}

impl Default for Lacked {
    fn default() -> Self {
        Self { upstream: Lack::NONE, downstream: Lack::NONE }
    }
}

impl Shard {
    /// The flows of a connection since the last time; those of which nothing came or was to go are left out.
    pub(super) fn take_flows(&mut self, key: EndpointKey) -> Vec<FlowStats> {
        let Some(endpoint) = self.endpoints.get(key.0) else { return Vec::new() };
        let published = endpoint.sections.iter().filter_map(|section| self.tracks.get(section.track?.0));
        let upstream = published.map(|track| self.lack_of_track(track)).fold(Lack::NONE, Lack::worst);
        let received = endpoint.order.iter().filter_map(|key| self.lack_of_subscription(*key));
        let downstream = received.fold(Lack::NONE, Lack::worst);
        let Some(endpoint) = self.endpoints.get_mut(key.0) else { return Vec::new() };
        let before = std::mem::replace(&mut endpoint.lacked, Lacked { upstream, downstream });
        let lacks = (upstream.least(before.upstream), downstream.least(before.downstream));
        let mut flows = Vec::new();
        for kind in [MediaKind::Audio, MediaKind::Video] {
            let lack = |lack: Lack| if kind == MediaKind::Video { lack } else { Lack::NONE };
            flows.extend(upstream_flow(endpoint, kind, lack(lacks.0)));
            flows.extend(downstream_flow(endpoint, kind, lack(lacks.1)));
        }
        flows
    }

    #[cfg(test)]
    pub(super) fn missing_encodings(&self, key: super::TrackKey) -> u8 {
        self.tracks.get(key.0).map_or(0, |track| self.lack_of_track(track).layers)
    }

    /// What a publisher fails to send of what is wanted, of a simulcast.
    fn lack_of_track(&self, track: &Track) -> Lack {
        let count = track.encodings.len();
        if track.muted || count < 2 || !track.has_begun() {
            return Lack::NONE;
        }
        let wishes = track.subscribers.iter().filter_map(|key| self.subscriptions.get(key.0));
        let wishes = wishes.filter(|subscription| subscription.is_wanted());
        let wanted = wishes.map(|subscription| wanted_encoding(count, subscription.settings.quality)).max();
        let Some(wanted) = wanted else { return Lack::NONE };
        let active = track.active();
        let layers = match (0..=wanted).rev().find(|index| active.get(*index) == Some(&true)) {
            Some(highest) => saturated(wanted - highest),
            None => saturated(wanted + 1).max(PAUSED_LAYERS),
        };
        Lack { layers, ..Lack::NONE }
    }

    /// What a subscriber is not given of what it wants and is sent; none of what it does not want, or is no picture.
    fn lack_of_subscription(&self, key: SubscriptionKey) -> Option<Lack> {
        let now = self.now;
        let subscription = self.subscriptions.get(key.0).filter(|subscription| subscription.is_wanted())?;
        let track = self.tracks.get(subscription.source?.0)?;
        if track.kind != MediaKind::Video || track.muted {
            return None;
        }
        let (active, quality) = (track.active(), subscription.settings.quality);
        let wanted = Selector::target(&active, wanted_encoding(active.len(), quality))?;
        let given = match (subscription.allotment, subscription.current_encoding()) {
            (Allotment::Nothing, _) => {
                return Some(Lack { layers: saturated(wanted + 1).max(PAUSED_LAYERS), rate_percent: 1 });
            }
            // Its first keyframe is still to come.
            (_, None) => return None,
            (allotment, Some(current)) => (allotment.layers()?, current),
        };
        let (layers, current) = given;
        let mut missing = saturated(wanted.saturating_sub(current));
        if missing == 0 {
            let highest = track.encodings.get(current)?.layers.highest(now);
            missing = wanted_spatial(active.len(), quality).min(highest).saturating_sub(layers.spatial);
        }
        Some(Lack { layers: missing, rate_percent: self.rate_percent(track, subscription, current) })
    }

    /// What the layers that are given take, of what those that are wanted would.
    fn rate_percent(&self, track: &Track, subscription: &Subscription, current: usize) -> u8 {
        let share = || {
            let layers = subscription.allotment.layers()?;
            let mut rungs = Vec::new();
            ladder::add_rungs(track, self.now, subscription.settings, &mut rungs);
            let wanted = rungs.last()?.rate.as_bps();
            let rates = track.encodings.get(current)?.rates.as_deref()?;
            let given = rates.rate(layers.spatial, layers.temporal)?.as_bps();
            u8::try_from(given.saturating_mul(100).checked_div(wanted)?.clamp(1, 100)).ok()
        };
        // As long as nothing is known, nothing is lacking.
        share().unwrap_or(100)
    }
}

fn upstream_flow(endpoint: &mut Endpoint, kind: MediaKind, lack: Lack) -> Option<FlowStats> {
    let is_kind = |section: usize| endpoint.sections.get(section).is_some_and(|section| section.kind == kind);
    let reception = endpoint.media.upstream.take_reception(is_kind);
    (reception.expected > 0).then_some(FlowStats {
        kind,
        direction: FlowDirection::Upstream,
        packets: reception.expected,
        lost: reception.lost,
        jitter_ms: reception.jitter.as_secs_f32() * 1000.0,
        layers_missing: lack.layers,
        rate_percent: lack.rate_percent,
    })
}

fn downstream_flow(endpoint: &mut Endpoint, kind: MediaKind, lack: Lack) -> Option<FlowStats> {
    let mut sum = ReportedLoss::default();
    let sections = endpoint.sections.iter().filter(|section| section.kind == kind);
    for stream in sections.filter_map(|section| section.stream.as_ref()) {
        let loss = endpoint.media.downstream.take_stream_loss(stream.ssrc(), stream.stats().packets);
        sum.expected += loss.expected;
        sum.lost += loss.lost;
    }
    (sum.expected > 0 || lack != Lack::NONE).then_some(FlowStats {
        kind,
        direction: FlowDirection::Downstream,
        packets: sum.expected,
        lost: sum.lost,
        // What the publisher's network does to it is the publisher's.
        jitter_ms: 0.0,
        layers_missing: lack.layers,
        rate_percent: lack.rate_percent,
    })
}

fn saturated(layers: usize) -> u8 {
    u8::try_from(layers).unwrap_or(u8::MAX)
}
