//! What is measured for operators. Everything here happens seldom: when a subscription begins, when layers change, every few
//! seconds of a connection.

use std::time::{Duration, Instant};

use zynk_protocol::{Bitrate, MediaKind};

use super::{EndpointKey, Shard, ShardStats, SubscriptionKey};
use crate::{
    downstream::{Capacity, Downstream},
    forwarder::Allotment,
};

/// Measurements that wait for somebody to take them; further ones are dropped.
const MEASUREMENTS_MAX: usize = 1024;

/// Something that was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Measurement {
    /// A subscription's first packet was sent on.
    FirstMedia {
        /// Of what.
        kind: MediaKind,
        /// How long after it could be: negotiated, connected, and neither paused nor muted.
        waited: Duration,
    },
    /// How much is thought to reach a client that says something about its path.
    DownlinkEstimate(Bitrate),
}

/// Measurements since they were last taken, at most [`MEASUREMENTS_MAX`].
#[derive(Debug, Default)]
pub(super) struct Measurements(Vec<Measurement>);

impl Measurements {
    pub(super) fn push(&mut self, measurement: Measurement) {
        if self.0.len() < MEASUREMENTS_MAX {
            self.0.push(measurement);
        }
    }

    /// How much reaches a client, as far as that is known.
    pub(super) fn estimate(&mut self, now: Instant, downstream: &Downstream) {
        if let Capacity::Measured(rate) = downstream.capacity(now) {
            self.push(Measurement::DownlinkEstimate(Bitrate::from_bps(rate.as_bps())));
        }
    }
}

/// Where a subscription's first packet is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum FirstMedia {
    /// Nobody waits for it.
    #[default]
    NotExpected,
    /// It has been expected since then.
    ExpectedSince(Instant),
    /// It has come.
    Came,
}

impl FirstMedia {
    /// A packet is sent on. If it is the first that was waited for: how long.
    #[inline]
    pub(super) fn came(&mut self, now: Instant) -> Option<Duration> {
        match self {
            Self::Came => None,
            _ => match std::mem::replace(self, Self::Came) {
                Self::ExpectedSince(at) => Some(now.saturating_duration_since(at)),
                _ => None,
            },
        }
    }
}

impl Shard {
    /// What was measured since the last time, at most 1,024 of it.
    pub fn take_measurements(&mut self) -> Vec<Measurement> {
        std::mem::take(&mut self.measurements.0)
    }

    /// A subscription's first packet may come from now on.
    pub(super) fn expect_first_media(&mut self, key: SubscriptionKey) {
        let now = self.now;
        let Some(subscription) = self.subscriptions.get_mut(key.0) else { return };
        let track = subscription.source.and_then(|source| self.tracks.get(source.0));
        let is_sent = track.is_some_and(|track| !track.muted);
        let receiver = self.endpoints.get(subscription.subscriber.0);
        let is_up = receiver.is_some_and(|receiver| receiver.media.protection.is_some());
        if is_sent && is_up && subscription.is_wanted() && subscription.first_media != FirstMedia::Came {
            subscription.first_media = FirstMedia::ExpectedSince(now);
        }
    }

    /// Same, of everything that a connection receives.
    pub(super) fn expect_first_media_of(&mut self, key: EndpointKey) {
        for subscription in
            self.endpoints.get(key.0).map(|endpoint| endpoint.order.clone()).unwrap_or_default()
        {
            self.expect_first_media(subscription);
        }
    }
}

impl ShardStats {
    /// A subscription is given other layers: counts a larger picture, or a smaller one. None at all is smaller than any.
    pub(super) fn count_switch(&mut self, before: Allotment, after: Allotment) {
        let picture = |allotment: Allotment| allotment.layers().map(|layers| layers.picture());
        if before == Allotment::All || after == Allotment::All {
            return;
        }
        self.layer_switches_up += u64::from(picture(after) > picture(before));
        self.layer_switches_down += u64::from(picture(after) < picture(before));
    }
}
